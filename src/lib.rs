//! Finback put together: configuration, commands, and the wiring of all parts.
// Those macros panic where nobody reads what is printed: `log` has what does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access_log;
pub mod admin;
pub mod authentication;
pub mod bridges;
pub mod commands;
pub mod config;
pub mod filters;
pub mod groups;
pub mod log;
pub mod mesh_registry;
pub mod metadata;
pub mod metrics;
pub mod orders;
pub mod protocols;
pub mod rocketmq;
pub mod running;
pub mod statsd;
pub mod subscriber;
pub mod tls;
pub mod traces;
pub mod turns;
