//! `finback demo`: the main job with no server and no file.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use finback_simulations::broker::{self, Broker};
use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load, Progress, Summary};
use finback_simulations::mqtt::{self, MqttLoad};
use finback_simulations::rocketmq::{self, RocketMqLoad, StandIn};
use finback_simulations::speech::{Protocol, SERVICE};
use finback_simulations::web::HOST_NAME;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::commands::services::terminal_width;
use crate::log::say;
use crate::running::Running;
use crate::{admin, config};

/// What is shown.
#[derive(Clone, Copy)]
enum Shown {
    /// Calls of a protocol.
    Calls(Protocol),
    /// Messages of MQTT.
    Messages,
    /// Messages of RocketMQ, from producers to consumers.
    Queues,
}

impl Shown {
    fn name(self) -> &'static str {
        match self {
            Self::Calls(protocol) => protocol.name(),
            Self::Messages => "mqtt",
            Self::Queues => "rocketmq",
        }
    }
}

/// Everything that can be shown.
const SHOWN: [Shown; 6] = [
    Shown::Calls(Protocol::Bolt),
    Shown::Calls(Protocol::Dubbo),
    Shown::Calls(Protocol::Grpc),
    Shown::Calls(Protocol::Http),
    Shown::Messages,
    Shown::Queues,
];
/// Ports for brokers of RocketMQ, of which one is used.
const BROKER_PORTS: u16 = 30;
/// How often the numbers are shown anew in a terminal, and elsewhere.
const LOOK: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(5);
/// Calls of one round.
const ROUND: u64 = 20_000;
/// Calls of `--once`, per protocol.
const ONCE: u64 = 5_000;

/// How to show it.
#[derive(clap::Args)]
pub struct Options {
    /// One bounded round; exit 0 only if every call came back right.
    #[arg(long)]
    once: bool,
    /// Print one JSON object: for each protocol calls, errors, p50_us, p99_us. Implies --once.
    #[arg(long)]
    json: bool,
    /// Stop after so many seconds; without it (and without --once) it goes on until Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    duration: Option<u64>,
}

/// Shows it: stand-in services that an embedded registry knows, the proxy, and callers that only
/// know the proxy, all in this process.
///
/// # Errors
/// If something cannot be started.
pub async fn demo(options: Options) -> anyhow::Result<ExitCode> {
    let mut services = JoinSet::new();
    let mut endpoints = BTreeMap::new();
    // One broker at two addresses, so that clients of both hear each other.
    let broker = Broker::new(broker::Options::default());
    for shown in SHOWN {
        let mut addresses = Vec::new();
        // Clients of RocketMQ find its one broker by its name server.
        let instances = match shown {
            Shown::Queues => 1,
            Shown::Calls(_) | Shown::Messages => 2,
        };
        for _ in 0..instances {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            match shown {
                Shown::Calls(protocol) => {
                    services.spawn(echo::serve(listener, protocol, Faults::default()));
                }
                Shown::Messages => {
                    services.spawn(broker.clone().serve(listener));
                }
                Shown::Queues => {
                    let stand_in = StandIn::new(listener.local_addr()?);
                    services.spawn(stand_in.serve(listener));
                }
            }
        }
        endpoints.insert(shown.name(), addresses);
    }
    let text = configuration(&endpoints, broker_ports().await?);
    let config = config::parse(&text, Path::new("demo.yaml"))?;
    let once = options.once || options.json;
    let ports = match config.admin.clone().filter(|_| !once) {
        Some(settings) => Some(admin::Ports::bind(settings).await?),
        None => None,
    };
    let running = Arc::new(Running::start(config)?);
    let dashboard = ports.as_ref().and_then(admin::Ports::address);
    if let Some(ports) = ports {
        ports.serve(&running)?;
    }
    let listening = running.listening().await;
    let at = |name: &str| {
        let own = listening.iter().find(|(own, ..)| own == name);
        own.map(|(_, address, _)| *address).context("no listener")
    };
    let front = Front {
        all: at("demo")?,
        queues: at("mq")?,
    };
    if !options.json {
        introduce(front, &endpoints);
    }
    if let Some(dashboard) = dashboard {
        say(format_args!("Dashboard: http://{dashboard}/"));
    }
    let summaries = if once {
        round(front, ONCE, &Default::default()).await?
    } else {
        show(front, options.duration).await?
    };
    running.drain(Duration::ZERO).await;
    report(&summaries, options.json)
}

/// Where callers dial.
#[derive(Clone, Copy)]
struct Front {
    /// All but those of RocketMQ.
    all: SocketAddr,
    /// Clients of RocketMQ, for whom it is a name server.
    queues: SocketAddr,
}

/// Says what is where.
fn introduce(front: Front, endpoints: &BTreeMap<&str, Vec<SocketAddr>>) {
    let Front { all, queues } = front;
    say(format_args!(
        "One port, {all}, takes Bolt, Dubbo and gRPC calls to {SERVICE}, HTTP for {HOST_NAME}, and MQTT."
    ));
    say(format_args!(
        "Another, {queues}, is a name server for RocketMQ."
    ));
    for (protocol, addresses) in endpoints {
        match &**addresses {
            [one] => say(format_args!("  {protocol}: one stand-in broker, {one}")),
            several => say(format_args!(
                "  {protocol}: two stand-in services, {} and {}",
                several[0], several[1]
            )),
        }
    }
}

/// Where brokers of RocketMQ may listen: ports that nobody had a moment ago.
async fn broker_ports() -> anyhow::Result<u16> {
    loop {
        let some = TcpListener::bind("127.0.0.1:0").await?;
        let first = some.local_addr()?.port();
        if first < u16::MAX - BROKER_PORTS {
            return Ok(first);
        }
    }
}

/// The demo's own configuration: what a user would write.
fn configuration(endpoints: &BTreeMap<&str, Vec<SocketAddr>>, broker_ports: u16) -> String {
    let mut text = String::from("workers: 1\nadmin: { address: \"127.0.0.1:0\" }\nregistries:\n");
    let (mut brokers, mut names) = (String::new(), String::new());
    for (protocol, addresses) in endpoints {
        let list: Vec<_> = addresses
            .iter()
            .map(|address| format!("\"{address}\""))
            .collect();
        let list = list.join(", ");
        if *protocol == Shown::Messages.name() {
            brokers = list;
            continue;
        }
        if *protocol == Shown::Queues.name() {
            names = list;
            continue;
        }
        let service = match *protocol {
            "http" => HOST_NAME,
            _ => SERVICE,
        };
        text.push_str(&format!(
            "  {protocol}: {{ memory: [ {{ service: {service}, endpoints: [ {list} ] }} ] }}\n"
        ));
    }
    let last = broker_ports + BROKER_PORTS - 1;
    text.push_str(&format!(
        "listeners:\n  - {{ name: demo, address: \"127.0.0.1:0\", protocol: auto, routes: all }}\n  \
         - {{ name: mq, address: \"127.0.0.1:0\", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {broker_ports}-{last} }} }}\n\
         routes:\n  mq: [ {{ to: {{ cluster: names }} }} ]\n  all:\n",
    ));
    let is_queues = |own: &&&str| **own == Shown::Queues.name();
    for protocol in endpoints.keys().filter(|own| !is_queues(own)) {
        let to = if *protocol == Shown::Messages.name() {
            "cluster: brokers"
        } else {
            &format!("registry: {protocol}")
        };
        text.push_str(&format!(
            "    - {{ match: {{ protocol: {protocol} }}, to: {{ {to} }} }}\n"
        ));
    }
    text.push_str(&format!(
        "clusters:\n  brokers: {{ endpoints: [ {brokers} ], balance: {{ consistent-hash: client-id }} }}\n  \
         names: {{ endpoints: [ {names} ] }}\n"
    ));
    text
}

type Summaries = BTreeMap<&'static str, Summary>;

/// One bounded round of calls in every protocol at once.
async fn round(
    front: Front,
    count: u64,
    progress: &[Arc<Progress>; SHOWN.len()],
) -> anyhow::Result<Summaries> {
    let mut callers = JoinSet::new();
    for (shown, progress) in SHOWN.into_iter().zip(progress.clone()) {
        callers.spawn(async move {
            let summary = match shown {
                Shown::Calls(protocol) => {
                    let load = Load {
                        protocol,
                        size: 0,
                        target: front.all,
                        connections: 8,
                        in_flight: 4,
                        count,
                        warm_up: 0,
                        patience: Duration::from_secs(10),
                    };
                    load::run(&load, &progress).await
                }
                Shown::Messages => {
                    let load = MqttLoad {
                        target: front.all,
                        connections: 8,
                        in_flight: 4,
                        qos: 1,
                        count,
                        size: 64,
                        heard: true,
                    };
                    mqtt::run(&load, &progress).await
                }
                Shown::Queues => {
                    let load = RocketMqLoad {
                        target: front.queues,
                        pairs: 4,
                        in_flight: 8,
                        count,
                        size: 64,
                    };
                    rocketmq::run(&load, &progress).await
                }
            };
            (shown.name(), summary)
        });
    }
    let mut summaries = BTreeMap::new();
    while let Some(ended) = callers.join_next().await {
        let (name, summary) = ended?;
        let summary = summary.with_context(|| format!("{name} broke off"))?;
        summaries.insert(name, summary);
    }
    Ok(summaries)
}

/// Round after round, until Ctrl-C or the end of the time; in a terminal the lines are
/// rewritten in place.
async fn show(front: Front, duration: Option<u64>) -> anyhow::Result<Summaries> {
    let live = std::io::stdout().is_terminal();
    say(format_args!(
        "Calling it round after round{}.\n",
        if duration.is_some() {
            ""
        } else {
            "; Ctrl-C ends it"
        }
    ));
    let width = terminal_width();
    say(format_args!(
        "{}",
        row(
            ["protocol", "calls", "errors", "calls/s", "p50 us", "p99 us"],
            width
        )
    ));
    let time = Duration::from_secs(duration.unwrap_or(u64::from(u32::MAX)));
    let end = tokio::time::sleep(time);
    tokio::pin!(end);
    let progress: [Arc<Progress>; SHOWN.len()] = Default::default();
    let mut latest = Summaries::new();
    let mut first = true;
    let mut under_way = Box::pin(round(front, ROUND, &progress));
    // Where lines are not rewritten, a few are enough.
    let mut look = tokio::time::interval(if live { LOOK } else { QUIET });
    loop {
        tokio::select! {
            summaries = &mut under_way => {
                latest = summaries?;
                under_way = Box::pin(round(front, ROUND, &progress));
                continue;
            }
            // Numbers grow from the beginning: a first round takes a while.
            _ = look.tick() => {}
            _ = tokio::signal::ctrl_c() => break,
            () = &mut end => break,
        }
        if live && !first {
            let _ = write!(std::io::stdout().lock(), "\x1b[{}A", SHOWN.len());
        }
        first = false;
        for (shown, progress) in SHOWN.iter().zip(&progress) {
            let known = latest.get(shown.name());
            let number = |of: fn(&Summary) -> String| known.map_or_else(|| "-".to_owned(), of);
            let cells = [
                shown.name().to_owned(),
                progress.calls.load(Relaxed).to_string(),
                progress.errors.load(Relaxed).to_string(),
                number(|own| format!("{:.0}", own.per_second)),
                number(|own| own.p50_us.to_string()),
                number(|own| own.p99_us.to_string()),
            ];
            let cells = cells.each_ref().map(String::as_str);
            say(format_args!("{}", row(cells, width)));
        }
        std::io::stdout().flush()?;
    }
    for (shown, progress) in SHOWN.iter().zip(&progress) {
        let summary = latest.entry(shown.name()).or_default();
        summary.calls = progress.calls.load(Relaxed);
        summary.errors = progress.errors.load(Relaxed);
    }
    say(format_args!(""));
    Ok(latest)
}

/// A line of the table, without the last columns where it would be wider than the terminal: a line that
/// wraps could not be rewritten in place.
fn row(cells: [&str; 6], width: Option<usize>) -> String {
    let mut line = String::new();
    for (cell, own) in cells.iter().zip([10, 14, 10, 12, 10, 10]) {
        if width.is_some_and(|width| line.len() + own > width) {
            break;
        }
        match line.is_empty() {
            true => line.push_str(&format!("{cell:<own$}")),
            false => line.push_str(&format!("{cell:>own$}")),
        }
    }
    line
}

fn report(summaries: &Summaries, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        say(format_args!("{}", serde_json::to_string(summaries)?));
    } else {
        for (protocol, summary) in summaries {
            say(format_args!(
                "{protocol}: {} calls, {} errors, p50 {} us, p99 {} us",
                summary.calls, summary.errors, summary.p50_us, summary.p99_us
            ));
        }
    }
    let right = summaries
        .values()
        .all(|summary| summary.errors == 0 && summary.calls > 0);
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
