//! A call on its way to another worker, with the attempt that it goes on with.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Trial};
use crate::filter::Edits;
use crate::frame::Status;
use crate::record::Ending;
use crate::route::Route;

use super::super::filtered::Filtered;
use super::super::lease::Lease;
use super::super::local::LocalMesh;
use super::super::resolved::ResolvedCall;
use super::super::traced::Traced;
use super::super::verdict::Verdict;
use super::super::view::LocalEndpoint;
use super::{Exchange, Routed};

/// A call that has its endpoint and leaves its worker: another goes on with it, and writes its record. One that
/// arrives nowhere gives its places back, and leaves no record.
pub struct Underway {
    source: IpAddr,
    started: Now,
    deadline: Now,
    own_timeout: Option<Duration>,
    route: Option<Arc<Route>>,
    attempts: u16,
    attempted: Now,
    moves: u16,
    lingers: bool,
    request_bytes: u64,
    /// What filters made of it, its lane too.
    edits: Option<Edits>,
    traced: Option<Box<Traced>>,
    lease: PartedLease,
}

/// A lease between two workers, which holds its places meanwhile. One that arrives nowhere gives them back.
pub struct PartedLease(Option<Parts>);

/// What a lease is without what belongs to its worker.
struct Parts {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    /// When it left.
    left: Now,
    started: Now,
    deadline: Now,
    retry: bool,
    number: u16,
    place: Option<Now>,
    trial: Option<Trial>,
    settled: bool,
}

impl Parts {
    fn of(mut lease: Lease) -> Self {
        lease.parted = true;
        Self {
            cluster: lease.local_endpoint.cluster.clone(),
            endpoint: lease.local_endpoint.endpoint.clone(),
            left: lease.clock.get(),
            started: lease.started,
            deadline: lease.deadline,
            retry: lease.retry,
            number: lease.number,
            place: lease.place.take(),
            trial: lease.trial.take(),
            settled: lease.settled,
        }
    }

    fn lease(self, clock: Rc<Cell<Now>>) -> Lease {
        Lease {
            local_endpoint: Rc::new(LocalEndpoint {
                cluster: self.cluster,
                endpoint: self.endpoint,
                attached: RefCell::default(),
            }),
            propagated: None,
            clock,
            started: self.started,
            deadline: self.deadline,
            verdict: Verdict::Neutral,
            retry: self.retry,
            hedge: false,
            number: self.number,
            place: Cell::new(self.place),
            settled: self.settled,
            parted: false,
            trial: self.trial,
            end: None,
        }
    }
}

impl Lease {
    /// Leaves its worker, for another to [go on](PartedLease::resume) with it.
    #[must_use]
    pub fn part(self) -> PartedLease {
        PartedLease(Some(Parts::of(self)))
    }
}

impl PartedLease {
    /// Goes on in this worker.
    #[must_use]
    pub fn resume(mut self, local: &LocalMesh) -> Option<Lease> {
        Some(self.0.take()?.lease(local.shared_clock()))
    }
}

impl Drop for PartedLease {
    fn drop(&mut self) {
        if let Some(parts) = self.0.take() {
            let clock = Rc::new(Cell::new(parts.left));
            drop(parts.lease(clock));
        }
    }
}

impl Exchange {
    /// Leaves its worker, with its attempt.
    pub(crate) fn part(mut self, lease: Lease) -> Underway {
        self.parted = true;
        Underway {
            source: self.source,
            started: self.started,
            deadline: self.deadline,
            own_timeout: self.own_timeout,
            route: self.selected_route().cloned(),
            attempts: self.attempts,
            attempted: self.attempted,
            moves: self.moves,
            lingers: self.lingers,
            request_bytes: self.request_bytes,
            edits: self.filtered.take().map(|own| own.edits()),
            traced: self.traced.take(),
            lease: lease.part(),
        }
    }

    /// Goes on in this worker, where calls like it have this resolved call. No filter is asked again.
    pub(crate) fn resume(
        local: &LocalMesh,
        resolved: Rc<ResolvedCall>,
        underway: Underway,
    ) -> Option<(Self, Lease)> {
        let lease = underway.lease.resume(local)?;
        // A reload may have changed the routes since; what is gone has no name any more.
        let routes = resolved.candidates.routes().iter();
        let is_own = |own: &Arc<Route>| {
            let before = underway.route.as_ref();
            before.is_some_and(|before| before.name == own.name)
        };
        let route = routes.clone().position(is_own);
        let exchange = Self {
            clock: local.shared_clock(),
            source: underway.source,
            started: underway.started,
            deadline: underway.deadline,
            own_timeout: underway.own_timeout,
            unsaid: false,
            route: route.and_then(|number| u32::try_from(number).ok()),
            destination: 0,
            routed: Ok(Routed::Onward),
            filtered: underway.edits.map(Filtered::after),
            attempts: underway.attempts,
            attempted: underway.attempted,
            moves: underway.moves,
            resent: false,
            free: false,
            no_tls: false,
            lingers: underway.lingers,
            looking_up: false,
            local_endpoint: Some(lease.local_endpoint.clone()),
            mishaps: None,
            ending: Ending::Abandoned,
            status: Status::NONE,
            request_bytes: underway.request_bytes,
            response_bytes: 0,
            traced: underway.traced,
            // Only framed calls are tapped, and those do not move.
            tapped: None,
            parted: false,
            resolved,
        };
        Some((exchange, lease))
    }
}
