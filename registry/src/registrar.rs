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
use crate::layout::LayoutKind;
use crate::layout::write::{Entry, WriteTo, Written};
use crate::lock;
use crate::store::{Claim, Store};

/// How often a local service is asked whether it answers, and how long it may take.
const CHECK: Duration = Duration::from_secs(1);
/// Failed checks in a row after which a service is taken out.
const FAILURES: u32 = 2;
/// How often what belongs beside an entry is looked at.
const KEEPING: Duration = Duration::from_secs(30);
/// How long it may take to take everything out.
const WITHDRAWAL: Duration = Duration::from_secs(3);

/// A local service that is registered on behalf of its application.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The configured name of the registry.
    pub registry: String,
    /// The layout to write.
    pub layout: LayoutKind,
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
    /// What else consumers may act on, as the framework calls it.
    pub parameters: BTreeMap<String, String>,
    /// It is registered only while something listens here.
    pub check: Option<SocketAddr>,
    /// The other services of the same instance of an application, where that is what is registered.
    pub also: Vec<Self>,
}

/// The state of a registration.
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
        written: Written,
        claim: Claim,
        check: Option<SocketAddr>,
    ) -> Self {
        let store = feeds.store().clone();
        let (sender, held) = watch::channel(false);
        let path = written.path.clone();
        let task = {
            let (store, path) = (store.clone(), path.clone());
            handle.spawn(async move {
                let Some(check) = check else {
                    hold(&store, &written, claim, &sender).await;
                    return;
                };
                loop {
                    until_answering(check).await;
                    tokio::select! {
                        () = hold(&store, &written, claim, &sender) => return,
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

    /// Leaves the entry to another who waits for it.
    pub(crate) async fn leave(self) {
        self.task.abort();
        self.store.leave(&self.path).await;
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the entry is there.
    pub(crate) fn is_held(&self) -> bool {
        *self.held.borrow()
    }
}

/// Holds an entry, and sees to it that what belongs beside it is there.
async fn hold(store: &Store, written: &Written, claim: Claim, held: &watch::Sender<bool>) {
    let Written {
        path,
        value,
        beside,
    } = written;
    store.amend_all(beside).await;
    let keeping = async {
        loop {
            tokio::time::sleep(KEEPING).await;
            store.amend_all(beside).await;
        }
    };
    if beside.is_empty() {
        return store.hold(path, value, claim, held).await;
    }
    tokio::select! {
        () = store.hold(path, value, claim, held) => {}
        () = keeping => {}
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
                let (written, check) = (registration.written(feeds), registration.check);
                Holder::hold(&self.handle, feeds, written, Claim::Own, check)
            });
    }

    /// Takes a registration back.
    pub(crate) fn remove(&self, registration: &Registration) {
        let holder = lock(&self.holders).remove(registration);
        if let Some(holder) = holder {
            self.handle.spawn(holder.release());
        }
    }

    /// Takes registrations out of the books; they stand until they are released.
    pub(crate) fn detach(&self, gone: &[&Registration]) -> Mutex<Vec<Holder>> {
        let mut holders = lock(&self.holders);
        let former = gone.iter().filter_map(|own| holders.remove(*own));
        Mutex::new(former.collect())
    }

    /// Registers what is not registered yet, in the place of a former one where it is the same.
    pub(crate) fn succeed(
        &self,
        registration: &Registration,
        feeds: &Feeds,
        former: &Mutex<Vec<Holder>>,
    ) {
        let Written { path, .. } = registration.written(feeds);
        // Two with one place would overwrite each other; the entry itself stays.
        let is_same = |own: &Holder| own.path == path && Arc::ptr_eq(&own.store, feeds.store());
        lock(former).retain(|own| !is_same(own));
        self.add(registration, feeds);
    }

    /// Registers the same in another session, and ends the former one after that.
    pub(crate) fn renew(&self, registration: &Registration, feeds: &Feeds) {
        let former = self.detach(&[registration]);
        self.add(registration, feeds);
        self.release_after(former, std::slice::from_ref(registration));
    }

    /// Releases former entries as soon as those in their place stand, or after a while.
    pub(crate) fn release_after(&self, former: Mutex<Vec<Holder>>, after: &[Registration]) {
        let former = std::mem::take(&mut *lock(&former));
        if former.is_empty() {
            return;
        }
        let holders = lock(&self.holders);
        let after = after.iter().filter_map(|own| holders.get(own));
        let coming: Vec<_> = after.map(|holder| holder.held.clone()).collect();
        self.handle.spawn(async move {
            let all = coming.into_iter().map(|mut held| async move {
                // One that ended meanwhile is waited for no longer.
                let _ = held.wait_for(|held| *held).await;
            });
            let all = futures_util::future::join_all(all);
            let _ = tokio::time::timeout(WITHDRAWAL, all).await;
            release_all(former).await;
        });
    }

    /// Everything registered.
    pub(crate) fn all(&self) -> Vec<Registration> {
        lock(&self.holders).keys().cloned().collect()
    }

    pub(crate) fn status(&self) -> Vec<RegistrationStatus> {
        let holders = lock(&self.holders);
        let mut all = Vec::new();
        for (registration, holder) in &*holders {
            for registration in std::iter::once(registration).chain(&registration.also) {
                all.push(RegistrationStatus {
                    registration: registration.clone(),
                    held: holder.is_held(),
                });
            }
        }
        all
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

/// Leaves entries to others, all at the same time, within a bound.
pub(crate) async fn leave_all(holders: impl IntoIterator<Item = Holder>) {
    let all = futures_util::future::join_all(holders.into_iter().map(Holder::leave));
    if tokio::time::timeout(WITHDRAWAL, all).await.is_err() {
        tracing::warn!(
            "the registry does not answer; what is mirrored stays as long as our session"
        );
    }
}

impl Registration {
    /// Everything that the entry says besides.
    fn said(&self) -> BTreeMap<String, String> {
        let mut said = self.parameters.clone();
        self.layout.layout().describe(&mut said, &self.labels);
        said
    }

    /// What is written for it.
    fn written(&self, feeds: &Feeds) -> Written {
        let to = WriteTo {
            roots: feeds.roots(),
            is_zookeeper: feeds.store().is_zookeeper(),
        };
        let also: Vec<Entry> = self.also.iter().map(Self::entry).collect();
        self.layout.layout().write(&to, &self.entry(), &also)
    }

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
            parameters: self.said(),
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
