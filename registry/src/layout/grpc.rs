//! gRPC naming in etcd: `{target}/{anything}` with JSON (etcd's client/v3/naming/endpoints).

use std::collections::BTreeMap;

use finback_core::discovery::Lookup;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::draft::Read;
use super::write::{Entry, WriteTo, Written};
use super::{
    Conventions, DETAILS, Draft, EntryReader, Fit, Layout, LayoutKind, ORIGIN, Reader, Roots,
    ServiceQuery, provider,
};
use crate::offer::Provider;
use crate::store::{Query, is_segment};

/// Naming as etcd's own clients do it.
pub(super) struct Grpc;

impl Layout for Grpc {
    fn conventions(&self) -> &'static Conventions {
        &Conventions {
            protocol: "grpc",
            framework: LayoutKind::Grpc,
            ..Conventions::PLAIN
        }
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.grpc
    }

    /// A target is a path.
    fn is_name(&self, service: &str) -> bool {
        service.split('/').all(is_segment)
    }

    fn service_in(&self, folder: &str) -> Option<String> {
        folder.strip_suffix('/').map(str::to_owned)
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        let path = target(service.roots, service.service);
        EntryReader::follow(service, Query::Entries(path.into()), read)
    }

    fn fit(&self, _: &Lookup, _: &Provider) -> Option<Fit> {
        Some(Fit::Also)
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, _: &[Entry]) -> Written {
        write(to.roots, entry)
    }
}

/// Where the endpoints of a service are.
fn target(roots: &Roots, service: &str) -> String {
    if roots.grpc.is_empty() {
        service.to_owned()
    } else {
        format!("{}/{service}", roots.grpc)
    }
}

/// An update of a target. `Op` 1 would delete, but a deletion removes the key.
#[derive(Serialize, Deserialize)]
struct Update {
    #[serde(rename = "Op", default)]
    op: u8,
    #[serde(rename = "Addr")]
    address: String,
    #[serde(rename = "Metadata", default)]
    metadata: Value,
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
    let mut provider = provider(LayoutKind::Grpc, "grpc", parameters);
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

/// As etcd's own naming client writes an endpoint.
fn write(roots: &Roots, entry: &Entry) -> Written {
    let details = entry.parameters.get(DETAILS);
    let mut metadata: serde_json::Map<String, Value> = details
        .and_then(|details| serde_json::from_str(details).ok())
        .unwrap_or_else(|| {
            let labels = entry.labels.iter();
            labels
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect()
        });
    if let Some(origin) = &entry.origin {
        metadata.insert(ORIGIN.to_owned(), origin.clone().into());
    }
    let update = Update {
        op: 0,
        address: entry.address(),
        metadata: if metadata.is_empty() {
            Value::Null
        } else {
            metadata.into()
        },
    };
    let path = format!("{}/{}", target(roots, &entry.service), entry.address());
    Written::alone(path, serde_json::to_vec(&update).unwrap_or_default())
}
