//! Filters that ask others: policies whose decision needs a socket. The laws of [filters](finback_core::filter)
//! hold for them as for all: nothing blocks a worker, and every wait has an end.

mod answers;
pub mod asking;
pub mod contexts;
pub(crate) mod dial;
pub mod external_authorization;
pub mod jwt;
pub mod keys;
mod messages;
pub mod rate_limit_service;
pub mod sentinel;
pub mod server;
mod token_server;

use std::sync::Arc;

/// What a filter needs beside the data path: started once, it works until nobody has it any more.
pub trait Background: Send + Sync {
    /// Begins, by the runtime that this is called in.
    fn start(self: Arc<Self>);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
