//! What clients and brokers of MQTT must not be able to do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use finback_mqtt::codec::{FixedHeader, Level, Side, check};
use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use crate::support::{eventually, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01x";

fn front(broker: &Mosquitto, listener: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
limits: {{ connections: 15000 }}
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt{listener} }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ], limits: {{ in_flight: 0 }} }} }}
"#,
        broker.address()
    ))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the peer closes.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}, after {bytes:?}"),
    }
    bytes
}

fn unhex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap().as_bytes();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn level_of(number: &Value) -> Level {
    match number.as_u64() {
        Some(5) => Level::V5,
        Some(3) => Level::V31,
        _ => Level::V311,
    }
}

/// Reads as a receiver of either side would.
fn read(bytes: &[u8], level: Level) -> Result<(), String> {
    let head = FixedHeader::read(bytes, level, 1 << 20).map_err(|fault| fault.why.to_owned())?;
    let head = head.ok_or("it is not whole")?;
    if bytes.len() < head.packet() {
        return Err("it is not whole".to_owned());
    }
    let packet = &bytes[..head.packet()];
    [Side::Client, Side::Server]
        .into_iter()
        .map(|side| check(packet, &head, level, side).map_err(|fault| fault.why.to_owned()))
        .reduce(|one, other| one.or(other))
        .unwrap()
}

/// What the library reads and nobody sends: a version of MQTT 3.1.1 under the name of 3.1, and a
/// CONNACK without a code.
const DISPUTED: &[&str] = &["connect MQTT bridge 132", "Version 5 CONNACK test 1"];

#[test]
fn packets_that_another_implementation_refuses_are_refused_and_the_others_are_read() {
    let peer = Peer::mqtt();
    let found = peer.ask("vectors", &[]).unwrap();
    let list = |name: &str| found[name].as_array().unwrap().clone();
    let (good, bad) = (list("good"), list("bad"));
    assert!(
        good.len() >= 60 && bad.len() >= 58,
        "{} {}",
        good.len(),
        bad.len()
    );
    let mut wrong = Vec::new();
    for vector in &good {
        let name = vector["name"].as_str().unwrap();
        if let Err(why) = read(&unhex(&vector["bytes"]), level_of(&vector["level"]))
            && !DISPUTED.contains(&name)
        {
            wrong.push(format!("refused: {name} ({why}) {}", vector["bytes"]));
        }
    }
    for vector in &bad {
        if read(&unhex(&vector["bytes"]), level_of(&vector["level"])).is_ok() {
            wrong.push(format!(
                "read: {} at {} {}",
                vector["name"], vector["level"], vector["bytes"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A packet of this first byte and body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap();
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn what_no_client_may_send_ends_its_session_with_the_reason_and_nothing_else() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let peer = Peer::mqtt();
    let url = format!("mqtt://{address}");
    let fields = [
        ("name", "honest"),
        ("url", &*url),
        ("id", "honest"),
        ("version", "5"),
    ];
    peer.ask("connect", &fields).unwrap();
    peer.ask(
        "subscribe",
        &[("name", "honest"), ("filters", "a"), ("qos", "1")],
    )
    .unwrap();
    let slashes = [&[0, 1, 0, 0xff, 0xff][..], &vec![b'/'; 65_535], &[0]].concat();
    let user = [&[0x26, 0, 1, b'a', 0, 1, b'b'][..]].concat().repeat(33);
    let many = [&[0, 1, b't', 0xe7, 0x01][..], &user].concat();
    let cases: [(&str, Vec<u8>, u8); 17] = [
        (
            "a length of five bytes",
            b"\x80\xff\xff\xff\xff\x7f".to_vec(),
            0x81,
        ),
        ("a second CONNECT", CONNECT_5.to_vec(), 0x82),
        ("a CONNACK", b"\x20\x03\0\0\0".to_vec(), 0x82),
        ("a topic of no length", packet(0x30, b"\0\0\0x"), 0x82),
        ("a topic with a wildcard", packet(0x30, b"\0\x01#\0x"), 0x90),
        (
            "an alias that is 0",
            packet(0x30, b"\0\x01a\x03\x23\0\0"),
            0x94,
        ),
        ("65535 levels", packet(0x82, &slashes), 0x90 - 1),
        ("a flood of user properties", packet(0x30, &many), 0x97),
        (
            "a property twice",
            packet(0x30, b"\0\x01a\x04\x01\x01\x01\x01x"),
            0x82,
        ),
        (
            "a property of another packet",
            packet(0x30, b"\0\x01a\x05\x11\0\0\0\x01"),
            0x82,
        ),
        (
            "an unknown property",
            packet(0x30, b"\0\x01a\x02\x7f\x01"),
            0x81,
        ),
        ("reserved flags", packet(0x83, b"\0\x01\0\0\x01a\0"), 0x81),
        (
            "quality of service 3",
            packet(0x36, b"\0\x01a\0\x01\0"),
            0x81,
        ),
        ("a SUBSCRIBE of nothing", packet(0x82, b"\0\x01\0"), 0x82),
        (
            "an identifier that is 0",
            packet(0x82, b"\0\0\0\0\x01a\0"),
            0x82,
        ),
        (
            "a topic that is not UTF-8",
            packet(0x30, b"\0\x02\xc3\x28\0"),
            0x81,
        ),
        (
            "more than a mebibyte",
            b"\x30\xff\xff\xff\x7f".to_vec(),
            0x95,
        ),
    ];
    for (what, bytes, reason) in cases {
        let mut stream = connect(&address);
        stream.write_all(CONNECT_5).unwrap();
        let mut connack = [0; 2];
        stream.read_exact(&mut connack).unwrap();
        let mut properties = vec![0; usize::from(connack[1])];
        stream.read_exact(&mut properties).unwrap();
        // The client may go on talking into a connection that is about to be closed.
        let _ = stream.write_all(&bytes);
        let said = rest(&mut stream);
        assert_eq!(said.first(), Some(&0xe0), "{what}: {said:?}");
        assert_eq!(said.get(2), Some(&reason), "{what}: {said:?}");
        // A client of 3.1.1 only sees its connection end.
        let mut stream = connect(&address);
        stream
            .write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01y")
            .unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        let _ = stream.write_all(b"\x83\x02\0\x01");
        assert_eq!(rest(&mut stream), b"", "{what}");
    }
    // First packets that are none.
    let long = [&b"\x10\x80\x80\x08\0\x04MQTT\x05\x02\0\x3c\0"[..]].concat();
    let unsound: [(&str, &[u8], &[u8]); 8] = [
        ("no CONNECT", b"\xc0\x00", b""),
        (
            "another protocol",
            b"\x10\x0d\0\x04HTTP\x04\x02\0\x3c\0\x01x",
            b"",
        ),
        (
            "version 4 with reserved flags",
            b"\x10\x0d\0\x04MQTT\x04\x03\0\x3c\0\x01x",
            b"",
        ),
        (
            "version 7",
            b"\x10\x0d\0\x04MQTT\x07\x02\0\x3c\0\x01x",
            b"\x20",
        ),
        (
            "version 2",
            b"\x10\x0d\0\x04MQTT\x02\x02\0\x3c\0\x01x",
            b"\x20\x02\0\x01",
        ),
        (
            "version 5 with reserved flags",
            b"\x10\x0e\0\x04MQTT\x05\x03\0\x3c\0\0\x01x",
            b"\x20",
        ),
        ("a CONNECT over the limit", &long, b"\x20"),
        ("a mask for lengths", b"\x80\xff\xff\xff\x7f", b""),
    ];
    for (what, bytes, begins) in unsound {
        let mut stream = connect(&address);
        stream.write_all(bytes).unwrap();
        let said = rest(&mut stream);
        assert!(
            said.starts_with(begins) && begins.is_empty() == said.is_empty(),
            "{what}: {said:?}"
        );
    }
    // Nobody else has noticed.
    let say = [
        ("name", "honest"),
        ("topic", "a"),
        ("payload", "b"),
        ("qos", "1"),
    ];
    peer.ask("publish", &say).unwrap();
    let heard = peer
        .ask("heard", &[("name", "honest"), ("count", "1")])
        .unwrap();
    assert_eq!(heard[0]["payload"], "b");
}

#[test]
fn ten_thousand_who_never_finish_their_connect_cost_little_and_are_let_go() {
    const CLIENTS: usize = 10_000;
    let broker = Mosquitto::start();
    let finback = front(&broker, ", mqtt: { connect_timeout: 4s }");
    let address = finback.local("mqtt");
    // What connections cost at all.
    let before = finback.process().rss();
    let halves = [
        &b"\x10"[..],
        b"\x10\x80\x80",
        b"\x10\x20\0\x04MQTT\x05\x02",
        b"GET /mqtt HTTP/1.1\r\nHost: a\r\n",
        b"",
    ];
    let streams: Vec<TcpStream> = (0..CLIENTS)
        .map(|n| {
            let mut stream = connect(&address);
            stream.write_all(halves[n % halves.len()]).unwrap();
            stream
        })
        .collect();
    let grown = finback.process().rss().saturating_sub(before);
    assert!(grown < 10_000 * 6, "{grown} KiB");
    // Others are served meanwhile.
    let began = Instant::now();
    let mut honest = connect(&address);
    honest.write_all(CONNECT_5).unwrap();
    let mut connack = [0; 4];
    honest.read_exact(&mut connack).unwrap();
    assert_eq!(connack[0], 0x20);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    for mut stream in streams {
        assert_eq!(rest(&mut stream), b"");
    }
    eventually("their connections to be gone", PATIENCE, || {
        let (_, metrics) = finback.admin("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("finback_connections "));
        match line {
            Some("finback_connections 1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_flood_of_connects_is_refused_and_sessions_go_on() {
    let broker = Mosquitto::start();
    let finback = front(&broker, ", mqtt: { connect_rate: 50 }");
    let address = finback.local("mqtt");
    let peer = Peer::mqtt();
    let url = format!("mqtt://{address}");
    let fields = [("name", "honest"), ("url", &*url), ("id", "honest")];
    peer.ask("connect", &fields).unwrap();
    peer.ask(
        "subscribe",
        &[("name", "honest"), ("filters", "a"), ("qos", "1")],
    )
    .unwrap();
    let began = Instant::now();
    let (mut accepted, mut refused) = (0_u32, 0_u32);
    while began.elapsed() < Duration::from_secs(3) {
        let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(&address)).collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(CONNECT_5).unwrap();
            let mut connack = [0; 4];
            stream.read_exact(&mut connack).unwrap();
            match connack[3] {
                0 => accepted += 1,
                0x9f => refused += 1,
                other => panic!("{n}: {other:#x}"),
            }
        }
        let say = [
            ("name", "honest"),
            ("topic", "a"),
            ("payload", "b"),
            ("qos", "1"),
        ];
        peer.ask("publish", &say).unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    assert!(refused > 0);
    assert!(
        f64::from(accepted) <= 50.0 * (seconds + 1.0) + 1.0,
        "{accepted} in {seconds}"
    );
    let (_, metrics) = finback.admin("/metrics");
    let line = format!(
        r#"finback_mqtt_connacks_total{{listener="mqtt",reason="connection rate exceeded"}} {refused}"#
    );
    assert!(metrics.contains(&line), "{line}\n{metrics}");
}

/// One that publishes at quality of service 2 and comes back as often as it must, as a device
/// would: with the same identifiers until each message is complete.
struct Device {
    address: String,
    stream: Option<TcpStream>,
    reconnects: u32,
}

impl Device {
    fn stream(&mut self) -> &mut TcpStream {
        while self.stream.is_none() {
            let mut stream = connect(&self.address);
            let _ = stream.write_all(b"\x10\x0f\0\x04MQTT\x04\0\0\x3c\0\x03dev");
            let mut connack = [0; 4];
            match stream.read_exact(&mut connack) {
                Ok(()) if connack[3] == 0 => self.stream = Some(stream),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
            self.reconnects += 1;
        }
        self.stream.as_mut().unwrap()
    }

    /// Says something and waits for the answer of this first byte; false if the connection was
    /// lost.
    fn ask(&mut self, bytes: &[u8], expected: u8) -> bool {
        let stream = self.stream();
        let mut answer = [0; 4];
        let asked = stream
            .write_all(bytes)
            .and_then(|()| stream.read_exact(&mut answer));
        if asked.is_err() {
            self.stream = None;
            return false;
        }
        assert_eq!(answer[0], expected, "{answer:?}");
        true
    }

    fn publish(&mut self, id: u8, payload: &str) {
        let body = [&b"\0\x01q\0"[..], &[id], payload.as_bytes()].concat();
        let mut first = 0x34;
        while !self.ask(&packet(first, &body), 0x50) {
            first |= 8;
        }
        while !self.ask(&[0x62, 2, 0, id], 0x70) {}
    }
}

#[test]
fn a_broker_killed_amid_messages_loses_and_repeats_nothing() {
    // It keeps its state, and is asked to at every change.
    let mut broker = Mosquitto::start_with(
        "allow_anonymous true\npersistence true\nautosave_on_changes true\nautosave_interval 1",
    );
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let mut device = Device {
        address: address.clone(),
        stream: None,
        reconnects: 0,
    };
    // The subscriber's session is at the broker too.
    let peer = Peer::mqtt();
    let url = format!("mqtt://{address}");
    let fields = [
        ("name", "sub"),
        ("url", &*url),
        ("id", "sub"),
        ("clean", "false"),
    ];
    peer.ask("connect", &fields).unwrap();
    peer.ask(
        "subscribe",
        &[("name", "sub"), ("filters", "q"), ("qos", "2")],
    )
    .unwrap();
    peer.ask("end", &[("name", "sub")]).unwrap();
    for n in 0..60_u8 {
        if n % 20 == 10 {
            // Amid a message: it was received and is not released yet.
            let id = n + 1;
            let body = [&b"\0\x01q\0"[..], &[id], n.to_string().as_bytes()].concat();
            assert!(device.ask(&packet(0x34, &body), 0x50));
            broker.process().signal("TERM");
            let _ = broker.process().wait_for_end(PATIENCE);
            broker.restart();
            while !device.ask(&[0x62, 2, 0, id], 0x70) {}
            continue;
        }
        device.publish(n + 1, &n.to_string());
    }
    assert!(device.reconnects >= 4, "{}", device.reconnects);
    peer.ask("connect", &fields).unwrap();
    let heard = peer
        .ask("heard", &[("name", "sub"), ("count", "60")])
        .unwrap();
    let mut heard: Vec<Value> = heard
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["payload"].clone())
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    peer.ask(
        "publish",
        &[
            ("name", "sub"),
            ("topic", "q"),
            ("payload", "last"),
            ("qos", "2"),
        ],
    )
    .unwrap();
    while heard.last() != Some(&json!("last")) {
        let more = peer
            .ask("heard", &[("name", "sub"), ("count", "1")])
            .unwrap();
        heard.extend(
            more.as_array()
                .unwrap()
                .iter()
                .map(|m| m["payload"].clone()),
        );
    }
    heard.pop();
    heard.sort_by_key(|payload| payload.as_str().unwrap().parse::<u32>().unwrap());
    let expected: Vec<Value> = (0..60).map(|n| json!(n.to_string())).collect();
    assert_eq!(heard, expected);
}

#[test]
fn a_slow_subscriber_holds_its_publisher_back_and_memory_stays_flat() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let mut slow = connect(&address);
    slow.write_all(CONNECT_5).unwrap();
    slow.write_all(&packet(0x82, b"\0\x01\0\0\x05large\0"))
        .unwrap();
    let mut answers = [0; 64];
    assert!(slow.read(&mut answers).unwrap() > 0);
    std::thread::sleep(Duration::from_millis(200));
    let before = finback.process().rss();
    let mut fast = connect(&address);
    fast.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01f")
        .unwrap();
    fast.read_exact(&mut [0; 4]).unwrap();
    let message = packet(0x30, &[&b"\0\x05large"[..], &vec![b'z'; 500_000]].concat());
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for _ in 0..100 {
            fast.write_all(&message).unwrap();
        }
        sizes.push(finback.process().rss().saturating_sub(before));
    }
    // Two hundred megabytes went through or wait at the broker. What the
    // allocator keeps comes in pieces of two megabytes, when it likes.
    assert!(sizes.iter().all(|size| *size < 16 * 1024), "{sizes:?} KiB");
}

#[test]
fn bad_policies_are_refused_with_their_place() {
    let folder = temporary_folder();
    for (policy, why) in [
        (
            "{ acl: [ { allow: sing, topics: [ a ] } ] }",
            "`sing` is not an action",
        ),
        (
            "{ acl: [ { allow: all, deny: all, topics: [ a ] } ] }",
            "exactly one of `allow` and `deny`",
        ),
        (
            "{ acl: [ { allow: all, topics: [ \"a/#/b\" ] } ] }",
            "is not a topic filter",
        ),
        (
            "{ acl: [ { allow: all, topics: [ \"{password}\" ] } ] }",
            "is not a session name",
        ),
        (
            "{ mountpoint: \"a/+/\" }",
            "cannot begin the names of topics",
        ),
        ("{ duplicates: maybe }", "write broker, take-over or refuse"),
        ("{ password_file: word }", "needs a `username`"),
        ("{ unknown: 1 }", "unknown"),
    ] {
        let text = format!(
            "listeners: [ {{ address: \"127.0.0.1:0\", protocol: mqtt, routes: m }} ]\nroutes:\n  m:\n    - to: {{ cluster: b }}\n      \
             mqtt: {policy}\nclusters: {{ b: {{ endpoints: [ \"127.0.0.1:1\" ] }} }}\n"
        );
        let file = folder.join("finback.yaml");
        std::fs::write(&file, text).unwrap();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_finback"))
            .args(["check", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success() && said.contains(why),
            "{policy}: {said}"
        );
        assert!(said.contains("finback.yaml:5:"), "{said}");
    }
}
