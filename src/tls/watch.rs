//! Files of TLS, read again when they change.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use finback_core::net::{ClientTls, ServerTls};

use super::expiry::{Dated, Ledger, Owner, Warned};
use super::ocsp::next_response;
use super::revocation::Revoked;
use super::{ClientFiles, ServerFiles};

/// How often certificate files are looked at.
const WATCH: Duration = Duration::from_secs(1);
/// How often what ends soon is said again.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When files were changed last.
fn changed<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Vec<Option<SystemTime>> {
    files
        .map(|path| std::fs::metadata(path).and_then(|own| own.modified()).ok())
        .collect()
}

/// TLS whose files may change while it is in force.
pub trait Renewed: Any + Send + Sync {
    /// What it is made from.
    type Files: Clone + Send + Sync;

    /// When the files were changed last.
    fn changed(files: &Self::Files) -> Vec<Option<SystemTime>>;

    /// The files that are good up to an end.
    fn dated(files: &Self::Files) -> Vec<Dated>;

    /// Reads the files and puts them in force.
    ///
    /// # Errors
    /// What is wrong with them; then the former stay.
    fn renew(&self, files: &Self::Files) -> anyhow::Result<()>;
}

impl Renewed for ServerTls {
    type Files = ServerFiles;

    fn changed(files: &ServerFiles) -> Vec<Option<SystemTime>> {
        let pairs = files.pairs.iter();
        let pairs = pairs.flat_map(|pair| [&pair.chain, &pair.key].into_iter().chain(&pair.ocsp));
        changed(pairs.chain(&files.client_authorities).chain(&files.revoked))
    }

    fn dated(files: &ServerFiles) -> Vec<Dated> {
        let pairs = files.pairs.iter();
        let certificates = pairs.clone().filter_map(|pair| Dated::chain(&pair.chain));
        let stapled = pairs.filter_map(|pair| {
            let file = pair.ocsp.as_deref()?;
            Some(Dated::revocation(file, next_response(file)?))
        });
        certificates
            .chain(stapled)
            .chain(lists(&files.revoked))
            .collect()
    }

    fn renew(&self, files: &ServerFiles) -> anyhow::Result<()> {
        self.replace(files.load()?);
        Ok(())
    }
}

impl Renewed for ClientTls {
    type Files = ClientFiles;

    fn changed(files: &ClientFiles) -> Vec<Option<SystemTime>> {
        let pair = files.pair.iter().flat_map(|(chain, key)| [chain, key]);
        changed(pair.chain(&files.authorities).chain(&files.revoked))
    }

    fn dated(files: &ClientFiles) -> Vec<Dated> {
        let pair = files.pair.iter();
        pair.filter_map(|(chain, _)| Dated::chain(chain))
            .chain(lists(&files.revoked))
            .collect()
    }

    fn renew(&self, files: &ClientFiles) -> anyhow::Result<()> {
        self.replace(files.config()?);
        Ok(())
    }
}

/// When revocation lists are out of date.
fn lists(files: &[PathBuf]) -> impl Iterator<Item = Dated> {
    files.iter().filter_map(|file| {
        let next_update = Revoked::read(std::slice::from_ref(file)).ok()?.next_update;
        Some(Dated::revocation(file, next_update))
    })
}

/// Keeps keys as their files are, and warns before they end, for as long as what they are for lives.
pub async fn keep_fresh<T: Renewed>(
    tls: Weak<T>,
    files: T::Files,
    owner: Owner,
    ledger: Arc<Ledger>,
) {
    let mut known = T::changed(&files);
    let mut dated = T::dated(&files);
    let enter = |dated: &[Dated]| ledger.enter(tls.clone(), owner.clone(), dated.to_vec());
    enter(&dated);
    let mut warned = Warned::default();
    let mut day = Instant::now();
    loop {
        warned.look(&owner, &dated);
        tokio::time::sleep(WATCH).await;
        let Some(tls) = tls.upgrade() else { return };
        if day.elapsed() >= DAY {
            day = Instant::now();
            warned.forget();
        }
        let now = T::changed(&files);
        if now == known {
            continue;
        }
        known = now;
        // A pair is mostly written one file after the other: one that does not fit yet is read
        // again when the other changes.
        match tls.renew(&files) {
            Ok(()) => {
                tracing::info!("certificates read again");
                dated = T::dated(&files);
                enter(&dated);
                warned.forget();
            }
            Err(error) => {
                ledger.failed(&owner);
                let why = format!("{error:#}");
                tracing::warn!(
                    why,
                    "changed certificates are not valid; those before stay in force"
                );
            }
        }
    }
}
