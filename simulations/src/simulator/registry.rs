//! The registry of a world: it answers late, never, wrongly first, and changes its mind.

use std::sync::{Arc, Mutex, PoisonError};

use finback_core::discovery::{Discovery, Lookup, Snapshot, SnapshotSink, WatchGuard};

use super::chance::Chance;
use super::network::{Event, Network};
use super::plan::Plan;

/// One watch.
struct Watch {
    service: String,
    sink: Option<Arc<dyn SnapshotSink>>,
}

/// All watches, by number.
pub(super) struct Registry {
    network: Network,
    inner: Mutex<Inner>,
}

struct Inner {
    chance: Chance,
    watches: Vec<Watch>,
    /// It answers everything at once.
    healed: bool,
}

impl Registry {
    pub(super) fn new(network: &Network, chance: Chance) -> Arc<Self> {
        Arc::new(Self {
            network: network.clone(),
            inner: Mutex::new(Inner {
                chance,
                watches: Vec::new(),
                healed: false,
            }),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a watch what there is now; or that it is unknown, which is corrected later.
    pub(super) fn tell(&self, number: usize, plan: &Plan) {
        let mut inner = self.lock();
        let Watch { service, sink } = &inner.watches[number];
        let (Some(sink), group) = (sink.clone(), plan.registered(service)) else {
            return;
        };
        let unknown = !inner.healed && inner.chance.one_in(5);
        let later = inner.chance.between(1, 3000);
        drop(inner);
        match group {
            Some(group) if !unknown => sink.update(plan.snapshot(group)),
            _ => sink.update(Snapshot::default()),
        }
        if unknown {
            self.network.lock().schedule(later, Event::Registry(number));
        }
    }

    /// Has every watch told what there is.
    pub(super) fn tell_all(&self, plan: &Plan) {
        let count = self.lock().watches.len();
        for number in 0..count {
            self.tell(number, plan);
        }
    }

    /// From now on it answers at once, and rightly.
    pub(super) fn heal(&self) {
        self.lock().healed = true;
    }
}

/// The registry as the mesh knows it.
pub(super) struct Known(pub(super) Arc<Registry>);

impl Discovery for Known {
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn SnapshotSink>) -> WatchGuard {
        let mut inner = self.0.lock();
        let number = inner.watches.len();
        inner.watches.push(Watch {
            service: lookup.service.to_string(),
            sink: Some(sink),
        });
        let answers = inner.healed || !inner.chance.one_in(8);
        let later = if inner.healed {
            1
        } else {
            inner.chance.pick(&[0, 5, 200, 4000])
        };
        drop(inner);
        if answers {
            let mut net = self.0.network.lock();
            net.schedule(later, Event::Registry(number));
            drop(net);
            self.0.network.sooner.notify_one();
        }
        Box::new(Guard(self.0.clone(), number))
    }
}

struct Guard(Arc<Registry>, usize);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().watches[self.1].sink = None;
    }
}
