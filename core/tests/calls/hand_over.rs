//! A connection moves from one worker to another at a boundary of its messages, and nobody notices.

use std::time::Duration;

use crate::tls;
use crate::toy::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// The worker that has the only connection.
async fn home(mess: &Mess) -> usize {
    let begin = Instant::now();
    loop {
        let status = mess.workers.status();
        let mut with = (0..status.len()).filter(|worker| status[*worker].connections == 1);
        if let (Some(worker), None) = (with.next(), with.next()) {
            return worker;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn move_away(mess: &Mess) -> usize {
    let from = home(mess).await;
    assert_eq!(mess.workers.hand_over(from).await, 1);
    from
}

async fn until_moved(mess: &Mess, from: usize) {
    let begin = Instant::now();
    while home(mess).await == from {
        assert!(begin.elapsed() < Duration::from_secs(5), "it stayed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_framed_connection_moves_with_its_unread_bytes() {
    let server = Server::bind().await;
    let mess = mess_of(routing(&[server.address], policy(), retry(1)), 2);
    let mut client = Peer::connect(mess.address).await;
    // What comes with the first request of the second is read with it.
    let next = frame(1, 0, 2, "svc echo second");
    let first = [&frame(1, 0, 1, "svc echo first")[..], &next[..7]].concat();
    client.0.write_all(&first).await.unwrap();
    let mut upstream = server.accept().await;
    let held = upstream.get().await.unwrap();

    // It moves when its call is answered, in the middle of the next request.
    let from = move_away(&mess).await;
    client.0.write_all(&next[7..9]).await.unwrap();
    client.get_nothing(Duration::from_millis(100)).await;
    assert_eq!(home(&mess).await, from, "a call is in flight");
    upstream.answer(&held, 0, "first").await;
    assert_eq!(client.get().await.unwrap().text, "first");
    until_moved(&mess, from).await;
    client.0.write_all(&next[9..]).await.unwrap();
    let mut other = server.accept().await;
    let second = other.get().await.unwrap();
    assert_eq!(second.text, "svc echo second");
    other.answer(&second, 0, "second").await;
    assert_eq!(client.get().await.unwrap().text, "second");

    // And back, idle.
    let from = move_away(&mess).await;
    until_moved(&mess, from).await;
    client.send(1, 3, "svc echo third").await;
    let third = upstream.get().await.unwrap();
    upstream.answer(&third, 0, "third").await;
    assert_eq!(client.get().await.unwrap().text, "third");
    assert_eq!(mess.records.endings(), vec!["success"; 3]);
}

#[tokio::test]
async fn a_framed_connection_under_tls_moves_with_its_session() {
    let server = Server::bind().await;
    let spec = routing(&[server.address], policy(), retry(1));
    let mess = mess_under(tls::server(), spec, 2);
    let mut client = tls::connect(mess.address).await;
    let mut upstreams: Vec<Option<Peer>> = vec![None, None];
    for id in 1..=4 {
        let text = format!("svc echo {id}");
        let request = frame(1, 0, id, &text);
        // Half of a request is read, and goes along.
        client.write_all(&request[..9]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let from = move_away(&mess).await;
        until_moved(&mess, from).await;
        client.write_all(&request[9..]).await.unwrap();
        let upstream = &mut upstreams[1 - from];
        if upstream.is_none() {
            *upstream = Some(server.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let asked = upstream.get().await.unwrap();
        assert_eq!(asked.text, text);
        upstream.answer(&asked, 0, &text).await;
        let expected = frame(3, 0, id, &text);
        let mut heard = vec![0; expected.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, expected);
    }
    assert!(upstreams.iter().all(Option::is_some), "both workers asked");
}
