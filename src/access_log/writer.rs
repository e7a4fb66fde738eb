//! The thread that writes lines to a file, a pipe or stdout. Only it waits for them. Each listener has its own [`Desk`],
//! where workers put lines into buffers of their own: at a bound of lines and bytes that wait there, further ones are
//! dropped and counted.

mod out;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::AccessLogStatus;
use out::Out;

/// Lines of one listener that wait, at most.
const LINES: usize = 16_384;
/// Bytes of these, at most.
const BYTES: usize = 16 * 1024 * 1024;
/// A buffer is handed over when it has so many bytes.
const FULL: usize = 32 * 1024;
/// Buffers of one desk: workers seldom meet at one.
const LANES: usize = 16;
/// Messages that wait for the thread, at most: few of them are small.
const MESSAGES: usize = 16_384;
/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
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
    target: LogTarget,
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
    pub(super) fn start(target: LogTarget) -> std::io::Result<Self> {
        let (messages, queue) = sync_channel(MESSAGES);
        let shared = Arc::<Shared>::default();
        let out = Out::new(target.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("access log".to_owned());
        thread.spawn(move || out.run(&queue))?;
        Ok(Self {
            target,
            messages,
            shared,
        })
    }

    pub(super) fn target(&self) -> &LogTarget {
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
