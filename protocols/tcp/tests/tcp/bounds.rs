//! The limits hold for sessions of TCP, also when they change; sessions make way when we go.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use finback_tcp::Tcp;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

async fn session(mess: &Mess, server: &Server) -> (Peer, Peer) {
    let mut client = Peer::connect(mess.address).await;
    client.say("up").await;
    let mut upstream = server.accept().await;
    upstream.hear("up").await;
    upstream.say("down").await;
    client.hear("down").await;
    (client, upstream)
}

#[tokio::test]
async fn a_session_ends_when_nothing_moves_either_way() {
    let server = Server::bind().await;
    let spec = routing(&[server.address], policy("1.1"), 2);
    let mess = serve(spec.clone(), 1, Arc::new(Tcp));
    let (mut quiet, mut quiet_upstream) = session(&mess, &server).await;
    let (mut listening, mut talking) = session(&mess, &server).await;
    let mut lower = spec;
    lower.limits.idle = Duration::from_millis(400);
    mess.mesh.apply(lower);
    for _ in 0..12 {
        talking.say("still").await;
        listening.hear("still").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(quiet.ends(Duration::from_millis(10)).await);
    assert!(quiet_upstream.ends(Duration::from_millis(10)).await);
    listening.say("and here").await;
    talking.hear("and here").await;
    assert!(listening.ends(Duration::from_secs(2)).await);
}

#[tokio::test]
async fn stopping_ends_quiet_sessions_after_the_grace_and_all_in_time() {
    let server = Server::bind().await;
    let mess = serve(
        routing(&[server.address], policy("1.1"), 2),
        1,
        Arc::new(Tcp),
    );
    let (mut quiet, _kept) = session(&mess, &server).await;
    let (mut listening, mut talking) = session(&mess, &server).await;
    let begin = Instant::now();
    let talk = async {
        loop {
            let _ = talking.0.write_all(b"still").await;
            if listening.hear("still").await.is_empty() {
                return begin.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let wait = async {
        quiet.ends(PATIENCE).await;
        begin.elapsed()
    };
    let (talked, waited, ()) = tokio::join!(talk, wait, mess.workers.drain());
    assert!(waited > Duration::from_millis(250) && waited < Duration::from_millis(1500));
    assert!(talked > Duration::from_millis(1900), "{talked:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_listener_that_is_gone_takes_its_quiet_sessions_along() {
    let server = Server::bind().await;
    let spec = routing(&[server.address], policy("1.1"), 2);
    let mess = serve(spec, 1, Arc::new(Tcp));
    let (mut quiet, mut upstream) = session(&mess, &server).await;
    mess.workers.unlisten(mess.listener);
    assert!(quiet.ends(Duration::from_secs(2)).await);
    assert!(upstream.ends(Duration::from_secs(2)).await);
}
