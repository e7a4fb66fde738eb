//! Messages of MQTT and bodies of HTTP in RocketMQ, read back by its own client for Java.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clients::GUARDED;
use super::stage::{Cluster, Stage};
use crate::kafka::{connect, curl, lose, publish};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::remoting;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Kind};

const PATIENCE: Duration = Duration::from_secs(30);
/// GET_MAX_OFFSET: RequestCode.java.
const MAX_OFFSET: i64 = 30;

/// Finback that sends to the cluster of these name servers; `more` are further keys of that.
fn front(names: &str, more: &str) -> Finback {
    Finback::start(&format!(
        r##"
workers: 2
rocketmq: {{ events: {{ name_servers: [ "{names}" ], group: devices{more} }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ rocketmq: events, topic: "{{1}}", tag: {{ property: kind }} }}
      mqtt: {{ authenticate: none, acl: [ {{ allow: publish, topics: [ "#" ] }} ] }}
    - match: {{ protocol: http, path: {{ prefix: "/bridge/" }} }}
      produce: {{ rocketmq: events, topic: "{{2}}", key: {{ property: x-key }}, tag: web, headers: [ x-tenant, x-key ] }}
    - match: {{ protocol: http }}
      respond: {{ status: 404 }}
"##
    ))
}

/// How many messages a broker has in all queues of a topic.
fn held(broker: &Broker, topic: &str, queues: u32) -> u64 {
    let of = |queue: u32| {
        let queue = queue.to_string();
        let fields = [("topic", topic), ("queueId", queue.as_str())];
        let reply = remoting::ask(&broker.address, MAX_OFFSET, &fields, b"").unwrap();
        let offset = reply.fields["offset"].as_str();
        offset.and_then(|own| own.parse::<u64>().ok()).unwrap()
    };
    (0..queues).map(of).sum()
}

pub(crate) fn status(arguments: &[&str]) -> String {
    curl(arguments).0
}

#[test]
fn what_devices_publish_is_in_rocketmq_before_it_is_acknowledged() {
    let cluster = Cluster::v55();
    let (topic, group) = (Stage::fresh("plant"), Stage::fresh("readers"));
    cluster.broker.topic(&topic, 2);
    cluster.broker.group(&group);
    let finback = front(&cluster.names.address, "");
    let peer = Peer::mqtt();
    let mut written = 0;
    for version in ["4", "5"] {
        let name = format!("meter-{version}");
        let fields = [("version", version), ("username", "north")];
        connect(&peer, &name, &finback, &fields).unwrap();
        for qos in ["1", "2"] {
            publish(&peer, &name, &format!("{topic}/7/power"), qos, qos).unwrap();
            written += 1;
            assert_eq!(held(&cluster.broker, &topic, 2), written);
        }
    }
    let properties = r#"{"userProperties":{"traceparent":"00-1-2-01","kind":"alarm","DELAY":"18","TRAN_MSG":"true"},"contentType":"text/plain","correlationData":"7"}"#;
    let name = format!("{topic}/8");
    let fields = [
        ("name", "meter-5"),
        ("topic", &*name),
        ("payload", "hi"),
        ("qos", "1"),
        ("retain", "true"),
        ("properties", properties),
    ];
    peer.ask("publish", &fields).unwrap();
    let client = Client::start(Kind::Java55);
    let consumer = client.consumer(&cluster.names.address, &group, &topic, &[]);
    let received = consumer.receive(5);
    assert_eq!(received.len(), 5, "{received:?}");
    // Each device's messages are in one queue, in their order.
    for device in ["meter-4", "meter-5"] {
        let own = received.iter().filter(|own| own.key == device);
        let mut places: Vec<_> = own
            .map(|own| (own.place.unwrap(), &own.properties))
            .collect();
        places.sort_by_key(|(place, _)| *place);
        assert!(
            places.windows(2).all(|pair| pair[0].0.0 == pair[1].0.0),
            "{places:?}"
        );
        let qos: Vec<_> = places
            .iter()
            .map(|(_, own)| own["mqtt.qos"].as_str())
            .collect();
        assert_eq!(qos[..2], ["1", "2"], "{device}");
    }
    let last = received.iter().find(|own| own.tag.is_some()).unwrap();
    assert_eq!(
        (last.tag.as_deref(), &*last.key),
        (Some("alarm"), "meter-5")
    );
    let own = |name: &str| last.properties.get(name).map(String::as_str);
    for (name, value) in [
        ("traceparent", "00-1-2-01"),
        ("mqtt.topic", &*name),
        ("mqtt.client_id", "meter-5"),
        ("mqtt.username", "north"),
        ("mqtt.retain", "true"),
        ("mqtt.correlation_data", "7"),
        ("content-type", "text/plain"),
        ("x-mesh-bridge", &*format!("events/{topic}")),
    ] {
        assert_eq!(own(name), Some(value), "{name}: {last:?}");
    }
    assert_eq!(last.tries, 0);
}

#[test]
fn bodies_of_posts_are_in_rocketmq_when_they_are_answered() {
    let names = NameServer::start();
    let setup = Setup {
        more: "autoCreateTopicEnable=false\n",
        ..Setup::default()
    };
    let mut broker = Broker::start_with(&[&names], setup);
    let (topic, group) = (Stage::fresh("orders"), Stage::fresh("readers"));
    broker.topic(&topic, 4);
    broker.group(&group);
    let finback = front(&names.address, ", timeout: 2s");
    let at = format!("http://{}/bridge/{topic}", finback.local("all"));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, body) = curl(&[
            version,
            "-d",
            "{\"id\":1}",
            "-H",
            "x-key: k",
            "-H",
            "traceparent: 00-1-2-01",
            "-H",
            "x-tenant: t1",
            &at,
        ]);
        assert_eq!(status, "200", "{body}");
        let place: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(place["broker"], "b1");
        // "k".hashCode() is 107.
        assert_eq!(place["queue"], json!(107 % 4), "{body}");
    }
    assert_eq!(held(&broker, &topic, 4), 2);
    assert_eq!(
        status(&["-d", "x", "-H", "Prefer: respond-async", &at]),
        "202"
    );
    for (before, wanted) in [
        (format!("x/y, events/{topic}"), "508"),
        ("x/y".to_owned(), "200"),
    ] {
        let header = format!("x-mesh-bridge: {before}");
        assert_eq!(status(&["-d", "round", "-H", &header, &at]), wanted);
    }
    let client = Client::start(Kind::Java49);
    let consumer = client.consumer(&names.address, &group, &topic, &[]);
    let received = consumer.receive(4);
    let first = received.iter().find(|own| own.key == "k").unwrap();
    assert_eq!(first.tag.as_deref(), Some("web"));
    for (name, value) in [
        ("x-tenant", "t1"),
        ("traceparent", "00-1-2-01"),
        ("x-key", "k"),
    ] {
        assert_eq!(first.properties[name], value, "{first:?}");
    }
    assert_eq!(status(&[&at]), "405");
    let base = format!("http://{}/bridge", finback.local("all"));
    // No such topic, and names that nobody may choose.
    for other in ["no-such-topic", "TBW102", "%25RETRY%25g", "a.b"] {
        assert_eq!(
            status(&["-d", "x", &format!("{base}/{other}")]),
            "404",
            "{other}"
        );
    }
    // More at once than there is room for.
    broker.process().signal("STOP");
    let full = flood(&at);
    broker.process().signal("CONT");
    assert!(full > 0, "nobody was refused");
    eventually("room again", PATIENCE, || {
        match status(&["-d", "x", &at]).as_str() {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    broker.kill();
    let began = Instant::now();
    assert_eq!(status(&["-d", "x", &at]), "504");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

/// Sends 80 MiB that nobody waits for; how many were told to come again.
fn flood(at: &str) -> usize {
    let mut curl = Command::new("curl")
        .args(["-sS", "-K", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let body = crate::support::temporary_folder().join("body");
    std::fs::write(&body, vec![b'x'; 1024 * 1024]).unwrap();
    let mut told = String::new();
    for _ in 0..80 {
        told.push_str(&format!(
            "url = \"{at}\"\ndata-binary = \"@{}\"\nheader = \"Prefer: respond-async\"\nwrite-out = \"%{{http_code}}\\n\"\nnext\n",
            body.display()
        ));
    }
    let told = told.trim_end_matches("next\n");
    curl.stdin
        .take()
        .unwrap()
        .write_all(told.as_bytes())
        .unwrap();
    let out = curl.wait_with_output().unwrap();
    String::from_utf8(out.stdout)
        .unwrap()
        .matches("429")
        .count()
}

#[test]
fn a_message_goes_to_another_broker_and_comes_again_where_none_is_left() {
    let names = NameServer::start();
    let mut brokers = ["b1", "b2"].map(|name| {
        let setup = Setup {
            name,
            ..Setup::default()
        };
        Broker::start_with(&[&names], setup)
    });
    let (topic, group) = (Stage::fresh("moved"), Stage::fresh("readers"));
    for broker in &brokers {
        broker.topic(&topic, 2);
        broker.group(&group);
    }
    let finback = front(&names.address, ", timeout: 3s");
    let peer = Peer::mqtt();
    connect(&peer, "device", &finback, &[("version", "5")]).unwrap();
    let say = |what: &str| publish(&peer, "device", &topic, what, "1");
    say("first").unwrap();
    // Whichever has the device's queue: the other one takes what follows.
    for broker in &mut brokers {
        broker.kill();
        for n in 0..5 {
            say(&format!("without-{n}")).unwrap();
        }
        broker.restart();
    }
    brokers.iter_mut().for_each(Broker::kill);
    // Nobody has it, so it is not acknowledged, and the device is to send it again.
    lose(&peer, "device", &topic);
    brokers.iter_mut().for_each(Broker::restart);
    connect(&peer, "device-2", &finback, &[("version", "5")]).unwrap();
    eventually("a message is acknowledged", PATIENCE, || {
        publish(&peer, "device-2", &topic, "again", "1").map_err(|own| format!("{own:?}"))
    });
    let client = Client::start(Kind::Java55);
    let consumer = client.consumer(&names.address, &group, &topic, &[]);
    let received = consumer.receive(12);
    assert!(received.len() >= 12, "{received:?}");
}

#[test]
fn a_subscription_brings_what_a_broker_gets_to_rocketmq() {
    let cluster = Cluster::v55();
    let (topic, group) = (Stage::fresh("subscribed"), Stage::fresh("readers"));
    cluster.broker.topic(&topic, 1);
    cluster.broker.group(&group);
    let mosquitto = crate::support::mosquitto::Mosquitto::start();
    let config = format!(
        r##"
rocketmq: {{ events: {{ name_servers: "{}" }} }}
subscriptions:
  - broker: {}
    client_id: to-rocketmq
    username: bridge
    password_file: password
    topics: [ "up/#" ]
    produce: {{ rocketmq: events, topic: "{topic}", key: topic }}
listeners: []
"##,
        cluster.names.address,
        mosquitto.address(),
    );
    let _finback = Finback::start_with(&config, &[("password", "secret\n")]);
    let client = Client::start(Kind::Java49);
    let consumer = client.consumer(&cluster.names.address, &group, &topic, &[]);
    let mut received = Vec::new();
    eventually("a message", PATIENCE, || {
        crate::kafka::tell(&mosquitto, "up/1", &["one".to_owned()], "1", &[]);
        received.extend(consumer.receive_within(1, 1000));
        (!received.is_empty()).then_some(()).ok_or_else(String::new)
    });
    assert_eq!(received[0].key, "up/1");
    assert_eq!(received[0].properties["mqtt.client_id"], "to-rocketmq");
}

#[test]
fn a_broker_that_asks_for_signatures_gets_them() {
    let names = NameServer::start();
    let setup = Setup {
        more: GUARDED,
        ..Setup::default()
    };
    let broker = Broker::start_with(&[&names], setup);
    let front = |secret: &str| {
        let config = format!(
            r#"
rocketmq:
  signed: {{ name_servers: "{own}", timeout: 2s, access_key: mesh, secret_key_file: secret }}
  unsigned: {{ name_servers: "{own}", timeout: 2s }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - {{ match: {{ protocol: http, path: /signed }}, produce: {{ rocketmq: signed, topic: signed-for }} }}
    - {{ match: {{ protocol: http }}, produce: {{ rocketmq: unsigned, topic: signed-for }} }}
"#,
            own = names.address,
        );
        Finback::start_with(&config, &[("secret", secret)])
    };
    let good = front("a-long-secret\n");
    let at = |finback: &Finback, path: &str| format!("http://{}/{path}", finback.local("all"));
    for body in ["one", "a body that is signed as well"] {
        assert_eq!(status(&["-d", body, &at(&good, "signed")]), "200");
    }
    assert_eq!(status(&["-d", "x", &at(&good, "unsigned")]), "504");
    assert_eq!(
        status(&["-d", "x", &at(&front("another"), "signed")]),
        "504"
    );
    good.process().await_words("a message was not written");
    drop(broker);
}
