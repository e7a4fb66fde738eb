//! An HTTP/2 connection's state, which its driver and its messages share: bounds, windows, and what a peer has used of them.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io;
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

mod goaway;
mod input;
mod output;
mod received;
mod resting;
mod state;
mod streams;
#[cfg(test)]
mod tests;
mod windows;

pub(crate) use received::Received;
pub(crate) use resting::Resting;
pub(crate) use windows::holds_too_much;

use goaway::Leaving;
use streams::{Numbers, Stream};

pub(super) use output::OUT;
pub(super) use streams::StreamWaiter;

use super::hpack::{Decoder, Encoder};
use super::message::{RequestHead, Targets};
use super::{Reason, WINDOW, kind, setting};
use crate::share::Share;

/// Frames that carry nothing: how many a client may send at once, and how many each second.
const EMPTY: (u32, u32) = (20_000, 10_000);

/// Bounds of one side.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Streams that the peer may have open.
    pub(crate) streams: u32,
    /// Bytes of headers, as the protocol counts them.
    pub(crate) head: usize,
    /// Windows for the peer, in bytes: of a stream at first, and at most; and what all streams together
    /// may have more than at first.
    pub(crate) stream_window: u32,
    pub(crate) stream_most: u32,
    pub(crate) spare: u32,
    /// The connection's: what may be on its way. It is no bound of what waits here.
    pub(crate) connection_window: u32,
    /// It is us who tell a client to send its body, when that is asked for.
    pub(crate) answers_continue: bool,
}

/// The end of a connection, as GOAWAY tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Goaway(pub(super) Reason);

/// How a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Reset, by either side.
    Reset(Reason),
    /// Reset by us: what came on it breaks the rules.
    Unreadable(Reason),
    /// The connection is gone; what the peer did not look at, it has said.
    Connection { unprocessed: bool },
    /// Its head or its trailers are longer than the limit.
    TooLarge,
}

impl Lost {
    /// Whether the peer did not look at the request (RFC 9113, section 8.7).
    pub(crate) fn is_unprocessed(self) -> bool {
        matches!(
            self,
            Self::Reset(Reason::REFUSED_STREAM) | Self::Connection { unprocessed: true }
        )
    }
}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Reset(Reason(code)) | Lost::Unreadable(Reason(code)) => {
                let why = format!("the stream was reset with code {code}");
                Self::new(io::ErrorKind::ConnectionReset, why)
            }
            Lost::Connection { .. } => io::ErrorKind::ConnectionAborted.into(),
            Lost::TooLarge => io::ErrorKind::FileTooLarge.into(),
        }
    }
}

/// A block of headers that is not complete.
#[derive(Debug)]
struct Block {
    id: u32,
    ends: bool,
    bytes: Vec<u8>,
    frames: usize,
}

/// A request that has just come.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) key: usize,
    pub(super) head: RequestHead,
}

pub(crate) struct ConnectionState {
    client: bool,
    limits: Limits,
    decoder: Decoder,
    encoder: Encoder,
    targets: Targets,
    pub(super) streams: Slab<Stream>,
    ids: HashMap<u32, usize, BuildHasherDefault<Numbers>>,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    block: Option<Block>,
    /// Seconds that a block has been incomplete for.
    block_age: u32,
    /// The peer's preface has come as far as this.
    greeted: Greeting,
    /// The highest stream that the peer opened.
    highest: u32,
    /// The next that we open.
    next: u32,
    /// Ended by us; late frames are no error.
    forgotten: VecDeque<u32>,
    /// Requests that were answered before all of them had come: those of the last second but one,
    /// and of the last.
    answered: [Vec<(usize, u32)>; 2],
    pub(super) accepted: Vec<Accepted>,
    /// The write buffer, and how much of it was written.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// What the peer takes.
    peer_streams: u32,
    initial_send_window: i64,
    send_window: i64,
    /// The most that `send_window` has been.
    most_send_window: i64,
    receive_window: i64,
    /// What the peer may send on a new stream: it may not have read our SETTINGS yet.
    initial_receive_window: i64,
    unacked: u32,
    /// What windows of streams may grow by.
    spare: u32,
    /// Bytes of bodies that nobody takes.
    held: Share,
    /// Who waits for room in the output, or in the connection's window.
    blocked: VecDeque<usize>,
    /// Who waits to open a stream.
    waiting: VecDeque<StreamWaiter>,
    driver: Option<Waker>,
    /// The driver waits to be woken.
    asleep: bool,
    /// The peer opens no more, or takes no more than this.
    last: Option<u32>,
    /// Nobody will ask for anything any more.
    abandoned: bool,
    /// We said that we go: for now, or for good.
    leaving: Leaving,
    /// Another thread is to go on with it once no stream is open.
    moving: bool,
    /// It is over.
    pub(super) closed: bool,
    empty: u32,
    resets: u32,
    /// Frames have come since somebody looked.
    pub(super) received: bool,
    /// A PING of ours has no answer yet.
    pub(super) asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Nothing,
    Preface,
    Settings,
}

fn be32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

impl ConnectionState {
    pub(super) fn new(client: bool, limits: Limits) -> Self {
        let mut core = Self {
            client,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            targets: Targets::default(),
            streams: Slab::new(),
            ids: HashMap::default(),
            partial: Vec::new(),
            block: None,
            block_age: 0,
            // What tells that HTTP/2 is spoken was looked at; its bytes still come.
            greeted: if client {
                Greeting::Preface
            } else {
                Greeting::Nothing
            },
            highest: 0,
            next: 1,
            forgotten: VecDeque::new(),
            answered: Default::default(),
            accepted: Vec::new(),
            out: Vec::new(),
            written: 0,
            peer_streams: u32::MAX,
            initial_send_window: i64::from(WINDOW),
            send_window: i64::from(WINDOW),
            most_send_window: i64::from(WINDOW),
            receive_window: i64::from(limits.connection_window.max(WINDOW)),
            initial_receive_window: i64::from(limits.stream_window.max(WINDOW)),
            unacked: 0,
            spare: limits.spare,
            held: Share::of(&windows::STUCK),
            blocked: VecDeque::new(),
            waiting: VecDeque::new(),
            driver: None,
            asleep: false,
            last: None,
            abandoned: false,
            leaving: Leaving::No,
            moving: false,
            closed: false,
            empty: 0,
            resets: 0,
            received: false,
            asked: false,
            limits,
        };
        core.greet();
        core
    }

    fn greet(&mut self) {
        if self.client {
            self.out.extend_from_slice(super::PREFACE);
        }
        let head = u32::try_from(self.limits.head).unwrap_or(u32::MAX);
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, self.limits.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, head),
        ];
        if self.client {
            settings.push((setting::ENABLE_PUSH, 0));
        } else {
            settings.push((setting::MAX_CONCURRENT_STREAMS, self.limits.streams));
            settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
        }
        self.put_head(settings.len() * 6, kind::SETTINGS, 0, 0);
        for (name, value) in settings {
            self.out.extend_from_slice(&name.to_be_bytes());
            self.out.extend_from_slice(&value.to_be_bytes());
        }
        let more = self.limits.connection_window.saturating_sub(WINDOW);
        if more > 0 {
            self.put_window_update(0, more);
        }
    }

    /// Forgets what was counted within the last second. To be called once a second; `stalled` says that
    /// we did not run meanwhile.
    pub(super) fn tick(&mut self, stalled: bool) {
        self.empty = self.empty.saturating_sub(EMPTY.1);
        self.resets = 0;
        self.relieve(stalled);
        self.block_age = match self.block {
            Some(_) if !stalled => self.block_age + 1,
            _ => 0,
        };
        // RFC 9113, section 8.1: the rest is not wanted; it may just have been on its way.
        let [late, last] = &mut self.answered;
        let late = std::mem::replace(late, std::mem::take(last));
        for (key, id) in late {
            if self.streams.get(key).is_some_and(|own| own.id == id) {
                self.reset(key, Reason::NO_ERROR);
            }
        }
        if self.streams.is_empty() {
            self.shrink();
        }
    }

    /// Seconds that a message's head has been incomplete for.
    pub(super) fn block_age(&self) -> u32 {
        self.block_age
    }
}

/// Remembers whom to wake.
pub(super) fn set(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// A connection as its driver and its messages share it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<ConnectionState>>);

impl Shared {
    pub(super) fn new(core: ConnectionState) -> Self {
        Self(Rc::new(RefCell::new(core)))
    }

    pub(super) fn get(&self) -> Ref<'_, ConnectionState> {
        self.0.borrow()
    }

    pub(super) fn get_mut(&self) -> RefMut<'_, ConnectionState> {
        self.0.borrow_mut()
    }
}
