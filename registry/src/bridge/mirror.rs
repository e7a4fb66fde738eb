//! A bridge at work: holds in the target what the source offers, service by service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Bridge;
use crate::feed::{Feed, Feeds};
use crate::layout::Directory;
use crate::layout::write::{WriteTo, Written};
use crate::offer::Offer;
use crate::registrar::{Holder, leave_all, release_all};
use crate::store::Claim;

/// How long what is to go waits for what takes its place.
const SUCCESSION: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What a running bridge is to do.
#[derive(Clone)]
pub(crate) enum Order {
    /// Mirror between these ends.
    Mirror(Ends),
    /// Take back what was written, and end.
    End,
    /// End on the way out: what consumers reach without us is left to other proxies.
    Leave,
}

/// A bridge and its registries.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) bridge: Bridge,
    pub(crate) from: Arc<Feeds>,
    pub(crate) to: Arc<Feeds>,
}

/// Runs a bridge until told to end.
pub(crate) async fn run(handle: Handle, ends: Ends, mut orders: watch::Receiver<Order>) {
    let mut mirror = Mirror::new(handle, ends);
    loop {
        mirror.look().await;
        let order = tokio::select! {
            () = mirror.changed() => continue,
            changed = orders.changed() => match changed {
                Ok(()) => orders.borrow_and_update().clone(),
                Err(_) => Order::End,
            },
        };
        match order {
            Order::Mirror(ends) => mirror.replace(ends),
            // Providers outlive us; our own listener does not.
            Order::Leave if mirror.ends.bridge.address.is_none() => {
                return leave_all(mirror.all()).await;
            }
            Order::End | Order::Leave => return release_all(mirror.all()).await,
        }
    }
}

struct Mirror {
    handle: Handle,
    ends: Ends,
    directory: Directory,
    services: HashMap<String, Service>,
    /// What is to go as soon as what takes its place stands, by place.
    going: HashMap<String, Held>,
    /// When it goes in any case.
    deadline: Option<Instant>,
    /// What is held in a registry that another is in the place of now.
    former: Vec<Holder>,
}

/// A service that is mirrored.
struct Service {
    offers: watch::Receiver<Option<Arc<Offer>>>,
    /// Whether its offer is to be looked at, new or not.
    is_due: bool,
    /// What stands in the target, by place.
    held: HashMap<String, Held>,
    _feed: Arc<Feed>,
}

/// What is written to a place, and what holds it there.
struct Held {
    value: Vec<u8>,
    holder: Holder,
}

impl Mirror {
    fn new(handle: Handle, ends: Ends) -> Self {
        Self {
            directory: ends.directory(),
            handle,
            ends,
            services: HashMap::new(),
            going: HashMap::new(),
            deadline: None,
            former: Vec::new(),
        }
    }

    /// Goes on between other ends. What stands stays until it is known what is to stand.
    fn replace(&mut self, ends: Ends) {
        let is_same = |one: &Arc<Feeds>, other: &Arc<Feeds>| Arc::ptr_eq(one, other);
        let (before, after) = (&self.ends.bridge, &ends.bridge);
        if !is_same(&ends.to, &self.ends.to) || before.to != after.to {
            let services = self.services.values_mut();
            let held = services.flat_map(|service| service.held.drain());
            let held = held.chain(self.going.drain());
            self.former.extend(held.map(|(_, held)| held.holder));
        }
        if !is_same(&ends.from, &self.ends.from) || before.from != after.from {
            for (name, service) in &mut self.services {
                let feed = ends.from.feed(after.from.1, name);
                (service.offers, service._feed) = (feed.offers(), feed);
            }
            self.directory = ends.directory();
        }
        for (_, service) in self.services.extract_if(|name, _| !after.takes(name)) {
            self.going.extend(service.held);
        }
        for service in self.services.values_mut() {
            service.is_due = true;
        }
        self.ends = ends;
    }

    /// Puts right what stands in the target.
    async fn look(&mut self) {
        let Ends { bridge, from, .. } = &self.ends;
        for name in self.directory.latest().unwrap_or_default() {
            // Kept when its name is gone: its feed knows whether to believe that.
            if bridge.takes(&name) && !self.services.contains_key(&name) {
                let service = Service::begin(from.feed(bridge.from.1, &name));
                self.services.insert(name, service);
            }
        }
        for (name, service) in &mut self.services {
            // An error is the end of its feed, which lives as long as this.
            if service.is_due || service.offers.has_changed().unwrap_or_default() {
                service.look(name, &self.handle, &self.ends, &mut self.going);
            }
        }
        self.end().await;
    }

    /// Takes back what is not wanted any more, once what is wanted stands.
    async fn end(&mut self) {
        if self.going.is_empty() && self.former.is_empty() {
            self.deadline = None;
            return;
        }
        if !self.former.is_empty() && self.services.values().any(|own| own.is_due) {
            // It is not known yet what takes its place.
            return;
        }
        let deadline = *self.deadline.get_or_insert(Instant::now() + SUCCESSION);
        let mut services = self.services.values();
        let stands = services.all(|own| own.held.values().all(|held| held.holder.is_held()));
        if !stands && Instant::now() < deadline {
            return;
        }
        self.deadline = None;
        release_all(self.going.drain().map(|(_, held)| held.holder)).await;
        let services = &self.services;
        let is_kept = |own: &Holder| {
            services
                .values()
                .any(|new| new.held.contains_key(own.path()))
        };
        let former = std::mem::take(&mut self.former);
        let (left, gone): (Vec<_>, Vec<_>) = former.into_iter().partition(is_kept);
        leave_all(left).await;
        release_all(gone).await;
    }

    /// Waits until something is to be done.
    async fn changed(&mut self) {
        let is_waiting = self.deadline.is_some();
        let services = &mut self.services;
        let offer = async {
            if services.is_empty() {
                return std::future::pending().await;
            }
            let all = services.values_mut();
            // An error is the end of a feed, which lives as long as this.
            let (_, place, _) = select_all(all.map(|own| Box::pin(own.offers.changed()))).await;
            place
        };
        let due = tokio::select! {
            () = self.directory.changed() => None,
            place = offer => Some(place),
            () = tokio::time::sleep(LOOK), if is_waiting => None,
        };
        // To have waited for an offer is to have seen it, as far as its receiver knows.
        if let Some(service) = due.and_then(|place| self.services.values_mut().nth(place)) {
            service.is_due = true;
        }
    }

    /// Everything that is held.
    fn all(self) -> Vec<Holder> {
        let services = self.services.into_values();
        let held = services.flat_map(|service| service.held).chain(self.going);
        let held = held.map(|(_, held)| held.holder);
        held.chain(self.former).collect()
    }
}

impl Service {
    fn begin(feed: Arc<Feed>) -> Self {
        Self {
            offers: feed.offers(),
            is_due: true,
            held: HashMap::new(),
            _feed: feed,
        }
    }

    /// Holds what the latest offer is mirrored into, and has the rest go.
    fn look(
        &mut self,
        name: &str,
        handle: &Handle,
        ends: &Ends,
        going: &mut HashMap<String, Held>,
    ) {
        let offer = self.offers.borrow_and_update().clone();
        // What a service yet unknown had is not taken back before it is known.
        let Some(offer) = offer else { return };
        self.is_due = false;
        let Ends { bridge, to, .. } = ends;
        let layout = bridge.to.1.layout();
        let place = WriteTo {
            roots: to.roots(),
            is_zookeeper: to.store().is_zookeeper(),
        };
        let mut wanted = BTreeMap::new();
        for entry in bridge.entries(name, &offer) {
            let Written { path, value, .. } = layout.write(&place, &entry, &[]);
            // Where a layout cannot tell two apart, the first stands for both.
            wanted.entry(path).or_insert(value);
        }
        going.extend(self.held.extract_if(|path, _| !wanted.contains_key(path)));
        for (path, value) in wanted {
            if self.held.get(&path).is_some_and(|held| held.value == value) {
                continue;
            }
            // Of another value of the same place only the task ends: what stands is replaced.
            self.held.remove(&path);
            let held = going.remove(&path).filter(|held| held.value == value);
            let held = held.unwrap_or_else(|| {
                let written = Written {
                    path: path.clone(),
                    value: value.clone(),
                    beside: Vec::new(),
                };
                let holder = Holder::hold(handle, to, written, Claim::Shared, None);
                Held { value, holder }
            });
            self.held.insert(path, held);
        }
    }
}

impl Ends {
    fn directory(&self) -> Directory {
        Directory::begin(self.from.store(), self.from.roots(), self.bridge.from.1)
    }
}
