//! Flow control windows: what each side may send, so that no stream takes what others need
//! (RFC 9113, section 5.2).
//!
//! What we receive: the connection's window opens again as soon as bytes have come, so that a body that
//! nobody takes holds up no other. Memory is bounded by the windows of the streams: each is `stream_window`
//! at first, and grows to `stream_most` while its reader keeps up; what all windows of a connection have
//! grown by is at most `spare`. All bytes that wait in one worker are counted ([`Held`]).
//!
//! What we send: a part of the peer's window for the connection is kept for streams that hold little of it, so
//! that an upload that the peer does not read leaves room for the next one.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use super::super::WINDOW;
use super::{ConnectionState, Lost, Reason, Stream};
use crate::share::Total;

/// Bytes of bodies that wait in one worker; above it, those that nobody takes are given up.
const HELD: usize = 64 * 1024 * 1024;
/// What a stream may hold of the peer's window for the connection when that grows short: more than a peer
/// waits for before it opens a window again.
const FAIR: i64 = 4 * 1024;
/// What is kept for those who hold less: one of so many parts. A peer opens the window again long before.
const KEPT: i64 = 16;
/// A body waits rather than to go on in shorter pieces, as long as others are on their way.
const PIECE: i64 = 1024;

thread_local! {
    static ALL: Cell<usize> = const { Cell::new(0) };
    /// Of what clients sent, what nobody has taken for a second.
    pub(super) static STUCK: Total = const { Total::new() };
}

/// Whether more bytes of bodies wait in this worker than may.
pub(crate) fn holds_too_much() -> bool {
    ALL.get() > HELD
}

/// What has come of a body and was not taken yet; counted for the worker.
#[derive(Debug, Default)]
pub(super) struct Held(BytesMut);

impl Held {
    pub(super) fn put(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        ALL.set(ALL.get() + data.len());
    }

    pub(super) fn take(&mut self) -> Bytes {
        if self.0.is_empty() {
            return Bytes::new();
        }
        ALL.set(ALL.get().saturating_sub(self.0.len()));
        std::mem::take(&mut self.0).freeze()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Stream {
    /// What a stream may send now: of the connection's room what is not kept for others, or as much as is fair.
    pub(super) fn share(&self, room: i64, kept: i64) -> i64 {
        let share = (FAIR - self.unacked_there).max(room - kept).min(room);
        match share < PIECE && self.unacked_there > 0 {
            true => 0,
            false => share.min(self.send_window).max(0),
        }
    }
}

impl ConnectionState {
    /// Bytes of bodies have come: the connection's window opens again, whoever takes them.
    pub(super) fn give_back(&mut self, length: usize) {
        self.unacked += u32::try_from(length).unwrap_or_default();
        if self.unacked >= self.limits.connection_window.max(WINDOW) / 2 {
            let more = std::mem::take(&mut self.unacked);
            self.receive_window += i64::from(more);
            self.put_window_update(0, more);
            self.wake();
        }
    }

    /// Bytes of a stream were taken: its window opens again, wider than before if there is something to
    /// spare.
    pub(super) fn consume(&mut self, key: usize, length: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.state.has_received_end() {
            return self.narrow(key);
        }
        stream.unacked += u32::try_from(length).unwrap_or_default();
        if stream.unacked < stream.most / 2 {
            return;
        }
        let wider = self.limits.stream_most.saturating_sub(stream.most);
        let wider = wider.min(stream.most).min(self.spare);
        stream.most += wider;
        self.spare -= wider;
        let more = std::mem::take(&mut stream.unacked) + wider;
        stream.receive_window += i64::from(more);
        let id = stream.id;
        self.put_window_update(id, more);
        self.wake();
    }

    /// What a stream's window has grown by may be others' now: nothing of it waits, or will.
    pub(super) fn narrow(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key) {
            let first = self.limits.stream_window;
            self.spare += std::mem::replace(&mut stream.most, first) - first;
        }
    }

    /// What of the peer's window for the connection is kept for streams that hold little of it.
    pub(super) fn reserved_window(&self) -> i64 {
        self.most_send_window / KEPT
    }

    /// Resets a client's streams of whose bodies nobody has taken anything for a second or more, if too
    /// much waits in this worker, and here as much as in the mean connection or more. To be called once a
    /// second; `stalled` says that we did not run meanwhile. What endpoints sent is given up with the
    /// clients that do not read it.
    pub(super) fn relieve(&mut self, stalled: bool) {
        let (mut held, mut stuck) = (0, Vec::new());
        for (key, stream) in &mut self.streams {
            if stream.data.is_empty() || stalled || self.client {
                stream.idle_for = 0;
                continue;
            }
            stream.idle_for += 1;
            if stream.idle_for > 1 {
                held += stream.data.len();
                stuck.push(key);
            }
        }
        self.held.set(held);
        if !holds_too_much() || !self.held.is_large() {
            return;
        }
        for key in stuck {
            // RFC 9113, section 10.5: it holds what others need.
            self.reset(key, Reason::ENHANCE_YOUR_CALM);
            if let Some(stream) = self.streams.get_mut(key) {
                stream
                    .lost
                    .get_or_insert(Lost::Reset(Reason::ENHANCE_YOUR_CALM));
                drop(stream.data.take());
            }
        }
    }
}
