//! The thread that writes lines to a file, a pipe or stdout. Only it waits for them. Each listener has its own [`Desk`],
//! where workers put lines into buffers of their own: at a bound of lines and bytes that wait there, further ones are
//! dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::AccessLogStatus;

/// Lines of one listener that wait, at most.
const LINES: usize = 16_384;
/// Bytes of these, at most.
const BYTES: usize = 16 * 1024 * 1024;
/// Bytes that are written at once, at most.
const BATCH: usize = 64 * 1024;
/// A buffer is handed over when it has so many bytes.
const FULL: usize = 32 * 1024;
/// What stands in one that is not full is looked for so long after the first line.
const GATHER: Duration = Duration::from_millis(5);
/// Buffers of one desk: workers seldom meet at one.
const LANES: usize = 16;
/// Messages that wait for the thread, at most: few of them are small.
const MESSAGES: usize = 16_384;
/// How often it is looked whether the file is still the one of its name, and a file that could not be opened is tried
/// again.
const LOOK: Duration = Duration::from_millis(500);
/// A pipe that takes no more is tried again after this.
const STUCK: Duration = Duration::from_millis(20);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process's standard output.
    Stdout,
    /// A file or a named pipe.
    File {
        /// Its path.
        path: PathBuf,
        /// When it is moved away.
        rotation: Option<Rotation>,
    },
}

/// When a file is moved away, as `PATH.1`, and the former ones with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// When it has so many bytes.
    pub size: u64,
    /// So many former ones are kept.
    pub keep: u32,
}

/// Takes lines; the thread ends when it is dropped and what waited is written.
pub(super) struct Writer {
    target: Target,
    messages: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// Lines, one after another.
#[derive(Default)]
struct Lines {
    text: String,
    count: usize,
}

/// Where the lines of one listener wait.
#[derive(Default)]
pub(super) struct Desk {
    lanes: [Mutex<Lines>; LANES],
    /// Lines that were handed over and wait, and their bytes.
    lines: AtomicUsize,
    bytes: AtomicUsize,
}

enum Message {
    Lines(Lines, Arc<Desk>),
    /// Something stands in a buffer that is not full.
    Look,
    /// Tells when everything before it was dealt with.
    Flush(SyncSender<()>),
}

#[derive(Default)]
struct Shared {
    desks: Mutex<Vec<Arc<Desk>>>,
    /// The thread will look for what stands in buffers.
    is_told: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
    /// The file is to be opened again.
    reopen: AtomicBool,
    /// Nobody writes here any more: a pipe that is stuck is not waited for.
    ended: AtomicBool,
}

/// The number of this thread's lane.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Relaxed) % LANES;
    }
    OWN.with(|own| *own)
}

impl Writer {
    pub(super) fn start(target: Target) -> std::io::Result<Self> {
        let (messages, queue) = sync_channel(MESSAGES);
        let shared = Arc::<Shared>::default();
        let out = Out {
            target: target.clone(),
            shared: shared.clone(),
            file: None,
            size: 0,
            looked: None,
            is_within_line: false,
            failing: false,
        };
        let thread = std::thread::Builder::new().name("access log".to_owned());
        thread.spawn(move || out.run(&queue))?;
        Ok(Self {
            target,
            messages,
            shared,
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// A place for the lines of one more listener.
    pub(super) fn desk(&self) -> Arc<Desk> {
        let desk = Arc::<Desk>::default();
        let mut desks = lock(&self.shared.desks);
        // Those that nobody writes to any more are empty, or will be when they are next looked at.
        desks.retain(|own| Arc::strong_count(own) > 1 || !own.is_empty());
        desks.push(desk.clone());
        desk
    }

    /// Takes a line, or drops it. On a worker's thread: it waits for nothing.
    pub(super) fn write(&self, desk: &Arc<Desk>, put: impl FnOnce(&mut String)) {
        let (lines, bytes) = (desk.lines.load(Relaxed), desk.bytes.load(Relaxed));
        let mut lane = match desk.lanes[lane()].try_lock() {
            Ok(lane) => lane,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is just being emptied, or somebody else's too.
            Err(TryLockError::WouldBlock) => {
                let mut alone = Lines::default();
                put(&mut alone.text);
                alone.count = 1;
                return self.hand_over(desk, alone);
            }
        };
        if lines + lane.count >= LINES || bytes + lane.text.len() >= BYTES {
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        put(&mut lane.text);
        lane.count += 1;
        if lane.text.len() >= FULL {
            let next = Lines {
                text: String::with_capacity(FULL + FULL / 8),
                count: 0,
            };
            let full = std::mem::replace(&mut *lane, next);
            self.hand_over(desk, full);
        } else if lane.count == 1 && !self.shared.is_told.swap(true, Relaxed) {
            drop(lane);
            // If there is no room the thread has enough to do, and looks afterwards.
            let _ = self.messages.try_send(Message::Look);
        }
    }

    fn hand_over(&self, desk: &Arc<Desk>, own: Lines) {
        let (lines, bytes) = (own.count, own.text.len());
        let before = desk.lines.fetch_add(lines, Relaxed);
        desk.bytes.fetch_add(bytes, Relaxed);
        let fits = before < LINES;
        if !fits
            || self
                .messages
                .try_send(Message::Lines(own, desk.clone()))
                .is_err()
        {
            desk.left(lines, bytes);
            self.shared.dropped.fetch_add(lines as u64, Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }

    pub(super) fn status(&self) -> AccessLogStatus {
        AccessLogStatus {
            target: self.target.to_string(),
            written: self.shared.written.load(Relaxed),
            dropped: self.shared.dropped.load(Relaxed),
        }
    }

    /// Waits until what was handed over is written, but no longer than this.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.messages.try_send(Message::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(patience);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
    }
}

impl Desk {
    fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lock(lane).count == 0)
    }

    /// So many lines wait no more.
    fn left(&self, lines: usize, bytes: usize) {
        self.lines.fetch_sub(lines, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

fn lock<T>(own: &Mutex<T>) -> MutexGuard<'_, T> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writing side.
struct Out {
    target: Target,
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
    fn run(mut self, queue: &Receiver<Message>) {
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
                    if error.kind() == ErrorKind::BrokenPipe && self.target != Target::Stdout {
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
            && let Target::File {
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
            Target::File {
                rotation: Some(rotation),
                ..
            } => self.file.is_some() && self.size >= rotation.size,
            _ => false,
        }
    }

    /// Whether another file, or none, has the name by now.
    fn is_moved(&self) -> bool {
        let (Target::File { path, .. }, Some(file)) = (&self.target, &self.file) else {
            return false;
        };
        let identity = |own: std::fs::Metadata| (own.dev(), own.ino());
        let now = std::fs::metadata(path).map(identity).ok();
        now.is_none() || now != file.metadata().map(identity).ok()
    }

    fn open(&mut self) {
        let opened = match &self.target {
            Target::Stdout => std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from),
            // Without waiting: a named pipe that nobody reads is no file yet (ENXIO), and one that is full takes
            // nothing for now (EAGAIN).
            Target::File { path, .. } => OpenOptions::new()
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
