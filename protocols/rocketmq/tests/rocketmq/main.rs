//! RocketMQ's codec against frames of real clients and servers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod asking;
mod captured;
mod laned;
mod written;
