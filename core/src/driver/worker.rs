//! One worker: its share of the mesh, with the connections that it serves.

mod dialling;
mod timekeeper;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Now;
use crate::log_limit::LogLimit;
use crate::mesh::{LocalMesh, Mesh, Stall, Told};
use crate::net::{Buffers, Network, Timers};
use crate::rejection::Rejection;
use crate::stats::increment;
use crate::text::Escaped;

use super::listener::Parcel;
use super::pool::{Pool, PoolKey};
use super::protocol::Served;
use super::reply::Reply;
use super::resident::{IdleConnections, Residents};
use super::shadow::Taken;
use super::shares::Shares;
use super::survey::{Lists, Oldest, WaitsFor};
use super::task;
use super::upstream::Upstream;
use super::write_queue::WriteQueue;

/// Whether another worker takes a connection.
type SendTo = Box<dyn Fn(usize, Box<Parcel>) -> Result<(), Box<Parcel>>>;

/// One worker's state. It never leaves its thread, so that nothing here is locked. It is its
/// [`LocalMesh`] with sockets, and reads as one.
pub struct Worker {
    local: LocalMesh,
    network: Option<Arc<dyn Network>>,
    shares: Arc<Shares>,
    buffers: RefCell<Buffers>,
    timers: Rc<Timers>,
    flush: RefCell<Vec<Rc<WriteQueue>>>,
    flusher: RefCell<Waker>,
    pools: RefCell<BTreeMap<PoolKey, Rc<Pool>>>,
    /// Pools of protocols that drive themselves.
    idle: RefCell<Vec<Weak<dyn IdleConnections>>>,
    residents: Residents,
    /// Calls and sessions that are nowhere else to be found.
    lists: Lists,
    /// What protocols keep per worker: of each type one, a handful in all.
    states: RefCell<Vec<Rc<dyn Any>>>,
    /// No call's deadline is earlier.
    deadline: Cell<Now>,
    deadline_moved: Notify,
    /// Draining takes too long: what is left is answered and ended.
    aborting: Cell<bool>,
    /// All clients are to go, and not only those of a listener that others follow.
    stopping: Cell<bool>,
    /// Calls that wait for a registry have to look whether anybody still waits for them.
    waiting_changed: Notify,
    /// Reads that brought something, since the worker began.
    reads: Cell<u64>,
    /// TLS handshakes of clients that have begun.
    handshakes: Cell<usize>,
    /// Numbers given to clients with upstream connections of their own.
    sessions: Cell<u64>,
    /// When it went on after it had not run for a while.
    stalled_until: Cell<Now>,
    send_to: RefCell<Option<SendTo>>,
    /// What copies of calls take.
    shadows: Taken,
}

impl Deref for Worker {
    type Target = LocalMesh;

    fn deref(&self) -> &LocalMesh {
        &self.local
    }
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        mesh: Arc<Mesh>,
        seed: u64,
        network: Option<Arc<dyn Network>>,
        shares: Arc<Shares>,
    ) -> Rc<Self> {
        Rc::new(Self {
            local: LocalMesh::new(index, mesh, seed),
            network,
            shares,
            buffers: RefCell::default(),
            timers: Rc::default(),
            flush: RefCell::default(),
            flusher: RefCell::new(Waker::noop().clone()),
            pools: RefCell::default(),
            idle: RefCell::default(),
            residents: Residents::default(),
            lists: Lists::default(),
            states: RefCell::default(),
            deadline: Cell::new(Now(u64::MAX)),
            deadline_moved: Notify::new(),
            aborting: Cell::new(false),
            stopping: Cell::new(false),
            waiting_changed: Notify::new(),
            reads: Cell::new(0),
            handshakes: Cell::new(0),
            sessions: Cell::new(0),
            stalled_until: Cell::new(Now(0)),
            send_to: RefCell::default(),
            shadows: Taken::default(),
        })
    }

    pub(crate) fn shadows(&self) -> &Taken {
        &self.shadows
    }

    pub(crate) fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Shows every framed call that is with a connection to its endpoint.
    pub(super) fn see_calls(&self, oldest: &mut Oldest<(Told, WaitsFor)>) {
        for pool in self.pools.borrow().values() {
            for upstream in pool.upstreams() {
                upstream.see_calls(oldest);
            }
        }
    }

    /// Starts its own tasks.
    pub(crate) fn start(self: &Rc<Self>) {
        let worker = self.clone();
        self.spawn_lasting("the flusher", move || worker.clone().flush());
        let worker = self.clone();
        self.spawn_lasting("the timekeeper", move || worker.clone().keep_time());
    }

    /// Starts a task on this worker's thread. One that panics closes what it held.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + 'static) {
        self.spawn_boxed(what, Box::pin(task));
    }

    /// The same for a task that is in a box already.
    pub fn spawn_boxed(&self, what: &'static str, task: Served) {
        task::spawn(&self.mesh().stats, what, task);
    }

    /// Starts a task that the worker cannot do without: should it panic, it is begun anew.
    fn spawn_lasting<F: Future<Output = ()> + 'static>(
        &self,
        what: &'static str,
        begin: impl Fn() -> F + 'static,
    ) {
        let stats = self.mesh().stats.clone();
        tokio::task::spawn_local(async move {
            loop {
                let ended = tokio::task::spawn_local(begin()).await;
                if ended.is_ok() {
                    return;
                }
                task::note_panic(&stats, what);
            }
        });
    }

    /// A protocol's own state in this worker, made when it is first asked for. Its type is all that it is found by, so
    /// there is no key under which another one could stand.
    pub fn state<T: Default + 'static>(&self) -> Rc<T> {
        let mut states = self.states.borrow_mut();
        let mut all = states.iter();
        let known = all.find_map(|state| state.clone().downcast::<T>().ok());
        known.unwrap_or_else(|| {
            let fresh = Rc::<T>::default();
            states.push(fresh.clone());
            fresh
        })
    }

    // === Buffers and timers ===

    pub(crate) fn borrow_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().borrow()
    }

    pub(crate) fn return_buffer(&self, buffer: BytesMut) {
        self.buffers.borrow_mut().give_back(buffer);
    }

    /// Timers that its connections share.
    #[must_use]
    pub fn timers(&self) -> &Rc<Timers> {
        &self.timers
    }

    // === Flushing ===

    /// Has `link` flushed once the connections that are ready now have all had their turn.
    pub(crate) fn flush_later(&self, link: Rc<WriteQueue>) {
        let mut flush = self.flush.borrow_mut();
        flush.push(link);
        if flush.len() == 1 {
            self.flusher.borrow().wake_by_ref();
        }
    }

    /// The flusher's task: one write per link and turn.
    async fn flush(self: Rc<Self>) {
        let mut batch = Vec::new();
        std::future::poll_fn(|cx| {
            let mut flusher = self.flusher.borrow_mut();
            if !flusher.will_wake(cx.waker()) {
                flusher.clone_from(cx.waker());
            }
            drop(flusher);
            std::mem::swap(&mut batch, &mut *self.flush.borrow_mut());
            for link in batch.drain(..) {
                link.flush(&self);
            }
            Poll::<()>::Pending
        })
        .await;
    }

    // === Upstream connections ===

    pub(crate) fn pool(&self, key: PoolKey, make: impl FnOnce() -> Pool) -> Rc<Pool> {
        self.pools
            .borrow_mut()
            .entry(key)
            .or_insert_with(|| Rc::new(make()))
            .clone()
    }

    pub(crate) fn upstreams(&self) -> Vec<Rc<Upstream>> {
        self.pools
            .borrow()
            .values()
            .flat_map(|pool| pool.upstreams())
            .collect()
    }

    /// A number for a client that has upstream connections of its own.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.set(self.sessions.get() + 1);
        self.sessions.get()
    }

    /// Ends the upstream connections of such a client: it is gone, and their endpoints have to know.
    pub(crate) fn end_session(&self, number: u64) {
        for upstream in self.upstreams_of(Some(number)) {
            upstream.end_with_client(self);
        }
        let mut pools = self.pools.borrow_mut();
        let own = pools.range(PoolKey::all_of(number));
        let own: Vec<PoolKey> = own.map(|(key, _)| *key).collect();
        for key in own {
            pools.remove(&key);
        }
    }

    /// The upstream connections of one client, or those that all share.
    pub(crate) fn upstreams_of(&self, owner: Option<u64>) -> Vec<Rc<Upstream>> {
        let pools = self.pools.borrow();
        let own = pools.range(PoolKey::all_of(owner.unwrap_or(0)));
        own.flat_map(|(_, pool)| pool.upstreams()).collect()
    }

    /// Gives up the calls of a client that is gone.
    pub(crate) fn abandon_calls_of(&self, gone: &dyn Reply) {
        self.read_clock();
        for upstream in self.upstreams_of(gone.owner()) {
            upstream.abandon_calls_of(gone);
        }
        self.waiting_changed.notify_waiters();
    }

    /// Answers the calls of a client that most likely is gone, and gives their places back.
    pub(crate) fn refuse_calls_of(self: &Rc<Self>, client: &dyn Reply, why: Rejection) {
        for upstream in self.upstreams_of(client.owner()) {
            upstream.refuse_calls_of(self, client, why);
        }
        self.waiting_changed.notify_waiters();
    }

    // === Calls that wait for a registry ===

    /// Resolves when it may be that somebody waits no more.
    pub(crate) fn waiting_changed(&self) -> Notified<'_> {
        self.waiting_changed.notified()
    }

    /// Whether draining takes too long, so that everything is to be answered now.
    #[must_use]
    pub fn is_aborting(&self) -> bool {
        self.aborting.get()
    }

    // === Client connections ===

    pub(crate) fn residents(&self) -> &Residents {
        &self.residents
    }

    /// TLS handshakes of clients that have begun.
    pub(crate) fn handshakes(&self) -> &Cell<usize> {
        &self.handshakes
    }

    pub(crate) fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    /// How connections get to other workers.
    pub(crate) fn set_send_to(&self, send_to: SendTo) {
        *self.send_to.borrow_mut() = Some(send_to);
    }

    /// Sends a connection to another worker; gives it back if that one is gone.
    pub(crate) fn send_to(&self, worker: usize, parcel: Box<Parcel>) -> Result<(), Box<Parcel>> {
        match &*self.send_to.borrow() {
            Some(send) => send(worker, parcel),
            None => Err(parcel),
        }
    }

    /// Gives a connection that leaves this worker to the one with the fewest.
    pub(crate) fn hand_over(&self, parcel: Parcel) {
        let others = self.shares.status();
        let others = others.iter().enumerate();
        let fewest = others
            .filter(|(index, _)| *index != self.index())
            .min_by_key(|(_, own)| own.connections);
        let Some((chosen, _)) = fewest else { return };
        self.shares.take(chosen);
        if self.send_to(chosen, Box::new(parcel)).is_err() {
            self.shares.leave(chosen);
        }
    }

    /// Has every connection that can go on elsewhere do so at its next boundary of messages; how
    /// many those are.
    pub(crate) fn hand_over_all(&self) -> usize {
        if self.shares.status().len() < 2 {
            // There is nobody to go on with them.
            return 0;
        }
        let all = self.residents.all();
        all.iter().filter(|resident| resident.hand_over()).count()
    }

    /// Whether the process stops: what follows a client's connection may be nobody.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Has the clients of one listener, or of all, go away.
    pub fn dismiss(&self, listener: Option<u64>) {
        self.read_clock();
        let grace_ends = self.now().after(self.limits().drain_grace);
        if listener.is_none() {
            self.stopping.set(true);
        }
        for resident in self.residents.all() {
            if listener.is_none_or(|id| resident.listener() == id) {
                resident.leave(self, grace_ends);
            }
        }
    }

    /// Waits until every client is gone; when that takes too long, answers what is in flight
    /// and ends them.
    pub async fn drain(self: &Rc<Self>) {
        let limit = self.limits().drain;
        if tokio::time::timeout(limit, self.until_empty())
            .await
            .is_ok()
        {
            return;
        }
        self.read_clock();
        tracing::warn!(
            worker = self.index(),
            "draining took too long; ending what is left"
        );
        self.aborting.set(true);
        self.waiting_changed.notify_waiters();
        for upstream in self.upstreams() {
            upstream.abandon_all(self);
        }
        for resident in self.residents.all() {
            resident.cut(self);
        }
        // What was just answered still has to be written, and read by the clients.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.until_empty()).await;
    }

    async fn until_empty(&self) {
        while !self.residents.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // === Log lines ===

    pub(crate) fn warn_of_registry(&self, cluster: &str) {
        static LINES: LogLimit = LogLimit::usual();
        if let Some(left_out) = LINES.admit(self.now()) {
            tracing::warn!(
                cluster = %Escaped(cluster), left_out,
                "the registry did not answer in time; calls that waited for it are rejected"
            );
        }
    }

    pub(crate) fn pause_accepting(&self, listener: &str, why: &str) {
        static LINES: LogLimit = LogLimit::per_second(1);
        increment(&self.mesh().stats.accept_pauses);
        if let Some(left_out) = LINES.admit(self.now()) {
            tracing::warn!(listener, why, left_out, "accepting pauses; clients wait");
        }
    }

    /// When it went on after it had last not run for a while: what peers did, or did not do, before
    /// tells nothing of them.
    pub(crate) fn stalled_until(&self) -> Now {
        self.stalled_until.get()
    }

    /// The same, for something that was waited for; `is_late` says that it was due while we did not run.
    pub(crate) fn stall(&self, is_late: bool) -> Stall {
        Stall {
            is_late,
            until: self.stalled_until(),
        }
    }

    // === Listening to sockets ===

    /// Notes that a read brought something.
    pub(crate) fn note_read(&self) {
        self.reads.set(self.reads.get().wrapping_add(1));
    }
}
