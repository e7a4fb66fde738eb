//! Snapshots on disk: a start while the registry is away finds what was known before.
//!
//! One file per service that has providers, written whole and renamed, so that a change costs what
//! changed and a crash leaves the former file. Services without any have no file: callers may ask
//! for as many of those as they like. The files of services that are followed are written anew every
//! day; one that is a month older than the youngest belongs to a service that nobody follows, and
//! is removed. A folder that nobody writes to keeps what it has, however long that takes.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use finback_core::text::Escaped;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::lock;
use crate::offer::{Offer, Provider};

/// Changes of one service within this time are written once.
const GATHER: Duration = Duration::from_millis(500);

/// How often files that nobody needs any more are looked for.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// A file that is so much older than the youngest is not needed.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How the names of snapshots end, and of those that were not finished.
const SNAPSHOT: &str = "json";
const DRAFT: &str = "draft";

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
    present: Present,
}

/// The names of the files that are there, or soon will be.
type Present = Arc<Mutex<HashSet<String>>>;

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
        let names = std::fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let present: Present = Arc::new(Mutex::new(names.collect()));
        let (changes, queue) = channel();
        let writer = Writer {
            folder: folder.to_owned(),
            present: present.clone(),
        };
        std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || writer.run(&queue))?;
        Ok(Self {
            folder: folder.to_owned(),
            changes,
            present,
        })
    }

    /// Has an offer written soon; of one without providers, the file is removed.
    pub(crate) fn save(&self, key: &Key, offer: &Offer) {
        let name = file_name(key);
        let worth_it = if offer.providers.is_empty() {
            lock(&self.present).remove(&name)
        } else {
            lock(&self.present).insert(name);
            true
        };
        if !worth_it {
            return;
        }
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
                if saved.providers.is_empty() {
                    return None;
                }
                Some(Offer::new(key.layout, true, saved.providers))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot cannot be read; ignored");
                None
            }
        }
    }
}

/// The thread that writes.
struct Writer {
    folder: PathBuf,
    present: Present,
}

impl Writer {
    fn run(&self, queue: &Receiver<(Key, Vec<Provider>)>) {
        let mut dirty: HashMap<Key, Vec<Provider>> = HashMap::new();
        let mut due: Option<Instant> = None;
        self.sweep(true);
        let mut swept = Instant::now();
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
                    if let Err(error) = self.put(&key, providers) {
                        let (folder, service) = (self.folder.display(), Escaped(&key.service));
                        tracing::warn!(%folder, %service, %error, "cannot write snapshot");
                    }
                }
            }
            if ended {
                return;
            }
            if swept.elapsed() >= SWEEP {
                self.sweep(false);
                swept = Instant::now();
            }
        }
    }

    fn put(&self, key: &Key, providers: Vec<Provider>) -> std::io::Result<()> {
        let name = file_name(key);
        let path = self.folder.join(&name);
        if providers.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let saved = Saved {
            registry: key.registry.clone(),
            layout: key.layout.name().to_owned(),
            service: key.service.clone(),
            providers,
        };
        let draft = path.with_extension(DRAFT);
        std::fs::write(&draft, serde_json::to_vec(&saved)?)?;
        std::fs::rename(draft, path)?;
        lock(&self.present).insert(name);
        Ok(())
    }

    /// Removes the files of services that nobody follows any more, and what is left of writing
    /// that was broken off. At the start also those of services without providers, which former
    /// versions made of every name that was asked for.
    fn sweep(&self, at_start: bool) {
        let files: Vec<(PathBuf, SystemTime)> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.path(), entry.metadata().ok()?.modified().ok()?))
            })
            .filter(|(path, _)| has_end(path, SNAPSHOT) || has_end(path, DRAFT))
            .collect();
        // Not by the clock: it may have been wrong then or be now, and the machine may have
        // slept for longer than that.
        let youngest = files.iter().map(|(_, written)| *written).max();
        let mut removed = 0;
        for (path, written) in files {
            let is_old = youngest
                .and_then(|youngest| youngest.duration_since(written).ok())
                .is_some_and(|age| age > MONTH);
            let unneeded = is_old || has_end(&path, DRAFT) || at_start && is_empty(&path);
            if unneeded && std::fs::remove_file(&path).is_ok() {
                removed += 1;
                if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                    lock(&self.present).remove(name);
                }
            }
        }
        if removed > 0 {
            tracing::info!(
                removed,
                "snapshots of services that nobody follows are removed"
            );
        }
    }
}

fn has_end(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|own| own == end)
}

/// Whether a snapshot is one of ours that holds no providers.
fn is_empty(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let saved = serde_json::from_slice::<Saved>(&text);
    saved.is_ok_and(|saved| saved.providers.is_empty())
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
    format!("{readable}-{:016x}.{SNAPSHOT}", hasher.finish())
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

    /// A folder of a test's own, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let own = format!("finback-disk-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(own);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn put(&self, name: &str, text: &[u8], days_ago: u64) {
            let file = self.0.join(name);
            std::fs::write(&file, text).unwrap();
            let age = Duration::from_secs(days_ago * 24 * 60 * 60);
            let file = std::fs::File::options().write(true).open(file).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn within(is: impl Fn() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        while !is() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn text(service: &str, providers: Vec<Provider>) -> Vec<u8> {
        serde_json::to_vec(&Saved {
            registry: "r".to_owned(),
            layout: "native".to_owned(),
            service: service.to_owned(),
            providers,
        })
        .unwrap()
    }

    #[test]
    fn what_was_saved_last_is_loaded_and_damage_is_ignored() {
        let folder = Folder::new("last");
        let disk = Disk::open(&folder.0).unwrap();
        assert_eq!(disk.load(&key("a/../b")), None);
        for port in 1..=3 {
            disk.save(&key("a/../b"), &offer(port));
        }
        assert!(within(|| disk.load(&key("a/../b")) == Some(offer(3))));
        assert_eq!(disk.load(&key("a____b")), None);
        std::fs::write(folder.0.join(file_name(&key("c"))), b"{\"regis").unwrap();
        assert_eq!(disk.load(&key("c")), None);
    }

    #[test]
    fn services_without_providers_have_no_file() {
        let folder = Folder::new("none");
        let disk = Disk::open(&folder.0).unwrap();
        for n in 0..1000 {
            let unknown = Offer::new(Layout::Native, false, Vec::new());
            disk.save(&key(&format!("invented.{n}")), &unknown);
        }
        disk.save(&key("known"), &offer(1));
        // What comes after is written after: so nothing was written of those before.
        assert!(within(|| disk.load(&key("known")).is_some()));
        assert_eq!(folder.names(), [file_name(&key("known"))]);
        // Its providers are gone: it must not come back with the next start.
        disk.save(&key("known"), &Offer::new(Layout::Native, true, Vec::new()));
        assert!(within(|| folder.names().is_empty()));
    }

    #[test]
    fn the_file_of_an_earlier_run_goes_with_its_providers() {
        let folder = Folder::new("earlier");
        let own = file_name(&key("known"));
        folder.put(&own, &text("known", offer(1).providers), 0);
        let disk = Disk::open(&folder.0).unwrap();
        assert_eq!(disk.load(&key("known")), Some(offer(1)));
        disk.save(
            &key("known"),
            &Offer::new(Layout::Native, false, Vec::new()),
        );
        assert!(within(|| folder.names().is_empty()));
    }

    #[test]
    fn files_that_nobody_needs_are_swept() {
        let folder = Folder::new("swept");
        let providers = || offer(1).providers;
        let [young, month, old, empty] = ["young", "month", "old", "empty"].map(key);
        folder.put(&file_name(&young), &text("young", providers()), 400);
        folder.put(&file_name(&month), &text("month", providers()), 429);
        folder.put(&file_name(&old), &text("old", providers()), 431);
        folder.put(&file_name(&empty), &text("empty", Vec::new()), 400);
        folder.put("half-0.draft", b"{", 400);
        folder.put("notes.txt", b"an operator's own", 900);
        let disk = Disk::open(&folder.0).unwrap();
        let mut left = [file_name(&month), file_name(&young), "notes.txt".to_owned()];
        left.sort();
        assert!(within(|| folder.names() == left), "{:?}", folder.names());
        assert_eq!(disk.load(&young), Some(offer(1)));
    }
}
