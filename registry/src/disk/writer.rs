//! The thread that writes snapshots, and removes those that nobody needs any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use super::{Change, Files, METADATA, SNAPSHOT, Saved, former};
use crate::lock;

/// Changes of one place within this time are written once.
const GATHER: Duration = Duration::from_millis(500);
/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(30);
/// How often files that nobody needs any more are looked for.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// A file that is so much older than the youngest is not needed.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How the names of snapshots end that were not finished.
const DRAFT: &str = "draft";
/// No file without providers is longer, in bytes.
const SHORT: u64 = 4096;

pub(super) struct Writer {
    folder: PathBuf,
    files: Files,
}

impl Writer {
    pub(super) fn new(folder: &Path, files: &Files) -> Self {
        Self {
            folder: folder.to_owned(),
            files: files.clone(),
        }
    }

    /// Writes what comes until nobody can send any more.
    pub(super) fn run(&self, queue: &Receiver<Change>) {
        let mut dirty: HashMap<String, Option<Saved>> = HashMap::new();
        let mut due: Option<Instant> = None;
        self.sweep(true);
        let mut swept = Instant::now();
        loop {
            let wait = due.map_or(Duration::from_secs(3600), |due| {
                due.saturating_duration_since(Instant::now())
            });
            let ended = match queue.recv_timeout(wait) {
                Ok(change) => {
                    match change {
                        Change::Write(place, answer) => {
                            dirty.insert(place.file_name(), Some(Saved::of(&place, &answer)))
                        }
                        Change::Remove(name) => dirty.insert(name, None),
                    };
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if ended || due.is_some_and(|due| due <= Instant::now()) {
                self.flush(&mut dirty);
                due = (!dirty.is_empty()).then(|| Instant::now() + RETRY);
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

    /// Writes what is to be written; what cannot be stays.
    fn flush(&self, dirty: &mut HashMap<String, Option<Saved>>) {
        let mut failure = None;
        let mut drafts = Vec::new();
        dirty.retain(|name, saved| {
            let removed = match saved {
                None => self.remove(name).map(|()| true),
                Some(saved) => self.draft(name, saved).map(|file| {
                    drafts.push((name.clone(), file));
                    false
                }),
            };
            !removed.unwrap_or_else(|error| {
                failure = Some(error);
                false
            })
        });
        // All are written before the first is waited for: the disk then takes them together.
        for (name, file) in drafts {
            match self.finish(&name, &file) {
                Ok(()) => drop(dirty.remove(&name)),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            let (path, left) = (self.folder.display(), dirty.len());
            tracing::warn!(key = "snapshots.folder", %path, %error, left,
                "cannot write snapshots; trying again");
        }
    }

    fn draft(&self, name: &str, saved: &Saved) -> std::io::Result<File> {
        let path = self.folder.join(name).with_extension(DRAFT);
        let mut file = match File::create(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.folder)?;
                File::create(&path)?
            }
            file => file?,
        };
        file.write_all(&serde_json::to_vec(saved)?)?;
        Ok(file)
    }

    fn finish(&self, name: &str, file: &File) -> std::io::Result<()> {
        let path = self.folder.join(name);
        // Else a loss of power could leave the new name with nothing in it.
        file.sync_data()?;
        std::fs::rename(path.with_extension(DRAFT), path)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        match std::fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files of services that nobody follows any more, and what is left of writing
    /// that was broken off. At the start also those of services without providers, which former
    /// versions made of every name that was asked for.
    fn sweep(&self, at_start: bool) {
        let files: Vec<(PathBuf, SystemTime, u64)> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                Some((entry.path(), metadata.modified().ok()?, metadata.len()))
            })
            .filter(|(path, ..)| has_end(path, SNAPSHOT) || has_end(path, DRAFT))
            .collect();
        // Not by the clock: it may have been wrong then or be now, and the machine may have
        // slept for longer than that.
        let youngest = files.iter().map(|(_, written, _)| *written).max();
        let mut removed = 0;
        for (path, written, length) in files {
            let is_old = youngest
                .and_then(|youngest| youngest.duration_since(written).ok())
                .is_some_and(|age| age > MONTH);
            let name = path.file_name().and_then(|name| name.to_str());
            // What an application says of a revision is asked for once, and not written anew.
            let is_kept = name.is_some_and(|name| {
                let is_ours = lock(&self.files).get(name).is_some_and(Option::is_some);
                is_ours && name.starts_with(METADATA)
            });
            let unneeded = is_old && !is_kept
                || has_end(&path, DRAFT)
                || at_start && length < SHORT && is_empty(&path);
            if unneeded && std::fs::remove_file(&path).is_ok() {
                removed += 1;
                if let Some(name) = name {
                    lock(&self.files).remove(name);
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

/// Whether a file is one of a former version that holds no providers.
fn is_empty(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let saved = serde_json::from_slice::<former::Saved>(&text);
    saved.is_ok_and(|saved| saved.providers.is_empty())
}
