//! Consumers of a group: who is given what, and what happens as they come and go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{Outcome, Stage, all_arrived, stored, summary};
use crate::support::eventually;
use crate::support::rocketmq_clients::{Handle, Received, Sent};

/// Each of a group's consumers is given all messages.
pub(crate) fn broadcast(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("broadcast", 2), stage.group("broadcast"));
    let consumers = [(); 2].map(|()| stage.consumer(&group, &topic, &[("broadcasting", "true")]));
    let producer = stage.producer(&topic, &[]);
    let sent = producer.send(&topic, &[("key", "all"), ("count", "6")]);
    stored(&sent);
    let received = consumers.each_ref().map(|own| own.receive(sent.len()));
    for own in &received {
        all_arrived(&sent, own);
    }
    let same = json!(received.each_ref().map(|own| summary(own)));
    for own in consumers {
        own.close();
    }
    producer.close();
    Outcome::of(same)
}

/// Two consumers share the queues; when one leaves, the other has them all.
pub(crate) fn shared(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("shared", 4), stage.group("shared"));
    let producer = stage.producer(&topic, &[]);
    let [stays, leaves] = [(); 2].map(|()| stage.consumer(&group, &topic, &[]));
    // One to each queue, until each consumer had two of them.
    let began = Instant::now();
    let mut round = 0;
    eventually("two queues each", Duration::from_secs(40), || {
        round += 1;
        let count = one_to_each_queue(&producer, &topic, round).len();
        let ours = queues(&stays, 2);
        let theirs = queues(&leaves, 2);
        let seen = format!("{ours:?} {theirs:?}");
        let all = ours.len() + theirs.len();
        if ours.len() == 2 && theirs.len() == 2 && all == count && ours.is_disjoint(&theirs) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let shared = began.elapsed();
    leaves.close();
    let left = Instant::now();
    let sent = one_to_each_queue(&producer, &topic, 1000);
    // What the one that left had not said it was done with comes once more.
    let mut received = Vec::new();
    eventually("all four", Duration::from_secs(40), || {
        received.extend(stays.receive_within(1, 500));
        received.retain(|own: &Received| own.key.starts_with("r1000-"));
        if received.len() >= sent.len() {
            Ok(())
        } else {
            Err(format!("{received:?}"))
        }
    });
    all_arrived(&sent, &received);
    let taken_over = left.elapsed();
    stays.close();
    producer.close();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    Outcome::of(summary(&received))
        .took("shared", millis(shared))
        .took("taken over", millis(taken_over))
}

fn one_to_each_queue(producer: &Handle<'_>, topic: &str, round: u32) -> Vec<Sent> {
    let mut all = Vec::new();
    for queue in ["0", "1", "2", "3"] {
        let key = format!("r{round}-q{queue}-");
        let fields = [("how", "queue"), ("queue", queue), ("key", key.as_str())];
        all.extend(producer.send(topic, &fields));
    }
    stored(&all);
    all
}

/// The queues from which a consumer is given something soon.
fn queues(consumer: &Handle<'_>, count: usize) -> BTreeSet<u64> {
    let received = consumer.receive_within(count, 1500);
    received
        .iter()
        .map(|own| own.place.map_or(0, |(queue, _)| queue))
        .collect()
}

/// By tag.
pub(crate) fn tagged(stage: Stage<'_>) -> Outcome {
    filtered(stage, "tagged", ("tags", "red || blue"))
}

/// By an expression on properties, in SQL92.
pub(crate) fn selected(stage: Stage<'_>) -> Outcome {
    filtered(
        stage,
        "selected",
        ("sql", "lane = 'gray' AND TAGS <> 'green'"),
    )
}

fn filtered(stage: Stage<'_>, name: &str, filter: (&str, &str)) -> Outcome {
    let (topic, group) = (stage.topic(name, 2), stage.group(name));
    let consumer = stage.consumer(&group, &topic, &[filter]);
    let producer = stage.producer(&topic, &[]);
    for (tag, lane) in [
        ("red", "gray"),
        ("green", "gray"),
        ("blue", "gray"),
        ("green", "base"),
    ] {
        let key = format!("{tag}-{lane}-");
        let fields = [
            ("key", key.as_str()),
            ("count", "2"),
            ("tag", tag),
            ("@lane", lane),
        ];
        stored(&producer.send(&topic, &fields));
    }
    let received = consumer.receive(4);
    let none = consumer.receive_within(1, 300);
    assert!(none.is_empty(), "{none:?}");
    let keys: BTreeSet<_> = received.iter().map(|own| own.key.as_str()).collect();
    let wanted = ["blue-gray-0", "blue-gray-1", "red-gray-0", "red-gray-1"];
    assert_eq!(keys, BTreeSet::from(wanted));
    consumer.close();
    producer.close();
    Outcome::of(summary(&received))
}

/// A message that is refused comes again.
pub(crate) fn retried(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("retried", 1), stage.group("retried"));
    let consumer = stage.consumer(&group, &topic, &[("fail", "1")]);
    let producer = stage.producer(&topic, &[]);
    let sent = producer.send(&topic, &[("key", "again"), ("count", "2")]);
    stored(&sent);
    let received = consumer.receive(4);
    let mut tries: Vec<_> = received
        .iter()
        .map(|own| (own.key.as_str(), own.tries))
        .collect();
    tries.sort_unstable();
    let wanted = [("again0", 0), ("again0", 1), ("again1", 0), ("again1", 1)];
    assert_eq!(tries, wanted);
    let age = received.iter().map(|own| own.age).max().unwrap();
    consumer.close();
    producer.close();
    Outcome::of(summary(&received)).took("again", age)
}
