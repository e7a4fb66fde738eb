//! A request's body for one more attempt: what was sent of it already, then what is left.
//!
//! A request that its endpoint did not process goes on elsewhere. What was sent of its body is kept
//! for that, up to a bound, until the endpoint begins to answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

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

    /// Whether it was too much to keep, or is not kept any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.0.borrow(), State::Gone)
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

/// Such a body; or one that may be read before its endpoint takes it.
pub(crate) struct Replay {
    /// What stands ready.
    ready: VecDeque<io::Result<Frame<Bytes>>>,
    rest: Payload,
    upload: Rc<Upload>,
}

/// The same in two hands: an attempt's, and that of who [reads ahead](Replay::poll_whole).
pub(crate) type Shared = Rc<RefCell<Replay>>;

impl Replay {
    /// The body of which `rest` was not sent yet; `None` if what was sent is gone.
    pub(crate) fn of(rest: Payload, upload: &Rc<Upload>) -> Option<Payload> {
        let rest = match rest {
            Payload::Replay(former) => {
                std::mem::replace(&mut former.borrow_mut().rest, Payload::empty())
            }
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
        let ready = sent.into_iter().map(|piece| Ok(Frame::data(piece)));
        Some(Self::with(ready.collect(), rest, upload).1)
    }

    /// Makes of a request's body one that may be read before its endpoint takes it, unless all of it is there.
    pub(crate) fn share(body: &mut Payload, upload: &Rc<Upload>) -> Option<Shared> {
        match body {
            Payload::Replay(shared) => Some(shared.clone()),
            Payload::Request(..) => {
                let rest = std::mem::replace(body, Payload::empty());
                let (shared, payload) = Self::with(VecDeque::new(), rest, upload);
                *body = payload;
                Some(shared)
            }
            _ => None,
        }
    }

    fn with(
        ready: VecDeque<io::Result<Frame<Bytes>>>,
        rest: Payload,
        upload: &Rc<Upload>,
    ) -> (Shared, Payload) {
        let upload = upload.clone();
        let shared = Rc::new(RefCell::new(Self {
            ready,
            rest,
            upload,
        }));
        (shared.clone(), Payload::Replay(shared))
    }

    /// Reads on though its endpoint may not, until all of it is there; `None` if it is longer than what is kept, or broken.
    pub(crate) fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while !self.rest.is_end_stream() && !self.upload.sent().is_gone() {
            let Some(frame) = ready!(Pin::new(&mut self.rest).poll_frame(cx)) else {
                break;
            };
            let is_broken = frame.is_err();
            self.ready.push_back(frame);
            if is_broken {
                return Poll::Ready(None);
            }
        }
        if !self.ready.is_empty() {
            // It was read, not passed on.
            self.upload.begin_again();
        }
        Poll::Ready(self.upload.sent().whole())
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(frame) = self.ready.pop_front() {
            self.is_ended();
            return Poll::Ready(Some(frame));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    /// Whether all of it was given; then the upload is finished.
    pub(crate) fn is_ended(&self) -> bool {
        let ended = self.ready.is_empty() && self.rest.is_end_stream();
        if ended {
            self.upload.finish();
        }
        ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let ready = self.ready.iter().flatten();
        let ready: u64 = ready
            .filter_map(|frame| Some(frame.data_ref()?.len() as u64))
            .sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(ready + rest),
            None => SizeHint::default(),
        }
    }
}
