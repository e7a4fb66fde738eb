//! Registries as they are configured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::dns::DnsConfig;
use crate::hosts::HostCluster;
use crate::layout::{LayoutKind, Roots};
use crate::listed::ListedService;
use crate::polled::HttpConfig;
use crate::several::Several;
use crate::store::StoreConfig;

/// A registry as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryConfig {
    /// Servers that frameworks register with.
    Servers(Box<ServersConfig>),
    /// A YAML file of services, read again when it changes.
    File(PathBuf),
    /// Services known from the start.
    Memory(Vec<ListedService>),
    /// Names that the system resolves.
    Dns(DnsConfig),
    /// A list of addresses that a server gives by HTTP.
    Http(HttpConfig),
    /// Clusters whose endpoints are written down, some by host name, by the clusters' names.
    Hosts(BTreeMap<String, HostCluster>),
    /// Other registries together, under [their name](Several::name).
    Several(Several),
}

impl RegistryConfig {
    /// Whether it stands for others, and is nothing of its own.
    #[must_use]
    pub fn is_several(&self) -> bool {
        matches!(self, Self::Several(_))
    }
}

/// A registry of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersConfig {
    /// The servers.
    pub store: StoreConfig,
    /// Where layouts begin.
    pub roots: Roots,
    /// How long an offer that is suddenly empty is doubted. Default: 30 s.
    pub empty_protection: Duration,
    /// What is watched from the start, not only when a call asks for it.
    pub eager: Vec<Eager>,
}

impl ServersConfig {
    /// Servers with nothing else set.
    #[must_use]
    pub fn new(store: StoreConfig) -> Self {
        Self {
            store,
            roots: Roots::default(),
            empty_protection: Duration::from_secs(30),
            eager: Vec::new(),
        }
    }
}

/// Services that are watched from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eager {
    /// The layout.
    pub layout: LayoutKind,
    /// Their names; `None` watches all there are.
    pub services: Option<Vec<String>>,
}
