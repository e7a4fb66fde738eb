//! The origin of calls: a listener as routing knows it, with the routing that its connections use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::endpoint::Endpoint;

use super::Routing;
use super::view::LocalEndpoint;

/// The one endpoint that a listener stands for.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// The name of the cluster whose policy calls to it follow.
    pub cluster: Arc<str>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.endpoint.address == other.endpoint.address
    }
}

/// A listener as routing knows it, in one worker.
///
/// Its connections keep the table they came with until they leave: a reload that renames or removes
/// the table, or the listener, changes nothing for those that are still there.
pub(crate) struct Origin {
    /// Tells listeners apart, also those of one name before and after a reload.
    pub(crate) id: u64,
    /// Its name, in logs and metrics.
    pub(crate) name: Arc<str>,
    /// The name of its route table.
    pub(crate) table: Arc<str>,
    /// Whether its clients may learn the addresses of endpoints.
    pub(crate) reveals: bool,
    /// The endpoint that all its calls go to, whatever their routes say.
    pinned: Option<Pinned>,
    /// That one with its cluster in the routing of this epoch.
    local_endpoint: RefCell<Option<(u64, Rc<LocalEndpoint>)>>,
    routing: RefCell<Arc<Routing>>,
    retired: Cell<bool>,
}

impl Origin {
    pub(crate) fn new(
        id: u64,
        name: &Arc<str>,
        table: &Arc<str>,
        reveals: bool,
        pinned: Option<Pinned>,
        routing: Arc<Routing>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            name: name.clone(),
            table: table.clone(),
            reveals,
            pinned,
            local_endpoint: RefCell::default(),
            routing: RefCell::new(routing),
            retired: Cell::new(false),
        })
    }

    /// Its listener is gone: what is routed from now on is routed as it was until now.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether all its calls go to one endpoint.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// That endpoint's place; `None` if its cluster is gone.
    pub(crate) fn pinned(&self, current: &Arc<Routing>) -> Option<Rc<LocalEndpoint>> {
        let pinned = self.pinned.as_ref()?;
        let routing = self.routing(current);
        let mut local_endpoint = self.local_endpoint.borrow_mut();
        if let Some((epoch, known)) = &*local_endpoint
            && *epoch == routing.epoch
        {
            return Some(known.clone());
        }
        let cluster: &Arc<Cluster> = routing.cluster(&pinned.cluster)?;
        let fresh = Rc::new(LocalEndpoint {
            cluster: cluster.clone(),
            endpoint: pinned.endpoint.clone(),
            attached: RefCell::default(),
        });
        *local_endpoint = Some((routing.epoch, fresh.clone()));
        Some(fresh)
    }

    /// The routing that its calls take, given what is in force now.
    pub(crate) fn routing(&self, current: &Arc<Routing>) -> Arc<Routing> {
        let mut own = self.routing.borrow_mut();
        let moves_on = !self.retired.get() && own.epoch != current.epoch;
        // Routing is swapped before listeners are: a table that is missing now was taken away
        // together with its listener.
        if moves_on && (current.table(&self.table).is_some() || own.table(&self.table).is_none()) {
            own.clone_from(current);
        }
        own.clone()
    }
}
