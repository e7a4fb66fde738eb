//! Certificate identity: which of a certificate's names count, and what makes it unusable.

use std::fmt;

use finback_core::identity::{Identity, SPIFFE, is_dns_name, is_spiffe_id};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate, though its authority vouches for it, identifies nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable,
    /// It has a SPIFFE ID and other URIs.
    ManyUris,
    /// Its SPIFFE ID is malformed.
    SpiffeId,
    /// It has a SPIFFE ID and a key that may sign certificates or revocation lists.
    Signs,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the certificate's names cannot be read",
            Self::ManyUris => "the certificate has a SPIFFE ID and more URIs beside it",
            Self::SpiffeId => "the certificate's SPIFFE ID is malformed",
            Self::Signs => "the certificate has a SPIFFE ID and may sign other certificates",
        })
    }
}

impl std::error::Error for Unusable {}

/// The names in a certificate that was verified; `None` if it has none that count.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    named(certificate).unwrap_or_default()
}

/// The same, or why the certificate must be refused.
pub(super) fn named(certificate: &CertificateDer<'_>) -> Result<Option<Identity>, Unusable> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Unusable::Unreadable)?;
    let names = alternative_names(&parsed)?;
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let is_spiffe = |uri: &str| {
        let scheme = uri.get(..SPIFFE.len() - 2).unwrap_or_default();
        scheme.eq_ignore_ascii_case("spiffe:")
    };
    let has_uri = uris.clone().next().is_some();
    let spiffe = match uris.clone().any(is_spiffe) {
        false => None,
        true => match (uris.next(), uris.next()) {
            (Some(id), None) => Some(id),
            // X509-SVID, section 2: exactly one URI, or the certificate is refused.
            _ => return Err(Unusable::ManyUris),
        },
    };
    if let Some(id) = spiffe {
        if !is_spiffe_id(id) {
            return Err(Unusable::SpiffeId);
        }
        check_leaf(&parsed)?;
    }
    let dns: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    let is_known = spiffe.is_some() || dns.iter().any(|name| is_dns_name(name));
    let mut common = parsed.subject().iter_common_name();
    let common = match (common.next(), common.next()) {
        // Of several, nobody could say which one counts. Where there are other names, though we may
        // know none of them, it does not count either (RFC 9525, section 2).
        (Some(only), None) if is_known || (!has_uri && dns.is_empty()) => only.as_str().ok(),
        _ => None,
    };
    Ok(Identity::of(spiffe, &dns, common))
}

/// X509-SVID, section 5.2: a workload's own certificate signs no others. That it is none of an
/// authority was verified with its chain.
fn check_leaf(parsed: &X509Certificate<'_>) -> Result<(), Unusable> {
    let usage = parsed.key_usage().map_err(|_| Unusable::Unreadable)?;
    match usage {
        Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
            Err(Unusable::Signs)
        }
        _ => Ok(()),
    }
}

fn alternative_names<'a>(
    parsed: &'a X509Certificate<'a>,
) -> Result<&'a [GeneralName<'a>], Unusable> {
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| Unusable::Unreadable)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let is_read = |name: &GeneralName<'_>| !matches!(name, GeneralName::Invalid(..));
    if names.iter().all(is_read) {
        Ok(names)
    } else {
        Err(Unusable::Unreadable)
    }
}

/// The host names of a server's certificate.
pub(super) fn host_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = alternative_names(&parsed).unwrap_or_default();
    let hosts = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    hosts.collect()
}
