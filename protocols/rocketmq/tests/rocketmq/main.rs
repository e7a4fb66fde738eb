//! RocketMQ's codec against frames of real clients and servers.

mod captured;
mod written;
