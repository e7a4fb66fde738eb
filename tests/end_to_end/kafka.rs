//! Messages of MQTT and bodies of HTTP into Kafka, read back by kcat.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::kafka::Kafka;
use crate::support::mock_kafka::MockKafka;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::{Answer, Peer};

const PATIENCE: Duration = Duration::from_secs(20);

fn front(brokers: &str, options: &str) -> Finback {
    Finback::start(&format!(
        r##"
workers: 2
kafka:
  events: {{ brokers: "{brokers}", options: {{ {options} }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: "{{1}}" }}
      mqtt: {{ authenticate: none, acl: [ {{ deny: all, topics: [ "secret/#" ] }}, {{ allow: publish, topics: [ "#" ] }} ] }}
    - match: {{ protocol: http, path: {{ prefix: "/bridge/" }} }}
      produce: {{ kafka: events, topic: "{{2}}", key: {{ property: x-key }} }}
    - match: {{ protocol: http }}
      respond: {{ status: 404 }}
"##
    ))
}

/// Everything in a topic, as kcat tells it.
pub(crate) fn read(brokers: &str, topic: &str) -> Vec<Value> {
    let arguments = "-C -e -q -J -o beginning -b";
    let mut text = String::new();
    // Brokers that have just come back may send a reader away once more.
    eventually("kcat reads", PATIENCE, || {
        let out = Command::new("kcat")
            .args(arguments.split(' '))
            .args([brokers, "-t", topic])
            .output()
            .expect("kcat is missing: run `make peers`, or `apt-get install kcat`");
        text = String::from_utf8(out.stdout).unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            Ok(())
        } else {
            Err(said.into_owned())
        }
    });
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn payloads(brokers: &str, topic: &str) -> Vec<String> {
    let all = read(brokers, topic);
    all.iter()
        .map(|record| record["payload"].as_str().unwrap().to_owned())
        .collect()
}

/// The value of a header of a record.
pub(crate) fn header<'a>(record: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = record["headers"].as_array().unwrap();
    let own = headers.chunks(2).filter(|pair| pair[0] == name);
    own.map(|pair| pair[1].as_str().unwrap()).collect()
}

pub(crate) fn connect(
    peer: &Peer,
    name: &str,
    finback: &Finback,
    fields: &[(&str, &str)],
) -> Answer {
    let url = format!("mqtt://{}", finback.local("all"));
    let own = [("name", name), ("url", &*url), ("id", name)];
    peer.ask("connect", &[&own, fields].concat())
}

pub(crate) fn publish(peer: &Peer, name: &str, topic: &str, payload: &str, qos: &str) -> Answer {
    let fields = [
        ("name", name),
        ("topic", topic),
        ("payload", payload),
        ("qos", qos),
    ];
    peer.ask("publish", &fields)
}

/// Publishes what MQTT 3 has no refusal for: the connection is closed, and nothing acknowledged.
pub(crate) fn lose(peer: &Peer, name: &str, topic: &str) {
    let fields = [
        ("name", name),
        ("topic", topic),
        ("payload", "lost"),
        ("qos", "1"),
    ];
    let _unanswered = peer.begin("publish", &fields);
    peer.ask("closed", &[("name", name)]).unwrap();
}

#[test]
fn what_devices_publish_is_in_kafka_before_it_is_acknowledged() {
    let kafka = MockKafka::start(&["plant"]);
    let brokers = kafka.brokers.clone();
    let finback = front(&brokers, "");
    let peer = Peer::mqtt();
    for version in ["4", "5"] {
        let name = format!("meter-{version}");
        let fields = [("version", version), ("username", "north")];
        connect(&peer, &name, &finback, &fields).unwrap();
        for qos in ["1", "2"] {
            let before = read(&brokers, "plant").len();
            publish(&peer, &name, "plant/7/power", qos, qos).unwrap();
            assert_eq!(read(&brokers, "plant").len(), before + 1);
        }
        publish(&peer, &name, "plant/7/power", "0", "0").unwrap();
        // There is nobody to hear from.
        let granted = [("name", &*name), ("filters", "#"), ("qos", "1")];
        let refused = peer.ask("subscribe", &granted).unwrap()[0]
            .as_u64()
            .unwrap();
        assert!(refused >= 0x80, "{refused}");
        // Where policy or the names of Kafka's topics forbid it.
        for topic in ["secret/x", "gr\u{fc}n/x"] {
            // MQTT 3 has no word for it: it is acknowledged, and goes nowhere.
            let said = publish(&peer, &name, topic, "no", "1");
            assert_eq!(said.is_ok(), version == "4", "{topic}");
        }
    }
    let properties = r#"{"userProperties":{"traceparent":"00-1-2-01"},"contentType":"text/plain","correlationData":"7"}"#;
    let fields = [
        ("name", "meter-5"),
        ("topic", "plant/8"),
        ("payload", "hi"),
        ("qos", "1"),
        ("retain", "true"),
        ("properties", properties),
    ];
    peer.ask("publish", &fields).unwrap();
    // Aliases are resolved.
    for topic in ["plant/alias", ""] {
        let alias = [
            ("name", "meter-5"),
            ("topic", topic),
            ("payload", "a"),
            ("qos", "1"),
            ("properties", r#"{"topicAlias":2}"#),
        ];
        peer.ask("publish", &alias).unwrap();
    }
    let all = eventually("the message that nobody waited for", PATIENCE, || {
        let all = read(&brokers, "plant");
        if all.len() == 9 {
            Ok(all)
        } else {
            Err(all.len().to_string())
        }
    });
    let hi = all.iter().find(|record| record["payload"] == "hi").unwrap();
    assert_eq!(hi["key"], "meter-5");
    for (name, value) in [
        ("mqtt.topic", "plant/8"),
        ("mqtt.qos", "1"),
        ("mqtt.retain", "true"),
        ("mqtt.client_id", "meter-5"),
        ("mqtt.username", "north"),
        ("mqtt.correlation_data", "7"),
        ("content-type", "text/plain"),
        ("traceparent", "00-1-2-01"),
    ] {
        assert_eq!(header(hi, name), [value], "{name}");
    }
    // One device's messages are in one partition, in order.
    for version in ["4", "5"] {
        let name = format!("meter-{version}");
        let own: Vec<_> = all.iter().filter(|record| record["key"] == *name).collect();
        assert!(
            own.iter()
                .all(|record| record["partition"] == own[0]["partition"])
        );
    }
    let aliased = all
        .iter()
        .filter(|record| header(record, "mqtt.topic") == ["plant/alias"]);
    assert_eq!(aliased.count(), 2);
}

#[test]
fn nothing_is_acknowledged_that_kafka_did_not_take() {
    let kafka = MockKafka::start(&["a"]);
    let brokers = kafka.brokers.clone();
    let options = "message.timeout.ms: \"1500\", reconnect.backoff.max.ms: \"500\"";
    let finback = front(&brokers, options);
    let peer = Peer::mqtt();
    for version in ["4", "5"] {
        let name = format!("m{version}");
        connect(&peer, &name, &finback, &[("version", version)]).unwrap();
        publish(&peer, &name, "a", "before", "1").unwrap();
    }
    // Brokers stumble: it takes longer, and goes well.
    kafka.stumble();
    publish(&peer, "m4", "a", "stumbled", "1").unwrap();
    // They are gone: connections end, so that clients send it again.
    kafka.take_down();
    for (name, qos) in [("m5", "1"), ("m4", "1"), ("m5", "2")] {
        let fields = [
            ("name", name),
            ("topic", "a"),
            ("payload", "lost"),
            ("qos", qos),
        ];
        let _unanswered = peer.begin("publish", &fields);
        let closed = peer.ask("closed", &[("name", name)]).unwrap();
        if name == "m5" {
            assert_eq!(closed["reason"], 0x89);
            connect(&peer, name, &finback, &[("version", "5")]).unwrap();
        }
    }
    kafka.bring_up();
    let at = format!("http://{}/bridge/a", finback.local("all"));
    eventually("Kafka to be reached again", PATIENCE, || {
        match &*curl(&["-d", "again", &at]).0 {
            "200" => Ok(()),
            status => Err(status.to_owned()),
        }
    });
    connect(&peer, "m5", &finback, &[("version", "5")]).unwrap();
    publish(&peer, "m5", "a", "after", "1").unwrap();
    let said = payloads(&brokers, "a");
    let count = |payload: &str| said.iter().filter(|own| *own == payload).count();
    assert_eq!(
        [count("before"), count("stumbled"), count("lost")],
        [2, 1, 0],
        "{said:?}"
    );
    assert!(count("after") >= 1);
    let (_, metrics) = finback.admin("/metrics");
    assert!(
        metrics.contains("finback_kafka_messages_total{kafka=\"events\",outcome=\"failed\"} "),
        "{metrics}"
    );
}

#[test]
fn exactly_once_is_what_a_device_gets_for_quality_two() {
    let kafka = MockKafka::start(&["q"]);
    let brokers = kafka.brokers.clone();
    let finback = front(&brokers, "");
    let open = |present: u8| {
        let mut stream = TcpStream::connect(finback.local("all")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"\x10\x0f\0\x04MQTT\x04\0\0\x3c\0\x03dev")
            .unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, present, 0]);
        stream
    };
    let ask = |stream: &mut TcpStream, bytes: &[u8], expected: &[u8; 4]| {
        stream.write_all(bytes).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *expected);
    };
    let mut stream = open(0);
    let (first, again) = (b"\x34\x06\0\x01q\0\x01x", b"\x3c\x06\0\x01q\0\x01x");
    ask(&mut stream, first, b"\x50\x02\0\x01");
    ask(&mut stream, again, b"\x50\x02\0\x01");
    // Its connection is lost before it releases the message, and once before it hears of it.
    drop(stream);
    let mut stream = open(1);
    ask(&mut stream, again, b"\x50\x02\0\x01");
    ask(&mut stream, b"\x62\x02\0\x01", b"\x70\x02\0\x01");
    stream.write_all(b"\x34\x06\0\x01q\0\x02y").unwrap();
    drop(stream);
    let mut stream = open(1);
    ask(&mut stream, b"\x3c\x06\0\x01q\0\x02y", b"\x50\x02\0\x02");
    ask(&mut stream, b"\x62\x02\0\x02", b"\x70\x02\0\x02");
    // A released identifier is free for another message.
    ask(&mut stream, b"\x34\x06\0\x01q\0\x01z", b"\x50\x02\0\x01");
    let mut said = payloads(&brokers, "q");
    said.sort();
    assert_eq!(said, ["x", "y", "z"]);
}

#[test]
fn a_slow_kafka_slows_devices_down_and_drops_nothing() {
    let kafka = MockKafka::start(&["slow"]);
    let brokers = kafka.brokers.clone();
    let finback = front(&brokers, "queue.buffering.max.messages: \"20\"");
    kafka.slow_down();
    // At quality of service 0, nobody would notice a loss.
    let mut stream = TcpStream::connect(finback.local("all")).unwrap();
    stream
        .write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01s")
        .unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    let mut all = Vec::new();
    for n in 0..500_u16 {
        all.extend_from_slice(b"\x30\x08\0\x04slow");
        all.extend_from_slice(format!("{:02x}", n % 256).as_bytes());
    }
    stream.write_all(&all).unwrap();
    eventually("everything to have arrived", PATIENCE, || {
        let (_, metrics) = finback.admin("/metrics");
        let confirmed = "finback_kafka_messages_total{kafka=\"events\",outcome=\"confirmed\"} 500";
        if metrics.contains(confirmed) {
            Ok(())
        } else {
            Err(metrics)
        }
    });
    let expected: Vec<String> = (0..500_u16).map(|n| format!("{:02x}", n % 256)).collect();
    assert_eq!(payloads(&brokers, "slow"), expected);
    let (_, metrics) = finback.admin("/metrics");
    assert!(
        !metrics.contains("finback_kafka_full_total{kafka=\"events\"} 0"),
        "{metrics}"
    );
}

#[test]
fn stopping_amid_messages_loses_none_that_was_acknowledged() {
    let kafka = MockKafka::start(&["stop"]);
    let brokers = kafka.brokers.clone();
    let finback = front(&brokers, "");
    let mut stream = TcpStream::connect(finback.local("all")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01s")
        .unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let began = Instant::now();
        for id in 1..=u16::MAX {
            let [high, low] = id.to_be_bytes();
            let message = [0x32, 13, 0, 4, b's', b't', b'o', b'p', high, low];
            let text = format!("{id:05}");
            if stream
                .write_all(&[&message, text.as_bytes()].concat())
                .is_err()
                || began.elapsed() > PATIENCE
            {
                return;
            }
        }
    });
    let mut acknowledged = Vec::new();
    let mut answer = [0; 4];
    while reader.read_exact(&mut answer).is_ok() {
        assert_eq!(answer[..2], [0x40, 2]);
        acknowledged.push(u16::from_be_bytes([answer[2], answer[3]]));
        if acknowledged.len() == 2000 {
            finback.process().signal("TERM");
        }
    }
    writing.join().unwrap();
    assert!(finback.process().wait_for_end(PATIENCE).success());
    // In the order in which they were sent, and each of them is there.
    let in_order: Vec<u16> = (1..).take(acknowledged.len()).collect();
    assert_eq!(acknowledged, in_order);
    let said: std::collections::HashSet<String> = payloads(&brokers, "stop").into_iter().collect();
    let lost = acknowledged
        .iter()
        .find(|id| !said.contains(&format!("{id:05}")));
    assert_eq!(
        lost,
        None,
        "of {} acknowledged and {} written",
        acknowledged.len(),
        said.len()
    );
}

pub(crate) fn curl(arguments: &[&str]) -> (String, String) {
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl is missing: run `make peers`, or `apt-get install curl`");
    let said = String::from_utf8(out.stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn bodies_of_posts_are_in_kafka_when_they_are_answered() {
    let kafka = MockKafka::start(&["orders"]);
    let brokers = kafka.brokers.clone();
    let finback = front(&brokers, "message.timeout.ms: \"1500\"");
    let at = format!("http://{}/bridge/orders", finback.local("all"));
    for (version, n) in [("--http1.1", 0), ("--http2-prior-knowledge", 1)] {
        let (status, body) = curl(&[
            version,
            "-d",
            "{\"id\":1}",
            "-H",
            "x-key: k",
            "-H",
            "traceparent: 00-1-2-01",
            &at,
        ]);
        assert_eq!(status, "200", "{body}");
        let place: Value = serde_json::from_str(&body).unwrap();
        let all = read(&brokers, "orders");
        let own = all
            .iter()
            .find(|r| r["offset"] == place["offset"] && r["partition"] == place["partition"]);
        let own = own.unwrap();
        assert_eq!(
            (&own["payload"], &own["key"], &own["offset"]),
            (&json!("{\"id\":1}"), &json!("k"), &json!(n))
        );
        assert_eq!(header(own, "traceparent"), ["00-1-2-01"]);
    }
    // One that does not wait, and one whose length is not told.
    assert_eq!(
        curl(&["-d", "x", "-H", "Prefer: respond-async", &at]).0,
        "202"
    );
    assert_eq!(
        curl(&["-d", "x", "-H", "Transfer-Encoding: chunked", &at]).0,
        "200"
    );
    // One that has been there, by whatever way, and one that has been elsewhere.
    for (before, status) in [("x/y, events/orders", "508"), ("x/y", "200")] {
        let header = format!("x-mesh-bridge: {before}");
        assert_eq!(curl(&["-d", "round", "-H", &header, &at]).0, status);
    }
    assert_eq!(curl(&[&at]).0, "405");
    assert_eq!(curl(&["-d", "x", &format!("{at}%20")]).0, "404");
    let large = crate::support::temporary_folder().join("large");
    std::fs::write(&large, vec![b'x'; 1024 * 1024 + 1]).unwrap();
    let large = format!("@{}", large.display());
    assert_eq!(curl(&["--data-binary", &large, &at]).0, "413");
    kafka.take_down();
    assert_eq!(curl(&["-d", "x", &at]).0, "504");
}

#[test]
fn a_real_broker_keeps_what_was_acknowledged_though_it_is_killed() {
    let mut kafka = Kafka::start();
    // kafkajs knows gzip, and none of the others without more.
    let options = "message.timeout.ms: \"60000\", compression.type: gzip";
    let finback = front(&kafka.address, options);
    let peer = Peer::mqtt();
    connect(&peer, "device", &finback, &[("version", "5")]).unwrap();
    let say = |n: u32| publish(&peer, "device", "real/x", &n.to_string(), "1");
    for n in 0..20 {
        say(n).unwrap();
    }
    // What is on its way meanwhile is acknowledged when the broker is back, and written once.
    kafka.kill();
    let fields = [
        ("name", "device"),
        ("topic", "real/x"),
        ("payload", ""),
        ("qos", "1"),
        ("count", "30"),
    ];
    let waiting = peer.begin("publish", &fields);
    std::thread::sleep(Duration::from_secs(1));
    kafka.restart();
    waiting.wait().unwrap();
    let (status, _) = curl(&[
        "-d",
        "from http",
        &format!("http://{}/bridge/real", finback.local("all")),
    ]);
    assert_eq!(status, "200");
    let reader = Peer::kafka();
    let fields = [
        ("brokers", &*kafka.address),
        ("topic", "real"),
        ("count", "51"),
    ];
    let all = reader.ask("read", &fields).unwrap();
    let all = all.as_array().unwrap();
    let own: Vec<_> = all
        .iter()
        .filter(|record| record["key"] == "device")
        .collect();
    let mut said: Vec<u32> = own
        .iter()
        .map(|record| record["payload"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(own.len(), 50);
    let later = said.split_off(20);
    assert_eq!(said, (0..20).collect::<Vec<_>>());
    assert_eq!(later, (0..30).collect::<Vec<_>>());
    assert!(
        own.iter()
            .all(|record| record["headers"]["mqtt.topic"] == "real/x")
    );
    assert_eq!(payloads(&kafka.address, "real").len(), 51);
}

/// A proxy in front of a broker, whose messages go to Kafka too.
fn tapped(broker: &Mosquitto, brokers: &str, hold: bool) -> Finback {
    Finback::start(&format!(
        r##"
workers: 1
kafka:
  events: {{ brokers: "{brokers}", options: {{ message.timeout.ms: "15000", reconnect.backoff.max.ms: "500" }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: mqtt, routes: all }} ]
routes:
  all:
    - to: {{ cluster: brokers }}
      mqtt:
        mountpoint: "mounted/"
        mirror: {{ kafka: events, topic: copies, wait: {hold}, topics: [ "a/#" ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"##,
        broker.address()
    ))
}

#[test]
fn a_tap_writes_what_brokers_get_as_well_and_holds_acknowledgements_back_if_asked() {
    let kafka = MockKafka::start(&["copies"]);
    let brokers = kafka.brokers.clone();
    let broker = Mosquitto::start();
    let peer = Peer::mqtt();
    let direct = format!("mqtt://{}", broker.address());
    peer.ask("connect", &[("name", "w"), ("url", &direct), ("id", "w")])
        .unwrap();
    peer.ask(
        "subscribe",
        &[("name", "w"), ("filters", "#"), ("qos", "2")],
    )
    .unwrap();
    let careless = tapped(&broker, &brokers, false);
    connect(&peer, "c", &careless, &[]).unwrap();
    let careful = tapped(&broker, &brokers, true);
    for version in ["4", "5"] {
        let name = format!("h{version}");
        connect(&peer, &name, &careful, &[("version", version)]).unwrap();
    }
    let mut expected = Vec::new();
    for name in ["c", "h4", "h5"] {
        for qos in ["0", "1", "2"] {
            let payload = format!("{name} {qos}");
            publish(&peer, name, "a/b", &payload, qos).unwrap();
            publish(&peer, name, "other", "not tapped", qos).unwrap();
            expected.push(payload);
        }
        let large = [
            ("name", name),
            ("topic", "a/large"),
            ("size", "300000"),
            ("qos", "1"),
        ];
        peer.ask("publish", &large).unwrap();
    }
    eventually("the copies", PATIENCE, || {
        let mut said = payloads(&brokers, "copies");
        said.retain(|payload| payload.len() < 100);
        said.sort();
        if said == expected {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
    let heard = peer
        .ask("heard", &[("name", "w"), ("count", "21")])
        .unwrap();
    let heard = heard.as_array().unwrap();
    let at_broker = heard.iter().filter(|m| m["topic"] == "mounted/a/b").count();
    assert_eq!(at_broker, 9, "{heard:?}");
    // Kafka is gone: who does not care is acknowledged, who does waits.
    kafka.take_down();
    publish(&peer, "c", "a/b", "lost", "1").unwrap();
    let began = Instant::now();
    let fields = [
        ("name", "h5"),
        ("topic", "a/b"),
        ("payload", "held"),
        ("qos", "1"),
    ];
    let held = peer.begin("publish", &fields);
    std::thread::sleep(Duration::from_secs(1));
    kafka.bring_up();
    held.wait().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    let copies = payloads(&brokers, "copies");
    assert!(copies.contains(&"held".to_owned()), "{copies:?}");
    // It stays away: the client is sent away, and has nothing acknowledged.
    kafka.take_down();
    let _unanswered = peer.begin("publish", &fields);
    assert_eq!(
        peer.ask("closed", &[("name", "h5")]).unwrap()["reason"],
        0x83
    );
    lose(&peer, "h4", "a/b");
}

fn subscribed(broker: &Mosquitto, brokers: &str, topics: &str) -> String {
    format!(
        r##"
kafka:
  events: {{ brokers: "{brokers}", options: {{ message.timeout.ms: "1000", reconnect.backoff.max.ms: "500" }} }}
subscriptions:
  - broker: {}
    client_id: to-kafka
    username: bridge
    password_file: password
    topics: [ {topics} ]
    produce: {{ kafka: events, topic: "{{1}}", key: topic }}
listeners: []
"##,
        broker.address()
    )
}

fn subscribe(config: &str) -> Finback {
    Finback::start_with(config, &[("password", "secret\n")])
}

/// Publishes to the broker itself.
pub(crate) fn tell(broker: &Mosquitto, topic: &str, lines: &[String], qos: &str, more: &[&str]) {
    let port = broker.port.to_string();
    let mut child = Command::new("mosquitto_pub")
        .args(["-p", &port, "-V", "5", "-u", "tester", "-P", "secret"])
        .args(["-t", topic, "-q", qos, "-l"])
        .args(more)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect(
            "mosquitto_pub is missing: run `make peers`, or `apt-get install mosquitto-clients`",
        );
    let mut input = child.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

fn numbers(from: u32, to: u32) -> Vec<String> {
    (from..to).map(|n| format!("{n:04}")).collect()
}

/// Waits until each of these is in the topic; everything that is.
fn arrived(brokers: &str, topic: &str, expected: &[String]) -> Vec<String> {
    eventually("messages in Kafka", PATIENCE * 2, || {
        let said = payloads(brokers, topic);
        let missing: Vec<_> = expected.iter().filter(|own| !said.contains(own)).collect();
        if missing.is_empty() {
            Ok(said)
        } else {
            Err(format!("{missing:?} missing of {}", said.len()))
        }
    })
}

#[test]
fn a_subscription_brings_what_a_broker_gets_to_kafka_and_loses_nothing() {
    let kafka = MockKafka::start(&["up", "other"]);
    let brokers = kafka.brokers.clone();
    let folder = crate::support::temporary_folder();
    let users = folder.join("users");
    let mut words = String::new();
    for user in ["bridge", "tester"] {
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&users)
            .args([user, "secret"])
            .status()
            .expect("mosquitto_passwd is missing: run `make peers`");
        assert!(made.success());
        words += &std::fs::read_to_string(&users).unwrap();
    }
    std::fs::write(&users, words).unwrap();
    let mut broker = Mosquitto::start_with(&format!(
        "persistence true\nallow_anonymous false\npassword_file {}",
        users.display()
    ));
    let config = subscribed(&broker, &brokers, "\"up/#\"");
    let finback = subscribe(&config);
    let subscribed_to = |broker: &Mosquitto, topic: &str| {
        broker
            .process()
            .wait_for("a subscription", PATIENCE, 0, |line| {
                line.contains(&format!("to-kafka 1 {topic}")).then_some(())
            });
    };
    subscribed_to(&broker, "up/#");
    let mut expected = Vec::new();
    for (n, qos) in ["0", "1", "2"].into_iter().enumerate() {
        let n = u32::try_from(n).unwrap();
        let more = ["-D", "publish", "user-property", "site", "north"];
        tell(&broker, "up/7", &numbers(n, n + 1), qos, &more);
    }
    expected.extend(numbers(0, 3));
    arrived(&brokers, "up", &expected);
    for record in read(&brokers, "up") {
        assert_eq!(record["key"], "up/7");
        assert_eq!(header(&record, "site"), ["north"]);
        assert_eq!(header(&record, "mqtt.topic"), ["up/7"]);
        assert_eq!(header(&record, "x-mesh-bridge"), ["events/up"]);
    }
    // What has been there before is not written again, and does not hold others up.
    let again = [
        "-D",
        "publish",
        "user-property",
        "x-mesh-bridge",
        "events/up",
    ];
    tell(&broker, "up/7", &["again".to_owned()], "1", &again);
    // What Kafka would not take ever, neither.
    tell(&broker, "up/7", &["z".repeat(1_200_000)], "1", &[]);

    // Kafka is gone for a while: nothing is acknowledged to the broker, and more than its window
    // waits there.
    kafka.take_down();
    tell(&broker, "up/7", &numbers(10, 700), "1", &[]);
    std::thread::sleep(Duration::from_secs(2));
    kafka.bring_up();
    expected.extend(numbers(10, 700));
    arrived(&brokers, "up", &expected);

    // The broker is gone, and comes back.
    broker.process().signal("TERM");
    assert!(broker.process().wait_for_end(PATIENCE).success());
    broker.restart();
    tell(&broker, "up/7", &numbers(700, 720), "2", &[]);
    expected.extend(numbers(700, 720));
    arrived(&brokers, "up", &expected);

    // This program stops while Kafka is away, is away itself, and starts again.
    kafka.take_down();
    tell(&broker, "up/7", &numbers(720, 740), "1", &[]);
    finback.process().signal("TERM");
    assert!(finback.process().wait_for_end(PATIENCE).success());
    drop(finback);
    tell(&broker, "up/7", &numbers(740, 760), "1", &[]);
    kafka.bring_up();
    let finback = subscribe(&config);
    expected.extend(numbers(720, 760));
    let said = arrived(&brokers, "up", &expected);
    assert!(!said.contains(&"again".to_owned()));

    // Other topics from now on, in the same session.
    finback.write(&subscribed(&broker, &brokers, "\"other/#\""));
    subscribed_to(&broker, "other/#");
    broker
        .process()
        .wait_for("the end of the other", PATIENCE, 0, |line| {
            line.contains("Received UNSUBSCRIBE from to-kafka")
                .then_some(())
        });
    tell(&broker, "up/7", &["left out".to_owned()], "1", &[]);
    tell(&broker, "other/7", &numbers(0, 1), "1", &[]);
    arrived(&brokers, "other", &numbers(0, 1));
    assert!(!payloads(&brokers, "up").contains(&"left out".to_owned()));
}

#[test]
fn bad_subscriptions_are_refused_with_their_place() {
    let folder = crate::support::temporary_folder();
    for (line, change, why) in [
        (3, "broker: \"127.0.0.1\"", "write HOST:PORT"),
        (4, "client_id: \"\"", "could not be kept"),
        (5, "topics: [ \"a/#/b\" ]", "write topic filters"),
        (6, "produce: { kafka: other, topic: x }", "no Kafka cluster"),
        (7, "password_file: word", "needs a `username`"),
        (8, "tls: { server_name: x }", "leave `server_name` out"),
    ] {
        let mut lines = [
            "subscriptions:",
            "  -",
            "    broker: \"127.0.0.1:1883\"",
            "    client_id: a",
            "    topics: [ \"a/#\" ]",
            "    produce: { kafka: events, topic: x }",
            "",
            "",
            "listeners: []",
            "kafka: { events: { brokers: \"127.0.0.1:1\" } }",
        ]
        .map(str::to_owned);
        let file = folder.join("finback.yaml");
        let check = |lines: &[String]| {
            std::fs::write(&file, lines.join("\n")).unwrap();
            let out = Command::new(env!("CARGO_BIN_EXE_finback"))
                .args(["check", "-c"])
                .arg(&file)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            (out.status.success(), said)
        };
        assert_eq!(check(&lines), (true, String::new()));
        lines[line - 1] = format!("    {change}");
        let (good, said) = check(&lines);
        assert!(!good && said.contains(why), "{change}: {said}");
        assert!(said.contains(&format!("finback.yaml:{line}:")), "{said}");
    }
}
