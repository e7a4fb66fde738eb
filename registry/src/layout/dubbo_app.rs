//! Dubbo's application level: a service names its applications, an application its instances,
//! and an instance the revision of its metadata, which lists its services.
//!
//! ```text
//! /dubbo/mapping/{interface}            = app,app
//! /services/{app}/{ip:port}             = JSON of the instance
//! /dubbo/metadata/{app}/{revision}      = JSON of the services, unless the instance serves it
//! ```
//! Sources: Dubbo: ServiceInstancesChangedListener, Dubbo: MetadataInfo.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use finback_core::discovery::{Lookup, Terms};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::dubbo::{self, described, keep_path};
use super::dubbo_parts::DubboParts;
use super::reading::{Reader, ServiceQuery};
use super::write::{Entry, WriteTo, Written};
use super::{Conventions, Draft, Drafts, Fit, Layout, LayoutKind, Roots, application, terms};
use crate::lock;
use crate::metadata::{Instances, Metadata};
use crate::offer::Provider;
use crate::store::{Answer, Bell, Followed, Query, Store};

/// Applications of one service, at most: a mapping that names more is damaged.
const MAX_APPLICATIONS: usize = 1000;
/// The revision of an application without services.
const NO_SERVICES: &str = "0";

/// Dubbo's application level alone.
pub(super) struct ApplicationLevel;

impl Layout for ApplicationLevel {
    fn conventions(&self) -> &'static Conventions {
        &dubbo::CONVENTIONS
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.dubbo
    }

    fn is_name(&self, service: &str) -> bool {
        dubbo::is_name(service)
    }

    fn directory(&self, root: &str) -> Vec<Query> {
        vec![dubbo::mapping(root)]
    }

    fn service_in(&self, folder: &str) -> Option<String> {
        dubbo::service_in(folder)
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        Box::new(DubboParts::begin(service, false))
    }

    fn fit(&self, lookup: &Lookup, provider: &Provider) -> Option<Fit> {
        dubbo::fit(lookup, provider)
    }

    fn terms(&self, lookup: &Lookup, provider: &Provider) -> Option<Terms> {
        Some(terms::dubbo(lookup, provider))
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, also: &[Entry]) -> Written {
        application::write(to, entry, also)
    }
}

/// The applications that provide one service.
pub(super) struct Applications {
    source: Source,
    mapping: Followed,
    applications: BTreeMap<String, Application>,
}

/// Which service is read, and where from.
struct Source {
    store: Arc<Store>,
    roots: Arc<Roots>,
    metadata: Metadata,
    offered: Arc<Offered>,
    service: String,
    bell: Bell,
}

struct Application {
    instances: Followed,
    /// By name.
    revisions: BTreeMap<String, Revision>,
}

/// One state of an application's services, which all its instances of that name share.
struct Revision {
    metadata: Followed,
    /// Those that can be asked for it, if it is not in the registry.
    instances: Option<watch::Sender<Instances>>,
    /// What was read last, and of which text.
    read: Option<(Bytes, Arc<Services>)>,
}

/// The services of one revision, by name.
type Services = BTreeMap<String, Vec<Service>>;

/// What revisions offer, read once for all services and instances of theirs.
#[derive(Default)]
pub(crate) struct Offered(Mutex<HashMap<Bytes, Weak<Services>>>);

impl Offered {
    /// The services that a text lists; `None` if it cannot be read.
    fn read(&self, text: &Bytes) -> Option<Arc<Services>> {
        let mut all = lock(&self.0);
        if let Some(services) = all.get(text).and_then(Weak::upgrade) {
            return Some(services);
        }
        all.retain(|_, services| services.strong_count() > 0);
        let mut services = Services::new();
        for service in read_services(text)? {
            let own = services.entry(service.name.clone()).or_default();
            own.push(service);
        }
        let services = Arc::new(services);
        all.insert(text.clone(), Arc::downgrade(&services));
        Some(services)
    }
}

impl Revision {
    /// The services that its metadata lists; `None` if they cannot be read and never could. A revision says
    /// the same for ever, so that what cannot be read any more is still what was read (Dubbo's consumers do
    /// not even look again: Dubbo: ServiceInstancesChangedListener).
    fn services(&mut self, offered: &Offered, answer: Answer) -> Option<Arc<Services>> {
        let known = self.read.as_ref();
        let Answer::Value(text) = answer else {
            return known.map(|(_, services)| services.clone());
        };
        if let Some((_, services)) = known.filter(|(former, _)| *former == text) {
            return Some(services.clone());
        }
        let Some(services) = offered.read(&text) else {
            return known.map(|(_, services)| services.clone());
        };
        self.read = Some((text, services.clone()));
        Some(services)
    }
}

impl Applications {
    pub(super) fn begin(query: &ServiceQuery<'_>) -> Self {
        let ServiceQuery {
            store,
            roots,
            service,
            bell,
            ..
        } = *query;
        let mapping = Query::Value(format!("{}/mapping/{service}", roots.dubbo).into());
        Self {
            mapping: store.follow(mapping, bell),
            source: Source {
                store: store.clone(),
                roots: roots.clone(),
                metadata: query.metadata.clone(),
                offered: query.centre.offered().clone(),
                service: service.to_owned(),
                bell: bell.clone(),
            },
            applications: BTreeMap::new(),
        }
    }

    /// Everything that is followed now.
    pub(super) fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>) {
        all.push(&mut self.mapping);
        for application in self.applications.values_mut() {
            all.push(&mut application.instances);
            all.extend(
                application
                    .revisions
                    .values_mut()
                    .map(|own| &mut own.metadata),
            );
        }
    }

    /// Whether there is anything new to read.
    pub(super) fn has_changed(&self) -> bool {
        let has_changed = |own: &Application| {
            let mut revisions = own.revisions.values();
            own.instances.has_changed() || revisions.any(|own| own.metadata.has_changed())
        };
        self.mapping.has_changed() || self.applications.values().any(has_changed)
    }

    /// The providers, if all that leads to them is known.
    pub(super) fn latest(&mut self) -> Option<Drafts> {
        let names = match self.mapping.latest()? {
            Answer::Value(names) => names,
            Answer::Missing | Answer::Refused | Answer::Entries(_) => bytes::Bytes::new(),
        };
        let names = std::str::from_utf8(&names).unwrap_or_default();
        let names: Vec<&str> = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .take(MAX_APPLICATIONS)
            .collect();
        self.applications
            .retain(|name, _| names.contains(&name.as_str()));
        let mut drafts = Drafts::default();
        let mut complete = true;
        for name in names {
            let path = format!("{}/{name}", self.source.roots.services);
            let application =
                self.applications
                    .entry(name.to_owned())
                    .or_insert_with(|| Application {
                        instances: self.source.follow(Query::Entries(path.into())),
                        revisions: BTreeMap::new(),
                    });
            complete &= application.add(name, &self.source, &mut drafts);
        }
        complete.then_some(drafts)
    }
}

impl Application {
    /// Adds its providers; false if something that leads to them is not known yet.
    fn add(&mut self, name: &str, source: &Source, drafts: &mut Drafts) -> bool {
        let Some(instances) = self.instances.latest() else {
            return false;
        };
        drafts.refused |= instances == Answer::Refused;
        let (found, unreadable) = read_instances(&instances);
        drafts.unreadable += unreadable;
        drafts.known |= !found.is_empty();
        let places = places(&found);
        self.revisions
            .retain(|revision, _| places.contains_key(&**revision));
        for (revision, instances) in places {
            source.find(&mut self.revisions, name, revision, instances);
        }
        let mut complete = true;
        for (name_of_revision, revision) in &mut self.revisions {
            let own = found
                .iter()
                .filter(|instance| instance.revision == *name_of_revision);
            match revision.metadata.latest() {
                None => complete = false,
                Some(answer) => {
                    let is_text = matches!(answer, Answer::Value(_));
                    // All instances of a revision have the same services.
                    if let Some(services) = revision.services(&source.offered, answer) {
                        let services = services.get(&source.service);
                        let services = services.map(Vec::as_slice).unwrap_or_default();
                        drafts.drafts.extend(own.flat_map(|instance| {
                            services
                                .iter()
                                .map(move |service| draft(name, instance, service))
                        }));
                    } else if is_text {
                        drafts.unreadable += own.count();
                    }
                }
            }
        }
        complete
    }
}

/// Where the instances of each revision tell its metadata; empty where the registry has it.
fn places(instances: &[Instance]) -> BTreeMap<&str, Instances> {
    let mut places: BTreeMap<&str, Instances> = BTreeMap::new();
    for instance in instances.iter().filter(|own| own.revision != NO_SERVICES) {
        let own = places.entry(&instance.revision).or_default();
        if let (false, Some(port)) = (instance.remote, instance.service_port) {
            own.push((instance.host.clone(), port));
        }
    }
    places
}

impl Source {
    fn follow(&self, query: Query) -> Followed {
        self.store.follow(query, &self.bell)
    }

    /// Follows a revision, and tells who can be asked for it now.
    fn find(
        &self,
        revisions: &mut BTreeMap<String, Revision>,
        application: &str,
        name: &str,
        instances: Instances,
    ) {
        match revisions.get(name) {
            Some(Revision {
                instances: Some(own),
                ..
            }) if !instances.is_empty() => {
                own.send_if_modified(|last| {
                    let differs = *last != instances;
                    *last = instances;
                    differs
                });
            }
            Some(Revision {
                instances: None, ..
            }) if instances.is_empty() => {}
            _ => {
                let former = revisions.remove(name);
                let mut revision = self.revision(application, name, instances);
                revision.read = former.and_then(|own| own.read);
                revisions.insert(name.to_owned(), revision);
            }
        }
    }

    fn revision(&self, application: &str, name: &str, instances: Instances) -> Revision {
        if instances.is_empty() {
            let path = format!("{}/metadata/{application}/{name}", self.roots.dubbo);
            return Revision {
                metadata: self.follow(Query::Value(path.into())),
                instances: None,
                read: None,
            };
        }
        let (sender, instances) = watch::channel(instances);
        let handle = self.store.handle();
        Revision {
            metadata: self
                .metadata
                .follow(handle, &self.bell, application, name, instances),
            instances: Some(sender),
            read: None,
        }
    }
}

/// One running application.
#[derive(Debug, PartialEq, Eq)]
struct Instance {
    host: String,
    port: u16,
    revision: String,
    /// Its metadata is in the registry, not with itself.
    remote: bool,
    /// Where its metadata service listens.
    service_port: Option<u16>,
    since: Option<u64>,
    tag: Option<String>,
    /// Port by protocol.
    endpoints: BTreeMap<String, u16>,
}

/// An instance as Curator writes it, or as Dubbo itself does in etcd.
#[derive(Deserialize)]
struct WrittenInstance {
    #[serde(alias = "address")]
    host: Option<String>,
    port: Option<u16>,
    enabled: Option<bool>,
    #[serde(rename = "registrationTimeUTC")]
    registered: Option<u64>,
    payload: Option<Payload>,
    metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct Payload {
    metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct Endpoint {
    port: u16,
    protocol: String,
}

fn read_instances(answer: &Answer) -> (Vec<Instance>, usize) {
    let Answer::Entries(entries) = answer else {
        return (Vec::new(), 0);
    };
    let mut unreadable = 0;
    let instances = entries
        .iter()
        .filter_map(|(_, value)| match read_instance(value) {
            Some(instance) => instance,
            None => {
                unreadable += 1;
                None
            }
        })
        .collect();
    (instances, unreadable)
}

/// `None` if it cannot be read, `Some(None)` if it takes no calls.
fn read_instance(value: &[u8]) -> Option<Option<Instance>> {
    let written: WrittenInstance = serde_json::from_slice(value).ok()?;
    let metadata = written
        .metadata
        .or_else(|| written.payload?.metadata)
        .unwrap_or_default();
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let Some(revision) = text("dubbo.metadata.revision") else {
        // Spring Cloud keeps its services in the same place.
        return Some(None);
    };
    if written.enabled == Some(false) {
        return Some(None);
    }
    let endpoints: Vec<Endpoint> =
        serde_json::from_str(text("dubbo.endpoints").unwrap_or("[]")).ok()?;
    let parameters: Value =
        serde_json::from_str(text("dubbo.metadata-service.url-params").unwrap_or("{}")).ok()?;
    let service_port = match &parameters["port"] {
        Value::String(port) => port.parse().ok(),
        port => port.as_u64().and_then(|port| u16::try_from(port).ok()),
    };
    Some(Some(Instance {
        host: written.host?,
        port: written.port?,
        revision: revision.to_owned(),
        remote: text("dubbo.metadata.storage-type") == Some("remote"),
        service_port,
        since: text("timestamp")
            .and_then(|since| since.parse().ok())
            .or(written.registered),
        tag: text("dubbo.tag").map(str::to_owned),
        endpoints: endpoints
            .into_iter()
            .map(|endpoint| (endpoint.protocol, endpoint.port))
            .collect(),
    }))
}

/// One service of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Service {
    name: String,
    group: Option<String>,
    version: Option<String>,
    protocol: String,
    port: u16,
    path: String,
    params: BTreeMap<String, String>,
}

fn read_services(text: &[u8]) -> Option<Vec<Service>> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        services: BTreeMap<String, Service>,
    }
    let info: Info = serde_json::from_slice(text).ok()?;
    Some(info.services.into_values().collect())
}

fn draft(application: &str, instance: &Instance, service: &Service) -> Draft {
    let mut parameters = service.params.clone();
    parameters.insert("application".to_owned(), application.to_owned());
    let mut set = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            parameters.insert(name.to_owned(), value.clone());
        }
    };
    set("version", &service.version);
    set("group", &service.group);
    set("dubbo.tag", &instance.tag);
    set("timestamp", &instance.since.map(|since| since.to_string()));
    keep_path(&mut parameters, service.path.clone(), &service.name);
    let provider = described(LayoutKind::DubboApp, &service.protocol, parameters);
    let port = instance.endpoints.get(&service.protocol).copied();
    let port = port.unwrap_or(if service.port > 0 {
        service.port
    } else {
        instance.port
    });
    Draft::new(&instance.host, port, provider)
}

/// Reads a value as an instance, and as the services of a revision, for fuzzing.
pub(super) fn exercise(value: &[u8]) {
    let services = read_services(value).unwrap_or_default();
    let sample = br#"{"host":"10.0.0.1","port":1,"metadata":{"dubbo.metadata.revision":"1"}}"#;
    for instance in [read_instance(value), read_instance(sample)]
        .into_iter()
        .flatten()
        .flatten()
    {
        for service in &services {
            let draft = draft("shop", &instance, service);
            assert_eq!(draft.provider.parameters.get("application"), Some("shop"));
        }
    }
}

/// Where the metadata service of an instance listens, for tests.
#[cfg(test)]
fn metadata_address(value: &[u8]) -> Option<std::net::SocketAddr> {
    let instance = read_instance(value)??;
    format!("{}:{}", instance.host, instance.service_port?)
        .parse()
        .ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// As Dubbo 3.3 for Java wrote it into ZooKeeper.
    const CURATOR: &str = r#"{"name":"demo-provider","id":"192.0.2.2:22890","address":"192.0.2.2","port":22890,"sslPort":null,"payload":{"@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"192.0.2.2:22890","name":"demo-provider","metadata":{"dubbo.endpoints":"[{\"port\":22890,\"protocol\":\"dubbo\"}]","dubbo.metadata-service.url-params":"{\"port\":\"22890\",\"protocol\":\"dubbo\",\"version\":\"1.0.0\"}","dubbo.metadata.revision":"89b2","dubbo.metadata.storage-type":"local","timestamp":"1700000000000"}},"registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}"#;

    #[tokio::test]
    async fn a_revision_is_read_once_for_all_who_follow_it() {
        let offered = Offered::default();
        let text = |version: &str| {
            Bytes::from(format!(
                r#"{{"services":{{"a":{{"name":"a.B","version":"{version}"}},"b":{{"name":"a.C"}}}}}}"#
            ))
        };
        let one = offered.read(&text("1")).unwrap();
        assert_eq!(one["a.B"][0].version.as_deref(), Some("1"));
        assert_eq!((one["a.B"].len(), one.len()), (1, 2));
        // Another service asks for the same, in a text of its own.
        assert!(Arc::ptr_eq(&one, &offered.read(&text("1")).unwrap()));
        let two = offered.read(&text("2")).unwrap();
        assert!(!Arc::ptr_eq(&one, &two));
        assert_eq!(offered.read(&Bytes::from_static(b"{")), None);
        // And it is forgotten with the last of them.
        drop((one, two));
        let _three = offered.read(&text("3"));
        assert_eq!(lock(&offered.0).len(), 1);
        // One who follows it does not even ask again.
        let mut revision = Revision {
            metadata: crate::layout::by_hand(&Bell::default()).1,
            instances: None,
            read: None,
        };
        let value = |version: &str| Answer::Value(text(version));
        let broken = || Answer::Value(Bytes::from_static(b"{"));
        for unknown in [Answer::Missing, broken()] {
            assert_eq!(revision.services(&offered, unknown), None);
        }
        let first = revision.services(&offered, value("4")).unwrap();
        lock(&offered.0).clear();
        let again = revision.services(&offered, value("4")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        // What was read stays, whatever becomes of it in the registry.
        for gone in [Answer::Missing, Answer::Refused, broken()] {
            let still = revision.services(&offered, gone).unwrap();
            assert!(Arc::ptr_eq(&first, &still));
        }
        let other = revision.services(&offered, value("5")).unwrap();
        assert_eq!(other["a.B"][0].version.as_deref(), Some("5"));
    }

    #[test]
    fn an_instance_of_java_in_zookeeper_is_read() {
        let instance = read_instance(CURATOR.as_bytes()).unwrap().unwrap();
        assert_eq!(instance.host, "192.0.2.2");
        assert_eq!(instance.endpoints["dubbo"], 22890);
        assert_eq!(instance.since, Some(1_700_000_000_000));
        assert!(!instance.remote);
        assert_eq!(
            metadata_address(CURATOR.as_bytes()),
            Some(([192, 0, 2, 2], 22890).into())
        );
    }

    #[test]
    fn an_instance_in_etcd_is_read() {
        let text = r#"{"serviceName":"app","host":"10.0.0.1","port":20880,"enabled":true,"healthy":true,"metadata":{"dubbo.metadata.revision":"1f","dubbo.metadata.storage-type":"remote","dubbo.endpoints":"[{\"port\":20880,\"protocol\":\"dubbo\"}]"}}"#;
        let instance = read_instance(text.as_bytes()).unwrap().unwrap();
        assert!(instance.remote);
        let off = text.replace("\"enabled\":true", "\"enabled\":false");
        assert_eq!(read_instance(off.as_bytes()), Some(None));
    }

    #[test]
    fn instances_of_others_are_left_alone() {
        let spring = r#"{"name":"orders","id":"1","address":"127.0.0.1","port":8081,"payload":{"metadata":{"instance_status":"UP"}}}"#;
        assert_eq!(read_instance(spring.as_bytes()), Some(None));
        assert_eq!(read_instance(b"127.0.0.1"), None);
    }

    #[test]
    fn the_services_of_a_revision_become_providers() {
        let info = br#"{"app":"a","revision":"89b2","services":{"g1/com.acme.Pay:1.0.0:dubbo":{"name":"com.acme.Pay","group":"g1","version":"1.0.0","protocol":"dubbo","port":22890,"path":"com.acme.Pay","params":{"side":"provider","weight":"50"}}}}"#;
        let services = read_services(info).unwrap();
        let instance = read_instance(CURATOR.as_bytes()).unwrap().unwrap();
        let draft = draft("demo-provider", &instance, &services[0]);
        assert_eq!((&*draft.host(), draft.port), ("192.0.2.2", 22890));
        let provider = draft.provider;
        assert_eq!(provider.weight, 50);
        assert_eq!((&*provider.version, &*provider.group), ("1.0.0", "g1"));
        assert_eq!(provider.since, Some(1_700_000_000_000));
    }
}
