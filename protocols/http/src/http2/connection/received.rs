//! A message's body, taken out of its connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Shared, Stream, set};

/// The body of a message as it arrives.
pub(crate) struct Received {
    connection: Shared,
    key: usize,
    /// Some of it was taken.
    begun: bool,
    ended: bool,
}

impl Received {
    pub(in crate::http2) fn new(connection: Shared, key: usize) -> Self {
        Self {
            connection,
            key,
            begun: false,
            ended: false,
        }
    }

    /// The stream it comes on.
    pub(in crate::http2) fn key(&self) -> usize {
        self.key
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let key = self.key;
        let mut core = self.connection.get_mut();
        let Some(stream) = core.streams.get_mut(key) else {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        };
        let polled = if !stream.data.is_empty() {
            let data = stream.data.take();
            stream.idle_for = 0;
            core.consume(key, data.len());
            drop(core);
            self.begun = true;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        } else if let Some(trailers) = stream.trailers.take() {
            Some(Ok(Frame::trailers(trailers)))
        } else if stream.state.has_received_end() {
            None
        } else if let Some(lost) = stream.lost {
            Some(Err(lost.into()))
        } else {
            set(&mut stream.reader, cx);
            if core.limits.answers_continue {
                // Only now: a request that is refused by its head never has its body sent.
                core.go_on(key);
            }
            return Poll::Pending;
        };
        drop(core);
        self.ended = true;
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        // An empty frame that ends a body is passed on as such: gRPC's servers wait for it.
        let core = self.connection.get();
        let whole = |stream: &Stream| {
            let over = stream.state.has_received_end()
                && stream.data.is_empty()
                && stream.trailers.is_none();
            over && (stream.ended_by_headers || self.begun)
        };
        self.ended || core.streams.get(self.key).is_some_and(whole)
    }

    fn size_hint(&self) -> SizeHint {
        let core = self.connection.get();
        let Some(stream) = core.streams.get(self.key) else {
            return SizeHint::default();
        };
        let here = stream.data.len() as u64;
        match stream.expected {
            Some(rest) => SizeHint::with_exact(here + rest),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.connection.get_mut().release(self.key, true);
    }
}
