//! One service of one layout, followed: what its store says, guarded against what a registry in
//! trouble says.
//!
//! Whatever becomes of the store, the last offer stays in force. An offer that is suddenly empty
//! is doubted for a while; a single removal that the store reports while all is well is not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use finback_core::text::Escaped;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::disk::{Disk, Key};
use crate::layout::rules::Centre;
use crate::layout::{Draft, Drafts, Layout, Reading, Roots};
use crate::lock;
use crate::metadata::Metadata;
use crate::offer::{Offer, Provider};
use crate::store::Store;

/// How long the store may take before the snapshot on disk is used.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// The snapshot of a service that is followed is written anew after this, so that it can be told
/// from those that nobody follows any more.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts given by name are looked up again after this.
const NAMES: Duration = Duration::from_secs(30);

/// What all feeds of one registry have in common.
pub(crate) struct Feeds {
    handle: Handle,
    store: Arc<Store>,
    roots: Roots,
    /// How long an offer that is suddenly empty is doubted.
    protection: Duration,
    disk: Option<Disk>,
    metadata: Metadata,
    /// The rules that services share.
    centre: Arc<Centre>,
    feeds: Arc<Mutex<Followers>>,
}

/// The feeds of services, only for as long as they are followed.
type Followers = HashMap<Name, Weak<Feed>>;
/// What tells them apart.
type Name = (Layout, String);

/// A service followed for as long as this lives.
pub(crate) struct Feed {
    pub(crate) layout: Layout,
    offers: watch::Receiver<Option<Arc<Offer>>>,
    state: Arc<State>,
    /// `None` for a service of a name that none can have.
    task: Option<AbortHandle>,
    /// Where it stands among the feeds.
    place: Option<(Arc<Mutex<Followers>>, Name)>,
}

/// What an operator wants to know of a feed.
#[derive(Default)]
struct State {
    /// An empty offer is being doubted.
    held: AtomicBool,
    /// Its offer is the snapshot of an earlier run.
    from_disk: AtomicBool,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        let Some((feeds, key)) = &self.place else {
            return;
        };
        let mut feeds = lock(feeds);
        // Another may stand there by now.
        if feeds.get(key).is_some_and(|own| own.strong_count() == 0) {
            feeds.remove(key);
        }
    }
}

impl Feed {
    /// The feed of a service that cannot be: its store is never asked.
    fn unknown(layout: Layout) -> Self {
        let (_, offers) = watch::channel(Some(Arc::new(Offer::new(layout, false, Vec::new()))));
        Self {
            layout,
            offers,
            state: Arc::default(),
            task: None,
            place: None,
        }
    }

    /// Its offers.
    pub(crate) fn offers(&self) -> watch::Receiver<Option<Arc<Offer>>> {
        self.offers.clone()
    }

    /// Whether an empty offer is being doubted.
    pub(crate) fn is_held(&self) -> bool {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Whether its offer is the snapshot of an earlier run.
    pub(crate) fn is_from_disk(&self) -> bool {
        self.state.from_disk.load(Ordering::Relaxed)
    }
}

impl Feeds {
    pub(crate) fn new(
        handle: &Handle,
        store: Arc<Store>,
        roots: Roots,
        protection: Duration,
        disk: Option<Disk>,
        metadata: Metadata,
    ) -> Arc<Self> {
        Arc::new(Self {
            handle: handle.clone(),
            store,
            roots,
            protection,
            disk,
            metadata,
            centre: Arc::default(),
            feeds: Arc::default(),
        })
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The feed of a service, begun if need be.
    pub(crate) fn feed(&self, layout: Layout, service: &str) -> Arc<Feed> {
        if !layout.is_name(service) {
            return Arc::new(Feed::unknown(layout));
        }
        let key = (layout, service.to_owned());
        let mut feeds = lock(&self.feeds);
        if let Some(feed) = feeds.get(&key).and_then(Weak::upgrade) {
            return feed;
        }
        let feed = Arc::new(self.begin(layout, service));
        feeds.insert(key, Arc::downgrade(&feed));
        feed
    }

    /// All feeds that are followed now.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Feed>)> {
        let feeds = lock(&self.feeds);
        feeds
            .iter()
            .filter_map(|((_, service), feed)| Some((service.clone(), feed.upgrade()?)))
            .collect()
    }

    fn begin(&self, layout: Layout, service: &str) -> Feed {
        let (offers, receiver) = watch::channel(None);
        let state = Arc::<State>::default();
        let follower = Follower {
            key: Key {
                registry: self.store.name().to_owned(),
                layout,
                service: service.to_owned(),
            },
            store: self.store.clone(),
            disk: self.disk.clone(),
            guard: Guard::new(self.protection),
            state: state.clone(),
            offers,
            saved: None,
        };
        let reading = Reading::begin(
            &self.store,
            &self.roots,
            &self.metadata,
            &self.centre,
            layout,
            service,
        );
        let task = self.handle.spawn(follower.run(reading)).abort_handle();
        Feed {
            layout,
            offers: receiver,
            state,
            task: Some(task),
            place: Some((self.feeds.clone(), (layout, service.to_owned()))),
        }
    }
}

/// The task of one feed.
struct Follower {
    key: Key,
    store: Arc<Store>,
    disk: Option<Disk>,
    guard: Guard,
    state: Arc<State>,
    offers: watch::Sender<Option<Arc<Offer>>>,
    /// When its snapshot was written last.
    saved: Option<Instant>,
}

impl Follower {
    async fn run(mut self, mut reading: Reading) {
        self.start_from_disk(&mut reading).await;
        let mut named = false;
        let mut unreadable = 0;
        loop {
            if let Some(drafts) = reading.latest() {
                if drafts.unreadable != unreadable {
                    unreadable = drafts.unreadable;
                    let Key {
                        registry, service, ..
                    } = &self.key;
                    tracing::warn!(
                        registry,
                        service,
                        unreadable,
                        "entries that cannot be read are left out"
                    );
                }
                named = drafts.drafts.iter().any(|draft| is_name(&draft.host));
                let (listed, drafted) = (drafts.listed, drafts.drafts.len());
                let offer = resolve(self.key.layout, drafts).await;
                // What rules switch off is there all the same; what cannot be resolved is not.
                let unknown = drafted.saturating_sub(offer.providers.len());
                self.take(offer, listed.saturating_sub(unknown));
            }
            let again = match (named, self.guard.doubted_until) {
                (_, Some(until)) => until.saturating_duration_since(Instant::now()),
                (true, None) => NAMES,
                (false, None) => REFRESH,
            };
            // Either way, everything is looked at again.
            let _ = tokio::time::timeout(again, reading.changed()).await;
        }
    }

    /// Offers what was known in an earlier run if the store takes its time.
    async fn start_from_disk(&mut self, reading: &mut Reading) {
        let Some(disk) = &self.disk else { return };
        let connected = self.store.connected_within(FIRST_ANSWER).await;
        if connected && reading.latest().is_none() {
            let first = async {
                while reading.latest().is_none() {
                    reading.changed().await;
                }
            };
            if tokio::time::timeout(FIRST_ANSWER, first).await.is_ok() {
                return;
            }
        } else if connected {
            return;
        }
        let (disk, key) = (disk.clone(), self.key.clone());
        let loaded = tokio::task::spawn_blocking(move || disk.load(&key)).await;
        if let Ok(Some(offer)) = loaded {
            let Key {
                registry, service, ..
            } = &self.key;
            tracing::warn!(
                registry,
                service,
                providers = offer.providers.len(),
                "the registry does not answer; using the snapshot of an earlier run"
            );
            self.state.from_disk.store(true, Ordering::Relaxed);
            // Whatever the store says first comes after a gap.
            self.guard.accepted(offer.providers.len(), None);
            self.offers.send_replace(Some(Arc::new(offer)));
        }
    }

    /// Offers what the store says, of which so many providers are `listed`, if that is to be believed:
    /// a rule that switches all of them off is.
    fn take(&mut self, offer: Offer, listed: usize) {
        let epoch = self.store.status().epoch;
        let accepted = self.guard.admits(listed, epoch, Instant::now());
        let was_held = self.state.held.swap(!accepted, Ordering::Relaxed);
        let Key {
            registry, service, ..
        } = &self.key;
        if !accepted {
            if !was_held {
                let protection = self.guard.protection;
                tracing::warn!(
                    registry,
                    service,
                    ?protection,
                    "all providers are gone at once; doubted for a while"
                );
            }
            return;
        }
        self.state.from_disk.store(false, Ordering::Relaxed);
        let changed = self.offers.send_if_modified(|last| {
            let differs = last.as_deref() != Some(&offer);
            if differs {
                *last = Some(Arc::new(offer));
            }
            differs
        });
        if let Some(offer) = &*self.offers.borrow() {
            if changed {
                let providers = offer.providers.len();
                tracing::debug!(registry, service, providers, "offer");
            }
            let is_old = self.saved.is_none_or(|saved| saved.elapsed() >= REFRESH);
            if let Some(disk) = &self.disk
                && (changed || is_old)
            {
                disk.save(&self.key, offer);
                self.saved = Some(Instant::now());
            }
        }
    }
}

/// Decides which offers to believe.
struct Guard {
    protection: Duration,
    /// Providers of the last accepted offer, and the store's epoch then.
    last: Option<(usize, Option<u64>)>,
    doubted_until: Option<Instant>,
}

impl Guard {
    fn new(protection: Duration) -> Self {
        Self {
            protection,
            last: None,
            doubted_until: None,
        }
    }

    fn accepted(&mut self, providers: usize, epoch: Option<u64>) {
        self.last = Some((providers, epoch));
        self.doubted_until = None;
    }

    /// Whether an offer of so many providers is to be believed. An empty one is if there was
    /// none before, if the last provider was taken away while the store was well, or if it
    /// stays empty for the time of protection.
    fn admits(&mut self, providers: usize, epoch: u64, now: Instant) -> bool {
        let doubtful = providers == 0
            && match self.last {
                None | Some((0, _)) => false,
                Some((1, before)) => before != Some(epoch),
                Some(_) => true,
            };
        if doubtful {
            let until = *self.doubted_until.get_or_insert(now + self.protection);
            if now < until {
                return false;
            }
        }
        self.accepted(providers, Some(epoch));
        true
    }
}

async fn resolve(layout: Layout, drafts: Drafts) -> Offer {
    let Drafts {
        known, lane, rules, ..
    } = drafts;
    let mut providers = Vec::with_capacity(drafts.drafts.len());
    for draft in drafts.drafts {
        let (host, port) = (draft.host.clone(), draft.port);
        match address(draft).await {
            Some(provider) => providers.push(provider),
            None => tracing::warn!(
                host = %Escaped(&host), port,
                "host is not known; provider left out"
            ),
        }
    }
    let mut offer = Offer::new(layout, known, providers);
    offer.lane = lane.or(offer.lane);
    offer.rules = rules;
    offer
}

async fn address(draft: Draft) -> Option<Provider> {
    let Draft {
        host,
        port,
        mut provider,
    } = draft;
    provider.address = match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => tokio::net::lookup_host((host.as_str(), port))
            .await
            .ok()?
            .next()?,
    };
    Some(provider)
}

fn is_name(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::NoMetadata;
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
                layout: Layout::Native,
                service: "s".to_owned(),
            },
            store,
            disk: None,
            guard: Guard::new(Duration::from_secs(30)),
            state: Arc::default(),
            offers,
            saved: None,
        };
        (follower, receiver)
    }

    #[tokio::test]
    async fn what_a_rule_switches_off_is_off_at_once() {
        let provider = |port| Provider {
            address: ([10, 0, 0, 1], port).into(),
            layout: Layout::Native,
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
            let providers = ports.iter().map(|port| provider(*port)).collect();
            Offer::new(Layout::Native, true, providers)
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

    #[test]
    fn an_offer_suddenly_empty_is_doubted_for_a_while() {
        let mut guard = Guard::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(0, 1, now));
        assert!(guard.admits(3, 1, now));
        assert!(!guard.admits(0, 1, now));
        assert!(!guard.admits(0, 1, now + SOON));
        assert!(guard.admits(0, 1, now + Duration::from_secs(31)));
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
            (Layout::Dubbo, ""),
            (Layout::Dubbo, ".."),
            (Layout::Dubbo, "."),
            (Layout::Dubbo, "a/b"),
            (Layout::Dubbo, &long),
            (Layout::Dubbo, &encoded),
            (Layout::DubboApp, "a\0b"),
            (Layout::Sofa, "a/../../b"),
            (Layout::Sofa, &long),
            (Layout::Spring, "a\nb"),
            (Layout::Native, "a\u{85}b"),
            (Layout::Native, "\u{e000}"),
            (Layout::Grpc, "a//b"),
            (Layout::Grpc, "a/../b"),
            (Layout::Grpc, "/a"),
            (Layout::Grpc, ""),
        ] {
            let feed = feeds.feed(layout, name);
            let offer = feed.offers().borrow().clone();
            assert!(
                offer.is_some_and(|offer| !offer.known && offer.providers.is_empty()),
                "{layout:?} {name:?}"
            );
        }
        assert_eq!(feeds.store.followed(), 0);
        assert_eq!(feeds.all().len(), 0);
        // But what may be is not known before it was asked for.
        for (layout, name) in [
            (Layout::Dubbo, &long[1..]),
            (Layout::Sofa, "\u{65e5}\u{672c}.Pay"),
            (Layout::Grpc, "a/b"),
        ] {
            assert!(feeds.feed(layout, name).offers().borrow().is_none());
        }
    }

    #[tokio::test]
    async fn nothing_is_followed_for_a_service_that_nobody_asks_for_any_more() {
        let feeds = alone();
        let kept = feeds.feed(Layout::Sofa, "kept");
        for n in 0..1000 {
            let twice = [(); 2].map(|()| feeds.feed(Layout::Dubbo, &format!("invented.{n}")));
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
        assert_eq!(lock(&feeds.feeds).len(), 1);
        drop(kept);
        assert_eq!(lock(&feeds.feeds).len(), 0);
    }

    #[test]
    fn a_single_removal_counts_at_once_unless_the_store_was_away() {
        let mut guard = Guard::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(2, 1, now));
        assert!(guard.admits(1, 1, now));
        assert!(guard.admits(0, 1, now));
        assert!(guard.admits(1, 1, now));
        assert!(!guard.admits(0, 2, now));
        assert!(guard.admits(1, 2, now));
        assert!(guard.admits(0, 2, now));
    }

    #[test]
    fn what_comes_back_ends_the_doubt() {
        let mut guard = Guard::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(3, 1, now));
        assert!(!guard.admits(0, 2, now));
        assert!(guard.admits(2, 2, now + SOON));
        assert!(!guard.admits(0, 3, now + Duration::from_secs(29)));
        assert!(!guard.admits(0, 3, now + Duration::from_secs(31)));
    }
}
