//! DNS for endpoints with host names: the system's resolver is asked for their addresses again and again. Addresses stay
//! until their name resolves to others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use finback_core::discovery::{Instance, Lookup, Snapshot, SnapshotSink};
use futures_util::future::select_all;
use tokio::runtime::Handle;

use crate::lock;
use crate::names::{Name, Resolver};

/// An endpoint by its host's name: as many endpoints as the name has addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The weight of each address.
    pub weight: u32,
    /// The labels of each address.
    pub labels: BTreeMap<String, String>,
}

/// The endpoints of one cluster, some of them by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCluster {
    /// How often names are asked for again.
    pub refresh: Duration,
    /// Those that need no resolver.
    pub fixed: Vec<Instance>,
    /// Those that do.
    pub hosts: Vec<HostEndpoint>,
}

/// Clusters whose endpoints are written down, followed by their names.
pub(crate) struct Hosts {
    clusters: HashMap<String, (Resolver, HostCluster)>,
    /// Names that have not resolved yet, and since when.
    unresolved: Mutex<HashMap<String, Instant>>,
}

impl Hosts {
    pub(crate) fn new(handle: &Handle, config: &BTreeMap<String, HostCluster>) -> Self {
        let clusters = config.iter().map(|(name, cluster)| {
            let resolver = Resolver::new(handle, cluster.refresh, None);
            (name.clone(), (resolver, cluster.clone()))
        });
        Self {
            clusters: clusters.collect(),
            unresolved: Mutex::default(),
        }
    }

    /// Names that do not resolve, and since when the first.
    pub(crate) fn failing(&self) -> (usize, Option<Instant>) {
        let unresolved = lock(&self.unresolved);
        let since = unresolved.values().min().copied();
        let former = self.clusters.values().map(|(own, _)| own.failing());
        former.fold(
            (unresolved.len(), since),
            |(count, since), (more, other)| (count + more, since.into_iter().chain(other).min()),
        )
    }

    /// Clusters that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.clusters.len()
    }

    /// Delivers a snapshot when it is known of each name whether it resolves, and with each change.
    pub(crate) async fn follow(&self, lookup: &Lookup, sink: &dyn SnapshotSink) {
        let Some((resolver, cluster)) = self.clusters.get(&*lookup.service) else {
            return sink.update(Snapshot::default());
        };
        let follow = |own: &HostEndpoint| resolver.follow(&own.host);
        let mut names: Vec<Name> = cluster.hosts.iter().map(follow).collect();
        let mut last = None;
        loop {
            if let Some(snapshot) = self.snapshot(cluster, &mut names)
                && last.as_ref() != Some(&snapshot)
            {
                sink.update(snapshot.clone());
                last = Some(snapshot);
            }
            if names.is_empty() {
                return;
            }
            select_all(names.iter_mut().map(|name| Box::pin(name.changed()))).await;
        }
    }

    fn snapshot(&self, cluster: &HostCluster, names: &mut [Name]) -> Option<Snapshot> {
        let mut instances = cluster.fixed.clone();
        let mut known: HashSet<_> = instances.iter().map(|own| own.address).collect();
        let mut missing = Vec::new();
        // All are looked at, or one that is known would be told as new while another is not.
        let found: Vec<_> = names.iter_mut().map(Name::latest).collect();
        for (endpoint, addresses) in cluster.hosts.iter().zip(found) {
            let addresses = addresses?;
            self.note(&endpoint.host, addresses.is_empty());
            if addresses.is_empty() {
                missing.push(endpoint.host.as_str());
            }
            for address in addresses.iter() {
                let mut address = *address;
                address.set_port(endpoint.port);
                // Two names may be one host.
                if known.insert(address) {
                    instances.push(Instance {
                        address,
                        weight: endpoint.weight,
                        labels: endpoint.labels.clone(),
                        warm_up: None,
                        terms: None,
                    });
                }
            }
        }
        let trouble =
            (!missing.is_empty()).then(|| format!("cannot resolve {}", missing.join(", ")).into());
        Some(Snapshot {
            // The configuration has written them down, wherever they are.
            known: true,
            instances,
            trouble,
            ..Snapshot::default()
        })
    }

    fn note(&self, host: &str, is_missing: bool) {
        let mut unresolved = lock(&self.unresolved);
        if !is_missing {
            unresolved.remove(host);
        } else if !unresolved.contains_key(host) {
            unresolved.insert(host.to_owned(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    struct Told(Sender<Snapshot>);

    impl SnapshotSink for Told {
        fn update(&self, snapshot: Snapshot) {
            let _ = self.0.send(snapshot);
        }
    }

    #[tokio::test]
    async fn names_and_addresses_are_endpoints_of_one_cluster() {
        let host = |host: &str, port| HostEndpoint {
            host: host.to_owned(),
            port,
            weight: 7,
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        };
        let fixed = Instance {
            address: ([192, 0, 2, 1], 5).into(),
            weight: 100,
            labels: BTreeMap::new(),
            warm_up: None,
            terms: None,
        };
        let cluster = HostCluster {
            refresh: Duration::from_secs(5),
            fixed: vec![fixed],
            hosts: vec![
                host("localhost", 80),
                host("localhost", 80),
                host("nobody.invalid", 1),
            ],
        };
        let config = BTreeMap::from([("web".to_owned(), cluster)]);
        let hosts = Arc::new(Hosts::new(&Handle::current(), &config));
        let lookup = Lookup {
            registry: "(hosts)".into(),
            layout: "".into(),
            service: "web".into(),
            version: "".into(),
            group: "".into(),
            protocol: "".into(),
        };
        let (told, snapshots) = channel();
        let follower = hosts.clone();
        let task = tokio::spawn(async move { follower.follow(&lookup, &Told(told)).await });
        let first = tokio::task::spawn_blocking(move || {
            snapshots.recv_timeout(Duration::from_secs(10)).ok()
        });
        let first = first.await.ok().flatten().unwrap_or_default();
        task.abort();
        assert!(first.known);
        assert_eq!(
            first.trouble.as_deref(),
            Some("cannot resolve nobody.invalid")
        );
        let addresses: HashSet<_> = first.instances.iter().map(|own| own.address).collect();
        assert_eq!(addresses.len(), first.instances.len(), "no address twice");
        assert!(addresses.contains(&([192, 0, 2, 1], 5).into()));
        let local = first
            .instances
            .iter()
            .filter(|own| own.address.ip().is_loopback());
        let local: Vec<_> = local.collect();
        assert!(!local.is_empty());
        assert!(
            local
                .iter()
                .all(|own| own.weight == 7 && own.labels["zone"] == "a")
        );
        assert_eq!(hosts.failing().0, 1);
    }
}
