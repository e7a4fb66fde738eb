//! A message stays what it is on its way: where it ends, which fields it has, and that nobody's request
//! comes to lie in another one's.

use std::sync::Arc;
use std::time::Duration;

use crate::support::frames::*;
use crate::support::*;
use finback_http::{Config, Http};
use tokio::io::AsyncWriteExt;

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
async fn trailers_of_a_request_that_is_kept_go_on_with_each_attempt() {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy("1.1"), 2);
    let mut route = (*spec.tables[0].routes[0]).clone();
    route.retry.idempotent = true;
    spec.tables[0].routes[0] = Arc::new(route);
    let http = Http::new(Config::default(), Vec::new());
    let mess = serve(spec, 1, Arc::new(http));
    let frames = [
        headers(
            0,
            1,
            &[
                (":method", "PUT"),
                (":scheme", "http"),
                (":path", "/a"),
                (":authority", "x"),
                ("content-length", "2"),
                ("trailer", "x-ok"),
            ],
        ),
        frame(0, 0, 1, b"hi"),
        headers(END, 1, &[("x-ok", "1")]),
    ];
    let mut client = http2(&mess, &frames.concat()).await;
    for _ in 0..2 {
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        let heard = upstream.hear("\r\n\r\n").await;
        assert_eq!(heard, "2\r\nhi\r\n0\r\nx-ok: 1\r\n\r\n");
        let failed = "HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        upstream.say(failed).await;
    }
    assert_eq!(next(&mut client, 1).await.0, 1);
}

#[tokio::test]
async fn a_target_that_is_never_to_be_indexed_stays_so() {
    let server = Server::bind().await;
    let mess = mess(&server, "2", Config::default());
    // RFC 7541, section 6.2.3: `:path`, the fourth of the static table, as such a literal.
    let path = [&b"\x14\x0a"[..], b"/?token=1x"].concat();
    let block = [&b"\x82\x86\x41\x01x"[..], &path].concat();
    let _client = http2(&mess, &frame(1, END | 4, 1, &block)).await;
    let mut upstream = accept_http2(&server).await;
    let (kind, _, heard) = next(&mut upstream, 1).await;
    assert_eq!(kind, 1);
    let at = heard.windows(10).position(|own| own == b"/?token=1x");
    let before = &heard[..at.expect("the path")];
    assert_eq!(before[before.len() - 2], 0x14, "{heard:x?}");
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

#[tokio::test]
async fn a_connection_outlives_a_request_that_is_answered_before_its_body_has_come() {
    let server = Server::bind().await;
    let mess = mess(&server, "1.1", Config::default());
    drop(server);
    for (begin, rest) in [
        ("content-length: 5\r\n\r\n", "hello"),
        ("content-length: 5\r\n\r\nhe", "llo"),
        (
            "transfer-encoding: chunked\r\n\r\n5\r\nhe",
            "llo\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = Peer::connect(mess.address).await;
        for _ in 0..3 {
            client
                .say(&format!("POST /a HTTP/1.1\r\nhost: x\r\n{begin}"))
                .await;
            let heard = client.hear("nothing was sent\n").await;
            assert!(heard.starts_with("HTTP/1.1 502 "), "{heard}");
            assert!(!heard.contains("connection: close"), "{heard}");
            tokio::time::sleep(SHORT / 3).await;
            client.say(rest).await;
        }
    }
    // What is too long to be waited for is not: the client is told so.
    let mut client = Peer::connect(mess.address).await;
    client
        .say("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\nhe")
        .await;
    let heard = client.hear("nothing was sent\n").await;
    assert!(heard.contains("connection: close"), "{heard}");
    assert!(client.ends(PATIENCE).await);
}
