//! One worker's share of the mesh: its clock, chance, routing and caches. No socket and no task.

use std::cell::{Cell, Ref, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::filter::WaitingRoom;
use crate::frame::Metadata;
use crate::rng::Rng;
use crate::subset::Subset;

use super::origin::Origin;
use super::resolved::{ResolvedCall, ResolvedCalls, RouteCache};
use super::view::{SubsetView, SubsetViews};
use super::{Limits, Mesh, Routing};

/// The listener of copies, in records.
const SHADOW: &str = "(shadow)";
/// Bytes of calls that wait for a registry or a filter, at most.
const WAITING: usize = 64 * 1024 * 1024;
/// What a call takes beside its bytes, near enough.
const CALL: usize = 1024;

/// What one worker knows of the mesh. It never leaves its thread, so that nothing here is locked.
pub struct LocalMesh {
    index: usize,
    mesh: Arc<Mesh>,
    now: Rc<Cell<Now>>,
    rng: Rc<RefCell<Rng>>,
    routing: RefCell<Arc<Routing>>,
    limits: RefCell<Limits>,
    resolved_calls: RefCell<ResolvedCalls>,
    views: RefCell<SubsetViews>,
    waiting: RefCell<WaitingRoom>,
    /// Where copies of calls come from, by the table that they take.
    /// Where copies of calls come from, and where those went that were made last.
    shadows: RefCell<Vec<(Rc<Origin>, RouteCache)>>,
    /// Exchanges may be traced.
    traces: Cell<bool>,
}

impl LocalMesh {
    /// The share of the worker of this number; `seed` is where its chance begins.
    #[must_use]
    pub fn new(index: usize, mesh: Arc<Mesh>, seed: u64) -> Self {
        let routing = mesh.routing();
        Self {
            index,
            now: Rc::new(Cell::new(mesh.clock.now())),
            rng: Rc::new(RefCell::new(Rng::new(seed))),
            limits: RefCell::new(routing.limits.clone()),
            routing: RefCell::new(routing),
            resolved_calls: RefCell::default(),
            views: RefCell::default(),
            waiting: RefCell::new(WaitingRoom::new(WAITING)),
            shadows: RefCell::default(),
            traces: Cell::new(mesh.tracing.load().is_some()),
            mesh,
        }
    }

    /// The worker's number, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it shares with the other workers.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    // === Time and chance ===

    /// The moment of the last [`read_clock`](Self::read_clock): the clock is read once per batch.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now.get()
    }

    /// The same, for timers.
    #[must_use]
    pub fn instant(&self) -> tokio::time::Instant {
        self.mesh.clock.instant(self.now.get())
    }

    /// Reads the clock, and notices new routing.
    pub fn read_clock(&self) {
        self.now.set(self.mesh.clock.now());
        if !self.mesh.is_current(self.epoch()) {
            let routing = self.mesh.routing();
            self.limits.borrow_mut().clone_from(&routing.limits);
            *self.routing.borrow_mut() = routing;
            self.traces.set(self.mesh.tracing.load().is_some());
        }
    }

    pub(crate) fn shared_rng(&self) -> Rc<RefCell<Rng>> {
        self.rng.clone()
    }

    pub(crate) fn shared_clock(&self) -> Rc<Cell<Now>> {
        self.now.clone()
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next()
    }

    // === Routing ===

    pub(crate) fn epoch(&self) -> u64 {
        self.routing.borrow().epoch
    }

    /// Routing now, as this worker has noticed it.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.borrow().clone()
    }

    pub(crate) fn resolve(
        &self,
        origin: &Rc<Origin>,
        protocol: &'static str,
        source: IpAddr,
        metadata: &Metadata<'_>,
    ) -> Rc<ResolvedCall> {
        self.resolved_calls
            .borrow_mut()
            .of(self, origin, protocol, source, metadata)
    }

    /// The resolved call of copies of calls that take this table.
    pub(crate) fn resolve_shadow(
        &self,
        table: &Arc<str>,
        protocol: &'static str,
        source: IpAddr,
        metadata: &Metadata<'_>,
    ) -> Rc<ResolvedCall> {
        let mut shadows = self.shadows.borrow_mut();
        let at = shadows.iter().position(|(own, _)| own.table == *table);
        let at = at.unwrap_or_else(|| {
            // Listeners are numbered from below.
            let taken = shadows.iter().map(|(own, _)| own.id).min();
            let id = taken.unwrap_or(u64::MAX) - 1;
            let origin = Origin::new(id, &SHADOW.into(), table, false, None, self.routing());
            shadows.push((origin, RouteCache::default()));
            shadows.len() - 1
        });
        let (origin, cache) = &mut shadows[at];
        cache.find(self, origin, protocol, source, metadata)
    }

    pub(crate) fn view(
        &self,
        cluster: &Arc<Cluster>,
        subset: Option<&Arc<Subset>>,
    ) -> Rc<RefCell<SubsetView>> {
        self.views.borrow_mut().of(cluster, subset)
    }

    /// Whether any exchange is traced.
    #[must_use]
    pub fn is_tracing(&self) -> bool {
        self.traces.get()
    }

    // === Bounds ===

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> Ref<'_, Limits> {
        self.limits.borrow()
    }

    /// How long draining connections are still served new calls.
    #[must_use]
    pub fn drain_grace(&self) -> Duration {
        self.limits.borrow().drain_grace
    }

    /// The deadline of calls for which neither caller nor route gives one.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.limits.borrow().call_timeout
    }

    /// How long a client connection may be idle.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.limits.borrow().idle
    }

    /// Whether there are as many client connections as there may be.
    pub(crate) fn is_at_limit(&self) -> bool {
        let connections = self.mesh.stats.connections.load(Relaxed);
        usize::try_from(connections).unwrap_or(usize::MAX) >= self.limits.borrow().connections
    }

    /// Asks for room to keep a call of so many bytes while it waits for a registry or a filter; each client has
    /// [its share](WaitingRoom).
    pub(crate) fn reserve_waiting(&self, client: IpAddr, bytes: usize) -> bool {
        self.waiting.borrow_mut().enter(client, bytes + CALL)
    }

    /// What calls that wait take of it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().taken()
    }

    pub(crate) fn release_waiting(&self, client: IpAddr, bytes: usize) {
        self.waiting.borrow_mut().leave(client, bytes + CALL);
    }

    // === Housekeeping ===

    /// Lets go of what no connection uses any more.
    pub(crate) fn forget_unused(&self) {
        let mut shadows = self.shadows.borrow_mut();
        // Copies have no connection with which these would go.
        for (_, cache) in &mut *shadows {
            *cache = RouteCache::default();
        }
        self.resolved_calls.borrow_mut().forget_unused();
        self.views.borrow_mut().forget_unused();
        shadows.retain(|(own, _)| Rc::strong_count(own) > 1);
        self.mesh.forget_unused();
    }

    /// A view's cluster turned out to be of a service that its registry does not know.
    pub(crate) fn forget_view(&self, cluster: &Arc<Cluster>) {
        self.views.borrow_mut().forget(cluster);
    }
}
