//! The offer of a registry for a service: its providers, before a call chooses among them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use finback_core::discovery::{
    Callers, Instance, Lane, Lookup, Rule, Rules, Snapshot, Subject, Terms, WarmUp,
};
use finback_core::traffic_rules::is_glob;
use serde::{Deserialize, Serialize};

use crate::layout::rules::NodeRule;
use crate::layout::{Fit, LayoutKind};
use crate::texts::Texts;

/// The weight of a provider that states none, in every framework so far.
pub(crate) const WEIGHT: u32 = 100;

/// One provider of a service as its registry describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    /// The layout in which it was found.
    pub layout: LayoutKind,
    /// What it speaks, as the framework calls it.
    pub protocol: String,
    /// The service's version; "" for none.
    pub version: String,
    /// The service's group or unique id; "" for none.
    pub group: String,
    /// Its share of the calls; 0 takes none.
    pub weight: u32,
    /// Labels that subsets select by.
    pub labels: Texts,
    /// Since when it serves, in milliseconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// How long it warms up, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<u64>,
    /// The registry that a bridge brought it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Everything else that it says of itself.
    #[serde(default, skip_serializing_if = "Texts::is_empty")]
    pub parameters: Texts,
}

/// All providers of a service at one moment, of every version and group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Whether the registry knows the service at all.
    pub known: bool,
    /// The providers, in order of address, version, group and protocol.
    pub providers: Vec<Arc<Provider>>,
    /// The framework's own split.
    pub lane: Option<Lane>,
    /// The framework's own rules.
    pub rules: CallRules,
}

/// The framework's own rules that are decided call by call, in the order in which they apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRules {
    /// For calls of exactly this version and group.
    pub(crate) of_services: Vec<(String, String, Arc<Rule>)>,
    /// For all calls to the applications that provide the service.
    pub(crate) of_providers: Vec<Arc<Rule>>,
    /// By the application that calls.
    pub(crate) callers: Option<Arc<Callers>>,
    /// Those in the older form.
    pub(crate) nodes: Vec<NodeRule>,
}

impl CallRules {
    /// Those that can be for calls of this lookup.
    fn of(&self, lookup: &Lookup) -> Rules {
        let plain = |text: &str| if text == "0.0.0" { "" } else { text }.to_owned();
        let version = plain(&lookup.version);
        let of_services = self.of_services.iter().filter_map(|(own, group, rule)| {
            (*own == version && **group == *lookup.group).then_some(rule)
        });
        let mut rules: Vec<_> = of_services.chain(&self.of_providers).cloned().collect();
        rules.retain(|rule| can_be_for(rule, lookup));
        let nodes = self.nodes.iter().filter(|own| own.is_for(lookup));
        Rules {
            first: rules,
            callers: self.callers.clone(),
            last: nodes.map(|own| own.rule().clone()).collect(),
        }
    }
}

/// Whether what a rule asks of the service allows this one.
fn can_be_for(rule: &Rule, lookup: &Lookup) -> bool {
    rule.when.iter().all(|condition| {
        let value = match &condition.subject {
            Subject::Service => &lookup.service,
            Subject::Version => &lookup.version,
            Subject::Group => &lookup.group,
            _ => return true,
        };
        let fits = |pattern: &finback_core::discovery::Pattern| match pattern {
            finback_core::discovery::Pattern::Glob(glob) => is_glob(glob, value),
            _ => !condition.negated,
        };
        condition.patterns.iter().any(fits) != condition.negated
    })
}

impl Offer {
    /// An offer of these providers, each address once per version, group and protocol: a restarted
    /// provider may stand there twice until its old session ends, and the younger entry counts.
    pub(crate) fn new(layout: LayoutKind, known: bool, mut providers: Vec<Arc<Provider>>) -> Self {
        // Nearly always they come nearly in order.
        providers.sort_by(|a, b| a.place().cmp(&b.place()).then(b.since.cmp(&a.since)));
        providers.dedup_by(|next, first| {
            let is_same = next.place() == first.place();
            if is_same && next.since == first.since {
                // Of two as young as each other the one that comes later counts.
                std::mem::swap(next, first);
            }
            is_same
        });
        Self {
            known,
            providers,
            lane: (layout.conventions().lane)(),
            rules: CallRules::default(),
        }
    }

    /// What a lookup finds in it.
    pub(crate) fn snapshot(&self, layout: LayoutKind, lookup: &Lookup) -> Snapshot {
        let layout = layout.layout();
        let mut instances: BTreeMap<SocketAddr, (bool, Instance)> = BTreeMap::new();
        // Most providers of a service ask for the same: they share it.
        let mut last: Option<Arc<Terms>> = None;
        for provider in &self.providers {
            if let Some(fit) = layout.fit(lookup, provider) {
                // One that says of itself that it also speaks the protocol gives way to one that is
                // registered for it.
                let is_exact = fit == Fit::Exact;
                let known = instances.get(&provider.address);
                if known.is_none_or(|(was_exact, _)| is_exact && !was_exact) {
                    let terms = layout.terms(lookup, provider);
                    if last.as_deref() != terms.as_ref() {
                        last = terms.map(Arc::new);
                    }
                    let instance = provider.instance(last.clone());
                    instances.insert(provider.address, (is_exact, instance));
                }
            }
        }
        Snapshot {
            known: self.known,
            instances: instances.into_values().map(|(_, own)| own).collect(),
            lane: self.lane.clone(),
            rules: self.rules.of(lookup),
            trouble: None,
        }
    }
}

impl Provider {
    /// What tells it from others of its service.
    fn place(&self) -> (SocketAddr, &str, &str, &str) {
        let Self {
            version,
            group,
            protocol,
            ..
        } = self;
        (self.address, version, group, protocol)
    }

    fn instance(&self, terms: Option<Arc<Terms>>) -> Instance {
        Instance {
            address: self.address,
            weight: self.weight,
            labels: self.labels.to_map(),
            warm_up: self.warm_up_of(),
            terms,
        }
    }

    fn warm_up_of(&self) -> Option<WarmUp> {
        let since = UNIX_EPOCH.checked_add(Duration::from_millis(self.since?))?;
        let period = Duration::from_millis(self.warm_up.filter(|millis| *millis > 0)?);
        Some(WarmUp { since, period })
    }
}
