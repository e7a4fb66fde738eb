//! Hedging on a connection: second attempts among its calls, and calls that go over to theirs.

use std::rc::Rc;

use crate::mesh::AttemptEnd;

use super::super::call::Call;
use super::super::hedge::{Pair, Second};
use super::super::worker::Worker;
use super::sending::holds_above;
use super::{Entry, State, Upstream};

impl Upstream {
    /// Sends an attempt beside another one, or keeps it until the connection is made; false if it cannot be taken.
    pub(in crate::driver) fn send_second(
        self: &Rc<Self>,
        worker: &Worker,
        mut second: Box<Second>,
    ) -> bool {
        let limits = worker.limits();
        let (most, least) = (limits.queue_hard, holds_above(&limits));
        drop(limits);
        let deadline = second.lease.deadline;
        let link = self.link.get();
        let link = link.filter(|_| self.state.get() != State::Connecting);
        let (head, wire) = (second.head, second.wire.clone());
        match link {
            None => {
                let before = self.waiting_bytes.get();
                if before > most
                    || self
                        .table
                        .borrow_mut()
                        .insert(Entry::Second(second))
                        .is_err()
                {
                    return false;
                }
                self.waiting_bytes.set(before + wire.len());
            }
            Some(link) => {
                if link.queued() > least {
                    return false;
                }
                let fitting = second.fitting.take();
                let propagated = second.lease.take_propagated().unwrap_or_default();
                let Ok(id) = self.table.borrow_mut().insert(Entry::Second(second)) else {
                    return false;
                };
                self.last_head.set(Some(head));
                let parts = (&head, fitting.as_ref(), &*propagated);
                self.put(worker, link, parts, &wire, id);
            }
        }
        self.called.set(worker.now());
        self.expect(worker, deadline);
        true
    }

    /// Gives up the second attempt of a pair here, and takes it out.
    pub(in crate::driver) fn take_second(&self, pair: &Rc<Pair>) -> Option<Box<Second>> {
        let is_its = |entry: &Entry| match entry {
            Entry::Second(second) => Rc::ptr_eq(&second.pair, pair),
            Entry::Call(_) | Entry::Ping => false,
        };
        let taken = self.table.borrow_mut().abandon_where(is_its).pop();
        self.replace_if_blocked();
        match taken {
            Some(Entry::Second(second)) => Some(second),
            _ => None,
        }
    }

    /// Gives up the attempt of a call here, and takes the call out, since its second attempt was answered.
    pub(in crate::driver) fn take_call(&self, pair: &Rc<Pair>) -> Option<Box<Call>> {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => call.hedge.as_ref().is_some_and(|own| own.is_of(pair)),
            Entry::Second(_) | Entry::Ping => false,
        };
        let taken = self.table.borrow_mut().abandon_where(is_its).pop();
        self.replace_if_blocked();
        match taken {
            Some(Entry::Call(call)) => Some(call),
            _ => None,
        }
    }

    /// Tells the call of a second attempt, which is here, that that one came to nothing.
    pub(in crate::driver) fn end_second(&self, second: Second, end: AttemptEnd) {
        let mut table = self.table.borrow_mut();
        let call = table.iter_mut().find_map(|(_, entry)| match entry {
            Entry::Call(call) => {
                let hedge = call.hedge.as_ref();
                hedge
                    .is_some_and(|own| own.is_of(&second.pair))
                    .then_some(call)
            }
            Entry::Second(_) | Entry::Ping => None,
        });
        if let Some(call) = call
            && let Some(stays) = &call.lease
        {
            call.exchange.over(second.lease, end, stays);
        }
    }

    /// Puts a call whose first attempt came to nothing in the place of its second; gives it back if that is not here.
    pub(in crate::driver) fn promote(
        &self,
        mut call: Box<Call>,
        pair: &Rc<Pair>,
        end: AttemptEnd,
    ) -> Result<(), Box<Call>> {
        let mut table = self.table.borrow_mut();
        let place = table.iter_mut().find_map(|(_, entry)| match entry {
            Entry::Second(second) if Rc::ptr_eq(&second.pair, pair) => Some(entry),
            _ => None,
        });
        let Some(place) = place else {
            return Err(call);
        };
        let Entry::Second(second) = std::mem::replace(place, Entry::Ping) else {
            return Err(call);
        };
        let lost = call.lease.replace(second.lease);
        if let (Some(lost), Some(stays)) = (lost, &call.lease) {
            call.exchange.over(lost, end, stays);
        }
        *place = Entry::Call(call);
        Ok(())
    }
}
