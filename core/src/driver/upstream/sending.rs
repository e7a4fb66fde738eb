//! Requests onto a connection: an id for each, and back-pressure, which stops reading from whoever sends too much.

use std::rc::Rc;

use crate::clock::Now;
use crate::frame::{Edit, Head, Kind};
use crate::mesh::Fitting;
use crate::trace::Field;

use super::super::call::Call;
use super::super::hedge;
use super::super::reply::Reply;
use super::super::worker::Worker;
use super::super::write_queue::WriteQueue;
use super::{Entry, State, Upstream};

/// Deadlines of connections that are one client's own are looked at in steps of so many microseconds.
const STEP: u64 = 250_000;

impl Upstream {
    /// Sends a call, or keeps it until the connection is made. Gives the call back if it cannot
    /// be taken.
    pub(crate) fn send(
        self: &Rc<Self>,
        worker: &Worker,
        mut call: Box<Call>,
        wire: &[u8],
    ) -> Result<(), Box<Call>> {
        self.called.set(worker.now());
        let open = self
            .link
            .get()
            .filter(|_| self.state.get() != State::Connecting);
        let Some(link) = open else {
            return self.keep(worker, call, wire);
        };
        self.last_head.set(Some(call.head));
        let (queued, limits) = (link.queued(), worker.limits());
        let (holds, full) = (queued > holds_above(&limits), queued > limits.queue_hard);
        drop(limits);
        if holds {
            self.pause_reading(worker, &call.reply);
        }
        if full {
            return Err(call);
        }
        let head = call.head;
        let fitting = call.fitting();
        let propagated = call.take_propagated().unwrap_or_default();
        if head.kind == Kind::OneWay {
            let id = self.table.borrow_mut().one_way_id();
            self.put(
                worker,
                link,
                (&head, fitting.as_ref(), &propagated),
                wire,
                id,
            );
            call.exchange.sent();
            call.reply.finished(worker);
            return Ok(());
        }
        if call.exchange.may_need_resending() {
            call.keep(wire);
            hedge::arm(&mut call, self, worker.now());
        }
        let id = self.enter(worker, call)?;
        self.put(
            worker,
            link,
            (&head, fitting.as_ref(), &propagated),
            wire,
            id,
        );
        Ok(())
    }

    pub(super) fn keep(
        self: &Rc<Self>,
        worker: &Worker,
        mut call: Box<Call>,
        wire: &[u8],
    ) -> Result<(), Box<Call>> {
        let before = self.waiting_bytes.get();
        // Compared before this one is added: a frame within its limit is never too much alone.
        if before > worker.limits().queue_hard {
            return Err(call);
        }
        self.waiting_bytes.set(before + wire.len());
        call.keep(wire);
        if call.head.kind == Kind::OneWay {
            self.waiting.borrow_mut().push(call);
            return Ok(());
        }
        if call.exchange.may_need_resending() {
            hedge::arm(&mut call, self, worker.now());
        }
        self.enter(worker, call).map(|_| ())
    }

    /// Gives the call an id.
    pub(super) fn enter(&self, worker: &Worker, call: Box<Call>) -> Result<u64, Box<Call>> {
        let mut deadline = call.due();
        if self.pool.owner.is_some() {
            // Many clients with few calls each: they are looked at together.
            deadline = Now(deadline.0.div_ceil(STEP).saturating_mul(STEP));
        }
        let entered = self.table.borrow_mut().insert(Entry::Call(call));
        let id = entered.map_err(|entry| match entry {
            Entry::Call(call) => call,
            Entry::Second(_) | Entry::Ping => unreachable!("a call went in"),
        })?;
        self.expect(worker, deadline);
        Ok(id)
    }

    pub(super) fn expect(&self, worker: &Worker, deadline: Now) {
        if deadline < self.earliest.get() {
            self.earliest.set(deadline);
            worker.expect_deadline(deadline);
        }
    }

    pub(super) fn put(
        &self,
        worker: &Worker,
        link: &Rc<WriteQueue>,
        (head, fitting, propagated): (&Head, Option<&Fitting>, &[Field]),
        wire: &[u8],
        id: u64,
    ) {
        let propagated: Vec<(&str, &str)> = propagated
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        link.append(worker, |out| {
            let edit = Edit {
                id,
                attributes: &propagated,
                fit: fitting.map(Fitting::fit),
                body: None,
                onward: true,
            };
            let used = self.pool.codec.encode(head, wire, &edit, out);
            out.extend_from_slice(wire.get(used..).unwrap_or_default());
        });
    }

    /// The peer does not read fast enough: stops reading from the client that sends to it.
    pub(super) fn pause_reading(&self, worker: &Worker, reply: &Rc<dyn Reply>) {
        if self.full_since.get().is_none() {
            self.full_since.set(Some(worker.now()));
        }
        if !self.stalled.get() && reply.pause() {
            self.paused.borrow_mut().push(reply.clone());
        }
    }

    pub(super) fn resume_reading(&self) {
        let paused = self.paused.take();
        for reply in paused {
            reply.resume();
        }
    }

    pub(super) fn send_waiting(self: &Rc<Self>, worker: &Worker, link: &Rc<WriteQueue>) {
        let mut table = self.table.borrow_mut();
        // Nothing was sent yet, so no answer can come for what was given up meanwhile.
        table.release_abandoned();
        for (id, entry) in table.iter_mut() {
            let call = match entry {
                Entry::Call(call) => call,
                Entry::Second(own) => {
                    self.last_head.set(Some(own.head));
                    let parts = (&own.head, own.fitting.as_ref(), own.lease.propagated());
                    self.put(worker, link, parts, &own.wire, id);
                    continue;
                }
                Entry::Ping => continue,
            };
            self.last_head.set(Some(call.head));
            if let Some(wire) = &call.wire {
                self.put(
                    worker,
                    link,
                    (&call.head, call.fitting().as_ref(), call.propagated()),
                    wire,
                    id,
                );
            }
            if !call.exchange.may_need_resending() {
                call.wire = None;
            }
        }
        drop(table);
        self.send_one_ways(worker, link);
    }

    pub(super) fn send_one_ways(&self, worker: &Worker, link: &Rc<WriteQueue>) {
        for mut call in self.waiting.take() {
            let id = self.table.borrow_mut().one_way_id();
            if let Some(wire) = call.wire.take() {
                let fitting = call.fitting();
                let parts = (&call.head, fitting.as_ref(), call.propagated());
                self.put(worker, link, parts, &wire, id);
            }
            call.exchange.sent();
            call.reply.finished(worker);
        }
    }

    /// Lets held clients go on once half of what held them is written.
    pub(super) fn resume_if_drained(&self, worker: &Worker, link: &WriteQueue) {
        if self.full_since.get().is_some() && link.queued() <= holds_above(&worker.limits()) / 2 {
            self.full_since.set(None);
            self.stalled.set(false);
            self.resume_reading();
        }
    }
}

/// A client is held while this much waits to be written to the endpoint: less would let one large
/// frame hold up what the same client sends to others.
pub(super) fn holds_above(limits: &crate::mesh::Limits) -> usize {
    limits.queue_soft.max(limits.queue_hard / 2)
}
