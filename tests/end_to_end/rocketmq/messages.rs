//! Messages of every kind: plain, batched, large, delayed, ordered, transactional.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::stage::{Outcome, Stage, all_arrived, stored, summary};
use crate::support::eventually;
use crate::support::rocketmq_clients::Kind;

/// In every way of sending that the client has, with a tag, properties, and a body that is compressed;
/// all arrive once, whole, and from where they were said to be stored.
pub(crate) fn plain(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("plain", 4), stage.group("plain"));
    let consumer = stage.consumer(&group, &topic, &[]);
    let producer = stage.producer(&topic, &[]);
    let mut sent = producer.send(
        &topic,
        &[
            ("key", "sync"),
            ("count", "10"),
            ("tag", "red"),
            ("@lane", "gray"),
            ("@note", "a b=c"),
        ],
    );
    sent.extend(producer.send(&topic, &[("key", "large"), ("size", "20000")]));
    let more: &[(&str, &str)] = match stage.client.kind {
        Kind::Node => &[],
        Kind::Grpc => &[("async", "3")],
        Kind::Go => &[("async", "3"), ("one-way", "2")],
        _ => &[("async", "3"), ("one-way", "2"), ("batch", "5")],
    };
    for (how, count) in more {
        sent.extend(producer.send(&topic, &[("how", how), ("key", how), ("count", count)]));
    }
    stored(&sent);
    let received = consumer.receive(sent.len());
    all_arrived(&sent, &received);
    let first = received.iter().map(|own| own.millis).min().unwrap();
    let age = received.iter().map(|own| own.age).min().unwrap();
    consumer.close();
    producer.close();
    Outcome::of(summary(&received))
        .took("first consume", first)
        .took("shortest way", age)
        .took("first send", sent[0].millis)
        .took("last send", sent[9].millis)
}

/// To two queues by turns, and consumed in order.
pub(crate) fn ordered(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("ordered", 2), stage.group("ordered"));
    let consumer = stage.consumer(&group, &topic, &[("how", "orderly")]);
    let producer = stage.producer(&topic, &[]);
    let mut sent = Vec::new();
    for round in 0..5 {
        for queue in ["0", "1"] {
            let key = format!("q{queue}-{round}-");
            let fields = [
                ("how", "queue"),
                ("queue", queue),
                ("key", key.as_str()),
                ("count", "4"),
            ];
            sent.extend(producer.send(&topic, &fields));
        }
    }
    stored(&sent);
    let received = consumer.receive(sent.len());
    all_arrived(&sent, &received);
    let queue = |wanted: u64| -> Vec<(&str, u64)> {
        let own = received.iter().filter_map(|own| Some((own, own.place?)));
        own.filter(|(_, (queue, _))| *queue == wanted)
            .map(|(own, (_, offset))| (own.key.as_str(), offset))
            .collect()
    };
    let queues = [queue(0), queue(1)];
    for own in &queues {
        let offsets: Vec<_> = own.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, (0..20).collect::<Vec<_>>(), "{own:?}");
    }
    let same = json!(queues);
    consumer.close();
    producer.close();
    Outcome::of(same)
}

/// By a second.
pub(crate) fn delayed(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("delayed", 1), stage.group("delayed"));
    let consumer = stage.consumer(&group, &topic, &[]);
    let producer = stage.producer(&topic, &[]);
    // Level 1 of the old clients is a second.
    let delay = match stage.client.kind {
        Kind::Grpc => ("delay-ms", "1000"),
        _ => ("delay", "1"),
    };
    let sent = producer.send(&topic, &[("key", "late"), ("count", "3"), delay]);
    stored(&sent);
    let received = consumer.receive(3);
    let mut keys: Vec<_> = received.iter().map(|own| own.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["late0", "late1", "late2"]);
    let age = received.iter().map(|own| own.age).min().unwrap();
    assert!(age >= 950, "{received:?}");
    consumer.close();
    producer.close();
    Outcome::of(summary(&received)).took("delay", age)
}

/// Committed, rolled back, and left for the broker to ask about: only what is committed arrives.
pub(crate) fn transactional(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (
        stage.topic("transactional", 1),
        stage.group("transactional"),
    );
    let consumer = stage.consumer(&group, &topic, &[]);
    let producer = stage.producer(&topic, &[("transactional", "true")]);
    // The broker may ask about any, where the machine is slow, so both answers are the same.
    for (key, decide, check) in [
        ("committed", "commit", "commit"),
        ("rolled-back", "rollback", "rollback"),
        ("asked-committed", "unknown", "commit"),
        ("asked-rolled-back", "unknown", "rollback"),
    ] {
        let fields = [
            ("how", "transaction"),
            ("key", key),
            ("@decide", decide),
            ("@check", check),
        ];
        stored(&producer.send(&topic, &fields));
    }
    let limit = Duration::from_secs(35);
    let mut received = Vec::new();
    let wanted = BTreeSet::from(["asked-committed0".to_owned(), "committed0".to_owned()]);
    eventually("both that were committed", limit, || {
        received.extend(consumer.receive_within(1, 500));
        // One that is asked about twice is committed twice.
        let keys: BTreeSet<_> = received.iter().map(|own| own.key.clone()).collect();
        if keys == wanted {
            Ok(())
        } else {
            Err(format!("{keys:?}"))
        }
    });
    eventually("both are asked about", limit, || {
        let asked = producer.ask("checked", &[]);
        let both = asked["asked-committed0"].is_u64() && asked["asked-rolled-back0"].is_u64();
        if both { Ok(()) } else { Err(asked.to_string()) }
    });
    received.extend(consumer.receive_within(1, 500));
    let keys: BTreeSet<_> = received.iter().map(|own| own.key.clone()).collect();
    assert_eq!(keys, wanted);
    let age = received.iter().map(|own| own.age).max().unwrap();
    let same = summary(&received);
    consumer.close();
    producer.close();
    Outcome::of(same).took("check-back", age)
}
