//! One attempt of a request: a connection, the request, and its response's head.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use finback_core::mesh::{AttemptEnd, Lease};
use finback_core::net::{Expired, Timer};
use futures_util::FutureExt;
use http::{Request, Response};
use tokio::time::Instant;

use crate::body::{Incoming, Payload, Upload};
use crate::client::Client;
use crate::dialect::Dialect;
use crate::interim::Interim;
use crate::pool::{self, Channel, PoolGuard, Whose};
use crate::{http1, http2};

use super::Call;

/// Connections of one endpoint that a request waits for a place on, one after the other, while they take no
/// more: nothing of it is sent meanwhile.
const UNSENT: usize = 20;

/// A request that is still being sent after so long is a stream, or is its caller's to hurry: it is left out of adaptive
/// concurrency.
const UPLOAD: Duration = Duration::from_secs(1);

/// What came of sending a request.
pub(super) enum Sent {
    /// With the timer that waited for it.
    Response(Box<Response<Incoming>>, PoolGuard, Timer),
    /// Nothing of it was sent; here it is again.
    Unsent(AttemptEnd, Box<Request<Payload>>),
    /// It may have run; or the peer said that it has not. With the request, and what is left of its
    /// body.
    Lost(AttemptEnd, Box<Request<Payload>>),
    /// Its head is longer than the limit.
    TooLarge,
    /// No response in time; `stalled` says that it was us who did not run.
    Late { stalled: bool },
}

/// Why there is no connection to send a request on.
pub(super) enum Unmade {
    /// It could not be made.
    Failed(AttemptEnd),
    /// It was not made in time; `stalled` says that it was us who did not run.
    Late { stalled: bool },
}

/// What came of an attempt.
pub(super) type Tried = Result<Sent, (Unmade, Box<Request<Payload>>)>;

/// What sending an attempt needs of its call.
pub(super) struct Sending<'a> {
    client: &'a Rc<Client>,
    upload: &'a Rc<Upload>,
    interim: &'a Interim,
    source: IpAddr,
    /// How long an endpoint is waited for that has had more of the body meanwhile; `None` where somebody set a limit.
    patience: Option<Duration>,
    /// As its call does.
    wants_fresh: bool,
    /// Both sides may say something at any time.
    converses: bool,
}

impl<'a> Sending<'a> {
    /// Of a call.
    pub(super) fn of(call: &'a Call) -> Self {
        Self::with(
            (&call.client, &call.upload, &call.interim),
            (call.source, call.patience(), call.wants_fresh),
            &*call.dialect,
        )
    }

    /// Of parts of a call, whose other parts are changed meanwhile.
    pub(super) fn with(
        (client, upload, interim): (&'a Rc<Client>, &'a Rc<Upload>, &'a Interim),
        (source, patience, wants_fresh): (IpAddr, Option<Duration>, bool),
        dialect: &dyn Dialect,
    ) -> Self {
        Self {
            client,
            upload,
            interim,
            source,
            patience,
            wants_fresh,
            converses: dialect.converses(),
        }
    }

    /// Sends a request to the endpoint of a lease, and waits for its response's head until `limit`.
    pub(super) async fn send(
        &self,
        mut request: Box<Request<Payload>>,
        lease: &Lease,
        http2: bool,
        limit: Instant,
    ) -> Result<Sent, (Unmade, Box<Request<Payload>>)> {
        let mut tries = 0;
        let voice = self.interim.voice();
        loop {
            let worker = self.client.caller.worker();
            let whose = Whose::of(&self.client.caller, self.source, lease);
            let used = if self.wants_fresh {
                None
            } else {
                pool::ready(worker, lease, http2, &whose)
            };
            let channel = match used {
                Some(channel) => channel,
                None => {
                    let making = Box::pin(self.connect(lease, http2, &whose, limit));
                    match making.await {
                        Ok(channel) => channel,
                        Err(unmade) => return Err((unmade, request)),
                    }
                }
            };
            let mut timer = self.client.timers.set(limit);
            let most = self.client.http.config.response_head;
            let mut hear = |status, headers| voice.pass(status, headers);
            let (heard, returned, reused) = match channel {
                Channel::Single(connection, returned, reused) => {
                    let line = &connection.line;
                    // Said in one piece: what is pinned later is held twice.
                    let sending =
                        pin!(http1::send(worker, line, request, most, &mut hear).map(heard_single));
                    let heard = self.await_head(sending, &mut timer, lease).await;
                    (heard, returned, reused)
                }
                Channel::Shared(sender, returned) => {
                    if !sender.has_room()
                        && let Err(unmade) = Box::pin(self.await_room(&sender, limit)).await
                    {
                        return Err((unmade, request));
                    }
                    let sending = pin!(
                        sender
                            .send(worker, request, most, &mut hear)
                            .map(heard_shared)
                    );
                    let heard = self.await_head(sending, &mut timer, lease).await;
                    (heard, returned, false)
                }
            };
            return Ok(match heard {
                Heard::Response(response) => Sent::Response(response, returned, timer),
                // The peer had closed it: another one, or a new one.
                Heard::Unsent(same) if reused || http2 && tries < UNSENT => {
                    request = same;
                    tries += 1;
                    continue;
                }
                Heard::Unsent(same) if http2 => Sent::Unsent(AttemptEnd::Unsent, same),
                Heard::Unsent(same) => Sent::Unsent(AttemptEnd::Lost { reused: false }, same),
                Heard::Lost(true, same) => Sent::Lost(AttemptEnd::NotProcessed, same),
                Heard::Lost(false, same) => Sent::Lost(AttemptEnd::Lost { reused }, same),
                Heard::Unreadable(same) => Sent::Lost(AttemptEnd::Unreadable, same),
                Heard::TooLarge => Sent::TooLarge,
                Heard::Late => Sent::Late {
                    stalled: timer.is_late(),
                },
            });
        }
    }

    /// Makes a connection, or waits for one that is being made.
    #[cold]
    async fn connect(
        &self,
        lease: &Lease,
        http2: bool,
        whose: &Whose<'_>,
        limit: Instant,
    ) -> Result<Channel, Unmade> {
        let worker = self.client.caller.worker();
        let making = Box::pin(pool::channel(worker, lease, http2, self.wants_fresh, whose));
        match self.client.timers.within(limit, making).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(end)) => Err(Unmade::Failed(end)),
            Err(Expired { stalled }) => Err(Unmade::Late { stalled }),
        }
    }

    /// Waits until another request may be sent on a connection.
    #[cold]
    async fn await_room(&self, sender: &http2::Sender, limit: Instant) -> Result<(), Unmade> {
        let room = self.client.timers.within(limit, sender.ready());
        match room.await {
            // Sending finds out what is wrong with it.
            Ok(_) => Ok(()),
            Err(Expired { stalled }) => Err(Unmade::Late { stalled }),
        }
    }

    /// Waits for a response's head. Where nobody set a limit, a body that moves is waited for.
    async fn await_head(
        &self,
        mut sending: Pin<&mut impl Future<Output = Heard>>,
        timer: &mut Timer,
        lease: &Lease,
    ) -> Heard {
        let timers = &self.client.timers;
        let mut uploads = lease
            .is_limited()
            .then(|| timers.set(Instant::now() + UPLOAD));
        let mut seen = (self.client.caller.worker().instant(), self.upload.bytes());
        let heard = poll_fn(|cx| {
            if let Poll::Ready(heard) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(heard));
            }
            if let Some(own) = &mut uploads
                && own.poll(cx).is_ready()
            {
                if !self.upload.is_done() {
                    lease.leave_out();
                }
                uploads = None;
            }
            while timer.poll(cx).is_ready() {
                let Some(patience) = self.patience else {
                    return Poll::Ready(None);
                };
                let limit = timer.at();
                let later = self.upload.moved().map_or(limit, |moved| moved + patience);
                if later <= limit || self.comes_too_slowly(&mut seen) {
                    return Poll::Ready(None);
                }
                timer.reset(later);
            }
            Poll::Pending
        });
        heard.await.unwrap_or(Heard::Late)
    }

    /// Whether the caller has sent less of the body, since it was last looked at, than it has to.
    fn comes_too_slowly(&self, seen: &mut (Instant, u64)) -> bool {
        let (now, bytes) = (Instant::now(), self.upload.bytes());
        let (since, before) = std::mem::replace(seen, (now, bytes));
        // Not by whole seconds: a look that comes a little early would ask for nothing, and so would each after it.
        let millis = now.duration_since(since).as_millis();
        let least = u128::from(self.client.http.config.body_rate) * millis / 1000;
        !self.converses && self.upload.is_awaited() && u128::from(bytes - before) < least
    }
}

fn heard_single(sent: Result<Response<http1::Received>, http1::Failure<Payload>>) -> Heard {
    match sent {
        Ok(response) => Heard::Response(Box::new(response.map(Incoming::Http1))),
        Err(http1::Failure::Unsent(same)) => Heard::Unsent(same),
        Err(http1::Failure::Lost(same)) => Heard::Lost(false, same),
        Err(http1::Failure::Unreadable(same)) => Heard::Unreadable(same),
        Err(http1::Failure::TooLarge) => Heard::TooLarge,
    }
}

fn heard_shared(sent: Result<Response<http2::Received>, http2::Failure<Payload>>) -> Heard {
    match sent {
        Ok(response) => Heard::Response(Box::new(response.map(Incoming::Http2))),
        Err(http2::Failure::Unsent(same)) => Heard::Unsent(same),
        Err(http2::Failure::Lost { unprocessed, again }) => Heard::Lost(unprocessed, again),
        Err(http2::Failure::Unreadable(same)) => Heard::Unreadable(same),
        Err(http2::Failure::TooLarge) => Heard::TooLarge,
    }
}

enum Heard {
    Response(Box<Response<Incoming>>),
    Unsent(Box<Request<Payload>>),
    /// Whether the peer said that it did not look at it; and the request.
    Lost(bool, Box<Request<Payload>>),
    Unreadable(Box<Request<Payload>>),
    TooLarge,
    Late,
}
