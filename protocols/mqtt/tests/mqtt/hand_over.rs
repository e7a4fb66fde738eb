//! A session moves from one worker to another between two packets, and neither its client nor its broker notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use crate::tls;
use finback_core::net::ServerTls;
use finback_core::record::{Observer, Record, Series, SeriesKey};
use finback_core::route::Treatment;
use finback_mqtt::{Action, Config, Duplicates, Mqtt, NameTemplate, Policy, Rule};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// The methods of records, and how each ended.
type Records = Arc<Mutex<Vec<(String, &'static str)>>>;

struct Seen(Records, String);

impl Series for Seen {
    fn record(&self, record: &Record) {
        let mut all = self.0.lock().unwrap();
        all.push((self.1.clone(), record.ending.name()));
    }
}

struct Watcher(Records);

impl Observer for Watcher {
    fn series(&self, _: usize, key: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Seen(self.0.clone(), key.method.to_string()))
    }
}

/// Two workers, and a route with a rule about topics, so that it matters what an alias stands for.
fn mess(broker: &Server, tls: Option<Arc<ServerTls>>) -> (Mess, Records) {
    let mut spec = routing(&[broker.address], policy("1.1"), 2);
    let rule = Rule {
        allow: true,
        action: Action::All,
        topics: vec!["t/#".parse::<NameTemplate>().unwrap()],
    };
    let mut route = (*spec.tables[0].routes[0]).clone();
    route.treatment = Some(Treatment::new(Policy {
        rules: vec![rule],
        duplicates: Duplicates::TakeOver,
        ..Policy::default()
    }));
    spec.tables[0].routes[0] = Arc::new(route);
    let records = Records::default();
    let mqtt = Arc::new(Mqtt::new(Config::default()));
    let seen = Arc::new(Watcher(records.clone()));
    (serve_seen(seen, tls, spec, 2, mqtt), records)
}

/// Waits until something is there.
async fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The worker that has the only connection.
fn home(mess: &Mess) -> Option<usize> {
    let status = mess.workers.status();
    let mut with = (0..status.len()).filter(|worker| status[*worker].connections == 1);
    with.next().filter(|_| with.next().is_none())
}

/// Has the session move; it keeps its place at its broker.
async fn move_on(mess: &Mess) {
    let from = until("a connection", || home(mess)).await;
    // It can once its CONNECT is answered.
    let begin = Instant::now();
    while mess.workers.hand_over(from).await == 0 {
        assert!(begin.elapsed() < PATIENCE, "it cannot move");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("it has moved", || home(mess).filter(|now| *now != from)).await;
    assert_eq!(mess.mesh.status()[0].in_flight, 1);
    let listed = async {
        loop {
            let (survey, _) = mess.workers.survey(9, PATIENCE).await;
            let names: Vec<_> = survey.sessions.iter().map(|own| &*own.name).collect();
            if names == ["test"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let listed = tokio::time::timeout(PATIENCE, listed).await;
    listed.expect("it is listed where it is");
}

/// Reads one short packet.
async fn packet(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let reading = async {
        let mut packet = vec![0; 2];
        io.read_exact(&mut packet).await.unwrap();
        packet.resize(2 + usize::from(packet[1]), 0);
        io.read_exact(&mut packet[2..]).await.unwrap();
        packet
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("a packet in time")
}

/// CONNECT of MQTT 5.
fn connect(keep_alive: u8) -> Vec<u8> {
    [
        &b"\x10\x11\0\x04MQTT\x05\x02\0"[..],
        &[keep_alive],
        b"\0\0\x04test",
    ]
    .concat()
}

/// CONNACK of MQTT 5, of a broker that takes ten aliases.
const CONNACK: &[u8] = b"\x20\x06\0\0\x03\x22\0\x0a";
/// PUBLISH of quality of service 1: number 7, to "t/a", which is alias 3 from then on; and number 8, to that alias.
const FIRST: &[u8] = b"\x32\x0e\0\x03t/a\0\x07\x03\x23\0\x03one";
const SECOND: &[u8] = b"\x32\x0b\0\0\0\x08\x03\x23\0\x03two";

async fn session<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, broker: &Server) -> Peer {
    client.write_all(&connect(60)).await.unwrap();
    let mut upstream = broker.accept().await;
    assert_eq!(packet(&mut upstream.0).await[0], 0x10);
    upstream.0.write_all(CONNACK).await.unwrap();
    assert_eq!(packet(client).await[0], 0x20);
    upstream
}

#[tokio::test]
async fn a_session_goes_on_in_another_worker_with_its_aliases_and_what_is_in_flight() {
    let broker = Server::bind().await;
    let (mess, records) = mess(&broker, None);
    let mut client = Peer::connect(mess.address).await;
    let mut upstream = session(&mut client.0, &broker).await;
    client.0.write_all(FIRST).await.unwrap();
    assert!(packet(&mut upstream.0).await.ends_with(b"one"));

    // Its message is not acknowledged yet, and half of the next packet is read.
    client.0.write_all(&SECOND[..5]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    move_on(&mess).await;
    client.0.write_all(&SECOND[5..]).await.unwrap();
    assert!(packet(&mut upstream.0).await.ends_with(b"two"));
    upstream.0.write_all(b"\x40\x02\0\x07").await.unwrap();
    assert_eq!(packet(&mut client.0).await, b"\x40\x02\0\x07");
    move_on(&mess).await;
    upstream.0.write_all(b"\x40\x02\0\x08").await.unwrap();
    assert_eq!(packet(&mut client.0).await, b"\x40\x02\0\x08");
    let well = |method: &str, ending: &str| {
        let all = records.lock().unwrap();
        let own = all.iter().filter(|own| own.0 == method && own.1 == ending);
        own.count()
    };
    until("both messages are recorded", || {
        (well("publish.qos1", "success") == 2).then_some(())
    })
    .await;
    assert_eq!(well("session", "success"), 0, "it is one session");

    // Another session of its name takes its place, wherever it is.
    let mut other = Peer::connect(mess.address).await;
    let _upstream = session(&mut other.0, &broker).await;
    assert_eq!(packet(&mut client.0).await[..3], [0xe0, 0x02, 0x8e]);
    assert!(upstream.ends(PATIENCE).await);
    until("its place is free", || {
        (mess.mesh.status()[0].in_flight == 1).then_some(())
    })
    .await;
    assert_eq!(well("session", "success"), 1);
}

#[tokio::test]
async fn its_keep_alive_holds_there_too() {
    let broker = Server::bind().await;
    let (mess, _) = mess(&broker, None);
    let mut client = Peer::connect(mess.address).await;
    client.0.write_all(&connect(1)).await.unwrap();
    let mut upstream = broker.accept().await;
    packet(&mut upstream.0).await;
    upstream.0.write_all(CONNACK).await.unwrap();
    packet(&mut client.0).await;
    move_on(&mess).await;
    // One and a half times the interval, and five seconds.
    assert!(!client.ends(Duration::from_secs(5)).await);
    assert!(client.ends(Duration::from_secs(4)).await);
}

#[tokio::test]
async fn a_session_under_tls_moves_with_its_keys() {
    let broker = Server::bind().await;
    let (mess, _) = mess(&broker, Some(tls::server()));
    let mut client = tls::connect(mess.address).await;
    let mut upstream = session(&mut client, &broker).await;
    for _ in 0..4 {
        move_on(&mess).await;
        client.write_all(FIRST).await.unwrap();
        assert!(packet(&mut upstream.0).await.ends_with(b"one"));
        upstream.0.write_all(b"\x40\x02\0\x07").await.unwrap();
        assert_eq!(packet(&mut client).await, b"\x40\x02\0\x07");
    }
}

/// A frame of WebSocket, as a client masks it: with zeros.
fn framed(payload: &[u8]) -> Vec<u8> {
    let head = [0x82, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    [&head[..], payload].concat()
}

#[tokio::test]
async fn a_session_over_websocket_moves_in_the_middle_of_a_frame() {
    let broker = Server::bind().await;
    let (mess, _) = mess(&broker, None);
    let mut client = Peer::connect(mess.address).await;
    client
        .say(
            "GET /mqtt HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
             sec-websocket-protocol: mqtt\r\n\r\n",
        )
        .await;
    client.hear("\r\n\r\n").await;
    client.0.write_all(&framed(&connect(60))).await.unwrap();
    let mut upstream = broker.accept().await;
    packet(&mut upstream.0).await;
    upstream.0.write_all(CONNACK).await.unwrap();
    assert_eq!(packet(&mut client.0).await[0], 0x82);
    for _ in 0..2 {
        let frame = framed(FIRST);
        client.0.write_all(&frame[..11]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        move_on(&mess).await;
        client.0.write_all(&frame[11..]).await.unwrap();
        assert!(packet(&mut upstream.0).await.ends_with(b"one"));
        upstream.0.write_all(b"\x40\x02\0\x07").await.unwrap();
        assert_eq!(packet(&mut client.0).await[2..], *b"\x40\x02\0\x07");
    }
}
