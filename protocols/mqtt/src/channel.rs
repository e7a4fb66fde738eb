//! One side of a session: a connection's bytes, with WebSocket's frames taken off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use finback_core::net::{Linger, Socket, write_some};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::websocket::{self, WebSocket};

/// A connection, and what waits to be written to it.
pub(crate) struct Channel {
    socket: Socket,
    websocket: Option<Box<WebSocket>>,
    /// Read, and put back.
    prefix: Bytes,
    out: BytesMut,
}

impl Channel {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            websocket: None,
            prefix: Bytes::new(),
            out: BytesMut::new(),
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
        self.prefix = bytes;
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
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
        loop {
            let mut target = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut target))?;
            let length = target.filled().len();
            let Some(websocket) = &mut self.websocket else {
                return Poll::Ready(Ok(length));
            };
            if websocket.closed || length == 0 {
                return Poll::Ready(Ok(0));
            }
            let carried = websocket.unwrap(&mut buffer[..length])?;
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
    }

    /// Writes what can be written now; the rest waits.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.websocket.is_some() {
            websocket::wrap(&mut self.out, bytes);
            bytes = &[];
        }
        if !self.out.is_empty() {
            self.out.extend_from_slice(bytes);
            let _ = self.poll_write_out(cx)?;
            return Ok(());
        }
        while !bytes.is_empty() {
            match write_some(cx, &mut self.socket, bytes)? {
                Poll::Ready(written) => bytes = &bytes[written..],
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
        if self.websocket.is_some() {
            websocket::wrap(&mut self.out, bytes);
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(write_some(cx, &mut self.socket, &self.out))?;
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
        if self.websocket.as_ref().is_some_and(|socket| !socket.closed) {
            self.out.extend_from_slice(&websocket::GOODBYE);
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
