//! Authentication: the port by which a route without a broker learns who a client is.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What a client says of itself in CONNECT.
pub struct Login {
    /// Its identifier.
    pub client_id: String,
    /// Its user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Vec<u8>>,
}

impl fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Who a client was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name: never one that it merely claims.
    pub name: String,
    /// What its token says of it, by name.
    pub claims: BTreeMap<String, String>,
    /// How long what it showed is still good; `None` = always.
    pub left: Option<Duration>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAuthenticated {
    /// It is not who it says it is.
    BadCredentials,
    /// Too many ask at a time.
    Busy,
}

/// An answer that is waited for.
pub type Authenticating = Pin<Box<dyn Future<Output = Result<User, NotAuthenticated>>>>;

/// Who checks what clients say of themselves. Whatever takes its time is done on other threads than
/// the caller's.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Finds out who a client is.
    fn authenticate(&self, login: Login) -> Authenticating;
}

/// How a route without a broker learns who its clients are.
#[derive(Clone, Debug, Default)]
pub enum Authentication {
    /// Not at all: users and client identifiers are what clients claim.
    #[default]
    None,
    /// By the certificate that the listener has verified: its identity is the user.
    Certificate,
    /// By what CONNECT says.
    Credentials(Arc<dyn Authenticator>),
}
