//! The log: lines that nobody who serves clients waits for.
//!
//! A thread of its own writes them to stderr. Where its reader is stuck, or a disk is full, lines are
//! dropped and counted; where stderr is closed, they go nowhere. Neither stops a worker, a reload or a
//! drain.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// Lines that wait to be written, at most.
const WAITING: usize = 8192;
/// What happens to the process as a whole is told at every level: a supervisor waits for it.
pub(crate) const LIFECYCLE: &str = "finback::lifecycle";

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Begins the log at a level, unless `RUST_LOG` sets another. What waits is written when the guard is
/// dropped, within a second.
pub fn begin(level: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(std::io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    let chosen = EnvFilter::try_from_default_env();
    let unreadable = std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() && chosen.is_err();
    let always: Result<Directive, _> = format!("{LIFECYCLE}=info").parse();
    let filter = chosen.unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(match always {
            Ok(always) => filter.add_directive(always),
            Err(_) => filter,
        })
        .init();
    if unreadable {
        tracing::warn!(%level, "RUST_LOG cannot be read; this level holds");
    }
    guard
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
