//! Streams: their numbers, who holds one, and how one ends (RFC 9113, section 5).

use std::cell::RefCell;
use std::hash::Hasher;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};

use super::super::Reason;
use super::super::message::RequestHead;
use super::state::StreamState;
use super::windows::Held;
use super::{Accepted, ConnectionState, Goaway, Greeting, Lost, be32, set};

/// Streams whose late frames are borne because it was we who ended them.
pub(super) const REMEMBERED: usize = 128;

/// Numbers of streams are the peer's choice only in part, and few at a time.
#[derive(Default)]
pub(in crate::http2) struct Numbers(u64);

impl Hasher for Numbers {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}

/// A place among those who wait to open a stream; empty when it was called.
pub(in crate::http2) type StreamWaiter = Rc<RefCell<Option<Waker>>>;

/// What a client waits for before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    Nothing,
    /// An interim response that tells it to go on.
    Word,
    /// It was answered without that: the body may never come.
    NoMore,
}

/// One exchange of messages.
#[derive(Debug)]
pub(in crate::http2) struct Stream {
    pub(in crate::http2) id: u32,
    /// A response's head that nobody has taken yet.
    pub(in crate::http2) head: Option<(StatusCode, HeaderMap)>,
    /// Such a head has come.
    pub(super) has_head: bool,
    /// What was said before it, that nobody has heard yet.
    pub(in crate::http2) interim: Vec<(StatusCode, HeaderMap)>,
    pub(super) data: Held,
    pub(super) trailers: Option<HeaderMap>,
    pub(in crate::http2) state: StreamState,
    /// What the peer's head said that is still to come.
    pub(super) expected: Option<u64>,
    /// Its head ended it.
    pub(super) ended_by_headers: bool,
    pub(super) expects: Expects,
    /// The response has no body, whatever its head says: HEAD was asked for.
    pub(super) answers_head: bool,
    /// Nobody reads what still comes.
    pub(super) unread: bool,
    /// Bytes of headers that the peer may send.
    pub(super) limit: usize,
    /// What the peer may send, and what was taken of it but not given back.
    pub(super) receive_window: i64,
    pub(super) unacked: u32,
    /// Its window when nothing waits.
    pub(super) most: u32,
    /// Seconds for which something has waited and nothing was taken.
    pub(super) idle_for: u32,
    /// What we may send.
    pub(in crate::http2) send_window: i64,
    /// What of ours the peer has not read yet, as far as it tells.
    pub(super) unacked_there: i64,
    pub(in crate::http2) lost: Option<Lost>,
    /// Among those who wait for room.
    pub(super) blocked: bool,
    pub(in crate::http2) reader: Option<Waker>,
    pub(in crate::http2) writer: Option<Waker>,
    /// Who holds it: a reader, a writer.
    pub(super) holders: u8,
}

impl Stream {
    /// Whether nothing more comes on it and nothing more is sent.
    fn is_over(&self) -> bool {
        self.lost.is_some() || self.state == StreamState::Closed
    }
}

impl ConnectionState {
    /// Frames of this stream that still come are no error.
    pub(super) fn forget(&mut self, id: u32) {
        if self.forgotten.len() == REMEMBERED {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    /// Waits until a stream ends before its time; its writer is woken then.
    pub(in crate::http2) fn poll_lost(&mut self, key: usize, cx: &Context<'_>) -> Poll<()> {
        match self.streams.get_mut(key) {
            Some(stream) if stream.lost.is_none() => {
                set(&mut stream.writer, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The highest stream that the peer opened.
    pub(in crate::http2) fn highest(&self) -> u32 {
        self.highest
    }

    /// Wakes whoever answers a stream, to look around.
    pub(in crate::http2) fn rouse(&mut self) {
        let writers = self.streams.iter_mut();
        writers
            .filter_map(|(_, stream)| stream.writer.take())
            .for_each(Waker::wake);
    }

    /// Ends a stream before its time.
    pub(in crate::http2) fn reset(&mut self, key: usize, reason: Reason) {
        self.reset_as(key, reason, Lost::Reset(reason));
    }

    pub(super) fn reset_as(&mut self, key: usize, reason: Reason, lost: Lost) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.is_over() {
            return;
        }
        let id = stream.id;
        self.lose(key, lost);
        self.put_reset(id, reason);
        self.wake();
    }

    pub(super) fn lose(&mut self, key: usize, lost: Lost) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.lost.get_or_insert(lost);
        let waiting = [stream.reader.take(), stream.writer.take()];
        for waker in waiting.into_iter().flatten() {
            waker.wake();
        }
        self.settle(key);
    }

    /// Forgets a stream that is over and that nobody holds.
    pub(super) fn settle(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let over = stream.is_over();
        let free = stream.holders == 0;
        if over && self.ids.remove(&stream.id).is_some() {
            self.wake_next_waiting();
        }
        if over && free {
            self.narrow(key);
            self.streams.remove(key);
            if self.is_done() || self.moving && self.streams.is_empty() {
                self.wake();
            }
        }
    }

    /// Waits until another stream may be opened, or never again.
    pub(in crate::http2) fn wait(&mut self, ticket: &StreamWaiter, cx: &Context<'_>) {
        let before = ticket.borrow_mut().replace(cx.waker().clone());
        if before.is_none() {
            self.waiting.push_back(ticket.clone());
        }
    }

    /// Calls the next who waits to open a stream.
    pub(in crate::http2) fn wake_next_waiting(&mut self) {
        while let Some(ticket) = self.waiting.pop_front() {
            // Those who gave up have left their places empty.
            if let Some(waker) = ticket.borrow_mut().take() {
                waker.wake();
                return;
            }
        }
    }

    /// Calls all who wait to open a stream.
    pub(super) fn wake_all_waiting(&mut self) {
        while !self.waiting.is_empty() {
            self.wake_next_waiting();
        }
    }

    /// Streams that are open.
    pub(in crate::http2) fn open(&self) -> usize {
        self.ids.len()
    }

    /// Whether another stream may be opened: `None` if never again.
    pub(in crate::http2) fn room_for_stream(&self) -> Option<bool> {
        let over = self.closed || self.last.is_some() || self.next > 0x7fff_ffff;
        let most = usize::try_from(self.peer_streams).unwrap_or(usize::MAX);
        (!over).then_some(self.ids.len() < most && self.greeted == Greeting::Settings)
    }

    /// What the peer takes at once.
    pub(in crate::http2) fn most_streams(&self) -> usize {
        usize::try_from(self.peer_streams).unwrap_or(usize::MAX)
    }

    /// A request came with the wish to go on in HTTP/2 (RFC 7540, section 3.2), and the settings of
    /// its client.
    pub(in crate::http2) fn upgrade(
        &mut self,
        settings: &[u8],
        head: RequestHead,
    ) -> Result<(), Goaway> {
        for own in settings.chunks_exact(6) {
            let name = u16::from_be_bytes([own[0], own[1]]);
            self.set(name, be32(&own[2..]))?;
        }
        self.highest = 1;
        let key = self.insert(1, None, StreamState::opened(true));
        self.accepted.push(Accepted { key, head });
        Ok(())
    }

    /// Opens a stream for a request.
    pub(in crate::http2) fn begin(&mut self, answers_head: bool, limit: usize) -> usize {
        let id = self.next;
        self.next += 2;
        let key = self.insert(id, None, StreamState::opened(false));
        if let Some(stream) = self.streams.get_mut(key) {
            stream.answers_head = answers_head;
            stream.limit = limit;
        }
        key
    }

    pub(super) fn insert(&mut self, id: u32, expected: Option<u64>, state: StreamState) -> usize {
        if self.streams.capacity() == 0 {
            // Most connections have one at a time, and a slab would begin with room for four.
            self.streams.reserve_exact(1);
        }
        let key = self.streams.insert(Stream {
            id,
            head: None,
            has_head: false,
            interim: Vec::new(),
            data: Held::default(),
            trailers: None,
            state,
            expected,
            ended_by_headers: state.has_received_end(),
            expects: Expects::Nothing,
            answers_head: false,
            unread: false,
            limit: self.limits.head,
            receive_window: self.initial_receive_window,
            unacked: 0,
            most: self.limits.stream_window,
            idle_for: 0,
            send_window: self.initial_send_window,
            unacked_there: 0,
            lost: None,
            blocked: false,
            reader: None,
            writer: None,
            holders: 2,
        });
        self.ids.insert(id, key);
        key
    }

    /// One of the two who hold a stream has no more use for it.
    pub(in crate::http2) fn release(&mut self, key: usize, reads: bool) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.holders -= 1;
        if reads {
            stream.reader = None;
            drop(stream.data.take());
            stream.unread = true;
            self.narrow(key);
        } else {
            stream.writer = None;
        }
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let unsaid = !reads && !stream.state.has_sent_end();
        let unheard =
            !stream.state.has_received_end() && (stream.holders == 0 || self.client && reads);
        match self.client {
            // The caller has gone.
            true if unsaid || unheard => self.reset(key, Reason::CANCEL),
            // An answer that nobody completes.
            false if unsaid => self.reset(key, Reason::INTERNAL_ERROR),
            false if unheard && stream.expects == Expects::NoMore => {
                self.reset(key, Reason::NO_ERROR);
            }
            false if unheard => {
                let id = stream.id;
                self.answered[1].push((key, id));
            }
            _ => {}
        }
        self.settle(key);
    }
}
