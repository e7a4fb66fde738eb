//! Why an endpoint takes no calls, for the operator who asks; nothing decides by it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Now;

/// What speaks against an endpoint, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTrouble {
    /// Since when.
    pub since: Now,
    /// What it is, in words.
    pub why: String,
}

/// The last troubles of an endpoint. Written where one begins, which is rare, and read by the admin
/// port: no call ever waits for it.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    ejection: Option<EndpointTrouble>,
    check: Option<EndpointTrouble>,
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is ejected from now on.
    pub(crate) fn ejected(&self, since: Now, why: String) {
        self.lock().ejection = Some(EndpointTrouble { since, why });
    }

    /// Why it was ejected last.
    pub(crate) fn ejection(&self) -> Option<EndpointTrouble> {
        self.lock().ejection.clone()
    }

    /// A health check failed. What it says last is kept, and since when checks have failed.
    pub(crate) fn check_failed(&self, at: Now, why: String) {
        let check = &mut self.lock().check;
        let since = check.as_ref().map_or(at, |first| first.since);
        *check = Some(EndpointTrouble { since, why });
    }

    /// A health check passed.
    pub(crate) fn check_passed(&self) {
        self.lock().check = None;
    }

    /// What the last health check said, if it failed.
    pub(crate) fn check(&self) -> Option<EndpointTrouble> {
        self.lock().check.clone()
    }
}
