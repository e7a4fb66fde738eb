//! Certificates and keys from PEM files.

use std::path::Path;

use anyhow::{Context, bail};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(super) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found =
        read().with_context(|| format!("cannot read certificates of {}", path.display()))?;
    if found.is_empty() {
        bail!("{} has no certificate{}", path.display(), kind_of(path));
    }
    Ok(found)
}

/// What a file is that is not what was looked for, and what to do about it.
fn kind_of(path: &Path) -> &'static str {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    // A sequence of DER with a length of two bytes, as keys and certificates are (X.690, section 8.1.3).
    if bytes.starts_with(&[0x30, 0x82]) {
        return ": it is DER; make PEM of it, by openssl x509 -inform der or openssl pkey -inform der";
    }
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return ": the key is encrypted; write it without a pass phrase, by openssl pkey -in FILE -out FILE";
    }
    if text.contains("PRIVATE KEY") {
        return ": it has a key; are the two files swapped?";
    }
    if text.contains("BEGIN CERTIFICATE") {
        return ": it has a certificate; are the two files swapped?";
    }
    ""
}

pub(super) fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_file(path);
    let words = match &key {
        Err(_) => kind_of(path),
        Ok(_) => "",
    };
    match key {
        Err(_) if !words.is_empty() => bail!("{} has no key{words}", path.display()),
        key => key.with_context(|| format!("cannot read the key of {}", path.display())),
    }
}

pub(super) fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.with_context(|| format!("{} has what is not an authority", path.display()))?;
    }
    Ok(roots)
}
