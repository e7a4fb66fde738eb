//! Memory of proxies.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::Group;
use super::loads::{self, Door, Generator, Workload};
use super::proxies::Proxy;
use crate::process::{Process, rss_kib};
use crate::speech::Protocol;

/// Resident memory before any call, and after one and two million.
pub(super) fn calls(proxies: &[Proxy], folder: &Path) -> anyhow::Result<()> {
    println!("\n| proxy | RSS MiB idle | after a million calls | after two million |");
    println!("|---|---|---|---|");
    for proxy in proxies {
        let (Some(pid), Some(target)) = (proxy.pid(), proxy.doors.get(&Door::Dubbo)) else {
            continue;
        };
        let mut figures = vec![rss_kib(pid)? as f64 / 1024.0];
        let million = Workload {
            group: Group::Rpc,
            name: "Dubbo",
            door: Door::Dubbo,
            connections: 10,
            in_flight: 32,
            calls: 1_000_000,
            generator: Generator::Own {
                protocol: Protocol::Dubbo,
                size: 0,
            },
        };
        for _ in 0..2 {
            loads::run(1.0, &million, *target, Some(pid), folder)?;
            figures.push(rss_kib(pid)? as f64 / 1024.0);
        }
        let [idle, one, two] = figures[..] else {
            continue;
        };
        println!("| {} | {idle:.1} | {one:.1} | {two:.1} |", proxy.name);
    }
    Ok(())
}

/// Resident memory for each connection that is held after one call.
pub(super) fn connections(
    start: &dyn Fn() -> anyhow::Result<Vec<Proxy>>,
    wanted: &dyn Fn(Group) -> bool,
    certificate: &Path,
) -> anyhow::Result<()> {
    println!("\n| idle connections | proxy | held | bytes each |");
    println!("|---|---|---|---|");
    for (group, door, protocol, tls) in [
        (Group::Rpc, Door::Dubbo, Protocol::Dubbo, false),
        (Group::Web, Door::Http1, Protocol::Http, false),
        (Group::Web, Door::Http2, Protocol::Grpc, false),
        (Group::Web, Door::Tls, Protocol::Http, true),
        (Group::Tcp, Door::Tcp, Protocol::Bytes, false),
        (Group::Mqtt, Door::MqttSink, Protocol::Bytes, false),
        (Group::Mqtt, Door::MqttTls, Protocol::Bytes, true),
    ] {
        if !wanted(group) {
            continue;
        }
        // Fresh processes: what was given back would hide what the next ones need.
        for proxy in &start()? {
            let (Some(pid), Some(target)) = (proxy.pid(), proxy.doors.get(&door)) else {
                continue;
            };
            let before = rss_kib(pid)?;
            let count = 4_000;
            let messages = group == Group::Mqtt;
            let held = hold(
                protocol,
                messages,
                tls.then_some(certificate),
                *target,
                count,
            )
            .with_context(|| format!("{} with {count} connections", proxy.name))?;
            // Whoever puts idle connections aside has the time to.
            std::thread::sleep(Duration::from_secs(3));
            let each = rss_kib(pid)?.saturating_sub(before) * 1024 / count;
            drop(held);
            println!("| {door:?} | {} | {count} | {each} |", proxy.name);
        }
    }
    Ok(())
}

fn hold(
    protocol: Protocol,
    messages: bool,
    certificate: Option<&Path>,
    target: SocketAddr,
    count: u64,
) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    if messages {
        command.args(["mqtt", "--idle", "--connections"]);
    } else {
        command.args(["idle", "--protocol", protocol.name(), "--connections"]);
    }
    command.args([&count.to_string(), "--target", &target.to_string()]);
    if let Some(certificate) = certificate {
        command.arg("--certificate").arg(certificate);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if !line.starts_with("holding") {
        bail!("the connections were not taken");
    }
    Ok(process)
}
