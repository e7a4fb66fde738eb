//! Where services live: stores x layouts.
//!
//! A *store* holds the entries (ZooKeeper, a file, memory); a *layout* knows where a framework
//! keeps a service in a tree and how it writes an instance. Whatever becomes of a store, the last
//! snapshot that it gave stays in force: only a new snapshot changes endpoints.

mod layout;
mod listed;
mod zookeeper;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finback_core::discovery::{Discovery, Lookup, Sink, Snapshot, WatchGuard};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use listed::Listed;
pub use listed::ListedService;
use zookeeper::ZooKeeper;

/// A registry as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryConfig {
    /// ZooKeeper servers: `host:port,host:port/chroot`.
    ZooKeeper(String),
    /// A YAML file of services, read again when it changes.
    File(PathBuf),
    /// Services known from the start.
    Memory(Vec<ListedService>),
}

/// All configured registries.
pub struct Registries {
    handle: Handle,
    sources: Mutex<HashMap<String, (RegistryConfig, Source)>>,
    watches: Arc<Mutex<HashMap<u64, Watch>>>,
    next_watch: AtomicU64,
}

/// A registry at work.
#[derive(Clone)]
enum Source {
    Tree(Arc<ZooKeeper>),
    Listed(Arc<Listed>),
}

struct Watch {
    lookup: Lookup,
    sink: Arc<dyn Sink>,
    task: Option<AbortHandle>,
}

impl Registries {
    /// Registries that work on the runtime of `handle`.
    #[must_use]
    pub fn start(handle: Handle, configs: Vec<(String, RegistryConfig)>) -> Self {
        let registries = Self {
            handle,
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
    }

    fn open(&self, name: &str, config: &RegistryConfig) -> Source {
        match config {
            RegistryConfig::ZooKeeper(servers) => {
                Source::Tree(ZooKeeper::start(&self.handle, name, servers))
            }
            RegistryConfig::File(path) => Source::Listed(Listed::file(&self.handle, path)),
            RegistryConfig::Memory(services) => Source::Listed(Listed::memory(services.clone())),
        }
    }

    fn follow(&self, lookup: &Lookup, sink: &Arc<dyn Sink>) -> Option<AbortHandle> {
        let source = lock(&self.sources).get(&*lookup.registry)?.1.clone();
        let (lookup, sink) = (lookup.clone(), sink.clone());
        let task = self.handle.spawn(async move {
            match source {
                Source::Listed(listed) => listed.follow(&lookup, &*sink).await,
                Source::Tree(store) => follow_tree(&store, &lookup, &*sink).await,
            }
        });
        Some(task.abort_handle())
    }
}

/// Follows one service in a tree, by the layout of its lookup.
async fn follow_tree(store: &ZooKeeper, lookup: &Lookup, sink: &dyn Sink) {
    let Some(layout) = layout::named(&lookup.layout) else {
        tracing::error!(layout = %lookup.layout, "no such layout in a tree");
        return;
    };
    let mut children = store.children(&layout.path(lookup));
    while let Some(children) = children.next().await {
        let snapshot = match children {
            None => Snapshot::default(),
            Some(children) => layout::snapshot(layout, lookup, &children).await,
        };
        let endpoints = snapshot.instances.len();
        tracing::debug!(registry = %lookup.registry, service = %lookup.service, endpoints, "snapshot");
        sink.update(snapshot);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
