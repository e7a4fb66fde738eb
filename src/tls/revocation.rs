//! Certificate revocation lists (RFC 5280, section 5).

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// How DER begins, and PEM never does: a sequence.
const SEQUENCE: u8 = 0x30;

/// Lists of revoked certificates, and when the first of them is out of date.
#[derive(Debug)]
pub(super) struct Revoked {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// The last second, since 1970, in which all lists are current.
    pub(super) next_update: u64,
}

impl Revoked {
    /// Reads files of PEM or DER.
    ///
    /// # Errors
    /// What is wrong with them. A list that is out of date is not: it is read, and whatever it could
    /// say something about is refused until the next one comes.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self> {
        let mut all = Self {
            lists: Vec::new(),
            next_update: u64::MAX,
        };
        for file in files {
            let read = || -> Result<Vec<CertificateRevocationListDer<'static>>> {
                let bytes = std::fs::read(file)?;
                if bytes.first() == Some(&SEQUENCE) {
                    return Ok(vec![bytes.into()]);
                }
                let lists = CertificateRevocationListDer::pem_slice_iter(&bytes);
                Ok(lists.collect::<Result<_, _>>()?)
            };
            let what = || format!("cannot read revocation lists of {}", file.display());
            let lists = read().with_context(what)?;
            if lists.is_empty() {
                bail!("{} has no revocation list", file.display());
            }
            for list in &lists {
                let (_, parsed) = CertificateRevocationList::from_der(list).with_context(what)?;
                let next = parsed.next_update().map(|time| time.timestamp());
                let next = next.and_then(|time| u64::try_from(time).ok());
                // RFC 5280, section 5.1.2.5: every list says when the next one comes.
                let next = next.with_context(|| {
                    format!(
                        "a list of {} does not say when the next comes",
                        file.display()
                    )
                })?;
                all.next_update = all.next_update.min(next);
            }
            all.lists.extend(lists);
        }
        Ok(all)
    }
}
