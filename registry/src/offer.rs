//! What a registry offers of a service: its providers, before a call chooses among them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use finback_core::discovery::{Instance, Lane, Lookup, Rule, Snapshot, Terms, WarmUp};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::layout::terms::terms;
use crate::texts::Texts;

/// The weight of a provider that states none, in every framework so far.
pub(crate) const WEIGHT: u32 = 100;

/// One provider of a service as its registry describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    /// The layout in which it was found.
    pub layout: Layout,
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
    /// The providers, in order of address, version and group.
    pub providers: Vec<Provider>,
    /// The framework's own split.
    pub lane: Option<Lane>,
    /// The framework's own rules.
    pub rules: Vec<Rule>,
}

impl Offer {
    /// An offer of these providers, each address once per version and group: a restarted provider
    /// may stand there twice until its old session ends, and the younger entry counts.
    pub(crate) fn new(layout: Layout, known: bool, providers: Vec<Provider>) -> Self {
        let mut chosen: BTreeMap<(SocketAddr, String, String), Provider> = BTreeMap::new();
        for provider in providers {
            let key = (
                provider.address,
                provider.version.clone(),
                provider.group.clone(),
            );
            match chosen.get(&key) {
                Some(other) if other.since > provider.since => {}
                _ => {
                    chosen.insert(key, provider);
                }
            }
        }
        Self {
            known,
            providers: chosen.into_values().collect(),
            lane: layout.lane(),
            rules: Vec::new(),
        }
    }

    /// What a lookup finds in it.
    pub(crate) fn snapshot(&self, layout: Layout, lookup: &Lookup) -> Snapshot {
        let mut instances: BTreeMap<SocketAddr, Instance> = BTreeMap::new();
        // Most providers of a service ask for the same: they share it.
        let mut last: Option<Arc<Terms>> = None;
        for provider in &self.providers {
            if layout.serves(lookup, provider) {
                instances.entry(provider.address).or_insert_with(|| {
                    let terms = terms(layout, lookup, provider);
                    if last.as_deref() != terms.as_ref() {
                        last = terms.map(Arc::new);
                    }
                    provider.instance(last.clone())
                });
            }
        }
        Snapshot {
            known: self.known,
            instances: instances.into_values().collect(),
            lane: self.lane.clone(),
            rules: self.rules.clone(),
        }
    }
}

impl Provider {
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
