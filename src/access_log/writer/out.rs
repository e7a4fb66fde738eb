//! The file, pipe or stdout that lines are written to: opened, moved away and opened again, and whole lines alone in it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{LogTarget, Message, Shared, lock};

/// Bytes that are written at once, at most.
const BATCH: usize = 64 * 1024;
/// What stands in one that is not full is looked for so long after the first line.
const GATHER: Duration = Duration::from_millis(5);
/// How often it is looked whether the file is still the one of its name, and a file that could not be opened is tried
/// again.
const LOOK: Duration = Duration::from_millis(500);
/// A pipe that takes no more is tried again after this.
const STUCK: Duration = Duration::from_millis(20);

/// The writing side of a [`Writer`](super::Writer).
pub(super) struct Out {
    target: LogTarget,
    shared: Arc<Shared>,
    file: Option<File>,
    /// Bytes in the file.
    size: u64,
    /// When the file was last opened, tried or looked for.
    looked: Option<Instant>,
    /// The last thing that was written is the beginning of a line.
    is_within_line: bool,
    /// It was told that lines are dropped.
    failing: bool,
}

impl Out {
    pub(super) fn new(target: LogTarget, shared: Arc<Shared>) -> Self {
        Self {
            target,
            shared,
            file: None,
            size: 0,
            looked: None,
            is_within_line: false,
            failing: false,
        }
    }

    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        // Whoever looks for the file finds it, though nothing was written yet.
        self.look();
        let mut batch = Vec::new();
        loop {
            let mut next = match queue.recv_timeout(LOOK) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.look();
            let mut told = Vec::new();
            loop {
                match next {
                    Some(Message::Lines(lines, desk)) => {
                        batch.extend_from_slice(lines.text.as_bytes());
                        desk.left(lines.count, lines.text.len());
                    }
                    Some(Message::Look) => std::thread::sleep(GATHER),
                    Some(Message::Flush(done)) => told.push(done),
                    None => break,
                }
                if batch.len() >= BATCH {
                    break;
                }
                next = queue.try_recv().ok();
            }
            self.put(&batch);
            batch.clear();
            self.put_rest();
            for done in told {
                let _ = done.try_send(());
            }
        }
        self.put_rest();
    }

    /// Writes what stands in buffers that are not full.
    fn put_rest(&mut self) {
        // First, so that whoever finds an empty buffer from now on tells again.
        self.shared.is_told.store(false, Relaxed);
        let desks = lock(&self.shared.desks).clone();
        for lane in desks.iter().flat_map(|desk| &desk.lanes) {
            let lines = std::mem::take(&mut *lock(lane));
            if lines.count > 0 {
                self.put(lines.text.as_bytes());
            }
        }
    }

    /// Writes whole lines, as many as can be; the others are dropped.
    fn put(&mut self, batch: &[u8]) {
        let ends = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        let mut rest = batch;
        while !rest.is_empty() {
            let Some(file) = &mut self.file else { break };
            if std::mem::take(&mut self.is_within_line) {
                // What a full disk cut off is no line; the next one shall be.
                let _ = file.write(b"\n");
            }
            match file.write(rest) {
                Ok(0) => break,
                Ok(bytes) => {
                    self.shared.written.fetch_add(ends(&rest[..bytes]), Relaxed);
                    self.size += bytes as u64;
                    rest = &rest[bytes..];
                    self.recover();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.shared.ended.load(Relaxed) || self.shared.reopen.load(Relaxed) {
                        break;
                    }
                    // Others are dropped meanwhile, at the bound of those that wait.
                    std::thread::sleep(STUCK);
                }
                Err(error) => {
                    self.fails(&error);
                    // A pipe whose reader is gone is one to be opened again.
                    if error.kind() == ErrorKind::BrokenPipe && self.target != LogTarget::Stdout {
                        self.file = None;
                    }
                    break;
                }
            }
        }
        let begun = rest.len() < batch.len() && !batch[..batch.len() - rest.len()].ends_with(b"\n");
        self.is_within_line = begun && self.file.is_some();
        self.shared.dropped.fetch_add(ends(rest), Relaxed);
    }

    /// Opens the file if it is to be, was not yet, or is no longer the one of its name; moves it away if it is too long.
    fn look(&mut self) {
        let asked = self.shared.reopen.swap(false, Relaxed);
        let is_due = self.looked.is_none_or(|last| last.elapsed() >= LOOK);
        let is_long = self.is_too_long();
        if !(asked || is_due || is_long) {
            return;
        }
        self.looked = Some(Instant::now());
        if is_long
            && let LogTarget::File {
                path,
                rotation: Some(rotation),
            } = &self.target
        {
            if let Err(error) = move_away(path, rotation.keep) {
                let error =
                    std::io::Error::new(error.kind(), format!("cannot be moved away: {error}"));
                self.size = 0;
                return self.fails(&error);
            }
            self.file = None;
        }
        if asked || self.file.is_none() || self.is_moved() {
            self.open();
        }
    }

    fn is_too_long(&self) -> bool {
        match &self.target {
            LogTarget::File {
                rotation: Some(rotation),
                ..
            } => self.file.is_some() && self.size >= rotation.size,
            _ => false,
        }
    }

    /// Whether another file, or none, has the name by now.
    fn is_moved(&self) -> bool {
        let (LogTarget::File { path, .. }, Some(file)) = (&self.target, &self.file) else {
            return false;
        };
        let identity = |own: std::fs::Metadata| (own.dev(), own.ino());
        let now = std::fs::metadata(path).map(identity).ok();
        now.is_none() || now != file.metadata().map(identity).ok()
    }

    fn open(&mut self) {
        let opened = match &self.target {
            LogTarget::Stdout => std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from),
            // Without waiting: a named pipe that nobody reads is no file yet (ENXIO), and one that is full takes
            // nothing for now (EAGAIN).
            LogTarget::File { path, .. } => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(path),
        };
        match opened {
            Ok(file) => {
                let metadata = file.metadata();
                self.size = metadata.map_or(0, |own| if own.is_file() { own.len() } else { 0 });
                self.file = Some(file);
                self.is_within_line = false;
            }
            Err(error) => {
                self.file = None;
                self.fails(&error);
            }
        }
    }

    fn fails(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let path = &self.target;
            tracing::warn!(%path, %error, "an access log cannot be written; its lines are dropped");
        }
    }

    fn recover(&mut self) {
        if std::mem::replace(&mut self.failing, false) {
            let path = &self.target;
            tracing::info!(%path, "an access log is written again");
        }
    }
}

/// Moves a file away, and those that were moved before.
fn move_away(path: &Path, keep: u32) -> std::io::Result<()> {
    let former = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..keep).rev() {
        match std::fs::rename(former(number), former(number + 1)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match keep {
        0 => std::fs::remove_file(path),
        _ => std::fs::rename(path, former(1)),
    }
}
