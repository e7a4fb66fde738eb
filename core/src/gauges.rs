//! Counters and gauges about the mesh that are not about single calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers about the mesh that are not about single calls.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Client connections accepted since the start.
    pub accepted: AtomicU64,
    /// Times that accepting paused, for want of descriptors or at the limit of connections.
    pub accept_pauses: AtomicU64,
    /// Client connections closed because their bytes made no sense.
    pub malformed: AtomicU64,
    /// Client connections that ended before they said anything: probes of a port.
    pub silent: AtomicU64,
    /// Client connections closed because they did not read their answers.
    pub slow_readers: AtomicU64,
    /// Client connections closed because a frame of theirs came too slowly.
    pub slow_senders: AtomicU64,
    /// Bytes of unfinished frames now.
    pub unfinished_bytes: AtomicU64,
    /// Upstream connections open now, of every protocol.
    pub upstream_connections: AtomicU64,
    /// Upstream connections that could not be made.
    pub connect_failures: AtomicU64,
    /// Upstream connections that could not be made because of us: no descriptor, port or buffer.
    pub own_failures: AtomicU64,
    /// Idle upstream connections closed to make room for others.
    pub closed_for_room: AtomicU64,
    /// Upstream connections given up because the peer fell silent.
    pub heartbeat_failures: AtomicU64,
    /// Answers that came after their call was given up.
    pub late_answers: AtomicU64,
    /// Answers to nothing that was asked.
    pub unknown_answers: AtomicU64,
    /// Answers over the limit of a frame, whose bytes were skipped.
    pub skipped_answers: AtomicU64,
    /// Retries made.
    pub retries: AtomicU64,
    /// Tasks that ended by a panic: each one is a bug.
    pub panics: AtomicU64,
    /// Times that a worker did not run for so long that timers were late.
    pub stalls: AtomicU64,
}

/// A metric's name, kind and help, and its number.
pub type Row<'a> = (&'static str, &'static str, &'static str, &'a AtomicU64);

impl Gauges {
    /// What is exported of them.
    #[must_use]
    pub fn rows(&self) -> [Row<'_>; 19] {
        [
            (
                "finback_connections",
                "gauge",
                "Client connections open.",
                &self.connections,
            ),
            (
                "finback_connections_total",
                "counter",
                "Client connections accepted.",
                &self.accepted,
            ),
            (
                "finback_accept_pauses_total",
                "counter",
                "Times that accepting paused: no descriptor was left, or limits.connections was reached.",
                &self.accept_pauses,
            ),
            (
                "finback_malformed_total",
                "counter",
                "Client connections closed because their bytes made no sense.",
                &self.malformed,
            ),
            (
                "finback_silent_total",
                "counter",
                "Client connections that ended before they said anything, as probes of a port do.",
                &self.silent,
            ),
            (
                "finback_slow_readers_total",
                "counter",
                "Client connections closed because they did not read their answers.",
                &self.slow_readers,
            ),
            (
                "finback_slow_senders_total",
                "counter",
                "Client connections closed because a frame of theirs came too slowly.",
                &self.slow_senders,
            ),
            (
                "finback_unfinished_bytes",
                "gauge",
                "Bytes of unfinished frames.",
                &self.unfinished_bytes,
            ),
            (
                "finback_upstream_connections",
                "gauge",
                "Connections open to endpoints, of every protocol.",
                &self.upstream_connections,
            ),
            (
                "finback_connect_failures_total",
                "counter",
                "Connections to endpoints that could not be made.",
                &self.connect_failures,
            ),
            (
                "finback_own_failures_total",
                "counter",
                "Connections to endpoints that could not be made because of us: no descriptor, port or buffer was left.",
                &self.own_failures,
            ),
            (
                "finback_closed_for_room_total",
                "counter",
                "Idle connections to endpoints closed to make room for others.",
                &self.closed_for_room,
            ),
            (
                "finback_heartbeat_failures_total",
                "counter",
                "Connections given up because the endpoint fell silent.",
                &self.heartbeat_failures,
            ),
            (
                "finback_late_answers_total",
                "counter",
                "Answers that came after their call was given up.",
                &self.late_answers,
            ),
            (
                "finback_unknown_answers_total",
                "counter",
                "Answers to nothing that was asked.",
                &self.unknown_answers,
            ),
            (
                "finback_skipped_answers_total",
                "counter",
                "Answers over the limit of a frame, whose bytes were skipped.",
                &self.skipped_answers,
            ),
            (
                "finback_retries_total",
                "counter",
                "Attempts after a call's first.",
                &self.retries,
            ),
            (
                "finback_panics_total",
                "counter",
                "Tasks that ended by a panic: each one is a bug.",
                &self.panics,
            ),
            (
                "finback_stalls_total",
                "counter",
                "Times that a worker did not run for so long that its timers were late.",
                &self.stalls,
            ),
        ]
    }

    /// Counts one more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn sub(counter: &AtomicU64) {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client connections of one listener.
#[derive(Debug, Default)]
pub struct ListenerGauges {
    /// Open now.
    pub connections: AtomicU64,
    /// Since it began.
    pub accepted: AtomicU64,
}

/// Counts as an open upstream connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct UpstreamConnection(Arc<Gauges>);

impl UpstreamConnection {
    pub(crate) fn open(gauges: &Arc<Gauges>) -> Self {
        Gauges::add(&gauges.upstream_connections);
        Self(gauges.clone())
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        Gauges::sub(&self.0.upstream_connections);
    }
}
