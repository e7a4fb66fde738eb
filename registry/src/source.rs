//! A running registry of any kind: follows the services that are looked up, and reports its status.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use finback_core::discovery::{Lookup, Snapshot, SnapshotSink};
use tokio::task::AbortHandle;

use crate::Registries;
use crate::config::{Eager, RegistryConfig};
use crate::dns::Dns;
use crate::feed::{Feed, Feeds};
use crate::hosts::Hosts;
use crate::layout::{Directory, LayoutKind};
use crate::listed::Listed;
use crate::polled::Polled;
use crate::several::Several;
use crate::store::{Gathering, Store};

/// Services that begin to be followed in one turn of their thread.
const AT_ONCE: usize = 32;

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

/// A registry at work.
#[derive(Clone)]
pub(crate) enum Source {
    Servers(Arc<Servers>),
    Listed(Arc<Listed>),
    Dns(Arc<Dns>),
    Http(Arc<Polled>),
    Hosts(Arc<Hosts>),
    Several(Several),
}

pub(crate) struct Servers {
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) eager: Vec<AbortHandle>,
    /// An earlier run left snapshots of it.
    pub(crate) remembered: bool,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for task in &self.eager {
            task.abort();
        }
    }
}

/// Where a watch delivers.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) sink: Arc<dyn SnapshotSink>,
    /// It has been given endpoints, perhaps by a registry that was configured before.
    pub(crate) served: Arc<AtomicBool>,
}

impl SnapshotSink for Target {
    fn update(&self, snapshot: Snapshot) {
        if !snapshot.instances.is_empty() {
            self.served.store(true, Ordering::Relaxed);
        }
        self.sink.update(snapshot);
    }
}

impl Source {
    /// Keeps a target up to date on what is looked up, for as long as it runs.
    pub(crate) async fn follow(self, lookup: Lookup, target: Target) {
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

    pub(crate) fn status(&self, name: &str) -> RegistryStatus {
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

impl Registries {
    pub(crate) fn open(&self, name: &str, config: &RegistryConfig) -> Source {
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
}

/// Gives a sink what a lookup finds in a feed's offers, as it changes.
pub(crate) async fn deliver(feed: &Feed, lookup: &Lookup, target: &Target) {
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
pub(crate) fn gather(feeds: &Feeds, eager: &Eager) -> Option<Gathering> {
    // Names and providers lie below one root: the directory asks for the former, each feed for its own.
    let root = eager.layout.layout().root(feeds.roots());
    let is_all = eager.services.is_none() && !root.is_empty();
    is_all.then(|| feeds.store().gather(root))?
}

/// Keeps services followed that nobody has asked for yet.
pub(crate) async fn keep_watching(feeds: Arc<Feeds>, eager: Eager, _gathering: Option<Gathering>) {
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
