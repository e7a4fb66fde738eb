//! Copies of messages for another cluster: what producers send arrives there, too, and nothing that befalls it there
//! is felt by them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::mesh::{Mesh, range};
use super::stage::{Cluster, Stage, all_arrived, stored};
use crate::kafka::{header, read};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mock_kafka::MockKafka;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Encoding, Kind, Received, Sent};

const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster that copies go to.
struct Shadow {
    names: NameServer,
    broker: Broker,
}

impl Shadow {
    fn start() -> Self {
        let names = NameServer::start();
        let setup = Setup {
            cluster: "c2",
            name: "b2",
            ..Setup::default()
        };
        let broker = Broker::start_with(&[&names], setup);
        Self { names, broker }
    }

    /// Finback in front of `cluster`, with copies of what is sent going here.
    fn mesh(&self, cluster: &Cluster) -> Mesh {
        Mesh::of(Finback::start(&format!(
            r#"
workers: 2
rocketmq: {{ next: {{ name_servers: "{shadow}", timeout: 5s }} }}
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: none }}
routes:
  mq:
    - to: {{ cluster: names }}
      shadow: {{ rocketmq: next, topic: "SHADOW_{{topic}}", mark: {{ lane: shadow }} }}
  none: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
"#,
            shadow = self.names.address,
            ports = range(30),
            names = cluster.names.address,
        )))
    }
}

/// What a producer of the cluster counts.
pub(super) fn counted(mesh: &Mesh, outcome: &str) -> u64 {
    let page = mesh.finback.admin("/metrics").1;
    let line = page.lines().find(|line| {
        line.starts_with("finback_rocketmq_messages_total{")
            && line.contains(&format!("outcome=\"{outcome}\""))
    });
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|own| own.parse().ok()).unwrap_or_default()
}

/// In every way that a client has.
fn send(stage: &Stage<'_>, topic: &str) -> Vec<Sent> {
    let producer = stage.producer(topic, &[]);
    let plain = [
        ("key", "sync"),
        ("count", "5"),
        ("tag", "red"),
        ("@note", "a b=c"),
    ];
    let mut sent = producer.send(topic, &plain);
    sent.extend(producer.send(topic, &[("key", "large"), ("size", "20000")]));
    for (how, count) in [("async", "3"), ("one-way", "2"), ("batch", "5")] {
        sent.extend(producer.send(topic, &[("how", how), ("key", how), ("count", count)]));
    }
    stored(&sent);
    producer.close();
    sent
}

/// What is the same of a copy: places are another cluster's own.
fn without_places(mut sent: Vec<Sent>) -> Vec<Sent> {
    sent.iter_mut().for_each(|own| own.place = None);
    sent
}

#[test]
fn what_is_sent_arrives_in_the_shadow_too_and_halves_of_transactions_never_do() {
    let (cluster, shadow) = (Cluster::v55(), Shadow::start());
    let mesh = shadow.mesh(cluster);
    let mut copies = 0;
    for (kind, encoding) in [
        (Kind::Java49, Encoding::Json),
        (Kind::Java55, Encoding::Binary),
    ] {
        let client = Client::start_writing(kind, encoding);
        let stage = mesh.stage(cluster, &client);
        let (topic, group) = (stage.topic("copied", 1), stage.group("copied"));
        let copied = format!("SHADOW_{topic}");
        shadow.broker.topic(&copied, 1);
        shadow.broker.group(&group);
        let own = stage.consumer(&group, &topic, &[]);
        let reader = Client::start(Kind::Java55);
        let seen = reader.consumer(&shadow.names.address, &group, &copied, &[]);

        let sent = send(&stage, &topic);
        all_arrived(&sent, &own.receive(sent.len()));
        let received = seen.receive(sent.len());
        all_arrived(&without_places(sent), &received);
        let first = |key: &str| received.iter().find(|own| own.key == key).unwrap();
        let plain: &Received = first("sync0");
        assert_eq!(plain.tag.as_deref(), Some("red"));
        assert_eq!(plain.properties["note"], "a b=c");
        assert_eq!(plain.properties["lane"], "shadow", "{plain:?}");
        assert!(
            !own.receive_within(1, 300)
                .iter()
                .any(|own| own.properties.contains_key("lane"))
        );
        // One queue is one queue there, in its order.
        let plain = received.iter().filter(|own| own.key.starts_with("sync"));
        let mut order: Vec<_> = plain.map(|own| (own.place.unwrap(), &own.key)).collect();
        order.sort();
        assert!(order.is_sorted_by_key(|(_, key)| *key), "{order:?}");
        copies += received.len() as u64 - 4;

        let producer = stage.producer(&topic, &[("transactional", "true")]);
        for (key, decide) in [("committed", "commit"), ("rolled-back", "rollback")] {
            let fields = [
                ("how", "transaction"),
                ("key", key),
                ("@decide", decide),
                ("@check", decide),
            ];
            stored(&producer.send(&topic, &fields));
        }
        assert_eq!(own.receive(1)[0].key, "committed0");
        assert!(seen.receive_within(1, 2000).is_empty());
    }
    // A batch is one request.
    eventually("all copies", PATIENCE, || {
        match counted(&mesh, "confirmed") {
            own if own == copies => Ok(()),
            own => Err(format!("{own} of {copies}")),
        }
    });
    assert_eq!(
        (counted(&mesh, "failed"), counted(&mesh, "left_out")),
        (0, 0)
    );
}

#[test]
fn what_a_filter_takes_from_messages_is_in_no_copy_of_them() {
    let (cluster, shadow) = (Cluster::v55(), Shadow::start());
    let topic = Stage::fresh("stripped");
    let copied = format!("SHADOW_{topic}");
    let there = format!("mq.{topic}");
    cluster.broker.topic(&topic, 1);
    shadow.broker.topic(&copied, 1);
    let kafka = MockKafka::start(&[&there]);
    let mesh = Mesh::of(Finback::start(&format!(
        r#"
workers: 2
rocketmq: {{ next: {{ name_servers: "{shadow}", timeout: 5s }} }}
kafka: {{ events: {{ brokers: "{kafka}" }} }}
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }}, filters: [ no-marks ] }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: none }}
routes:
  mq:
    - to: {{ cluster: names }}
      shadow: {{ rocketmq: next, topic: "SHADOW_{{topic}}" }}
      rocketmq: {{ mirror: {{ kafka: events, topic: "mq.{{topic}}" }} }}
  none: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
filters:
  no-marks: {{ strip: {{ attributes: [ inside ], source: 192.0.2.0/24 }} }}
"#,
        shadow = shadow.names.address,
        kafka = kafka.brokers,
        ports = range(30),
        names = cluster.names.address,
    )));
    let client = Client::start_writing(Kind::Java55, Encoding::Binary);
    let stage = mesh.stage(cluster, &client);
    let group = stage.group("stripped");
    shadow.broker.group(&group);
    let own = stage.consumer(&group, &topic, &[]);
    let reader = Client::start(Kind::Java55);
    let seen = reader.consumer(&shadow.names.address, &group, &copied, &[]);
    let producer = stage.producer(&topic, &[]);
    let mut sent = Vec::new();
    for (how, count) in [("sync", "2"), ("batch", "3")] {
        let fields = [
            ("how", how),
            ("key", how),
            ("count", count),
            ("@inside", "secret-word"),
            ("@note", "kept"),
        ];
        sent.extend(producer.send(&topic, &fields));
    }
    stored(&sent);
    for received in [own.receive(sent.len()), seen.receive(sent.len())] {
        all_arrived(&without_places(sent.clone()), &received);
        for one in &received {
            assert_eq!(one.properties["note"], "kept", "{one:?}");
            assert!(!one.properties.contains_key("inside"), "{one:?}");
        }
    }
    eventually("all are in Kafka", PATIENCE, || {
        let all = read(&kafka.brokers, &there);
        for one in &all {
            assert_eq!(header(one, "note"), ["kept"], "{one}");
            assert!(header(one, "inside").is_empty(), "{one}");
        }
        match all.len() == sent.len() {
            true => Ok(()),
            false => Err(all.len().to_string()),
        }
    });
}

#[test]
fn a_topic_that_the_shadow_lacks_is_made_there() {
    let (cluster, shadow) = (Cluster::v55(), Shadow::start());
    let mesh = shadow.mesh(cluster);
    let client = Client::start(Kind::Java49);
    let stage = mesh.stage(cluster, &client);
    let topic = stage.topic("made", 1);
    stored(&stage.producer(&topic, &[]).send(&topic, &[("count", "3")]));
    eventually("three copies", PATIENCE, || {
        match counted(&mesh, "confirmed") {
            3 => Ok(()),
            own => Err(own.to_string()),
        }
    });
    let route = shadow.names.route(&format!("SHADOW_{topic}"));
    assert_eq!(route.unwrap()["queueDatas"][0]["brokerName"], json!("b2"));
}

#[test]
fn a_shadow_that_stalls_or_is_gone_is_not_felt() {
    let (cluster, mut shadow) = (Cluster::v55(), Shadow::start());
    let mesh = shadow.mesh(cluster);
    let client = Client::start(Kind::Java49);
    let stage = mesh.stage(cluster, &client);
    let topic = stage.topic("unfelt", 2);
    let producer = stage.producer(&topic, &[("timeout", "4000"), ("retries", "0")]);
    stored(&producer.send(&topic, &[("count", "1")]));
    eventually("the first copy", PATIENCE, || {
        match counted(&mesh, "confirmed") {
            1 => Ok(()),
            own => Err(own.to_string()),
        }
    });
    shadow.broker.process().signal("STOP");
    let began = Instant::now();
    stored(&producer.send(&topic, &[("count", "40"), ("key", "stalled")]));
    let stalled = began.elapsed();
    shadow.broker.process().signal("CONT");
    shadow.broker.kill();
    shadow.names.kill();
    let began = Instant::now();
    stored(&producer.send(&topic, &[("count", "40"), ("key", "gone")]));
    let gone = began.elapsed();
    println!("40 messages: {stalled:?} beside a stalled shadow, {gone:?} beside none");
    assert!(
        stalled.max(gone) < Duration::from_secs(4),
        "{stalled:?} {gone:?}"
    );
    eventually("copies are given up", PATIENCE, || {
        let (confirmed, failed) = (counted(&mesh, "confirmed"), counted(&mesh, "failed"));
        match failed >= 40 && confirmed + failed == 81 {
            true => Ok(()),
            false => Err(format!("{confirmed} and {failed}")),
        }
    });
    // What producers did is counted, and nothing else.
    let page = mesh.finback.admin("/metrics").1;
    let sends = page.lines().filter(|line| {
        line.starts_with("finback_requests_total{") && line.contains("method=\"SEND_MESSAGE")
    });
    let counts: Vec<_> = sends.map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(counts, ["81"], "{page}");
}
