//! Bridges: services of one registry, mirrored into another.
//!
//! A legacy consumer that knows only its own registry finds the mesh there. Every mirrored entry
//! says where it came from, and what came from elsewhere is never mirrored on, so that bridges
//! in both directions do not feed each other. Several proxies may run the same bridge: an entry
//! belongs to whoever wrote it first, and the others take over when it goes away.

mod mirror;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::layout::LayoutKind;
use crate::layout::write::Entry;
use crate::merged::{agreed, merged};
use crate::offer::{Offer, Provider, WEIGHT};
use crate::texts::Texts;

pub(crate) use self::mirror::{Ends, Order, run};

/// What entries call the application if providers do not say or do not agree.
const APPLICATION: &str = "finback";

/// A bridge as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The registry and layout that are mirrored.
    pub from: (String, LayoutKind),
    /// Those that they are mirrored into.
    pub to: (String, LayoutKind),
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
        for provider in offer.providers.iter().map(|own| &**own) {
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
        if same && self.to.1.conventions().has_url {
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
        let labels = merged(LayoutKind::Native, &texts(|provider| &provider.labels));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn provider(address: &str, origin: Option<&str>) -> Provider {
        Provider {
            address: address.parse().unwrap_or(([0, 0, 0, 0], 0).into()),
            layout: LayoutKind::Sofa,
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

    fn bridge(to: LayoutKind, address: Option<SocketAddr>) -> Bridge {
        Bridge {
            from: ("zk".to_owned(), LayoutKind::Sofa),
            to: ("etcd".to_owned(), to),
            services: vec!["com.acme.*".to_owned(), "a.B".to_owned()],
            address,
            protocol: None,
        }
    }

    fn offer() -> Offer {
        let providers = [
            provider("10.0.0.1:1", None),
            provider("10.0.0.2:1", None),
            provider("10.0.0.3:1", Some("etcd")),
        ];
        Offer::new(LayoutKind::Sofa, true, providers.map(Arc::new).into())
    }

    #[test]
    fn what_a_bridge_brought_is_not_mirrored_on() {
        let entries = bridge(LayoutKind::Sofa, None).entries("a.B", &offer());
        let hosts: Vec<&str> = entries.iter().map(|entry| &*entry.host).collect();
        assert_eq!(hosts, ["10.0.0.1", "10.0.0.2"]);
        assert!(entries.iter().all(|e| e.origin.as_deref() == Some("zk")));
        assert_eq!(entries[0].parameters["rpcVer"], "50000");
        assert_eq!(entries[0].weight, 30);
    }

    #[test]
    fn our_own_address_stands_once_for_all_providers() {
        let own = Some(([10, 9, 9, 9], 12220).into());
        let entries = bridge(LayoutKind::Dubbo, own).entries("a.B", &offer());
        assert_eq!(entries.len(), 1);
        assert_eq!((&*entries[0].host, entries[0].port), ("10.9.9.9", 12220));
        assert!(entries[0].parameters.is_empty());
    }

    #[test]
    fn services_are_chosen_by_name_or_beginning() {
        let bridge = bridge(LayoutKind::Sofa, None);
        assert!(bridge.takes("com.acme.Pay") && bridge.takes("a.B"));
        assert!(!bridge.takes("a.Bc") && !bridge.takes("com.other"));
    }
}
