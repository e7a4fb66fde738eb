//! Loads: what is sent, and what came of it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Group;
use crate::process::{cpu_nanos, on_one_cpu};
use crate::speech::{METHOD, Protocol, SERVICE};

/// What a proxy's port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Door {
    Bolt,
    Dubbo,
    Http1,
    Http2,
    /// HTTP/1.1 under TLS.
    Tls,
    Tcp,
    /// With a real broker behind.
    Mqtt,
    /// With our own sink behind.
    MqttSink,
    /// The same under TLS.
    MqttTls,
    /// A broker of RocketMQ.
    Rocketmq,
    /// One that writes binary headers.
    RocketmqBinary,
}

/// One kind of load.
pub(super) struct Workload {
    pub(super) group: Group,
    pub(super) name: &'static str,
    pub(super) door: Door,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    pub(super) calls: u64,
    pub(super) generator: Generator,
}

/// Who sends it.
#[derive(Clone, Copy)]
pub(super) enum Generator {
    /// Our own.
    Own { protocol: Protocol, size: usize },
    /// h2load of nghttp2; without a path, gRPC.
    H2load { path: &'static str },
    /// h2load, with a connection for each request.
    Handshakes,
    /// Our own, of messages that come back.
    Messages { qos: u8 },
}

/// One measured run.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) cpu_us: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// Sends a tenth of the calls to warm up, then all of them.
pub(super) fn run(
    scale: f64,
    workload: &Workload,
    target: SocketAddr,
    pid: Option<u32>,
    folder: &Path,
) -> anyhow::Result<Run> {
    let calls = ((workload.calls as f64 * scale) as u64).max(100);
    let load = |count: u64| match workload.generator {
        Generator::Own { protocol, size } => own(workload, protocol, size, target, count),
        Generator::H2load { path } => h2load(workload, path, target, count, folder),
        Generator::Handshakes => handshakes(workload, target, count, folder),
        Generator::Messages { qos } => messages(workload, qos, target, count),
    };
    load(calls / 10)?;
    let before = pid.map_or(Ok(0), cpu_nanos)?;
    let (p50_us, p99_us) = load(calls)?;
    let after = pid.map_or(Ok(0), cpu_nanos)?;
    Ok(Run {
        cpu_us: after.saturating_sub(before) as f64 / 1000.0 / calls as f64,
        p50_us,
        p99_us,
    })
}

fn output(mut command: Command, target: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the load through {target} failed");
    }
    Ok(output.stdout)
}

fn own(
    workload: &Workload,
    protocol: Protocol,
    size: usize,
    target: SocketAddr,
    count: u64,
) -> anyhow::Result<(u64, u64)> {
    let mut command = on_one_cpu(&std::env::current_exe()?);
    command
        .args(["load", "--protocol", protocol.name(), "--target"])
        .arg(target.to_string())
        .args(["--warm-up", "0", "--count", &count.to_string()])
        .args(["--connections", &workload.connections.to_string()])
        .args(["--in-flight", &workload.in_flight.to_string()])
        .args(["--size", &size.to_string()]);
    summary(command, target, count)
}

fn messages(
    workload: &Workload,
    qos: u8,
    target: SocketAddr,
    count: u64,
) -> anyhow::Result<(u64, u64)> {
    let mut command = on_one_cpu(&std::env::current_exe()?);
    command
        .args(["mqtt", "--target", &target.to_string()])
        .args(["--count", &count.to_string(), "--qos", &qos.to_string()])
        .args(["--connections", &workload.connections.to_string()])
        .args(["--in-flight", &workload.in_flight.to_string()]);
    summary(command, target, count)
}

/// Runs a generator of ours; the median and the 99th percentile of its times.
fn summary(command: Command, target: SocketAddr, count: u64) -> anyhow::Result<(u64, u64)> {
    let summary: serde_json::Value = serde_json::from_slice(&output(command, target)?)?;
    if summary["errors"] != 0 || summary["calls"] != count {
        bail!("calls went wrong through {target}: {summary}");
    }
    let time = |name: &str| summary[name].as_u64().unwrap_or(0);
    Ok((time("p50_us"), time("p99_us")))
}

fn h2load(
    workload: &Workload,
    path: &str,
    target: SocketAddr,
    count: u64,
    folder: &Path,
) -> anyhow::Result<(u64, u64)> {
    let scheme = if workload.door == Door::Tls {
        "https"
    } else {
        "http"
    };
    let (log, body) = (folder.join("h2load.log"), folder.join("body"));
    let mut command = on_one_cpu(Path::new("h2load"));
    command
        .args(["-n", &count.to_string()])
        .args(["-c", &workload.connections.to_string()])
        .args(["-m", &workload.in_flight.to_string()])
        .arg(format!("--log-file={}", log.display()));
    let _ = std::fs::remove_file(&log);
    if path.is_empty() {
        // One message of 95 bytes.
        let mut message = vec![0, 0, 0, 0, 95];
        message.resize(100, b'.');
        std::fs::write(&body, message)?;
        command.arg("-d").arg(&body);
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        command.arg(format!("http://{target}/{SERVICE}/{METHOD}"));
    } else {
        command
            .arg("--h1")
            .arg(format!("{scheme}://{target}{path}"));
    }
    let said =
        output(command, target).context("is h2load there? apt-get install nghttp2-client")?;
    let said = String::from_utf8_lossy(&said);
    if !said.contains(&format!("{count} succeeded, 0 failed")) {
        bail!("requests went wrong through {target}: {said}");
    }
    percentiles(&log)
}

/// Median and 99th percentile of the times in a log of h2load's: when, status, microseconds.
fn percentiles(log: &Path) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(log)?;
    let times = text.lines().filter_map(|line| line.split('\t').nth(2));
    let mut times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0);
    Ok((at(50), at(99)))
}

/// As many clients as requests, so many at a time.
fn handshakes(
    workload: &Workload,
    target: SocketAddr,
    count: u64,
    folder: &Path,
) -> anyhow::Result<(u64, u64)> {
    let mut left = count;
    let mut times = (0, 0);
    while left > 0 {
        let now = left.min(workload.connections as u64);
        let few = Workload {
            connections: usize::try_from(now)?,
            ..*workload
        };
        times = h2load(&few, "/1k", target, now, folder)?;
        left -= now;
    }
    Ok(times)
}
