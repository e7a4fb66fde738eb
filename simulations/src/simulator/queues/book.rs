//! The ledger of a world of RocketMQ: who asked whom for what, and what became of it.

use std::collections::BTreeMap;

use super::super::network::Time;
use super::popped::Tasks;
use super::transactions::Half;

/// A request that a client wrote.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) line: usize,
    pub(super) code: i64,
    /// Of a message and a fetch.
    pub(super) queue: usize,
    pub(super) is_one_way: bool,
    pub(super) answers: usize,
    pub(super) arrivals: usize,
    pub(super) is_acknowledged: bool,
    /// It waits for messages.
    pub(super) is_poll: bool,
    /// The mesh said that it took too long.
    pub(super) is_given_up: bool,
}

/// A request of a broker to a client.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) broker: usize,
    /// The broker's connection.
    pub(super) conn: usize,
    /// The connection of the client that it is for.
    pub(super) line: usize,
    pub(super) at: Time,
    pub(super) arrivals: usize,
    /// Answers that its client wrote, and those that came.
    pub(super) written: usize,
    pub(super) answers: usize,
}

/// One connection of a client, by its number in the network.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) client: usize,
    /// The broker that its listener stands for; `None` for name servers.
    pub(super) broker: Option<usize>,
    pub(super) opened: Time,
    /// Since when its client is gone, or the mesh has ended it.
    pub(super) over: Option<Time>,
    /// Its client ended it.
    pub(super) is_left: bool,
    /// It was cut or stalled, or its client does what nobody should.
    pub(super) is_harmed: bool,
}

/// What was asked and what became of it.
#[derive(Default)]
pub(super) struct Book {
    pub(super) asked: Vec<Asked>,
    pub(super) pushes: Vec<Push>,
    pub(super) lines: BTreeMap<usize, Line>,
    /// Messages of transactions, by the numbers of their requests.
    pub(super) halves: BTreeMap<usize, Half>,
    /// What is known of messages that are given by POP.
    pub(super) tasks: Tasks,
    /// Nothing goes wrong any more.
    pub(super) is_healed: bool,
    pub(super) faults: Vec<String>,
}

impl Book {
    pub(super) fn fault(&mut self, what: String) {
        if self.faults.len() < 12 {
            self.faults.push(what);
        }
    }

    pub(super) fn is_open(&self, line: usize) -> bool {
        self.lines.get(&line).is_some_and(|own| own.over.is_none())
    }
}
