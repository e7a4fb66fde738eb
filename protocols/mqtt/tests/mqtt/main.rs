//! Sessions of MQTT end to end: their bounds, and how they move between workers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bounds;
mod hand_over;
mod policies;
#[path = "../../../http/tests/http/support/mess.rs"]
mod support;
#[path = "../../../../core/tests/calls/tls.rs"]
mod tls;
