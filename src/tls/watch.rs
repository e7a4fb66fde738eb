//! Files of TLS, read again when they change.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, SystemTime};

use finback_core::net::{ClientTls, ServerTls};

use super::{ClientFiles, ServerFiles};

/// How often certificate files are looked at.
const WATCH: Duration = Duration::from_secs(1);

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
