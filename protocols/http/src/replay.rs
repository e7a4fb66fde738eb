//! A request's body for one more attempt: what was sent of it already, then what is left.
//!
//! A request that its endpoint did not process goes on elsewhere. What was sent of its body is kept
//! for that, up to a bound, until the endpoint begins to answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::body::{Payload, Upload};

/// What is kept of a body, at most, in bytes.
pub(crate) const KEPT: usize = 64 * 1024;
/// And in pieces.
const PIECES: usize = 64;

/// What was sent of a body.
#[derive(Debug, Default)]
pub(crate) struct Sent(RefCell<State>);

#[derive(Debug)]
enum State {
    /// All of it.
    Kept { pieces: Vec<Bytes>, bytes: usize },
    /// More than is kept; or nobody will ask for it.
    Gone,
}

impl Default for State {
    fn default() -> Self {
        Self::Kept {
            pieces: Vec::new(),
            bytes: 0,
        }
    }
}

impl Sent {
    /// Keeps a piece that is sent, if all before it was kept.
    pub(crate) fn keep(&self, frame: &Frame<Bytes>) {
        let mut state = self.0.borrow_mut();
        let State::Kept { pieces, bytes } = &mut *state else {
            return;
        };
        match frame.data_ref() {
            Some(data) if *bytes + data.len() <= KEPT && pieces.len() < PIECES => {
                *bytes += data.len();
                pieces.push(data.clone());
            }
            _ => *state = State::Gone,
        }
    }

    /// Keeps nothing any more.
    pub(crate) fn forget(&self) {
        *self.0.borrow_mut() = State::Gone;
    }

    /// All that was sent, in one piece; `None` if it is gone.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let pieces = self.pieces()?;
        if pieces.len() == 1 {
            return pieces.into_iter().next();
        }
        let mut whole = BytesMut::new();
        pieces
            .iter()
            .for_each(|piece| whole.extend_from_slice(piece));
        Some(whole.freeze())
    }

    fn pieces(&self) -> Option<VecDeque<Bytes>> {
        match &*self.0.borrow() {
            State::Kept { pieces, .. } => Some(pieces.iter().cloned().collect()),
            State::Gone => None,
        }
    }
}

/// Such a body.
pub(crate) struct Replay {
    sent: VecDeque<Bytes>,
    rest: Payload,
    upload: Rc<Upload>,
}

impl Replay {
    /// The body of which `rest` was not sent yet; `None` if what was sent is gone.
    pub(crate) fn of(rest: Payload, upload: &Rc<Upload>) -> Option<Payload> {
        let rest = match rest {
            Payload::Replay(former) => former.rest,
            // Known whole, it is kept elsewhere if at all; translated, it is begun anew only as long
            // as nothing of it was translated.
            Payload::Whole(None, None) | Payload::Request(..) => rest,
            Payload::Translated(_) if !upload.has_begun() => return Some(rest),
            _ => return None,
        };
        let sent = upload.sent().pieces()?;
        if sent.is_empty() {
            return Some(rest);
        }
        upload.begin_again();
        let upload = upload.clone();
        Some(Payload::Replay(Box::new(Self { sent, rest, upload })))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(piece) = self.sent.pop_front() {
            self.is_ended();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    /// Whether all of it was given; then the upload is finished.
    pub(crate) fn is_ended(&self) -> bool {
        let ended = self.sent.is_empty() && self.rest.is_end_stream();
        if ended {
            self.upload.finish();
        }
        ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let sent = self.sent.iter().map(Bytes::len).sum::<usize>() as u64;
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(sent + rest),
            None => SizeHint::default(),
        }
    }
}
