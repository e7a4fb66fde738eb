//! Time on a connection: deadlines that pass, heartbeats, calls that are given up, and its end.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Now;
use crate::codec::Signal;
use crate::log_limit::LogLimit;
use crate::mesh::AttemptEnd;
use crate::rejection::Rejection;
use crate::stats::increment;

use super::super::call::settle;
use super::super::hedge;
use super::super::reply::Reply;
use super::super::worker::Worker;
use super::super::write_queue::WriteQueue;
use super::{Entry, State, Upstream};

/// Calls given up, their ids blocked, before a connection is replaced by a fresh one.
const ABANDONED: usize = 1024;
/// A peer that read nothing of a full queue for this long takes no more calls.
const STALLED: Duration = Duration::from_secs(1);
/// A connection beyond the first that carried no call for this long is closed.
const SPARE_IDLE: Duration = Duration::from_secs(60);

impl Upstream {
    /// Gives up calls whose deadline has passed; `stalled` says that it passed while this worker
    /// did not run.
    pub(crate) fn expire(self: &Rc<Self>, worker: &Rc<Worker>, stalled: bool) {
        let now = worker.now();
        if self.earliest.get() > now {
            return;
        }
        let passed = |entry: &Entry| match entry {
            Entry::Call(call) => call.deadline() <= now,
            Entry::Second(second) => second.lease.deadline <= now,
            Entry::Ping => false,
        };
        let mut table = self.table.borrow_mut();
        let expired = table.abandon_where(passed);
        let mut due = Vec::new();
        let mut earliest = Now(u64::MAX);
        for (_, entry) in table.iter_mut() {
            let next = match entry {
                Entry::Call(call) => {
                    if call.hedge.is_some() {
                        due.extend(hedge::due(worker, call, stalled));
                    }
                    call.due()
                }
                Entry::Second(second) => second.lease.deadline,
                Entry::Ping => continue,
            };
            earliest = earliest.min(next);
        }
        self.earliest.set(earliest);
        drop(table);
        for each in due {
            hedge::send(worker, each);
        }
        self.replace_if_blocked();
        let sent = self.state.get() != State::Connecting;
        for entry in expired {
            if let Entry::Call(call) = entry {
                let whose = call.whose_deadline(worker.stall(stalled));
                let end = AttemptEnd::TimedOut { whose, sent };
                settle(call, worker, end, Rejection::DeadlineExceeded);
            }
        }
    }

    /// A connection whose ids are blocked by calls that were given up takes no more.
    pub(super) fn replace_if_blocked(&self) {
        if self.table.borrow().abandoned() > ABANDONED && self.state.get() == State::Open {
            tracing::warn!(
                address = %self.pool.endpoint.address,
                "endpoint left too many calls unanswered; its connection is replaced"
            );
            self.state.set(State::Leaving);
        }
        // Nobody waits for an answer on it any more.
        if self.state.get() == State::Leaving
            && self.calls() == 0
            && let Some(link) = self.link.get()
        {
            self.end(link);
        }
    }

    /// Calls in flight on it, heartbeats left out.
    pub(super) fn calls(&self) -> usize {
        self.load() - usize::from(self.ping.get().is_some())
    }

    /// Gives up the calls of a client that is gone: their places are free at once, their ids when the
    /// answers come.
    pub(crate) fn abandon_calls_of(&self, gone: &dyn Reply) {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => std::ptr::addr_eq(Rc::as_ptr(&call.reply), gone),
            Entry::Second(_) | Entry::Ping => false,
        };
        let mut table = self.table.borrow_mut();
        let abandoned = table.abandon_where(is_its);
        drop(table);
        self.replace_if_blocked();
        // Dropped outside of the table: exchanges record themselves, leases give places back.
        drop(abandoned);
    }

    /// Answers every call of one client in its endpoint's place.
    pub(crate) fn refuse_calls_of(&self, worker: &Rc<Worker>, client: &dyn Reply, why: Rejection) {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => std::ptr::addr_eq(Rc::as_ptr(&call.reply), client),
            Entry::Second(_) | Entry::Ping => false,
        };
        let abandoned = self.table.borrow_mut().abandon_where(is_its);
        self.replace_if_blocked();
        for entry in abandoned {
            if let Entry::Call(call) = entry {
                settle(call, worker, AttemptEnd::Abandoned, why);
            }
        }
    }

    /// No deadline of a call here is earlier than this.
    pub(crate) fn earliest(&self) -> Now {
        self.earliest.get()
    }

    /// Housekeeping, several times a second.
    pub(crate) fn tick(self: &Rc<Self>, worker: &Rc<Worker>) {
        let Some(link) = self.link.get() else { return };
        if matches!(self.state.get(), State::Closed | State::Gone) {
            return;
        }
        let now = worker.now();
        // A reload may have changed what is compared with.
        self.resume_if_drained(worker, link);
        let policy = &self.pool.cluster.spec.policy;
        let interval = policy.heartbeat_interval;
        if self
            .full_since
            .get()
            .is_some_and(|since| now.since(since) >= STALLED)
        {
            // Waiting longer would only stall the clients' calls to other endpoints.
            self.stalled.set(true);
            self.resume_reading();
        }
        let quiet_since = self.heard.get().max(self.pinged.get());
        // The client of a session has heartbeats of its own.
        let asks =
            self.last_head.get().is_some() && !interval.is_zero() && self.pool.owner.is_none();
        if asks && now.since(quiet_since) >= interval {
            // The first interval of silence passes before anything is asked.
            if self.misses.get() >= policy.heartbeat_misses.saturating_sub(1).max(1) {
                let silent = now.since(self.heard.get());
                static LINES: LogLimit = LogLimit::usual();
                if let Some(left_out) = LINES.admit(now) {
                    tracing::warn!(
                        address = %self.pool.endpoint.address, ?silent, left_out,
                        "endpoint answers no heartbeat; its connection is closed"
                    );
                }
                increment(&worker.mesh().stats.heartbeat_failures);
                return self.end(link);
            }
            self.send_ping(worker, link, now);
        }
        let calls = self.calls();
        let spare = self.pool.len() > 1 && now.since(self.called.get()) >= SPARE_IDLE;
        let unwanted = spare || self.state.get() == State::Leaving || !self.pool.is_wanted();
        if calls == 0 && unwanted && link.queued() == 0 {
            self.end(link);
        }
    }

    pub(super) fn send_ping(&self, worker: &Worker, link: &Rc<WriteQueue>, now: Now) {
        let Some(last_head) = self.last_head.get() else {
            return;
        };
        self.pinged.set(now);
        self.misses.set(self.misses.get() + 1);
        let id = match self.ping.get() {
            Some(id) => id,
            None => match self.table.borrow_mut().insert(Entry::Ping) {
                Ok(id) => id,
                Err(_) => return,
            },
        };
        self.ping.set(Some(id));
        let codec = &self.pool.codec;
        link.append(worker, |out| {
            codec.signal(Signal::Ping { id }, &last_head, out)
        });
    }

    /// Has the connection's task end.
    pub(super) fn end(&self, link: &Rc<WriteQueue>) {
        self.state.set(State::Closed);
        link.wake_owner();
    }

    /// Closes it to make room for another: it is idle.
    pub(crate) fn make_room(&self) {
        if let Some(link) = self.link.get() {
            self.end(link);
        }
    }

    /// Answers every call in flight: draining takes too long. None is sent again.
    pub(crate) fn abandon_all(self: &Rc<Self>, worker: &Rc<Worker>) {
        self.fail_calls(worker, AttemptEnd::Draining, Rejection::Draining);
    }

    /// The connection is gone, or was never made.
    pub(super) fn close(self: &Rc<Self>, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
        self.state.set(State::Gone);
        self.pool.forget(self);
        self.resume_reading();
        self.fail_calls(worker, end, why);
        if let (Some(owner), Some(_)) = (&self.pool.owner, self.link.get()) {
            owner.end_session(worker);
        }
    }

    pub(super) fn fail_calls(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        end: AttemptEnd,
        why: Rejection,
    ) {
        let entries = self.table.borrow_mut().drain();
        self.ping.set(None);
        for entry in entries {
            end_entry(entry, worker, end, why);
        }
        for call in self.waiting.take() {
            settle(call, worker, end, why);
        }
    }

    /// Ends it: its client is gone. What that said last is still written.
    pub(crate) fn end_with_client(&self, worker: &Worker) {
        match self.link.get() {
            Some(link) if self.state.get() != State::Gone => {
                link.flush(worker);
                self.end(link);
            }
            Some(_) => {}
            None => self.state.set(State::Closed),
        }
    }
}

/// Deals with an attempt that came to nothing.
pub(super) fn end_entry(entry: Entry, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
    match entry {
        Entry::Call(call) => settle(call, worker, end, why),
        Entry::Second(second) => hedge::failed(*second, end),
        Entry::Ping => {}
    }
}
