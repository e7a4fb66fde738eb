//! Brokers of RocketMQ behind listeners of ours: one listener for each, opened when a name server first tells of it.
//!
//! A client that asks for the routes of a topic is told the ports of these listeners in place of the brokers'
//! addresses. A listener stands for its broker as long as the configuration has its parent; it is at the same port
//! after a restart, if snapshots are kept, for clients go on with the routes that they know.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use finback_core::driver::{Bound, ListenerSpec, Workers};
use finback_core::endpoint::{Endpoint, Health};
use finback_core::mesh::Pinned;
use finback_core::text::Escaped;
use finback_rocketmq::{Broker, Brokers, Config, RocketMq};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// Ports for one broker: the one that clients are told, two below it the one that clients of versions up to 4.4 dial
/// instead (the "VIP channel"), and one between.
const STRIDE: u16 = 3;
/// Ports that are tried for a broker, if others have them.
const TRIES: usize = 8;
/// A broker that could not be served is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// One that no name server has told of for so long makes room: clients ask for what they use every 30 s.
const FORGOTTEN: Duration = Duration::from_secs(10 * 60);
/// What the VIP channel's port is below the broker's own.
const VIP: u16 = 2;

/// What a listener in front of name servers was configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ports for brokers.
    pub ports: RangeInclusive<u16>,
    /// The cluster whose policy calls to brokers follow; `None`: the one that all its routes lead to.
    pub cluster: Option<Arc<str>>,
    /// What clients' frames may be, and the host that they dial.
    pub config: Config,
}

/// The listeners that stand for the brokers of one listener in front of name servers.
pub struct BrokerListeners {
    settings: Settings,
    cluster: OnceLock<Arc<str>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// From when it is attached until it is closed.
    site: Option<Site>,
    brokers: BTreeMap<Name, Place>,
    /// Brokers that could not be served, and when that was tried last.
    failed: BTreeMap<Name, Instant>,
    /// Grows with each change that is written down.
    version: u64,
}

/// Where listeners are opened.
struct Site {
    workers: Weak<Workers>,
    /// The listener in front of the name servers.
    parent: ListenerSpec,
    /// Where the brokers' ports are remembered, and which of their versions is there.
    file: Option<(PathBuf, Arc<Mutex<u64>>)>,
    control: Handle,
}

/// A broker. One name at two addresses is two brokers: name servers may disagree, or be those of two clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Name {
    cluster: String,
    name: String,
    id: i64,
    address: SocketAddr,
}

/// Where a broker is reached through us.
#[derive(Clone, Debug)]
struct Place {
    /// The place in the range of ports.
    slot: u16,
    /// When a name server last told of it.
    told: Instant,
    /// The numbers of its listeners.
    listeners: Vec<u64>,
}

/// A broker as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerStatus {
    /// The name of the listener in front of its name servers.
    #[serde(skip)]
    pub listener: String,
    /// The name of its cluster in RocketMQ.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its number among those of that name; 0 is the master.
    pub id: i64,
    /// Where it listens itself.
    pub address: SocketAddr,
    /// The port at which clients reach it here.
    pub port: u16,
}

/// A broker as a file remembers it.
#[derive(Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    name: Name,
    slot: u16,
}

impl BrokerListeners {
    /// For a listener of these settings; nothing listens yet.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        let cluster = settings
            .cluster
            .clone()
            .map_or_else(OnceLock::new, OnceLock::from);
        Arc::new(Self {
            settings,
            cluster,
            state: Mutex::default(),
        })
    }

    /// Says which cluster's policy holds, where the configuration leaves that to be found out.
    pub fn set_cluster(&self, cluster: &Arc<str>) {
        let _ = self.cluster.set(cluster.clone());
    }

    /// The cluster whose policy holds, once it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<str>> {
        self.cluster.get()
    }

    /// Begins to open listeners beside `parent`; at once for the brokers that `former` has, or else those that the
    /// file in `folder` remembers.
    pub fn attach(
        &self,
        workers: &Arc<Workers>,
        parent: &ListenerSpec,
        folder: Option<&Path>,
        former: Option<&Self>,
    ) {
        let file = folder.map(|folder| (file(folder, &parent.name), Arc::default()));
        let known: Vec<Remembered> = match former {
            Some(former) => former.lock().remembered(),
            None => file
                .as_ref()
                .map(|(file, _)| read(file))
                .unwrap_or_default(),
        };
        let mut state = self.lock();
        state.site = Some(Site {
            workers: Arc::downgrade(workers),
            parent: parent.clone(),
            file,
            control: Handle::current(),
        });
        for broker in known {
            self.open(&mut state, broker.name, Some(broker.slot));
        }
    }

    /// The ports for brokers.
    #[must_use]
    pub fn ports(&self) -> &RangeInclusive<u16> {
        &self.settings.ports
    }

    /// Ends its listeners. Clients of its parent that are still there are told of them as before: whoever follows
    /// has them at the same ports.
    pub fn close(&self) {
        let mut state = self.lock();
        let workers = state.workers();
        state.site = None;
        for place in state.brokers.values_mut() {
            end(workers.as_ref(), std::mem::take(&mut place.listeners));
        }
    }

    /// The brokers that listeners stand for now.
    #[must_use]
    pub fn status(&self) -> Vec<BrokerStatus> {
        let state = self.lock();
        let Some(site) = &state.site else {
            return Vec::new();
        };
        let brokers = state.brokers.iter().map(|(name, place)| BrokerStatus {
            listener: site.parent.name.to_string(),
            cluster: name.cluster.clone(),
            name: name.name.clone(),
            id: name.id,
            address: name.address,
            port: self.port_of(place.slot),
        });
        brokers.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> u16 {
        let (first, last) = (*self.settings.ports.start(), *self.settings.ports.end());
        (last.saturating_sub(first).saturating_add(1)) / STRIDE
    }

    fn port_of(&self, slot: u16) -> u16 {
        self.settings.ports.start() + slot * STRIDE + VIP
    }

    /// Opens the listeners of a broker; the port to tell, if one could be had. The same name gets the same place
    /// wherever that is free.
    fn open(&self, state: &mut State, name: Name, wanted: Option<u16>) -> Option<u16> {
        let slots = self.slots();
        let first = wanted.filter(|slot| *slot < slots).unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            (&name.cluster, &name.name, name.id).hash(&mut hasher);
            u16::try_from(hasher.finish() % u64::from(slots.max(1))).unwrap_or_default()
        });
        if state.brokers.len() >= usize::from(slots) {
            state.forget_one();
        }
        let order = (0..slots).map(|step| (first + step) % slots);
        let is_free = |slot: &u16| state.brokers.values().all(|other| other.slot != *slot);
        for slot in order.filter(is_free).take(TRIES).collect::<Vec<_>>() {
            match self.listen(state, &name, slot) {
                Ok(listeners) => {
                    let told = Instant::now();
                    let place = Place {
                        slot,
                        told,
                        listeners,
                    };
                    state.failed.remove(&name);
                    state.brokers.insert(name, place);
                    return Some(self.port_of(slot));
                }
                Err(error) => {
                    let port = self.port_of(slot);
                    tracing::warn!(port, %error, "cannot listen for a broker of RocketMQ there");
                    if error.kind() != io::ErrorKind::AddrInUse {
                        break;
                    }
                }
            }
        }
        tracing::warn!(
            broker = %Escaped(&name.name), id = name.id, address = %name.address,
            "no port could be had for a broker of RocketMQ; clients are not told of it"
        );
        state.fail(name);
        None
    }

    fn listen(&self, state: &State, name: &Name, slot: u16) -> io::Result<Vec<u64>> {
        let gone = || io::Error::other("its listener is gone");
        let site = state.site.as_ref().ok_or_else(gone)?;
        let workers = site.workers.upgrade().ok_or_else(gone)?;
        let cluster = self.cluster.get().ok_or_else(gone)?;
        let (port, address) = (self.port_of(slot), name.address);
        let mut ends = vec![(port, address)];
        // A broker listens two below its port as well, for what clients send it there.
        let vip = address.port().checked_sub(VIP).filter(|vip| *vip > 0);
        if let Some(vip) = vip {
            ends.push((port - VIP, SocketAddr::new(address.ip(), vip)));
        }
        let mut bound: Vec<Bound> = Vec::new();
        for (port, to) in ends {
            // Under its parent's name: that is what operators have written down.
            let made = workers.bind(ListenerSpec {
                address: SocketAddr::new(site.parent.address.ip(), port),
                protocols: vec![Arc::new(RocketMq::of_broker(self.settings.config.clone()))],
                pinned: Some(Pinned {
                    cluster: cluster.clone(),
                    endpoint: Arc::new(endpoint(to)),
                }),
                ..site.parent.clone()
            });
            match made {
                Ok(made) => bound.push(made),
                Err(error) => {
                    for other in bound {
                        workers.unlisten(other.id());
                    }
                    return Err(error);
                }
            }
        }
        let listeners = bound.into_iter().map(|bound| {
            let id = bound.id();
            workers.listen(bound);
            id
        });
        let listeners = listeners.collect();
        tracing::info!(
            "clients of listener {} reach broker {}:{} ({address}) at {}:{port}",
            site.parent.name,
            Escaped(&name.name),
            name.id,
            site.parent.address.ip(),
        );
        Ok(listeners)
    }
}

impl Brokers for BrokerListeners {
    fn port(&self, broker: &Broker<'_>) -> Option<u16> {
        let mut state = self.lock();
        let Ok(address) = broker.address.parse::<SocketAddr>() else {
            state.refuse(broker);
            return None;
        };
        let name = Name {
            cluster: broker.cluster.to_owned(),
            name: broker.name.to_owned(),
            id: broker.id,
            address,
        };
        if let Some(place) = state.brokers.get_mut(&name) {
            place.told = Instant::now();
            return Some(self.port_of(place.slot));
        }
        if state.site.is_none() || state.has_failed(&name) {
            return None;
        }
        let port = self.open(&mut state, name, None);
        if port.is_some() {
            state.remember();
        }
        port
    }
}

impl State {
    fn workers(&self) -> Option<Arc<Workers>> {
        self.site.as_ref()?.workers.upgrade()
    }

    /// Whether it was tried in vain a short while ago: what clients ask costs no more then.
    fn has_failed(&self, name: &Name) -> bool {
        let tried = self.failed.get(name);
        tried.is_some_and(|tried| tried.elapsed() < RETRY)
    }

    fn fail(&mut self, name: Name) {
        self.failed.retain(|_, tried| tried.elapsed() < RETRY);
        self.failed.insert(name, Instant::now());
    }

    /// Says that a broker's address is of no use, now and then.
    fn refuse(&mut self, broker: &Broker<'_>) {
        let name = Name {
            cluster: broker.cluster.to_owned(),
            name: format!("{} {}", broker.name, broker.address),
            id: broker.id,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        if !self.has_failed(&name) {
            tracing::warn!(
                broker = %Escaped(broker.name), address = %Escaped(broker.address),
                "clients are not told of a broker whose address is no IP address and port"
            );
            self.fail(name);
        }
    }

    /// Gives up the place of the broker that has not been told of for the longest time, if that is long.
    fn forget_one(&mut self) {
        let oldest = self.brokers.iter().min_by_key(|(_, place)| place.told);
        let Some((name, place)) = oldest.filter(|(_, place)| place.told.elapsed() > FORGOTTEN)
        else {
            return;
        };
        tracing::info!(broker = %Escaped(&name.name), address = %name.address, "a broker of RocketMQ that no name server tells of any more is served no more");
        end(self.workers().as_ref(), place.listeners.clone());
        let name = name.clone();
        self.brokers.remove(&name);
    }

    fn remembered(&self) -> Vec<Remembered> {
        let each = self.brokers.iter().map(|(name, place)| Remembered {
            name: name.clone(),
            slot: place.slot,
        });
        each.collect()
    }

    /// Writes down where brokers are, elsewhere: a worker waits for no disk.
    fn remember(&mut self) {
        self.version += 1;
        let version = self.version;
        let Some(site) = &self.site else { return };
        let Some((file, written)) = site.file.clone() else {
            return;
        };
        let Ok(text) = serde_json::to_vec_pretty(&self.remembered()) else {
            return;
        };
        site.control.spawn_blocking(move || {
            // One at a time, and none after a later one.
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if *written > version {
                return;
            }
            *written = version;
            if let Err(error) = replace(&file, &text) {
                tracing::warn!(file = %file.display(), %error, "cannot write down where brokers of RocketMQ are");
            }
        });
    }
}

fn end(workers: Option<&Arc<Workers>>, listeners: Vec<u64>) {
    if let Some(workers) = workers {
        for own in listeners {
            workers.unlisten(own);
        }
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        labels: BTreeMap::new(),
        warm_up: None,
        terms: None,
        health: Arc::<Health>::default(),
    }
}

fn file(folder: &Path, listener: &str) -> PathBuf {
    // Two names never become one.
    let plain = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || byte == b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    let name: String = listener.bytes().map(plain).collect();
    folder.join(format!("rocketmq-{name}.json"))
}

fn read(file: &Path) -> Vec<Remembered> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read where brokers of RocketMQ were");
            return Vec::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "cannot read where brokers of RocketMQ were");
        Vec::new()
    })
}

/// Replaces a file in one step.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("json.new");
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, file)
}
