//! Heads of messages: what is said before a response, how paths are spelt, what is too much.

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
        (get(&target, "1.1", ""), "400 "),
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
        assert!(
            heard.contains("connection: close\r\n"),
            "{shown:?}: {heard}"
        );
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
async fn hints_of_an_endpoint_of_http2_go_on_too() {
    let server = Server::bind().await;
    let mess = mess(&server, "2", Config::default());
    let ask = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "x"),
    ];
    let hints = [(":status", "103"), ("link", "</a.css>")];
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = accept_http2(&server).await;
    next(&mut upstream, 1).await;
    upstream.0.write_all(&headers(0, 1, &hints)).await.unwrap();
    let heard = client.hear("\r\n\r\n").await;
    assert_eq!(heard, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    let answer = [
        headers(0, 1, &[(":status", "200"), ("content-length", "4")]),
        frame(0, END, 1, b"well"),
    ];
    upstream.0.write_all(&answer.concat()).await.unwrap();
    assert!(client.hear("well").await.starts_with("HTTP/1.1 200"));
    // From HTTP/2 to HTTP/2; a hint is no end.
    for (flags, frames) in [(0, 3), (END, 2)] {
        let mut client = http2(&mess, &headers(END, 1, &ask)).await;
        let stream = if flags == 0 { 3 } else { 5 };
        next(&mut upstream, stream).await;
        let mut all = headers(flags, stream, &hints);
        if flags == 0 {
            all.extend(headers(0, stream, &[(":status", "200")]));
            all.extend(frame(0, END, stream, b"well"));
        }
        upstream.0.write_all(&all).await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..frames {
            kinds.push(next(&mut client, 1).await.0);
        }
        let wanted = if flags == 0 { &[1, 1, 0][..] } else { &[1, 0] };
        assert_eq!(kinds, wanted);
    }
}
