//! A second attempt beside one that takes long, and another one of what came without its length.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::frames::{END, frame, headers, http2, next};
use crate::support::*;
use finback_core::mesh::RoutingSpec;
use finback_core::route::Retry;
use finback_http::{Config, Http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEAD: &str = "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

fn mess(spec: RoutingSpec) -> Mess {
    serve(spec, 1, Arc::new(Http::new(Config::default(), Vec::new())))
}

/// Routing in which a connection that hangs would be waited for in vain.
fn retried(endpoints: &[SocketAddr], version: &str, retry: Retry) -> RoutingSpec {
    let mut policy = policy(version);
    policy.connect_timeout = 2 * PATIENCE;
    let mut spec = routing(endpoints, policy, 2);
    spec.limits.call_timeout = 2 * PATIENCE;
    let route = Arc::get_mut(&mut spec.tables[0].routes[0]).unwrap();
    route.retry = retry;
    spec
}

fn hedged() -> Retry {
    Retry {
        attempts: 2,
        idempotent: true,
        hedging_delay: Some(Duration::from_millis(50)),
        ..Retry::default()
    }
}

/// Which of two servers somebody connects to, and the other one.
async fn asked(servers: &[Server; 2]) -> (Peer, &Server) {
    let [one, other] = servers;
    tokio::select! {
        peer = one.accept() => (peer, other),
        peer = other.accept() => (peer, one),
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_body_is_helped_out_with_all_of_it() {
    for says_settings in [false, true] {
        for comes_late in [false, true] {
            let servers = [Server::bind().await, Server::bind().await];
            let addresses = [servers[0].address, servers[1].address];
            let mess = mess(retried(&addresses, "2", hedged()));
            let mut client = Peer::connect(mess.address).await;
            client.say(HEAD).await;
            client.say("5\r\nhello\r\n").await;
            if !comes_late {
                client.say("0\r\n\r\n").await;
            }
            let (mut hung, other) = asked(&servers).await;
            if says_settings {
                let mut hello = [0; 24];
                hung.0.read_exact(&mut hello).await.unwrap();
                // SETTINGS_INITIAL_WINDOW_SIZE of nothing.
                let nothing = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
                hung.0.write_all(&nothing).await.unwrap();
            }
            if comes_late {
                assert!(other.stays_alone(Duration::from_millis(200)).await);
                client.say("0\r\n\r\n").await;
            }
            let mut second = Http2::accept(other).await;
            assert_eq!(second.request().await.1, b"hello");
            second.write(OK).await;
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        }
    }
}

#[tokio::test]
async fn of_two_attempts_one_passes_interim_responses_on_and_the_other_is_closed() {
    let hint = |name: &str| format!("HTTP/1.1 103 Early Hints\r\nlink: <{name}>\r\n\r\n");
    // Whether the first attempt says something before there is another, and whether it is the one that answers.
    for (speaks_first, wins) in [(true, false), (true, true), (false, false)] {
        let servers = [Server::bind().await, Server::bind().await];
        let addresses = [servers[0].address, servers[1].address];
        let mess = mess(retried(&addresses, "1.1", hedged()));
        let mut client = Peer::connect(mess.address).await;
        client.say("GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let (mut first, other) = asked(&servers).await;
        first.hear("\r\n\r\n").await;
        if speaks_first {
            first.say(&hint("first")).await;
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.contains("<first>"), "{heard}");
        }
        let mut second = other.accept().await;
        second.hear("\r\n\r\n").await;
        second.say(&hint("second")).await;
        if !speaks_first {
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.contains("<second>"), "{heard}");
            first.say(&hint("first")).await;
        }
        let (mut winner, mut loser) = if wins {
            (first, second)
        } else {
            (second, first)
        };
        // It may go on saying something.
        if wins == speaks_first {
            winner.say(&hint("more")).await;
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.contains("<more>"), "{heard}");
        }
        winner.say(&response("well")).await;
        let heard = client.hear("well").await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        assert!(loser.ends(PATIENCE).await);
    }
}

#[tokio::test]
async fn a_stream_of_the_attempt_that_lost_is_reset() {
    let servers = [Server::bind().await, Server::bind().await];
    let addresses = [servers[0].address, servers[1].address];
    let mess = mess(retried(&addresses, "2", hedged()));
    let mut client = Peer::connect(mess.address).await;
    client.say("GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let [one, other] = &servers;
    let (mut first, other) = tokio::select! {
        first = Http2::accept(one) => (first, other),
        first = Http2::accept(other) => (first, one),
    };
    let hung = first.head().await;
    let mut second = Http2::accept(other).await;
    second.head().await;
    second.write(OK).await;
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    // RST_STREAM with CANCEL; its connection stays for others.
    loop {
        let (kind, _, stream, payload) = first.frame().await.unwrap();
        if kind == 3 {
            assert_eq!((stream, payload), (hung, vec![0, 0, 0, 8]));
            break;
        }
    }
}

/// A client whose request has a body of a length that it does not tell.
enum Teller {
    Http1(Peer),
    Http2(Peer),
}

impl Teller {
    /// Begins to say it.
    async fn begin(mess: &Mess, is_http2: bool) -> Self {
        if !is_http2 {
            let mut peer = Peer::connect(mess.address).await;
            peer.say(HEAD).await;
            peer.say("5\r\nhello\r\n").await;
            return Self::Http1(peer);
        }
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", "/a"),
        ];
        let begun = [headers(0, 1, &fields), frame(0, 0, 1, b"hello")].concat();
        Self::Http2(http2(mess, &begun).await)
    }

    /// Says that it was all.
    async fn end(&mut self) {
        match self {
            Self::Http1(peer) => peer.say("0\r\n\r\n").await,
            Self::Http2(peer) => peer.0.write_all(&frame(0, END, 1, b"")).await.unwrap(),
        }
    }

    /// Hears that all is well.
    async fn hear(&mut self) {
        match self {
            Self::Http1(peer) => {
                let heard = peer.hear("well").await;
                assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
            }
            Self::Http2(peer) => loop {
                let (kind, _, payload) = next(peer, 1).await;
                assert_ne!(kind, 3, "reset: {payload:?}");
                if kind == 0 {
                    assert_eq!(payload, b"well");
                    return;
                }
            },
        }
    }
}

#[tokio::test]
async fn a_body_whose_length_shows_on_its_way_is_sent_again() {
    // After a refusal, or where nothing is answered in time.
    for (is_http2, refuses) in [(false, true), (false, false), (true, true), (true, false)] {
        let again = Retry {
            attempts: 2,
            idempotent: true,
            refused: true,
            per_try_timeout: (!refuses).then_some(Duration::from_millis(300)),
            ..Retry::default()
        };
        let servers = [Server::bind().await, Server::bind().await];
        let addresses = [servers[0].address, servers[1].address];
        let mess = mess(retried(&addresses, "1.1", again));
        let mut client = Teller::begin(&mess, is_http2).await;
        let (mut first, other) = asked(&servers).await;
        first.hear("hello\r\n").await;
        client.end().await;
        first.hear("0\r\n\r\n").await;
        if refuses {
            let refusal = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            first.say(refusal).await;
        }
        let mut second = other.accept().await;
        let heard = second.hear("hello").await;
        assert!(heard.contains("content-length: 5\r\n"), "{heard}");
        second.say(&response("well")).await;
        client.hear().await;
    }
}
