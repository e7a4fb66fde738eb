//! What becomes of offers, and for how long a service is followed.

use futures_util::FutureExt;

use super::*;
use crate::metadata::NoMetadata;
use crate::offer::Provider;
use crate::store::{StoreConfig, ZooKeeperConfig};

const SOON: Duration = Duration::from_secs(1);

/// A follower of a store that is never reached.
fn follower() -> (Follower, watch::Receiver<Option<Arc<Offer>>>) {
    let config = StoreConfig::ZooKeeper(ZooKeeperConfig::open("127.0.0.1:1"));
    let store = Store::start(&Handle::current(), "zk", &config);
    let (offers, receiver) = watch::channel(None);
    let follower = Follower {
        key: Key {
            registry: "zk".to_owned(),
            layout: LayoutKind::Native,
            service: "s".to_owned(),
        },
        store,
        earlier: None,
        turns: Arc::default(),
        hosts: Hosts::new(&Arc::new(Resolver::new(&Handle::current(), NAMES, None))),
        begun: Instant::now(),
        guard: EmptyProtection::new(Duration::from_secs(30)),
        state: Arc::new(State::new(&Arc::default())),
        offers,
    };
    (follower, receiver)
}

#[tokio::test]
async fn what_a_rule_switches_off_is_off_at_once() {
    let provider = |port| Provider {
        address: ([10, 0, 0, 1], port).into(),
        layout: LayoutKind::Native,
        protocol: String::new(),
        version: String::new(),
        group: String::new(),
        weight: 100,
        labels: [].into(),
        since: None,
        warm_up: None,
        origin: None,
        parameters: [].into(),
    };
    let offer = |ports: &[u16]| {
        let providers = ports.iter().map(|port| Arc::new(provider(*port)));
        let providers = providers.collect();
        Offer::new(LayoutKind::Native, true, providers)
    };
    let (mut follower, offers) = follower();
    let offered = || offers.borrow().as_ref().map(|offer| offer.providers.len());
    follower.take(offer(&[1, 2]), 2);
    follower.take(offer(&[]), 2);
    assert_eq!(offered(), Some(0), "both are still registered");
    follower.take(offer(&[1, 2]), 2);
    follower.take(offer(&[]), 0);
    assert_eq!(offered(), Some(2), "neither is: that is doubted");
}

/// Feeds of a store whose servers are not there.
fn alone() -> Arc<Feeds> {
    let handle = Handle::current();
    let config = StoreConfig::ZooKeeper(ZooKeeperConfig::open("127.0.0.1:1"));
    Feeds::new(
        &handle,
        Store::start(&handle, "r", &config),
        Roots::default(),
        SOON,
        None,
        Metadata(Arc::new(NoMetadata)),
    )
}

#[tokio::test]
async fn a_name_that_none_can_have_is_unknown_without_asking() {
    let feeds = alone();
    let long = "x".repeat(1025);
    let encoded = "\u{65e5}".repeat(200);
    for (layout, name) in [
        (LayoutKind::Dubbo, ""),
        (LayoutKind::Dubbo, ".."),
        (LayoutKind::Dubbo, "."),
        (LayoutKind::Dubbo, "a/b"),
        (LayoutKind::Dubbo, &long),
        (LayoutKind::Dubbo, &encoded),
        (LayoutKind::DubboApp, "a\0b"),
        (LayoutKind::Sofa, "a/../../b"),
        (LayoutKind::Sofa, &long),
        (LayoutKind::Spring, "a\nb"),
        (LayoutKind::Native, "a\u{85}b"),
        (LayoutKind::Native, "\u{e000}"),
        (LayoutKind::Grpc, "a//b"),
        (LayoutKind::Grpc, "a/../b"),
        (LayoutKind::Grpc, "/a"),
        (LayoutKind::Grpc, ""),
    ] {
        let feed = feeds.feed(layout, name);
        let offer = feed.offers().borrow().clone();
        assert!(
            offer.is_some_and(|offer| !offer.known && offer.providers.is_empty()),
            "{layout:?} {name:?}"
        );
    }
    assert_eq!(feeds.store.followed(), 0);
    assert_eq!(feeds.len(), 0);
    // But what may be is not known before it was asked for.
    for (layout, name) in [
        (LayoutKind::Dubbo, &long[1..]),
        (LayoutKind::Sofa, "\u{65e5}\u{672c}.Pay"),
        (LayoutKind::Grpc, "a/b"),
    ] {
        assert!(feeds.feed(layout, name).offers().borrow().is_none());
    }
}

#[tokio::test]
async fn nothing_is_followed_for_a_service_that_nobody_asks_for_any_more() {
    let feeds = alone();
    let kept = feeds.feed(LayoutKind::Sofa, "kept");
    for n in 0..1000 {
        let twice = [(); 2].map(|()| feeds.feed(LayoutKind::Dubbo, &format!("invented.{n}")));
        assert!(Arc::ptr_eq(&twice[0], &twice[1]));
    }
    // The tasks are ended, and let go of what they follow when they are dropped.
    let end = Instant::now() + Duration::from_secs(5);
    while feeds.store.followed() > 1 {
        assert!(
            Instant::now() < end,
            "{} are followed",
            feeds.store.followed()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(feeds.len(), 1);
    drop(kept);
    assert_eq!(feeds.len(), 0);
}

#[tokio::test]
async fn a_service_that_changes_alone_is_read_at_once() {
    let handle = Handle::current();
    let store = Store::saved(&handle, "r", &Disk::open(&std::env::temp_dir()));
    let metadata = Metadata(Arc::new(NoMetadata));
    let (roots, centre) = (Arc::<Roots>::default(), Arc::default());
    let mut reading =
        ServiceWatch::begin(&store, &roots, &metadata, &centre, LayoutKind::Sofa, "s");
    let turns = Turns::default();
    assert!(turns.read(&mut reading).now_or_never().is_some());
    assert!(lock(&turns.last).is_some());
    // Right after another, it lets go first whatever else is ready.
    *lock(&turns.last) = Some(Instant::now() + SOON);
    assert!(turns.read(&mut reading).now_or_never().is_none());
}

#[tokio::test]
async fn many_services_that_change_at_once_leave_others_their_turns() {
    let handle = Handle::current();
    let store = Store::saved(&handle, "r", &Disk::open(&std::env::temp_dir()));
    let metadata = Metadata(Arc::new(NoMetadata));
    let (roots, centre) = (Arc::<Roots>::default(), Arc::default());
    let (turns, done) = (Arc::new(Turns::default()), Arc::new(Mutex::new(0)));
    for number in 0..10 * TURNS {
        let service = format!("s{number}");
        let begin =
            |layout| ServiceWatch::begin(&store, &roots, &metadata, &centre, layout, &service);
        let mut reading = begin(LayoutKind::Sofa);
        let (turns, done) = (turns.clone(), done.clone());
        tokio::spawn(async move {
            turns.read(&mut reading).await;
            *lock(&done) += 1;
        });
    }
    let (mut most, mut before) = (0, 0);
    while before < 10 * TURNS {
        tokio::task::yield_now().await;
        let now = *lock(&done);
        most = most.max(now - before);
        before = now;
    }
    // Those that are taken to come alone, as another process had the processor before, are few.
    assert!(most <= 2 * TURNS, "{most} in one turn of this task");
}
