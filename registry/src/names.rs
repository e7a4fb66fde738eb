//! Name resolution (DNS, by the system's resolver): beside whoever needs the addresses, again and
//! again. What resolved once stays until it resolves otherwise.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::disk::{Disk, Kind, Place};
use crate::lock;

/// A name that does not resolve is asked for again after this, then ever more rarely.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A name that takes longer counts as failing until it is resolved.
const SLOW: Duration = Duration::from_secs(5);
/// Names that are looked up at the same time. Each takes a thread of the runtime's, of which there
/// are 512 for everything that blocks.
const TURNS: usize = 256;
/// Addresses that are saved are saved again after this, so that they can be told from those that
/// nobody needs any more.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Addresses of a name, in order; their ports mean nothing.
pub(crate) type Addresses = Arc<[SocketAddr]>;

/// Resolves the names of one registry; those who need the same name share one task.
pub(crate) struct Resolver {
    handle: Handle,
    /// How often a name that resolves is asked for again.
    refresh: Duration,
    /// Where addresses are kept for the next start.
    disk: Option<(Disk, String)>,
    shared: Arc<Shared>,
}

struct Shared {
    names: Mutex<HashMap<String, Weak<Resolving>>>,
    /// Names whose last addresses stay because they do not resolve now, and since when.
    failing: Mutex<HashMap<String, Instant>>,
    turns: Semaphore,
}

/// A name that is resolved for as long as this lives.
#[derive(Clone)]
pub(crate) struct Name {
    addresses: watch::Receiver<Option<Addresses>>,
    _resolving: Arc<Resolving>,
}

struct Resolving {
    name: String,
    addresses: watch::Receiver<Option<Addresses>>,
    task: AbortHandle,
    shared: Arc<Shared>,
}

impl Drop for Resolving {
    fn drop(&mut self) {
        self.task.abort();
        let mut names = lock(&self.shared.names);
        // Another may stand there by now.
        if names
            .get(&self.name)
            .is_some_and(|own| own.strong_count() == 0)
        {
            names.remove(&self.name);
            lock(&self.shared.failing).remove(&self.name);
        }
    }
}

impl Name {
    /// The latest addresses: `None` until it is known whether there are any.
    pub(crate) fn latest(&mut self) -> Option<Addresses> {
        self.addresses.borrow_and_update().clone()
    }

    /// Waits for others.
    pub(crate) async fn changed(&mut self) {
        if self.addresses.changed().await.is_err() {
            // The task only ends when nobody listens any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Resolver {
    /// `disk` is where addresses of this registry's names are kept.
    pub(crate) fn new(handle: &Handle, refresh: Duration, disk: Option<(Disk, String)>) -> Self {
        Self {
            handle: handle.clone(),
            refresh,
            disk,
            shared: Arc::new(Shared {
                names: Mutex::default(),
                failing: Mutex::default(),
                turns: Semaphore::new(TURNS),
            }),
        }
    }

    /// Resolves a name from now on.
    pub(crate) fn follow(&self, name: &str) -> Name {
        let mut names = lock(&self.shared.names);
        let resolving = names.get(name).and_then(Weak::upgrade);
        let resolving = resolving.unwrap_or_else(|| {
            let (sender, addresses) = watch::channel(None);
            let task = Task {
                name: name.to_owned(),
                refresh: self.refresh,
                disk: self.disk.clone(),
                shared: self.shared.clone(),
                sender,
                saved: None,
            };
            let resolving = Arc::new(Resolving {
                name: name.to_owned(),
                addresses,
                task: self.handle.spawn(task.run()).abort_handle(),
                shared: self.shared.clone(),
            });
            names.insert(name.to_owned(), Arc::downgrade(&resolving));
            resolving
        });
        Name {
            addresses: resolving.addresses.clone(),
            _resolving: resolving,
        }
    }

    /// Names that are resolved now.
    pub(crate) fn followed(&self) -> usize {
        lock(&self.shared.names).len()
    }

    /// Names whose last addresses stay because they do not resolve now, and since when the first.
    pub(crate) fn failing(&self) -> (usize, Option<Instant>) {
        let failing = lock(&self.shared.failing);
        (failing.len(), failing.values().min().copied())
    }
}

struct Task {
    name: String,
    refresh: Duration,
    disk: Option<(Disk, String)>,
    shared: Arc<Shared>,
    sender: watch::Sender<Option<Addresses>>,
    saved: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = RETRY.0;
        loop {
            match self.look().await {
                Ok(addresses) => {
                    lock(&self.shared.failing).remove(&self.name);
                    pause = RETRY.0;
                    self.publish(addresses);
                    tokio::time::sleep(self.refresh).await;
                }
                Err(why) => {
                    self.failed(&why).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// One look, which is waited for: the thread that looks cannot be stopped.
    async fn look(&mut self) -> Result<Vec<SocketAddr>, String> {
        let (shared, name) = (self.shared.clone(), self.name.clone());
        let mut looking = std::pin::pin!(async move {
            let _turn = shared.turns.acquire().await;
            resolve(&name).await
        });
        if let Ok(found) = tokio::time::timeout(SLOW, &mut looking).await {
            return found;
        }
        self.failed("it takes long").await;
        looking.await
    }

    fn publish(&mut self, addresses: Vec<SocketAddr>) {
        let addresses: Addresses = addresses.into();
        let changed = self.sender.send_if_modified(|last| {
            let differs = last.as_ref() != Some(&addresses);
            *last = Some(addresses.clone());
            differs
        });
        let is_old = self.saved.is_none_or(|saved| saved.elapsed() >= REFRESH);
        if let Some((disk, registry)) = &self.disk
            && (changed || is_old)
        {
            let entries = addresses
                .iter()
                .map(|own| (own.ip().to_string(), "".into()));
            let place = Place::new(registry, Kind::Host, &self.name);
            disk.save(
                place,
                crate::store::Answer::Entries(Arc::new(entries.collect())),
            );
            self.saved = Some(Instant::now());
        }
    }

    /// What there was stays: the addresses of now, or else those of an earlier run.
    async fn failed(&self, why: &str) {
        if self.sender.borrow().is_none() {
            let addresses = self.load().await;
            self.sender.send_replace(Some(addresses));
        }
        let knows = self
            .sender
            .borrow()
            .as_ref()
            .is_some_and(|own| !own.is_empty());
        // A name that never was one tells nothing of the resolver.
        if knows {
            let mut failing = lock(&self.shared.failing);
            failing
                .entry(self.name.clone())
                .or_insert_with(Instant::now);
        }
        unresolved(&self.name, why);
    }

    async fn load(&self) -> Addresses {
        let Some((disk, registry)) = self.disk.clone() else {
            return Arc::default();
        };
        let place = Place::new(&registry, Kind::Host, &self.name);
        let loaded = tokio::task::spawn_blocking(move || disk.load(&place)).await;
        let Ok(Some(crate::store::Answer::Entries(entries))) = loaded else {
            return Arc::default();
        };
        let addresses = entries.names().filter_map(|ip| ip.parse().ok());
        addresses.map(|ip| SocketAddr::new(ip, 0)).collect()
    }
}

fn unresolved(name: &str, why: &str) {
    static UNRESOLVED: LogLimit = LogLimit::usual();
    if let Some(left_out) = UNRESOLVED.admit(crate::now()) {
        let name = Escaped(name);
        tracing::warn!(%name, why, left_out, "cannot resolve; what is known stays");
    }
}

/// The addresses of a name, of both families, in order.
async fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    let mut kept = usable(found, has_way);
    if kept.is_empty() {
        return Err("no address".to_owned());
    }
    kept.sort_unstable();
    kept.dedup();
    Ok(kept)
}

/// Those that this machine has a way to, or all if it has a way to none: a machine without IPv6
/// is told IPv6 addresses all the same.
fn usable(found: Vec<SocketAddr>, has_way: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let (with, without): (Vec<_>, Vec<_>) = found.into_iter().partition(has_way);
    if with.is_empty() { without } else { with }
}

/// Connecting a datagram socket sends nothing: it asks the routing table (RFC 6724, section 5,
/// rule 1: avoid unusable destinations).
fn has_way(address: &SocketAddr) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let mut discard = *address;
    discard.set_port(9);
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect(discard).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_resolved_once_for_all_who_need_it() {
        let resolver = Resolver::new(&Handle::current(), Duration::from_secs(30), None);
        let mut one = resolver.follow("localhost");
        let mut other = resolver.follow("localhost");
        assert_eq!(resolver.followed(), 1);
        while one.latest().is_none() {
            one.changed().await;
        }
        let found = one.latest().unwrap_or_default();
        assert!(!found.is_empty() && found.iter().all(|own| own.ip().is_loopback()));
        assert_eq!(other.latest(), Some(found));
        assert_eq!(resolver.failing().0, 0);
        drop((one, other));
        assert_eq!(resolver.followed(), 0);
    }

    #[tokio::test]
    async fn a_name_that_never_was_one_is_known_to_be_none_and_is_no_trouble() {
        let resolver = Resolver::new(&Handle::current(), Duration::from_secs(30), None);
        let mut nobody = resolver.follow("nobody.invalid");
        while nobody.latest().is_none() {
            nobody.changed().await;
        }
        assert_eq!(nobody.latest(), Some(Arc::default()));
        assert_eq!(resolver.failing().0, 0);
    }

    #[test]
    fn addresses_without_a_way_are_left_out_unless_there_are_no_others() {
        let four = SocketAddr::from(([192, 0, 2, 1], 0));
        let six = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0));
        let both = vec![four, six];
        assert_eq!(usable(both.clone(), |_| true), both);
        assert_eq!(usable(both.clone(), SocketAddr::is_ipv4), [four]);
        assert_eq!(usable(both.clone(), |_| false), both);
        assert!(has_way(&([127, 0, 0, 1], 0).into()));
    }
}
