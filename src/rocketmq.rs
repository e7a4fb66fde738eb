//! Brokers of RocketMQ behind listeners of ours: one listener for each, opened when a name server first tells of it.
//!
//! A client that asks for the routes of a topic is told the ports of these listeners in place of the brokers'
//! addresses. A listener stands for its broker as long as the configuration has its parent; it is at the same port
//! after a restart, if snapshots are kept, for clients go on with the routes that they know.

mod hosts;
mod lanes;
mod remembered;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use finback_core::driver::{Bound, ListenerSpec, Workers};
use finback_core::endpoint::{Endpoint, Health};
use finback_core::mesh::Pinned;
use finback_core::text::Escaped;
use finback_rocketmq::{Board, Broker, Brokers, Config, RocketMq};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::bridges::rocketmq::{Credentials, Way};

use hosts::Target;
pub use lanes::{COUNTS as LANE_COUNTS, LaneCounts};
use remembered::Remembered;

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
    /// What requests of our own to brokers are signed with, if they are.
    pub credentials: Option<Credentials>,
}

/// The listeners that stand for the brokers of one listener in front of name servers.
pub struct BrokerListeners {
    /// This one, for tasks that look names of hosts up.
    own: Weak<Self>,
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
    address: String,
}

/// What is bound for a broker, and who consumes what there, where lanes of consumers are told apart.
type Opened = (Vec<Bound>, Option<Arc<Board>>);

/// Where a broker is reached through us.
struct Place {
    /// The place in the range of ports.
    slot: u16,
    /// When a name server last told of it.
    told: Instant,
    /// Where it is itself; `None` until its host's name was resolved.
    ip: Option<IpAddr>,
    /// Who consumes what there, where lanes of consumers are told apart.
    board: Option<Arc<Board>>,
    /// What is bound for it and serves nobody yet: who connects waits there.
    bound: Vec<Bound>,
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
    /// Where it listens itself, as name servers tell.
    pub address: String,
    /// Its IP address, if its host's name was resolved.
    pub ip: Option<IpAddr>,
    /// The port at which clients reach it here.
    pub port: u16,
    /// Lanes of the groups that consume there from the base.
    pub lanes: Vec<LaneStatus>,
}

/// A lane of a group as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct LaneStatus {
    /// The group.
    pub group: String,
    /// The lane.
    pub lane: String,
    /// Whether it has consumers; `None` as long as that is not known.
    pub live: Option<bool>,
}

impl BrokerListeners {
    /// For a listener of these settings; nothing listens yet.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        let cluster = settings
            .cluster
            .clone()
            .map_or_else(OnceLock::new, OnceLock::from);
        Arc::new_cyclic(|own| Self {
            own: own.clone(),
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
        let file = folder.map(|folder| (remembered::file(folder, &parent.name), Arc::default()));
        let known: Vec<Remembered> = match former {
            Some(former) => former.lock().remembered(),
            None => file
                .as_ref()
                .map(|(file, _)| remembered::read(file))
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
        Handle::current().spawn(hosts::follow(self.own.clone()));
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
            place.end(workers.as_ref());
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
            address: name.address.clone(),
            ip: place.ip,
            port: self.port_of(place.slot),
            lanes: lanes_of(place.board.as_deref()),
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
            match self.bind(state, &name, slot) {
                Ok((bound, board)) => {
                    let place = Place {
                        slot,
                        told: Instant::now(),
                        ip: None,
                        board,
                        bound,
                        listeners: Vec::new(),
                    };
                    state.failed.remove(&name);
                    state.brokers.insert(name.clone(), place);
                    match Target::of(&name.address) {
                        Some(Target::Ip(ip)) => self.serve(state, &name, ip),
                        Some(Target::Host(host)) => self.look_up(state, name, host),
                        None => {}
                    }
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
            broker = %Escaped(&name.name), id = name.id, address = %Escaped(&name.address),
            "no port could be had for a broker of RocketMQ; clients are not told of it"
        );
        state.fail(name);
        None
    }

    /// Has the ports of a place, and serves nobody there yet.
    fn bind(&self, state: &State, name: &Name, slot: u16) -> io::Result<Opened> {
        let lanes = self.settings.config.lanes.as_ref();
        let lanes = lanes.filter(|own| !own.others().is_empty());
        let board = lanes.map(|own| Board::new(own.clone()));
        let gone = || io::Error::other("its listener is gone");
        let site = state.site.as_ref().ok_or_else(gone)?;
        let workers = site.workers.upgrade().ok_or_else(gone)?;
        let port = self.port_of(slot);
        let mut ports = vec![port];
        // A broker listens two below its port as well, for what clients send it there.
        if hosts::port(&name.address).is_some_and(|port| port > VIP) {
            ports.push(port - VIP);
        }
        let mut bound: Vec<Bound> = Vec::new();
        for port in ports {
            // Under its parent's name: that is what operators have written down.
            let made = workers.bind(ListenerSpec {
                address: SocketAddr::new(site.parent.address.ip(), port),
                protocols: vec![Arc::new(
                    RocketMq::of_broker(self.settings.config.clone()).with_board(board.clone()),
                )],
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
        Ok((bound, board))
    }

    /// Begins to serve a broker whose IP address is known now.
    fn serve(&self, state: &mut State, name: &Name, ip: IpAddr) {
        let (Some(workers), Some(cluster)) = (state.workers(), self.cluster.get()) else {
            return;
        };
        let control = state.site.as_ref().map(|site| site.control.clone());
        let listener = state
            .site
            .as_ref()
            .map(|site| (site.parent.name.clone(), site.parent.address.ip()));
        let (Some((parent, here)), Some(place)) = (listener, state.brokers.get_mut(name)) else {
            return;
        };
        let Some(to) = hosts::port(&name.address) else {
            return;
        };
        place.ip = Some(ip);
        if let (Some(board), Some(control)) = (&place.board, control) {
            let (board, broker) = (Arc::downgrade(board), SocketAddr::new(ip, to));
            let credentials = self.settings.credentials.clone();
            let way = Way::Cluster(Arc::downgrade(workers.mesh()), cluster.clone());
            control.spawn(lanes::look_after(board, broker, credentials, way));
        }
        for (bound, below) in std::mem::take(&mut place.bound).into_iter().zip([0, VIP]) {
            place.listeners.push(bound.id());
            workers.listen(bound.pinned_to(Pinned {
                cluster: cluster.clone(),
                endpoint: Arc::new(endpoint(SocketAddr::new(ip, to - below))),
            }));
        }
        tracing::info!(
            "clients of listener {parent} reach broker {}:{} ({ip}:{to}) at {here}:{}",
            Escaped(&name.name),
            name.id,
            self.port_of(place.slot),
        );
    }
}

impl Brokers for BrokerListeners {
    fn port(&self, broker: &Broker<'_>) -> Option<u16> {
        let mut state = self.lock();
        if Target::of(broker.address).is_none() {
            state.refuse(broker);
            return None;
        }
        let name = Name {
            cluster: broker.cluster.to_owned(),
            name: broker.name.to_owned(),
            id: broker.id,
            address: broker.address.to_owned(),
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
            name: broker.name.to_owned(),
            id: broker.id,
            address: broker.address.to_owned(),
        };
        if !self.has_failed(&name) {
            tracing::warn!(
                broker = %Escaped(broker.name), address = %Escaped(broker.address),
                "clients are not told of a broker whose address is no host and port"
            );
            self.fail(name);
        }
    }

    /// Gives up the place of the broker that has not been told of for the longest time, if that is long.
    fn forget_one(&mut self) {
        let oldest = self.brokers.iter().min_by_key(|(_, place)| place.told);
        let Some((name, _)) = oldest.filter(|(_, place)| place.told.elapsed() > FORGOTTEN) else {
            return;
        };
        tracing::info!(broker = %Escaped(&name.name), address = %Escaped(&name.address), "no name server names this broker of RocketMQ any more; its listener is closed");
        let name = name.clone();
        self.end(&name);
    }

    /// Serves a broker no more.
    fn end(&mut self, name: &Name) {
        let workers = self.workers();
        if let Some(mut place) = self.brokers.remove(name) {
            place.end(workers.as_ref());
        }
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
            if let Err(error) = remembered::replace(&file, &text) {
                tracing::warn!(file = %file.display(), %error, "cannot write down where brokers of RocketMQ are");
            }
        });
    }
}

impl Place {
    /// Gives its ports back.
    fn end(&mut self, workers: Option<&Arc<Workers>>) {
        let bound = std::mem::take(&mut self.bound);
        let mut numbers = std::mem::take(&mut self.listeners);
        numbers.extend(bound.iter().map(Bound::id));
        if let Some(workers) = workers {
            for own in numbers {
                workers.unlisten(own);
            }
        }
    }
}

fn lanes_of(board: Option<&Board>) -> Vec<LaneStatus> {
    let all = board.map(Board::lives).unwrap_or_default().into_iter();
    let all = all.map(|(group, lane, live)| LaneStatus {
        group: group.to_string(),
        lane: lane.to_string(),
        live,
    });
    all.collect()
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
