//! Local services registered for their applications, found by frameworks themselves.

use super::*;

#[test]
fn a_registered_service_is_found_by_its_frameworks_own_consumers() {
    let (mut zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    let port = free_port();
    let application = Peer::dubbo3();
    application.export(&[
        ("serialization", "hessian2"),
        ("port", &port.to_string()),
        ("name", "unregistered"),
    ]);
    let [listener, bolt] = [free_port(), free_port()];
    let host = host_address();
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {}, keys: {} }}
register:
  - {{ registry: zk, layout: dubbo, service: {GREETER}, address: "{host}:{listener}", check: "{host}:{port}" }}
  - {{ registry: zk, layout: sofa, service: {NODE_GREETER}, address: "127.0.0.1:{bolt}", application: legacy }}
  - {{ registry: keys, layout: dubbo, service: {GREETER}, address: "{host}:{listener}" }}
  - {{ registry: keys, layout: grpc, service: shop/pay, address: "127.0.0.1:5000", labels: {{ zone: a }} }}
  - {{ registry: zk, layout: spring, service: orders, address: "127.0.0.1:8081" }}
listeners:
  - {{ name: rpc, address: "0.0.0.0:{listener}", protocol: dubbo, routes: rpc }}
  - {{ name: bolt, address: "127.0.0.1:{bolt}", protocol: bolt, routes: world }}
routes:
  rpc: [ {{ to: {{ cluster: application }} }} ]
  world: [ {{ to: {{ registry: world }} }} ]
clusters: {{ application: {{ endpoints: [ "{host}:{port}" ] }} }}
"#,
        zookeeper(&zookeeper_),
        etcd(&etcd_),
    ).replace("registries: { ", &format!("registries: {{ world: {{ zookeeper: \"{}\" }}, ", world().zookeeper())));
    let consumer = Peer::dubbo3();
    let java = consumer.caller(&[("registry", &zookeeper_.address)]);
    eventually_answering(&java, &["unregistered"]);
    let older = Peer::dubbo2();
    let through_etcd = format!("etcd3://{}", etcd_.address);
    eventually_answering(
        &older.caller(&[("registry", &through_etcd)]),
        &["unregistered"],
    );
    let go = Peer::go();
    let go_caller = go.caller(&[("registry", &format!("etcdv3://{}", etcd_.address))]);
    eventually_answering(&go_caller, &["unregistered"]);
    let listed = go.ask(
        "grpc-list",
        &[("registry", &etcd_.address), ("target", "shop/pay")],
    );
    assert_eq!(listed.unwrap(), json!(["127.0.0.1:5000"]));
    let tools = Peer::registry();
    let orders = [
        ("registry", zookeeper_.address.as_str()),
        ("service", "orders"),
    ];
    assert_eq!(
        tools.ask("instances", &orders).unwrap(),
        json!(["127.0.0.1:8081"])
    );
    world().node();
    let sofa = Peer::sofa();
    let sofa_caller = sofa.caller(&[
        ("registry", zookeeper_.address.as_str()),
        ("interface", NODE_GREETER),
    ]);
    eventually_answering(&sofa_caller, &["node-bolt"]);

    // Gone from the registry by another hand, with the registry's memory, or with our lease: made
    // again.
    let providers = format!("/dubbo/{GREETER}/providers");
    let at = [
        ("registry", zookeeper_.address.as_str()),
        ("path", &providers),
    ];
    let children = || tools.ask("children", &at).unwrap();
    let count = || children().as_array().unwrap().len();
    let first = children()[0].as_str().unwrap().to_owned();
    let node = format!("{providers}/{first}");
    tools
        .ask(
            "delete",
            &[("registry", &zookeeper_.address), ("path", &node)],
        )
        .unwrap();
    eventually("the node to be made again", PATIENCE, || match count() {
        1 => Ok(()),
        n => Err(format!("{n}")),
    });
    let keys = format!("/dubbo/{GREETER}/providers/");
    let lease = etcd_.control(&["lease", "list"]);
    for id in lease.lines().filter(|line| line.len() == 16) {
        // Those of other clients may be gone already.
        etcd_.control(&["lease", "revoke", id]);
    }
    eventually("the key to be made again", PATIENCE, || {
        match etcd_
            .keys(&keys)
            .iter()
            .filter(|key| key.contains("finback"))
            .count()
        {
            0 => Err(format!("{:?}", etcd_.keys("/"))),
            _ => Ok(()),
        }
    });
    zookeeper_.process().signal("STOP");
    thread::sleep(Duration::from_secs(6));
    zookeeper_.process().signal("CONT");
    eventually(
        "the node after the session's end",
        PATIENCE,
        || match count() {
            1 => Ok(()),
            n => Err(format!("{n}")),
        },
    );
    eventually_answering(&java, &["unregistered"]);

    // Registered only while the application answers.
    drop(application);
    eventually("the service to be taken out", PATIENCE, || match count() {
        0 => Ok(()),
        n => Err(format!("{n}")),
    });
    // Taken back first thing on the way out.
    finback.process().signal("TERM");
    eventually("the rest to be taken back", PATIENCE, || {
        let left = etcd_.keys("shop/pay");
        let orders = tools.ask("instances", &orders).unwrap();
        if left.is_empty() && orders == json!([]) {
            Ok(())
        } else {
            Err(format!("{left:?} {orders}"))
        }
    });
    assert!(finback.process().wait_for_end(PATIENCE).success());
    zookeeper_.kill();
}

#[test]
fn a_sofa_application_uses_its_sidecar_by_one_line() {
    let zookeeper_ = ZooKeeper::start();
    let sidecar = |mesh: u16, advertise: u16, outbound: &str| {
        Finback::start(&format!(
            r#"
workers: 1
registries: {{ zk: {} }}
mesh_registry:
  address: "127.0.0.1:{mesh}"
  registry: zk
  application: "127.0.0.1:12201"
  advertise: "127.0.0.1:{advertise}"
listeners:
  - {{ name: inbound, address: "127.0.0.1:{advertise}", protocol: bolt, routes: local }}
  - {{ name: outbound, address: "{outbound}", protocol: bolt, routes: rpc }}
routes:
  rpc: [ {{ to: {{ registry: zk }} }} ]
  local: [ {{ to: {{ cluster: application }} }} ]
clusters: {{ application: {{ endpoints: [ "127.0.0.1:12201" ] }} }}
"#,
            zookeeper(&zookeeper_)
        ))
    };
    let [mesh, advertise] = [free_port(), free_port()];
    // SOFA-RPC always connects to this port of its sidecar.
    let finback = sidecar(mesh, advertise, "127.0.0.1:12220");
    let address = format!("http://127.0.0.1:{mesh}");
    let registry = [
        ("registry", address.as_str()),
        ("registry-protocol", "mesh"),
    ];
    let provider = Peer::sofa();
    let export = [
        &registry[..],
        &[("host", "127.0.0.1"), ("port", "12201"), ("name", "meshed")],
    ]
    .concat();
    provider.export(&export);
    let consumer = Peer::sofa();
    let caller = consumer.caller(&registry);
    eventually_answering(&caller, &["meshed"]);
    // It is in the registry for everybody else too.
    let other = Peer::sofa();
    let legacy = other.caller(&[("registry", zookeeper_.address.as_str())]);
    eventually_answering(&legacy, &["meshed"]);
    drop(finback);
}
