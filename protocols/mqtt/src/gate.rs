//! Rate limits of CONNECT: how many sessions may begin.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use finback_core::clock::Now;
use finback_core::driver::Worker;

/// Addresses that are remembered, at most; a bucket that is full again is forgotten first.
const MAX_SOURCES: usize = 65_536;
/// In a second.
const NANOS: u64 = 1_000_000_000;

fn nanos(now: Now) -> u64 {
    now.0.saturating_mul(1000)
}

/// Counts sessions that begin, by source.
pub(crate) struct Gate {
    rate: Option<u32>,
    sources: Mutex<HashMap<IpAddr, Bucket>>,
}

/// When the tokens that were taken will have come back (a virtual schedule: one number is all
/// that a leaky bucket needs).
struct Bucket {
    empty_at: u64,
}

impl Gate {
    pub(crate) fn new(rate: Option<u32>) -> Self {
        Self {
            rate,
            sources: Mutex::default(),
        }
    }

    /// Whether a session of this source may begin now.
    pub(crate) fn admits(&self, source: IpAddr, now: Now) -> bool {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else {
            return true;
        };
        let each = NANOS / u64::from(rate);
        let now = nanos(now);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, bucket| bucket.empty_at > now);
            if sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = sources.entry(source).or_insert(Bucket { empty_at: 0 });
        let from = bucket.empty_at.max(now);
        // A second's worth may begin at once.
        if from - now > NANOS - each {
            return false;
        }
        bucket.empty_at = from + each;
        true
    }
}

/// Clients of one worker whose session is about to begin, by the broker that is to answer them; `None`
/// where none has been chosen yet.
#[derive(Default)]
struct Connecting(RefCell<HashMap<Option<SocketAddr>, usize>>);

/// A place among them, until dropped.
pub(crate) struct PropertyPlace {
    connecting: Rc<Connecting>,
    broker: Option<SocketAddr>,
}

impl PropertyPlace {
    /// One of at most `limit` among those without a broker.
    pub(crate) fn take(worker: &Worker, limit: usize) -> Option<Self> {
        worker.state::<Connecting>().take(None, limit)
    }

    /// One of at most `limit` among those who wait for this broker. Brokers share no places: who
    /// answers is not to suffer from who does not.
    pub(crate) fn at(worker: &Worker, broker: SocketAddr, limit: usize) -> Option<Self> {
        worker.state::<Connecting>().take(Some(broker), limit)
    }
}

impl Connecting {
    fn take(self: Rc<Self>, broker: Option<SocketAddr>, limit: usize) -> Option<PropertyPlace> {
        {
            let mut taken = self.0.borrow_mut();
            let taken = taken.entry(broker).or_insert(0);
            if *taken >= limit {
                return None;
            }
            *taken += 1;
        }
        let connecting = self;
        Some(PropertyPlace { connecting, broker })
    }
}

impl Drop for PropertyPlace {
    fn drop(&mut self) {
        let mut taken = self.connecting.0.borrow_mut();
        if let Some(own) = taken.get_mut(&self.broker) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.broker);
            }
        }
    }
}

/// What a session may send per second, as a bucket of one second.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    empty_at: u64,
}

impl Flow {
    /// Takes `cost` of `per_second`, which may be more than there is; gives when there is
    /// something again.
    pub(crate) fn take(&mut self, now: Now, cost: u64, per_second: u64) -> Option<Now> {
        let now = nanos(now);
        let price = u128::from(cost) * u128::from(NANOS) / u128::from(per_second.max(1));
        let from = self.empty_at.max(now);
        self.empty_at = from.saturating_add(u64::try_from(price).unwrap_or(u64::MAX));
        let ready = self.empty_at.saturating_sub(NANOS);
        (ready > now).then_some(Now(ready.div_ceil(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the clock.
    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_source_may_begin_a_seconds_worth_at_once_and_then_at_its_rate() {
        let gate = Gate::new(Some(10));
        let one = IpAddr::from([10, 0, 0, 1]);
        let start = 5 * SECOND;
        let admitted = |source, at| (0..100).filter(|_| gate.admits(source, Now(at))).count();
        assert_eq!(admitted(one, start), 10);
        assert_eq!(admitted(one, start + SECOND / 10), 1);
        assert_eq!(admitted(IpAddr::from([10, 0, 0, 2]), start), 10);
        assert_eq!(admitted(one, start + 100 * SECOND), 10);
        assert!(Gate::new(None).admits(one, Now(0)));
    }

    #[test]
    fn a_full_table_of_sources_refuses_strangers_until_others_have_rested() {
        let gate = Gate::new(Some(1));
        for n in 0..u32::try_from(MAX_SOURCES).unwrap_or(0) {
            assert!(gate.admits(IpAddr::from(n.to_be_bytes()), Now(SECOND)));
        }
        let stranger = IpAddr::from([255, 0, 0, 1]);
        assert!(!gate.admits(stranger, Now(SECOND)));
        assert!(gate.admits(stranger, Now(3 * SECOND)));
    }

    #[test]
    fn clients_of_one_broker_take_no_places_of_another() {
        let connecting = Rc::<Connecting>::default();
        let [hung, sound] = [1, 2].map(|port| Some(SocketAddr::from(([127, 0, 0, 1], port))));
        let waiting: Vec<_> = (0..3).map(|_| connecting.clone().take(hung, 3)).collect();
        assert!(waiting.iter().all(Option::is_some));
        assert!(connecting.clone().take(hung, 3).is_none());
        assert!(connecting.clone().take(sound, 3).is_some());
        drop(waiting);
        assert!(connecting.clone().take(hung, 3).is_some());
        assert!(connecting.0.borrow().is_empty());
    }

    #[test]
    fn a_flow_waits_for_what_it_took_too_much() {
        let mut flow = Flow::default();
        for _ in 0..10 {
            assert_eq!(flow.take(Now(SECOND), 1, 10), None);
        }
        let ready = flow.take(Now(SECOND), 1, 10);
        assert_eq!(ready, Some(Now(SECOND + SECOND / 10)));
    }
}
