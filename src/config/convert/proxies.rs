//! PROXY protocol: accepted from proxies in front of listeners, and sent to endpoints.

use std::sync::Arc;

use finback_core::cluster::ClusterSpec;
use finback_core::driver::{ListenerSpec, Protocol, Proxies, ProxyHeader};
use finback_core::net::ProxyVersion;
use finback_core::route::{Destination, Route, RouteTable, Treatment};

use super::Result;
use super::routes::sources;
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;

/// Protocols whose connections to endpoints all clients share.
const SHARING: [&str; 2] = [finback_bolt::NAME, finback_dubbo::NAME];

/// The proxies in front of a listener that speaks these protocols.
pub(super) fn proxies(
    trusted: Option<Placed<file::OneOrMany>>,
    header: Option<Placed<String>>,
    protocols: &[Arc<dyn Protocol>],
) -> Result<Arc<Proxies>> {
    let place = trusted.as_ref().map(|given| given.place);
    let trusted = trusted.map(sources).transpose()?.unwrap_or_default();
    let header = match header {
        None => ProxyHeader::None,
        Some(Placed { value, place }) => {
            if trusted.is_empty() {
                let message = "anybody could say whom a connection is from; write whom to believe \
                               in `trusted_proxies`";
                return Err(Wrong::at(place, message));
            }
            match &*value {
                "require" => ProxyHeader::Required,
                "trusted" => ProxyHeader::Trusted,
                _ => {
                    let message = format!("`{value}` is none of them; write require or trusted");
                    return Err(Wrong::at(place, message));
                }
            }
        }
    };
    let http = protocols.iter().any(|own| own.name() == finback_http::NAME);
    if let Some(place) = place
        && header == ProxyHeader::None
        && !http
    {
        let message = "only HTTP has headers by which proxies say whom a request is from; write \
                       `proxy_protocol` too, or take it away";
        return Err(Wrong::at(place, message));
    }
    Ok(Arc::new(Proxies { trusted, header }))
}

/// The header that a cluster's endpoints get.
pub(super) fn version(Placed { value, place }: Placed<String>) -> Result<ProxyVersion> {
    match &*value {
        "v1" => Ok(ProxyVersion::V1),
        "v2" => Ok(ProxyVersion::V2),
        _ => {
            let message = format!("`{value}` is not a version; write v1 or v2");
            Err(Wrong::at(place, message))
        }
    }
}

/// Refuses a cluster whose endpoints cannot be told whose a connection is, since it is everybody's; and one
/// that would be told twice.
pub(super) fn check(
    cluster: &ClusterSpec,
    place: (u64, u64),
    tables: &[RouteTable],
    listeners: &[ListenerSpec],
) -> Result<()> {
    for table in tables {
        for route in table.routes.iter().filter(|own| leads_to(own, cluster)) {
            let treatment = route.treatment.as_ref();
            if treatment.is_some_and(Treatment::announces_clients) {
                let message = format!(
                    "route `{}` has `proxy_protocol` for the brokers of cluster `{}`, too; take one away",
                    route.name, cluster.name
                );
                return Err(Wrong::at(place, message));
            }
            for listener in listeners.iter().filter(|own| *own.routes == *table.name) {
                let mut spoken = listener.protocols.iter().map(|own| own.name());
                let shared =
                    spoken.find(|own| SHARING.contains(own) && route.when.protocol.matches(own));
                if let Some(shared) = shared {
                    let message = format!(
                        "calls of `{shared}` reach cluster `{}` by route `{}` from listener `{}`, over \
                         connections that all clients share; take `proxy_protocol` away, or have the route \
                         `match` another protocol",
                        cluster.name, route.name, listener.name
                    );
                    return Err(Wrong::at(place, message));
                }
            }
        }
    }
    Ok(())
}

fn leads_to(route: &Route, cluster: &ClusterSpec) -> bool {
    match &route.to {
        Destination::Clusters(all) => all.iter().any(|own| own.cluster == cluster.name),
        Destination::Registry { .. } | Destination::Treatment => false,
    }
}
