//! Tasks of a worker: one that panics closes what it held, and is counted and logged.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::stats::{MeshStats, increment};

use super::protocol::Served;

/// A task that ends quietly where it would have panicked. What it held is dropped then, so guards
/// do what they are for.
struct Guarded {
    task: Option<Served>,
    what: &'static str,
    stats: Arc<MeshStats>,
}

impl Future for Guarded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        let Ok(polled) = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) else {
            note_panic(&self.stats, self.what);
            self.task = None;
            return Poll::Ready(());
        };
        polled
    }
}

/// Counts and logs a panic of `what`.
pub(crate) fn note_panic(stats: &MeshStats, what: &'static str) {
    increment(&stats.panics);
    tracing::error!(
        task = what,
        "a task ended by a panic; this is a bug of Finback: please report it with the lines above"
    );
}

/// Starts a task on this thread.
pub(crate) fn spawn(stats: &Arc<MeshStats>, what: &'static str, task: Served) {
    tokio::task::spawn_local(Guarded {
        task: Some(task),
        what,
        stats: stats.clone(),
    });
}
