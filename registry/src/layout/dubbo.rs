//! Dubbo's interface level: `/dubbo/{interface}/providers/{url}` (Dubbo: ZookeeperRegistry).

use std::collections::BTreeMap;

use finback_core::discovery::{Lane, Lookup, Terms};
use finback_core::frame::NAME_LIMIT;

use super::draft::{Cached, Read};
use super::dubbo_parts::DubboParts;
use super::reading::{Reader, ServiceQuery};
use super::url::{self, Url};
use super::write::{Entry, WriteTo, Written};
use super::{Conventions, Draft, Drafts, Fit, Layout, LayoutKind, PATH, Roots, provider, terms};
use crate::offer::{Provider, WEIGHT};
use crate::store::{Answer, Query, is_segment};

/// How long a provider warms up that does not say (Dubbo: AbstractLoadBalance), in milliseconds.
pub(super) const WARM_UP: u64 = 600_000;
/// What npm's `sofa-rpc-node` writes as the group of Dubbo providers that have none.
const NO_GROUP: &str = "SOFA";
/// How the release of a provider written in Go begins.
const GO: &str = "dubbo-golang";
/// A time stamp below this is in seconds: in milliseconds it would lie in 1973.
const SECONDS: u64 = 100_000_000_000;
/// Dubbo's name for "no version".
const NO_VERSION: &str = "0.0.0";

/// Parameters of Dubbo that come from elsewhere in a registration, or from what it is.
const RESERVED: &[&str] = &[
    "anyhost",
    "application",
    "category",
    "deprecated",
    "dubbo",
    "dynamic",
    "generic",
    "group",
    "interface",
    "side",
    "timestamp",
    "version",
    "weight",
];

/// Dubbo's interface and application level together, as its own consumers read them while services move from the
/// one to the other.
pub(super) struct BothLevels;

/// What both of Dubbo's layouts have in common.
pub(super) const CONVENTIONS: Conventions = Conventions {
    protocol: "dubbo",
    framework: LayoutKind::Dubbo,
    has_url: true,
    has_parameters: true,
    reserved: RESERVED,
    lane: || Some(tag_lane()),
    ..Conventions::PLAIN
};

impl Layout for BothLevels {
    fn conventions(&self) -> &'static Conventions {
        &CONVENTIONS
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.dubbo
    }

    fn is_name(&self, service: &str) -> bool {
        is_name(service)
    }

    fn directory(&self, root: &str) -> Vec<Query> {
        vec![Query::Folders(root.into()), mapping(root)]
    }

    fn service_in(&self, folder: &str) -> Option<String> {
        service_in(folder)
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        Box::new(DubboParts::begin(service, true))
    }

    fn fit(&self, lookup: &Lookup, provider: &Provider) -> Option<Fit> {
        fit(lookup, provider)
    }

    fn terms(&self, lookup: &Lookup, provider: &Provider) -> Option<Terms> {
        Some(terms::dubbo(lookup, provider))
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, _: &[Entry]) -> Written {
        write(to.roots, entry)
    }
}

/// Whether a service may have this name: encoded it is a folder, and as it is a part of other paths.
pub(super) fn is_name(service: &str) -> bool {
    is_segment(service) && url::encode(service).len() <= NAME_LIMIT
}

/// The names of services that applications have.
pub(super) fn mapping(root: &str) -> Query {
    Query::Names(format!("{root}/mapping").into())
}

/// The service that a folder is of, but for what Dubbo keeps beside its services.
pub(super) fn service_in(folder: &str) -> Option<String> {
    let service = url::decode(folder.split('/').next().unwrap_or_default())?;
    (!matches!(&*service, "mapping" | "metadata" | "config")).then_some(service)
}

/// Dubbo's split of providers by tag (Dubbo: TagStateRouter).
pub(super) fn tag_lane() -> Lane {
    Lane {
        attribute: "dubbo.tag".to_owned(),
        label: "tag".to_owned(),
        ruled: BTreeMap::new(),
        level: Some('|'),
        force_attribute: Some("dubbo.force.tag".to_owned()),
    }
}

/// Where the providers, configurators or routers of a service are.
pub(super) fn folder(roots: &Roots, service: &str, category: &str) -> String {
    format!("{}/{}/{category}", roots.dubbo, url::encode(service))
}

/// The providers among the entries, before rules; those that did not change are not read again.
pub(super) fn read(service: &str, answer: Option<&Answer>, cached: &mut Cached) -> Drafts {
    Drafts::again(cached, answer, |name, _| entry(service, name))
}

/// The provider that an entry describes.
fn entry(service: &str, name: &str) -> Read {
    // etcd holds keys of folders too.
    if name.is_empty() {
        return Some(None);
    }
    Some(draft(service, Url::decode(name)?))
}

/// The provider that a URL describes; `None` if it is none of the service. One that is switched
/// off is one: a rule may switch it on.
pub(super) fn draft(service: &str, mut url: Url) -> Option<Draft> {
    // Providers written by Node have no path; those with a context path have it before the
    // interface.
    let interface = url.get("interface").unwrap_or(&url.path);
    let serves = !matches!(&*url.scheme, "empty" | "override" | "route" | "consumer")
        && interface == service
        && url
            .get("category")
            .is_none_or(|category| category == "providers")
        && url.flag("enabled", true);
    serves.then(|| {
        keep_path(&mut url.parameters, url.path, service);
        let provider = described(LayoutKind::Dubbo, &url.scheme, url.parameters);
        Draft::new(&url.host, url.port, provider)
    })
}

/// Keeps a path by which the provider knows the service, for consumers of a bridge.
pub(super) fn keep_path(parameters: &mut BTreeMap<String, String>, path: String, service: &str) {
    if !path.is_empty() && path != service {
        parameters.insert(PATH.to_owned(), path);
    }
}

/// A provider of Dubbo as its parameters describe it.
pub(super) fn described(
    layout: LayoutKind,
    protocol: &str,
    parameters: BTreeMap<String, String>,
) -> Provider {
    let mut provider = provider(layout, protocol, parameters);
    provider.warm_up = provider.warm_up.or(Some(WARM_UP));
    if provider
        .labels
        .get("release")
        .is_some_and(|release| release.starts_with(GO))
    {
        // It writes its default weight as 0, which its own consumers read as the usual one.
        if provider.weight == 0 {
            provider.weight = WEIGHT;
        }
        // And seconds where everybody else has milliseconds.
        provider.since = provider
            .since
            .map(|since| if since < SECONDS { since * 1000 } else { since });
    }
    if provider.group == NO_GROUP {
        provider.group.clear();
    }
    if provider.version == NO_VERSION {
        provider.version.clear();
    }
    provider
}

/// A provider whose parameters rules have changed.
pub(super) fn amended(draft: Draft, parameters: BTreeMap<String, String>) -> Draft {
    let former = &draft.provider;
    // Of its own, 0 may mean something else.
    let weight = parameters
        .get("weight")
        .filter(|weight| former.parameters.get("weight") != Some(weight))
        .and_then(|weight| weight.parse().ok());
    let mut provider = described(former.layout, &former.protocol, parameters);
    provider.weight = weight.unwrap_or(provider.weight);
    draft.with(provider)
}

/// How far a provider serves a lookup: it may be registered for another protocol, and speak this one too.
pub(super) fn fit(lookup: &Lookup, provider: &Provider) -> Option<Fit> {
    let is_registered = provider.protocol == wanted_protocol(lookup);
    serves(lookup, provider).then_some(if is_registered { Fit::Exact } else { Fit::Also })
}

/// Whether a provider's version and group are those asked for; `*` on either side is any, and
/// several groups may be asked for.
fn serves(lookup: &Lookup, provider: &Provider) -> bool {
    speaks(provider, wanted_protocol(lookup))
        && is_match(&lookup.version, &provider.version)
        && lookup
            .group
            .split(',')
            .any(|group| is_match(group, &provider.group))
}

/// The protocol of Dubbo that a lookup asks for.
fn wanted_protocol(lookup: &Lookup) -> &'static str {
    match &*lookup.protocol {
        "triple" | "grpc" | "http" => "tri",
        _ => "dubbo",
    }
}

/// Whether a provider speaks a protocol: one port can speak several, and an entry at the interface
/// level has the others in a parameter.
fn speaks(provider: &Provider, wanted: &str) -> bool {
    let more = || provider.parameters.get("ext.protocol").unwrap_or_default();
    provider.protocol == wanted || more().split(',').any(|own| own.trim() == wanted)
}

fn is_match(wanted: &str, provided: &str) -> bool {
    let plain = |text| if text == NO_VERSION { "" } else { text };
    wanted == "*" || provided == "*" || plain(wanted) == plain(provided)
}

/// The parameters of a provider of Dubbo.
pub(super) fn written_parameters(entry: &Entry) -> BTreeMap<String, String> {
    entry.parameters(&[
        ("anyhost", "true".to_owned()),
        ("application", entry.application.clone()),
        ("category", "providers".to_owned()),
        ("deprecated", "false".to_owned()),
        ("dubbo", "2.0.2".to_owned()),
        ("dynamic", "true".to_owned()),
        ("generic", "false".to_owned()),
        ("group", entry.group.clone()),
        ("interface", entry.service.clone()),
        ("side", "provider".to_owned()),
        ("timestamp", entry.since.to_string()),
        ("version", entry.version.clone()),
    ])
}

/// A provider as its framework writes it (Dubbo: ZookeeperRegistry).
fn write(roots: &Roots, entry: &Entry) -> Written {
    // The provider knows the service by its path, which consumers send it.
    let path = entry.parameters.get(PATH).unwrap_or(&entry.service);
    let url = Url {
        scheme: entry.protocol.clone(),
        host: entry.host.clone(),
        port: entry.port,
        path: path.clone(),
        parameters: written_parameters(entry),
    };
    let path = format!(
        "{}/{}",
        folder(roots, &entry.service, "providers"),
        url::encode(&url.to_string())
    );
    Written::alone(path, Vec::new())
}
