//! A session moves from one worker to another at any moment, with both of its connections, and nobody notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use crate::tls;
use finback_core::filter::Filter;
use finback_core::filter::lane::{self, Contexts, Lanes};
use finback_core::net::ServerTls;
use finback_core::record::{Observer, Record, Series, SeriesKey, TraceId};
use finback_core::rng::Share;
use finback_core::route::Match;
use finback_core::trace::{Field, Read};
use finback_tcp::Tcp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// What each record says: how it ended, its route and lane, whether it has an endpoint, and the bytes up and down.
type Records = Arc<Mutex<Vec<(String, [String; 2], bool, u64, u64)>>>;

/// Nothing is traced.
#[derive(Debug)]
struct Untraced;

impl Contexts for Untraced {
    fn trace(&self, _: &str, _: Read<'_, '_>) -> TraceId {
        TraceId::default()
    }

    fn begin(&self, _: &str, _: TraceId, _: u64) -> Vec<Field> {
        Vec::new()
    }
}

/// A filter that puts all into one lane.
fn lanes() -> Arc<dyn Filter> {
    let policy = lane::Policy {
        rules: vec![lane::Rule {
            lane: "blue".into(),
            when: Match::default(),
            share: Share::ALL,
        }],
        attribute: "lane".into(),
        attributes: Default::default(),
        label: "lane".into(),
        sources: Vec::new(),
        remember: Duration::ZERO,
        strict: false,
    };
    Arc::new(Lanes::new(policy, Arc::new(Untraced)))
}

struct Seen(Records);

impl Series for Seen {
    fn record(&self, record: &Record) {
        let about = record.about;
        self.0.lock().unwrap().push((
            record.ending.name().to_owned(),
            [about.route().to_owned(), about.lane().to_owned()],
            about.endpoint().is_some(),
            record.request_bytes,
            record.response_bytes,
        ));
    }
}

impl Observer for Seen {
    fn series(&self, _: usize, _: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Self(self.0.clone()))
    }
}

fn mess(server: &Server, tls: Option<Arc<ServerTls>>) -> (Mess, Records) {
    let records = Records::default();
    let mut spec = routing(&[server.address], policy("1.1"), 2);
    spec.filters = vec![("lanes".into(), lanes())];
    spec.listener_filters = [("front".into(), Arc::from(["lanes".into()]))].into();
    let seen = Arc::new(Seen(records.clone()));
    (serve_seen(seen, tls, spec, 2, Arc::new(Tcp)), records)
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

/// Has the session move; it holds its place at the endpoint all the time.
async fn move_on(mess: &Mess) {
    let from = until("a connection", || home(mess)).await;
    assert_eq!(mess.workers.hand_over(from).await, 1);
    until("it has moved", || home(mess).filter(|now| *now != from)).await;
    assert_eq!(mess.mesh.status()[0].in_flight, 1);
    let stats = &mess.mesh.stats;
    let open = &stats.upstream_connections;
    assert_eq!(open.load(std::sync::atomic::Ordering::Relaxed), 1);
}

async fn ends_well(mess: &Mess, records: &Records, up: u64, down: u64) {
    let seen = || Some(records.lock().unwrap().clone()).filter(|own| !own.is_empty());
    let seen = until("a record", seen).await;
    let names = ["only".to_owned(), "blue".to_owned()];
    assert_eq!(seen, [("success".to_owned(), names, true, up, down)]);
    until("its place is free", || {
        (mess.mesh.status()[0].in_flight == 0).then_some(())
    })
    .await;
    let left = &mess.mesh.stats.upstream_connections;
    assert_eq!(left.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_session_goes_on_in_another_worker_and_is_one_call() {
    let server = Server::bind().await;
    let (mess, records) = mess(&server, None);
    let mut client = Peer::connect(mess.address).await;
    client.say("up").await;
    let mut upstream = server.accept().await;
    upstream.hear("up").await;
    // Before anything comes back, afterwards, and when one side has ended.
    move_on(&mess).await;
    upstream.say("down").await;
    client.hear("down").await;
    move_on(&mess).await;
    client.say("more").await;
    upstream.hear("more").await;
    client.0.shutdown().await.unwrap();
    assert!(upstream.ends(PATIENCE).await, "it has ended");
    move_on(&mess).await;
    upstream.say("last").await;
    client.hear("last").await;
    move_on(&mess).await;
    upstream.0.shutdown().await.unwrap();
    assert!(client.ends(PATIENCE).await);
    ends_well(&mess, &records, 6, 8).await;
}

#[tokio::test]
async fn what_was_read_and_not_written_yet_moves_with_it() {
    const ALL: usize = 24 * 1024 * 1024;
    let server = Server::bind().await;
    let (mess, records) = mess(&server, None);
    let mut client = Peer::connect(mess.address).await;
    client.say("go").await;
    let mut upstream = server.accept().await;
    upstream.hear("go").await;
    let byte = |at: usize| (at % 251) as u8;
    let talks = tokio::spawn(async move {
        let all: Vec<u8> = (0..ALL).map(byte).collect();
        upstream.0.write_all(&all).await.unwrap();
        upstream
    });
    // It reads nothing, so that bytes wait everywhere; then some, and again.
    let mut heard = Vec::new();
    let mut piece = vec![0; 1024 * 1024];
    while heard.len() < ALL {
        if heard.len() < ALL / 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            move_on(&mess).await;
        }
        for _ in 0..30 {
            let read = tokio::time::timeout(PATIENCE, client.0.read(&mut piece)).await;
            let read = read.expect("more in time").unwrap();
            assert!(read > 0, "it ended after {}", heard.len());
            heard.extend_from_slice(&piece[..read]);
            if heard.len() == ALL {
                break;
            }
        }
    }
    let wrong = heard
        .iter()
        .enumerate()
        .position(|(at, own)| *own != byte(at));
    assert_eq!(wrong, None);
    drop(talks.await.unwrap());
    drop(client);
    ends_well(&mess, &records, 2, ALL as u64).await;
}

#[tokio::test]
async fn a_session_under_tls_moves_with_its_keys() {
    let server = Server::bind().await;
    let (mess, records) = mess(&server, Some(tls::server()));
    let mut client = tls::connect(mess.address).await;
    client.write_all(b"up").await.unwrap();
    let mut upstream = server.accept().await;
    upstream.hear("up").await;
    for _ in 0..4 {
        move_on(&mess).await;
        upstream.say("down").await;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"down");
        client.write_all(b"up").await.unwrap();
        upstream.hear("up").await;
    }
    client.shutdown().await.unwrap();
    assert!(upstream.ends(PATIENCE).await);
    drop(upstream);
    ends_well(&mess, &records, 10, 16).await;
}
