//! The right to send one attempt to one endpoint, and what becomes of it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::{Policy, observe_latency};
use crate::clock::{Now, micros};
use crate::cluster::Cluster;
use crate::concurrency::Timed;
use crate::endpoint::{Endpoint, Trial};
use crate::frame::Outcome;
use crate::stats::{Detector, increment};
use crate::trace::{Field, SpanTarget};

use super::exchange::Exchange;
use super::traced::Propagated;
use super::verdict::{AttemptEnd, DeadlineOwner, Verdict, rule};
use super::view::LocalEndpoint;

/// The right to send one attempt to one endpoint. Dropping it frees the endpoint's place and
/// reports how it went.
pub struct Lease {
    pub(crate) local_endpoint: Rc<LocalEndpoint>,
    /// What the attempt carries of its trace's context.
    pub(super) propagated: Option<Propagated>,
    pub(super) clock: Rc<Cell<Now>>,
    pub(super) started: Now,
    /// When the attempt is given up.
    pub(crate) deadline: Now,
    pub(super) verdict: Verdict,
    pub(super) retry: bool,
    /// It is for an attempt beside another, and has not lost against that.
    pub(super) hedge: bool,
    /// Which of its call's attempts it is for.
    pub(super) number: u16,
    /// It holds a place within its cluster's concurrency, and its time counts from then.
    pub(super) place: Cell<Option<Now>>,
    /// How it went was reported before its end.
    pub(super) settled: bool,
    /// Another worker goes on with it, and has its places.
    pub(super) parted: bool,
    /// If the call tries the endpoint for those that follow; given back if it tells nothing.
    pub(super) trial: Option<Trial>,
    /// How the attempt ended, for whoever asks why the endpoint was ejected.
    pub(super) end: Option<AttemptEnd>,
}

impl Lease {
    /// Where to send it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.local_endpoint.endpoint.address
    }

    /// The same, as traces have it.
    #[must_use]
    pub fn target(&self) -> SpanTarget {
        self.local_endpoint.target()
    }

    /// The cluster whose endpoint it is.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.local_endpoint.cluster
    }

    /// The names and values by which the attempt carries the context of its trace: they stand in place
    /// of such as its request has. Most attempts carry none.
    #[must_use]
    pub fn propagated(&self) -> &[Field] {
        self.propagated.as_deref().unwrap_or_default()
    }

    pub(crate) fn take_propagated(&mut self) -> Option<Propagated> {
        self.propagated.take()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.local_endpoint.endpoint
    }

    /// Whether it holds a place within its cluster's adaptive concurrency.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.place.get().is_some()
    }

    /// Holds no such place any more, and its time tells nothing: it turned out to be a stream.
    pub fn leave_out(&self) {
        self.leave(Timed::Nothing);
    }

    /// Holds no such place any more: the endpoint has begun to answer.
    pub(crate) fn leave_answered(&self) {
        self.leave(Timed::Answered);
    }

    /// All of the request was sent only now: its time counts from here.
    pub(crate) fn sent_at(&self, at: Now) {
        self.place.set(self.place.get().map(|since| since.max(at)));
    }

    pub(super) fn leave(&self, timed: Timed) {
        if let Some(since) = self.place.take()
            && let Some(limit) = &self.local_endpoint.cluster.concurrency
        {
            limit.leave(timed, since, self.clock.get());
        }
    }

    /// What its end tells about the time that endpoints take.
    pub(super) fn timed(&self) -> Timed {
        match self.end {
            Some(AttemptEnd::Answered(Outcome::Success | Outcome::Exception)) => Timed::Answered,
            Some(AttemptEnd::TimedOut { whose, sent: true })
                if whose != DeadlineOwner::OurStall =>
            {
                Timed::GivenUp
            }
            None | Some(AttemptEnd::Abandoned) => Timed::GivenUp,
            Some(_) => Timed::Nothing,
        }
    }

    /// Keeps the endpoint's place after it is known how the attempt went: for sessions, which go on
    /// long after.
    pub fn settle(&mut self, verdict: Verdict) {
        self.conclude(verdict);
        self.report();
        self.settled = true;
    }

    /// Whether the endpoint takes no new calls now: it was ejected, or found unhealthy. A session with it may
    /// have lost it without knowing.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        !self.local_endpoint.endpoint.available(self.clock.get())
    }

    /// Says that the endpoint has fallen silent within a session that it had granted.
    pub fn fell_silent(&mut self) {
        self.settle(rule(AttemptEnd::Truncated, false).verdict);
    }

    /// The endpoint takes no new calls for a while: it said that it is going away.
    pub fn avoid(&self, period: Duration) {
        let until = self.clock.get().after(period);
        self.local_endpoint
            .endpoint
            .health
            .leaving_until
            .store(until.0, Relaxed);
    }

    /// Whether its answer is one that the call ends with.
    fn is_answered(&self) -> bool {
        let end = self.end;
        matches!(end, Some(AttemptEnd::Answered(outcome)) if !Exchange::is_left_to_other(outcome))
    }

    /// Says how it went.
    pub(crate) fn conclude(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Says that this failure ejected the endpoint, and why.
    #[cold]
    fn ejected(&self, tried: bool, now: Now) {
        let LocalEndpoint {
            cluster, endpoint, ..
        } = &*self.local_endpoint;
        let last = self.end.map_or("a session failed", AttemptEnd::words);
        let (detector, why) = if tried {
            let why = format!("the call that tried it failed: {last}");
            (Detector::Trial, why)
        } else {
            let count = cluster.spec.policy.outlier.consecutive;
            let why = format!("{count} failures in a row, the last: {last}");
            (Detector::Consecutive, why)
        };
        cluster.ejected(endpoint, now, detector, why);
    }

    /// Reports how it went so far.
    fn report(&mut self) {
        let LocalEndpoint {
            cluster, endpoint, ..
        } = &*self.local_endpoint;
        let now = self.clock.get();
        let policy = &cluster.spec.policy;
        let verdict = std::mem::replace(&mut self.verdict, Verdict::Neutral);
        match verdict {
            Verdict::Neutral => {}
            Verdict::Alive => {
                policy
                    .outlier
                    .answered(&endpoint.health, now, self.trial.take());
            }
            Verdict::Good => {
                policy
                    .outlier
                    .success(&endpoint.health, now, self.trial.take());
                if policy.balance == Policy::PeakEwma {
                    let nanos = micros(now.since(self.started)).saturating_mul(1000);
                    observe_latency(&endpoint.health, nanos, now);
                }
            }
            Verdict::Silent if !self.trial.as_ref().is_some_and(Trial::decides) => {}
            Verdict::Bad | Verdict::Silent => {
                let all = cluster.endpoints();
                let trial = self.trial.take();
                let tried = trial.as_ref().is_some_and(Trial::decides);
                if policy
                    .outlier
                    .failure(&endpoint.health, now, &all.all, trial)
                {
                    self.ejected(tried, now);
                }
            }
        }
        if matches!(verdict, Verdict::Good | Verdict::Bad) {
            self.local_endpoint.cluster.rate(
                &self.local_endpoint.endpoint,
                now,
                verdict == Verdict::Good,
            );
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.parted {
            return;
        }
        let LocalEndpoint {
            cluster, endpoint, ..
        } = &*self.local_endpoint;
        if self.hedge && self.is_answered() {
            increment(&cluster.stats.hedges_won);
        }
        endpoint.health.in_flight.fetch_sub(1, Relaxed);
        cluster.in_flight.fetch_sub(1, Relaxed);
        self.leave(self.timed());
        if self.retry {
            cluster.budget.release();
        }
        if self.verdict == Verdict::Neutral && !self.settled {
            endpoint.health.excuse();
        }
        self.report();
    }
}
