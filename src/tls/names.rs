//! Server certificates by the name that a client asks for (SNI, RFC 6066, section 3), and by what it
//! can verify.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ocsp::Stapled;

/// A certificate of ours and the host names in it.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) names: Vec<String>,
    pub(super) certificate: Stapled,
}

/// Certificates by name. One name may have several, of one type of key each.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Vec<Own>);

impl ByName {
    /// The certificates for clients that ask for nobody known: the first, and others of its names.
    fn usual(&self) -> impl Iterator<Item = &Own> {
        let first = self.0.first();
        let is_like_first = move |own: &&Own| {
            let Some(first) = first else { return false };
            let has = |name: &String| own.names.iter().any(|own| own.eq_ignore_ascii_case(name));
            own.names.len() == first.names.len() && first.names.iter().all(has)
        };
        self.0.iter().filter(is_like_first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let is_for =
            |own: &Own| asked.is_some_and(|asked| own.names.iter().any(|name| covers(name, asked)));
        let named: Vec<&Own> = self.0.iter().filter(|own| is_for(own)).collect();
        let candidates = if named.is_empty() {
            self.usual().collect()
        } else {
            named
        };
        // RFC 8446, section 4.4.2.2: a certificate whose key fits what the client says it verifies.
        let schemes = hello.signature_schemes();
        let fits = |own: &&&Own| own.certificate.key().choose_scheme(schemes).is_some();
        let chosen = candidates.iter().find(fits).or(candidates.first())?;
        Some(chosen.certificate.now())
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
