//! A mesh that speaks one protocol, scripted endpoints and a client, for tests of any protocol.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::{Discovery, Instance, Lookup, SnapshotSink, WatchGuard};
use finback_core::driver::{ListenerSpec, Protocol, Workers};
use finback_core::mesh::{Limits, Mesh, RoutingSpec};
use finback_core::net::ServerTls;
use finback_core::record::{Observer, Record, Series, SeriesKey};
use finback_core::route::{Destination, Match, Retry, Route, RouteTable, Weighted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

struct Nothing;

impl Series for Nothing {
    fn record(&self, _: &Record) {}
}

impl Observer for Nothing {
    fn series(&self, _: usize, _: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Self)
    }
}

impl Discovery for Nothing {
    fn watch(&self, _: &Lookup, _: Arc<dyn SnapshotSink>) -> WatchGuard {
        Box::new(())
    }
}

pub(crate) struct Mess {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) workers: Workers,
    pub(crate) address: SocketAddr,
    pub(crate) listener: u64,
}

pub(crate) fn policy(version: &str) -> ClusterPolicy {
    ClusterPolicy {
        connect_timeout: Duration::from_millis(500),
        version: Some(version.into()),
        ..ClusterPolicy::default()
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        call_timeout: Duration::from_secs(5),
        drain_grace: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

/// Routing in which every call goes to one cluster of these endpoints.
pub(crate) fn routing(
    endpoints: &[SocketAddr],
    policy: ClusterPolicy,
    attempts: u32,
) -> RoutingSpec {
    let instance = |address| Instance {
        address,
        weight: 100,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    };
    let route = Route {
        name: "only".into(),
        when: Match::default(),
        to: Destination::Clusters(vec![Weighted {
            cluster: "all".into(),
            weight: 1,
            subset: None,
            spill: true,
        }]),
        timeout: None,
        retry: Retry {
            attempts,
            ..Retry::default()
        },
        priority: Default::default(),
        long_poll: false,
        tracing: None,
        filters: Default::default(),
        shadow: None,
        tap: None,
        treatment: None,
    };
    RoutingSpec {
        tables: vec![RouteTable {
            name: "main".into(),
            routes: vec![Arc::new(route)],
        }],
        clusters: vec![ClusterSpec {
            name: "all".into(),
            source: Source::Listed(endpoints.iter().copied().map(instance).collect()),
            policy,
        }],
        filters: Vec::new(),
        listener_filters: Default::default(),
        registry_policy: ClusterPolicy::default(),
        limits: limits(),
    }
}

pub(crate) fn serve(spec: RoutingSpec, workers: usize, protocol: Arc<dyn Protocol>) -> Mess {
    serve_under(None, spec, workers, protocol)
}

/// The same under TLS, if there is any.
pub(crate) fn serve_under(
    tls: Option<Arc<ServerTls>>,
    spec: RoutingSpec,
    workers: usize,
    protocol: Arc<dyn Protocol>,
) -> Mess {
    serve_seen(Arc::new(Nothing), tls, spec, workers, protocol)
}

/// The same, with somebody who gets the records.
pub(crate) fn serve_seen(
    observer: Arc<dyn Observer>,
    tls: Option<Arc<ServerTls>>,
    spec: RoutingSpec,
    workers: usize,
    protocol: Arc<dyn Protocol>,
) -> Mess {
    let mesh = Mesh::new(spec, HashMap::new(), Arc::new(Nothing), observer);
    let workers = Workers::start(&mesh, workers).unwrap();
    let bound = workers
        .bind(ListenerSpec {
            pinned: None,
            stats: Arc::default(),
            tls,
            proxies: Arc::default(),
            reveal_endpoints: false,
            name: "front".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            protocols: vec![protocol],
            routes: "main".into(),
            settings: "".into(),
        })
        .unwrap();
    let (address, listener) = (bound.address(), bound.id());
    workers.listen(bound);
    Mess {
        mesh,
        workers,
        address,
        listener,
    }
}

/// A scripted endpoint.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> Peer {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept());
        Peer(accepted.await.expect("a connection in time").unwrap().0)
    }
}

/// One end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until what was read ends so.
    pub(crate) async fn hear(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let reading = async {
            while !all.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => all.push(byte),
                    Err(_) => break,
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, reading).await;
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(heard.is_ok(), "only {all:?} came");
        all
    }

    /// Whether it ends within a period.
    pub(crate) async fn ends(&mut self, period: Duration) -> bool {
        let mut rest = [0; 1024];
        let reading = async { while !matches!(self.0.read(&mut rest).await, Ok(0) | Err(_)) {} };
        tokio::time::timeout(period, reading).await.is_ok()
    }
}
