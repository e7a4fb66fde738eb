//! The beginning of a request's body, for dialects whose calls are named there.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::net::Timers;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::Incoming;

/// Bytes that are waited for, if the body has so many.
const ENOUGH: usize = 4096;
/// How long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a request's body begins, as the head's extensions have it for a dialect that wants to know: some bytes, or
/// why there are none.
#[derive(Clone, Debug)]
pub struct Beginning(pub Result<Bytes, &'static str>);

/// A body of which the beginning was looked at.
pub(crate) struct Begun {
    frames: VecDeque<io::Result<Frame<Bytes>>>,
    rest: Incoming,
}

impl Begun {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let frames = self.frames.iter().flatten();
        let here: u64 = frames
            .filter_map(|frame| Some(frame.data_ref()?.len() as u64))
            .sum();
        let mut hint = self.rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + here);
        }
        hint.set_lower(hint.lower() + here);
        hint
    }
}

/// Waits for a request's beginning: one message of gRPC's, or as many bytes of it as are enough.
pub(crate) async fn take(
    request: Request<Incoming>,
    timers: &Rc<Timers>,
    now: Instant,
) -> Request<Incoming> {
    let (mut head, mut body) = request.into_parts();
    let mut frames = VecDeque::new();
    let mut begins = BytesMut::new();
    let mut timer = timers.set(now + PATIENCE);
    let beginning = std::future::poll_fn(|cx| {
        loop {
            if is_enough(&begins) || body.is_end_stream() {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let data = frame.as_ref().ok().and_then(Frame::data_ref);
                    let goes_on = data.is_some();
                    if let Some(data) = data {
                        begins.extend_from_slice(&data[..data.len().min(ENOUGH)]);
                    }
                    frames.push_back(frame);
                    if !goes_on {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if timer.poll(cx).is_ready() => {
                    return Poll::Ready(Err("a body that did not begin in time"));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    head.extensions
        .insert(Beginning(beginning.map(|()| begins.freeze())));
    let begun = Begun { frames, rest: body };
    Request::from_parts(head, Incoming::Begun(Box::new(begun)))
}

/// Whether these are a whole message of gRPC's (compressed or not: 1 byte; its length: 4), or enough of one.
fn is_enough(bytes: &[u8]) -> bool {
    let whole = match bytes.first_chunk::<5>() {
        Some([_, a, b, c, d]) => u32::from_be_bytes([*a, *b, *c, *d]) as usize + 5,
        None => usize::MAX,
    };
    bytes.len() >= whole.min(ENOUGH)
}
