//! What a client of HTTP/1.1 waits for, and how it takes what comes.

use std::collections::{BTreeMap, VecDeque};

use super::super::client::Client;
use super::super::ledger::Ledger;
use super::super::tongue::{Call, number_in};
use super::{Message, Start, refusal, request, take};

/// What is to be answered next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The call of this id.
    Call(u64),
    /// Bytes that make no sense.
    Nonsense,
}

/// What a client wrote and has no answer to, the first of it first.
#[derive(Debug, Default)]
pub(crate) struct Order(VecDeque<Due>);

impl Order {
    /// Something is written.
    pub(crate) fn push(&mut self, due: Due) {
        self.0.push_back(due);
    }

    /// Takes an answer; whether it is the last of its connection.
    pub(crate) fn take(
        &mut self,
        (client, is_innocent): (usize, bool),
        waiting: &mut BTreeMap<u64, usize>,
        message: &Message,
        ledger: &mut Ledger,
    ) -> bool {
        let Start::Response(status) = message.start else {
            ledger.fault(format!("client {client} got a request"));
            return false;
        };
        if status < 200 {
            return false;
        }
        let call = match self.0.pop_front() {
            Some(Due::Call(id)) => waiting.get(&id).copied(),
            Some(Due::Nonsense) if message.number.is_none() && message.closes => return true,
            _ => None,
        };
        let Some(call) = call else {
            ledger.fault(format!(
                "client {client} got an answer to nothing that it asked: {message:?}"
            ));
            return message.closes;
        };
        let refused = refusal(message.number, status);
        ledger.answer_in_order(client, call, message.number, refused);
        if !message.is_whole {
            ledger.fault(format!("the answer of call {call} is not whole"));
        }
        // It may be told that a response broke off, or that its own request came too slowly.
        if message.closes && is_innocent && !matches!(status, 408 | 502) {
            ledger.fault(format!(
                "client {client} was told to go by {status}, and did no wrong"
            ));
        }
        message.closes
    }

    /// The connection ended in the middle of an answer: to this call.
    pub(crate) fn break_off(
        &mut self,
        client: usize,
        waiting: &BTreeMap<u64, usize>,
        part: &[u8],
        ledger: &mut Ledger,
    ) -> Option<usize> {
        let Some(Due::Call(id)) = self.0.pop_front() else {
            return None;
        };
        let call = *waiting.get(&id)?;
        ledger.answer_in_order(client, call, number_in(part), None);
        Some(call)
    }
}

impl Client {
    /// A call, to be answered after those before it.
    pub(crate) fn write_in_order(&mut self, call: &Call<'_>, ledger: &mut Ledger) -> Vec<u8> {
        let length = call.padding * self.chance.pick(&[1, 1, 1, 8]);
        let (bytes, is_safe) = request(&mut self.chance, call.number, call.service, length);
        let entry = &mut ledger.entries[call.number];
        (entry.is_safe, entry.length) = (is_safe, length);
        self.order.push(Due::Call(call.id));
        bytes
    }

    /// Takes the answers that have come, the last of them maybe halfway.
    pub(crate) fn take_messages(&mut self, ended: bool, ledger: &mut Ledger) {
        for message in take(&mut self.inbox) {
            let own = (self.number, self.is_innocent());
            let last = self.order.take(own, &mut self.waiting, &message, ledger);
            // It is closed then; what has not been read is not answered.
            self.dismissed |= last;
        }
        if !ended || self.inbox.is_empty() {
            return;
        }
        let part = std::mem::take(&mut self.inbox);
        self.dismissed = true;
        let broken = self
            .order
            .break_off(self.number, &self.waiting, &part, ledger);
        // One who reads slowly may be told no more when time is over.
        if let Some(call) = broken.filter(|_| !self.slow && self.appetite.is_none()) {
            ledger.break_off(call);
        }
    }
}
