//! What bridges and registrations write into registries, and what frameworks' own consumers make of it.

use std::time::Duration;

use serde_json::json;

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Peer};
use crate::support::world::GREETER;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn zookeeper(servers: &ZooKeeper) -> String {
    format!("{{ zookeeper: \"{}\", session: 4s }}", servers.address)
}

/// A proxy that mirrors Dubbo's or SOFA-RPC's services from one ZooKeeper into another, with its own
/// address.
fn bridging(from: &ZooKeeper, to: &ZooKeeper, layout: &str) -> Finback {
    let listener = free_port();
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ theirs: {}, ours: {} }}
bridges:
  - from: {{ registry: theirs, layout: {layout} }}
    to: {{ registry: ours, layout: {layout} }}
    services: [ "com.acme.*" ]
    address: "{}:{listener}"
listeners: [ {{ name: rpc, address: "0.0.0.0:{listener}", protocol: auto, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: theirs }}, timeout: 20s }} ] }}
"#,
        zookeeper(from),
        zookeeper(to),
        host_address(),
    ))
}

fn eventually_answers(caller: &Caller<'_>, name: &str) {
    eventually("the provider", PATIENCE, || match caller.call("who", "") {
        Ok(found) if found == name => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// The parameters of the entries below a path of ZooKeeper, as they are encoded there.
fn entries(zookeeper: &ZooKeeper, path: &str) -> Vec<String> {
    let tools = Peer::registry();
    let at = [("registry", zookeeper.address.as_str()), ("path", path)];
    let children = tools.ask("children", &at).unwrap();
    let names = children.as_array().unwrap();
    names
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

fn providers() -> String {
    format!("/dubbo/{GREETER}/providers")
}

// === What consumers act on ===

#[test]
fn a_consumer_of_a_bridge_waits_and_retries_as_the_provider_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    for (peer, consumer) in [
        (Peer::dubbo3(), Peer::dubbo3()),
        (Peer::dubbo2(), Peer::dubbo3()),
        (Peer::dubbo3(), Peer::dubbo2()),
    ] {
        let port = free_port().to_string();
        peer.export(&[
            ("registry", &theirs.address),
            ("serialization", "hessian2"),
            ("port", &port),
            ("name", "slow"),
            ("?timeout", "5000"),
            ("?retries", "0"),
            ("?payload", "20000000"),
        ]);
        let finback = bridging(&theirs, &ours, "dubbo");
        let caller = consumer.caller(&[("registry", &ours.address)]);
        eventually_answers(&caller, "slow");
        // Without a word from the provider: a second, three times.
        let bare = caller.with("bare", "true");
        assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
        assert_eq!(bare.call("noted", "").unwrap(), "naps: 1");
        let found = entries(&ours, &providers());
        assert_eq!(found.len(), 1);
        for wanted in ["timeout%3D5000", "retries%3D0", "payload%3D20000000"] {
            assert!(found[0].contains(wanted), "{wanted}: {found:?}");
        }
        for other in ["pid%3D", "bind.", "timestamp%3D1"] {
            assert!(!found[0].contains(other), "{other}: {found:?}");
        }
        peer.ask("unexport", &[("name", "slow")]).unwrap();
        drop(finback);
    }
}

#[test]
fn a_consumer_of_a_bridge_waits_as_a_provider_at_the_application_level_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::dubbo3();
    provider.export(&[
        ("registry", &theirs.address),
        ("mode", "instance"),
        ("application", "acme-instances"),
        ("metadata-type", "remote"),
        ("port", &free_port().to_string()),
        ("name", "instance"),
        ("?timeout", "5000"),
        ("?retries", "0"),
    ]);
    let _finback = bridging(&theirs, &ours, "dubbo");
    let consumer = Peer::dubbo3();
    let caller = consumer.caller(&[("registry", &ours.address)]);
    eventually_answers(&caller, "instance");
    let bare = caller.with("bare", "true");
    assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
    assert_eq!(bare.call("noted", "").unwrap(), "naps: 1");
}

#[test]
fn a_consumer_of_a_bridge_reaches_a_provider_under_its_own_path() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::dubbo3();
    provider.export(&[
        ("registry", &theirs.address),
        ("serialization", "hessian2"),
        ("port", &free_port().to_string()),
        ("name", "elsewhere"),
        ("path", "shop/greeter"),
    ]);
    let _finback = bridging(&theirs, &ours, "dubbo");
    let consumer = Peer::dubbo3();
    eventually_answers(
        &consumer.caller(&[("registry", &ours.address)]),
        "elsewhere",
    );
}

#[test]
fn a_sofa_consumer_of_a_bridge_waits_as_the_provider_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::sofa();
    provider.export(&[
        ("registry", &theirs.address),
        ("host", &host_address().to_string()),
        ("port", &free_port().to_string()),
        ("name", "slow"),
        ("timeout", "9000"),
        ("weight", "70"),
    ]);
    let _finback = bridging(&theirs, &ours, "sofa");
    let consumer = Peer::sofa();
    let caller = consumer.caller(&[("registry", ours.address.as_str())]);
    eventually_answers(&caller, "slow");
    // Without a word from the provider: three seconds.
    let slept = caller.with("bare", "true").call("sleep", "4000");
    assert_eq!(slept.unwrap(), json!("slept 4000"));
    let folder = format!("/sofa-rpc/{GREETER}/providers");
    let (original, ours) = (entries(&theirs, &folder), entries(&ours, &folder));
    assert_eq!((original.len(), ours.len()), (1, 1));
    let parameters = |name: &str| {
        let query = name.split("%3F").nth(1).unwrap().to_owned();
        let own = |pair: &&str| {
            let mine = ["pid", "finback.origin"];
            !mine
                .iter()
                .any(|name| pair.starts_with(&format!("{name}%3D")))
        };
        let mut pairs: Vec<String> = query.split("%26").filter(own).map(str::to_owned).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(parameters(&ours[0]), parameters(&original[0]));
}
