//! The log: a thread of its own writes it, so that nobody who serves clients waits for it.
//!
//! A thread of its own writes them to stderr. Where its reader is stuck, or a disk is full, lines are
//! dropped and counted; where stderr is closed, they go nowhere. Neither stops a worker, a reload or a
//! drain. All lines have one format, text or JSON, and level and format change while it runs.

mod filter;
mod line;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

pub use filter::LogFilter;
pub(crate) use filter::level_named;
pub use line::LineFormat;
pub(crate) use line::{is_fit, rfc3339};

/// Lines that wait to be written, at most.
const WAITING: usize = 8192;
/// What happens to the process as a whole is told at every level: a supervisor waits for it.
pub(crate) const LIFECYCLE: &str = "finback::lifecycle";
/// Sets what is logged, in place of what the configuration says.
const ENVIRONMENT: &str = "RUST_LOG";

static LOG: OnceLock<Arc<Shared>> = OnceLock::new();

/// How the log is written, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LineFormat,
    /// Which lines are written.
    pub filter: LogFilter,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LineFormat::Text,
            filter: LogFilter::of(LevelFilter::INFO),
        }
    }
}

/// What may change while it runs.
struct Shared {
    /// What the configuration said last: only when it says something else is what was set by hand over.
    configured: Mutex<Option<LogConfig>>,
    /// JSON, or text.
    json: AtomicBool,
    filter: ArcSwap<LogFilter>,
    /// The environment says which lines are written: the configuration does not.
    fixed: AtomicBool,
    dropped: ErrorCounter,
}

/// Begins the log with these lines, unless `RUST_LOG` asks for others. What waits is written when the guard is
/// dropped, within a second.
///
/// # Errors
/// If `RUST_LOG` cannot be read.
pub fn begin(level: LevelFilter) -> Result<WorkerGuard, String> {
    let asked = match std::env::var(ENVIRONMENT) {
        Ok(text) if !text.is_empty() => Some(
            text.parse()
                .map_err(|why| format!("{ENVIRONMENT}: {why}"))?,
        ),
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(format!("{ENVIRONMENT}: it is not text"));
        }
        Ok(_) | Err(std::env::VarError::NotPresent) => None,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(std::io::stderr());
    let shared = Arc::new(Shared {
        configured: Mutex::default(),
        json: AtomicBool::new(false),
        fixed: AtomicBool::new(asked.is_some()),
        filter: ArcSwap::from_pointee(asked.unwrap_or_else(|| LogFilter::of(level))),
        dropped: writer.error_counter(),
    });
    let lines = Lines {
        shared: shared.clone(),
        writer,
        colours: std::io::stderr().is_terminal(),
    };
    if LOG.set(shared).is_ok() {
        // Only a second log of the process could be refused, and there is none.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(lines));
    }
    Ok(guard)
}

/// Writes the log as the configuration says from now on; which lines, only if the environment does not.
pub fn configure(config: &LogConfig) {
    let Some(log) = LOG.get() else { return };
    let mut configured = log
        .configured
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if configured.as_ref() == Some(config) {
        return;
    }
    log.json.store(config.format == LineFormat::Json, Relaxed);
    if !log.fixed.load(Relaxed) {
        log.put(config.filter.clone());
    }
    *configured = Some(config.clone());
}

/// Writes these lines from now on, whatever configuration and environment say, until another configuration
/// says otherwise.
///
/// # Errors
/// If that cannot be read: what can be.
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = text.parse()?;
    let log = LOG.get().ok_or("nothing is logged here")?;
    log.put(filter);
    tracing::info!(target: LIFECYCLE, "logging {text} from now on");
    Ok(())
}

/// Which lines are written, in the words that [`set_level`] takes.
#[must_use]
pub fn level() -> String {
    LOG.get()
        .map(|log| log.filter.load().to_string())
        .unwrap_or_default()
}

/// Lines that were dropped since the start, because nobody took those before.
#[must_use]
pub fn dropped() -> u64 {
    LOG.get()
        .map_or(0, |log| log.dropped.dropped_lines() as u64)
}

/// Writes a line of a command's answer to stdout. Where nobody reads it any more, that is no error.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to stderr that says why a command fails; likewise.
pub fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

impl Shared {
    fn put(&self, filter: LogFilter) {
        self.filter.store(Arc::new(filter));
        // Lines ask once whether they are wanted, and remember that.
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Makes lines of events, and hands them to the thread that writes.
struct Lines {
    shared: Arc<Shared>,
    writer: NonBlocking,
    colours: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.shared.filter.load().admits(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.shared.filter.load().admits(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.shared.filter.load().most())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let format = match self.shared.json.load(Relaxed) {
            true => LineFormat::Json,
            false => LineFormat::Text,
        };
        let line = line::line(format, self.colours, event);
        // One write is one line; it fails for nobody.
        let _ = self.writer.clone().write_all(line.as_bytes());
    }
}
