//! A call in flight, as operators are told of it: cheap to note, and put into words when somebody asks.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Now;

use super::exchange::Exchange;
use super::resolved::ResolvedCall;
use super::view::LocalEndpoint;

/// What is told of a call in flight.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) resolved: Rc<ResolvedCall>,
    local_endpoint: Option<Rc<LocalEndpoint>>,
    route: Option<u32>,
    pub(crate) source: IpAddr,
    pub(crate) since: Now,
    pub(crate) attempts: u16,
}

impl Told {
    pub(crate) fn listener(&self) -> &Arc<str> {
        &self.resolved.origin.name
    }

    /// Its service and its method.
    pub(crate) fn names(&self) -> (&str, &str) {
        (&self.resolved.key.service, &self.resolved.key.method)
    }

    pub(crate) fn route(&self) -> Arc<str> {
        let routes = self.resolved.candidates.routes();
        let route = self.route.and_then(|route| routes.get(route as usize));
        route.map(|route| route.name.clone()).unwrap_or_default()
    }

    pub(crate) fn cluster(&self) -> Arc<str> {
        let local_endpoint = self.local_endpoint.as_ref();
        local_endpoint.map_or_else(Arc::default, |local_endpoint| {
            local_endpoint.cluster.name().clone()
        })
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.local_endpoint
            .as_ref()
            .map(|local_endpoint| local_endpoint.endpoint.address)
    }
}

impl Exchange {
    /// What is told of it while it is in flight.
    pub(crate) fn told(&self) -> Told {
        Told {
            resolved: self.resolved.clone(),
            local_endpoint: self.local_endpoint.clone(),
            route: self.route,
            source: self.source,
            since: self.started,
            attempts: self.attempts,
        }
    }
}
