//! One worker: a thread's own connections, views and clock.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::frame::Metadata;
use crate::mesh::{Limits, Mesh, Routing, Site, Sites, View, Views};
use crate::rejection::Rejection;
use crate::rng::Rng;
use crate::subset::Subset;

use super::framed::Client;
use super::link::{Buffers, Link};
use super::listener::Listening;
use super::pool::{Pool, PoolKey};
use super::streams::Guest;
use super::upstream::Upstream;

/// What is read with one system call, at most.
const SCRATCH: usize = 64 * 1024;
/// How often connections are looked after.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks for what is no longer used.
const TICKS_PER_SWEEP: u32 = 240;
/// Bytes of calls that wait for their service to be looked up, at most.
const PARKING: usize = 64 * 1024 * 1024;

/// One worker's state. It never leaves its thread, so that nothing here is locked.
pub struct Worker {
    index: usize,
    mesh: Arc<Mesh>,
    now: Rc<Cell<Now>>,
    rng: RefCell<Rng>,
    scratch: RefCell<Vec<u8>>,
    buffers: RefCell<Buffers>,
    flush: RefCell<Vec<Rc<Link>>>,
    flusher: RefCell<Waker>,
    routing: RefCell<Arc<Routing>>,
    limits: RefCell<Limits>,
    sites: RefCell<Sites>,
    views: RefCell<Views>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    clients: RefCell<HashMap<u64, Rc<Client>>>,
    /// Connections of protocols that drive themselves.
    guests: RefCell<HashMap<u64, Rc<Guest>>>,
    /// What protocols keep per worker, by type.
    states: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    next_client: Cell<u64>,
    /// No call's deadline is earlier.
    deadline: Cell<Now>,
    deadline_moved: Notify,
    parked: Cell<usize>,
}

impl Worker {
    pub(crate) fn new(index: usize, mesh: Arc<Mesh>) -> Rc<Self> {
        let now = mesh.clock.now();
        let routing = mesh.routing();
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), index);
        Rc::new(Self {
            index,
            now: Rc::new(Cell::new(now)),
            rng: RefCell::new(Rng::new(seed)),
            scratch: RefCell::default(),
            buffers: RefCell::default(),
            flush: RefCell::default(),
            flusher: RefCell::new(Waker::noop().clone()),
            limits: RefCell::new(routing.limits.clone()),
            routing: RefCell::new(routing),
            sites: RefCell::default(),
            views: RefCell::default(),
            pools: RefCell::default(),
            clients: RefCell::default(),
            guests: RefCell::default(),
            states: RefCell::default(),
            next_client: Cell::new(0),
            deadline: Cell::new(Now(u64::MAX)),
            deadline_moved: Notify::new(),
            parked: Cell::new(0),
            mesh,
        })
    }

    /// Its number, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// What it shares with the other workers.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    // === Time and chance ===

    /// The moment of the last [`read_clock`](Self::read_clock): the clock is read once per batch.
    pub fn now(&self) -> Now {
        self.now.get()
    }

    /// The same, for timers.
    pub fn instant(&self) -> tokio::time::Instant {
        self.mesh.clock.instant(self.now.get()).into()
    }

    /// Reads the clock, and notices new routing.
    pub fn read_clock(&self) {
        self.now.set(self.mesh.clock.now());
        if !self.mesh.is_current(self.epoch()) {
            let routing = self.mesh.routing();
            self.limits.borrow_mut().clone_from(&routing.limits);
            *self.routing.borrow_mut() = routing;
        }
    }

    pub(crate) fn shared_clock(&self) -> Rc<Cell<Now>> {
        self.now.clone()
    }

    pub(crate) fn random(&self) -> u64 {
        self.rng.borrow_mut().next()
    }

    // === Routing ===

    pub(crate) fn epoch(&self) -> u64 {
        self.routing.borrow().epoch
    }

    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.routing.borrow().clone()
    }

    pub(crate) fn site(
        &self,
        listening: &Rc<Listening>,
        protocol: &'static str,
        source: IpAddr,
        metadata: &Metadata<'_>,
    ) -> Rc<Site> {
        self.sites
            .borrow_mut()
            .of(self, listening, protocol, source, metadata)
    }

    pub(crate) fn view(
        &self,
        cluster: &Arc<Cluster>,
        subset: Option<&Arc<Subset>>,
    ) -> Rc<RefCell<View>> {
        self.views.borrow_mut().of(cluster, subset)
    }

    pub(crate) fn pool(&self, key: PoolKey, make: impl FnOnce() -> Pool) -> Rc<Pool> {
        self.pools
            .borrow_mut()
            .entry(key)
            .or_insert_with(|| Rc::new(make()))
            .clone()
    }

    /// A protocol's own state in this worker, made when it is first asked for.
    pub fn state<T: Default + 'static>(&self) -> Rc<T> {
        let mut states = self.states.borrow_mut();
        let known = states
            .get(&TypeId::of::<T>())
            .and_then(|state| state.clone().downcast::<T>().ok());
        known.unwrap_or_else(|| {
            let fresh = Rc::<T>::default();
            states.insert(TypeId::of::<T>(), fresh.clone());
            fresh
        })
    }

    /// A random number.
    pub fn chance(&self) -> u64 {
        self.random()
    }

    // === Bounds ===

    pub(crate) fn call_timeout(&self) -> Duration {
        self.limits.borrow().call_timeout
    }

    pub(crate) fn queue_soft(&self) -> usize {
        self.limits.borrow().queue_soft
    }

    pub(crate) fn queue_hard(&self) -> usize {
        self.limits.borrow().queue_hard
    }

    pub(crate) fn in_flight_per_connection(&self) -> u32 {
        self.limits.borrow().in_flight_per_connection
    }

    /// How long draining connections are still served new calls.
    pub fn drain_grace(&self) -> Duration {
        self.limits.borrow().drain_grace
    }

    /// The deadline of calls for which neither caller nor route gives one.
    pub fn default_timeout(&self) -> Duration {
        self.call_timeout()
    }

    /// How long a client connection may be idle.
    pub fn idle(&self) -> Duration {
        self.limits.borrow().idle
    }

    pub(crate) fn sniff(&self) -> Duration {
        self.limits.borrow().sniff
    }

    /// Whether there are as many client connections as there may be.
    pub(crate) fn is_crowded(&self) -> bool {
        let connections = self.mesh.gauges.connections.load(Relaxed);
        usize::try_from(connections).unwrap_or(usize::MAX) >= self.limits.borrow().connections
    }

    /// Asks for room to keep a call until its service is looked up.
    pub(crate) fn take_parking(&self, bytes: usize) -> bool {
        let parked = self.parked.get() + bytes;
        if parked > PARKING {
            return false;
        }
        self.parked.set(parked);
        true
    }

    pub(crate) fn leave_parking(&self, bytes: usize) {
        self.parked.set(self.parked.get().saturating_sub(bytes));
    }

    // === Buffers ===

    /// The worker's buffer for reading, until it is returned: nobody else reads meanwhile.
    pub fn take_scratch(&self) -> Vec<u8> {
        let mut scratch = self.scratch.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH];
        }
        scratch
    }

    /// Gives the buffer back.
    pub fn return_scratch(&self, scratch: Vec<u8>) {
        self.scratch.replace(scratch);
    }

    pub(crate) fn borrow_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().borrow()
    }

    pub(crate) fn return_buffer(&self, buffer: BytesMut) {
        self.buffers.borrow_mut().give_back(buffer);
    }

    // === Flushing ===

    /// Has `link` flushed once the connections that are ready now have all had their turn.
    pub(crate) fn flush_later(&self, link: Rc<Link>) {
        let mut flush = self.flush.borrow_mut();
        flush.push(link);
        if flush.len() == 1 {
            self.flusher.borrow().wake_by_ref();
        }
    }

    /// The flusher's task: one write per link and turn.
    pub(crate) async fn flush(self: Rc<Self>) {
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

    // === Deadlines and housekeeping ===

    /// Has calls expired at `deadline`.
    pub(crate) fn expect_deadline(&self, deadline: Now) {
        if deadline < self.deadline.get() {
            self.deadline.set(deadline);
            self.deadline_moved.notify_one();
        }
    }

    /// The timekeeper's task: expires calls and looks after connections.
    pub(crate) async fn keep_time(self: Rc<Self>) {
        let mut ticks = 0_u32;
        let mut next_tick = self.mesh.clock.now().after(TICK);
        loop {
            let wake = self.deadline.get().min(next_tick);
            tokio::select! {
                () = tokio::time::sleep_until(self.mesh.clock.instant(wake).into()) => {}
                () = self.deadline_moved.notified() => continue,
            }
            self.read_clock();
            let now = self.now();
            self.deadline.set(Now(u64::MAX));
            let upstreams = self.upstreams();
            for upstream in &upstreams {
                upstream.expire(&self);
                let earliest = upstream.earliest();
                self.deadline.set(self.deadline.get().min(earliest));
            }
            if next_tick <= now {
                next_tick = now.after(TICK);
                ticks = ticks.wrapping_add(1);
                self.tick(&upstreams, ticks);
            }
        }
    }

    fn tick(self: &Rc<Self>, upstreams: &[Rc<Upstream>], ticks: u32) {
        for upstream in upstreams {
            upstream.tick(self);
        }
        for client in self.all_clients() {
            client.tick(self);
        }
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            self.sweep();
        }
    }

    /// Lets go of what no connection uses any more.
    fn sweep(&self) {
        self.sites.borrow_mut().forget_unused();
        self.views.borrow_mut().forget_unused();
        self.pools
            .borrow_mut()
            .retain(|_, pool| pool.len() > 0 || pool.is_wanted());
        self.mesh.forget_unused();
    }

    fn upstreams(&self) -> Vec<Rc<Upstream>> {
        self.pools
            .borrow()
            .values()
            .flat_map(|pool| pool.upstreams())
            .collect()
    }

    // === Clients ===

    /// Puts a client on the list; returns its number there.
    pub(crate) fn enlist(&self, client: &Rc<Client>) -> u64 {
        let number = self.next_client.get();
        self.next_client.set(number + 1);
        self.clients.borrow_mut().insert(number, client.clone());
        number
    }

    pub(crate) fn strike_off(&self, number: u64) {
        self.clients.borrow_mut().remove(&number);
    }

    /// Puts a connection that drives itself on the list; returns its number there.
    pub(crate) fn enlist_guest(&self, guest: &Rc<Guest>) -> u64 {
        let number = self.next_client.get();
        self.next_client.set(number + 1);
        self.guests.borrow_mut().insert(number, guest.clone());
        number
    }

    pub(crate) fn strike_off_guest(&self, number: u64) {
        self.guests.borrow_mut().remove(&number);
    }

    fn all_guests(&self) -> Vec<Rc<Guest>> {
        self.guests.borrow().values().cloned().collect()
    }

    fn all_clients(&self) -> Vec<Rc<Client>> {
        self.clients.borrow().values().cloned().collect()
    }

    /// Has the clients of one listener, or of all, go away.
    pub(crate) fn dismiss(&self, listener: Option<u64>) {
        self.read_clock();
        let grace_ends = self.now().after(self.limits.borrow().drain_grace);
        for client in self.all_clients() {
            if listener.is_none_or(|id| client.listening.id == id) {
                client.leave(self, grace_ends);
            }
        }
        for guest in self.all_guests() {
            if listener.is_none_or(|id| guest.listener == id) {
                guest.dismiss();
            }
        }
    }

    /// Waits until every client is gone; when that takes too long, answers what is in flight
    /// and ends them.
    pub(crate) async fn drain(self: &Rc<Self>) {
        let limit = self.limits.borrow().drain;
        if tokio::time::timeout(limit, self.until_empty())
            .await
            .is_ok()
        {
            return;
        }
        self.read_clock();
        tracing::warn!(
            worker = self.index,
            "draining took too long; ending what is left"
        );
        for upstream in self.upstreams() {
            upstream.abandon_all(self, Rejection::Draining);
        }
        for client in self.all_clients() {
            client.cut();
        }
        for guest in self.all_guests() {
            guest.cut();
        }
        // What was just answered still has to be written, and read by the clients.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.until_empty()).await;
    }

    async fn until_empty(&self) {
        while !self.clients.borrow().is_empty() || !self.guests.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
