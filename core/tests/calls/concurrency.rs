//! Adaptive concurrency, with scripted peers: who holds a place, and for how long.

use std::time::Duration;

use crate::toy::*;
use finback_core::cluster::ClusterPolicy;
use finback_core::concurrency::AdaptiveConcurrency;
use finback_core::mesh::ConcurrencyStatus;
use finback_core::rejection::Rejection;
use tokio::time::Instant;

fn one(min: u32, max: u32) -> ClusterPolicy {
    ClusterPolicy {
        adaptive_concurrency: Some(AdaptiveConcurrency {
            min,
            max,
            ..AdaptiveConcurrency::default()
        }),
        ..policy()
    }
}

fn status(mess: &Mess) -> ConcurrencyStatus {
    mess.mesh.status()[0].concurrency.unwrap()
}

async fn eventually_free(mess: &Mess) {
    let end = Instant::now() + Duration::from_secs(5);
    while status(mess).in_flight > 0 {
        assert!(Instant::now() < end, "{:?}", status(mess));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_place_is_held_until_the_answer_and_long_polls_hold_none() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], one(1, 1), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc slow").await;
    let mut upstream = server.accept().await;
    let held = upstream.get().await.unwrap();
    assert_eq!(
        client.call(2, "svc more").await.rejection(),
        Some(Rejection::Overloaded)
    );
    // It waits for something to happen, beside whatever else is in flight.
    client.send(1, 3, "svc watch poll=1").await;
    let poll = upstream.get().await.unwrap();
    assert_eq!((status(&mess).in_flight, status(&mess).shed), (1, 1));
    upstream.answer(&held, 0, "done").await;
    assert_eq!(client.get().await.unwrap().text, "done");
    assert_eq!(status(&mess).in_flight, 0);
    client.send(1, 4, "svc next").await;
    let next = upstream.get().await.unwrap();
    upstream.answer(&next, 0, "next").await;
    assert_eq!(client.get().await.unwrap().text, "next");
    upstream.answer(&poll, 0, "news").await;
    assert_eq!(client.get().await.unwrap().text, "news");
    assert_eq!(
        (status(&mess).in_flight, mess.mesh.status()[0].in_flight),
        (0, 0)
    );
}

#[tokio::test]
async fn every_end_of_a_call_gives_its_place_back() {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], one(1, 1), retry(1));
    // A client that closes its connection is gone at once.
    spec.limits.half_closed = Duration::from_millis(100);
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    // Its time is over.
    client.send(1, 1, "svc slow timeout=50").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::DeadlineExceeded));
    assert_eq!(status(&mess).in_flight, 0);
    // A one-way is over once it is sent.
    client.send(2, 2, "svc fire").await;
    upstream.get().await.unwrap();
    eventually_free(&mess).await;
    // Its client is gone.
    client.send(1, 3, "svc slow").await;
    upstream.get().await.unwrap();
    assert_eq!(status(&mess).in_flight, 1);
    drop(client);
    eventually_free(&mess).await;
    // Its connection is.
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 4, "svc slow").await;
    upstream.get().await.unwrap();
    drop(upstream);
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::ConnectionLost));
    assert_eq!((status(&mess).in_flight, status(&mess).shed), (0, 0));
}

#[tokio::test]
async fn a_reload_keeps_the_limit_and_the_places() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], one(1, 1), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc slow").await;
    let mut upstream = server.accept().await;
    let held = upstream.get().await.unwrap();
    for max in [1, 2] {
        mess.mesh
            .apply(routing(&[server.address], one(max, max), retry(1)));
        assert_eq!((status(&mess).limit, status(&mess).in_flight), (max, 1));
    }
    client.send(1, 2, "svc beside").await;
    // The new cluster has a connection of its own.
    let mut fresh = server.accept().await;
    let beside = fresh.get().await.unwrap();
    assert_eq!(
        client.call(3, "svc over").await.rejection(),
        Some(Rejection::Overloaded)
    );
    for (peer, call) in [(&mut upstream, held), (&mut fresh, beside)] {
        peer.answer(&call, 0, "done").await;
        client.get().await.unwrap();
    }
    assert_eq!((status(&mess).in_flight, status(&mess).shed), (0, 1));
}
