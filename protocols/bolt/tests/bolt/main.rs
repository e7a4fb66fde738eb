//! Bolt against frames of its real clients and servers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod codec;
mod frames;
mod names;
mod reject;
