//! Clients without a keep-alive are bounded by `limits.idle`, those before CONNECT too; the others by
//! their keep-alive.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use finback_mqtt::{Config, Mqtt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MESSAGE: &str = "0\x05\0\x01thi";

/// A session that its broker has accepted.
async fn session(mess: &Mess, broker: &Server, keep_alive: u8) -> (Peer, Peer) {
    let mut client = Peer::connect(mess.address).await;
    let connect = [
        b"\x10\x10\0\x04MQTT\x04\x02\0",
        &[keep_alive][..],
        b"\0\x04test",
    ]
    .concat();
    client.0.write_all(&connect).await.unwrap();
    let mut upstream = broker.accept().await;
    let mut heard = [0; 18];
    upstream.0.read_exact(&mut heard).await.unwrap();
    upstream.0.write_all(b"\x20\x02\0\0").await.unwrap();
    let mut connack = [0; 4];
    client.0.read_exact(&mut connack).await.unwrap();
    (client, upstream)
}

#[tokio::test]
async fn who_has_no_keep_alive_is_idle_when_neither_side_says_anything() {
    let broker = Server::bind().await;
    let spec = routing(&[broker.address], policy("1.1"), 2);
    let mess = serve(spec.clone(), 1, Arc::new(Mqtt::new(Config::default())));
    let (mut quiet, mut quiet_upstream) = session(&mess, &broker, 0).await;
    let (mut listening, mut talking) = session(&mess, &broker, 0).await;
    let (mut kept, _upstream) = session(&mess, &broker, 60).await;
    let mut lower = spec;
    lower.limits.idle = Duration::from_millis(400);
    mess.mesh.apply(lower);
    let mut unsaid = Peer::connect(mess.address).await;
    for _ in 0..12 {
        talking.say(MESSAGE).await;
        assert_eq!(listening.hear("thi").await, MESSAGE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(quiet.ends(Duration::from_millis(10)).await);
    assert!(quiet_upstream.ends(Duration::from_millis(10)).await);
    assert!(unsaid.ends(Duration::from_millis(10)).await, "no CONNECT");
    assert!(!kept.ends(Duration::from_millis(10)).await);
    assert!(listening.ends(Duration::from_secs(2)).await);
}

#[tokio::test]
async fn sessions_end_within_the_grace() {
    let broker = Server::bind().await;
    let spec = routing(&[broker.address], policy("1.1"), 2);
    let mess = serve(spec, 1, Arc::new(Mqtt::new(Config::default())));
    let (mut client, mut upstream) = session(&mess, &broker, 60).await;
    mess.workers.unlisten(mess.listener);
    assert!(client.ends(Duration::from_secs(2)).await);
    assert!(upstream.ends(Duration::from_secs(2)).await);
}
