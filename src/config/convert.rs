//! The file's types become core's; what does not make sense is refused with its place.

mod admin;
mod clusters;
mod concurrency;
mod filters;
mod kafka;
mod logs;
mod outlets;
mod proxies;
mod registries;
mod rocketmq;
mod routes;
mod several;
mod statsd;
mod tracing;
mod url;
mod warnings;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use finback_core::driver::{ListenerSpec, Protocol};
use finback_core::mesh::{self, RoutingSpec};
use finback_core::trace::Choice;
use finback_registry::{HostCluster, LayoutKind, RegistryConfig, Several};

use super::file::{self, File};
use super::folder::Folder;
use super::units::{Pause, Placed, Size, Time};
use super::{Config, Lifecycle, Places, TlsFiles, Wrong};
use crate::access_log::AccessLogConfig;
use crate::authentication::Credentials;
use crate::protocols;
use crate::rocketmq::BrokerListeners;
use crate::subscriber::Subscription;
use crate::tls::{PairFiles, ServerFiles};

use self::rocketmq::OfListener;
use clusters::{cluster_spec, policy};
use outlets::Named;
use registries::{bridge, mesh_registry, registrations, registry_spec};
use routes::table;

/// More workers than any machine has cores for; a slip of the keyboard.
const MAX_WORKERS: usize = 1024;

type Result<T> = std::result::Result<T, Wrong>;

/// Converts the whole file.
///
/// # Errors
/// Everything that is wrong with it: the first mistake of each listener, route, cluster and so on.
pub(super) fn config(file: File, folder: &Folder<'_>) -> std::result::Result<Config, Vec<Wrong>> {
    let mut wrongs = Wrongs::default();
    let found = warnings::of(&file);
    let idle = concurrency::check(&file);
    let outlets = Named::of(file.kafka, file.rocketmq, folder, &mut wrongs);
    let tracing = file.tracing.map(|own| tracing::tracing(own, folder));
    let tracing = wrongs.one(tracing.transpose()).flatten();
    // What is wrong there would be missing elsewhere.
    wrongs.none()?;
    idle.into_iter().for_each(|own| wrongs.add(own));
    let names = Names {
        tracing: tracing.as_ref().map(|own| own.choice),
        registries: file.registries.keys().cloned().collect(),
        lists: file
            .registries
            .iter()
            .filter(|(_, registry)| {
                registry.value.zookeeper.is_none() && registry.value.etcd.is_none()
            })
            .map(|(name, _)| name.clone())
            .collect(),
        several: RefCell::default(),
        hosts: RefCell::default(),
        clusters: file.clusters.keys().cloned().collect(),
        filters: file.filters.keys().cloned().collect(),
        tables: file.routes.keys().cloned().collect(),
        outlets,
        credentials: RefCell::default(),
    };
    let workers = wrongs.one(workers(file.workers.as_ref())).unwrap_or(1);
    let admin = file.admin.map(|admin| admin_settings(admin, folder));
    let admin = wrongs.one(admin.transpose()).flatten();
    let statsd = file.metrics.statsd.map(statsd::settings);
    let statsd = wrongs.one(statsd.transpose()).flatten();
    let registries = file.registries.into_iter();
    let registries = registries.map(|(name, own)| Ok((name, registry_spec(own, folder)?)));
    let mut registries: Vec<_> = wrongs.all(registries);
    let registrations = wrongs
        .one(registrations(file.register, &names))
        .unwrap_or_default();
    let bridges = wrongs.all(file.bridges.into_iter().map(|from| bridge(from, &names)));
    let mesh_registry = file.mesh_registry.map(|from| mesh_registry(from, &names));
    let mesh_registry = wrongs.one(mesh_registry.transpose()).flatten();
    let subscriptions = file.subscriptions.into_iter();
    let subscriptions: Vec<_> =
        wrongs.all(subscriptions.map(|own| subscription(own, &names, folder)));
    let lifecycle = lifecycle(&file.limits);
    let log = wrongs.one(logs::log(file.log)).unwrap_or_default();
    let (limits, longest) = wrongs.one(limits(file.limits)).unwrap_or_default();
    let frame = Frame {
        most: longest,
        queue_hard: limits.queue_hard,
    };
    if file.listeners.value.is_empty() && subscriptions.is_empty() {
        let message = "without a listener nothing would ever come in; write one";
        wrongs.add(Wrong::at(file.listeners.place, message));
    }
    let mut all = listeners(file.listeners, frame, &names, folder, &mut wrongs);
    let tables: Vec<_> = file
        .routes
        .into_iter()
        .flat_map(|(name, routes)| table(&name, routes, &all.specs, (&names, folder), &mut wrongs))
        .collect();
    rocketmq::settle(&mut all, &tables, &mut wrongs);
    let filters = file.filters.into_iter().map(|(name, from)| {
        let place = from.place;
        let converted = filters::filter(&name, from, folder)?;
        filters::check(&name, (&converted, place), &tables, &all.specs)?;
        Ok(((name.into(), converted.filter), converted.needed))
    });
    let (filters, needed): (_, Vec<_>) = wrongs.all(filters).into_iter().unzip();
    let needed = || needed.iter().flatten();
    let Listeners {
        specs: listeners,
        tls: listener_tls,
        access_logs,
        places: listener_places,
        rocketmq,
        filters: listener_filters,
    } = all;
    let clusters = file.clusters.into_iter().map(|(name, mut cluster)| {
        let told = cluster.value.proxy_protocol.take();
        let (mut spec, tls) = cluster_spec(&name, cluster, &names, folder)?;
        if let Some(told) = told {
            let place = told.place;
            spec.policy.proxy_header = Some(proxies::version(told)?);
            proxies::check(&spec, place, &tables, &listeners)?;
        }
        Ok((spec, tls))
    });
    let (clusters, cluster_tls) = wrongs.all(clusters).into_iter().unzip();
    let registry_policy = file.registry_clusters.map(|own| policy(own.value, folder));
    let registry_policy = wrongs.one(registry_policy.transpose()).flatten();
    let (registry_policy, registry_tls) = registry_policy.unwrap_or_default();
    let several = names.several.take().into_iter();
    registries.extend(several.map(|(name, own)| (name, RegistryConfig::Several(own))));
    let hosts = names.hosts.take();
    if !hosts.is_empty() {
        registries.push((clusters::HOSTS.to_owned(), RegistryConfig::Hosts(hosts)));
    }
    let routing = RoutingSpec {
        tables,
        clusters,
        filters,
        listener_filters,
        registry_policy,
        limits,
    };
    wrongs.none()?;
    Ok(Config {
        take_over: false,
        warnings: Vec::new(),
        places: Places {
            listeners: listener_places,
            ..Places::default()
        },
        found,
        shown: serde_json::Value::Null,
        outlets: names.outlets.all(),
        background: needed().map(filters::Needed::background).collect(),
        subscriptions,
        workers,
        admin,
        statsd,
        registries,
        registrations,
        bridges,
        mesh_registry,
        snapshots: file
            .snapshots
            .map(|snapshots| folder.join(snapshots.folder)),
        listeners,
        brokers: rocketmq
            .into_iter()
            .map(|own| (own.name, own.brokers))
            .collect(),
        routing,
        lifecycle,
        log,
        access_logs,
        tracing,
        files: TlsFiles {
            listeners: listener_tls,
            clusters: cluster_tls,
            registry_clusters: registry_tls,
            servers: needed().filter_map(filters::Needed::tls).collect(),
            keys: needed().filter_map(filters::Needed::keys).collect(),
            kafka: names.outlets.kafka.into_values().collect(),
            credentials: names.credentials.into_inner(),
        },
    })
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

/// All listeners, with what is kept beside core's words for them.
#[derive(Default)]
struct Listeners {
    specs: Vec<ListenerSpec>,
    /// The files of each one's TLS.
    tls: Vec<Option<Placed<ServerFiles>>>,
    access_logs: Vec<(Arc<str>, AccessLogConfig)>,
    /// Those that speak RocketMQ.
    rocketmq: Vec<OfListener>,
    /// The filters that all calls of each one pass, by its name.
    filters: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
    /// Where each one's address stands, by name.
    places: Vec<(Arc<str>, (u64, u64))>,
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
    credentials: RefCell<Vec<Placed<Arc<Credentials>>>>,
}

fn subscription(
    value: file::MqttSubscription,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<Subscription> {
    let broker = value.broker.value.rsplit_once(':');
    let broker = broker.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let Some(broker) = broker.filter(|(host, _): &(String, u16)| !host.is_empty()) else {
        let message = format!(
            "`{}` is no broker; write HOST:PORT, such as 127.0.0.1:1883",
            value.broker.value
        );
        return Err(Wrong::at(value.broker.place, message));
    };
    if value.client_id.value.is_empty() {
        let message = "a subscription without a client identifier could not be kept; write one";
        return Err(Wrong::at(value.client_id.place, message));
    }
    let Placed {
        value: topics,
        place: topics_place,
    } = value.topics;
    let level = finback_mqtt::codec::Level::V5;
    if topics.is_empty()
        || !topics
            .iter()
            .all(|topic| finback_mqtt::is_filter(topic, level))
    {
        let message = "write topic filters, such as plant/#";
        return Err(Wrong::at(topics_place, message));
    }
    let login = match (value.username, value.password_file) {
        (None, None) => None,
        (Some(user), None) => Some((user, String::new())),
        (Some(user), Some(file)) => Some((user, folder.secret(&file)?)),
        (None, Some(file)) => {
            return Err(Wrong::at(file.place, "a password needs a `username` too"));
        }
    };
    if let Some(tls) = value.tls.as_ref().filter(|t| t.value.server_name.is_some()) {
        let message =
            "a subscription asks for the certificate of its broker's host; leave `server_name` out";
        return Err(Wrong::at(tls.place, message));
    }
    let tls = value
        .tls
        .map(|tls| clusters::client_files(tls, folder))
        .transpose()?;
    Ok(Subscription {
        broker,
        client_id: value.client_id.value,
        login,
        tls: tls.map(|tls| tls.value),
        topics,
        sink: routes::produce::sink(value.produce, true, names)?,
    })
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
        Wrong::at(place, format!("`{text}` is no address; {remedy}"))
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

fn listeners(
    listeners: Placed<Vec<file::Listener>>,
    frame: Frame,
    names: &Names,
    folder: &Folder<'_>,
    wrongs: &mut Wrongs,
) -> Listeners {
    let mut all = Listeners::default();
    for listener in listeners.value {
        let added = add_listener(&mut all, listener, frame, names, folder);
        wrongs.one(added);
    }
    all
}

fn add_listener(
    all: &mut Listeners,
    mut listener: file::Listener,
    frame: Frame,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<()> {
    let place = listener.address.place;
    let access_log = listener.access_log.take();
    let filters = filters::named(std::mem::take(&mut listener.filters), &names.filters)?;
    let rocketmq = rocketmq::settings(
        listener.rocketmq.take(),
        listener.protocol.as_ref(),
        frame,
        names,
    )?;
    let brokers = rocketmq
        .as_ref()
        .map(|own| BrokerListeners::new(own.value.clone()));
    let spoken = rocketmq.as_ref().zip(brokers.as_ref());
    let spoken = spoken.map(|(own, brokers)| protocols::RocketMq {
        settings: own.value.clone(),
        brokers: brokers.clone(),
    });
    let (spec, tls) = listener_spec(listener, frame, spoken, names, folder)?;
    if all.specs.iter().any(|other| other.name == spec.name) {
        let message = format!("two listeners are called `{}`; rename one", spec.name);
        return Err(Wrong::at(place, message));
    }
    let clash = |other: &ListenerSpec| other.address == spec.address;
    if spec.address.port() != 0 && all.specs.iter().any(clash) {
        let message = format!("two listeners have the address {}; move one", spec.address);
        return Err(Wrong::at(place, message));
    }
    if let Some(placed) = access_log {
        let place = placed.place;
        let config = logs::access_log(placed, folder)?;
        // One file is written by one thread, which knows one way of moving it away.
        let path = |own: &AccessLogConfig| own.target.to_string();
        let differs = |own: &(Arc<str>, AccessLogConfig)| {
            path(&own.1) == path(&config) && own.1.target != config.target
        };
        if all.access_logs.iter().any(differs) {
            let message = "another listener writes there, with another `rotate`; write the same";
            return Err(Wrong::at(place, message));
        }
        all.access_logs.push((spec.name.clone(), config));
    }
    if let (Some(Placed { place, .. }), Some(brokers)) = (rocketmq, brokers) {
        all.rocketmq.push(OfListener {
            name: spec.name.clone(),
            place,
            brokers,
        });
    }
    if !filters.is_empty() {
        all.filters.insert(spec.name.clone(), filters);
    }
    all.places.push((spec.name.clone(), place));
    all.tls.push(tls);
    all.specs.push(spec);
    Ok(())
}

/// How long frames may be.
#[derive(Clone, Copy)]
struct Frame {
    /// As configured.
    most: Option<usize>,
    /// What may wait for a client: no frame is longer.
    queue_hard: usize,
}

fn listener_spec(
    from: file::Listener,
    frame: Frame,
    rocketmq: Option<protocols::RocketMq>,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<(ListenerSpec, Option<Placed<ServerFiles>>)> {
    let address = address(&from.address.value, from.address.place)?;
    known(&names.tables, "route table", &from.routes)?;
    let auto = from.protocol.as_ref().is_none_or(|own| own.value == "auto");
    let tcp_fallback = match from.tcp_fallback {
        Some(Placed { value: true, place }) if !auto => {
            let message = "`tcp_fallback` is for `protocol: auto`; take one of them away";
            return Err(Wrong::at(place, message));
        }
        given => given.is_some_and(|given| given.value),
    };
    let settings = protocols::Settings {
        tcp_fallback,
        max_frame: frame.most,
        queue_hard: frame.queue_hard,
        opaque_service: from.opaque_service,
        mqtt: mqtt_bounds(from.mqtt, from.protocol.as_ref(), frame.most)?,
        http: http_bounds(from.http, from.protocol.as_ref())?,
        rocketmq,
    };
    let protocols = match &from.protocol {
        None => protocols::named("auto", &settings).unwrap_or_default(),
        Some(name) => protocols::named(&name.value, &settings).ok_or_else(|| {
            let all = protocols::names().join(", ");
            let message = format!(
                "no protocol is called `{}`; write auto or one of: {all}",
                name.value
            );
            Wrong::at(name.place, message)
        })?,
    };
    let tls = match from.tls {
        None => None,
        Some(tls) => Some(server_files(tls, &protocols, folder)?),
    };
    let proxies = proxies::proxies(from.trusted_proxies, from.proxy_protocol, &protocols)?;
    let spec = ListenerSpec {
        pinned: None,
        gauges: Arc::default(),
        proxies,
        name: from.name.unwrap_or_else(|| address.to_string()).into(),
        address,
        protocols,
        routes: from.routes.value.as_str().into(),
        tls: None,
        reveal_endpoints: from.reveal_endpoints,
        settings: format!("{settings:?} {:?}", tls.as_ref().map(|tls| &tls.value)).into(),
    };
    Ok((spec, tls))
}

fn mqtt_bounds(
    from: Option<Placed<file::MqttListener>>,
    protocol: Option<&Placed<String>>,
    max_frame: Option<usize>,
) -> Result<finback_mqtt::Config> {
    let mut config = finback_mqtt::Config::default();
    set(&mut config.packet, max_frame);
    let Some(Placed { value, place }) = from else {
        return Ok(config);
    };
    expect_spoken(finback_mqtt::NAME, protocol, place)?;
    set_time(&mut config.connect_timeout, value.connect_timeout);
    set_time(&mut config.connack_timeout, value.connack_timeout);
    set_time(&mut config.auth_timeout, value.auth_timeout);
    set_time(&mut config.answer_timeout, value.answer_timeout);
    set(
        &mut config.subscriptions,
        value.subscriptions.map(NonZeroUsize::get),
    );
    config.origins = value
        .origins
        .into_iter()
        .map(origin)
        .collect::<Result<_>>()?;
    set(
        &mut config.connect_packet,
        value.connect_packet.map(|Size(own)| own),
    );
    set(
        &mut config.connecting,
        value.connecting.map(NonZeroUsize::get),
    );
    config.connect_rate = value.connect_rate.map(NonZeroU32::get);
    Ok(config)
}

/// An origin as browsers write it (RFC 6454, section 6.1): nothing else could ever match.
fn origin(Placed { value, place }: Placed<String>) -> Result<String> {
    let host = value.split_once("://");
    let is_origin = host.is_some_and(|(scheme, host)| {
        let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        !scheme.is_empty()
            && !host.is_empty()
            && letters(&value)
            && !host.contains(['/', '*', '?', '#'])
    });
    if is_origin {
        return Ok(value);
    }
    let message = format!("`{value}` is no origin; write one such as https://app.acme.test");
    Err(Wrong::at(place, message))
}

fn http_bounds(
    from: Option<Placed<file::HttpListener>>,
    protocol: Option<&Placed<String>>,
) -> Result<finback_http::Config> {
    let mut config = finback_http::Config::default();
    let Some(Placed { value, place }) = from else {
        return Ok(config);
    };
    expect_spoken(finback_http::NAME, protocol, place)?;
    for (own, head) in [
        (&mut config.head, value.header_size),
        (&mut config.response_head, value.response_header_size),
    ] {
        if let Some(Placed {
            value: Size(most),
            place,
        }) = head
        {
            if !(1..=finback_http::MOST_HEAD).contains(&most) {
                let message = "headers have up to 256KiB in all; write no more, and not 0";
                return Err(Wrong::at(place, message));
            }
            *own = most;
        }
    }
    set(&mut config.normalize_path, value.normalize_path);
    set(&mut config.proxy_100_continue, value.proxy_100_continue);
    set(&mut config.h2c_upgrade, value.h2c_upgrade);
    if let Some(Placed { value, place }) = value.header_count {
        let most = finback_http::MOST_HEADERS;
        if value.get() > most {
            let message = format!("{value} headers are too many; write {most} at most");
            return Err(Wrong::at(place, message));
        }
        config.headers = value.get();
    }
    set(&mut config.target, value.uri_size.map(|Size(own)| own));
    set_time(&mut config.head_timeout, value.header_timeout);
    let rate = value.body_rate.map(|Size(own)| own as u64);
    set(&mut config.body_rate, rate);
    set(&mut config.streams, value.streams.map(NonZeroU32::get));
    set(&mut config.requests, value.requests);
    config.idle = value.idle.map(|Time(own)| own).or(config.idle);
    Ok(config)
}

/// Refuses bounds of a protocol that the listener does not speak.
fn expect_spoken(name: &str, protocol: Option<&Placed<String>>, place: (u64, u64)) -> Result<()> {
    if protocol.is_some_and(|own| own.value != name && own.value != "auto") {
        let message = format!("`{name}` is for listeners that speak it; take it away");
        return Err(Wrong::at(place, message));
    }
    Ok(())
}

fn server_files(
    Placed { value, place }: Placed<file::ListenerTls>,
    protocols: &[Arc<dyn Protocol>],
    folder: &Folder<'_>,
) -> Result<Placed<ServerFiles>> {
    if value.certificates.is_empty() {
        return Err(Wrong::at(place, "TLS needs a certificate; write one"));
    }
    if value.client_optional && value.client_ca.is_none() {
        let message = "`client_optional` needs a `client_ca` to check the others by";
        return Err(Wrong::at(place, message));
    }
    if value.close_expired && value.client_ca.is_none() {
        let message = "`close_expired` needs a `client_ca` whose certificates may end; write one";
        return Err(Wrong::at(place, message));
    }
    let revoked = revoked(value.crl, value.client_ca.as_ref(), "client_ca", folder)?;
    let pairs = value.certificates.into_iter();
    // HTTP/2 is preferred where both are spoken, whoever else begins as HTTP/1.1.
    let mut application: Vec<_> = protocols
        .iter()
        .flat_map(|own| own.application_protocols().iter().map(|name| name.to_vec()))
        .collect();
    application.sort_by_key(|name| name == b"http/1.1");
    application.dedup();
    let value = ServerFiles {
        pairs: pairs
            .map(|pair| PairFiles {
                chain: folder.join(pair.certificate),
                key: folder.join(pair.key),
                ocsp: pair.ocsp.map(|ocsp| folder.join(ocsp)),
            })
            .collect(),
        client_authorities: value.client_ca.map(|ca| folder.join(ca)),
        revoked,
        client_optional: value.client_optional,
        close_expired: value.close_expired,
        plain: value.plain,
        application,
    };
    Ok(Placed { value, place })
}

/// Files of revocation lists, which say nothing without the authorities that are trusted.
fn revoked(
    lists: Vec<Placed<String>>,
    authorities: Option<&String>,
    key: &str,
    folder: &Folder<'_>,
) -> Result<Vec<PathBuf>> {
    match lists.first() {
        Some(first) if authorities.is_none() => {
            let message = format!("`crl` needs a `{key}` whose certificates it revokes; write one");
            Err(Wrong::at(first.place, message))
        }
        _ => Ok(lists.iter().map(|list| folder.join(&list.value)).collect()),
    }
}

fn lifecycle(from: &file::Limits) -> Lifecycle {
    let mut lifecycle = Lifecycle {
        drain_delay: from.drain_delay.map(|Pause(time)| time),
        ..Lifecycle::default()
    };
    set(
        &mut lifecycle.registry_wait,
        from.registry_wait.map(|Pause(time)| time),
    );
    lifecycle
}

/// The bounds, and the longest frame if that is said.
fn limits(from: file::Limits) -> Result<(mesh::Limits, Option<usize>)> {
    let descriptors = Descriptors::of_this_process();
    let mut limits = mesh::Limits {
        connections: descriptors.clients(),
        upstream_connections: descriptors.endpoints(),
        ..mesh::Limits::default()
    };
    let size = |from: Option<Size>| from.map(|Size(bytes)| bytes);
    let pause = |from: Option<Pause>| from.map(|Pause(time)| time);
    let soft = from.queue_soft.as_ref().map(|soft| soft.value);
    set(
        &mut limits.connections,
        from.connections.map(NonZeroUsize::get),
    );
    set(
        &mut limits.upstream_connections,
        from.upstream_connections.map(NonZeroUsize::get),
    );
    set(
        &mut limits.in_flight_per_connection,
        from.in_flight_per_connection.map(NonZeroU32::get),
    );
    set(&mut limits.queue_soft, size(soft));
    set(&mut limits.queue_hard, size(from.queue_hard));
    set(&mut limits.frame_rate, size(from.frame_rate));
    set(&mut limits.unfinished, size(from.unfinished));
    set_time(&mut limits.idle, from.idle);
    set_time(&mut limits.sniff, from.detect_timeout);
    set_time(&mut limits.call_timeout, from.call_timeout);
    set_time(&mut limits.call_timeout_max, from.call_timeout_max);
    set(&mut limits.half_closed, pause(from.half_closed));
    set(&mut limits.services, from.services.map(NonZeroUsize::get));
    set(&mut limits.drain_grace, pause(from.drain_grace));
    set(&mut limits.drain, pause(from.drain));
    if let Some(soft) = from.queue_soft
        && limits.queue_soft > limits.queue_hard
    {
        let message = format!(
            "is over `queue_hard` ({} bytes), which disconnects; write less",
            limits.queue_hard
        );
        return Err(Wrong::at(soft.place, message));
    }
    let Some(frame) = from.frame else {
        return Ok((limits, None));
    };
    let Size(bytes) = frame.value;
    if bytes > limits.queue_hard {
        let message = format!(
            "is over `queue_hard` ({} bytes): a client could never be sent such an answer; write less, or \
             a larger `queue_hard`",
            limits.queue_hard
        );
        return Err(Wrong::at(frame.place, message));
    }
    Ok((limits, Some(bytes)))
}

/// How the descriptors that this process may have are shared.
struct Descriptors(usize);

impl Descriptors {
    fn of_this_process() -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        Self(soft.unwrap_or(1024))
    }

    /// Connections of clients.
    fn clients(&self) -> usize {
        (self.0 * 2 / 5).max(1)
    }

    /// Connections to endpoints: the rest, but for listeners, the admin port, registries and files.
    fn endpoints(&self) -> usize {
        let reserve = 20 + self.0 / 16;
        (self.0 * 3 / 5).saturating_sub(reserve).max(4)
    }
}

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(value) = from {
        *to = value;
    }
}

fn set_time(to: &mut std::time::Duration, from: Option<Time>) {
    set(to, from.map(|Time(time)| time));
}
