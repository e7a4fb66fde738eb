//! SOFA-RPC: `/sofa-rpc/{interface}/providers/{url}` (SOFA-RPC's registry-zk).

use finback_core::discovery::{Lookup, Terms};

use super::draft::Read;
use super::url::{self, Url};
use super::write::{Entry, WriteTo, Written};
use super::{
    Conventions, Draft, EntryReader, Fit, Layout, LayoutKind, Reader, Roots, ServiceQuery, Unsaid,
    provider, terms,
};
use crate::offer::Provider;
use crate::store::Query;

/// Parameters that come from elsewhere in a registration, or from what it is. It may say its own `serialization` and `timeout`.
const RESERVED: &[&str] = &[
    "accepts",
    "appName",
    "delay",
    "dynamic",
    "interface",
    "language",
    "protocol",
    "rpcVer",
    "startTime",
    "uniqueId",
    "version",
    "weight",
];

/// SOFA-RPC's layout.
pub(super) struct Sofa;

impl Layout for Sofa {
    fn conventions(&self) -> &'static Conventions {
        &Conventions {
            protocol: "bolt",
            framework: LayoutKind::Sofa,
            has_url: true,
            has_parameters: true,
            reserved: RESERVED,
            unsaid: Unsaid {
                timeout: 3000,
                retries: 0,
            },
            ..Conventions::PLAIN
        }
    }

    fn root<'a>(&self, roots: &'a Roots) -> &'a str {
        &roots.sofa
    }

    fn follow(&self, service: &ServiceQuery<'_>) -> Box<dyn Reader> {
        let path = providers(service.roots, service.service);
        EntryReader::follow(service, Query::Names(path.into()), read)
    }

    fn fit(&self, lookup: &Lookup, provider: &Provider) -> Option<Fit> {
        // `version` is a constant there, not the service's version: consumers ignore it too.
        (*provider.group == *lookup.group).then_some(Fit::Also)
    }

    fn terms(&self, _: &Lookup, provider: &Provider) -> Option<Terms> {
        terms::sofa(provider)
    }

    fn write(&self, to: &WriteTo<'_>, entry: &Entry, _: &[Entry]) -> Written {
        write(to.roots, entry)
    }
}

/// Where the providers of a service are.
pub(super) fn providers(roots: &Roots, service: &str) -> String {
    format!("{}/{service}/providers", roots.sofa)
}

/// The provider that an entry describes.
pub(super) fn read(name: &str, _: &[u8]) -> Read {
    let url = Url::decode(name)?;
    if url.scheme != "bolt" || url.flag("disabled", false) {
        return Some(None);
    }
    let since = url.number("startTime");
    let warm_up = url.number("warmupTime");
    let unique_id = url.get("uniqueId").unwrap_or_default().to_owned();
    let mut provider = provider(LayoutKind::Sofa, &url.scheme, url.parameters);
    // The parameter of that name is a constant, and there are no groups.
    provider.version.clear();
    provider.labels = provider.labels.without(&["version", "group"]);
    provider.group = unique_id;
    provider.since = since;
    provider.warm_up = warm_up;
    Some(Some(Draft::new(&url.host, url.port, provider)))
}

/// A provider as its framework writes it (SOFA-RPC: ZookeeperRegistry).
fn write(roots: &Roots, entry: &Entry) -> Written {
    let own = [
        ("accepts", "100000".to_owned()),
        ("appName", entry.application.clone()),
        ("delay", "-1".to_owned()),
        ("dynamic", "true".to_owned()),
        ("interface", entry.service.clone()),
        ("language", "java".to_owned()),
        ("rpcVer", "51403".to_owned()),
        ("serialization", "hessian2".to_owned()),
        ("startTime", entry.since.to_string()),
        ("timeout", "0".to_owned()),
    ];
    let mut parameters = entry.parameters(&own);
    for (name, value) in [
        ("protocol", entry.protocol.as_str()),
        ("version", "1.0"),
        ("uniqueId", &entry.group),
    ] {
        parameters.insert(name.to_owned(), value.to_owned());
    }
    let url = Url {
        scheme: entry.protocol.clone(),
        host: entry.host.clone(),
        port: entry.port,
        path: String::new(),
        parameters,
    };
    let path = format!(
        "{}/{}",
        providers(roots, &entry.service),
        url::encode(&url.to_string())
    );
    // Online, as Java writes it; nobody reads it.
    Written::alone(path, vec![1])
}
