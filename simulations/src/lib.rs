//! Stand-in services, a load generator and benchmarks. For demos, tests and measurements only.

pub mod compare;
pub mod echo;
pub mod load;
pub mod speech;
