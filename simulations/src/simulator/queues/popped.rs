//! POP of the world: messages of one topic are given to whoever asks first, kept from others for a while (their
//! invisible time), and given again unless they were acknowledged until then.

use std::collections::{BTreeMap, BTreeSet};

use super::super::network::Time;
use super::frame::Frame;
use super::{TASKS, World};

/// A message as its consumer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) broker: usize,
    /// Its place in its queue.
    pub(super) offset: usize,
    /// When it was given, by its broker's clock.
    pub(super) at: Time,
    /// How long nobody else gets it.
    pub(super) invisible: Time,
}

impl Given {
    pub(super) fn until(&self) -> Time {
        self.at + self.invisible
    }

    /// What acknowledges it, as consumers make it of an answer: the offsets at both ends, both times, and where it is.
    pub(super) fn receipt(&self) -> String {
        let Self {
            broker,
            offset,
            at,
            invisible,
        } = self;
        format!("{offset} {at} {invisible} 0 0 broker-{broker} 0 {offset}")
    }

    pub(super) fn of_receipt(text: &str) -> Option<Self> {
        let mut all = text.split(' ');
        let mut number = || all.next()?.parse().ok();
        let (offset, at, invisible) = (number()?, number()?, number()?);
        let broker = all.nth(2)?.strip_prefix("broker-")?.parse().ok()?;
        let own = Self {
            broker,
            offset: usize::try_from(offset).ok()?,
            at,
            invisible,
        };
        (own.receipt() == text).then_some(own)
    }

    /// The messages of an answer.
    pub(super) fn of_answer(broker: usize, own: &Frame) -> Vec<Self> {
        let text = String::from_utf8_lossy(&own.body);
        let offsets = text.split(',').filter_map(|own| own.parse().ok());
        offsets
            .map(|offset| Self {
                broker,
                offset,
                at: own.number("popTime").unwrap_or_default(),
                invisible: own.number("invisibleTime").unwrap_or_default(),
            })
            .collect()
    }
}

// === At a broker ===

/// Whom a broker has given what.
#[derive(Default)]
pub(super) struct Popped {
    /// The first that nobody has had yet.
    next: usize,
    held: BTreeMap<usize, Given>,
    /// Those whose time is over.
    back: BTreeSet<usize>,
}

impl Popped {
    /// Gives some of the messages that are to be had now; those that come back go first.
    pub(super) fn take(
        &mut self,
        count: usize,
        (broker, invisible): (usize, Time),
        at: Time,
    ) -> Vec<Given> {
        let over = |own: &Given| own.until() <= at;
        let over: Vec<_> = self.held.values().filter(|own| over(own)).collect();
        let over: Vec<usize> = over.iter().map(|own| own.offset).collect();
        for offset in over {
            self.held.remove(&offset);
            self.back.insert(offset);
        }
        let mut all = Vec::new();
        while all.len() < MOST {
            let offset = match self.back.pop_first() {
                Some(offset) => offset,
                None if self.next < count => {
                    self.next += 1;
                    self.next - 1
                }
                None => break,
            };
            let given = Given {
                broker,
                offset,
                at,
                invisible,
            };
            self.held.insert(offset, given);
            all.push(given);
        }
        all
    }

    /// Takes back what this receipt was given for, and in its place keeps it for so long anew, if it does.
    pub(super) fn settle(&mut self, own: &Given, anew: Option<Given>) -> bool {
        let is_its = self.held.get(&own.offset) == Some(own);
        if is_its {
            self.held.remove(&own.offset);
            self.held.extend(anew.map(|anew| (anew.offset, anew)));
        }
        is_its
    }

    /// How many of its messages nobody has acknowledged.
    fn left(&self, count: usize) -> usize {
        count - self.next + self.held.len() + self.back.len()
    }
}

/// Messages of one answer.
const MOST: usize = 8;

// === In the ledger ===

/// What consumers know of one message.
#[derive(Default)]
struct Known {
    /// When it was given, and until when nobody else may have it.
    held: Vec<(Time, Time)>,
    acknowledged: Option<Time>,
}

/// What consumers know of all messages.
#[derive(Default)]
pub(super) struct Tasks {
    known: BTreeMap<(usize, usize), Known>,
    /// What requests are about, by their numbers.
    pub(super) asked: BTreeMap<usize, Given>,
}

impl Tasks {
    fn of(&mut self, own: &Given) -> &mut Known {
        self.known.entry((own.broker, own.offset)).or_default()
    }

    /// A consumer got it.
    pub(super) fn given(&mut self, own: &Given) -> Result<(), String> {
        let known = self.of(own);
        if known.acknowledged.is_some_and(|at| at < own.at) {
            return Err(format!("{own:?} was given though it was acknowledged"));
        }
        let is_kept = |(from, until): &(Time, Time)| *from <= own.at && own.at < *until;
        if let Some((from, until)) = known.held.iter().find(|own| is_kept(own)) {
            return Err(format!(
                "{own:?} was given, and another has it from {from} to {until}"
            ));
        }
        known.held.push((own.at, own.until()));
        Ok(())
    }

    /// A consumer asks that its time be another; whether it gets it, it may never learn.
    pub(super) fn bound(&mut self, own: &Given, until: Time) {
        for (from, held) in &mut self.of(own).held {
            if *from == own.at {
                *held = until.min(*held);
            }
        }
    }

    /// A consumer has it until another time, and no more until the one before.
    pub(super) fn changed(&mut self, own: &Given) {
        let known = self.of(own);
        for (_, until) in &mut known.held {
            *until = own.at.min(*until);
        }
        known.held.push((own.at, own.until()));
    }

    /// A consumer was told that it need not be given again.
    pub(super) fn acknowledged(&mut self, own: &Given, now: Time) {
        self.of(own).acknowledged.get_or_insert(now);
    }
}

impl World {
    /// Whoever acknowledges everything has got everything, also what others got and did not acknowledge.
    pub(super) fn check_tasks(&mut self) {
        for (number, broker) in self.brokers.iter().enumerate() {
            let all = broker.queues[TASKS].len();
            let left = broker.popped.left(all);
            if left > 0 {
                self.book.fault(format!(
                    "of {all} messages of broker {number}, nobody has acknowledged {left}"
                ));
            }
        }
    }
}
