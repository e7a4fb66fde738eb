//! The log: lines that nobody who serves clients waits for.
//!
//! A thread of its own writes them to stderr. Where its reader is stuck, or a disk is full, lines are
//! dropped and counted; where stderr is closed, they go nowhere. Neither stops a worker, a reload or a
//! drain.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// Lines that wait to be written, at most.
const WAITING: usize = 8192;
/// What happens to the process as a whole is told at every level: a supervisor waits for it.
pub(crate) const LIFECYCLE: &str = "finback::lifecycle";

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
static LEVEL: OnceLock<Level> = OnceLock::new();

/// How much is logged, and the way to change it.
struct Level {
    text: Mutex<String>,
    put: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Begins the log at a level, unless `RUST_LOG` sets another. What waits is written when the guard is
/// dropped, within a second.
pub fn begin(level: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(std::io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let chosen = asked
        .as_deref()
        .and_then(|text| Some((text, filter(text).ok()?)));
    let unreadable = std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() && chosen.is_none();
    let (text, filter) = match chosen {
        Some((text, chosen)) => (text, chosen),
        None => (level, filter(level).unwrap_or_default()),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    let _ = LEVEL.set(Level {
        text: Mutex::new(text.to_owned()),
        put: Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())),
    });
    if unreadable {
        tracing::warn!(%level, "RUST_LOG cannot be read; this level holds");
    }
    guard
}

/// A filter as `RUST_LOG` has it, which lets through what is told at every level.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let filter: EnvFilter = text.parse().map_err(|error| format!("{error}"))?;
    let always: Directive = format!("{LIFECYCLE}=info")
        .parse()
        .map_err(|error| format!("{error}"))?;
    Ok(filter.add_directive(always))
}

/// How much is logged.
#[must_use]
pub fn level() -> String {
    LEVEL.get().map_or_else(String::new, |own| {
        own.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    })
}

/// Has so much logged from now on: a level, or a filter as `RUST_LOG` has it.
///
/// # Errors
/// If it is neither, or nothing is logged here.
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = match text {
        "" => Err("nothing was said".to_owned()),
        _ => filter(text),
    };
    let filter = filter.map_err(|error| {
        format!("`{text}` is no level: {error}; write error, warn, info, debug or a filter as in RUST_LOG")
    })?;
    let own = LEVEL.get().ok_or("nothing is logged here")?;
    (own.put)(filter)?;
    text.clone_into(&mut own.text.lock().unwrap_or_else(PoisonError::into_inner));
    tracing::info!(target: LIFECYCLE, "logging {text} from now on");
    Ok(())
}

/// Lines that were dropped since the start, because nobody took those before.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED
        .get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Writes a line of a command's answer to stdout. Where nobody reads it any more, that is no error.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to stderr that says why a command fails; likewise.
pub fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
