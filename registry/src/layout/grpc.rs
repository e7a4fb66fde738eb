//! gRPC naming in etcd: `{target}/{anything}` with JSON (etcd's client/v3/naming/endpoints).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::draft::Read;
use super::{DETAILS, Draft, Layout, ORIGIN, Roots, provider};

/// Where the endpoints of a service are.
pub(super) fn target(roots: &Roots, service: &str) -> String {
    if roots.grpc.is_empty() {
        service.to_owned()
    } else {
        format!("{}/{service}", roots.grpc)
    }
}

/// An update of a target. `Op` 1 would delete, but a deletion removes the key.
#[derive(Serialize, Deserialize)]
pub(crate) struct Update {
    #[serde(rename = "Op", default)]
    pub(crate) op: u8,
    #[serde(rename = "Addr")]
    pub(crate) address: String,
    #[serde(rename = "Metadata", default)]
    pub(crate) metadata: Value,
}

/// The endpoint that an entry describes.
pub(super) fn read(_: &str, value: &[u8]) -> Read {
    let update: Update = serde_json::from_slice(value).ok()?;
    if update.op != 0 {
        return Some(None);
    }
    let (host, port) = update.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut parameters = match &update.metadata {
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) => Some((name.clone(), text.clone())),
                Value::Number(number) => Some((name.clone(), number.to_string())),
                Value::Bool(flag) => Some((name.clone(), flag.to_string())),
                _ => None,
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    let is_plain = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| text.len() <= super::MAX_LABEL)
    };
    // Labels do not say all of it: kept for consumers of a bridge.
    if let Value::Object(fields) = &update.metadata
        && !fields.values().all(is_plain)
    {
        parameters.insert(DETAILS.to_owned(), update.metadata.to_string());
    }
    let mut provider = provider(Layout::Grpc, "grpc", parameters);
    provider.labels = provider
        .parameters
        .iter()
        .filter(|(name, value)| {
            ![ORIGIN, DETAILS].contains(name) && value.len() <= super::MAX_LABEL
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    provider.version.clear();
    provider.group.clear();
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(Some(Draft::new(host, port, provider)))
}
