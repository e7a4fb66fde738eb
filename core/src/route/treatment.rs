//! A route's policy for one protocol: what that does with calls beyond routing them.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

/// A protocol's own policy of a route. Core carries it and does not read it; whoever does names the type, and a call
/// whose protocol has another one, or none, is refused: a policy that somebody wrote is never left out.
#[derive(Clone)]
pub struct Treatment {
    own: Arc<dyn Any + Send + Sync>,
    name: &'static str,
}

impl Treatment {
    /// A policy of the protocol that has this type for it.
    #[must_use]
    pub fn new<T: Any + Send + Sync>(own: T) -> Self {
        Self {
            own: Arc::new(own),
            name: type_name::<T>(),
        }
    }

    /// Whether it is of this type.
    #[must_use]
    pub fn is<T: Any>(&self) -> bool {
        (*self.own).type_id() == TypeId::of::<T>()
    }

    /// The policy, for a look at it.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.own.downcast_ref()
    }

    /// The policy, to keep; `None` if it is of another type.
    #[must_use]
    pub fn shared<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.own.clone().downcast().ok()
    }
}

impl fmt::Debug for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Treatment").field(&self.name).finish()
    }
}
