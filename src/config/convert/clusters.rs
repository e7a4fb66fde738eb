//! Clusters: endpoints, where they are looked up, and the policy of calls to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use finback_core::balance::{self, HashOn};
use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::{Instance, Lookup};
use finback_core::health::HealthCheck;
use finback_registry::{HostCluster, HostEndpoint};

use super::{Names, Result, concurrency, layout, named, set, set_time, several};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Pause, Percent, Placed, Time};
use crate::protocols;
use crate::tls::ClientFiles;

/// The weight of an endpoint that states none.
const WEIGHT: u32 = 100;
/// The registry of host names in clusters' endpoints.
pub(super) const HOSTS: &str = "(hosts)";
/// How often those are asked for again.
const REFRESH: Duration = Duration::from_secs(5);

pub(super) fn cluster_spec(
    name: &str,
    Placed { value, place }: Placed<file::Cluster>,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<(ClusterSpec, Option<Placed<ClientFiles>>)> {
    if let (Some(_), Some(refresh)) = (&value.discover, &value.refresh) {
        let message = "`refresh` is for host names in `endpoints`; take it away";
        return Err(Wrong::at(refresh.place, message));
    }
    let source = match (value.endpoints, value.discover) {
        (Some(endpoints), None) => listed_source(name, endpoints, value.refresh, names)?,
        (None, Some(discover)) => discovered_source(discover.value, names)?,
        _ => {
            let message = format!("cluster `{name}` needs either `endpoints` or `discover`");
            return Err(Wrong::at(place, message));
        }
    };
    let (policy, tls) = policy(
        file::Policy {
            balance: value.balance,
            connect_timeout: value.connect_timeout,
            connections: value.connections,
            heartbeat: value.heartbeat,
            limits: value.limits,
            adaptive_concurrency: value.adaptive_concurrency,
            outlier: value.outlier,
            health_check: value.health_check,
            retry_budget: value.retry_budget,
            http: value.http,
            tls: value.tls,
        },
        folder,
    )?;
    let spec = ClusterSpec {
        name: name.into(),
        source,
        policy,
    };
    let tls = tls
        .map(|tls| asked_for_host(tls, name, names))
        .transpose()?;
    Ok((spec, tls))
}

/// The service of a registry whose providers a cluster has.
fn discovered_source(discover: file::Discover, names: &Names) -> Result<Source> {
    let place = discover.registry.place;
    let registry = several::asked(discover.registry, names)?;
    let has_layouts = several::has_layouts(&registry, names);
    let layout = match &discover.layout {
        Some(own) => {
            layout(own)?;
            own.value.clone()
        }
        None if has_layouts => {
            let message = "a registry of servers has several layouts; write `layout` too";
            return Err(Wrong::at(place, message));
        }
        None => String::new(),
    };
    Ok(Source::Discovered(Lookup {
        registry: registry.into(),
        layout: layout.into(),
        service: named(discover.service)?.into(),
        version: discover.version.into(),
        group: discover.group.into(),
        protocol: discover.protocol.into(),
    }))
}

/// Who is called by a name is asked for a certificate of that name, unless another is written.
fn asked_for_host(
    mut tls: Placed<ClientFiles>,
    cluster: &str,
    names: &Names,
) -> Result<Placed<ClientFiles>> {
    let hosts = names.hosts.borrow();
    let Some(HostCluster { fixed, hosts, .. }) = hosts.get(cluster) else {
        return Ok(tls);
    };
    if tls.value.server_name.is_some() {
        return Ok(tls);
    }
    let mut all: Vec<&str> = hosts
        .iter()
        .map(|own| own.host.trim_end_matches('.'))
        .collect();
    all.dedup();
    match &*all {
        [only] if fixed.is_empty() => {
            let name = (*only).to_owned().try_into();
            tls.value.server_name = name.ok();
            Ok(tls)
        }
        _ => {
            let message = "endpoints have several names; write the `server_name` that their certificates are for";
            Err(Wrong::at(tls.place, message))
        }
    }
}

/// A policy, and the files of its TLS, which are not read yet.
pub(super) fn policy(
    from: file::Policy,
    folder: &Folder<'_>,
) -> Result<(ClusterPolicy, Option<Placed<ClientFiles>>)> {
    let tls = from.tls.map(|tls| client_files(tls, folder)).transpose()?;
    let mut policy = ClusterPolicy::default();
    if let Some(balance) = from.balance {
        policy.balance = self::balance(balance)?;
    }
    if let Some(Placed { value, place }) = from.http {
        if !matches!(&*value, "1.1" | "2") {
            return Err(Wrong::at(place, "write \"1.1\" or \"2\", in quotes"));
        }
        policy.version = Some(value.into());
    }
    set_time(&mut policy.connect_timeout, from.connect_timeout);
    policy.exclusive_connections = from.connections.map(NonZeroU32::get);
    set(&mut policy.connections, policy.exclusive_connections);
    set(&mut policy.retry_budget, from.retry_budget);
    if let Some(heartbeat) = from.heartbeat {
        let interval = heartbeat.interval.map(|Pause(time)| time);
        set(&mut policy.heartbeat_interval, interval);
        set(
            &mut policy.heartbeat_misses,
            heartbeat.misses.map(NonZeroU32::get),
        );
    }
    if let Some(limits) = from.limits {
        set(&mut policy.max_in_flight, limits.in_flight);
        set(&mut policy.per_endpoint, limits.per_endpoint);
    }
    let adaptive = from.adaptive_concurrency.map(concurrency::settings);
    policy.adaptive_concurrency = adaptive.transpose()?;
    if let Some(outlier) = from.outlier {
        set(&mut policy.outlier.consecutive, outlier.consecutive);
        concurrency::rates(&mut policy.outlier, &outlier)?;
        set_time(&mut policy.outlier.base, outlier.base);
        set_time(&mut policy.outlier.max, outlier.max);
        let percent = |share: Option<Percent>| share.map(|Percent(share)| share);
        set(
            &mut policy.outlier.max_percent,
            percent(outlier.max_percent),
        );
        set(&mut policy.panic_percent, percent(outlier.panic_percent));
    }
    let http2 = policy.version.as_deref() == Some("2");
    policy.health_check = from
        .health_check
        .map(|check| health_check(check, http2, folder))
        .transpose()?;
    Ok((policy, tls))
}

fn health_check(
    Placed { value, place }: Placed<file::HealthCheck>,
    http2: bool,
    folder: &Folder<'_>,
) -> Result<HealthCheck> {
    let refuse = |message: String| Err(Wrong::at(place, message));
    let own = |key: &str, given: bool, whose: &[&str]| {
        if given && !whose.contains(&&*value.protocol) {
            let message = format!("`{key}` is not for `{}`; take it away", value.protocol);
            return Err(Wrong::at(place, message));
        }
        Ok(())
    };
    own("path", value.path.is_some(), &["http"])?;
    own("status", value.status.is_some(), &["http"])?;
    own("host", value.host.is_some(), &["http", "grpc"])?;
    own("service", value.service.is_some(), &["grpc"])?;
    own("client_id", value.client_id.is_some(), &["mqtt"])?;
    own("username", value.username.is_some(), &["mqtt"])?;
    own("password_file", value.password_file.is_some(), &["mqtt"])?;
    let password = match (&value.username, &value.password_file) {
        (_, None) => None,
        (None, Some(file)) => {
            return Err(Wrong::at(file.place, "a password needs a `username` too"));
        }
        (Some(_), Some(file)) => Some(folder.secret(file)?.into_bytes()),
    };
    let (lowest, highest) = value.status.unwrap_or((200, 399));
    if lowest > highest || lowest < 100 || highest > 599 {
        return refuse("write the lowest and the highest status, such as [200, 399]".to_owned());
    }
    let path = value.path.clone().unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || path.contains([' ', '#']) {
        return refuse(format!("`{path}` is not a path; write one such as /health"));
    }
    let question = protocols::Question {
        http2,
        path,
        host: value.host.clone(),
        statuses: lowest..=highest,
        service: value.service.clone().unwrap_or_default(),
        client_id: value.client_id.clone(),
        username: value.username.clone(),
        password: password.map(protocols::Secret),
    };
    let settings = format!("{} {question:?}", value.protocol).into();
    let Some(probe) = protocols::probe(&value.protocol, question) else {
        return refuse(format!(
            "endpoints cannot be asked in `{}`; write tcp, http, grpc, bolt, dubbo or mqtt",
            value.protocol
        ));
    };
    let mut check = HealthCheck {
        probe,
        settings,
        port: value.port.map(NonZeroU16::get),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy: 3,
        healthy: 2,
    };
    set_time(&mut check.interval, value.interval);
    set_time(&mut check.timeout, value.timeout);
    set(&mut check.unhealthy, value.unhealthy.map(NonZeroU32::get));
    set(&mut check.healthy, value.healthy.map(NonZeroU32::get));
    Ok(check)
}

pub(super) fn client_files(
    Placed { value, place }: Placed<file::ClusterTls>,
    folder: &Folder<'_>,
) -> Result<Placed<ClientFiles>> {
    let pair = match (value.certificate, value.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((folder.join(certificate), folder.join(key))),
        _ => return Err(Wrong::at(place, "`certificate` and `key` belong together")),
    };
    let server_name = match value.server_name {
        None => None,
        Some(name) => Some(name.clone().try_into().map_err(|_| {
            Wrong::at(
                place,
                format!("`{name}` is not a name that a certificate could be for"),
            )
        })?),
    };
    let revoked = super::listeners::revoked(value.crl, value.ca.as_ref(), "ca", folder)?;
    let value = ClientFiles {
        revoked,
        authorities: value.ca.map(|ca| folder.join(ca)),
        pair,
        server_name,
    };
    Ok(Placed { value, place })
}

fn balance(Placed { value, place }: Placed<file::Balance>) -> Result<balance::Policy> {
    use balance::Policy;
    let wrong = |word: &str| {
        let message = format!(
            "`{word}` is not a load-balancing policy; write round-robin, random, least-request, peak-ewma, primary, \
             {{ consistent-hash: source }} or {{ consistent-hash: {{ attribute: NAME }} }}"
        );
        Wrong::at(place, message)
    };
    match value {
        file::Balance::Word(word) => match &*word {
            "round-robin" => Ok(Policy::RoundRobin),
            "random" => Ok(Policy::Random),
            "least-request" => Ok(Policy::LeastRequest),
            "peak-ewma" => Ok(Policy::PeakEwma),
            "primary" => Ok(Policy::Primary),
            _ => Err(wrong(&word)),
        },
        file::Balance::Hash(hash) => match hash.on {
            file::HashOn::Word(word) if word == "source" => {
                Ok(Policy::ConsistentHash(HashOn::Source))
            }
            // As sessions of MQTT call it.
            file::HashOn::Word(word) if word == "client-id" => Ok(Policy::ConsistentHash(
                HashOn::Attribute(finback_mqtt::CLIENT_ID.to_owned()),
            )),
            file::HashOn::Word(word) => Err(wrong(&word)),
            file::HashOn::Attribute(on) => {
                Ok(Policy::ConsistentHash(HashOn::Attribute(on.attribute)))
            }
        },
    }
}

/// Where an endpoint is.
enum At {
    Address(SocketAddr),
    Host(String, u16),
}

/// The longest host name, in bytes (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 253;

fn at(text: &str, place: (u64, u64)) -> Result<At> {
    if let Ok(address) = text.parse() {
        return Ok(At::Address(address));
    }
    let host = text.rsplit_once(':');
    let host = host.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_host = |host: &str| {
        // What ends in a number would be an address (RFC 3986, section 3.2.2), and is none.
        let last = host
            .trim_end_matches('.')
            .rsplit('.')
            .next()
            .unwrap_or_default();
        let parts = host.trim_end_matches('.').split('.');
        host.len() <= LONGEST_HOST
            && parts
                .into_iter()
                .all(|part| !part.is_empty() && part.bytes().all(is_letter))
            && !last.bytes().all(|byte| byte.is_ascii_digit())
    };
    match host {
        Some((_, 0)) => {
            let message = format!("`{text}`: port 0 cannot be connected to; write another");
            Err(Wrong::at(place, message))
        }
        Some((host, port)) if is_host(host) => Ok(At::Host(host.to_owned(), port)),
        _ => {
            let message = format!(
                "`{text}` is not an endpoint; write IP:PORT, such as 127.0.0.1:12200, or HOST:PORT, such as \
                 db.internal:5432"
            );
            Err(Wrong::at(place, message))
        }
    }
}

/// The endpoints that a cluster lists.
#[derive(Default)]
struct Listed {
    fixed: Vec<Instance>,
    hosts: Vec<HostEndpoint>,
}

fn listed(endpoints: Vec<Placed<file::Endpoint>>) -> Result<Listed> {
    let mut listed = Listed::default();
    for Placed { value, place } in endpoints {
        let (text, weight, labels) = match value {
            file::Endpoint::Address(text) => (text, None, BTreeMap::new()),
            file::Endpoint::Full(full) => (full.address, full.weight, full.labels),
        };
        let weight = weight.unwrap_or(WEIGHT);
        let Listed { fixed, hosts } = &mut listed;
        let is_known = match at(&text, place)? {
            At::Address(address) => {
                let is_known = fixed.iter().any(|own| own.address == address);
                fixed.push(Instance {
                    address,
                    weight,
                    labels,
                    warm_up: None,
                    terms: None,
                });
                is_known
            }
            At::Host(host, port) => {
                let is_known = hosts
                    .iter()
                    .any(|own| (&own.host, own.port) == (&host, port));
                hosts.push(HostEndpoint {
                    host,
                    port,
                    weight,
                    labels,
                });
                is_known
            }
        };
        if is_known {
            let message = format!("{text} is listed twice; write it once");
            return Err(Wrong::at(place, message));
        }
    }
    Ok(listed)
}

/// Endpoints where a host's name has no meaning.
pub(super) fn instances(endpoints: Vec<Placed<file::Endpoint>>) -> Result<Vec<Instance>> {
    let place = endpoints.first().map(|own| own.place);
    let listed = listed(endpoints)?;
    match (listed.hosts.first(), place) {
        (Some(own), Some(place)) => {
            let message = format!(
                "`{}:{}`: a registry lists addresses; write IP:PORT, or host names in a cluster's `endpoints`",
                own.host, own.port
            );
            Err(Wrong::at(place, message))
        }
        _ => Ok(listed.fixed),
    }
}

/// Where a cluster's listed endpoints come from: the file alone, or the resolver too.
fn listed_source(
    name: &str,
    endpoints: Vec<Placed<file::Endpoint>>,
    refresh: Option<Placed<Time>>,
    names: &Names,
) -> Result<Source> {
    let Listed { fixed, hosts } = listed(endpoints)?;
    if hosts.is_empty() {
        if let Some(refresh) = refresh {
            let message = "no endpoint has a host name to ask for again; take `refresh` away";
            return Err(Wrong::at(refresh.place, message));
        }
        return Ok(Source::Listed(fixed));
    }
    let cluster = HostCluster {
        refresh: refresh.map_or(REFRESH, |own| own.value.0),
        fixed,
        hosts,
    };
    names.hosts.borrow_mut().insert(name.to_owned(), cluster);
    Ok(Source::Discovered(Lookup {
        registry: HOSTS.into(),
        layout: "".into(),
        service: name.into(),
        version: "".into(),
        group: "".into(),
        protocol: "".into(),
    }))
}
