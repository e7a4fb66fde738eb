//! The way that a message has come, by which one that goes round in a loop is found.

use crate::{Failure, Outlet};

/// The header by which messages tell into which topics they have been written, each as `CLUSTER/TOPIC`, so that those
/// that are brought back into the mesh do not go round for ever.
pub const BRIDGE: &str = "x-mesh-bridge";
/// Through so many bridges a message may go.
const MOST: usize = 8;

/// The way of a message that has come along `before` and goes to `topic` now.
///
/// # Errors
/// [`Failure::Loop`] if it has been there, or through too many bridges.
pub fn way(before: &str, outlet: &dyn Outlet, topic: &str) -> Result<String, Failure> {
    let here = format!("{}/{topic}", outlet.name());
    if before.is_empty() {
        return Ok(here);
    }
    let bridges = before.split(',').map(str::trim);
    if bridges.clone().count() >= MOST || bridges.clone().any(|bridge| bridge == here) {
        return Err(Failure::Loop);
    }
    Ok(format!("{before},{here}"))
}
