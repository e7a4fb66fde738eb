//! Counters and stats about the mesh that are not about single calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metric::Family;

/// Statistics of the mesh that are not about single calls.
#[derive(Debug, Default)]
pub struct MeshStats {
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Client connections accepted since the start.
    pub accepted: AtomicU64,
    /// Times that accepting paused, for want of descriptors or at the limit of connections.
    pub accept_pauses: AtomicU64,
    /// Client connections closed because their bytes were malformed.
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
    /// Copies of calls that were left out for want of room.
    pub shadows_dropped: AtomicU64,
    /// Tasks that ended by a panic: each one is a bug.
    pub panics: AtomicU64,
    /// Times that a worker did not run for so long that timers were late.
    pub stalls: AtomicU64,
}

impl MeshStats {
    /// What is exported of them.
    #[must_use]
    pub fn rows(&self) -> [(&'static Family, &AtomicU64); 20] {
        [
            (
                const {
                    &Family::gauge(
                        "finback_connections",
                        "connections",
                        &[],
                        "Client connections open.",
                    )
                },
                &self.connections,
            ),
            (
                const {
                    &Family::counter(
                        "finback_connections_total",
                        "connections",
                        &[],
                        "Client connections accepted.",
                    )
                },
                &self.accepted,
            ),
            (
                const {
                    &Family::counter(
                        "finback_accept_pauses_total",
                        "pauses",
                        &[],
                        "Times that accepting paused: no descriptor was left, or limits.connections was reached.",
                    )
                },
                &self.accept_pauses,
            ),
            (
                const {
                    &Family::counter(
                        "finback_malformed_total",
                        "connections",
                        &[],
                        "Client connections closed because their bytes were malformed.",
                    )
                },
                &self.malformed,
            ),
            (
                const {
                    &Family::counter(
                        "finback_silent_total",
                        "connections",
                        &[],
                        "Client connections that ended before they sent anything, as probes of a port do.",
                    )
                },
                &self.silent,
            ),
            (
                const {
                    &Family::counter(
                        "finback_slow_readers_total",
                        "connections",
                        &[],
                        "Client connections closed because they did not read their responses.",
                    )
                },
                &self.slow_readers,
            ),
            (
                const {
                    &Family::counter(
                        "finback_slow_senders_total",
                        "connections",
                        &[],
                        "Client connections closed because a frame of theirs came too slowly.",
                    )
                },
                &self.slow_senders,
            ),
            (
                const {
                    &Family::gauge(
                        "finback_unfinished_bytes",
                        "bytes",
                        &[],
                        "Bytes of unfinished frames.",
                    )
                },
                &self.unfinished_bytes,
            ),
            (
                const {
                    &Family::gauge(
                        "finback_upstream_connections",
                        "connections",
                        &[],
                        "Connections open to endpoints, of every protocol.",
                    )
                },
                &self.upstream_connections,
            ),
            (
                const {
                    &Family::counter(
                        "finback_connect_failures_total",
                        "connections",
                        &[],
                        "Connections to endpoints that could not be made.",
                    )
                },
                &self.connect_failures,
            ),
            (
                const {
                    &Family::counter(
                        "finback_own_failures_total",
                        "connections",
                        &[],
                        "Connections to endpoints that could not be made because of us: no descriptor, port or buffer was left.",
                    )
                },
                &self.own_failures,
            ),
            (
                const {
                    &Family::counter(
                        "finback_closed_for_room_total",
                        "connections",
                        &[],
                        "Idle connections to endpoints closed to make room for others.",
                    )
                },
                &self.closed_for_room,
            ),
            (
                const {
                    &Family::counter(
                        "finback_heartbeat_failures_total",
                        "connections",
                        &[],
                        "Connections given up because the endpoint fell silent.",
                    )
                },
                &self.heartbeat_failures,
            ),
            (
                const {
                    &Family::counter(
                        "finback_shadows_dropped_total",
                        "calls",
                        &[],
                        "Calls that were not copied to their shadow for want of room.",
                    )
                },
                &self.shadows_dropped,
            ),
            (
                const {
                    &Family::counter(
                        "finback_late_responses_total",
                        "responses",
                        &[],
                        "Responses that came after their call was given up.",
                    )
                },
                &self.late_answers,
            ),
            (
                const {
                    &Family::counter(
                        "finback_unknown_responses_total",
                        "responses",
                        &[],
                        "Responses to no request in flight.",
                    )
                },
                &self.unknown_answers,
            ),
            (
                const {
                    &Family::counter(
                        "finback_skipped_responses_total",
                        "responses",
                        &[],
                        "Responses over the limit of a frame, whose bytes were skipped.",
                    )
                },
                &self.skipped_answers,
            ),
            (
                const {
                    &Family::counter(
                        "finback_retries_total",
                        "attempts",
                        &[],
                        "Attempts after a call's first.",
                    )
                },
                &self.retries,
            ),
            (
                const {
                    &Family::counter(
                        "finback_panics_total",
                        "tasks",
                        &[],
                        "Tasks that ended by a panic: each one is a bug.",
                    )
                },
                &self.panics,
            ),
            (
                const {
                    &Family::counter(
                        "finback_stalls_total",
                        "stalls",
                        &[],
                        "Times that a worker did not run for so long that its timers were late.",
                    )
                },
                &self.stalls,
            ),
        ]
    }
}

/// Adds one to a counter, or to a gauge.
pub fn increment(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

/// Takes one from a gauge.
pub fn decrement(gauge: &AtomicU64) {
    gauge.fetch_sub(1, Ordering::Relaxed);
}

/// Statistics of one cluster, those of the cluster that it replaced included.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Connections open to its endpoints.
    pub connections: AtomicU64,
    /// Connections made to its endpoints.
    pub connected: AtomicU64,
    /// Connections that could not be made, because of the endpoint.
    pub connect_failures: AtomicU64,
    /// Endpoints ejected.
    pub ejections: Ejections,
    /// Attempts after a call's first, those beside it among them.
    pub retries: AtomicU64,
    /// Attempts beside one that takes long.
    pub hedges: AtomicU64,
    /// Of these, those whose answer the call ended with.
    pub hedges_won: AtomicU64,
}

/// What had an endpoint ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// So many calls in a row that failed.
    Consecutive,
    /// The call that tried it after an ejection failed.
    Trial,
    /// It answers a smaller share of its calls well than the others do.
    SuccessRate,
    /// A larger share of its calls failed than may.
    FailurePercentage,
}

impl Detector {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Consecutive,
        Self::Trial,
        Self::SuccessRate,
        Self::FailurePercentage,
    ];

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::Trial => "trial",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
        }
    }
}

/// Ejections by what they were for.
#[derive(Debug, Default)]
pub struct Ejections([AtomicU64; Detector::ALL.len()]);

impl Ejections {
    /// Counts one more.
    pub fn add(&self, detector: Detector) {
        increment(&self.0[detector as usize]);
    }

    /// Those of one detector.
    #[must_use]
    pub fn of(&self, detector: Detector) -> u64 {
        self.0[detector as usize].load(Ordering::Relaxed)
    }

    /// Those of all.
    #[must_use]
    pub fn all(&self) -> u64 {
        Detector::ALL.into_iter().map(|own| self.of(own)).sum()
    }
}

/// Statistics of one listener: its client connections.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Open now.
    pub connections: AtomicU64,
    /// Since it began.
    pub accepted: AtomicU64,
}

/// Counts as an open upstream connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    stats: Arc<MeshStats>,
    cluster: Arc<ClusterStats>,
}

impl UpstreamConnection {
    pub(crate) fn open(stats: &Arc<MeshStats>, cluster: &Arc<ClusterStats>) -> Self {
        increment(&stats.upstream_connections);
        increment(&cluster.connections);
        increment(&cluster.connected);
        Self {
            stats: stats.clone(),
            cluster: cluster.clone(),
        }
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        decrement(&self.stats.upstream_connections);
        decrement(&self.cluster.connections);
    }
}
