//! Routing: which route a call takes. Ordered rules over its metadata, the first match wins.

mod cidr;
mod text;
mod treatment;
mod why;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::concurrency::Priority;
use crate::identity::{self, Identity};
use crate::rng::{Share, below};
use crate::subset::Subset;
use crate::tap::Tap;
use crate::trace::Choice;

pub use cidr::{Cidr, CidrError};
pub use text::Text;
pub use treatment::{ForeignPolicy, RoutePolicy, Treatment};

/// Conditions on a call, all of which must hold. The default matches every call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// The protocol's name.
    pub protocol: Text,
    /// The service.
    pub service: Text,
    /// The method.
    pub method: Text,
    /// The service's version; a call without one has the version "".
    pub version: Text,
    /// The service's group; a call without one has the group "".
    pub group: Text,
    /// Attributes by name. A call that lacks the attribute fails the condition, whatever the
    /// text: [`Text::Any`] asks for the attribute with any value.
    pub attributes: Vec<(String, Text)>,
    /// The kind and the text of a name in the client's certificate; a client without a name of that
    /// kind fails the condition.
    pub identity: Option<(identity::IdentityKind, Text)>,
    /// Networks, one of which the caller's address must be in; empty = any address.
    pub sources: Vec<Cidr>,
}

/// One rule of a route table.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name, for metrics and logs.
    pub name: Arc<str>,
    /// The calls that take it.
    pub when: Match,
    /// Where they go.
    pub to: Destination,
    /// Bounds the caller's own deadline, and stands in for a missing one.
    pub timeout: Option<Duration>,
    /// How often they are tried.
    pub retry: Retry,
    /// Which of them are shed first where a cluster's concurrency is limited.
    pub priority: Priority,
    /// They wait for something to happen: how long they take says nothing of their endpoint's load.
    pub long_poll: bool,
    /// Which of them are traced, where that is not as for all calls.
    pub tracing: Option<Choice>,
    /// The filters that they pass, by name and in order, after those of their listener.
    pub filters: Arc<[Arc<str>]>,
    /// Which of them are copied to another cluster; `None` = none.
    pub shadow: Option<Arc<Shadow>>,
    /// Who is told of those that are framed; `None` = nobody.
    pub tap: Option<Arc<dyn Tap>>,
    /// What a protocol does with these calls beyond routing them. Calls of protocols that it is not for are
    /// refused.
    pub treatment: Option<Treatment>,
}

/// Copies of calls that go to another cluster, and whose answers nobody hears.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// The name of the route table that copies take.
    pub table: Arc<str>,
    /// Which calls are copied.
    pub share: Share,
    /// What tells copies from other calls.
    pub marks: Arc<[Mark]>,
}

/// What is written into a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The protocol whose copies are marked so; `None` = all.
    pub protocol: Option<Arc<str>>,
    /// The attribute.
    pub name: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
    /// Whether the value stands behind what the attribute has, as one of its own pairs.
    pub appends: bool,
}

/// Where the calls of a route go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Nowhere: the protocol that the route's treatment is made for answers itself. Calls of other
    /// protocols are refused.
    Treatment,
    /// To configured clusters, by weight.
    Clusters(Vec<Weighted>),
    /// To the endpoints that a registry knows for the call's own service.
    Registry {
        /// The configured name of the registry.
        registry: Arc<str>,
        /// The layout to look the service up in; `None` = the protocol's own.
        layout: Option<Arc<str>>,
    },
}

/// One of several destinations of a route.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// The cluster.
    pub cluster: Arc<str>,
    /// Its share of the calls, in relation to its siblings'; 0 gets exactly nothing.
    pub weight: u32,
    /// The endpoints of the cluster to use; `None` = all.
    pub subset: Option<Arc<Subset>>,
    /// While it has no endpoints, its siblings take its share of the calls.
    pub spill: bool,
}

/// How often a call is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; 0 counts as 1. Default: 2.
    pub attempts: u32,
    /// Whether a call that may have reached an endpoint may be sent again. Default: no.
    pub idempotent: bool,
    /// Whether a call that an endpoint answered by refusing to begin it may be sent again.
    /// Default: no.
    pub refused: bool,
    /// Bounds each attempt within the call's deadline; `None` = no bound of its own.
    pub per_try_timeout: Option<Duration>,
    /// How long an attempt may take before another is made beside it, where calls are idempotent; `None` = attempts
    /// follow each other.
    pub hedging_delay: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            idempotent: false,
            refused: false,
            per_try_timeout: None,
            hedging_delay: None,
        }
    }
}

/// Routes in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// The name by which listeners refer to it.
    pub name: Arc<str>,
    /// The routes; the first that matches a call takes it.
    pub routes: Vec<Arc<Route>>,
}

/// What routing sees of a call, its attributes aside.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The protocol's name.
    pub protocol: &'a str,
    /// The service.
    pub service: &'a str,
    /// The method.
    pub method: &'a str,
    /// The service's version, "" for none.
    pub version: &'a str,
    /// The service's group, "" for none.
    pub group: &'a str,
    /// The caller's address.
    pub source: IpAddr,
}

impl Match {
    /// Whether all conditions but those on attributes and identity hold.
    fn holds(&self, call: &Call<'_>) -> bool {
        self.names(call) && self.is_from(call.source)
    }

    /// Whether the conditions on names hold: they do, or do not, for all calls of a kind.
    pub(crate) fn names(&self, call: &Call<'_>) -> bool {
        self.protocol.matches(call.protocol)
            && self.service.matches(call.service)
            && self.method.matches(call.method)
            && self.version.matches(call.version)
            && self.group.matches(call.group)
    }

    /// Whether a caller's address is one of those that are asked for.
    pub(crate) fn is_from(&self, source: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|own| own.contains(source))
    }

    /// Whether nothing but what is equal for all calls of a kind is asked for.
    fn is_certain(&self) -> bool {
        self.attributes.is_empty() && self.identity.is_none()
    }

    /// Whether the client is who is asked for.
    pub(crate) fn identifies(&self, client: Option<&Identity>) -> bool {
        match &self.identity {
            None => true,
            Some((kind, text)) => {
                client.is_some_and(|client| client.any(*kind, |name| text.matches(name)))
            }
        }
    }
}

impl Route {
    /// Whether something is done with its calls besides: they are copied, or somebody is told of them.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        self.shadow.is_some() || self.tap.is_some()
    }
}

impl RouteTable {
    /// The routes that a call like this may take, depending on its attributes and its client. They are the
    /// same for all calls with an equal [`Call`], and so worth keeping.
    #[must_use]
    pub fn candidates(&self, call: &Call<'_>) -> Candidates {
        let mut routes = Vec::new();
        for route in self.routes.iter().filter(|route| route.when.holds(call)) {
            routes.push(route.clone());
            if route.when.is_certain() {
                break;
            }
        }
        Candidates(routes)
    }

    /// Whether the caller's address plays a part in this table.
    #[must_use]
    pub fn matches_on_source(&self) -> bool {
        self.routes
            .iter()
            .any(|route| !route.when.sources.is_empty())
    }
}

/// The routes that calls of one kind may take; of these, only the last may be without
/// conditions on attributes and identity. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Candidates(Vec<Arc<Route>>);

impl Candidates {
    /// The routes, in order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.0
    }

    /// The number of the first route whose conditions on identity and attributes hold, too.
    /// `attribute` reads an attribute of the call; it is not called if the first route asks for none.
    pub fn select<'a>(
        &self,
        client: Option<&Identity>,
        attribute: &mut dyn FnMut(&str) -> Option<Cow<'a, str>>,
    ) -> Option<usize> {
        // Reading may mean a scan of the frame, and neighbouring routes mostly ask for the
        // same attribute (a lane's `gray`, `blue`, ...): the last value read is kept.
        let mut last: Option<(&str, Option<Cow<'a, str>>)> = None;
        let mut holds = |name, text: &Text| {
            if last.as_ref().is_none_or(|(read, _)| *read != name) {
                last = Some((name, attribute(name)));
            }
            let value = last.as_ref().and_then(|(_, value)| value.as_deref());
            value.is_some_and(|value| text.matches(value))
        };
        self.0.iter().position(|route| {
            let mut attributes = route.when.attributes.iter();
            route.when.identifies(client)
                && attributes.all(|(name, text)| holds(name.as_str(), text))
        })
    }
}

/// Chooses a destination by weight from a uniform draw; `None` if there is none with a weight.
/// A destination of weight 0 is never chosen, and no other is favoured by more than the total
/// weight / 2^64.
#[must_use]
pub fn choose(destinations: &[Weighted], random: u64) -> Option<usize> {
    choose_but(&[], destinations, random)
}

/// The same among those whose numbers are not in `without`.
#[must_use]
pub fn choose_but(without: &[u32], destinations: &[Weighted], random: u64) -> Option<usize> {
    let weight_of = |number: usize, each: &Weighted| {
        let is_out = without.iter().any(|own| *own as usize == number);
        if is_out { 0 } else { u64::from(each.weight) }
    };
    let weights = destinations.iter().enumerate();
    let total: u64 = weights.map(|(number, each)| weight_of(number, each)).sum();
    let mut left = below(random, total);
    destinations.iter().enumerate().position(|(number, each)| {
        let weight = weight_of(number, each);
        if left < weight {
            return true;
        }
        left -= weight;
        false
    })
}

#[cfg(test)]
mod tests;
