//! The side that asks.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use finback_core::net::Socket;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::connection::{Core, Limits, Lost, Received, Shared, Ticket};
use super::driver::{self, Driver};
use super::message;
use super::server::Pump;

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
        refused: bool,
    },
}

/// Begins a connection. It moves while the future is polled that comes with it.
pub(crate) fn handshake(
    io: Socket,
    limits: Limits,
    heartbeat: Option<(Duration, Duration)>,
) -> (Sender, impl Future<Output = ()>) {
    let driver = Driver::new(io, Core::new(true, limits));
    let shared = driver.shared.clone();
    let sender = Sender(Rc::new(Handle(shared.clone())));
    let beats = async move {
        match heartbeat {
            Some((interval, patience)) => beat(&shared, interval, patience).await,
            None => std::future::pending().await,
        }
    };
    let run = async move {
        tokio::select! {
            () = driver::run(driver) => {}
            () = beats => {}
        }
    };
    (sender, run)
}

/// Asks a silent peer whether it is still there, while it owes us something; returns when it is not.
async fn beat(shared: &Shared, interval: Duration, patience: Duration) {
    let mut heard = Instant::now();
    let mut asked = false;
    loop {
        tokio::time::sleep(if asked { patience } else { interval }).await;
        let mut core = shared.get_mut();
        if std::mem::take(&mut core.heard) {
            (heard, asked) = (Instant::now(), false);
        } else if core.open() == 0 {
            asked = false;
        } else if asked && heard.elapsed() >= patience {
            return;
        } else {
            core.ask();
            asked = true;
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
            ticket: Ticket::default(),
            waits: false,
        };
        poll_fn(|cx| waiting.poll(cx)).await
    }

    /// Whether no more requests can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared().get().has_room().is_none()
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
        request: Box<Request<B>>,
    ) -> Result<Response<Received>, Failure<B>>
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin + 'static,
    {
        if self.shared().get().has_room() != Some(true) && !self.room().await {
            return Err(Failure::Unsent(request));
        }
        let (received, mut upload) = self.begin(*request);
        let heard = poll_fn(|cx| {
            if let Some(own) = &mut upload
                && own.poll(cx).is_ready()
            {
                upload = None;
            }
            self.shared().get_mut().poll_head(received.key(), cx)
        });
        let head = heard.await;
        match head {
            Ok((status, headers)) => {
                if let Some(mut rest) = upload {
                    // It goes on however fast the response is read.
                    tokio::task::spawn_local(async move { poll_fn(|cx| rest.poll(cx)).await });
                }
                let mut response = Response::new(received);
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                *response.version_mut() = message::VERSION;
                Ok(response)
            }
            Err(lost) => Err(Failure::Lost {
                refused: lost.is_refused(),
            }),
        }
    }

    /// Opens a stream for a request, and writes its head.
    fn begin<B>(&self, request: Request<B>) -> (Received, Option<Upload<B>>)
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        let (head, body) = request.into_parts();
        let ends = body.is_end_stream();
        let uri = &head.uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut pseudo = [
            (":method", head.method.as_str().as_bytes()),
            (":scheme", uri.scheme_str().unwrap_or("http").as_bytes()),
            (":path", path.as_bytes()),
            (":authority", &b""[..]),
        ];
        let mut told = 3;
        if let Some(authority) = uri.authority() {
            pseudo[3].1 = authority.as_str().as_bytes();
            told = 4;
        }
        let key = {
            let mut core = self.shared().get_mut();
            let key = core.begin(head.method == Method::HEAD);
            core.send_headers(key, &pseudo[..told], &head.headers, ends);
            key
        };
        let upload = Upload {
            connection: self.shared().clone(),
            key,
            body,
            pump: Pump::default(),
        };
        let received = Received::new(self.shared().clone(), key);
        // Where there is no body, nobody holds that side any longer.
        (received, (!ends).then_some(upload))
    }
}

/// Waits to open a stream.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    waits: bool,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut core = self.shared.get_mut();
        match core.has_room() {
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
            self.shared.get_mut().invite();
        }
    }
}

/// A request's body on its way.
struct Upload<B> {
    connection: Shared,
    key: usize,
    body: B,
    pump: Pump,
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Upload<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            connection,
            key,
            body,
            pump,
        } = self;
        // Whoever waits for the response hears what went wrong.
        pump.poll(connection, *key, body, cx).map(|_| ())
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        self.connection.get_mut().release(self.key, false);
    }
}

impl Core {
    /// The head of a stream's response.
    fn poll_head(
        &mut self,
        key: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<(http::StatusCode, http::HeaderMap), Lost>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Err(Lost::Connection { refused: false }));
        };
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
