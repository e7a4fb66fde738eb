//! Registrations, which we write into registries: local services, and bridges from other registries.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bridge::{self, Bridge, Ends, Order};
use crate::registrar::{Registration, RegistrationStatus};
use crate::{Registries, lock};

/// A bridge at work.
pub(crate) struct RunningBridge {
    pub(crate) bridge: Bridge,
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) task: JoinHandle<()>,
}

impl Registries {
    /// Registers a local service until [`unregister`](Self::unregister) or
    /// [`withdraw`](Self::withdraw). Does nothing if it is registered already.
    pub fn register(&self, registration: &Registration) {
        match self.feeds(&registration.registry) {
            Some(feeds) => self.registrar.add(registration, &feeds),
            None => tracing::error!(
                registry = registration.registry,
                "no such registry of servers to register with"
            ),
        }
    }

    /// Takes a registration back.
    pub fn unregister(&self, registration: &Registration) {
        self.registrar.remove(registration);
    }

    /// What is registered for local services.
    #[must_use]
    pub fn registrations(&self) -> Vec<RegistrationStatus> {
        self.registrar.status()
    }

    /// Puts registrations in the place of others: what is in both is not touched, and what goes
    /// does so when what comes is there.
    pub fn change_registrations(&self, before: &[Registration], after: &[Registration]) {
        let gone: Vec<_> = before.iter().filter(|own| !after.contains(own)).collect();
        let former = self.registrar.detach(&gone);
        for registration in after {
            match self.feeds(&registration.registry) {
                Some(feeds) => self.registrar.succeed(registration, &feeds, &former),
                None => self.register(registration),
            }
        }
        self.registrar.release_after(former, after);
    }

    /// Runs these bridges and no others; those that did not change go on undisturbed, and one into
    /// the same target goes on where another was.
    pub fn set_bridges(&self, wanted: Vec<Bridge>) {
        let mut bridges = lock(&self.bridges);
        let mut running = std::mem::take(&mut *bridges);
        let mut fresh = Vec::new();
        for bridge in wanted {
            match running.iter().position(|own| own.bridge == bridge) {
                Some(same) => bridges.push(running.swap_remove(same)),
                None => fresh.push(bridge),
            }
        }
        for bridge in fresh {
            let Some(ends) = self.ends(&bridge) else {
                continue;
            };
            let likeness = |own: &RunningBridge| {
                let Bridge { from, address, .. } = &own.bridge;
                (*from == bridge.from, *address == bridge.address)
            };
            let former = (0..running.len())
                .filter(|at| running[*at].bridge.to == bridge.to)
                .max_by_key(|at| likeness(&running[*at]));
            match former {
                Some(former) => {
                    let mut former = running.swap_remove(former);
                    former.orders.send_replace(Order::Mirror(ends));
                    former.bridge = bridge;
                    bridges.push(former);
                }
                None => bridges.push(self.start_bridge(ends)),
            }
        }
        for ended in running {
            ended.orders.send_replace(Order::End);
        }
    }

    /// A bridge with its registries; `None` unless both are of servers.
    pub(crate) fn ends(&self, bridge: &Bridge) -> Option<Ends> {
        let (Some(from), Some(to)) = (self.feeds(&bridge.from.0), self.feeds(&bridge.to.0)) else {
            tracing::error!(?bridge, "a bridge needs registries of servers at both ends");
            return None;
        };
        let bridge = bridge.clone();
        Some(Ends { bridge, from, to })
    }

    pub(crate) fn start_bridge(&self, ends: Ends) -> RunningBridge {
        let (orders, receiver) = watch::channel(Order::Mirror(ends.clone()));
        let bridge = ends.bridge.clone();
        let running = bridge::run(self.handle.clone(), ends, receiver);
        RunningBridge {
            bridge,
            orders,
            task: self.handle.spawn(running),
        }
    }

    /// Takes everything back that leads to us, and leaves to other proxies what does not: the first
    /// thing on the way out.
    pub async fn withdraw(&self) {
        let bridges = std::mem::take(&mut *lock(&self.bridges));
        for bridge in &bridges {
            bridge.orders.send_replace(Order::Leave);
        }
        self.registrar.withdraw().await;
        for bridge in bridges {
            // A bridge takes its entries back within a bound of its own.
            let _ = bridge.task.await;
        }
    }
}
