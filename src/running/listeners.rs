//! Listeners: bound, in service, and as an operator sees them.

use std::net::SocketAddr;

use anyhow::Context;
use finback_core::driver::{Bound, ListenerSpec, Workers};

use crate::config::Places;

/// A listener as an operator sees it.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What may be spoken there.
    pub protocols: Vec<&'static str>,
    /// The name of its route table.
    pub routes: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Client connections open now.
    pub connections: u64,
    /// Client connections accepted since it began.
    pub accepted: u64,
}

/// A listener in service.
pub(super) struct Listener {
    pub(super) id: u64,
    pub(super) spec: ListenerSpec,
    pub(super) address: SocketAddr,
}

/// Binds listeners; an error says where in the configuration their addresses stand.
pub(super) fn bind(
    workers: &Workers,
    specs: Vec<ListenerSpec>,
    places: &Places,
) -> anyhow::Result<Vec<Bound>> {
    specs
        .into_iter()
        .map(|spec| {
            let (name, address) = (spec.name.clone(), spec.address);
            workers.bind(spec).with_context(|| {
                let place = places.of(&name);
                format!("{place}: listener {name} cannot listen on {address}")
            })
        })
        .collect()
}

pub(super) fn listen(workers: &Workers, bound: Bound) -> Listener {
    let (id, spec, address) = (bound.id(), bound.spec().clone(), bound.address());
    workers.listen(bound);
    Listener { id, spec, address }
}
