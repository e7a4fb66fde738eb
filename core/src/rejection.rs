//! Why the mesh itself answered a call.

/// Every reason for which the mesh answers in a service's place.
///
/// Protocols map it with a `match` that has no `_`: a new reason does not compile until each
/// protocol has a native answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// No route of the listener's table matches the call.
    NoRoute,
    /// The registry does not know the service.
    NoService,
    /// The service is known, but no endpoint may take the call now.
    NoEndpoint,
    /// No connection to an endpoint could be made; nothing was sent.
    ConnectFailed,
    /// The connection was lost after the call was sent; it may have run.
    ConnectionLost,
    /// No answer within the call's deadline.
    DeadlineExceeded,
    /// A limit of the mesh was reached (calls in flight, queued bytes).
    Overloaded,
    /// The caller has used up its rate; later it may call again.
    Limited,
    /// Policy forbids the call; trying again is no use.
    Denied,
    /// The caller does not prove who it is; with other credentials it may call again.
    Unauthenticated,
    /// The call cannot be read.
    BadRequest,
    /// The call is longer than the limit.
    TooLarge,
    /// The mesh is shutting down.
    Draining,
}

impl Rejection {
    /// Every reason, in the order of their numbers, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::NoRoute,
        Self::NoService,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::ConnectionLost,
        Self::DeadlineExceeded,
        Self::Overloaded,
        Self::Limited,
        Self::Denied,
        Self::Unauthenticated,
        Self::BadRequest,
        Self::TooLarge,
        Self::Draining,
    ];

    /// The reason's name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoService => "no_service",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectionLost => "connection_lost",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Overloaded => "overloaded",
            Self::Limited => "limited",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::Draining => "draining",
        }
    }
}

/// Whoever counts by numbers must find the same reasons behind them.
const _: () = {
    let mut number = 0;
    while number < Rejection::ALL.len() {
        assert!(Rejection::ALL[number] as usize == number);
        number += 1;
    }
};
