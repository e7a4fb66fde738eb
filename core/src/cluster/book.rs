//! A cluster's address book: what was learnt about its addresses, those that left a while ago included.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::endpoint::Health;

/// An address that left is remembered this long, and as long as anybody still uses its health:
/// connections outlive the word of a registry, and what they hear must reach the balancer.
const KEPT: Duration = Duration::from_secs(60);
/// Addresses that left, nobody uses and are remembered, at most.
const MOST_GONE: usize = 1024;

/// The health of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    entries: HashMap<SocketAddr, Entry>,
    /// The number of the update under way, or of the last.
    update: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    health: Arc<Health>,
    /// The number of the last update that has it.
    update: u64,
    /// When an update first lacked it.
    gone: Option<Now>,
}

impl Entry {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.health) > 1
    }
}

impl Book {
    /// Begins an update.
    pub(super) fn open(&mut self) {
        self.update += 1;
    }

    /// The health of an address that the update has. One that was gone starts anew, but for the
    /// calls that are still in flight to it.
    pub(super) fn of(&mut self, address: SocketAddr, now: Now) -> Arc<Health> {
        let entry = self.entries.entry(address).or_insert_with(|| Entry {
            health: Arc::default(),
            update: self.update,
            gone: None,
        });
        entry.update = self.update;
        if entry.gone.take().is_some() {
            entry.health.returned(now);
        }
        entry.health.clone()
    }

    /// Ends the update: addresses that it lacks are gone, and forgotten in time.
    pub(super) fn close(&mut self, now: Now) {
        let update = self.update;
        let mut unused = Vec::new();
        self.entries.retain(|address, entry| {
            if entry.update == update {
                return true;
            }
            let gone = *entry.gone.get_or_insert(now);
            if entry.is_used() {
                return true;
            }
            unused.push((gone, *address));
            now.since(gone) <= KEPT
        });
        if unused.len() > MOST_GONE {
            unused.sort_unstable();
            for (_, address) in &unused[..unused.len() - MOST_GONE] {
                self.entries.remove(address);
            }
        }
    }

    /// All of them.
    pub(super) fn healths(&self) -> impl Iterator<Item = &Arc<Health>> {
        self.entries.values().map(|entry| &entry.health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Seen, Standing};
    use std::sync::atomic::Ordering::Relaxed;

    const SECOND: u64 = 1_000_000;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Updates with these ports; the health of the first.
    fn update(book: &mut Book, ports: &[u16], seconds: u64) -> Option<Arc<Health>> {
        let now = Now(seconds * SECOND);
        book.open();
        let healths = ports.iter().map(|port| book.of(address(*port), now));
        let first = healths.collect::<Vec<_>>().into_iter().next();
        book.close(now);
        first
    }

    #[test]
    fn who_left_and_is_used_is_found_again_however_late() {
        let mut book = Book::default();
        let used = update(&mut book, &[1], 1);
        update(&mut book, &[], 2);
        update(&mut book, &[], 1000);
        let again = update(&mut book, &[1], 2000);
        assert!(used.is_some_and(|used| again.is_some_and(|again| Arc::ptr_eq(&used, &again))));
    }

    #[test]
    fn who_left_unused_is_forgotten_in_time() {
        let mut book = Book::default();
        update(&mut book, &[1, 2], 1);
        update(&mut book, &[2], 2);
        update(&mut book, &[2], 62);
        assert_eq!(book.entries.len(), 2);
        update(&mut book, &[2], 63);
        assert_eq!(book.entries.len(), 1);
    }

    #[test]
    fn few_of_many_that_left_are_remembered() {
        let mut book = Book::default();
        for round in 0..10_u16 {
            let ports: Vec<u16> = (round * 1000..(round + 1) * 1000).collect();
            update(&mut book, &ports, 1 + u64::from(round));
        }
        update(&mut book, &[], 20);
        assert_eq!(book.entries.len(), MOST_GONE);
        assert!(
            book.entries.contains_key(&address(9999)),
            "the last to leave"
        );
        assert!(!book.entries.contains_key(&address(0)));
    }

    #[test]
    fn who_returns_starts_anew_and_keeps_its_calls() {
        let mut book = Book::default();
        let health = update(&mut book, &[1], 1).unwrap_or_default();
        health.in_flight.store(3, Relaxed);
        health.unhealthy.store(true, Relaxed);
        health.leaving_until.store(100 * SECOND, Relaxed);
        health.stand.set(Seen::ejected(Now(100 * SECOND)));
        // As long as it stays, it keeps all of that.
        update(&mut book, &[1, 2], 2);
        assert!(health.unhealthy.load(Relaxed));
        update(&mut book, &[2], 3);
        assert!(health.unhealthy.load(Relaxed));
        update(&mut book, &[1, 2], 4);
        assert!(!health.unhealthy.load(Relaxed));
        assert_eq!(health.leaving_until.load(Relaxed), 0);
        assert_eq!(health.standing(Now(4 * SECOND)), Standing::Due);
        assert_eq!(health.in_flight.load(Relaxed), 3);
    }
}
