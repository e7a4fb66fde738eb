//! Registrations: what we keep in registries, for a local service or a bridge, as long as it is
//! to be there.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_core::text::Escaped;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::feed::Feeds;
use crate::layout::Layout;
use crate::layout::write::{Entry, write};
use crate::lock;
use crate::store::{Claim, Store};

/// How often a local service is asked whether it answers, and how long it may take.
const CHECK: Duration = Duration::from_secs(1);
/// Failed checks in a row after which a service is taken out.
const FAILURES: u32 = 2;
/// How long it may take to take everything out.
const WITHDRAWAL: Duration = Duration::from_secs(3);

/// A local service that is registered on behalf of its application.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The configured name of the registry.
    pub registry: String,
    /// The layout to write.
    pub layout: Layout,
    /// The service.
    pub service: String,
    /// Its version; "" for none.
    pub version: String,
    /// Its group or unique id; "" for none.
    pub group: String,
    /// What it speaks, as the framework calls it.
    pub protocol: String,
    /// The host that consumers shall connect to.
    pub host: String,
    /// And the port.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// The application's name.
    pub application: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// It is registered only while something listens here.
    pub check: Option<SocketAddr>,
}

/// How it stands with a registration.
#[derive(Clone, Debug)]
pub struct RegistrationStatus {
    /// What is registered.
    pub registration: Registration,
    /// Whether it is there now.
    pub held: bool,
}

/// Everything that is registered for local services.
pub(crate) struct Registrar {
    handle: Handle,
    holders: Mutex<HashMap<Registration, Holder>>,
}

/// One entry, held until dropped; [`release`](Self::release) takes it back at once.
pub(crate) struct Holder {
    store: Arc<Store>,
    path: String,
    held: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    /// Holds an entry while nothing else is asked for.
    pub(crate) fn hold(
        handle: &Handle,
        feeds: &Feeds,
        layout: Layout,
        entry: &Entry,
        claim: Claim,
        check: Option<SocketAddr>,
    ) -> Self {
        let (path, value) = write(layout, feeds.roots(), entry);
        let store = feeds.store().clone();
        let (sender, held) = watch::channel(false);
        let task = {
            let (store, path) = (store.clone(), path.clone());
            handle.spawn(async move {
                let Some(check) = check else {
                    store.hold(&path, &value, claim, &sender).await;
                    return;
                };
                loop {
                    until_answering(check).await;
                    tokio::select! {
                        () = store.hold(&path, &value, claim, &sender) => return,
                        () = until_failing(check) => {}
                    }
                    tracing::warn!(%check, path = %Escaped(&path), "the local service does not answer; taken out");
                    sender.send_replace(false);
                    store.release(&path).await;
                }
            })
        };
        Self {
            store,
            path,
            held,
            task: task.abort_handle(),
        }
    }

    /// Takes the entry back.
    pub(crate) async fn release(self) {
        self.task.abort();
        self.store.release(&self.path).await;
    }

    fn is_held(&self) -> bool {
        *self.held.borrow()
    }
}

impl Registrar {
    pub(crate) fn new(handle: &Handle) -> Self {
        Self {
            handle: handle.clone(),
            holders: Mutex::default(),
        }
    }

    /// Registers what is not registered yet.
    pub(crate) fn add(&self, registration: &Registration, feeds: &Feeds) {
        lock(&self.holders)
            .entry(registration.clone())
            .or_insert_with(|| {
                let entry = registration.entry();
                let (layout, check) = (registration.layout, registration.check);
                Holder::hold(&self.handle, feeds, layout, &entry, Claim::Own, check)
            });
    }

    /// Takes a registration back.
    pub(crate) fn remove(&self, registration: &Registration) {
        let holder = lock(&self.holders).remove(registration);
        if let Some(holder) = holder {
            self.handle.spawn(holder.release());
        }
    }

    /// Everything registered.
    pub(crate) fn all(&self) -> Vec<Registration> {
        lock(&self.holders).keys().cloned().collect()
    }

    pub(crate) fn status(&self) -> Vec<RegistrationStatus> {
        let holders = lock(&self.holders);
        holders
            .iter()
            .map(|(registration, holder)| RegistrationStatus {
                registration: registration.clone(),
                held: holder.is_held(),
            })
            .collect()
    }

    /// Takes everything back, for good.
    pub(crate) async fn withdraw(&self) {
        let holders = std::mem::take(&mut *lock(&self.holders));
        release_all(holders.into_values()).await;
    }
}

/// Takes entries back, all at the same time, within a bound.
pub(crate) async fn release_all(holders: impl IntoIterator<Item = Holder>) {
    let releases = holders.into_iter().map(Holder::release);
    let all = futures_util::future::join_all(releases);
    if tokio::time::timeout(WITHDRAWAL, all).await.is_err() {
        tracing::warn!("the registry does not answer; what is registered goes with our session");
    }
}

impl Registration {
    fn entry(&self) -> Entry {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Entry {
            service: self.service.clone(),
            version: self.version.clone(),
            group: self.group.clone(),
            protocol: self.protocol.clone(),
            host: self.host.clone(),
            port: self.port,
            weight: self.weight,
            application: self.application.clone(),
            labels: self.labels.clone(),
            since: u64::try_from(since.as_millis()).unwrap_or_default(),
            ..Entry::default()
        }
    }
}

async fn answers(address: SocketAddr) -> bool {
    matches!(
        tokio::time::timeout(CHECK, TcpStream::connect(address)).await,
        Ok(Ok(_))
    )
}

async fn until_answering(address: SocketAddr) {
    while !answers(address).await {
        tokio::time::sleep(CHECK).await;
    }
}

async fn until_failing(address: SocketAddr) {
    let mut failures = 0;
    while failures < FAILURES {
        tokio::time::sleep(CHECK).await;
        failures = if answers(address).await {
            0
        } else {
            failures + 1
        };
    }
}
