//! Stand-in services, a load generator, benchmarks and the simulator. For demos, tests and measurements only.

pub mod broker;
pub mod compare;
pub mod echo;
pub mod load;
pub mod mqtt;
mod process;
pub mod registries;
pub mod rocketmq;
pub mod simulator;
pub mod speech;
pub mod web;
