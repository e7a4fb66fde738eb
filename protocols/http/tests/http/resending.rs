//! What runs again, and what does not: requests that were refused, and connections that broke.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use finback_core::mesh::RoutingSpec;
use finback_http::{Config, Http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn mess(spec: RoutingSpec, workers: usize) -> Mess {
    let http = Http::new(Config::default(), Vec::new());
    serve(spec, workers, Arc::new(http))
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn what_an_endpoint_refuses_goes_on_to_a_fresh_connection_whatever_the_method() {
    for (request, body) in [(GET, ""), (POST, "hello")] {
        for goes_away in [false, true] {
            let server = Server::bind().await;
            let mess = mess(routing(&[server.address], policy("2"), 2), 1);
            let mut client = Peer::connect(mess.address).await;
            client.say(request).await;
            let mut first = Http2::accept(&server).await;
            let (stream, heard) = first.request().await;
            assert_eq!(heard, body.as_bytes());
            if goes_away {
                first.go_away().await;
            } else {
                first.refuse(stream).await;
            }
            let mut second = Http2::accept(&server).await;
            let (_, heard) = second.request().await;
            assert_eq!(heard, body.as_bytes(), "all of it once more");
            second.write(OK).await;
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        }
    }
}

#[tokio::test]
async fn endpoints_that_refuse_again_and_again_cost_no_attempts() {
    for (request, body) in [(GET, ""), (POST, "hello")] {
        let server = Server::bind().await;
        let mess = mess(routing(&[server.address], policy("2"), 2), 1);
        let mut client = Peer::connect(mess.address).await;
        client.say(request).await;
        for round in 0..6 {
            let mut refusing = Http2::accept(&server).await;
            let (stream, heard) = refusing.request().await;
            assert_eq!(heard, body.as_bytes());
            if round % 2 == 0 {
                refusing.go_away().await;
            } else {
                refusing.refuse(stream).await;
                refusing.go_away().await;
            }
        }
        let mut taking = Http2::accept(&server).await;
        assert_eq!(taking.request().await.1, body.as_bytes());
        taking.write(OK).await;
        let heard = client.hear("\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    }
}

#[tokio::test]
async fn endpoints_that_refuse_everything_are_not_asked_for_ever() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("2"), 2), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    for _ in 0..10 {
        let mut refusing = Http2::accept(&server).await;
        refusing.request().await;
        refusing.go_away().await;
    }
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
    assert!(server.stays_alone(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn a_request_that_waits_for_a_stream_goes_on_where_there_is_one() {
    let server = Server::bind().await;
    let mut narrow = policy("2");
    narrow.connections = 1;
    let mess = mess(routing(&[server.address], narrow, 1), 1);
    let mut first = Peer::connect(mess.address).await;
    first.say(GET).await;
    let mut leaving = Http2::accept(&server).await;
    // SETTINGS with one stream at a time.
    leaving
        .write(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01")
        .await;
    assert_eq!(leaving.request().await.0, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut waiting = Peer::connect(mess.address).await;
    waiting.say(GET).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // It still answers what it has begun.
    leaving
        .write(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0")
        .await;
    let mut next = Http2::accept(&server).await;
    next.request().await;
    next.write(OK).await;
    assert!(waiting.hear("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    leaving.write(OK).await;
    assert!(first.hear("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_retry_that_fails_is_not_retried_unless_the_route_says_so() {
    for version in ["1.1", "2"] {
        let server = Server::bind().await;
        let mess = mess(routing(&[server.address], policy(version), 5), 1);
        let mut client = Peer::connect(mess.address).await;
        client.say(GET).await;
        for _ in 0..2 {
            if version == "2" {
                Http2::accept(&server).await.request().await;
            } else {
                server.accept().await.hear("\r\n\r\n").await;
            }
        }
        let heard = client.hear("\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
        assert!(server.stays_alone(Duration::from_millis(200)).await);
    }
}

#[tokio::test]
async fn a_response_that_makes_no_sense_is_not_asked_for_again() {
    for nonsense in [
        "HTTP/1.1 two hundred\r\n\r\n",
        "\u{1}\u{2}\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
    ] {
        let server = Server::bind().await;
        let mess = mess(routing(&[server.address], policy("1.1"), 3), 1);
        let mut client = Peer::connect(mess.address).await;
        client.say(GET).await;
        let mut only = server.accept().await;
        only.hear("\r\n\r\n").await;
        only.say(nonsense).await;
        drop(only);
        let heard = client.hear("\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 502"), "{nonsense:?}: {heard}");
        assert!(server.stays_alone(Duration::from_millis(200)).await);
    }
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("2"), 3), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut only = Http2::accept(&server).await;
    only.request().await;
    // A response without a status.
    only.write(b"\0\0\x05\x01\x05\0\0\0\x01\0\x01a\x01b").await;
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 502"), "{heard}");
    assert!(server.stays_alone(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn a_body_that_is_not_all_there_goes_on_where_it_was_refused() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("2"), 3), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(&POST[..POST.len() - 2]).await;
    for _ in 0..2 {
        let mut refusing = Http2::accept(&server).await;
        let stream = refusing.head().await;
        while refusing.frame().await.expect("its data").0 != 0 {}
        refusing.refuse(stream).await;
    }
    let mut taking = Http2::accept(&server).await;
    client.say("lo").await;
    assert_eq!(taking.request().await.1, b"hello");
    taking.write(OK).await;
    assert!(client.hear("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_kept_does_not_go_on() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("2"), 3), 1);
    let mut client = Peer::connect(mess.address).await;
    let length = 60_000;
    client
        .say(&format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            2 * length
        ))
        .await;
    client.say(&"x".repeat(length)).await;
    let mut refusing = Http2::accept(&server).await;
    // A window of the connection's for the rest.
    refusing.write(b"\0\0\x04\x08\0\0\0\0\0\0\x01\0\0").await;
    let stream = refusing.head().await;
    let mut window = b"\0\0\x04\x08\0".to_vec();
    window.extend(stream.to_be_bytes());
    window.extend([0, 1, 0, 0]);
    refusing.write(&window).await;
    client.say(&"x".repeat(length - 1)).await;
    let mut heard = 0;
    while heard < 2 * length - 1 {
        let (kind, _, _, payload) = refusing.frame().await.unwrap();
        heard += if kind == 0 { payload.len() } else { 0 };
    }
    refusing.refuse(stream).await;
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
    assert!(server.stays_alone(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn one_attempt_is_one_delivery() {
    let server = Server::bind().await;
    let mess2 = mess(routing(&[server.address], policy("2"), 1), 1);
    let mut client = Peer::connect(mess2.address).await;
    client.say(GET).await;
    let mut only = Http2::accept(&server).await;
    let (stream, _) = only.request().await;
    only.refuse(stream).await;
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
    assert!(server.stays_alone(Duration::from_millis(200)).await);

    let server = Server::bind().await;
    let mess1 = mess(routing(&[server.address], policy("1.1"), 1), 1);
    let mut client = Peer::connect(mess1.address).await;
    broken(&server, &mut client, GET).await;
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
    assert!(server.stays_alone(Duration::from_millis(200)).await);
}

/// Has a request sent on a connection that was used before, and breaks before any answer.
async fn broken(server: &Server, client: &mut Peer, request: &str) {
    client.say(GET).await;
    let mut used = server.accept().await;
    used.hear("\r\n\r\n").await;
    used.say(&response("well")).await;
    client.hear("well").await;
    client.say(request).await;
    used.hear(&request[request.len() - 4..]).await;
}

#[tokio::test]
async fn a_used_connection_that_breaks_costs_a_safe_request_nothing() {
    for (request, goes_on) in [(GET, true), (POST, false)] {
        let server = Server::bind().await;
        let mess = mess(routing(&[server.address], policy("1.1"), 2), 1);
        let mut client = Peer::connect(mess.address).await;
        broken(&server, &mut client, request).await;
        if goes_on {
            let mut fresh = server.accept().await;
            fresh.hear("\r\n\r\n").await;
            fresh.say(&response("again")).await;
            client.hear("again").await;
        } else {
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 50"), "{heard}");
            assert!(server.stays_alone(Duration::from_millis(200)).await);
        }
    }
}

#[tokio::test]
async fn pings_that_are_answered_keep_a_slow_endpoint_and_silence_ends_a_dead_one() {
    let server = Server::bind().await;
    let mut beats = policy("2");
    beats.heartbeat_interval = Duration::from_millis(60);
    beats.heartbeat_misses = 3;
    let mess = mess(routing(&[server.address], beats, 1), 1);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut slow = Http2::accept(&server).await;
    let (stream, _) = slow.request().await;
    assert_eq!(stream, 1);
    for _ in 0..8 {
        let (kind, flags, _, payload) = slow.frame().await.expect("a PING");
        if kind == 6 && flags == 0 {
            slow.write(&[b"\0\0\x08\x06\x01\0\0\0\0", &payload[..]].concat())
                .await;
        }
    }
    slow.write(OK).await;
    assert!(client.hear("\r\n\r\n").await.starts_with("HTTP/1.1 200"));

    client.say(GET).await;
    slow.request().await;
    let mut pings = 0;
    while let Some((kind, flags, ..)) = slow.frame().await {
        pings += u32::from(kind == 6 && flags == 0);
    }
    assert!(pings >= 2, "{pings}");
    assert!(client.hear("\r\n\r\n").await.starts_with("HTTP/1.1 50"));
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    for version in ["1.1", "2"] {
        let (one, other) = (Server::bind().await, Server::bind().await);
        let mut spec = routing(&[one.address, other.address], policy(version), 2);
        spec.limits.upstream_connections = 1;
        let mess = mess(spec, 1);
        let mut client = Peer::connect(mess.address).await;
        client.say(GET).await;
        let (mut kept, then) = tokio::select! {
            peer = one.accept() => (peer, &other),
            peer = other.accept() => (peer, &one),
        };
        answer(version, &mut kept).await;
        assert!(client.hear("\r\n\r\n").await.starts_with("HTTP/1.1 2"));
        client.say(GET).await;
        let mut next = then.accept().await;
        answer(version, &mut next).await;
        assert!(client.hear("\r\n\r\n").await.starts_with("HTTP/1.1 2"));
        assert!(kept.ends(PATIENCE).await);
    }
}

async fn answer(version: &str, peer: &mut Peer) {
    if version == "1.1" {
        peer.hear("\r\n\r\n").await;
        peer.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        return;
    }
    let mut begin = [0; 24];
    peer.0.read_exact(&mut begin).await.unwrap();
    peer.0.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut bytes = [0; 4096];
    // Its settings, and then its request.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(peer.0.read(&mut bytes).await.unwrap() > 0);
    peer.0.write_all(OK).await.unwrap();
}
