//! The port through which a registry tells core who the endpoints are.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};

/// One endpoint as its registry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the calls; 100 is usual, 0 takes none.
    pub weight: u32,
    /// Labels that subsets select by (`version`, `group`, `tag`, `lane`, ...).
    pub labels: BTreeMap<String, String>,
    /// While young, its weight grows linearly from 1 to `weight`.
    pub warm_up: Option<WarmUp>,
    /// What it asks of its callers; `None` for nothing.
    pub terms: Option<Arc<Terms>>,
}

/// What an instance's registration asks of its callers, and its framework's own clients do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Attributes that every call carries.
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// Attributes that calls carry which have none of that name.
    pub defaults: Vec<(Box<str>, Box<str>)>,
    /// The service's version ("" for none), for calls that leave theirs open.
    pub version: Option<Box<str>>,
    /// The service's group ("" for none), for calls that leave theirs open.
    pub group: Option<Box<str>>,
    /// How long calls may take whose callers do not say; `None` if it does not say either.
    pub timeout: Option<Duration>,
    /// The same of single methods.
    pub timeouts: Vec<(Box<str>, Duration)>,
}

impl Terms {
    /// How long a call of this method may take if its caller does not say.
    #[must_use]
    pub fn timeout_of(&self, method: &str) -> Option<Duration> {
        let own = self.timeouts.iter().find(|(name, _)| **name == *method);
        own.map(|(_, timeout)| *timeout).or(self.timeout)
    }
}

/// Warm-up of an instance (slow start).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// When it began to serve.
    pub since: SystemTime,
    /// How long it takes to carry its whole weight.
    pub period: Duration,
}

/// A framework's own rule that splits endpoints by an attribute of the call, such as a
/// tag: a call that has the attribute goes to endpoints with the equal label if there are any;
/// every other call goes to endpoints without the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The call's attribute.
    pub attribute: String,
    /// The endpoints' label. An endpoint in several lanes has their names in it, one a line.
    pub label: String,
    /// Lanes that rules name, whether endpoints stand in them or not; a call for one that is
    /// `true` here goes to its endpoints or nowhere.
    pub ruled: BTreeMap<String, bool>,
    /// Divides a lane's name into levels: where no rule names a lane, the longest beginning that
    /// one does name is meant.
    pub level: Option<char>,
    /// A call whose attribute of this name is `true` wants exactly its lane, or nothing.
    pub force_attribute: Option<String>,
}

/// A framework's own rules for the calls of one service, in the order in which they apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Before those of the caller.
    pub first: Vec<Arc<Rule>>,
    /// Those of the caller, if the framework knows such.
    pub callers: Option<Arc<Callers>>,
    /// After those of the caller.
    pub last: Vec<Arc<Rule>>,
}

/// Rules by who calls. All services of a registry share them; they change without a snapshot.
#[derive(Debug)]
pub struct Callers {
    /// The call's attribute that says who calls.
    pub attribute: String,
    /// The rules of each caller.
    rules: ArcSwap<ByCaller>,
}

/// The rules of each caller, in the order in which they apply.
pub type ByCaller = HashMap<String, Vec<Arc<Rule>>>;

impl Callers {
    /// Nobody's rules yet.
    #[must_use]
    pub fn new(attribute: &str) -> Self {
        Self {
            attribute: attribute.to_owned(),
            rules: ArcSwap::default(),
        }
    }

    /// The rules now.
    #[must_use]
    pub fn rules(&self) -> Guard<Arc<ByCaller>> {
        // Workers share it: a count that all of them change would make them wait for each other.
        self.rules.load()
    }

    /// Puts others in force.
    pub fn replace(&self, rules: ByCaller) {
        self.rules.store(Arc::new(rules));
    }
}

/// There is one of each registry.
impl PartialEq for Callers {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Callers {}

/// A framework's own rule that narrows down where certain calls may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which calls it is for: all of these hold.
    pub when: Vec<Condition>,
    /// Which endpoints it speaks of: all of these hold. It leaves the others as they are.
    pub among: Vec<Condition>,
    /// What is left of those to the calls: one of these that has endpoints, by weight. If there
    /// is none here, no endpoint is left.
    pub then: Vec<RuleDestination>,
    /// If no destination has endpoints, none is left; else it is as if there were no rule.
    pub force: bool,
}

/// Endpoints that a [`Rule`] sends calls to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDestination {
    /// Its share of the calls, compared with the rule's other destinations.
    pub weight: u32,
    /// The endpoints for which all of these hold.
    pub conditions: Vec<Condition>,
}

/// One condition of a [`Rule`]. It does not hold of what is not said, negated or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub subject: Subject,
    /// It must not match.
    pub negated: bool,
    /// One of these has to match.
    pub patterns: Vec<Pattern>,
}

/// What a condition looks at: the first six of a call, the others of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The method's name.
    Method,
    /// The service's name.
    Service,
    /// The service's version.
    Version,
    /// The service's group.
    Group,
    /// The caller's address.
    Source,
    /// An attribute of the call.
    Attribute(String),
    /// An endpoint's `ip:port`.
    Address,
    /// An endpoint's address without port.
    Host,
    /// An endpoint's port.
    Port,
    /// An endpoint's label.
    Label(String),
}

/// What a condition compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A text, whose last `*` stands for anything.
    Glob(String),
    /// A whole number between these two, both included; what is no number counts as 0.
    Range(i64, i64),
    /// What the call says of this subject.
    OfCall(Subject),
}

/// All endpoints of a service at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the registry knows the service at all (it may know it and have no endpoint).
    pub known: bool,
    /// The endpoints, in no particular order, no address twice.
    pub instances: Vec<Instance>,
    /// The framework's own split, if it has one.
    pub lane: Option<Lane>,
    /// The framework's own rules.
    pub rules: Rules,
    /// What keeps endpoints from being known, for whoever asks why there are none.
    pub trouble: Option<Arc<str>>,
}

/// What is looked up in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// The configured name of the registry.
    pub registry: Arc<str>,
    /// The layout's name, as the binary knows it.
    pub layout: Arc<str>,
    /// The service (interface).
    pub service: Arc<str>,
    /// Its version, "" for none.
    pub version: Arc<str>,
    /// Its group or unique id, "" for none.
    pub group: Arc<str>,
    /// What the caller speaks; "" for what is usual in the layout. Frameworks register several
    /// ways to reach one service.
    pub protocol: Arc<str>,
}

/// Where a watch delivers. Called from the control runtime.
pub trait SnapshotSink: Send + Sync + 'static {
    /// A new, complete snapshot.
    fn update(&self, snapshot: Snapshot);
}

/// Ends the watch when dropped.
pub type WatchGuard = Box<dyn Send + Sync>;

/// A source of endpoints.
pub trait Discovery: Send + Sync + 'static {
    /// Keeps `sink` up to date on `lookup` until the guard is dropped. Must not block: the first
    /// snapshot arrives when it is known, and a registry that is down delivers none (the last
    /// one stays in force).
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn SnapshotSink>) -> WatchGuard;
}
