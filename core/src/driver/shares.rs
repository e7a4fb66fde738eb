//! Accepted connections shared among workers: new ones go to the one with the fewest.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::clock::Now;

/// A worker may have this many times an eighth more connections than another before it hands one over:
/// an exact balance of thousands would cost more than it gives.
const EIGHTH: usize = 8;

/// What all workers know of each other.
pub(crate) struct Shares {
    /// Taken when a connection is accepted, never for a call.
    connections: Mutex<Vec<usize>>,
    turned: Vec<AtomicU64>,
    counts: Vec<AtomicUsize>,
    queued: Vec<AtomicUsize>,
}

/// One worker as the others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Its client connections.
    pub(crate) connections: usize,
    /// Bytes that waited to be written to peers when it last looked.
    pub(crate) queued: usize,
    /// When it last looked after them.
    pub(crate) turned: Now,
}

impl Shares {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            connections: Mutex::new(vec![0; workers]),
            turned: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            counts: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            queued: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Takes a connection into account that worker `own` accepted; the worker to serve it.
    pub(crate) fn place(&self, own: usize) -> usize {
        let mut connections = self.lock();
        let fewest = connections.iter().copied().min().unwrap_or(0);
        let mine = connections.get(own).copied().unwrap_or(0);
        let chosen = if (mine - fewest) * EIGHTH > mine {
            connections.iter().position(|count| *count == fewest)
        } else {
            None
        };
        let chosen = chosen.unwrap_or(own);
        self.change(&mut connections, chosen, 1);
        chosen
    }

    /// Takes a connection into account that this worker serves.
    pub(crate) fn take(&self, worker: usize) {
        self.change(&mut self.lock(), worker, 1);
    }

    /// A connection of this worker ended.
    pub(crate) fn leave(&self, worker: usize) {
        self.change(&mut self.lock(), worker, -1);
    }

    fn change(&self, connections: &mut [usize], worker: usize, by: isize) {
        if let Some(count) = connections.get_mut(worker) {
            *count = count.saturating_add_signed(by);
            self.counts[worker].store(*count, Relaxed);
        }
    }

    /// The worker runs.
    pub(crate) fn note_turn(&self, worker: usize, now: Now) {
        if let Some(turned) = self.turned.get(worker) {
            turned.store(now.0, Relaxed);
        }
    }

    /// So many bytes wait to be written to the worker's peers.
    pub(crate) fn note_queued(&self, worker: usize, bytes: usize) {
        if let Some(queued) = self.queued.get(worker) {
            queued.store(bytes, Relaxed);
        }
    }

    /// How each worker is.
    pub(crate) fn status(&self) -> Vec<Share> {
        let workers = 0..self.counts.len();
        let each = workers.map(|worker| Share {
            connections: self.counts[worker].load(Relaxed),
            queued: self.queued[worker].load(Relaxed),
            turned: Now(self.turned[worker].load(Relaxed)),
        });
        each.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_accepts_few_connections_leave_no_worker_without() {
        for accepting in 0..8 {
            let shares = Shares::new(8);
            for _ in 0..16 {
                shares.place(accepting);
            }
            let counts: Vec<usize> = shares.status().iter().map(|own| own.connections).collect();
            assert_eq!(counts, [2; 8]);
        }
    }

    #[test]
    fn many_connections_stay_where_they_are_while_the_difference_is_small() {
        let shares = Shares::new(2);
        for _ in 0..400 {
            shares.place(0);
        }
        let moved = shares.status()[1].connections;
        assert!((170..=200).contains(&moved), "{moved}");
        for _ in 0..moved {
            shares.leave(1);
        }
        assert_eq!(shares.place(0), 1);
        assert_eq!(shares.place(1), 1);
    }
}
