//! The file's types become core's; what does not make sense is refused with its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use finback_core::balance::{self, HashOn};
use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::{Instance, Lookup};
use finback_core::driver::ListenerSpec;
use finback_core::mesh::{self, RoutingSpec};
use finback_core::route::{self, Destination, RouteTable, Weighted};
use finback_core::subset;
use finback_registry::{ListedService, RegistryConfig};

use super::file::{self, File};
use super::units::{Placed, Size, Time};
use super::{Config, Wrong};
use crate::protocols;

/// The weight of an endpoint that states none.
const WEIGHT: u32 = 100;
/// The layouts that there are.
const LAYOUTS: &[&str] = &["dubbo", "sofa", "native"];

type Result<T> = std::result::Result<T, Wrong>;

pub(super) fn config(file: File, folder: &Path) -> Result<Config> {
    let names = Names {
        registries: file.registries.keys().cloned().collect(),
        clusters: file.clusters.keys().cloned().collect(),
        tables: file.routes.keys().cloned().collect(),
    };
    let workers = match &file.workers {
        Some(workers) if workers.value == 0 => {
            return Err(Wrong::at(
                workers.place,
                "0 workers can do no work; write 1 or more",
            ));
        }
        Some(workers) => workers.value,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let admin = file
        .admin
        .as_ref()
        .map(|admin| admin_address(&admin.address))
        .transpose()?;
    let registries = file
        .registries
        .into_iter()
        .map(|(name, registry)| Ok((name, registry_spec(registry, folder)?)))
        .collect::<Result<_>>()?;
    let frame = file.limits.frame.map(|Size(bytes)| bytes);
    let listeners = listeners(file.listeners, frame, &names)?;
    let tables = file
        .routes
        .into_iter()
        .map(|(name, routes)| table(&name, routes, &names))
        .collect::<Result<_>>()?;
    let clusters = file
        .clusters
        .into_iter()
        .map(|(name, cluster)| cluster_spec(&name, cluster, &names))
        .collect::<Result<_>>()?;
    let registry_policy = match file.registry_clusters {
        Some(placed) => policy(placed.value)?,
        None => ClusterPolicy::default(),
    };
    let routing = RoutingSpec {
        tables,
        clusters,
        registry_policy,
        limits: limits(&file.limits),
    };
    Ok(Config {
        workers,
        admin,
        registries,
        listeners,
        routing,
    })
}

/// The names that other parts of the file may refer to.
struct Names {
    registries: Vec<String>,
    clusters: Vec<String>,
    tables: Vec<String>,
}

fn known(list: &[String], kind: &str, name: &str, place: (u64, u64)) -> Result<()> {
    if list.iter().any(|known| known == name) {
        return Ok(());
    }
    let there = if list.is_empty() {
        "there is none".to_owned()
    } else {
        list.join(", ")
    };
    Err(Wrong::at(
        place,
        format!("no {kind} is called `{name}`; write one of: {there}"),
    ))
}

fn address(text: &str, place: (u64, u64)) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        let message = format!(
            "`{text}` is no address; write an IP address and port, such as 127.0.0.1:12220"
        );
        Wrong::at(place, message)
    })
}

fn admin_address(placed: &Placed<String>) -> Result<SocketAddr> {
    let address = address(&placed.value, placed.place)?;
    if !address.ip().is_loopback() {
        let message = "the admin port is for this machine only; write 127.0.0.1 and a port";
        return Err(Wrong::at(placed.place, message));
    }
    Ok(address)
}

fn registry_spec(registry: Placed<file::Registry>, folder: &Path) -> Result<RegistryConfig> {
    let place = registry.place;
    match registry.value {
        file::Registry {
            zookeeper: Some(servers),
            file: None,
            memory: None,
        } => Ok(RegistryConfig::ZooKeeper(servers)),
        file::Registry {
            zookeeper: None,
            file: Some(path),
            memory: None,
        } => Ok(RegistryConfig::File(folder.join(path))),
        file::Registry {
            zookeeper: None,
            file: None,
            memory: Some(services),
        } => {
            let services = services.into_iter().map(|service| {
                Ok(ListedService {
                    service: service.service,
                    version: service.version,
                    group: service.group,
                    instances: instances(service.endpoints)?,
                })
            });
            Ok(RegistryConfig::Memory(services.collect::<Result<_>>()?))
        }
        _ => Err(Wrong::at(
            place,
            "write exactly one of `zookeeper`, `file` and `memory`",
        )),
    }
}

fn instances(endpoints: Vec<Placed<file::Endpoint>>) -> Result<Vec<Instance>> {
    let mut instances: Vec<Instance> = Vec::new();
    for Placed { value, place } in endpoints {
        let (text, weight, labels) = match value {
            file::Endpoint::Address(text) => (text, None, BTreeMap::new()),
            file::Endpoint::Full(full) => (full.address, full.weight, full.labels),
        };
        let address = address(&text, place)?;
        if instances.iter().any(|instance| instance.address == address) {
            return Err(Wrong::at(
                place,
                format!("{address} is listed twice; write it once"),
            ));
        }
        let weight = weight.unwrap_or(WEIGHT);
        instances.push(Instance {
            address,
            weight,
            labels,
            warm_up: None,
        });
    }
    Ok(instances)
}

fn listeners(
    listeners: Vec<file::Listener>,
    max_frame: Option<usize>,
    names: &Names,
) -> Result<Vec<ListenerSpec>> {
    let mut specs: Vec<ListenerSpec> = Vec::new();
    for listener in listeners {
        let place = listener.address.place;
        let address = address(&listener.address.value, place)?;
        known(
            &names.tables,
            "route table",
            &listener.routes.value,
            listener.routes.place,
        )?;
        let settings = protocols::Settings {
            max_frame,
            opaque_service: listener.opaque_service,
        };
        let protocols = match &listener.protocol {
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
        let name = listener.name.unwrap_or_else(|| address.to_string());
        if specs.iter().any(|spec| *spec.name == *name) {
            return Err(Wrong::at(
                place,
                format!("two listeners are called `{name}`; rename one"),
            ));
        }
        if address.port() != 0 && specs.iter().any(|spec| spec.address == address) {
            return Err(Wrong::at(
                place,
                format!("two listeners have the address {address}"),
            ));
        }
        let routes = listener.routes.value.as_str().into();
        specs.push(ListenerSpec {
            name: name.into(),
            address,
            protocols,
            routes,
        });
    }
    Ok(specs)
}

fn table(name: &str, routes: Vec<file::Route>, names: &Names) -> Result<RouteTable> {
    let routes = routes
        .into_iter()
        .enumerate()
        .map(
            |(
                number,
                file::Route {
                    name: own,
                    when,
                    to,
                    timeout,
                    retry,
                },
            )| {
                Ok(Arc::new(route::Route {
                    name: own.unwrap_or_else(|| format!("{name}[{number}]")).into(),
                    when: when.map(conditions).transpose()?.unwrap_or_default(),
                    to: destination(to, names)?,
                    timeout: timeout.map(|Time(timeout)| timeout),
                    retry: retry.map(self::retry).transpose()?.unwrap_or_default(),
                }))
            },
        )
        .collect::<Result<_>>()?;
    Ok(RouteTable {
        name: name.into(),
        routes,
    })
}

fn conditions(when: file::Match) -> Result<route::Match> {
    let text = |placed: Option<Placed<file::Text>>| placed.map_or(Ok(route::Text::Any), text);
    Ok(route::Match {
        protocol: text(when.protocol)?,
        service: text(when.service)?,
        method: text(when.method)?,
        version: text(when.version)?,
        group: text(when.group)?,
        attributes: when
            .attributes
            .into_iter()
            .map(|(name, placed)| Ok((name, self::text(placed)?)))
            .collect::<Result<_>>()?,
        sources: when.source.map_or(Ok(Vec::new()), sources)?,
    })
}

fn text(Placed { value, place }: Placed<file::Text>) -> Result<route::Text> {
    Ok(match value {
        file::Text::Exact(text) => route::Text::Exact(text.into()),
        file::Text::Rule(file::TextRule::Prefix(text)) => route::Text::Prefix(text.into()),
        file::Text::Rule(file::TextRule::Regex(text)) => {
            route::Text::regex(&text).map_err(|error| {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim().to_owned();
                Wrong::at(place, format!("`{text}` is no regular expression: {last}"))
            })?
        }
    })
}

fn sources(Placed { value, place }: Placed<file::OneOrMany>) -> Result<Vec<route::Cidr>> {
    let texts = match value {
        file::OneOrMany::One(text) => vec![text],
        file::OneOrMany::Many(texts) => texts,
    };
    let parse = |text: String| {
        text.parse().map_err(|_| {
            Wrong::at(
                place,
                format!("`{text}` is no address range; write 10.0.0.0/8, fd00::/8 or an address"),
            )
        })
    };
    texts.into_iter().map(parse).collect()
}

fn destination(Placed { value, place }: Placed<file::To>, names: &Names) -> Result<Destination> {
    match value {
        file::To::Word(word) if word == "registry" => match &*names.registries {
            [only] => Ok(Destination::Registry {
                registry: only.as_str().into(),
                layout: None,
            }),
            [] => Err(Wrong::at(
                place,
                "no registry is configured; add one under `registries`",
            )),
            several => {
                let several = several.join(", ");
                let message =
                    format!("which registry? write {{ registry: NAME }}, one of: {several}");
                Err(Wrong::at(place, message))
            }
        },
        file::To::Word(word) => {
            let message = format!(
                "`{word}` is no destination; write registry, {{ registry: NAME }} or {{ cluster: NAME }}"
            );
            Err(Wrong::at(place, message))
        }
        file::To::Registry(file::ToRegistry { registry, layout }) => {
            known(&names.registries, "registry", &registry, place)?;
            if let Some(layout) = &layout {
                check_layout(layout, place)?;
            }
            Ok(Destination::Registry {
                registry: registry.into(),
                layout: layout.map(Into::into),
            })
        }
        file::To::Cluster(cluster) => weighted(vec![cluster], names, place),
        file::To::Clusters(clusters) => weighted(clusters, names, place),
    }
}

fn weighted(
    clusters: Vec<file::ToCluster>,
    names: &Names,
    place: (u64, u64),
) -> Result<Destination> {
    let weighted: Vec<Weighted> = clusters
        .into_iter()
        .map(
            |file::ToCluster {
                 cluster,
                 weight,
                 subset,
                 fallback,
             }| {
                known(&names.clusters, "cluster", &cluster, place)?;
                let subset = match (subset, fallback) {
                    (None, None) => None,
                    (None, Some(_)) => {
                        return Err(Wrong::at(
                            place,
                            "`fallback` needs a `subset` to fall back from",
                        ));
                    }
                    (Some(labels), fallback) => {
                        let fallback = fallback
                            .map_or(Ok(subset::Fallback::None), |f| self::fallback(f, place))?;
                        Some(Arc::new(subset::Subset { labels, fallback }))
                    }
                };
                Ok(Weighted {
                    cluster: cluster.into(),
                    weight: weight.unwrap_or(1),
                    subset,
                })
            },
        )
        .collect::<Result<_>>()?;
    if weighted.iter().all(|destination| destination.weight == 0) {
        return Err(Wrong::at(
            place,
            "no cluster has a weight above 0; calls could go nowhere",
        ));
    }
    Ok(Destination::Clusters(weighted))
}

fn fallback(fallback: file::Fallback, place: (u64, u64)) -> Result<subset::Fallback> {
    match fallback {
        file::Fallback::Word(word) => match &*word {
            "none" => Ok(subset::Fallback::None),
            "any" => Ok(subset::Fallback::Any),
            _ => Err(Wrong::at(
                place,
                format!("`{word}` is no fallback; write none, any, or labels"),
            )),
        },
        file::Fallback::Labels(labels) => Ok(subset::Fallback::Labels(labels)),
    }
}

fn retry(Placed { value, place }: Placed<file::Retry>) -> Result<route::Retry> {
    let attempts = value.attempts.unwrap_or(2);
    if attempts == 0 {
        return Err(Wrong::at(
            place,
            "`attempts` counts the first one too; write 1 or more",
        ));
    }
    Ok(route::Retry {
        attempts,
        idempotent: value.idempotent,
        refused: value.refused.unwrap_or(true),
        per_try_timeout: value.per_try_timeout.map(|Time(time)| time),
    })
}

fn check_layout(layout: &str, place: (u64, u64)) -> Result<()> {
    if LAYOUTS.contains(&layout) {
        return Ok(());
    }
    let all = LAYOUTS.join(", ");
    Err(Wrong::at(
        place,
        format!("no layout is called `{layout}`; write one of: {all}"),
    ))
}

fn cluster_spec(
    name: &str,
    Placed { value, place }: Placed<file::Cluster>,
    names: &Names,
) -> Result<ClusterSpec> {
    let source = match (value.endpoints, value.discover) {
        (Some(endpoints), None) => Source::Listed(instances(endpoints)?),
        (
            None,
            Some(Placed {
                value: discover,
                place,
            }),
        ) => {
            known(&names.registries, "registry", &discover.registry, place)?;
            check_layout(&discover.layout, place)?;
            Source::Discovered(Lookup {
                registry: discover.registry.into(),
                layout: discover.layout.into(),
                service: discover.service.into(),
                version: discover.version.into(),
                group: discover.group.into(),
            })
        }
        _ => {
            let message = format!("cluster `{name}` needs either `endpoints` or `discover`");
            return Err(Wrong::at(place, message));
        }
    };
    let policy = policy(file::Policy {
        balance: value.balance,
        connect_timeout: value.connect_timeout,
        connections: value.connections,
        heartbeat: value.heartbeat,
        limits: value.limits,
        outlier: value.outlier,
        retry_budget: value.retry_budget,
    })?;
    Ok(ClusterSpec {
        name: name.into(),
        source,
        policy,
    })
}

fn policy(from: file::Policy) -> Result<ClusterPolicy> {
    let mut policy = ClusterPolicy::default();
    if let Some(balance) = from.balance {
        policy.balance = self::balance(balance)?;
    }
    set_time(&mut policy.connect_timeout, from.connect_timeout);
    set(&mut policy.connections, from.connections);
    set(&mut policy.retry_budget, from.retry_budget);
    if let Some(heartbeat) = from.heartbeat {
        set_time(&mut policy.heartbeat_interval, heartbeat.interval);
        set(&mut policy.heartbeat_misses, heartbeat.misses);
    }
    if let Some(limits) = from.limits {
        set(&mut policy.max_in_flight, limits.in_flight);
        set(&mut policy.per_endpoint, limits.per_endpoint);
    }
    if let Some(outlier) = from.outlier {
        set(&mut policy.outlier.consecutive, outlier.consecutive);
        set_time(&mut policy.outlier.base, outlier.base);
        set_time(&mut policy.outlier.max, outlier.max);
        set(&mut policy.outlier.max_percent, outlier.max_percent);
        set(&mut policy.panic_percent, outlier.panic_percent);
    }
    Ok(policy)
}

fn balance(Placed { value, place }: Placed<file::Balance>) -> Result<balance::Policy> {
    use balance::Policy;
    let wrong = |word: &str| {
        let message = format!(
            "`{word}` is no way to balance; write round-robin, random, least-request, peak-ewma, \
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
            _ => Err(wrong(&word)),
        },
        file::Balance::Hash(hash) => match hash.on {
            file::HashOn::Word(word) if word == "source" => {
                Ok(Policy::ConsistentHash(HashOn::Source))
            }
            file::HashOn::Word(word) => Err(wrong(&word)),
            file::HashOn::Attribute { attribute } => {
                Ok(Policy::ConsistentHash(HashOn::Attribute(attribute)))
            }
        },
    }
}

fn limits(from: &file::Limits) -> mesh::Limits {
    let mut limits = mesh::Limits {
        connections: default_connections(),
        ..mesh::Limits::default()
    };
    let set_size = |to: &mut usize, from: Option<Size>| set(to, from.map(|Size(bytes)| bytes));
    set(&mut limits.connections, from.connections);
    set(
        &mut limits.in_flight_per_connection,
        from.in_flight_per_connection,
    );
    set_size(&mut limits.queue_soft, from.queue_soft);
    set_size(&mut limits.queue_hard, from.queue_hard);
    set_time(&mut limits.idle, from.idle);
    set_time(&mut limits.sniff, from.sniff);
    set_time(&mut limits.call_timeout, from.call_timeout);
    set(&mut limits.services, from.services);
    set_time(&mut limits.drain_grace, from.drain_grace);
    set_time(&mut limits.drain, from.drain);
    limits
}

/// 80 % of half the descriptors that this process may have: the other half is for endpoints.
fn default_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    soft.unwrap_or(1024) / 2 * 4 / 5
}

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(value) = from {
        *to = value;
    }
}

fn set_time(to: &mut std::time::Duration, from: Option<Time>) {
    set(to, from.map(|Time(time)| time));
}
