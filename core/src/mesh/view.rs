//! A worker's view of a subset: its endpoints, ready for balancing, and those that a framework's rules leave to a call.

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
use crate::subset::{self, InLane, LaneKey, Subset};
use crate::trace::SpanTarget;
use crate::traffic_rules::{Deserted, Facts, MatchedRules};

/// Sets of endpoints that a view keeps for calls that rules tell apart.
const MAX_RULE_KEYS: usize = 64;

/// One endpoint of a cluster as one worker balances over it.
pub(crate) struct LocalEndpoint {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// What drivers keep with it, so that they need not look for it with each call.
    pub(crate) attached: RefCell<Vec<Box<dyn Any>>>,
}

impl LocalEndpoint {
    /// The same as whom an attempt asks.
    pub(crate) fn target(&self) -> SpanTarget {
        SpanTarget::Endpoint(self.endpoint.address, self.cluster.name().clone())
    }
}

/// Endpoints to choose from, with the balancer's memory.
pub(crate) struct EndpointSet {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) local_endpoints: Vec<Rc<LocalEndpoint>>,
    pub(crate) balancer: Balancer,
}

/// A worker's view of one subset of a cluster; refreshed when the cluster's version moves.
pub(crate) struct SubsetView {
    pub(crate) cluster: Arc<Cluster>,
    subset: Option<Arc<Subset>>,
    version: Option<u64>,
    pub(crate) ready: bool,
    pub(crate) known: bool,
    lane: Option<Lane>,
    rules: Rules,
    plain: EndpointSet,
    /// The endpoints that a framework's rules leave to a call, found out key by key.
    by_rules: Vec<(RuleKey, Found)>,
    /// The lanes that endpoints stand in, by the labels that were asked for.
    lanes: Vec<(Arc<str>, BTreeSet<String>)>,
}

/// The endpoints of a rule key, or a destination that has none, so that another is drawn.
type Found = Result<EndpointSet, Deserted>;

/// What a framework's rules see of a call: calls with equal keys may use the same endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleKey {
    lane: LaneKey,
    /// The lane that filters put it into, where that makes a difference.
    placed: Option<InLane>,
    /// The rules that are for it.
    matched: MatchedRules,
}

impl SubsetView {
    pub(super) fn new(cluster: Arc<Cluster>, subset: Option<Arc<Subset>>) -> Self {
        let plain = EndpointSet::new(&cluster, Vec::new(), &HashMap::new(), Now::default(), 0);
        Self {
            cluster,
            subset,
            version: None,
            ready: false,
            known: false,
            lane: None,
            rules: Rules::default(),
            plain,
            by_rules: Vec::new(),
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
        let former = self.local_endpoints();
        self.by_rules.clear();
        self.lanes.clear();
        // No rule applies to it: there is nothing to draw.
        if let Ok(plain) = self.gather(&endpoints, &RuleKey::default(), &former, now, seed) {
            self.plain = plain;
        }
    }

    /// The local endpoints there are, to be kept for endpoints that stay.
    fn local_endpoints(&self) -> HashMap<*const Endpoint, Rc<LocalEndpoint>> {
        std::iter::once(&self.plain)
            .chain(
                self.by_rules
                    .iter()
                    .filter_map(|(_, found)| found.as_ref().ok()),
            )
            .flat_map(|members| &members.local_endpoints)
            .map(|local_endpoint| {
                (
                    Arc::as_ptr(&local_endpoint.endpoint),
                    local_endpoint.clone(),
                )
            })
            .collect()
    }

    fn gather(
        &self,
        endpoints: &Endpoints,
        key: &RuleKey,
        former: &HashMap<*const Endpoint, Rc<LocalEndpoint>>,
        now: Now,
        seed: u64,
    ) -> Found {
        let lane = self.lane.as_ref();
        let chosen = match &key.lane {
            LaneKey::Nowhere => Vec::new(),
            LaneKey::None => {
                let lane = lane.map(|lane| (lane, None));
                subset::members(&endpoints.all, self.subset.as_deref(), lane)
            }
            LaneKey::To(value) => {
                let lane = lane.map(|lane| (lane, Some(value.as_str())));
                subset::members(&endpoints.all, self.subset.as_deref(), lane)
            }
        };
        let mut chosen = chosen;
        if let Some(placed) = &key.placed {
            subset::keep_lane(&mut chosen, placed);
        }
        let chosen = key.matched.apply(chosen)?;
        Ok(EndpointSet::new(&self.cluster, chosen, former, now, seed))
    }

    /// Whether calls are told apart by what they say.
    pub(crate) fn has_rules(&self) -> bool {
        self.lane.is_some() || self.rules != Rules::default()
    }

    /// The rule key of a call.
    pub(crate) fn rule_key(
        &mut self,
        facts: &mut Facts<'_>,
        placed: Option<&InLane>,
        random: u64,
    ) -> RuleKey {
        RuleKey {
            lane: self.lane_key(facts),
            placed: placed.and_then(|own| self.placed(own)),
            matched: MatchedRules::of(&self.rules, facts, random),
        }
    }

    /// What the lane of a call comes to here: nothing where no endpoint stands in any, the base where none stands in
    /// this one. So there are no more keys than lanes that exist, whatever callers write.
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

    fn lane_key(&self, facts: &mut Facts<'_>) -> LaneKey {
        let Some(lane) = &self.lane else {
            return LaneKey::None;
        };
        let value = (facts.attribute)(&lane.attribute);
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return LaneKey::None;
        };
        let wanted = lane.force_attribute.as_deref();
        let forced = wanted.and_then(|name| (facts.attribute)(name));
        let forced = forced.as_deref() == Some("true");
        subset::lane_key(&self.cluster.endpoints().all, lane, &value, forced)
    }

    /// The endpoints of calls that are not told apart.
    pub(crate) fn plain(&mut self) -> &mut EndpointSet {
        &mut self.plain
    }

    /// The endpoints of calls with this rule key.
    pub(crate) fn members(&mut self, key: RuleKey, now: Now, seed: u64) -> &mut EndpointSet {
        if key == RuleKey::default() {
            return &mut self.plain;
        }
        let mut key = key;
        let mut empty = Vec::new();
        loop {
            let at = match self.by_rules.iter().position(|(own, _)| *own == key) {
                Some(at) => at,
                None => self.find(key.clone(), now, seed),
            };
            // Each drawing takes a destination away, and the last says that there is none.
            let Err(deserted) = &self.by_rules[at].1 else {
                return self.found(at);
            };
            key.matched.redraw(*deserted, &mut empty, seed);
        }
    }

    fn find(&mut self, key: RuleKey, now: Now, seed: u64) -> usize {
        let former = self.local_endpoints();
        let endpoints = self.cluster.endpoints();
        let found = self.gather(&endpoints, &key, &former, now, seed);
        if self.by_rules.len() >= MAX_RULE_KEYS {
            self.by_rules.clear();
        }
        self.by_rules.push((key, found));
        self.by_rules.len() - 1
    }

    fn found(&mut self, at: usize) -> &mut EndpointSet {
        match self.by_rules.get_mut(at) {
            Some((_, Ok(members))) => members,
            _ => &mut self.plain,
        }
    }
}

impl EndpointSet {
    fn new(
        cluster: &Arc<Cluster>,
        endpoints: Vec<Arc<Endpoint>>,
        former: &HashMap<*const Endpoint, Rc<LocalEndpoint>>,
        now: Now,
        seed: u64,
    ) -> Self {
        let local_endpoints = endpoints
            .iter()
            .map(|endpoint| {
                former
                    .get(&Arc::as_ptr(endpoint))
                    .cloned()
                    .unwrap_or_else(|| {
                        Rc::new(LocalEndpoint {
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
            local_endpoints,
            balancer,
        }
    }
}

/// A view's identity: the addresses of its cluster and subset, both kept alive by the view.
type ViewKey = (*const Cluster, Option<*const Subset>);

/// A worker's views, shared by its resolved calls.
#[derive(Default)]
pub(crate) struct SubsetViews(HashMap<ViewKey, Rc<RefCell<SubsetView>>>);

impl SubsetViews {
    pub(crate) fn of(
        &mut self,
        cluster: &Arc<Cluster>,
        subset: Option<&Arc<Subset>>,
    ) -> Rc<RefCell<SubsetView>> {
        let key = (Arc::as_ptr(cluster), subset.map(Arc::as_ptr));
        self.0
            .entry(key)
            .or_insert_with(|| {
                Rc::new(RefCell::new(SubsetView::new(
                    cluster.clone(),
                    subset.cloned(),
                )))
            })
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

    /// Lets go of views that no resolved call uses.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|_, view| Rc::strong_count(view) > 1);
    }
}
