//! Downstream connections as their worker looks after them, whoever drives it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

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
    /// Those whose stay ends at a time, whoever they are and whatever they do.
    stays: RefCell<BTreeMap<u64, Stay>>,
}

/// A stay that ends: first the resident is asked to leave, then it is cut.
#[derive(Clone, Copy)]
struct Stay {
    ends: Now,
    is_told: bool,
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

    /// Has the stay end at a time, if there is one.
    pub(crate) fn until(self, ends: Option<Now>) -> Self {
        if let Some(ends) = ends {
            let is_told = false;
            let mut stays = self.worker.residents().stays.borrow_mut();
            stays.insert(self.number, Stay { ends, is_told });
        }
        self
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        let residents = self.worker.residents();
        residents.list.borrow_mut().remove(&self.number);
        residents.stays.borrow_mut().remove(&self.number);
    }
}

impl Residents {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    pub(crate) fn all(&self) -> Vec<Rc<dyn Resident>> {
        self.list.borrow().values().cloned().collect()
    }

    /// Has those go whose stay has ended; those who do not within `limit` are cut.
    pub(crate) fn end_stays(&self, worker: &Rc<Worker>, limit: Duration) {
        let now = worker.now();
        let mut over = Vec::new();
        for (number, stay) in &mut *self.stays.borrow_mut() {
            if stay.ends <= now {
                over.push((*number, stay.is_told));
                *stay = Stay {
                    ends: now.after(limit),
                    is_told: true,
                };
            }
        }
        for (number, is_told) in over {
            let resident = self.list.borrow().get(&number).cloned();
            match resident {
                Some(resident) if is_told => resident.cut(worker),
                Some(resident) => resident.leave(worker, now),
                None => {}
            }
        }
    }
}

/// A pool whose idle connections may be closed to make room for others.
pub trait IdleConnections {
    /// Since when its longest idle connection has been idle; `None` if it has none.
    fn idle_since(&self) -> Option<Now>;

    /// Closes that one.
    fn close_longest_idle(&self);
}
