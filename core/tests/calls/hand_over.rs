//! A connection moves from one worker to another at a boundary of its messages, and nobody notices.

use std::time::Duration;

use crate::toy::*;
use tokio::io::AsyncWriteExt;
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
