//! Lanes: where workers put the spans of what they finished, each into a buffer of its own, and whence the
//! exporter takes them.
//!
//! A buffer that is full goes through a channel, which nobody waits for, and wakes the exporter; what stands in
//! one that is not yet full is taken ten times a second. So much of each listener may wait and no more: what comes
//! then is dropped and counted, before anything was written of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::SystemTime;

use finback_core::clock::{Clock, Now};
use finback_core::log_limit::LogLimit;
use tokio::sync::Notify;

use super::templates::Templates;

/// A buffer goes to the exporter when it has so many bytes.
const FULL: usize = 64 * 1024;
/// Buffers that may wait in the channel, at most. Few of them are not full.
const CHUNKS: usize = 4096;

/// Spans as they are written, one after another.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: u64,
    /// Exchanges that these are of.
    exchanges: usize,
    share: Option<Arc<Share>>,
}

/// What one listener may have of all there is.
#[derive(Debug)]
pub(super) struct Share {
    /// Its kept tails of one second.
    pub(super) tails: LogLimit,
    /// Its exchanges in the channel.
    waiting: AtomicUsize,
}

/// One worker's buffer for one listener.
pub(super) struct Lane {
    pub(super) share: Arc<Share>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    chunk: Chunk,
    templates: Templates,
}

/// What each listener may have in memory, and its lanes, one per worker.
type Listeners = BTreeMap<Arc<str>, (Arc<Share>, Vec<Arc<Lane>>)>;

/// What workers and the exporter share.
pub(super) struct Lanes {
    /// By the listener's name, and the worker's number.
    listeners: Mutex<Listeners>,
    full: SyncSender<Chunk>,
    /// How many exchanges of one listener may wait.
    most: usize,
    /// How many of its tails are kept in a second.
    tails: u32,
    /// What a moment of the clock is to be moved by to be one of the day, in nanoseconds.
    offset: AtomicU64,
    /// Kinds of calls so far.
    kinds: AtomicU64,
    /// Nobody puts anything here any more.
    over: AtomicBool,
    pub(super) wake: Notify,
}

/// There was no room.
pub(super) struct NoRoom;

impl Lanes {
    /// Lanes with room for so many exchanges of each listener, and where full buffers come out.
    pub(super) fn new(most: usize, tails: u32, clock: &Clock) -> (Arc<Self>, Receiver<Chunk>) {
        let (full, chunks) = sync_channel(CHUNKS);
        let own = Self {
            listeners: Mutex::default(),
            full,
            most,
            tails,
            offset: AtomicU64::new(0),
            kinds: AtomicU64::new(0),
            over: AtomicBool::new(false),
            wake: Notify::new(),
        };
        own.set_clock(clock);
        (Arc::new(own), chunks)
    }

    /// The lane of this worker for this listener.
    pub(super) fn lane(&self, listener: &Arc<str>, worker: usize) -> Arc<Lane> {
        let mut listeners = self.lock();
        let (share, lanes) = listeners.entry(listener.clone()).or_insert_with(|| {
            let share = Share {
                tails: LogLimit::per_second(self.tails),
                waiting: AtomicUsize::new(0),
            };
            (Arc::new(share), Vec::new())
        });
        while lanes.len() <= worker {
            lanes.push(Arc::new(Lane {
                share: share.clone(),
                open: Mutex::default(),
            }));
        }
        lanes[worker].clone()
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a kind of call.
    pub(super) fn number(&self) -> u64 {
        self.kinds.fetch_add(1, Relaxed)
    }

    /// Compares the clock with the time of day again: the two may drift apart.
    pub(super) fn set_clock(&self, clock: &Clock) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = since.map_or(0, |since| since.as_nanos());
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        let offset = nanoseconds.wrapping_sub(clock.now().0.wrapping_mul(1000));
        self.offset.store(offset, Relaxed);
    }

    /// A moment of the clock as nanoseconds since 1970.
    pub(super) fn nanoseconds(&self, moment: Now) -> u64 {
        let offset = self.offset.load(Relaxed);
        offset.wrapping_add(moment.0.wrapping_mul(1000))
    }

    /// Has an exchange of so many spans written into a worker's buffer, if there is room. Waits for nobody.
    pub(super) fn put(
        &self,
        lane: &Lane,
        spans: u64,
        write: impl FnOnce(&mut Templates, &mut Vec<u8>),
    ) -> Result<(), NoRoom> {
        let waiting = lane.share.waiting.load(Relaxed);
        let mut open = match lane.open.try_lock() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // The exporter is just taking it.
            Err(TryLockError::WouldBlock) if waiting < self.most => {
                let mut chunk = Chunk::default();
                write(&mut Templates::default(), &mut chunk.bytes);
                (chunk.spans, chunk.exchanges) = (spans, 1);
                return self.hand_over(&lane.share, chunk).map_err(|_| NoRoom);
            }
            Err(TryLockError::WouldBlock) => return Err(NoRoom),
        };
        let Open { chunk, templates } = &mut *open;
        if waiting + chunk.exchanges >= self.most {
            return Err(NoRoom);
        }
        write(templates, &mut chunk.bytes);
        chunk.spans += spans;
        chunk.exchanges += 1;
        if chunk.bytes.len() < FULL {
            return Ok(());
        }
        let again = Vec::with_capacity(FULL + FULL / 8);
        let full = std::mem::replace(
            chunk,
            Chunk {
                bytes: again,
                ..Chunk::default()
            },
        );
        if let Err(mut kept) = self.hand_over(&lane.share, full) {
            // It stays, and what comes next finds no room.
            kept.exchanges = kept.exchanges.max(self.most);
            *chunk = kept;
        }
        Ok(())
    }

    fn hand_over(&self, share: &Arc<Share>, mut chunk: Chunk) -> Result<(), Chunk> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        let exchanges = chunk.exchanges;
        share.waiting.fetch_add(exchanges, Relaxed);
        chunk.share = Some(share.clone());
        let sent = self.full.try_send(chunk);
        if sent.is_err() {
            share.waiting.fetch_sub(exchanges, Relaxed);
        }
        self.wake.notify_one();
        sent.map_err(|error| match error {
            Full(chunk) | Disconnected(chunk) => chunk,
        })
    }

    // === The exporter's side ===

    /// The next buffer that was full.
    pub(super) fn next_full(&self, chunks: &Receiver<Chunk>) -> Option<Chunk> {
        let mut chunk = chunks.try_recv().ok()?;
        if let Some(share) = chunk.share.take() {
            share.waiting.fetch_sub(chunk.exchanges, Relaxed);
        }
        Some(chunk)
    }

    /// What stands in buffers that are not full.
    pub(super) fn rest(&self) -> Vec<Chunk> {
        // Listeners that are gone leave nothing behind but an empty lane.
        let lanes: Vec<Arc<Lane>> = {
            let mut listeners = self.lock();
            listeners.retain(|_, (_, lanes)| {
                let is_used = |own: &Arc<Lane>| Arc::strong_count(own) > 1 || !own.is_empty();
                lanes.iter().any(is_used)
            });
            let all = listeners.values().flat_map(|(_, lanes)| lanes);
            all.cloned().collect()
        };
        let taken = lanes.iter().map(|lane| {
            let mut open = lane.open.lock().unwrap_or_else(PoisonError::into_inner);
            // The next one will have about as many; who is idle keeps none.
            let again = Vec::with_capacity(open.chunk.bytes.len());
            let again = Chunk {
                bytes: again,
                ..Chunk::default()
            };
            std::mem::replace(&mut open.chunk, again)
        });
        taken.filter(|chunk| chunk.spans > 0).collect()
    }

    /// Says that nobody puts anything here any more.
    pub(super) fn end(&self) {
        self.over.store(true, Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.chunk.spans == 0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn put(lanes: &Lanes, lane: &Lane, bytes: usize) -> bool {
        let write =
            |_: &mut Templates, out: &mut Vec<u8>| out.extend(std::iter::repeat_n(7, bytes));
        lanes.put(lane, 2, write).is_ok()
    }

    #[test]
    fn what_waits_is_bounded_wherever_it_waits() {
        let (lanes, chunks) = Lanes::new(4, 1, &Clock::start());
        let lane = lanes.lane(&"a".into(), 1);
        // Two that fill a buffer each, and two in the next one.
        for bytes in [FULL, FULL + 1, 1, 1] {
            assert!(put(&lanes, &lane, bytes));
        }
        assert!(!put(&lanes, &lane, 1));
        // Another listener has its own share.
        let other = lanes.lane(&"b".into(), 1);
        assert!(put(&lanes, &other, 1));
        assert_eq!(lanes.rest().iter().map(|own| own.spans).sum::<u64>(), 6);
        for _ in 0..2 {
            assert!(put(&lanes, &lane, 1));
        }
        assert!(!put(&lanes, &lane, 1));
        assert_eq!(lanes.next_full(&chunks).unwrap().bytes.len(), FULL);
        assert!(put(&lanes, &lane, 1));
        assert!(!put(&lanes, &lane, 1));
        let rest = lanes.rest();
        assert_eq!((rest.len(), rest[0].spans, rest[0].bytes.len()), (1, 6, 3));
        assert_eq!(lanes.next_full(&chunks).unwrap().bytes.len(), FULL + 1);
        assert!(lanes.next_full(&chunks).is_none() && lanes.rest().is_empty());
    }

    #[test]
    fn a_worker_does_not_wait_while_its_buffer_is_taken() {
        let (lanes, chunks) = Lanes::new(2, 1, &Clock::start());
        let lane = lanes.lane(&"a".into(), 0);
        let taken = lane.open.lock().unwrap();
        assert!(put(&lanes, &lane, 5));
        drop(taken);
        assert_eq!(lanes.next_full(&chunks).unwrap().spans, 2);
    }

    #[test]
    fn moments_are_those_of_the_day() {
        let clock = Clock::start();
        let (lanes, _chunks) = Lanes::new(1, 1, &clock);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = u64::try_from(now.unwrap().as_nanos()).unwrap();
        let own = lanes.nanoseconds(clock.now());
        assert!(own.abs_diff(now) < 1_000_000_000, "{own} {now}");
    }
}
