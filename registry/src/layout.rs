//! Layouts: where frameworks keep a service, and how they write a provider.

pub(crate) mod application;
mod draft;
mod dubbo;
mod dubbo_app;
mod dubbo_parts;
mod exercise;
mod grpc;
mod native;
mod reading;
pub(crate) mod rules;
mod sofa;
mod spring;
mod terms;
pub(crate) mod url;
pub(crate) mod write;

use std::collections::BTreeMap;

use finback_core::discovery::{Lane, Lookup, Terms};
use finback_core::frame::NAME_LIMIT;
use serde::{Deserialize, Serialize};

use crate::offer::Provider;
use crate::store::{Query, is_segment};
use crate::texts::Texts;
#[cfg(test)]
use draft::Cached;
pub(crate) use draft::{Draft, Drafts};
pub(crate) use exercise::{exercise_instance, exercise_rules, exercise_url};
pub(crate) use reading::{Directory, ServiceWatch};
use reading::{EntryReader, Reader, ServiceQuery};
use write::{Entry, WriteTo, Written};

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

/// Which layout: the key by which configuration, feeds and snapshots on disk know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayoutKind {
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

/// All layouts by name: each is a file beside this one and a row here.
const ALL: &[(&str, LayoutKind, &dyn Layout)] = &[
    ("dubbo", LayoutKind::Dubbo, &dubbo::BothLevels),
    (
        "dubbo-app",
        LayoutKind::DubboApp,
        &dubbo_app::ApplicationLevel,
    ),
    ("sofa", LayoutKind::Sofa, &sofa::Sofa),
    ("spring", LayoutKind::Spring, &spring::Spring),
    ("grpc", LayoutKind::Grpc, &grpc::Grpc),
    ("native", LayoutKind::Native, &native::Native),
];

/// A framework's way to keep services: where they are, how a provider is read there, whom it serves, and how one
/// is written. Only `follow` asks a store; all else is pure.
///
/// What `write` writes, the reader of `follow` reads as the same provider, and so do the framework's own consumers.
pub(crate) trait Layout: Sync {
    /// What holds for all of its services.
    fn conventions(&self) -> &'static Conventions;

    /// Where its services are; "" where they have no folder of their own.
    fn root<'a>(&self, roots: &'a Roots) -> &'a str;

    /// Whether a service may have this name, which is short enough.
    fn is_name(&self, service: &str) -> bool {
        is_segment(service)
    }

    /// What is followed below a root to know the names of all services.
    fn directory(&self, root: &str) -> Vec<Query> {
        vec![Query::Folders(root.into())]
    }

    /// The service that a folder below the root belongs to; `None` if it is of none.
    fn service_in(&self, folder: &str) -> Option<String> {
        let first = folder.split('/').next().unwrap_or_default();
        (!first.is_empty()).then(|| first.to_owned())
    }

    /// Begins to read one service.
    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader>;

    /// How far a provider serves what is looked up; `None` if it does not.
    fn fit(&self, lookup: &Lookup, provider: &Provider) -> Option<Fit>;

    /// What callers of a provider that was looked up so have to do; `None` if nothing.
    fn terms(&self, _lookup: &Lookup, _provider: &Provider) -> Option<Terms> {
        None
    }

    /// Has the labels of a registration of ours among the parameters that are written, where the framework's
    /// consumers look for them there.
    fn describe(
        &self,
        _parameters: &mut BTreeMap<String, String>,
        _labels: &BTreeMap<String, String>,
    ) {
    }

    /// Where and what to write for an entry. `also` are further services of the same instance, which only Dubbo's
    /// application level puts together.
    fn write(&self, to: &WriteTo<'_>, entry: &Entry, also: &[Entry]) -> Written;
}

/// What holds for all services of a layout.
pub(crate) struct Conventions {
    /// What is usually spoken, as the framework calls it; "" where nothing is.
    pub(crate) protocol: &'static str,
    /// The layout that stands for all of the same framework, whose parameters mean the same.
    pub(crate) framework: LayoutKind,
    /// Whether a provider is written as a URL.
    pub(crate) has_url: bool,
    /// Whether an entry says more of a provider than we know how to write.
    pub(crate) has_parameters: bool,
    /// Parameters that come from elsewhere in a registration, or from what it is.
    pub(crate) reserved: &'static [&'static str],
    /// What consumers do with a provider that does not say.
    pub(crate) unsaid: Unsaid,
    /// The framework's own split of providers.
    pub(crate) lane: fn() -> Option<Lane>,
}

/// What a framework's consumers do with a provider that does not say.
pub(crate) struct Unsaid {
    /// In milliseconds.
    pub(crate) timeout: u64,
    pub(crate) retries: i64,
}

impl Conventions {
    /// Those of a layout without a framework.
    const PLAIN: Self = Self {
        protocol: "",
        framework: LayoutKind::Native,
        has_url: false,
        has_parameters: false,
        reserved: &[],
        unsaid: Unsaid {
            timeout: 1000,
            retries: 2,
        },
        lane: || None,
    };
}

/// How far a provider serves what is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is registered for the protocol that is looked up.
    Exact,
    /// It gives way to one that is.
    Also,
}

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

impl LayoutKind {
    /// The layout of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(own, ..)| *own == name)
            .map(|(_, kind, _)| *kind)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The names of all.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(name, ..)| *name).collect()
    }

    /// Whether a service may have this name: one that no registry can have is not asked for.
    #[must_use]
    pub fn is_name(self, service: &str) -> bool {
        service.len() <= NAME_LIMIT && self.layout().is_name(service)
    }

    /// What is usually spoken by its services, as the framework calls it; "" where nothing is.
    #[must_use]
    pub fn usual_protocol(self) -> &'static str {
        self.conventions().protocol
    }

    /// The layout that stands for all of the same framework, whose parameters mean the same.
    #[must_use]
    pub fn framework(self) -> Self {
        self.conventions().framework
    }

    /// How its services are kept.
    pub(crate) fn layout(self) -> &'static dyn Layout {
        self.row().2
    }

    pub(crate) fn conventions(self) -> &'static Conventions {
        self.layout().conventions()
    }

    fn row(self) -> &'static (&'static str, Self, &'static dyn Layout) {
        let row = ALL.iter().find(|(_, kind, _)| *kind == self);
        row.unwrap_or(&ALL[0])
    }
}

/// A provider as its parameters describe it.
fn provider(layout: LayoutKind, protocol: &str, parameters: BTreeMap<String, String>) -> Provider {
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
pub(crate) fn by_hand(
    bell: &crate::store::Bell,
) -> (
    tokio::sync::mpsc::Sender<crate::store::Answer>,
    crate::store::Followed,
) {
    let (teller, mut told) = tokio::sync::mpsc::channel(8);
    let handle = tokio::runtime::Handle::current();
    let followed = crate::store::Followed::task(&handle, bell, |out| async move {
        while let Some(answer) = told.recv().await {
            out.publish(answer);
        }
    });
    (teller, followed)
}

/// The names of entries, for tests and listings.
#[cfg(test)]
fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> crate::store::Answer {
    let entries: crate::store::Entries = names
        .into_iter()
        .map(|name| (name.to_owned(), bytes::Bytes::new()))
        .collect();
    crate::store::Answer::Entries(std::sync::Arc::new(entries))
}

#[cfg(test)]
mod tests;
