//! Brokers of RocketMQ behind listeners of ours: one listener for each, opened when a name server first tells of it.
//!
//! A client that asks for the routes of a topic is told the ports of these listeners in place of the brokers'
//! addresses. A listener stands for its broker as long as the configuration has its parent; it is at the same port
//! after a restart, if snapshots are kept, for clients go on with the routes that they know.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use finback_core::driver::{ListenerSpec, Workers};
use finback_core::endpoint::{Endpoint, Health};
use finback_core::mesh::Pinned;
use finback_core::text::Escaped;
use finback_rocketmq::{Broker, Brokers, Config, RocketMq};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// Ports for one broker: the one that clients are told, two below it the one that clients of versions up to 4.4 dial
/// instead (the "VIP channel"), and one between.
const STRIDE: u16 = 3;
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
    /// Until it is closed.
    site: Option<Site>,
    brokers: BTreeMap<Name, Place>,
    /// Ports that somebody else has.
    taken: Vec<u16>,
}

/// Where listeners are opened.
struct Site {
    workers: Weak<Workers>,
    /// The listener in front of the name servers.
    parent: ListenerSpec,
    /// Where the brokers' ports are remembered.
    file: Option<PathBuf>,
    control: Handle,
}

/// A broker by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Name {
    cluster: String,
    name: String,
    id: i64,
}

/// Where a broker is, and where it is reached through us.
#[derive(Clone)]
struct Place {
    /// The place in the range of ports.
    slot: u16,
    address: SocketAddr,
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
    address: SocketAddr,
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
        let file = folder.map(|folder| file(folder, &parent.name));
        let known: Vec<Remembered> = match former {
            Some(former) => former.remembered(),
            None => file.as_deref().map(read).unwrap_or_default(),
        };
        let mut state = self.lock();
        state.site = Some(Site {
            workers: Arc::downgrade(workers),
            parent: parent.clone(),
            file,
            control: Handle::current(),
        });
        for broker in known {
            self.open(&mut state, broker.name, broker.address, Some(broker.slot));
        }
    }

    /// The ports for brokers.
    #[must_use]
    pub fn ports(&self) -> &RangeInclusive<u16> {
        &self.settings.ports
    }

    /// Ends its listeners.
    pub fn close(&self) {
        let mut state = self.lock();
        let workers = state.site.take().and_then(|site| site.workers.upgrade());
        for place in std::mem::take(&mut state.brokers).into_values() {
            end(workers.as_ref(), &place);
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
            address: place.address,
            port: self.port_of(place.slot),
        });
        brokers.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> Vec<Remembered> {
        self.lock().remembered()
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
    fn open(
        &self,
        state: &mut State,
        name: Name,
        address: SocketAddr,
        wanted: Option<u16>,
    ) -> Option<u16> {
        let slots = self.slots();
        let first = wanted.filter(|slot| *slot < slots).unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            u16::try_from(hasher.finish() % u64::from(slots.max(1))).unwrap_or_default()
        });
        let former = state.brokers.remove(&name);
        // One that moved keeps its place.
        let first = former.as_ref().map_or(first, |own| own.slot);
        for step in 0..slots {
            let slot = (first + step) % slots;
            let is_free = !state.taken.contains(&slot)
                && state.brokers.values().all(|other| other.slot != slot);
            if !is_free {
                continue;
            }
            match self.listen(state, &name, address, slot) {
                Ok(listeners) => {
                    if let Some(former) = &former {
                        end(state.workers().as_ref(), former);
                    }
                    let place = Place {
                        slot,
                        address,
                        listeners,
                    };
                    state.brokers.insert(name, place);
                    return Some(self.port_of(slot));
                }
                Err(error) => {
                    let port = self.port_of(slot);
                    tracing::warn!(port, %error, "cannot listen for a broker of RocketMQ there");
                    state.taken.push(slot);
                }
            }
        }
        if let Some(former) = &former {
            end(state.workers().as_ref(), former);
        }
        tracing::warn!(
            broker = %Escaped(&name.name), id = name.id,
            "no port is left for a broker of RocketMQ; clients are not told of it"
        );
        None
    }

    fn listen(
        &self,
        state: &State,
        name: &Name,
        address: SocketAddr,
        slot: u16,
    ) -> std::io::Result<Vec<u64>> {
        let gone = || std::io::Error::other("its listener is gone");
        let site = state.site.as_ref().ok_or_else(gone)?;
        let workers = site.workers.upgrade().ok_or_else(gone)?;
        let cluster = self.cluster.get().ok_or_else(gone)?;
        let port = self.port_of(slot);
        let mut ends = vec![(port, address)];
        // A broker listens two below its port as well, for what clients send it there.
        let vip = address.port().checked_sub(VIP).filter(|vip| *vip > 0);
        if let Some(vip) = vip {
            ends.push((port - VIP, SocketAddr::new(address.ip(), vip)));
        }
        let mut bound = Vec::new();
        for (port, to) in ends {
            // Under its parent's name: that is what operators have written down.
            bound.push(workers.bind(ListenerSpec {
                address: SocketAddr::new(site.parent.address.ip(), port),
                protocols: vec![Arc::new(RocketMq::of_broker(self.settings.config.clone()))],
                pinned: Some(Pinned {
                    cluster: cluster.clone(),
                    endpoint: Arc::new(endpoint(to)),
                }),
                ..site.parent.clone()
            })?);
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
        let name = Name {
            cluster: broker.cluster.to_owned(),
            name: broker.name.to_owned(),
            id: broker.id,
        };
        let Ok(address) = broker.address.parse::<SocketAddr>() else {
            tracing::warn!(
                broker = %Escaped(broker.name), address = %Escaped(broker.address),
                "clients are not told of a broker whose address is no IP address and port"
            );
            return None;
        };
        if let Some(place) = state.brokers.get(&name)
            && place.address == address
        {
            return Some(self.port_of(place.slot));
        }
        let port = self.open(&mut state, name, address, None);
        state.remember();
        port
    }
}

impl State {
    fn workers(&self) -> Option<Arc<Workers>> {
        self.site.as_ref()?.workers.upgrade()
    }

    fn remembered(&self) -> Vec<Remembered> {
        let each = self.brokers.iter().map(|(name, place)| Remembered {
            name: name.clone(),
            address: place.address,
            slot: place.slot,
        });
        each.collect()
    }

    /// Writes down where brokers are, elsewhere: a worker waits for no disk.
    fn remember(&self) {
        let Some((site, file)) = self
            .site
            .as_ref()
            .and_then(|own| Some((own, own.file.clone()?)))
        else {
            return;
        };
        let Ok(text) = serde_json::to_vec_pretty(&self.remembered()) else {
            return;
        };
        site.control.spawn_blocking(move || {
            if let Err(error) = replace(&file, &text) {
                tracing::warn!(file = %file.display(), %error, "cannot write down where brokers of RocketMQ are");
            }
        });
    }
}

fn end(workers: Option<&Arc<Workers>>, place: &Place) {
    for own in &place.listeners {
        if let Some(workers) = workers {
            workers.unlisten(*own);
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
    let plain = |char: char| {
        if char.is_ascii_alphanumeric() {
            char
        } else {
            '-'
        }
    };
    let name: String = listener.chars().map(plain).collect();
    folder.join(format!("rocketmq-{name}.json"))
}

fn read(file: &Path) -> Vec<Remembered> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
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
fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let draft = file.with_extension("json.new");
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, file)
}
