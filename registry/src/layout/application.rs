//! Dubbo's application level, as we write it: an instance of an application, what its revision provides, and which
//! application provides each service.
//!
//! The instance lives as long as our session; the others stay, as Dubbo's own do.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::dubbo::written_parameters;
use super::write::{Entry, WriteTo, Written};

/// The class of the payload that Dubbo's consumers read in ZooKeeper.
const PAYLOAD: &str = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance";

/// What is to be in a store beside an entry, and stays there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) path: String,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// This value.
    Value(Vec<u8>),
    /// This word among others, with commas between them.
    Word(String),
}

impl Content {
    /// What is to stand in the place of what stands there; `None` if that is right.
    pub(crate) fn amend(&self, found: Option<&[u8]>) -> Option<Vec<u8>> {
        match self {
            Self::Value(value) => (found != Some(value)).then(|| value.clone()),
            Self::Word(word) => {
                let found = std::str::from_utf8(found.unwrap_or_default()).unwrap_or_default();
                let mut words = found.split(',').map(str::trim);
                if words.any(|own| own == word) {
                    return None;
                }
                let all = match found.trim() {
                    "" => word.clone(),
                    found => format!("{found},{word}"),
                };
                Some(all.into_bytes())
            }
        }
    }
}

/// The instance of an entry's application, and what is beside it. Dubbo writes it as Curator does into ZooKeeper, and
/// in a form of its own into etcd.
pub(super) fn write(to: &WriteTo<'_>, first: &Entry, also: &[Entry]) -> Written {
    let roots = to.roots;
    let entries = || std::iter::once(first).chain(also);
    let application = &first.application;
    let services: BTreeMap<String, Value> = entries().map(service).collect();
    let revision = revision(application, &services);
    let address = first.address();
    let metadata = metadata(first, also, &revision);
    let instance = if to.is_zookeeper {
        json!({
            "name": application,
            "id": address,
            "address": first.host,
            "port": first.port,
            "sslPort": null,
            "payload": {
                "@class": PAYLOAD,
                "id": address,
                "name": application,
                "metadata": metadata,
            },
            "registrationTimeUTC": first.since,
            "serviceType": "DYNAMIC",
            "uriSpec": null,
        })
    } else {
        json!({
            "serviceName": application,
            "host": first.host,
            "port": first.port,
            "enabled": true,
            "healthy": true,
            "metadata": metadata,
        })
    };
    let info = json!({ "app": application, "revision": revision, "services": services });
    // Whoever finds the instance looks for the others: so they are first.
    let mut beside = vec![Beside {
        path: format!("{}/metadata/{application}/{revision}", roots.dubbo),
        content: Content::Value(info.to_string().into_bytes()),
    }];
    let names: BTreeSet<&String> = entries().map(|entry| &entry.service).collect();
    beside.extend(names.into_iter().map(|name| Beside {
        path: format!("{}/mapping/{name}", roots.dubbo),
        content: Content::Word(application.clone()),
    }));
    let path = format!("{}/{application}/{address}", roots.services);
    Written {
        path,
        value: instance.to_string().into_bytes(),
        beside,
    }
}

/// What consumers read of the instance itself (Dubbo: ServiceInstanceMetadataUtils).
fn metadata(first: &Entry, also: &[Entry], revision: &str) -> Value {
    let entries = std::iter::once(first).chain(also);
    let protocols: BTreeSet<&String> = entries.map(|entry| &entry.protocol).collect();
    let endpoints: Vec<Value> = protocols
        .into_iter()
        .map(|protocol| json!({ "port": first.port, "protocol": protocol }))
        .collect();
    let mut metadata = json!({
        "dubbo.endpoints": Value::from(endpoints).to_string(),
        "dubbo.metadata.revision": revision,
        "dubbo.metadata.storage-type": "remote",
        "timestamp": first.since.to_string(),
    });
    if let Some(tag) = first.labels.get("tag") {
        metadata["dubbo.tag"] = tag.clone().into();
    }
    metadata
}

/// A service in an application's metadata (Dubbo: MetadataInfo), and its key there.
fn service(entry: &Entry) -> (String, Value) {
    let mut key = entry.service.clone();
    if !entry.group.is_empty() {
        key = format!("{}/{key}", entry.group);
    }
    if !entry.version.is_empty() {
        key = format!("{key}:{}", entry.version);
    }
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut parameters = written_parameters(entry);
    // The instance tells it, and a revision is the same whenever it begins.
    parameters.remove("timestamp");
    let service = json!({
        "name": entry.service,
        "group": text(&entry.group),
        "version": text(&entry.version),
        "protocol": entry.protocol,
        "port": entry.port,
        "path": entry.service,
        "params": parameters,
    });
    (format!("{key}:{}", entry.protocol), service)
}

/// Instances with the same services share one.
fn revision(application: &str, services: &BTreeMap<String, Value>) -> String {
    let mut hasher = DefaultHasher::new();
    application.hash(&mut hasher);
    for (key, service) in services {
        (key, service.to_string()).hash(&mut hasher);
    }
    format!("{:032x}", u128::from(hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::Roots;
    use super::*;

    #[test]
    fn a_word_is_put_among_others_once() {
        let word = Content::Word("shop".to_owned());
        for (found, amended) in [
            (None, Some("shop")),
            (Some(""), Some("shop")),
            (Some("pay"), Some("pay,shop")),
            (Some("shop"), None),
            (Some("pay, shop"), None),
            (Some("shops"), Some("shops,shop")),
        ] {
            let amended = amended.map(|text: &str| text.as_bytes().to_vec());
            assert_eq!(word.amend(found.map(str::as_bytes)), amended, "{found:?}");
        }
        let value = Content::Value(b"x".to_vec());
        assert_eq!(value.amend(Some(b"x")), None);
        assert_eq!(value.amend(Some(b"y")), Some(b"x".to_vec()));
    }

    #[test]
    fn a_revision_is_that_of_what_is_provided() {
        let entry = |since, timeout: &str| Entry {
            service: "a.B".to_owned(),
            application: "shop".to_owned(),
            protocol: "dubbo".to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 1,
            since,
            parameters: [("timeout".to_owned(), timeout.to_owned())].into(),
            ..Entry::default()
        };
        let to = WriteTo {
            roots: &Roots::default(),
            is_zookeeper: true,
        };
        let path = |entry| write(&to, &entry, &[]).beside[0].path.clone();
        assert_eq!(path(entry(1, "5")), path(entry(2, "5")));
        assert_ne!(path(entry(1, "5")), path(entry(1, "6")));
    }
}
