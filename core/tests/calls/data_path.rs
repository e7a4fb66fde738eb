//! The data path end to end, with a protocol made for tests and scripted peers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::toy::*;
use finback_core::cluster::ClusterPolicy;
use finback_core::discovery::Snapshot;
use finback_core::mesh::Limits;
use finback_core::rejection::Rejection;
use finback_core::route::{Destination, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn idempotent(attempts: u32) -> Retry {
    Retry {
        attempts,
        idempotent: true,
        ..Retry::default()
    }
}

#[tokio::test]
async fn answers_reach_their_own_callers_under_their_own_ids() {
    let (server, count) = echo().await;
    let mess = mess(routing(&[server], policy(), retry(1)));
    let mut clients = Vec::new();
    for n in 0..20 {
        let address = mess.address;
        clients.push(tokio::spawn(async move {
            let mut client = Peer::connect(address).await;
            for id in 0..50 {
                let text = format!("svc echo client={n} call={id}");
                assert_eq!(client.call(id, &text).await.text, text);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1000);
    assert_eq!(mess.records.endings(), vec!["success"; 1000]);
}

#[tokio::test]
async fn many_calls_in_one_write_and_bytes_one_by_one() {
    let (server, _) = echo().await;
    let mess = mess(routing(&[server], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    let mut bytes = Vec::new();
    for id in 0..5000 {
        bytes.extend(frame(1, 0, id, "svc echo x"));
    }
    client.0.write_all(&bytes).await.unwrap();
    let mut seen: Vec<u32> = Vec::new();
    for _ in 0..5000 {
        seen.push(client.get().await.unwrap().id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..5000).collect::<Vec<_>>());
    for byte in frame(1, 0, 7, "svc echo slow") {
        client.0.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(client.get().await.unwrap().text, "svc echo slow");
}

#[tokio::test]
async fn a_late_answer_is_dropped_and_its_id_not_used_again() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc slow timeout=100").await;
    let mut upstream = server.accept().await;
    let slow = upstream.get().await.unwrap();
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::DeadlineExceeded));
    assert!(answer.text.contains("svc.slow"), "{}", answer.text);
    client.send(1, 2, "svc fast").await;
    let fast = upstream.get().await.unwrap();
    assert_ne!(fast.id, slow.id);
    upstream.answer(&slow, 0, "too late").await;
    upstream.answer(&fast, 0, "right").await;
    let got = client.get().await.unwrap();
    assert_eq!((got.id, got.text.as_str()), (2, "right"));
    assert_eq!(mess.mesh.stats.late_answers.load(Ordering::Relaxed), 1);
    // The same answer a second time is nobody's.
    upstream.answer(&fast, 0, "again").await;
    client.get_nothing(Duration::from_millis(100)).await;
    assert_eq!(mess.mesh.stats.unknown_answers.load(Ordering::Relaxed), 1);
    assert_eq!(mess.records.endings(), ["deadline_exceeded", "success"]);
}

#[tokio::test]
async fn a_one_way_is_sent_and_never_answered() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(2, 9, "svc fire").await;
    let mut upstream = server.accept().await;
    let first = upstream.get().await.unwrap();
    assert_eq!((first.kind, first.text.as_str()), (2, "svc fire"));
    client.send(2, 10, "svc fire").await;
    let second = upstream.get().await.unwrap();
    // Even a server that answers what it must not reaches nobody.
    upstream.answer(&second, 0, "unasked").await;
    client.get_nothing(Duration::from_millis(100)).await;
    assert_eq!(mess.records.endings(), ["sent", "sent"]);
}

#[tokio::test]
async fn a_call_that_could_not_be_sent_goes_to_another_endpoint_and_two_attempts_are_two() {
    let dead = Server::bind().await;
    let dead_address = dead.address;
    drop(dead);
    let (alive, _) = echo().await;
    let mess = mess(routing(&[dead_address, alive], policy(), retry(2)));
    let mut client = Peer::connect(mess.address).await;
    for id in 0..10 {
        assert_eq!(client.call(id, "svc m").await.rejection(), None);
    }
    drop(mess);

    let mess = crate::toy::mess(routing(&[dead_address], policy(), retry(2)));
    let mut client = Peer::connect(mess.address).await;
    let answer = client.call(1, "svc m").await;
    assert_eq!(answer.rejection(), Some(Rejection::ConnectFailed));
    let record = mess.records.last();
    assert_eq!(record.attempts, 2);
    // What the caller read, and where it went.
    let reason = Rejection::ALL
        .iter()
        .position(|own| *own == Rejection::ConnectFailed);
    assert_eq!(usize::from(record.status.0), 100 + reason.unwrap());
    assert_eq!((&*record.route, &*record.cluster), ("only", "all"));
    drop(mess);

    let mess = crate::toy::mess(routing(&[dead_address], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.call(1, "svc m").await;
    assert_eq!(mess.records.last().attempts, 1);
}

#[tokio::test]
async fn a_lost_connection_answers_every_call_and_retries_only_what_is_idempotent() {
    for (policy_retry, expected) in [
        (retry(2), Some(Rejection::ConnectionLost)),
        (idempotent(2), None),
    ] {
        let breaking = Server::bind().await;
        let mess = mess(routing(&[breaking.address], policy(), policy_retry));
        let mut client = Peer::connect(mess.address).await;
        client.send(1, 1, "svc a").await;
        client.send(1, 2, "svc b").await;
        let mut upstream = breaking.accept().await;
        upstream.get().await.unwrap();
        upstream.get().await.unwrap();
        drop(upstream);
        if expected.is_none() {
            let mut again = breaking.accept().await;
            for _ in 0..2 {
                let got = again.get().await.unwrap();
                again.answer(&got, 0, "second try").await;
            }
        }
        let mut ids = Vec::new();
        for _ in 0..2 {
            let got = client.get().await.unwrap();
            assert_eq!(got.rejection(), expected);
            ids.push(got.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
    }
}

#[tokio::test]
async fn a_refused_call_is_tried_elsewhere_if_the_route_says_so() {
    let busy = Server::bind().await;
    let (free, _) = echo().await;
    let refusals = Retry {
        attempts: 2,
        refused: true,
        ..Retry::default()
    };
    let mess = mess(routing(&[busy.address, free], policy(), refusals));
    tokio::spawn(async move {
        let mut peer = busy.accept().await;
        while let Some(got) = peer.get().await {
            peer.answer(&got, 2, "busy").await;
        }
    });
    let mut client = Peer::connect(mess.address).await;
    for id in 0..6 {
        assert_eq!(client.call(id, "svc m").await.text, "svc m");
    }
    assert!(mess.mesh.stats.retries.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_found_by_heartbeats() {
    let server = Server::bind().await;
    let quick = ClusterPolicy {
        heartbeat_interval: Duration::from_millis(300),
        ..policy()
    };
    let mess = mess(routing(&[server.address], quick, retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m timeout=30000").await;
    let mut upstream = server.accept().await;
    assert_eq!(upstream.get().await.unwrap().kind, 1);
    let began = Instant::now();
    assert_eq!(upstream.get().await.unwrap().kind, 4, "a heartbeat");
    let answer = client.get().await.unwrap();
    assert_eq!(answer.rejection(), Some(Rejection::ConnectionLost));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        mess.mesh.stats.heartbeat_failures.load(Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn a_peer_that_answers_heartbeats_is_kept() {
    let (server, _) = echo().await;
    let quick = ClusterPolicy {
        heartbeat_interval: Duration::from_millis(100),
        ..policy()
    };
    let mess = mess(routing(&[server], quick, retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.call(1, "svc m").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.call(2, "svc m").await;
    assert_eq!(
        mess.mesh.stats.heartbeat_failures.load(Ordering::Relaxed),
        0
    );
    assert_eq!(
        mess.mesh.stats.upstream_connections.load(Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn a_burst_before_the_first_connection_is_made_makes_one() {
    let (server, _) = echo().await;
    let several = ClusterPolicy {
        connections: 8,
        ..policy()
    };
    let mess = mess(routing(&[server], several, retry(1)));
    let mut client = Peer::connect(mess.address).await;
    let text = format!("svc m {}", "x".repeat(1000));
    let burst: Vec<u8> = (0..300).flat_map(|id| frame(1, 0, id, &text)).collect();
    client.0.write_all(&burst).await.unwrap();
    for _ in 0..300 {
        assert_eq!(client.get().await.unwrap().text, text);
    }
    let connections = &mess.mesh.stats.upstream_connections;
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn pings_of_clients_are_answered_on_the_spot() {
    let mess = mess(routing(&[], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(4, 77, "").await;
    let pong = client.get().await.unwrap();
    assert_eq!((pong.kind, pong.id), (5, 77));
}

#[tokio::test]
async fn no_endpoint_no_route_and_unreadable_calls_get_native_answers() {
    let mess = mess(routing(&[], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    assert_eq!(
        client.call(1, "svc m").await.rejection(),
        Some(Rejection::NoEndpoint)
    );
    client
        .0
        .write_all(&[0, 0, 0, 11, 1, 0, 0, 0, 0, 5, 0xff])
        .await
        .unwrap();
    let unreadable = client.get().await.unwrap();
    assert_eq!(
        (unreadable.id, unreadable.rejection()),
        (5, Some(Rejection::BadRequest))
    );
    // The connection lives on.
    assert_eq!(
        client.call(6, "svc m").await.rejection(),
        Some(Rejection::NoEndpoint)
    );

    let mut spec = routing(&[], policy(), retry(1));
    spec.tables[0].routes.clear();
    mess.mesh.apply(spec);
    assert_eq!(
        client.call(2, "svc m").await.rejection(),
        Some(Rejection::NoRoute)
    );
}

#[tokio::test]
async fn garbage_ends_its_connection_after_what_is_in_flight_and_disturbs_no_other() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let mut good = Peer::connect(mess.address).await;
    let mut bad = Peer::connect(mess.address).await;
    bad.send(1, 1, "svc m").await;
    let mut upstream = server.accept().await;
    let in_flight = upstream.get().await.unwrap();
    bad.0
        .write_all(&[0, 0, 0, 20, 99, 0, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    upstream.answer(&in_flight, 0, "done").await;
    assert_eq!(bad.get().await.unwrap().text, "done");
    assert_eq!(bad.get().await, None);
    good.send(1, 5, "svc m").await;
    let got = upstream.get().await.unwrap();
    upstream.answer(&got, 0, "fine").await;
    assert_eq!(good.get().await.unwrap().text, "fine");

    let mut lying = Peer::connect(mess.address).await;
    lying
        .0
        .write_all(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 3])
        .await
        .unwrap();
    let answer = lying.get().await.unwrap();
    assert_eq!(
        (answer.id, answer.rejection()),
        (3, Some(Rejection::TooLarge))
    );
    assert_eq!(lying.get().await, None);
    assert_eq!(mess.mesh.stats.malformed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn calls_over_the_cluster_limit_are_rejected_and_the_rest_go_on() {
    let server = Server::bind().await;
    let tight = ClusterPolicy {
        max_in_flight: 2,
        ..policy()
    };
    let mess = mess(routing(&[server.address], tight, retry(1)));
    let mut client = Peer::connect(mess.address).await;
    for id in 1..=3 {
        client.send(1, id, "svc m").await;
    }
    let over = client.get().await.unwrap();
    assert_eq!(
        (over.id, over.rejection()),
        (3, Some(Rejection::Overloaded))
    );
    let mut upstream = server.accept().await;
    for _ in 0..2 {
        let got = upstream.get().await.unwrap();
        upstream.answer(&got, 0, "ok").await;
        client.get().await.unwrap();
    }
    client.send(1, 4, "svc m").await;
    upstream.get().await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected_and_others_are_served() {
    // Far more than the kernel takes for a client that reads nothing, and a queue after it.
    const CALLS: usize = 300;
    let text = "x".repeat(100_000);
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy(), retry(1));
    spec.limits = Limits {
        queue_soft: 64 * 1024,
        queue_hard: 1024 * 1024,
        ..limits()
    };
    let mess = mess(spec);
    let mut slow = Peer::connect(mess.address).await;
    for id in 0..CALLS {
        slow.send(1, id as u32, "svc m").await;
    }
    let mut upstream = server.accept().await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(upstream.get().await.unwrap());
    }
    for call in &calls {
        upstream.answer(call, 0, &text).await;
    }
    let end = Instant::now() + Duration::from_secs(5);
    while mess.mesh.stats.slow_readers.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < end, "30 MB went somewhere");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut read = Vec::new();
    let all = tokio::time::timeout(Duration::from_secs(5), slow.0.read_to_end(&mut read)).await;
    // The end, or a reset; and not everything before it.
    let _ = all.expect("a connection that ends");
    assert!(read.len() < CALLS * text.len(), "it had everything");
    let mut good = Peer::connect(mess.address).await;
    good.send(1, 1, "svc m").await;
    let call = upstream.get().await.unwrap();
    upstream.answer(&call, 0, "for another").await;
    assert_eq!(good.get().await.unwrap().text, "for another");
}

#[tokio::test]
async fn an_upstream_that_does_not_read_stops_the_reading_from_clients_then_rejects() {
    let server = Server::bind().await;
    let mut spec = routing(
        &[server.address],
        ClusterPolicy {
            connections: 1,
            ..policy()
        },
        retry(1),
    );
    spec.limits = Limits {
        queue_soft: 64 * 1024,
        queue_hard: 1024 * 1024,
        ..limits()
    };
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    let text = format!("svc m timeout=60000 {}", "x".repeat(100_000));
    client.0.write_all(&frame(1, 0, 0, &text)).await.unwrap();
    let _deaf = server.accept().await;
    let (mut reader, mut writer) = client.0.into_split();
    let flood = tokio::spawn(async move {
        for id in 1..2000 {
            if writer.write_all(&frame(1, 0, id, &text)).await.is_err() {
                break;
            }
        }
        writer
    });
    let mut header = [0; 10];
    tokio::time::timeout(
        Duration::from_secs(8),
        tokio::io::AsyncReadExt::read_exact(&mut reader, &mut header),
    )
    .await
    .expect("rejections once the peer has stalled")
    .unwrap();
    assert_eq!(
        Rejection::ALL[usize::from(header[5] - 100)],
        Rejection::Overloaded
    );
    flood.abort();
}

#[tokio::test]
async fn the_first_caller_of_a_service_waits_for_the_registry() {
    let (server, _) = echo().await;
    let mut spec = routing(&[], policy(), retry(1));
    let to = Destination::Registry {
        registry: "r".into(),
        layout: None,
    };
    spec.tables = vec![table(to, retry(1))];
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    client.send(1, 2, "other m timeout=200").await;
    client.send(1, 3, "gone m").await;
    let unanswered = client.get().await.unwrap();
    assert_eq!(
        (unanswered.id, unanswered.rejection()),
        (2, Some(Rejection::DeadlineExceeded))
    );
    let sinks = |name: &str| mess.hand.0.lock().unwrap()[name].clone();
    sinks("gone")[0].update(Snapshot::default());
    let unknown = client.get().await.unwrap();
    assert_eq!(
        (unknown.id, unknown.rejection()),
        (3, Some(Rejection::NoService))
    );
    let snapshot = Snapshot {
        known: true,
        instances: vec![instance(server)],
        ..Snapshot::default()
    };
    sinks("svc")[0].update(snapshot.clone());
    assert_eq!(client.get().await.unwrap().text, "svc m");
    // For a moment the registry is not asked again, and nothing of the name is kept.
    let unknown = client.call(4, "gone m").await;
    assert_eq!(unknown.rejection(), Some(Rejection::NoService));
    assert_eq!(sinks("gone").len(), 1);
    // It appears later: the next to ask finds it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.send(1, 5, "gone m").await;
    while sinks("gone").len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sinks("gone")[1].update(snapshot);
    assert_eq!(client.get().await.unwrap().text, "gone m");
}

#[tokio::test]
async fn an_endpoint_that_says_goodbye_finishes_its_calls_and_gets_no_new_ones() {
    let leaving = Server::bind().await;
    let (other, count) = echo().await;
    let mess = mess(routing(&[leaving.address, other], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    client.send(1, 2, "svc m").await;
    let mut upstream = leaving.accept().await;
    let in_flight = upstream.get().await.unwrap();
    assert_eq!(client.get().await.unwrap().kind, 3);
    upstream.send(6, 0, "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = count.load(Ordering::SeqCst);
    for id in 10..20 {
        client.call(id, "svc m").await;
    }
    assert_eq!(count.load(Ordering::SeqCst), before + 10);
    upstream.answer(&in_flight, 0, "finished").await;
    assert_eq!(client.get().await.unwrap().text, "finished");
}

#[tokio::test]
async fn draining_says_goodbye_finishes_and_ends() {
    let server = Server::bind().await;
    let Mess {
        workers,
        address,
        records,
        ..
    } = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(address).await;
    client.send(1, 1, "svc m").await;
    let mut upstream = server.accept().await;
    let in_flight = upstream.get().await.unwrap();
    let drained = tokio::spawn(async move { workers.drain().await });
    assert_eq!(client.get().await.unwrap().kind, 6, "a goodbye");
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "accepts no more"
    );
    // Within the grace new calls are still served, after it they are answered.
    client.send(1, 2, "svc m").await;
    let graced = upstream.get().await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send(1, 3, "svc m").await;
    let late = client.get().await.unwrap();
    assert_eq!((late.id, late.rejection()), (3, Some(Rejection::Draining)));
    upstream.answer(&in_flight, 0, "one").await;
    upstream.answer(&graced, 0, "two").await;
    assert_eq!(client.get().await.unwrap().text, "one");
    assert_eq!(client.get().await.unwrap().text, "two");
    assert_eq!(client.get().await, None);
    drop(client);
    drained.await.unwrap();
    assert_eq!(records.endings(), ["draining", "success", "success"]);
}

#[tokio::test]
async fn draining_that_takes_too_long_answers_what_is_left() {
    let server = Server::bind().await;
    let Mess {
        workers, address, ..
    } = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(address).await;
    client.send(1, 1, "svc m timeout=60000").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    let began = Instant::now();
    let drained = tokio::spawn(async move { workers.drain().await });
    assert_eq!(client.get().await.unwrap().kind, 6);
    assert_eq!(
        client.get().await.unwrap().rejection(),
        Some(Rejection::Draining)
    );
    assert_eq!(client.get().await, None);
    drop(client);
    drained.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_reload_keeps_connections_and_calls_in_flight() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    let mut upstream = server.accept().await;
    let in_flight = upstream.get().await.unwrap();
    // Another endpoint, another policy and another limit.
    let other = Server::bind().await;
    let another = ClusterPolicy {
        connections: 1,
        ..policy()
    };
    let mut spec = routing(&[other.address], another, retry(2));
    spec.limits = Limits {
        in_flight_per_connection: 2,
        ..limits()
    };
    mess.mesh.apply(spec);
    client.send(1, 2, "svc m").await;
    let mut another = other.accept().await;
    let second = another.get().await.unwrap();
    another.answer(&second, 0, "two").await;
    upstream.answer(&in_flight, 0, "one").await;
    assert_eq!(client.get().await.unwrap().text, "two");
    assert_eq!(client.get().await.unwrap().text, "one");
}

#[tokio::test]
async fn a_client_that_leaves_is_recorded_and_its_answer_dropped() {
    let server = Server::bind().await;
    let mess = mess(routing(&[server.address], policy(), retry(1)));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    let mut upstream = server.accept().await;
    let got = upstream.get().await.unwrap();
    client.0.set_zero_linger().unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    upstream.answer(&got, 0, "nobody").await;
    let mut other = Peer::connect(mess.address).await;
    other.send(1, 1, "svc m").await;
    let got = upstream.get().await.unwrap();
    upstream.answer(&got, 0, "mine").await;
    assert_eq!(other.get().await.unwrap().text, "mine");
    assert_eq!(mess.records.endings(), ["abandoned", "success"]);
}

#[tokio::test]
async fn a_client_that_resets_while_it_is_not_read_holds_no_place_for_long() {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy(), retry(1));
    spec.limits = Limits {
        in_flight_per_connection: 1,
        ..limits()
    };
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc m").await;
    let mut upstream = server.accept().await;
    upstream.get().await.unwrap();
    // It has as many calls in flight as it may, and says more: nobody reads that.
    client.send(1, 2, "svc m").await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    let begin = Instant::now();
    while mess.mesh.status()[0].in_flight > 0 {
        assert!(begin.elapsed() < Duration::from_secs(1), "it holds a place");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(mess.records.endings(), ["abandoned"]);
}
