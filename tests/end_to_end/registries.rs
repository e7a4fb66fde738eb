//! Services as frameworks register them, followed through every trouble of their registries.

mod bridging;
mod getting_in;
mod listing;
mod registering;
mod trouble;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::peer::{Caller, Load, Peer};
use crate::support::world::{GREETER, NODE_GREETER, world};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address, temporary_folder};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in front of one registry.
fn finback(registry: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {registry} }}
listeners:
  - {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }}
  - {{ name: laned, address: "0.0.0.0:0", protocol: auto, routes: rpc, filters: [ lanes ] }}
routes:
  rpc: [ {{ to: {{ registry: r }} }} ]
filters:
  lanes: {{ lane: {{ rules: [ {{ lane: gray, match: {{ attributes: {{ x-user: {{ prefix: beta- }} }} }} }} ] }} }}
"#
    ))
}

fn zookeeper(servers: &ZooKeeper) -> String {
    format!("{{ zookeeper: \"{}\", session: 4s }}", servers.address)
}

fn etcd(servers: &Etcd) -> String {
    format!("{{ etcd: \"{}\" }}", servers.address)
}

/// An npm provider over Bolt in a ZooKeeper.
fn provider(zookeeper: &ZooKeeper, name: &str) -> Peer {
    let peer = Peer::node();
    peer.export(&[
        ("protocol", "bolt"),
        ("registry", &zookeeper.address),
        ("interface", NODE_GREETER),
        ("port", &free_port().to_string()),
        ("name", name),
    ]);
    peer
}

/// An npm caller over Bolt.
fn caller<'a>(peer: &'a Peer, finback: &Finback) -> Caller<'a> {
    peer.caller(&[
        ("protocol", "bolt"),
        ("address", &finback.local("rpc")),
        ("interface", NODE_GREETER),
    ])
}

fn answering(caller: &Caller<'_>) -> Result<BTreeSet<String>, String> {
    (0..12)
        .map(|_| match caller.call("who", "") {
            Ok(name) => Ok(name.as_str().unwrap_or_default().to_owned()),
            Err(failure) => Err(format!("{failure:?}")),
        })
        .collect()
}

fn eventually_answering(caller: &Caller<'_>, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    eventually("the right instances", PATIENCE, || {
        match answering(caller)? {
            names if names == wanted => Ok(()),
            names => Err(format!("{names:?}")),
        }
    });
}

/// Calls while `trouble` goes on, none of which may fail.
fn without_a_lost_call(caller: &Caller<'_>, millis: u64, trouble: impl FnOnce()) -> Load {
    let load = caller.load(millis);
    trouble();
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert!(load.right > 50, "{load:?}");
    println!("{} calls, 0 failed", load.right);
    load
}

/// How the proxy sees its registry.
fn registry_status(finback: &Finback) -> Value {
    let (status, body) = finback.admin("/registries");
    assert_eq!(status, 200);
    serde_json::from_str::<Value>(&body).unwrap()[0].clone()
}

fn eventually_connected(finback: &Finback, connected: bool) {
    eventually("the registry's state", Duration::from_secs(70), || {
        let status = registry_status(finback);
        if status["connected"] == json!(connected) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

/// Addresses of a service as routing sees them; `None` until it has been looked up.
fn endpoints(finback: &Finback, cluster: &str) -> Option<BTreeSet<String>> {
    let (_, body) = finback.admin("/clusters");
    let clusters: Value = serde_json::from_str(&body).unwrap();
    let found = clusters
        .as_array()
        .unwrap()
        .iter()
        .find(|each| each["name"] == json!(cluster) && each["ready"] == json!(true))?;
    let list = found["endpoints"].as_array().unwrap();
    Some(
        list.iter()
            .map(|each| each["address"].as_str().unwrap().to_owned())
            .collect(),
    )
}

/// A proxy with one cluster that follows a service.
fn following(registry: &str, layout: &str, service: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {registry} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: followed }} }} ] }}
clusters: {{ followed: {{ discover: {{ registry: r, layout: {layout}, service: "{service}" }} }} }}
"#
    ))
}

fn eventually_following(finback: &Finback, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    eventually("the endpoints", PATIENCE, || {
        match endpoints(finback, "followed") {
            Some(found) if found == wanted => Ok(()),
            found => Err(format!("{found:?}\n{}", finback.process().tail())),
        }
    });
}

// === What frameworks write ===

#[test]
fn dubbo_applications_are_found_by_mapping_and_metadata() {
    for metadata in ["local", "remote"] {
        let zookeeper_ = ZooKeeper::start();
        let peer = Peer::dubbo3();
        let application = format!("acme-{metadata}");
        peer.export(&[
            ("registry", &zookeeper_.address),
            ("mode", "instance"),
            ("metadata-type", metadata),
            ("application", &application),
            ("serialization", "hessian2"),
            ("port", &free_port().to_string()),
            ("name", metadata),
        ]);
        let finback = finback(&zookeeper(&zookeeper_));
        let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
        let caller = world().dubbo3().caller(&[("url", &url)]);
        eventually_answering(&caller, &[metadata]);
    }
}

#[test]
fn one_dead_instance_of_a_revision_costs_the_others_nothing() {
    let zookeeper_ = ZooKeeper::start();
    let peer = Peer::dubbo3();
    let port = free_port();
    peer.export(&[
        ("registry", &zookeeper_.address),
        ("mode", "instance"),
        ("metadata-type", "local"),
        ("application", "acme-dead"),
        ("serialization", "hessian2"),
        ("port", &port.to_string()),
        ("name", "alive"),
    ]);
    let host = host_address().to_string();
    let (alive, gone) = (format!("{host}:{port}"), format!("192.0.2.1:{port}"));
    // Without a dead one: how long a JVM takes that was never asked before is none of our promises.
    let begin = Instant::now();
    let finback = following(&zookeeper(&zookeeper_), "dubbo-app", GREETER);
    eventually_following(&finback, &[&alive]);
    let usual = begin.elapsed();
    drop(finback);
    // The node of a machine that died stands until its session ends; it comes first by name.
    let tools = Peer::registry();
    let ask = |operation: &str, path: &str, data: &str| {
        let fields = [
            ("registry", zookeeper_.address.as_str()),
            ("path", path),
            ("data", data),
        ];
        tools.ask(operation, &fields).unwrap()
    };
    let node = ask("get", &format!("/services/acme-dead/{alive}"), "");
    let dead = "/services/acme-dead/0.dead";
    ask(
        "create",
        dead,
        &node.as_str().unwrap().replace(&host, "192.0.2.1"),
    );
    let begin = Instant::now();
    let finback = following(&zookeeper(&zookeeper_), "dubbo-app", GREETER);
    eventually_following(&finback, &[&alive, &gone]);
    // Less than the dead one has for its answer.
    let took = begin.elapsed();
    assert!(
        took < usual + Duration::from_millis(2500),
        "{took:?}, else {usual:?}"
    );
    ask("delete", dead, "");
    eventually_following(&finback, &[&alive]);
}

#[test]
fn a_service_at_both_levels_is_one_service() {
    let zookeeper_ = ZooKeeper::start();
    let peer = Peer::dubbo3();
    let port = free_port();
    peer.export(&[
        ("registry", &zookeeper_.address),
        ("mode", "all"),
        ("metadata-type", "local"),
        ("serialization", "hessian2"),
        ("port", &port.to_string()),
        ("name", "both"),
        ("weight", "70"),
    ]);
    let finback = following(&zookeeper(&zookeeper_), "dubbo", GREETER);
    let address = format!("{}:{port}", host_address());
    eventually_following(&finback, &[&address]);
    // At application level alone there is the same.
    let application = following(&zookeeper(&zookeeper_), "dubbo-app", GREETER);
    eventually_following(&application, &[&address]);
}

#[test]
fn dubbo_in_etcd_is_followed_as_java_writes_it() {
    let etcd_ = Etcd::start();
    let peer = Peer::dubbo2();
    peer.export(&[
        ("registry", &format!("etcd3://{}", etcd_.address)),
        ("serialization", "hessian2"),
        ("port", &free_port().to_string()),
        ("name", "java-etcd"),
    ]);
    let finback = finback(&etcd(&etcd_));
    let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
    let caller = world().dubbo2().caller(&[("url", &url)]);
    eventually_answering(&caller, &["java-etcd"]);
}

#[test]
fn dubbo_go_is_found_in_both_registries() {
    let (zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    for (registry, ours) in [
        (
            format!("zookeeper://{}", zookeeper_.address),
            zookeeper(&zookeeper_),
        ),
        (format!("etcdv3://{}", etcd_.address), etcd(&etcd_)),
    ] {
        let go = Peer::go();
        go.export(&[
            ("registry", &registry),
            ("port", &free_port().to_string()),
            ("name", "go"),
        ]);
        let finback = finback(&ours);
        let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
        let caller = world().dubbo3().caller(&[("url", &url)]);
        eventually_answering(&caller, &["go"]);
    }
}

#[test]
fn a_service_in_two_registries_is_one_and_outlives_one_of_them() {
    let (zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    let (first, second) = (Peer::dubbo2(), Peer::dubbo2());
    for (peer, registry, name) in [
        (&first, zookeeper_.address.clone(), "one"),
        (&second, format!("etcd3://{}", etcd_.address), "two"),
    ] {
        peer.export(&[
            ("registry", &registry),
            ("serialization", "hessian2"),
            ("port", &free_port().to_string()),
            ("name", name),
        ]);
    }
    let discover = |registry| {
        format!("{{ discover: {{ registry: {registry}, layout: dubbo, service: {GREETER} }} }}")
    };
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {}, keys: {} }}
listeners:
  - {{ name: all, address: "0.0.0.0:0", protocol: dubbo, routes: all }}
  - {{ name: first, address: "0.0.0.0:0", protocol: dubbo, routes: first }}
  - {{ name: shares, address: "0.0.0.0:0", protocol: dubbo, routes: shares }}
routes:
  all: [ {{ to: {{ registry: [ zk, keys ] }} }} ]
  first: [ {{ to: {{ registry: {{ in_order: [ zk, keys ] }} }} }} ]
  shares: [ {{ to: [ {{ cluster: zk }}, {{ cluster: keys }} ] }} ]
clusters: {{ zk: {}, keys: {} }}
"#,
        zookeeper(&zookeeper_),
        etcd(&etcd_),
        discover("zk"),
        discover("keys"),
    ));
    let through = |listener| {
        let url = format!("dubbo://{}/{GREETER}", finback.public(listener));
        world().dubbo2().caller(&[("url", &url)])
    };
    let callers = ["all", "first", "shares"].map(through);
    eventually_answering(&callers[0], &["one", "two"]);
    eventually_answering(&callers[1], &["one"]);
    eventually_answering(&callers[2], &["one", "two"]);
    let loads = callers.each_ref().map(|caller| caller.load(4000));
    thread::sleep(Duration::from_secs(1));
    first.ask("unexport", &[("name", "one")]).unwrap();
    for load in loads.map(Load::of) {
        assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
        assert!(load.right > 50 && load.who.contains_key("two"), "{load:?}");
        println!("{} calls, 0 failed: {:?}", load.right, load.who);
    }
    for caller in &callers {
        eventually_answering(caller, &["two"]);
    }
}

#[test]
fn spring_services_in_capitals_are_found_in_small_letters() {
    let (zookeeper_, tools) = (ZooKeeper::start(), Peer::registry());
    let register = |service, port| {
        tools
            .ask(
                "register",
                &[
                    ("registry", &*zookeeper_.address),
                    ("service", service),
                    ("id", port),
                    ("host", "127.0.0.1"),
                    ("port", port),
                    ("status", "UP"),
                ],
            )
            .unwrap();
    };
    register("OrderService", "8081");
    for asked in ["orderservice", "OrderService", "ORDERSERVICE"] {
        let finback = following(&zookeeper(&zookeeper_), "spring", asked);
        eventually_following(&finback, &["127.0.0.1:8081"]);
    }
    // Another spelling is another application only where it is the one that was asked for.
    let finback = following(&zookeeper(&zookeeper_), "spring", "orderservice");
    eventually_following(&finback, &["127.0.0.1:8081"]);
    register("ORDERSERVICE", "8082");
    eventually_following(&finback, &["127.0.0.1:8081", "127.0.0.1:8082"]);
    register("orderservice", "8083");
    eventually_following(&finback, &["127.0.0.1:8083"]);
}

#[test]
fn spring_instances_are_followed_with_their_status() {
    let zookeeper_ = ZooKeeper::start();
    let tools = Peer::registry();
    let instance = |id: &'static str, status: &'static str| {
        tools
            .ask(
                "register",
                &[
                    ("registry", &zookeeper_.address),
                    ("service", "orders"),
                    ("id", id),
                    ("host", "127.0.0.1"),
                    ("port", if id == "a" { "8081" } else { "8082" }),
                    ("status", status),
                ],
            )
            .unwrap();
    };
    instance("a", "UP");
    let finback = following(&zookeeper(&zookeeper_), "spring", "orders");
    eventually_following(&finback, &["127.0.0.1:8081"]);
    instance("b", "UP");
    eventually_following(&finback, &["127.0.0.1:8081", "127.0.0.1:8082"]);
    // Only the data of the node changes.
    instance("a", "OUT_OF_SERVICE");
    eventually_following(&finback, &["127.0.0.1:8082"]);
}

#[test]
fn grpc_endpoints_are_followed_as_the_go_client_writes_them() {
    let etcd_ = Etcd::start();
    let go = Peer::go();
    let register = |operation: &str, address: &str| {
        let fields = [
            ("registry", etcd_.address.as_str()),
            ("target", "shop/pay"),
            ("address", address),
        ];
        go.ask(operation, &fields).unwrap();
    };
    register("grpc-register", "127.0.0.1:5000");
    let finback = following(&etcd(&etcd_), "grpc", "shop/pay");
    eventually_following(&finback, &["127.0.0.1:5000"]);
    register("grpc-register", "127.0.0.1:5001");
    eventually_following(&finback, &["127.0.0.1:5000", "127.0.0.1:5001"]);
    register("grpc-unregister", "127.0.0.1:5000");
    eventually_following(&finback, &["127.0.0.1:5001"]);
}

#[test]
fn rules_of_dubbo_steer_calls_and_end_when_they_are_taken_away() {
    let zookeeper_ = ZooKeeper::start();
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    // One process offers an interface once.
    let _providers = [("one", &ports[0]), ("two", &ports[1])].map(|(name, port)| {
        let peer = Peer::dubbo3();
        peer.export(&[
            ("registry", &zookeeper_.address),
            ("serialization", "hessian2"),
            ("port", port),
            ("name", name),
        ]);
        peer
    });
    let finback = finback(&zookeeper(&zookeeper_));
    let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
    let caller = world().dubbo3().caller(&[("url", &url)]);
    eventually_answering(&caller, &["one", "two"]);
    let tools = Peer::registry();
    let host = host_address();
    let rule = |key: &str, text: &str| {
        let path = format!("/dubbo/config/dubbo/{key}");
        let fields = [
            ("registry", zookeeper_.address.as_str()),
            ("path", path.as_str()),
            ("data", text),
        ];
        tools.ask("create", &fields).unwrap();
        path
    };
    let take_away = |path: &str| {
        let fields = [("registry", zookeeper_.address.as_str()), ("path", path)];
        tools.ask("delete", &fields).unwrap();
        eventually_answering(&caller, &["one", "two"]);
    };

    let disabled = rule(
        &format!("{GREETER}::.configurators"),
        &format!(
            "{{configVersion: v2.7, scope: service, key: {GREETER}, enabled: true, configs: [{{addresses: [\"{host}:{}\"], side: provider, parameters: {{disabled: true}}}}]}}",
            ports[0]
        ),
    );
    eventually_answering(&caller, &["two"]);
    take_away(&disabled);

    let by_method = rule(
        &format!("{GREETER}::.condition-router"),
        &format!(
            "{{scope: service, force: true, key: {GREETER}, conditions: [\"method=who => port={}\", \"method=add => host=10.255.255.255\"]}}",
            ports[0]
        ),
    );
    eventually_answering(&caller, &["one"]);
    let refused = caller.call("add", "1,2").unwrap_err();
    assert!(refused.text.contains("no endpoint"), "{refused:?}");
    assert_eq!(
        caller
            .call("sayHello", "you")
            .unwrap()
            .as_str()
            .unwrap()
            .len(),
        18
    );
    take_away(&by_method);

    let tags = rule(
        "acme-peer.tag-router",
        &format!(
            "{{force: false, enabled: true, key: acme-peer, tags: [{{name: gray, addresses: [\"{host}:{}\"]}}]}}",
            ports[1]
        ),
    );
    eventually_answering(&caller, &["one"]);
    eventually_answering(&caller.with("@dubbo.tag", "gray"), &["two"]);
    eventually_answering(&caller.with("@dubbo.tag", "green"), &["one"]);
    // A lane of Finback's own is such a tag: providers need no other label.
    let laned = format!("dubbo://{}/{GREETER}", finback.public("laned"));
    let laned = world().dubbo3().caller(&[("url", &laned)]);
    eventually_answering(&laned.with("@x-user", "beta-7"), &["two"]);
    eventually_answering(&laned.with("@x-user", "alpha-7"), &["one"]);
    let forced = caller
        .with("@dubbo.tag", "green")
        .with("@dubbo.force.tag", "true");
    assert!(forced.call("who", "").is_err());
    take_away(&tags);
}

#[test]
fn bad_entries_cost_themselves_only() {
    let etcd_ = Etcd::start();
    etcd_.put(
        "/finback/services/pay/1",
        r#"{"address":"127.0.0.1:1","weight":5}"#,
    );
    etcd_.put("/finback/services/pay/2", "not json");
    etcd_.put("/finback/services/pay/3", r#"{"address":"nowhere"}"#);
    etcd_.put(
        "/finback/services/pay/4",
        &format!("\"{}\"", "x".repeat(100_000)),
    );
    let finback = following(&etcd(&etcd_), "native", "pay");
    eventually_following(&finback, &["127.0.0.1:1"]);
    etcd_.put("/finback/services/pay/2", r#"{"address":"127.0.0.1:2"}"#);
    eventually_following(&finback, &["127.0.0.1:1", "127.0.0.1:2"]);
}

#[test]
fn a_hundred_thousand_children_are_borne() {
    let zookeeper_ = ZooKeeper::start();
    let tools = Peer::registry();
    let at = |path: &'static str| [("registry", zookeeper_.address.as_str()), ("path", path)];
    let providers = "/dubbo/a.Crowded/providers";
    let many = [
        &at(providers)[..],
        &[("count", "100000"), ("name", "foreign")],
    ]
    .concat();
    assert_eq!(tools.ask("create-many", &many).unwrap(), 100_000);
    let real = "/dubbo/a.Crowded/providers/dubbo%3A%2F%2F127.0.0.1%3A7%2Fa.Crowded";
    tools.ask("create", &at(real)).unwrap();
    let finback = following(&zookeeper(&zookeeper_), "dubbo", "a.Crowded");
    eventually_following(&finback, &["127.0.0.1:7"]);
    tools.ask("delete", &at(real)).unwrap();
    eventually_following(&finback, &[]);
}
