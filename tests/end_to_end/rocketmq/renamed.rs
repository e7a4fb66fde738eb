//! Topics that brokers call otherwise than clients do: real clients notice nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::mesh::{Mesh, configuration, range};
use super::stage::{Cluster, Stage, stored};
use super::through::brokers_of;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::remoting;
use crate::support::rocketmq_clients::{Client, Encoding, Handle, Kind, Received, Sent};

const PATIENCE: Duration = Duration::from_secs(120);

/// Finback with `own` of its clients being `there` at brokers.
fn mesh(cluster: &Cluster, own: &str, there: &str) -> Mesh {
    let text = configuration(&cluster.names.address, &range(12), "");
    let ports = "rocketmq: { broker_ports: ";
    let renaming = format!("rocketmq: {{ rename: {{ {own}: {there} }}, broker_ports: ");
    assert!(text.contains(ports), "{text}");
    Mesh::of(Finback::start(&text.replace(ports, &renaming)))
}

/// In every way that a client has.
fn send(producer: &Handle<'_>, topic: &str, kind: Kind) -> Vec<Sent> {
    let mut sent = producer.send(topic, &[("key", "sync"), ("count", "4"), ("@note", "kept")]);
    if kind == Kind::Node {
        stored(&sent);
        return sent;
    }
    for (how, count) in [("async", "2"), ("one-way", "2"), ("batch", "3")] {
        sent.extend(producer.send(topic, &[("how", how), ("key", how), ("count", count)]));
    }
    for (key, decide) in [("committed", "commit"), ("asked", "unknown")] {
        let fields = [
            ("how", "transaction"),
            ("key", key),
            ("@decide", decide),
            ("@check", "commit"),
        ];
        sent.extend(producer.send(topic, &fields));
    }
    stored(&sent);
    sent
}

/// By key: what it says, under which topic.
fn told(received: &[Received]) -> BTreeMap<&str, (&str, &str)> {
    let all = received.iter();
    all.map(|own| (&*own.key, (&*own.hash, &*own.topic)))
        .collect()
}

#[test]
fn clients_know_a_topic_by_the_name_that_is_theirs() {
    let cluster = Cluster::v55();
    let direct = Client::start(Kind::Java55);
    for (kind, encoding, how) in [
        (Kind::Java49, Encoding::Json, "orderly"),
        (Kind::Java55, Encoding::Binary, "push"),
        (Kind::Java55, Encoding::Json, "pop"),
        (Kind::Node, Encoding::Json, "push"),
    ] {
        let own = Stage::fresh("ours");
        let there = format!("{own}-there");
        cluster.broker.topic(&there, 2);
        let mesh = mesh(cluster, &own, &there);
        let client = Client::start_writing(kind, encoding);
        let stage = mesh.stage(cluster, &client);
        let group = stage.group("renamed");
        if how == "pop" {
            cluster.broker.pop(&there, &group);
        }
        let mut options = vec![("how", how)];
        if how == "push" {
            options.clear();
        }
        // Each fails once, and comes again from the topic of retries.
        if kind == Kind::Java55 && how == "push" {
            options.push(("fail", "1"));
        }
        let consumer = stage.consumer(&group, &own, &options);
        let producer = stage.producer(&own, &[("transactional", "true")]);
        let sent = send(&producer, &own, kind);
        let again = match options.contains(&("fail", "1")) {
            true => sent.len(),
            false => 0,
        };
        // What a broker has to ask for first comes late, and some things twice.
        let mut received = Vec::new();
        eventually("all messages", PATIENCE, || {
            received.extend(consumer.receive_within(1, 500));
            let keys: BTreeSet<_> = received.iter().map(|one| &one.key).collect();
            let retried = received.iter().filter(|one| one.tries > 0).count();
            match keys.len() == sent.len() && retried >= again {
                true => Ok(()),
                false => Err(format!("{keys:?}, {retried} again")),
            }
        });
        let wanted: BTreeMap<&str, (&str, &str)> = sent
            .iter()
            .map(|one| (&*one.key, (&*one.hash, &*own)))
            .collect();
        assert_eq!(told(&received), wanted, "{kind:?} {how}");
        // At the broker it is the other topic.
        let reader = direct.consumer(&cluster.names.address, &stage.group("direct"), &there, &[]);
        let seen = reader.receive(sent.len());
        assert!(seen.iter().all(|one| one.topic == there), "{seen:?}");
        assert!(brokers_of(&mesh.names, &own).len() == 1);
        let refused = remoting::ask(&mesh.names, 105, &[("topic", &there)], &[]).unwrap();
        assert_eq!(refused.code, 17, "{}", refused.remark);
    }
}

#[test]
fn what_is_signed_is_not_renamed_and_the_name_at_brokers_is_unknown() {
    let cluster = Cluster::v55();
    let own = Stage::fresh("signed-ours");
    let there = format!("{own}-there");
    cluster.broker.topic(&there, 1);
    let mesh = mesh(cluster, &own, &there);
    let broker = brokers_of(&mesh.names, &own)[0].1.clone();
    let ask = |topic: &str, more: &[(&str, &str)]| remoting::send(&broker, "g", topic, more);
    assert_eq!(ask(&own, &[]).code, 0);
    assert_eq!(ask(&there, &[]).code, 17);
    assert_eq!(ask(&own, remoting::SIGNATURE).code, 16);
}
