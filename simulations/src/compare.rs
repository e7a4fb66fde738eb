//! The benchmark: what one call costs each proxy, in interleaved rounds of one run.
//!
//! The figure is CPU time of the proxy's process per call, which survives a noisy machine; every
//! process runs on the same CPU, so that they alternate and no wake-up crosses CPUs. Ratios are
//! taken round by round, then their median. Instead of other proxies, Finback that does less may be what
//! it is compared with: what traces, metrics and logs cost, and what policies cost.

mod loads;
mod memory;
mod observing;
mod policies;
mod proxies;

use std::collections::BTreeMap;
use std::path::PathBuf;

use loads::{Door, Generator, Run, Workload};
use observing::Observing;
use proxies::{Backends, Extras, Proxy};

use crate::process::Folder;
use crate::speech::Protocol;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Bolt and Dubbo.
    Rpc,
    /// HTTP/1.1, HTTP/2 as gRPC uses it, TLS.
    Web,
    /// Connections passed through.
    Tcp,
    /// MQTT.
    Mqtt,
    /// Messages sent to a broker of RocketMQ.
    Rocketmq,
}

/// What to compare, and how long.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What; nothing means everything.
    pub groups: Vec<Group>,
    /// Rounds; each runs every proxy once per workload.
    pub rounds: usize,
    /// Calls are multiplied by this.
    pub scale: f64,
    /// The finback binary.
    pub finback: PathBuf,
    /// The binary of a tree before, to compare with.
    pub before: Option<PathBuf>,
    /// The Envoy binary; without it Envoy is left out.
    pub envoy: Option<PathBuf>,
    /// Whether to measure memory too.
    pub memory: bool,
    /// Compare Finback with itself instead of others.
    pub itself: Option<Itself>,
}

/// In what Finback is compared with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Itself {
    /// Telling nothing, a little, and all of every call.
    Observing,
    /// Without policies, with rules and a limit, and with shadow traffic.
    Policies,
}

impl Itself {
    /// As it is asked for by two flags, of which one may be set.
    #[must_use]
    pub fn of(observing: bool, policies: bool) -> Option<Self> {
        let observing = observing.then_some(Self::Observing);
        observing.or(policies.then_some(Self::Policies))
    }
}

const fn own(
    group: Group,
    name: &'static str,
    door: Door,
    protocol: Protocol,
    shape: (usize, usize),
    calls: u64,
    size: usize,
) -> Workload {
    Workload {
        group,
        name,
        door,
        connections: shape.0,
        in_flight: shape.1,
        calls,
        generator: Generator::Own { protocol, size },
    }
}

const fn h2load(
    name: &'static str,
    door: Door,
    shape: (usize, usize),
    calls: u64,
    path: &'static str,
) -> Workload {
    Workload {
        group: Group::Web,
        name,
        door,
        connections: shape.0,
        in_flight: shape.1,
        calls,
        generator: Generator::H2load { path },
    }
}

const WORKLOADS: &[Workload] = &[
    own(
        Group::Rpc,
        "Bolt",
        Door::Bolt,
        Protocol::Bolt,
        (50, 1),
        60_000,
        0,
    ),
    own(
        Group::Rpc,
        "Dubbo",
        Door::Dubbo,
        Protocol::Dubbo,
        (50, 1),
        60_000,
        0,
    ),
    own(
        Group::Rpc,
        "Bolt",
        Door::Bolt,
        Protocol::Bolt,
        (10, 32),
        600_000,
        0,
    ),
    own(
        Group::Rpc,
        "Dubbo",
        Door::Dubbo,
        Protocol::Dubbo,
        (10, 32),
        600_000,
        0,
    ),
    own(
        Group::Rpc,
        "Bolt",
        Door::Bolt,
        Protocol::Bolt,
        (1, 1),
        15_000,
        0,
    ),
    own(
        Group::Rpc,
        "Dubbo",
        Door::Dubbo,
        Protocol::Dubbo,
        (1, 1),
        15_000,
        0,
    ),
    h2load("HTTP/1.1, 1 KiB", Door::Http1, (50, 1), 60_000, "/1k"),
    h2load("HTTP/1.1, 100 B", Door::Http1, (64, 1), 60_000, "/100"),
    h2load("HTTP/1.1, 1 KiB", Door::Http1, (1, 1), 15_000, "/1k"),
    h2load("gRPC unary", Door::Http2, (10, 32), 100_000, ""),
    h2load("gRPC unary", Door::Http2, (50, 1), 50_000, ""),
    h2load(
        "TLS 1.3, HTTP/1.1, 1 KiB",
        Door::Tls,
        (50, 1),
        50_000,
        "/1k",
    ),
    Workload {
        group: Group::Web,
        name: "TLS 1.3, a connection per request",
        door: Door::Tls,
        connections: 20,
        in_flight: 1,
        calls: 2_000,
        generator: Generator::Handshakes,
    },
    own(
        Group::Tcp,
        "TCP, 100 B",
        Door::Tcp,
        Protocol::Bytes,
        (50, 1),
        60_000,
        100,
    ),
    own(
        Group::Tcp,
        "TCP, 100 B",
        Door::Tcp,
        Protocol::Bytes,
        (10, 32),
        600_000,
        100,
    ),
    own(
        Group::Tcp,
        "TCP, 16 KiB",
        Door::Tcp,
        Protocol::Bytes,
        (10, 4),
        60_000,
        16 * 1024,
    ),
    sent("RocketMQ, 1 KiB, JSON", Door::Rocketmq, (50, 1), 60_000),
    sent(
        "RocketMQ, 1 KiB, binary",
        Door::RocketmqBinary,
        (50, 1),
        60_000,
    ),
    sent("RocketMQ, 1 KiB, JSON", Door::Rocketmq, (10, 32), 400_000),
    sent(
        "RocketMQ, 1 KiB, binary",
        Door::RocketmqBinary,
        (10, 32),
        400_000,
    ),
    messages("MQTT, Mosquitto, QoS 0", Door::Mqtt, (50, 4), 0),
    messages("MQTT, Mosquitto, QoS 1", Door::Mqtt, (50, 4), 1),
    messages("MQTT, a sink, QoS 0", Door::MqttSink, (50, 4), 0),
    messages("MQTT, a sink, QoS 1", Door::MqttSink, (50, 4), 1),
    messages("MQTT, a sink, QoS 1", Door::MqttSink, (1, 1), 1),
];

/// Messages of 1 KiB sent to a broker of RocketMQ.
const fn sent(name: &'static str, door: Door, shape: (usize, usize), calls: u64) -> Workload {
    let protocol = match door {
        Door::RocketmqBinary => Protocol::RocketmqBinary,
        _ => Protocol::Rocketmq,
    };
    own(Group::Rocketmq, name, door, protocol, shape, calls, 1024)
}

const fn messages(
    name: &'static str,
    door: Door,
    (connections, in_flight): (usize, usize),
    qos: u8,
) -> Workload {
    Workload {
        group: Group::Mqtt,
        name,
        door,
        connections,
        in_flight,
        calls: if connections == 1 { 20_000 } else { 200_000 },
        generator: Generator::Messages { qos },
    }
}

/// Runs the comparison and prints its tables.
///
/// # Errors
/// If a peer is missing (the message says how to install it) or a call fails.
pub fn run(comparison: &Comparison) -> anyhow::Result<()> {
    let folder = Folder::new("compare")?;
    let backends = Backends::start(folder.path())?;
    let wanted = |group: Group| comparison.groups.is_empty() || comparison.groups.contains(&group);
    let observed = match comparison.itself {
        Some(Itself::Observing) => Some(Observing::start(folder.path())?),
        Some(Itself::Policies) | None => None,
    };
    let start = || -> anyhow::Result<Vec<Proxy>> {
        let own = &comparison.finback;
        if let Some(observed) = &observed {
            return observed.proxies(own, &backends);
        }
        if comparison.itself == Some(Itself::Policies) {
            return policies::proxies(folder.path(), own, &backends);
        }
        let mut all = vec![proxies::haproxy(folder.path(), &backends)?];
        if let Some(envoy) = &comparison.envoy {
            all.push(proxies::envoy(folder.path(), envoy, &backends)?);
        }
        if let Some(before) = &comparison.before {
            let nothing = Extras::default();
            let before = proxies::finback("before", folder.path(), before, &backends, &nothing)?;
            all.push(before);
        }
        let nothing = Extras::default();
        let now = proxies::finback("finback", folder.path(), own, &backends, &nothing)?;
        all.push(now);
        Ok(all)
    };
    let mut proxies = vec![backends.direct()];
    proxies.extend(start()?);
    let others: &[&str] = match comparison.itself {
        Some(Itself::Observing) => &[observing::NOTHING],
        Some(Itself::Policies) => &[policies::NOTHING],
        None => &["haproxy", "envoy", "before"],
    };
    let heads: Vec<_> = others.iter().map(|own| format!("against {own}")).collect();
    println!(
        "| work | proxy | CPU us per call | {} | p50 us | p99 us |",
        heads.join(" | ")
    );
    println!("|---|---|---|{}---|---|", "---|".repeat(others.len()));
    for workload in WORKLOADS.iter().filter(|own| wanted(own.group)) {
        let loads = (workload, &*proxies, others);
        measure(comparison, loads, folder.path())?;
    }
    drop(proxies);
    if comparison.memory {
        // Fresh processes: what the calls above left allocated would hide what connections need.
        if wanted(Group::Rpc) {
            memory::calls(&start()?, folder.path())?;
        }
        let certificate = folder.path().join("certificate.pem");
        memory::connections(&start, &wanted, &certificate)?;
    }
    Ok(())
}

fn measure(
    comparison: &Comparison,
    (workload, proxies, others): (&Workload, &[Proxy], &[&str]),
    folder: &std::path::Path,
) -> anyhow::Result<()> {
    let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for _ in 0..comparison.rounds {
        for proxy in proxies {
            if let Some(target) = proxy.doors.get(&workload.door) {
                let run = loads::run(comparison.scale, workload, *target, proxy.pid(), folder)?;
                runs.entry(proxy.name).or_default().push(run);
            }
        }
    }
    let work = format!(
        "{}, {} x {}",
        workload.name, workload.connections, workload.in_flight
    );
    for proxy in proxies {
        let Some(own) = runs.get(proxy.name) else {
            continue;
        };
        let ratio = |other: &str| match runs.get(other) {
            Some(others) if other != proxy.name && proxy.pid().is_some() => {
                let ratios = own.iter().zip(others).map(|(a, b)| a.cpu_us / b.cpu_us);
                format!("{:.2}", median(ratios.collect()))
            }
            _ => String::new(),
        };
        let cpu = match proxy.pid() {
            Some(_) => format!("{:.2}", median(own.iter().map(|run| run.cpu_us).collect())),
            None => String::new(),
        };
        let ratios: Vec<_> = others.iter().map(|other| ratio(other)).collect();
        println!(
            "| {work} | {} | {cpu} | {} | {:.0} | {:.0} |",
            proxy.name,
            ratios.join(" | "),
            median(own.iter().map(|run| run.p50_us as f64).collect()),
            median(own.iter().map(|run| run.p99_us as f64).collect()),
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
