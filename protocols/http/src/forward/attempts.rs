//! Attempts of a request: one after the other, and what can be sent again (RFC 9110, section 9.2.2).

use std::future::poll_fn;
use std::time::Duration;

use finback_core::boxed::boxed;
use finback_core::driver::DrivenExchange;
use finback_core::frame::Outcome;
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::rejection::Rejection;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::time::Instant;

use crate::body::{Incoming, Payload};
use crate::dialect::Dialect;
use crate::headers;
use crate::replay::Replay;

use super::Call;
use super::collect::{Collected, Gathered, collect, is_collected};
use super::look::Fault;
use super::ours::own_handler;
use super::sending::{Sending, Sent, Tried, Unmade};

/// What a request is made of once more.
pub(super) struct Replayable {
    pub(super) head: Parts,
    /// `None`: what is kept of it on its way, if it comes to an end.
    pub(super) body: Option<Gathered>,
}

impl Replayable {
    pub(super) fn of(head: &Parts, body: Option<Gathered>) -> Box<Self> {
        let mut head = head.clone();
        // Who sends its body was told to go on.
        head.headers.remove(header::EXPECT);
        Box::new(Self { head, body })
    }
}

impl Call {
    pub(super) async fn attempts(&mut self) -> Response<Payload> {
        if self.waits
            && let Some(own) = Box::pin(self.wait_for_filters()).await
        {
            return own;
        }
        if let Some(handler) = own_handler(self.treatment.as_deref()) {
            return Box::pin(self.hand_over(handler.clone())).await;
        }
        if self.may_be_repeated()
            && let Some(own) = Box::pin(self.keep_body()).await
        {
            return own;
        }
        self.note_shadow();
        let mut unprocessed = 0;
        loop {
            self.before.restore(&mut self.head.headers);
            let exchange = self.exchange.as_mut().expect("a call is ended once");
            let head = &self.head;
            let mut attributes = |name: &str| headers::attribute(head, name);
            let mut lease = match exchange.attempt(&mut attributes).await {
                Ok(lease) => lease,
                Err(rejection) => return self.reject(rejection),
            };
            leave_out_events(&lease, &self.head.headers);
            let http2 = self.wanted.is_none() && self.speaks_http2(&lease);
            let hedging_delay = self.hedging_delay();
            let current = self.prepared(http2, &lease);
            let sent = match hedging_delay {
                None => {
                    let limit = self.exchange().attempt_deadline();
                    Sending::of(self).send(current, &lease, http2, limit).await
                }
                Some(delay) => {
                    let tried;
                    (tried, lease) = Box::pin(self.send_hedged(delay, current, lease, http2)).await;
                    tried
                }
            };
            let unanswered = match sent {
                Ok(Sent::Response(response, returned, timer)) => {
                    self.send_to_shadow();
                    if self.goes_on(&response, &mut lease) {
                        continue;
                    }
                    self.upload.sent().forget();
                    if self.exchange().drops_answer() {
                        return Box::pin(self.withhold(*response, lease)).await;
                    }
                    return self.pass(*response, (returned, timer), lease);
                }
                unanswered => unanswered,
            };
            let (end, rejection, resend) = match self.end_of(unanswered, &mut lease) {
                Ok(end) => end,
                Err(own) => return *own,
            };
            let again = self.exchange().conclude(&mut lease, end, resend);
            drop(lease);
            if !again {
                return self.reject(rejection);
            }
            if end == AttemptEnd::NotProcessed {
                unprocessed += 1;
                Box::pin(self.pause_after(unprocessed)).await;
            }
        }
    }

    /// How long an endpoint is waited for that takes the body; `None` where the caller or the route set a limit for the call.
    pub(super) fn patience(&self) -> Option<Duration> {
        let each = self
            .exchange
            .as_ref()
            .and_then(DrivenExchange::per_try_timeout);
        let usual = || self.client.caller.worker().call_timeout();
        (!self.bounded).then(|| each.unwrap_or_else(usual))
    }

    /// Whether it may be sent more than once, so that its body is worth keeping. A tunnel is not.
    fn may_be_repeated(&mut self) -> bool {
        self.wanted.is_none() && self.exchange().may_need_resending()
    }

    /// Makes the request ready for another attempt if the response says that it failed, and another may follow; whether it may.
    fn goes_on(&mut self, response: &Response<Incoming>, lease: &mut Lease) -> bool {
        let Some(end) = self.failed(response) else {
            return false;
        };
        let again =
            self.may_be_restored() && self.exchange().conclude(lease, end, Resend::Possible);
        if again {
            self.restore();
        }
        again
    }

    /// How an attempt ended that brought no response, what is said if no other follows, and whether the request, which is back,
    /// can be sent again.
    ///
    /// # Errors
    /// Our own response, where no other attempt may follow.
    #[cold]
    fn end_of(
        &mut self,
        tried: Tried,
        lease: &mut Lease,
    ) -> Result<(AttemptEnd, Rejection, Resend), Box<Response<Payload>>> {
        Ok(match tried {
            Ok(Sent::Response(..)) => unreachable!("a response is no failure"),
            Ok(Sent::Unsent(end, same)) => {
                self.take_back(*same);
                // Nothing was sent.
                (end, Rejection::ConnectFailed, Resend::Safe)
            }
            Ok(Sent::Lost(..)) if self.upload.is_broken() => {
                let end = AttemptEnd::RequestBroken;
                self.exchange().conclude(lease, end, Resend::Impossible);
                let why = "the body makes no sense";
                return Err(Box::new(self.reject_for(Rejection::BadRequest, why)));
            }
            Ok(Sent::Lost(end, same)) => {
                // One that was used before may have been closed just now: not another such.
                self.wants_fresh = true;
                (end, Rejection::ConnectionLost, self.recover(*same))
            }
            Ok(Sent::TooLarge) => {
                let end = AttemptEnd::TooLarge;
                self.exchange().conclude(lease, end, Resend::Impossible);
                let why = "the response's head is longer than the limit";
                let fault = Fault::too_large(StatusCode::BAD_GATEWAY, why);
                return Err(Box::new(self.refuse(&fault)));
            }
            Ok(Sent::Late { .. }) if self.waits_for_caller() => {
                let end = AttemptEnd::RequestBroken;
                self.exchange().conclude(lease, end, Resend::Impossible);
                return Err(Box::new(self.reject_slow()));
            }
            Ok(Sent::Late { stalled }) => {
                let end = self.exchange().timed_out(lease, stalled, true);
                let resend = self.restored();
                (end, Rejection::DeadlineExceeded, resend)
            }
            Err((Unmade::Late { stalled }, same)) => {
                self.take_back(*same);
                let end = self.exchange().timed_out(lease, stalled, false);
                (end, Rejection::DeadlineExceeded, Resend::Safe)
            }
            Err((Unmade::Failed(end), same)) => {
                self.take_back(*same);
                (end, Rejection::ConnectFailed, Resend::Safe)
            }
        })
    }

    /// Waits a little after a request was not processed for the third time and more: its endpoint needs a rest.
    pub(super) async fn pause_after(&self, unprocessed: u32) {
        if unprocessed > 2 {
            let period = Duration::from_millis(1 << unprocessed.min(6));
            let mut timer = self.client.timers.set(Instant::now() + period);
            poll_fn(|cx| timer.poll(cx)).await;
        }
    }

    /// The request comes back as it is.
    pub(super) fn take_back(&mut self, same: Request<Payload>) {
        (self.head, self.payload) = same.into_parts();
    }

    /// Makes of a request that was sent what can be sent again, and says whether that can be.
    pub(super) fn recover(&mut self, same: Request<Payload>) -> Resend {
        let (head, rest) = same.into_parts();
        if !self.restore() {
            let Some(payload) = Replay::of(rest, &self.upload) else {
                return Resend::Impossible;
            };
            (self.head, self.payload) = (head, payload);
        }
        match is_idempotent(&self.head.method) {
            true => Resend::Safe,
            false => Resend::Possible,
        }
    }

    /// The same of one of which nothing came back.
    pub(super) fn restored(&mut self) -> Resend {
        match self.restore() {
            true => Resend::Possible,
            false => Resend::Impossible,
        }
    }

    /// Reads a body that is short enough, for another attempt; gives our own response if there is none to send.
    pub(super) async fn keep_body(&mut self) -> Option<Response<Payload>> {
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        let limit = self.exchange().deadline();
        let timers = self.client.timers.clone();
        if is_collected(&payload) {
            // It is asked for here, so it is us who tell the caller to send it.
            self.interim.go_on();
            self.head.headers.remove(header::EXPECT);
        }
        let collected = timers.within(limit, Box::pin(collect(payload))).await;
        match collected.unwrap_or(Collected::Late) {
            Collected::Whole(all) => {
                self.replayable = Some(Replayable::of(&self.head, Some(all.clone())));
                self.payload = Payload::whole(all.bytes, all.trailers);
                self.upload.sent().forget();
                self.upload.finish();
            }
            Collected::TooLong(rest) => {
                if rest.size_hint().upper().is_none() {
                    // How long it is shows on its way.
                    self.replayable = Some(Replayable::of(&self.head, None));
                }
                self.payload = rest;
            }
            Collected::Broken => return Some(self.reject(Rejection::BadRequest)),
            Collected::Late => return Some(self.reject_slow()),
        }
        None
    }

    /// The request as the endpoint of the lease gets it.
    pub(super) fn prepared(&mut self, http2: bool, lease: &Lease) -> Box<Request<Payload>> {
        let mut current = self.aimed(http2, lease);
        let exchange = self.exchange.as_ref().expect("a call is ended once");
        if self.bounded {
            tell_deadline(&*self.dialect, exchange, current.headers_mut());
        }
        fit(&*self.dialect, exchange, lease, current.headers_mut());
        self.before
            .replace(current.headers_mut(), lease.propagated());
        current
    }

    /// The request for an endpoint of the lease's cluster.
    pub(super) fn aimed(&mut self, http2: bool, lease: &Lease) -> Box<Request<Payload>> {
        let mut own = std::mem::replace(&mut self.head, Request::new(()).into_parts().0);
        let tls = lease.cluster().spec.policy.tls.is_some();
        headers::aim(&mut own, http2, tls);
        if let Some(wanted) = &self.wanted {
            wanted.ask(&mut own, self.client.caller.worker().random());
        }
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        boxed(|| Request::from_parts(own, payload))
    }

    /// Its body, if it was read whole and is kept.
    pub(super) fn kept(&self) -> Option<Gathered> {
        let all = self.replayable.as_ref().and_then(|copy| copy.body.clone());
        all.or_else(|| {
            let bytes = self.upload.whole()?;
            let trailers = None;
            Some(Gathered { bytes, trailers })
        })
    }

    pub(super) fn may_be_restored(&self) -> bool {
        self.replayable.is_some() && self.kept().is_some()
    }

    /// Makes the request what it was before it was sent, if all of it is kept.
    pub(super) fn restore(&mut self) -> bool {
        let (Some(copy), Some(all)) = (&self.replayable, self.kept()) else {
            return false;
        };
        self.head = copy.head.clone();
        self.payload = Payload::whole(all.bytes, all.trailers);
        true
    }

    /// How an attempt ended whose response says that the request failed or did not run.
    pub(super) fn failed(&self, response: &Response<Incoming>) -> Option<AttemptEnd> {
        failure(&*self.dialect, response)
    }

    /// Whether it is the caller's turn to say something, without which there is no answer.
    pub(super) fn waits_for_caller(&self) -> bool {
        !self.dialect.converses() && self.upload.is_awaited()
    }
}

/// How an attempt ended whose response says that the request failed or did not run.
pub(super) fn failure(dialect: &dyn Dialect, response: &Response<Incoming>) -> Option<AttemptEnd> {
    let answer = dialect.answer(response.status(), response.headers())?;
    match answer.outcome {
        Outcome::Refused => Some(AttemptEnd::Answered(Outcome::Refused)),
        Outcome::Failed if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
            Some(AttemptEnd::Answered(Outcome::Refused))
        }
        Outcome::Failed => Some(AttemptEnd::Answered(Outcome::Failed)),
        Outcome::Success | Outcome::Exception | Outcome::Invalid | Outcome::TimedOut => None,
    }
}

/// Whether a request of this method may be sent twice (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// A stream of events is left out of adaptive concurrency: it lasts as long as its reader likes.
pub(super) fn leave_out_events(lease: &Lease, headers: &HeaderMap) {
    if lease.is_limited() && headers::is_event_stream(headers.get(header::ACCEPT)) {
        lease.leave_out();
    }
}

/// A caller's own deadline goes on to the endpoint as what is left of it.
pub(super) fn tell_deadline(
    dialect: &dyn Dialect,
    exchange: &DrivenExchange,
    headers: &mut HeaderMap,
) {
    let left = exchange.deadline();
    let left = left.saturating_duration_since(Instant::now());
    dialect.tell_deadline(headers, left);
}

/// Makes of the fields what the endpoint of a lease takes for its own.
pub(super) fn fit(
    dialect: &dyn Dialect,
    exchange: &DrivenExchange,
    lease: &Lease,
    headers: &mut HeaderMap,
) {
    if let Some(fitting) = exchange.fitting(lease) {
        dialect.fit(headers, fitting.fit());
    }
}
