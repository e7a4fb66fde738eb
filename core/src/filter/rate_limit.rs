//! Rate limits: so many calls, or messages, in a time.
//!
//! A limit is a bucket that fills at the rate and holds a burst (the generic cell rate algorithm, ITU-T I.371): one
//! number, which all workers share and change without a lock, so that the figure holds however calls are spread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Now;
use crate::rejection::Rejection;

use super::{
    Action, Asked, Check, Filter, Flow, Message, MessageFlow, Refusal, Tally, Target, same,
};

/// Buckets of one filter, at most: one for each caller, say. Those that are full again make room; where none is,
/// further callers share one.
const BUCKETS: usize = 65_536;
/// Those that are looked at when there is no room for another.
const LOOKED_AT: usize = 64;
/// Those that one worker remembers for one kind of call.
const REMEMBERED: usize = 1024;
/// What is kept of an attribute's value, in bytes: longer ones that begin alike share a bucket.
const KEY: usize = 256;

/// Whose calls share a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// Those of one listener.
    Listener,
    /// Those of one route.
    Route,
    /// Those to one service.
    Service,
    /// Those to one method of a service.
    Method,
    /// Those from one address.
    Source,
    /// Those of one client by its certificate; clients without one share one bucket.
    Identity,
    /// Those with one value of an attribute; calls without it share one bucket.
    Attribute(Arc<str>),
    /// The messages of one topic.
    Topic,
}

impl Per {
    /// Whether it is the same for all calls of a kind.
    fn is_certain(&self) -> bool {
        matches!(
            self,
            Self::Listener | Self::Route | Self::Service | Self::Method
        )
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Calls, and beginnings of sessions.
    Calls,
    /// Messages that are published within sessions.
    Messages,
    /// Bytes of these.
    MessageBytes,
}

/// A limit as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// What is counted.
    pub unit: Unit,
    /// How many there may be in `period`; at least 1.
    pub amount: u64,
    /// The time that the rate is given for; at least a microsecond.
    pub period: Duration,
    /// How many may come at once; at least 1.
    pub burst: u64,
    /// Whose calls share a bucket; empty = all that pass the filter.
    pub per: Vec<Per>,
    /// How long what is over the limit waits for its turn before it is refused; zero = not at all.
    pub wait: Duration,
}

/// So many calls, or messages, in a time.
#[derive(Debug)]
pub struct RateLimit {
    limit: Limit,
    buckets: Arc<Buckets>,
}

impl RateLimit {
    /// With full buckets.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            buckets: Arc::default(),
        }
    }
}

impl Filter for RateLimit {
    fn kind(&self) -> &'static str {
        "rate_limit"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let none = Arc::from("");
        let mut key = String::new();
        for per in &self.limit.per {
            match per {
                Per::Listener => part(&mut key, target.listener),
                Per::Route => part(&mut key, target.route),
                // Its version and group are what callers write, and would be a way to another bucket.
                Per::Service => part(&mut key, target.service),
                Per::Method => part(&mut key, target.method),
                Per::Source | Per::Identity | Per::Attribute(_) | Per::Topic => {}
            }
        }
        let varying: Vec<Per> = self
            .limit
            .per
            .iter()
            .filter(|per| !per.is_certain())
            .cloned()
            .collect();
        Some(Rc::new(Limited {
            unit: self.limit.unit,
            shape: Shape::of(&self.limit),
            buckets: self.buckets.clone(),
            key,
            varying,
            shared: RefCell::default(),
            remembered: RefCell::default(),
            refused: tally.count(&none, "limited"),
            delayed: tally.count(&none, "delayed"),
            none,
        }))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| other.limit == own.limit)
    }

    fn describe(&self) -> Vec<String> {
        let Limit {
            unit,
            amount,
            period,
            burst,
            per,
            wait,
        } = &self.limit;
        let unit = match unit {
            Unit::Calls => "calls",
            Unit::Messages => "messages",
            Unit::MessageBytes => "bytes of messages",
        };
        let mut line = format!("{amount} {unit} in {period:?}, {burst} at once");
        if !per.is_empty() {
            let per: Vec<String> = per.iter().map(words).collect();
            line.push_str(&format!(", for each {}", per.join(" and ")));
        }
        if !wait.is_zero() {
            line.push_str(&format!("; what is over it waits for up to {wait:?}"));
        }
        vec![line]
    }
}

fn words(per: &Per) -> String {
    match per {
        Per::Listener => "listener".to_owned(),
        Per::Route => "route".to_owned(),
        Per::Service => "service".to_owned(),
        Per::Method => "method".to_owned(),
        Per::Source => "source".to_owned(),
        Per::Identity => "identity".to_owned(),
        Per::Topic => "topic".to_owned(),
        Per::Attribute(name) => format!("value of {name}"),
    }
}

/// Appends one part of a key, which no other part can be taken for.
fn part(key: &mut String, text: &str) {
    let mut end = text.len().min(KEY);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    key.push_str(&text[..end]);
    key.push('\0');
}

/// A bucket: when it would be full, if nothing more were taken, in nanoseconds.
#[derive(Debug, Default)]
struct Bucket {
    full_at: AtomicU64,
    /// It has made room for another; whoever remembers it asks again.
    gone: AtomicBool,
}

const NANOS: u64 = 1000;

impl Bucket {
    /// Takes `cost` from it at `now`, in nanoseconds of filling up. Gives how long to wait, which is zero if there was
    /// enough; or how long that would be where it is more than the limit's patience.
    ///
    /// # Errors
    /// How long it would have to wait, where that is longer: nothing is taken.
    fn take(&self, now: Now, cost: u64, limit: &Shape) -> Result<u64, u64> {
        let now = now.0.saturating_mul(NANOS);
        let mut before = self.full_at.load(Relaxed);
        loop {
            let after = before.max(now).saturating_add(cost);
            // What is larger than the burst passes when the bucket is full, and is paid for afterwards.
            let most = limit.most.max(cost);
            let wait = (after - now).saturating_sub(most);
            if wait > limit.patience {
                return Err(wait);
            }
            match self
                .full_at
                .compare_exchange_weak(before, after, Relaxed, Relaxed)
            {
                Ok(_) => return Ok(wait),
                Err(other) => before = other,
            }
        }
    }

    fn is_full(&self, now: Now) -> bool {
        self.full_at.load(Relaxed) <= now.0.saturating_mul(NANOS)
    }
}

/// A limit in a bucket's terms, of which the division that they take is done once.
struct Shape {
    /// `of` of them take so many nanoseconds to fill up again.
    each: u64,
    of: u64,
    /// One takes so many.
    one: u64,
    /// The burst takes so many.
    most: u64,
    /// Somebody may wait for so many.
    patience: u64,
}

impl Shape {
    fn of(limit: &Limit) -> Self {
        let each = u64::try_from(limit.period.as_nanos()).unwrap_or(u64::MAX);
        let of = limit.amount.max(1);
        let mut own = Self {
            each,
            of,
            one: 0,
            most: 0,
            patience: u64::try_from(limit.wait.as_nanos()).unwrap_or(u64::MAX),
        };
        own.one = own.filled(1);
        own.most = own.filled(limit.burst.max(1));
        own
    }

    /// How long so many take to fill up.
    fn filled(&self, count: u64) -> u64 {
        let filled = u128::from(count) * u128::from(self.each) / u128::from(self.of);
        u64::try_from(filled).unwrap_or(u64::MAX / 4)
    }

    /// The same; of one, as of nearly all calls, it is known.
    fn cost(&self, count: u64) -> u64 {
        match count {
            1 => self.one,
            count => self.filled(count),
        }
    }
}

/// The buckets of one filter.
#[derive(Debug, Default)]
struct Buckets {
    known: Mutex<Known>,
    /// Of those for whom there is no room.
    shared: Arc<Bucket>,
}

/// Buckets by what their calls have in common.
#[derive(Debug, Default)]
struct Known {
    all: BTreeMap<Box<str>, Arc<Bucket>>,
    /// Where the search for full ones goes on.
    hand: Box<str>,
}

impl Known {
    /// Lets go of those that are full among the next few, so that no caller pays for all.
    fn make_room(&mut self, now: Now) {
        let from: (Bound<&str>, Bound<&str>) = (Bound::Excluded(&self.hand), Bound::Unbounded);
        let seen: Vec<(Box<str>, bool)> = self
            .all
            .range::<str, _>(from)
            .take(LOOKED_AT)
            .map(|(key, own)| (key.clone(), own.is_full(now)))
            .collect();
        // Round and round.
        self.hand = match seen.last() {
            Some((last, _)) if seen.len() == LOOKED_AT => last.clone(),
            _ => Box::default(),
        };
        for (key, _) in seen.into_iter().filter(|(_, is_full)| *is_full) {
            if let Some(gone) = self.all.remove(&key) {
                gone.gone.store(true, Relaxed);
            }
        }
    }
}

impl Buckets {
    fn of(&self, key: &str, now: Now) -> Arc<Bucket> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.all.get(key) {
            return own.clone();
        }
        if known.all.len() >= BUCKETS {
            known.make_room(now);
        }
        if known.all.len() >= BUCKETS {
            return self.shared.clone();
        }
        known.all.entry(key.into()).or_default().clone()
    }
}

/// A limit for calls of one kind, in one worker.
struct Limited {
    unit: Unit,
    shape: Shape,
    buckets: Arc<Buckets>,
    /// What all its calls have in common.
    key: String,
    /// What tells them apart.
    varying: Vec<Per>,
    /// The bucket of all of them, where nothing does.
    shared: RefCell<Option<Arc<Bucket>>>,
    /// The buckets of some.
    remembered: RefCell<BTreeMap<Box<str>, Arc<Bucket>>>,
    refused: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
    none: Arc<str>,
}

impl Limited {
    /// The bucket of a call or message; or why it cannot be told whose it is.
    fn bucket(&self, asked: &mut Asked<'_, '_>, topic: &str) -> Result<Arc<Bucket>, Refusal> {
        let mut key = self.key.clone();
        for per in &self.varying {
            match per {
                Per::Source => part(&mut key, &asked.source.to_string()),
                Per::Identity => part(&mut key, asked.client.map_or("", |own| own.text())),
                Per::Attribute(name) => {
                    if let Some(refusal) = asked.doubt(name, &self.none) {
                        return Err(refusal);
                    }
                    let value = asked.attribute(name);
                    part(&mut key, value.as_deref().unwrap_or_default());
                }
                Per::Topic => part(&mut key, topic),
                Per::Listener | Per::Route | Per::Service | Per::Method => {}
            }
        }
        Ok(self.remembered(&key, asked.now))
    }

    fn remembered(&self, key: &str, now: Now) -> Arc<Bucket> {
        let mut remembered = self.remembered.borrow_mut();
        if let Some(known) = remembered.get(key)
            && !known.gone.load(Relaxed)
        {
            return known.clone();
        }
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        let bucket = self.buckets.of(key, now);
        remembered.insert(key.into(), bucket.clone());
        bucket
    }

    /// Takes so much from the bucket that all share, as [`Bucket::take`] does.
    fn take_shared(&self, now: Now, cost: u64) -> Result<u64, u64> {
        let mut shared = self.shared.borrow_mut();
        match &*shared {
            Some(bucket) if !bucket.gone.load(Relaxed) => bucket.take(now, cost, &self.shape),
            _ => {
                let bucket = shared.insert(self.buckets.of(&self.key, now));
                bucket.take(now, cost, &self.shape)
            }
        }
    }

    /// Takes so many; gives the moment at which they may go on.
    fn take(&self, asked: &mut Asked<'_, '_>, topic: &str, count: u64) -> Result<Now, Refusal> {
        let cost = self.shape.cost(count);
        let taken = match self.varying.is_empty() {
            true => self.take_shared(asked.now, cost),
            false => self
                .bucket(asked, topic)?
                .take(asked.now, cost, &self.shape),
        };
        match taken {
            Ok(wait) => {
                if wait > 0 {
                    self.delayed.fetch_add(1, Relaxed);
                }
                Ok(asked.now.after(Duration::from_nanos(wait)))
            }
            Err(wait) => {
                self.refused.fetch_add(1, Relaxed);
                let mut refusal = Refusal::new(Rejection::Limited, &self.none);
                refusal.retry_after = Some(Duration::from_nanos(wait));
                Err(refusal)
            }
        }
    }
}

impl Check for Limited {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        if self.unit != Unit::Calls {
            return Flow::Continue;
        }
        match self.take(asked, "", 1) {
            Ok(moment) if moment <= asked.now => Flow::Continue,
            Ok(moment) => asked.wait_until(moment),
            Err(refusal) => Flow::Refuse(refusal),
        }
    }

    fn message(&self, asked: &mut Asked<'_, '_>, message: &Message<'_>) -> MessageFlow {
        let cost = match self.unit {
            Unit::Calls => return MessageFlow::Continue,
            _ if message.action != Action::Publish => return MessageFlow::Continue,
            Unit::Messages => 1,
            Unit::MessageBytes => message.bytes as u64,
        };
        match self.take(asked, message.topic, cost) {
            Ok(moment) if moment <= asked.now => MessageFlow::Continue,
            Ok(moment) => MessageFlow::Pause(moment),
            Err(refusal) => MessageFlow::Refuse(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Now = Now(1_000_000);

    /// Buckets of so many callers, all of them full.
    fn of(callers: usize) -> Buckets {
        let own = Buckets::default();
        for number in 0..callers {
            own.of(&number.to_string(), FULL);
        }
        own
    }

    fn known(own: &Buckets) -> usize {
        let known = own.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.all.len()
    }

    #[test]
    fn a_caller_without_a_bucket_has_few_others_looked_at_however_many_there_are() {
        for callers in [10, 10_000, BUCKETS - 1] {
            let own = of(callers);
            own.of("new", FULL);
            assert_eq!(known(&own), callers + 1, "none had to make room");
        }
        let own = of(BUCKETS);
        for (number, left) in [(0, LOOKED_AT - 1), (1, LOOKED_AT - 2)] {
            own.of(&format!("new {number}"), FULL);
            assert_eq!(known(&own), BUCKETS - left, "as many as are looked at");
        }
    }

    #[test]
    fn a_caller_that_called_before_is_found_without_those_of_other_workers() {
        let filter = RateLimit::new(Limit {
            unit: Unit::Calls,
            amount: 1,
            period: Duration::from_secs(1),
            burst: 1,
            per: vec![Per::Source],
            wait: Duration::ZERO,
        });
        let none: Arc<str> = Arc::from("");
        let limited = Limited {
            unit: Unit::Calls,
            shape: Shape::of(&filter.limit),
            buckets: filter.buckets.clone(),
            key: String::new(),
            varying: Vec::new(),
            shared: RefCell::default(),
            remembered: RefCell::default(),
            refused: Arc::default(),
            delayed: Arc::default(),
            none,
        };
        let first = limited.remembered("7", FULL);
        for number in 100..100 + REMEMBERED / 2 {
            limited.remembered(&number.to_string(), FULL);
        }
        // Whoever asks there gets another one from now on.
        let all = &filter.buckets.known;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.all.clear();
        drop(all);
        assert!(Arc::ptr_eq(&first, &limited.remembered("7", FULL)));
    }
}
