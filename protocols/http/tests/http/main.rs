//! HTTP through a worker of the mesh, spoken byte by byte or by other implementations.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bounds;
mod fairness;
mod hand_over;
mod heads;
mod hedging;
mod messages;
mod policies;
mod resending;
mod support;
