//! Messages that a broker refuses to take back: how often that is tried, and what became of all that were handed back.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use finback_rocketmq::QueueOf;

/// Tries of one message, as many as RocketMQ's own clients consume one again before it is a dead letter.
pub(super) const TRIES: u32 = 16;
/// Turns between two tries at first, doubled each time, and at most, which is five minutes.
const PAUSES: (u64, u64) = (1, 150);

/// What became of messages of lanes that have no consumers any more, in the whole process.
#[derive(Debug, Default)]
pub struct LaneCounts {
    /// Messages that their broker gives to the base again.
    pub handed_back: AtomicU64,
    /// Tries that a broker refused.
    pub refused: AtomicU64,
    /// Messages that were left out, for their broker had refused them often enough.
    pub left_out: AtomicU64,
}

/// Those of the process.
pub static COUNTS: LazyLock<Arc<LaneCounts>> = LazyLock::new(Arc::default);

/// The message of each queue that its broker refused last.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(String, String, i32), Refusal>);

#[derive(Debug)]
struct Refusal {
    offset: i64,
    /// How often it was refused for what may be its own fault.
    tries: u32,
    pause: u64,
    /// The turn of the next try.
    next: u64,
    why: String,
}

fn key(of: QueueOf<'_>) -> (String, String, i32) {
    (of.group.to_owned(), of.topic.to_owned(), of.queue)
}

impl Refusals {
    /// Why a message was refused, if it is too early to try again.
    pub(super) fn waits(&self, of: QueueOf<'_>, offset: i64, turn: u64) -> Option<String> {
        let known = self.0.get(&key(of))?;
        (known.offset == offset && turn < known.next).then(|| known.why.clone())
    }

    /// A message was refused in this turn; how often that was, as far as it may be the message's own fault.
    pub(super) fn add(
        &mut self,
        of: QueueOf<'_>,
        (offset, turn): (i64, u64),
        is_its_own: bool,
        why: &str,
    ) -> u32 {
        let fresh = |offset| Refusal {
            offset,
            tries: 0,
            pause: PAUSES.0,
            next: 0,
            why: String::new(),
        };
        let known = self.0.entry(key(of)).or_insert_with(|| fresh(offset));
        if known.offset != offset {
            *known = fresh(offset);
        }
        known.tries += u32::from(is_its_own);
        known.next = turn + known.pause;
        known.pause = (known.pause * 2).min(PAUSES.1);
        why.clone_into(&mut known.why);
        known.tries
    }

    /// No message of a queue is refused any more.
    pub(super) fn forget(&mut self, of: QueueOf<'_>) {
        if !self.0.is_empty() {
            self.0.remove(&key(of));
        }
    }

    /// Keeps only those of some groups.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|(group, ..), _| is_kept(group));
    }
}
