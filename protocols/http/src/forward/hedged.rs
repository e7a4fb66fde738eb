//! Hedging: a request that is not answered soon is sent to another endpoint, too; the first response counts.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use finback_core::driver::DrivenExchange;
use finback_core::mesh::{AttemptEnd, Lease};
use http::Request;
use http::request::Parts;
use tokio::time::Instant;

use crate::body::{Payload, Upload};
use crate::dialect::Dialect;
use crate::headers;
use crate::propagation::Before;
use crate::replay::{Replay, Shared};

use super::attempts::{fit, leave_out_events, tell_deadline};
use super::sending::{Sending, Sent, Tried, Unmade};
use super::{Call, Gathered, failure, speaks_http2};

/// Which of two attempts was over first.
enum Over {
    First(Tried),
    Second(Tried),
}

impl Call {
    /// After what time a second attempt is made beside the next one, where there may be one.
    pub(super) fn hedging_delay(&mut self) -> Option<Duration> {
        let delay = self.exchange().hedging_delay()?;
        self.wanted.is_none().then_some(delay)
    }

    /// Sends a request, and once more to another endpoint if it is not answered within `delay`. Gives what came of the
    /// attempt that the call stays with, and that one's lease.
    pub(super) async fn send_hedged(
        &mut self,
        delay: Duration,
        mut request: Box<Request<Payload>>,
        first: Lease,
        http2: bool,
    ) -> (Tried, Lease) {
        let limit = self.exchange().attempt_deadline();
        let (bounded, prefers_http2) = (self.bounded, self.prefers_http2);
        let sending = Sending::with(
            (&self.client, &self.upload, &self.interim),
            (self.source, self.patience(), self.wants_fresh),
            &*self.dialect,
        );
        let shared = share(&mut request, &self.upload);
        let mut trying = Box::pin(sending.send(request, &first, http2, limit));
        let copy = match self.before_hedge(delay, shared, trying.as_mut()).await {
            Ok(copy) => copy,
            Err(tried) => {
                drop(trying);
                return (tried, first);
            }
        };
        if let (Some(own), Some((_, body))) = (&mut self.replayable, &copy) {
            own.body = Some(body.clone());
        }
        let exchange = self.exchange.as_mut().expect("a call is ended once");
        let about = (&*self.dialect, bounded, prefers_http2);
        let again = copy.and_then(|copy| again(exchange, &first, copy, about));
        let Some((request, second, http2)) = again else {
            let tried = trying.as_mut().await;
            drop(trying);
            return (tried, first);
        };
        let again = sending.send(request, &second, http2, exchange.attempt_deadline());
        let mut other = Box::pin(again);
        let over = poll_fn(|cx| match trying.as_mut().poll(cx) {
            Poll::Ready(tried) => Poll::Ready(Over::First(tried)),
            Poll::Pending => other.as_mut().poll(cx).map(Over::Second),
        });
        match over.await {
            Over::First(tried) => {
                drop(trying);
                let Some(end) = ending(exchange, &*self.dialect, &tried, &first) else {
                    drop(other);
                    exchange.over(second, AttemptEnd::Abandoned, &first);
                    return (tried, first);
                };
                exchange.over(first, end, &second);
                self.upload.finish();
                let tried = other.as_mut().await;
                drop(other);
                (tried, second)
            }
            Over::Second(tried) => {
                drop(other);
                let Some(end) = ending(exchange, &*self.dialect, &tried, &second) else {
                    drop(trying);
                    self.upload.finish();
                    exchange.over(first, AttemptEnd::Abandoned, &second);
                    return (tried, second);
                };
                exchange.over(second, end, &first);
                let tried = trying.as_mut().await;
                drop(trying);
                (tried, first)
            }
        }
    }

    /// Waits until a second attempt is due, and gives what it is made of; `None` if there can be none.
    ///
    /// # Errors
    /// What came of the first one, if anything did before.
    async fn before_hedge(
        &self,
        delay: Duration,
        shared: Option<Shared>,
        mut trying: Pin<&mut impl Future<Output = Tried>>,
    ) -> Result<Option<(Parts, Gathered)>, Tried> {
        let mut due = self.client.timers.set(Instant::now() + delay);
        loop {
            poll_fn(|cx| match trying.as_mut().poll(cx) {
                Poll::Ready(tried) => Poll::Ready(Err(tried)),
                Poll::Pending => due.poll(cx).map(Ok),
            })
            .await?;
            if !due.is_late() {
                break;
            }
            // It was us who did not run: the answer may be there already.
            due.reset(Instant::now() + delay);
        }
        let Some(copy) = &self.replayable else {
            return Ok(None);
        };
        let body = match (&copy.body, shared) {
            (Some(all), _) => Some(all.clone()),
            (None, None) => self.kept(),
            (None, Some(shared)) => {
                let whole = poll_fn(|cx| {
                    let whole = shared.borrow_mut().poll_whole(cx);
                    match whole {
                        Poll::Ready(whole) => Poll::Ready(Ok(whole)),
                        Poll::Pending => trying.as_mut().poll(cx).map(Err),
                    }
                });
                let trailers = None;
                let whole = whole.await?;
                whole.map(|bytes| Gathered { bytes, trailers })
            }
        };
        Ok(body.map(|body| (copy.head.clone(), body)))
    }
}

/// An endpoint that hangs takes no body: it can be read without it, unless its sender waits to be told so.
fn share(request: &mut Request<Payload>, upload: &Rc<Upload>) -> Option<Shared> {
    let waits = headers::expects_continue(request.headers());
    let body = (!waits).then(|| request.body_mut());
    body.and_then(|body| Replay::share(body, upload))
}

/// The request for a second attempt, if there is an endpoint for it, and whether that speaks HTTP/2.
fn again(
    exchange: &mut DrivenExchange,
    first: &Lease,
    (mut head, Gathered { bytes, trailers }): (Parts, Gathered),
    (dialect, bounded, prefers_http2): (&dyn Dialect, bool, bool),
) -> Option<(Box<Request<Payload>>, Lease, bool)> {
    let second = exchange.hedge(first, &mut |name| headers::attribute(&head, name))?;
    leave_out_events(&second, &head.headers);
    let http2 = speaks_http2(&second, prefers_http2);
    headers::aim(&mut head, http2, second.cluster().spec.policy.tls.is_some());
    if bounded {
        tell_deadline(dialect, exchange, &mut head.headers);
    }
    fit(dialect, exchange, &second, &mut head.headers);
    Before::default().replace(&mut head.headers, second.propagated());
    let request = Request::from_parts(head, Payload::whole(bytes, trailers));
    Some((Box::new(request), second, http2))
}

/// How an attempt ended that leaves its call to the other one; `None` if it answers the call, or it is too late for another.
fn ending(
    exchange: &DrivenExchange,
    dialect: &dyn Dialect,
    tried: &Tried,
    lease: &Lease,
) -> Option<AttemptEnd> {
    if exchange.deadline() <= Instant::now() {
        return None;
    }
    match tried {
        Ok(Sent::Response(response, ..)) => failure(dialect, response),
        Ok(Sent::TooLarge) => None,
        Ok(Sent::Unsent(end, _) | Sent::Lost(end, _)) | Err((Unmade::Failed(end), _)) => Some(*end),
        Ok(Sent::Late { stalled }) => Some(exchange.timed_out(lease, *stalled, true)),
        Err((Unmade::Late { stalled }, _)) => Some(exchange.timed_out(lease, *stalled, false)),
    }
}
