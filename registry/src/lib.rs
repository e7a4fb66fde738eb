//! Where services live: stores x layouts.
//!
//! A *store* holds the entries (ZooKeeper, etcd; a file, memory); a *layout* knows where a
//! framework keeps a service and how it writes a provider. A *feed* follows one service of a
//! layout in a store. Whatever becomes of a store, the last offer that it gave stays in force:
//! only a new offer changes endpoints.

mod bridge;
mod disk;
mod dns;
mod exercise;
mod feed;
mod layout;
mod listed;
mod metadata;
mod offer;
mod registrar;
mod several;
mod store;
mod texts;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use finback_core::clock::{Clock, Now};
use finback_core::discovery::{Discovery, Lookup, Sink, WatchGuard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use disk::Disk;
use dns::Dns;
use feed::{Feed, Feeds};
use layout::Directory;
use listed::Listed;
use metadata::Metadata;
use registrar::Registrar;
use several::Merged;
use store::Store;

pub use bridge::Bridge;
pub use dns::DnsConfig;
pub use exercise::{exercise_instance, exercise_rules, exercise_url};
pub use layout::{Layout, Roots};
pub use listed::ListedService;
pub use metadata::{Asked, MetadataService, NoMetadata};
pub use offer::{CallRules, Offer, Provider};
pub use registrar::{Registration, RegistrationStatus};
pub use several::Several;
pub use store::{EtcdConfig, StoreConfig, TlsConfig, ZooKeeperConfig};
pub use texts::Texts;

/// A registry as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryConfig {
    /// Servers that frameworks register with.
    Servers(Box<ServersConfig>),
    /// A YAML file of services, read again when it changes.
    File(PathBuf),
    /// Services known from the start.
    Memory(Vec<ListedService>),
    /// Names that the system resolves.
    Dns(DnsConfig),
    /// Other registries together, under [their name](Several::name).
    Several(Several),
}

impl RegistryConfig {
    /// Whether it stands for others, and is nothing of its own.
    #[must_use]
    pub fn is_several(&self) -> bool {
        matches!(self, Self::Several(_))
    }
}

/// A registry of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersConfig {
    /// The servers.
    pub store: StoreConfig,
    /// Where layouts begin.
    pub roots: Roots,
    /// How long an offer that is suddenly empty is doubted. Default: 30 s.
    pub empty_protection: Duration,
    /// What is watched from the start, not only when a call asks for it.
    pub eager: Vec<Eager>,
}

impl ServersConfig {
    /// Servers with nothing else set.
    #[must_use]
    pub fn new(store: StoreConfig) -> Self {
        Self {
            store,
            roots: Roots::default(),
            empty_protection: Duration::from_secs(30),
            eager: Vec::new(),
        }
    }
}

/// Services that are watched from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eager {
    /// The layout.
    pub layout: Layout,
    /// Their names; `None` watches all there are.
    pub services: Option<Vec<String>>,
}

/// How it stands with a registry.
#[derive(Clone, Debug)]
pub struct RegistryStatus {
    /// Its configured name.
    pub name: String,
    /// Whether its servers answer (DNS: whether names resolve). Files and memory always do.
    pub connected: bool,
    /// For how long they have not answered.
    pub stale: Duration,
    /// Services that are followed.
    pub services: usize,
    /// Of these, services of which nothing is known yet.
    pub waiting: usize,
    /// Of these, services whose last providers vanished at once, which is doubted.
    pub doubted: usize,
    /// Of these, services known from the snapshot of an earlier run only.
    pub from_disk: usize,
}

/// All configured registries.
pub struct Registries {
    handle: Handle,
    disk: Option<Disk>,
    metadata: Metadata,
    sources: Mutex<HashMap<String, (RegistryConfig, Source)>>,
    watches: Arc<Mutex<HashMap<u64, Watch>>>,
    next_watch: AtomicU64,
    registrar: Registrar,
    bridges: Mutex<Vec<RunningBridge>>,
}

/// A bridge at work.
struct RunningBridge {
    bridge: Bridge,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A registry at work.
#[derive(Clone)]
enum Source {
    Servers(Arc<Servers>),
    Listed(Arc<Listed>),
    Dns(Arc<Dns>),
    Several(Several),
}

struct Servers {
    feeds: Arc<Feeds>,
    eager: Vec<AbortHandle>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for task in &self.eager {
            task.abort();
        }
    }
}

struct Watch {
    lookup: Lookup,
    sink: Arc<dyn Sink>,
    task: Option<AbortHandle>,
}

impl Registries {
    /// Registries that work on the runtime of `handle`. Snapshots are kept in the folder, if
    /// there is one.
    ///
    /// # Errors
    /// If the folder cannot be made or written to.
    pub fn start(
        handle: Handle,
        configs: Vec<(String, RegistryConfig)>,
        snapshots: Option<&Path>,
        metadata: Arc<dyn MetadataService>,
    ) -> std::io::Result<Self> {
        // The clients of ZooKeeper and etcd bring two providers of cryptography: one must be
        // chosen for the process. Whoever has chosen already is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let registries = Self {
            registrar: Registrar::new(&handle),
            bridges: Mutex::default(),
            handle,
            disk: snapshots.map(Disk::open).transpose()?,
            metadata: Metadata(metadata),
            sources: Mutex::default(),
            watches: Arc::default(),
            next_watch: AtomicU64::new(0),
        };
        registries.replace(configs);
        Ok(registries)
    }

    /// Puts other registries in place of these. Those that did not change keep their sessions;
    /// watches on a registry that did are begun anew, and keep their last snapshot meanwhile.
    pub fn replace(&self, configs: Vec<(String, RegistryConfig)>) {
        let mut changed = Vec::new();
        {
            let mut sources = lock(&self.sources);
            let mut before = std::mem::take(&mut *sources);
            for (name, config) in configs {
                let kept = before.remove(&name).filter(|(former, _)| *former == config);
                let source = match kept {
                    Some((_, source)) => source,
                    None => {
                        changed.push(name.clone());
                        self.open(&name, &config)
                    }
                };
                sources.insert(name, (config, source));
            }
            let touched = |config: &RegistryConfig| match config {
                RegistryConfig::Several(several) => {
                    several.registries.iter().any(|name| changed.contains(name))
                }
                _ => false,
            };
            let several = sources.iter().filter(|(_, (config, _))| touched(config));
            let several: Vec<String> = several.map(|(name, _)| name.clone()).collect();
            changed.extend(several);
        }
        let mut watches = lock(&self.watches);
        for watch in watches.values_mut() {
            if changed.iter().any(|name| **name == *watch.lookup.registry) {
                if let Some(task) = watch.task.take() {
                    task.abort();
                }
                watch.task = self.follow(&watch.lookup, &watch.sink);
            }
        }
        drop(watches);
        for registration in self.registrar.all() {
            if changed.contains(&registration.registry) {
                self.registrar.remove(&registration);
                self.register(&registration);
            }
        }
        let mut bridges = lock(&self.bridges);
        for running in std::mem::take(&mut *bridges) {
            let touched =
                |end: &(String, Layout)| changed.contains(&end.0) || self.feeds(&end.0).is_none();
            if touched(&running.bridge.from) || touched(&running.bridge.to) {
                running.stop.send_replace(true);
                bridges.extend(self.start_bridge(running.bridge));
            } else {
                bridges.push(running);
            }
        }
    }

    fn feeds(&self, registry: &str) -> Option<Arc<Feeds>> {
        match &lock(&self.sources).get(registry)?.1 {
            Source::Servers(servers) => Some(servers.feeds.clone()),
            Source::Listed(_) | Source::Dns(_) | Source::Several(_) => None,
        }
    }

    /// Registers a local service until [`unregister`](Self::unregister) or
    /// [`withdraw`](Self::withdraw). Does nothing if it is registered already.
    pub fn register(&self, registration: &Registration) {
        match self.feeds(&registration.registry) {
            Some(feeds) => self.registrar.add(registration, &feeds),
            None => tracing::error!(
                registry = registration.registry,
                "no such registry of servers to register with"
            ),
        }
    }

    /// Takes a registration back.
    pub fn unregister(&self, registration: &Registration) {
        self.registrar.remove(registration);
    }

    /// What is registered for local services.
    #[must_use]
    pub fn registrations(&self) -> Vec<RegistrationStatus> {
        self.registrar.status()
    }

    /// Runs these bridges and no others; those that did not change go on undisturbed.
    pub fn set_bridges(&self, wanted: Vec<Bridge>) {
        let mut bridges = lock(&self.bridges);
        let mut running = std::mem::take(&mut *bridges);
        for bridge in wanted {
            let former = running.iter().position(|own| own.bridge == bridge);
            match former {
                Some(former) => bridges.push(running.swap_remove(former)),
                None => bridges.extend(self.start_bridge(bridge)),
            }
        }
        for ended in running {
            ended.stop.send_replace(true);
        }
    }

    fn start_bridge(&self, bridge: Bridge) -> Option<RunningBridge> {
        let (Some(from), Some(to)) = (self.feeds(&bridge.from.0), self.feeds(&bridge.to.0)) else {
            tracing::error!(?bridge, "a bridge needs registries of servers at both ends");
            return None;
        };
        let (stop, stopped) = watch::channel(false);
        let running = bridge::run(self.handle.clone(), bridge.clone(), from, to, stopped);
        Some(RunningBridge {
            bridge,
            stop,
            task: self.handle.spawn(running),
        })
    }

    /// Takes everything back that was registered or mirrored: the first thing on the way out.
    pub async fn withdraw(&self) {
        let bridges = std::mem::take(&mut *lock(&self.bridges));
        for bridge in &bridges {
            bridge.stop.send_replace(true);
        }
        self.registrar.withdraw().await;
        for bridge in bridges {
            // A bridge takes its entries back within a bound of its own.
            let _ = bridge.task.await;
        }
    }

    fn open(&self, name: &str, config: &RegistryConfig) -> Source {
        match config {
            RegistryConfig::Servers(config) => {
                let feeds = Feeds::new(
                    &self.handle,
                    Store::start(&self.handle, name, &config.store),
                    config.roots.clone(),
                    config.empty_protection,
                    self.disk.clone(),
                    self.metadata.clone(),
                );
                let eager = config
                    .eager
                    .iter()
                    .map(|eager| {
                        let watching = keep_watching(feeds.clone(), eager.clone());
                        self.handle.spawn(watching).abort_handle()
                    })
                    .collect();
                Source::Servers(Arc::new(Servers { feeds, eager }))
            }
            RegistryConfig::File(path) => Source::Listed(Listed::file(&self.handle, path)),
            RegistryConfig::Memory(services) => Source::Listed(Listed::memory(services.clone())),
            RegistryConfig::Dns(config) => Source::Dns(Arc::new(Dns::new(config.clone()))),
            RegistryConfig::Several(several) => Source::Several(several.clone()),
        }
    }

    fn follow(&self, lookup: &Lookup, sink: &Arc<dyn Sink>) -> Option<AbortHandle> {
        let source = lock(&self.sources).get(&*lookup.registry)?.1.clone();
        let (lookup, sink) = (lookup.clone(), sink.clone());
        let Source::Several(several) = source else {
            let task = self.handle.spawn(source.follow(lookup, sink));
            return Some(task.abort_handle());
        };
        let merged = Merged::new(&several);
        let mut members = Vec::new();
        for (number, name) in several.registries.iter().enumerate() {
            let member = lock(&self.sources).get(name)?.1.clone();
            let of_member = Lookup {
                registry: name.as_str().into(),
                ..lookup.clone()
            };
            members.push(member.follow(of_member, merged.sink(number)));
        }
        let task = self.handle.spawn(async move {
            // Ended with this task.
            let mut following = JoinSet::new();
            for member in members {
                following.spawn(member);
            }
            merged.deliver(&*sink).await;
        });
        Some(task.abort_handle())
    }

    /// How it stands with each registry, by name.
    #[must_use]
    pub fn status(&self) -> Vec<RegistryStatus> {
        let sources = lock(&self.sources);
        let mut all: Vec<RegistryStatus> = sources
            .iter()
            .filter(|(_, (config, _))| !config.is_several())
            .map(|(name, (_, source))| source.status(name))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Follows one service of a registry of servers: its offers of every version and group.
    /// `None` if there is no such registry, or it is a list.
    #[must_use]
    pub fn offers(&self, registry: &str, layout: Layout, service: &str) -> Option<Offers> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return None;
        };
        let feed = servers.feeds.feed(layout, service);
        Some(Offers {
            offers: feed.offers(),
            _feed: feed,
        })
    }

    /// The names of all services of a layout in a registry of servers. `None` if there is no
    /// such registry, it is a list, or its servers do not answer within `patience`.
    pub async fn services(
        &self,
        registry: &str,
        layout: Layout,
        patience: Duration,
    ) -> Option<BTreeSet<String>> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return None;
        };
        let feeds = &servers.feeds;
        let mut directory = Directory::begin(feeds.store(), feeds.roots(), layout);
        let names = async {
            loop {
                if let Some(names) = directory.latest() {
                    return names;
                }
                directory.changed().await;
            }
        };
        tokio::time::timeout(patience, names).await.ok()
    }
}

/// The offers of one service, followed for as long as this lives.
pub struct Offers {
    offers: watch::Receiver<Option<Arc<Offer>>>,
    _feed: Arc<Feed>,
}

impl Offers {
    /// The latest offer; `None` until the first.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<Offer>> {
        self.offers.borrow_and_update().clone()
    }

    /// Waits for another offer.
    pub async fn changed(&mut self) {
        if self.offers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Source {
    /// Keeps a sink up to date on what is looked up, for as long as it runs.
    async fn follow(self, lookup: Lookup, sink: Arc<dyn Sink>) {
        match self {
            Self::Listed(listed) => listed.follow(&lookup, &*sink).await,
            Self::Dns(dns) => dns.follow(&lookup, &*sink).await,
            Self::Servers(servers) => {
                let Some(layout) = Layout::named(&lookup.layout) else {
                    tracing::error!(layout = %lookup.layout, "no such layout");
                    return;
                };
                let feed = servers.feeds.feed(layout, &lookup.service);
                drop(servers);
                deliver(&feed, &lookup, &*sink).await;
            }
            Self::Several(_) => tracing::error!("registries of registries of registries"),
        }
    }

    fn status(&self, name: &str) -> RegistryStatus {
        let mut status = RegistryStatus {
            name: name.to_owned(),
            connected: true,
            stale: Duration::ZERO,
            services: 0,
            waiting: 0,
            doubted: 0,
            from_disk: 0,
        };
        if let Self::Dns(dns) = self {
            let stale = dns.stale();
            status.connected = stale.is_none();
            status.stale = stale.unwrap_or_default();
            status.services = dns.followed();
        }
        if let Self::Servers(servers) = self {
            let store = servers.feeds.store().status();
            let feeds = servers.feeds.all();
            status.connected = store.connected;
            if !store.connected {
                status.stale = Instant::now().duration_since(store.since);
            }
            status.services = feeds.len();
            status.waiting = feeds
                .iter()
                .filter(|(_, feed)| feed.offers().borrow().is_none())
                .count();
            status.doubted = feeds.iter().filter(|(_, feed)| feed.is_held()).count();
            status.from_disk = feeds.iter().filter(|(_, feed)| feed.is_from_disk()).count();
        }
        status
    }
}

/// Gives a sink what a lookup finds in a feed's offers, as it changes.
async fn deliver(feed: &Feed, lookup: &Lookup, sink: &dyn Sink) {
    let mut offers = feed.offers();
    let mut last = None;
    loop {
        let offer = offers.borrow_and_update().clone();
        if let Some(offer) = offer {
            let snapshot = offer.snapshot(feed.layout, lookup);
            if last.as_ref() != Some(&snapshot) {
                sink.update(snapshot.clone());
                last = Some(snapshot);
            }
        }
        if offers.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps services followed that nobody has asked for yet.
async fn keep_watching(feeds: Arc<Feeds>, eager: Eager) {
    if let Some(services) = &eager.services {
        let _kept: Vec<Arc<Feed>> = services
            .iter()
            .map(|service| feeds.feed(eager.layout, service))
            .collect();
        return std::future::pending().await;
    }
    let mut directory = Directory::begin(feeds.store(), feeds.roots(), eager.layout);
    let mut kept: HashMap<String, Arc<Feed>> = HashMap::new();
    loop {
        if let Some(names) = directory.latest() {
            // One that is gone from the list may be gone for a moment only; its feed tells.
            kept.retain(|name, feed| {
                names.contains(name)
                    || feed
                        .offers()
                        .borrow()
                        .as_ref()
                        .is_some_and(|offer| !offer.providers.is_empty())
            });
            for name in names {
                kept.entry(name)
                    .or_insert_with_key(|name| feeds.feed(eager.layout, name));
            }
            tracing::debug!(root = directory.root(), services = kept.len(), "directory");
        }
        directory.changed().await;
    }
}

impl Discovery for Registries {
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn Sink>) -> WatchGuard {
        let number = self.next_watch.fetch_add(1, Ordering::Relaxed);
        let task = self.follow(lookup, &sink);
        if task.is_none() {
            tracing::error!(registry = %lookup.registry, "no such registry");
        }
        lock(&self.watches).insert(
            number,
            Watch {
                lookup: lookup.clone(),
                sink,
                task,
            },
        );
        Box::new(Guard {
            number,
            watches: self.watches.clone(),
        })
    }
}

/// Ends its watch when dropped.
struct Guard {
    number: u64,
    watches: Arc<Mutex<HashMap<u64, Watch>>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Bound first: dropping the sink may drop a cluster, and with it another guard.
        let watch = lock(&self.watches).remove(&self.number);
        if let Some(task) = watch.as_ref().and_then(|watch| watch.task.as_ref()) {
            task.abort();
        }
    }
}

/// The time, for what is logged at a bounded rate.
fn now() -> Now {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::start);
    CLOCK.now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
