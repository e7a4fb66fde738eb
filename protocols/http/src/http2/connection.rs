//! The state of an HTTP/2 connection and of its streams, and the output that frames are written into.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use slab::Slab;

mod input;
mod received;
mod resting;
#[cfg(test)]
mod tests;
mod windows;

pub(crate) use received::Received;
pub(crate) use resting::Resting;
pub(crate) use windows::holds_too_much;

use windows::Held;

use super::hpack::{Decoder, Encoder};
use super::message::{RequestHead, Targets};
use super::{FRAME, Reason, WINDOW, flag, kind, setting};
use crate::rules;
use crate::share::Share;

/// Output that waits to be written, in bytes: bodies wait while there is more, and nothing is read
/// while there is twice as much.
pub(super) const OUT: usize = 64 * 1024;
/// Streams whose late frames are borne because it was we who ended them.
const REMEMBERED: usize = 128;
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

/// Numbers of streams are the peer's choice only in part, and few at a time.
#[derive(Default)]
pub(super) struct Numbers(u64);

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
    Connection { refused: bool },
    /// Its head or its trailers are longer than the limit.
    TooLarge,
}

impl Lost {
    /// Whether the peer did not look at the request (RFC 9113, section 8.7).
    pub(crate) fn is_refused(self) -> bool {
        matches!(
            self,
            Self::Reset(Reason::REFUSED_STREAM) | Self::Connection { refused: true }
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

/// A place among those who wait to open a stream; empty when it was called.
pub(super) type Ticket = Rc<RefCell<Option<Waker>>>;

/// What a client waits for before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Nothing,
    /// An interim response that tells it to go on.
    Word,
    /// It was answered without that: the body may never come.
    NoMore,
}

/// One exchange of messages. Its state is that of RFC 9113, section 5.1, told by two flags: `heard` (the peer has sent
/// END_STREAM) and `said` (we have). Nothing is pushed, so no stream is ever reserved.
///
/// ```text
///                 idle: no entry, its id above `highest` or `next`
///                   |  HEADERS, either way: `insert`
///                   v
///   heard   +------ open ------+   said
///     +-----|  !heard, !said   |-----+
///     v     +------------------+     v
///  half-closed        |         half-closed
///  (remote)           |         (local)
///  heard, !said       |         !heard, said
///     |               |              |
///     | said          | RST_STREAM,  | heard
///     |               | either way:  |
///     v               v `lost`       v
///  +---------------- closed -----------------+
///  | no entry; if it was we who reset it, its |
///  | id is `forgotten`, and late frames of it |
///  | are passed over                          |
///  +------------------------------------------+
/// ```
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// A response's head that nobody has taken yet.
    pub(super) head: Option<(StatusCode, HeaderMap)>,
    /// Such a head has come.
    begun: bool,
    /// What was said before it, that nobody has heard yet.
    pub(super) interim: Vec<(StatusCode, HeaderMap)>,
    data: Held,
    trailers: Option<HeaderMap>,
    /// The peer has said all.
    pub(super) heard: bool,
    /// What the peer's head said that is still to come.
    expected: Option<u64>,
    /// Its head ended it.
    bare: bool,
    expects: Expects,
    /// The response has no body, whatever its head says: HEAD was asked for.
    bodiless: bool,
    /// Nobody reads what still comes.
    unread: bool,
    /// Bytes of headers that the peer may send.
    limit: usize,
    /// What the peer may send, and what was taken of it but not given back.
    window: i64,
    taken: u32,
    /// Its window when nothing waits.
    most: u32,
    /// Seconds for which something has waited and nothing was taken.
    idle_for: u32,
    /// We have said all.
    pub(super) said: bool,
    /// What we may send.
    pub(super) room: i64,
    /// What of ours the peer has not read yet, as far as it tells.
    unread_there: i64,
    pub(super) lost: Option<Lost>,
    /// Among those who wait for room.
    blocked: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Who holds it: a reader, a writer.
    holders: u8,
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

pub(crate) struct Core {
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
    peer_window: i64,
    room: i64,
    /// The most that `room` has been.
    most_room: i64,
    window: i64,
    /// What the peer may send on a new stream: it may not have read our SETTINGS yet.
    first_window: i64,
    taken: u32,
    /// What windows of streams may grow by.
    spare: u32,
    /// Bytes of bodies that nobody takes.
    held: Share,
    /// Who waits for room in the output, or in the connection's window.
    blocked: VecDeque<usize>,
    /// Who waits to open a stream.
    waiting: VecDeque<Ticket>,
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
    pub(super) heard: bool,
    /// A PING of ours has no answer yet.
    pub(super) asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Nothing,
    Preface,
    Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// What is on its way is still taken, until our PING is answered.
    Announced,
    Left,
}

/// What our own PINGs carry.
const LEAVING_PING: [u8; 8] = *b"leaving.";
const ALIVE_PING: [u8; 8] = *b"alive???";

fn be32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

impl Core {
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
            peer_window: i64::from(WINDOW),
            room: i64::from(WINDOW),
            most_room: i64::from(WINDOW),
            window: i64::from(limits.connection_window.max(WINDOW)),
            first_window: i64::from(limits.stream_window.max(WINDOW)),
            taken: 0,
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
            heard: false,
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

    // Output.

    fn put_head(&mut self, length: usize, kind: u8, flags: u8, id: u32) {
        let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
        let [d, e, f, g] = id.to_be_bytes();
        self.out
            .extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
    }

    fn put_window_update(&mut self, id: u32, more: u32) {
        self.put_head(4, kind::WINDOW_UPDATE, 0, id);
        self.out.extend_from_slice(&more.to_be_bytes());
    }

    fn put_reset(&mut self, id: u32, reason: Reason) {
        self.put_head(4, kind::RST_STREAM, 0, id);
        self.out.extend_from_slice(&reason.0.to_be_bytes());
        self.forget(id);
    }

    /// Frames of this stream that still come are no error.
    fn forget(&mut self, id: u32) {
        if self.forgotten.len() == REMEMBERED {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    pub(super) fn put_goaway(&mut self, last: u32, reason: Reason) {
        self.put_head(8, kind::GOAWAY, 0, 0);
        self.out.extend_from_slice(&last.to_be_bytes());
        self.out.extend_from_slice(&reason.0.to_be_bytes());
    }

    /// Has the driver write what there is.
    pub(super) fn wake(&mut self) {
        if std::mem::replace(&mut self.asleep, false)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// The driver moves bytes now: it need not be woken.
    pub(super) fn stay_awake(&mut self) {
        self.asleep = false;
    }

    /// The driver waits.
    pub(super) fn sleeps(&mut self, cx: &Context<'_>) {
        set(&mut self.driver, cx);
        self.asleep = true;
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.out.len() - self.written
    }

    /// Everything was written.
    pub(super) fn note_flushed(&mut self) {
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > 2 * OUT {
            self.out = Vec::new();
        }
        self.unblock();
    }

    /// Holds nothing that it can do without.
    pub(super) fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        if self.streams.is_empty() {
            self.streams.shrink_to_fit();
            self.ids.shrink_to_fit();
            self.accepted.shrink_to_fit();
        }
    }

    fn unblock(&mut self) {
        if self.room <= 0 {
            return;
        }
        let (room, kept) = (self.room, self.kept_room());
        let streams = &mut self.streams;
        self.blocked.retain(|&key| {
            let Some(stream) = streams.get_mut(key) else {
                return false;
            };
            if stream.lost.is_none() && stream.share(room, kept) == 0 {
                return true;
            }
            stream.blocked = false;
            if let Some(writer) = stream.writer.take() {
                writer.wake();
            }
            false
        });
    }

    /// Writes a block of headers; they are given one by one to what writes them.
    fn put_block(&mut self, id: u32, end: bool, write: &mut dyn FnMut(&mut Encoder, &mut Vec<u8>)) {
        let begin = self.out.len();
        let flags = if end { flag::END_STREAM } else { 0 };
        self.put_head(0, kind::HEADERS, flags | flag::END_HEADERS, id);
        let block = self.out.len();
        self.encoder.begin(&mut self.out);
        write(&mut self.encoder, &mut self.out);
        let length = self.out.len() - block;
        if length <= FRAME {
            let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
            self.out[begin..begin + 3].copy_from_slice(&[a, b, c]);
            return;
        }
        let bytes = self.out.split_off(block);
        self.out.truncate(begin);
        let mut pieces = bytes.chunks(FRAME).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let ends = if pieces.peek().is_none() {
                flag::END_HEADERS
            } else {
                0
            };
            if first {
                self.put_head(piece.len(), kind::HEADERS, flags | ends, id);
            } else {
                self.put_head(piece.len(), kind::CONTINUATION, ends, id);
            }
            self.out.extend_from_slice(piece);
            first = false;
        }
    }

    /// Writes a message's head, which tells this length of its body. What it says before its fields may
    /// be secret.
    pub(super) fn send_head(
        &mut self,
        key: usize,
        pseudo: &[(&str, &[u8])],
        secret: bool,
        headers: &HeaderMap,
        length: Option<u64>,
        end: bool,
    ) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.expects == Expects::Word {
            stream.expects = Expects::NoMore;
        }
        self.put_section(key, end, &mut |encoder, out| {
            for (name, value) in pseudo {
                encoder.field(name, value, secret, out);
            }
            if let Some(length) = length {
                let mut digits = itoa::Buffer::new();
                let length = digits.format(length).as_bytes();
                encoder.field("content-length", length, false, out);
            }
            put_fields(headers, encoder, out);
        });
    }

    /// Writes a response that is not the last (RFC 9110, section 15.2).
    pub(super) fn send_interim(&mut self, key: usize, status: StatusCode, headers: &HeaderMap) {
        self.put_section(key, false, &mut |encoder, out| {
            encoder.field(":status", status.as_str().as_bytes(), false, out);
            put_fields(headers, encoder, out);
        });
    }

    /// Ends a message with trailers, of which there may be none.
    pub(super) fn send_trailers(&mut self, key: usize, trailers: &HeaderMap, cx: &Context<'_>) {
        let Some(mut own) = rules::trailers(trailers) else {
            // Nothing waits for room that has no bytes.
            let _ = self.send_data(key, &mut Bytes::new(), true, cx);
            return;
        };
        self.put_section(key, true, &mut |encoder, out| {
            for (name, value) in own.by_ref() {
                put_field(name, value, encoder, out);
            }
        });
    }

    /// Writes one section of fields on a stream.
    fn put_section(
        &mut self,
        key: usize,
        end: bool,
        write: &mut dyn FnMut(&mut Encoder, &mut Vec<u8>),
    ) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.said || stream.lost.is_some() {
            return;
        }
        stream.said = end;
        let id = stream.id;
        self.put_block(id, end, write);
        self.wake();
        self.settle(key);
    }

    /// Tells a client to send its body, if it waits for that.
    pub(super) fn go_on(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.expects == Expects::Word {
            stream.expects = Expects::Nothing;
            self.send_interim(key, StatusCode::CONTINUE, &HeaderMap::new());
        }
    }

    /// Writes as much of a piece of a body as there is room for, and takes it off.
    pub(super) fn send_data(
        &mut self,
        key: usize,
        data: &mut Bytes,
        end: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        let kept = self.kept_room();
        loop {
            let Some(stream) = self.streams.get_mut(key) else {
                return Poll::Ready(Err(Lost::Connection { refused: false }));
            };
            if let Some(lost) = stream.lost {
                return Poll::Ready(Err(lost));
            }
            if stream.said {
                return Poll::Ready(Err(Lost::Reset(Reason::STREAM_CLOSED)));
            }
            if data.is_empty() && !end {
                return Poll::Ready(Ok(()));
            }
            let room = stream.share(self.room, kept);
            let full = self.out.len() - self.written >= OUT;
            if !data.is_empty() && (room <= 0 || full) {
                // An update of the stream's own window wakes it by itself.
                if stream.room > 0 && !std::mem::replace(&mut stream.blocked, true) {
                    self.blocked.push_back(key);
                }
                set(&mut stream.writer, cx);
                self.wake();
                return Poll::Pending;
            }
            let length = usize::try_from(room.max(0)).unwrap_or_default();
            let length = length.min(FRAME).min(data.len());
            let piece = data.split_to(length);
            let ends = end && data.is_empty();
            stream.room -= length as i64;
            stream.unread_there += length as i64;
            stream.said = ends;
            self.room -= length as i64;
            let id = stream.id;
            let flags = if ends { flag::END_STREAM } else { 0 };
            self.put_head(length, kind::DATA, flags, id);
            self.out.extend_from_slice(&piece);
            if data.is_empty() {
                self.wake();
                if ends {
                    self.settle(key);
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Waits until a stream ends before its time; its writer is woken then.
    pub(super) fn poll_lost(&mut self, key: usize, cx: &Context<'_>) -> Poll<()> {
        match self.streams.get_mut(key) {
            Some(stream) if stream.lost.is_none() => {
                set(&mut stream.writer, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The highest stream that the peer opened.
    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    /// Wakes whoever answers a stream, to look around.
    pub(super) fn rouse(&mut self) {
        let writers = self.streams.iter_mut();
        writers
            .filter_map(|(_, stream)| stream.writer.take())
            .for_each(Waker::wake);
    }

    /// Ends a stream before its time.
    pub(super) fn reset(&mut self, key: usize, reason: Reason) {
        self.reset_as(key, reason, Lost::Reset(reason));
    }

    fn reset_as(&mut self, key: usize, reason: Reason, lost: Lost) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.lost.is_some() || stream.heard && stream.said {
            return;
        }
        let id = stream.id;
        self.lose(key, lost);
        self.put_reset(id, reason);
        self.wake();
    }

    fn lose(&mut self, key: usize, lost: Lost) {
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
    fn settle(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let over = stream.lost.is_some() || stream.heard && stream.said;
        let free = stream.holders == 0;
        if over && self.ids.remove(&stream.id).is_some() {
            self.invite();
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
    pub(super) fn wait(&mut self, ticket: &Ticket, cx: &Context<'_>) {
        let before = ticket.borrow_mut().replace(cx.waker().clone());
        if before.is_none() {
            self.waiting.push_back(ticket.clone());
        }
    }

    /// Calls the next who waits to open a stream.
    pub(super) fn invite(&mut self) {
        while let Some(ticket) = self.waiting.pop_front() {
            // Those who gave up have left their places empty.
            if let Some(waker) = ticket.borrow_mut().take() {
                waker.wake();
                return;
            }
        }
    }

    /// Calls all who wait to open a stream.
    fn invite_all(&mut self) {
        while !self.waiting.is_empty() {
            self.invite();
        }
    }

    /// Streams that are open.
    pub(super) fn open(&self) -> usize {
        self.ids.len()
    }

    /// Whether another stream may be opened: `None` if never again.
    pub(super) fn room_for_stream(&self) -> Option<bool> {
        let over = self.closed || self.last.is_some() || self.next > 0x7fff_ffff;
        let most = usize::try_from(self.peer_streams).unwrap_or(usize::MAX);
        (!over).then_some(self.ids.len() < most && self.greeted == Greeting::Settings)
    }

    /// Whether bodies wait here: for the socket, or for the connection's window.
    pub(super) fn is_clogged(&self) -> bool {
        self.unwritten() >= OUT || self.is_starved()
    }

    /// Whether the peer's window for the connection is used up but for what is kept for small bodies: it does
    /// not read what others send.
    pub(super) fn is_starved(&self) -> bool {
        self.room <= self.kept_room()
    }

    /// What the peer takes at once.
    pub(super) fn most_streams(&self) -> usize {
        usize::try_from(self.peer_streams).unwrap_or(usize::MAX)
    }

    /// A request came with the wish to go on in HTTP/2 (RFC 7540, section 3.2), and the settings of
    /// its client.
    pub(super) fn upgrade(&mut self, settings: &[u8], head: RequestHead) -> Result<(), Goaway> {
        for own in settings.chunks_exact(6) {
            let name = u16::from_be_bytes([own[0], own[1]]);
            self.set(name, be32(&own[2..]))?;
        }
        self.highest = 1;
        let key = self.insert(1, None, true);
        self.accepted.push(Accepted { key, head });
        Ok(())
    }

    /// Opens a stream for a request.
    pub(super) fn begin(&mut self, bodiless: bool, limit: usize) -> usize {
        let id = self.next;
        self.next += 2;
        let key = self.insert(id, None, false);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.bodiless = bodiless;
            stream.limit = limit;
        }
        key
    }

    fn insert(&mut self, id: u32, expected: Option<u64>, heard: bool) -> usize {
        let key = self.streams.insert(Stream {
            id,
            head: None,
            begun: false,
            interim: Vec::new(),
            data: Held::default(),
            trailers: None,
            heard,
            expected,
            bare: heard,
            expects: Expects::Nothing,
            bodiless: false,
            unread: false,
            limit: self.limits.head,
            window: self.first_window,
            taken: 0,
            most: self.limits.stream_window,
            idle_for: 0,
            said: false,
            room: self.peer_window,
            unread_there: 0,
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
    pub(super) fn release(&mut self, key: usize, reads: bool) {
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
        let unsaid = !reads && !stream.said;
        let unheard = !stream.heard && (stream.holders == 0 || self.client && reads);
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

    // Ends.

    /// Takes no new streams, but those on their way.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            self.put_goaway(0x7fff_ffff, Reason::NO_ERROR);
            self.put_ping(LEAVING_PING, 0);
            self.wake();
        }
    }

    /// Whether nothing is left to do but close.
    pub(super) fn is_done(&self) -> bool {
        let gone = self.leaving == Leaving::Left || self.client && self.last.is_some();
        self.closed || (gone || self.abandoned) && self.ids.is_empty()
    }

    /// Nobody will ask for anything any more: it ends with what is under way.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.put_goaway(0, Reason::NO_ERROR);
        self.wake();
    }

    /// Ends everything: the connection has.
    pub(super) fn close(&mut self) {
        self.closed = true;
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let over = |stream: &Stream| stream.heard && stream.said;
            if !self.streams.get(key).is_none_or(over) {
                self.lose(key, Lost::Connection { refused: false });
            }
        }
        self.invite_all();
    }

    /// Asks whether the peer is still there.
    pub(super) fn ask(&mut self) {
        self.asked = true;
        self.put_ping(ALIVE_PING, 0);
        self.wake();
    }

    fn put_ping(&mut self, payload: [u8; 8], flags: u8) {
        self.put_head(8, kind::PING, flags, 0);
        self.out.extend_from_slice(&payload);
    }

    /// What was borne within a second is forgotten. To be called once a second; `stalled` says that
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
            self.rest();
        }
    }

    /// Seconds that a message's head has been incomplete for.
    pub(super) fn block_age(&self) -> u32 {
        self.block_age
    }
}

/// Writes the fields of a head that may stand in one; its length is told apart.
fn put_fields(headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (name, value) in headers {
        // RFC 9113, section 8.2.2.
        if !rules::is_framing(name) && !rules::is_hop_by_hop(name) {
            put_field(name, value, encoder, out);
        }
    }
}

fn put_field(name: &HeaderName, value: &HeaderValue, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let secret = matches!(
        *name,
        header::AUTHORIZATION | header::COOKIE | header::SET_COOKIE | header::PROXY_AUTHORIZATION
    );
    let secret = secret || value.is_sensitive();
    encoder.field(name.as_str(), value.as_bytes(), secret, out);
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
pub(crate) struct Shared(Rc<RefCell<Core>>);

impl Shared {
    pub(super) fn new(core: Core) -> Self {
        Self(Rc::new(RefCell::new(core)))
    }

    pub(super) fn get(&self) -> Ref<'_, Core> {
        self.0.borrow()
    }

    pub(super) fn get_mut(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }
}
