//! Brokers that have fallen silent within a session: one that owes an answer, or reads no more, is asked
//! by a PINGREQ (MQTT 5, section 3.12), and given up if that is not answered either.

use finback_core::clock::Now;

use crate::codec::{PacketType, write};

use super::{End, Session};

/// What is known of a broker's silence.
#[derive(Default)]
pub(super) struct Silence {
    /// Since when it has been silent and owes an answer.
    since: Option<Now>,
    /// When it was asked.
    asked: Option<Now>,
    /// Bytes that it had taken by then.
    taken: u64,
    /// An answer to come is for us, and not for the client.
    own_ping: bool,
    /// When a session in which nothing happens looks whether its broker is in doubt.
    look: Now,
}

impl Session {
    /// The broker said something: whatever it still owes, it is there.
    pub(super) fn heard(&mut self) {
        let now = self.caller.worker().now();
        let owes = self.tally.is_owed();
        let silence = &mut self.silence;
        if owes || silence.since.is_some() {
            silence.since = owes.then_some(now);
            silence.asked = None;
            self.wait_for_broker();
        }
    }

    /// Whether a PINGRESP answers our own question. Which of two is whose does not matter.
    pub(super) fn take_own_answer(&mut self) -> bool {
        std::mem::take(&mut self.silence.own_ping)
    }

    /// Has the task woken when the broker's time is over.
    pub(super) fn wait_for_broker(&self) {
        let answer = self.bounds.answer;
        let Silence { since, asked, .. } = self.silence;
        let due = match asked {
            Some(asked) => Some(asked.after(answer / 2)),
            None => since.map(|since| since.after(answer)),
        };
        self.caller
            .wake_after(Some(due.unwrap_or(self.silence.look)));
    }

    /// Whether the broker is to be asked though it owes nothing: others have found it silent, or a
    /// health check has. Whoever only listens would find out by its own keep-alive, if ever.
    fn looks_doubtful(&mut self, now: Now) -> bool {
        if now < self.silence.look {
            return false;
        }
        let first = self.silence.look == Now(0);
        self.silence.look = now.after(self.bounds.answer * 2);
        self.wait_for_broker();
        !first && self.lease.is_suspect() && self.up.is_between_packets()
    }

    /// Looks whether it is over.
    pub(super) fn watch_broker(&mut self) -> Option<End> {
        let now = self.caller.worker().now();
        let blocked = self.endpoint.waiting() > 0;
        // While its client does not read, the broker is not read either: that is not its silence.
        if self.client.waiting() > 0 {
            if self.silence.since.is_some() {
                self.begin_silence(now);
            }
            return None;
        }
        let Some(since) = self.silence.since else {
            if blocked || self.tally.is_owed() {
                self.begin_silence(now);
            } else if self.looks_doubtful(now) {
                self.silence.since = Some(now);
                self.ask_broker(now, false);
            }
            return None;
        };
        if let Some(asked) = self.silence.asked {
            if now < asked.after(self.bounds.answer / 2) {
                return None;
            }
            if self.takes_something() {
                self.begin_silence(now);
                return None;
            }
            return Some(End::Hung);
        }
        if now < since.after(self.bounds.answer) {
            return None;
        }
        if !blocked && !self.tally.is_owed() {
            self.silence.since = None;
        } else if self.takes_something() || !blocked && !self.up.is_between_packets() {
            // It reads, or is in the middle of what its client says: it cannot be asked yet.
            self.begin_silence(now);
        } else {
            self.ask_broker(now, blocked);
        }
        None
    }

    fn begin_silence(&mut self, now: Now) {
        self.silence.since = Some(now);
        self.silence.asked = None;
        self.silence.taken = self.endpoint.written();
        self.wait_for_broker();
    }

    /// Whether the broker has taken some of what waited for it.
    fn takes_something(&self) -> bool {
        self.endpoint.waiting() > 0 && self.endpoint.written() != self.silence.taken
    }

    fn ask_broker(&mut self, now: Now, blocked: bool) {
        if !blocked && !self.silence.own_ping {
            self.endpoint
                .queue(&write::packet(PacketType::Pingreq.first_byte(), &[]));
            self.silence.own_ping = true;
        }
        self.silence.asked = Some(now);
        self.silence.taken = self.endpoint.written();
        self.wait_for_broker();
    }
}
