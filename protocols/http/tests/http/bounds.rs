//! The limits hold for connections and tunnels of HTTP, also when they change.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::frames::*;
use crate::support::*;
use finback_core::mesh::RoutingSpec;
use finback_http::{Config, Http};
use tokio::io::AsyncWriteExt;

fn mess(spec: RoutingSpec, workers: usize) -> Mess {
    let http = Http::new(Config::default(), Vec::new());
    serve(spec, workers, Arc::new(http))
}

/// As much is said as is taken within this.
const SAYING: Duration = Duration::from_millis(500);
const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
const UPGRADE: &str =
    "GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

async fn tunnel(mess: &Mess, server: &Server) -> (Peer, Peer) {
    let mut client = Peer::connect(mess.address).await;
    client.say(UPGRADE).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(SWITCHED).await;
    client.hear("\r\n\r\n").await;
    client.say("up").await;
    upstream.hear("up").await;
    upstream.say("down").await;
    client.hear("down").await;
    (client, upstream)
}

#[tokio::test]
async fn idle_clients_and_tunnels_end_also_when_the_limit_is_lowered_meanwhile() {
    let server = Server::bind().await;
    let spec = routing(&[server.address], policy("1.1"), 2);
    let mess = mess(spec.clone(), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&response("well")).await;
    client.hear("well").await;
    let mut silent = Peer::connect(mess.address).await;
    let mut http2 = Peer::connect(mess.address).await;
    http2.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    http2.say("\0\0\0\x04\0\0\0\0\0").await;
    // The tunnel's endpoint takes a fresh connection, or the used one.
    let mut talking = Peer::connect(mess.address).await;
    talking.say(UPGRADE).await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(SWITCHED).await;
    talking.hear("\r\n\r\n").await;
    let (mut quiet, mut quiet_upstream) = tunnel(&mess, &server).await;

    let mut lower = spec;
    lower.limits.idle = Duration::from_millis(400);
    mess.mesh.apply(lower);
    for _ in 0..12 {
        upstream.say("still").await;
        talking.hear("still").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (who, peer) in [
        ("client", &mut client),
        ("silent", &mut silent),
        ("tunnel", &mut quiet),
        ("tunnel's endpoint", &mut quiet_upstream),
    ] {
        assert!(peer.ends(Duration::from_millis(10)).await, "{who}");
    }
    talking.say("and here").await;
    upstream.hear("and here").await;
    assert!(talking.ends(Duration::from_secs(2)).await);
    // It is told to go, and given some time to.
    let goaway = "\x08\x07\0";
    http2.hear(goaway).await;
}

#[tokio::test]
async fn requests_wait_for_one_of_so_many_connections() {
    for most in [Some(2), None] {
        let server = Server::bind().await;
        let mut policy = policy("1.1");
        policy.exclusive_connections = most;
        let mess = mess(routing(&[server.address], policy, 1), 1);
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = Peer::connect(mess.address).await;
            client.say(GET).await;
            clients.push(client);
        }
        let made = most.unwrap_or(6);
        let mut upstream = Vec::new();
        for _ in 0..made {
            upstream.push(server.accept().await);
        }
        assert!(server.stays_alone(Duration::from_millis(200)).await);
        // One closes its connection after each response: another takes its place.
        for round in 0..6 / made {
            for (place, own) in upstream.iter_mut().enumerate() {
                own.hear("\r\n\r\n").await;
                let closes = most.is_some() && place == 1;
                let head = match closes {
                    true => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n",
                    false => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
                };
                own.say(&format!("{head}well")).await;
                if closes && round < 2 {
                    *own = server.accept().await;
                }
            }
        }
        for client in &mut clients {
            assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
        }
    }
}

#[tokio::test]
async fn tunnels_of_a_listener_that_goes_make_way_when_they_are_quiet_or_time_is_over() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 2), 1);
    let (mut quiet, mut quiet_upstream) = tunnel(&mess, &server).await;
    let (mut talking, mut upstream) = tunnel(&mess, &server).await;
    let begin = tokio::time::Instant::now();
    mess.workers.unlisten(mess.listener);
    // `drain_grace` is 300 ms, `drain` 2 s.
    let mut grace = None;
    loop {
        let _ = upstream.0.write_all(b"still").await;
        let heard = talking.hear("still").await;
        if heard.is_empty() {
            break;
        }
        if grace.is_none() && quiet.ends(Duration::from_millis(1)).await {
            grace = Some(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begin.elapsed() < Duration::from_secs(4), "it goes on");
    }
    let ended = begin.elapsed();
    let grace = grace.expect("the quiet one ends first");
    assert!(grace > Duration::from_millis(250) && grace < Duration::from_millis(1500));
    assert!(ended > Duration::from_millis(1900), "{ended:?}");
    assert!(quiet_upstream.ends(PATIENCE).await);
}

#[tokio::test]
async fn whoever_waits_when_draining_ends_is_told_so_in_both_versions() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 1), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    let get = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "x"),
    ];
    let mut http2 = http2(&mess, &headers(END, 1, &get)).await;
    let mut other = server.accept().await;
    other.hear("\r\n\r\n").await;
    let ((), heard, (kind, ..)) = tokio::join!(
        mess.workers.drain(),
        client.hear("was not finished\n"),
        next(&mut http2, 1)
    );
    assert!(heard.starts_with("HTTP/1.1 503 "), "{heard}");
    assert!(heard.contains("connection: close"), "{heard}");
    assert_eq!(kind, 1, "HEADERS");
    assert!(client.ends(PATIENCE).await && http2.ends(PATIENCE).await);
}

#[tokio::test]
async fn a_client_that_has_gone_gives_its_place_back_also_if_it_had_said_much_more() {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy("1.1"), 1);
    spec.limits.call_timeout = 6 * PATIENCE;
    let mess = mess(spec, 1);
    let held = || mess.mesh.status()[0].in_flight;
    // More requests than are read ahead; and a body that nobody reads.
    let many = GET.repeat(5000);
    let much = format!(
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 40000000\r\n\r\n{}",
        ".".repeat(8 * 1024 * 1024)
    );
    for said in [many, much] {
        let mut client = Peer::connect(mess.address).await;
        let saying = tokio::time::timeout(SAYING, client.0.write_all(said.as_bytes()));
        let _ = saying.await;
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        assert_eq!(held(), 1);
        client.0.set_zero_linger().unwrap();
        drop(client);
        until("its place is given back", || held() == 0).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_and_reads_no_further_holds_nothing() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 1), 1);
    let held = || mess.mesh.stats.upstream_connections.load(Relaxed);
    let mut client = Peer::connect(mess.address).await;
    let much = format!(
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 40000000\r\n\r\n{}",
        ".".repeat(16 * 1024 * 1024)
    );
    let saying = tokio::time::timeout(SAYING, client.0.write_all(much.as_bytes()));
    let _ = saying.await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    assert_eq!(held(), 1);
    upstream.say(&response("enough")).await;
    assert!(client.hear("enough").await.contains("connection: close"));
    until("its connection is closed", || held() == 0).await;
}
