//! Services of one registry carried into another.

use super::*;

#[test]
fn a_bridge_carries_services_to_consumers_of_another_registry() {
    let (zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    let legacy = Peer::dubbo2();
    legacy.export(&[
        ("registry", &zookeeper_.address),
        ("serialization", "hessian2"),
        ("port", &free_port().to_string()),
        ("name", "legacy"),
    ]);
    let host = host_address();
    let listener = free_port();
    let start = |listener: u16| {
        Finback::start(&format!(
            r#"
workers: 1
registries: {{ zk: {}, keys: {} }}
bridges:
  - from: {{ registry: zk, layout: dubbo }}
    to: {{ registry: keys, layout: dubbo }}
    services: [ "com.acme.*" ]
    address: "{host}:{listener}"
  - from: {{ registry: keys, layout: dubbo }}
    to: {{ registry: zk, layout: dubbo }}
    services: [ "com.acme.*" ]
  - from: {{ registry: zk, layout: dubbo }}
    to: {{ registry: keys, layout: native }}
    services: [ "com.acme.*" ]
listeners: [ {{ name: rpc, address: "0.0.0.0:{listener}", protocol: dubbo, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk }} }} ] }}
"#,
            zookeeper(&zookeeper_),
            etcd(&etcd_),
        ))
    };
    let one = start(listener);
    let consumer = Peer::dubbo2();
    let through_etcd = format!("etcd3://{}", etcd_.address);
    let caller = consumer.caller(&[("registry", &through_etcd)]);
    eventually_answering(&caller, &["legacy"]);
    // The second proxy writes its own address for consumers; the providers' stand once.
    let two = start(free_port());
    let mirrored = |prefix: &str| {
        let keys = etcd_.keys(prefix);
        keys.iter()
            .filter(|key| key.contains("finback.origin"))
            .count()
    };
    let providers = format!("/dubbo/{GREETER}/providers/");
    eventually("both proxies' entries", PATIENCE, || {
        match mirrored(&providers) {
            2 => Ok(()),
            n => Err(format!("{n}: {:?}", etcd_.keys(&providers))),
        }
    });
    assert_eq!(etcd_.keys("/finback/services/").len(), 1);
    // Nothing came back through the bridge in the other direction.
    let tools = Peer::registry();
    let path = format!("/dubbo/{GREETER}/providers");
    let at = [("registry", zookeeper_.address.as_str()), ("path", &path)];
    assert_eq!(
        tools
            .ask("children", &at)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // One of them goes away without a word: the shared entry is taken over, its own goes.
    without_a_lost_call_of(&caller, || {
        two.process().signal("KILL");
        drop(two);
        eventually("one proxy's entries", Duration::from_secs(40), || {
            match (mirrored(&providers), etcd_.keys("/finback/services/").len()) {
                (1, 1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    });
    // The provider's end is mirrored too.
    legacy.ask("unexport", &[("name", "legacy")]).unwrap();
    eventually("the end to be mirrored", PATIENCE, || {
        match etcd_.keys("/finback/services/").len() {
            0 => Ok(()),
            n => Err(format!("{n}\n{}", one.process().tail())),
        }
    });
    one.process().signal("TERM");
    assert!(one.process().wait_for_end(PATIENCE).success());
}

#[test]
fn a_bridge_carries_a_sofa_service_to_an_unchanged_consumer() {
    // Two ZooKeepers, as two data centres have: the consumer knows only its own.
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::sofa();
    let export = [("registry", &*theirs.address), ("name", "far")];
    let port = free_port().to_string();
    provider.export(&[&export[..], &[("host", "127.0.0.1"), ("port", &port)]].concat());
    let listener = free_port();
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ theirs: {}, ours: {} }}
bridges:
  - from: {{ registry: theirs, layout: sofa }}
    to: {{ registry: ours, layout: sofa }}
    services: [ "com.acme.*" ]
    address: "127.0.0.1:{listener}"
listeners: [ {{ name: rpc, address: "127.0.0.1:{listener}", protocol: bolt, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: theirs }} }} ] }}
"#,
        zookeeper(&theirs),
        zookeeper(&ours),
    ));
    let consumer = Peer::sofa();
    let caller = consumer.caller(&[("registry", ours.address.as_str())]);
    eventually_answering(&caller, &["far"]);
    let (_, metrics) = finback.admin("/metrics");
    assert!(
        metrics.contains("finback_requests_total{protocol=\"bolt\""),
        "{metrics}"
    );
}

/// Calls one by one before and after; a consumer may try a dead proxy's address once.
fn without_a_lost_call_of(caller: &Caller<'_>, trouble: impl FnOnce()) {
    eventually_answering(caller, &["legacy"]);
    trouble();
    eventually_answering(caller, &["legacy"]);
}
