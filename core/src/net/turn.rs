//! Fair turns: how long one connection may keep its thread before others are served.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

/// Reads of one connection per turn: one that always has more must not keep the others waiting.
pub const READS_PER_TURN: u8 = 4;

/// What is left of a connection's turn.
#[derive(Debug)]
pub struct Turn {
    left: u8,
}

impl Turn {
    /// A whole turn: [`READS_PER_TURN`] reads.
    #[must_use]
    pub fn new() -> Self {
        Self::of(READS_PER_TURN)
    }

    /// A turn of so many reads: fewer where a read is followed by much work.
    #[must_use]
    pub fn of(reads: u8) -> Self {
        Self { left: reads }
    }

    /// Takes one read of the turn. When none is left, the task is to be polled again after others
    /// have had their turn, and gets a whole one then: `Pending`.
    pub fn take(&mut self, cx: &mut Context<'_>, whole: u8) -> Poll<()> {
        if self.left == 0 {
            self.left = whole;
            give_way(cx);
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(())
    }

    /// The connection has nothing more to read: its next turn is a whole one.
    pub fn end(&mut self, whole: u8) {
        self.left = whole;
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

/// Has the task polled again after the others, and after the sockets were looked at: a task that
/// merely wakes itself is polled up to sixty times before the runtime looks at its sockets.
pub fn give_way(cx: &mut Context<'_>) {
    // Polled once, this registers the waker with those that wait for the runtime's next look.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn a_busy_task_lets_others_run_between_its_turns() {
        let local = tokio::task::LocalSet::new();
        let others = Rc::new(Cell::new(0));
        let counted = others.clone();
        local.spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let mut reads = 0;
        let mut turn = Turn::new();
        let busy = poll_fn(|cx| {
            loop {
                if turn.take(cx, READS_PER_TURN).is_pending() {
                    return Poll::Pending;
                }
                reads += 1;
                if reads == 10 * u32::from(READS_PER_TURN) {
                    return Poll::Ready(());
                }
            }
        });
        local.run_until(busy).await;
        assert!(others.get() >= 9, "{}", others.get());
    }
}
