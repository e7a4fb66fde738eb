//! Where frameworks keep a service in a tree, and how they write an instance.

mod dubbo;
mod sofa;
mod url;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_core::discovery::{Instance, Lane, Lookup, Snapshot, WarmUp};

use url::Url;

/// Parameters of an entry that become labels, and the labels' names.
const LABELS: &[(&str, &str)] = &[
    ("version", "version"),
    ("group", "group"),
    ("dubbo.tag", "tag"),
    ("application", "application"),
    ("appName", "application"),
    ("uniqueId", "uniqueId"),
    ("release", "release"),
    ("region", "region"),
    ("zone", "zone"),
    ("env", "env"),
    ("lane", "lane"),
];
/// The longest value that becomes a label, in bytes.
const MAX_LABEL: usize = 256;
/// The weight of an entry that states none, in every framework so far.
const WEIGHT: u32 = 100;

/// A framework's way to keep services in a tree whose leaves' names are the instances.
pub(crate) trait Layout: Sync {
    /// The node whose children are the instances of a service.
    fn path(&self, lookup: &Lookup) -> String;

    /// Whether an entry is an instance of what is looked up, open for calls.
    fn admits(&self, lookup: &Lookup, entry: &Url) -> bool;

    /// The entry's warm-up.
    fn warm_up(&self, entry: &Url) -> Option<WarmUp>;

    /// The framework's own split of instances.
    fn lane(&self) -> Option<Lane>;
}

/// The layout of this name, if there is one for trees.
pub(crate) fn named(name: &str) -> Option<&'static dyn Layout> {
    match name {
        "dubbo" => Some(&dubbo::Dubbo),
        "sofa" => Some(&sofa::Sofa),
        _ => None,
    }
}

/// What the children of a service's node say. One that cannot be read costs itself and a log
/// line, never the service.
pub(crate) async fn snapshot(
    layout: &dyn Layout,
    lookup: &Lookup,
    children: &[String],
) -> Snapshot {
    let mut instances: BTreeMap<SocketAddr, Instance> = BTreeMap::new();
    let mut unreadable = 0_usize;
    for child in children {
        let Some(entry) = Url::decode(child) else {
            unreadable += 1;
            continue;
        };
        if !layout.admits(lookup, &entry) {
            continue;
        }
        let Some(address) = resolve(&entry).await else {
            unreadable += 1;
            continue;
        };
        let instance = Instance {
            address,
            weight: entry.number("weight").unwrap_or(WEIGHT),
            labels: labels(&entry),
            warm_up: layout.warm_up(&entry),
        };
        // A restarted provider may stand there twice until its old session ends: the younger
        // entry counts.
        match instances.get(&address) {
            Some(other) if since(other) > since(&instance) => {}
            _ => {
                instances.insert(address, instance);
            }
        }
    }
    if unreadable > 0 {
        tracing::warn!(service = %lookup.service, unreadable, "entries that cannot be read were left out");
    }
    Snapshot {
        known: true,
        instances: instances.into_values().collect(),
        lane: layout.lane(),
    }
}

fn since(instance: &Instance) -> Option<SystemTime> {
    instance.warm_up.map(|warm_up| warm_up.since)
}

async fn resolve(entry: &Url) -> Option<SocketAddr> {
    if let Ok(ip) = entry.host.parse() {
        return Some(SocketAddr::new(ip, entry.port));
    }
    let found = tokio::net::lookup_host((entry.host.as_str(), entry.port)).await;
    found.ok()?.next()
}

fn labels(entry: &Url) -> BTreeMap<String, String> {
    LABELS
        .iter()
        .filter_map(|(parameter, label)| {
            let value = entry.get(parameter)?;
            (!value.is_empty() && value.len() <= MAX_LABEL)
                .then(|| ((*label).to_owned(), value.to_owned()))
        })
        .collect()
}

/// A warm-up that began at `since` and takes `period`, both in milliseconds.
fn warm_up(since: Option<u64>, period: Option<u64>) -> Option<WarmUp> {
    let since = UNIX_EPOCH.checked_add(Duration::from_millis(since?))?;
    let period = Duration::from_millis(period.filter(|millis| *millis > 0)?);
    Some(WarmUp { since, period })
}

#[cfg(test)]
mod tests;
