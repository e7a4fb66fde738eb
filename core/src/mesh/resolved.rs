//! Route cache: what all calls to one service and method through one listener share, resolved once and remembered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::codec::Unambiguous;
use crate::filter::{self, Placed};
use crate::frame::Metadata;
use crate::record::{Record, Series, SeriesKey};
use crate::rejection::Rejection;
use crate::route::{Call, Candidates, Destination, Route, Text};
use crate::trace::Called;

use super::hits::Counts;
use super::local::LocalMesh;
use super::origin::Origin;
use super::traced::Tracing;
use super::view::SubsetView;
use super::{Mesh, Routing};

/// Resolved calls that one connection remembers.
const PER_CONNECTION: usize = 16;
/// Resolved calls that one worker remembers.
const PER_WORKER: usize = 16_384;
/// Bytes of the names of these resolved calls, at most.
const BYTES: usize = 8 * 1024 * 1024;

/// The key of the route cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) service: Box<str>,
    pub(crate) method: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) group: Box<str>,
    /// Only where a route of the table asks for it.
    source: Option<IpAddr>,
    listener: u64,
    protocol: &'static str,
}

impl CallKey {
    /// What its names take in memory.
    fn bytes(&self) -> usize {
        self.service.len() + self.method.len() + self.version.len() + self.group.len()
    }
}

/// What calls with the same key share: routes, series, and the views that they went to.
pub(crate) struct ResolvedCall {
    pub(crate) key: Rc<CallKey>,
    pub(crate) epoch: u64,
    pub(crate) protocol: &'static str,
    pub(crate) origin: Rc<Origin>,
    series: RefCell<Arc<dyn Series>>,
    /// A route or a registry knows the service, or somebody serves it.
    known: Cell<bool>,
    /// There is no room for a series of its own.
    full: Cell<bool>,
    mesh: Arc<Mesh>,
    worker: usize,
    pub(crate) candidates: Candidates,
    /// How often each of them is taken.
    pub(crate) hits: Counts,
    /// Its calls leave the version, or the group, open.
    pub(crate) open: (bool, bool),
    targets: RefCell<Vec<Resolved>>,
    /// How its calls are traced, if they are.
    pub(crate) tracing: Option<Tracing>,
    /// No filter, shadow or tap has to do with its calls.
    pub(super) is_plain: bool,
    /// What filters do with them, by route; empty if none does anything.
    checks: Box<[Rc<[Placed]>]>,
    /// The last of them that was found to say one thing.
    pub(super) unambiguous: RefCell<Unambiguous>,
}

/// Whether a call's version or group stands for several: any, or those of a list.
fn is_open(text: &str) -> bool {
    text == "*" || text.contains(',')
}

/// Whether two texts are equal, without comparing the bytes of empty ones: those point nowhere, and
/// a vectorized comparison that masks out loads from there takes a slow path in the processor.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

struct Resolved {
    route: usize,
    destination: usize,
    view: Rc<RefCell<SubsetView>>,
}

impl ResolvedCall {
    fn is_for(&self, protocol: &'static str, source: IpAddr, metadata: &Metadata<'_>) -> bool {
        // One connection may carry several protocols, and routes tell them apart.
        (std::ptr::eq(self.protocol, protocol) || self.protocol == protocol)
            && same(&self.key.service, &metadata.service)
            && same(&self.key.method, &metadata.method)
            && same(&self.key.version, &metadata.version)
            && same(&self.key.group, &metadata.group)
            && self.key.source.is_none_or(|own| own == source)
    }

    /// Where records of its calls go.
    pub(crate) fn series(&self) -> Arc<dyn Series> {
        self.series.borrow().clone()
    }

    /// Takes one record.
    pub(crate) fn record(&self, record: &Record<'_>) {
        self.series.borrow().record(record);
    }

    /// The service is one that really is: it has a series of its own from now on. Names that callers
    /// merely write have none, since there is no end of them.
    pub(crate) fn learn(&self) {
        if !self.known.replace(true) {
            let series = series(&self.mesh, self.worker, &self.key, &self.origin, true);
            self.series.replace(series);
        }
    }

    /// The service answered: it has a series of its own if there is room for it.
    pub(crate) fn answered(&self) {
        if !self.known.get() && !self.full.get() {
            if learned(&self.mesh, &self.origin, &self.key, true) {
                self.learn();
            } else {
                self.full.set(true);
            }
        }
    }

    /// What filters do with calls that take this route, if they do anything.
    #[inline]
    pub(super) fn checks_of(&self, route: Option<u32>) -> Option<&Rc<[Placed]>> {
        if self.is_plain {
            return None;
        }
        let checks = self.checks.get(route? as usize);
        checks.filter(|own| !own.is_empty())
    }

    /// The same as configured now, which may be later than when it was resolved. Where a filter of `former` is
    /// gone, it stays as it was.
    pub(crate) fn checks_now(
        &self,
        local: &LocalMesh,
        route: &Arc<Route>,
        former: &[Placed],
    ) -> Rc<[Placed]> {
        let names = Names {
            protocol: self.protocol,
            key: &self.key,
            listener: &self.origin.name,
        };
        let routing = self.origin.routing(&local.routing());
        // The route of now, if there still is one of its name.
        let table = routing.table(&self.origin.table);
        let again = table.and_then(|own| own.routes.iter().find(|own| own.name == route.name));
        names.checks(local.mesh(), &routing, again.unwrap_or(route), former)
    }

    /// The candidate route of this number.
    pub(crate) fn route(&self, number: usize) -> &Arc<Route> {
        &self.candidates.routes()[number]
    }

    /// The view that one destination of a route leads to.
    pub(crate) fn view(
        &self,
        local: &LocalMesh,
        route: usize,
        destination: usize,
    ) -> Result<Rc<RefCell<SubsetView>>, Rejection> {
        let mut targets = self.targets.borrow_mut();
        let known = targets
            .iter()
            .find(|t| t.route == route && t.destination == destination);
        if let Some(target) = known {
            return Ok(target.view.clone());
        }
        let (cluster, subset) = match &self.route(route).to {
            Destination::Clusters(weighted) => {
                let chosen = weighted.get(destination).ok_or(Rejection::NoEndpoint)?;
                // The routing that its connections came with knows these clusters.
                let routing = self.origin.routing(&local.routing());
                let cluster = routing
                    .cluster(&chosen.cluster)
                    .ok_or(Rejection::NoEndpoint)?;
                (cluster.clone(), chosen.subset.as_ref())
            }
            Destination::Treatment => return Err(Rejection::Denied),
            Destination::Registry { registry, layout } => {
                let found =
                    local
                        .mesh()
                        .look_up(registry, layout.as_ref(), self.protocol, &self.key);
                (found?, None)
            }
        };
        let view = local.view(&cluster, subset);
        targets.push(Resolved {
            route,
            destination,
            view: view.clone(),
        });
        Ok(view)
    }

    /// Lets go of where one destination of a route leads: nobody serves it.
    pub(crate) fn forget(&self, route: usize, destination: usize) {
        let mut targets = self.targets.borrow_mut();
        targets.retain(|own| (own.route, own.destination) != (route, destination));
    }
}

/// The resolved calls that one connection used last.
#[derive(Default)]
pub(crate) struct RouteCache(Vec<Rc<ResolvedCall>>);

impl RouteCache {
    /// The resolved call of a call. Mostly the same as for the call before: four comparisons.
    pub(crate) fn find(
        &mut self,
        local: &LocalMesh,
        origin: &Rc<Origin>,
        protocol: &'static str,
        source: IpAddr,
        metadata: &Metadata<'_>,
    ) -> Rc<ResolvedCall> {
        let epoch = local.epoch();
        let found = self
            .0
            .iter()
            .position(|resolved| resolved.is_for(protocol, source, metadata));
        if let Some(at) = found {
            if self.0[at].epoch == epoch {
                if at > 0 {
                    self.0.swap(at, at - 1);
                    return self.0[at - 1].clone();
                }
                return self.0[0].clone();
            }
            self.0.clear();
        }
        let resolved = local.resolve(origin, protocol, source, metadata);
        if self.0.len() >= PER_CONNECTION {
            self.0.pop();
        }
        self.0.push(resolved.clone());
        resolved
    }
}

/// All resolved calls of one local.
#[derive(Default)]
pub(crate) struct ResolvedCalls {
    calls: HashMap<Rc<CallKey>, Rc<ResolvedCall>>,
    /// What their names take.
    bytes: usize,
}

impl ResolvedCalls {
    pub(crate) fn of(
        &mut self,
        local: &LocalMesh,
        origin: &Rc<Origin>,
        protocol: &'static str,
        source: IpAddr,
        metadata: &Metadata<'_>,
    ) -> Rc<ResolvedCall> {
        let epoch = local.epoch();
        let routing = origin.routing(&local.routing());
        let table = routing.table(&origin.table);
        let by_source = table.is_some_and(|table| table.matches_on_source());
        let key = CallKey {
            service: metadata.service.as_ref().into(),
            method: metadata.method.as_ref().into(),
            version: metadata.version.as_ref().into(),
            group: metadata.group.as_ref().into(),
            source: by_source.then_some(source),
            listener: origin.id,
            protocol,
        };
        if let Some(resolved) = self.calls.get(&key)
            && resolved.epoch == epoch
        {
            return resolved.clone();
        }
        let call = Call {
            protocol,
            service: &key.service,
            method: &key.method,
            version: &key.version,
            group: &key.group,
            source,
        };
        let candidates = table.map_or_else(Candidates::default, |table| table.candidates(&call));
        let known = metadata.own
            || key.service.is_empty()
            || candidates.routes().iter().any(
                |route| matches!(&route.when.service, Text::Exact(name) if **name == *key.service),
            );
        let known = known || learned(local.mesh(), origin, &key, false);
        let key = Rc::new(key);
        let names = Names {
            protocol,
            key: &key,
            listener: &origin.name,
        };
        let checks_of = |route| names.checks(local.mesh(), &routing, route, &[]);
        let checks: Vec<Rc<[Placed]>> = candidates.routes().iter().map(checks_of).collect();
        let checks: Box<[Rc<[Placed]>]> = match checks.iter().all(|own| own.is_empty()) {
            true => Box::default(),
            false => checks.into(),
        };
        let mut routes = candidates.routes().iter();
        let is_plain = checks.is_empty() && routes.all(|route| !route.is_copied());
        let called = Called {
            protocol,
            listener: &origin.name,
            service: &key.service,
            method: &key.method,
            version: &key.version,
            group: &key.group,
        };
        let resolved = Rc::new(ResolvedCall {
            tracing: Tracing::of(local, &called, candidates.routes()),
            open: (is_open(&key.version), is_open(&key.group)),
            key: key.clone(),
            epoch,
            protocol,
            origin: origin.clone(),
            series: RefCell::new(series(local.mesh(), local.index(), &key, origin, known)),
            known: Cell::new(known),
            full: Cell::new(false),
            mesh: local.mesh().clone(),
            worker: local.index(),
            hits: {
                let routes = candidates.routes().iter().map(|route| &route.name);
                let hits = &local.mesh().hits;
                hits.of(local.index(), &origin.table, routes)
            },
            candidates,
            targets: RefCell::default(),
            is_plain,
            checks,
            unambiguous: RefCell::default(),
        });
        self.bytes += key.bytes();
        if self.calls.len() >= PER_WORKER || self.bytes > BYTES {
            self.calls.clear();
            self.bytes = key.bytes();
        }
        self.calls.insert(key, resolved.clone());
        resolved
    }

    /// Lets go of resolved calls that no connection remembers.
    pub(crate) fn forget_unused(&mut self) {
        self.calls
            .retain(|_, resolved| Rc::strong_count(resolved) > 1);
        self.bytes = self.calls.keys().map(|key| key.bytes()).sum();
    }
}

/// What filters are asked about.
struct Names<'a> {
    protocol: &'static str,
    key: &'a CallKey,
    listener: &'a Arc<str>,
}

impl Names<'_> {
    /// What the filters of a route do with its calls.
    fn checks(
        &self,
        mesh: &Mesh,
        routing: &Routing,
        route: &Arc<Route>,
        former: &[Placed],
    ) -> Rc<[Placed]> {
        let target = filter::Target {
            protocol: self.protocol,
            listener: self.listener,
            route: &route.name,
            service: &self.key.service,
            method: &self.key.method,
            version: &self.key.version,
            group: &self.key.group,
        };
        let names = routing.filters_of(self.listener, route);
        let checks = names.filter_map(|name| {
            let tally = mesh.decisions.of(name);
            // Whoever names a filter that is not there asks for something that nobody can do.
            let check = match routing.filter(name) {
                Some(filter) => filter.at(&target, &tally)?,
                None => match former.iter().find(|own| own.name == *name) {
                    Some(own) => own.check.clone(),
                    None => filter::nobody(),
                },
            };
            Some(Placed {
                name: name.clone(),
                check,
            })
        });
        checks.collect()
    }
}

fn learned(mesh: &Mesh, origin: &Origin, key: &CallKey, answered: bool) -> bool {
    let learned = &mesh.learned;
    learned.learn(
        &origin.name,
        key.protocol,
        &key.service,
        &key.method,
        answered,
    )
}

fn series(
    mesh: &Mesh,
    worker: usize,
    key: &CallKey,
    origin: &Origin,
    known: bool,
) -> Arc<dyn Series> {
    let key = SeriesKey {
        protocol: key.protocol,
        known,
        listener: origin.name.clone(),
        service: key.service.as_ref().into(),
        method: key.method.as_ref().into(),
    };
    mesh.observer.series(worker, &key)
}
