//! Our own layout, for services without a framework: `/finback/services/{service}/{id}` with
//! JSON.

use std::collections::BTreeMap;

use finback_core::discovery::Lookup;
use serde::{Deserialize, Serialize};

use super::draft::Read;
use super::write::{Entry, WriteTo, Written};
use super::{
    Conventions, Draft, EntryReader, Fit, Layout, LayoutKind, ORIGIN, Reader, Roots, ServiceQuery,
    provider, url,
};
use crate::offer::Provider;
use crate::store::Query;

/// The layout of those who have no framework.
pub(super) struct Native;

impl Layout for Native {
    fn conventions(&self) -> &'static Conventions {
        &Conventions::PLAIN
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.native
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        let path = providers(service.roots, service.service);
        EntryReader::follow(service, Query::Entries(path.into()), read)
    }

    fn fit(&self, lookup: &Lookup, provider: &Provider) -> Option<Fit> {
        let serves = |own: &str, wanted: &str| own.is_empty() || own == wanted;
        let is_same =
            serves(&provider.version, &lookup.version) && serves(&provider.group, &lookup.group);
        is_same.then_some(Fit::Also)
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, _: &[Entry]) -> Written {
        write(to.roots, entry)
    }
}

/// Where the providers of a service are.
fn providers(roots: &Roots, service: &str) -> String {
    format!("{}/{service}", roots.native)
}

/// A provider as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NativeProvider {
    /// `host:port`.
    address: String,
    #[serde(default = "any", skip_serializing_if = "String::is_empty")]
    protocol: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    /// Milliseconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warm_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

fn any() -> String {
    String::new()
}

/// The provider that an entry describes.
pub(super) fn read(_: &str, value: &[u8]) -> Read {
    if value.is_empty() {
        return Some(None);
    }
    let written: NativeProvider = serde_json::from_slice(value).ok()?;
    let (host, port) = written.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let origin = written.origin.map(|origin| (ORIGIN.to_owned(), origin));
    let mut provider = provider(
        LayoutKind::Native,
        &written.protocol,
        origin.into_iter().collect(),
    );
    provider.version = written.version;
    provider.group = written.group;
    provider.weight = written.weight.unwrap_or(crate::offer::WEIGHT);
    provider.labels = written.labels.into();
    provider.since = written.since;
    provider.warm_up = written.warm_up;
    Some(Some(Draft::new(host, port, provider)))
}

/// As we write it ourselves.
fn write(roots: &Roots, entry: &Entry) -> Written {
    let written = NativeProvider {
        address: entry.address(),
        protocol: entry.protocol.clone(),
        version: entry.version.clone(),
        group: entry.group.clone(),
        weight: Some(entry.weight),
        labels: entry.labels.clone(),
        since: Some(entry.since),
        warm_up: entry.warm_up,
        origin: entry.origin.clone(),
    };
    let path = format!(
        "{}/{}",
        providers(roots, &entry.service),
        url::encode(&format!(
            "{}-{}-{}-{}",
            entry.address(),
            entry.protocol,
            entry.version,
            entry.group
        ))
    );
    Written::alone(path, serde_json::to_vec(&written).unwrap_or_default())
}
