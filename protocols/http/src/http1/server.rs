//! An HTTP/1.1 server: requests of one client connection, one after another, each answered before the next is read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use finback_core::net::{Linger, Socket, Timers};
use http::response::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use http_body::Body;

use super::body::{Decode, Encode, Piece};
use super::head::{self, Fault};
use super::line::{OUT, Received, Shared};
use crate::rules::{self, Follows};

/// What a client may send before its last request was answered, in bytes.
const AHEAD: usize = 64 * 1024;
/// What is read of a request that was answered before all of it had come, in bytes.
const DRAINED: usize = 256 * 1024;

/// What a client hears in place of a response that broke off.
const BROKEN_OFF: &str = "[finback] the endpoint's response broke off\n";

/// A client's connection.
pub(crate) struct Server {
    line: Shared,
    /// Bytes of a request's head, at most.
    limit: usize,
    /// Bytes in which there is no whole head.
    looked: usize,
    asked: Asked,
    encode: Encode,
    /// Where its response began, in all that is written.
    began: u64,
    /// What was read of it after that, in bytes.
    drained: usize,
}

/// What matters of a request for its response.
struct Asked {
    version: Version,
    method: Method,
    keep_alive: bool,
    trailers: bool,
}

/// What comes next.
pub(crate) enum Next {
    Request(Box<Request<Received>>),
    /// The client has gone.
    Closed,
    /// It sent something that is not a request, or one that is not served.
    Fault(Fault),
}

impl Server {
    /// A connection whose requests' heads have so many bytes at most. `answers` says whether it is us
    /// who tell a client to send its body.
    pub(crate) fn new(io: Socket, limit: usize, answers: bool) -> Self {
        let line = Shared::new(io);
        line.get().answers = answers;
        Self {
            line,
            limit,
            looked: 0,
            asked: Asked {
                version: Version::HTTP_11,
                method: Method::GET,
                keep_alive: false,
                trailers: false,
            },
            encode: Encode::Nothing,
            began: 0,
            drained: 0,
        }
    }

    /// Whether some of a request's head is there.
    pub(crate) fn has_part(&self) -> bool {
        !self.line.get().input.is_empty()
    }

    /// The next request.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut line = self.line.get();
        loop {
            // Empty lines before a request are no request (RFC 9112, section 2.2).
            while line.input.starts_with(b"\r\n") {
                line.input.advance(2);
                self.looked = 0;
            }
            // A head ends with a line's end.
            if line.input[self.looked..].contains(&b'\n') {
                match head::request(&line.input) {
                    Ok(Some(head)) if head.length <= self.limit => {
                        drop(line);
                        return Poll::Ready(Next::Request(Box::new(self.begin(head))));
                    }
                    Ok(None) => {}
                    Ok(Some(_)) => return Poll::Ready(Next::Fault(Fault::TooLarge)),
                    Err(fault) => return Poll::Ready(Next::Fault(fault)),
                }
            }
            self.looked = line.input.len();
            if self.looked > self.limit {
                return Poll::Ready(Next::Fault(Fault::TooLarge));
            }
            match ready!(line.poll_fill(cx)) {
                Ok(1..) => {}
                _ => return Poll::Ready(Next::Closed),
            }
        }
    }

    fn begin(&mut self, head: head::RequestHead) -> Request<Received> {
        (self.looked, self.drained) = (0, 0);
        let request = &head.request;
        self.asked = Asked {
            version: request.version(),
            method: request.method().clone(),
            keep_alive: head.keep_alive,
            trailers: head.trailers,
        };
        {
            let mut line = self.line.get();
            line.input.advance(head.length);
            line.begins(head.body);
            // What is there already need not be asked for (RFC 9110, section 10.1.1).
            line.expects = head.expects && !line.decode.is_done() && line.input.is_empty();
        }
        let body = Received::new(self.line.clone(), false);
        head.request.map(|()| body)
    }

    /// Whether the client has gone while its request is served.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.line.get();
        // Whoever reads the body notices.
        while line.decode.is_done() && line.input.len() < AHEAD {
            match ready!(line.poll_fill(cx)) {
                Ok(1..) => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// The same of one whose request, or what it sent after that, waits to be read.
    pub(crate) fn has_gone(&self) -> bool {
        self.line.get().has_ended()
    }

    /// Begins a response, whose body then is to be sent.
    pub(crate) fn respond(&mut self, head: &Parts, body: &impl Body) {
        let mut line = self.line.get();
        let asked = &mut self.asked;
        self.began = line.position();
        if let Some(connection) = head.headers.get(header::CONNECTION) {
            asked.keep_alive &= connection != "close";
        }
        // More of a body than is drained would have the connection closed without a word.
        asked.keep_alive &= !matches!(line.decode, Decode::Length(rest) if rest > DRAINED as u64);
        // Who was not told to send its body may do so or not.
        asked.keep_alive &= !std::mem::take(&mut line.expects) && !line.broken;
        let framing = rules::response(&asked.method, head.status, &head.headers, body);
        let Ok(framing) = framing else {
            drop(line);
            return self.break_off();
        };
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let old = asked.version != Version::HTTP_11;
        let out = line.out();
        head::put_status_line(head.status, out);
        // Only chunks have trailers (RFC 9112, section 7.1.2).
        let trails = asked.trailers && head.headers.contains_key(header::TRAILER);
        self.encode = match framing.follows {
            Follows::Never => {
                if let Some(length) = framing.told {
                    head::put_length(length, out);
                }
                Encode::Nothing
            }
            Follows::Exactly(length) if old || !trails || body.is_end_stream() => {
                head::put_length(length, out);
                Encode::Length(length)
            }
            _ if old => {
                asked.keep_alive = false;
                Encode::Close
            }
            _ => {
                head::put_header("transfer-encoding", b"chunked", out);
                Encode::Chunked
            }
        };
        if !switches && !head.headers.contains_key(header::CONNECTION) {
            match (asked.keep_alive, old) {
                (true, true) => head::put_header("connection", b"keep-alive", out),
                (false, false) => head::put_header("connection", b"close", out),
                _ => {}
            }
        }
        head::put_headers(&head.headers, out);
    }

    /// Says in place of a response of which nothing was written that there is none. Else a client would
    /// take silence for a sign that its request was not looked at, and send it again.
    fn break_off(&mut self) {
        self.asked.keep_alive = false;
        self.encode = Encode::Nothing;
        let mut line = self.line.get();
        let out = line.out();
        head::put_status_line(StatusCode::BAD_GATEWAY, out);
        head::put_header("content-type", b"text/plain; charset=utf-8", out);
        head::put_length(BROKEN_OFF.len() as u64, out);
        head::put_header("connection", b"close", out);
        head::put_header("date", crate::headers::date().as_bytes(), out);
        out.extend_from_slice(b"\r\n");
        if self.asked.method != Method::HEAD {
            out.extend_from_slice(BROKEN_OFF.as_bytes());
        }
    }

    /// Writes what was said before the response.
    pub(crate) fn flush_interim(&self, cx: &mut Context<'_>) {
        // Whoever reads notices what is wrong.
        let _ = self.line.get().poll_flush(cx);
    }

    /// The way to the client for what is said before the response to this request.
    pub(crate) fn interim(&self) -> Interim {
        Interim {
            line: self.line.clone(),
            old: self.asked.version != Version::HTTP_11,
        }
    }

    /// Sends the body of a response. If it breaks off, the client hears so: by another response, if
    /// nothing of this one was written; else by an end of the connection, which is left to the caller.
    pub(crate) fn poll_body<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        B: Body<Data = Bytes, Error = io::Error> + Unpin,
    {
        loop {
            ready!(self.line.get().poll_room(cx))?;
            // Where there is no body, what is said to be one is not read.
            let polled = match self.encode {
                Encode::Nothing => Poll::Ready(None),
                _ => Pin::new(&mut *body).poll_frame(cx),
            };
            let mut line = self.line.get();
            let whole = match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match line.put(&mut self.encode, data) {
                        true => continue,
                        false => false,
                    },
                    Err(frame) => {
                        let trailers = frame.trailers_ref().filter(|_| self.asked.trailers);
                        line.put_end(self.encode, trailers)
                    }
                },
                Poll::Ready(None) => line.put_end(self.encode, None),
                Poll::Ready(Some(Err(_))) => false,
                Poll::Pending => {
                    if let Poll::Ready(flushed) = line.poll_flush(cx) {
                        flushed?;
                    }
                    return Poll::Pending;
                }
            };
            self.encode = Encode::Nothing;
            if whole {
                return line.poll_flush(cx);
            }
            // What broke off may be the request; then nobody waits for a word.
            if line.broken || !line.take_back(self.began) {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            drop(line);
            self.break_off();
            return self.line.get().poll_flush(cx);
        }
    }

    /// Whether another request may follow, after a response; once what is left of the last one has come, if that is
    /// not much.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut line = self.line.get();
        if !self.asked.keep_alive || line.broken {
            return Poll::Ready(false);
        }
        let line = &mut *line;
        if !line.decode.is_done() && self.drained == 0 {
            // Whoever still passes it on would miss what is taken here.
            line.disown();
        }
        loop {
            match line.decode.take(&mut line.input) {
                Ok(Piece::End) => {
                    line.begins(Decode::Done);
                    return Poll::Ready(true);
                }
                Ok(Piece::Data(data)) => self.drained += data.len(),
                Ok(Piece::Trailers(_)) => {}
                Ok(Piece::More) if self.drained <= DRAINED => match ready!(line.poll_fill(cx)) {
                    Ok(1..) => {}
                    _ => return Poll::Ready(false),
                },
                _ => return Poll::Ready(false),
            }
        }
    }

    /// The socket, for another protocol.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        self.line.get().take()
    }

    /// Tells the client that another protocol goes on, and gives the socket for it.
    pub(crate) async fn switch(self, response: &[u8]) -> Option<Socket> {
        self.line.get().out().extend_from_slice(response);
        let flushed = poll_fn(|cx| self.line.get().poll_flush(cx)).await;
        flushed.ok().and_then(|()| self.into_socket())
    }

    /// Tells the client something without being asked, and closes.
    pub(crate) async fn refuse(self, response: &[u8], timers: &Rc<Timers>) {
        self.line.get().out().extend_from_slice(response);
        self.close(timers).await;
    }

    /// Closes it so that the client reads what was written last.
    pub(crate) async fn close(self, timers: &Rc<Timers>) {
        let mut linger = Linger::begin(timers);
        poll_fn(|cx| self.line.get().poll_close(&mut linger, cx)).await;
    }
}

/// The way to a client for what is said before its response.
pub(crate) struct Interim {
    line: Shared,
    /// HTTP/1.0 has no such thing (RFC 9110, section 15.2).
    old: bool,
}

impl Interim {
    /// Tells it to send its request's body, if it waits for that.
    pub(crate) fn go_on(&self) {
        self.line.get().go_on();
    }

    /// Passes an interim response on; one that has no room is left out.
    pub(crate) fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        let mut line = self.line.get();
        if self.old || line.unwritten() >= OUT {
            return;
        }
        let out = line.out();
        head::put_status_line(status, out);
        head::put_headers(headers, out);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.line.get().end();
    }
}
