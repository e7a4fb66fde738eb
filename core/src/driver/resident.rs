//! What a worker looks after: every client connection it serves, whoever drives it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::clock::Now;

use super::worker::Worker;

/// A client connection as its worker knows it.
pub(crate) trait Resident {
    /// The listener that it came through.
    fn listener(&self) -> u64;

    /// Says goodbye where the protocol can; the connection ends once nothing is in flight. New calls
    /// are served until `grace_ends`.
    fn leave(&self, worker: &Worker, grace_ends: Now);

    /// Housekeeping, several times a second.
    fn tick(&self, worker: &Rc<Worker>);

    /// Ends it: draining took too long. What was in flight has been answered.
    fn cut(&self, worker: &Rc<Worker>);

    /// Has it leave this worker at the next boundary of its messages, for another worker or process
    /// to go on with; false if it cannot.
    fn hand_over(&self) -> bool;

    /// Bytes that wait to be written to it.
    fn queued(&self) -> usize {
        0
    }

    /// When its unfinished frame began, and how many bytes of it there are.
    fn unfinished(&self) -> Option<(Now, usize)> {
        None
    }

    /// Has that frame refused and the connection end: unfinished frames take too much memory.
    fn give_up_frame(&self) {}
}

/// The residents of one worker, in the order in which they came.
#[derive(Default)]
pub(crate) struct Residents {
    list: RefCell<BTreeMap<u64, Rc<dyn Resident>>>,
    next: Cell<u64>,
}

/// A place on the list, for as long as it lives.
pub(crate) struct Residence {
    worker: Rc<Worker>,
    number: u64,
}

impl Residence {
    pub(crate) fn take(worker: &Rc<Worker>, resident: Rc<dyn Resident>) -> Self {
        let residents = worker.residents();
        let number = residents.next.get();
        residents.next.set(number + 1);
        residents.list.borrow_mut().insert(number, resident);
        Self {
            worker: worker.clone(),
            number,
        }
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        let residents = self.worker.residents();
        residents.list.borrow_mut().remove(&self.number);
    }
}

impl Residents {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    pub(crate) fn all(&self) -> Vec<Rc<dyn Resident>> {
        self.list.borrow().values().cloned().collect()
    }
}

/// A pool whose idle connections may be closed to make room for others.
pub trait IdleConnections {
    /// Since when its longest idle connection has been idle; `None` if it has none.
    fn idle_since(&self) -> Option<Now>;

    /// Closes that one.
    fn close_longest_idle(&self);
}
