//! Bridges: services of one registry, mirrored into another.
//!
//! A legacy consumer that knows only its own registry finds the mesh there. Every mirrored entry
//! says where it came from, and what came from elsewhere is never mirrored on, so that bridges
//! in both directions do not feed each other. Several proxies may run the same bridge: an entry
//! belongs to whoever wrote it first, and the others take over when it goes away.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::feed::{Feed, Feeds};
use crate::layout::write::{Entry, Written, write};
use crate::layout::{Directory, Layout};
use crate::merged::{agreed, merged};
use crate::offer::{Offer, Provider, WEIGHT};
use crate::registrar::{Holder, leave_all, release_all};
use crate::store::Claim;
use crate::texts::Texts;

/// What entries call the application if providers do not say or do not agree.
const APPLICATION: &str = "finback";
/// How long what is to go waits for what takes its place.
const SUCCESSION: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A bridge as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The registry and layout that are mirrored.
    pub from: (String, Layout),
    /// Those that they are mirrored into.
    pub to: (String, Layout),
    /// Names of services, each exact or with a `*` at its end.
    pub services: Vec<String>,
    /// What consumers shall connect to; `None` for the providers themselves.
    pub address: Option<SocketAddr>,
    /// What is spoken there, as the target's framework calls it; `None` for what the providers
    /// speak.
    pub protocol: Option<String>,
}

impl Bridge {
    fn takes(&self, service: &str) -> bool {
        self.services
            .iter()
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(beginning) => service.starts_with(beginning),
                None => wanted == service,
            })
    }

    /// What is to stand in the target for one service: an entry for each provider, or one of ours
    /// for all of a protocol, version and group.
    fn entries(&self, service: &str, offer: &Offer) -> Vec<Entry> {
        let mut alike: BTreeMap<_, Vec<&Provider>> = BTreeMap::new();
        for provider in &offer.providers {
            // Brought from elsewhere by a bridge, perhaps this one's counterpart.
            if provider.origin.is_some() {
                continue;
            }
            let key = (
                self.address.unwrap_or(provider.address),
                self.protocol.as_ref().unwrap_or(&provider.protocol),
                &provider.version,
                &provider.group,
            );
            alike.entry(key).or_default().push(provider);
        }
        let entries = alike.into_iter().map(|((address, protocol, ..), alike)| {
            let entry = match (self.address, &*alike) {
                (None, [provider, ..]) => self.copy(service, provider),
                _ => self.stand_in(service, &alike),
            };
            Entry {
                protocol: protocol.clone(),
                host: address.ip().to_string(),
                port: address.port(),
                origin: Some(self.from.0.clone()),
                ..entry
            }
        });
        entries.collect()
    }

    /// Whether a provider's parameters mean something in the target too.
    fn is_same_framework(&self, provider: &Provider) -> bool {
        self.to.1.framework() == provider.layout.framework()
    }

    /// The labels to write: in a URL they are parameters that the original has itself.
    fn labels(&self, same: bool, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let has_url = matches!(self.to.1.framework(), Layout::Dubbo | Layout::Sofa);
        if same && has_url {
            return BTreeMap::new();
        }
        labels
    }

    /// The entry of a provider that consumers connect to themselves.
    fn copy(&self, service: &str, provider: &Provider) -> Entry {
        let same = self.is_same_framework(provider);
        Entry {
            service: service.to_owned(),
            version: provider.version.clone(),
            group: provider.group.clone(),
            weight: provider.weight,
            application: provider
                .labels
                .get("application")
                .unwrap_or(APPLICATION)
                .to_owned(),
            labels: self.labels(same, provider.labels.to_map()),
            since: provider.since.unwrap_or_default(),
            warm_up: provider.warm_up,
            parameters: if same {
                provider.parameters.to_map()
            } else {
                BTreeMap::new()
            },
            ..Entry::default()
        }
    }

    /// The entry of ours that stands for providers of one version and group. The same in every
    /// proxy that runs this bridge: so it says nothing of us but our address.
    fn stand_in(&self, service: &str, alike: &[&Provider]) -> Entry {
        let Some(first) = alike.first() else {
            return Entry::default();
        };
        let texts = |of: fn(&Provider) -> &Texts| {
            let maps = alike.iter().map(|provider| of(provider).to_map());
            maps.collect::<Vec<_>>()
        };
        let labels = merged(Layout::Native, &texts(|provider| &provider.labels));
        let same = alike.iter().all(|own| self.is_same_framework(own));
        Entry {
            service: service.to_owned(),
            version: first.version.clone(),
            group: first.group.clone(),
            weight: agreed(alike.iter().map(|own| own.weight)).unwrap_or(WEIGHT),
            application: labels
                .get("application")
                .map_or(APPLICATION, String::as_str)
                .to_owned(),
            labels: self.labels(same, labels),
            parameters: if same {
                merged(self.to.1, &texts(|provider| &provider.parameters))
            } else {
                BTreeMap::new()
            },
            ..Entry::default()
        }
    }
}

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
            Order::End => return release_all(mirror.all()).await,
            // Providers outlive us; our own listener does not.
            Order::Leave if mirror.ends.bridge.address.is_none() => {
                return leave_all(mirror.all()).await;
            }
            Order::Leave => return release_all(mirror.all()).await,
        }
    }
}

/// A bridge at work.
struct Mirror {
    handle: Handle,
    ends: Ends,
    directory: Directory,
    /// Whether the directory is known.
    is_listed: bool,
    services: HashMap<String, Arc<Feed>>,
    offers: Vec<watch::Receiver<Option<Arc<Offer>>>>,
    holders: HashMap<Entry, Holder>,
    /// What is to go as soon as what takes its place stands.
    going: HashMap<Entry, Holder>,
    /// When it goes in any case.
    deadline: Option<Instant>,
    /// What is held in a registry that another is in the place of now.
    former: Vec<Holder>,
}

impl Mirror {
    fn new(handle: Handle, ends: Ends) -> Self {
        Self {
            directory: ends.directory(),
            handle,
            ends,
            is_listed: false,
            services: HashMap::new(),
            offers: Vec::new(),
            holders: HashMap::new(),
            going: HashMap::new(),
            deadline: None,
            former: Vec::new(),
        }
    }

    /// Goes on between other ends. What stands stays until it is known what is to stand.
    fn replace(&mut self, ends: Ends) {
        if !Arc::ptr_eq(&ends.to, &self.ends.to) || ends.bridge.to != self.ends.bridge.to {
            let holders = self.holders.drain().chain(self.going.drain());
            self.former.extend(holders.map(|(_, holder)| holder));
        }
        if !Arc::ptr_eq(&ends.from, &self.ends.from) || ends.bridge.from != self.ends.bridge.from {
            self.services.clear();
            self.directory = ends.directory();
            self.is_listed = false;
        }
        let bridge = &ends.bridge;
        self.services.retain(|name, _| bridge.takes(name));
        self.ends = ends;
    }

    /// Puts right what stands in the target.
    async fn look(&mut self) {
        let Ends { bridge, from, .. } = &self.ends;
        if let Some(names) = self.directory.latest() {
            self.is_listed = true;
            for name in names.into_iter().filter(|name| bridge.takes(name)) {
                // Kept when its name is gone: its feed knows whether to believe that.
                self.services
                    .entry(name)
                    .or_insert_with_key(|name| from.feed(bridge.from.1, name));
            }
        }
        let mut wanted = HashSet::new();
        // What a service yet unknown had is not taken back before it is known.
        let mut is_complete = self.is_listed;
        self.offers = self.services.values().map(|feed| feed.offers()).collect();
        for (service, offers) in self.services.keys().zip(&mut self.offers) {
            match &*offers.borrow_and_update() {
                Some(offer) => wanted.extend(bridge.entries(service, offer)),
                None => is_complete = false,
            }
        }
        self.begin(&wanted);
        if is_complete {
            let gone = self.holders.extract_if(|entry, _| !wanted.contains(entry));
            self.going.extend(gone);
            self.end().await;
        }
    }

    /// Holds what is wanted and not held yet.
    fn begin(&mut self, wanted: &HashSet<Entry>) {
        for entry in wanted {
            if self.holders.contains_key(entry) {
                continue;
            }
            let holder = self.going.remove(entry).unwrap_or_else(|| {
                let Ends { bridge, to, .. } = &self.ends;
                // Another value of the same place: it is replaced, not taken back.
                let (path, value) = write(bridge.to.1, to.roots(), entry);
                self.holders.retain(|_, holder| holder.path() != path);
                self.going.retain(|_, holder| holder.path() != path);
                let written = Written {
                    path,
                    value,
                    beside: Vec::new(),
                };
                Holder::hold(&self.handle, to, written, Claim::Shared, None)
            });
            self.holders.insert(entry.clone(), holder);
        }
    }

    /// Takes back what is not wanted any more, once what is wanted stands.
    async fn end(&mut self) {
        if self.going.is_empty() && self.former.is_empty() {
            self.deadline = None;
            return;
        }
        let deadline = *self.deadline.get_or_insert(Instant::now() + SUCCESSION);
        let stands = self.holders.values().all(Holder::is_held);
        if !stands && Instant::now() < deadline {
            return;
        }
        self.deadline = None;
        let going = self.going.drain().map(|(_, holder)| holder);
        release_all(going).await;
        let kept: HashSet<&str> = self.holders.values().map(Holder::path).collect();
        let (left, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.former)
            .into_iter()
            .partition(|holder| kept.contains(holder.path()));
        leave_all(left).await;
        release_all(gone).await;
    }

    /// Waits until something is to be done.
    async fn changed(&mut self) {
        let is_waiting = self.deadline.is_some();
        let offers = &mut self.offers;
        let offer = async {
            if offers.is_empty() {
                return std::future::pending().await;
            }
            // One whose feed has ended is looked at again.
            let _ = select_all(offers.iter_mut().map(|each| Box::pin(each.changed()))).await;
        };
        tokio::select! {
            () = self.directory.changed() => {}
            () = offer => {}
            () = tokio::time::sleep(LOOK), if is_waiting => {}
        }
    }

    /// Everything that is held.
    fn all(self) -> Vec<Holder> {
        let held = self.holders.into_values().chain(self.going.into_values());
        held.chain(self.former).collect()
    }
}

impl Ends {
    fn directory(&self) -> Directory {
        Directory::begin(self.from.store(), self.from.roots(), self.bridge.from.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(address: &str, origin: Option<&str>) -> Provider {
        Provider {
            address: address.parse().unwrap_or(([0, 0, 0, 0], 0).into()),
            layout: Layout::Sofa,
            protocol: "bolt".to_owned(),
            version: String::new(),
            group: String::new(),
            weight: 30,
            labels: [].into(),
            since: Some(5),
            warm_up: None,
            origin: origin.map(str::to_owned),
            parameters: [("rpcVer", "50000")].into(),
        }
    }

    fn bridge(to: Layout, address: Option<SocketAddr>) -> Bridge {
        Bridge {
            from: ("zk".to_owned(), Layout::Sofa),
            to: ("etcd".to_owned(), to),
            services: vec!["com.acme.*".to_owned(), "a.B".to_owned()],
            address,
            protocol: None,
        }
    }

    fn offer() -> Offer {
        let providers = vec![
            provider("10.0.0.1:1", None),
            provider("10.0.0.2:1", None),
            provider("10.0.0.3:1", Some("etcd")),
        ];
        Offer::new(Layout::Sofa, true, providers)
    }

    #[test]
    fn what_a_bridge_brought_is_not_mirrored_on() {
        let entries = bridge(Layout::Sofa, None).entries("a.B", &offer());
        let hosts: Vec<&str> = entries.iter().map(|entry| &*entry.host).collect();
        assert_eq!(hosts, ["10.0.0.1", "10.0.0.2"]);
        assert!(entries.iter().all(|e| e.origin.as_deref() == Some("zk")));
        assert_eq!(entries[0].parameters["rpcVer"], "50000");
        assert_eq!(entries[0].weight, 30);
    }

    #[test]
    fn our_own_address_stands_once_for_all_providers() {
        let own = Some(([10, 9, 9, 9], 12220).into());
        let entries = bridge(Layout::Dubbo, own).entries("a.B", &offer());
        assert_eq!(entries.len(), 1);
        assert_eq!((&*entries[0].host, entries[0].port), ("10.9.9.9", 12220));
        assert!(entries[0].parameters.is_empty());
    }

    #[test]
    fn services_are_chosen_by_name_or_beginning() {
        let bridge = bridge(Layout::Sofa, None);
        assert!(bridge.takes("com.acme.Pay") && bridge.takes("a.B"));
        assert!(!bridge.takes("a.Bc") && !bridge.takes("com.other"));
    }
}
