//! Curator's service discovery as Spring Cloud uses it: `/services/{name}/{id}` with JSON
//! (Curator's `ServiceInstance`, Spring Cloud's `ZookeeperInstance`).

use std::collections::BTreeMap;
use std::sync::Arc;

use finback_core::discovery::Lookup;
use serde::Deserialize;
use serde_json::Value;

use super::draft::{Cached, Read};
use super::write::{Entry, WriteTo, Written};
use super::{
    Conventions, DETAILS, Draft, Drafts, Fit, Layout, LayoutKind, ORIGIN, Reader, Roots,
    ServiceQuery, provider,
};
use crate::offer::Provider;
use crate::store::{Answer, Bell, Followed, Query, Store};

/// Curator's service discovery.
pub(super) struct Spring;

impl Layout for Spring {
    fn conventions(&self) -> &'static Conventions {
        &Conventions {
            protocol: "http",
            framework: LayoutKind::Spring,
            has_parameters: true,
            ..Conventions::PLAIN
        }
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.services
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        Box::new(Spellings::begin(service))
    }

    fn fit(&self, _: &Lookup, _: &Provider) -> Option<Fit> {
        Some(Fit::Also)
    }

    fn describe(
        &self,
        parameters: &mut BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) {
        if parameters.is_empty() && labels.is_empty() {
            return;
        }
        parameters.extend(labels.clone());
        describe(parameters);
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, _: &[Entry]) -> Written {
        write(to.roots, entry)
    }
}

/// Where the instances of a service are.
pub(super) fn instances(roots: &Roots, service: &str) -> String {
    format!("{}/{service}", roots.services)
}

/// A service by whatever spelling it is registered under. Callers name it as a host, whose letters
/// are small, and applications give themselves names in capitals (`ORDER-SERVICE` after Eureka).
struct Spellings {
    store: Arc<Store>,
    roots: Arc<Roots>,
    service: String,
    bell: Bell,
    /// The names of all services.
    directory: Followed,
    /// The instances under each spelling, the one asked for among them whether it is there or not.
    instances: BTreeMap<String, (Followed, Cached)>,
}

impl Spellings {
    fn begin(query: &ServiceQuery<'_>) -> Self {
        let ServiceQuery {
            store,
            roots,
            service,
            bell,
            ..
        } = *query;
        let exact = store.follow(Query::Entries(instances(roots, service).into()), bell);
        let all = Query::Folders(roots.services.as_str().into());
        Self {
            store: store.clone(),
            roots: roots.clone(),
            service: service.to_owned(),
            bell: bell.clone(),
            directory: store.follow(all, bell),
            instances: [(service.to_owned(), (exact, Cached::default()))].into(),
        }
    }
}

impl Reader for Spellings {
    /// The instances of the spelling asked for if it has any, else of all others.
    fn latest(&mut self) -> Option<Drafts> {
        let directory = self.directory.latest();
        let (roots, store, wanted) = (&self.roots, &self.store, &self.service);
        let bell = &self.bell;
        if let Some(Answer::Entries(names)) = &directory {
            let names = names.names().filter_map(|name| Spring.service_in(&name));
            let spelt: Vec<String> = names
                .filter(|name| name.eq_ignore_ascii_case(wanted))
                .collect();
            self.instances
                .retain(|name, _| name == wanted || spelt.contains(name));
            for name in spelt {
                let query = Query::Entries(instances(roots, &name).into());
                let follow = || (store.follow(query, bell), Cached::default());
                self.instances.entry(name).or_insert_with(follow);
            }
        }
        let (mut exact, mut others) = (None, Drafts::default());
        let mut all_known = directory.is_some();
        // All are looked at, or what is not used would be told as new again and again.
        for (name, (followed, cached)) in &mut self.instances {
            let Some(answer) = followed.latest() else {
                all_known = false;
                continue;
            };
            let drafts = Drafts::again(cached, Some(&answer), read);
            if name == wanted && !drafts.drafts.is_empty() {
                exact = Some(drafts);
            } else {
                others.extend(drafts);
            }
        }
        exact.or_else(|| all_known.then_some(others))
    }

    fn look_for_change(&mut self) -> bool {
        let mut instances = self.instances.values();
        self.directory.has_changed() || instances.any(|(own, _)| own.has_changed())
    }

    fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>) {
        let instances = self.instances.values_mut();
        all.extend(instances.map(|(followed, _)| followed));
        all.push(&mut self.directory);
    }
}

#[derive(Deserialize)]
struct Instance {
    #[serde(default)]
    id: String,
    address: Option<String>,
    port: Option<u16>,
    #[serde(rename = "sslPort")]
    ssl_port: Option<u16>,
    enabled: Option<bool>,
    #[serde(rename = "registrationTimeUTC")]
    registered: Option<u64>,
    payload: Option<Value>,
}

/// What stands before the id of an instance that a bridge wrote, and after the registry's name.
const MARK: (&str, char) = ("finback-bridge-", '@');

/// The class of Spring Cloud's payload, which its consumers can read.
const PAYLOAD: &str = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";

/// Has these written as the metadata of Spring Cloud's payload, which says that all is well.
fn describe(metadata: &mut BTreeMap<String, String>) {
    metadata.insert(DETAILS.to_owned(), PAYLOAD.to_owned());
    let status = metadata.entry("instance_status".to_owned());
    status.or_insert_with(|| "UP".to_owned());
}

/// The instance that an entry describes.
pub(super) fn read(_: &str, value: &[u8]) -> Read {
    // A folder made before its content.
    if value.is_empty() {
        return Some(None);
    }
    let instance: Instance = serde_json::from_slice(value).ok()?;
    let mut parameters = metadata(instance.payload.as_ref());
    let out = parameters.get("instance_status").map(String::as_str) == Some("OUT_OF_SERVICE");
    if out || instance.enabled == Some(false) {
        return Some(None);
    }
    let origin = instance
        .id
        .strip_prefix(MARK.0)
        .and_then(|rest| rest.split_once(MARK.1));
    if let Some((origin, _)) = origin {
        parameters.insert(ORIGIN.to_owned(), origin.to_owned());
    }
    let class = instance.payload.as_ref().and_then(|own| own.get("@class"));
    if class.and_then(Value::as_str) == Some(PAYLOAD) {
        parameters.insert(DETAILS.to_owned(), PAYLOAD.to_owned());
    }
    let secure = instance.port.is_none() && instance.ssl_port.is_some();
    let scheme = if secure { "https" } else { "http" };
    let mut provider = provider(LayoutKind::Spring, scheme, parameters);
    provider.labels = provider
        .parameters
        .iter()
        .filter(|(name, value)| {
            *name != DETAILS && !value.is_empty() && value.len() <= super::MAX_LABEL
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    provider.since = instance.registered;
    provider.version.clear();
    provider.group.clear();
    let port = instance.port.or(instance.ssl_port)?;
    Some(Some(Draft::new(&instance.address?, port, provider)))
}

/// The metadata of Spring Cloud's payload.
fn metadata(payload: Option<&Value>) -> BTreeMap<String, String> {
    let metadata = payload
        .and_then(|payload| payload.get("metadata"))
        .and_then(Value::as_object);
    metadata
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// As Curator writes an instance.
fn write(roots: &Roots, entry: &Entry) -> Written {
    let id = match &entry.origin {
        Some(origin) => {
            let (mark, end) = MARK;
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
    let path = format!("{}/{id}", instances(roots, &entry.service));
    Written::alone(path, value.to_string().into_bytes())
}

/// Spring Cloud's payload, if the original has it: one of a class that Java's readers do not know
/// would make them fail for the whole service.
fn payload(entry: &Entry, id: &str) -> Value {
    let class = entry.parameters.get(DETAILS);
    if class.map(String::as_str) != Some(PAYLOAD) {
        return Value::Null;
    }
    let mut metadata = entry.parameters.clone();
    metadata.remove(DETAILS);
    serde_json::json!({
        "@class": PAYLOAD,
        "id": id,
        "name": entry.service,
        "metadata": metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::super::by_hand;
    use super::*;
    use crate::store::changed;

    fn instance(port: u16) -> Answer {
        let text = format!(r#"{{"id":"a","address":"127.0.0.1","port":{port}}}"#);
        Answer::Entries(Arc::new([("a".to_owned(), text.into())].into()))
    }

    #[tokio::test]
    async fn spellings_that_are_not_used_are_told_of_once() {
        let handle = tokio::runtime::Handle::current();
        let disk = crate::disk::Disk::open(&std::env::temp_dir());
        let bell = Bell::default();
        let [(names, directory), (exact, first), (other, second)] =
            [(); 3].map(|()| by_hand(&bell));
        let mut spellings = Spellings {
            store: Store::saved(&handle, "r", &disk),
            roots: Arc::default(),
            service: "Orders".to_owned(),
            bell,
            directory,
            instances: [("Orders", first), ("orders", second)]
                .map(|(name, own)| (name.to_owned(), (own, Cached::default())))
                .into(),
        };
        let folders = ["Orders/", "orders/"].map(|name| (name.to_owned(), "".into()));
        let _ = names.try_send(Answer::Entries(Arc::new(folders.into())));
        for (teller, port) in [(&exact, 1), (&other, 2)] {
            let _ = teller.try_send(instance(port));
        }
        let mut drafts = None;
        let soon = std::time::Duration::from_millis(20);
        // Each is told of once, and then there is silence.
        for _ in 0..8 {
            let changed = {
                let bell = spellings.bell.clone();
                let changed = changed(&bell, || spellings.look_for_change());
                tokio::time::timeout(soon, changed).await
            };
            if changed.is_err() {
                let drafts: Option<Drafts> = drafts;
                let ports = drafts.map(|own| own.drafts.iter().map(|own| own.port).collect());
                assert_eq!(ports, Some(vec![1]));
                return;
            }
            drafts = spellings.latest();
            tokio::task::yield_now().await;
        }
        panic!("it is told again and again of what it has looked at");
    }
}
