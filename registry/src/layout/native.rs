//! Our own layout, for services without a framework: `/finback/services/{service}/{id}` with
//! JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::draft::Read;
use super::{Draft, Layout, ORIGIN, Roots, provider};

/// Where the providers of a service are.
pub(super) fn providers(roots: &Roots, service: &str) -> String {
    format!("{}/{service}", roots.native)
}

/// A provider as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// `host:port`.
    pub(crate) address: String,
    #[serde(default = "any", skip_serializing_if = "String::is_empty")]
    pub(crate) protocol: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Milliseconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<u64>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warm_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
}

fn any() -> String {
    String::new()
}

/// The provider that an entry describes.
pub(super) fn read(_: &str, value: &[u8]) -> Read {
    if value.is_empty() {
        return Some(None);
    }
    let written: Written = serde_json::from_slice(value).ok()?;
    let (host, port) = written.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let origin = written.origin.map(|origin| (ORIGIN.to_owned(), origin));
    let mut provider = provider(
        Layout::Native,
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
