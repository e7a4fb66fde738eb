//! Flow control: what one caller does not read, or an endpoint does not take, holds up nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use finback_http::{Config, Http};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Calls by which a caller is measured.
const CALLS: usize = 150;
/// Noise of a machine that is busy with other tests.
const NOISE: Duration = Duration::from_millis(15);
const BIG: usize = 1024 * 1024;

/// An endpoint of HTTP/2 that takes so many streams on a connection.
async fn endpoint(streams: u32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder
                    .max_concurrent_streams(streams)
                    .initial_window_size(512 * 1024)
                    .initial_connection_window_size(1024 * 1024);
                let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    address
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path == "/stuck" {
        // It never reads it.
        std::future::pending::<()>().await;
    }
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let length = if path == "/big" { BIG } else { 1000 };
    send(&mut stream, length).await;
}

/// Sends a body as far as windows allow.
async fn send(stream: &mut SendStream<Bytes>, mut length: usize) {
    while length > 0 {
        stream.reserve_capacity(length.min(16 * 1024));
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let piece = room.min(length);
        length -= piece;
        if stream
            .send_data(Bytes::from(vec![b'x'; piece]), length == 0)
            .is_err()
        {
            return;
        }
    }
}

/// A client's connection, on which streams have this window.
async fn connect(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (sender, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(path: &str) -> Request<()> {
    let uri = format!("http://x{path}");
    let method = if path == "/get" || path == "/big" {
        "GET"
    } else {
        "POST"
    };
    let request = Request::builder().uri(uri).method(method);
    request.body(()).unwrap()
}

/// Makes a call and takes its answer.
async fn call(sender: &SendRequest<Bytes>, path: &str, body: usize) {
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request(path), body == 0).unwrap();
    send(&mut stream, body).await;
    let mut body = response.await.unwrap().into_body();
    let mut got = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        got += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    assert_eq!(got, 1000);
}

/// The time within which 99 of 100 calls are answered.
async fn slowest(sender: &SendRequest<Bytes>) -> Duration {
    let mut times = Vec::new();
    for number in 0..CALLS {
        let begin = Instant::now();
        let calling = async {
            match number % 2 {
                0 => call(sender, "/get", 0).await,
                _ => call(sender, "/well", 4000).await,
            }
        };
        let called = tokio::time::timeout(PATIENCE, calling).await;
        called.expect("a healthy caller's answer");
        times.push(begin.elapsed());
    }
    times.sort();
    times[CALLS * 99 / 100 - 1]
}

fn mess(endpoint: SocketAddr) -> Mess {
    let http = Http::new(Config::default(), Vec::new());
    serve(routing(&[endpoint], policy("2"), 2), 1, Arc::new(http))
}

fn compare(what: &str, before: Duration, after: Duration) {
    eprintln!("{what}: {before:?} before, {after:?} meanwhile");
    assert!(after < before * 2 + NOISE, "{what}: {before:?}, {after:?}");
}

#[tokio::test]
async fn responses_that_one_caller_does_not_read_hold_up_no_other() {
    for unread in [1, 16, 50, 100] {
        let mess = mess(endpoint(100).await);
        let healthy = connect(mess.address, 1 << 20).await;
        let before = slowest(&healthy).await;
        let lazy = connect(mess.address, 0).await;
        let mut held = Vec::new();
        for _ in 0..unread {
            let mut lazy = lazy.clone().ready().await.unwrap();
            let (response, _) = lazy.send_request(request("/big"), true).unwrap();
            held.push(response.await.unwrap().into_body());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let after = slowest(&healthy).await;
        compare(&format!("{unread} unread responses"), before, after);
    }
}

#[tokio::test]
async fn uploads_that_an_endpoint_does_not_read_hold_up_no_other() {
    for stuck in [1, 16, 50, 99] {
        let mess = mess(endpoint(100).await);
        let healthy = connect(mess.address, 1 << 20).await;
        let before = slowest(&healthy).await;
        let same = connect(mess.address, 1 << 20).await;
        let mut held = Vec::new();
        for _ in 0..stuck {
            let mut same = same.clone().ready().await.unwrap();
            let (response, mut stream) = same.send_request(request("/stuck"), false).unwrap();
            let sending = tokio::spawn(async move { send(&mut stream, BIG).await });
            held.push((response, sending));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = slowest(&healthy).await;
        compare(&format!("{stuck} stuck uploads"), before, after);
        // Nor other calls of the very same client.
        let after = slowest(&same).await;
        compare(&format!("{stuck} stuck uploads of its own"), before, after);
    }
}

#[tokio::test]
async fn a_response_that_a_client_does_not_read_leaves_room_for_its_others() {
    let mess = mess(endpoint(100).await);
    let client = connect(mess.address, 65_535).await;
    let before = slowest(&client).await;
    let mut lazy = client.clone().ready().await.unwrap();
    let (response, _) = lazy.send_request(request("/big"), true).unwrap();
    let _held = response.await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = slowest(&client).await;
    compare("an unread response of its own", before, after);
}
