//! The vocabulary, ports, routing and drivers that every protocol plugs into.
//!
//! Core names no protocol, no registry and no exporter: protocols implement [`codec::Codec`] or
//! [`protocol::Protocol`], registries [`discovery::Discovery`], exporters [`record::Observer`].

pub mod clock;
pub mod codec;
pub mod conformance;
pub mod discovery;
pub mod endpoint;
pub mod frame;
pub mod record;
pub mod rejection;
