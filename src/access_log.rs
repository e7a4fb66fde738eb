//! Access logs: one line for each exchange of a listener, or for those that failed, or a share of them.
//!
//! A worker makes the line when an exchange ends and hands it to the thread that writes; it waits for nothing.
//! While nobody takes the lines, or the disk is full, they are dropped and counted.

mod digits;
pub mod format;
mod line;
mod writer;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use finback_core::frame::Outcome;
use finback_core::record::{Ending, Record, SeriesKey};
use finback_observability::{NO_SUCCESS, Watcher, Watchers, Watching};

pub use format::{AccessLogFormat, FIELDS};
use writer::{Desk, Writer};
pub use writer::{LogTarget, Rotation};

/// At the end, what waits has this long to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The access log of a listener, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogConfig {
    /// Where lines go.
    pub target: LogTarget,
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Exchanges that succeeded are left out.
    pub only_failures: bool,
    /// The share of those that succeeded which are written, from 0 to 1.
    pub sample: f64,
}

/// Whether an exchange is one that operators look for: anything but a success, or a one-way that was sent.
fn is_failure(ending: Ending) -> bool {
    !matches!(ending, Ending::Sent | Ending::Answered(Outcome::Success))
}

/// The access log of one listener.
struct Log {
    format: AccessLogFormat,
    /// Of 2^32 successes, so many are written.
    share: u64,
    writer: Arc<Writer>,
    /// Where its lines wait.
    desk: Arc<Desk>,
}

/// The access logs of all listeners at one moment.
#[derive(Default)]
struct Logs {
    by_listener: HashMap<Arc<str>, Log>,
    /// None of them has a line for a success.
    only_failures: bool,
}

/// Sees exchanges end while any listener has an access log.
#[derive(Default)]
struct Scribe(ArcSwap<Logs>);

/// The access logs of all listeners; a reload replaces them.
pub struct AccessLogs {
    scribe: Arc<Scribe>,
    watchers: Arc<Watchers>,
    inner: Mutex<Open>,
}

/// What is open.
#[derive(Default)]
struct Open {
    /// One for each place, however many listeners write there.
    writers: Vec<Arc<Writer>>,
    watching: Option<Watching>,
}

/// What became of the lines of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogStatus {
    /// Its path, or `stdout`.
    pub target: String,
    /// Lines that were written.
    pub written: u64,
    /// Lines that were dropped, because nobody took them or they could not be written.
    pub dropped: u64,
}

impl AccessLogs {
    /// None yet; `watchers` is where exchanges are seen.
    #[must_use]
    pub fn new(watchers: Arc<Watchers>) -> Self {
        Self {
            scribe: Arc::default(),
            watchers,
            inner: Mutex::default(),
        }
    }

    /// Writes these logs, by the names of listeners, and no others.
    ///
    /// # Errors
    /// If a thread cannot be started; then the former ones go on.
    pub fn replace(&self, wanted: &[(Arc<str>, AccessLogConfig)]) -> std::io::Result<()> {
        let mut open = self.lock();
        let mut kept: Vec<Arc<Writer>> = Vec::new();
        let mut by_listener = HashMap::new();
        for (listener, config) in wanted {
            let is_it = |own: &&Arc<Writer>| own.target() == &config.target;
            let found = kept.iter().chain(&open.writers).find(is_it).cloned();
            let writer = match found {
                Some(writer) => writer,
                None => Arc::new(Writer::start(config.target.clone())?),
            };
            if !kept.iter().any(|own| Arc::ptr_eq(own, &writer)) {
                kept.push(writer.clone());
            }
            let share = match config.only_failures {
                true => 0,
                false => (config.sample * 4_294_967_296.0) as u64,
            };
            let log = Log {
                format: config.format.clone(),
                share,
                desk: writer.desk(),
                writer,
            };
            by_listener.insert(listener.clone(), log);
        }
        let only_failures = by_listener.values().all(|log| log.share == 0);
        let is_any = !by_listener.is_empty();
        self.scribe.0.store(Arc::new(Logs {
            by_listener,
            only_failures,
        }));
        self.watchers.ask();
        // Those that are not needed any more end when what waits is written.
        open.writers = kept;
        match is_any {
            false => open.watching = None,
            true if open.watching.is_some() => {}
            true => open.watching = Some(self.watchers.add(self.scribe.clone())),
        }
        Ok(())
    }

    /// Opens the files again: they were moved away.
    pub fn reopen(&self) {
        for writer in &self.lock().writers {
            writer.reopen();
        }
    }

    /// What became of the lines of each place.
    #[must_use]
    pub fn status(&self) -> Vec<AccessLogStatus> {
        let open = self.lock();
        open.writers.iter().map(|own| own.status()).collect()
    }

    /// Waits until what was handed over is written, but not for long.
    pub async fn finish(&self) {
        let writers = self.lock().writers.clone();
        let flushing = tokio::task::spawn_blocking(move || {
            let end = Instant::now() + PATIENCE;
            for writer in writers {
                writer.flush(end.saturating_duration_since(Instant::now()));
            }
        });
        let _ = flushing.await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Scribe {
    fn successes_from(&self) -> u64 {
        match self.0.load().only_failures {
            true => NO_SUCCESS,
            false => 0,
        }
    }

    fn see(&self, key: &SeriesKey, record: &Record<'_>) {
        let logs = self.0.load();
        let is_failure = is_failure(record.ending);
        if logs.only_failures && !is_failure {
            return;
        }
        let Some(log) = logs.by_listener.get(&key.listener) else {
            return;
        };
        if is_failure || chance() < log.share {
            let put = |line: &mut String| line::put(line, &log.format, key, record);
            log.writer.write(&log.desk, put);
        }
    }
}

/// A number below 2^32, another each time (xorshift64, Marsaglia 2003).
fn chance() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0_u8) | 1);
    }
    STATE.with(|state| {
        let mut next = state.get();
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        state.set(next);
        next >> 32
    })
}

/// The path of a target as metrics and messages show it.
impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}
