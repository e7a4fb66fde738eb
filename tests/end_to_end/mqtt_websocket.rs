//! MQTT over WebSocket, byte by byte: how it opens, and how it ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::mqtt::{connect, packet, text};

const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that closes is let go in less.
const SOON: Duration = Duration::from_millis(1500);

fn front(broker: &Mosquitto, listener: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt{listener} }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"#,
        broker.address()
    ))
}

/// Asks for a WebSocket; the status.
fn ask(address: &str, lines: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (stream, status)
}

fn open(address: &str) -> TcpStream {
    let (stream, status) = ask(address, "Sec-WebSocket-Protocol: mqtt\r\n");
    assert_eq!(status, "101");
    stream
}

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => bytes.push(0x80 | short),
        (_, Ok(middle)) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    bytes.extend(
        payload
            .iter()
            .zip([1, 2, 3, 4].iter().cycle())
            .map(|(a, b)| a ^ b),
    );
    bytes
}

/// Frames until the connection ends, and how long that took.
fn rest(stream: &mut TcpStream) -> (Vec<(u8, Vec<u8>)>, Duration) {
    let began = Instant::now();
    let mut frames = Vec::new();
    loop {
        let mut head = [0; 2];
        if stream.read_exact(&mut head).is_err() {
            return (frames, began.elapsed());
        }
        assert!(head[1] < 126, "{head:?}");
        let mut payload = vec![0; head[1].into()];
        stream.read_exact(&mut payload).unwrap();
        frames.push((head[0], payload));
    }
}

fn session(address: &str) -> TcpStream {
    session_of(address, "web")
}

/// The same of another client: one takes its own session over.
fn session_of(address: &str, client: &str) -> TcpStream {
    let mut stream = open(address);
    stream
        .write_all(&frame(0x82, &connect(5, client, None)))
        .unwrap();
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut connack = vec![0; head[1].into()];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!((head[0], connack[0], connack[3]), (0x82, 0x20, 0));
    stream
}

#[test]
fn a_close_is_answered_and_ends_connection_and_session_at_once() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let close = frame(0x88, &[0x03, 0xe8]);
    let goodbye = frame(0x82, b"\xe0\0");
    for last in [close.clone(), [goodbye, close.clone()].concat()] {
        let mut stream = session(&address);
        stream.write_all(&last).unwrap();
        // The server closes first (RFC 6455, section 7.1.1).
        let (frames, took) = rest(&mut stream);
        assert_eq!(frames, [(0x88, vec![0x03, 0xe8])]);
        assert!(took < SOON, "{took:?}");
        eventually("its session to be over", SOON, || {
            match finback.metric("finback_cluster_in_flight", "brokers") {
                0 => Ok(()),
                left => Err(left.to_string()),
            }
        });
    }
    // No data may follow a Close: CONNACK comes too late for one who closes at once.
    let mut stream = open(&address);
    let both = [frame(0x82, &connect(5, "web", None)), close].concat();
    stream.write_all(&both).unwrap();
    let (frames, _) = rest(&mut stream);
    assert_eq!(frames.last().unwrap().0, 0x88, "{frames:?}");
    assert_eq!(frames.iter().filter(|own| own.0 == 0x88).count(), 1);
}

#[test]
fn what_may_not_be_sent_is_closed_with_its_code() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let too_long = packet(
        0x30,
        &[&text("t")[..], &[0], &vec![b'x'; 1_100_000]].concat(),
    );
    let cases: [(&str, Vec<u8>, u16); 6] = [
        ("text", frame(0x81, b"hello"), 1003),
        ("no mask", vec![0x82, 1, 0], 1002),
        ("nothing to continue", frame(0x80, b"x"), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("no packet", frame(0x82, b"\x30\0"), 1002),
        ("a packet over the limit", frame(0x82, &too_long), 1009),
    ];
    for (what, bytes, code) in cases {
        for mut stream in [session(&address), open(&address)] {
            let _ = stream.write_all(&bytes);
            let (frames, took) = rest(&mut stream);
            let (first, last) = frames.last().unwrap_or_else(|| panic!("{what}"));
            assert_eq!(*first, 0x88, "{what}: {frames:?}");
            let said = u16::from_be_bytes([last[0], last[1]]);
            // What is no CONNECT is no protocol of ours.
            assert!(
                said == code || code == 1009 && said == 1002,
                "{what}: {said}"
            );
            assert!(took < PATIENCE / 2, "{what}: {took:?}");
        }
    }
}

#[test]
fn subprotocols_may_stand_in_several_lines_and_origins_in_a_list() {
    let broker = Mosquitto::start();
    let origins = ", mqtt: { origins: [ \"https://app.acme.test\" ] }";
    let finback = front(&broker, origins);
    let address = finback.local("mqtt");
    let two = "Sec-WebSocket-Protocol: foo\r\nSec-WebSocket-Protocol: mqtt\r\n";
    for (origin, status) in [
        ("", "101"),
        ("Origin: https://app.acme.test\r\n", "101"),
        ("Origin: https://evil.test\r\n", "403"),
        ("Origin: null\r\n", "403"),
    ] {
        assert_eq!(
            ask(&address, &format!("{two}{origin}")).1,
            status,
            "{origin}"
        );
    }
    let bad = r#"
listeners:
  - { name: m, address: "127.0.0.1:0", protocol: mqtt, routes: m, mqtt: { origins: [ "app.acme.test" ] } }
routes: { m: [ { to: { cluster: b } } ] }
clusters: { b: { endpoints: [ "127.0.0.1:1" ] } }
"#;
    let (good, said) = Finback::check(bad);
    assert!(!good && said.contains("is not an origin"), "{said}");
}

#[test]
fn pings_are_answered_in_order_and_a_flood_of_them_keeps_nobody_waiting() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let address = finback.local("mqtt");
    let mut flood = session(&address);
    let mut reader = flood.try_clone().unwrap();
    let pings = frame(0x89, b"are you there").repeat(1000);
    let heard = std::thread::spawn(move || {
        let (mut answers, mut answer) = (0, [0; 15]);
        while reader.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"\x8a\x0dare you there");
            answers += 1;
        }
        answers
    });
    // It goes on until the other one is served: somebody who waited for its end would wait for ever.
    let is_served = Arc::new(AtomicBool::new(false));
    let served = is_served.clone();
    let flooding = std::thread::spawn(move || {
        while !served.load(Ordering::Relaxed) && flood.write_all(&pings).is_ok() {}
        flood
    });
    let began = Instant::now();
    drop(session_of(&address, "other"));
    let took = began.elapsed();
    // The flood was answered all the while, and its sender not thrown out.
    std::thread::sleep(Duration::from_millis(100));
    is_served.store(true, Ordering::Relaxed);
    let flood = flooding.join().unwrap();
    flood.shutdown(Shutdown::Both).unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let answers = heard.join().unwrap();
    assert!(answers >= 1000, "{answers}");
}
