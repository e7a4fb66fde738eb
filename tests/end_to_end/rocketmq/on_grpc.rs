//! RocketMQ 5's protocol on gRPC: its calls are known by their topics, and end as their answers say.

use std::time::{Duration, Instant};

use super::mesh::{Mesh, range};
use super::stage::{Cluster, Stage, all_arrived, stored};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::free_port;
use crate::support::rocketmq_clients::{Client, Kind};

#[test]
fn calls_on_grpc_are_routed_by_their_topic_and_counted_by_their_status() {
    let cluster = Cluster::v53();
    let proxy = &cluster.proxy().grpc;
    let names = &cluster.names.address;
    let ports = range(12);
    let mesh = Mesh::of(Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: grpc }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
  grpc:
    - match: {{ protocol: rocketmq-grpc, service: {{ prefix: "shown-" }} }}
      to: {{ cluster: proxy }}
    - match: {{ protocol: rocketmq-grpc, service: "(rocketmq)" }}
      to: {{ cluster: proxy }}
clusters:
  names: {{ endpoints: [ "{names}" ] }}
  proxy: {{ endpoints: [ "{proxy}" ], balance: {{ consistent-hash: {{ attribute: x-mq-client-id }} }} }}
"#
    )));
    let [topic, hidden] = ["shown", "hidden"].map(Stage::fresh);
    for own in [&topic, &hidden] {
        cluster.broker.topic(own, 1);
    }
    let group = Stage::fresh("seeing");
    cluster.broker.group(&group);
    let client = Client::start(Kind::Grpc);
    let producer = client.producer(&mesh.grpc, "", &[("topic", &topic)]);
    let sent = producer.send(&topic, &[("key", "k"), ("count", "3")]);
    stored(&sent);
    let consumer = client.consumer(&mesh.grpc, &group, &topic, &[]);
    all_arrived(&sent, &consumer.receive(3));
    // Nobody routes the one; the other is not there.
    let nowhere = Stage::fresh("shown-nowhere");
    let unrouted =
        "service=\"(other)\",method=\"\",outcome=\"no_route\",status=\"UNIMPLEMENTED\"".to_owned();
    let missing = "outcome=\"invalid\",status=\"TOPIC_NOT_FOUND\"".to_owned();
    for (topic, labels) in [(&hidden, unrouted), (&nowhere, missing)] {
        let fields = [
            ("names", &*mesh.grpc),
            ("name", topic),
            ("group", ""),
            ("topic", topic),
        ];
        let opened = client.try_ask("producer", &fields);
        assert!(opened.is_err(), "{topic}: {opened:?}");
        let metrics = mesh.finback.admin("/metrics").1;
        let mut lines = metrics.lines();
        assert!(
            lines.any(
                |line| line.starts_with("finback_requests_total{protocol=\"rocketmq-grpc\"")
                    && line.contains(&labels)
            ),
            "{topic}: {labels}: {metrics}"
        );
    }
    let metrics = mesh.finback.admin("/metrics").1;
    for (method, status) in [
        ("SendMessage", "OK"),
        ("ReceiveMessage", "OK"),
        ("AckMessage", "OK"),
        ("QueryRoute", "OK"),
    ] {
        let labels = format!(
            "protocol=\"rocketmq-grpc\",listener=\"grpc\",service=\"{topic}\",method=\"{method}\",outcome=\"success\",status=\"{status}\""
        );
        assert!(metrics.contains(&labels), "{labels}: {metrics}");
    }
}

#[test]
fn clients_on_grpc_are_told_to_reconnect_before_finback_stops() {
    let cluster = Cluster::v53();
    let port = free_port();
    let config = format!(
        r#"
workers: 2
limits: {{ drain: 300s }}
listeners: [ {{ name: grpc, address: "127.0.0.1:{port}", protocol: http, routes: grpc }} ]
routes: {{ grpc: [ {{ to: {{ cluster: proxy }} }} ] }}
clusters: {{ proxy: {{ endpoints: [ "{}" ], balance: {{ consistent-hash: {{ attribute: x-mq-client-id }} }} }} }}
"#,
        cluster.proxy().grpc,
    );
    let topic = Stage::fresh("reconnected");
    cluster.broker.topic(&topic, 1);
    let group = Stage::fresh("reconnected");
    cluster.broker.group(&group);
    let client = Client::start(Kind::Grpc);
    let at = format!("127.0.0.1:{port}");
    let first = Finback::start(&config);
    let producer = client.producer(&at, "", &[("topic", &topic)]);
    let consumer = client.consumer(&at, &group, &topic, &[]);
    let sent = producer.send(&topic, &[("key", "k"), ("count", "3")]);
    stored(&sent);
    all_arrived(&sent, &consumer.receive(3));
    // Its streams of commands never end by themselves, and it was given five minutes.
    let began = Instant::now();
    first.process().signal("TERM");
    let told = "Receive reconnect endpoints command from remote";
    eventually(
        "the command in the client's log",
        Duration::from_secs(60),
        || {
            let log = client.log("logs/rocketmq/rocketmq-client.log");
            match log.matches(told).count() {
                // One of the producer, one of the consumer.
                2.. => Ok(()),
                _ => Err(log.lines().rev().take(5).collect::<Vec<_>>().join("\n")),
            }
        },
    );
    first.process().wait_for_end(Duration::from_secs(120));
    assert!(began.elapsed() < Duration::from_secs(120));
    // Whoever comes next at that address has the client.
    let _second = Finback::start(&config);
    eventually("messages by the next one", Duration::from_secs(90), || {
        let sent = producer.send(&topic, &[("key", "later"), ("count", "1")]);
        let received = consumer.receive_within(1, 5000);
        match (sent[0].error.is_null(), received.is_empty()) {
            (true, false) => Ok(()),
            _ => Err(format!("{sent:?} {received:?}")),
        }
    });
}
