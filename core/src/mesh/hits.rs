//! How often routes are taken: each worker counts for itself, and whoever asks adds up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::route::{Candidates, RouteTable};

/// The route of calls that no route of their table matches.
const NOWHERE: &str = "";

/// A table and one of its routes.
type Place = (Arc<str>, Arc<str>);

/// The counts of all routes, by worker. Taken where a worker meets a service and method for the first
/// time, never for a call.
#[derive(Default)]
pub(crate) struct Hits(Mutex<BTreeMap<Place, Vec<Option<Arc<AtomicU64>>>>>);

impl Hits {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Vec<Option<Arc<AtomicU64>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of one worker for calls that may take these routes.
    pub(crate) fn of(&self, worker: usize, table: &Arc<str>, candidates: &Candidates) -> Counts {
        let mut places = self.lock();
        let mut count = |route: &Arc<str>| {
            let own = places.entry((table.clone(), route.clone())).or_default();
            if own.len() <= worker {
                own.resize_with(worker + 1, || None);
            }
            own[worker].get_or_insert_default().clone()
        };
        let routes = candidates.routes().iter();
        Counts {
            routes: routes.map(|route| count(&route.name)).collect(),
            nowhere: count(&NOWHERE.into()),
        }
    }

    /// Lets go of routes that are in none of these tables.
    pub(crate) fn keep(&self, tables: &[RouteTable]) {
        self.lock().retain(|(table, route), _| {
            let own = tables.iter().find(|own| own.name == *table);
            own.is_some_and(|own| {
                **route == *NOWHERE || own.routes.iter().any(|each| each.name == *route)
            })
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
