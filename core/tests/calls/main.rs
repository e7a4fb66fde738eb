//! Calls through the mesh, end to end, with a protocol made for tests and scripted peers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod black_hole;
mod concurrency;
mod data_path;
mod destinations;
mod filters;
mod hand_over;
mod hedging;
mod sessions;
mod states;
mod tls;
mod toy;
