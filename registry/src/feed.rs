//! Service watch: keeps the providers of one service in one layout up to date from its store, and guards them against what
//! a registry in trouble says.
//!
//! Whatever becomes of the store, the last offer stays in force. An offer that is suddenly empty
//! is doubted for a while; a single removal that the store reports while all is well is not.

mod guard;
mod hosts;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::disk::{Disk, Key};
use crate::layout::rules::Centre;
use crate::layout::{Drafts, LayoutKind, Roots, ServiceWatch};
use crate::lock;
use crate::metadata::Metadata;
use crate::names::Resolver;
use crate::offer::Offer;
use crate::remembered::Remembered;
use crate::store::Store;
use guard::EmptyProtection;
use hosts::Hosts;
use state::{Counts, State};

/// How long the store may take before the snapshot on disk is used.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long the snapshot may take to be read.
const FROM_DISK: Duration = Duration::from_secs(1);
/// The snapshot of a service that is followed is written anew after this, so that it can be told
/// from those that nobody follows any more.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts given by name are looked up again after this.
const NAMES: Duration = Duration::from_secs(30);
/// How long the first offer of a service waits for its hosts' names.
const FIRST_NAMES: Duration = Duration::from_secs(1);

/// A service that changes so long after the last one was read changes alone.
const ALONE: Duration = Duration::from_millis(1);

/// Services that are read in one turn of their thread: after a start or a new session all change at
/// once, and whatever else the thread does shall not wait for all of them.
const TURNS: usize = 32;

/// What all feeds of one registry have in common.
pub(crate) struct Feeds {
    handle: Handle,
    store: Arc<Store>,
    roots: Arc<Roots>,
    /// How long an offer that is suddenly empty is doubted.
    protection: Duration,
    earlier: Option<Arc<Earlier>>,
    metadata: Metadata,
    resolver: Arc<Resolver>,
    /// The rules that services share.
    centre: Arc<Centre>,
    feeds: Arc<Mutex<Followers>>,
    counts: Arc<Counts>,
    turns: Arc<Turns>,
}

/// What an earlier run knew of the registry.
struct Earlier {
    disk: Disk,
    store: Arc<Store>,
    roots: Arc<Roots>,
    metadata: Metadata,
    centre: Arc<Centre>,
}

/// The feeds of services, only for as long as they are followed.
type Followers = HashMap<Name, Weak<Feed>>;
/// What tells them apart.
type Name = (LayoutKind, String);

/// A service followed for as long as this lives.
pub(crate) struct Feed {
    pub(crate) layout: LayoutKind,
    offers: watch::Receiver<Option<Arc<Offer>>>,
    state: Arc<State>,
    /// `None` for a service of a name that none can have.
    task: Option<AbortHandle>,
    /// Where it stands among the feeds.
    place: Option<(Arc<Mutex<Followers>>, Name)>,
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
    fn unknown(layout: LayoutKind) -> Self {
        let (_, offers) = watch::channel(Some(Arc::new(Offer::new(layout, false, Vec::new()))));
        Self {
            layout,
            offers,
            state: Arc::new(State::new(&Arc::default())),
            task: None,
            place: None,
        }
    }

    /// Its offers.
    pub(crate) fn offers(&self) -> watch::Receiver<Option<Arc<Offer>>> {
        self.offers.clone()
    }

    /// Whether its offer is empty for want of permission to read.
    pub(crate) fn is_refused(&self) -> bool {
        self.state.is_refused()
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
        let registry = store.name().to_owned();
        let roots = Arc::new(roots);
        let own = disk.clone().map(|disk| (disk, registry.clone()));
        let resolver = Arc::new(Resolver::new(handle, NAMES, own));
        let remembered = |disk: &Disk, service| {
            Metadata(Arc::new(Remembered {
                service,
                disk: disk.clone(),
                registry: registry.clone(),
            }))
        };
        let earlier = |disk: &Disk| Earlier {
            disk: disk.clone(),
            store: Store::saved(handle, &registry, disk),
            roots: roots.clone(),
            metadata: remembered(disk, None),
            centre: Arc::default(),
        };
        let earlier = disk.as_ref().map(earlier).map(Arc::new);
        let metadata = match &disk {
            Some(disk) => remembered(disk, Some(metadata.0)),
            None => metadata,
        };
        Arc::new(Self {
            handle: handle.clone(),
            store,
            roots,
            protection,
            earlier,
            metadata,
            resolver,
            centre: Arc::default(),
            feeds: Arc::default(),
            counts: Arc::default(),
            turns: Arc::default(),
        })
    }

    /// Resolves the names that providers give for hosts.
    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// The feed of a service, begun if need be.
    pub(crate) fn feed(&self, layout: LayoutKind, service: &str) -> Arc<Feed> {
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

    /// How many services are followed now.
    pub(crate) fn len(&self) -> usize {
        lock(&self.feeds).len()
    }

    /// Their state.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn begin(&self, layout: LayoutKind, service: &str) -> Feed {
        let (offers, receiver) = watch::channel(None);
        let state = Arc::new(State::new(&self.counts));
        let follower = Box::new(Follower {
            key: Key {
                registry: self.store.name().to_owned(),
                layout,
                service: service.to_owned(),
            },
            store: self.store.clone(),
            earlier: self.earlier.clone(),
            turns: self.turns.clone(),
            hosts: Hosts::new(&self.resolver),
            begun: Instant::now(),
            guard: EmptyProtection::new(self.protection),
            state: state.clone(),
            offers,
        });
        let reading = ServiceWatch::begin(
            &self.store,
            &self.roots,
            &self.metadata,
            &self.centre,
            layout,
            service,
        );
        let running = self.handle.spawn(follower.run(reading));
        Feed {
            layout,
            offers: receiver,
            state,
            task: Some(running.abort_handle()),
            place: Some((self.feeds.clone(), (layout, service.to_owned()))),
        }
    }
}

/// Which services may be read at the same time; the others wait their turn.
struct Turns {
    permits: Semaphore,
    /// When the last one was read.
    last: Mutex<Option<Instant>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(TURNS),
            last: Mutex::default(),
        }
    }
}

impl Turns {
    /// What a service's places say now, if all of it is known.
    async fn read(&self, reading: &mut ServiceWatch) -> Option<Drafts> {
        let is_alone = lock(&self.last).is_none_or(|last| last.elapsed() >= ALONE);
        if is_alone {
            // Nobody waits behind it, and a thread that rests is woken once.
            return self.look(reading);
        }
        let _turn = self.permits.acquire().await;
        let drafts = self.look(reading);
        // Kept until all else that is ready had its turn.
        tokio::task::yield_now().await;
        drafts
    }

    fn look(&self, reading: &mut ServiceWatch) -> Option<Drafts> {
        let drafts = reading.latest();
        *lock(&self.last) = Some(Instant::now());
        drafts
    }
}

/// The task of one feed.
struct Follower {
    key: Key,
    store: Arc<Store>,
    earlier: Option<Arc<Earlier>>,
    turns: Arc<Turns>,
    hosts: Hosts,
    begun: Instant,
    guard: EmptyProtection,
    state: Arc<State>,
    offers: watch::Sender<Option<Arc<Offer>>>,
}

impl Follower {
    /// Boxed: a task keeps room for its arguments twice.
    async fn run(mut self: Box<Self>, mut reading: ServiceWatch) {
        // Boxed: what is over soon shall not take room for as long as the service is followed.
        Box::pin(self.start_from_disk(&mut reading)).await;
        let mut unreadable = 0;
        let turns = self.turns.clone();
        loop {
            if let Some(drafts) = turns.read(&mut reading).await {
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
                self.consider(drafts, &mut reading);
            }
            let again = match self.guard.doubted_until() {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None if self.hosts.pending() => FIRST_NAMES,
                None => REFRESH,
            };
            // Whichever comes first, everything is looked at again.
            tokio::select! {
                () = reading.changed() => {}
                () = self.hosts.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Offers what was known in an earlier run if the store does not answer, takes its time, or
    /// lets us read nothing.
    async fn start_from_disk(&mut self, reading: &mut ServiceWatch) {
        let Some(earlier) = self.earlier.clone() else {
            return;
        };
        let turns = self.turns.clone();
        let first = async {
            // A store that cannot be reached is not waited for.
            if !self.store.answers_within(FIRST_ANSWER).await {
                return false;
            }
            loop {
                if let Some(drafts) = turns.read(reading).await {
                    return !drafts.refused || !drafts.drafts.is_empty();
                }
                reading.changed().await;
            }
        };
        if let Ok(true) = tokio::time::timeout(FIRST_ANSWER, first).await {
            return;
        }
        if let Some(offer) = self.load(&earlier).await {
            let Key {
                registry, service, ..
            } = &self.key;
            tracing::warn!(
                registry,
                service,
                providers = offer.providers.len(),
                "the registry does not answer; using the snapshot of an earlier run"
            );
            // Whatever the store says first comes after a gap.
            self.guard.accepted(offer.providers.len(), None);
            self.offers.send_replace(Some(Arc::new(offer)));
            self.state.offered(true);
        }
    }

    /// What an earlier run knew, if it knew any providers.
    async fn load(&mut self, earlier: &Earlier) -> Option<Offer> {
        let (layout, service) = (self.key.layout, &*self.key.service);
        let Earlier {
            store,
            roots,
            metadata,
            centre,
            ..
        } = earlier;
        let mut reading = ServiceWatch::begin(store, roots, metadata, centre, layout, service);
        let found = async {
            loop {
                if let Some(drafts) = reading.latest() {
                    let offer = self.hosts.resolve(layout, drafts);
                    if !self.hosts.pending() {
                        return offer;
                    }
                    self.hosts.changed().await;
                } else {
                    reading.changed().await;
                }
            }
        };
        let found = tokio::time::timeout(FROM_DISK, found).await.ok();
        if let Some(offer) = found.filter(|offer| !offer.providers.is_empty()) {
            return Some(offer);
        }
        let (disk, key) = (earlier.disk.clone(), self.key.clone());
        let former = tokio::task::spawn_blocking(move || disk.load_former(&key));
        former.await.ok()?
    }

    /// Takes what the store says, unless that is no answer.
    fn consider(&mut self, drafts: Drafts, reading: &mut ServiceWatch) {
        let (listed, drafted) = (drafts.listed, drafts.drafts.len());
        let refused = drafts.refused && listed == 0;
        let has_some = |offer: &Option<Arc<Offer>>| {
            let offer = offer.as_ref();
            offer.is_some_and(|offer| !offer.providers.is_empty())
        };
        let knows_some = has_some(&self.offers.borrow());
        self.state.refuse(refused && !knows_some);
        if refused && knows_some {
            return;
        }
        let offer = self.hosts.resolve(self.key.layout, drafts);
        if drafted > 0 && offer.providers.is_empty() {
            // Names that do not resolve: no answer either.
            let waits = self.hosts.pending() && self.begun.elapsed() < FIRST_NAMES;
            if knows_some || waits {
                return;
            }
        }
        if self.take(offer, listed)
            && let Some(earlier) = &self.earlier
        {
            reading.save(&earlier.disk, &self.key.registry, listed > 0);
            earlier.disk.forget_former(&self.key);
        }
    }

    /// Offers what the store says, of which so many providers are `listed`, if that is to be believed:
    /// a rule that switches all of them off is. Whether it is.
    fn take(&mut self, offer: Offer, listed: usize) -> bool {
        let epoch = self.store.status().epoch;
        let accepted = self.guard.admits(listed, epoch, Instant::now());
        let was_doubted = self.state.doubt(!accepted);
        let Key {
            registry, service, ..
        } = &self.key;
        if !accepted {
            if !was_doubted {
                let protection = self.guard.protection();
                tracing::warn!(
                    registry,
                    service,
                    ?protection,
                    "all providers are gone at once; the last ones are kept for a while"
                );
            }
            return false;
        }
        let changed = self.offers.send_if_modified(|last| {
            let differs = last.as_deref() != Some(&offer);
            if differs {
                *last = Some(Arc::new(offer));
            }
            differs
        });
        self.state.offered(false);
        if changed {
            tracing::debug!(registry, service, listed, "offer");
        }
        true
    }
}

#[cfg(test)]
mod tests;
