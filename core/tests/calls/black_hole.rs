//! One endpoint of four swallows calls: few fail, and it is used again once it is well.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::toy::*;
use finback_core::cluster::ClusterPolicy;
use finback_core::outlier::Outlier;

/// Between two calls: 500 a second.
const PACE: Duration = Duration::from_millis(2);

fn quick() -> ClusterPolicy {
    ClusterPolicy {
        outlier: Outlier {
            base: Duration::from_secs(1),
            ..Outlier::default()
        },
        ..policy()
    }
}

/// How many calls of so many fail, sent one after the other whether or not they are answered.
async fn failed(client: &mut Peer, calls: u32) -> u32 {
    let mut failed = 0;
    let mut pace = tokio::time::interval(PACE);
    // A busy machine makes it slower, never faster: more calls at once are more that the first time-out comes too late for.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut sent, mut got, mut byte) = (0, 0, [0]);
    while got < calls {
        tokio::select! {
            _ = pace.tick(), if sent < calls => {
                client.send(1, sent, "svc echo timeout=300").await;
                sent += 1;
            }
            // Reading a frame must not be cut short by the next turn to send.
            peeked = client.0.peek(&mut byte) => {
                peeked.unwrap();
                let answer = client.get().await.unwrap();
                failed += u32::from(answer.rejection().is_some());
                got += 1;
            }
        }
    }
    failed
}

async fn beside_three(hole: SocketAddr) -> Mess {
    let mut endpoints = vec![hole];
    for _ in 0..3 {
        endpoints.push(echo().await.0);
    }
    mess(routing(&endpoints, quick(), retry(3)))
}

#[tokio::test]
async fn who_accepts_and_never_answers_costs_few_calls_and_one_for_each_trial() {
    let hole = Server::bind().await;
    let mess = beside_three(hole.address).await;
    let mut client = Peer::connect(mess.address).await;
    let first = failed(&mut client, 500).await;
    assert!((1..10).contains(&first), "{first} of the first second");
    // Its callers' own times are too short to eject it, but it is asked last; now and then once more.
    let later = failed(&mut client, 1500).await;
    assert!(later <= 3, "{later} of three seconds");
}

#[tokio::test]
async fn who_refuses_connections_costs_none_and_is_used_again_when_it_does_not() {
    let closed = Server::bind().await.address;
    let mess = beside_three(closed).await;
    let mut client = Peer::connect(mess.address).await;
    assert_eq!(failed(&mut client, 500).await, 0);
    let tried = mess.mesh.stats.connect_failures.load(Ordering::Relaxed);
    assert!((1..=2).contains(&tried), "{tried} connections");
    let listener = tokio::net::TcpListener::bind(closed).await.unwrap();
    let heard = tokio::spawn(async move { listener.accept().await.is_ok() });
    failed(&mut client, 1000).await;
    assert!(heard.is_finished(), "one call tried it");
}

#[tokio::test]
async fn whose_packets_are_lost_costs_few_calls_and_one_for_each_trial() {
    // Nobody accepts, and there is no place left to wait: the kernel drops what comes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let hole = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connecting = tokio::net::TcpStream::connect(hole);
        waiting.push(tokio::time::timeout(Duration::from_millis(100), connecting).await);
    }
    assert!(waiting.last().unwrap().is_err(), "there is a place left");
    let mess = beside_three(hole).await;
    let mut client = Peer::connect(mess.address).await;
    let first = failed(&mut client, 400).await;
    assert!(first < 10, "{first} at first contact");
    let later = failed(&mut client, 1500).await;
    assert!((1..=4).contains(&later), "{later} of three seconds");
}
