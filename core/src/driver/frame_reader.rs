//! The frame reader of one connection: frames out of a stream of bytes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::clock::Now;
use crate::codec::Codec;
use crate::frame::{Head, Malformed};
use crate::net::{Socket, scratch};
use crate::stats::MeshStats;

use super::worker::Worker;

/// What takes the frames that arrive.
pub(crate) trait Take {
    /// Takes one whole frame; its error ends the reading.
    fn frame(&mut self, head: Head, wire: &[u8]) -> Result<(), Malformed>;

    /// Takes notice of a frame over the limit of its codec; whether its bytes are to be skipped, and
    /// the reading goes on.
    fn too_large(&mut self, head: Head, limit: usize) -> bool;
}

/// The reading side of one connection. Whole frames are taken straight from the thread's scratch
/// buffer; only the beginning of an unfinished one is kept, so that an idle connection holds no
/// buffer.
pub(crate) struct FrameReader {
    socket: Rc<RefCell<Socket>>,
    unfinished: BytesMut,
    /// When the unfinished frame began.
    began: Now,
    /// What of it is counted among the unfinished bytes of all.
    counted: usize,
    stats: Arc<MeshStats>,
    /// Bytes that still belong to a frame over the limit.
    skip: usize,
}

/// What came of reading once.
pub(crate) enum Read {
    /// So many bytes arrived, and every whole frame among them was taken.
    Bytes,
    /// The peer sends no more.
    End,
    /// The connection broke.
    Failed(io::Error),
    /// The peer sent what this protocol does not allow.
    Malformed(Malformed),
}

impl FrameReader {
    /// An inbox of a socket, which may hold bytes that were read before.
    pub(crate) fn new(socket: Rc<RefCell<Socket>>, worker: &Worker) -> Self {
        let prefix = socket.borrow_mut().take_prefix();
        Self {
            socket,
            unfinished: BytesMut::from(&prefix[..]),
            began: worker.now(),
            counted: 0,
            stats: worker.mesh().stats.clone(),
            skip: 0,
        }
    }

    /// Reads once and gives each whole frame to `take`.
    pub(crate) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        codec: &dyn Codec,
        take: &mut impl Take,
    ) -> Poll<Read> {
        scratch(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            // Not borrowed any more when frames are taken: those may be answered at once.
            let polled = Pin::new(&mut *self.socket.borrow_mut()).poll_read(cx, &mut buffer);
            match polled {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Read::Failed(error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Read::End),
                Poll::Ready(Ok(())) => {
                    worker.read_clock();
                    worker.note_read();
                    let fresh = buffer.filled();
                    Poll::Ready(match self.split(codec, fresh, worker.now(), take) {
                        Ok(()) => Read::Bytes,
                        Err(malformed) => Read::Malformed(malformed),
                    })
                }
            }
        })
    }

    /// Splits what arrived before the inbox was made.
    pub(crate) fn split_prefix(
        &mut self,
        worker: &Worker,
        codec: &dyn Codec,
        take: &mut impl Take,
    ) -> Result<(), Malformed> {
        self.split(codec, &[], worker.now(), take)
    }

    /// Reads once and forgets what was read.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        self.unfinished = BytesMut::new();
        self.count();
        let mut socket = self.socket.borrow_mut();
        scratch(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            let polled = Pin::new(&mut *socket).poll_read(cx, &mut buffer);
            polled.map(|result| match result {
                Err(error) => Read::Failed(error),
                Ok(()) if buffer.filled().is_empty() => Read::End,
                Ok(()) => Read::Bytes,
            })
        })
    }

    /// When the unfinished frame began, and how many bytes of it there are.
    pub(crate) fn unfinished(&self) -> Option<(Now, usize)> {
        (!self.unfinished.is_empty()).then_some((self.began, self.unfinished.len()))
    }

    /// The fixed header of the unfinished frame, if that much of it is there.
    pub(crate) fn unfinished_head(&self, codec: &dyn Codec) -> Option<Head> {
        codec.peek(&self.unfinished).ok().flatten()
    }

    /// Whether the bytes of a frame are being skipped.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skip > 0
    }

    /// What was read and not used; to be asked for when the connection leaves this reader.
    pub(crate) fn take_unread(&mut self) -> Bytes {
        let unread = std::mem::take(&mut self.unfinished).freeze();
        self.count();
        unread
    }

    fn split(
        &mut self,
        codec: &dyn Codec,
        fresh: &[u8],
        now: Now,
        take: &mut impl Take,
    ) -> Result<(), Malformed> {
        let skipped = self.skip.min(fresh.len());
        self.skip -= skipped;
        let fresh = &fresh[skipped..];
        if self.unfinished.is_empty() {
            let used = self.take_frames(codec, fresh, take)?;
            if let Some(rest) = fresh.get(used..).filter(|rest| !rest.is_empty()) {
                self.unfinished = BytesMut::from(rest);
                self.began = now;
                self.count();
            }
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.unfinished);
        bytes.extend_from_slice(fresh);
        let used = self.take_frames(codec, &bytes, take)?;
        if used > 0 {
            self.began = now;
        }
        if used < bytes.len() {
            bytes.advance(used);
            self.unfinished = bytes;
        }
        self.count();
        Ok(())
    }

    /// Gives each whole frame to `take`; the number of bytes that are done with.
    fn take_frames(
        &mut self,
        codec: &dyn Codec,
        bytes: &[u8],
        take: &mut impl Take,
    ) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let head = match codec.peek(rest) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(Malformed::TooLarge { head, limit }) if take.too_large(head, limit) => {
                    let here = head.len.min(rest.len());
                    self.skip = head.len - here;
                    used += here;
                    continue;
                }
                Err(malformed) => return Err(malformed),
            };
            let Some(frame) = rest.get(..head.len.max(1)) else {
                break;
            };
            take.frame(head, frame)?;
            used += frame.len();
        }
        Ok(used)
    }

    fn count(&mut self) {
        let bytes = &self.stats.unfinished_bytes;
        let length = self.unfinished.len();
        if length > self.counted {
            bytes.fetch_add((length - self.counted) as u64, Relaxed);
        } else if length < self.counted {
            bytes.fetch_sub((self.counted - length) as u64, Relaxed);
        }
        self.counted = length;
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.unfinished = BytesMut::new();
        self.count();
    }
}
