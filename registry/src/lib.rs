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
mod heard;
mod hosts;
mod layout;
mod listed;
mod looks;
mod merged;
mod metadata;
mod names;
mod offer;
mod polled;
mod registrar;
mod remembered;
mod several;
mod store;
mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use finback_core::clock::{Clock, Now};
use finback_core::discovery::{Discovery, Lookup, Sink, Snapshot, WatchGuard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use bridge::{Ends, Order};
use disk::Disk;
use dns::Dns;
use feed::{Feed, Feeds};
use hosts::Hosts;
use layout::Directory;
use listed::Listed;
use metadata::Metadata;
use polled::Polled;
use registrar::Registrar;
use several::Merged;
use store::{Gathering, Store};

pub use bridge::Bridge;
pub use dns::DnsConfig;
pub use exercise::{exercise_instance, exercise_rules, exercise_url};
pub use hosts::{HostCluster, HostEndpoint};
pub use layout::{LayoutKind, Roots};
pub use listed::ListedService;
pub use looks::Looks;
pub use metadata::{Asked, MetadataService, NoMetadata};
pub use offer::{CallRules, Offer, Provider};
pub use polled::HttpConfig;
pub use registrar::{Registration, RegistrationStatus};
pub use several::Several;
pub use store::{EtcdConfig, StoreConfig, TlsConfig, ZooKeeperConfig};
pub use texts::Texts;

/// Services that begin to be followed in one turn of their thread.
const AT_ONCE: usize = 32;

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
    /// A list of addresses that a server gives by HTTP.
    Http(HttpConfig),
    /// Clusters whose endpoints are written down, some by host name, by the clusters' names.
    Hosts(BTreeMap<String, HostCluster>),
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
    pub layout: LayoutKind,
    /// Their names; `None` watches all there are.
    pub services: Option<Vec<String>>,
}

/// The state of a registry.
#[derive(Clone, Debug)]
pub struct RegistryStatus {
    /// Its configured name.
    pub name: String,
    /// Whether its servers answer, and let us read what they let us read before (DNS: whether
    /// names resolve; of a file, whether it can be read and is whole).
    pub connected: bool,
    /// For how long they have not answered, or something could not be read.
    pub stale: Duration,
    /// Services that are followed; of a list, services in it.
    pub services: usize,
    /// Of these, services of which nothing is known yet.
    pub waiting: usize,
    /// Of these, services whose last providers vanished at once, and are kept for a while.
    pub protected: usize,
    /// Of these, services known from the snapshot of an earlier run only.
    pub from_disk: usize,
    /// Reads that its servers refuse or fail: what they answered last stays. Of a file, 1 while
    /// what it says is wrong or doubted.
    pub failing_reads: usize,
    /// Host names that do not resolve any more: their last addresses stay.
    pub failing_names: usize,
    /// What is the matter, as far as it is known.
    pub error: Option<String>,
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
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// A registry at work.
#[derive(Clone)]
enum Source {
    Servers(Arc<Servers>),
    Listed(Arc<Listed>),
    Dns(Arc<Dns>),
    Http(Arc<Polled>),
    Hosts(Arc<Hosts>),
    Several(Several),
}

struct Servers {
    feeds: Arc<Feeds>,
    eager: Vec<AbortHandle>,
    /// An earlier run left snapshots of it.
    remembered: bool,
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
    target: Target,
    task: Option<AbortHandle>,
}

/// Where a watch delivers.
#[derive(Clone)]
struct Target {
    sink: Arc<dyn Sink>,
    /// It has been given endpoints, perhaps by a registry that was configured before.
    served: Arc<AtomicBool>,
}

impl Sink for Target {
    fn update(&self, snapshot: Snapshot) {
        if !snapshot.instances.is_empty() {
            self.served.store(true, Ordering::Relaxed);
        }
        self.sink.update(snapshot);
    }
}

impl Registries {
    /// Registries that work on the runtime of `handle`. Snapshots are kept in the folder, if
    /// there is one.
    #[must_use]
    pub fn start(
        handle: Handle,
        configs: Vec<(String, RegistryConfig)>,
        snapshots: Option<&Path>,
        metadata: Arc<dyn MetadataService>,
    ) -> Self {
        // The clients of ZooKeeper and etcd bring two providers of cryptography: one must be
        // chosen for the process. Whoever has chosen already is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let registries = Self {
            registrar: Registrar::new(&handle),
            bridges: Mutex::default(),
            handle,
            disk: snapshots.map(Disk::open),
            metadata: Metadata(metadata),
            sources: Mutex::default(),
            watches: Arc::default(),
            next_watch: AtomicU64::new(0),
        };
        registries.replace(configs);
        registries
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
                watch.task = self.follow(&watch.lookup, &watch.target);
            }
        }
        drop(watches);
        for registration in self.registrar.all() {
            if changed.contains(&registration.registry)
                && let Some(feeds) = self.feeds(&registration.registry)
            {
                self.registrar.renew(&registration, &feeds);
            }
        }
        let mut bridges = lock(&self.bridges);
        bridges.retain(|running| {
            let Bridge { from, to, .. } = &running.bridge;
            let is_touched = changed.contains(&from.0) || changed.contains(&to.0);
            match self.ends(&running.bridge) {
                Some(ends) => {
                    if is_touched {
                        running.orders.send_replace(Order::Mirror(ends));
                    }
                    true
                }
                None => {
                    running.orders.send_replace(Order::End);
                    false
                }
            }
        });
    }

    fn feeds(&self, registry: &str) -> Option<Arc<Feeds>> {
        match &lock(&self.sources).get(registry)?.1 {
            Source::Servers(servers) => Some(servers.feeds.clone()),
            Source::Listed(_)
            | Source::Dns(_)
            | Source::Http(_)
            | Source::Hosts(_)
            | Source::Several(_) => None,
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

    /// Puts registrations in the place of others: what is in both is not touched, and what goes
    /// does so when what comes is there.
    pub fn change_registrations(&self, before: &[Registration], after: &[Registration]) {
        let gone: Vec<_> = before.iter().filter(|own| !after.contains(own)).collect();
        let former = self.registrar.detach(&gone);
        for registration in after {
            match self.feeds(&registration.registry) {
                Some(feeds) => self.registrar.succeed(registration, &feeds, &former),
                None => self.register(registration),
            }
        }
        self.registrar.release_after(former, after);
    }

    /// Runs these bridges and no others; those that did not change go on undisturbed, and one into
    /// the same target goes on where another was.
    pub fn set_bridges(&self, wanted: Vec<Bridge>) {
        let mut bridges = lock(&self.bridges);
        let mut running = std::mem::take(&mut *bridges);
        let mut fresh = Vec::new();
        for bridge in wanted {
            match running.iter().position(|own| own.bridge == bridge) {
                Some(same) => bridges.push(running.swap_remove(same)),
                None => fresh.push(bridge),
            }
        }
        for bridge in fresh {
            let Some(ends) = self.ends(&bridge) else {
                continue;
            };
            let likeness = |own: &RunningBridge| {
                let Bridge { from, address, .. } = &own.bridge;
                (*from == bridge.from, *address == bridge.address)
            };
            let former = (0..running.len())
                .filter(|at| running[*at].bridge.to == bridge.to)
                .max_by_key(|at| likeness(&running[*at]));
            match former {
                Some(former) => {
                    let mut former = running.swap_remove(former);
                    former.orders.send_replace(Order::Mirror(ends));
                    former.bridge = bridge;
                    bridges.push(former);
                }
                None => bridges.push(self.start_bridge(ends)),
            }
        }
        for ended in running {
            ended.orders.send_replace(Order::End);
        }
    }

    /// A bridge with its registries; `None` unless both are of servers.
    fn ends(&self, bridge: &Bridge) -> Option<Ends> {
        let (Some(from), Some(to)) = (self.feeds(&bridge.from.0), self.feeds(&bridge.to.0)) else {
            tracing::error!(?bridge, "a bridge needs registries of servers at both ends");
            return None;
        };
        let bridge = bridge.clone();
        Some(Ends { bridge, from, to })
    }

    fn start_bridge(&self, ends: Ends) -> RunningBridge {
        let (orders, receiver) = watch::channel(Order::Mirror(ends.clone()));
        let bridge = ends.bridge.clone();
        let running = bridge::run(self.handle.clone(), ends, receiver);
        RunningBridge {
            bridge,
            orders,
            task: self.handle.spawn(running),
        }
    }

    /// Takes everything back that leads to us, and leaves to other proxies what does not: the first
    /// thing on the way out.
    pub async fn withdraw(&self) {
        let bridges = std::mem::take(&mut *lock(&self.bridges));
        for bridge in &bridges {
            bridge.orders.send_replace(Order::Leave);
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
                        // First, so that whoever follows something there finds it.
                        let gathering = gather(&feeds, eager);
                        let watching = keep_watching(feeds.clone(), eager.clone(), gathering);
                        self.handle.spawn(watching).abort_handle()
                    })
                    .collect();
                let remembered = self.disk.as_ref().is_some_and(|disk| disk.knows(name));
                Source::Servers(Arc::new(Servers {
                    feeds,
                    eager,
                    remembered,
                }))
            }
            RegistryConfig::File(path) => Source::Listed(Listed::file(&self.handle, path)),
            RegistryConfig::Memory(services) => Source::Listed(Listed::memory(services.clone())),
            RegistryConfig::Dns(config) => Source::Dns(Arc::new(Dns::new(&self.handle, config))),
            RegistryConfig::Http(config) => {
                Source::Http(Arc::new(Polled::new(&self.handle, config)))
            }
            RegistryConfig::Hosts(config) => {
                Source::Hosts(Arc::new(Hosts::new(&self.handle, config)))
            }
            RegistryConfig::Several(several) => Source::Several(several.clone()),
        }
    }

    fn follow(&self, lookup: &Lookup, target: &Target) -> Option<AbortHandle> {
        let source = lock(&self.sources).get(&*lookup.registry)?.1.clone();
        let (lookup, target) = (lookup.clone(), target.clone());
        let Source::Several(several) = source else {
            let task = self.handle.spawn(source.follow(lookup, target));
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
            let part = Target {
                sink: merged.sink(number),
                served: Arc::default(),
            };
            members.push(member.follow(of_member, part));
        }
        let task = self.handle.spawn(async move {
            // Ended with this task.
            let mut following = JoinSet::new();
            for member in members {
                following.spawn(member);
            }
            merged.deliver(&target).await;
        });
        Some(task.abort_handle())
    }

    /// The state of each registry, by name.
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
    pub fn offers(&self, registry: &str, layout: LayoutKind, service: &str) -> Option<Offers> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return None;
        };
        let feed = servers.feeds.feed(layout, service);
        Some(Offers {
            offers: feed.offers(),
            feed,
        })
    }

    /// Waits until the servers of a registry answer. A registry without servers always does.
    ///
    /// # Errors
    /// If they do not within `patience`: what was the matter last.
    pub async fn reach(&self, registry: &str, patience: Duration) -> Result<(), String> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return Ok(());
        };
        let store = servers.feeds.store();
        if store.connected_within(patience).await {
            return Ok(());
        }
        let why = store.why();
        Err(why.unwrap_or_else(|| format!("nothing within {patience:?}")))
    }

    /// The names of all services of a layout in a registry of servers. `None` if there is no
    /// such registry, it is a list, or its servers do not answer within `patience`.
    pub async fn services(
        &self,
        registry: &str,
        layout: LayoutKind,
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
    feed: Arc<Feed>,
}

impl Offers {
    /// The latest offer; `None` until the first.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<Offer>> {
        self.offers.borrow_and_update().clone()
    }

    /// Whether the servers do not let us read who provides it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.feed.is_refused()
    }

    /// Waits for another offer.
    pub async fn changed(&mut self) {
        if self.offers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Source {
    /// Keeps a target up to date on what is looked up, for as long as it runs.
    async fn follow(self, lookup: Lookup, target: Target) {
        match self {
            Self::Listed(listed) => listed.follow(&lookup, &target).await,
            Self::Dns(dns) => dns.follow(&lookup, &target).await,
            Self::Http(polled) => polled.follow(&lookup, &target).await,
            Self::Hosts(hosts) => hosts.follow(&lookup, &target).await,
            Self::Servers(servers) => {
                let Some(layout) = LayoutKind::named(&lookup.layout) else {
                    tracing::error!(layout = %lookup.layout, "no such layout");
                    return;
                };
                let feed = servers.feeds.feed(layout, &lookup.service);
                drop(servers);
                deliver(&feed, &lookup, &target).await;
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
            protected: 0,
            from_disk: 0,
            failing_reads: 0,
            failing_names: 0,
            error: None,
        };
        let age = |since: Option<Instant>| since.map(|since| since.elapsed()).unwrap_or_default();
        let list = match self {
            Self::Listed(listed) => Some((listed.len(), listed.doubted())),
            Self::Http(polled) => Some((usize::from(polled.is_known()), polled.doubted())),
            Self::Dns(_) | Self::Hosts(_) | Self::Servers(_) | Self::Several(_) => None,
        };
        if let Some((services, doubt)) = list {
            status.services = services;
            if let Some(doubt) = doubt {
                status.connected = false;
                status.stale = doubt.since.elapsed();
                status.failing_reads = 1;
                status.error = Some(doubt.why);
            }
        }
        let names = match self {
            Self::Dns(dns) => Some((dns.failing(), dns.followed())),
            Self::Hosts(hosts) => Some((hosts.failing(), hosts.followed())),
            Self::Listed(_) | Self::Http(_) | Self::Servers(_) | Self::Several(_) => None,
        };
        if let Some(((failing, since), followed)) = names {
            status.connected = failing == 0;
            status.stale = age(since);
            status.failing_names = failing;
            status.services = followed;
        }
        if let Self::Servers(servers) = self {
            let store = servers.feeds.store().status();
            let troubles = servers.feeds.store().troubles();
            status.connected = store.connected && !troubles.iter().any(|trouble| trouble.refused);
            let lost = (!store.connected).then_some(store.since);
            status.error = lost.and_then(|_| servers.feeds.store().why());
            let (failing_names, unresolved) = servers.feeds.resolver().failing();
            let since = troubles.iter().map(|trouble| trouble.since);
            status.stale = age(since.chain(lost).chain(unresolved).min());
            status.failing_reads = troubles.len();
            status.failing_names = failing_names;
            let counts = servers.feeds.counts();
            status.services = servers.feeds.len();
            status.waiting = counts.waiting();
            status.protected = counts.doubted();
            status.from_disk = counts.remembered();
        }
        status
    }
}

/// Gives a sink what a lookup finds in a feed's offers, as it changes.
async fn deliver(feed: &Feed, lookup: &Lookup, target: &Target) {
    let mut offers = feed.offers();
    let mut last = None;
    loop {
        let offer = offers.borrow_and_update().clone();
        // What we may not read is no reason to forget what another configuration let us read.
        let is_answer = !(feed.is_refused() && target.served.load(Ordering::Relaxed));
        if let Some(offer) = offer.filter(|_| is_answer) {
            let snapshot = offer.snapshot(feed.layout, lookup);
            if last.as_ref() != Some(&snapshot) {
                target.update(snapshot.clone());
                last = Some(snapshot);
            }
        }
        if offers.changed().await.is_err() {
            return;
        }
    }
}

/// Has the store follow all services of a layout as one, if all are to be watched.
fn gather(feeds: &Feeds, eager: &Eager) -> Option<Gathering> {
    // Names and providers lie below one root: the directory asks for the former, each feed for its own.
    let root = eager.layout.layout().root(feeds.roots());
    let is_all = eager.services.is_none() && !root.is_empty();
    is_all.then(|| feeds.store().gather(root))?
}

/// Keeps services followed that nobody has asked for yet.
async fn keep_watching(feeds: Arc<Feeds>, eager: Eager, _gathering: Option<Gathering>) {
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
                if kept.contains_key(&name) {
                    continue;
                }
                let feed = feeds.feed(eager.layout, &name);
                kept.insert(name, feed);
                if kept.len().is_multiple_of(AT_ONCE) {
                    // Others have their turn: there may be thousands.
                    tokio::task::yield_now().await;
                }
            }
            tracing::debug!(root = directory.root(), services = kept.len(), "directory");
        }
        directory.changed().await;
    }
}

impl Discovery for Registries {
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn Sink>) -> WatchGuard {
        let number = self.next_watch.fetch_add(1, Ordering::Relaxed);
        let target = Target {
            sink,
            served: Arc::default(),
        };
        let task = self.follow(lookup, &target);
        if task.is_none() {
            tracing::error!(registry = %lookup.registry, "no such registry");
        }
        lock(&self.watches).insert(
            number,
            Watch {
                lookup: lookup.clone(),
                target,
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
