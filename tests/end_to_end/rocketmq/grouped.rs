//! A consumer group of Finback's own: its messages are in Kafka before its broker is told that they are consumed, whoever
//! is killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::stage::Stage;
use crate::kafka::{header, read};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::kafka::Kafka;
use crate::support::remoting;
use crate::support::rocketmq::{Broker, NameServer};
use crate::support::rocketmq_clients::{Client, Handle, Kind};

/// QUERY_CONSUMER_OFFSET, GET_CONSUMER_LIST_BY_GROUP, GET_MAX_OFFSET: RequestCode.java.
const OFFSET: i64 = 14;
const MAX: i64 = 30;
const CONSUMERS: i64 = 38;
const PATIENCE: Duration = Duration::from_secs(90);

fn finback(names: &str, kafka: &str, topic: &str, group: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
kafka: {{ events: {{ brokers: "{kafka}", options: {{ message.timeout.ms: "3000" }} }} }}
rocketmq: {{ orders: {{ name_servers: "{names}" }} }}
groups:
  - {{ rocketmq: orders, group: {group}, topics: [ {topic} ], mirror: {{ kafka: events, topic: "from.{{topic}}", key: keys }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ] }}
"#
    ))
}

/// Where a group is in a queue, and where the queue ends.
fn place(broker: &Broker, topic: &str, group: &str, queue: usize) -> (i64, i64) {
    let queue = queue.to_string();
    let fields = [
        ("consumerGroup", group),
        ("topic", topic),
        ("queueId", &queue),
        ("setZeroIfNotFound", "false"),
    ];
    let ask = |code| {
        let reply = remoting::ask(&broker.address, code, &fields, b"").unwrap();
        let offset = reply.fields["offset"].as_str().map(str::parse);
        offset.and_then(Result::ok).unwrap_or(-1)
    };
    (ask(OFFSET), ask(MAX))
}

/// How many messages a group has before it, as its broker says.
fn behind(broker: &Broker, topic: &str, group: &str) -> i64 {
    let places = (0..4).map(|queue| place(broker, topic, group, queue));
    places.map(|(at, end)| end - at.max(0)).sum()
}

/// How many messages of a group came to this outcome.
fn counted(finback: &Finback, outcome: &str) -> u64 {
    finback.metric(
        "finback_group_messages_total",
        &format!("outcome=\"{outcome}\""),
    )
}

/// Waits until a proxy says that its group has so many messages before it.
fn await_lag(finback: &Finback, (topic, group): (&str, &str), wanted: i64) {
    let labels = format!("{{rocketmq=\"orders\",group=\"{group}\",topic=\"{topic}\"}}");
    eventually("the lag", PATIENCE, || {
        let (_, page) = finback.admin("/metrics");
        let line = format!("finback_group_lag{labels} {wanted}");
        match page.lines().any(|own| own == line) {
            true => Ok(()),
            false => {
                let own = page.lines().filter(|own| own.starts_with("finback_group_"));
                Err(format!("{line}: {:#?}", own.collect::<Vec<_>>()))
            }
        }
    });
}

/// How often each key is in Kafka.
fn keys(kafka: &Kafka, topic: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for own in read(&kafka.address, &format!("from.{topic}")) {
        *found
            .entry(own["key"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    found
}

/// Sends until a broker has all of them; each attempt has keys of its own.
fn send(producer: &Handle<'_>, topic: &str, key: &str, count: &str) -> BTreeSet<String> {
    let (mut keys, mut round) = (BTreeSet::new(), 0);
    eventually("messages sent", PATIENCE, || {
        round += 1;
        let key = format!("{key}-{round}-");
        let sent = producer.send(topic, &[("key", &key), ("count", count)]);
        let stored = sent.iter().filter(|own| own.error.is_null());
        keys.extend(stored.map(|own| own.key.clone()));
        match sent.iter().all(|own| own.error.is_null()) {
            true => Ok(()),
            false => Err(format!("{sent:?}")),
        }
    });
    keys
}

fn await_keys(kafka: &Kafka, topic: &str, wanted: &BTreeSet<String>) {
    eventually("all of them in Kafka", PATIENCE, || {
        let found = keys(kafka, topic);
        let missing: Vec<_> = wanted
            .iter()
            .filter(|key| !found.contains_key(*key))
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{missing:?}")),
        }
    });
}

#[test]
fn a_group_goes_on_from_what_kafka_has() {
    let names = NameServer::start();
    let mut broker = Broker::start(&names);
    let mut kafka = Kafka::start();
    let [topic, group] = ["grouped"; 2].map(Stage::fresh);
    broker.topic(&topic, 4);
    let client = Client::start(Kind::Java55);
    let producer = client.producer(&names.address, &Stage::fresh("p"), &[]);
    let transactional = [("transactional", "true")];
    let decider = client.producer(&names.address, &Stage::fresh("p"), &transactional);
    let mut wanted = send(&producer, &topic, "before", "20");
    let first = finback(&names.address, &kafka.address, &topic, &group);
    // Transactions, too: what is committed is a message like any other.
    for (key, decide) in [("kept", "commit"), ("dropped", "rollback")] {
        let fields = [
            ("how", "transaction"),
            ("key", key),
            ("@decide", decide),
            ("@note", "n"),
        ];
        decider.send(&topic, &fields);
    }
    wanted.insert("kept0".to_owned());
    await_keys(&kafka, &topic, &wanted);
    let found = keys(&kafka, &topic);
    assert!(!found.contains_key("dropped0"));
    // Nothing was killed yet: each is there once, and says where it is from.
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    let record = &read(&kafka.address, &format!("from.{topic}"))[0];
    assert_eq!(header(record, "rocketmq.topic"), [&*topic]);
    assert_eq!(header(record, "rocketmq.broker"), ["b1"]);
    let all_consumed = |broker: &Broker| {
        let places: Vec<_> = (0..4)
            .map(|queue| place(broker, &topic, &group, queue))
            .collect();
        match places.iter().all(|(group, max)| group == max) {
            true => Ok(()),
            false => Err(format!("{places:?}")),
        }
    };
    eventually("everything consumed", PATIENCE, || all_consumed(&broker));
    await_lag(&first, (&topic, &group), 0);
    let counts = ["taken", "delivered", "failed", "left_out"].map(|own| counted(&first, own));
    let all = found.len() as u64;
    assert_eq!(counts, [all, all, 0, 0]);

    // Without Kafka nothing counts as consumed.
    kafka.kill();
    let later = send(&producer, &topic, "later", "20");
    first.process().await_words("Kafka cannot be reached");
    assert!(all_consumed(&broker).is_err());
    await_lag(&first, (&topic, &group), behind(&broker, &topic, &group));
    eventually("attempts that failed", PATIENCE, || {
        match counted(&first, "failed") {
            0 => Err(String::new()),
            _ => Ok(()),
        }
    });
    assert_eq!(counted(&first, "delivered"), all);
    drop(first);
    kafka.restart();
    let second = finback(&names.address, &kafka.address, &topic, &group);
    wanted.extend(later);
    await_keys(&kafka, &topic, &wanted);
    await_lag(&second, (&topic, &group), 0);

    // A broker that comes back finds its consumer again.
    broker.kill();
    broker.restart();
    wanted.extend(send(&producer, &topic, "last", "1"));
    await_keys(&kafka, &topic, &wanted);
    eventually("everything consumed", PATIENCE, || all_consumed(&broker));

    // Two share the queues; the one that is left has them all.
    let third = finback(&names.address, &kafka.address, &topic, &group);
    let members = || {
        let fields = [("consumerGroup", &*group)];
        let reply = remoting::ask(&broker.address, CONSUMERS, &fields, b"").unwrap();
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        body["consumerIdList"].as_array().map_or(0, Vec::len)
    };
    eventually("two members", PATIENCE, || match members() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    wanted.extend(send(&producer, &topic, "shared", "20"));
    await_keys(&kafka, &topic, &wanted);
    second.process().signal("TERM");
    second.process().wait_for_end(Duration::from_secs(60));
    eventually("one member", PATIENCE, || match members() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    wanted.extend(send(&producer, &topic, "alone", "20"));
    await_keys(&kafka, &topic, &wanted);
    eventually("everything consumed", PATIENCE, || all_consumed(&broker));
    await_lag(&third, (&topic, &group), 0);
    drop(third);
}
