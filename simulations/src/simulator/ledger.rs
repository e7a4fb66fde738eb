//! The ledger of a world: every call that a client wrote, and what became of it.

use std::collections::{BTreeMap, BTreeSet};

use finback_core::rejection::Rejection;

use super::network::Time;

/// One call.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) client: usize,
    pub(super) service: usize,
    pub(super) one_way: bool,
    /// Its content cannot be read: it is answered by the mesh.
    pub(super) unreadable: bool,
    /// It may be sent again, once, whatever its route says.
    pub(super) is_safe: bool,
    /// Answers with its id: whether they were a server's.
    pub(super) answers: Vec<bool>,
    /// Servers that it arrived at, and whether they refused to run it.
    pub(super) arrivals: Vec<(usize, bool)>,
    /// Servers that refused it unseen, and when.
    pub(super) sent_back: Vec<(usize, Time)>,
    /// How long its body is.
    pub(super) length: usize,
    /// When it was written, and the time that its caller gives it.
    pub(super) written: Time,
    pub(super) timeout: Option<Time>,
    /// When a server that is always right put its answer into the mesh's hands, at the latest.
    pub(super) in_hand: Option<Time>,
    /// Why the mesh refused it.
    pub(super) refused: Option<Rejection>,
    /// Whose answer it got in place of its own.
    pub(super) crossed: Option<usize>,
    /// Its answer was said twice, or it was asked where one had been: then nothing tells whose an answer is.
    pub(super) confused: bool,
    /// Its client took it back.
    pub(super) given_up: bool,
    /// Its answer broke off in the middle.
    pub(super) broken_off: bool,
}

/// All calls, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: Vec<Entry>,
    pub(super) faults: Vec<String>,
    /// Calls that were refused unseen, and whose end was not looked at yet.
    pub(super) unseen: BTreeSet<usize>,
}

/// Faults that are told; more of them add nothing.
const MOST: usize = 12;

impl Ledger {
    /// Notes a call that is written now; its number.
    pub(super) fn write(&mut self, entry: Entry) -> usize {
        self.entries.push(entry);
        self.entries.len() - 1
    }

    /// Notes that something is as it must not be.
    pub(super) fn fault(&mut self, what: String) {
        if self.faults.len() < MOST {
            self.faults.push(what);
        }
    }

    /// Notes that a call arrived at a server.
    pub(super) fn arrive(&mut self, number: usize, server: usize, refused: bool) {
        match self.entries.get_mut(number) {
            Some(entry) => entry.arrivals.push((server, refused)),
            None => self.fault(format!(
                "server {server} got call {number}, which nobody made"
            )),
        }
    }

    /// Notes that a server refused a call unseen.
    pub(super) fn send_back(&mut self, number: usize, server: usize, at: Time) {
        match self.entries.get_mut(number) {
            Some(entry) => {
                entry.sent_back.push((server, at));
                self.unseen.insert(number);
            }
            None => self.fault(format!(
                "server {server} got call {number}, which nobody made"
            )),
        }
    }

    /// Notes when a sound server's answer is where the mesh can read it.
    pub(super) fn promise(&mut self, number: usize, at: Time) {
        if let Some(entry) = self.entries.get_mut(number) {
            entry.in_hand = Some(at);
        }
    }

    /// Notes an answer that a client got, given its calls that wait by id.
    pub(super) fn answer(
        &mut self,
        client: usize,
        waiting: &mut BTreeMap<u64, usize>,
        id: u64,
        (token, refused): (Option<usize>, Option<Rejection>),
    ) {
        let Some(number) = waiting.get(&id).copied() else {
            return self.fault(format!(
                "client {client} got an answer to id {id}, which it did not use"
            ));
        };
        let entry = &mut self.entries[number];
        entry.answers.push(token.is_some());
        entry.refused = refused;
        let (count, one_way) = (entry.answers.len(), entry.one_way);
        if let Some(other) = token.filter(|other| *other != number) {
            self.fault(format!(
                "client {client} got the answer of call {other} for call {number}"
            ));
        }
        if count > 1 {
            self.fault(format!(
                "call {number} of client {client} was answered {count} times"
            ));
        }
        if one_way {
            self.fault(format!("one-way {number} of client {client} was answered"));
        }
    }
}

impl Ledger {
    /// Notes that a call was asked where something had been said twice.
    pub(super) fn confuse(&mut self, number: usize) {
        if let Some(entry) = self.entries.get_mut(number) {
            entry.confused = true;
        }
    }

    /// Notes that its client took a call back.
    pub(super) fn give_up(&mut self, number: usize) {
        self.entries[number].given_up = true;
    }

    /// Notes that a call's answer broke off.
    pub(super) fn break_off(&mut self, number: usize) {
        self.entries[number].broken_off = true;
    }

    /// Notes the answer that a client got to a call, where nothing but its place tells whose it is.
    pub(super) fn answer_in_order(
        &mut self,
        client: usize,
        number: usize,
        token: Option<usize>,
        refused: Option<Rejection>,
    ) {
        let entry = &mut self.entries[number];
        entry.answers.push(token.is_some());
        entry.refused = refused;
        entry.crossed = token.filter(|other| *other != number);
        if entry.answers.len() > 1 {
            self.fault(format!(
                "call {number} of client {client} was answered twice"
            ));
        }
    }

    /// Whether a call waits for its answer.
    pub(super) fn is_open(&self, number: usize) -> bool {
        let entry = &self.entries[number];
        entry.answers.is_empty() && !entry.one_way && !entry.given_up
    }
}
