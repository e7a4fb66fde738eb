//! Hits of routes, how often each is taken: each worker counts for itself, and whoever asks adds up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The route of calls that no route of their table matches.
const NOWHERE: &str = "";

/// A table and one of its routes.
type Place = (Arc<str>, Arc<str>);
/// Their counts, by worker.
type ByWorker = BTreeMap<Place, Vec<Option<Arc<AtomicU64>>>>;

/// The counts of all routes, by worker. Taken where a worker meets a service and method for the first
/// time, never for a call.
#[derive(Default)]
pub(crate) struct Hits(Mutex<ByWorker>);

impl Hits {
    fn lock(&self) -> MutexGuard<'_, ByWorker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of one worker for calls that may take these routes of a table, in their order.
    pub(crate) fn of<'a>(
        &self,
        worker: usize,
        table: &Arc<str>,
        routes: impl Iterator<Item = &'a Arc<str>>,
    ) -> Counts {
        let mut places = self.lock();
        let mut count = |route: &Arc<str>| {
            let own = places.entry((table.clone(), route.clone())).or_default();
            if own.len() <= worker {
                own.resize_with(worker + 1, || None);
            }
            own[worker].get_or_insert_default().clone()
        };
        Counts {
            routes: routes.map(&mut count).collect(),
            nowhere: count(&NOWHERE.into()),
        }
    }

    /// Lets go of routes that are not there any more: of a table and a name.
    pub(crate) fn keep(&self, has_table: impl Fn(&str) -> bool, has: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|(table, route), _| {
            has_table(table) && (**route == *NOWHERE || has(table, route))
        });
    }

    /// How often each route was taken since it was configured; "" is no route at all.
    pub(crate) fn sums(&self) -> BTreeMap<Place, u64> {
        let places = self.lock();
        let sum = |own: &Vec<Option<Arc<AtomicU64>>>| {
            own.iter().flatten().map(|count| count.load(Relaxed)).sum()
        };
        places
            .iter()
            .map(|(place, own)| (place.clone(), sum(own)))
            .collect()
    }
}

/// What one worker counts of calls that may take certain routes. Only its own thread writes, so a plain
/// load and store do.
pub(crate) struct Counts {
    routes: Box<[Arc<AtomicU64>]>,
    nowhere: Arc<AtomicU64>,
}

impl Counts {
    /// A call takes the route of this number, or none.
    pub(crate) fn hit(&self, route: Option<usize>) {
        let count = route.and_then(|route| self.routes.get(route));
        let count = count.unwrap_or(&self.nowhere);
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &Hits, worker: usize) -> Counts {
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        all.of(worker, &"t".into(), names.iter())
    }

    fn hits(all: &Hits, route: &str) -> Option<u64> {
        all.sums().get(&("t".into(), route.into())).copied()
    }

    #[test]
    fn workers_count_alone_and_are_added_up() {
        let all = Hits::default();
        for worker in [0, 3] {
            let counts = of(&all, worker);
            counts.hit(Some(1));
            counts.hit(Some(1));
            counts.hit(None);
        }
        // Whoever meets them again goes on counting.
        of(&all, 3).hit(Some(0));
        assert_eq!(hits(&all, "a"), Some(1));
        assert_eq!(hits(&all, "b"), Some(4));
        assert_eq!(hits(&all, ""), Some(2));
    }

    #[test]
    fn routes_that_are_gone_are_forgotten_and_others_count_on() {
        let all = Hits::default();
        of(&all, 0).hit(Some(1));
        all.keep(|table| table == "t", |_, route| route == "b");
        assert_eq!((hits(&all, "a"), hits(&all, "b")), (None, Some(1)));
        assert_eq!(hits(&all, ""), Some(0));
        all.keep(|_| false, |_, _| true);
        assert!(all.sums().is_empty());
    }
}
