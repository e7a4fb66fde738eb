//! The vocabulary, ports, routing and drivers that every protocol plugs into.
//!
//! Core names no protocol, no registry and no exporter: protocols implement [`codec::Codec`] or
//! [`driver::Protocol`], registries [`discovery::Discovery`], exporters [`record::Observer`]
//! and [`trace::Tracer`].

pub mod balance;
pub mod boxed;
pub mod budget;
pub mod clock;
pub mod cluster;
pub mod codec;
pub mod concurrency;
pub mod conformance;
pub mod discovery;
pub mod driver;
pub mod endpoint;
pub mod filter;
pub mod frame;
pub mod health;
pub mod identity;
pub mod log_limit;
pub mod mesh;
pub mod metric;
pub mod net;
pub mod outlier;
pub mod own_error;
pub mod record;
pub mod rejection;
pub mod rng;
pub mod route;
pub mod stats;
pub mod subset;
pub mod tap;
pub mod text;
pub mod trace;
pub mod traffic_rules;
