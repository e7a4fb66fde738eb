//! Where frameworks keep a service, and how they write a provider.

pub(crate) mod application;
mod draft;
mod dubbo;
mod dubbo_app;
mod dubbo_parts;
mod exercise;
mod grpc;
mod native;
pub(crate) mod rules;
mod sofa;
pub(crate) mod spring;
pub(crate) mod terms;
pub(crate) mod url;
pub(crate) mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use finback_core::discovery::{Lane, Lookup};
use finback_core::frame::NAME_LIMIT;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::metadata::Metadata;
use crate::offer::Provider;
use crate::store::{Answer, Bell, Followed, Query, Store, changed, is_segment};
use crate::texts::Texts;
use draft::Cached;
pub(crate) use draft::{Draft, Drafts};
use dubbo_parts::DubboParts;
pub(crate) use exercise::{exercise_instance, exercise_rules, exercise_url};
use rules::Centre;

/// Parameters of a provider that become labels, and the labels' names.
const LABELS: &[(&str, &str)] = &[
    ("version", "version"),
    ("group", "group"),
    ("dubbo.tag", "tag"),
    ("application", "application"),
    ("appName", "application"),
    ("uniqueId", "uniqueId"),
    ("release", "release"),
    ("region", "region"),
    ("zone", "zone"),
    ("env", "env"),
    ("lane", "lane"),
];
/// The longest value that becomes a label, in bytes.
const MAX_LABEL: usize = 256;
/// The parameter by which a provider that a bridge wrote tells where it came from.
pub(crate) const ORIGIN: &str = "finback.origin";
/// The parameter that holds the path of a provider's URL where that is not the interface.
pub(crate) const PATH: &str = "finback.path";
/// The parameter that holds what else an instance says of itself, as it wrote it.
pub(crate) const DETAILS: &str = "finback.details";

/// A framework's way to keep services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Dubbo, interface and application level together.
    Dubbo,
    /// Dubbo's application level alone.
    DubboApp,
    /// SOFA-RPC.
    Sofa,
    /// Curator's service discovery, as Spring Cloud writes it.
    Spring,
    /// gRPC naming as etcd's own clients write it.
    Grpc,
    /// Our own, for services without a framework.
    Native,
}

/// All layouts by name.
const ALL: &[(&str, Layout)] = &[
    ("dubbo", Layout::Dubbo),
    ("dubbo-app", Layout::DubboApp),
    ("sofa", Layout::Sofa),
    ("spring", Layout::Spring),
    ("grpc", Layout::Grpc),
    ("native", Layout::Native),
];

/// Where layouts begin in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Dubbo's group. Default: `/dubbo`.
    pub dubbo: String,
    /// Where Dubbo's applications and Spring Cloud's services are. Default: `/services`.
    pub services: String,
    /// SOFA-RPC's. Default: `/sofa-rpc`.
    pub sofa: String,
    /// What stands before a gRPC service's name. Default: nothing.
    pub grpc: String,
    /// Our own. Default: `/finback/services`.
    pub native: String,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            dubbo: "/dubbo".to_owned(),
            services: "/services".to_owned(),
            sofa: "/sofa-rpc".to_owned(),
            grpc: String::new(),
            native: "/finback/services".to_owned(),
        }
    }
}

impl Layout {
    /// The layout of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(own, _)| *own == name)
            .map(|(_, layout)| *layout)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter()
            .find(|(_, layout)| *layout == self)
            .map_or("", |(name, _)| name)
    }

    /// The layout that stands for all of the same framework, whose parameters mean the same.
    pub(crate) fn framework(self) -> Self {
        match self {
            Self::DubboApp => Self::Dubbo,
            other => other,
        }
    }

    /// The names of all.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(name, _)| *name).collect()
    }

    /// Whether a service may have this name: one that no registry can have is not asked for.
    #[must_use]
    pub fn is_name(self, service: &str) -> bool {
        let fits = service.len() <= NAME_LIMIT;
        fits && match self {
            // Encoded it is a folder, and as it is a part of other paths.
            Self::Dubbo | Self::DubboApp => {
                is_segment(service) && url::encode(service).len() <= NAME_LIMIT
            }
            Self::Sofa | Self::Spring | Self::Native => is_segment(service),
            // A target is a path.
            Self::Grpc => service.split('/').all(is_segment),
        }
    }

    /// Where its services are.
    pub(crate) fn root(self, roots: &Roots) -> &str {
        match self {
            Self::Dubbo | Self::DubboApp => &roots.dubbo,
            Self::Sofa => &roots.sofa,
            Self::Spring => &roots.services,
            Self::Grpc => &roots.grpc,
            Self::Native => &roots.native,
        }
    }

    /// The framework's own split of providers.
    pub(crate) fn lane(self) -> Option<Lane> {
        matches!(self, Self::Dubbo | Self::DubboApp).then(|| Lane {
            attribute: "dubbo.tag".to_owned(),
            label: "tag".to_owned(),
            ruled: BTreeMap::new(),
            level: Some('|'),
            force_attribute: Some("dubbo.force.tag".to_owned()),
        })
    }

    /// Whether a provider is registered for the protocol that is looked up.
    pub(crate) fn is_registered_for(self, lookup: &Lookup, provider: &Provider) -> bool {
        match self {
            Self::Dubbo | Self::DubboApp => provider.protocol == dubbo::wanted_protocol(lookup),
            Self::Sofa | Self::Spring | Self::Grpc | Self::Native => false,
        }
    }

    /// Whether a provider serves what is looked up.
    pub(crate) fn serves(self, lookup: &Lookup, provider: &Provider) -> bool {
        match self {
            Self::Dubbo | Self::DubboApp => dubbo::serves(lookup, provider),
            // `version` is a constant there, not the service's version: consumers ignore it too.
            Self::Sofa => *provider.group == *lookup.group,
            Self::Spring | Self::Grpc => true,
            Self::Native => {
                let serves = |own: &str, wanted: &str| own.is_empty() || own == wanted;
                serves(&provider.version, &lookup.version) && serves(&provider.group, &lookup.group)
            }
        }
    }
}

/// Follows one service in a store.
pub(crate) struct Reading {
    service: String,
    parts: Parts,
    /// Rings when any of them changes.
    bell: Bell,
}

enum Parts {
    /// One place holds everything, of which each entry is read alone.
    Single(Followed, Cached, fn(&str, &[u8]) -> draft::Read),
    Dubbo(Box<DubboParts>),
    Spring(Box<spring::Spellings>),
}

impl Reading {
    pub(crate) fn begin(
        store: &Arc<Store>,
        roots: &Arc<Roots>,
        metadata: &Metadata,
        centre: &Arc<Centre>,
        layout: Layout,
        service: &str,
    ) -> Self {
        let bell = Bell::default();
        let single =
            |query, read| Parts::Single(store.follow(query, &bell), Cached::default(), read);
        let parts = match layout {
            Layout::Dubbo | Layout::DubboApp => Parts::Dubbo(Box::new(DubboParts::begin(
                store, roots, metadata, centre, layout, service, &bell,
            ))),
            Layout::Sofa => single(
                Query::Names(sofa::providers(roots, service).into()),
                sofa::read,
            ),
            Layout::Spring => Parts::Spring(Box::new(spring::Spellings::begin(
                store, roots, service, &bell,
            ))),
            Layout::Grpc => single(
                Query::Entries(grpc::target(roots, service).into()),
                grpc::read,
            ),
            Layout::Native => single(
                Query::Entries(native::providers(roots, service).into()),
                native::read,
            ),
        };
        Self {
            service: service.to_owned(),
            parts,
            bell,
        }
    }

    /// What is there now, if all of it is known.
    pub(crate) fn latest(&mut self) -> Option<Drafts> {
        match &mut self.parts {
            Parts::Single(followed, cached, read) => {
                let answer = followed.latest()?;
                Some(Drafts::again(cached, Some(&answer), *read))
            }
            Parts::Dubbo(parts) => parts.latest(&self.service),
            Parts::Spring(spellings) => spellings.latest(),
        }
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        match &mut self.parts {
            Parts::Single(followed, ..) => changed(&self.bell, || followed.has_changed()).await,
            Parts::Spring(spellings) => spellings.changed().await,
            Parts::Dubbo(parts) => parts.changed(&self.bell).await,
        }
    }

    /// Hands everything that it reads to the snapshots on disk, of a service that is worth a file
    /// or is not.
    pub(crate) fn save(&mut self, disk: &Disk, registry: &str, worth_it: bool) {
        let mut all = Vec::new();
        match &mut self.parts {
            Parts::Single(followed, ..) => all.push(followed),
            Parts::Spring(spellings) => spellings.followed(&mut all),
            Parts::Dubbo(parts) => parts.followed(&mut all),
        }
        for followed in all {
            followed.save(disk, registry, worth_it);
        }
    }
}

/// Follows the names of all services of a layout.
pub(crate) struct Directory {
    layout: Layout,
    root: String,
    followed: Vec<Followed>,
    bell: Bell,
}

impl Directory {
    pub(crate) fn begin(store: &Arc<Store>, roots: &Roots, layout: Layout) -> Self {
        let root = layout.root(roots);
        let mut queries = vec![Query::Folders(root.into())];
        if matches!(layout, Layout::Dubbo | Layout::DubboApp) {
            queries.push(Query::Names(format!("{root}/mapping").into()));
        }
        if layout == Layout::DubboApp {
            queries.remove(0);
        }
        if root.is_empty() {
            // Services without a common root cannot be told from anything else that is there.
            queries.clear();
        }
        let bell = Bell::default();
        let queries = queries.into_iter();
        Self {
            layout,
            root: root.to_owned(),
            followed: queries.map(|query| store.follow(query, &bell)).collect(),
            bell,
        }
    }

    /// The names now, if they are known.
    pub(crate) fn latest(&mut self) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        // All are looked at, or one that is known would be told as new while another is not.
        let answers: Vec<_> = self.followed.iter_mut().map(Followed::latest).collect();
        for answer in answers {
            if let Answer::Entries(entries) = answer? {
                names.extend(
                    entries
                        .names()
                        .filter_map(|name| service_in(self.layout, &name)),
                );
            }
        }
        Some(names)
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        let has_changed = || self.followed.iter().any(Followed::has_changed);
        changed(&self.bell, has_changed).await;
    }

    /// Where the services are.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }
}

/// The service that a folder below a layout's root belongs to.
fn service_in(layout: Layout, name: &str) -> Option<String> {
    let first = name.split('/').next().unwrap_or_default();
    match layout {
        Layout::Grpc => name.strip_suffix('/').map(str::to_owned),
        Layout::Dubbo | Layout::DubboApp => {
            let service = url::decode(first)?;
            // What Dubbo keeps beside its services.
            (!matches!(&*service, "mapping" | "metadata" | "config")).then_some(service)
        }
        Layout::Sofa | Layout::Spring | Layout::Native => {
            (!first.is_empty()).then(|| first.to_owned())
        }
    }
}

/// A provider as its parameters describe it.
fn provider(layout: Layout, protocol: &str, parameters: BTreeMap<String, String>) -> Provider {
    let number = |name: &str| parameters.get(name)?.parse::<u64>().ok();
    let text = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    Provider {
        address: ([0, 0, 0, 0], 0).into(),
        layout,
        protocol: protocol.to_owned(),
        version: text("version"),
        group: text("group"),
        weight: number("weight")
            .and_then(|weight| u32::try_from(weight).ok())
            .unwrap_or(crate::offer::WEIGHT),
        labels: labels(&parameters),
        since: number("timestamp"),
        warm_up: number("warmup"),
        origin: parameters.get(ORIGIN).cloned(),
        parameters: parameters.into(),
    }
}

fn labels(parameters: &BTreeMap<String, String>) -> Texts {
    LABELS
        .iter()
        .filter_map(|(parameter, label)| {
            let value = parameters.get(*parameter)?;
            (!value.is_empty() && value.len() <= MAX_LABEL)
                .then(|| ((*label).to_owned(), value.clone()))
        })
        .collect()
}

/// Something followed that is told by hand.
#[cfg(test)]
pub(crate) fn by_hand(bell: &Bell) -> (tokio::sync::mpsc::Sender<Answer>, Followed) {
    let (teller, mut told) = tokio::sync::mpsc::channel(8);
    let handle = tokio::runtime::Handle::current();
    let followed = Followed::task(&handle, bell, |out| async move {
        while let Some(answer) = told.recv().await {
            out.publish(answer);
        }
    });
    (teller, followed)
}

/// The names of entries, for tests and listings.
#[cfg(test)]
fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Answer {
    let entries: crate::store::Entries = names
        .into_iter()
        .map(|name| (name.to_owned(), bytes::Bytes::new()))
        .collect();
    Answer::Entries(Arc::new(entries))
}

#[cfg(test)]
mod tests;
