//! What the end-to-end tests stand on: real processes, a real registry, the real binary.

pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod cable;
pub(crate) mod certificates;
pub(crate) mod device;
pub(crate) mod endpoint;
pub(crate) mod etcd;
pub(crate) mod finback;
pub(crate) mod frames;
pub(crate) mod jaeger;
pub(crate) mod java;
pub(crate) mod kafka;
pub(crate) mod mock_kafka;
pub(crate) mod mosquitto;
pub(crate) mod mqtt;
pub(crate) mod nginx;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod proxies;
pub(crate) mod reaper;
pub(crate) mod remoting;
pub(crate) mod rocketmq;
pub(crate) mod rocketmq_clients;
pub(crate) mod rpc;
pub(crate) mod statsd;
pub(crate) mod tls;
pub(crate) mod web;
pub(crate) mod world;
pub(crate) mod zookeeper;

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A port that is free now, outside the range from which the system gives ports to clients: one
/// of those could be taken by anybody's connection before its server starts, even by the
/// connection that looks whether the server is there.
pub(crate) fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many such ports one after the other, none of which anybody else is given.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(count.into(), Ordering::Relaxed) + std::process::id() * 37;
        let first = u16::try_from(12_000 + step % 20_000).unwrap();
        let is_free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
        if first + count <= 32_000 && (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// This machine's address that is not loopback. Dubbo for Java connects to no other.
pub(crate) fn host_address() -> IpAddr {
    // Connecting a datagram socket sends nothing: it only asks which address would be used.
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket
            .connect("198.18.0.2:9")
            .or_else(|_| socket.connect("192.0.2.1:9"))?;
        socket.local_addr()
    });
    match address {
        Ok(address) if !address.ip().is_loopback() => address.ip(),
        _ => panic!("this machine has only loopback: run `make peers`, which adds an address"),
    }
}

/// A new folder that goes away with the tests.
pub(crate) fn temporary_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("finback-test-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir(&folder).unwrap();
    reaper::remove(&folder);
    folder
}

/// Tries until `attempt` gives something, which it must within `limit`.
pub(crate) fn eventually<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) => assert!(
                Instant::now() < end,
                "{what}: not within {limit:?}; last: {why}"
            ),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
