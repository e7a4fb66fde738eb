//! An HTTP/2 server: requests as streams of one client connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use finback_core::net::Socket;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;

use super::connection::{ConnectionState, Limits, OUT, Received, Resting, Shared};
use super::driver::{Driver, Ended};
use super::message;
use crate::rules::{self, Follows};

/// A client's connection.
pub(crate) struct Server(Driver);

/// Serves a client's connection.
pub(crate) fn serve(io: Socket, limits: Limits) -> Server {
    Server(Driver::new(io, ConnectionState::new(false, limits)))
}

/// Goes on with a client's connection that another thread had.
pub(crate) fn resume(io: Socket, limits: Limits, resting: Resting) -> Server {
    Server(Driver::new(io, ConnectionState::resume(resting, limits)))
}

/// Serves a connection whose client wants to go on in HTTP/2, from the request that said so; `None`
/// if its settings make no sense.
pub(crate) fn upgrade(
    io: Socket,
    limits: Limits,
    settings: &[u8],
    request: http::request::Parts,
) -> Option<Server> {
    let mut core = ConnectionState::new(false, limits);
    let head = message::RequestHead {
        method: request.method,
        uri: request.uri,
        headers: request.headers,
        protocol: None,
        too_large: false,
        secret_target: false,
    };
    core.upgrade(settings, head).ok()?;
    Some(Server(Driver::new(io, core)))
}

impl Server {
    /// The next request with what answers it; or how it ended.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Request<Received>, Responder), Ended>> {
        loop {
            let accepted = self.0.shared.get_mut().accepted.pop();
            let Some(accepted) = accepted else {
                match ready!(self.0.poll(cx)) {
                    Some(ended) => return Poll::Ready(Err(ended)),
                    None => {
                        // The last is popped first.
                        self.0.shared.get_mut().accepted.reverse();
                        continue;
                    }
                }
            };
            let shared = &self.0.shared;
            let body = Received::new(shared.clone(), accepted.key);
            let responder = Responder {
                connection: shared.clone(),
                key: accepted.key,
                method: accepted.head.method.clone(),
            };
            let mut request = Request::new(body);
            *request.method_mut() = accepted.head.method;
            *request.uri_mut() = accepted.head.uri;
            *request.version_mut() = message::VERSION;
            *request.headers_mut() = accepted.head.headers;
            if let Some(protocol) = accepted.head.protocol {
                request.extensions_mut().insert(protocol);
            }
            if accepted.head.too_large {
                request.extensions_mut().insert(rules::HeadTooLarge);
            }
            if accepted.head.secret_target {
                request.extensions_mut().insert(rules::SecretTarget);
            }
            return Poll::Ready(Ok((request, responder)));
        }
    }

    /// Takes no new requests but those on their way, and ends when they are answered.
    pub(crate) fn leave(&self) {
        self.0.shared.get_mut().leave();
    }

    /// Says whether another thread is to go on with it, once it is [resting](Self::is_resting).
    pub(crate) fn note_moving(&self, moving: bool) {
        self.0.shared.get_mut().note_moving(moving);
    }

    /// Whether nothing is under way, in either direction.
    pub(crate) fn is_resting(&self) -> bool {
        self.0.is_flushed() && self.0.shared.get().is_resting()
    }

    /// Its state, and its socket with the bytes that were read of it and not used, for another thread. It must be
    /// [resting](Self::is_resting).
    pub(crate) fn pack(self) -> (Resting, Socket) {
        let (resting, unread) = self.0.shared.get_mut().pack();
        let mut socket = self.0.into_socket();
        socket.unread(Bytes::from(unread));
        (resting, socket)
    }

    /// Has whoever answers a request look whether it still may wait.
    pub(crate) fn rouse(&self) {
        self.0.shared.get_mut().rouse();
    }

    /// Resets the counters of what a client may do within one second. To be called once a second, and told if we did not
    /// run meanwhile; returns for how many seconds a request's head has been incomplete.
    pub(crate) fn tick(&self, stalled: bool) -> u32 {
        let mut core = self.0.shared.get_mut();
        core.tick(stalled);
        core.block_age()
    }

    /// Closes it so that the client reads what was written last.
    pub(crate) async fn close(self) {
        self.0.close().await;
    }
}

/// Answers one request. Dropping it before it has is an error for the client.
pub(crate) struct Responder {
    connection: Shared,
    key: usize,
    /// What was asked for.
    method: Method,
}

/// The way to a client for what is said before its response.
pub(crate) struct Interim {
    connection: Shared,
    key: usize,
}

impl Interim {
    /// Tells it to send its request's body, if it waits for that.
    pub(crate) fn go_on(&self) {
        self.connection.get_mut().go_on(self.key);
    }

    /// Passes an interim response on; one that has no room is left out.
    pub(crate) fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        let mut core = self.connection.get_mut();
        if core.unwritten() < OUT {
            core.send_interim(self.key, status, headers);
        }
    }
}

impl Responder {
    /// The way to the client for what is said before the response.
    pub(crate) fn interim(&self) -> Interim {
        Interim {
            connection: self.connection.clone(),
            key: self.key,
        }
    }

    /// Whether the client has taken its request back.
    pub(crate) fn is_lost(&self) -> bool {
        let core = self.connection.get();
        let stream = core.streams.get(self.key);
        stream.is_none_or(|stream| stream.lost.is_some())
    }

    /// Answers with what comes of a future, which is dropped if the client takes its request back.
    pub(crate) async fn answer<B>(self, mut answering: Pin<Box<impl Future<Output = Response<B>>>>)
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        let response = poll_fn(|cx| {
            if self.connection.get_mut().poll_lost(self.key, cx).is_ready() {
                return Poll::Ready(None);
            }
            answering.as_mut().poll(cx).map(Some)
        });
        let response = response.await;
        drop(answering);
        if let Some(response) = response {
            self.send(response).await;
        }
    }

    async fn send<B>(&self, response: Response<B>)
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        let (head, mut body) = response.into_parts();
        let framing = rules::response(&self.method, head.status, &head.headers, &body);
        let Ok(framing) = framing else {
            // Dropping this resets the stream.
            return;
        };
        let ended = body.is_end_stream();
        let ends = ended || framing.follows == Follows::Never;
        let told = match framing.follows {
            Follows::Exactly(length) if !ended => Some(length),
            _ => framing.told,
        };
        let status = head.status;
        let pseudo = [(":status", status.as_str().as_bytes())];
        self.connection
            .get_mut()
            .send_head(self.key, &pseudo, false, &head.headers, told, ends);
        if !ends {
            let mut pump = Pump::default();
            // An error leaves the stream unfinished: dropping this resets it.
            let _ = poll_fn(|cx| pump.poll(&self.connection, self.key, &mut body, cx)).await;
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.connection.get_mut().release(self.key, false);
    }
}

/// Sends a body.
#[derive(Default)]
pub(super) struct Pump {
    data: Bytes,
    last: bool,
}

impl Pump {
    /// Sends what there is and has room; ready when all is sent, or cannot be.
    pub(super) fn poll<B>(
        &mut self,
        connection: &Shared,
        key: usize,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), io::Error>>
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        loop {
            if !self.data.is_empty() || self.last {
                let mut core = connection.get_mut();
                ready!(core.send_data(key, &mut self.data, self.last, cx))?;
                if self.last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.data = data;
                        self.last = body.is_end_stream();
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let mut core = connection.get_mut();
                        core.send_trailers(key, &trailers, cx);
                        return Poll::Ready(Ok(()));
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => self.last = true,
                Poll::Pending => {
                    if connection.get_mut().poll_lost(key, cx).is_ready() {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
