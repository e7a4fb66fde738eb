//! A call in flight, as operators are told of it: cheap to note, and put into words when somebody asks.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Now;

use super::exchange::Exchange;
use super::site::Site;
use super::view::Seat;

/// What is told of a call in flight.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) site: Rc<Site>,
    seat: Option<Rc<Seat>>,
    route: Option<u32>,
    pub(crate) source: IpAddr,
    pub(crate) since: Now,
    pub(crate) attempts: u16,
}

impl Told {
    pub(crate) fn listener(&self) -> &Arc<str> {
        &self.site.origin.name
    }

    /// Its service and its method.
    pub(crate) fn names(&self) -> (&str, &str) {
        (&self.site.key.service, &self.site.key.method)
    }

    pub(crate) fn route(&self) -> Arc<str> {
        let routes = self.site.candidates.routes();
        let route = self.route.and_then(|route| routes.get(route as usize));
        route.map(|route| route.name.clone()).unwrap_or_default()
    }

    pub(crate) fn cluster(&self) -> Arc<str> {
        let seat = self.seat.as_ref();
        seat.map_or_else(Arc::default, |seat| seat.cluster.name().clone())
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.seat.as_ref().map(|seat| seat.endpoint.address)
    }
}

impl Exchange {
    /// What is told of it while it is in flight.
    pub(crate) fn told(&self) -> Told {
        Told {
            site: self.site.clone(),
            seat: self.seat.clone(),
            route: self.route,
            source: self.source,
            since: self.started,
            attempts: self.attempts,
        }
    }
}
