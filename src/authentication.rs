//! Authentication of clients of MQTT where there is no broker to ask: passwords and tokens, from files.

mod bearer;
mod desk;
mod file;
mod tokens;
mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use finback_mqtt::NameTemplate;
use finback_mqtt::authentication::{Authenticating, Authenticator, Login, NotAuthenticated, User};
use tokio::sync::oneshot;

use file::Fresh;

pub(crate) use bearer::{NotProved, Proved, issuer_of};
pub(crate) use file::Parsed;
pub(crate) use tokens::Keys;

/// Which tokens are good.
#[derive(Clone, Debug, Default)]
pub struct TokenRules {
    /// Who they are from.
    pub issuer: Option<String>,
    /// Whom they are for.
    pub audience: Option<String>,
    /// What they say, by claim.
    pub claims: BTreeMap<String, NameTemplate>,
}

/// What clients are asked for, and the file that tells what is good. Work is done by a few threads of
/// its own: hashing is meant to take its time, and workers have none.
#[derive(Clone, Debug)]
pub enum ClientCredentials {
    /// A user and password.
    Users(Arc<Fresh<users::Users>>),
    /// A JSON Web Token as the password.
    Tokens(Arc<Fresh<tokens::Keys>>, Arc<TokenRules>),
}

impl ClientCredentials {
    /// Users and passwords of this file, which is not read yet.
    #[must_use]
    pub fn users(path: PathBuf) -> Self {
        Self::Users(Arc::new(Fresh::new(path)))
    }

    /// Tokens that this key proves, which is not read yet.
    #[must_use]
    pub fn tokens(path: PathBuf, rules: TokenRules) -> Self {
        Self::Tokens(Arc::new(Fresh::new(path)), Arc::new(rules))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> anyhow::Result<()> {
        match self {
            Self::Users(users) => users.read(),
            Self::Tokens(keys, _) => keys.read(),
        }
    }

    fn check(&self, login: &Login) -> Option<User> {
        match self {
            Self::Users(users) => users.current()?.check(login),
            Self::Tokens(keys, rules) => keys.current()?.check(login, rules),
        }
    }
}

impl Authenticator for ClientCredentials {
    fn authenticate(&self, login: Login) -> Authenticating {
        let own = self.clone();
        let (tell, told) = oneshot::channel();
        let asked = desk::ask(Box::new(move || {
            // A client that has gone does not hear it.
            let _ = tell.send(own.check(&login));
        }));
        Box::pin(async move {
            if !asked {
                return Err(NotAuthenticated::Busy);
            }
            let found = told.await.map_err(|_| NotAuthenticated::Busy)?;
            found.ok_or(NotAuthenticated::BadCredentials)
        })
    }
}
