//! Who a certificate says its owner is.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::names::names;

/// How the identities of workloads begin (SPIFFE ID, section 2).
const SPIFFE: &str = "spiffe://";

pub(super) fn alternative_names(
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
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
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
