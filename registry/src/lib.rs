//! Service registries: stores x layouts.
//!
//! A *store* holds the entries (ZooKeeper, etcd; a file, memory); a *layout* knows where a
//! framework keeps a service and how it writes a provider. A *feed* follows one service of a
//! layout in a store. Whatever becomes of a store, the last offer that it gave stays in force:
//! only a new offer changes endpoints.

mod bridge;
mod config;
mod disk;
mod dns;
mod exercise;
mod feed;
mod heard;
mod hosts;
mod layout;
mod listed;
mod listing;
mod looks;
mod merged;
mod metadata;
mod names;
mod offer;
mod polled;
mod registrar;
mod remembered;
mod several;
mod source;
mod store;
mod texts;
mod writing;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use finback_core::clock::{Clock, Now};
use finback_core::discovery::{Discovery, Lookup, SnapshotSink, WatchGuard};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use bridge::Order;
use disk::Disk;
use feed::Feeds;
use metadata::Metadata;
use registrar::Registrar;
use several::Merged;
use source::{Source, Target};
use writing::RunningBridge;

pub use bridge::Bridge;
pub use config::{Eager, RegistryConfig, ServersConfig};
pub use dns::DnsConfig;
pub use exercise::{exercise_instance, exercise_rules, exercise_url};
pub use hosts::{HostCluster, HostEndpoint};
pub use layout::{LayoutKind, Roots};
pub use listed::ListedService;
pub use listing::Offers;
pub use looks::Looks;
pub use metadata::{InstanceAsked, MetadataService, NoMetadata};
pub use offer::{CallRules, Offer, Provider};
pub use polled::HttpConfig;
pub use registrar::{Registration, RegistrationStatus};
pub use several::Several;
pub use source::RegistryStatus;
pub use store::{EtcdConfig, StoreConfig, TlsConfig, ZooKeeperConfig};
pub use texts::Texts;

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

struct Watch {
    lookup: Lookup,
    target: Target,
    task: Option<AbortHandle>,
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
}

impl Discovery for Registries {
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn SnapshotSink>) -> WatchGuard {
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
