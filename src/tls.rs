//! TLS keys, certificates and authorities from their files, as rustls wants them.

mod expiry;
mod files;
mod identity;
mod names;
mod ocsp;
mod peers;
mod pinned;
mod resumption;
mod revocation;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use finback_core::net::{ClientTls, LastSecond, ServerTls};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::protocols;

use files::{certificates, key, roots};
use identity::{host_names, identity};
use names::{ByName, Own};
use ocsp::Stapled;
use peers::{Clients, Servers, last_second};
use resumption::{ServersKnown, bound_sessions};
use revocation::Revoked;

pub(crate) use expiry::ended;
pub use expiry::{CertificateExpiry, Dated, Ledger, Owner};
pub use pinned::pinned;
pub use watch::{Renewed, keep_fresh};

/// Authorities have been read by then, so that nothing else is left.
const UNUSABLE: &str = "a revocation list cannot be used";

/// The files of a certificate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The certificate chain, our own first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority's word that it is not revoked.
    pub ocsp: Option<PathBuf>,
}

/// The files of a listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Certificate chains and their keys; the first is for clients that name nobody known.
    pub pairs: Vec<PairFiles>,
    /// Authorities that clients' certificates must descend from.
    pub client_authorities: Option<PathBuf>,
    /// Lists of clients' certificates, and of their authorities', that are revoked.
    pub revoked: Vec<PathBuf>,
    /// Clients without a certificate are served too.
    pub client_optional: bool,
    /// Connections end with the certificates of their clients.
    pub close_expired: bool,
    /// Connections without TLS are served too.
    pub plain: bool,
    /// Application protocols, the preferred one first.
    pub application: Vec<Vec<u8>>,
}

/// The files of the TLS that a cluster's endpoints are spoken to in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities that endpoints' certificates must descend from; `None` takes the public ones.
    pub authorities: Option<PathBuf>,
    /// Lists of endpoints' certificates, and of their authorities', that are revoked.
    pub revoked: Vec<PathBuf>,
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
                let Revoked { lists, next_update } = Revoked::read(&self.revoked)?;
                // Where there are lists, the whole chain must be found on current ones not to be
                // revoked; what no list could know is refused.
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                        .with_crls(lists)
                        .enforce_revocation_expiration();
                if self.client_optional {
                    verifier = verifier.allow_unauthenticated();
                }
                builder.with_client_cert_verifier(Arc::new(Clients {
                    webpki: verifier.build().context(UNUSABLE)?,
                    next_update,
                }))
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
        let own = |pair: &PairFiles| -> anyhow::Result<Own> {
            let chain = certificates(&pair.chain)?;
            let names = host_names(&chain[0]);
            let signing = provider.key_provider.load_private_key(key(&pair.key)?)?;
            let certificate = CertifiedKey::new(chain, signing);
            certificate.keys_match().with_context(|| {
                let (key, chain) = (pair.key.display(), pair.chain.display());
                format!("{key} is not the key of {chain}")
            })?;
            let certificate = match &pair.ocsp {
                None => Stapled::without(certificate),
                Some(file) => Stapled::with(certificate, file)?,
            };
            Ok(Own { names, certificate })
        };
        Ok(ByName(
            self.pairs.iter().map(own).collect::<Result<_, _>>()?,
        ))
    }

    /// TLS with these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn build(&self) -> anyhow::Result<Arc<ServerTls>> {
        let last_second: LastSecond = |chain| match chain.split_first() {
            Some((first, rest)) => last_second(first, rest).unwrap_or_default(),
            None => u64::MAX,
        };
        let last_second = self.close_expired.then_some(last_second);
        let config = self.load()?;
        Ok(ServerTls::new(config, self.plain, identity, last_second))
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
        ensure!(
            !roots.is_empty(),
            "no public authorities are installed here; write `ca`"
        );
        let known = ServersKnown::new();
        let Revoked { lists, next_update } = Revoked::read(&self.revoked)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(lists)
            .enforce_revocation_expiration();
        // What is dangerous about it would be to leave the verification out.
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers {
                webpki: verifier.build().context(UNUSABLE)?,
                next_update,
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
