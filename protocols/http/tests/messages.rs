//! A message stays what it is on its way: where it ends, which fields it has, and that nobody's request
//! comes to lie in another one's.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "not every test needs all of it")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use finback_http::{Config, Http};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHORT: Duration = Duration::from_millis(300);
const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";

fn mess(server: &Server, version: &str, config: Config) -> Mess {
    let http = Http::new(config, Vec::new());
    serve(
        routing(&[server.address], policy(version), 1),
        1,
        Arc::new(http),
    )
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// HEADERS, each field a literal that enters no table.
fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "{text}");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    frame(1, flags | 4, stream, &block)
}

const END: u8 = 1;

/// A client of HTTP/2 that says these frames.
async fn http2(mess: &Mess, frames: &[u8]) -> Peer {
    let mut peer = Peer::connect(mess.address).await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let all = [&hello[..], &frame(4, 0, 0, b""), frames].concat();
    peer.0.write_all(&all).await.unwrap();
    peer
}

/// The next frame of a stream: its kind, its flags and its payload.
async fn next(peer: &mut Peer, stream: u32) -> (u8, u8, Vec<u8>) {
    let reading = async {
        loop {
            let mut head = [0; 9];
            peer.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            peer.0.read_exact(&mut payload).await.unwrap();
            let own = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if own == stream {
                return (head[3], head[4], payload);
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, reading).await;
    heard.expect("a frame in time")
}

/// An endpoint's connection of HTTP/2, on which so far nothing was asked.
async fn accept_http2(server: &Server) -> Peer {
    let mut upstream = server.accept().await;
    let mut hello = [0; 24];
    upstream.0.read_exact(&mut hello).await.unwrap();
    upstream.0.write_all(&frame(4, 0, 0, b"")).await.unwrap();
    upstream
}

fn connect(protocol: &str, more: &[(&'static str, &'static str)]) -> Vec<u8> {
    let base = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", "/ws"),
        (":authority", "x"),
    ];
    headers(0, 1, &[&base[..], more].concat())
}

#[tokio::test]
async fn a_tunnel_has_no_length_and_one_name() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    for asked in [
        connect("websocket", &[("content-length", "20")]),
        connect("websocket", &[("content-length", "0")]),
        connect(
            "websocket",
            &[("content-length", "5"), ("content-length", "5")],
        ),
        connect("a, h2c", &[]),
        connect("h2c", &[]),
        connect("HTTP", &[]),
        connect("websocket/1\r\nx: y", &[]),
        connect("", &[]),
        headers(
            0,
            1,
            &[
                (":method", "CONNECT"),
                (":authority", "x"),
                ("content-length", "20"),
            ],
        ),
    ] {
        let mut client = http2(&mess, &asked).await;
        let (kind, ..) = next(&mut client, 1).await;
        assert!(kind == 1 || kind == 3, "answered or reset: {kind}");
    }
    assert!(server.stays_alone(SHORT).await, "somebody was asked");
    let mut victim = Peer::connect(mess.address).await;
    victim.say(GET).await;
    let mut upstream = server.accept().await;
    assert!(upstream.hear("\r\n\r\n").await.starts_with("GET /a "));
}

/// An endpoint that says no at once, and has not read what it believes to be the body.
const NO: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";

#[tokio::test]
async fn who_was_asked_to_change_the_protocol_is_asked_nothing_else() {
    let upgrade = |more: &str| {
        format!(
            "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{more}\r\n"
        )
    };
    for (asked, is_http2) in [
        (upgrade("").into_bytes(), false),
        (upgrade("content-length: 0\r\n").into_bytes(), false),
        (connect("websocket", &[]), true),
    ] {
        let server = Server::bind().await;
        let mess = mess(&server, "1.1", Config::default());
        let mut client = match is_http2 {
            true => http2(&mess, &asked).await,
            false => {
                let mut client = Peer::connect(mess.address).await;
                client.0.write_all(&asked).await.unwrap();
                client
            }
        };
        let mut upstream = server.accept().await;
        let heard = upstream.hear("\r\n\r\n").await;
        assert!(heard.contains("upgrade: websocket"), "{heard}");
        upstream.say(NO).await;
        match is_http2 {
            true => assert_eq!(next(&mut client, 1).await.0, 1),
            false => assert!(client.hear("no").await.starts_with("HTTP/1.1 404")),
        }
        assert!(upstream.ends(PATIENCE).await, "it is kept for others");
        let mut victim = Peer::connect(mess.address).await;
        victim.say(GET).await;
        let mut other = server.accept().await;
        assert!(other.hear("\r\n\r\n").await.starts_with("GET /a "));
    }
}

#[tokio::test]
async fn a_tunnel_that_the_endpoint_does_not_open_is_not_said_to_be_open() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let mut client = http2(&mess, &connect("websocket", &[])).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&response("a page")).await;
    let (kind, _, payload) = next(&mut client, 1).await;
    // 200 is 0x88 (RFC 7541, appendix A).
    assert!(kind == 1 && payload[0] != 0x88, "{payload:?}");
    assert!(upstream.ends(PATIENCE).await);
}

#[tokio::test]
async fn the_endpoint_chooses_what_a_connection_becomes() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let ask = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\n\
               http2-settings: AAMAAABk\r\nupgrade: foo, h2c\r\nupgrade: bar\r\n\r\n";
    for (chosen, heard) in [
        ("bar", "upgrade: bar\r\n"),
        ("FOO", "upgrade: FOO\r\n"),
        ("baz", "502 Bad Gateway"),
        ("h2c", "502 Bad Gateway"),
        ("foo, h2c", "502 Bad Gateway"),
    ] {
        let mut client = Peer::connect(mess.address).await;
        client.say(ask).await;
        let mut upstream = server.accept().await;
        let asked = upstream.hear("\r\n\r\n").await;
        assert!(asked.contains("upgrade: foo, bar\r\n"), "{asked}");
        assert!(!asked.contains("http2-settings"), "{asked}");
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {chosen}\r\n\r\n"
        );
        upstream.say(&switched).await;
        let answer = client.hear("\r\n\r\n").await;
        assert!(answer.contains(heard), "{chosen}: {answer}");
    }
}

#[tokio::test]
async fn http2_by_way_of_http1_is_for_those_who_want_it() {
    let settings = "http2-settings: AAMAAABk\r\nupgrade: h2c\r\n";
    let ask = |named: &str| {
        format!("GET /a HTTP/1.1\r\nhost: x\r\nconnection: {named}\r\n{settings}\r\n")
    };
    let on = Config {
        h2c_upgrade: true,
        ..Config::default()
    };
    for (config, named, switches) in [
        (Config::default(), "upgrade, http2-settings", false),
        (on.clone(), "upgrade", false),
        (on.clone(), "http2-settings", false),
        (on.clone(), "close", false),
        (on, "Upgrade, HTTP2-Settings", true),
    ] {
        let server = Server::bind().await;
        let mess = mess(&server, "1.1", config);
        let mut client = Peer::connect(mess.address).await;
        client.say(&ask(named)).await;
        if switches {
            let heard = client.hear("\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 101"), "{heard}");
            continue;
        }
        let mut upstream = server.accept().await;
        let asked = upstream.hear("\r\n\r\n").await;
        assert!(!asked.contains("h2c"), "{asked}");
        upstream.say(&response("well")).await;
        assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_client_hears_of_a_response_that_breaks_off() {
    let broken = [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno header\r\n\r\n",
    ];
    for answer in broken {
        let server = Server::bind().await;
        let mess = mess(&server, "1.1", Config::default());
        let mut client = Peer::connect(mess.address).await;
        client.say(GET).await;
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        upstream.say(answer).await;
        let heard = client.hear("broke off\n").await;
        assert!(heard.starts_with("HTTP/1.1 502 "), "{answer:?}: {heard:?}");
        assert!(client.ends(PATIENCE).await);
    }
    // What was written already is not unsaid: all of it arrives, and no end of it.
    for (first, rest) in [
        ("5\r\nhello\r\n", "XX\r\n"),
        ("5\r\nhello\r\n", "6\r\n world"),
    ] {
        let server = Server::bind().await;
        let mess = mess(&server, "1.1", Config::default());
        let mut client = Peer::connect(mess.address).await;
        client.say(GET).await;
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        upstream.say(&format!("{head}{first}")).await;
        client.hear("hello\r\n").await;
        upstream.say(rest).await;
        drop(upstream);
        let heard = client.hear("never").await;
        assert!(!heard.contains("0\r\n\r\n") && !heard.contains("HTTP/1.1"));
        assert_eq!(heard.contains("world"), rest.contains("world"), "{heard:?}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_no_silence_for_http1() {
    let server = Server::bind().await;
    let mess = mess(&server, "2", Config::default());
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = accept_http2(&server).await;
    next(&mut upstream, 1).await;
    let answers = [
        headers(0, 1, &[(":status", "200"), ("content-length", "10")]),
        frame(0, 0, 1, b"hello"),
        frame(3, 0, 1, &2_u32.to_be_bytes()),
    ];
    upstream.0.write_all(&answers.concat()).await.unwrap();
    let heard = client.hear("broke off\n").await;
    assert!(heard.starts_with("HTTP/1.1 502 "), "{heard:?}");
}

/// Fields that belong into heads, and one that may trail.
const TRAILERS: &str = "X-Ok: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\
    Authorization: x\r\nConnection: close\r\nKeep-Alive: 4\r\nTE: trailers\r\nContent-Type: a/b\r\n\
    Cookie: a\r\nSet-Cookie: a\r\nX-Forwarded-For: 10.0.0.1\r\nTrailer: x\r\nUpgrade: x\r\n\r\n";

#[tokio::test]
async fn only_what_may_trail_does_so_in_any_direction() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let mut client = Peer::connect(mess.address).await;
    let head = "POST /a HTTP/1.1\r\nhost: x\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!("2\r\nhi\r\n0\r\n{TRAILERS}");
    client.say(&format!("{head}{body}")).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    let heard = upstream.hear("0\r\nx-ok: 1\r\n\r\n").await;
    assert_eq!(heard, "2\r\nhi\r\n0\r\nx-ok: 1\r\n\r\n");
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    upstream.say(&format!("{head}{body}")).await;
    client.hear("\r\n\r\n").await;
    let heard = client.hear("0\r\nx-ok: 1\r\n\r\n").await;
    assert_eq!(heard, "2\r\nhi\r\n0\r\nx-ok: 1\r\n\r\n");
    // To HTTP/2, where the others would make the message malformed.
    let ask = headers(
        END,
        1,
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/b"),
            (":authority", "x"),
        ],
    );
    for (trailers, some) in [(TRAILERS, true), ("Keep-Alive: 4\r\n\r\n", false)] {
        let mut client = http2(&mess, &ask).await;
        upstream.hear("\r\n\r\n").await;
        let answer = format!("{head}2\r\nhi\r\n0\r\n{trailers}");
        upstream.say(&answer).await;
        assert_eq!(next(&mut client, 1).await.0, 1);
        let (kind, _, data) = next(&mut client, 1).await;
        assert_eq!((kind, &data[..]), (0, &b"hi"[..]));
        let (kind, flags, last) = next(&mut client, 1).await;
        assert_eq!((kind, flags & END), (if some { 1 } else { 0 }, END));
        assert!(last.len() < 16, "{last:?}");
    }
}

#[tokio::test]
async fn trailers_of_a_request_whose_length_is_known_go_on() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let frames = [
        headers(
            0,
            1,
            &[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/a"),
                (":authority", "x"),
                ("content-length", "2"),
                ("content-length", "2"),
                ("trailer", "x-ok"),
            ],
        ),
        frame(0, 0, 1, b"hi"),
        headers(END, 1, &[("x-ok", "1"), ("authorization", "x")]),
    ];
    let _client = http2(&mess, &frames.concat()).await;
    let mut upstream = server.accept().await;
    let head = upstream.hear("\r\n\r\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    let heard = upstream.hear("\r\n\r\n").await;
    assert_eq!(heard, "2\r\nhi\r\n0\r\nx-ok: 1\r\n\r\n");
}

#[tokio::test]
async fn a_length_is_told_once() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let frames = [
        headers(
            0,
            1,
            &[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/a"),
                (":authority", "x"),
                ("content-length", "2"),
                ("content-length", "2"),
            ],
        ),
        frame(0, END, 1, b"hi"),
    ];
    let _client = http2(&mess, &frames.concat()).await;
    let mut upstream = server.accept().await;
    let head = upstream.hear("\r\n\r\n").await;
    assert_eq!(head.matches("content-length: 2\r\n").count(), 1, "{head}");
    upstream.hear("hi").await;
}

#[tokio::test]
async fn what_comes_before_a_response_goes_on() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nkeep-alive: 5\r\n\r\n";
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    upstream.say(hints).await;
    let heard = client.hear("\r\n\r\n").await;
    assert_eq!(heard, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    upstream.say(&response("well")).await;
    assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
    // HTTP/1.0 has no such thing.
    let mut old = Peer::connect(mess.address).await;
    old.say("GET /a HTTP/1.0\r\nhost: x\r\n\r\n").await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&format!("{hints}{}", response("well"))).await;
    assert!(old.hear("well").await.starts_with("HTTP/1.1 200"));
    // Nor is it worth any number.
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&hints.repeat(40)).await;
    let mut heard = String::new();
    for _ in 0..40 {
        if !heard.contains("HTTP/1.1 502 ") {
            heard = client.hear("\r\n\r\n").await;
        }
    }
    assert!(heard.contains("HTTP/1.1 502 "), "{heard}");
}

const EXPECTS: &str =
    "PUT /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn it_is_the_endpoint_who_wants_a_body_or_not() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let mut client = Peer::connect(mess.address).await;
    client.say(EXPECTS).await;
    let mut upstream = server.accept().await;
    let head = upstream.hear("\r\n\r\n").await;
    assert!(head.contains("expect: 100-continue\r\n"), "{head}");
    assert!(!client.ends(SHORT).await, "it was told something");
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(
        client.hear("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.say("hello").await;
    upstream.hear("hello").await;
    upstream.say(&response("well")).await;
    assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
    // Who does not wait need not.
    client.say(EXPECTS).await;
    upstream.hear("\r\n\r\n").await;
    client.say("hello").await;
    upstream.hear("hello").await;
    upstream.say(&response("well")).await;
    let heard = client.hear("well").await;
    assert!(heard.starts_with("HTTP/1.1 200") && !heard.contains("close"));
    // And one that is not wanted is not sent.
    client.say(EXPECTS).await;
    upstream.hear("\r\n\r\n").await;
    let no = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno";
    upstream.say(no).await;
    let heard = client.hear("no").await;
    assert!(heard.starts_with("HTTP/1.1 413"), "{heard}");
    assert!(heard.contains("connection: close"), "{heard}");
}

#[tokio::test]
async fn a_client_of_http2_waits_for_the_endpoints_word_too() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let ask = headers(
        0,
        1,
        &[
            (":method", "PUT"),
            (":scheme", "http"),
            (":path", "/a"),
            (":authority", "x"),
            ("content-length", "5"),
            ("expect", "100-continue"),
        ],
    );
    let mut client = http2(&mess, &ask).await;
    let mut upstream = server.accept().await;
    let head = upstream.hear("\r\n\r\n").await;
    assert!(head.contains("expect: 100-continue\r\n"), "{head}");
    let said = tokio::time::timeout(SHORT, next(&mut client, 1)).await;
    assert!(said.is_err(), "{said:?}");
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    let (kind, flags, _) = next(&mut client, 1).await;
    assert_eq!((kind, flags & END), (1, 0));
    client
        .0
        .write_all(&frame(0, END, 1, b"hello"))
        .await
        .unwrap();
    upstream.hear("hello").await;
    upstream.say(&response("well")).await;
    assert_eq!(next(&mut client, 1).await.0, 1);
    assert_eq!(next(&mut client, 1).await.2, b"well");
}

#[tokio::test]
async fn a_client_is_told_to_go_on_where_that_is_wanted() {
    let server = Server::bind().await;
    let config = Config {
        proxy_100_continue: false,
        ..Config::default()
    };
    let mess = mess(&server, "1.1", config);
    let mut client = Peer::connect(mess.address).await;
    client.say(EXPECTS).await;
    let heard = client.hear("\r\n\r\n").await;
    assert_eq!(heard, "HTTP/1.1 100 Continue\r\n\r\n");
    let mut upstream = server.accept().await;
    let head = upstream.hear("\r\n\r\n").await;
    assert!(!head.contains("expect"), "{head}");
    client.say("hello").await;
    upstream.hear("hello").await;
    upstream.say(&response("well")).await;
    assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_endpoint_is_asked_for_a_path_in_one_spelling() {
    let server = Server::bind().await;
    let paths = [
        ("//admin", "/admin"),
        ("/x/../admin?a=/../b", "/admin?a=/../b"),
        ("/%61dmin%2fx", "/admin%2fx"),
        ("/x/%2E%2e/admin/", "/admin/"),
    ];
    for normalize in [true, false] {
        let config = Config {
            normalize_path: normalize,
            ..Config::default()
        };
        let mess = mess(&server, "1.1", config);
        let mut client = Peer::connect(mess.address).await;
        let mut upstream = None;
        for (asked, wanted) in paths {
            client
                .say(&format!("GET {asked} HTTP/1.1\r\nhost: x\r\n\r\n"))
                .await;
            let upstream = match &mut upstream {
                Some(own) => own,
                none => none.insert(server.accept().await),
            };
            let heard = upstream.hear("\r\n\r\n").await;
            let wanted = if normalize { wanted } else { asked };
            assert!(heard.starts_with(&format!("GET {wanted} ")), "{heard}");
            upstream.say(&response("well")).await;
            client.hear("well").await;
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_refused_by_its_own_status() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    let many = "a: b\r\n".repeat(120);
    let more = "a: b\r\n".repeat(300);
    let long = format!("a: {}\r\n", "x".repeat(40 * 1024));
    let get = |target: &str, version: &str, more: &str| {
        format!("GET {target} HTTP/{version}\r\nhost: x\r\n{more}\r\n")
    };
    let target = format!("/{}", "x".repeat(9000));
    for (asked, status) in [
        (get("/", "1.1", &many), "431 "),
        (get("/", "1.1", &more), "431 "),
        (get("/", "1.1", &long), "431 "),
        (get(&target, "1.1", ""), "414 "),
        (get("/", "2.0", ""), "505 "),
        (get("/", "1.1", "a: b\n"), "400 "),
        (get("/", "1.1", "transfer-encoding: x\r\n"), "400 "),
        (
            get("/", "1.1", "content-length: 1\r\ncontent-length: 2\r\n"),
            "400 ",
        ),
        (
            "CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            "403 ",
        ),
        (
            "CONNECT x:80 HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n".to_owned(),
            "400 ",
        ),
    ] {
        let mut client = Peer::connect(mess.address).await;
        client.say(&asked).await;
        let heard = client.hear("\r\n\r\n").await;
        let shown = &asked[..asked.len().min(60)];
        assert!(heard[9..].starts_with(status), "{shown:?}: {heard}");
    }
    assert!(server.stays_alone(SHORT).await);
    // A later version of HTTP/1 is the one that we know; empty lines are nothing.
    let mut client = Peer::connect(mess.address).await;
    client
        .say(&format!("\r\n\r\n{}", get("/a", "1.7", "")))
        .await;
    let mut upstream = server.accept().await;
    assert!(
        upstream
            .hear("\r\n\r\n")
            .await
            .starts_with("GET /a HTTP/1.1")
    );
}

#[tokio::test]
async fn an_endpoints_head_is_as_long_as_the_listener_says() {
    let long = |name: &str| format!("{name}: {}\r\n", "x".repeat(100 * 1024));
    for (most, passes) in [(200 * 1024, true), (64 * 1024, false)] {
        let config = Config {
            response_head: most,
            ..Config::default()
        };
        let server = Server::bind().await;
        let one = mess(&server, "1.1", config.clone());
        let mut client = Peer::connect(one.address).await;
        client.say(GET).await;
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{}content-length: 4\r\n\r\nwell",
            long("x")
        );
        let _ = upstream.0.write_all(answer.as_bytes()).await;
        let heard = client.hear(if passes { "well" } else { "limit\n" }).await;
        assert_eq!(heard.starts_with("HTTP/1.1 200"), passes);
        assert_eq!(heard.starts_with("HTTP/1.1 502"), !passes);
        // The same by HTTP/2, in as many frames as it takes.
        let server = Server::bind().await;
        let two = mess(&server, "2", config);
        let mut client = Peer::connect(two.address).await;
        client.say(GET).await;
        let mut upstream = accept_http2(&server).await;
        next(&mut upstream, 1).await;
        let mut block = vec![0x88, 0, 1, b'x', 0x7f, 0x81, 0x9f, 6];
        block.extend([b'x'; 102_400]);
        let mut pieces = block.chunks(16 * 1024).peekable();
        let mut answer = Vec::new();
        let mut kind = 1;
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { 4 } else { 0 };
            answer.extend(frame(kind, flags, 1, piece));
            kind = 9;
        }
        answer.extend(frame(0, END, 1, b"well"));
        upstream.0.write_all(&answer).await.unwrap();
        let heard = client.hear(if passes { "well" } else { "limit\n" }).await;
        assert_eq!(
            heard.starts_with("HTTP/1.1 200"),
            passes,
            "{}",
            &heard[..80]
        );
    }
}

#[tokio::test]
async fn responses_without_a_body_have_none_whatever_comes() {
    let server = Server::bind().await;
    let mess = mess(&server, "2", Config::default());
    let mut client = http2(&mess, b"").await;
    let mut upstream: Option<Peer> = None;
    for (place, (method, status, length)) in [
        ("HEAD", "200", "5"),
        ("GET", "204", ""),
        ("GET", "304", "5"),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = place as u32 * 2 + 1;
        let ask = [
            (":method", method),
            (":scheme", "http"),
            (":path", "/a"),
            (":authority", "x"),
        ];
        client
            .0
            .write_all(&headers(END, stream, &ask))
            .await
            .unwrap();
        let upstream = match &mut upstream {
            Some(own) => own,
            none => none.insert(accept_http2(&server).await),
        };
        assert_eq!(next(upstream, stream).await.0, 1);
        let mut head = vec![(":status", status)];
        head.extend((!length.is_empty()).then_some(("content-length", length)));
        let answer = [headers(0, stream, &head), frame(0, END, stream, b"hello")];
        upstream.0.write_all(&answer.concat()).await.unwrap();
        let (kind, flags, _) = next(&mut client, stream).await;
        assert_eq!((kind, flags & END), (1, END), "{method} {status}");
    }
}

#[tokio::test]
async fn an_ended_response_with_a_length_is_no_response() {
    let server = Server::bind().await;
    let mess = mess(&server, "2", Config::default());
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = accept_http2(&server).await;
    next(&mut upstream, 1).await;
    let answer = headers(END, 1, &[(":status", "200"), ("content-length", "100")]);
    upstream.0.write_all(&answer).await.unwrap();
    let heard = client.hear("\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 502 "), "{heard}");
}
