//! How an entry is written so that the framework's own consumers read it.

use std::collections::BTreeMap;

use super::application::{self, Beside};
use super::grpc::Update;
use super::url::{self, Url};
use super::{DETAILS, Layout, ORIGIN, PATH, Roots, spring};

/// A provider that we register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// How long it warms up, in milliseconds.
    pub(crate) warm_up: Option<u64>,
    /// The registry that it is mirrored from.
    pub(crate) origin: Option<String>,
    /// What the original says of itself, where it comes from the same framework.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// What is written for an entry.
pub(crate) struct Written {
    pub(crate) path: String,
    pub(crate) value: Vec<u8>,
    /// What is to be there before it.
    pub(crate) beside: Vec<Beside>,
}

impl Entry {
    pub(super) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The parameters of a URL, with these where the original has none.
    fn parameters(&self, own: &[(&str, String)]) -> BTreeMap<String, String> {
        let mut all = self.parameters.clone();
        all.remove(PATH);
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

/// Parameters of Dubbo that come from elsewhere in a registration, or from what it is.
const DUBBO: &[&str] = &[
    "anyhost",
    "application",
    "category",
    "deprecated",
    "dubbo",
    "dynamic",
    "generic",
    "group",
    "interface",
    "side",
    "timestamp",
    "version",
    "weight",
];
/// The same of SOFA-RPC. It may say its own `serialization` and `timeout`.
const SOFA: &[&str] = &[
    "accepts",
    "appName",
    "delay",
    "dynamic",
    "interface",
    "language",
    "protocol",
    "rpcVer",
    "startTime",
    "uniqueId",
    "version",
    "weight",
];
/// How the names of parameters begin that are ours.
const OURS: &str = "finback.";
/// The longest value, in bytes: a name in a registry has room for some.
const MAX_VALUE: usize = 8 * 1024;

impl Layout {
    /// Whether an entry says more of a provider than we know how to write.
    #[must_use]
    pub fn has_parameters(self) -> bool {
        !matches!(self, Self::Grpc | Self::Native)
    }

    /// Why a registration cannot have this label or parameter; `None` if it can.
    #[must_use]
    pub fn refuses(self, name: &str, value: &str) -> Option<String> {
        let own = match self.framework() {
            Self::Dubbo => DUBBO,
            Self::Sofa => SOFA,
            _ => &[],
        };
        if own.contains(&parameter_of(name)) || name.starts_with(OURS) {
            return Some(format!(
                "`{name}` is written from what else stands here; take it away"
            ));
        }
        // What would end a parameter in a URL early.
        let has_url = matches!(self.framework(), Self::Dubbo | Self::Sofa);
        let ends_it = |char: char| char.is_control() || has_url && matches!(char, '&' | '#');
        let is_sound = !name.is_empty()
            && !name.contains(|char| ends_it(char) || has_url && char == '=')
            && !value.contains(ends_it)
            && name.len().max(value.len()) <= MAX_VALUE;
        (!is_sound).then(|| {
            format!("`{name}` is nothing that a registry can have; write it without & and #")
        })
    }
}

/// The parameter that becomes a label when it is read.
fn parameter_of(label: &str) -> &str {
    match label {
        "tag" => "dubbo.tag",
        other => other,
    }
}

/// The same for an instance of a Dubbo application with several services.
pub(crate) fn write_application(roots: &Roots, entries: &[Entry], as_curator: bool) -> Written {
    let (path, value, beside) = application::write(roots, entries, as_curator);
    Written {
        path,
        value,
        beside,
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

/// The parameters of a provider of Dubbo.
pub(super) fn dubbo_parameters(entry: &Entry) -> BTreeMap<String, String> {
    entry.parameters(&[
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
    ])
}

/// A provider as its framework writes it (Dubbo: ZookeeperRegistry).
fn dubbo(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    // The provider knows the service by its path, which consumers send it.
    let path = entry.parameters.get(PATH).unwrap_or(&entry.service);
    let url = Url {
        scheme: entry.protocol.clone(),
        host: entry.host.clone(),
        port: entry.port,
        path: path.clone(),
        parameters: dubbo_parameters(entry),
    };
    let path = format!(
        "{}/{}",
        super::dubbo::folder(roots, &entry.service, "providers"),
        url::encode(&url.to_string())
    );
    (path, Vec::new())
}

/// A provider as its framework writes it (SOFA-RPC: ZookeeperRegistry).
fn sofa(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let own = [
        ("accepts", "100000".to_owned()),
        ("appName", entry.application.clone()),
        ("delay", "-1".to_owned()),
        ("dynamic", "true".to_owned()),
        ("interface", entry.service.clone()),
        ("language", "java".to_owned()),
        ("rpcVer", "51403".to_owned()),
        ("serialization", "hessian2".to_owned()),
        ("startTime", entry.since.to_string()),
        ("timeout", "0".to_owned()),
    ];
    let mut parameters = entry.parameters(&own);
    for (name, value) in [
        ("protocol", entry.protocol.as_str()),
        ("version", "1.0"),
        ("uniqueId", &entry.group),
    ] {
        parameters.insert(name.to_owned(), value.to_owned());
    }
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

/// As Curator writes an instance.
fn spring_instance(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let id = match &entry.origin {
        Some(origin) => {
            let (mark, end) = spring::MARK;
            format!("{mark}{origin}{end}{}", entry.address())
        }
        None => entry.address(),
    };
    let secure = entry.protocol == "https";
    let value = serde_json::json!({
        "name": entry.service,
        "id": id,
        "address": entry.host,
        "port": (!secure).then_some(entry.port),
        "sslPort": secure.then_some(entry.port),
        "payload": payload(entry, &id),
        "registrationTimeUTC": entry.since,
        "serviceType": "DYNAMIC",
        "uriSpec": null,
    });
    let path = format!("{}/{id}", spring::instances(roots, &entry.service));
    (path, value.to_string().into_bytes())
}

/// Spring Cloud's payload, if the original has it: one of a class that Java's readers do not know
/// would make them fail for the whole service.
fn payload(entry: &Entry, id: &str) -> serde_json::Value {
    let class = entry.parameters.get(DETAILS);
    if class.map(String::as_str) != Some(spring::PAYLOAD) {
        return serde_json::Value::Null;
    }
    let mut metadata = entry.parameters.clone();
    metadata.remove(DETAILS);
    serde_json::json!({
        "@class": spring::PAYLOAD,
        "id": id,
        "name": entry.service,
        "metadata": metadata,
    })
}

/// As etcd's own naming client writes an endpoint.
fn grpc(roots: &Roots, entry: &Entry) -> (String, Vec<u8>) {
    let details = entry.parameters.get(DETAILS);
    let mut metadata: serde_json::Map<String, serde_json::Value> = details
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
    let written = super::native::Written {
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
        super::native::providers(roots, &entry.service),
        url::encode(&format!(
            "{}-{}-{}-{}",
            entry.address(),
            entry.protocol,
            entry.version,
            entry.group
        ))
    );
    (path, serde_json::to_vec(&written).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Cached, Drafts, dubbo, grpc, native, sofa, spring};
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
            ..Entry::default()
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
                let of = |read: fn(&str, &[u8]) -> _| Drafts::of(Some(&answer), read);
                let drafts = match layout {
                    Layout::Dubbo => {
                        dubbo::read("com.acme.Pay", Some(&answer), &mut Cached::default())
                    }
                    Layout::Sofa => of(sofa::read),
                    Layout::Spring => of(spring::read),
                    Layout::Grpc => of(grpc::read),
                    Layout::Native | Layout::DubboApp => of(native::read),
                };
                assert_eq!(drafts.unreadable, 0, "{layout:?} {path}");
                let draft = &drafts.drafts[0];
                assert_eq!(
                    (&*draft.host(), draft.port),
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
