//! Checks over real sockets.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::clock::Clock;
use crate::cluster::{ClusterPolicy, ClusterSpec, Source};
use crate::discovery::{Discovery, Instance, Lookup, Snapshot, SnapshotSink, WatchGuard};
use crate::health::{Accepts, Asking, Probe};
use crate::net::Socket;

const PATIENCE: Duration = Duration::from_secs(10);

struct Nowhere;

impl Discovery for Nowhere {
    fn watch(&self, _: &Lookup, _: Arc<dyn SnapshotSink>) -> WatchGuard {
        Box::new(())
    }
}

/// Panics the first time, and finds nothing wrong after that.
#[derive(Default)]
struct Clumsy(AtomicU32);

impl Probe for Clumsy {
    fn ask(&self, _: Socket) -> Asking {
        let is_first = self.0.fetch_add(1, Relaxed) == 0;
        Box::pin(async move {
            assert!(!is_first, "a fault of the probe's own");
            Ok(())
        })
    }
}

fn check(probe: Arc<dyn Probe>) -> HealthCheck {
    HealthCheck {
        probe,
        settings: "".into(),
        port: None,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        unhealthy: 1,
        healthy: 1,
    }
}

fn instance(address: SocketAddr) -> Instance {
    Instance {
        address,
        weight: 1,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    }
}

fn cluster(address: SocketAddr) -> Arc<Cluster> {
    let spec = ClusterSpec {
        name: "checked".into(),
        source: Source::Listed(vec![instance(address)]),
        policy: ClusterPolicy::default(),
    };
    Cluster::start(spec, Clock::start(), &Nowhere, None)
}

/// Somebody who accepts connections as long as this is kept.
fn someone() -> (std::net::TcpListener, SocketAddr) {
    let bound = std::net::TcpListener::bind("127.0.0.1:0");
    match bound.and_then(|own| own.local_addr().map(|address| (own, address))) {
        Ok(someone) => someone,
        Err(error) => panic!("no port: {error}"),
    }
}

/// Waits until the probe was used so often.
async fn until_asked(probe: &Clumsy, times: u32) {
    let asked = async {
        while probe.0.load(Relaxed) < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asked).await.is_ok());
}

#[tokio::test]
async fn a_probe_that_panics_is_asked_again_and_blames_nobody() {
    let (_someone, address) = someone();
    let (cluster, probe) = (cluster(address), Arc::new(Clumsy::default()));
    let following = tokio::spawn(follow(Arc::downgrade(&cluster), check(probe.clone())));
    until_asked(&probe, 3).await;
    let endpoints = cluster.endpoints();
    assert!(!endpoints.all[0].health.unhealthy.load(Relaxed));
    drop(cluster);
    let ended = tokio::time::timeout(PATIENCE, following).await;
    assert!(ended.is_ok(), "it ends with its cluster");
}

#[tokio::test]
async fn who_is_new_is_checked_at_once() {
    let ((_first, first), (_second, second)) = (someone(), someone());
    let (cluster, probe) = (cluster(first), Arc::new(Clumsy(AtomicU32::new(1))));
    let rare = HealthCheck {
        interval: Duration::from_secs(3600),
        ..check(probe.clone())
    };
    let following = tokio::spawn(follow(Arc::downgrade(&cluster), rare));
    until_asked(&probe, 2).await;
    cluster.update(Snapshot {
        known: true,
        instances: vec![instance(first), instance(second)],
        ..Snapshot::default()
    });
    until_asked(&probe, 3).await;
    drop(cluster);
    let ended = tokio::time::timeout(PATIENCE, following).await;
    assert!(
        ended.is_ok(),
        "it ends with its cluster, whatever the interval"
    );
}

#[tokio::test]
async fn nobody_at_the_address_is_unhealthy() {
    let (bound, address) = someone();
    drop(bound);
    let places = Arc::new(Semaphore::new(1));
    let accepts = check(Arc::new(Accepts));
    let found = ask(cluster(address), address, accepts, places).await;
    assert!(matches!(found, Found::Unhealthy(_)), "{found:?}");
}

#[test]
fn what_we_lack_says_nothing_of_an_endpoint() {
    let unmet = |number| unmet(&io::Error::from_raw_os_error(number));
    // EMFILE, ECONNREFUSED, ETIMEDOUT.
    assert!(matches!(unmet(24), Found::Nothing(_)));
    assert!(matches!(unmet(111), Found::Unhealthy(_)));
    assert_eq!(unmet(110), Found::Silent);
}
