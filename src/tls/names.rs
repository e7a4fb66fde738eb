//! Server certificates by the name that a client asks for (SNI, RFC 6066, section 3).

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by the name that a client asks for.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Vec<(Vec<String>, Arc<CertifiedKey>)>);

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
