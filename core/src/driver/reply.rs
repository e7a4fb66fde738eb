//! The receiver of an answer: a framed client, a bridge, or a probe.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use crate::codec::Codec;
use crate::frame::{Head, Metadata, Status};
use crate::identity::Identity;
use crate::net::ConnectionEnds;
use crate::rejection::Rejection;

use super::upstream::Upstream;
use super::worker::Worker;

/// Whether somebody still waits for answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It does.
    Yes,
    /// It closed its sending side so long ago that it is taken for gone; it is still told so.
    GivenUp,
    /// It is gone.
    Gone,
}

/// Whoever waits for the answers of calls. It says nothing of how it is connected.
pub(crate) trait Reply {
    /// What its frames are read and written by.
    fn codec(&self) -> &Arc<dyn Codec>;

    /// The name of its protocol.
    fn protocol(&self) -> &'static str;

    /// The number by which its own upstream connections are known; `None` if it shares those of all.
    fn owner(&self) -> Option<u64> {
        None
    }

    /// Whom endpoints see behind its own upstream connections.
    fn ends(&self) -> Option<ConnectionEnds> {
        None
    }

    /// Gives it a message that the endpoint of `from`, a connection of its own, sends of itself; false if
    /// it takes no more of those that want answers.
    fn called_back(
        &self,
        worker: &Rc<Worker>,
        from: &Rc<Upstream>,
        head: &Head,
        wire: &[u8],
    ) -> bool {
        let _ = (worker, from, head, wire);
        false
    }

    /// A connection of its own is gone, which had been made: it ends, too, if that was the last.
    fn end_session(&self, worker: &Worker) {
        let _ = worker;
    }

    /// Whether it still waits for its answers.
    fn waiting(&self) -> Waiting;

    /// Whether it is gone, so that nothing need be said to it.
    fn is_gone(&self) -> bool {
        self.waiting() == Waiting::Gone
    }

    /// Who it is by its certificate.
    fn identity(&self) -> Option<&Identity> {
        None
    }

    /// An attribute of one of its calls, or of the connection that it came over.
    fn attribute<'a>(
        &'a self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>>;

    /// Gives it the endpoint's answer to its call `asked`.
    fn deliver(&self, worker: &Rc<Worker>, asked: &Head, head: &Head, wire: &[u8]);

    /// Gives it the mesh's own answer to its call `asked`; returns that answer's status.
    fn reject(&self, worker: &Rc<Worker>, asked: &Head, why: Rejection, text: &str) -> Status;

    /// One of its calls begins to wait until this cluster is looked up; false if its calls wait for as
    /// many as may be.
    fn begin_lookup(&self, cluster: usize) -> bool;

    /// One of its calls waits no more.
    fn end_lookup(&self, cluster: usize);

    /// One of its calls is over, however it ended.
    fn finished(&self, worker: &Worker);

    /// Back-pressure: has it send nothing more for now; false if it cannot be held, or is already.
    fn pause(&self) -> bool;

    /// Takes one [`hold`](Self::hold) back.
    fn resume(&self);
}
