//! Filters that ask others: policies whose decision needs a socket. The laws of [filters](finback_core::filter)
//! hold for them as for all: nothing blocks a worker, and every wait has an end.

mod answers;
pub mod external_authorization;
mod messages;
pub mod rate_limit_service;
pub mod server;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
