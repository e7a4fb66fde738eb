//! Filters before RocketMQ's own clients and servers: what they may do with which topics.

use super::mesh::{Mesh, range};
use super::stage::{Cluster, Stage, stored};
use crate::support::finback::Finback;
use crate::support::rocketmq_clients::{Client, Encoding, Kind, Sent};

fn codes(sent: &[Sent]) -> Vec<i64> {
    sent.iter()
        .map(|own| own.error["code"].as_i64().unwrap_or(0))
        .collect()
}

#[test]
fn topics_are_denied_and_limited_in_rocketmqs_own_words() {
    let cluster = Cluster::v55();
    let [open, secret, heard, rare] = ["open", "secret", "heard", "rare"].map(Stage::fresh);
    for topic in [&open, &secret, &heard, &rare] {
        cluster.broker.topic(topic, 1);
    }
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }}, filters: [ topics ] }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: mq }}
routes:
  mq:
    - match: {{ service: "{rare}", method: {{ regex: "SEND_.*" }} }}
      to: {{ cluster: names }}
      filters: [ twice ]
    - to: {{ cluster: names }}
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
filters:
  topics:
    authorization:
      default: allow
      rules:
        - {{ effect: deny, match: {{ protocol: rocketmq }}, actions: [ send ], topics: [ "{secret}" ] }}
        - {{ effect: deny, match: {{ protocol: rocketmq }}, actions: [ consume ], topics: [ "{heard}" ] }}
  twice: {{ rate_limit: {{ rate: 1/h, burst: 2, per: [ {{ attribute: "KEYS" }}, service ] }} }}
"#,
        ports = range(60),
        names = cluster.names.address,
    ));
    let mesh = Mesh::of(finback);
    for (kind, encoding) in [
        (Kind::Java49, Encoding::Json),
        (Kind::Java55, Encoding::Binary),
    ] {
        let client = Client::start_writing(kind, encoding);
        let stage = mesh.stage(cluster, &client);
        let producer = stage.producer(&open, &[]);
        stored(&producer.send(&open, &[("count", "3")]));
        stored(&producer.send(&heard, &[("count", "1")]));
        // NO_PERMISSION, however it is sent.
        for how in ["sync", "async"] {
            let sent = producer.send(&secret, &[("how", how), ("count", "2")]);
            assert!(
                codes(&sent).iter().all(|code| *code == 16),
                "{kind:?} {how}: {sent:?}"
            );
        }
        let batch = [("topic", secret.as_str()), ("how", "batch"), ("count", "2")];
        let failure = producer.try_ask("send", &batch).unwrap_err();
        assert!(failure.text.contains("CODE: 16"), "{kind:?}: {failure:?}");
        assert!(
            failure.text.contains("is not allowed"),
            "{kind:?}: {failure:?}"
        );
        // FLOW_CONTROL, which nobody sends again.
        let sent: Vec<Sent> = (0..4)
            .flat_map(|_| producer.send(&rare, &[("count", "1")]))
            .collect();
        let limited = codes(&sent).iter().filter(|code| **code == 215).count();
        assert!(limited >= 1, "{kind:?}: {sent:?}");
        // A consumer of what is denied hears nothing, and others hear everything.
        let denied = stage.consumer(&stage.group("deaf"), &heard, &[]);
        let hears = stage.consumer(&stage.group("hears"), &open, &[]);
        let received = hears.receive(3);
        assert!(received.len() >= 3, "{kind:?}: {received:?}");
        assert!(denied.receive_within(1, 2000).is_empty(), "{kind:?}");
    }
    let (_, page) = mesh.finback.admin("/metrics");
    let lines = page
        .lines()
        .filter(|line| line.starts_with("finback_filter_decisions_total"));
    let lines: Vec<_> = lines.collect();
    for (filter, decision) in [("topics", "denied"), ("twice", "limited")] {
        let own = |line: &&str| {
            line.contains(&format!("filter=\"{filter}\""))
                && line.contains(&format!("decision=\"{decision}\""))
        };
        assert!(lines.iter().any(own), "{filter}: {lines:?}");
    }
}
