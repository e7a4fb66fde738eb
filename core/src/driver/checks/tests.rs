//! Checks over real sockets.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::clock::Clock;
use crate::cluster::{ClusterPolicy, ClusterSpec, Source};
use crate::discovery::{Discovery, Instance, Lookup, Sink, WatchGuard};
use crate::health::{Accepts, Asking, Probe};
use crate::net::Socket;

struct Nowhere;

impl Discovery for Nowhere {
    fn watch(&self, _: &Lookup, _: Arc<dyn Sink>) -> WatchGuard {
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

fn cluster(address: SocketAddr) -> Arc<Cluster> {
    let instance = Instance {
        address,
        weight: 1,
        labels: Default::default(),
        warm_up: None,
    };
    let spec = ClusterSpec {
        name: "checked".into(),
        source: Source::Listed(vec![instance]),
        policy: ClusterPolicy::default(),
    };
    Cluster::start(spec, Clock::start(), &Nowhere, None)
}

#[tokio::test]
async fn a_probe_that_panics_is_asked_again_and_blames_nobody() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let Ok(address) = listener
        .as_ref()
        .map_err(drop)
        .and_then(|own| own.local_addr().map_err(drop))
    else {
        panic!("no port")
    };
    let (cluster, probe) = (cluster(address), Arc::new(Clumsy::default()));
    let following = tokio::spawn(follow(Arc::downgrade(&cluster), check(probe.clone())));
    let asked_again = async {
        while probe.0.load(Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(10);
    assert!(tokio::time::timeout(patience, asked_again).await.is_ok());
    let endpoints = cluster.endpoints();
    assert!(!endpoints.all[0].health.unwell.load(Relaxed));
    drop(cluster);
    assert!(
        tokio::time::timeout(patience, following).await.is_ok(),
        "it ends with its cluster"
    );
}

#[tokio::test]
async fn nobody_at_the_address_is_unwell() {
    // Bound, and closed again.
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|own| own.local_addr());
    let Ok(address) = bound else {
        panic!("no port")
    };
    let cluster = cluster(address);
    let places = Arc::new(Semaphore::new(1));
    let found = ask(cluster, address, check(Arc::new(Accepts)), places).await;
    assert!(matches!(found, Found::Unwell(_)), "{found:?}");
}

#[test]
fn what_we_lack_says_nothing_of_an_endpoint() {
    let unmet = |number| unmet(&io::Error::from_raw_os_error(number));
    // EMFILE, ECONNREFUSED, ETIMEDOUT.
    assert!(matches!(unmet(24), Found::Nothing(_)));
    assert!(matches!(unmet(111), Found::Unwell(_)));
    assert_eq!(unmet(110), Found::Silent);
}
