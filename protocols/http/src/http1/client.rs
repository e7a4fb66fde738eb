//! The side that asks.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use finback_core::driver::Worker;
use finback_core::net::Socket;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;

use super::body::Encode;
use super::head;
use super::line::{Received, Shared};

/// The longest head of a response, in bytes.
const HEAD: usize = 64 * 1024;

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
}

/// Why there is no response's head.
enum Unheard {
    Lost,
    Unreadable,
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

    /// Whether the response to its last request has come to its end, and another may be sent.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.get().is_clean()
    }
}

/// Sends a request and waits for its response's head. The body of a response that agrees to
/// become another protocol is empty, and its connection can be taken.
///
/// # Errors
/// If there was none.
pub(crate) async fn send<B>(
    worker: &Worker,
    connection: &Connection,
    request: Box<Request<B>>,
) -> Result<Response<Received>, Failure<B>>
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin + 'static,
{
    if !connection.look_whether_ready() {
        return Err(Failure::Unsent(request));
    }
    let line = &connection.0;
    let (head, body) = (*request).into_parts();
    let mut upload = begin(line, &head, body);
    let mut sent = false;
    let heard = poll_fn(|cx| {
        if sent {
            let _ = line.get().poll_flush(cx);
        } else {
            // If it broke, or cannot be written, an endpoint that has had enough may have said so.
            sent = upload.poll(cx).is_ready();
        }
        poll_head(line, &head.method, cx)
    });
    let response = match heard.await {
        Ok(response) => response,
        Err(unheard) => {
            line.get().breaks();
            let again = Box::new(Request::from_parts(head, upload.take_body()));
            return Err(match unheard {
                Unheard::Lost => Failure::Lost(again),
                Unheard::Unreadable => Failure::Unreadable(again),
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

/// Writes a request's head. Gives what sends its body.
fn begin<B>(line: &Shared, head: &Parts, body: B) -> Upload<B>
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin,
{
    let ends = body.is_end_stream();
    let mut own = line.get();
    let out = own.out();
    let method = &head.method;
    head::put_request_line(method, &head.uri, out);
    let told = length(&head.headers);
    let encode = if ends {
        let expects_one = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        if expects_one && told.is_none() {
            head::put_header("content-length", b"0", out);
        }
        Encode::Nothing
    } else if let Some(length) = told {
        Encode::Length(length)
    } else if let Some(length) = body.size_hint().exact() {
        let value = HeaderValue::from(length);
        head::put_header("content-length", value.as_bytes(), out);
        Encode::Length(length)
    } else {
        head::put_header("transfer-encoding", b"chunked", out);
        Encode::Chunked
    };
    head::put_headers(&head.headers, out);
    Upload {
        line: line.clone(),
        body: Some(body),
        encode,
        ended: ends,
        failed: false,
    }
}

/// The length that headers tell.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

fn poll_head(
    line: &Shared,
    method: &Method,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<()>, Unheard>> {
    let mut line = line.get();
    loop {
        if !line.input.is_empty() {
            let head = head::response(&line.input, method).map_err(|_| Unheard::Unreadable)?;
            if let Some(head) = head {
                line.input.advance(head.length);
                let status = head.response.status();
                // More follows.
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    continue;
                }
                line.last = !head.keep_alive;
                line.begins(head.body);
                return Poll::Ready(Ok(head.response));
            }
            if line.input.len() > HEAD {
                return Poll::Ready(Err(Unheard::Unreadable));
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
                    line.writer = Some(cx.waker().clone());
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
