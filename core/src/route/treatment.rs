//! A route's policy for one protocol: what that does with calls beyond routing them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What one protocol does with calls of a route, beyond routing them.
pub trait RoutePolicy: Any + fmt::Debug + Send + Sync {
    /// The name of the protocol whose calls it is for.
    fn protocol(&self) -> &'static str;

    /// Where messages go in the place of an endpoint, in words; `None` if none do. Default: none.
    fn destination(&self) -> Option<String> {
        None
    }

    /// Whether endpoints are told whose a connection is, in front of its first byte. Default: no.
    fn announces_clients(&self) -> bool {
        false
    }
}

/// A protocol's own policy of a route. Core carries it and does not read it; whoever does names the type, and a call
/// whose protocol has another one, or none, is refused: a policy that somebody wrote is never left out.
#[derive(Clone, Debug)]
pub struct Treatment(Arc<dyn RoutePolicy>);

/// A policy is of another type than the one that was asked for: what it says cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route's policy is for another protocol")]
pub struct ForeignPolicy;

impl Treatment {
    /// A policy of the protocol that has this type for it.
    #[must_use]
    pub fn new<T: RoutePolicy>(own: T) -> Self {
        Self(Arc::new(own))
    }

    /// The name of the protocol whose calls it is for.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        self.0.protocol()
    }

    /// Where messages go in the place of an endpoint, in words; `None` if none do.
    #[must_use]
    pub fn destination(&self) -> Option<String> {
        self.0.destination()
    }

    /// Whether endpoints are told whose a connection is, in front of its first byte.
    #[must_use]
    pub fn announces_clients(&self) -> bool {
        self.0.announces_clients()
    }

    /// The policy, for the driver that does what it says. The one place where its type is asked for.
    ///
    /// # Errors
    /// If it is of another type; there is no way to go on without it.
    pub fn shared<T: RoutePolicy>(&self) -> Result<Arc<T>, ForeignPolicy> {
        let own: Arc<dyn Any + Send + Sync> = self.0.clone();
        own.downcast().map_err(|_| ForeignPolicy)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Ours(u8);

    /// Says that it is for the same protocol, and is not what that one reads.
    #[derive(Debug)]
    struct Impostor;

    impl RoutePolicy for Ours {
        fn protocol(&self) -> &'static str {
            "ours"
        }
    }

    impl RoutePolicy for Impostor {
        fn protocol(&self) -> &'static str {
            "ours"
        }
    }

    #[test]
    fn a_policy_of_another_type_is_an_error_whatever_protocol_it_names() {
        let own = Treatment::new(Ours(7));
        assert_eq!(own.shared::<Ours>().unwrap().0, 7);
        assert_eq!(own.shared::<Impostor>().unwrap_err(), ForeignPolicy);
        let other = Treatment::new(Impostor);
        assert_eq!(other.protocol(), own.protocol());
        assert_eq!(other.shared::<Ours>().unwrap_err(), ForeignPolicy);
    }
}
