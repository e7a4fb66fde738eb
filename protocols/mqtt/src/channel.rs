//! One side of a session: a connection's bytes, with WebSocket's frames taken off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use finback_core::net::{Linger, READS_PER_TURN, Socket, give_way, scratch, write_some};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::websocket::{self, Close, WebSocket};

/// A connection, and what waits to be written to it.
pub(crate) struct Channel {
    socket: Socket,
    websocket: Option<Box<WebSocket>>,
    /// Read, and put back.
    prefix: Bytes,
    out: BytesMut,
    /// Bytes that the peer's side of the connection has taken.
    written: u64,
    /// Why it is closed, where its transport can tell.
    close: Close,
}

/// A channel without its connection, between two workers.
pub(crate) struct Parted {
    websocket: Option<Box<WebSocket>>,
    prefix: Bytes,
    out: BytesMut,
    written: u64,
    close: Close,
}

impl Channel {
    /// Leaves its worker: the connection goes a way of its own.
    pub(crate) fn part(self) -> (Socket, Parted) {
        let parted = Parted {
            websocket: self.websocket,
            prefix: self.prefix,
            out: self.out,
            written: self.written,
            close: self.close,
        };
        (self.socket, parted)
    }

    /// Goes on where its connection is now.
    pub(crate) fn resume(socket: Socket, parted: Parted) -> Self {
        Self {
            socket,
            websocket: parted.websocket,
            prefix: parted.prefix,
            out: parted.out,
            written: parted.written,
            close: parted.close,
        }
    }

    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            websocket: None,
            prefix: Bytes::new(),
            out: BytesMut::new(),
            written: 0,
            close: Close::Normal,
        }
    }

    /// The same behind WebSocket; `read` are bytes of it that were read already.
    pub(crate) fn websocket(mut socket: Socket, read: Bytes) -> Self {
        socket.unread(read);
        Self {
            websocket: Some(Box::default()),
            ..Self::new(socket)
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The connection itself, of which nothing is kept here.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Puts back what was read but is not to be used yet.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.prefix = match self.prefix.is_empty() {
            true => bytes,
            false => [&bytes[..], &self.prefix[..]].concat().into(),
        };
    }

    /// What was read and put back, or kept for later.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.prefix
    }

    /// Whether it is a WebSocket, which ends with words of its own.
    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// Why the peer's bytes are no WebSocket's, if so.
    pub(crate) fn broken(&self) -> Option<&'static str> {
        Some(self.websocket.as_ref()?.broken?.why)
    }

    /// Has its transport say this when it is closed.
    pub(crate) fn set_close(&mut self, close: Close) {
        self.close = close;
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Bytes that were written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Reads into `buffer` and says how much; nothing is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.prefix.is_empty() {
            let length = self.prefix.len().min(buffer.len());
            self.prefix.copy_to_slice(&mut buffer[..length]);
            return Poll::Ready(Ok(length));
        }
        self.poll_fresh(cx, buffer)
    }

    /// Reads what comes while it is not to be used yet, and keeps up to `most` bytes of it; ready
    /// once the peer is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        while self.prefix.len() < most {
            let read = scratch(|bytes| {
                let read = self.poll_fresh(cx, bytes);
                read.map_ok(|length| [&self.prefix[..], &bytes[..length]].concat())
            });
            match ready!(read) {
                Ok(kept) if kept.len() > self.prefix.len() => self.prefix = kept.into(),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Reads what has not been read before.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        for _ in 0..READS_PER_TURN {
            // After a Close, or what no client sends, nothing counts that follows.
            if let Some(websocket) = &self.websocket {
                if websocket.closed {
                    return Poll::Ready(Ok(0));
                }
                if let Some(why) = websocket.broken {
                    return Poll::Ready(Err(why.into()));
                }
            }
            let mut target = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut target))?;
            let length = target.filled().len();
            let Some(websocket) = &mut self.websocket else {
                return Poll::Ready(Ok(length));
            };
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            let carried = websocket.unwrap(&mut buffer[..length]);
            if !websocket.answers.is_empty() {
                self.out.extend_from_slice(&websocket.answers);
                websocket.answers.clear();
                // A peer that asks and never reads is not to be remembered for ever.
                if self.out.len() > MAX_ANSWERS && carried == 0 {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                let _ = self.poll_flush(cx)?;
            }
            if carried > 0 {
                return Poll::Ready(Ok(carried));
            }
        }
        // One who only asks, or sends frames of nothing, does not keep others waiting.
        give_way(cx);
        Poll::Pending
    }

    /// Writes what can be written now; the rest waits.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(websocket) = &self.websocket {
            if !websocket.closed {
                websocket::wrap(&mut self.out, bytes);
            }
            bytes = &[];
        }
        if !self.out.is_empty() {
            self.out.extend_from_slice(bytes);
            let _ = self.poll_write_out(cx)?;
            return Ok(());
        }
        while !bytes.is_empty() {
            match write_some(cx, &mut self.socket, bytes)? {
                Poll::Ready(written) => {
                    self.written += written as u64;
                    bytes = &bytes[written..];
                }
                Poll::Pending => {
                    self.out.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Has bytes written with what comes next.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        match &self.websocket {
            None => self.out.extend_from_slice(bytes),
            // After a Close no more data may follow (RFC 6455, section 5.5.1).
            Some(websocket) if websocket.closed => {}
            Some(_) => websocket::wrap(&mut self.out, bytes),
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(write_some(cx, &mut self.socket, &self.out))?;
            self.written += written as u64;
            self.out.advance(written);
        }
        if self.out.capacity() > 0 {
            // An idle session holds no buffer.
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until everything has been written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.socket.is_secure() {
            // What was written may still wait in a record.
            return Pin::new(&mut self.socket).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye as its transport does.
    pub(crate) fn say_goodbye(&mut self) {
        if let Some(websocket) = &mut self.websocket {
            websocket.close(&mut self.out, self.close);
        }
    }

    /// Writes what is left and closes, so that the peer reads it.
    pub(crate) fn poll_close(&mut self, linger: &mut Linger, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => linger.poll(cx, &mut self.socket),
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Pending => linger.poll_over(cx),
        }
    }
}

/// Answers to control frames that may wait for one who sends nothing else.
const MAX_ANSWERS: usize = 64 * 1024;
