//! Where calls come from: a listener as routing knows it, with the routing that its connections use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Routing;

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
    routing: RefCell<Arc<Routing>>,
    retired: Cell<bool>,
}

impl Origin {
    pub(crate) fn new(
        id: u64,
        name: &Arc<str>,
        table: &Arc<str>,
        reveals: bool,
        routing: Arc<Routing>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            name: name.clone(),
            table: table.clone(),
            reveals,
            routing: RefCell::new(routing),
            retired: Cell::new(false),
        })
    }

    /// Its listener is gone: what is routed from now on is routed as it was until now.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
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
