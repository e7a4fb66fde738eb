//! An HTTP/1.1 connection: its socket, its read and write buffers, and where in a body it is.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use finback_core::net::{Buffers, Linger, Socket, Turn, scratch, write_pieces, write_some};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Decode, Encode, Piece};
use super::head::Fault;

/// Output that waits to be written, in bytes: bodies wait while there is more.
pub(super) const OUT: usize = 64 * 1024;
/// Pieces of a body from this on are written from where they lie, in bytes.
const LARGE: usize = 8 * 1024;
/// What ends a chunk's data and a body of chunks.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// Tells a client to send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Reads in a row before others have their turn: what is read is worked on at once.
const READS_PER_TURN: u8 = 2;

thread_local! {
    static BUFFERS: RefCell<Buffers<Vec<u8>>> = const { RefCell::new(Buffers::new()) };
}

/// A connection as those share it who read from it and write to it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Http1Connection>>);

impl Shared {
    pub(super) fn new(io: Socket) -> Self {
        Self(Rc::new(RefCell::new(Http1Connection {
            io: Some(io),
            input: BytesMut::new(),
            turn: Turn::of(READS_PER_TURN),
            out: Vec::new(),
            written: 0,
            large: Bytes::new(),
            tail: b"",
            flushing: false,
            decode: Decode::Done,
            expects: false,
            answers: false,
            flushed: 0,
            message: 0,
            last: false,
            broken: false,
            reader: None,
            writer: None,
        })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Http1Connection> {
        self.0.borrow_mut()
    }
}

/// A connection.
pub(super) struct Http1Connection {
    /// Taken when it becomes another protocol's.
    io: Option<Socket>,
    /// What was read but not used.
    pub(super) input: BytesMut,
    turn: Turn,
    /// The write buffer, how much of it was written, and a piece of a body that follows it.
    out: Vec<u8>,
    written: usize,
    large: Bytes,
    /// What follows that.
    tail: &'static [u8],
    flushing: bool,
    /// Where in the body that arrives.
    pub(super) decode: Decode,
    /// Who sends that body waits to be told to.
    pub(super) expects: bool,
    /// It is us who tell, when the body is asked for.
    pub(super) answers: bool,
    /// Bytes that were written since it was made.
    flushed: u64,
    /// Counts messages, so that nobody takes the next one's body for his own.
    message: u64,
    /// Nothing comes after this message.
    pub(super) last: bool,
    /// It cannot be used any further.
    pub(super) broken: bool,
    /// Who reads a body, and who writes one: to be told if it is over.
    reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Http1Connection {
    /// Reads some more; gives how much, or 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Ok(0));
        };
        ready!(self.turn.take(cx, READS_PER_TURN));
        let input = &mut self.input;
        let polled = scratch(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            let polled = Pin::new(io).poll_read(cx, &mut buffer);
            polled.map_ok(|()| {
                input.extend_from_slice(buffer.filled());
                buffer.filled().len()
            })
        });
        match &polled {
            Poll::Pending => self.turn.end(READS_PER_TURN),
            Poll::Ready(read) => self.broken |= !matches!(read, Ok(1..)),
        }
        polled
    }

    /// Whether the peer has gone, as its socket knows also where nothing is read.
    pub(super) fn has_ended(&self) -> bool {
        self.io.as_ref().is_none_or(Socket::has_ended)
    }

    /// Where output is put.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = BUFFERS.with_borrow_mut(Buffers::borrow);
        }
        &mut self.out
    }

    /// A message begins to arrive, with this body.
    pub(super) fn begins(&mut self, body: Decode) {
        self.decode = body;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.disown();
    }

    /// What is left of the message that arrives is nobody's any more.
    pub(super) fn disown(&mut self) {
        self.message += 1;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.out.len() - self.written + self.large.len() + self.tail.len()
    }

    /// Writes all there is.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let out = &self.out[self.written..];
            if out.is_empty() && self.large.is_empty() && self.tail.is_empty() {
                break;
            }
            let polled = if self.large.is_empty() && self.tail.is_empty() {
                write_some(cx, io, out)
            } else {
                let all = [out, &self.large[..], self.tail].map(io::IoSlice::new);
                write_pieces(cx, io, &all)
            };
            let length = ready!(polled).inspect_err(|_| self.broken = true)?;
            let first = length.min(out.len());
            let second = (length - first).min(self.large.len());
            self.written += first;
            self.flushed += length as u64;
            self.large.advance(second);
            self.tail = &self.tail[length - first - second..];
            self.flushing = true;
        }
        self.written = 0;
        if self.out.capacity() > 0 {
            // An idle connection holds no buffer, and a busy one need not make one.
            let out = std::mem::take(&mut self.out);
            BUFFERS.with_borrow_mut(|spare| spare.give_back(out));
        }
        if self.flushing {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Where in all that is ever written the next byte will be.
    pub(super) fn position(&self) -> u64 {
        self.flushed + self.unwritten() as u64
    }

    /// Takes back what was put since it was at this position; false if some of that was written.
    pub(super) fn take_back(&mut self, position: u64) -> bool {
        let Some(kept) = position.checked_sub(self.flushed) else {
            return false;
        };
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        self.out.truncate(self.written.saturating_add(kept));
        self.large.clear();
        self.tail = b"";
        true
    }

    /// Tells who waits for it to send the body that is to come.
    pub(super) fn go_on(&mut self) {
        if std::mem::take(&mut self.expects) {
            self.out().extend_from_slice(CONTINUE);
        }
    }

    /// Waits for room for a piece of a body.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unwritten() < OUT && self.large.is_empty() && self.tail.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Writes a piece of a body; false if the body may not have so much. There must be room.
    pub(super) fn put(&mut self, encode: &mut Encode, data: Bytes) -> bool {
        // An empty chunk would end the body.
        if data.is_empty() {
            return true;
        }
        if !encode.before(data.len(), self.out()) {
            return false;
        }
        if data.len() >= LARGE {
            self.large = data;
            self.tail = encode.after();
        } else {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(encode.after());
        }
        true
    }

    /// Ends a body; false if some of it is missing.
    pub(super) fn put_end(&mut self, encode: Encode, trailers: Option<&HeaderMap>) -> bool {
        if self.large.is_empty() && self.tail.is_empty() {
            return encode.end(trailers, self.out());
        }
        // Nothing is put before what still waits elsewhere; trailers come alone.
        if encode == Encode::Chunked {
            self.tail = LAST_CHUNK;
        }
        encode.is_whole()
    }

    /// The next of the body that arrives.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let taken = self.decode.take(&mut self.input);
            match taken {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(map)) => return Poll::Ready(Some(Ok(Frame::trailers(map)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(fault) => {
                    self.broken = true;
                    let (kind, why) = match fault {
                        Fault::TooLarge => (io::ErrorKind::FileTooLarge, "trailers are too long"),
                        _ => (
                            io::ErrorKind::InvalidData,
                            "the body's chunks make no sense",
                        ),
                    };
                    return Poll::Ready(Some(Err(io::Error::new(kind, why))));
                }
            }
            if self.answers {
                self.go_on();
            }
            if self.unwritten() > 0
                && let Poll::Ready(flushed) = self.poll_flush(cx)
            {
                if let Err(error) = flushed {
                    return Poll::Ready(Some(Err(error)));
                }
                // There is room for more of what goes the other way.
                if let Some(writer) = self.writer.take() {
                    writer.wake();
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if matches!(self.decode, Decode::Close) => {
                    self.decode = Decode::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                // It sends its body without being told to (RFC 9110, section 10.1.1).
                Ok(_) => self.expects = false,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether it is as it was before a message.
    pub(super) fn is_clean(&self) -> bool {
        !self.broken
            && !self.last
            && self.io.is_some()
            && self.input.is_empty()
            && self.unwritten() == 0
            && self.decode.is_done()
    }

    /// The socket with what was read of it, for another protocol.
    pub(super) fn take(&mut self) -> Option<Socket> {
        let mut io = self.io.take()?;
        io.unread(std::mem::take(&mut self.input).freeze());
        Some(io)
    }

    /// Tells whoever writes a body that it is not wanted any more.
    pub(super) fn breaks(&mut self) {
        self.broken = true;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Closes it, whoever still holds it.
    pub(super) fn end(&mut self) {
        self.io = None;
        self.begins(Decode::Done);
        self.breaks();
    }

    /// Writes what is left and closes, so that the peer reads it.
    pub(super) fn poll_close(&mut self, linger: &mut Linger, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return linger.poll_over(cx),
        }
        match &mut self.io {
            Some(io) => linger.poll(cx, io),
            None => Poll::Ready(()),
        }
    }
}

/// The body of a message as it arrives.
pub(crate) struct Received {
    line: Shared,
    message: u64,
    /// Dropping it before its end ends the connection: it is an endpoint's.
    ours: bool,
}

impl Received {
    pub(super) fn new(line: Shared, ours: bool) -> Self {
        let message = line.get().message;
        Self {
            line,
            message,
            ours,
        }
    }

    /// Whether the connection has gone on to another message.
    fn is_past(&self) -> bool {
        self.line.get().message != self.message
    }

    /// The connection that it comes over, for another protocol.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        self.line.get().take()
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut line = self.line.get();
        if line.message != self.message {
            let gone = io::ErrorKind::ConnectionAborted.into();
            return Poll::Ready(Some(Err(gone)));
        }
        let polled = line.poll_body(cx);
        if polled.is_pending() {
            match &mut line.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.is_past() && self.line.get().decode.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_past() {
            return SizeHint::default();
        }
        match self.line.get().decode {
            Decode::Done => SizeHint::with_exact(0),
            Decode::Length(rest) => SizeHint::with_exact(rest),
            Decode::Chunked(_) | Decode::Close => SizeHint::default(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.ours && !self.is_past() {
            let mut line = self.line.get();
            if !line.decode.is_done() {
                line.breaks();
            }
        }
    }
}
