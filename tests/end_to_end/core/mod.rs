//! One caller, one endpoint or the machine misbehaves: what that may cost others, and what not.

mod blame;
mod bounds;
mod concurrency;
mod descriptors;
mod drain;
mod hosts;
mod names;
mod places;
mod probes;
mod reload;
mod stalls;
mod workers;
