//! Snapshots on disk: a start while the registry is away finds what was known before.
//!
//! One file per service, written whole and renamed, so that a change costs what changed and a
//! crash leaves the former file.

use std::collections::HashMap;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::offer::{Offer, Provider};

/// Changes of one service within this time are written once.
const GATHER: Duration = Duration::from_millis(500);

/// What identifies a service's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) registry: String,
    pub(crate) layout: Layout,
    pub(crate) service: String,
}

/// A file's content.
#[derive(Serialize, Deserialize)]
struct Saved {
    registry: String,
    layout: String,
    service: String,
    providers: Vec<Provider>,
}

/// The folder, and the thread that writes to it.
#[derive(Clone)]
pub(crate) struct Disk {
    folder: PathBuf,
    changes: Sender<(Key, Vec<Provider>)>,
}

impl Disk {
    /// Writes to `folder`, which is made if need be.
    ///
    /// # Errors
    /// If it cannot be made or written to.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let probe = folder.join(".probe");
        std::fs::write(&probe, b"")?;
        std::fs::remove_file(probe)?;
        let (changes, queue) = channel();
        let own = folder.to_owned();
        std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || keep_writing(&own, &queue))?;
        Ok(Self {
            folder: folder.to_owned(),
            changes,
        })
    }

    /// Has an offer written soon.
    pub(crate) fn save(&self, key: &Key, offer: &Offer) {
        // The thread ends only with the last sender.
        let _ = self.changes.send((key.clone(), offer.providers.clone()));
    }

    /// What was known of a service, if anything was.
    pub(crate) fn load(&self, key: &Key) -> Option<Offer> {
        let path = self.folder.join(file_name(key));
        let text = std::fs::read(&path).ok()?;
        match serde_json::from_slice::<Saved>(&text) {
            // Two services whose names fall together are told apart by what the file says.
            Ok(saved)
                if saved.service == key.service
                    && saved.registry == key.registry
                    && saved.layout == key.layout.name() =>
            {
                let known = !saved.providers.is_empty();
                Some(Offer::new(key.layout, known, saved.providers))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot cannot be read; ignored");
                None
            }
        }
    }
}

fn keep_writing(folder: &Path, queue: &Receiver<(Key, Vec<Provider>)>) {
    let mut dirty: HashMap<Key, Vec<Provider>> = HashMap::new();
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(Duration::from_secs(3600), |due| {
            due.saturating_duration_since(Instant::now())
        });
        let ended = match queue.recv_timeout(wait) {
            Ok((key, providers)) => {
                dirty.insert(key, providers);
                due.get_or_insert_with(|| Instant::now() + GATHER);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if ended || due.is_some_and(|due| due <= Instant::now()) {
            due = None;
            for (key, providers) in dirty.drain() {
                if let Err(error) = write(folder, &key, providers) {
                    let folder = folder.display();
                    tracing::warn!(%folder, service = key.service, %error, "cannot write snapshot");
                }
            }
        }
        if ended {
            return;
        }
    }
}

fn write(folder: &Path, key: &Key, providers: Vec<Provider>) -> std::io::Result<()> {
    let path = folder.join(file_name(key));
    let saved = Saved {
        registry: key.registry.clone(),
        layout: key.layout.name().to_owned(),
        service: key.service.clone(),
        providers,
    };
    let draft = path.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(&saved)?)?;
    std::fs::rename(draft, path)
}

/// A name that says what it is to a reader, and is safe whatever the service is called.
fn file_name(key: &Key) -> String {
    let mut hasher = Fnv::default();
    for part in [&key.registry, key.layout.name(), &key.service] {
        hasher.write(part.as_bytes());
        hasher.write(&[0]);
    }
    let readable: String = key
        .service
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '_'
            }
        })
        .take(80)
        .collect();
    format!("{readable}-{:016x}.json", hasher.finish())
}

/// FNV-1a: the same in every build, which the standard library's hasher does not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn key(service: &str) -> Key {
        Key {
            registry: "r".to_owned(),
            layout: Layout::Native,
            service: service.to_owned(),
        }
    }

    fn offer(port: u16) -> Offer {
        let text = format!(
            r#"{{"address":"127.0.0.1:{port}","layout":"native","protocol":"","version":"","group":"","weight":1,"labels":{{}}}}"#
        );
        Offer::new(
            Layout::Native,
            true,
            vec![serde_json::from_str(&text).unwrap()],
        )
    }

    #[test]
    fn what_was_saved_last_is_loaded_and_damage_is_ignored() {
        let folder = std::env::temp_dir().join(format!("finback-disk-{}", std::process::id()));
        let disk = Disk::open(&folder).unwrap();
        assert_eq!(disk.load(&key("a/../b")), None);
        for port in 1..=3 {
            disk.save(&key("a/../b"), &offer(port));
        }
        let end = Instant::now() + Duration::from_secs(5);
        while disk.load(&key("a/../b")) != Some(offer(3)) {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(disk.load(&key("a____b")), None);
        std::fs::write(folder.join(file_name(&key("c"))), b"{\"regis").unwrap();
        assert_eq!(disk.load(&key("c")), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
