//! A keep-alive connection of HTTP/1.1 moves from one worker to another between requests.

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

#[tokio::test]
async fn http2_does_not_move() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy("1.1"), 2), 2);
    let mut client = Peer::connect(mess.address).await;
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.say("\0\0\0\x04\0\0\0\0\0").await;
    until("a connection", || home(&mess).is_some()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let from = home(&mess).unwrap();
    assert_eq!(mess.workers.hand_over(from).await, 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(home(&mess), Some(from));
}
