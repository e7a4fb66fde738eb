//! Frames out of a stream of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::codec::Codec;
use crate::frame::{Head, Malformed};

use super::worker::Worker;

/// The reading side of one connection. Whole frames are taken straight from the worker's
/// scratch buffer; only the beginning of an unfinished one is kept, so that an idle connection
/// holds no buffer.
pub(crate) struct Inbox {
    reader: Pin<Box<dyn AsyncRead>>,
    unfinished: BytesMut,
}

/// What came of reading once.
pub(crate) enum Read {
    /// So many bytes arrived, and every whole frame among them was taken.
    Bytes,
    /// The peer sends no more.
    End,
    /// The connection broke.
    Failed(io::Error),
    /// The bytes are, or a frame was, not to be borne.
    Malformed(Malformed),
}

impl Inbox {
    /// An inbox that has already received `prefix`.
    pub(crate) fn new(reader: Pin<Box<dyn AsyncRead>>, prefix: &[u8]) -> Self {
        Self {
            reader,
            unfinished: BytesMut::from(prefix),
        }
    }

    /// Reads once and gives each whole frame to `take`, whose error ends the reading.
    pub(crate) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        codec: &dyn Codec,
        take: impl FnMut(Head, &[u8]) -> Result<(), Malformed>,
    ) -> Poll<Read> {
        let mut scratch = worker.take_scratch();
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = match self.reader.as_mut().poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Read::Failed(error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Read::End),
            Poll::Ready(Ok(())) => {
                worker.read_clock();
                Poll::Ready(match self.split(codec, buffer.filled(), take) {
                    Ok(()) => Read::Bytes,
                    Err(malformed) => Read::Malformed(malformed),
                })
            }
        };
        worker.return_scratch(scratch);
        read
    }

    /// Splits what arrived before the inbox was made.
    pub(crate) fn split_prefix(
        &mut self,
        codec: &dyn Codec,
        take: impl FnMut(Head, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.split(codec, &[], take)
    }

    /// Reads once and forgets what was read.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<Read> {
        let mut scratch = worker.take_scratch();
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = self
            .reader
            .as_mut()
            .poll_read(cx, &mut buffer)
            .map(|result| match result {
                Err(error) => Read::Failed(error),
                Ok(()) if buffer.filled().is_empty() => Read::End,
                Ok(()) => Read::Bytes,
            });
        worker.return_scratch(scratch);
        read
    }

    fn split(
        &mut self,
        codec: &dyn Codec,
        fresh: &[u8],
        mut take: impl FnMut(Head, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if self.unfinished.is_empty() {
            let used = take_frames(codec, fresh, &mut take)?;
            if used < fresh.len() {
                self.unfinished = BytesMut::from(&fresh[used..]);
            }
            return Ok(());
        }
        self.unfinished.extend_from_slice(fresh);
        let used = take_frames(codec, &self.unfinished, &mut take)?;
        if used == self.unfinished.len() {
            self.unfinished = BytesMut::new();
        } else {
            self.unfinished.advance(used);
        }
        Ok(())
    }
}

/// Gives each whole frame to `take`; the number of bytes they were.
fn take_frames(
    codec: &dyn Codec,
    bytes: &[u8],
    take: &mut impl FnMut(Head, &[u8]) -> Result<(), Malformed>,
) -> Result<usize, Malformed> {
    let mut used = 0;
    while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
        let Some(head) = codec.peek(rest)? else { break };
        let Some(frame) = rest.get(..head.len.max(1)) else {
            break;
        };
        take(head, frame)?;
        used += frame.len();
    }
    Ok(used)
}
