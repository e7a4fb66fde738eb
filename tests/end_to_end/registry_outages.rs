//! Registries that are cut off, refuse or answer nonsense: what is registered comes back, and what
//! was read stays.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cable::Cable;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::zookeeper::ZooKeeper;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What we hold in etcd outlives us for so long at most.
const LEASE: Duration = Duration::from_secs(25);

/// A proxy that listens nowhere of note.
fn finback(registries: &str, more: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ {registries} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: followed }} }} ] }}
{more}
"#
    ))
}

/// A cluster that follows a service of the layout `native`.
fn follow(registry: &str) -> String {
    format!(
        "clusters: {{ followed: {{ discover: {{ registry: {registry}, layout: native, service: pay }} }} }}"
    )
}

fn put(etcd: &Etcd, id: u16) {
    let value = format!("{{\"address\":\"127.0.0.1:{id}\"}}");
    etcd.put(&format!("/finback/services/pay/{id}"), &value);
}

fn endpoints(finback: &Finback) -> Option<BTreeSet<String>> {
    let cluster = finback.cluster("followed")?;
    let list = cluster["endpoints"].as_array().unwrap();
    let address = |each: &Value| each["address"].as_str().unwrap().to_owned();
    (cluster["ready"] == json!(true)).then(|| list.iter().map(address).collect())
}

fn eventually_following(finback: &Finback, within: Duration, wanted: &[u16]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|id| format!("127.0.0.1:{id}")).collect();
    eventually("the endpoints", within, || match endpoints(finback) {
        Some(found) if found == wanted => Ok(()),
        found => Err(format!("{found:?}\n{}", finback.process().tail())),
    });
}

/// The keys below a prefix, which must be so many within a time.
fn eventually_keys(etcd: &Etcd, prefix: &str, within: Duration, count: usize) -> Duration {
    let begun = Instant::now();
    eventually(prefix, within, || match etcd.keys(prefix) {
        keys if keys.len() == count => Ok(()),
        keys => Err(format!("{keys:?}")),
    });
    begun.elapsed()
}

/// How often it has connected, by its log.
fn connections(finback: &Finback) -> usize {
    finback.process().count(" connected registry=\"keys\"")
}

// === What is registered comes back ===

#[test]
fn what_is_registered_in_etcd_comes_back_after_a_cut_longer_than_the_lease() {
    let (etcd, source) = (Etcd::start(), Etcd::start());
    let cable = Cable::to(&etcd.address);
    put(&source, 1);
    put(&etcd, 7);
    let finback = finback(
        &format!(
            "keys: {{ etcd: \"{}\" }}, source: {{ etcd: \"{}\" }}",
            cable.address, source.address
        ),
        &format!(
            r#"
register: [ {{ registry: keys, layout: native, service: own, address: "127.0.0.1:9000" }} ]
bridges: [ {{ from: {{ registry: source, layout: native }}, to: {{ registry: keys, layout: grpc }}, services: [ pay ] }} ]
{}"#,
            follow("keys")
        ),
    );
    let (own, bridged) = ("/finback/services/own/", "pay/");
    eventually_keys(&etcd, own, PATIENCE, 1);
    eventually_keys(&etcd, bridged, PATIENCE, 1);
    eventually_following(&finback, PATIENCE, &[7]);

    // A short cut: the lease outlives it.
    cable.cut();
    thread::sleep(Duration::from_secs(4));
    cable.heal();
    eventually("a connection", PATIENCE, || {
        match finback.metric("finback_registry_connected", "registry=\"keys\"") {
            1 => Ok(()),
            other => Err(format!("{other}")),
        }
    });
    assert_eq!(etcd.keys(own).len(), 1);

    cable.cut();
    eventually_keys(&etcd, own, LEASE, 0);
    eventually_keys(&etcd, bridged, LEASE, 0);
    thread::sleep(Duration::from_secs(2));
    cable.heal();
    // The longest pause that so long a cut makes, and no more.
    eventually_keys(&etcd, own, Duration::from_secs(35), 1);
    eventually_keys(&etcd, bridged, Duration::from_secs(3), 1);
    // It holds, and what is followed is followed over one and the same connection.
    let connected = connections(&finback);
    for id in 8..14 {
        thread::sleep(Duration::from_secs(1));
        put(&etcd, id);
        let all: Vec<u16> = (7..=id).collect();
        eventually_following(&finback, Duration::from_secs(1), &all);
    }
    assert_eq!(
        connections(&finback),
        connected,
        "{}",
        finback.process().tail()
    );
    assert_eq!(etcd.keys(own).len(), 1);
    assert_eq!(finback.metric("finback_registered", "registry=\"keys\""), 1);
}

#[test]
fn a_lease_that_is_gone_is_replaced_at_once_and_tears_nothing_down() {
    let etcd = Etcd::start();
    let finback = finback(
        &format!("keys: {{ etcd: \"{}\" }}", etcd.address),
        &format!(
            "register: [ {{ registry: keys, layout: native, service: own, address: \"127.0.0.1:9000\" }} ]\n{}",
            follow("keys")
        ),
    );
    let own = "/finback/services/own/";
    eventually_keys(&etcd, own, PATIENCE, 1);
    for round in 0..3 {
        let leases = etcd.control(&["lease", "list"]);
        for id in leases.lines().filter(|line| line.len() == 16) {
            etcd.control(&["lease", "revoke", id]);
        }
        eventually_keys(&etcd, own, Duration::from_secs(3), 1);
        put(&etcd, 20 + round);
        let all: Vec<u16> = (20..=20 + round).collect();
        eventually_following(&finback, Duration::from_secs(1), &all);
        // What lasted a while is made again without a pause: let it last.
        thread::sleep(Duration::from_secs(2));
    }
    // Removed by another hand: made again at once.
    let key = etcd.keys(own).remove(0);
    etcd.delete(&key);
    let took = eventually_keys(&etcd, own, PATIENCE, 1);
    assert!(took < Duration::from_millis(500), "{took:?}");
    finback
        .process()
        .await_words(" connected registry=\"keys\"");
    assert_eq!(connections(&finback), 1, "{}", finback.process().tail());
}

#[test]
fn what_is_registered_in_zookeeper_comes_back_after_a_cut_longer_than_the_session() {
    let zookeeper = ZooKeeper::start();
    let cable = Cable::to(&zookeeper.address);
    let finback = finback(
        &format!("zk: {{ zookeeper: \"{}\", session: 4s }}", cable.address),
        &format!(
            "register: [ {{ registry: zk, layout: sofa, service: own, address: \"127.0.0.1:9000\" }} ]\n{}",
            follow("zk")
        ),
    );
    let tools = Peer::registry();
    let at = [
        ("registry", zookeeper.address.as_str()),
        ("path", "/sofa-rpc/own/providers"),
    ];
    let eventually_children = |within: Duration, count: usize| {
        eventually("the children", within, || {
            match tools.ask("children", &at) {
                Ok(children) if children.as_array().unwrap().len() == count => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    eventually_children(PATIENCE, 1);
    cable.cut();
    eventually_children(PATIENCE, 0);
    thread::sleep(Duration::from_secs(3));
    cable.heal();
    eventually_children(Duration::from_secs(20), 1);
    // The packets of a connection that stands get lost.
    cable.silence();
    eventually_children(PATIENCE, 0);
    cable.heal();
    eventually_children(Duration::from_secs(20), 1);
    // It is told once the node was seen, a moment after it was made.
    eventually("it to be told", PATIENCE, || {
        match finback.metric("finback_registered", "registry=\"zk\"") {
            1 => Ok(()),
            other => Err(format!("{other}")),
        }
    });
}

#[test]
fn an_etcd_in_a_minority_is_not_taken_at_its_word_and_registrations_come_back() {
    let three = Etcd::start_three();
    // Only one is known: when the others are frozen there is nobody else to ask.
    let finback = finback(
        &format!("keys: {{ etcd: \"{}\" }}", three[0].address),
        &format!(
            "register: [ {{ registry: keys, layout: native, service: own, address: \"127.0.0.1:9000\" }} ]\n{}",
            follow("keys")
        ),
    );
    let own = "/finback/services/own/";
    eventually_keys(&three[0], own, PATIENCE, 1);
    put(&three[0], 7);
    eventually_following(&finback, PATIENCE, &[7]);
    for frozen in &three[1..] {
        frozen.process().signal("STOP");
    }
    eventually("it to be noticed", LEASE, || {
        match finback.metric("finback_registry_connected", "") {
            0 => Ok(()),
            other => Err(format!("{other}")),
        }
    });
    assert_eq!(endpoints(&finback).map(|all| all.len()), Some(1));
    // Longer than the lease and the longest pause that so much time makes.
    thread::sleep(Duration::from_secs(20));
    for frozen in &three[1..] {
        frozen.process().signal("CONT");
    }
    eventually(
        "it to be well again",
        Duration::from_secs(60),
        || match finback.metric("finback_registry_connected", "") {
            1 => Ok(()),
            other => Err(format!("{other}")),
        },
    );
    eventually_keys(&three[0], own, Duration::from_secs(5), 1);
    put(&three[2], 8);
    eventually_following(&finback, Duration::from_secs(2), &[7, 8]);
}

#[test]
fn what_is_taken_back_during_an_outage_does_not_outlive_it() {
    let etcd = Etcd::start();
    let cable = Cable::to(&etcd.address);
    let registries = format!("keys: {{ etcd: \"{}\" }}", cable.address);
    let register = "register: [ { registry: keys, layout: native, service: own, address: \"127.0.0.1:9000\" } ]\n";
    let finback = finback(&registries, &format!("{register}{}", follow("keys")));
    let own = "/finback/services/own/";
    eventually_keys(&etcd, own, PATIENCE, 1);
    cable.cut();
    finback.reload(&format!(
        r#"
workers: 1
registries: {{ {registries} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: followed }} }} ] }}
{}
"#,
        follow("keys")
    ));
    thread::sleep(Duration::from_secs(1));
    cable.heal();
    // The former lease goes on, so the key must be taken from it; it would stay for ever.
    eventually_keys(&etcd, own, PATIENCE, 0);
}
