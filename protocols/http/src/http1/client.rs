//! An HTTP/1.1 client: one request at a time on a connection to an endpoint.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use finback_core::driver::Worker;
use finback_core::net::Socket;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;

use super::body::Encode;
use super::head::{self, Fault};
use super::line::{Received, Shared};
use crate::rules::{self, Contradiction, Follows};

/// A connection to an endpoint, which carries one request at a time.
#[derive(Clone)]
pub(crate) struct Connection(Shared);

/// A request that got no response.
pub(crate) enum Failure<B> {
    /// Nothing of it was sent; here it is again.
    Unsent(Box<Request<B>>),
    /// It may have run. Here it is again, with what is left of its body.
    Lost(Box<Request<B>>),
    /// What came is no response; likewise.
    Unreadable(Box<Request<B>>),
    /// The response's head is longer than the limit.
    TooLarge,
}

/// Why there is no response's head.
enum Unheard {
    Lost,
    Unreadable,
    TooLarge,
}

impl From<Fault> for Unheard {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::TooLarge,
            Fault::Malformed | Fault::Version => Self::Unreadable,
        }
    }
}

impl Connection {
    pub(crate) fn new(io: Socket) -> Self {
        Self(Shared::new(io))
    }

    /// Whether another request can be sent: nothing came unasked, and nobody closed it.
    pub(crate) fn look_whether_ready(&self) -> bool {
        let mut line = self.0.get();
        let mut cx = Context::from_waker(Waker::noop());
        line.is_clean() && line.poll_fill(&mut cx).is_pending()
    }

    /// Nothing more is sent of its last request, whoever still does.
    pub(crate) fn give_up(&self) {
        self.0.get().breaks();
    }

    /// Whether the response to its last request has come to its end, and another may be sent.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.get().is_clean()
    }
}

/// What hears an interim response; false ends the wait for a better one.
pub(crate) type Hear<'a> = &'a mut dyn FnMut(StatusCode, HeaderMap) -> bool;

/// Sends a request and waits for its response's head. The body of a response that agrees to
/// become another protocol is empty, and its connection can be taken.
///
/// # Errors
/// If there was none.
pub(crate) async fn send<B>(
    worker: &Worker,
    connection: &Connection,
    request: Box<Request<B>>,
    limit: usize,
    hear: Hear<'_>,
) -> Result<Response<Received>, Failure<B>>
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin + 'static,
{
    if !connection.look_whether_ready() {
        return Err(Failure::Unsent(request));
    }
    let line = &connection.0;
    let (head, body) = (*request).into_parts();
    let mut upload = match begin(line, &head, body) {
        Ok(upload) => upload,
        Err(body) => return Err(Failure::Unsent(Box::new(Request::from_parts(head, body)))),
    };
    let mut sent = false;
    let heard = poll_fn(|cx| {
        if sent {
            let _ = line.get().poll_flush(cx);
        } else {
            // If it broke, or cannot be written, an endpoint that has had enough may have said so.
            sent = upload.poll(cx).is_ready();
        }
        poll_head(line, &head.method, limit, hear, cx)
    });
    let response = match heard.await {
        Ok(response) => response,
        Err(unheard) => {
            line.get().breaks();
            let again = Box::new(Request::from_parts(head, upload.take_body()));
            return Err(match unheard {
                Unheard::Lost => Failure::Lost(again),
                Unheard::Unreadable => Failure::Unreadable(again),
                Unheard::TooLarge => Failure::TooLarge,
            });
        }
    };
    if !sent {
        // It goes on however fast the response is read.
        worker.spawn("a request's body", async move {
            let _ = poll_fn(|cx| upload.poll(cx)).await;
        });
    }
    Ok(response.map(|()| Received::new(line.clone(), true)))
}

/// Writes a request's head. Gives what sends its body; or the body, if the head tells another length.
fn begin<B>(line: &Shared, head: &Parts, body: B) -> Result<Upload<B>, B>
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin,
{
    let ends = body.is_end_stream();
    let Ok(encode) = put_request(head, &body, line.get().out()) else {
        return Err(body);
    };
    Ok(Upload {
        line: line.clone(),
        body: Some(body),
        encode,
        ended: ends,
        failed: false,
    })
}

/// Writes a request's head; gives how its body is to be written.
pub(super) fn put_request(
    head: &Parts,
    body: &impl Body,
    out: &mut Vec<u8>,
) -> Result<Encode, Contradiction> {
    let framing = rules::request(&head.headers, body)?;
    let method = &head.method;
    head::put_request_line(method, &head.uri, out);
    let encode = match framing.follows {
        _ if body.is_end_stream() => {
            // RFC 9110, section 8.6: a method with which others have a body.
            let expects_one = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
            if expects_one || framing.told.is_some() {
                head::put_header("content-length", b"0", out);
            }
            Encode::Nothing
        }
        // Only chunks have trailers (RFC 9112, section 7.1.2).
        Follows::Exactly(length) if !head.headers.contains_key(header::TRAILER) => {
            head::put_length(length, out);
            Encode::Length(length)
        }
        _ => {
            head::put_header("transfer-encoding", b"chunked", out);
            Encode::Chunked
        }
    };
    head::put_headers(&head.headers, out);
    Ok(encode)
}

fn poll_head(
    line: &Shared,
    method: &Method,
    limit: usize,
    hear: Hear<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<()>, Unheard>> {
    let mut line = line.get();
    loop {
        if !line.input.is_empty() {
            let head = head::response(&line.input, method)?;
            if head.as_ref().map_or(line.input.len(), |head| head.length) > limit {
                return Poll::Ready(Err(Unheard::TooLarge));
            }
            if let Some(head) = head {
                line.input.advance(head.length);
                let status = head.response.status();
                // More follows.
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    // It may go to this very thread's connection to the client, but never to this one.
                    if !hear(status, head.response.into_parts().0.headers) {
                        return Poll::Ready(Err(Unheard::Lost));
                    }
                    continue;
                }
                line.last = !head.keep_alive;
                line.begins(head.body);
                return Poll::Ready(Ok(head.response));
            }
        }
        match ready!(line.poll_fill(cx)) {
            Ok(1..) => {}
            // It has begun to answer, and what came is none.
            _ if !line.input.is_empty() => return Poll::Ready(Err(Unheard::Unreadable)),
            _ => return Poll::Ready(Err(Unheard::Lost)),
        }
    }
}

/// A request's body on its way.
struct Upload<B> {
    line: Shared,
    /// Taken where the request did not run.
    body: Option<B>,
    encode: Encode,
    ended: bool,
    /// What has been sent is no request.
    failed: bool,
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Upload<B> {
    /// Sends what there is; ready when all is sent, or cannot be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.get().broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let sent = self.poll_send(cx);
        if sent.is_pending() {
            // Whoever reads the response flushes as well, and is woken then in place of this one.
            self.line.get().writer = Some(cx.waker().clone());
        }
        sent
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended && !self.failed {
            ready!(self.line.get().poll_room(cx))?;
            let Some(body) = &mut self.body else { break };
            let polled = Pin::new(&mut *body).poll_frame(cx);
            let mut line = self.line.get();
            let encode = &mut self.encode;
            let whole = match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let fits = line.put(encode, data);
                        if fits && body.is_end_stream() {
                            self.ended = true;
                            line.put_end(*encode, None)
                        } else {
                            fits
                        }
                    }
                    Err(frame) => {
                        self.ended = true;
                        line.put_end(*encode, frame.trailers_ref())
                    }
                },
                Poll::Ready(None) => {
                    self.ended = true;
                    line.put_end(*encode, None)
                }
                Poll::Ready(Some(Err(_))) => false,
                Poll::Pending => {
                    if line.broken {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                    if let Poll::Ready(flushed) = line.poll_flush(cx) {
                        flushed?;
                    }
                    return Poll::Pending;
                }
            };
            if !whole {
                // Nobody may take it for a request.
                line.end();
                self.failed = true;
            }
        }
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.line.get().poll_flush(cx)
    }

    fn take_body(mut self) -> B {
        self.body.take().expect("a body is taken once")
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        if !self.ended {
            self.line.get().breaks();
        }
    }
}
