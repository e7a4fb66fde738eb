//! A worker's own view of a cluster: the endpoints of one subset, seated for balancing.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::balance::Balancer;
use crate::clock::Now;
use crate::cluster::Cluster;
use crate::discovery::Lane;
use crate::driver::Pool;
use crate::endpoint::Endpoint;
use crate::subset::{self, Subset};

/// One endpoint as one worker uses it.
pub(crate) struct Seat {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// The worker's connection pools to it, found again by protocol and variant.
    pub(crate) pools: RefCell<Vec<Rc<Pool>>>,
}

/// Endpoints to choose from, with the balancer's memory.
pub(crate) struct Members {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) seats: Vec<Rc<Seat>>,
    pub(crate) balancer: Balancer,
}

/// A worker's view of one subset of a cluster; refreshed when the cluster's version moves.
pub(crate) struct View {
    pub(crate) cluster: Arc<Cluster>,
    subset: Option<Arc<Subset>>,
    version: Option<u64>,
    pub(crate) ready: bool,
    pub(crate) known: bool,
    lane: Option<Lane>,
    plain: Members,
    /// One set per value that the endpoints' lane label takes.
    laned: Vec<(String, Members)>,
}

impl View {
    fn new(cluster: Arc<Cluster>, subset: Option<Arc<Subset>>) -> Self {
        let plain = Members::new(&cluster, Vec::new(), &HashMap::new(), Now::default(), 0);
        Self {
            cluster,
            subset,
            version: None,
            ready: false,
            known: false,
            lane: None,
            plain,
            laned: Vec::new(),
        }
    }

    /// Catches up with the cluster; a comparison of two numbers when nothing changed.
    pub(crate) fn refresh(&mut self, now: Now, seed: u64) {
        // Read first: a change between the two reads is caught next time.
        let version = self.cluster.version();
        if self.version == Some(version) {
            return;
        }
        self.version = Some(version);
        let endpoints = self.cluster.endpoints();
        self.ready = endpoints.ready;
        self.known = endpoints.known;
        self.lane.clone_from(&endpoints.lane);

        let mut former: HashMap<*const Endpoint, Rc<Seat>> = HashMap::new();
        for members in std::iter::once(&self.plain).chain(self.laned.iter().map(|(_, m)| m)) {
            for seat in &members.seats {
                former.insert(Arc::as_ptr(&seat.endpoint), seat.clone());
            }
        }
        let subset = self.subset.as_deref();
        let lane = self.lane.as_ref();
        let choose = |value: Option<&str>| {
            let lane = lane.map(|lane| (lane, value));
            subset::members(&endpoints.all, subset, lane)
        };
        self.plain = Members::new(&self.cluster, choose(None), &former, now, seed);
        let values: BTreeSet<&String> = lane
            .map(|lane| {
                endpoints
                    .all
                    .iter()
                    .filter_map(|e| e.labels.get(&lane.label))
                    .collect()
            })
            .unwrap_or_default();
        self.laned = values
            .into_iter()
            .map(|value| {
                let chosen = choose(Some(value));
                (
                    value.clone(),
                    Members::new(&self.cluster, chosen, &former, now, seed),
                )
            })
            .collect();
    }

    /// The name of the attribute that splits the endpoints, if one does.
    pub(crate) fn lane_attribute(&self) -> Option<&str> {
        self.lane.as_ref().map(|lane| lane.attribute.as_str())
    }

    /// The endpoints for a call whose lane attribute has this value.
    pub(crate) fn members(&mut self, lane: Option<&str>) -> &mut Members {
        let laned = lane.and_then(|value| self.laned.iter_mut().find(|(own, _)| own == value));
        laned.map_or(&mut self.plain, |(_, members)| members)
    }
}

impl Members {
    fn new(
        cluster: &Arc<Cluster>,
        endpoints: Vec<Arc<Endpoint>>,
        former: &HashMap<*const Endpoint, Rc<Seat>>,
        now: Now,
        seed: u64,
    ) -> Self {
        let seats = endpoints
            .iter()
            .map(|endpoint| {
                former
                    .get(&Arc::as_ptr(endpoint))
                    .cloned()
                    .unwrap_or_else(|| {
                        Rc::new(Seat {
                            cluster: cluster.clone(),
                            endpoint: endpoint.clone(),
                            pools: RefCell::default(),
                        })
                    })
            })
            .collect();
        let balancer = Balancer::new(&cluster.spec.policy.balance, &endpoints, now, seed);
        Self {
            endpoints,
            seats,
            balancer,
        }
    }
}

/// A view's identity: the addresses of its cluster and subset, both kept alive by the view.
type ViewKey = (*const Cluster, Option<*const Subset>);

/// A worker's views, shared by its sites.
#[derive(Default)]
pub(crate) struct Views(HashMap<ViewKey, Rc<RefCell<View>>>);

impl Views {
    pub(crate) fn of(
        &mut self,
        cluster: &Arc<Cluster>,
        subset: Option<&Arc<Subset>>,
    ) -> Rc<RefCell<View>> {
        let key = (Arc::as_ptr(cluster), subset.map(Arc::as_ptr));
        self.0
            .entry(key)
            .or_insert_with(|| Rc::new(RefCell::new(View::new(cluster.clone(), subset.cloned()))))
            .clone()
    }

    /// Lets go of views that no site uses.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|_, view| Rc::strong_count(view) > 1);
    }
}
