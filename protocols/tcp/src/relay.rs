//! Bytes carried both ways.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use finback_core::net::{READS_PER_TURN, Socket, Turn, scratch};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) up: u64,
    /// To the client.
    pub(crate) down: u64,
    /// The endpoint broke it off; a client that does is its own affair.
    pub(crate) endpoint_broke: bool,
}

/// One direction. A buffer is held only while the receiver takes less than the sender sends; the
/// sender is not read meanwhile.
#[derive(Default)]
struct Lane {
    left: BytesMut,
    carried: u64,
    ended: bool,
    closed: bool,
    /// It broke on the sender's side.
    unreadable: bool,
    turn: Turn,
}

impl Lane {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Socket,
        to: &mut Socket,
    ) -> Poll<std::io::Result<()>> {
        loop {
            while !self.left.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, &self.left)? {
                    Poll::Ready(0) => {
                        return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(written) => self.left.advance(written),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.left.capacity() > 0 {
                self.left = BytesMut::new();
            }
            if self.ended {
                if !self.closed {
                    let closed = Pin::new(&mut *to).poll_shutdown(cx);
                    if closed.is_pending() {
                        return Poll::Pending;
                    }
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(self.turn.take(cx, READS_PER_TURN));
            match scratch(|bytes| self.carry(cx, bytes, from, to)) {
                Poll::Ready(moved) => moved?,
                Poll::Pending => {
                    self.turn.end(READS_PER_TURN);
                    // Under TLS, what was written may still wait in a record.
                    let _ = Pin::new(&mut *to).poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once and writes what it can; the rest is kept.
    fn carry(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut Socket,
        to: &mut Socket,
    ) -> Poll<std::io::Result<()>> {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.unreadable = true;
                return Poll::Ready(Err(error));
            }
        }
        let mut rest = buffer.filled();
        self.ended = rest.is_empty();
        self.carried += rest.len() as u64;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest)? {
                Poll::Ready(0) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => rest = &rest[written..],
                Poll::Pending => {
                    self.left.extend_from_slice(rest);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Carries bytes both ways until both sides have ended, or one breaks.
pub(crate) async fn relay(client: &mut Socket, endpoint: &mut Socket) -> Carried {
    let (mut up, mut down) = (Lane::default(), Lane::default());
    let ended = poll_fn(|cx| {
        let first = up.poll(cx, client, endpoint);
        let second = down.poll(cx, endpoint, client);
        match (first, second) {
            (Poll::Ready(Err(_)), _) => Poll::Ready(!up.unreadable),
            (_, Poll::Ready(Err(_))) => Poll::Ready(down.unreadable),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(false),
            _ => Poll::Pending,
        }
    });
    let endpoint_broke = ended.await;
    Carried {
        up: up.carried,
        down: down.carried,
        endpoint_broke,
    }
}
