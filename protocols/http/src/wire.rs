//! A client's bytes on their way to hyper: shared fairly, and watched for frames that only make
//! work.
//!
//! Frames are counted by their headers alone (RFC 9113, section 4.1); what they mean is h2's
//! business.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use finback_core::driver::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Reads in a row before others have their turn.
const READS_PER_TURN: u8 = 2;
/// Length of a frame's header.
const HEADER: usize = 9;
/// Frames that carry nothing for an endpoint: so many at once, and so many each second. Ordinary
/// clients send one or two with each request; gRPC's measure round trips by PING while they
/// download, one after the other.
const EMPTY: (u32, u32) = (20_000, 10_000);

/// A client's connection.
pub(crate) struct Wire {
    io: Socket,
    reads: u8,
    frames: Option<Frames>,
}

impl Wire {
    /// Of HTTP/1.1.
    pub(crate) fn new(io: Socket) -> Self {
        Self {
            io,
            reads: 0,
            frames: None,
        }
    }

    /// Of HTTP/2, of which `preface` bytes come before the first frame.
    pub(crate) fn framed(io: Socket, preface: usize) -> Self {
        Self {
            frames: Some(Frames::new(preface)),
            ..Self::new(io)
        }
    }

    pub(crate) fn into_inner(self) -> Socket {
        self.io
    }
}

/// Where in a frame the bytes are, and what was counted.
struct Frames {
    /// Bytes to skip before the next header.
    skip: usize,
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    have: usize,
    since: Instant,
    empty: u32,
}

impl Frames {
    fn new(skip: usize) -> Self {
        Self {
            skip,
            header: [0; HEADER],
            have: 0,
            since: Instant::now(),
            empty: 0,
        }
    }

    /// Whether what was counted up to these bytes is within bounds.
    fn bears(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEADER - self.have);
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                match kind {
                    // DATA of no bytes that does not end its stream.
                    0 if self.skip == 0 && flags & 1 == 0 => self.empty += 1,
                    // An answer to our own is no question.
                    4 | 6 if flags & 1 == 0 => self.empty += 1,
                    // PRIORITY, RST_STREAM, WINDOW_UPDATE.
                    2 | 3 | 8 => self.empty += 1,
                    _ => {}
                }
            }
        }
        if self.empty <= EMPTY.0 {
            return true;
        }
        // What was borne in the meantime is taken off.
        let seconds = self.since.elapsed().as_secs_f64();
        let borne = (seconds * f64::from(EMPTY.1)) as u32;
        self.since = Instant::now();
        self.empty = self.empty.saturating_sub(borne);
        self.empty <= EMPTY.0
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reads == READS_PER_TURN {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_pending() {
            self.reads = 0;
        }
        ready!(polled)?;
        self.reads += 1;
        let read = &buf.filled()[before..];
        if let Some(frames) = &mut self.frames
            && !frames.bears(read)
        {
            let why = "more frames that carry nothing than a client has use for";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_counted_however_they_are_cut() {
        let ping = frame(6, 0, &[0; 8]);
        let mixed = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(1, 5, b"head"),
            &frame(0, 0, &[0; 5000]),
            &frame(6, 1, &[0; 8]),
            &frame(0, 1, b""),
            &ping.repeat(3),
            &frame(8, 0, &[0; 4]),
        ]
        .concat();
        for size in [1, 7, 100, mixed.len()] {
            let mut frames = Frames::new(24);
            assert!(mixed.chunks(size).all(|piece| frames.bears(piece)));
            assert_eq!(frames.empty, 4, "{size}");
        }
        let mut frames = Frames::new(0);
        assert!(frames.bears(&ping.repeat(20_000)));
        assert!(!frames.bears(&ping));
        // The same over a longer time is nothing.
        let mut frames = Frames::new(0);
        for _ in 0..100 {
            assert!(frames.bears(&ping.repeat(9000)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
