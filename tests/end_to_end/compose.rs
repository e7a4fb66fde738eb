//! The compose example's own files, against ZooKeeper and etcd as Debian has them.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load, Summary};
use finback_simulations::mqtt::{self, MqttLoad};
use finback_simulations::rocketmq::{self, RocketMqLoad};
use finback_simulations::speech::Protocol;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::rocketmq::mesh::range;
use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::jaeger::Jaeger;
use crate::support::kafka::Kafka;
use crate::support::mosquitto::Mosquitto;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A configuration of the example with the names of its network replaced.
fn example(name: &str, names: &[(&str, &str)]) -> Finback {
    let text = std::fs::read_to_string(root().join("deploy/compose").join(name)).unwrap();
    // The tests' proxies have an admin port of their own, and logs that tests read.
    let mut lines = Vec::new();
    let mut in_admin = false;
    for line in text.lines() {
        in_admin = line == "admin:" || in_admin && line.starts_with(' ');
        if !in_admin && !line.starts_with("log:") {
            lines.push(line);
        }
    }
    let mut text = lines.join("\n") + "\n";
    for (from, to) in names {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    Finback::start(&text)
}

fn call(runtime: &Runtime, protocol: Protocol, target: SocketAddr) -> Result<Summary, String> {
    let load = Load {
        protocol,
        size: 0,
        target,
        connections: 4,
        in_flight: 4,
        count: 500,
        warm_up: 0,
        patience: Duration::from_secs(5),
    };
    match runtime.block_on(load::run(&load, &Arc::default())) {
        Ok(summary) if summary.errors == 0 => Ok(summary),
        Ok(summary) => Err(format!("{} errors", summary.errors)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_compose_example_works_with_servers_from_debian() {
    let (zookeeper, etcd) = (ZooKeeper::start(), Etcd::start());
    let (mosquitto, kafka) = (Mosquitto::start(), Kafka::start());
    let names = NameServer::start();
    let queues = Broker::start_with(&[&names], Setup::default());
    let jaeger = Jaeger::start();
    let statsd = UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = Runtime::new().unwrap();
    let service = |protocol: Protocol| {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(echo::serve(listener, protocol, Faults::default()));
        address
    };
    let (orders, stock) = (service(Protocol::Bolt), service(Protocol::Dubbo));
    let (pay, shop) = (service(Protocol::Grpc), service(Protocol::Http));
    let host = host_address();
    let [front, meters, bolt, dubbo, mq] = [(); 5].map(|()| free_port().to_string());
    let mesh = example(
        "mesh.yaml",
        &[
            ("http://jaeger:4317", &jaeger.grpc),
            ("zookeeper:2181", &zookeeper.address),
            ("etcd:2379", &etcd.address),
            ("kafka:9092", &kafka.address),
            ("graphite:8125", &statsd.local_addr().unwrap().to_string()),
            ("mosquitto:1883", &mosquitto.address()),
            ("pay:50051", &pay),
            ("shop:8080", &shop),
            ("0.0.0.0:12220", &format!("127.0.0.1:{front}")),
            ("0.0.0.0:12221", &format!("127.0.0.1:{meters}")),
            ("rocketmq-names:9876", &names.address),
            ("0.0.0.0:9876", &format!("127.0.0.1:{mq}")),
            ("20000-20029", &range(30)),
        ],
    );
    let orders = example(
        "orders.yaml",
        &[
            ("http://jaeger:4317", &jaeger.grpc),
            ("zookeeper:2181", &zookeeper.address),
            ("172.31.77.30:12200", &format!("{host}:{bolt}")),
            ("0.0.0.0:12200", &format!("0.0.0.0:{bolt}")),
            ("127.0.0.1:12201", &orders),
        ],
    );
    let stock = example(
        "stock.yaml",
        &[
            ("http://jaeger:4317", &jaeger.grpc),
            ("etcd:2379", &etcd.address),
            ("172.31.77.31:20880", &format!("{host}:{dubbo}")),
            ("0.0.0.0:20880", &format!("0.0.0.0:{dubbo}")),
            ("127.0.0.1:20881", &stock),
        ],
    );
    let target = mesh.local("rpc").parse().unwrap();
    for protocol in [
        Protocol::Bolt,
        Protocol::Dubbo,
        Protocol::Grpc,
        Protocol::Http,
    ] {
        eventually("calls", Duration::from_secs(20), || {
            call(&runtime, protocol, target).map(|_| ())
        });
    }
    let mut load = MqttLoad {
        target,
        connections: 3,
        in_flight: 4,
        qos: 1,
        count: 60,
        size: 10,
        heard: true,
    };
    runtime.block_on(mqtt::run(&load, &Arc::default())).unwrap();
    load.target = mesh.local("meters").parse().unwrap();
    load.heard = false;
    runtime.block_on(mqtt::run(&load, &Arc::default())).unwrap();
    assert_eq!(
        mesh.metric("finback_kafka_messages_total", "outcome=\"confirmed\""),
        60
    );
    let load = RocketMqLoad {
        target: mesh.local("mq").parse().unwrap(),
        pairs: 4,
        in_flight: 4,
        count: 60,
        size: 100,
    };
    // A name server tells of a broker once that has registered.
    let mut heard = 0;
    eventually("messages of RocketMQ", Duration::from_secs(40), || {
        let ended = runtime.block_on(rocketmq::run(&load, &Arc::default()));
        let summary = ended.map_err(|error| error.to_string())?;
        heard = summary.calls;
        match summary.errors {
            0 => Ok(()),
            errors => Err(format!("{errors} errors")),
        }
    });
    assert_eq!(heard, 60);
    drop(queues);
    // A call is one trace, from the mesh through the sidecar of the service that answers it.
    for sidecar in ["orders", "stock"] {
        eventually("a trace across both", Duration::from_secs(30), || {
            let ours = jaeger.service_now("mesh")?;
            let theirs = jaeger.service_now(sidecar)?;
            let is_whole = theirs
                .iter()
                .any(|own| ours.iter().any(|one| one.trace == own.trace));
            is_whole
                .then_some(())
                .ok_or(format!("{} and {} spans", ours.len(), theirs.len()))
        });
    }
    // Graphite is told of the same calls.
    statsd
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut packet = [0; 65_536];
    let told = std::iter::from_fn(|| statsd.recv(&mut packet).ok().map(|n| packet[..n].to_vec()));
    let mut told = told.take(10_000);
    assert!(told.any(|own| String::from_utf8_lossy(&own).contains("requests")));
    let (_, metrics) = orders.admin("/metrics");
    let registered = "finback_registered{registry=\"zookeeper\",layout=\"sofa\"";
    let line = metrics.lines().find(|line| line.starts_with(registered));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
    // What is stopped takes its registration back first: its callers learn of it at once.
    drop(orders);
    stock.process().signal("TERM");
    stock.process().wait_for_end(Duration::from_secs(40));
    assert!(
        etcd.keys("/dubbo/").is_empty(),
        "{:?}",
        etcd.keys("/dubbo/")
    );
}

fn yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A tag that names one version, and never another later.
fn is_pinned(image: &str) -> bool {
    let Some((_, tag)) = image.rsplit_once(':') else {
        return false;
    };
    // A version of three numbers, or a day.
    let is_version = tag
        .split(['.', '-'])
        .filter(|part| part.trim_start_matches('v').parse::<u64>().is_ok());
    let is_day = tag
        .split('-')
        .any(|part| part.len() == 8 && part.parse::<u64>().is_ok());
    is_day || is_version.count() >= 3
}

#[test]
fn the_compose_file_names_what_is_there() {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_object().unwrap();
    for wanted in [
        "zookeeper",
        "etcd",
        "mosquitto",
        "kafka",
        "rocketmq-names",
        "rocketmq-broker",
        "jaeger",
        "graphite",
        "prometheus",
        "grafana",
        "mesh",
        "callers",
    ] {
        assert!(services.contains_key(wanted), "{wanted}");
    }
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        assert!(
            is_pinned(image) || image.ends_with(":local"),
            "{name}: {image}"
        );
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(root().join(source).exists(), "{name}: {source} is missing");
        }
        let needed: Vec<&str> = match &service["depends_on"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            Value::Object(map) => map.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        for needed in needed {
            assert!(services.contains_key(needed), "{name} depends on {needed}");
        }
    }
    // What is scraped is served.
    let prometheus = yaml("deploy/compose/prometheus.yml");
    assert!(prometheus.to_string().contains("mesh:9902"));
    for name in ["mesh", "orders", "stock"] {
        let (good, said) = Finback::check(
            &std::fs::read_to_string(root().join(format!("deploy/compose/{name}.yaml"))).unwrap(),
        );
        assert!(good && !said.contains("warning"), "{said}");
    }
}

#[test]
fn the_image_is_built_of_what_is_there() {
    let text = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut stages: Vec<String> = Vec::new();
    let mut last = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let parts = words(line);
        match parts.first().map(String::as_str) {
            Some("FROM") => {
                let base = &parts[1];
                assert!(
                    base == "scratch" || stages.contains(base) || is_pinned(base),
                    "{base} is not pinned"
                );
                stages.push(parts[3].clone());
                last.clear();
            }
            Some("COPY") => match parts[1].strip_prefix("--from=") {
                Some(stage) => assert!(stages.iter().any(|own| own == stage), "{line}"),
                None => assert!(parts[1] == "." || root().join(&parts[1]).exists(), "{line}"),
            },
            _ => {}
        }
        last.push(line.to_owned());
    }
    assert_eq!(
        stages.last().map(String::as_str),
        Some("finback"),
        "the last stage is what is run"
    );
    let last = last.join("\n");
    for wanted in [
        "LABEL",
        "EXPOSE",
        "HEALTHCHECK",
        "\"finback\", \"health\"",
        "/etc/finback/finback.yaml",
        "ENTRYPOINT [\"finback\"]",
    ] {
        assert!(last.contains(wanted), "{wanted}");
    }
    assert!(!last.contains("finback-sim"), "no simulator in production");
    assert!(
        text.contains("USER 65532:65532") && !text.contains("useradd"),
        "a number, no name"
    );
    assert!(text.contains("strip /out/finback"));
    // What the image runs by default is good, and lives.
    let config = std::fs::read_to_string(root().join("deploy/image/finback.yaml")).unwrap();
    let (good, said) = Finback::check(&config);
    assert!(good && !said.contains("warning"), "{said}");
}

#[test]
fn dependencies_can_be_built_from_manifests_alone() {
    let folder = crate::support::temporary_folder();
    let skeleton = |to: &Path| {
        let made = Command::new(root().join("scripts/skeleton.sh"))
            .arg(root())
            .arg(to)
            .status();
        assert!(made.unwrap().success());
    };
    skeleton(&folder.join("one"));
    let resolved = Command::new("cargo")
        .args([
            "metadata",
            "--offline",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
            "--manifest-path",
        ])
        .arg(folder.join("one/Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        resolved.status.success(),
        "{}",
        String::from_utf8_lossy(&resolved.stderr)
    );
    let metadata: Value = serde_json::from_slice(&resolved.stdout).unwrap();
    let bins = metadata["packages"].as_array().unwrap().iter();
    let bins = bins.flat_map(|own| own["targets"].as_array().unwrap());
    let bins: Vec<&str> = bins
        .filter(|own| {
            own["kind"][0] == "bin" && own["src_path"].as_str().unwrap().contains("/one/")
        })
        .map(|own| own["name"].as_str().unwrap())
        .collect();
    assert!(
        bins.contains(&"finback") && bins.contains(&"finback-sim"),
        "{bins:?}"
    );
    // A change of a source changes nothing of it.
    let source = folder.join("one/src/lib.rs");
    assert_eq!(std::fs::metadata(source).unwrap().len(), 0);
}
