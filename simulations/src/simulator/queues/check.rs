//! What must hold in a world of RocketMQ, whatever befalls it.

use std::sync::atomic::Ordering::Relaxed;

use super::broker::SEND;
use super::{LEARNED, World};

impl World {
    /// Both ends of a session end together.
    pub(super) fn check_sessions(&mut self) {
        let now = self.network.lock().now();
        let alive = self.network.lock().alive(false);
        let mut faults = Vec::new();
        for broker in &self.brokers {
            for (conn, line) in broker.open() {
                let over = self.book.lines.get(&line).and_then(|own| own.over);
                let is_late = over.is_some_and(|over| over + LEARNED < now);
                if is_late && self.is_healed && alive.contains(&conn) {
                    faults.push(format!(
                        "client line {line} is gone since {over:?}, and its broker was not told at {now}"
                    ));
                }
            }
        }
        for line in self.book.lines.values() {
            let Some(broker) = line.broker else { continue };
            let hurt = self.brokers[broker].hurt_at;
            let is_well = !line.is_harmed && hurt.is_none_or(|at| at < line.opened);
            if is_well && line.over.is_some() && !line.is_left && !self.is_stopped {
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

    /// Nobody waits any more: each request that could be answered is, once.
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
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }

    /// Whoever reads everything has read what brokers keep, in its order.
    pub(super) fn check_read_all(&mut self) {
        let Some(reader) = self.clients.iter().find(|own| own.reads_all) else {
            return;
        };
        let mut faults = Vec::new();
        for (number, broker) in self.brokers.iter().enumerate() {
            for (queue, kept) in broker.queues.iter().enumerate() {
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
            if own.code != SEND {
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
