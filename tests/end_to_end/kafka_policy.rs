//! Routes without a broker: who may publish, what is remembered of whom, and what every key of `mqtt` does.

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use crate::support::certificates::certificates;
use crate::support::device::{Device, Login};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;

const PATIENCE: Duration = Duration::from_secs(20);

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[&str]) -> Mock {
    let cluster = MockCluster::new(1).unwrap();
    for topic in topics {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    cluster
}

/// A configuration of one route without a broker.
fn config(brokers: &str, topic: &str, mqtt: &str) -> String {
    format!(
        r##"
workers: 2
kafka:
  events: {{ brokers: "{brokers}", options: {{ message.timeout.ms: "5000" }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: "{topic}" }}
      mqtt: {{ {mqtt} }}
"##
    )
}

fn login(id: &str) -> Login<'_> {
    Login {
        level: 5,
        id,
        clean: true,
        ..Login::default()
    }
}

/// Every record of a topic, as kcat tells it.
fn records(brokers: &str, topic: &str) -> Vec<Value> {
    let out = Command::new("kcat")
        .args(["-b", brokers, "-t", topic, "-C", "-e", "-q", "-J"])
        .args(["-o", "beginning"])
        .output()
        .expect("kcat is missing: run `make peers`, or `apt-get install kcat`");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn header<'a>(record: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = record["headers"].as_array().unwrap();
    let own = headers.chunks(2).filter(|pair| {
        let own = pair[0].as_str().unwrap();
        own.eq_ignore_ascii_case(name)
    });
    own.map(|pair| pair[1].as_str().unwrap()).collect()
}

fn user_property(name: &str, value: &str) -> Vec<u8> {
    let mut property = vec![0x26];
    for text in [name, value] {
        property.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        property.extend_from_slice(text.as_bytes());
    }
    property
}

#[test]
fn headers_that_tell_where_a_message_comes_from_cannot_be_forged() {
    let cluster = cluster(&["plant"]);
    let brokers = cluster.bootstrap_servers();
    let finback = Finback::start(&config(&brokers, "{1}", "authenticate: none"));
    let (mut device, _) = Device::connect(
        &finback,
        Login {
            username: Some("alice"),
            ..login("meter-1")
        },
    );
    let forged = [
        ("mqtt.topic", "plant/other"),
        ("mqtt.client_id", "admin"),
        ("MQTT.Client_Id", "admin"),
        ("mqtt.username", "root"),
        ("mqtt.identity", "spiffe://acme/root"),
        ("mqtt.new", "x"),
        ("Content-Type", "x"),
        ("x-Mesh-Bridge", "x"),
        ("http.path", "x"),
    ];
    for (id, (name, value)) in (1..).zip(forged) {
        let property = user_property(name, value);
        device.say(&device.message_with(&property, 1, id, "plant/7", b"x"));
        assert_eq!(device.answer(), Some((4, id, 0)));
    }
    let own = user_property("site", "north");
    device.say(&device.message_with(&own, 1, 99, "plant/7", b"own"));
    assert_eq!(device.answer(), Some((4, 99, 0)));
    let all = records(&brokers, "plant");
    assert_eq!(all.len(), forged.len() + 1);
    for record in &all {
        assert_eq!(header(record, "mqtt.client_id"), ["meter-1"]);
        assert_eq!(header(record, "mqtt.username"), ["alice"]);
        assert_eq!(header(record, "mqtt.topic"), ["plant/7"]);
        assert_eq!(header(record, "x-mesh-bridge"), ["events/plant"]);
        for name in ["mqtt.identity", "mqtt.new", "content-type", "http.path"] {
            assert!(header(record, name).is_empty(), "{name}: {record}");
        }
    }
    assert_eq!(header(all.last().unwrap(), "site"), ["north"]);
}

/// The version 5 properties of a session that lasts for so many seconds.
fn lasting(seconds: u8) -> [u8; 5] {
    [0x11, 0, 0, 0, seconds]
}

#[test]
fn what_is_remembered_of_a_session_has_its_time_and_its_owner() {
    let cluster = cluster(&["q"]);
    let brokers = cluster.bootstrap_servers();
    let users = passwords(&[("alice", "a"), ("mallory", "m")]);
    let mqtt = "authenticate: { users: users }, session_expiry: 2s";
    let finback = Finback::start_with(&config(&brokers, "{1}", mqtt), &[("users", &users)]);
    let short = lasting(1);
    let long = lasting(60);
    let session = |level, (username, password), properties| {
        let login = Login {
            level,
            id: "meter",
            clean: false,
            properties,
            username: Some(username),
            password: Some(password),
        };
        let (device, connack) = Device::connect(&finback, login);
        assert_eq!(connack[1], 0);
        (device, connack[0])
    };
    let written = || records(&brokers, "q").len();
    let alice = ("alice", "a");

    // A message that is not released is known again, and no more when its time is over.
    let (mut device, _) = session(5, alice, &short);
    device.say(&device.message(2, 1, "q", b"first"));
    assert_eq!(device.answer(), Some((5, 1, 0)));
    drop(device);
    let (mut device, present) = session(5, alice, &short);
    assert_eq!(present, 1);
    device.say(&device.message(2, 1, "q", b"first"));
    assert_eq!(device.answer(), Some((5, 1, 0)));
    assert_eq!(written(), 1);
    drop(device);
    std::thread::sleep(Duration::from_millis(2500));
    let (mut device, present) = session(5, alice, &long);
    assert_eq!(present, 0);
    assert_eq!(device.publish(2, 1, "q", b"second"), Some(0));
    assert_eq!(written(), 2);
    // DISCONNECT may say another time: none here.
    device.say(&device.message(2, 2, "q", b"third"));
    assert_eq!(device.answer(), Some((5, 2, 0)));
    device.say(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    assert_eq!(device.hear(), None);
    let (device, present) = session(5, alice, &long);
    assert_eq!(present, 0);
    drop(device);

    // Somebody else under the same identifier finds nothing, and spoils nothing.
    let (mut other, present) = session(5, ("mallory", "m"), &long);
    assert_eq!(present, 0);
    for id in 1..=20 {
        other.say(&other.message(2, id, "q", b"mallory"));
        assert_eq!(other.answer(), Some((5, id, 0)));
    }
    drop(other);
    let before = written();
    let (mut device, present) = session(5, alice, &long);
    assert_eq!(present, 1);
    for id in 1..=20 {
        assert_eq!(device.publish(2, id, "q", b"alice"), Some(0));
    }
    assert_eq!(written(), before + 20);
    device.say(&[0xe0, 0]);
    assert_eq!(device.hear(), None);

    // MQTT 3 cannot say how long; the route does.
    let (device, _) = session(4, alice, &[]);
    drop(device);
    let (device, present) = session(4, alice, &[]);
    assert_eq!(present, 1);
    drop(device);
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(session(4, alice, &[]).1, 0);
}

/// A file of users, as `mosquitto_passwd` writes it.
fn passwords(users: &[(&str, &str)]) -> String {
    let file = crate::support::temporary_folder().join("users");
    std::fs::write(&file, "").unwrap();
    for (user, password) in users {
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg(&file)
            .args([user, password])
            .status()
            .expect("mosquitto_passwd is missing: run `make peers`");
        assert!(made.success());
    }
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn users_are_asked_for_their_password_and_are_who_they_are() {
    let cluster = cluster(&["up"]);
    let brokers = cluster.bootstrap_servers();
    let users = passwords(&[("alice", "secret"), ("bob", "builder")]);
    let acl = "acl: [ { allow: publish, topics: [ \"up/{username}/#\" ] } ]";
    let mqtt = format!("authenticate: {{ users: users }}, {acl}");
    let finback = Finback::start_with(&config(&brokers, "{1}", &mqtt), &[("users", &users)]);
    let connect = |level, username, password| {
        let own = Login {
            level,
            username,
            password,
            ..login("x")
        };
        let (device, connack) = Device::connect(&finback, own);
        (device, connack[1])
    };
    for (level, code) in [(4, 4), (5, 0x86)] {
        for (username, password) in [
            (Some("alice"), Some("wrong")),
            (Some("alice"), Some("")),
            (Some("alice"), None),
            (Some("carol"), Some("secret")),
            (Some("bob"), Some("secret")),
            (None, None),
        ] {
            assert_eq!(connect(level, username, password).1, code, "{username:?}");
        }
        let (mut device, accepted) = connect(level, Some("alice"), Some("secret"));
        assert_eq!(accepted, 0);
        assert_eq!(device.publish(1, 1, "up/alice/x", b"mine"), Some(0));
        let denied = if level == 5 { 0x87 } else { 0 };
        assert_eq!(device.publish(1, 2, "up/bob/x", b"not mine"), Some(denied));
    }
    let all = records(&brokers, "up");
    assert_eq!(all.len(), 2);
    assert_eq!(header(&all[0], "mqtt.identity"), ["alice"]);
    // Enhanced authentication is not spoken (MQTT 5, section 4.12).
    let method = [0x15, 0, 5, b'S', b'C', b'R', b'A', b'M'];
    let own = Login {
        properties: &method,
        ..login("x")
    };
    assert_eq!(Device::connect(&finback, own).1[1], 0x8c);
    // The file is read again when it changes, and stays in force when it is no good.
    finback.write_file("users", &passwords(&[("carol", "new one")]));
    eventually("the new user", PATIENCE, || {
        match connect(5, Some("carol"), Some("new one")).1 {
            0 => Ok(()),
            code => Err(format!("{code:x}")),
        }
    });
    assert_eq!(connect(5, Some("alice"), Some("secret")).1, 0x86);
    finback.write_file("users", "carol:plain\n");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(connect(5, Some("carol"), Some("plain")).1, 0x86);
    assert_eq!(connect(5, Some("carol"), Some("new one")).1, 0);
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token that openssl signs with a key of this file.
fn token(folder: &std::path::Path, claims: &Value) -> String {
    let header = json!({ "alg": "RS256", "typ": "JWT" });
    let said = format!("{}.{}", encoded(&header), encoded(claims));
    std::fs::write(folder.join("said"), &said).unwrap();
    let out = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "server.key", "said"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(out.status.success());
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(out.stdout))
}

#[test]
fn tokens_are_proved_and_their_claims_decide() {
    let folder = crate::support::temporary_folder();
    certificates(&folder);
    let public = Command::new("openssl")
        .args(["pkey", "-in", "server.key", "-pubout"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let public = String::from_utf8(public.stdout).unwrap();
    let cluster = cluster(&["t1"]);
    let brokers = cluster.bootstrap_servers();
    let rules = "key: public.pem, audience: mesh, claims: { device: \"{client_id}\" }";
    let mqtt = format!(
        "authenticate: {{ tokens: {{ {rules} }} }}, \
         acl: [ {{ allow: publish, topics: [ \"{{claims.tenant}}/#\" ] }} ]"
    );
    let config = config(&brokers, "{1}", &mqtt);
    let finback = Finback::start_with(&config, &[("public.pem", &public)]);
    let seconds = || {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    };
    let now = seconds();
    let connect = |id, token: &str| {
        let own = Login {
            username: Some("anything"),
            password: Some(token),
            ..login(id)
        };
        let (device, connack) = Device::connect(&finback, own);
        (device, connack[1])
    };
    let claims = json!({ "sub": "meter", "aud": "mesh", "exp": now + 300,
        "tenant": "t1", "device": "m1" });
    let good = token(&folder, &claims);
    let (mut device, accepted) = connect("m1", &good);
    assert_eq!(accepted, 0);
    assert_eq!(device.publish(1, 1, "t1/x", b"x"), Some(0));
    assert_eq!(device.publish(1, 2, "t2/x", b"x"), Some(0x87));
    let record = &records(&brokers, "t1")[0];
    assert_eq!(header(record, "mqtt.identity"), ["meter"]);
    assert_eq!(header(record, "mqtt.username"), ["meter"]);
    assert_eq!(connect("m2", &good).1, 0x86);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        token(&folder, &claims)
    };
    for (name, value) in [
        ("exp", json!(now - 60)),
        ("nbf", json!(now + 60)),
        ("aud", json!("other")),
    ] {
        assert_eq!(connect("m1", &with(name, value)).1, 0x86, "{name}");
    }
    // Whose key it is decides about the algorithm: one signed with the public key as a secret is none.
    let none = format!(
        "{}.{}.",
        encoded(&json!({ "alg": "none" })),
        encoded(&claims)
    );
    assert_eq!(connect("m1", &none).1, 0x86);
    // A session ends with what it rests on (clocks may be half a minute apart).
    let (mut device, accepted) = connect("m1", &with("exp", json!(seconds() - 25)));
    assert_eq!(accepted, 0);
    let (kind, body) = device.hear().unwrap();
    assert_eq!((kind, body[0]), (0xe0, 0x87));
}

#[test]
fn every_key_of_a_route_without_a_broker_has_its_effect() {
    let cluster = cluster(&["up", "tenants"]);
    let brokers = cluster.bootstrap_servers();
    let mqtt = "authenticate: none, messages_per_second: 20, client_id: \"known-{username}\", \
                username: \"u-{username}\", mountpoint: \"tenants/{username}/\", denied: close, \
                acl: [ { deny: all, topics: [ \"secret/#\" ] }, { allow: publish, topics: [ \"#\" ] } ], \
                server_reference: \"other:1883\"";
    let finback = Finback::start(&config(&brokers, "{1}", mqtt));
    let own = Login {
        username: Some("alice"),
        ..login("dev")
    };
    let (mut device, _) = Device::connect(&finback, own);
    let began = Instant::now();
    for id in 1..=60 {
        assert_eq!(device.publish(1, id, "up/x", b"x"), Some(0));
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1800), "{took:?}");
    // Answers keep their order, whatever they say (MQTT 5, section 4.6).
    let mut burst = Vec::new();
    for (id, topic) in (1..).zip(["up/x", "secret/x", "up/x", "secret/y"]) {
        burst.extend(device.message(1, id, topic, b"x"));
    }
    device.say(&burst);
    let answers: Vec<_> = (0..4).map(|_| device.answer().unwrap()).collect();
    assert_eq!(answers, [(4, 1, 0), (4, 2, 0x87), (4, 3, 0), (4, 4, 0x87)]);
    let all = records(&brokers, "tenants");
    assert_eq!(all.len(), 62);
    for record in &all {
        assert_eq!(header(record, "mqtt.client_id"), ["known-alice"]);
        assert_eq!(header(record, "mqtt.username"), ["u-alice"]);
        assert_eq!(header(record, "mqtt.topic"), ["tenants/alice/up/x"]);
        assert_eq!(record["key"], "known-alice");
    }
    let own = Login {
        level: 4,
        username: Some("bob"),
        ..login("dev")
    };
    let (mut old, _) = Device::connect(&finback, own);
    assert_eq!(old.publish(1, 1, "secret/x", b"x"), None);
    finback.process().signal("TERM");
    let (kind, body) = device.hear().unwrap();
    assert_eq!((kind, body[0]), (0xe0, 0x9c));
}

#[test]
fn what_would_have_no_effect_is_refused_with_its_place() {
    let refused = |line: &str, why: &str| {
        let text = config("127.0.0.1:1", "{1}", "authenticate: none, KEY").replace("KEY", line);
        let (good, said) = Finback::check(&text);
        assert!(!good && said.contains(why), "{line}: {said}");
        assert!(said.contains(".yaml:10:"), "{line}: {said}");
    };
    refused("proxy_protocol: true", "`proxy_protocol`");
    refused("username: x, password_file: y", "`password_file`");
    refused("mirror: { kafka: events, topic: x }", "`mirror`");
    refused("duplicates: broker", "`duplicates: broker`");
    refused("refused: maybe", "acknowledge or close");
    refused("mountpoint: \"{claims.tenant}/\"", "tokens");
    for (mqtt, why) in [
        ("denied: close", "`authenticate`"),
        ("authenticate: maybe", "is not allowed here"),
        (
            "authenticate: { users: a, tokens: { key: b } }",
            "exactly one",
        ),
        ("authenticate: { users: missing }", "missing"),
        ("authenticate: { tokens: { key: missing } }", "missing"),
    ] {
        let (good, said) = Finback::check(&config("127.0.0.1:1", "{1}", mqtt));
        assert!(!good && said.contains(why), "{mqtt}: {said}");
        assert!(said.contains(".yaml:10:"), "{mqtt}: {said}");
    }
    let bare = config("127.0.0.1:1", "{1}", "").replace("      mqtt: {  }\n", "");
    let (good, said) = Finback::check(&bare);
    assert!(!good && said.contains("authenticate"), "{said}");
    let (good, said) = Finback::check(&config("127.0.0.1:1", "{1}{2}", "authenticate: none"));
    assert!(!good && said.contains("two topics"), "{said}");
}

#[test]
fn what_kafka_will_never_take_is_answered_once() {
    let cluster = cluster(&["big"]);
    let brokers = cluster.bootstrap_servers();
    let finback = Finback::start(&config(&brokers, "{1}", "authenticate: none"));
    let huge = vec![b'x'; 1_000_001];
    let (mut device, connack) = Device::connect(&finback, login("five"));
    // Maximum Packet Size is what Kafka takes, less what goes along.
    let at = connack.iter().position(|byte| *byte == 0x27).unwrap();
    let most = u32::from_be_bytes(connack[at + 1..at + 5].try_into().unwrap());
    assert!((990_000..1_000_000).contains(&most), "{most}");
    let fits = vec![b'x'; most as usize - 20];
    assert_eq!(device.publish(1, 1, "big", &fits), Some(0));
    assert_eq!(device.publish(1, 2, "big", &huge), Some(0x83));
    assert_eq!(device.publish(2, 3, "big", &huge), Some(0x83));
    let looped = user_property("x-mesh-bridge", "events/big");
    device.say(&device.message_with(&looped, 1, 4, "big", b"x"));
    assert_eq!(device.answer(), Some((4, 4, 0x83)));
    for topic in ["_schemas", "a b", "\u{fc}"] {
        assert_eq!(device.publish(1, 5, topic, b"x"), Some(0x90), "{topic}");
    }
    // PUBREL of what has not been acknowledged, or is not known (section 4.3.3).
    device.release(77);
    assert_eq!(device.answer(), Some((7, 77, 0x92)));
    let mut old = Device::connect(
        &finback,
        Login {
            level: 4,
            ..login("old")
        },
    )
    .0;
    for qos in [1, 2] {
        assert_eq!(old.publish(qos, 1, "big", &huge), Some(0));
        assert_eq!(old.publish(qos, 2, "_schemas", b"x"), Some(0));
        assert_eq!(old.publish(qos, 3, "big", b"fine"), Some(0));
    }
    assert_eq!(records(&brokers, "big").len(), 3);
    finback.reload(&config(
        &brokers,
        "{1}",
        "authenticate: none, refused: close",
    ));
    let mut old = Device::connect(
        &finback,
        Login {
            level: 4,
            ..login("old")
        },
    )
    .0;
    assert_eq!(old.publish(1, 1, "big", &huge), None);
}

#[test]
fn new_topics_do_not_starve_others_and_are_bounded() {
    let cluster = cluster(&["iot.calm"]);
    let brokers = cluster.bootstrap_servers();
    let text = config(&brokers, "iot.{1}", "authenticate: none");
    let text = text.replace("options:", "topics: 400, options:");
    let finback = Finback::start(&text);
    let (mut calm, _) = Device::connect(&finback, login("calm"));
    assert_eq!(calm.publish(1, 1, "calm", b"x"), Some(0));
    let (bomber, _) = Device::connect(&finback, login("bomber"));
    let mut bombs = Vec::new();
    for n in 0..5000 {
        bombs.extend(bomber.message(0, 0, &format!("n{n}/x"), b"x"));
    }
    let before = finback.process().rss();
    let spare = std::thread::spawn(move || {
        bomber.say(&bombs);
        bomber
    });
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        let sent = Instant::now();
        assert_eq!(calm.publish(1, 1, "calm", b"x"), Some(0));
        slowest = slowest.max(sent.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(spare.join().unwrap());
    let grown = finback.process().rss().saturating_sub(before);
    println!("slowest {slowest:?}, grown by {grown} KiB");
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
    assert!(grown < 40_000, "{grown} KiB");
    // Those that are known go on, a new one is refused.
    let (mut other, _) = Device::connect(&finback, login("other"));
    assert_eq!(other.publish(1, 1, "calm", b"x"), Some(0));
    assert_eq!(other.publish(1, 2, "one-more", b"x"), Some(0x97));
}

#[test]
fn certificates_say_who_clients_are() {
    let folder = crate::support::temporary_folder();
    certificates(&folder);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let cluster = cluster(&["up"]);
    let brokers = cluster.bootstrap_servers();
    let listener = "listeners: [ { name: all, address: \"127.0.0.1:0\", routes: all, tls: { \
        certificates: [ { certificate: server.pem, key: server.key } ], client_ca: ca.pem, client_optional: true } } ]";
    let text = config(&brokers, "{1}", "authenticate: certificate");
    let line = text
        .lines()
        .find(|line| line.starts_with("listeners"))
        .unwrap();
    let text = text.replace(line, listener);
    let files = ["server.pem", "server.key", "ca.pem"].map(|name| (name, read(name)));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    let finback = Finback::start_with(&text, &files);
    let publish = |more: &[&str]| {
        let port = finback.port("all").to_string();
        let out = Command::new("mosquitto_pub")
            .args(["-h", "localhost", "-p", &port, "-V", "5", "-q", "1"])
            .args([
                "-t", "up/x", "-m", "x", "-i", "dev", "-u", "claimed", "-P", "x",
            ])
            .args(["--cafile", "ca.pem"])
            .args(more)
            .current_dir(&folder)
            .output()
            .unwrap();
        out.status.success()
    };
    assert!(!publish(&[]), "without a certificate");
    assert!(publish(&[
        "--cert",
        "workload.pem",
        "--key",
        "workload.key"
    ]));
    let record = &records(&brokers, "up")[0];
    assert_eq!(header(record, "mqtt.identity"), ["spiffe://acme/pay"]);
    assert_eq!(header(record, "mqtt.username"), ["spiffe://acme/pay"]);
}

#[test]
fn a_tap_that_holds_writes_only_what_the_broker_took() {
    let cluster = cluster(&["copies"]);
    let brokers = cluster.bootstrap_servers();
    let folder = crate::support::temporary_folder();
    let acl = folder.join("acl");
    std::fs::write(&acl, "topic readwrite open/#\n").unwrap();
    let broker =
        Mosquitto::start_with(&format!("allow_anonymous true\nacl_file {}", acl.display()));
    let finback = Finback::start(&format!(
        r##"
workers: 1
kafka: {{ events: {{ brokers: "{brokers}" }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: mqtt, routes: all }} ]
routes:
  all:
    - to: {{ cluster: brokers }}
      mqtt: {{ mirror: {{ kafka: events, topic: copies, wait: true }} }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"##,
        broker.address()
    ));
    let (mut device, connack) = Device::connect(&finback, login("dev"));
    assert_eq!(connack[1], 0, "{}", finback.process().tail());
    let mut answers = Vec::new();
    for (id, topic) in (1..).zip(["open/a", "closed/a", "open/b", "closed/b"]) {
        for qos in [1, 2] {
            answers.push(device.publish(qos, id, topic, topic.as_bytes()).unwrap());
        }
    }
    // Nobody has subscribed, which Mosquitto says of quality 1 only.
    assert_eq!(answers, [0x10, 0, 0x87, 0x87, 0x10, 0, 0x87, 0x87]);
    let said: Vec<_> = records(&brokers, "copies")
        .iter()
        .map(|record| record["payload"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, ["open/a", "open/a", "open/b", "open/b"]);
}

#[test]
fn a_will_is_published_when_its_session_is_taken_over_unless_it_was_to_wait() {
    let cluster = cluster(&["wills"]);
    let brokers = cluster.bootstrap_servers();
    let finback = Finback::start(&config(&brokers, "{1}", "authenticate: none"));
    let peer = Peer::mqtt();
    let url = format!("mqtt://{}", finback.local("all"));
    for (n, delay) in [(1, "0"), (2, "30")] {
        let id = format!("will-{n}");
        let will = format!(
            r#"{{"topic":"wills/x","payload":"{id}","qos":1,"properties":{{"willDelayInterval":{delay}}}}}"#
        );
        let fields = [
            ("name", &*id),
            ("url", &*url),
            ("id", &*id),
            ("version", "5"),
            ("will", &*will),
        ];
        peer.ask("connect", &fields).unwrap();
        let (_device, connack) = Device::connect(&finback, login(&id));
        assert_eq!(connack[1], 0);
        std::thread::sleep(Duration::from_millis(500));
    }
    let said: Vec<_> = records(&brokers, "wills")
        .iter()
        .map(|record| record["payload"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, ["will-1"]);
}
