//! A worker's own view of a cluster: the endpoints of one subset, seated for balancing.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::balance::Balancer;
use crate::clock::Now;
use crate::cluster::{Cluster, Endpoints};
use crate::discovery::{Lane, Rule};
use crate::endpoint::Endpoint;
use crate::steer::{self, Facts};
use crate::subset::{self, Subset};

/// Sets of endpoints kept for calls that rules tell apart.
const MAX_WAYS: usize = 64;

/// One endpoint as one worker uses it.
pub(crate) struct Seat {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// What drivers keep with it, so that they need not look for it with each call.
    pub(crate) attached: RefCell<Vec<Box<dyn Any>>>,
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
    rules: Vec<Rule>,
    plain: Members,
    /// What calls that the framework's own rules tell apart may use, found out one by one.
    ways: Vec<(Way, Members)>,
}

/// What a call says that decides which endpoints it may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    lane: LaneWay,
    /// The rules that are for it.
    rules: u64,
    /// What endpoints are compared with.
    compared: Vec<Option<String>>,
}

/// Which lane a call goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum LaneWay {
    /// To the endpoints without a lane.
    #[default]
    None,
    /// To this one.
    To(String),
    /// To one that does not exist, and nowhere else.
    Nowhere,
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
            rules: Vec::new(),
            plain,
            ways: Vec::new(),
        }
    }

    /// Whether the cluster has changed since.
    pub(crate) fn is_stale(&self) -> bool {
        self.version != Some(self.cluster.version())
    }

    /// Catches up with the cluster.
    pub(crate) fn refresh(&mut self, now: Now, seed: u64) {
        // Read first: a change between the two reads is caught next time.
        self.version = Some(self.cluster.version());
        let endpoints = self.cluster.endpoints();
        self.ready = endpoints.ready;
        self.known = endpoints.known;
        self.lane.clone_from(&endpoints.lane);

        self.rules.clone_from(&endpoints.rules);
        let former = self.seats();
        self.ways.clear();
        self.plain = self.gather(&endpoints, &Way::default(), &former, now, seed);
    }

    /// The seats there are, to be kept for endpoints that stay.
    fn seats(&self) -> HashMap<*const Endpoint, Rc<Seat>> {
        std::iter::once(&self.plain)
            .chain(self.ways.iter().map(|(_, members)| members))
            .flat_map(|members| &members.seats)
            .map(|seat| (Arc::as_ptr(&seat.endpoint), seat.clone()))
            .collect()
    }

    fn gather(
        &self,
        endpoints: &Endpoints,
        way: &Way,
        former: &HashMap<*const Endpoint, Rc<Seat>>,
        now: Now,
        seed: u64,
    ) -> Members {
        let lane = self.lane.as_ref();
        let chosen = match &way.lane {
            LaneWay::Nowhere => Vec::new(),
            LaneWay::None => {
                let lane = lane.map(|lane| (lane, None));
                subset::members(&endpoints.all, self.subset.as_deref(), lane)
            }
            LaneWay::To(value) => {
                let lane = lane.map(|lane| (lane, Some(value.as_str())));
                subset::members(&endpoints.all, self.subset.as_deref(), lane)
            }
        };
        let chosen = steer::steer(chosen, &self.rules, way.rules, &way.compared);
        Members::new(&self.cluster, chosen, former, now, seed)
    }

    /// Whether calls are told apart by what they say.
    pub(crate) fn is_steered(&self) -> bool {
        self.lane.is_some() || !self.rules.is_empty()
    }

    /// The way of a call.
    pub(crate) fn way(&self, facts: &mut Facts<'_>) -> Way {
        let rules = steer::matching(&self.rules, facts);
        Way {
            lane: self.lane_way(facts),
            rules,
            compared: steer::compared(&self.rules, rules, facts),
        }
    }

    fn lane_way(&self, facts: &mut Facts<'_>) -> LaneWay {
        let Some(lane) = &self.lane else {
            return LaneWay::None;
        };
        let Some(value) = (facts.attribute)(&lane.attribute) else {
            return LaneWay::None;
        };
        let endpoints = self.cluster.endpoints();
        let exists = endpoints
            .all
            .iter()
            .any(|endpoint| endpoint.labels.get(&lane.label) == Some(&value));
        if exists {
            return LaneWay::To(value);
        }
        let wanted = lane.force_attribute.as_deref();
        let forced = wanted.and_then(|name| (facts.attribute)(name));
        if lane.force || forced.as_deref() == Some("true") {
            LaneWay::Nowhere
        } else {
            LaneWay::None
        }
    }

    /// The endpoints of calls that are not told apart.
    pub(crate) fn plain(&mut self) -> &mut Members {
        &mut self.plain
    }

    /// The endpoints of calls that go this way.
    pub(crate) fn members(&mut self, way: Way, now: Now, seed: u64) -> &mut Members {
        if way == Way::default() {
            return &mut self.plain;
        }
        let at = match self.ways.iter().position(|(own, _)| *own == way) {
            Some(at) => at,
            None => {
                let former = self.seats();
                let endpoints = self.cluster.endpoints();
                let members = self.gather(&endpoints, &way, &former, now, seed);
                if self.ways.len() >= MAX_WAYS {
                    self.ways.clear();
                }
                self.ways.push((way, members));
                self.ways.len() - 1
            }
        };
        &mut self.ways[at].1
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
                            attached: RefCell::default(),
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

    /// Lets go of the views of a cluster.
    pub(crate) fn forget(&mut self, cluster: &Arc<Cluster>) {
        self.0.retain(|_, view| {
            // One that is in use right now is not of this cluster: its user let go of it.
            view.try_borrow()
                .map_or(true, |view| !Arc::ptr_eq(&view.cluster, cluster))
        });
    }

    /// Lets go of views that no site uses.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|_, view| Rc::strong_count(view) > 1);
    }
}
