//! A worker's connections to one endpoint in one protocol.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::codec::Codec;
use crate::endpoint::Endpoint;
use crate::mesh::LocalEndpoint;

use super::reply::Reply;
use super::upstream::Upstream;
use super::worker::Worker;

/// Calls in flight on every connection of a pool before it grows. Fewer connections carry more
/// calls per system call; more of them keep a peer that reads each with one thread busy.
const GROW_AT: usize = 512;
/// Connections that only finish what is in flight, at most: they do not count as those of the policy,
/// but they do take room.
const FINISHING: usize = 64;
/// Connections are compared by what waits to be written, in steps of so many bytes, then by calls: a
/// small call behind a large one waits for all of it.
const STEP: usize = 64 * 1024;

/// What tells a worker's pools apart; they are looked after in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolKey {
    /// The client whose connections these are; 0 if all share them.
    pub(crate) owner: u64,
    pub(crate) cluster: u64,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) protocol: &'static str,
    pub(crate) variant: u8,
}

impl PoolKey {
    /// All pools of an owner.
    pub(crate) fn all_of(owner: u64) -> Range<Self> {
        let first = |owner| Self {
            owner,
            cluster: 0,
            address: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            protocol: "",
            variant: 0,
        };
        first(owner)..first(owner + 1)
    }
}

/// A worker's connections to one endpoint, in one protocol and variant.
pub(crate) struct Pool {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) protocol: &'static str,
    pub(crate) variant: u8,
    /// Whose connections these are, unless all share them.
    pub(crate) owner: Option<Rc<dyn Reply>>,
    upstreams: RefCell<Vec<Rc<Upstream>>>,
}

/// The worker's pool to the endpoint of a local endpoint, for frames of one variant.
pub(crate) fn of(
    worker: &Rc<Worker>,
    local_endpoint: &LocalEndpoint,
    reply: &Rc<dyn Reply>,
    variant: u8,
) -> Rc<Pool> {
    let protocol = reply.protocol();
    let key = |owner| PoolKey {
        owner,
        // A client has one connection to an endpoint, also after a reload that changes the cluster's policy.
        cluster: if owner == 0 {
            local_endpoint.cluster.number
        } else {
            0
        },
        address: local_endpoint.endpoint.address,
        protocol,
        variant,
    };
    let make = |owner| Pool {
        cluster: local_endpoint.cluster.clone(),
        endpoint: local_endpoint.endpoint.clone(),
        codec: reply.codec().clone(),
        protocol,
        variant,
        owner,
        upstreams: RefCell::default(),
    };
    if let Some(owner) = reply.owner() {
        return worker.pool(key(owner), || make(Some(reply.clone())));
    }
    let mut attached = local_endpoint.attached.borrow_mut();
    let known = attached.iter().find_map(|own| {
        let pool = own.downcast_ref::<Rc<Pool>>()?;
        (pool.variant == variant && pool.protocol == protocol).then_some(pool)
    });
    if let Some(pool) = known {
        return pool.clone();
    }
    let pool = worker.pool(key(0), || make(None));
    attached.push(Box::new(pool.clone()));
    pool
}

impl Pool {
    /// The connection that shall carry the next call: the least loaded, or a new one. `None` if
    /// none may be made and those there are do not read what they are sent.
    pub(crate) fn choose(self: &Rc<Self>, worker: &Rc<Worker>) -> Option<Rc<Upstream>> {
        let upstreams = self.upstreams.borrow();
        // Mostly one does for all.
        if let [only] = &upstreams[..]
            && only.takes_calls()
            && only.load() < GROW_AT
            && only.backlog() < STEP
        {
            return Some(only.clone());
        }
        let (mut best, mut taking) = (None, 0);
        for upstream in upstreams.iter().filter(|each| each.takes_calls()) {
            taking += 1;
            let cost = (upstream.backlog() / STEP, upstream.load());
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, upstream));
            }
        }
        let most = match self.owner {
            None => self.cluster.spec.policy.connections.max(1) as usize,
            Some(_) => 1,
        };
        let is_own = self.owner.is_some();
        let room = taking < most && {
            // Those that only finish what is in flight are replaced at once, and so are, once, those that
            // are not read from: but not without end.
            let finishing = upstreams.iter().filter(|each| each.is_finishing()).count();
            finishing < FINISHING.max(most) && upstreams.len() - finishing < 2 * most
        };
        match best {
            // While one goes, there is no other.
            None if is_own && !upstreams.is_empty() => None,
            Some(((steps, calls), best)) if !room || calls < GROW_AT && steps == 0 => {
                Some(best.clone())
            }
            None if !room => None,
            Some(_) | None => {
                drop(upstreams);
                let fresh = Upstream::start(self, worker);
                self.upstreams.borrow_mut().push(fresh.clone());
                Some(fresh)
            }
        }
    }

    /// Lets go of a connection that ended.
    pub(crate) fn forget(&self, ended: &Rc<Upstream>) {
        self.upstreams
            .borrow_mut()
            .retain(|upstream| !Rc::ptr_eq(upstream, ended));
    }

    /// Its connections.
    pub(crate) fn upstreams(&self) -> Vec<Rc<Upstream>> {
        self.upstreams.borrow().clone()
    }

    /// Connections, ended ones excepted.
    pub(crate) fn len(&self) -> usize {
        self.upstreams.borrow().len()
    }

    /// Whether any local endpoint still leads here, besides the worker's own list and the connections; or its client
    /// is there.
    pub(crate) fn is_wanted(self: &Rc<Self>) -> bool {
        self.owner.is_some() || Rc::strong_count(self) > 1 + self.len()
    }
}
