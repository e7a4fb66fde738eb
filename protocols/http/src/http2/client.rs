//! An HTTP/2 client: requests as streams of one connection to an endpoint.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::Worker;
use finback_core::net::{Socket, Timers};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::Reason;
use super::connection::{ConnectionState, Limits, Lost, Received, Shared, StreamWaiter};
use super::driver::{self, Driver};
use super::message;
use super::server::Pump;
use crate::http1::Hear;
use crate::rules;

/// Sends requests over a connection, which ends when there is no sender any more.
#[derive(Clone)]
pub(crate) struct Sender(Rc<Handle>);

struct Handle(Shared);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.get_mut().abandon();
    }
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) enum Failure<B> {
    /// Nothing of it was sent; here it is again.
    Unsent(Box<Request<B>>),
    /// It may have run; or the peer said that it has not.
    Lost {
        /// The peer has not looked at it.
        unprocessed: bool,
        /// Here it is again, with what is left of its body.
        again: Box<Request<B>>,
    },
    /// What came is no response; likewise.
    Unreadable(Box<Request<B>>),
    /// The response's head is longer than the limit.
    TooLarge,
}

/// Begins a connection. It moves while the future is polled that comes with it.
pub(crate) fn handshake(
    io: Socket,
    limits: Limits,
    heartbeat: Heartbeat,
) -> (Sender, impl Future<Output = ()>) {
    let driver = Driver::new(io, ConnectionState::new(true, limits));
    let shared = driver.shared.clone();
    let sender = Sender(Rc::new(Handle(shared.clone())));
    let run = async move {
        tokio::select! {
            () = driver::run(driver) => {}
            () = heartbeat.beat(&shared) => {}
        }
    };
    (sender, run)
}

/// How a silent peer is asked whether it is still there.
pub(crate) struct Heartbeat {
    pub(crate) timers: Rc<Timers>,
    /// Silence after which it is asked, and asked again.
    pub(crate) interval: Duration,
    /// At the end of so many silent intervals it is gone, provided that it was asked and did not
    /// answer.
    pub(crate) misses: u32,
}

impl Heartbeat {
    /// Asks the peer while it is silent and owes us something; returns when it is gone.
    async fn beat(self, shared: &Shared) {
        let mut timer = self.timers.set(Instant::now() + self.interval);
        let mut missed = 0;
        loop {
            poll_fn(|cx| timer.poll(cx)).await;
            // Where we did not run, an answer may still be on its way through us.
            let stalled = timer.is_late();
            timer.reset(Instant::now() + self.interval);
            let mut core = shared.get_mut();
            if std::mem::take(&mut core.received) || core.open() == 0 {
                core.asked = false;
                missed = 0;
                continue;
            }
            if core.asked && !stalled {
                missed += 1;
                if missed >= self.misses.saturating_sub(1).max(1) {
                    return;
                }
            }
            core.ask();
        }
    }
}

impl Sender {
    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Waits until the peer has said what it takes.
    ///
    /// # Errors
    /// If the connection ended before.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        match self.room().await {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Waits for room for another stream; false if there will be none.
    async fn room(&self) -> bool {
        let mut waiting = Waiting {
            shared: self.shared(),
            ticket: StreamWaiter::default(),
            waits: false,
        };
        poll_fn(|cx| waiting.poll(cx)).await
    }

    /// Whether a request can be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.shared().get().room_for_stream() == Some(true)
    }

    /// Whether no more requests can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared().get().room_for_stream().is_none()
    }

    /// Whether what is sent now waits for what others send.
    pub(crate) fn is_clogged(&self) -> bool {
        self.shared().get().is_clogged()
    }

    /// Whether the peer does not read what others send.
    pub(crate) fn is_starved(&self) -> bool {
        self.shared().get().is_starved()
    }

    /// Requests that the peer takes at once.
    pub(crate) fn most_streams(&self) -> usize {
        self.shared().get().most_streams()
    }

    /// Sends a request and waits for its response's head.
    ///
    /// # Errors
    /// If there was none; dropping what is waited for takes the request back.
    pub(crate) async fn send<B>(
        &self,
        worker: &Worker,
        request: Box<Request<B>>,
        limit: usize,
        hear: Hear<'_>,
    ) -> Result<Response<Received>, Failure<B>>
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin + 'static,
    {
        if !self.has_room() && !self.room().await {
            return Err(Failure::Unsent(request));
        }
        let (head, body) = (*request).into_parts();
        let (received, mut upload) = match self.begin(&head, body, limit) {
            Ok(begun) => begun,
            Err(body) => return Err(Failure::Unsent(Box::new(Request::from_parts(head, body)))),
        };
        let mut sent = false;
        let heard = poll_fn(|cx| {
            if !sent {
                sent = upload.poll(cx).is_ready();
            }
            self.shared().get_mut().poll_head(received.key(), hear, cx)
        });
        match heard.await {
            Ok((status, headers)) => {
                if !sent {
                    // It goes on however fast the response is read.
                    worker.spawn("a request's body", async move {
                        poll_fn(|cx| upload.poll(cx)).await;
                    });
                }
                let mut response = Response::new(received);
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                *response.version_mut() = message::VERSION;
                Ok(response)
            }
            Err(lost) => {
                let again = Box::new(Request::from_parts(head, upload.take_body()));
                Err(match lost {
                    Lost::TooLarge => Failure::TooLarge,
                    Lost::Unreadable(_) => Failure::Unreadable(again),
                    _ => Failure::Lost {
                        unprocessed: lost.is_unprocessed(),
                        again,
                    },
                })
            }
        }
    }

    /// Opens a stream for a request, and writes its head; gives the body back if the head tells another
    /// length.
    fn begin<B>(&self, head: &Parts, body: B, limit: usize) -> Result<(Received, Upload<B>), B>
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        let Ok(framing) = rules::request(&head.headers, &body) else {
            return Err(body);
        };
        let ends = body.is_end_stream();
        let (pseudo, told) = pseudo(head);
        let key = {
            let mut core = self.shared().get_mut();
            let key = core.begin(head.method == Method::HEAD, limit);
            let secret = head.extensions.get::<rules::SecretTarget>().is_some();
            let pseudo = &pseudo[..told];
            core.send_head(key, pseudo, secret, &head.headers, framing.told, ends);
            if ends {
                // Nobody holds that side any longer.
                core.release(key, false);
            }
            key
        };
        let upload = Upload {
            connection: self.shared().clone(),
            key,
            body: Some(body),
            pump: Pump::default(),
            sent: ends,
        };
        Ok((Received::new(self.shared().clone(), key), upload))
    }
}

/// What HTTP/2 says of a request before its headers, and how much of it (RFC 9113, section 8.3.1).
pub(super) fn pseudo(head: &Parts) -> ([(&str, &[u8]); 4], usize) {
    let uri = &head.uri;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |own| own.as_str());
    let pseudo = [
        (":method", head.method.as_str().as_bytes()),
        (":scheme", uri.scheme_str().unwrap_or("http").as_bytes()),
        (":path", path.as_bytes()),
        (":authority", authority.as_bytes()),
    ];
    (pseudo, if uri.authority().is_some() { 4 } else { 3 })
}

/// Waits to open a stream.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: StreamWaiter,
    waits: bool,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut core = self.shared.get_mut();
        match core.room_for_stream() {
            Some(true) => {
                self.waits = false;
                Poll::Ready(true)
            }
            None => Poll::Ready(false),
            Some(false) => {
                core.wait(&self.ticket, cx);
                self.waits = true;
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let called = self.ticket.borrow_mut().take().is_none();
        if self.waits && called {
            // It was called and is not there: the next.
            self.shared.get_mut().wake_next_waiting();
        }
    }
}

/// A request's body on its way.
struct Upload<B> {
    connection: Shared,
    key: usize,
    /// Taken where the request did not run.
    body: Option<B>,
    pump: Pump,
    /// There is none, or it was sent, or cannot be.
    sent: bool,
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Upload<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(body) = self.body.as_mut().filter(|_| !self.sent) else {
            return Poll::Ready(());
        };
        // Whoever waits for the response hears what went wrong.
        let _ = ready!(self.pump.poll(&self.connection, self.key, body, cx));
        self.release();
        Poll::Ready(())
    }

    fn take_body(mut self) -> B {
        self.body.take().expect("a body is taken once")
    }
}

impl<B> Upload<B> {
    fn release(&mut self) {
        if !std::mem::replace(&mut self.sent, true) {
            self.connection.get_mut().release(self.key, false);
        }
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        self.release();
    }
}

impl ConnectionState {
    /// The head of a stream's response.
    fn poll_head(
        &mut self,
        key: usize,
        hear: Hear<'_>,
        cx: &Context<'_>,
    ) -> Poll<Result<(http::StatusCode, http::HeaderMap), Lost>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Err(Lost::Connection { unprocessed: false }));
        };
        for (status, headers) in stream.interim.drain(..) {
            // It goes to another connection than this one.
            if !hear(status, headers) {
                return Poll::Ready(Err(Lost::Reset(Reason::ENHANCE_YOUR_CALM)));
            }
        }
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(lost) = stream.lost {
            return Poll::Ready(Err(lost));
        }
        super::connection::set(&mut stream.reader, cx);
        Poll::Pending
    }
}
