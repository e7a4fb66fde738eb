//! Bounds of connections and calls, and how the process starts and stops.

use std::num::{NonZeroU32, NonZeroUsize};

use finback_core::mesh;

use super::super::file;
use super::super::units::{Pause, Size};
use super::super::{Lifecycle, Wrong};
use super::{Result, set, set_time};

pub(super) fn lifecycle(from: &file::Limits) -> Lifecycle {
    let mut lifecycle = Lifecycle {
        drain_delay: from.drain_delay.map(|Pause(time)| time),
        ..Lifecycle::default()
    };
    set(
        &mut lifecycle.registry_wait,
        from.registry_wait.map(|Pause(time)| time),
    );
    lifecycle
}

/// The bounds, and the longest frame if that is said.
pub(super) fn limits(from: file::Limits) -> Result<(mesh::Limits, Option<usize>)> {
    let descriptors = Descriptors::of_this_process();
    let mut limits = mesh::Limits {
        connections: descriptors.clients(),
        upstream_connections: descriptors.endpoints(),
        ..mesh::Limits::default()
    };
    let size = |from: Option<Size>| from.map(|Size(bytes)| bytes);
    let pause = |from: Option<Pause>| from.map(|Pause(time)| time);
    let soft = from.queue_soft.as_ref().map(|soft| soft.value);
    set(
        &mut limits.connections,
        from.connections.map(NonZeroUsize::get),
    );
    set(
        &mut limits.upstream_connections,
        from.upstream_connections.map(NonZeroUsize::get),
    );
    set(
        &mut limits.in_flight_per_connection,
        from.in_flight_per_connection.map(NonZeroU32::get),
    );
    set(&mut limits.queue_soft, size(soft));
    set(&mut limits.queue_hard, size(from.queue_hard));
    set(&mut limits.frame_rate, size(from.frame_rate));
    set(&mut limits.unfinished, size(from.unfinished));
    set_time(&mut limits.idle, from.idle);
    set_time(&mut limits.sniff, from.detect_timeout);
    set_time(&mut limits.call_timeout, from.call_timeout);
    set_time(&mut limits.call_timeout_max, from.call_timeout_max);
    set(&mut limits.half_closed, pause(from.half_closed));
    set(&mut limits.services, from.services.map(NonZeroUsize::get));
    set(&mut limits.drain_grace, pause(from.drain_grace));
    set(&mut limits.drain, pause(from.drain));
    if let Some(soft) = from.queue_soft
        && limits.queue_soft > limits.queue_hard
    {
        let message = format!(
            "is over `queue_hard` ({} bytes), which disconnects; write less",
            limits.queue_hard
        );
        return Err(Wrong::at(soft.place, message));
    }
    let Some(frame) = from.frame else {
        return Ok((limits, None));
    };
    let Size(bytes) = frame.value;
    if bytes > limits.queue_hard {
        let message = format!(
            "is over `queue_hard` ({} bytes): a client could never be sent such an answer; write less, or \
             a larger `queue_hard`",
            limits.queue_hard
        );
        return Err(Wrong::at(frame.place, message));
    }
    Ok((limits, Some(bytes)))
}

/// How the descriptors that this process may have are shared.
pub(super) struct Descriptors(usize);

impl Descriptors {
    fn of_this_process() -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        Self(soft.unwrap_or(1024))
    }

    /// Connections of clients.
    fn clients(&self) -> usize {
        (self.0 * 2 / 5).max(1)
    }

    /// Connections to endpoints: the rest, but for listeners, the admin port, registries and files.
    fn endpoints(&self) -> usize {
        let reserve = 20 + self.0 / 16;
        (self.0 * 3 / 5).saturating_sub(reserve).max(4)
    }
}
