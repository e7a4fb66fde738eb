//! Dubbo's interface level: `/dubbo/{interface}/providers/{url}` (Dubbo: ZookeeperRegistry).

use std::collections::BTreeMap;

use finback_core::discovery::Lookup;

use super::draft::{Cached, Read};
use super::url::{self, Url};
use super::{Draft, Drafts, Layout, PATH, Roots, provider};
use crate::offer::{Provider, WEIGHT};
use crate::store::Answer;

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
        let provider = described(Layout::Dubbo, &url.scheme, url.parameters);
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
    layout: Layout,
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

/// Whether a provider's version and group are those asked for; `*` on either side is any, and
/// several groups may be asked for.
pub(super) fn serves(lookup: &Lookup, provider: &Provider) -> bool {
    speaks(provider, wanted_protocol(lookup))
        && is_match(&lookup.version, &provider.version)
        && lookup
            .group
            .split(',')
            .any(|group| is_match(group, &provider.group))
}

/// The protocol of Dubbo that a lookup asks for.
pub(super) fn wanted_protocol(lookup: &Lookup) -> &'static str {
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
