//! Places in a pool: how many connections an endpoint may have that carry one request at a time, and who waits for one.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// The connections that there are.
#[derive(Default)]
pub(super) struct Seats {
    taken: Cell<usize>,
    waiting: Cell<usize>,
    /// The first who waits is called first.
    free: Notify,
}

/// One of them; dropping it makes room.
pub(super) struct Seat(Rc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.call();
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Seats {
    /// One more, if there may be one.
    pub(super) fn take(self: &Rc<Self>, most: Option<u32>) -> Option<Seat> {
        let taken = self.taken.get();
        if most.is_some_and(|most| taken >= most.max(1) as usize) {
            return None;
        }
        self.taken.set(taken + 1);
        Some(Seat(self.clone()))
    }

    /// Whether somebody waits, whose turn is before that of those who come.
    pub(super) fn are_awaited(&self) -> bool {
        self.waiting.get() > 0
    }

    /// There is room, or a connection that is idle: the next, if somebody waits.
    pub(super) fn call(&self) {
        if self.are_awaited() {
            self.free.notify_one();
        }
    }

    /// Waits to be called.
    pub(super) async fn wait(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.free.notified().await;
    }
}
