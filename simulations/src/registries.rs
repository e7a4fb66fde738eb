//! What many services in a registry cost: time to the first complete snapshot, memory, CPU time of
//! one update, and for how long at most they held up the threads of the control side.
//!
//! ZooKeeper and etcd are started here, from Debian's packages, and filled with services of the
//! `dubbo` layout.

mod rules;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::process::{Folder, Process, cpu_nanos, free_address, rss_kib, start};

/// Writes at the same time while a registry is filled.
const WRITES: usize = 256;
/// Providers added and removed again, one by one, to measure an update.
const UPDATES: usize = 500;
/// How long the first snapshot may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Services.
    pub services: usize,
    /// Providers of each.
    pub providers: usize,
    /// Rules instead: so many documents in the configuration centre.
    pub documents: Option<usize>,
    /// The finback binary.
    pub finback: PathBuf,
}

/// Writes what a Dubbo provider would.
enum Writer {
    ZooKeeper(zookeeper_client::Client),
    Etcd(Box<etcd_client::KvClient>),
}

impl Writer {
    /// Makes an entry.
    async fn put(&self, path: &str, value: &str) -> anyhow::Result<()> {
        match self {
            Self::ZooKeeper(client) => {
                use zookeeper_client::{Acls, CreateMode};
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                client.create(path, value.as_bytes(), &options).await?;
            }
            Self::Etcd(client) => {
                client.as_ref().clone().put(path, value, None).await?;
            }
        }
        Ok(())
    }

    /// Gives an entry that stands another value.
    async fn set(&self, path: &str, value: &str) -> anyhow::Result<()> {
        match self {
            Self::ZooKeeper(client) => drop(client.set_data(path, value.as_bytes(), None).await?),
            Self::Etcd(_) => self.put(path, value).await?,
        }
        Ok(())
    }

    async fn remove(&self, path: &str) -> anyhow::Result<()> {
        match self {
            Self::ZooKeeper(client) => client.delete(path, None).await?,
            Self::Etcd(client) => drop(client.as_ref().clone().delete(path, None).await?),
        }
        Ok(())
    }

    async fn folder(&self, path: &str) -> anyhow::Result<()> {
        match self {
            Self::ZooKeeper(client) => {
                use zookeeper_client::{Acls, CreateMode};
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                client.mkdir(path, &options).await?;
            }
            Self::Etcd(_) => {}
        }
        Ok(())
    }
}

fn service(number: usize) -> String {
    format!("com.acme.shop.service{number:05}.OrderFacade")
}

/// A URL as Dubbo 3 for Java writes it; each process has its own id and time.
fn provider(service: &str, number: usize) -> String {
    let url = format!(
        "dubbo%3A%2F%2F10.{}.{}.{}%3A20880%2F{service}%3Fanyhost%3Dtrue%26application%3Dshop\
         %26background%3Dfalse%26deprecated%3Dfalse%26dubbo%3D2.0.2%26dynamic%3Dtrue%26generic%3Dfalse\
         %26interface%3D{service}%26methods%3Dcreate%2Cfind%2Clist%2Cpay%2Ccancel%26pid%3D{}\
         %26release%3D3.2.16%26retries%3D0%26revision%3D1.0.0%26service-name-mapping%3Dtrue\
         %26side%3Dprovider%26threads%3D200%26timeout%3D3000%26timestamp%3D{}%26version%3D1.0.0%26weight%3D100",
        number / 65_536,
        number / 256 % 256,
        number % 256,
        1000 + number % 30_000,
        1_700_000_000_000_u64 + 977 * number as u64,
    );
    format!("/dubbo/{service}/providers/{url}")
}

/// Measures, and prints a Markdown table.
///
/// # Errors
/// If a server is missing (the message says how to install it), or does not take the load.
pub async fn run(scale: &Scale) -> anyhow::Result<()> {
    if let Some(documents) = scale.documents {
        return rules::run(scale, documents).await;
    }
    println!(
        "| registry | services x providers | seconds to the first snapshot | CPU s | RSS MiB | CPU us per update | control held up, ms | registries held up, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for store in ["zookeeper", "etcd"] {
        let (server, writer) = Server::start(store).await?;
        let mut filled = 0;
        for services in [10, scale.services] {
            fill(&writer, filled..services, scale.providers).await?;
            filled = services;
            measure(&server, &writer, services, scale).await?;
        }
    }
    Ok(())
}

/// A registry's server, filled and measured here.
struct Server {
    store: &'static str,
    address: SocketAddr,
    folder: Folder,
    _process: Process,
}

impl Server {
    async fn start(store: &'static str) -> anyhow::Result<(Self, Writer)> {
        let folder = Folder::new("registries")?;
        let address = free_address()?;
        let process = match store {
            "zookeeper" => start_zookeeper(folder.path(), address)?,
            _ => start_etcd(folder.path(), address)?,
        };
        let writer = match store {
            "zookeeper" => {
                Writer::ZooKeeper(zookeeper_client::Client::connect(&address.to_string()).await?)
            }
            _ => {
                let client = etcd_client::Client::connect([address.to_string()], None).await?;
                Writer::Etcd(Box::new(client.kv_client()))
            }
        };
        let server = Self {
            store,
            address,
            folder,
            _process: process,
        };
        Ok((server, writer))
    }
}

async fn fill(
    writer: &Writer,
    services: std::ops::Range<usize>,
    providers: usize,
) -> anyhow::Result<()> {
    stream::iter(services)
        .map(|number| async move {
            let service = service(number);
            for kind in ["providers", "configurators", "routers"] {
                writer.folder(&format!("/dubbo/{service}/{kind}")).await?;
            }
            for number in 0..providers {
                writer.put(&provider(&service, number), "").await?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(WRITES)
        .try_collect()
        .await
}

async fn measure(
    server: &Server,
    writer: &Writer,
    services: usize,
    scale: &Scale,
) -> anyhow::Result<()> {
    let store = server.store;
    let (finback, admin, took) = start_finback(server, services, scale).await?;
    let pid = finback.pid();
    let cpu = cpu_nanos(pid)?;
    // What was read but is no longer needed is given back within moments.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rss = rss_kib(pid)?;
    let quiet = cpu_nanos(pid)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let per_second = cpu_nanos(pid)?.saturating_sub(quiet) / 3;
    let before = cpu_nanos(pid)?;
    let began = Instant::now();
    for number in 0..UPDATES {
        let service = service(number % services);
        let path = provider(&service, scale.providers + number);
        writer.put(&path, "").await?;
        tokio::time::sleep(Duration::from_millis(4)).await;
        writer.remove(&path).await?;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle = per_second as f64 * began.elapsed().as_secs_f64();
    let update = (cpu_nanos(pid)?.saturating_sub(before) as f64 - idle) / 1000.0;
    let update = update / (2 * UPDATES) as f64;
    let [control, registries] = ["control", "registries"].map(|thread| held_up(admin, thread));
    if followed(admin)?.0 != services {
        bail!("services were lost meanwhile");
    }
    println!(
        "| {store} | {services} x {} | {:.1} | {:.2} | {:.1} | {update:.0} | {:.0} | {:.0} |",
        scale.providers,
        took.as_secs_f64(),
        cpu as f64 / 1e9,
        rss as f64 / 1024.0,
        control?,
        registries?,
    );
    Ok(())
}

async fn start_finback(
    server: &Server,
    services: usize,
    scale: &Scale,
) -> anyhow::Result<(Process, SocketAddr, Duration)> {
    let Server {
        store,
        address,
        folder,
        ..
    } = server;
    let (admin, front) = (free_address()?, free_address()?);
    let config = folder.path().join("finback.yaml");
    let text = format!(
        "workers: 1\nadmin: {{ address: \"{admin}\" }}\nregistries:\n  it: {{ {store}: \"{address}\", eager: [ {{ layout: dubbo }} ] }}\n\
         listeners:\n  - {{ name: dubbo, address: \"{front}\", protocol: dubbo, routes: all }}\n\
         routes:\n  all:\n    - to: {{ registry: it, layout: dubbo }}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(&scale.finback);
    command.arg("run").arg("-c").arg(config);
    let began = Instant::now();
    let process = start(command, &[admin], "cargo build --release")?;
    loop {
        if followed(admin)? == (services, 0) {
            return Ok((process, admin, began.elapsed()));
        }
        if began.elapsed() > PATIENCE {
            bail!("no complete snapshot in time: {:?}", followed(admin)?);
        }
        // Whoever filled the registry has a session there to keep up.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Services that are followed, and those of them without a first answer.
fn followed(admin: SocketAddr) -> anyhow::Result<(usize, usize)> {
    let body: serde_json::Value = serde_json::from_str(&page(admin, "/registries")?)?;
    let number = |key: &str| body[0][key].as_u64().map(|number| number as usize);
    Ok((
        number("services").context("no services")?,
        number("waiting").context("no waiting")?,
    ))
}

/// For how many milliseconds at most a thread of the control side was held up lately.
fn held_up(admin: SocketAddr, thread: &str) -> anyhow::Result<f64> {
    let metrics = page(admin, "/metrics")?;
    let name = format!("finback_control_longest_turn_seconds{{thread=\"{thread}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.context("no such metric")?.parse::<f64>()? * 1000.0)
}

fn page(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}

fn start_zookeeper(folder: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let config = folder.join("zoo.cfg");
    let text = format!(
        "tickTime=2000\ndataDir={}\nclientPortAddress={}\nclientPort={}\nadmin.enableServer=false\n",
        folder.display(),
        address.ip(),
        address.port()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("java");
    command
        .args(["-Xmx1g", "-Djute.maxbuffer=8388608"])
        // As etcd here: its disk is not what is measured.
        .args(["-Dzookeeper.forceSync=no", "-cp"])
        .arg("/usr/share/java/zookeeper.jar")
        .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
        .arg(config);
    start(command, &[address], "apt-get install libzookeeper-java")
}

fn start_etcd(folder: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let peers = free_address()?;
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--unsafe-no-fsync", "--log-level", "error"])
        .args(["--listen-client-urls", &format!("http://{address}")])
        .args(["--advertise-client-urls", &format!("http://{address}")])
        .args(["--listen-peer-urls", &format!("http://{peers}")]);
    start(command, &[address], "apt-get install etcd-server")
}
