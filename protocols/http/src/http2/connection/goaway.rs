//! The end of a connection: GOAWAY, what it leaves under way, and whether the peer is still there (RFC 9113, section 6.8).

use super::super::Reason;
use super::state::StreamState;
use super::streams::Stream;
use super::{ConnectionState, Lost};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// What is on its way is still taken, until our PING is answered.
    Announced,
    Left,
}

/// What our own PINGs carry.
pub(super) const LEAVING_PING: [u8; 8] = *b"leaving.";

pub(super) const ALIVE_PING: [u8; 8] = *b"alive???";

impl ConnectionState {
    /// Takes no new streams, but those on their way.
    pub(in crate::http2) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            self.put_goaway(0x7fff_ffff, Reason::NO_ERROR);
            self.put_ping(LEAVING_PING, 0);
            self.wake();
        }
    }

    /// Whether nothing is left to do but close.
    pub(in crate::http2) fn is_done(&self) -> bool {
        let gone = self.leaving == Leaving::Left || self.client && self.last.is_some();
        self.closed || (gone || self.abandoned) && self.ids.is_empty()
    }

    /// Nobody will ask for anything any more: it ends with what is under way.
    pub(in crate::http2) fn abandon(&mut self) {
        self.abandoned = true;
        self.put_goaway(0, Reason::NO_ERROR);
        self.wake();
    }

    /// Ends everything: the connection has.
    pub(in crate::http2) fn close(&mut self) {
        self.closed = true;
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let over = |stream: &Stream| stream.state == StreamState::Closed;
            if !self.streams.get(key).is_none_or(over) {
                self.lose(key, Lost::Connection { unprocessed: false });
            }
        }
        self.wake_all_waiting();
    }

    /// Asks whether the peer is still there.
    pub(in crate::http2) fn ask(&mut self) {
        self.asked = true;
        self.put_ping(ALIVE_PING, 0);
        self.wake();
    }
}
