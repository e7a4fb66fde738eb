//! TLS keys, certificates and authorities from their files, as rustls wants them.

mod files;
mod identity;
mod names;
mod peers;
mod resumption;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use finback_core::net::{ClientTls, ServerTls};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::protocols;

use files::{certificates, key, roots};
use identity::{host_names, identity};
use names::ByName;
use peers::{Clients, Servers};
use resumption::{ServersKnown, bound_sessions};

pub use watch::{Renewed, keep_fresh};

/// The files of a listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Certificate chains and their keys; the first is for clients that name nobody known.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// Authorities that clients' certificates must descend from.
    pub client_authorities: Option<PathBuf>,
    /// Clients without a certificate are served too.
    pub client_optional: bool,
    /// Connections without TLS are served too.
    pub plain: bool,
    /// Application protocols, the preferred one first.
    pub application: Vec<Vec<u8>>,
}

/// The files of the TLS that a cluster's endpoints are spoken to in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities that endpoints' certificates must descend from; `None` takes the public ones.
    pub authorities: Option<PathBuf>,
    /// Our own certificate chain and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Whose certificate is expected; `None` expects the endpoint's address in it.
    pub server_name: Option<ServerName<'static>>,
}

impl ServerFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                if self.client_optional {
                    verifier = verifier.allow_unauthenticated();
                }
                let webpki = verifier.build()?;
                builder.with_client_cert_verifier(Arc::new(Clients { webpki }))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.own(&provider)?));
        config.alpn_protocols.clone_from(&self.application);
        let tickets = aws_lc_rs::Ticketer::new()?;
        if self.client_authorities.is_some() {
            bound_sessions(&mut config, tickets);
        } else {
            config.ticketer = tickets;
        }
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// Our own certificates.
    fn own(&self, provider: &CryptoProvider) -> anyhow::Result<ByName> {
        let mut chosen = Vec::new();
        for (chain, own_key) in &self.pairs {
            let chain_read = certificates(chain)?;
            let names = host_names(&chain_read[0]);
            let signing = provider.key_provider.load_private_key(key(own_key)?)?;
            let own = CertifiedKey::new(chain_read, signing);
            own.keys_match().with_context(|| {
                format!(
                    "{} is not the key of {}",
                    own_key.display(),
                    chain.display()
                )
            })?;
            chosen.push((names, Arc::new(own)));
        }
        Ok(ByName(chosen))
    }

    /// TLS with these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn build(&self) -> anyhow::Result<Arc<ServerTls>> {
        Ok(ServerTls::new(self.load()?, self.plain, identity))
    }
}

impl ClientFiles {
    /// TLS with these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn build(&self) -> anyhow::Result<Arc<ClientTls>> {
        let settings = format!("{self:?}").into();
        let applications = protocols::applications();
        let name = self.server_name.clone();
        Ok(ClientTls::new(
            self.config()?,
            &applications,
            name,
            settings,
        ))
    }

    /// The same for a library that connects by itself.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn config(&self) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let roots = match &self.authorities {
            Some(path) => roots(path)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let known = ServersKnown::new();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        // What is dangerous about it would be to leave the verification out.
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers {
                webpki: verifier.build()?,
                known: known.clone(),
            }));
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((chain, own_key)) => {
                builder.with_client_auth_cert(certificates(chain)?, key(own_key)?)?
            }
        };
        config.resumption = Resumption::store(known);
        Ok(config)
    }
}
