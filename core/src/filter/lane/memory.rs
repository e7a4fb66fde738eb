//! Memory of traces' lanes: which one each is in, for a while.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Now;
use crate::record::TraceId;

/// Traces that are remembered, at most: the older half of them makes room.
pub(super) const TRACES: usize = 65_536;

/// A trace's lane; `None` once two were named, so that it is not certain.
type Remembered = (Option<Arc<str>>, Now);

/// Which lane a trace is in, shared by all workers.
#[derive(Debug)]
pub struct Memory {
    lasts: Duration,
    /// Nothing was ever put in: the lock need not be taken.
    is_empty: AtomicBool,
    halves: Mutex<Halves>,
}

/// What was remembered last, and what before that.
#[derive(Debug, Default)]
struct Halves {
    young: HashMap<TraceId, Remembered>,
    old: HashMap<TraceId, Remembered>,
}

impl Memory {
    /// One that keeps each trace this long after it was last put in.
    #[must_use]
    pub fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            is_empty: AtomicBool::new(true),
            halves: Mutex::default(),
        }
    }

    /// Whether it has never had anything to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_empty.load(Relaxed)
    }

    /// Remembers the lane of a trace. One that is in another already is in none that is certain.
    pub fn put(&self, trace: TraceId, lane: &Arc<str>, now: Now) {
        if !trace.is_some() {
            return;
        }
        self.is_empty.store(false, Relaxed);
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = now.after(self.lasts);
        let known = halves.find(trace, now).cloned();
        let lane = match known {
            Some((own, _)) if own.as_ref() != Some(lane) => None,
            _ => Some(lane.clone()),
        };
        if halves.young.len() >= TRACES / 2 && !halves.young.contains_key(&trace) {
            halves.old = mem::take(&mut halves.young);
        }
        halves.young.insert(trace, (lane, ends));
    }

    /// The lane of a trace.
    #[must_use]
    pub fn get(&self, trace: TraceId, now: Now) -> Option<Arc<str>> {
        if !trace.is_some() {
            return None;
        }
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.find(trace, now)?.0.clone()
    }
}

impl Halves {
    fn find(&self, trace: TraceId, now: Now) -> Option<&Remembered> {
        let found = self.young.get(&trace).or_else(|| self.old.get(&trace));
        found.filter(|(_, ends)| *ends > now)
    }
}
