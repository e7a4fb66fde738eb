//! One framed call on its way: attempts, waiting for a registry, answers and refusals.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::filter::Decided;
use crate::frame::{Answer, Edit, Head, Metadata, Reading};
use crate::mesh::{
    Attempt, AttemptEnd, DeadlineOwner, Exchange, Fitting, Lease, Propagated, Resend, Routed, Stall,
};
use crate::rejection::Rejection;
use crate::trace::Field;

use super::hedge::{self, Hedge};
use super::pool;
use super::reply::{Reply, Waiting};
use super::shadow;
use super::survey::{CallPlace, WaitsFor};
use super::worker::Worker;

/// A call on its way: everything that is needed to answer its caller, or to send it again. It is made
/// once, in a box: it passes through many hands, and copying it from one to the next costs more than
/// one allocation.
pub(crate) struct Call {
    pub(crate) reply: Rc<dyn Reply>,
    pub(crate) head: Head,
    pub(crate) exchange: Exchange,
    /// The attempt under way; `None` before the first, and between two.
    pub(crate) lease: Option<Lease>,
    /// The request's bytes, if it may have to be sent (again).
    pub(crate) wire: Option<Bytes>,
    /// What it knows of an attempt beside the one under way; nothing where there is none to be.
    pub(super) hedge: Option<Box<Hedge>>,
}

impl Call {
    /// When the attempt under way is given up.
    pub(crate) fn deadline(&self) -> Now {
        self.lease
            .as_ref()
            .map_or(Now(u64::MAX), |lease| lease.deadline)
    }

    /// When it has to be looked at: its attempt is given up then, or another is made beside it.
    pub(super) fn due(&self) -> Now {
        match &self.hedge {
            None => self.deadline(),
            Some(hedge) => self.deadline().min(hedge.at()),
        }
    }

    /// Who set that deadline, now that it has passed.
    pub(crate) fn whose_deadline(&self, stall: Stall) -> DeadlineOwner {
        self.lease.as_ref().map_or(DeadlineOwner::Route, |lease| {
            self.exchange.whose_deadline(lease, stall)
        })
    }

    /// What the attempt under way has to say beside the request's own words.
    pub(crate) fn fitting(&self) -> Option<Fitting> {
        let lease = self.lease.as_ref()?;
        self.exchange.fitting(lease)
    }

    /// What the attempt under way carries of its trace's context.
    pub(crate) fn propagated(&self) -> &[Field] {
        self.lease.as_ref().map_or(&[], Lease::propagated)
    }

    /// The same, to be sent now: it is sent once.
    pub(crate) fn take_propagated(&mut self) -> Option<Propagated> {
        self.lease.as_mut()?.take_propagated()
    }

    /// Keeps the request's bytes.
    pub(crate) fn keep(&mut self, wire: &[u8]) {
        self.wire
            .get_or_insert_with(|| Bytes::copy_from_slice(wire));
    }

    /// Ends the attempt under way; whether another one follows, for which the bytes are there.
    fn conclude(&mut self, end: AttemptEnd) -> bool {
        // Its place is free before anything else is done.
        let Some(mut lease) = self.lease.take() else {
            return false;
        };
        let resend = if self.wire.is_some() {
            Resend::Possible
        } else {
            Resend::Impossible
        };
        self.exchange.conclude(&mut lease, end, resend)
    }
}

/// What frames on one upstream connection must have in common.
pub(super) fn pool_variant(head: &Head, metadata: &Metadata<'_>) -> u8 {
    head.variant ^ metadata.writer << 4
}

// === Attempts ===

/// Makes the first attempt of a call that was just read.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    mut call: Box<Call>,
    metadata: &Metadata<'_>,
    wire: &[u8],
) {
    if call.exchange.has_edits() && edited(&call, wire).is_none() {
        let why = call.exchange.cannot_be_changed();
        return refuse(worker, call, why);
    }
    match attempt(worker, &mut call, metadata, wire) {
        Ok(Attempt::Go(lease)) => transmit(worker, call, lease, metadata, wire),
        Ok(Attempt::Wait(cluster)) => {
            call.keep(wire);
            park(worker, call, cluster);
        }
        Err(rejection) => refuse(worker, call, rejection),
    }
}

/// A call with what filters change about it, as its endpoint is to get it; `None` if that is not there once it is
/// written: not every frame has room for it, and what an endpoint must not get, or must, is no matter of luck.
pub(super) fn edited(call: &Call, wire: &[u8]) -> Option<(Head, BytesMut)> {
    let codec = call.reply.codec();
    let edits = call.exchange.edited();
    let attributes: Vec<(&str, &str)> = edits
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let edit = Edit {
        id: call.head.id,
        attributes: &attributes,
        ..Edit::default()
    };
    let mut written = BytesMut::new();
    let used = codec.encode(&call.head, wire, &edit, &mut written);
    written.extend_from_slice(wire.get(used..).unwrap_or_default());
    let head = codec.peek(&written).ok()??;
    let Ok(Reading::Call(metadata)) = codec.read(&head, &written) else {
        return None;
    };
    let is_there = attributes.iter().all(|(name, value)| {
        let found = codec.attribute(&written, &metadata, name);
        found.as_deref().unwrap_or_default() == *value
    });
    drop(metadata);
    is_there.then_some((head, written))
}

fn attempt(
    worker: &Worker,
    call: &mut Call,
    metadata: &Metadata<'_>,
    wire: &[u8],
) -> Result<Attempt, Rejection> {
    let Call {
        reply, exchange, ..
    } = call;
    exchange.attempt(worker, &mut |name| reply.attribute(wire, metadata, name))
}

/// Hands one attempt to a connection of the leased endpoint.
fn transmit(
    worker: &Rc<Worker>,
    mut call: Box<Call>,
    lease: Lease,
    metadata: &Metadata<'_>,
    wire: &[u8],
) {
    let variant = pool_variant(&call.head, metadata);
    let pool = pool::of(worker, &lease.local_endpoint, &call.reply, variant);
    call.lease = Some(lease);
    let sent = match pool.choose(worker) {
        Some(upstream) => upstream.send(worker, call, wire),
        None => Err(call),
    };
    // Its connections take no more: nothing was sent, so another endpoint may be asked.
    if let Err(mut call) = sent {
        call.keep(wire);
        settle(call, worker, AttemptEnd::Unsent, Rejection::Overloaded);
    }
}

/// Tries (again) to send a call whose bytes were kept; if no attempt is to be had, its caller
/// learns `cause`.
fn try_again(worker: &Rc<Worker>, call: Box<Call>, cause: Rejection) {
    let first = call.exchange.attempts() == 0;
    if let Err((call, rejection)) = attempt_again(worker, call) {
        refuse(worker, call, if first { rejection } else { cause });
    }
}

/// Sends a call whose bytes were kept (again); gives it back if no attempt is to be had.
fn attempt_again(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<(), (Box<Call>, Rejection)> {
    if call.reply.is_gone() {
        call.reply.finished(worker);
        return Ok(());
    }
    let wire = call.wire.clone().unwrap_or_default();
    let codec = call.reply.codec().clone();
    let metadata = match codec.read(&call.head, &wire) {
        Ok(Reading::Call(metadata)) => metadata,
        // It was read before.
        Ok(Reading::Answer(_)) | Err(_) => return Err((call, Rejection::BadRequest)),
    };
    match attempt(worker, &mut call, &metadata, &wire) {
        Ok(Attempt::Go(lease)) => transmit(worker, call, lease, &metadata, &wire),
        Ok(Attempt::Wait(cluster)) => park(worker, call, cluster),
        Err(rejection) => return Err((call, rejection)),
    }
    Ok(())
}

// === Waiting for a filter ===

/// Keeps a call until the filter has decided that it waits for, its deadline passes, its client is gone or draining
/// takes too long.
pub(crate) fn wait_for_filter(worker: &Rc<Worker>, mut call: Box<Call>) {
    let Some(wait) = call.exchange.take_wait() else {
        return refuse(worker, call, Rejection::Denied);
    };
    let Some(room) = Room::take_for(worker, &call) else {
        return refuse(worker, call, Rejection::Overloaded);
    };
    let place = CallPlace::take(worker, &call.exchange, WaitsFor::Filter);
    let worker = worker.clone();
    worker
        .clone()
        .spawn("a call that waits for a filter", async move {
            let waited = wait_until(&worker, &call, wait).await;
            worker.read_clock();
            drop((room, place));
            match waited {
                Ok(decided) => go_on(&worker, call, decided),
                Err(Waited::Gone) => call.reply.finished(&worker),
                Err(Waited::Draining) => refuse(&worker, call, Rejection::Draining),
                Err(Waited::Late) => refuse(&worker, call, Rejection::DeadlineExceeded),
            }
        });
}

/// Goes on with a call about which a filter has decided.
fn go_on(worker: &Rc<Worker>, mut call: Box<Call>, decided: Decided) {
    let wire = call.wire.clone().unwrap_or_default();
    let codec = call.reply.codec().clone();
    let Ok(Reading::Call(metadata)) = codec.read(&call.head, &wire) else {
        // It was read before.
        return refuse(worker, call, Rejection::BadRequest);
    };
    let Call {
        reply, exchange, ..
    } = &mut *call;
    let mut attributes = |name: &str| reply.attribute(&wire, &metadata, name);
    exchange.decided(decided, worker, reply.identity(), &mut attributes);
    match call.exchange.routed() {
        Ok(Routed::Onward) => {
            if call.exchange.is_copied() {
                let source = call.exchange.source();
                shadow::copy(worker, &mut call, source, &metadata, &wire);
            }
            call.wire = None;
            begin(worker, call, &metadata, &wire);
        }
        Ok(Routed::Waits) => wait_for_filter(worker, call),
        Ok(Routed::Here) => refuse(worker, call, Rejection::Denied),
        Err(rejection) => refuse(worker, call, rejection),
    }
}

// === Waiting for a registry ===

/// Room for a call that waits, of its client's share; given back when it waits no more.
struct Room {
    worker: Rc<Worker>,
    client: IpAddr,
    bytes: usize,
}

impl Room {
    fn take_for(worker: &Rc<Worker>, call: &Call) -> Option<Self> {
        let client = call.exchange.source();
        let bytes = call.wire.as_ref().map_or(0, Bytes::len);
        worker.reserve_waiting(client, bytes).then(|| Self {
            worker: worker.clone(),
            client,
            bytes,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.worker.release_waiting(self.client, self.bytes);
    }
}

/// One of the lookups that a client may wait for.
struct LookingUp {
    reply: Rc<dyn Reply>,
    cluster: usize,
}

impl LookingUp {
    fn begin(reply: &Rc<dyn Reply>, cluster: &Arc<Cluster>) -> Option<Self> {
        let cluster = Arc::as_ptr(cluster).addr();
        reply.begin_lookup(cluster).then(|| Self {
            reply: reply.clone(),
            cluster,
        })
    }
}

impl Drop for LookingUp {
    fn drop(&mut self) {
        self.reply.end_lookup(self.cluster);
    }
}

/// Keeps a call until its service's first snapshot is there, its deadline passes, its client is gone
/// or draining takes too long.
fn park(worker: &Rc<Worker>, call: Box<Call>, cluster: Arc<Cluster>) {
    let looking_up = LookingUp::begin(&call.reply, &cluster);
    let room = looking_up.and_then(|own| Some((own, Room::take_for(worker, &call)?)));
    let Some(room) = room else {
        return refuse(worker, call, Rejection::Overloaded);
    };
    let place = CallPlace::take(worker, &call.exchange, WaitsFor::Registry);
    let worker = worker.clone();
    worker
        .clone()
        .spawn("a call that waits for a registry", async move {
            let waited = wait_until(&worker, &call, cluster.until_ready()).await;
            worker.read_clock();
            drop((room, place));
            match waited {
                Ok(()) => try_again(&worker, call, Rejection::NoService),
                Err(Waited::Gone) => call.reply.finished(&worker),
                Err(Waited::Draining) => refuse(&worker, call, Rejection::Draining),
                Err(Waited::Late) => {
                    worker.warn_of_registry(cluster.name());
                    refuse(&worker, call, Rejection::DeadlineExceeded);
                }
            }
        });
}

/// Why a call waits no more.
#[derive(Clone, Copy)]
enum Waited {
    Late,
    Gone,
    Draining,
}

/// Waits for something as long as anybody waits for the call.
async fn wait_until<T>(
    worker: &Worker,
    call: &Call,
    until: impl Future<Output = T>,
) -> Result<T, Waited> {
    let deadline = worker.mesh().clock.instant(call.exchange.deadline);
    let mut until = pin!(tokio::time::timeout_at(deadline, until));
    loop {
        // Made before the flags are read, so that no change between the two is missed.
        let changed = worker.waiting_changed();
        match call.reply.waiting() {
            Waiting::Gone => return Err(Waited::Gone),
            Waiting::GivenUp => return Err(Waited::Late),
            Waiting::Yes => {}
        }
        if worker.is_aborting() {
            return Err(Waited::Draining);
        }
        tokio::select! {
            // By order and not by lot: a simulation has to be able to repeat it.
            biased;
            ready = &mut until => return ready.map_err(|_| Waited::Late),
            () = changed => {}
        }
    }
}

// === Answers ===

/// Passes an answer on to its caller, or tries elsewhere where the table of verdicts says so. The
/// answer is only given up for an attempt that can really be made.
pub(crate) fn deliver(
    mut call: Box<Call>,
    worker: &Rc<Worker>,
    head: &Head,
    wire: &[u8],
    answer: Answer,
) {
    if call.hedge.is_some() {
        if Exchange::is_left_to_other(answer.outcome) {
            let end = AttemptEnd::Answered(answer.outcome);
            match hedge::stay_with_second(worker, call, end) {
                Ok(()) => return,
                Err(given_back) => call = given_back,
            }
        }
        hedge::give_up_second(&mut call);
    }
    if call.conclude(AttemptEnd::Answered(answer.outcome)) {
        match attempt_again(worker, call) {
            Ok(()) => return,
            Err((given_back, _)) => call = given_back,
        }
    }
    call.exchange.end_tap(&answer);
    if call.exchange.drops_answer() {
        // As if it had been lost on the way; who waits for it gives up in its own time.
        call.exchange.answered(answer, 0);
    } else if !call.reply.is_gone() {
        call.reply.deliver(worker, &call.head, head, wire);
        call.exchange.answered(answer, wire.len());
        if let Some(lag) = call.reply.codec().lag(&call.head, head) {
            call.exchange.lags(lag);
        }
    }
    call.reply.finished(worker);
}

/// Deals with an attempt that came to nothing: another one where that is safe, else the mesh's own
/// answer `why`.
pub(crate) fn settle(mut call: Box<Call>, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
    if call.hedge.is_some() {
        match hedge::stay_with_second(worker, call, end) {
            Ok(()) => return,
            Err(given_back) => call = given_back,
        }
        hedge::give_up_second(&mut call);
    }
    if call.conclude(end) {
        try_again(worker, call, why);
    } else {
        refuse(worker, call, why);
    }
}

/// Answers in the service's place.
pub(crate) fn refuse(worker: &Rc<Worker>, mut call: Box<Call>, why: Rejection) {
    let Call {
        reply,
        head,
        exchange,
        ..
    } = &mut *call;
    if !reply.is_gone() {
        let text = exchange.explain(why);
        tracing::debug!(
            protocol = reply.protocol(),
            text = exchange.explain_in_full(why),
            "rejected"
        );
        exchange.rejected(why);
        exchange.set_status(reply.reject(worker, head, why, &text));
    }
    reply.finished(worker);
}
