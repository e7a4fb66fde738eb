//! A client connection: what its requests have in common, and what is watched of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use finback_core::clock::Now;
use finback_core::driver::Caller;
use finback_core::net::Timers;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use slab::Slab;
use tokio::sync::Notify;

use crate::Http;
use crate::body::{Incoming, Payload};
use crate::forward::forward;
use crate::forwarded::Hop;
use crate::http2;
use crate::interim::Interim;
use crate::share::{Share, Total};

/// A response of which a client takes nothing for this long is given up; or for a second, while bodies that
/// wait take more memory than they may, and it leaves as many unread as the mean client or more.
const UNREAD: Duration = Duration::from_secs(60);
/// A client that takes back so many requests within a second, and more than half of them, only
/// wants to make work (CVE-2023-44487).
const TAKEN_BACK: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// Responses of which nothing was taken for a second.
    static UNREAD_ANSWERS: Total = const { Total::new() };
}

/// A client connection.
pub(crate) struct Client {
    pub(crate) http: Arc<Http>,
    pub(crate) caller: Rc<Caller>,
    /// The hop before us, whose requests they are or that passes them on.
    pub(crate) hop: Hop,
    pub(crate) timers: Rc<Timers>,
    in_flight: Cell<usize>,
    requests: Cell<u64>,
    /// Since when, requests begun and taken back.
    window: Cell<(Option<Now>, u32, u32)>,
    hostile: Notify,
    /// Responses on their way.
    answers: RefCell<Slab<Rc<Answer>>>,
    /// How many of them it does not read.
    unread: Share,
}

impl Client {
    pub(crate) fn new(http: &Arc<Http>, caller: &Rc<Caller>, secure: bool) -> Rc<Self> {
        caller.rest(http.config.idle);
        Rc::new(Self {
            http: http.clone(),
            caller: caller.clone(),
            hop: Hop::new(caller.peer(), caller.local(), secure, caller.proxies()),
            timers: caller.worker().timers().clone(),
            in_flight: Cell::default(),
            requests: Cell::default(),
            window: Cell::default(),
            hostile: Notify::new(),
            answers: RefCell::default(),
            unread: Share::of(&UNREAD_ANSWERS),
        })
    }

    /// The same client, for a copy of its request, which goes on when it is gone.
    pub(crate) fn apart(&self) -> Rc<Self> {
        let secure = self.hop.is_tls();
        Self::new(&self.http, &self.caller.apart(), secure)
    }

    /// Answers a request, which is in flight from now on.
    pub(crate) fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        interim: Interim,
    ) -> impl Future<Output = Response<Guarded>> {
        let working = Working::new(&self);
        forward(&self, request, interim)
            .map(|response| response.map(|body| Guarded::new(body, working)))
    }

    /// A request was taken back before it was looked at.
    pub(crate) fn took_back(&self) {
        self.counts(1, 1);
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Counts requests that another worker had of it.
    pub(crate) fn count_requests(&self, before: u64) {
        self.requests.set(self.requests.get() + before);
    }

    /// Requests since it connected.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Waits until it has shown that it only wants to make work.
    pub(crate) async fn turned_hostile(&self) {
        self.hostile.notified().await;
    }

    /// Gives up responses that nobody reads. To be called about once a second; `stalled` says that
    /// we did not run since, so that nobody could read.
    pub(crate) fn look_after(&self, stalled: bool) {
        let worker = self.caller.worker();
        worker.read_clock();
        let now = worker.now();
        let answers = self.answers.borrow();
        let answers = || answers.iter().map(|(_, answer)| answer);
        if stalled {
            answers().for_each(|answer| answer.taken.set(now));
        }
        let waits_for =
            |answer: &Answer, period| answer.waits.get() && now >= answer.taken.get().after(period);
        let unread = answers().filter(|answer| waits_for(answer, SECOND));
        self.unread.set(unread.count());
        let patience = if http2::holds_too_much() && self.unread.is_large() {
            SECOND
        } else {
            UNREAD
        };
        for answer in answers().filter(|answer| waits_for(answer, patience)) {
            // Frees the endpoint's connection, too.
            drop(answer.body.take());
        }
    }

    fn counts(&self, begun: u32, taken_back: u32) {
        let now = self.caller.worker().now();
        let (since, all, back) = self.window.get();
        let window = match since {
            Some(since) if now < since.after(SECOND) => {
                (Some(since), all + begun, back + taken_back)
            }
            _ => (Some(now), begun, taken_back),
        };
        self.window.set(window);
        if window.2 >= TAKEN_BACK && window.2 * 2 > window.1 {
            self.hostile.notify_one();
        }
    }
}

/// A request in flight.
struct Working {
    client: Rc<Client>,
    /// It was answered to its end.
    done: bool,
}

impl Working {
    fn new(client: &Rc<Client>) -> Self {
        client.in_flight.set(client.in_flight.get() + 1);
        client.caller.work();
        client.requests.set(client.requests.get() + 1);
        client.counts(1, 0);
        Self {
            client: client.clone(),
            done: false,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let client = &self.client;
        client.in_flight.set(client.in_flight.get() - 1);
        if client.in_flight() == 0 {
            client.caller.rest(client.http.config.idle);
        }
        if !self.done {
            client.counts(0, 1);
        }
    }
}

/// A response's body, watched.
pub(crate) struct Guarded {
    answer: Rc<Answer>,
    place: usize,
    working: Working,
}

/// What is watched of a response.
struct Answer {
    /// `None` if it was given up.
    body: RefCell<Option<Payload>>,
    /// When the client last took something.
    taken: Cell<Now>,
    /// Whether the client is waited for, not the endpoint.
    waits: Cell<bool>,
}

impl Guarded {
    fn new(body: Payload, working: Working) -> Self {
        let client = &working.client;
        let answer = Rc::new(Answer {
            body: RefCell::new(Some(body)),
            taken: Cell::new(client.caller.worker().now()),
            waits: Cell::new(true),
        });
        let place = client.answers.borrow_mut().insert(answer.clone());
        Self {
            answer,
            place,
            working,
        }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = {
            let mut body = self.answer.body.borrow_mut();
            let Some(body) = body.as_mut() else {
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            };
            Pin::new(body).poll_frame(cx)
        };
        // Whoever has a piece asks for the next when it was sent.
        self.answer.waits.set(polled.is_ready());
        if polled.is_ready() {
            let now = self.working.client.caller.worker().now();
            self.answer.taken.set(now);
        }
        if let Poll::Ready(None) = polled {
            self.working.done = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let body = self.answer.body.borrow();
        body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.answer.body.borrow();
        body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.working.done = true;
        }
        self.working.client.answers.borrow_mut().remove(self.place);
    }
}
