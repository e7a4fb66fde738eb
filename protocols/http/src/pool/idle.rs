//! Idle connections to endpoints: closed after a while, or to make room for others.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use finback_core::clock::Now;
use finback_core::driver::{IdleConnections, Worker};

use super::{Key, Pools, Shared, Single};

/// A connection without a request is closed after this; servers mostly wait a little longer.
const IDLE: Duration = Duration::from_secs(50);
/// How often connections are looked after.
const SWEEP: Duration = Duration::from_secs(10);

/// Pools in the order of their keys, and not in one that differs from run to run.
fn in_order<P>(pools: &HashMap<Key, Rc<P>>) -> Vec<Rc<P>> {
    let mut all: Vec<_> = pools.iter().collect();
    all.sort_unstable_by_key(|(key, _)| **key);
    all.into_iter().map(|(_, own)| own.clone()).collect()
}

impl Pools {
    /// Has connections that nobody uses closed: after a while, or to make room.
    pub(super) fn keep(self: &Rc<Self>, worker: &Rc<Worker>) {
        if self.swept.replace(true) {
            return;
        }
        worker.register_idle(self);
        let (pools, clock) = (Rc::downgrade(self), worker.mesh().clock);
        worker.spawn("a sweep of upstream connections", async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(pools) = pools.upgrade() else { return };
                pools.sweep(clock.now());
            }
        });
    }

    fn sweep(&self, now: Now) {
        for single in in_order(&self.single.borrow()) {
            single
                .idle
                .borrow_mut()
                .retain(|(own, since)| now < since.after(IDLE) && own.line.look_whether_ready());
        }
        for shared in in_order(&self.shared.borrow()) {
            let mut connections = shared.connections.borrow_mut();
            connections.retain(|own| {
                let used = own.streams.get() > 0 || now < own.used.get().after(IDLE);
                used && own.is_usable()
            });
        }
        let mut single = self.single.borrow_mut();
        single.retain(|_, own| !own.idle.borrow().is_empty() || Rc::strong_count(own) > 1);
        let mut shared = self.shared.borrow_mut();
        shared.retain(|_, own| !own.connections.borrow().is_empty() || Rc::strong_count(own) > 1);
    }

    fn longest_idle_single(&self) -> Option<(Now, Rc<Single>)> {
        let pools = in_order(&self.single.borrow());
        let idle = pools.into_iter().filter_map(|single| {
            let since = single.idle.borrow().first()?.1;
            Some((since, single.clone()))
        });
        idle.min_by_key(|(since, _)| *since)
    }

    fn longest_idle_shared(&self) -> Option<(Now, Rc<Shared>)> {
        let pools = in_order(&self.shared.borrow());
        let idle = pools.into_iter().filter_map(|shared| {
            let connections = shared.connections.borrow();
            let since = connections.iter().filter_map(|own| own.idle_since());
            Some((since.min()?, shared.clone()))
        });
        idle.min_by_key(|(since, _)| *since)
    }
}

impl IdleConnections for Pools {
    fn idle_since(&self) -> Option<Now> {
        let single = self.longest_idle_single().map(|(since, _)| since);
        let shared = self.longest_idle_shared().map(|(since, _)| since);
        single.into_iter().chain(shared).min()
    }

    fn close_longest_idle(&self) {
        match (self.longest_idle_single(), self.longest_idle_shared()) {
            (Some((at, single)), other) if other.as_ref().is_none_or(|(since, _)| at <= *since) => {
                single.idle.borrow_mut().remove(0);
            }
            (_, Some((at, shared))) => {
                // Its last sender is gone then, by which it ends.
                let mut connections = shared.connections.borrow_mut();
                connections.retain(|own| own.idle_since() != Some(at));
            }
            (_, None) => {}
        }
    }
}
