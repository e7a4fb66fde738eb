//! Finback put together: configuration, commands, and the wiring of all parts.

pub mod config;
pub mod protocols;
