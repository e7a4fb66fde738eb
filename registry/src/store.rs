//! Stores, the servers of registries: names and values below a path, followed as they change.
//!
//! A store outlives its connections. While its servers do not answer, what was followed stays as
//! it was; when they do again, everything followed is listed anew.

mod entries;
mod etcd;
mod followed;
mod out;
mod pause;
mod reach;
mod saved;
mod tree;
mod zookeeper;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finback_core::text::Escaped;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub(crate) use entries::Entries;
pub use etcd::EtcdConfig;
pub(crate) use followed::{Bell, Followed, changed};
pub(crate) use out::{Out, Trouble};
pub(crate) use tree::Gathering;
pub use zookeeper::ZooKeeperConfig;

use crate::disk::Disk;
use crate::layout::application::Beside;
use crate::lock;
use followed::{Following, Latest, Places, Task, Work};
use pause::Pause;

/// A value longer than this is treated as empty: no framework writes such.
const MAX_VALUE: usize = 256 * 1024;

/// The longest path that a store is asked for, in bytes. ZooKeeper's servers end the session of
/// whoever sends them more than 1 MiB (`jute.maxbuffer`), and etcd's refuse 1.5 MiB.
const MAX_PATH: usize = 64 * 1024;

/// Whether a path can be one in every store: ZooKeeper refuses others (`PathUtils.validatePath`),
/// and in etcd they would lie beside what they seem to name.
fn is_sound(path: &str) -> bool {
    let relative = path.strip_prefix('/').unwrap_or(path);
    path.len() <= MAX_PATH && relative.split('/').all(is_segment)
}

/// Whether a text can stand between two slashes of a path.
pub(crate) fn is_segment(text: &str) -> bool {
    let refused = |char: char| {
        char == '/'
            || char.is_control()
            || matches!(char, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}')
    };
    !matches!(text, "" | "." | "..") && !text.contains(refused)
}

/// Files with certificates, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Those that the servers' certificates must descend from; `None` takes the public ones.
    pub authorities: Option<std::path::PathBuf>,
    /// Our own certificate chain and its key, where the servers ask for one.
    pub identity: Option<(std::path::PathBuf, std::path::PathBuf)>,
}

/// Where a store's servers are, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// ZooKeeper.
    ZooKeeper(ZooKeeperConfig),
    /// etcd, version 3 of its interface.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// `host:port` of each server.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        match self {
            Self::ZooKeeper(config) => {
                let servers = config.servers.split('/').next().unwrap_or_default();
                servers.split(',').map(str::to_owned).collect()
            }
            Self::Etcd(config) => {
                let servers = config.servers.iter();
                let bare = |server: &String| {
                    let rest = server.split_once("://").map_or(&**server, |(_, rest)| rest);
                    rest.trim_end_matches('/').to_owned()
                };
                servers.map(bare).collect()
            }
        }
    }
}

/// What can be followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    /// The names directly below a path; values are left empty.
    Names(Arc<str>),
    /// The names directly below a path that may be folders. A store of keys, which has no folders,
    /// gives whatever stands before a key's last slash, and the slash, once.
    Folders(Arc<str>),
    /// The names directly below a path, and their values.
    Entries(Arc<str>),
    /// The value of one path.
    Value(Arc<str>),
}

impl Query {
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Names(path) | Self::Folders(path) | Self::Entries(path) | Self::Value(path) => {
                path
            }
        }
    }
}

/// What is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// No such path.
    Missing,
    /// What is below it.
    Entries(Arc<Entries>),
    /// Its value.
    Value(Bytes),
    /// We may not read it, and never could.
    Refused,
}

/// Whether a store's servers answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) connected: bool,
    /// Since when.
    pub(crate) since: Instant,
    /// Grows with every connection or session made: what was followed before may have a gap.
    pub(crate) epoch: u64,
    /// Whether they ever did.
    pub(crate) answered: bool,
}

/// Who a node that we hold belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// To us alone: what another left there is replaced.
    Own,
    /// To whoever came first: others wait until it is gone.
    Shared,
}

/// One registry's servers.
pub(crate) struct Store {
    name: String,
    handle: Handle,
    kind: Kind,
    status: watch::Receiver<Status>,
    /// Why its servers did not answer last.
    why: Arc<Mutex<Option<String>>>,
    followed: Arc<Mutex<Places>>,
    troubles: out::Troubles,
    /// Paths that were released while the servers did not answer.
    unwanted: Mutex<HashSet<String>>,
}

enum Kind {
    ZooKeeper(zookeeper::ZooKeeper),
    Etcd(etcd::Etcd),
    Saved(saved::Saved),
}

impl Store {
    /// Begins to connect; ends when nothing uses it any more.
    pub(crate) fn start(handle: &Handle, name: &str, config: &StoreConfig) -> Arc<Self> {
        let (reporter, status) = watch::channel(Status {
            connected: false,
            since: Instant::now(),
            epoch: 0,
            answered: false,
        });
        let why = Arc::default();
        let reporter = Reporter {
            registry: name.to_owned(),
            status: reporter,
            why: Arc::clone(&why),
        };
        let servers = config.addresses();
        let kind = match config {
            StoreConfig::ZooKeeper(config) => Kind::ZooKeeper(zookeeper::ZooKeeper::start(
                handle, config, servers, reporter,
            )),
            StoreConfig::Etcd(config) => {
                Kind::Etcd(etcd::Etcd::start(handle, config, servers, reporter))
            }
        };
        let store = Arc::new(Self {
            name: name.to_owned(),
            handle: handle.clone(),
            kind,
            status: status.clone(),
            why,
            followed: Arc::default(),
            troubles: Arc::default(),
            unwanted: Mutex::default(),
        });
        handle.spawn(release_later(Arc::downgrade(&store), status));
        store
    }

    /// What an earlier run knew of a registry: a store that never changes.
    pub(crate) fn saved(handle: &Handle, name: &str, disk: &Disk) -> Arc<Self> {
        let (_, status) = watch::channel(Status {
            connected: false,
            since: Instant::now(),
            epoch: 0,
            answered: false,
        });
        Arc::new(Self {
            name: name.to_owned(),
            handle: handle.clone(),
            kind: Kind::Saved(saved::Saved {
                disk: disk.clone(),
                registry: name.to_owned(),
            }),
            status,
            why: Arc::default(),
            followed: Arc::default(),
            troubles: Arc::default(),
            unwanted: Mutex::default(),
        })
    }

    /// The runtime it works on.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Its configured name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its servers answer.
    pub(crate) fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Why its servers did not answer last, if that is known.
    pub(crate) fn why(&self) -> Option<String> {
        lock(&self.why).clone()
    }

    /// Waits until its servers answer, but no longer than this.
    pub(crate) async fn connected_within(&self, limit: Duration) -> bool {
        let mut status = self.status.clone();
        let connected = status.wait_for(|status| status.connected);
        matches!(tokio::time::timeout(limit, connected).await, Ok(Ok(_)))
    }

    /// Waits until its servers answer or are known not to, but no longer than this. Whether they do.
    pub(crate) async fn answers_within(&self, limit: Duration) -> bool {
        let mut status = self.status.clone();
        let known = status.wait_for(|status| status.connected || status.epoch > 0);
        matches!(tokio::time::timeout(limit, known).await, Ok(Ok(status)) if status.connected)
    }

    /// What cannot be read any more though the servers answer.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        lock(&self.troubles).values().copied().collect()
    }

    /// Follows something; those who follow the same share one watch. The bell rings at each change.
    pub(crate) fn follow(&self, query: Query, bell: &Bell) -> Followed {
        let mut followed = lock(&self.followed);
        let following = match followed.get(&query).and_then(Weak::upgrade) {
            Some(following) => following,
            None => {
                let following = Arc::new(self.begin(query.clone()));
                if following.is_shared() {
                    followed.insert(query, Arc::downgrade(&following));
                }
                following
            }
        };
        drop(followed);
        Followed::new(following, bell)
    }

    fn begin(&self, query: Query) -> Following {
        let latest = Arc::<Latest>::default();
        if !is_sound(query.path()) {
            latest.set(Answer::Missing);
            return Following::new(latest, None, None);
        }
        let place = (self.followed.clone(), query.clone());
        let out = Out::new(latest.clone(), self.troubles.clone());
        let task = match &self.kind {
            Kind::ZooKeeper(zookeeper) => match zookeeper.listen(&self.handle, query, out) {
                Ok(listener) => {
                    return Following::new(latest, Some(Work::Tree(listener)), Some(place));
                }
                Err((query, out)) => {
                    let zookeeper = zookeeper.clone();
                    let alone = async move { zookeeper.follow(&query, &out).await };
                    self.handle.spawn(alone)
                }
            },
            Kind::Etcd(etcd) => match etcd.listen(query, out) {
                Ok(listener) => {
                    return Following::new(latest, Some(Work::Tree(listener)), Some(place));
                }
                Err((query, out)) => {
                    let etcd = etcd.clone();
                    let alone = async move { etcd.follow(&query, &out).await };
                    self.handle.spawn(alone)
                }
            },
            Kind::Saved(saved) => self.handle.spawn(saved.clone().follow(query, out)),
        };
        let task = Task(task.abort_handle());
        Following::new(latest, Some(Work::Task(task)), Some(place))
    }

    /// Has everything below `root` followed as one until dropped: that costs less than to follow
    /// thousands of places there.
    pub(crate) fn gather(&self, root: &str) -> Option<Gathering> {
        match &self.kind {
            _ if !is_sound(root) => None,
            Kind::Etcd(etcd) => Some(etcd.gather(&self.handle, root)),
            Kind::ZooKeeper(zookeeper) => Some(zookeeper.gather(&self.handle, root)),
            Kind::Saved(_) => None,
        }
    }

    /// What is followed now.
    #[cfg(test)]
    pub(crate) fn followed(&self) -> usize {
        lock(&self.followed).len()
    }

    /// Keeps a node or key that goes away with us, until dropped; `held` tells whether it is
    /// there. It is not removed then: [`release`](Self::release) does that.
    pub(crate) async fn hold(
        &self,
        path: &str,
        value: &[u8],
        claim: Claim,
        held: &watch::Sender<bool>,
    ) {
        if !is_sound(path) {
            tracing::error!(path = %Escaped(path), "no store has such a path; not registered");
            return std::future::pending().await;
        }
        lock(&self.unwanted).remove(path);
        match &self.kind {
            Kind::ZooKeeper(zookeeper) => zookeeper.hold(path, value, claim, held).await,
            Kind::Etcd(etcd) => etcd.hold(path, value, claim, held).await,
            Kind::Saved(_) => std::future::pending().await,
        }
    }

    /// Whether it is ZooKeeper: some frameworks write otherwise into others.
    pub(crate) fn is_zookeeper(&self) -> bool {
        matches!(self.kind, Kind::ZooKeeper(_))
    }

    /// Sees to it that these stand as they are to be, and tries until they do.
    pub(crate) async fn amend_all(&self, all: &[Beside]) {
        let mut pause = Pause::default();
        for Beside { path, content } in all.iter().filter(|own| is_sound(&own.path)) {
            loop {
                let amended = match &self.kind {
                    Kind::ZooKeeper(zookeeper) => zookeeper.amend(path, content).await,
                    Kind::Etcd(etcd) => etcd.amend(path, content).await,
                    Kind::Saved(_) => Ok(()),
                };
                match amended {
                    Ok(()) => break,
                    Err(why) => {
                        tracing::warn!(path = %Escaped(path), why, "cannot register; trying again");
                    }
                }
                pause.wait().await;
            }
        }
    }

    /// Leaves what [`hold`](Self::hold) made to another who waits for it. It stays for as long as it
    /// would if we were gone without a word.
    pub(crate) async fn leave(&self, path: &str) {
        if !is_sound(path) {
            return;
        }
        match &self.kind {
            Kind::ZooKeeper(zookeeper) => zookeeper.leave(path).await,
            // Those who wait see that our lease is not renewed any more.
            Kind::Etcd(_) | Kind::Saved(_) => {}
        }
    }

    /// Removes what [`hold`](Self::hold) made, if it is still ours. If the servers do not answer,
    /// it is removed when they do again: our session or lease may outlive that.
    pub(crate) async fn release(&self, path: &str) {
        if !is_sound(path) {
            return;
        }
        // First, as whoever waits for this may give up.
        lock(&self.unwanted).insert(path.to_owned());
        let released = match &self.kind {
            Kind::ZooKeeper(zookeeper) => zookeeper.release(path).await,
            Kind::Etcd(etcd) => etcd.release(path).await,
            Kind::Saved(_) => Ok(()),
        };
        match released {
            Ok(()) => {
                lock(&self.unwanted).remove(path);
            }
            Err(error) => {
                tracing::warn!(path = %Escaped(path), error, "cannot take the registration back yet");
            }
        }
    }
}

/// Takes back what could not be taken back before, whenever the servers answer again.
async fn release_later(store: Weak<Store>, mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let Some(store) = store.upgrade() else { return };
        let unwanted: Vec<String> = lock(&store.unwanted).iter().cloned().collect();
        if status.borrow_and_update().connected {
            for path in unwanted {
                store.release(&path).await;
            }
        }
    }
}

/// Tells, and logs, how it stands with a store's servers.
pub(crate) struct Reporter {
    registry: String,
    status: watch::Sender<Status>,
    /// What was the matter last.
    why: Arc<Mutex<Option<String>>>,
}

impl Reporter {
    /// Whether anything was told yet.
    fn has_reported(&self) -> bool {
        self.status.borrow().epoch > 0
    }

    fn connected(&self) {
        self.status.send_modify(|status| {
            if !status.connected {
                tracing::info!(registry = self.registry, "connected");
                *status = Status {
                    connected: true,
                    since: Instant::now(),
                    epoch: status.epoch + 1,
                    answered: true,
                };
            }
        });
    }

    fn lost(&self, why: &str) {
        *lock(&self.why) = Some(why.to_owned());
        self.status.send_modify(|status| {
            if status.connected || status.epoch == 0 {
                tracing::warn!(
                    registry = self.registry,
                    why,
                    "registry does not answer; endpoints stay as they are"
                );
                status.epoch += 1;
            }
            if status.connected {
                status.connected = false;
                status.since = Instant::now();
            }
        });
    }
}

/// A value as it is kept.
fn bounded(path: &str, value: Vec<u8>) -> Bytes {
    if value.len() > MAX_VALUE {
        tracing::warn!(path = %Escaped(path), bytes = value.len(), "value too long; ignored");
        return Bytes::new();
    }
    value.into()
}

/// Certificates as read from their files.
struct Pem {
    authorities: Option<String>,
    identity: Option<(String, String)>,
}

impl Pem {
    async fn read(tls: &TlsConfig) -> Result<Self, String> {
        let read = |path: std::path::PathBuf| async move {
            tokio::fs::read_to_string(&path)
                .await
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let authorities = match &tls.authorities {
            Some(path) => Some(read(path.clone()).await?),
            None => None,
        };
        let identity = match &tls.identity {
            Some((chain, key)) => Some((read(chain.clone()).await?, read(key.clone()).await?)),
            None => None,
        };
        Ok(Self {
            authorities,
            identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_store_refuses_are_not_sound() {
        for path in [
            "/dubbo/a.B/providers",
            "target",
            "target/a:80",
            "/sofa-rpc/\u{65e5}\u{672c}",
        ] {
            assert!(is_sound(path), "{path}");
        }
        for path in [
            "",
            "/",
            "//a",
            "/a/",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/a\0",
            "/a\r\n",
            "/a\u{7f}",
            "/a\u{9f}",
            "/a\u{f8ff}",
            "/a\u{fffd}",
        ] {
            assert!(!is_sound(path), "{path:?}");
        }
        assert!(is_sound(&"x".repeat(MAX_PATH)));
        assert!(!is_sound(&"x".repeat(MAX_PATH + 1)));
    }
}
