//! The simulator: core's real workers on a network in memory and virtual time, in worlds that follow
//! from a seed. See ARCHITECTURE.md.

mod chance;
mod checkers;
mod client;
mod faults;
mod ledger;
mod network;
mod overload;
mod passing;
mod plan;
mod queues;
mod registry;
mod report;
mod server;
mod sweep;
mod tongue;
mod toy;
mod web;
mod web2;
mod world;

use world::World;

pub use overload::{Limiter, Outcome, Story, overload};
pub use queues::run as run_queues;
pub use report::Report;
pub use sweep::{Sweep, sweep};

/// Runs the world of a seed to its end. The same seed gives the same run.
///
/// # Errors
/// If there can be no runtime.
pub fn run(seed: u64) -> std::io::Result<Report> {
    passing::in_virtual_time(async { World::new(seed).live().await })
}
