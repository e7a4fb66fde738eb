//! The relay: bytes carried both ways between two connections, for tunnels.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::scratch;
use super::turn::{READS_PER_TURN, Turn};
use super::write::write_some;

/// Two connections, or streams of one, whose bytes are carried as they are.
#[derive(Default)]
pub struct Relay {
    up: Direction,
    down: Direction,
}

/// How a relay ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both sides have ended, or the client broke it off.
    Well,
    /// The endpoint broke it off.
    Broken,
}

impl Relay {
    /// Bytes from the client.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.carried
    }

    /// Bytes to the client.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.carried
    }

    /// Grows with everything that moves.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.up.moves + self.down.moves
    }

    /// Carries what there is. Ready when both sides have ended, or one breaks.
    pub fn poll<C, E>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        endpoint: &mut E,
    ) -> Poll<Closed>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        E: AsyncRead + AsyncWrite + Unpin,
    {
        let up = self.up.poll(cx, client, endpoint);
        let down = self.down.poll(cx, endpoint, client);
        let endpoint_broke = match (up, down) {
            (Poll::Ready(Err(_)), _) => !self.up.unreadable,
            (_, Poll::Ready(Err(_))) => self.down.unreadable,
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => false,
            _ => return Poll::Pending,
        };
        Poll::Ready(match endpoint_broke {
            true => Closed::Broken,
            false => Closed::Well,
        })
    }
}

/// One direction. A buffer is held only while the receiver takes less than the sender sends; the
/// sender is not read meanwhile.
#[derive(Default)]
struct Direction {
    left: BytesMut,
    carried: u64,
    moves: u64,
    ended: bool,
    closed: bool,
    /// It broke on the sender's side.
    unreadable: bool,
    turn: Turn,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.left.is_empty() {
                let written = ready!(write_some(cx, to, &self.left))?;
                self.left.advance(written);
                self.moves += 1;
            }
            if self.left.capacity() > 0 {
                self.left = BytesMut::new();
            }
            if self.ended {
                if !self.closed {
                    // What it says cannot matter any more.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.closed = true;
                    self.moves += 1;
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
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))
            .inspect_err(|_| self.unreadable = true)?;
        let mut rest = buffer.filled();
        self.ended = rest.is_empty();
        self.carried += rest.len() as u64;
        self.moves += 1;
        while !rest.is_empty() {
            match write_some(cx, to, rest)? {
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
