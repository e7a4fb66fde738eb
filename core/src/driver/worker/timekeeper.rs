//! The timekeeper of a worker: deadlines, housekeeping, and what a pause of ours must not do.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::Now;
use crate::net::LATE;
use crate::stats::increment;

use super::super::framed::SMALL_FRAME;
use super::super::upstream::Upstream;
use super::Worker;

/// How often connections are looked after.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks for what is no longer used.
const TICKS_PER_SWEEP: u32 = 240;
/// Turns of the runtime, at most, in which sockets are read after a pause before anything is judged.
const TURNS: u32 = 64;
/// Turns in which nothing arrived, after which the sockets are taken to be read.
const QUIET_TURNS: u32 = 3;
/// Frames that began within so many milliseconds are given up last.
const YOUNG: u128 = 1000;

impl Worker {
    /// Has calls expired at `deadline`.
    pub(crate) fn expect_deadline(&self, deadline: Now) {
        if deadline < self.deadline.get() {
            self.deadline.set(deadline);
            self.deadline_moved.notify_one();
        }
    }

    /// The timekeeper's task: expires calls and looks after connections.
    pub(super) async fn keep_time(self: Rc<Self>) {
        let mut ticks = 0_u32;
        let clock = self.mesh().clock;
        let mut next_tick = clock.now().after(TICK);
        loop {
            let wake = self.deadline.get().min(next_tick);
            tokio::select! {
                // By order and not by lot: a simulation has to be able to repeat it.
                biased;
                () = tokio::time::sleep_until(clock.instant(wake)) => {}
                () = self.deadline_moved.notified() => continue,
            }
            self.read_clock();
            // Late: this thread did not run. What was sent to us meanwhile lies in the sockets.
            let stalled = self.now().since(wake) > LATE;
            if stalled {
                increment(&self.mesh().stats.stalls);
                self.read_sockets().await;
                self.read_clock();
                self.stalled_until.set(self.now());
            }
            self.shares.note_turn(self.index(), self.now());
            let upstreams = self.upstreams();
            self.expire(&upstreams, stalled);
            if next_tick <= self.now() {
                next_tick = self.now().after(TICK);
                ticks = ticks.wrapping_add(1);
                self.tick(&upstreams, ticks);
            }
        }
    }

    /// Lets every connection that has something to read be read.
    async fn read_sockets(&self) {
        let (mut seen, mut quiet) = (self.reads.get(), 0);
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            let reads = self.reads.get();
            quiet = if reads == seen { quiet + 1 } else { 0 };
            if quiet == QUIET_TURNS {
                return;
            }
            seen = reads;
        }
    }

    fn expire(self: &Rc<Self>, upstreams: &[Rc<Upstream>], stalled: bool) {
        self.deadline.set(Now(u64::MAX));
        for upstream in upstreams {
            upstream.expire(self, stalled);
        }
        for upstream in upstreams {
            // Expiring one call may have sent another.
            let earliest = upstream.earliest();
            self.deadline.set(self.deadline.get().min(earliest));
        }
    }

    fn tick(self: &Rc<Self>, upstreams: &[Rc<Upstream>], ticks: u32) {
        let mut queued = 0;
        for upstream in upstreams {
            upstream.tick(self);
            queued += upstream.queued();
        }
        for resident in self.residents.all() {
            resident.tick(self);
            queued += resident.queued();
        }
        self.shares.note_queued(self.index(), queued);
        let limit = self.limits().drain;
        self.residents.end_stays(self, limit);
        self.bound_unfinished();
        self.relieve_others();
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            self.sweep();
        }
    }

    /// Whether the unfinished frames of all clients take as many bytes as they may.
    pub(crate) fn is_out_of_frame_room(&self) -> bool {
        self.frame_bytes() >= self.limits().unfinished
    }

    fn frame_bytes(&self) -> usize {
        let bytes = &self.mesh().stats.unfinished_bytes;
        usize::try_from(bytes.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// Unfinished frames of all clients share a bound of bytes. At the bound the large ones are read no
    /// more, so that none of them would ever become whole: the slowest are cut off until a quarter of
    /// the room is free.
    fn bound_unfinished(&self) {
        let (held, most) = (self.frame_bytes(), self.limits().unfinished);
        if held < most {
            return;
        }
        let over = held - most + most / 4;
        let now = self.now();
        // What has only just begun is likely to be whole in a moment.
        let young = if over > self.limits().unfinished {
            0
        } else {
            YOUNG
        };
        let residents = self.residents.all();
        let own: usize = residents
            .iter()
            .filter_map(|resident| Some(resident.unfinished()?.1))
            .sum();
        // Each worker gives up its share.
        let share = over as u128 * own as u128 / held.max(1) as u128;
        let mut over = usize::try_from(share).unwrap_or(usize::MAX);
        let mut large: Vec<_> = residents
            .iter()
            .filter_map(|resident| {
                let (began, length) = resident.unfinished()?;
                let rate = length as u128 * 1000 / now.since(began).as_millis().max(1);
                let old = now.since(began).as_millis() >= young;
                (old && length >= SMALL_FRAME).then_some((rate, length, resident))
            })
            .collect();
        large.sort_by_key(|(rate, _, _)| *rate);
        for (_, length, resident) in large {
            if over == 0 {
                return;
            }
            resident.give_up_frame();
            over = over.saturating_sub(length);
        }
    }

    /// Lets go of what no connection uses any more.
    fn sweep(&self) {
        self.forget_unused();
        self.pools
            .borrow_mut()
            .retain(|_, pool| pool.len() > 0 || pool.is_wanted());
        self.idle
            .borrow_mut()
            .retain(|pool| pool.strong_count() > 0);
    }
}
