//! How an entry is written so that the framework's own consumers read it.

use std::collections::BTreeMap;

use super::grpc::Update;
use super::native::Written;
use super::url::{self, Url};
use super::{Layout, ORIGIN, Roots, spring};

/// A provider that we register.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) group: String,
    pub(crate) protocol: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) application: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Milliseconds of the Unix epoch.
    pub(crate) since: u64,
    /// The registry that it is mirrored from.
    pub(crate) origin: Option<String>,
    /// What the original says of itself, where it comes from the same framework.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Entry {
    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The parameters of a URL, with these where the original has none.
    fn parameters(&self, own: &[(&str, String)]) -> BTreeMap<String, String> {
        let mut all = self.parameters.clone();
        for (label, value) in &self.labels {
            all.entry(parameter_of(label).to_owned())
                .or_insert_with(|| value.clone());
        }
        for (name, value) in own {
            if !value.is_empty() {
                all.entry((*name).to_owned())
                    .or_insert_with(|| value.clone());
            }
        }
        all.insert("weight".to_owned(), self.weight.to_string());
        if let Some(origin) = &self.origin {
            all.insert(ORIGIN.to_owned(), origin.clone());
        }
        // What would end a parameter early must not stand in it.
        all.retain(|name, value| !name.contains(['&', '=', '#']) && !value.contains(['&', '#']));
        all
    }
}

/// The parameter that becomes a label when it is read.
fn parameter_of(label: &str) -> &str {
    match label {
        "tag" => "dubbo.tag",
        other => other,
    }
}

/// Where and what to write.
pub(crate) fn write(layout: Layout, roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    match layout {
        Layout::Dubbo | Layout::DubboApp => dubbo(roots, entry),
        Layout::Sofa => sofa(roots, entry),
        Layout::Spring => spring_instance(roots, entry),
        Layout::Grpc => grpc(roots, entry),
        Layout::Native => native(roots, entry),
    }
}

/// As Dubbo's `ZookeeperRegistry` writes a provider.
fn dubbo(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let own = [
        ("anyhost", "true".to_owned()),
        ("application", entry.application.clone()),
        ("category", "providers".to_owned()),
        ("deprecated", "false".to_owned()),
        ("dubbo", "2.0.2".to_owned()),
        ("dynamic", "true".to_owned()),
        ("generic", "false".to_owned()),
        ("group", entry.group.clone()),
        ("interface", entry.service.clone()),
        ("side", "provider".to_owned()),
        ("timestamp", entry.since.to_string()),
        ("version", entry.version.clone()),
    ];
    let url = Url {
        scheme: entry.protocol.clone(),
        host: entry.host.clone(),
        port: entry.port,
        path: entry.service.clone(),
        parameters: entry.parameters(&own),
    };
    let path = format!(
        "{}/{}",
        super::dubbo::folder(roots, &entry.service, "providers"),
        url::encode(&url.to_string())
    );
    (path, Vec::new())
}

/// As SOFA-RPC's `ZookeeperRegistry` writes a provider.
fn sofa(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let own = [
        ("accepts", "100000".to_owned()),
        ("appName", entry.application.clone()),
        ("delay", "-1".to_owned()),
        ("dynamic", "true".to_owned()),
        ("interface", entry.service.clone()),
        ("language", "java".to_owned()),
        ("protocol", entry.protocol.clone()),
        ("rpcVer", "51403".to_owned()),
        ("serialization", "hessian2".to_owned()),
        ("startTime", entry.since.to_string()),
        ("timeout", "0".to_owned()),
    ];
    let mut parameters = entry.parameters(&own);
    parameters.insert("version".to_owned(), "1.0".to_owned());
    parameters.insert("uniqueId".to_owned(), entry.group.clone());
    let url = Url {
        scheme: entry.protocol.clone(),
        host: entry.host.clone(),
        port: entry.port,
        path: String::new(),
        parameters,
    };
    let path = format!(
        "{}/{}",
        super::sofa::providers(roots, &entry.service),
        url::encode(&url.to_string())
    );
    // Online, as Java writes it; nobody reads it.
    (path, vec![1])
}

/// As Curator writes an instance. Without a payload: one of an unknown class would make Java's
/// readers fail for the whole service.
fn spring_instance(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let id = match &entry.origin {
        Some(origin) => {
            let (mark, end) = spring::MARK;
            format!("{mark}{origin}{end}{}", entry.address())
        }
        None => entry.address(),
    };
    let value = serde_json::json!({
        "name": entry.service,
        "id": id,
        "address": entry.host,
        "port": entry.port,
        "sslPort": null,
        "payload": null,
        "registrationTimeUTC": entry.since,
        "serviceType": "DYNAMIC",
        "uriSpec": null,
    });
    let path = format!("{}/{id}", spring::instances(roots, &entry.service));
    (path, value.to_string().into_bytes())
}

/// As etcd's own naming client writes an endpoint.
fn grpc(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let mut metadata: serde_json::Map<String, serde_json::Value> = entry
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    if let Some(origin) = &entry.origin {
        metadata.insert(ORIGIN.to_owned(), origin.clone().into());
    }
    let update = Update {
        op: 0,
        address: entry.address(),
        metadata: if metadata.is_empty() {
            serde_json::Value::Null
        } else {
            metadata.into()
        },
    };
    let path = format!(
        "{}/{}",
        super::grpc::target(roots, &entry.service),
        entry.address()
    );
    (path, serde_json::to_vec(&update).unwrap_or_default())
}

fn native(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let written = Written {
        address: entry.address(),
        protocol: entry.protocol.clone(),
        version: entry.version.clone(),
        group: entry.group.clone(),
        weight: Some(entry.weight),
        labels: entry.labels.clone(),
        since: Some(entry.since),
        warm_up: None,
        origin: entry.origin.clone(),
    };
    let path = format!(
        "{}/{}",
        super::native::providers(roots, &entry.service),
        url::encode(&format!(
            "{}-{}-{}",
            entry.address(),
            entry.version,
            entry.group
        ))
    );
    (path, serde_json::to_vec(&written).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{dubbo, grpc, native, sofa, spring};
    use super::*;
    use crate::store::Answer;

    fn entry(origin: Option<&str>) -> Entry {
        Entry {
            service: "com.acme.Pay".to_owned(),
            version: "1.0".to_owned(),
            group: "blue".to_owned(),
            protocol: "dubbo".to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 20880,
            weight: 70,
            application: "shop".to_owned(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            since: 1_700_000_000_000,
            origin: origin.map(str::to_owned),
            parameters: BTreeMap::new(),
        }
    }

    /// What is written in each layout is read as the same there.
    #[test]
    fn what_is_written_is_read_as_the_same() {
        for origin in [None, Some("zk")] {
            for layout in [
                Layout::Dubbo,
                Layout::Sofa,
                Layout::Spring,
                Layout::Grpc,
                Layout::Native,
            ] {
                let mut entry = entry(origin);
                if layout == Layout::Sofa {
                    entry.protocol = "bolt".to_owned();
                }
                let (path, value) = write(layout, &Roots::default(), &entry);
                let name = path.rsplit_once('/').unwrap().1.to_owned();
                let answer = Answer::Entries(std::sync::Arc::new([(name, value.into())].into()));
                let drafts = match layout {
                    Layout::Dubbo => dubbo::read("com.acme.Pay", Some(&answer)),
                    Layout::Sofa => sofa::read(Some(&answer)),
                    Layout::Spring => spring::read(Some(&answer)),
                    Layout::Grpc => grpc::read(Some(&answer)),
                    _ => native::read(Some(&answer)),
                };
                assert_eq!(drafts.unreadable, 0, "{layout:?} {path}");
                let draft = &drafts.drafts[0];
                assert_eq!(
                    (&*draft.host, draft.port),
                    ("10.0.0.1", 20880),
                    "{layout:?}"
                );
                let provider = &draft.provider;
                assert_eq!(provider.origin.as_deref(), origin, "{layout:?}");
                if !matches!(layout, Layout::Spring | Layout::Grpc) {
                    assert_eq!(
                        (provider.weight, &*provider.group),
                        (70, "blue"),
                        "{layout:?}"
                    );
                    assert_eq!(provider.since, Some(1_700_000_000_000), "{layout:?}");
                }
                if layout != Layout::Spring {
                    assert_eq!(provider.labels.get("zone"), Some("a"), "{layout:?}");
                }
            }
        }
    }
}
