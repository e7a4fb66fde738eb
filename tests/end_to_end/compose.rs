//! The compose example's own files, against ZooKeeper and etcd as Debian has them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load, Summary};
use finback_simulations::speech::Speech;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

/// A configuration of the example with the names of its network replaced.
fn example(name: &str, names: &[(&str, &str)]) -> Finback {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose");
    let mut text = std::fs::read_to_string(path.join(name)).unwrap();
    // The tests' proxies have an admin port of their own.
    text = text.replace("admin: { address: \"127.0.0.1:9901\" }\n", "");
    for (from, to) in names {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    Finback::start(&text)
}

fn call(runtime: &Runtime, speech: Speech, target: SocketAddr) -> Result<Summary, String> {
    let load = Load {
        protocol: speech.into(),
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
    let runtime = Runtime::new().unwrap();
    let service = |speech| {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(echo::serve(listener, speech, Faults::default()));
        address
    };
    let (orders, stock) = (service(Speech::Bolt), service(Speech::Dubbo));
    let host = host_address();
    let [front, bolt, dubbo] = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let mesh = example(
        "mesh.yaml",
        &[
            ("zookeeper:2181", &zookeeper.address),
            ("etcd:2379", &etcd.address),
            ("0.0.0.0:12220", &format!("127.0.0.1:{front}")),
        ],
    );
    let orders = example(
        "orders.yaml",
        &[
            ("zookeeper:2181", &zookeeper.address),
            ("172.31.77.30:12200", &format!("{host}:{bolt}")),
            ("0.0.0.0:12200", &format!("0.0.0.0:{bolt}")),
            ("127.0.0.1:12201", &orders),
        ],
    );
    let stock = example(
        "stock.yaml",
        &[
            ("etcd:2379", &etcd.address),
            ("172.31.77.31:20880", &format!("{host}:{dubbo}")),
            ("0.0.0.0:20880", &format!("0.0.0.0:{dubbo}")),
            ("127.0.0.1:20881", &stock),
        ],
    );
    let target = mesh.local("rpc").parse().unwrap();
    for speech in [Speech::Bolt, Speech::Dubbo] {
        eventually("calls", Duration::from_secs(20), || {
            call(&runtime, speech, target).map(|_| ())
        });
    }
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
