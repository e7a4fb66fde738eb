//! Terms of an endpoint: what a call has to say there beside its own words.

use std::sync::Arc;

use crate::discovery::Terms;
use crate::frame::Fit;

/// The same as a [`Fit`], for as long as it may take to say it.
pub struct Fitting {
    terms: Arc<Terms>,
    version: bool,
    group: bool,
}

impl Fitting {
    /// What these terms ask of a call that leaves its version, or its group, open; `None` for nothing.
    pub(crate) fn of(terms: &Arc<Terms>, (version, group): (bool, bool)) -> Option<Self> {
        let any = version || group || !terms.attributes.is_empty() || !terms.defaults.is_empty();
        any.then(|| Self {
            terms: terms.clone(),
            version,
            group,
        })
    }

    /// The same, for a codec.
    #[must_use]
    pub fn fit(&self) -> Fit<'_> {
        Fit {
            terms: &self.terms,
            version: self.version,
            group: self.group,
        }
    }
}
