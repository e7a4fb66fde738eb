//! The schedule of health checks: which endpoint is checked next, and what its checks said so far.
//!
//! Nothing is looked at between checks but the time of the next: endpoints wait in the order in
//! which they are due, and are compared with the cluster's only when those changed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Now;
use crate::endpoint::Endpoint;

use super::HealthCheck;

/// A check that told nothing is repeated after this, or after its interval if that is shorter.
const SOON: Duration = Duration::from_secs(1);
/// A timer that fires so late was not kept from it by anybody but ourselves.
const LATE: Duration = Duration::from_millis(50);

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The endpoint is well.
    Healthy,
    /// It is not; why.
    Unhealthy(String),
    /// It did not answer in time.
    Silent,
    /// Nothing: we could not ask.
    Nothing(String),
}

/// The right to one check, and the duty to say what came of it.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) endpoint: Arc<Endpoint>,
    /// Tells it from a former endpoint at the same address.
    number: u64,
    since: Instant,
}

/// What is known of an endpoint.
struct Known {
    endpoint: Arc<Endpoint>,
    number: u64,
    /// Checks in a row that went as the last one did; 0 before the first.
    streak: u32,
    went_well: bool,
}

/// The checks of one cluster.
pub(super) struct Schedule {
    check: HealthCheck,
    known: HashMap<SocketAddr, Known>,
    /// Those that are not being checked, by when they are due. Former ones are passed over.
    due: BinaryHeap<Reverse<(Instant, u64, SocketAddr)>>,
    numbers: u64,
    /// When we last found that we had not run for a while.
    stalled: Option<Instant>,
}

/// Whether a timer that was set to `expected` fired so late that we did not run.
pub(super) fn is_late(expected: Instant, now: Instant) -> bool {
    now > expected + LATE
}

impl Schedule {
    pub(super) fn new(check: HealthCheck) -> Self {
        Self {
            check,
            known: HashMap::new(),
            due: BinaryHeap::new(),
            numbers: 0,
            stalled: None,
        }
    }

    /// Catches up with changed endpoints. New ones are due at once.
    pub(super) fn update(&mut self, endpoints: &[Arc<Endpoint>], now: Instant) {
        let present: HashSet<SocketAddr> = endpoints.iter().map(|each| each.address).collect();
        self.known.retain(|address, _| present.contains(address));
        for endpoint in endpoints {
            if let Some(known) = self.known.get_mut(&endpoint.address) {
                known.endpoint = endpoint.clone();
                continue;
            }
            self.numbers += 1;
            let fresh = Known {
                endpoint: endpoint.clone(),
                number: self.numbers,
                streak: 0,
                went_well: true,
            };
            self.known.insert(endpoint.address, fresh);
            self.due
                .push(Reverse((now, self.numbers, endpoint.address)));
        }
    }

    /// When the next endpoint is due, if any waits; it may have left meanwhile.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, ..))| *due)
    }

    /// The next endpoint that is due. Its next turn comes after this one is [`concluded`].
    ///
    /// [`concluded`]: Self::conclude
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Turn> {
        while self.next().is_some_and(|due| due <= now) {
            let Reverse((_, number, address)) = self.due.pop()?;
            let known = self.known.get(&address);
            if let Some(known) = known.filter(|known| known.number == number) {
                return Some(Turn {
                    endpoint: known.endpoint.clone(),
                    number,
                    since: now,
                });
            }
        }
        None
    }

    /// Notes that we did not run for a while before `now`.
    pub(super) fn stalled(&mut self, now: Instant) {
        self.stalled = Some(now);
    }

    /// Ends a turn with what was found, at `now` and on the cluster's clock at `at`.
    pub(super) fn conclude(&mut self, turn: &Turn, found: &Found, now: Instant, at: Now) {
        // Who is silent while we do not listen is not to blame.
        let is_excused = self.stalled.is_some_and(|stalled| stalled > turn.since);
        let address = turn.endpoint.address;
        let Some(known) = self.known.get_mut(&address) else {
            return;
        };
        if known.number != turn.number {
            return;
        }
        let told = match found {
            Found::Healthy => Some(Ok(())),
            Found::Unhealthy(why) => Some(Err(why.clone())),
            Found::Silent if is_excused => None,
            Found::Silent => Some(Err("no answer in time".to_owned())),
            Found::Nothing(why) => {
                tracing::warn!(%address, why, "an endpoint's health cannot be checked");
                None
            }
        };
        let pause = match told {
            Some(_) => self.check.interval,
            None => self.check.interval.min(SOON),
        };
        let due = (turn.since + pause).max(now);
        self.due.push(Reverse((due, turn.number, address)));
        if let Some(went) = told {
            known.judge(&self.check, went, at);
        }
    }
}

impl Known {
    fn judge(&mut self, check: &HealthCheck, went: Result<(), String>, at: Now) {
        let is_first = self.streak == 0;
        let well = went.is_ok();
        let troubles = &self.endpoint.health.troubles;
        match &went {
            Ok(()) => troubles.check_passed(),
            Err(why) => troubles.check_failed(at, why.clone()),
        }
        self.streak = if well == self.went_well {
            self.streak.saturating_add(1)
        } else {
            1
        };
        self.went_well = well;
        let health = &self.endpoint.health;
        let was_unhealthy = health.unhealthy.load(Relaxed);
        let enough = if well { check.healthy } else { check.unhealthy };
        if was_unhealthy == well && (self.streak >= enough || is_first) {
            health.unhealthy.store(!well, Relaxed);
            let address = self.endpoint.address;
            match went {
                Ok(()) => tracing::info!(%address, "endpoint is healthy again"),
                Err(why) => tracing::warn!(%address, why, "endpoint is unhealthy"),
            }
        }
        if !well {
            health.check_failed();
        } else if !health.unhealthy.load(Relaxed) {
            health.check_passed(at);
        }
    }
}

#[cfg(test)]
mod tests;
