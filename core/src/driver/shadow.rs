//! Shadow traffic: copies of calls that go to another cluster, and whose answers nobody hears.
//!
//! A copy is an exchange of its own, with its own id, deadline, record and endpoint; nothing that becomes of it is seen by
//! the call that it was made of. What copies may take is bounded for all of a worker: those beyond are left out and counted.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::codec::Codec;
use crate::frame::{Head, Metadata, Names, Reading, Status};
use crate::mesh::{Exchange, Routed};
use crate::rejection::Rejection;
use crate::route::Shadow;
use crate::stats::increment;
use crate::trace::Field;

use super::call::{self, Call};
use super::reply::{Reply, Waiting};
use super::worker::Worker;

/// Copies in flight in one worker, at most, and their bytes.
const MOST: usize = 1024;
const BYTES: usize = 16 * 1024 * 1024;

/// What copies take of a worker.
#[derive(Default)]
pub(crate) struct Taken {
    copies: Cell<usize>,
    bytes: Cell<usize>,
}

/// The shadow of a session's messages: they are copied one by one, over a session of our own.
#[derive(Clone, Debug)]
pub struct MessageShadow(pub(super) Arc<Shadow>);

impl MessageShadow {
    /// What tells it from other shadows.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.table
    }

    /// Whether the next message is copied.
    #[must_use]
    pub fn holds(&self, worker: &Worker) -> bool {
        self.0.share.holds(worker.random())
    }

    /// Names and values that tell copies of a protocol from other messages.
    pub fn marks(&self, protocol: &str) -> impl Iterator<Item = Field> {
        let marks = self.0.marks.iter();
        let marks =
            marks.filter(move |own| own.protocol.as_deref().is_none_or(|own| own == protocol));
        marks.map(|own| (own.name.to_string().into(), own.value.to_string()))
    }
}

/// Room for a copy; given back when dropped.
pub struct ShadowRoom {
    worker: Rc<Worker>,
    bytes: usize,
}

impl ShadowRoom {
    /// Room for a copy of so many bytes, if there is any; it is counted if there is none.
    #[must_use]
    pub fn take(worker: &Rc<Worker>, bytes: usize) -> Option<Self> {
        let Taken {
            copies,
            bytes: taken,
        } = worker.shadows();
        if copies.get() >= MOST || taken.get() + bytes > BYTES {
            increment(&worker.mesh().stats.shadows_dropped);
            return None;
        }
        copies.set(copies.get() + 1);
        taken.set(taken.get() + bytes);
        Some(Self {
            worker: worker.clone(),
            bytes,
        })
    }
}

impl Drop for ShadowRoom {
    fn drop(&mut self) {
        let Taken { copies, bytes } = self.worker.shadows();
        copies.set(copies.get().saturating_sub(1));
        bytes.set(bytes.get().saturating_sub(self.bytes));
    }
}

/// Tells the tap of its route of a framed call that goes on, and sends a copy of it, where the route asks for that.
pub(super) fn copy(
    worker: &Rc<Worker>,
    call: &mut Call,
    source: IpAddr,
    metadata: &Metadata<'_>,
    wire: &[u8],
) {
    if !tell(worker, call, metadata, wire) {
        return;
    }
    let Some(shadow) = call.exchange.shadow(worker) else {
        return;
    };
    let reply = &call.reply;
    // What is one client's own cannot be copied: its answers would come over its own connection.
    if reply.owner().is_some() {
        return;
    }
    let Some(room) = ShadowRoom::take(worker, wire.len()) else {
        return;
    };
    let copy = Rc::new(Copied {
        codec: reply.codec().clone(),
        protocol: reply.protocol(),
        room: Cell::new(Some(room)),
    });
    let resolved = worker.resolve_shadow(&shadow.table, copy.protocol, source, metadata);
    let mut attributes = |name: &str| copy.attribute(wire, metadata, name);
    let mut exchange = Exchange::open(
        worker,
        resolved,
        (source, wire.len()),
        None,
        metadata,
        &mut |_| metadata.refused,
        &mut attributes,
    );
    exchange.mark(
        &call.exchange,
        &shadow.marks,
        copy.protocol,
        &mut attributes,
    );
    let copied = Box::new(Call {
        reply: copy,
        head: call.head,
        exchange,
        lease: None,
        wire: None,
        hedge: None,
    });
    match copied.exchange.routed() {
        Ok(Routed::Onward) => call::begin(worker, copied, metadata, wire),
        Ok(Routed::Here | Routed::Waits) => call::refuse(worker, copied, Rejection::Denied),
        Err(rejection) => call::refuse(worker, copied, rejection),
    }
}

/// Tells the tap of a call's route of it, as its endpoint is to get it; false if it cannot get it so: then it goes no
/// further, and neither does anything of it.
fn tell(worker: &Rc<Worker>, call: &mut Call, metadata: &Metadata<'_>, wire: &[u8]) -> bool {
    if !call.exchange.has_edits() {
        call.exchange.begin_tap(worker, &call.head, metadata, wire);
        return true;
    }
    let Some((head, written)) = call::edited(call, wire) else {
        return false;
    };
    let codec = call.reply.codec().clone();
    if let Ok(Reading::Call(metadata)) = codec.read(&head, &written) {
        call.exchange.begin_tap(worker, &head, &metadata, &written);
    }
    true
}

/// Whoever waits for the answer to a copy: nobody.
struct Copied {
    codec: Arc<dyn Codec>,
    protocol: &'static str,
    room: Cell<Option<ShadowRoom>>,
}

impl Reply for Copied {
    fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    fn protocol(&self) -> &'static str {
        self.protocol
    }

    fn waiting(&self) -> Waiting {
        // Its record says how it ended.
        Waiting::Yes
    }

    fn attribute<'a>(
        &'a self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        if !metadata.names.may_share(Names::of(name.as_bytes())) {
            return None;
        }
        self.codec.attribute(wire, metadata, name)
    }

    fn deliver(&self, _: &Rc<Worker>, _: &Head, _: &Head, _: &[u8]) {}

    fn reject(&self, _: &Rc<Worker>, _: &Head, _: Rejection, _: &str) -> Status {
        Status::NONE
    }

    fn begin_lookup(&self, _: usize) -> bool {
        true
    }

    fn end_lookup(&self, _: usize) {}

    fn finished(&self, _: &Worker) {
        self.room.set(None);
    }

    fn pause(&self) -> bool {
        false
    }

    fn resume(&self) {}
}

/// A shadow that a call of a protocol that drives itself is copied to.
#[derive(Clone, Debug)]
pub struct Shadowed(pub(super) Arc<Shadow>);
