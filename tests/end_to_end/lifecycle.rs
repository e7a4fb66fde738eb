//! Providers that come, go and die, and the proxy's own end, under load.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Load, Peer};
use crate::support::world::{GREETER, NODE_GREETER, world};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

fn finback(zookeeper: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 2
registries:
  zk: {{ zookeeper: "{zookeeper}" }}
listeners:
  - {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }}
routes:
  rpc:
    - to: {{ registry: zk }}
      retry: {{ attempts: 2 }}
registry_clusters: {{ outlier: {{ base: 2s }} }}
"#
    ))
}

/// An npm provider of its own process.
fn provider(zookeeper: &ZooKeeper, name: &str, port: u16) -> Peer {
    let peer = Peer::node();
    peer.export(&[
        ("protocol", "bolt"),
        ("registry", &zookeeper.address),
        ("interface", NODE_GREETER),
        ("port", &port.to_string()),
        ("name", name),
    ]);
    peer
}

/// Who answers ten calls.
fn answering(caller: &Caller<'_>) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for _ in 0..10 {
        let name = caller
            .call("who", "")
            .map_err(|failure| format!("{failure:?}"))?;
        names.insert(name.as_str().unwrap_or_default().to_owned());
    }
    Ok(names)
}

fn eventually_answering(caller: &Caller<'_>, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    eventually(
        "the right instances",
        Duration::from_secs(20),
        || match answering(caller)? {
            names if names == wanted => Ok(()),
            names => Err(format!("{names:?} answer")),
        },
    );
}

#[test]
fn a_killed_provider_costs_only_what_it_had_in_hand_and_is_taken_back() {
    let zookeeper = ZooKeeper::start();
    let (one, two) = (free_port(), free_port());
    let killed = provider(&zookeeper, "one", one);
    let _other = provider(&zookeeper, "two", two);
    let finback = finback(&zookeeper.address);
    let address = finback.local("rpc");
    let node = world().node();
    let caller = node.caller(&[
        ("protocol", "bolt"),
        ("address", &address),
        ("interface", NODE_GREETER),
        ("threads", "8"),
    ]);
    eventually_answering(&caller, &["one", "two"]);

    let load = caller.load(2500);
    thread::sleep(Duration::from_millis(800));
    drop(killed);
    let load = Load::of(load);
    let failed: u64 = load.errors.values().sum();
    assert!(load.wrong == 0 && failed <= 8, "{load:?}");
    assert!(load.right > 200, "{load:?}");

    // Its entry is still in the registry, but nobody is sent there any more.
    let load = Load::of(caller.load(700));
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");

    let _back = provider(&zookeeper, "one", one);
    eventually_answering(&caller, &["one", "two"]);
}

#[test]
fn instances_that_come_and_go_in_the_registry_are_followed_without_a_lost_call() {
    let zookeeper = ZooKeeper::start();
    let one = provider(&zookeeper, "one", free_port());
    let finback = finback(&zookeeper.address);
    let address = finback.local("rpc");
    let node = world().node();
    let caller = node.caller(&[
        ("protocol", "bolt"),
        ("address", &address),
        ("interface", NODE_GREETER),
    ]);
    eventually_answering(&caller, &["one"]);
    let load = caller.load(4000);
    let _two = provider(&zookeeper, "two", free_port());
    eventually_answering(&caller, &["one", "two"]);
    one.ask("unexport", &[("name", "one")]).unwrap();
    eventually_answering(&caller, &["two"]);
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
}

#[test]
fn a_dubbo_provider_that_stops_loses_no_call() {
    let zookeeper = ZooKeeper::start();
    let start = |name: &str| {
        let peer = Peer::dubbo3();
        let port = free_port().to_string();
        peer.export(&[
            ("registry", &zookeeper.address),
            ("serialization", "hessian2"),
            ("port", &port),
            ("name", name),
        ]);
        peer
    };
    let one = start("one");
    let _two = start("two");
    let finback = finback(&zookeeper.address);
    let url = format!(
        "dubbo://{}/{GREETER}?serialization=hessian2",
        finback.public("rpc")
    );
    let caller = world().dubbo3().caller(&[("url", &url), ("threads", "4")]);
    eventually_answering(&caller, &["one", "two"]);
    let load = caller.load(6000);
    thread::sleep(Duration::from_millis(1000));
    one.process().signal("TERM");
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert_eq!(
        answering(&caller).unwrap(),
        BTreeSet::from(["two".to_owned()])
    );
}

/// Sends a heartbeat, which the proxy answers, and leaves the connection open.
fn dubbo_connection(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let heartbeat = [
        0xda, 0xbb, 0xe2, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, b'N',
    ];
    stream.write_all(&heartbeat).unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], [0xda, 0xbb, 0x22, 20], "{answer:?}");
    assert_eq!(answer[4..12], heartbeat[4..12], "{answer:?}");
    stream
}

#[test]
fn the_proxy_finishes_what_is_in_flight_before_it_ends() {
    let world = world();
    let finback = finback(world.zookeeper());
    let bolt = format!("bolt://{}", finback.local("rpc"));
    let dubbo = format!(
        "dubbo://{}:{}/{GREETER}?serialization=hessian2",
        host_address(),
        finback.port("rpc")
    );
    let address = finback.local("rpc");
    let callers = [
        world.sofa().caller(&[("url", &bolt)]),
        world.dubbo3().caller(&[("url", &dubbo)]),
        world.node().caller(&[
            ("protocol", "bolt"),
            ("address", &address),
            ("interface", NODE_GREETER),
        ]),
    ];
    for caller in &callers {
        caller.call("sleep", "1").unwrap();
    }
    let mut idle = dubbo_connection(&address);
    let pending: Vec<_> = callers
        .iter()
        .flat_map(|caller| (0..10).map(|_| caller.begin("sleep", "2500")))
        .collect();
    eventually("all calls", Duration::from_secs(2), || {
        match finback.metric("finback_cluster_in_flight", "") {
            30 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    finback.process().signal("TERM");

    // The Dubbo way to say goodbye: a read-only event, an id of its own, the text "R".
    let mut goodbye = [0; 18];
    idle.read_exact(&mut goodbye).unwrap();
    assert_eq!(goodbye[..4], [0xda, 0xbb, 0xa2, 0], "{goodbye:?}");
    assert_eq!(goodbye[12..], [0, 0, 0, 2, 1, b'R'], "{goodbye:?}");
    eventually(
        "refused connections",
        Duration::from_secs(1),
        || match TcpStream::connect(&address) {
            Err(_) => Ok(()),
            Ok(_) => Err("still accepted".into()),
        },
    );
    for answer in pending {
        assert_eq!(answer.wait().unwrap(), "slept 2500");
    }
    let status = finback.process().wait_for_end(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", finback.process().tail());
}

#[test]
fn the_proxy_ended_under_load_leaves_no_call_without_an_answer() {
    let world = world();
    let finback = finback(world.zookeeper());
    let bolt = format!("bolt://{}", finback.local("rpc"));
    let dubbo = format!(
        "dubbo://{}/{GREETER}?serialization=hessian2",
        finback.public("rpc")
    );
    let sofa = world
        .sofa()
        .caller(&[("url", &bolt), ("stop", "true"), ("threads", "8")]);
    let dubbo = world
        .dubbo3()
        .caller(&[("url", &dubbo), ("stop", "true"), ("threads", "8")]);
    for caller in [&sofa, &dubbo] {
        caller.call("who", "").unwrap();
    }
    let loads = [sofa.load(4000), dubbo.load(4000)];
    thread::sleep(Duration::from_millis(1000));
    finback.process().signal("TERM");
    let status = finback.process().wait_for_end(Duration::from_secs(35));
    assert_eq!(status.code(), Some(0), "{}", finback.process().tail());
    for load in loads.map(Load::of) {
        assert_eq!(load.wrong, 0, "{load:?}");
        assert!(load.right > 50, "{load:?}");
        // Each thread ends at its first failure: being told, or finding nobody there. A lost
        // call would show as a timeout.
        assert!(
            !load
                .errors
                .keys()
                .any(|text| text.to_lowercase().contains("timeout")),
            "{load:?}"
        );
    }
}
