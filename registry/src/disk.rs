//! Snapshots on disk: a start while the registry is away finds what was known before.
//!
//! What is kept is what the registry's servers said, so that layouts read it again: providers, rules
//! and whatever else governs them. One file for each place that was read, of services that have
//! providers, written whole and renamed, so that a change costs what changed and a crash leaves the
//! former file. Services without any have no file: callers may ask for as many of those as they like.
//! The files of services that are followed are written anew every day; one that is a month older than
//! the youngest belongs to a service that nobody follows, and is removed. A folder that nobody writes
//! to keeps what it has, however long that takes. One that cannot be written to or read is a warning:
//! a safety net stops nobody.

mod former;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finback_core::log_limit::LogLimit;
use serde::{Deserialize, Serialize};

use crate::lock;
use crate::store::{Answer, Query};
use writer::Writer;

pub(crate) use former::Key;

/// What did not change is written anew after this, so that it can be told from what nobody needs
/// any more.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// How the names of snapshots begin that say what applications say of a revision.
const METADATA: &str = "metadata_";
/// How the names of snapshots end.
const SNAPSHOT: &str = "json";

/// What was read at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Names below a path.
    Names,
    /// Folders below a path.
    Folders,
    /// Names and values below a path.
    Entries,
    /// The value of a path.
    Value,
    /// The addresses of a host.
    Host,
    /// What an application's instance says of a revision.
    Metadata,
}

/// What identifies a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    registry: String,
    kind: Kind,
    path: String,
}

impl Place {
    pub(crate) fn new(registry: &str, kind: Kind, path: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            kind,
            path: path.to_owned(),
        }
    }

    /// Where what a query reads is kept.
    pub(crate) fn of(registry: &str, query: &Query) -> Self {
        let kind = match query {
            Query::Names(_) => Kind::Names,
            Query::Folders(_) => Kind::Folders,
            Query::Entries(_) => Kind::Entries,
            Query::Value(_) => Kind::Value,
        };
        Self::new(registry, kind, query.path())
    }

    fn file_name(&self) -> String {
        let kind = format!("{:?}", self.kind);
        let parts = [&self.registry, &*kind, &self.path];
        match self.kind {
            Kind::Metadata => file_name(&parts, &format!("{METADATA}{}", self.path)),
            _ => file_name(&parts, &self.path),
        }
    }
}

/// A file's content.
#[derive(Serialize, Deserialize)]
struct Saved {
    registry: String,
    kind: Kind,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Saved {
    fn of(place: &Place, answer: &Answer) -> Self {
        let text = |bytes: &Bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let (entries, value) = match answer {
            Answer::Missing | Answer::Refused => (None, None),
            // What is no text is nothing that a layout could read.
            Answer::Entries(entries) => {
                let texts = entries.iter();
                let texts =
                    texts.filter_map(|(name, value)| Some((name.into_owned(), text(value)?)));
                (Some(texts.collect()), None)
            }
            Answer::Value(value) => (None, text(value)),
        };
        Self {
            registry: place.registry.clone(),
            kind: place.kind,
            path: place.path.clone(),
            entries,
            value,
        }
    }

    fn answer(self) -> Answer {
        match (self.entries, self.value) {
            (Some(entries), _) => {
                let entries = entries.into_iter();
                let entries = entries.map(|(name, value)| (name, value.into()));
                Answer::Entries(Arc::new(entries.collect()))
            }
            (None, Some(value)) => Answer::Value(value.into()),
            (None, None) => Answer::Missing,
        }
    }
}

/// The folder, and the thread that writes to it.
#[derive(Clone)]
pub(crate) struct Disk {
    folder: PathBuf,
    changes: Sender<Change>,
    files: Files,
}

/// What is to become of a file.
enum Change {
    Write(Place, Answer),
    Remove(String),
}

/// The files that are there, or soon will be, by name; with what this process wrote, and when.
type Files = Arc<Mutex<HashMap<String, Option<(u64, Instant)>>>>;

impl Disk {
    /// Writes to `folder`, which is made if need be.
    pub(crate) fn open(folder: &Path) -> Self {
        let files = Files::default();
        if let Err(error) = probe(folder) {
            let path = folder.display();
            tracing::warn!(key = "snapshots.folder", %path, %error,
                "cannot write snapshots; those that can be read are used");
        }
        match std::fs::read_dir(folder) {
            Ok(entries) => {
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                lock(&files).extend(names.map(|name| (name, None)));
            }
            Err(error) => {
                let path = folder.display();
                tracing::warn!(key = "snapshots.folder", %path, %error, "cannot read snapshots");
            }
        }
        let (changes, queue) = channel();
        let writer = Writer::new(folder, &files);
        let thread = std::thread::Builder::new().name("snapshots".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&queue)) {
            tracing::warn!(key = "snapshots.folder", %error, "cannot write snapshots");
        }
        Self {
            folder: folder.to_owned(),
            changes,
            files,
        }
    }

    /// Has an answer written soon if it differs from the one before; of one that holds nothing, the
    /// file is removed.
    pub(crate) fn save(&self, place: Place, answer: Answer) {
        let name = place.file_name();
        let Some(hash) = hash(&answer) else {
            return self.remove(name);
        };
        {
            let mut files = lock(&self.files);
            let is_known = |(own, when): &(u64, Instant)| *own == hash && when.elapsed() < REFRESH;
            if files
                .get(&name)
                .is_some_and(|own| own.as_ref().is_some_and(is_known))
            {
                return;
            }
            files.insert(name, Some((hash, Instant::now())));
        }
        // The thread ends only with the last sender.
        let _ = self.changes.send(Change::Write(place, answer));
    }

    /// The same for a place that shall not get a file: one that is there is kept up to date.
    pub(crate) fn update(&self, place: Place, answer: Answer) {
        if lock(&self.files).contains_key(&place.file_name()) {
            self.save(place, answer);
        }
    }

    fn remove(&self, name: String) {
        if lock(&self.files).remove(&name).is_some() {
            let _ = self.changes.send(Change::Remove(name));
        }
    }

    /// What was known of a place, if anything was.
    pub(crate) fn load(&self, place: &Place) -> Option<Answer> {
        let saved: Saved = self.read(&place.file_name())?;
        // Two places whose names fall together are told apart by what the file says.
        let is_it = saved.path == place.path
            && saved.registry == place.registry
            && saved.kind == place.kind;
        is_it.then(|| saved.answer())
    }

    /// Whether anything is known of a registry.
    pub(crate) fn knows(&self, registry: &str) -> bool {
        #[derive(Deserialize)]
        struct Owner {
            registry: String,
        }
        let names: Vec<String> = lock(&self.files).keys().cloned().collect();
        let mut snapshots = names.iter().filter(|name| name.ends_with(SNAPSHOT));
        snapshots.any(|name| {
            let owner = self.read::<Owner>(name);
            owner.is_some_and(|owner| owner.registry == registry)
        })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let path = self.folder.join(name);
        let unreadable = |error: &dyn std::fmt::Display| {
            static UNREADABLE: LogLimit = LogLimit::usual();
            if let Some(left_out) = UNREADABLE.admit(crate::now()) {
                let path = path.display();
                tracing::warn!(%path, %error, left_out, "snapshot cannot be read; ignored");
            }
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    unreadable(&error);
                }
                return None;
            }
        };
        serde_json::from_slice(&text)
            .map_err(|error| unreadable(&error))
            .ok()
    }
}

/// Makes the folder if need be, and writes into it.
fn probe(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(".probe");
    std::fs::write(&file, b"")?;
    std::fs::remove_file(file)
}

/// Tells answers apart; `None` for one that holds nothing.
fn hash(answer: &Answer) -> Option<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    match answer {
        Answer::Missing | Answer::Refused => return None,
        Answer::Entries(entries) if entries.is_empty() => return None,
        Answer::Entries(entries) => entries.hash(&mut hasher),
        Answer::Value(value) => value.hash(&mut hasher),
    }
    Some(hasher.finish())
}

/// A name that says what it is to a reader, and is safe whatever stands in it.
fn file_name(parts: &[&str], readable: &str) -> String {
    let mut hasher = Fnv::default();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write(&[0]);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let readable = readable.trim_matches('/').chars();
    let readable: String = readable
        .map(|c| if plain(c) { c } else { '_' })
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
mod tests;
