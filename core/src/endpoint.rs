//! One address of a cluster and what the mesh has learnt about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::clock::Now;

/// One endpoint of a snapshot. Immutable but for its [`Health`], which outlives changes of
/// weight and labels.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its full weight; never 0 in a balanced set.
    pub weight: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Start (may be negative) and length of its warm-up, in the clock's microseconds.
    pub warm_up: Option<(i64, u64)>,
    /// What is known of its state, shared by all workers.
    pub health: Arc<Health>,
}

/// The state of an endpoint, shared by all workers and all snapshots that hold the address.
#[derive(Debug, Default)]
pub struct Health {
    /// Calls in flight to it.
    pub in_flight: AtomicU32,
    /// Failures in a row.
    pub failures: AtomicU32,
    /// Times it was ejected in the recent past; lengthens the next ejection.
    pub ejections: AtomicU32,
    /// It takes no calls until this moment (microseconds; 0 = it does).
    pub ejected_until: AtomicU64,
    /// Health checks say that it should take no calls.
    pub unwell: AtomicBool,
    /// It said goodbye: avoided until this moment (microseconds).
    pub leaving_until: AtomicU64,
    /// Peak-EWMA of its answer times: value in nanoseconds.
    pub ewma_nanos: AtomicU64,
    /// When `ewma_nanos` was last written (microseconds).
    pub ewma_at: AtomicU64,
}

impl Endpoint {
    /// Its weight at `now`, warm-up considered; at least 1 unless its weight is 0.
    #[must_use]
    pub fn weight_at(&self, now: Now) -> u32 {
        let Some((since, period)) = self.warm_up else {
            return self.weight;
        };
        let age = i64::try_from(now.0)
            .unwrap_or(i64::MAX)
            .saturating_sub(since);
        let age = u64::try_from(age).unwrap_or(0);
        if age >= period || self.weight == 0 {
            return self.weight;
        }
        let grown = u128::from(self.weight) * u128::from(age) / u128::from(period.max(1));
        u32::try_from(grown)
            .unwrap_or(self.weight)
            .clamp(1, self.weight)
    }

    /// Whether it is neither ejected, leaving nor unwell.
    #[must_use]
    pub fn available(&self, now: Now) -> bool {
        !self.health.unwell.load(Relaxed)
            && self.health.ejected_until.load(Relaxed) <= now.0
            && self.health.leaving_until.load(Relaxed) <= now.0
    }

    /// Calls in flight to it, from all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.health.in_flight.load(Relaxed)
    }
}
