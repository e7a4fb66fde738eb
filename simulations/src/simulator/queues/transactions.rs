//! Transactions of the world: half messages, which nobody gets before their producers have committed them, what brokers
//! ask about them (check-backs), and what must have come of them in the end.

use std::collections::BTreeMap;

use super::super::chance::Chance;
use super::super::network::Time;
use super::World;

/// What the end of a transaction says (RocketMQ: MessageSysFlag).
const COMMIT: u64 = 8;
const ROLLBACK: u64 = 12;
const UNKNOWN: u64 = 0;

/// How far its producers are with their own part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// It waits for the broker's word that the message is there.
    Open,
    Committed,
    RolledBack,
}

/// A message of a transaction, as producers of its group know it.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) group: usize,
    /// What becomes of it if the broker has the message.
    commits: bool,
    local: Local,
    /// So often whoever is asked does not know yet.
    unknowns: u64,
    /// Requests that commit it, as producers wrote them.
    committed: usize,
}

impl Half {
    pub(super) fn new(group: usize, chance: &mut Chance) -> Self {
        Self {
            group,
            commits: !chance.one_in(3),
            local: Local::Open,
            unknowns: chance.pick(&[0, 0, 1, 2]),
            committed: 0,
        }
    }

    /// The answer to its message is there, or nobody waits for it any more.
    pub(super) fn learn(&mut self, is_stored: bool) {
        if self.local == Local::Open {
            self.local = match is_stored && self.commits {
                true => Local::Committed,
                false => Local::RolledBack,
            };
        }
    }

    /// What its producers say of it now.
    pub(super) fn verdict(&mut self) -> u64 {
        if self.local != Local::Open && self.unknowns > 0 {
            self.unknowns -= 1;
            return UNKNOWN;
        }
        match self.local {
            Local::Open => UNKNOWN,
            Local::Committed => {
                self.committed += 1;
                COMMIT
            }
            Local::RolledBack => ROLLBACK,
        }
    }
}

/// The name of a group of producers.
pub(super) fn name_of(group: usize) -> String {
    format!("producers-{group}")
}

/// The properties of a half message.
pub(super) fn properties(group: usize) -> String {
    let group = name_of(group);
    format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{group}\u{2}WAIT\u{1}true\u{2}")
}

/// The group of a half message, by its properties; `None` if it is none.
pub(super) fn group_of(properties: &str) -> Option<&str> {
    let value = |name: &str| {
        let mut all = properties
            .split('\u{2}')
            .filter_map(|own| own.split_once('\u{1}'));
        Some(all.find(|(own, _)| *own == name)?.1)
    };
    value("TRAN_MSG").filter(|own| *own == "true")?;
    value("PGROUP")
}

/// A half message at its broker.
struct Kept {
    queue: usize,
    group: String,
    /// When its producers are asked about it; `None` if they have said.
    check_at: Option<Time>,
}

/// The half messages of a broker, by the numbers of their requests.
#[derive(Default)]
pub(super) struct Halves(BTreeMap<usize, Kept>);

impl Halves {
    pub(super) fn keep(&mut self, number: usize, queue: usize, group: &str, check_at: Time) {
        let kept = Kept {
            queue,
            group: group.to_owned(),
            check_at: Some(check_at),
        };
        self.0.insert(number, kept);
    }

    /// Those that are to be asked about now, with their groups; they are asked about again at `next`.
    pub(super) fn take_due(&mut self, now: Time, next: Time) -> Vec<(usize, String)> {
        let due = self
            .0
            .iter_mut()
            .filter(|(_, own)| own.check_at.is_some_and(|at| at <= now));
        due.map(|(number, own)| {
            own.check_at = Some(next);
            (*number, own.group.clone())
        })
        .collect()
    }

    /// Ends one as its producer says; gives the queue that it goes into. Whoever commits twice sends twice, as at a
    /// real broker.
    pub(super) fn end(
        &mut self,
        number: usize,
        group: &str,
        verdict: u64,
    ) -> Result<Option<usize>, String> {
        let Some(kept) = self.0.get_mut(&number) else {
            return Err(format!("the end of transaction {number} came elsewhere"));
        };
        if kept.group != group {
            let own = &kept.group;
            return Err(format!(
                "{group} ended transaction {number}, which is of {own}"
            ));
        }
        match verdict {
            COMMIT => {
                kept.check_at = None;
                Ok(Some(kept.queue))
            }
            ROLLBACK => {
                kept.check_at = None;
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}

impl World {
    /// A message of a transaction is there as often as it was committed, at most; if brokers have had the time to ask
    /// what became of it, also once at least.
    pub(super) fn check_transactions(&mut self, is_asked: bool) {
        let mut faults = Vec::new();
        for (number, half) in &self.book.halves {
            let asked = &self.book.asked[*number];
            let line = &self.book.lines[&asked.line];
            let broker = line.broker.unwrap_or_default();
            let kept = &self.brokers[broker].queues[asked.queue];
            let count = kept.iter().filter(|kept| *kept == number).count();
            let is_missing = count == 0 && half.local == Local::Committed && is_asked;
            if count > half.committed || is_missing {
                faults.push(format!(
                    "message {number} of a transaction is there {count} times: {half:?} {asked:?}"
                ));
            }
        }
        for fault in faults {
            self.book.fault(fault);
        }
    }
}
