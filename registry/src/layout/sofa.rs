//! SOFA-RPC: `/sofa-rpc/{interface}/providers/{url}` (SOFA-RPC's registry-zk).

use finback_core::discovery::{Lane, Lookup, WarmUp};

use super::Layout;
use super::url::Url;

pub(super) struct Sofa;

impl Layout for Sofa {
    fn path(&self, lookup: &Lookup) -> String {
        format!("/sofa-rpc/{}/providers", lookup.service)
    }

    fn admits(&self, lookup: &Lookup, entry: &Url) -> bool {
        // `version` is a constant there, not the service's version: consumers ignore it too.
        entry.scheme == "bolt"
            && entry.get("uniqueId").unwrap_or("") == &*lookup.group
            && !entry.flag("disabled", false)
    }

    fn warm_up(&self, entry: &Url) -> Option<WarmUp> {
        super::warm_up(entry.number("startTime"), entry.number("warmupTime"))
    }

    fn lane(&self) -> Option<Lane> {
        None
    }
}
