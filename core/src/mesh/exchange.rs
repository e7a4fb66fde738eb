//! One call through the mesh: its route, its attempts, and the record it leaves.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::{Ask, HashOn, NoPick, Pick, Policy, hash_bytes, observe_latency};
use crate::clock::{Now, micros};
use crate::cluster::Cluster;
use crate::driver::Worker;
use crate::endpoint::Trial;
use crate::frame::Outcome;
use crate::record::{Ending, Record};
use crate::rejection::Rejection;
use crate::route::{self, Destination, Route};
use crate::steer::Facts;

use super::Gauges;
use super::site::Site;
use super::view::{Seat, View};

/// How a call's attributes are read.
pub(crate) type Attributes<'a, 'b> = &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>;

/// One request and its answer, from open to record. Dropping it writes the record, on every
/// path; one that nobody ended was abandoned by its caller.
pub struct Exchange {
    site: Rc<Site>,
    clock: Rc<Cell<Now>>,
    source: IpAddr,
    started: Now,
    /// When the caller gives up, or the route does.
    pub(crate) deadline: Now,
    route: u16,
    destination: u16,
    attempts: u16,
    endpoint: Option<SocketAddr>,
    /// Endpoints that failed it; empty until the first retry.
    tried: Vec<SocketAddr>,
    ending: Ending,
    request_bytes: u64,
    response_bytes: u64,
}

/// What came of asking for an attempt.
pub enum Attempt {
    /// The right to send.
    Go(Lease),
    /// The service is being looked up for the first time; ask again when it is ready.
    Wait(Arc<Cluster>),
}

impl Exchange {
    /// Opens an exchange and finds its route.
    pub(crate) fn open(
        worker: &Worker,
        site: Rc<Site>,
        source: IpAddr,
        request_bytes: usize,
        timeout: Option<Duration>,
        attributes: Attributes<'_, '_>,
    ) -> (Self, Result<(), Rejection>) {
        let now = worker.now();
        let selected = site.candidates.select(attributes);
        let (bound, default) = match selected {
            Some(number) => (site.route(number).timeout, worker.call_timeout()),
            None => (None, worker.call_timeout()),
        };
        let timeout = match (timeout, bound) {
            (Some(own), Some(bound)) => own.min(bound),
            (Some(own), None) => own,
            (None, Some(bound)) => bound,
            (None, None) => default,
        };
        let mut exchange = Self {
            clock: worker.shared_clock(),
            source,
            started: now,
            deadline: now.after(timeout),
            route: u16::try_from(selected.unwrap_or(0)).unwrap_or(0),
            destination: 0,
            attempts: 0,
            endpoint: None,
            tried: Vec::new(),
            ending: Ending::Abandoned,
            request_bytes: request_bytes as u64,
            response_bytes: 0,
            site,
        };
        let routed = match selected {
            None => Err(Rejection::NoRoute),
            Some(_) => exchange.choose_destination(worker.random()),
        };
        (exchange, routed)
    }

    /// An exchange that can only be rejected: its request could not be read.
    pub(crate) fn unreadable(
        worker: &Worker,
        site: Rc<Site>,
        source: IpAddr,
        bytes: usize,
    ) -> Self {
        Self::open(worker, site, source, bytes, None, &mut |_| None).0
    }

    fn choose_destination(&mut self, random: u64) -> Result<(), Rejection> {
        if let Destination::Clusters(weighted) = &self.route().to {
            let chosen = route::choose(weighted, random).ok_or(Rejection::NoEndpoint)?;
            self.destination = u16::try_from(chosen).unwrap_or(0);
        }
        Ok(())
    }

    fn route(&self) -> &Arc<Route> {
        self.site.route(usize::from(self.route))
    }

    /// The route that it takes, unless none matched.
    pub(crate) fn selected_route(&self) -> Option<&Arc<Route>> {
        self.site.candidates.routes().get(usize::from(self.route))
    }

    /// Asks for the right to send one attempt to one endpoint.
    ///
    /// # Errors
    /// The rejection to answer with if there is none.
    pub(crate) fn attempt(
        &mut self,
        worker: &Worker,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        let view = self.site.view(
            worker,
            usize::from(self.route),
            usize::from(self.destination),
        )?;
        let mut view = view.borrow_mut();
        let now = worker.now();
        view.refresh(now, worker.random());
        if !view.ready {
            return Ok(Attempt::Wait(view.cluster.clone()));
        }
        if !view.known {
            return Err(Rejection::NoService);
        }
        let (seat, trial) = self.pick(&mut view, worker.random(), now, attributes)?;
        let cluster = &seat.cluster;
        let retry = self.attempts > 0;
        let limit = cluster.spec.policy.max_in_flight;
        let active = cluster.in_flight.fetch_add(1, Relaxed);
        if limit > 0 && active >= limit || retry && !cluster.budget.acquire(active) {
            cluster.in_flight.fetch_sub(1, Relaxed);
            return Err(Rejection::Overloaded);
        }
        seat.endpoint.health.in_flight.fetch_add(1, Relaxed);
        self.attempts += 1;
        self.endpoint = Some(seat.endpoint.address);
        if retry {
            Gauges::add(&worker.mesh().gauges.retries);
        }
        Ok(Attempt::Go(Lease {
            seat,
            clock: self.clock.clone(),
            started: now,
            verdict: Verdict::Neutral,
            retry,
            trial,
        }))
    }

    fn pick(
        &self,
        view: &mut View,
        random: u64,
        now: Now,
        attributes: Attributes<'_, '_>,
    ) -> Result<(Rc<Seat>, Option<Trial>), Rejection> {
        let way = view.is_steered().then(|| {
            let key = &self.site.key;
            view.way(&mut Facts {
                method: &key.method,
                service: &key.service,
                version: &key.version,
                group: &key.group,
                source: self.source,
                attribute: &mut |name| attributes(name).map(Cow::into_owned),
            })
        });
        let policy = &view.cluster.spec.policy;
        let hash = match &policy.balance {
            Policy::ConsistentHash(HashOn::Source) => Some(hash_source(self.source)),
            Policy::ConsistentHash(HashOn::Attribute(name)) => {
                attributes(name).map(|value| hash_bytes(value.as_bytes()))
            }
            Policy::RoundRobin | Policy::Random | Policy::LeastRequest | Policy::PeakEwma => None,
        };
        let ask = Ask {
            now,
            random,
            hash,
            avoid: &self.tried,
            per_endpoint: policy.per_endpoint,
            panic_percent: policy.panic_percent,
            deadline: self.attempt_deadline(),
        };
        let members = match way {
            None => view.plain(),
            Some(way) => view.members(way, now, random),
        };
        match members.balancer.pick(&members.endpoints, &ask) {
            Ok(Pick { place, trial }) => Ok((members.seats[place].clone(), trial)),
            Err(NoPick::Empty) => Err(Rejection::NoEndpoint),
            Err(NoPick::Busy) => Err(Rejection::Overloaded),
        }
    }

    /// Attempts made so far.
    pub(crate) fn attempts(&self) -> u16 {
        self.attempts
    }

    /// Whether the request's bytes must be kept after they were sent, for another attempt.
    pub(crate) fn may_need_resending(&self) -> bool {
        let retry = &self.route().retry;
        retry.attempts > 1 && (retry.idempotent || retry.refused)
    }

    /// Whether the attempt under way is the last that the route allows.
    pub(crate) fn is_last_attempt(&self) -> bool {
        u32::from(self.attempts) >= self.route().retry.attempts
    }

    /// Whether another attempt is allowed after this failure. `sent` tells whether the request
    /// may have reached the endpoint.
    pub(crate) fn may_retry(&mut self, sent: bool, refused: bool) -> bool {
        let retry = &self.route().retry;
        let safe = !sent || retry.idempotent || (refused && retry.refused);
        let allowed =
            safe && u32::from(self.attempts) < retry.attempts && self.deadline > self.clock.get();
        if allowed {
            self.tried.extend(self.endpoint);
        }
        allowed
    }

    /// When the attempt that starts now is given up.
    pub(crate) fn attempt_deadline(&self) -> Now {
        match self.route().retry.per_try_timeout {
            Some(each) => self.clock.get().after(each).min(self.deadline),
            None => self.deadline,
        }
    }

    /// Ends it with an answer of so many bytes.
    pub(crate) fn answered(&mut self, outcome: Outcome, bytes: usize) {
        self.ending = Ending::Answered(outcome);
        self.response_bytes = bytes as u64;
    }

    /// Counts bytes of the request that came after it was opened.
    pub(crate) fn add_request_bytes(&mut self, bytes: u64) {
        self.request_bytes += bytes;
    }

    /// Ends a one-way that was handed over.
    pub(crate) fn sent(&mut self) {
        self.ending = Ending::Sent;
    }

    /// Ends it with the mesh's own answer.
    pub(crate) fn rejected(&mut self, rejection: Rejection) {
        self.ending = Ending::Rejected(rejection);
    }

    /// What the caller reads when the mesh answers: what happened, and what to look at.
    pub(crate) fn explain(&self, rejection: Rejection) -> String {
        let key = &self.site.key;
        let mut call = String::new();
        if !key.group.is_empty() {
            call.push_str(&key.group);
            call.push('/');
        }
        call.push_str(&key.service);
        if !key.version.is_empty() {
            call.push(':');
            call.push_str(&key.version);
        }
        if !key.method.is_empty() {
            call.push('.');
            call.push_str(&key.method);
        }
        let endpoint = match self.endpoint {
            Some(address) => format!("endpoint {address}"),
            None => "the endpoint".to_owned(),
        };
        let routes = &self.site.listening.routes;
        let what = match rejection {
            Rejection::NoRoute => format!("no route of table '{routes}' matches {call}"),
            Rejection::NoService => {
                format!("the registry knows no provider of {call}; is it registered?")
            }
            Rejection::NoEndpoint => {
                format!("no endpoint may take {call} now; are any registered, with that subset?")
            }
            Rejection::ConnectFailed => {
                format!("cannot connect to {endpoint} for {call}; nothing was sent")
            }
            Rejection::ConnectionLost => {
                format!("the connection to {endpoint} was lost while {call} was in flight")
            }
            Rejection::DeadlineExceeded => format!(
                "{endpoint} did not answer {call} within {:?}",
                self.deadline.since(self.started)
            ),
            Rejection::Overloaded => {
                format!("too many calls are in flight to take {call}: a limit is reached")
            }
            Rejection::Denied => format!("{call} is not allowed"),
            Rejection::BadRequest => "the request cannot be read".to_owned(),
            Rejection::TooLarge => "the request is longer than the limit".to_owned(),
            Rejection::Draining => format!("shutting down; {call} was not finished"),
        };
        format!("[finback] {what}")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.site.series.record(&Record {
            ending: self.ending,
            took: self.clock.get().since(self.started),
            attempts: u32::from(self.attempts),
            source: self.source,
            endpoint: self.endpoint,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        });
    }
}

/// What an attempt tells about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint answered.
    Good,
    /// The endpoint failed the call.
    Bad,
    /// Nothing: the attempt was given up for other reasons.
    Neutral,
}

/// The right to send one attempt to one endpoint. Dropping it frees the endpoint's place and
/// reports how it went.
pub struct Lease {
    pub(crate) seat: Rc<Seat>,
    clock: Rc<Cell<Now>>,
    started: Now,
    verdict: Verdict,
    retry: bool,
    /// If the call tries the endpoint for those that follow; given back if it tells nothing.
    trial: Option<Trial>,
}

impl Lease {
    /// Says how it went.
    pub(crate) fn conclude(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Reports how it went so far.
    pub(crate) fn report(&mut self) {
        let Seat {
            cluster, endpoint, ..
        } = &*self.seat;
        let now = self.clock.get();
        let policy = &cluster.spec.policy;
        match std::mem::replace(&mut self.verdict, Verdict::Neutral) {
            Verdict::Neutral => {}
            Verdict::Good => {
                policy
                    .outlier
                    .success(&endpoint.health, now, self.trial.take());
                if policy.balance == Policy::PeakEwma {
                    let nanos = micros(now.since(self.started)).saturating_mul(1000);
                    observe_latency(&endpoint.health, nanos, now);
                }
            }
            Verdict::Bad => {
                let all = cluster.endpoints();
                let trial = self.trial.take();
                if policy
                    .outlier
                    .failure(&endpoint.health, now, &all.all, trial)
                {
                    cluster.ejections.fetch_add(1, Relaxed);
                    tracing::warn!(
                        cluster = %cluster.name(), endpoint = %endpoint.address,
                        "endpoint ejected after repeated failures"
                    );
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Seat {
            cluster, endpoint, ..
        } = &*self.seat;
        endpoint.health.in_flight.fetch_sub(1, Relaxed);
        cluster.in_flight.fetch_sub(1, Relaxed);
        if self.retry {
            cluster.budget.release();
        }
        if self.verdict == Verdict::Neutral {
            endpoint.health.excuse();
        }
        self.report();
    }
}

fn hash_source(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(v4) => hash_bytes(&v4.octets()),
        IpAddr::V6(v6) => hash_bytes(&v6.octets()),
    }
}
