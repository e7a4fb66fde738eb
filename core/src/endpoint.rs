//! One address of a cluster and what the mesh has learnt about it.

mod standing;
mod troubles;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Now;
use crate::discovery::Terms;

pub(crate) use standing::Seen;
use standing::Stand;
pub use standing::{Standing, Trial};
pub use troubles::EndpointTrouble;
pub(crate) use troubles::Troubles;

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
    /// What it asks of its callers.
    pub terms: Option<Arc<Terms>>,
    /// What is known of its state, shared by all workers.
    pub health: Arc<Health>,
}

/// The state of an endpoint, shared by all workers and all snapshots that hold the address.
#[derive(Debug, Default)]
pub struct Health {
    /// Calls in flight to it.
    pub in_flight: AtomicU32,
    /// Health checks say that it should take no calls.
    pub unhealthy: AtomicBool,
    /// It said goodbye: avoided until this moment (microseconds).
    pub leaving_until: AtomicU64,
    /// Peak-EWMA of its answer times: value in nanoseconds.
    pub ewma_nanos: AtomicU64,
    /// When `ewma_nanos` was last written (microseconds).
    pub ewma_at: AtomicU64,
    /// Whether it takes calls.
    pub(crate) stand: Stand,
    /// Failures in a row.
    pub(crate) failures: AtomicU32,
    /// Calls of the interval under way, by how they ended; where that is asked for.
    pub(crate) tally: Tally,
    /// Times it was ejected in the recent past; lengthens the next ejection.
    pub(crate) ejections: AtomicU32,
    /// When the last ejection ended (microseconds).
    pub(crate) ejection_ended: AtomicU64,
    /// Connections in a row that could not be made; not 0 = it is out for that.
    pub(crate) connect_failures: AtomicU32,
    /// It answered since its last trouble.
    proven: AtomicBool,
    /// When it last answered, a little late (microseconds).
    answered_at: AtomicU64,
    /// Calls that are to show whether it answers, and when the last of them began (microseconds).
    trials: AtomicU32,
    tried_at: AtomicU64,
    /// Calls sent to it since it last answered, and when the first of them was (microseconds).
    owed: AtomicU32,
    owed_since: AtomicU64,
    /// Since when a connection to it is being made (microseconds; 0 = none is).
    connecting_since: AtomicU64,
    /// A health check already ended an ejection early, and calls did not confirm it since.
    lifted: AtomicBool,
    /// Why it takes no calls, for whoever asks.
    pub(crate) troubles: Troubles,
}

/// Calls of one interval.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    good: AtomicU32,
    bad: AtomicU32,
}

impl Tally {
    /// Counts a call.
    pub(crate) fn note(&self, good: bool) {
        let count = if good { &self.good } else { &self.bad };
        count.fetch_add(1, Relaxed);
    }

    /// Takes what was counted: those that went well, and those that failed.
    pub(crate) fn take(&self) -> (u32, u32) {
        (self.good.swap(0, Relaxed), self.bad.swap(0, Relaxed))
    }
}

/// Answers are noted this often; more would only keep the workers' caches busy.
const NOTED: Duration = Duration::from_millis(10);
/// Calls at a time that an endpoint that has yet to answer takes, while there are others.
const UNPROVEN: u32 = 2;
/// After this long without an answer to them, one more.
const AGAIN: Duration = Duration::from_secs(5);
/// So many calls without an answer to any of them, over more than `QUIET`, and others had better
/// go elsewhere.
const OWED: u32 = 8;
const QUIET: Duration = Duration::from_millis(30);
/// A connection that takes longer is waited for by nobody else, while there are others.
const PROMPT: Duration = Duration::from_millis(50);

impl Health {
    /// Its state at `now`.
    #[must_use]
    pub fn standing(&self, now: Now) -> Standing {
        self.stand.load().standing(now)
    }

    /// Whether nothing at all speaks against it: what most calls need to know, in a few loads.
    pub(crate) fn is_well(&self, now: Now) -> bool {
        self.stand.load() == Seen::AVAILABLE
            && !self.unhealthy.load(Relaxed)
            && self.is_proven()
            && !self.is_silent(now)
            && self.leaving_until.load(Relaxed) <= now.0
    }

    /// Whether it answered since its last trouble: a connection lost or not made, an ejection.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.load(Relaxed)
    }

    /// Whether it answered anybody after `then`.
    #[must_use]
    pub fn answered_since(&self, then: Now) -> bool {
        self.answered_at.load(Relaxed) > then.0
    }

    /// Whether no connection to it could be made, so that calls had better not wait for one.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.connect_failures.load(Relaxed) > 0
    }

    /// Notes an answer.
    pub(crate) fn prove(&self, now: Now) {
        // Reading first keeps the cache line shared between workers while all is well.
        if !self.is_proven() {
            self.proven.store(true, Relaxed);
        }
        if self.owed.load(Relaxed) != 0 {
            self.owed.store(0, Relaxed);
        }
        let noted = Now(self.answered_at.load(Relaxed));
        if now > noted.after(NOTED) {
            self.answered_at.store(now.0, Relaxed);
        }
    }

    /// Notes that a call is sent to it.
    pub(crate) fn ask(&self, now: Now) {
        if self.owed.fetch_add(1, Relaxed) == 0 {
            self.owed_since.store(now.0, Relaxed);
        }
    }

    /// Notes that a call sent to it ended without telling anything: it owes one answer less.
    pub fn excuse(&self) {
        let less = |owed: u32| owed.checked_sub(1);
        let _ = self.owed.fetch_update(Relaxed, Relaxed, less);
    }

    /// Notes that a connection to it was lost while it owed answers: until it answers again, it
    /// takes few calls if there are others that do.
    pub fn connection_lost(&self) {
        self.unprove();
    }

    pub(crate) fn unprove(&self) {
        if self.is_proven() {
            self.proven.store(false, Relaxed);
        }
    }

    /// Whether more calls had better go elsewhere: it has yet to show that it answers, and a few
    /// already wait for that, or its connection takes long; or it fell silent. A black hole thus
    /// costs a few calls. Now and then one more goes there, for they may be of the kind that
    /// takes long.
    pub(crate) fn is_suspect(&self, now: Now) -> bool {
        if self.is_silent(now) {
            return true;
        }
        if self.is_proven() {
            return false;
        }
        let tried_at = Now(self.tried_at.load(Relaxed));
        let is_tried = self.trials.load(Relaxed) >= UNPROVEN && now.since(tried_at) < AGAIN;
        is_tried || self.is_slow(now)
    }

    fn is_silent(&self, now: Now) -> bool {
        let owed = self.owed.load(Relaxed);
        if owed < OWED {
            return false;
        }
        let silent = now.since(Now(self.owed_since.load(Relaxed)));
        let again = silent.as_secs() / AGAIN.as_secs();
        silent > QUIET && u64::from(owed - OWED) >= again
    }

    fn begin_trial(&self, now: Now) {
        self.trials.fetch_add(1, Relaxed);
        self.tried_at.store(now.0, Relaxed);
    }

    fn end_trial(&self) {
        self.trials.fetch_sub(1, Relaxed);
    }

    /// Whether it has yet to answer, and a connection to it has been in the making for long.
    pub(crate) fn is_slow(&self, now: Now) -> bool {
        if self.is_proven() {
            return false;
        }
        let since = self.connecting_since.load(Relaxed);
        since > 0 && now.since(Now(since)) > PROMPT
    }

    /// Notes that a health check passed. That ends an ejection early: the next call is the
    /// trial. Only once, until a call or a check tells something new: if the trial fails, checks
    /// see less than calls do.
    pub fn check_passed(&self, now: Now) {
        let seen = self.stand.load();
        if matches!(seen.standing(now), Standing::Ejected(_))
            && !self.lifted.load(Relaxed)
            && self.stand.change(seen, Seen::ejected(now))
        {
            self.lifted.store(true, Relaxed);
            self.connect_failures.store(0, Relaxed);
        }
    }

    /// Notes that a health check failed: one that passes after it says something new.
    pub fn check_failed(&self) {
        self.forget_lift();
    }

    pub(crate) fn forget_lift(&self) {
        if self.lifted.load(Relaxed) {
            self.lifted.store(false, Relaxed);
        }
    }

    /// Forgets what is likely no longer true of an endpoint that was gone and is there again.
    /// What is in flight stays counted. If it was ejected, one call tries it.
    pub(crate) fn returned(&self, now: Now) {
        let seen = self.stand.load();
        if matches!(seen.standing(now), Standing::Ejected(_)) {
            self.stand.change(seen, Seen::ejected(now));
        }
        self.failures.store(0, Relaxed);
        self.tally.take();
        self.connect_failures.store(0, Relaxed);
        self.unhealthy.store(false, Relaxed);
        self.leaving_until.store(0, Relaxed);
        self.ewma_nanos.store(0, Relaxed);
        self.owed.store(0, Relaxed);
        self.forget_lift();
        self.unprove();
    }
}

/// A connection in the making. Dropping it says that it is made, or never will be.
#[derive(Debug)]
#[must_use = "it is in the making as long as this is kept"]
pub struct ConnectionAttempt {
    health: Arc<Health>,
    /// 0 if another one was first.
    since: u64,
}

impl ConnectionAttempt {
    /// Notes that a connection to the endpoint is being made from `now` on.
    pub fn begin(health: &Arc<Health>, now: Now) -> Self {
        let since = now.0.max(1);
        let mark = &health.connecting_since;
        let is_first = mark.compare_exchange(0, since, Relaxed, Relaxed).is_ok();
        Self {
            health: health.clone(),
            since: if is_first { since } else { 0 },
        }
    }
}

impl Drop for ConnectionAttempt {
    fn drop(&mut self) {
        if self.since > 0 {
            let mark = &self.health.connecting_since;
            let _ = mark.compare_exchange(self.since, 0, Relaxed, Relaxed);
        }
    }
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

    /// Whether it is neither ejected (or still to be tried after that), leaving nor unhealthy.
    #[must_use]
    pub fn available(&self, now: Now) -> bool {
        !self.health.unhealthy.load(Relaxed)
            && self.health.standing(now) == Standing::Available
            && self.health.leaving_until.load(Relaxed) <= now.0
    }

    /// Whether it was ejected, and one call may try it now.
    #[must_use]
    pub fn is_due(&self, now: Now) -> bool {
        self.health.standing(now) == Standing::Due
            && !self.health.unhealthy.load(Relaxed)
            && self.health.leaving_until.load(Relaxed) <= now.0
    }

    /// Calls in flight to it, from all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.health.in_flight.load(Relaxed)
    }
}
