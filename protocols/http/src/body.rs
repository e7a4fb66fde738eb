//! Message bodies on their way from one side to the other.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::DrivenExchange;
use finback_core::frame::{Answer, Outcome};
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::net::{Socket, Timer};
use finback_core::rejection::Rejection;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, DuplexStream, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::beginning::Begun;
use crate::dialect::{AnswerReader, Dialect, Farewell};
use crate::pool::PoolGuard;
use crate::replay::{self, Sent};
use crate::translation::Translated;
use crate::{http1, http2};

/// A body as it arrives, by either version.
pub(crate) enum Incoming {
    /// None; or it is in other hands.
    Nothing,
    Http1(http1::Received),
    Http2(http2::Received),
    /// One of which the beginning was looked at.
    Begun(Box<Begun>),
    /// Nothing; but its connection can become another protocol's.
    Upgrade(oneshot::Receiver<Socket>),
}

impl Incoming {
    /// The connection that it came over, for another protocol.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        match self {
            Self::Http1(body) => body.into_socket(),
            Self::Nothing | Self::Http2(_) | Self::Begun(_) | Self::Upgrade(_) => None,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Nothing | Self::Upgrade(_) => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Begun(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing | Self::Upgrade(_) => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Begun(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing | Self::Upgrade(_) => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Begun(body) => body.size_hint(),
        }
    }
}

/// A body on its way, in either direction.
pub(crate) enum Payload {
    /// Known whole, or nothing; with the trailers that follow.
    Whole(Option<Bytes>, Option<Box<HeaderMap>>),
    /// A request's, as it arrives.
    Request(Incoming, Rc<Upload>),
    /// A request's, once more; or one that may be read before its endpoint takes it.
    Replay(replay::Shared),
    /// A response's, as it arrives.
    Response(Box<Download>),
    /// Either, in another form.
    Translated(Box<Translated>),
    /// What an endpoint sends through a tunnel.
    Tunnel(DuplexStream),
}

/// Bytes that are taken from a tunnel at once.
const TUNNEL: usize = 4096;

/// How far a request's body has come.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    bytes: Cell<u64>,
    moved: Cell<Option<Instant>>,
    done: Cell<bool>,
    broken: Cell<bool>,
    /// It was asked for, and not there.
    awaited: Cell<bool>,
    /// Some of it has moved.
    begun: Cell<bool>,
    sent: Sent,
}

impl Upload {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether all of it was passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.done.get()
    }

    /// All of it, if it was passed on and is still kept.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        self.is_done().then(|| self.sent.whole()).flatten()
    }

    pub(crate) fn finish(&self) {
        self.done.set(true);
    }

    /// It is passed on once more.
    pub(crate) fn begin_again(&self) {
        self.done.set(false);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// What was sent of it.
    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// It made no sense, or its sender went away: what becomes of the call then is not the
    /// endpoint's fault.
    pub(crate) fn breaks(&self) {
        self.broken.set(true);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether its sender is waited for.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// When it last moved, if it is not all there yet.
    pub(crate) fn moved(&self) -> Option<Instant> {
        self.moved.get()
    }
}

/// A response's body with the call that it ends.
pub(crate) struct Download {
    pub(crate) body: Incoming,
    pub(crate) exchange: DrivenExchange,
    pub(crate) lease: Lease,
    pub(crate) dialect: Arc<dyn Dialect>,
    /// What the head said; else the trailers do.
    pub(crate) answer: Option<Answer>,
    /// Who reads how it ended, where that stands in the body.
    pub(crate) reader: Option<Box<dyn AnswerReader>>,
    /// What is said when we go away, where something is.
    pub(crate) parting: Option<Box<Parting>>,
    pub(crate) upload: Rc<Upload>,
    pub(crate) bytes: u64,
    /// The connection it comes over, to be used again.
    pub(crate) connection: Option<PoolGuard>,
    /// When the caller gives up; or when nothing has moved for too long.
    pub(crate) timer: Timer,
    /// How long nothing may move; `None` where the caller set a deadline of its own.
    pub(crate) idle: Option<Duration>,
    /// When data last moved: the timer is set anew when it fires, not with each piece.
    pub(crate) moved: Instant,
    /// It was said that the endpoint has begun to answer.
    pub(crate) begun: bool,
    pub(crate) ended: bool,
}

/// The end of a response that lasts, when we go away.
pub(crate) struct Parting {
    /// When that is.
    going: Pin<Box<dyn Future<Output = ()>>>,
    is_going: bool,
    words: Box<dyn Farewell>,
    /// What is left to be said.
    trailers: Option<HeaderMap>,
}

impl Parting {
    pub(crate) fn new(words: Box<dyn Farewell>, going: impl Future<Output = ()> + 'static) -> Self {
        Self {
            going: Box::pin(going),
            is_going: false,
            words,
            trailers: None,
        }
    }

    /// What is said now, if something is.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Frame<Bytes>> {
        if let Some(trailers) = self.trailers.take() {
            return Some(Frame::trailers(trailers));
        }
        if !self.is_going {
            self.is_going = self.going.as_mut().poll(cx).is_ready();
        }
        let (said, trailers) = self.words.say().filter(|_| self.is_going)?;
        self.trailers = Some(trailers);
        Some(Frame::data(said))
    }
}

impl Payload {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Self::Whole(None, None)
    }

    /// Known whole, with its trailers.
    pub(crate) fn whole(bytes: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes), trailers)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::whole(bytes, None)
    }
}

impl Download {
    /// The call is over; as the head, or else the trailers, say.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let answer = match self.answer {
            Some(answer) => answer,
            None => {
                let told = self.dialect.answer_of_trailers(trailers);
                let read = self.reader.as_ref().and_then(|own| own.answer());
                read.filter(|_| told.outcome == Outcome::Success)
                    .unwrap_or(told)
            }
        };
        self.exchange.add_request_bytes(self.upload.bytes());
        self.exchange.end(&mut self.lease, answer, self.bytes);
        if let Some(connection) = self.connection.take()
            && self.upload.is_done()
        {
            connection.give_back();
        }
    }

    fn fail(&mut self, rejection: Rejection, end: AttemptEnd) -> Option<HeaderMap> {
        self.ended = true;
        self.exchange
            .conclude(&mut self.lease, end, Resend::Impossible);
        self.exchange.add_request_bytes(self.upload.bytes());
        let text = self.exchange.rejected(rejection);
        self.connection = None;
        let trailers = self.dialect.late_rejection(rejection, &text);
        // Where the head has said how it went, and no trailers follow, nobody is told another status.
        let told = self.answer.or_else(|| {
            let trailers = trailers.as_ref()?;
            Some(self.dialect.answer_of_trailers(Some(trailers)))
        });
        if let Some(answer) = told {
            self.exchange.set_status(answer.status);
        }
        trailers
    }

    /// Whether its time is over. Where it is silence that is judged, only ours counts in which we ran.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.poll(cx).is_ready() {
            let Some(idle) = self.idle else { return true };
            if self.timer.is_late() {
                self.moved = Instant::now();
            }
            let moved = self
                .upload
                .moved()
                .map_or(self.moved, |up| up.max(self.moved));
            if Instant::now() >= moved + idle {
                return true;
            }
            self.timer.reset(moved + idle);
        }
        false
    }

    /// The rest may take long: that the endpoint answers is told now, unless its head says that it
    /// failed, which counts when it has ended.
    fn tell_begun(&mut self) {
        let outcome = self.answer.map(|answer| answer.outcome);
        let failed = matches!(outcome, Some(Outcome::Failed | Outcome::Refused));
        if !self.ended && !failed && !std::mem::replace(&mut self.begun, true) {
            self.exchange.begun(&mut self.lease);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = self.poll_body(cx);
        self.tell_begun();
        polled
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(said) = self.parting.as_mut().and_then(|own| own.poll(cx)) {
            if let Some(trailers) = said.trailers_ref() {
                self.end(Some(trailers));
                // The rest of it is for nobody.
                self.body = Incoming::Nothing;
            }
            return Poll::Ready(Some(Ok(said)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                    if let Some(reader) = &mut self.reader {
                        reader.read(data);
                    }
                    if let Some(parting) = &mut self.parting {
                        parting.words.read(data);
                    }
                    if self.idle.is_some() {
                        self.moved = self.exchange.now();
                    }
                    if self.body.is_end_stream() {
                        self.end(None);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.end(Some(trailers));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.end(None);
                Poll::Ready(None)
            }
            // The caller has taken it back, or broken it: it was abandoned.
            Poll::Ready(Some(Err(error))) if self.upload.is_broken() => {
                self.ended = true;
                self.connection = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Err(error))) => {
                let late = match error.kind() {
                    io::ErrorKind::FileTooLarge => {
                        self.fail(Rejection::TooLarge, AttemptEnd::TooLarge)
                    }
                    _ => self.fail(Rejection::ConnectionLost, AttemptEnd::Truncated),
                };
                Poll::Ready(Some(match late {
                    Some(trailers) => Ok(Frame::trailers(trailers)),
                    None => Err(error),
                }))
            }
            Poll::Pending => {
                if !self.poll_late(cx) {
                    return Poll::Pending;
                }
                // It had begun to answer: how long a body takes is no sign of a hung endpoint.
                let late = self.fail(Rejection::DeadlineExceeded, AttemptEnd::Abandoned);
                Poll::Ready(Some(match late {
                    Some(trailers) => Ok(Frame::trailers(trailers)),
                    None => Err(io::ErrorKind::TimedOut.into()),
                }))
            }
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                let next = data.or_else(|| Some(Frame::trailers(*trailers.take()?)));
                Poll::Ready(next.map(Ok))
            }
            Self::Request(body, upload) => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                upload.awaited.set(polled.is_pending());
                if polled.is_ready() {
                    upload.begun.set(true);
                }
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        upload.sent.keep(frame);
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        upload.bytes.set(upload.bytes.get() + length as u64);
                        upload.moved.set(Some(Instant::now()));
                        if frame.is_trailers() || body.is_end_stream() {
                            upload.finish();
                        }
                    }
                    Poll::Ready(None) => upload.finish(),
                    Poll::Ready(Some(Err(_))) => upload.breaks(),
                    Poll::Pending => {}
                }
                polled
            }
            Self::Replay(replay) => replay.borrow_mut().poll(cx),
            Self::Response(download) => download.poll(cx),
            Self::Translated(translated) => translated.poll(cx),
            Self::Tunnel(tunnel) => {
                let mut piece = [0; TUNNEL];
                let mut buffer = ReadBuf::new(&mut piece);
                ready!(Pin::new(tunnel).poll_read(cx, &mut buffer))?;
                let data = buffer.filled();
                let frame = (!data.is_empty()).then(|| Frame::data(Bytes::copy_from_slice(data)));
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            Self::Request(body, upload) => {
                let ended = body.is_end_stream();
                if ended {
                    upload.finish();
                }
                ended
            }
            Self::Replay(replay) => replay.borrow().is_ended(),
            Self::Response(download) => download.ended && download.body.is_end_stream(),
            Self::Translated(translated) => translated.is_ended(),
            Self::Tunnel(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Self::Request(body, _) => body.size_hint(),
            Self::Replay(replay) => replay.borrow().size_hint(),
            Self::Response(download) => download.body.size_hint(),
            Self::Translated(_) | Self::Tunnel(_) => SizeHint::default(),
        }
    }
}
