//! StatsD: every so often the growth of each counter since the last time, and each gauge.
//!
//! What was sent is remembered per counter, so that the server's sums are exactly our numbers: what the
//! kernel did not take, or the server's host refused, goes with the next round. The lines are written by
//! `metrics-exporter-statsd`; packets are ours, since its own are flushed by no timer and tell nobody
//! when they are lost.

mod line;
mod link;
mod name;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use finback_core::metric::{Family, MetricKind};

use crate::sink::{Latencies, MetricSink, MetricValue};
use line::Lines;
pub use link::Link;

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatsdServer {
    /// `host:port`, over UDP.
    Udp(String),
    /// A socket of datagrams in the file system.
    Unix(PathBuf),
}

/// How labels are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsdFormat {
    /// Their values are parts of the name, as Etsy's server and Graphite know names.
    Plain,
    /// They are tags, as Datadog's agent and its likes know them.
    Dogstatsd,
}

/// How metrics are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub destination: StatsdServer,
    /// How labels are told.
    pub format: StatsdFormat,
    /// What every name begins with; may be empty.
    pub prefix: String,
    /// How often.
    pub interval: Duration,
    /// Bytes of a packet, at most; a single line may be longer.
    pub packet_size: usize,
    /// Tags of every line.
    pub tags: Vec<(String, String)>,
}

/// What became of packets.
#[derive(Debug, Default)]
pub struct Packets {
    /// Taken by the kernel.
    pub sent: AtomicU64,
    /// Not taken, or refused by the server's host.
    pub failed: AtomicU64,
}

/// Quantiles of latencies that are told, and their names.
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")];

/// What was sent so far. It outlives destinations and settings.
#[derive(Debug, Default)]
pub struct Sent {
    counters: HashMap<String, Told>,
    latencies: HashMap<String, Latencies>,
    gauges: HashMap<String, Shown>,
    round: u64,
    /// What the last packet of the last round changed.
    last: Vec<Undo>,
}

/// What the server was told of a counter.
#[derive(Clone, Copy, Debug)]
struct Told {
    value: u64,
    /// When it was last seen.
    round: u64,
}

/// A gauge that the server shows.
#[derive(Debug)]
struct Shown {
    name: String,
    tags: Vec<(String, String)>,
    round: u64,
}

/// What a counter was at before a packet.
#[derive(Debug)]
struct Undo {
    key: String,
    before: Option<Told>,
}

impl Sent {
    /// Takes everything so far as sent: what begins to be sent now tells of what happens from now on.
    pub fn skip(&mut self, walk: impl FnOnce(&mut dyn MetricSink)) {
        walk(&mut Skip {
            sent: self,
            family: None,
        });
    }

    /// Sends a round of everything that `walk` walks through.
    ///
    /// # Errors
    /// If a packet is not taken; what it would have told, and what comes after it, is told by the next
    /// round.
    pub fn send(
        &mut self,
        settings: &Settings,
        link: &mut Link,
        packets: &Packets,
        walk: impl FnOnce(&mut dyn MetricSink),
    ) -> io::Result<()> {
        self.round += 1;
        link.rested();
        let mut round = Round {
            lines: Lines::new(&settings.prefix),
            settings,
            link,
            packets,
            family: None,
            packet: String::new(),
            undo: Vec::new(),
            failed: None,
            key: String::new(),
            sent: self,
        };
        walk(&mut round);
        round.clear_gauges();
        round.flush();
        if let Some(error) = round.failed {
            return Err(error);
        }
        self.forget_gone();
        Ok(())
    }

    /// Counters that are no more begin anew should they come back.
    fn forget_gone(&mut self) {
        let round = self.round;
        self.counters.retain(|_, told| told.round == round);
        let counters = &self.counters;
        let has_parts = |key: &String| counters.contains_key(&format!("{key}\0count"));
        self.latencies.retain(|key, _| has_parts(key));
    }

    fn undo(&mut self, changes: Vec<Undo>) {
        for Undo { key, before } in changes {
            match before {
                Some(before) => self.counters.insert(key, before),
                None => self.counters.remove(&key),
            };
        }
    }
}

/// What tells a series apart from all others.
fn key_of(key: &mut String, family: &Family, labels: &[&str]) {
    key.clear();
    key.push_str(family.name);
    for label in labels {
        key.push('\0');
        key.push_str(label);
    }
}

/// Notes counters without sending them.
struct Skip<'a> {
    sent: &'a mut Sent,
    family: Option<&'static Family>,
}

impl MetricSink for Skip<'_> {
    fn family(&mut self, family: &'static Family) {
        self.family = Some(family);
    }

    fn series(&mut self, labels: &[&str], value: MetricValue<'_>) {
        let Some(family) = self.family else { return };
        let mut key = String::new();
        key_of(&mut key, family, labels);
        match value {
            MetricValue::Count(now) if family.kind == MetricKind::Counter => {
                self.note(key, now);
            }
            MetricValue::Count(_) | MetricValue::Number(_) => {}
            MetricValue::Latencies(now) => {
                for (part, value) in parts(now) {
                    self.note(format!("{key}\0{part}"), value);
                }
                self.sent.latencies.insert(key, now.clone());
            }
        }
    }
}

impl Skip<'_> {
    fn note(&mut self, key: String, value: u64) {
        let round = self.sent.round;
        self.sent.counters.insert(key, Told { value, round });
    }
}

/// The counters of latencies.
fn parts(latencies: &Latencies) -> [(&'static str, u64); 2] {
    [("count", latencies.count()), ("sum_us", latencies.micros)]
}

/// One round under way.
struct Round<'a> {
    settings: &'a Settings,
    link: &'a mut Link,
    packets: &'a Packets,
    lines: Lines,
    family: Option<&'static Family>,
    packet: String,
    /// What the packet being filled changes.
    undo: Vec<Undo>,
    failed: Option<io::Error>,
    key: String,
    sent: &'a mut Sent,
}

impl MetricSink for Round<'_> {
    fn family(&mut self, family: &'static Family) {
        self.family = Some(family);
    }

    fn series(&mut self, labels: &[&str], value: MetricValue<'_>) {
        let Some(family) = self.family else { return };
        if self.failed.is_some() {
            return;
        }
        key_of(&mut self.key, family, labels);
        match value {
            MetricValue::Count(now) if family.kind == MetricKind::Counter => {
                self.counter(family, labels, "", now);
            }
            // StatsD's counters are sums of whole numbers: of others it is told where they stand.
            MetricValue::Count(now) => self.gauge(family, labels, "", now as f64),
            MetricValue::Number(now) => self.gauge(family, labels, "", now),
            MetricValue::Latencies(now) => self.latencies(family, labels, now),
        }
    }
}

impl Round<'_> {
    fn counter(&mut self, family: &Family, labels: &[&str], part: &str, now: u64) {
        let round = self.sent.round;
        let before = match self.sent.counters.get_mut(&self.key) {
            Some(told) => {
                told.round = round;
                Some(*told)
            }
            None => None,
        };
        let known = before.map_or(0, |told| told.value);
        // One that is smaller than it was began anew.
        let grown = now.checked_sub(known).unwrap_or(now);
        if before.is_some() && grown == 0 && now == known {
            return;
        }
        if grown > 0 {
            let (name, tags) = name::of(self.settings, family, labels, part);
            let line = self.lines.counter(name, tags, grown);
            self.push(&line);
            if self.failed.is_some() {
                return;
            }
            self.undo.push(Undo {
                key: self.key.clone(),
                before,
            });
        }
        let told = Told { value: now, round };
        self.sent.counters.insert(self.key.clone(), told);
    }

    fn gauge(&mut self, family: &Family, labels: &[&str], part: &str, now: f64) {
        let (name, tags) = name::of(self.settings, family, labels, part);
        // A sign would make it a change of the gauge; of ours none is below nothing.
        let line = self.lines.gauge(name.clone(), tags.clone(), now.max(0.0));
        self.push(&line);
        let round = self.sent.round;
        let shown = Shown { name, tags, round };
        self.sent.gauges.insert(self.key.clone(), shown);
    }

    fn latencies(&mut self, family: &Family, labels: &[&str], now: &Latencies) {
        let own = self.key.clone();
        for (part, value) in parts(now) {
            self.key = format!("{own}\0{part}");
            self.counter(family, labels, part, value);
        }
        let before = self.sent.latencies.insert(own.clone(), now.clone());
        let grown = now.since(&before.unwrap_or_default());
        if grown.count() == 0 {
            return;
        }
        for (quantile, part) in QUANTILES {
            self.key = format!("{own}\0{part}");
            self.gauge(family, labels, part, grown.quantile(quantile) / 1e3);
        }
    }

    /// Gauges that are no more, and quantiles of what is idle, are told to be nothing, once: servers go
    /// on showing what they were told last.
    fn clear_gauges(&mut self) {
        let round = self.sent.round;
        let gone = |shown: &Shown| shown.round != round;
        if self.failed.is_some() || !self.sent.gauges.values().any(gone) {
            return;
        }
        let mut gauges = std::mem::take(&mut self.sent.gauges);
        gauges.retain(|_, shown| {
            if gone(shown) && self.failed.is_none() {
                let (name, tags) = (shown.name.clone(), shown.tags.clone());
                let line = self.lines.gauge(name, tags, 0.0);
                self.push(&line);
            }
            !gone(shown) || self.failed.is_some()
        });
        self.sent.gauges = gauges;
    }

    /// Adds a line to the packet; sends what was in it where both are too long for one.
    fn push(&mut self, line: &str) {
        let longer = self.packet.len() + 1 + line.len();
        if !self.packet.is_empty() && longer > self.settings.packet_size {
            self.flush();
        }
        if self.failed.is_some() {
            return;
        }
        if !self.packet.is_empty() {
            self.packet.push('\n');
        }
        self.packet.push_str(line);
    }

    fn flush(&mut self) {
        if self.packet.is_empty() || self.failed.is_some() {
            return;
        }
        let changes = std::mem::take(&mut self.undo);
        let sent = self.link.send(self.packet.as_bytes());
        self.packet.clear();
        match sent {
            Ok(()) => {
                self.packets.sent.fetch_add(1, Relaxed);
                self.sent.last = changes;
            }
            Err(failure) => {
                self.packets.failed.fetch_add(1, Relaxed);
                self.sent.undo(changes);
                if failure.former_too {
                    let last = std::mem::take(&mut self.sent.last);
                    self.sent.undo(last);
                }
                self.failed = Some(failure.error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
