//! Conversion of the file's types into core's: what cannot work is refused with its place in the file.

mod admin;
mod clusters;
mod concurrency;
mod filters;
mod kafka;
mod limits;
mod listeners;
mod logs;
mod outlets;
mod proxies;
mod registries;
mod rocketmq;
mod routes;
mod several;
mod statsd;
mod subscriptions;
mod tracing;
mod url;
mod warnings;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use finback_core::mesh::{self, RoutingSpec};
use finback_core::trace::Choice;
use finback_registry::{Bridge, HostCluster, LayoutKind, Registration, RegistryConfig, Several};

use super::file::{self, File};
use super::folder::Folder;
use super::units::{Placed, Time};
use super::{Config, Lifecycle, MeshRegistry, Places, TlsFiles, Wrong};
use crate::authentication::ClientCredentials;
use crate::log::LogConfig;
use crate::tls::ClientFiles;
use crate::traces::TracingSpec;

use clusters::{cluster_spec, policy};
use limits::{lifecycle, limits};
use listeners::{Frame, Listeners, expect_spoken, listeners};
use outlets::Named;
use registries::{bridge, mesh_registry as mesh_registry_of, registrations, registry_spec};
use routes::table;
use subscriptions::subscription;

/// More workers than any machine has cores for; a slip of the keyboard.
const MAX_WORKERS: usize = 1024;

type Result<T> = std::result::Result<T, Wrong>;

/// Converts the whole file.
///
/// # Errors
/// Everything that is wrong with it: the first mistake of each listener, route, cluster and so on.
pub(super) fn config(
    mut file: File,
    folder: &Folder<'_>,
) -> std::result::Result<Config, Vec<Wrong>> {
    let mut wrongs = Wrongs::default();
    let found = warnings::of(&file);
    let idle = concurrency::check(&file);
    let (outlets, tracing) = outlets_and_tracing(&mut file, folder, &mut wrongs)?;
    idle.into_iter().for_each(|own| wrongs.add(own));
    let names = Names::of(&file, tracing.as_ref().map(|own| own.choice), outlets);
    let process = Process::of(&mut file, folder, &mut wrongs);
    let mut registered = Registered::of(&mut file, &names, folder, &mut wrongs);
    let subscriptions = std::mem::take(&mut file.subscriptions).into_iter();
    let subscriptions = subscriptions.map(|own| subscription(own, &names, folder));
    let subscriptions: Vec<_> = wrongs.all(subscriptions);
    let groups = std::mem::take(&mut file.groups).into_iter();
    let groups = routes::taps::groups(groups, &names);
    let groups: Vec<_> = wrongs.all(groups);
    let brings = !subscriptions.is_empty() || !groups.is_empty();
    if file.listeners.value.is_empty() && !brings {
        let message = "without a listener nothing would ever come in; write one";
        wrongs.add(Wrong::at(file.listeners.place, message));
    }
    let snapshots = file.snapshots.take();
    let snapshots = snapshots.map(|snapshots| folder.join(snapshots.folder));
    let routed = Routed::of(file, &process, &names, folder, &mut wrongs);
    registered.add_from_clusters(&names);
    wrongs.none()?;
    let needed = || routed.needed.iter().flatten();
    let all = routed.listeners;
    let brokers = all.brokers();
    Ok(Config {
        take_over: false,
        warnings: Vec::new(),
        places: Places {
            listeners: all.places,
            ..Places::default()
        },
        found,
        shown: serde_json::Value::Null,
        outlets: names.outlets.all(),
        background: needed().map(filters::Needed::background).collect(),
        subscriptions,
        groups,
        workers: process.workers,
        admin: process.admin,
        statsd: process.statsd,
        registries: registered.registries,
        registrations: registered.registrations,
        bridges: registered.bridges,
        mesh_registry: registered.mesh_registry,
        snapshots,
        files: TlsFiles {
            listeners: all.tls,
            clusters: routed.cluster_tls,
            registry_clusters: routed.registry_tls,
            servers: needed().filter_map(filters::Needed::tls).collect(),
            keys: needed().filter_map(filters::Needed::keys).collect(),
            kafka: names.outlets.kafka.into_values().collect(),
            credentials: names.credentials.into_inner(),
        },
        listeners: all.specs,
        brokers,
        routing: routed.routing,
        lifecycle: process.lifecycle,
        log: process.log,
        access_logs: all.access_logs,
        tracing,
    })
}

/// Clusters that messages go to, and tracing, which other parts of the file refer to.
///
/// # Errors
/// What is wrong there, which would be missing elsewhere.
fn outlets_and_tracing(
    file: &mut File,
    folder: &Folder<'_>,
    wrongs: &mut Wrongs,
) -> std::result::Result<(Named, Option<TracingSpec>), Vec<Wrong>> {
    let (kafka, rocketmq) = (&mut file.kafka, &mut file.rocketmq);
    let outlets = Named::of(
        std::mem::take(kafka),
        std::mem::take(rocketmq),
        folder,
        wrongs,
    );
    let tracing = file.tracing.take();
    let tracing = tracing.map(|own| tracing::tracing(own, folder));
    let tracing = wrongs.one(tracing.transpose()).flatten();
    wrongs.none()?;
    Ok((outlets, tracing))
}

/// What is about the process itself, and the bounds of all that it does.
struct Process {
    workers: usize,
    admin: Option<crate::admin::Settings>,
    statsd: Option<finback_observability::statsd::Settings>,
    lifecycle: Lifecycle,
    log: LogConfig,
    limits: mesh::Limits,
    frame: Frame,
}

impl Process {
    fn of(file: &mut File, folder: &Folder<'_>, wrongs: &mut Wrongs) -> Self {
        let workers = wrongs.one(workers(file.workers.as_ref())).unwrap_or(1);
        let admin = file.admin.take();
        let admin = admin.map(|admin| admin_settings(admin, folder));
        let admin = wrongs.one(admin.transpose()).flatten();
        let statsd = file.metrics.statsd.take().map(statsd::settings);
        let statsd = wrongs.one(statsd.transpose()).flatten();
        let lifecycle = lifecycle(&file.limits);
        let log = wrongs.one(logs::log(std::mem::take(&mut file.log)));
        let limits = wrongs.one(limits(std::mem::take(&mut file.limits)));
        let (limits, longest) = limits.unwrap_or_default();
        Self {
            workers,
            admin,
            statsd,
            lifecycle,
            log: log.unwrap_or_default(),
            frame: Frame {
                most: longest,
                queue_hard: limits.queue_hard,
            },
            limits,
        }
    }
}

/// Registries, and what is written into them.
struct Registered {
    registries: Vec<(String, RegistryConfig)>,
    registrations: Vec<Registration>,
    bridges: Vec<Bridge>,
    mesh_registry: Option<MeshRegistry>,
}

impl Registered {
    fn of(file: &mut File, names: &Names, folder: &Folder<'_>, wrongs: &mut Wrongs) -> Self {
        let registries = std::mem::take(&mut file.registries).into_iter();
        let registries = registries.map(|(name, own)| Ok((name, registry_spec(own, folder)?)));
        let registries = wrongs.all(registries);
        let registrations = registrations(std::mem::take(&mut file.register), names);
        let registrations = wrongs.one(registrations).unwrap_or_default();
        let bridges = std::mem::take(&mut file.bridges).into_iter();
        let bridges = wrongs.all(bridges.map(|from| bridge(from, names)));
        let mesh_registry = file.mesh_registry.take();
        let mesh_registry = mesh_registry.map(|from| mesh_registry_of(from, names));
        Self {
            registries,
            registrations,
            bridges,
            mesh_registry: wrongs.one(mesh_registry.transpose()).flatten(),
        }
    }

    /// Adds those that routes and clusters make: several registries as one, and host names.
    fn add_from_clusters(&mut self, names: &Names) {
        let several = names.several.take().into_iter();
        let several = several.map(|(name, own)| (name, RegistryConfig::Several(own)));
        self.registries.extend(several);
        let hosts = names.hosts.take();
        if !hosts.is_empty() {
            let hosts = RegistryConfig::Hosts(hosts);
            self.registries.push((clusters::HOSTS.to_owned(), hosts));
        }
    }
}

/// Where calls come in and where they go.
struct Routed {
    listeners: Listeners,
    routing: RoutingSpec,
    /// What filters need beside the data path.
    needed: Vec<Vec<filters::Needed>>,
    /// The files of clusters' TLS, in their order.
    cluster_tls: Vec<Option<Placed<ClientFiles>>>,
    registry_tls: Option<Placed<ClientFiles>>,
}

impl Routed {
    fn of(
        file: File,
        process: &Process,
        names: &Names,
        folder: &Folder<'_>,
        wrongs: &mut Wrongs,
    ) -> Self {
        let mut all = listeners(file.listeners, process.frame, names, folder, wrongs);
        let tables = file.routes.into_iter();
        let tables: Vec<_> = tables
            .flat_map(|(name, routes)| table(&name, routes, &all.specs, (names, folder), wrongs))
            .collect();
        rocketmq::settle(&mut all, &tables, wrongs);
        let filters = file.filters.into_iter().map(|(name, from)| {
            let place = from.place;
            let converted = filters::filter(&name, from, folder)?;
            filters::check(&name, (&converted, place), &tables, &all.specs)?;
            Ok(((name.into(), converted.filter), converted.needed))
        });
        let (filters, needed) = wrongs.all(filters).into_iter().unzip();
        let clusters = file.clusters.into_iter().map(|(name, mut cluster)| {
            let told = cluster.value.proxy_protocol.take();
            let (mut spec, tls) = cluster_spec(&name, cluster, names, folder)?;
            if let Some(told) = told {
                let place = told.place;
                spec.policy.proxy_header = Some(proxies::version(told)?);
                proxies::check(&spec, place, &tables, &all.specs)?;
            }
            Ok((spec, tls))
        });
        let (clusters, cluster_tls) = wrongs.all(clusters).into_iter().unzip();
        let registry_policy = file.registry_clusters;
        let registry_policy = registry_policy.map(|own| policy(own.value, folder));
        let registry_policy = wrongs.one(registry_policy.transpose()).flatten();
        let (registry_policy, registry_tls) = registry_policy.unwrap_or_default();
        Self {
            routing: RoutingSpec {
                tables,
                clusters,
                filters,
                listener_filters: std::mem::take(&mut all.filters),
                registry_policy,
                limits: process.limits.clone(),
            },
            listeners: all,
            needed,
            cluster_tls,
            registry_tls,
        }
    }
}

/// What is wrong, collected: one mistake hides no other.
#[derive(Default)]
struct Wrongs(Vec<Wrong>);

impl Wrongs {
    fn add(&mut self, wrong: Wrong) {
        self.0.push(wrong);
    }

    fn one<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|wrong| self.add(wrong)).ok()
    }

    fn all<T>(&mut self, results: impl Iterator<Item = Result<T>>) -> Vec<T> {
        results.filter_map(|result| self.one(result)).collect()
    }

    /// # Errors
    /// What was found, if anything was.
    fn none(&mut self) -> std::result::Result<(), Vec<Wrong>> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(std::mem::take(&mut self.0)),
        }
    }
}

/// The names that other parts of the file may refer to.
struct Names {
    registries: Vec<String>,
    /// Registries without servers: they have no layouts, and nothing can be written there.
    lists: Vec<String>,
    /// Registries that are asked together, by the name under which they are one.
    several: RefCell<BTreeMap<String, Several>>,
    /// Clusters whose endpoints have host names.
    hosts: RefCell<BTreeMap<String, HostCluster>>,
    clusters: Vec<String>,
    filters: Vec<String>,
    tables: Vec<String>,
    /// Which calls are traced, if any are.
    tracing: Option<Choice>,
    outlets: Named,
    /// What clients of MQTT are asked for; read when the whole configuration is good.
    credentials: RefCell<Vec<Placed<Arc<ClientCredentials>>>>,
}

impl Names {
    /// The names in a file whose outlets were taken out of it.
    fn of(file: &File, tracing: Option<Choice>, outlets: Named) -> Self {
        let without_servers = |registry: &Placed<file::Registry>| {
            registry.value.zookeeper.is_none() && registry.value.etcd.is_none()
        };
        let lists = file.registries.iter();
        let lists = lists.filter(|(_, registry)| without_servers(registry));
        Self {
            tracing,
            registries: file.registries.keys().cloned().collect(),
            lists: lists.map(|(name, _)| name.clone()).collect(),
            several: RefCell::default(),
            hosts: RefCell::default(),
            clusters: file.clusters.keys().cloned().collect(),
            filters: file.filters.keys().cloned().collect(),
            tables: file.routes.keys().cloned().collect(),
            outlets,
            credentials: RefCell::default(),
        }
    }
}

fn known(list: &[String], kind: &str, name: &Placed<String>) -> Result<()> {
    if list.contains(&name.value) {
        return Ok(());
    }
    let instead = if list.is_empty() {
        "the file has none".to_owned()
    } else {
        format!("write one of: {}", list.join(", "))
    };
    let message = format!("no {kind} is called `{}`; {instead}", name.value);
    Err(Wrong::at(name.place, message))
}

/// The name, which must not be empty.
fn named(name: Placed<String>) -> Result<String> {
    if name.value.is_empty() {
        let message = "a service without a name cannot be looked up; write its name";
        return Err(Wrong::at(name.place, message));
    }
    Ok(name.value)
}

fn layout(name: &Placed<String>) -> Result<LayoutKind> {
    LayoutKind::named(&name.value).ok_or_else(|| {
        let all = LayoutKind::names().join(", ");
        let message = format!("no layout is called `{}`; write one of: {all}", name.value);
        Wrong::at(name.place, message)
    })
}

fn workers(given: Option<&Placed<usize>>) -> Result<usize> {
    match given {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(Placed { value: 0, place }) => Err(Wrong::at(
            *place,
            "0 workers can do no work; write 1 or more",
        )),
        Some(Placed { value, place }) if *value > MAX_WORKERS => Err(Wrong::at(
            *place,
            format!("{value} workers are too many; write one per core, at most {MAX_WORKERS}"),
        )),
        Some(given) => Ok(given.value),
    }
}

fn address(text: &str, place: (u64, u64)) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        let remedy = match text.rsplit_once(':') {
            // A name is good where calls go, not where they come in.
            Some((host, port)) if port.parse::<u16>().is_ok() => match host {
                "" => format!("write 0.0.0.0:{port} for every address of this host"),
                _ => format!(
                    "host names are for a cluster's `endpoints`; write 127.0.0.1:{port} or 0.0.0.0:{port}"
                ),
            },
            _ => "write an IP address and port, such as 127.0.0.1:12220".to_owned(),
        };
        Wrong::at(place, format!("`{text}` is not an address; {remedy}"))
    })
}

/// The admin port's settings, which must lead to something.
pub(super) fn admin_settings(
    from: Placed<file::Admin>,
    folder: &Folder<'_>,
) -> Result<crate::admin::Settings> {
    let settings = admin::settings(from.value, folder)?;
    if !admin::serves(&settings) {
        let message = "an admin port without an address serves nothing; write `address`";
        return Err(Wrong::at(from.place, message));
    }
    Ok(settings)
}

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(value) = from {
        *to = value;
    }
}

fn set_time(to: &mut std::time::Duration, from: Option<Time>) {
    set(to, from.map(|Time(time)| time));
}
