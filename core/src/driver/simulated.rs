//! Workers of a simulation: several on one thread, with connections from a network of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::mesh::Mesh;
use crate::net::{Network, Socket};

use super::listener::{ListenerSpec, Listening, Parcel};
use super::shares::Shares;
use super::threads::SETTLE;
use super::worker::Worker;

/// What all workers hold in memory for others, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The most bytes that wait for one client.
    pub for_client: usize,
    /// The most bytes that wait on one connection to an endpoint.
    pub for_endpoint: usize,
    /// What calls take that wait for a registry or a filter.
    pub pending: usize,
    /// Calls in the tables of connections to endpoints, heartbeats included.
    pub calls: usize,
    /// Client connections.
    pub residents: usize,
}

/// The workers of a simulated process. They are real ones; only their threads, sockets and clock are
/// not. All of it must be used within a [`LocalSet`](tokio::task::LocalSet).
pub struct Crew {
    inner: Rc<Inner>,
}

struct Inner {
    workers: Vec<Rc<Worker>>,
    /// By number; one for each worker.
    listening: RefCell<BTreeMap<u64, Vec<Rc<Listening>>>>,
}

impl Inner {
    fn adopt(&self, to: usize, parcel: Box<Parcel>) -> Result<(), Box<Parcel>> {
        let Some(worker) = self.workers.get(to) else {
            return Err(parcel);
        };
        let listening = self.listening.borrow().get(&parcel.listener).cloned();
        match listening {
            Some(all) => all[to].adopt_counted(*parcel, worker),
            None => worker.shares().leave(to),
        }
        Ok(())
    }
}

impl Crew {
    /// So many workers of a mesh, their chance drawn from `seed`.
    #[must_use]
    pub fn new(workers: usize, mesh: &Arc<Mesh>, seed: u64, network: &Arc<dyn Network>) -> Self {
        let shares = Arc::new(Shares::new(workers));
        let make = |index: usize| {
            let network = Some(network.clone());
            let seed = seed.wrapping_add(index as u64);
            Worker::new(index, mesh.clone(), seed, network, shares.clone())
        };
        let inner = Rc::new(Inner {
            workers: (0..workers).map(make).collect(),
            listening: RefCell::default(),
        });
        for worker in &inner.workers {
            let all: Weak<Inner> = Rc::downgrade(&inner);
            worker.set_send_to(Box::new(move |to, parcel| match all.upgrade() {
                Some(all) => all.adopt(to, parcel),
                None => Err(parcel),
            }));
            worker.start();
        }
        Self { inner }
    }

    /// The same crew once more.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }

    /// Begins to listen.
    pub fn listen(&self, id: u64, spec: &ListenerSpec) {
        let workers = self.inner.workers.iter();
        let all = workers.map(|worker| Listening::new(id, spec, worker));
        self.inner.listening.borrow_mut().insert(id, all.collect());
    }

    /// Removes a listener: its clients are dismissed.
    pub fn unlisten(&self, id: u64) {
        let Some(all) = self.inner.listening.borrow_mut().remove(&id) else {
            return;
        };
        for (listening, worker) in all.iter().zip(&self.inner.workers) {
            listening.stop();
            worker.dismiss(Some(id));
        }
    }

    /// Has a worker accept a connection, and place it where there are the fewest; false if it has
    /// no such listener.
    pub fn accept(&self, id: u64, worker: usize, socket: Socket, peer: SocketAddr) -> bool {
        let listening = self.inner.listening.borrow().get(&id).cloned();
        let Some(all) = listening else { return false };
        let worker = &self.inner.workers[worker % self.inner.workers.len()];
        worker.read_clock();
        all[worker.index()].assign(socket, peer, worker);
        true
    }

    /// Has one worker hand its connections over; how many can.
    pub fn hand_over(&self, worker: usize) -> usize {
        self.inner.workers[worker % self.inner.workers.len()].hand_over_all()
    }

    /// Stops as a process does: no more connections, goodbyes, and at the end an answer to everything.
    pub async fn drain(&self) {
        for listening in self.inner.listening.borrow().values().flatten() {
            listening.stop();
        }
        tokio::time::sleep(SETTLE).await;
        for worker in &self.inner.workers {
            worker.dismiss(None);
        }
        let workers = self.inner.workers.iter().cloned();
        let draining: Vec<_> = workers
            .map(|worker| tokio::task::spawn_local(async move { worker.drain().await }))
            .collect();
        for drained in draining {
            // One that panicked is counted with the stats.
            let _ = drained.await;
        }
    }

    /// What is held in memory now.
    #[must_use]
    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for worker in &self.inner.workers {
            held.pending += worker.waiting();
            for resident in worker.residents().all() {
                held.residents += 1;
                held.for_client = held.for_client.max(resident.queued());
            }
            for upstream in worker.upstreams() {
                held.calls += upstream.load();
                held.for_endpoint = held.for_endpoint.max(upstream.queued());
            }
        }
        held
    }
}
