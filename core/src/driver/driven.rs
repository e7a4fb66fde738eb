//! Calls of protocols that drive themselves: streams, sessions.
//!
//! A [`Protocol`](super::Protocol) that is no codec makes a [`Caller`] of each accepted
//! connection, and has it open a [`DrivenExchange`] per call. Routing, balancing, deadlines, retries, limits
//! and records are the same as for framed calls.

mod caller;
mod tunnel;
mod words;

use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::filter::{Message, MessageFlow};
use crate::frame::{Answer, Outcome, Status};
use crate::mesh::{
    self, Attempt, AttemptEnd, Exchange, Fitting, Lease, Propagated, Resend, Routed, Underway,
    Verdict, rule,
};
use crate::net::Transport;
use crate::rejection::Rejection;
use crate::route::{ForeignPolicy, Route, RoutePolicy};
use crate::trace::{Choice, Field};

use super::shadow::{MessageShadow, Shadowed};
use super::survey::{CallPlace, WaitsFor};
use super::worker::Worker;

use caller::attribute;

pub use caller::Caller;
pub use tunnel::{Carried, TunnelEnd};

/// One call from its request to its record, which dropping it writes; one that nobody ended was
/// abandoned by its caller.
pub struct DrivenExchange {
    exchange: Exchange,
    transport: Option<Rc<Transport>>,
    worker: Rc<Worker>,
    place: CallPlace,
}

impl DrivenExchange {
    /// Leaves its worker with its attempt, for another to [go on](Caller::resume) with it.
    #[must_use]
    pub fn part(self, lease: Lease) -> Underway {
        self.worker.read_clock();
        self.exchange.part(lease)
    }

    /// Waits until filters have decided about a call that [waits](Routed::Waits) for them; where it goes then.
    ///
    /// # Errors
    /// The rejection to answer with if it goes nowhere.
    pub async fn admitted(
        &mut self,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Routed, Rejection> {
        while let Some(wait) = self.exchange.take_wait() {
            self.place.note(&self.exchange, WaitsFor::Filter);
            let timers = self.worker.timers();
            let decided = timers.within(self.deadline(), wait).await;
            let decided = decided.map_err(|_| Rejection::DeadlineExceeded)?;
            self.worker.read_clock();
            let transport = self.transport.as_deref();
            self.exchange.decided(
                decided,
                &self.worker,
                transport.and_then(Transport::identity),
                &mut |name| attribute(transport, attributes, name),
            );
        }
        self.exchange.routed()
    }

    /// The same of a call whose filters wait until it is known who calls, which `attributes` tell.
    ///
    /// # Errors
    /// The rejection to answer with if it goes nowhere.
    pub async fn judged(
        &mut self,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Routed, Rejection> {
        let transport = self.transport.as_deref();
        let client = transport.and_then(Transport::identity);
        let read = &mut |name: &str| attribute(transport, attributes, name);
        self.exchange.judge(&self.worker, client, read);
        self.admitted(attributes).await
    }

    /// When its caller may try again, where a filter that refused it knows that.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.exchange.refusal()?.retry_after
    }

    /// Whether its caller is not to hear of it, by a fault that was asked for.
    #[must_use]
    pub fn drops_answer(&self) -> bool {
        self.exchange.drops_answer()
    }

    /// What filters change about it, by names of attributes; an empty value takes one away. What its protocol has no room for
    /// stays as it is: whoever has none need not ask.
    #[must_use]
    pub fn edits(&self) -> &[Field] {
        self.exchange.edited()
    }

    /// The shadow that it is copied to, if it is.
    #[must_use]
    pub fn shadow(&self) -> Option<Shadowed> {
        if !self.exchange.has_shadow() {
            return None;
        }
        self.exchange.shadow(&self.worker).map(Shadowed)
    }

    /// The shadow that messages of the session that it began are copied to, if its route has one.
    #[must_use]
    pub fn message_shadow(&self) -> Option<MessageShadow> {
        self.exchange.message_shadow().map(MessageShadow)
    }

    /// What filters do with the messages of the session that it began.
    #[must_use]
    pub fn session_filters(&self) -> Option<SessionFilters> {
        Some(SessionFilters {
            own: self.exchange.session_filters()?,
            transport: self.transport.clone(),
            worker: self.worker.clone(),
        })
    }

    /// Asks for the right to send one attempt to one endpoint; waits while its service is looked
    /// up for the first time.
    ///
    /// # Errors
    /// The rejection to answer with if there is none.
    pub async fn attempt(
        &mut self,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Lease, Rejection> {
        // Whoever forgets to ask has to wait all the same.
        if self.exchange.routed() == Ok(Routed::Waits) {
            Box::pin(self.admitted(attributes)).await?;
        }
        loop {
            self.worker.read_clock();
            let transport = self.transport.as_deref();
            let attempt = self.exchange.attempt(&self.worker, &mut |name| {
                attribute(transport, attributes, name)
            })?;
            let cluster: Arc<Cluster> = match attempt {
                Attempt::Go(lease) => {
                    self.place.note(&self.exchange, WaitsFor::Answer);
                    return Ok(lease);
                }
                Attempt::Wait(cluster) => cluster,
            };
            self.place.note(&self.exchange, WaitsFor::Registry);
            let timers = self.worker.timers();
            // Boxed, because few calls wait for it, and each would be larger by it.
            let ready = timers.within(self.deadline(), cluster.until_ready());
            if Box::pin(ready).await.is_err() {
                return Err(Rejection::DeadlineExceeded);
            }
        }
    }

    /// When the caller gives up, or the route does.
    #[must_use]
    pub fn deadline(&self) -> tokio::time::Instant {
        self.instant(self.exchange.deadline)
    }

    /// When the attempt that starts now is given up.
    #[must_use]
    pub fn attempt_deadline(&self) -> tokio::time::Instant {
        self.instant(self.exchange.attempt_deadline())
    }

    /// The time that its route gives to each attempt.
    #[must_use]
    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.exchange.per_try_timeout()
    }

    /// The moment of the worker's last look at its clock.
    #[must_use]
    pub fn now(&self) -> tokio::time::Instant {
        self.worker.instant()
    }

    fn instant(&self, at: crate::clock::Now) -> tokio::time::Instant {
        self.worker.mesh().clock.instant(at)
    }

    /// What the attempt of this lease has to say beside the request's own words.
    #[must_use]
    pub fn fitting(&self, lease: &Lease) -> Option<Fitting> {
        self.exchange.fitting(lease)
    }

    /// Says how an attempt ended, by the [table](crate::mesh::rule) of verdicts; whether another one
    /// follows.
    pub fn conclude(&mut self, lease: &mut Lease, end: AttemptEnd, resend: Resend) -> bool {
        self.worker.read_clock();
        self.exchange.conclude(lease, end, resend)
    }

    /// Says that the endpoint has begun to answer: it is there, whatever comes of the call. It is
    /// told at once, since the rest of the answer may take long.
    pub fn begun(&self, lease: &mut Lease) {
        self.worker.read_clock();
        lease.leave_answered();
        lease.settle(Verdict::Alive);
    }

    /// Says that the last of the request was sent then: its time counts from there.
    pub fn sent_at(&self, lease: &Lease, at: tokio::time::Instant) {
        lease.sent_at(self.worker.mesh().clock.moment(at));
    }

    /// Says how the endpoint answered, at once, and keeps its place: for sessions, which go on long
    /// after.
    pub fn settle(&self, lease: &mut Lease, outcome: Outcome) {
        self.worker.read_clock();
        lease.settle(rule(AttemptEnd::Answered(outcome), false).verdict);
    }

    /// The ending of an attempt whose time has passed; `stalled` says that it passed while we did
    /// not run, `sent` that the request was sent.
    #[must_use]
    pub fn timed_out(&self, lease: &Lease, stalled: bool, sent: bool) -> AttemptEnd {
        self.worker.read_clock();
        AttemptEnd::TimedOut {
            whose: self
                .exchange
                .whose_deadline(lease, self.worker.stall(stalled)),
            sent,
        }
    }

    /// The ending of an attempt to open a session that was neither granted nor refused in its time;
    /// `stalled` says that the time passed while we did not run.
    #[must_use]
    pub fn unopened(&self, lease: &Lease, stalled: bool) -> AttemptEnd {
        self.worker.read_clock();
        self.exchange.unopened(lease, self.worker.stall(stalled))
    }

    /// Says that the caller has gone while the attempt was waited for.
    pub fn given_up(&mut self, lease: &mut Lease) {
        self.worker.read_clock();
        let end = self.exchange.given_up(lease, self.worker.stall(false));
        self.exchange.conclude(lease, end, Resend::Impossible);
    }

    /// How long its attempt may take before another is to be made beside it; `None` where there is none to be.
    #[must_use]
    pub fn hedging_delay(&self) -> Option<Duration> {
        self.exchange.hedging_delay()
    }

    /// Asks for an attempt beside that of `first`, at another endpoint. One of the two is said to be
    /// [over](Self::over) before the call goes on. `None`: nobody else may take it.
    pub fn hedge(
        &mut self,
        first: &Lease,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Option<Lease> {
        self.worker.read_clock();
        let transport = self.transport.as_deref();
        let mut read = |name: &str| attribute(transport, attributes, name);
        self.exchange.hedge(&self.worker, first, &mut read)
    }

    /// Says how one of two attempts ended; the call stays with the other.
    pub fn over(&mut self, lost: Lease, end: AttemptEnd, stays: &Lease) {
        self.worker.read_clock();
        self.exchange.over(lost, end, stays);
    }

    /// Whether the attempt under way is the last that its route allows.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.exchange.is_last_attempt()
    }

    /// Whether the request must be kept after it was sent, for another attempt.
    #[must_use]
    pub fn may_need_resending(&self) -> bool {
        self.exchange.may_need_resending()
    }

    /// Attempts made so far.
    #[must_use]
    pub fn attempts(&self) -> u16 {
        self.exchange.attempts()
    }

    /// The longest that its route lets it take, if it says so.
    #[must_use]
    pub fn route_timeout(&self) -> Option<Duration> {
        self.route()?.timeout
    }

    /// What its protocol does with it beyond routing; `None` if its route says nothing of that.
    ///
    /// # Errors
    /// [`Rejection::Denied`] if the route's is made for another protocol: the call goes no further.
    pub fn treatment<T: RoutePolicy>(&self) -> Result<Option<Arc<T>>, Rejection> {
        let own = self.route().and_then(|route| route.treatment.as_ref());
        own.map(|own| own.shared().map_err(|ForeignPolicy| Rejection::Denied))
            .transpose()
    }

    /// Which of its route's calls are traced, where that is not as for all.
    #[must_use]
    pub fn tracing(&self) -> Option<Choice> {
        self.route()?.tracing
    }

    /// Its message goes somewhere that is no endpoint of ours: how it carries the context of its trace.
    pub fn send(
        &mut self,
        system: &'static str,
        destination: &str,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Option<Propagated> {
        self.worker.read_clock();
        let now = self.worker.now();
        let traced = self.exchange.traced()?;
        traced.send(now, system, destination, &mut |name| {
            attributes(name).map(Cow::Owned)
        })
    }

    fn route(&self) -> Option<&Arc<Route>> {
        self.exchange.selected_route()
    }

    /// Counts bytes of the request that came later.
    pub fn add_request_bytes(&mut self, bytes: u64) {
        self.exchange.add_request_bytes(bytes);
    }

    /// Says how it ended, with an answer of so many bytes.
    pub fn answered(&mut self, answer: impl Into<Answer>, bytes: u64) {
        self.worker.read_clock();
        self.exchange
            .answered(answer.into(), usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Says that it and its last attempt ended with the endpoint's answer, of so many bytes.
    pub fn end(&mut self, lease: &mut Lease, answer: Answer, bytes: u64) {
        let end = AttemptEnd::Answered(answer.outcome);
        self.conclude(lease, end, Resend::Impossible);
        self.exchange
            .answered(answer, usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Ends it with the mesh's own answer; returns the text for the caller.
    pub fn rejected(&mut self, rejection: Rejection) -> String {
        self.worker.read_clock();
        self.exchange.rejected(rejection);
        self.exchange.explain(rejection)
    }

    /// Says how the mesh's own answer is worded, after [`rejected`](Self::rejected).
    pub fn set_status(&mut self, status: Status) {
        self.exchange.set_status(status);
    }

    /// What happened, for the log: with the endpoint's address, which callers are not told.
    #[must_use]
    pub fn explain_in_full(&self, rejection: Rejection) -> String {
        self.exchange.explain_in_full(rejection)
    }
}

/// The filters of one session: those of its route, as configured now.
pub struct SessionFilters {
    own: mesh::SessionFilters,
    transport: Option<Rc<Transport>>,
    worker: Rc<Worker>,
}

/// The filters of a session between two workers: the route that it takes, for none of them decides about it.
pub struct PartedFilters(Arc<Route>);

impl SessionFilters {
    /// Leaves its worker; `None` where a filter decides about the session: that one stays.
    #[must_use]
    pub fn part(&self) -> Option<PartedFilters> {
        self.is_idle()
            .then(|| PartedFilters(self.own.route().clone()))
    }

    /// Whether they let everything pass.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.own.is_idle()
    }

    /// What becomes of a message.
    pub fn message(
        &self,
        message: &Message<'_>,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> MessageFlow {
        if self.own.is_idle() {
            return MessageFlow::Continue;
        }
        let transport = self.transport.as_deref();
        let client = transport.and_then(Transport::identity);
        let attributes = &mut |name: &str| attribute(transport, attributes, name);
        self.own.message(&self.worker, client, attributes, message)
    }

    /// Takes up what was configured anew; whether something was.
    pub fn renew(&mut self) -> bool {
        self.own.renew(&self.worker)
    }

    /// Whether they would not let the session begin that is there.
    pub fn are_against(&self, attributes: &mut dyn FnMut(&str) -> Option<String>) -> bool {
        let transport = self.transport.as_deref();
        let client = transport.and_then(Transport::identity);
        let attributes = &mut |name: &str| attribute(transport, attributes, name);
        let refused = self.own.refusal(&self.worker, client, attributes);
        if let Some((filter, refusal)) = &refused {
            let rule = &refusal.rule;
            tracing::info!(%filter, %rule, "a session that is not allowed is ended");
        }
        refused.is_some()
    }
}

impl Worker {
    /// Notes that an endpoint took a connection and does not speak on it: counted as a connection
    /// that could not be made, once for the connection.
    pub fn cannot_speak(&self, lease: &Lease, error: &io::Error) {
        self.read_clock();
        lease
            .cluster()
            .cannot_connect(lease.endpoint(), self.now(), error);
    }
}
