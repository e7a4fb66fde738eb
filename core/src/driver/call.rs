//! One framed call on its way: attempts, waiting for a registry, answers and refusals.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::frame::{Head, Metadata, Outcome, Reading};
use crate::mesh::{Attempt, AttemptEnd, Exchange, Lease, Resend};
use crate::rejection::Rejection;

use super::pool;
use super::reply::{Reply, Waiting};
use super::worker::Worker;

/// A call on its way: everything that is needed to answer its caller, or to send it again. It is made
/// once, in a box: it passes through many hands, and copying it from one to the next costs more than
/// one allocation.
pub(crate) struct Call {
    pub(crate) reply: Rc<dyn Reply>,
    pub(crate) head: Head,
    pub(crate) exchange: Exchange,
    pub(crate) lease: Lease,
    /// The request's bytes, if it may have to be sent (again).
    pub(crate) wire: Option<Bytes>,
}

/// A request with its bytes kept, between two attempts.
pub(crate) struct Request {
    pub(crate) reply: Rc<dyn Reply>,
    pub(crate) head: Head,
    pub(crate) wire: Bytes,
    pub(crate) exchange: Exchange,
}

/// What frames on one upstream connection must have in common.
fn pool_variant(head: &Head, metadata: &Metadata<'_>) -> u8 {
    head.variant ^ metadata.writer << 4
}

// === Attempts ===

/// Makes the first attempt of a call that was just read.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    reply: &Rc<dyn Reply>,
    head: Head,
    metadata: &Metadata<'_>,
    wire: &[u8],
    mut exchange: Exchange,
) {
    let mut attributes = |name: &str| reply.attribute(wire, metadata, name);
    match exchange.attempt(worker, &mut attributes) {
        Ok(Attempt::Go(lease)) => {
            let variant = pool_variant(&head, metadata);
            transmit(worker, reply, (head, variant), wire, None, exchange, lease);
        }
        Ok(Attempt::Wait(cluster)) => {
            let request = Request {
                reply: reply.clone(),
                head,
                wire: Bytes::copy_from_slice(wire),
                exchange,
            };
            park(worker, request, cluster);
        }
        Err(rejection) => refuse(worker, &**reply, &head, exchange, rejection),
    }
}

/// Hands one attempt to a connection of the leased endpoint.
fn transmit(
    worker: &Rc<Worker>,
    reply: &Rc<dyn Reply>,
    (head, variant): (Head, u8),
    wire: &[u8],
    retained: Option<Bytes>,
    mut exchange: Exchange,
    mut lease: Lease,
) {
    let pool = pool::of(worker, &lease.seat, &**reply, variant);
    let Some(upstream) = pool.choose(worker) else {
        // Its connections take no more: nothing was sent, so another endpoint may be asked.
        let again = exchange.conclude(&mut lease, AttemptEnd::Unsent, Resend::Possible);
        drop(lease);
        let wire = retained.unwrap_or_else(|| Bytes::copy_from_slice(wire));
        let request = Request {
            reply: reply.clone(),
            head,
            wire,
            exchange,
        };
        return next(worker, request, again, Rejection::Overloaded);
    };
    let call = Box::new(Call {
        reply: reply.clone(),
        head,
        exchange,
        lease,
        wire: retained,
    });
    if let Err(mut call) = upstream.send(worker, call, wire) {
        call.wire
            .get_or_insert_with(|| Bytes::copy_from_slice(wire));
        settle(call, worker, AttemptEnd::Unsent, Rejection::Overloaded);
    }
}

/// Another attempt, or else the answer `cause`.
fn next(worker: &Rc<Worker>, request: Request, again: bool, cause: Rejection) {
    if again {
        try_again(worker, request, cause);
    } else {
        let Request {
            reply,
            head,
            exchange,
            ..
        } = request;
        refuse(worker, &*reply, &head, exchange, cause);
    }
}

/// Tries (again) to send a call whose bytes were kept; if no attempt is to be had, its caller
/// learns `cause`.
fn try_again(worker: &Rc<Worker>, request: Request, cause: Rejection) {
    let first = request.exchange.attempts() == 0;
    if let Err((request, rejection)) = attempt_again(worker, request) {
        let why = if first { rejection } else { cause };
        let Request {
            reply,
            head,
            exchange,
            ..
        } = request;
        refuse(worker, &*reply, &head, exchange, why);
    }
}

/// Sends a call whose bytes were kept (again); gives it back if no attempt is to be had.
#[expect(
    clippy::result_large_err,
    reason = "the error is the call itself, given back"
)]
fn attempt_again(worker: &Rc<Worker>, request: Request) -> Result<(), (Request, Rejection)> {
    let Request {
        reply,
        head,
        wire,
        mut exchange,
    } = request;
    if reply.is_gone() {
        reply.finished(worker);
        return Ok(());
    }
    let codec = reply.codec().clone();
    let attempt = match codec.read(&head, &wire) {
        Ok(Reading::Call(metadata)) => {
            let mut attributes = |name: &str| reply.attribute(&wire, &metadata, name);
            let attempt = exchange.attempt(worker, &mut attributes);
            attempt.map(|attempt| (attempt, pool_variant(&head, &metadata)))
        }
        // It was read before.
        Ok(Reading::Answer(_)) | Err(_) => Err(Rejection::BadRequest),
    };
    match attempt {
        Ok((Attempt::Go(lease), variant)) => {
            let kept = Some(wire.clone());
            transmit(
                worker,
                &reply,
                (head, variant),
                &wire,
                kept,
                exchange,
                lease,
            );
            Ok(())
        }
        Ok((Attempt::Wait(cluster), _)) => {
            let request = Request {
                reply,
                head,
                wire,
                exchange,
            };
            park(worker, request, cluster);
            Ok(())
        }
        Err(rejection) => {
            let request = Request {
                reply,
                head,
                wire,
                exchange,
            };
            Err((request, rejection))
        }
    }
}

// === Waiting for a registry ===

/// Room for a call that waits, given back when it waits no more.
struct Room {
    worker: Rc<Worker>,
    reply: Rc<dyn Reply>,
    bytes: usize,
    cluster: usize,
}

impl Room {
    fn take(worker: &Rc<Worker>, request: &Request, cluster: &Arc<Cluster>) -> Option<Self> {
        let (bytes, cluster) = (request.wire.len(), Arc::as_ptr(cluster).addr());
        if !request.reply.begin_lookup(cluster) {
            return None;
        }
        if !worker.reserve_pending(bytes) {
            request.reply.end_lookup(cluster);
            return None;
        }
        Some(Self {
            worker: worker.clone(),
            reply: request.reply.clone(),
            bytes,
            cluster,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.worker.release_pending(self.bytes);
        self.reply.end_lookup(self.cluster);
    }
}

/// Keeps a call until its service's first snapshot is there, its deadline passes, its client is gone
/// or draining takes too long.
fn park(worker: &Rc<Worker>, request: Request, cluster: Arc<Cluster>) {
    let Some(room) = Room::take(worker, &request, &cluster) else {
        let Request {
            reply,
            head,
            exchange,
            ..
        } = request;
        return refuse(worker, &*reply, &head, exchange, Rejection::Overloaded);
    };
    let worker = worker.clone();
    worker
        .clone()
        .spawn("a call that waits for a registry", async move {
            let ended = wait(&worker, &request, &cluster).await;
            worker.read_clock();
            drop(room);
            let Request {
                reply,
                head,
                exchange,
                ..
            } = match ended {
                Waited::Ready => return try_again(&worker, request, Rejection::NoService),
                Waited::Gone => return request.reply.finished(&worker),
                Waited::Late | Waited::Draining => request,
            };
            let why = match ended {
                Waited::Draining => Rejection::Draining,
                _ => {
                    worker.warn_of_registry(cluster.name());
                    Rejection::DeadlineExceeded
                }
            };
            refuse(&worker, &*reply, &head, exchange, why);
        });
}

#[derive(Clone, Copy)]
enum Waited {
    Ready,
    Late,
    Gone,
    Draining,
}

async fn wait(worker: &Worker, request: &Request, cluster: &Cluster) -> Waited {
    let deadline = worker.mesh().clock.instant(request.exchange.deadline);
    loop {
        // Made before the flags are read, so that no change between the two is missed.
        let changed = worker.waiting_changed();
        match request.reply.waiting() {
            Waiting::Gone => return Waited::Gone,
            Waiting::GivenUp => return Waited::Late,
            Waiting::Yes => {}
        }
        if worker.is_aborting() {
            return Waited::Draining;
        }
        tokio::select! {
                // By order and not by lot: a simulation has to be able to repeat it.
                biased;
            ready = tokio::time::timeout_at(deadline, cluster.until_ready()) => {
                return if ready.is_ok() { Waited::Ready } else { Waited::Late };
            }
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
    outcome: Outcome,
) {
    let end = AttemptEnd::Answered(outcome);
    let resend = resend(&call);
    let again = call.exchange.conclude(&mut call.lease, end, resend);
    drop(call.lease);
    if let Some(kept) = call.wire.take().filter(|_| again) {
        let request = Request {
            reply: call.reply.clone(),
            head: call.head,
            wire: kept,
            exchange: call.exchange,
        };
        match attempt_again(worker, request) {
            Ok(()) => return,
            Err((request, _)) => call.exchange = request.exchange,
        }
    }
    let reply = call.reply;
    if !reply.is_gone() {
        reply.deliver(worker, &call.head, head, wire);
        call.exchange.answered(outcome, wire.len());
    }
    reply.finished(worker);
}

/// Deals with an attempt that came to nothing: another one where that is safe, else the mesh's own
/// answer `why`.
pub(crate) fn settle(mut call: Box<Call>, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
    let resend = resend(&call);
    let again = call.exchange.conclude(&mut call.lease, end, resend);
    let Call {
        reply,
        head,
        exchange,
        lease,
        wire,
        ..
    } = *call;
    drop(lease);
    match wire {
        Some(wire) if again => {
            let request = Request {
                reply,
                head,
                wire,
                exchange,
            };
            try_again(worker, request, why);
        }
        _ => refuse(worker, &*reply, &head, exchange, why),
    }
}

fn resend(call: &Call) -> Resend {
    if call.wire.is_some() {
        Resend::Possible
    } else {
        Resend::Impossible
    }
}

/// Answers in the service's place.
pub(crate) fn refuse(
    worker: &Rc<Worker>,
    reply: &dyn Reply,
    head: &Head,
    mut exchange: Exchange,
    why: Rejection,
) {
    if !reply.is_gone() {
        let text = exchange.explain(why);
        tracing::debug!(protocol = reply.protocol(), text, "rejected");
        reply.reject(worker, head, why, &text);
        exchange.rejected(why);
    }
    reply.finished(worker);
}
