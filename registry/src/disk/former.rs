//! Snapshots as former versions wrote them: the providers of a service, without its rules.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Disk, file_name};
use crate::layout::LayoutKind;
use crate::offer::{Offer, Provider};

/// What identifies a service's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) registry: String,
    pub(crate) layout: LayoutKind,
    pub(crate) service: String,
}

/// A file's content.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) registry: String,
    pub(super) layout: String,
    pub(super) service: String,
    pub(super) providers: Vec<Provider>,
}

impl Key {
    pub(super) fn file_name(&self) -> String {
        let parts = [&self.registry, self.layout.name(), &*self.service];
        file_name(&parts, &self.service)
    }
}

impl Disk {
    /// What a former version knew of a service, if it knew any providers.
    pub(crate) fn load_former(&self, key: &Key) -> Option<Offer> {
        let saved: Saved = self.read(&key.file_name())?;
        let is_it = saved.service == key.service
            && saved.registry == key.registry
            && saved.layout == key.layout.name();
        (is_it && !saved.providers.is_empty()).then(|| {
            let providers = saved.providers.into_iter().map(Arc::new);
            Offer::new(key.layout, true, providers.collect())
        })
    }

    /// Removes that: there is something newer.
    pub(crate) fn forget_former(&self, key: &Key) {
        self.remove(key.file_name());
    }
}
