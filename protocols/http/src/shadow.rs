//! Copies of requests for a shadow: made when the endpoint begins to answer, so that the request itself never waits
//! for them, and only of bodies that were small enough to be kept until then.

use std::rc::Rc;

use bytes::Bytes;
use finback_core::driver::{ShadowRoom, Shadowed, Worker};
use http::request::Parts;

use crate::body::Payload;

/// What a head weighs, near enough for what copies may take.
const HEAD: usize = 1024;

/// What a copy is made of.
pub(crate) struct Shadowing {
    pub(crate) shadow: Shadowed,
    /// The request's head as it was before the first attempt.
    pub(crate) head: Parts,
}

/// A copy that may go. Dropped, it gives its room back.
pub(crate) struct Ready {
    pub(crate) copy: Box<Shadowing>,
    body: Bytes,
    _room: ShadowRoom,
}

impl Ready {
    /// The copy with its body, if there is room for it.
    pub(crate) fn of(copy: Box<Shadowing>, body: Bytes, worker: &Rc<Worker>) -> Option<Self> {
        let room = ShadowRoom::take(worker, body.len() + HEAD)?;
        Some(Self {
            copy,
            body,
            _room: room,
        })
    }

    /// Bytes of its body.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The body to send.
    pub(crate) fn payload(&self) -> Payload {
        Payload::whole(self.body.clone(), None)
    }
}
