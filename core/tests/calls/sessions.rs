//! Clients with upstream connections of their own, whose endpoints call them, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use finback_core::endpoint::Endpoint;
use finback_core::mesh::Pinned;
use finback_core::rejection::Rejection;

use tokio::time::Instant;

use crate::toy::*;

fn session() -> Toy {
    Toy {
        is_session: true,
        ..Toy::default()
    }
}

/// The endpoint at this address, as the only one of a listener.
fn pin(address: SocketAddr) -> Pinned {
    Pinned {
        cluster: "all".into(),
        endpoint: Arc::new(Endpoint {
            address,
            weight: 1,
            labels: BTreeMap::new(),
            warm_up: None,
            terms: None,
            health: Arc::default(),
        }),
    }
}

/// A mesh of sessions with these endpoints.
fn mess_of_sessions(endpoints: &[SocketAddr]) -> Mess {
    mess_with(routing(endpoints, policy(), retry(1)), 1, session(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_has_a_connection_of_its_own() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut clients = Vec::new();
    for n in 0..3_u32 {
        let mut client = Peer::connect(mess.address).await;
        client.send(1, 7, &format!("svc m client={n}")).await;
        let mut upstream = server.accept().await;
        let got = upstream.get().await.unwrap();
        assert_eq!(got.text, format!("svc m client={n}"));
        upstream.answer(&got, 0, "fine").await;
        assert_eq!(client.get().await.unwrap().text, "fine");
        // More calls of the same client come over it.
        client.send(1, 8, "svc m").await;
        assert_eq!(upstream.get().await.unwrap().text, "svc m");
        clients.push((client, upstream));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_calls_its_client_and_gets_the_answer() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut all = Vec::new();
    for n in 0..2 {
        let mut client = Peer::connect(mess.address).await;
        client.send(2, 1, "svc hello").await;
        let mut upstream = server.accept().await;
        assert_eq!(upstream.get().await.unwrap().text, "svc hello");
        all.push((n, client, upstream));
    }
    // Both endpoints' connections number their calls alike, and as their clients do.
    for (n, client, upstream) in &mut all {
        client.send(1, 5, "svc own").await;
        assert_eq!(upstream.get().await.unwrap().text, "svc own");
        upstream.send(1, 5, &format!("back call n={n}")).await;
        upstream.send(2, 6, &format!("back tell n={n}")).await;
    }
    for (n, client, upstream) in &mut all {
        let asked = client.get().await.unwrap();
        assert_eq!((asked.kind, asked.id), (1, 5));
        assert_eq!(asked.text, format!("back call n={n}"));
        let told = client.get().await.unwrap();
        assert_eq!((told.kind, told.text), (2, format!("back tell n={n}")));
        client.answer(&asked, 1, &format!("answer of {n}")).await;
        // An answer that nobody asked for goes nowhere.
        client
            .answer(
                &Got {
                    id: 9,
                    ..asked.clone()
                },
                0,
                "unasked",
            )
            .await;
        let answer = upstream.get().await.unwrap();
        assert_eq!((answer.kind, answer.flag, answer.id), (3, 1, 5));
        assert_eq!(answer.text, format!("answer of {n}"));
        upstream.get_nothing(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_a_client_does_not_answer_the_latest_are_remembered() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut client = Peer::connect(mess.address).await;
    client.send(2, 1, "svc hello").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    for id in 1..=258 {
        upstream.send(1, id, "back call").await;
    }
    // All of them have come before the first is answered.
    let mut asked = Vec::new();
    for id in 1..=258 {
        let got = client.get().await.unwrap();
        assert_eq!(got.id, id);
        asked.push(got);
    }
    for own in &asked {
        client.answer(own, 0, "late").await;
    }
    for id in 3..=258 {
        assert_eq!(upstream.get().await.unwrap().id, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_two_endpoints_goes_on_with_the_one_that_is_left() {
    let servers = [Server::bind().await, Server::bind().await];
    let mess = mess_of_sessions(&[servers[0].address, servers[1].address]);
    let mut client = Peer::connect(mess.address).await;
    let mut upstreams = Vec::new();
    for id in 1..=2 {
        client.send(1, id, "svc m").await;
        let accepted = tokio::select! {
            own = servers[0].listener.accept() => own,
            own = servers[1].listener.accept() => own,
        };
        let mut upstream = Peer(accepted.unwrap().0);
        let got = upstream.get().await.unwrap();
        upstream.answer(&got, 0, "fine").await;
        client.get().await.unwrap();
        upstreams.push(upstream);
    }
    drop(upstreams.pop());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut left = upstreams.pop().unwrap();
    // Round robin: at most one of these goes to the other, which is connected to anew.
    client.send(1, 3, "svc m").await;
    client.send(1, 4, "svc m").await;
    let got = left.get().await.unwrap();
    left.answer(&got, 0, "still there").await;
    assert_eq!(client.get().await.unwrap().text, "still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_gives_a_client_no_second_connection() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut client = Peer::connect(mess.address).await;
    let mut upstream = None;
    for id in 1..4 {
        client.send(1, id, "svc m").await;
        let own = match &mut upstream {
            Some(own) => own,
            None => upstream.insert(server.accept().await),
        };
        let got = own.get().await.unwrap();
        own.answer(&got, 0, "fine").await;
        assert_eq!(client.get().await.unwrap().id, id);
        let changed = finback_core::cluster::ClusterPolicy {
            max_in_flight: 100 + id,
            ..policy()
        };
        mess.mesh
            .apply(routing(&[server.address], changed, retry(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_connections_end_together() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    // The client goes, with a call in flight: its endpoint learns it at once.
    for closes in [true, false] {
        let mut client = Peer::connect(mess.address).await;
        client.send(1, 1, "svc wait timeout=60000").await;
        let mut upstream = server.accept().await;
        upstream.get().await.unwrap();
        let began = Instant::now();
        if !closes {
            socket2::SockRef::from(&client.0)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(client);
        assert_eq!(upstream.get().await, None);
        assert!(began.elapsed() < Duration::from_secs(1), "{closes}");
    }
    // The endpoint goes: what was in flight is answered, and the client's connection ends.
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 2, "svc wait").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    drop(upstream);
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::ConnectionLost));
    assert_eq!(client.get().await, None);
    let stats = &mess.mesh.stats;
    let open = || {
        stats
            .upstream_connections
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let began = Instant::now();
    while open() > 0 {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{} are left",
            open()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_its_connection_is_made_leaves_none_behind() {
    // It takes connections only when it is told to.
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    drop(client);
    let mut upstream = server.accept().await;
    while upstream.get().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_reached_costs_its_calls_and_not_the_client() {
    let nobody = Server::bind().await.address;
    let mess = mess_of_sessions(&[nobody]);
    let mut client = Peer::connect(mess.address).await;
    for id in 1..4 {
        let answer = client.call(id, "svc m").await;
        assert!(answer.rejection().is_some(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_what_the_codec_makes_of_answers() {
    let (address, _) = echo().await;
    let toy = Toy {
        translation: Some("reached at"),
        ..session()
    };
    let mess = mess_with(routing(&[address], policy(), retry(1)), 1, toy, None);
    let mut client = Peer::connect(mess.address).await;
    let answer = client.call(3, "svc m").await;
    assert_eq!(answer.text, format!("reached at {}", mess.address));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_stand_for_one_endpoint() {
    let (own, counted) = echo().await;
    let (other, others) = echo().await;
    let pinned = pin(own);
    for is_session in [false, true] {
        let toy = Toy {
            is_session,
            ..Toy::default()
        };
        let spec = routing(&[other], policy(), retry(3));
        let mess = mess_with(spec, 2, toy, Some(pinned.clone()));
        for _ in 0..4 {
            let mut client = Peer::connect(mess.address).await;
            assert_eq!(client.call(1, "svc m").await.flag, 0);
        }
        // A reload that changes the cluster changes the policy, and not the endpoint.
        let changed = finback_core::cluster::ClusterPolicy {
            max_in_flight: 77,
            ..policy()
        };
        mess.mesh.apply(routing(&[other], changed, retry(3)));
        let mut client = Peer::connect(mess.address).await;
        assert_eq!(client.call(1, "svc m").await.flag, 0);
        assert_eq!(mess.records.last().cluster, "all");
    }
    let count =
        |own: &std::sync::atomic::AtomicUsize| own.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((count(&counted), count(&others)), (10, 0));
    // One that is not there is asked once, whatever the route allows.
    let nobody = Server::bind().await.address;
    let spec = routing(&[other], policy(), retry(3));
    let mess = mess_with(spec, 1, Toy::default(), Some(pin(nobody)));
    let mut client = Peer::connect(mess.address).await;
    let answer = client.call(1, "svc m").await;
    assert_eq!(answer.rejection(), Some(Rejection::ConnectFailed));
    assert_eq!(mess.records.last().attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_long_are_told_when_we_go() {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy(), retry(1));
    spec.limits.drain = Duration::from_secs(60);
    let mess = mess_with(spec, 1, session(), None);
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc poll timeout=60000").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    let began = Instant::now();
    let draining = tokio::spawn(async move {
        mess.workers.drain().await;
        mess
    });
    let said = client.get().await.unwrap();
    assert_eq!(said.kind, 6, "goodbye comes first");
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::Draining));
    assert_eq!(client.get().await, None);
    draining.await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_connections_of_their_own_stay_with_their_worker() {
    let (address, _) = echo().await;
    let spec = routing(&[address], policy(), retry(1));
    let mess = mess_with(spec, 2, session(), None);
    let mut clients = Vec::new();
    for id in 0..4 {
        let mut client = Peer::connect(mess.address).await;
        client.call(id, "svc m").await;
        clients.push(client);
    }
    for worker in 0..2 {
        assert_eq!(mess.workers.hand_over(worker).await, 0);
    }
    for (id, client) in (10..).zip(&mut clients) {
        client.call(id, "svc m").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_last_arrives_though_it_went_before_the_connection_was_made() {
    let server = Server::bind().await;
    let mess = mess_of_sessions(&[server.address]);
    let mut client = Peer::connect(mess.address).await;
    for n in 0..3 {
        client.send(2, n, &format!("svc bye n={n}")).await;
    }
    drop(client);
    let mut upstream = server.accept().await;
    for n in 0..3 {
        assert_eq!(upstream.get().await.unwrap().text, format!("svc bye n={n}"));
    }
    assert!(upstream.get().await.is_none(), "the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_last_arrives_though_its_endpoint_reads_only_when_it_is_gone() {
    const FRAMES: u32 = 24;
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy(), retry(1));
    // More than any kernel takes of it, and all of it is read at once.
    spec.limits.queue_soft = 64 << 20;
    spec.limits.queue_hard = 128 << 20;
    let mess = mess_with(spec, 1, session(), None);
    let mut client = Peer::connect(mess.address).await;
    client.send(2, 0, "svc hello").await;
    let mut upstream = server.accept().await;
    assert_eq!(upstream.get().await.unwrap().text, "svc hello");
    let words = |n: u32| format!("svc bye n={n} {}", "x".repeat(900_000));
    for n in 0..FRAMES {
        client.send(2, n, &words(n)).await;
    }
    drop(client);
    let connections = &mess.mesh.stats.connections;
    let began = Instant::now();
    while connections.load(std::sync::atomic::Ordering::Relaxed) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..FRAMES {
        let got = upstream.get().await;
        assert!(got.is_some_and(|own| own.text == words(n)), "{n} is lost");
    }
    assert!(upstream.get().await.is_none(), "the end");
}
