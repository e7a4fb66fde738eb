//! A connection moves from one worker to another: of HTTP/1.1 between requests, of HTTP/2 when no stream is open.

use std::sync::Arc;
use std::time::Duration;

use crate::support::frames::{END, frame, headers, http2 as support_http2, next};
use crate::support::*;
use bytes::Bytes;
use finback_core::mesh::RoutingSpec;
use finback_http::{Config, Http};
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

fn mess(spec: RoutingSpec, workers: usize) -> Mess {
    let http = Http::new(Config::default(), Vec::new());
    serve(spec, workers, Arc::new(http))
}

fn home(mess: &Mess) -> Option<usize> {
    let status = mess.workers.status();
    let with = (0..status.len()).filter(|worker| status[*worker].connections == 1);
    with.reduce(|_, _| usize::MAX)
        .filter(|worker| *worker < status.len())
}

async fn move_away(mess: &Mess) -> usize {
    until("a connection", || home(mess).is_some()).await;
    let from = home(mess).unwrap();
    assert_eq!(mess.workers.hand_over(from).await, 1);
    from
}

const GET2: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/a"),
    (":authority", "x"),
];

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn requests_before_and_after_are_answered_on_one_connection() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 2), 2);
    let mut client = Peer::connect(mess.address).await;
    client.say(GET).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;

    // It moves when its request is answered; two more lie unread then, one of them half.
    let from = move_away(&mess).await;
    let first = from;
    client.say(GET).await;
    client.say(&GET[..9]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(home(&mess), Some(from), "a request is in flight");
    upstream.say(&response("first")).await;
    assert!(client.hear("first").await.starts_with("HTTP/1.1 200"));

    let mut other = server.accept().await;
    other.hear("\r\n\r\n").await;
    assert_eq!(home(&mess), Some(1 - from), "another worker asks");
    other.say(&response("second")).await;
    client.hear("second").await;
    client.say(&GET[9..]).await;
    other.hear("\r\n\r\n").await;
    other.say(&response("third")).await;
    client.hear("third").await;

    // And back, while it is idle.
    let from = move_away(&mess).await;
    until("it has moved", || home(&mess) == Some(1 - from)).await;
    client.say(GET).await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&response("fourth")).await;
    client.hear("fourth").await;

    // A connection on which nothing was asked yet.
    drop(client);
    until("it is gone", || home(&mess).is_none()).await;
    let mut client = Peer::connect(mess.address).await;
    until("it is there", || home(&mess).is_some()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let from = move_away(&mess).await;
    until("it has moved", || home(&mess) == Some(1 - from)).await;
    client.say(GET).await;
    let asked = if from == first {
        &mut other
    } else {
        &mut upstream
    };
    asked.hear("\r\n\r\n").await;
    asked.say(&response("fifth")).await;
    client.hear("fifth").await;
}

#[tokio::test]
async fn a_connection_under_tls_moves_with_its_session() {
    let server = Server::bind().await;
    let http = Arc::new(Http::new(Config::default(), Vec::new()));
    let spec = routing(&[server.address], policy("1.1"), 2);
    let mess = serve_under(Some(tls::server()), spec, 2, http);
    let mut client = tls::connect(mess.address).await;
    // Half of a request is read, and goes along.
    let get = GET.as_bytes();
    client.write_all(&get[..9]).await.unwrap();
    let mut places = Vec::new();
    let mut upstreams: Vec<Option<Peer>> = vec![None, None];
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let from = move_away(&mess).await;
        until("it has moved", || home(&mess) == Some(1 - from)).await;
        places.push(from);
        client.write_all(&get[9..]).await.unwrap();
        let upstream = &mut upstreams[1 - from];
        if upstream.is_none() {
            *upstream = Some(server.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let heard = upstream.hear("\r\n\r\n").await;
        assert!(heard.contains("x-forwarded-proto: https"), "{heard}");
        let body = format!("answer {round}");
        upstream.say(&response(&body)).await;
        let mut heard = Vec::new();
        while !heard.ends_with(body.as_bytes()) {
            heard.push(client.read_u8().await.unwrap());
        }
        client.write_all(&get[..9]).await.unwrap();
    }
    assert_eq!(places[0], places[2]);
    assert_ne!(places[0], places[1]);
}

/// A client of HTTP/2, by a library: it keeps tables of headers, its own of so many bytes.
async fn http2(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    table: u32,
) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.header_table_size(table);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// Headers whose names and values stand in tables once they were sent a few times.
const SAID: &str = "a value that is worth a place in the table";

/// Asks with a body, answers at `upstream`, and takes the answer: all as it was said.
async fn call(sender: &SendRequest<Bytes>, upstream: &mut Peer, body: &str) {
    let asked = ask(sender, body).await;
    answer(asked, upstream, body).await;
}

async fn ask(sender: &SendRequest<Bytes>, body: &str) -> ResponseFuture {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::post("http://x/a").header("x-said", SAID);
    let request = request.body(()).unwrap();
    let (asked, mut sent) = sender.send_request(request, false).unwrap();
    sent.send_data(Bytes::from(body.to_owned()), true).unwrap();
    asked
}

async fn answer(asked: ResponseFuture, upstream: &mut Peer, body: &str) {
    hear(upstream, body).await;
    tell(asked, upstream, body).await;
}

async fn hear(upstream: &mut Peer, body: &str) {
    // The body follows, in a chunk.
    let heard = upstream.hear("\r\n0\r\n\r\n").await;
    assert!(heard.contains(&format!("x-said: {SAID}")), "{heard}");
    assert!(heard.contains(body), "{heard}");
}

async fn tell(asked: ResponseFuture, upstream: &mut Peer, body: &str) {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nx-back: {SAID}\r\ncontent-length: {length}\r\n\r\n{body}");
    upstream.say(&answer).await;
    let (head, mut heard) = asked.await.unwrap().into_parts();
    assert_eq!(head.headers["x-back"], SAID);
    let mut all = Vec::new();
    while let Some(data) = heard.data().await {
        let data = data.unwrap();
        all.extend_from_slice(&data);
        heard.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(all, body.as_bytes());
}

#[tokio::test]
async fn http2_moves_with_its_tables_when_no_stream_is_open() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 2), 2);
    let sender = http2(TcpStream::connect(mess.address).await.unwrap(), 4096).await;
    let asked = ask(&sender, "first").await;
    let mut upstream = server.accept().await;
    answer(asked, &mut upstream, "first").await;
    call(&sender, &mut upstream, "second").await;
    call(&sender, &mut upstream, "third").await;

    // It is to move, and a stream is open: it goes on here until that is over.
    let asked = ask(&sender, "fourth").await;
    hear(&mut upstream, "fourth").await;
    until("a connection", || home(&mess).is_some()).await;
    let from = move_away(&mess).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(home(&mess), Some(from), "a stream is open");
    tell(asked, &mut upstream, "fourth").await;
    until("it has moved", || home(&mess) == Some(1 - from)).await;

    // What each side remembers of the other's headers holds there, and back where it was.
    let asked = ask(&sender, "fifth").await;
    let mut other = server.accept().await;
    answer(asked, &mut other, "fifth").await;
    let from = move_away(&mess).await;
    until("it has moved", || home(&mess) == Some(1 - from)).await;
    call(&sender, &mut upstream, "sixth").await;
    call(&sender, &mut upstream, "seventh").await;
}

#[tokio::test]
async fn http2_moves_with_the_window_that_is_left_of_its_connection() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 2), 2);
    // It opens its connection's window never again.
    let frames = [
        headers(END, 1, &GET2),
        frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
    ]
    .concat();
    let mut client = support_http2(&mess, &frames).await;
    let mut upstream = server.accept().await;
    upstream.hear("\r\n\r\n").await;
    upstream.say(&response(&"x".repeat(60_000))).await;
    let mut got = 0;
    while got < 60_000 {
        let (kind, _, payload) = next(&mut client, 1).await;
        got += if kind == 0 { payload.len() } else { 0 };
    }
    // It moves in the middle of a frame.
    let more = headers(END, 3, &GET2);
    client.0.write_all(&more[..11]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let from = move_away(&mess).await;
    until("it has moved", || home(&mess) == Some(1 - from)).await;
    client.0.write_all(&more[11..]).await.unwrap();
    let mut other = server.accept().await;
    other.hear("\r\n\r\n").await;
    other.say(&response(&"y".repeat(60_000))).await;
    let mut got = 0;
    let quiet = Duration::from_millis(300);
    while let Ok((kind, _, payload)) = tokio::time::timeout(quiet, next(&mut client, 3)).await {
        got += if kind == 0 { payload.len() } else { 0 };
    }
    assert!(
        (1..=65_535 - 60_000).contains(&got),
        "more than it takes: {got}"
    );
    // A stream's number is used once, wherever it was.
    let again = headers(END, 1, &GET2);
    client.0.write_all(&again).await.unwrap();
    assert_eq!(next(&mut client, 0).await.0, 7, "it is told to go");
}

#[tokio::test]
async fn http2_under_tls_moves_with_its_session_and_tables() {
    let server = Server::bind().await;
    let http = Arc::new(Http::new(Config::default(), Vec::new()));
    let spec = routing(&[server.address], policy("1.1"), 2);
    let mess = serve_under(Some(tls::server()), spec, 2, http);
    // What it says of its table holds everywhere: it keeps none.
    let sender = http2(tls::connect(mess.address).await, 0).await;
    let mut upstreams: Vec<Option<Peer>> = vec![None, None];
    for round in 0..4 {
        until("a connection", || home(&mess).is_some()).await;
        let home_of_now = home(&mess).unwrap();
        let body = format!("body {round}");
        let asked = ask(&sender, &body).await;
        let upstream = &mut upstreams[home_of_now];
        if upstream.is_none() {
            *upstream = Some(server.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        answer(asked, upstream, &body).await;
        for again in 0..3 {
            call(&sender, upstream, &format!("{body}, {again}")).await;
        }
        let from = move_away(&mess).await;
        until("it has moved", || home(&mess) == Some(1 - from)).await;
    }
    assert!(upstreams.iter().all(Option::is_some), "both workers asked");
}
