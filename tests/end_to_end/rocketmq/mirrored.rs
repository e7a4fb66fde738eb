//! What producers send and a broker takes is in Kafka, too; what it does not take is not, and a Kafka that is gone is not
//! felt.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::mesh::{Mesh, range};
use super::stage::{Cluster, Stage, stored};
use super::through::brokers_of;
use crate::kafka::{header, read};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mock_kafka::MockKafka;
use crate::support::remoting;
use crate::support::rocketmq_clients::{Client, Encoding, Kind};

/// SEND_MESSAGE_V2: RequestCode.java.
const SEND: i64 = 310;
const PATIENCE: Duration = Duration::from_secs(30);

fn mesh(cluster: &Cluster, brokers: &str, secret: &str) -> Mesh {
    Mesh::of(Finback::start(&format!(
        r#"
workers: 2
kafka: {{ events: {{ brokers: "{brokers}", options: {{ message.timeout.ms: "1000" }} }} }}
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }}, filters: [ topics ] }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: none }}
routes:
  mq:
    - to: {{ cluster: names }}
      rocketmq: {{ mirror: {{ kafka: events, topic: "mq.{{topic}}" }} }}
  none: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
filters:
  topics:
    authorization:
      default: allow
      rules: [ {{ effect: deny, match: {{ protocol: rocketmq }}, actions: [ send ], topics: [ "{secret}" ] }} ]
"#,
        ports = range(30),
        names = cluster.names.address,
    )))
}

/// The keys of all records of a topic of Kafka, in order of the alphabet.
fn keys(all: &[Value]) -> Vec<String> {
    let keys = all
        .iter()
        .map(|own| own["key"].as_str().unwrap_or_default().to_owned());
    let mut keys: Vec<_> = keys.collect();
    keys.sort();
    keys
}

#[test]
fn what_brokers_have_taken_is_in_kafka_too_and_nothing_else() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("mirrored");
    let [secret, missing] = ["secret", "missing"].map(Stage::fresh);
    for own in [&topic, &secret] {
        cluster.broker.topic(own, 2);
    }
    let [there, hidden, refused] = [&topic, &secret, &missing].map(|own| format!("mq.{own}"));
    let kafka = MockKafka::start(&[&there, &hidden, &refused]);
    let brokers = kafka.brokers.clone();
    let mesh = mesh(cluster, &brokers, &secret);
    let (mut wanted, mut ids) = (Vec::new(), Vec::new());
    for (kind, encoding) in [
        (Kind::Java49, Encoding::Json),
        (Kind::Java55, Encoding::Binary),
    ] {
        let client = Client::start_writing(kind, encoding);
        let stage = mesh.stage(cluster, &client);
        let producer = stage.producer(&topic, &[("transactional", "true")]);
        let sync = format!("{kind:?}-sync");
        let fields = [
            ("key", &*sync),
            ("count", "4"),
            ("tag", "red"),
            ("@traceparent", "00-1-2-01"),
        ];
        let mut sent = producer.send(&topic, &fields);
        for (how, count) in [("async", "2"), ("batch", "3")] {
            let key = format!("{kind:?}-{how}");
            sent.extend(producer.send(&topic, &[("how", how), ("key", &key), ("count", count)]));
        }
        stored(&sent);
        wanted.extend(sent.iter().map(|own| own.key.clone()));
        ids.extend(
            sent.iter()
                .map(|own| (own.key.clone(), own.all["id"].clone())),
        );
        // Of these nobody says that they are messages, or that a broker has them.
        let half = [
            ("how", "transaction"),
            ("key", "half"),
            ("@decide", "commit"),
            ("@check", "commit"),
        ];
        stored(&producer.send(&topic, &half));
        stored(&producer.send(&topic, &[("how", "one-way"), ("key", "careless")]));
        let denied = producer.send(&secret, &[("key", "denied")]);
        assert_eq!(denied[0].error["code"], 16, "{denied:?}");
    }
    // A broker that does not take it answers TOPIC_NOT_EXIST.
    let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
    let fields = [
        ("a", "g"),
        ("b", &*missing),
        ("c", "no-default"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
    ];
    let more = [
        ("g", "1"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let reply = remoting::ask(&broker, SEND, &[&fields[..], &more].concat(), b"body").unwrap();
    assert_eq!(reply.code, 17, "{}", reply.remark);
    wanted.sort();
    let mut all = Vec::new();
    eventually("all are in Kafka", PATIENCE, || {
        all = read(&brokers, &there);
        match all.len() == wanted.len() {
            true => Ok(()),
            false => Err(format!("{:?}", keys(&all))),
        }
    });
    assert_eq!(keys(&all), wanted);
    for none in [&hidden, &refused] {
        assert!(read(&brokers, none).is_empty(), "{none}");
    }
    let one = all.iter().find(|own| own["key"] == "Java49-sync2").unwrap();
    for (name, value) in [
        ("rocketmq.topic", &*topic),
        ("rocketmq.broker", "b1"),
        ("rocketmq.keys", "Java49-sync2"),
        ("rocketmq.tags", "red"),
        ("traceparent", "00-1-2-01"),
        ("x-mesh-bridge", &*format!("events/{there}")),
    ] {
        assert_eq!(header(one, name), [value], "{name}: {one}");
    }
    let (_, id) = ids.iter().find(|(key, _)| key == "Java49-sync2").unwrap();
    assert_eq!(header(one, "rocketmq.message_id"), [id.as_str().unwrap()]);
    assert!(header(one, "WAIT").is_empty(), "{one}");
    assert!(one["payload"].as_str().unwrap().contains("sync2"), "{one}");
}

#[test]
fn a_kafka_that_is_gone_is_not_felt() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("unmirrored");
    cluster.broker.topic(&topic, 1);
    let kafka = MockKafka::start(&[&format!("mq.{topic}")]);
    let mesh = mesh(cluster, &kafka.brokers, "none");
    let client = Client::start(Kind::Java49);
    let producer = mesh.stage(cluster, &client).producer(&topic, &[]);
    stored(&producer.send(&topic, &[("count", "1")]));
    // Copies are written beside the calls: this one while there is a Kafka, and nothing else is failing then.
    let count = |outcome: &str| {
        let label = format!("outcome=\"{outcome}\"");
        mesh.finback.metric("finback_kafka_messages_total", &label)
    };
    eventually("the first is written", PATIENCE, || {
        match count("confirmed") {
            1 => Ok(()),
            own => Err(own.to_string()),
        }
    });
    kafka.take_down();
    let began = Instant::now();
    stored(&producer.send(&topic, &[("count", "40")]));
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    eventually("they are given up", PATIENCE, || match count("failed") {
        40 => Ok(()),
        own => Err(own.to_string()),
    });
}

#[test]
fn explain_says_what_becomes_of_messages_besides() {
    let file = crate::support::temporary_folder().join("finback.yaml");
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/examples/rocketmq.yaml"
    ));
    std::fs::write(&file, text.unwrap()).unwrap();
    let explain = |arguments: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_finback"))
            .args(["explain", "--offline", "-c", file.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    };
    let told = explain(&[
        "--listener",
        "mq",
        "--service",
        "orders-1",
        "--method",
        "SEND_MESSAGE_V2",
    ]);
    for line in [
        "10 % of its messages are copied to RocketMQ cluster next, topic SHADOW_{topic}",
        "messages that a broker has taken are written to Kafka cluster events, topic mq.{topic}",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let told = explain(&["--listener", "mq", "--service", "other"]);
    assert!(!told.contains("copied"), "{told}");
    let told = explain(&[
        "--listener",
        "in",
        "--protocol",
        "mqtt",
        "--attribute",
        ":client-id=meter-1",
    ]);
    assert!(
        told.contains("goes to rocketmq orders, topic {1}"),
        "{told}"
    );
}
