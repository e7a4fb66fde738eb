//! Idle connections to endpoints: closed after a while, or to make room for others.

use std::rc::Rc;
use std::time::Duration;

use finback_core::clock::Now;
use finback_core::driver::{IdleConnections, Worker};

use super::{Pools, Shared, Single};

/// A connection without a request is closed after this; servers mostly wait a little longer.
const IDLE: Duration = Duration::from_secs(50);
/// How often connections are looked after.
const SWEEP: Duration = Duration::from_secs(10);

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
        self.single.borrow_mut().retain(|_, single| {
            single
                .idle
                .borrow_mut()
                .retain(|(own, since)| now < since.after(IDLE) && own.line.look_whether_ready());
            !single.idle.borrow().is_empty() || Rc::strong_count(single) > 1
        });
        self.shared.borrow_mut().retain(|_, shared| {
            let mut connections = shared.connections.borrow_mut();
            connections.retain(|own| {
                let used = own.streams.get() > 0 || now < own.used.get().after(IDLE);
                used && own.is_usable()
            });
            !connections.is_empty() || Rc::strong_count(shared) > 1
        });
    }

    fn longest_idle_single(&self) -> Option<(Now, Rc<Single>)> {
        let pools = self.single.borrow();
        let idle = pools.values().filter_map(|single| {
            let since = single.idle.borrow().first()?.1;
            Some((since, single.clone()))
        });
        idle.min_by_key(|(since, _)| *since)
    }

    fn longest_idle_shared(&self) -> Option<(Now, Rc<Shared>)> {
        let pools = self.shared.borrow();
        let idle = pools.values().filter_map(|shared| {
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
