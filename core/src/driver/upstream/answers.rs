//! Frames from an endpoint: answers, by the id of their call; its going away; what it asks itself.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Now;
use crate::codec::Signal;
use crate::frame::{Head, Kind, Malformed, Outcome, Reading};
use crate::log_limit::LogLimit;
use crate::mesh::AttemptEnd;
use crate::rejection::Rejection;
use crate::stats::increment;

use super::super::call::deliver;
use super::super::frame_reader::Take;
use super::super::hedge;
use super::super::in_flight::Claim;
use super::super::pool::Pool;
use super::super::worker::Worker;
use super::super::write_queue::WriteQueue;
use super::upkeep::end_entry;
use super::{Entry, State, Upstream};

/// An endpoint that said goodbye is avoided this long.
const LEAVING: Duration = Duration::from_secs(10);

impl Upstream {
    pub(super) fn receive(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        link: &Rc<WriteQueue>,
        head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        let codec = &self.pool.codec;
        // An endpoint that asks on and on, and does not read what it is told, is told nothing more.
        let is_deaf = link.queued() > worker.limits().queue_hard;
        match head.kind {
            Kind::Response => return self.answer(worker, head, wire),
            Kind::Ping | Kind::Request if is_deaf => {}
            Kind::Ping => {
                link.append(worker, |out| {
                    codec.signal(Signal::Pong { wire }, &head, out)
                });
            }
            Kind::Pong => {
                if self.ping.get() == Some(head.id) {
                    self.ping.set(None);
                    self.table.borrow_mut().claim(head.id);
                }
            }
            Kind::GoAway => {
                static LINES: LogLimit = LogLimit::usual();
                if let Some(left_out) = LINES.admit(worker.now()) {
                    tracing::info!(
                        address = %self.pool.endpoint.address, left_out, "endpoint goes away"
                    );
                }
                let until = worker.now().after(LEAVING);
                self.set_leaving(until);
                self.state.set(State::Leaving);
            }
            Kind::Resume => {
                self.set_leaving(Now(0));
                if self.state.get() == State::Leaving {
                    self.state.set(State::Open);
                }
            }
            Kind::Request | Kind::OneWay | Kind::Ignored => {
                let owner = self.pool.owner.as_ref();
                if owner.is_some_and(|owner| owner.called_back(worker, self, &head, wire)) {
                    return Ok(());
                }
                let (why, text) = match owner {
                    // A server that calls its client: on a shared connection it cannot be known
                    // which client is meant.
                    None => (
                        Rejection::Denied,
                        "[finback] a shared connection takes no calls from the server",
                    ),
                    Some(_) => (
                        Rejection::Overloaded,
                        "[finback] the client has not answered earlier calls",
                    ),
                };
                link.append(worker, |out| codec.reject(&head, why, text, out));
            }
        }
        Ok(())
    }

    /// Gives the endpoint its client's answer to a call of its own.
    pub(crate) fn pass_back(&self, worker: &Rc<Worker>, wire: &[u8]) {
        if let Some(link) = self.link.get()
            && link.queued() <= worker.limits().queue_hard
        {
            link.append(worker, |out| out.extend_from_slice(wire));
        }
    }

    pub(super) fn set_leaving(&self, until: Now) {
        let leaving = &self.pool.endpoint.health.leaving_until;
        leaving.store(until.0, std::sync::atomic::Ordering::Relaxed);
    }

    pub(super) fn answer(
        &self,
        worker: &Rc<Worker>,
        head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        let claim = self.table.borrow_mut().claim(head.id);
        let stats = &worker.mesh().stats;
        let entry = match claim {
            Claim::Live(Entry::Ping) => {
                self.ping.set(None);
                return Ok(());
            }
            Claim::Live(entry) => entry,
            Claim::Late => {
                // Too late for its caller, but it is there.
                let Pool {
                    cluster, endpoint, ..
                } = &*self.pool;
                let outlier = &cluster.spec.policy.outlier;
                outlier.answered(&endpoint.health, worker.now(), None);
                increment(&stats.late_answers);
                return Ok(());
            }
            Claim::Unknown => {
                increment(&stats.unknown_answers);
                return Ok(());
            }
        };
        let answer = match self.pool.codec.read(&head, wire) {
            Ok(Reading::Answer(answer)) => answer,
            // Passed on as it is: its client may read more of it than we can.
            Ok(Reading::Call(_)) | Err(Malformed::Content(_)) => Outcome::Failed.into(),
            Err(malformed) => {
                let end = AttemptEnd::Unreadable;
                end_entry(entry, worker, end, Rejection::ConnectionLost);
                return Err(malformed);
            }
        };
        match entry {
            Entry::Call(call) => deliver(call, worker, &head, wire, answer),
            Entry::Second(second) => hedge::answered(worker, *second, (&head, wire), answer),
            Entry::Ping => {}
        }
        Ok(())
    }

    /// An answer that is longer than a frame may be costs its own call, and nobody else anything.
    pub(super) fn refuse_too_large(&self, worker: &Rc<Worker>, head: &Head, limit: usize) {
        increment(&worker.mesh().stats.skipped_answers);
        let claim = self.table.borrow_mut().claim(head.id);
        static LINES: LogLimit = LogLimit::usual();
        if let Some(left_out) = LINES.admit(worker.now()) {
            tracing::warn!(
                address = %self.pool.endpoint.address, bytes = head.len, limit, left_out,
                "an answer is over the limit of a frame; its caller is told so"
            );
        }
        if let Claim::Live(entry) = claim {
            end_entry(entry, worker, AttemptEnd::TooLarge, Rejection::TooLarge);
        }
    }
}

/// What takes the frames of one upstream connection.
pub(super) struct Answers<'a> {
    pub(super) upstream: &'a Rc<Upstream>,
    pub(super) worker: &'a Rc<Worker>,
    pub(super) link: &'a Rc<WriteQueue>,
}

impl Take for Answers<'_> {
    fn frame(&mut self, head: Head, wire: &[u8]) -> Result<(), Malformed> {
        self.upstream.receive(self.worker, self.link, head, wire)
    }

    fn too_large(&mut self, head: Head, limit: usize) -> bool {
        if head.kind == Kind::Response {
            self.upstream.refuse_too_large(self.worker, &head, limit);
        }
        true
    }
}
