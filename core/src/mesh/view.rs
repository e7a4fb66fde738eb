//! A worker's own view of a cluster: the endpoints of one subset, seated for balancing.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::balance::Balancer;
use crate::clock::Now;
use crate::cluster::{Cluster, Endpoints};
use crate::discovery::{Lane, Rules};
use crate::endpoint::Endpoint;
use crate::steer::{Deserted, Facts, Steering};
use crate::subset::{self, InLane, LaneWay, Subset};
use crate::trace::SpanTarget;

/// Sets of endpoints kept for calls that rules tell apart.
const MAX_WAYS: usize = 64;

/// One endpoint as one worker uses it.
pub(crate) struct Seat {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// What drivers keep with it, so that they need not look for it with each call.
    pub(crate) attached: RefCell<Vec<Box<dyn Any>>>,
}

impl Seat {
    /// The same as whom an attempt asks.
    pub(crate) fn target(&self) -> SpanTarget {
        SpanTarget::Endpoint(self.endpoint.address, self.cluster.name().clone())
    }
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
    rules: Rules,
    plain: Members,
    /// What calls that the framework's own rules tell apart may use, found out one by one.
    ways: Vec<(Way, Found)>,
    /// The lanes that endpoints stand in, by the labels that were asked for.
    lanes: Vec<(Arc<str>, BTreeSet<String>)>,
}

/// What a way leads to: endpoints, or a destination that has none, so that another is drawn.
type Found = Result<Members, Deserted>;

/// What a call says that decides which endpoints it may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    lane: LaneWay,
    /// The lane that filters put it into, where that makes a difference.
    placed: Option<InLane>,
    /// The rules that are for it.
    steering: Steering,
}

impl View {
    pub(super) fn new(cluster: Arc<Cluster>, subset: Option<Arc<Subset>>) -> Self {
        let plain = Members::new(&cluster, Vec::new(), &HashMap::new(), Now::default(), 0);
        Self {
            cluster,
            subset,
            version: None,
            ready: false,
            known: false,
            lane: None,
            rules: Rules::default(),
            plain,
            ways: Vec::new(),
            lanes: Vec::new(),
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
        self.lanes.clear();
        // No rule applies to it: there is nothing to draw.
        if let Ok(plain) = self.gather(&endpoints, &Way::default(), &former, now, seed) {
            self.plain = plain;
        }
    }

    /// The seats there are, to be kept for endpoints that stay.
    fn seats(&self) -> HashMap<*const Endpoint, Rc<Seat>> {
        std::iter::once(&self.plain)
            .chain(
                self.ways
                    .iter()
                    .filter_map(|(_, found)| found.as_ref().ok()),
            )
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
    ) -> Found {
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
        let mut chosen = chosen;
        if let Some(placed) = &way.placed {
            subset::keep_lane(&mut chosen, placed);
        }
        let chosen = way.steering.steer(chosen)?;
        Ok(Members::new(&self.cluster, chosen, former, now, seed))
    }

    /// Whether calls are told apart by what they say.
    pub(crate) fn is_steered(&self) -> bool {
        self.lane.is_some() || self.rules != Rules::default()
    }

    /// The way of a call.
    pub(crate) fn way(
        &mut self,
        facts: &mut Facts<'_>,
        placed: Option<&InLane>,
        random: u64,
    ) -> Way {
        Way {
            lane: self.lane_way(facts),
            placed: placed.and_then(|own| self.placed(own)),
            steering: Steering::of(&self.rules, facts, random),
        }
    }

    /// What the lane of a call comes to here: nothing where no endpoint stands in any, the base where none stands in
    /// this one. So there are no more ways than lanes that exist, whatever callers write.
    fn placed(&mut self, placed: &InLane) -> Option<InLane> {
        let at = self.lanes.iter().position(|(own, _)| *own == placed.label);
        let at = at.unwrap_or_else(|| {
            let lanes = subset::lanes(&self.cluster.endpoints().all, &placed.label);
            self.lanes.push((placed.label.clone(), lanes));
            self.lanes.len() - 1
        });
        let lanes = &self.lanes[at].1;
        let exists = placed
            .lane
            .as_deref()
            .is_some_and(|own| lanes.contains(own));
        if !exists && placed.strict && placed.lane.is_some() {
            // One for all that do not exist.
            return Some(InLane {
                lane: Some(Arc::from("")),
                ..placed.clone()
            });
        }
        (!lanes.is_empty()).then(|| InLane {
            lane: placed.lane.clone().filter(|_| exists),
            ..placed.clone()
        })
    }

    fn lane_way(&self, facts: &mut Facts<'_>) -> LaneWay {
        let Some(lane) = &self.lane else {
            return LaneWay::None;
        };
        let value = (facts.attribute)(&lane.attribute);
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return LaneWay::None;
        };
        let wanted = lane.force_attribute.as_deref();
        let forced = wanted.and_then(|name| (facts.attribute)(name));
        let forced = forced.as_deref() == Some("true");
        subset::lane_way(&self.cluster.endpoints().all, lane, &value, forced)
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
        let mut way = way;
        let mut empty = Vec::new();
        loop {
            let at = match self.ways.iter().position(|(own, _)| *own == way) {
                Some(at) => at,
                None => self.find(way.clone(), now, seed),
            };
            // Each drawing takes a destination away, and the last says that there is none.
            let Err(deserted) = &self.ways[at].1 else {
                return self.found(at);
            };
            way.steering.redraw(*deserted, &mut empty, seed);
        }
    }

    fn find(&mut self, way: Way, now: Now, seed: u64) -> usize {
        let former = self.seats();
        let endpoints = self.cluster.endpoints();
        let found = self.gather(&endpoints, &way, &former, now, seed);
        if self.ways.len() >= MAX_WAYS {
            self.ways.clear();
        }
        self.ways.push((way, found));
        self.ways.len() - 1
    }

    fn found(&mut self, at: usize) -> &mut Members {
        match self.ways.get_mut(at) {
            Some((_, Ok(members))) => members,
            _ => &mut self.plain,
        }
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
