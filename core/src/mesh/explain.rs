//! The way that a call would take, for an operator who asks. The routes, views and rules are those of real calls.

use std::borrow::Cow;
use std::sync::Arc;

use crate::balance::Policy;
use crate::cluster::Cluster;
use crate::discovery::Lookup;
use crate::endpoint::Endpoint;
use crate::filter::{self, Asked, Decisions, Edits, Refusal, Target};
use crate::identity::Identity;
use crate::record::TraceId;
use crate::route::{Call, Destination, Route, RouteTable};
use crate::subset::{Fallback, InLane, Subset, lane_names};
use crate::traffic_rules::Facts;

use super::Mesh;
use super::status::EndpointStatus;
use super::view::SubsetView;

/// What a call would meet.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// The routes before the one that it takes, and why it does not take them.
    pub passed: Vec<(Arc<str>, String)>,
    /// The route that it takes.
    pub route: Option<Arc<Route>>,
    /// The filters that it passes there, in order, up to the first that would refuse it.
    pub filters: Vec<Passed>,
    /// The lane that they put it into: by what is certain, not by lot.
    pub lane: Option<InLane>,
    /// Where that leads, in the route's order.
    pub destinations: Vec<Led>,
}

/// A filter that a call would pass, or be refused by.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Its name.
    pub name: Arc<str>,
    /// What kind of policy it is; "" if there is none of that name.
    pub kind: &'static str,
    /// Why it would refuse the call, as far as that does not depend on what others do.
    pub refusal: Option<Refusal>,
}

/// One destination of a route, for one call.
#[derive(Clone, Debug)]
pub struct Led {
    /// The cluster, or the service that a registry is asked for.
    pub cluster: Arc<str>,
    /// What is looked up in a registry, if anything is.
    pub lookup: Option<Lookup>,
    /// Its share of the calls.
    pub weight: u32,
    /// The labels that its endpoints must have, and what happens if none has them.
    pub subset: Option<Arc<Subset>>,
    /// Whether the cluster is there: one of a registry is when a first call asked for it.
    pub exists: bool,
    /// Whether its endpoints are known.
    pub ready: bool,
    /// Whether the registry knows the service.
    pub known: bool,
    /// The endpoints that the call may go to.
    pub chosen: Vec<EndpointStatus>,
    /// The others, and why it may not.
    pub others: Vec<(EndpointStatus, String)>,
}

/// How an attribute of the call is read.
type Attribute<'a, 'b> = &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>;

impl Mesh {
    /// What a call would meet in a table that came in by this listener.
    #[must_use]
    pub fn explain(
        &self,
        listener: &Arc<str>,
        table: &RouteTable,
        call: &Call<'_>,
        client: Option<&Identity>,
        attribute: Attribute<'_, '_>,
    ) -> Explained {
        let mut explained = Explained::default();
        for route in &table.routes {
            match route.when.why_not(call, client, attribute) {
                Some(why) => explained.passed.push((route.name.clone(), why)),
                None => {
                    let mut edits = Edits::default();
                    explained.filters =
                        self.filters(listener, route, call, client, attribute, &mut edits);
                    explained.lane = edits.placed().cloned();
                    let placed = explained.lane.as_ref();
                    explained.destinations = self.destinations(route, call, placed, attribute);
                    explained.route = Some(route.clone());
                    break;
                }
            }
        }
        explained
    }

    fn filters(
        &self,
        listener: &Arc<str>,
        route: &Route,
        call: &Call<'_>,
        client: Option<&Identity>,
        attribute: Attribute<'_, '_>,
        edits: &mut Edits,
    ) -> Vec<Passed> {
        let routing = self.routing();
        let target = Target {
            protocol: call.protocol,
            listener,
            route: &route.name,
            service: call.service,
            method: call.method,
            version: call.version,
            group: call.group,
        };
        // What is asked only for the sake of an answer is counted nowhere.
        let decisions = Arc::new(Decisions::default());
        let mut passed = Vec::new();
        for name in routing.filters_of(listener, route) {
            let filter = routing.filter(name);
            let check = filter.map_or_else(
                || Some(filter::nobody()),
                |own| own.at(&target, &decisions.of(name)),
            );
            let refusal = check.and_then(|check| {
                check.renew(&mut Asked {
                    now: self.clock.now(),
                    source: call.source,
                    client,
                    edits: &mut *edits,
                    clock: self.clock,
                    trace: TraceId::default(),
                    attributes: &mut *attribute,
                    random: &mut || 0,
                })
            });
            let is_last = refusal.is_some();
            passed.push(Passed {
                name: name.clone(),
                kind: filter.map_or("", |own| own.kind()),
                refusal,
            });
            if is_last {
                break;
            }
        }
        passed
    }

    fn destinations(
        &self,
        route: &Route,
        call: &Call<'_>,
        placed: Option<&InLane>,
        attribute: Attribute<'_, '_>,
    ) -> Vec<Led> {
        let routing = self.routing();
        match &route.to {
            Destination::Treatment => Vec::new(),
            Destination::Clusters(weighted) => weighted
                .iter()
                .map(|own| {
                    let cluster = routing.cluster(&own.cluster);
                    let mut led = Led::new(own.cluster.clone(), own.weight, own.subset.clone());
                    led.fill(self, cluster, call, placed, attribute);
                    led
                })
                .collect(),
            Destination::Registry { registry, layout } => {
                let layout = layout.as_ref().or_else(|| self.layouts.get(call.protocol));
                let lookup = Lookup {
                    registry: registry.clone(),
                    layout: layout.cloned().unwrap_or_default(),
                    service: call.service.into(),
                    version: call.version.into(),
                    group: call.group.into(),
                    protocol: call.protocol.into(),
                };
                let cluster = self.lock_looked_up().get(&lookup).cloned();
                let name = super::lookup_spec(lookup.clone(), routing.policy()).name;
                let mut led = Led::new(name, 1, None);
                led.lookup = Some(lookup);
                led.fill(self, cluster.as_ref(), call, placed, attribute);
                vec![led]
            }
        }
    }
}

/// Whether an endpoint does not stand in the lane of a call.
fn other_lane(endpoint: &Endpoint, placed: &InLane) -> bool {
    let mut names = lane_names(endpoint, &placed.label);
    match placed.lane.as_deref() {
        None => names.next().is_some(),
        Some(lane) => !names.any(|own| own == lane),
    }
}

impl Led {
    fn new(cluster: Arc<str>, weight: u32, subset: Option<Arc<Subset>>) -> Self {
        Self {
            cluster,
            lookup: None,
            weight,
            subset,
            exists: false,
            ready: false,
            known: false,
            chosen: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Sorts the endpoints of the cluster into those that the call may go to and the others.
    fn fill(
        &mut self,
        mesh: &Mesh,
        cluster: Option<&Arc<Cluster>>,
        call: &Call<'_>,
        placed: Option<&InLane>,
        attribute: Attribute<'_, '_>,
    ) {
        let Some(cluster) = cluster else { return };
        let now = mesh.clock.now();
        self.exists = true;
        let mut view = SubsetView::new(cluster.clone(), self.subset.clone());
        // Of several destinations of a framework's own rule one is drawn: here always the same.
        view.refresh(now, 0);
        self.ready = view.ready;
        self.known = view.known;
        let mut facts = Facts {
            method: call.method,
            service: call.service,
            version: call.version,
            group: call.group,
            source: call.source,
            attribute: &mut |name| attribute(name).map(Cow::into_owned),
            read: Vec::new(),
        };
        let steered = view.has_rules();
        let chosen = if steered || placed.is_some() {
            let rules = view.rule_key(&mut facts, placed, 0);
            view.members(rules, now, 0).endpoints.clone()
        } else {
            view.plain().endpoints.clone()
        };
        let measured = cluster.spec.policy.balance == Policy::PeakEwma;
        for endpoint in &cluster.endpoints().all {
            let status = EndpointStatus::of(endpoint, measured, now);
            if chosen.iter().any(|own| Arc::ptr_eq(own, endpoint)) {
                self.chosen.push(status);
                continue;
            }
            let missing = self.subset.as_ref().and_then(|subset| {
                let mut labels = subset.labels.iter();
                let missing =
                    labels.find(|(name, value)| endpoint.labels.get(*name) != Some(value));
                missing.map(|(name, value)| format!("it has no label {name}={value}"))
            });
            let why = match missing {
                _ if endpoint.weight == 0 => "its weight is 0".to_owned(),
                Some(why) => why,
                None if placed.is_some_and(|own| other_lane(endpoint, own)) => {
                    "it stands in another lane, or in none".to_owned()
                }
                None if steered => {
                    "the framework's own rules or lanes send the call elsewhere".to_owned()
                }
                None => "others have the labels that are asked for".to_owned(),
            };
            self.others.push((status, why));
        }
    }

    /// What happens to calls if no endpoint has the labels, in words.
    #[must_use]
    pub fn fallback(&self) -> Option<&'static str> {
        let subset = self.subset.as_ref()?;
        Some(match subset.fallback {
            Fallback::None => "none",
            Fallback::Any => "any",
            Fallback::Labels(_) => "labels",
        })
    }
}
