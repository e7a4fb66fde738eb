//! What must hold in a world of RocketMQ, whatever befalls it.

use std::sync::atomic::Ordering::Relaxed;

use super::broker::SEND;
use super::{LEARNED, LINGER, LONGEST, QUEUES, World};

impl World {
    /// Both ends of a session end together.
    pub(super) fn check_sessions(&mut self) {
        let now = self.network.lock().now();
        let alive = self.network.lock().alive(false);
        let mut faults = Vec::new();
        for broker in &self.brokers {
            for (conn, line) in broker.open() {
                let own = self.book.lines.get(&line);
                let over = own.and_then(|own| own.over);
                // Closed for one way, it is read to its end, as its calls have room.
                let (patience, is_read) = match own.is_none_or(|own| own.is_harmed) {
                    true => (LEARNED, true),
                    false => (LONGEST, !self.network.lock().is_on_its_way(line)),
                };
                let is_late = is_read && over.is_some_and(|over| over + patience < now);
                if is_late && self.book.is_healed && alive.contains(&conn) {
                    faults.push(format!(
                        "client line {line} is gone since {over:?}, and its broker was not told at {now}"
                    ));
                }
            }
        }
        for (conn, line) in &self.book.lines {
            let is_ended = line.over.is_some() && !line.is_left && !self.is_stopped;
            if is_ended && line.broker.is_some() && self.is_well(*conn) {
                let client = line.client;
                faults.push(format!(
                    "nothing happened to {line:?} of client {client}, and the mesh ended it"
                ));
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// Nobody waits any more: each request that could be answered is, once, and those that nobody answers have come.
    pub(super) fn check_answers(&mut self) {
        let mut faults = Vec::new();
        for (number, own) in self.book.asked.iter().enumerate() {
            if own.answers > 1 || own.is_one_way && own.answers > 0 {
                faults.push(format!("request {number} has {} answers", own.answers));
            }
            let is_there = self.book.is_open(own.line) && !self.is_stopped;
            if is_there && !own.is_one_way && own.answers == 0 {
                faults.push(format!("request {number} has no answer: {own:?}"));
            }
            if own.is_given_up && own.is_poll && self.is_well(own.line) {
                faults.push(format!("request {number} could have waited: {own:?}"));
            }
            let is_lost = own.is_one_way && own.arrivals == 0 && !self.has_few_places;
            if is_lost && !self.is_stopped && self.is_well(own.line) && !self.had_its_time(own.line)
            {
                faults.push(format!(
                    "request {number} has not come: {own:?} {:?}",
                    self.book.lines[&own.line]
                ));
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// What brokers asked came to their clients, and what those answered to them, wherever both are still there.
    pub(super) fn check_pushes(&mut self) {
        let now = self.network.lock().now();
        let mut faults = Vec::new();
        for (number, own) in self.book.pushes.iter().enumerate() {
            let session = self.brokers[own.broker].sessions.get(&own.conn);
            let is_there = self.book.is_open(own.line)
                && session.is_some_and(|own| !own.is_over)
                && own.at + LEARNED < now
                && !self.is_stopped;
            if own.arrivals > 1 || own.answers > own.written {
                faults.push(format!("question {number} came twice: {own:?}"));
            }
            if is_there && (own.arrivals == 0 || own.answers < own.written) {
                faults.push(format!("question {number} or its answer is lost: {own:?}"));
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// Whether nothing happened to a connection of a client, nor to its broker.
    fn is_well(&self, line: usize) -> bool {
        let Some(line) = self.book.lines.get(&line) else {
            return false;
        };
        let hurt = line.broker.and_then(|own| self.brokers[own].hurt_at);
        !line.is_harmed && hurt.is_none_or(|at| at < line.opened)
    }

    /// Whether the mesh waited for a broker to read the last of a client that had gone.
    fn had_its_time(&self, line: usize) -> bool {
        let line_of = self.book.lines.get(&line);
        let over = line_of.and_then(|own| self.brokers[own.broker?].over_at(line));
        let gone = line_of.and_then(|own| own.over);
        let waited = over.zip(gone).map(|(over, gone)| over.saturating_sub(gone));
        waited.is_some_and(|waited| waited >= LINGER)
    }

    /// Whoever reads everything has read what brokers keep, in its order.
    pub(super) fn check_read_all(&mut self) {
        let Some(reader) = self.clients.iter().find(|own| own.reads_all) else {
            return;
        };
        let mut faults = Vec::new();
        for (number, broker) in self.brokers.iter().enumerate() {
            for (queue, kept) in broker.queues[..QUEUES].iter().enumerate() {
                let read = reader.read.get(&(number, queue));
                let read = read.map(Vec::as_slice).unwrap_or_default();
                if read != kept {
                    faults.push(format!(
                        "of {} messages of broker {number}, queue {queue}, {} were read",
                        kept.len(),
                        read.len()
                    ));
                }
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// What was acknowledged is there, once.
    pub(super) fn check_messages(&mut self) {
        let mut faults = Vec::new();
        for (number, own) in self.book.asked.iter().enumerate() {
            if own.code != SEND || self.book.halves.contains_key(&number) {
                continue;
            }
            let line = &self.book.lines[&own.line];
            let broker = line.broker.unwrap_or_default();
            let kept = &self.brokers[broker].queues[own.queue];
            let count = kept.iter().filter(|kept| **kept == number).count();
            if count > 1 || own.is_acknowledged && count == 0 {
                faults.push(format!("message {number} is there {count} times: {own:?}"));
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// All clients are gone: nothing is in flight for them.
    pub(super) fn check_left(&mut self) {
        for cluster in self.mesh.status() {
            if cluster.in_flight > 0 {
                let count = cluster.in_flight;
                self.book.fault(format!(
                    "all clients are gone, and {count} requests hold places"
                ));
            }
        }
    }

    /// All is over: nothing is counted any more.
    pub(super) fn check_places(&mut self) {
        let stats = &self.mesh.stats;
        let held = self.crew.held();
        let left = [
            ("connections", stats.connections.load(Relaxed)),
            (
                "upstream connections",
                stats.upstream_connections.load(Relaxed),
            ),
            ("unfinished bytes", stats.unfinished_bytes.load(Relaxed)),
            ("panics", stats.panics.load(Relaxed)),
            ("calls in tables", held.calls as u64),
            ("residents", held.residents as u64),
            ("bytes for clients", held.for_client as u64),
            ("bytes that wait", held.pending as u64),
        ];
        let in_flight = self
            .mesh
            .status()
            .into_iter()
            .map(|own| u64::from(own.in_flight))
            .sum();
        for (name, count) in left.into_iter().chain([("in flight", in_flight)]) {
            if count > 0 {
                self.book.fault(format!("at the end: {count} {name}"));
            }
        }
    }
}
