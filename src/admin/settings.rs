//! The admin port as it is configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::units::Placed;
use crate::tls::ServerFiles;

use super::access::Token;

/// The admin port as it is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is served, if anywhere.
    pub address: Option<SocketAddr>,
    /// The file of the token that requests to `address` must bring.
    pub token: Option<Placed<PathBuf>>,
    /// TLS of `address`.
    pub tls: Option<Placed<ServerFiles>>,
    /// Host names by which browsers may call `address`.
    pub hosts: Vec<String>,
    /// Where a trace is looked at.
    pub trace_url: Option<String>,
    /// Where health alone is served.
    pub health: Option<SocketAddr>,
    /// Where metrics alone are served.
    pub metrics: Option<SocketAddr>,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        let addresses = |own: &Self| (own.address, own.health, own.metrics);
        let token = |own: &Self| own.token.as_ref().map(|own| own.value.clone());
        let tls = |own: &Self| own.tls.as_ref().map(|own| own.value.clone());
        addresses(self) == addresses(other)
            && token(self) == token(other)
            && tls(self) == tls(other)
            && self.hosts == other.hosts
            && self.trace_url == other.trace_url
    }
}

impl Settings {
    /// Whether it is known who asks, by a token or a certificate.
    #[must_use]
    pub fn knows_clients(&self) -> bool {
        let client_ca = self
            .tls
            .as_ref()
            .and_then(|tls| tls.value.client_authorities.as_ref());
        self.token.is_some() || client_ca.is_some()
    }

    /// Reads token and keys.
    ///
    /// # Errors
    /// What is wrong with them, and where in the file they are named.
    pub fn check(&self) -> Result<(), ((u64, u64), anyhow::Error)> {
        if let Some(Placed { value, place }) = &self.token {
            Token::read(value).map_err(|error| (*place, error))?;
        }
        if let Some(Placed { value, place }) = &self.tls {
            value.load().map_err(|error| (*place, error))?;
        }
        Ok(())
    }
}
