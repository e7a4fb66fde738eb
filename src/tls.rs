//! Keys and certificates from their files, as rustls wants them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use finback_core::net::{ClientTls, ServerTls};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::protocols;

/// How often certificate files are looked at.
const WATCH: Duration = Duration::from_secs(1);
/// How the identities of workloads begin (SPIFFE ID, section 2).
const SPIFFE: &str = "spiffe://";

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

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found =
        read().with_context(|| format!("cannot read certificates of {}", path.display()))?;
    if found.is_empty() {
        bail!("{} has no certificate", path.display());
    }
    Ok(found)
}

fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_file(path);
    key.with_context(|| format!("cannot read the key of {}", path.display()))
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.with_context(|| format!("{} has what is no authority", path.display()))?;
    }
    Ok(roots)
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
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut chosen = Vec::new();
        for (chain, own_key) in &self.pairs {
            let chain_read = certificates(chain)?;
            let names = names(&chain_read[0]);
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
        let mut config = builder.with_cert_resolver(Arc::new(ByName(chosen)));
        config.alpn_protocols.clone_from(&self.application);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        // A client that comes back need not be verified anew, but must show who it is at first.
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// TLS with these files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn build(&self) -> anyhow::Result<Arc<ServerTls>> {
        Ok(ServerTls::new(self.load()?, self.plain, identity))
    }
}

/// When files were changed last.
fn changed<'a>(
    pairs: impl IntoIterator<Item = &'a (PathBuf, PathBuf)>,
    authorities: Option<&'a PathBuf>,
) -> Vec<Option<SystemTime>> {
    let pairs = pairs.into_iter().flat_map(|(chain, key)| [chain, key]);
    let all = pairs.chain(authorities);
    all.map(|path| std::fs::metadata(path).and_then(|own| own.modified()).ok())
        .collect()
}

/// TLS whose files may change while it is in force.
pub trait Renewed: Send + Sync {
    /// What it is made from.
    type Files: Clone + Send + Sync;

    /// When the files were changed last.
    fn changed(files: &Self::Files) -> Vec<Option<SystemTime>>;

    /// Reads the files and puts them in force.
    ///
    /// # Errors
    /// What is wrong with them; then the former stay.
    fn renew(&self, files: &Self::Files) -> anyhow::Result<()>;
}

impl Renewed for ServerTls {
    type Files = ServerFiles;

    fn changed(files: &ServerFiles) -> Vec<Option<SystemTime>> {
        changed(&files.pairs, files.client_authorities.as_ref())
    }

    fn renew(&self, files: &ServerFiles) -> anyhow::Result<()> {
        self.replace(files.load()?);
        Ok(())
    }
}

impl Renewed for ClientTls {
    type Files = ClientFiles;

    fn changed(files: &ClientFiles) -> Vec<Option<SystemTime>> {
        changed(&files.pair, files.authorities.as_ref())
    }

    fn renew(&self, files: &ClientFiles) -> anyhow::Result<()> {
        self.replace(files.config()?);
        Ok(())
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
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let roots = match &self.authorities {
            Some(path) => roots(path)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let builder = builder.with_root_certificates(roots);
        Ok(match &self.pair {
            None => builder.with_no_client_auth(),
            Some((chain, own_key)) => {
                builder.with_client_auth_cert(certificates(chain)?, key(own_key)?)?
            }
        })
    }
}

/// Keeps keys as their files are, for as long as what they are for lives.
pub async fn keep_fresh<T: Renewed>(tls: Weak<T>, files: T::Files) {
    let mut known = T::changed(&files);
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(tls) = tls.upgrade() else { return };
        let now = T::changed(&files);
        if now == known {
            continue;
        }
        known = now;
        // A pair is mostly written one file after the other: one that does not fit yet is read
        // again when the other changes.
        match tls.renew(&files) {
            Ok(()) => tracing::info!("certificates read again"),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(
                    why,
                    "certificates have changed and are no good; the former stay"
                );
            }
        }
    }
}

/// Certificates by the name that a client asks for.
#[derive(Debug)]
struct ByName(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let named = asked.and_then(|name| {
            self.0
                .iter()
                .find(|(names, _)| names.iter().any(|own| covers(own, name)))
        });
        let chosen = named.or_else(|| self.0.first())?;
        Some(chosen.1.clone())
    }
}

/// Whether a name of a certificate, which may begin with `*.`, stands for a host.
fn covers(own: &str, host: &str) -> bool {
    match own.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => own.eq_ignore_ascii_case(host),
    }
}

/// The host names of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    alternative_names(certificate, |name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

fn alternative_names(
    certificate: &CertificateDer<'_>,
    wanted: impl Fn(&GeneralName<'_>) -> Option<String>,
) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    names
        .value
        .general_names
        .iter()
        .filter_map(wanted)
        .collect()
}

/// Who a certificate says its owner is: its SPIFFE id, else its first host name, else its common
/// name.
fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
    let spiffe = alternative_names(certificate, |name| match name {
        GeneralName::URI(uri) if uri.starts_with(SPIFFE) => Some((*uri).to_owned()),
        _ => None,
    });
    let first = spiffe.into_iter().next();
    let first = first.or_else(|| names(certificate).into_iter().next());
    first.or_else(|| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let mut common = parsed.subject().iter_common_name();
        Some(common.next()?.as_str().ok()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_hosts() {
        for (own, host, is) in [
            ("a.test", "A.test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "c.b.a.test", false),
            ("*.a.test", "a.test", false),
        ] {
            assert_eq!(covers(own, host), is, "{own} {host}");
        }
    }
}
