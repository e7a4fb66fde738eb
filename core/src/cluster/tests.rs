//! What a cluster keeps when its endpoints change, or a reload replaces it.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::endpoint::{Seen, Standing};

/// A registry whose word the test gives itself.
#[derive(Default)]
struct Told(Mutex<Vec<Arc<dyn SnapshotSink>>>);

impl Discovery for Told {
    fn watch(&self, _: &Lookup, sink: Arc<dyn SnapshotSink>) -> WatchGuard {
        let mut sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.push(sink);
        Box::new(())
    }
}

fn instances(ports: &[u16]) -> Vec<Instance> {
    let instance = |port: &u16| Instance {
        address: ([127, 0, 0, 1], *port).into(),
        weight: 1,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    };
    ports.iter().map(instance).collect()
}

fn discovered(service: &str) -> Source {
    Source::Discovered(Lookup {
        registry: "r".into(),
        layout: "l".into(),
        service: service.into(),
        version: "".into(),
        group: "".into(),
        protocol: "".into(),
    })
}

fn snapshot(ports: &[u16]) -> Snapshot {
    Snapshot {
        known: true,
        instances: instances(ports),
        ..Snapshot::default()
    }
}

fn spec(source: Source) -> ClusterSpec {
    ClusterSpec {
        name: "c".into(),
        source,
        policy: ClusterPolicy::default(),
    }
}

fn start(source: Source, former: Option<&Cluster>) -> Arc<Cluster> {
    Cluster::start(spec(source), Clock::start(), &Told::default(), former)
}

fn health(cluster: &Cluster, port: u16) -> Arc<Health> {
    let endpoints = cluster.endpoints();
    let found = endpoints
        .all
        .iter()
        .find(|each| each.address.port() == port);
    found.map(|found| found.health.clone()).unwrap_or_default()
}

/// Marks what is known of the endpoint at port 1.
fn ejected(cluster: &Cluster) -> Arc<Health> {
    let health = health(cluster, 1);
    health.stand.set(Seen::ejected(Now(u64::MAX)));
    health.in_flight.store(7, Relaxed);
    health.ewma_nanos.store(9, Relaxed);
    health
}

fn assert_kept(former: &Arc<Health>, cluster: &Cluster) {
    let health = health(cluster, 1);
    assert!(Arc::ptr_eq(former, &health));
    assert!(matches!(health.standing(Now(1)), Standing::Ejected(_)));
    assert_eq!(health.in_flight.load(Relaxed), 7);
    assert_eq!(health.ewma_nanos.load(Relaxed), 9);
}

#[test]
fn a_changed_list_changes_what_is_known_of_the_changed_only() {
    let before = start(Source::Listed(instances(&[1, 2])), None);
    let kept = ejected(&before);
    let after = start(Source::Listed(instances(&[1, 2, 3])), Some(&before));
    assert_kept(&kept, &after);
    let fewer = start(Source::Listed(instances(&[1])), Some(&after));
    assert_kept(&kept, &fewer);
}

#[test]
fn whatever_the_source_was_and_is_an_address_keeps_its_health() {
    let told = Told::default();
    let clock = Clock::start();
    let listed = start(Source::Listed(instances(&[1, 2])), None);
    let kept = ejected(&listed);
    let watched = Cluster::start(spec(discovered("a")), clock, &told, Some(&listed));
    assert!(
        !watched.endpoints().ready,
        "another source's endpoints are not its own"
    );
    watched.update(snapshot(&[1, 5]));
    assert_kept(&kept, &watched);
    let other = Cluster::start(spec(discovered("b")), clock, &told, Some(&watched));
    other.update(snapshot(&[1]));
    assert_kept(&kept, &other);
    // The same source: they are there at once.
    let same = Cluster::start(spec(discovered("b")), clock, &told, Some(&other));
    assert_kept(&kept, &same);
    let back = start(Source::Listed(instances(&[1, 2])), Some(&same));
    assert_kept(&kept, &back);
}

#[test]
fn accounts_go_on_through_a_reload() {
    let before = start(Source::Listed(instances(&[1])), None);
    before.in_flight.fetch_add(3, Relaxed);
    before.stats.ejections.add(Detector::Trial);
    before.stats.ejections.add(Detector::SuccessRate);
    assert!(before.budget.acquire(0));
    let after = start(Source::Listed(instances(&[1, 2])), Some(&before));
    assert_eq!(after.in_flight.load(Relaxed), 3);
    assert_eq!(after.stats.ejections.all(), 2);
    assert_eq!(after.budget.used(), 1);
    // A lease of before that ends now.
    before.in_flight.fetch_sub(1, Relaxed);
    before.budget.release();
    assert_eq!((after.in_flight.load(Relaxed), after.budget.used()), (2, 0));
}

#[test]
fn who_is_registered_again_is_heard_through_an_old_connection() {
    let cluster = start(discovered("a"), None);
    cluster.update(snapshot(&[1, 2]));
    // As a connection's pool does.
    let pool = cluster.endpoints().all[0].clone();
    cluster.update(snapshot(&[2]));
    cluster.update(snapshot(&[1, 2]));
    pool.health.leaving_until.store(u64::MAX, Relaxed);
    let again = cluster.endpoints().all[0].clone();
    assert!(!again.available(Now(1)), "its goodbye is seen");
}

#[test]
fn who_is_registered_again_is_not_unhealthy_from_before() {
    let cluster = start(discovered("a"), None);
    cluster.update(snapshot(&[1, 2]));
    health(&cluster, 1).unhealthy.store(true, Relaxed);
    health(&cluster, 2).unhealthy.store(true, Relaxed);
    cluster.update(snapshot(&[2]));
    cluster.update(snapshot(&[1, 2]));
    assert!(!health(&cluster, 1).unhealthy.load(Relaxed));
    assert!(
        health(&cluster, 2).unhealthy.load(Relaxed),
        "it was never away"
    );
}

#[test]
fn without_checks_nobody_stays_unhealthy() {
    let before = start(Source::Listed(instances(&[1])), None);
    health(&before, 1).unhealthy.store(true, Relaxed);
    let after = start(discovered("a"), Some(&before));
    after.update(snapshot(&[1]));
    assert!(!health(&after, 1).unhealthy.load(Relaxed));
}

#[test]
fn who_did_not_change_stays_the_same_object() {
    let before = start(Source::Listed(instances(&[1, 2])), None);
    let first = before.endpoints().all[0].clone();
    let after = start(Source::Listed(instances(&[1])), Some(&before));
    assert!(Arc::ptr_eq(&first, &after.endpoints().all[0]));
}

#[test]
fn who_cannot_be_connected_to_is_left_alone_unless_the_want_is_ours() {
    let cluster = start(Source::Listed(instances(&[1, 2])), None);
    let endpoint = cluster.endpoints().all[0].clone();
    let now = Now(1_000_000);
    // EMFILE, ECONNREFUSED.
    cluster.cannot_connect(&endpoint, now, &io::Error::from_raw_os_error(24));
    assert!(endpoint.available(now));
    cluster.cannot_connect(&endpoint, now, &io::Error::from_raw_os_error(111));
    assert!(!endpoint.available(now));
}
