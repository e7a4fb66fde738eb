//! What is known of a connection, and what each frame does to it.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use slab::Slab;

use super::hpack::{Decoder, Encoder};
use super::message::{self, Fault, Headers, RequestHead, Targets};
use super::{FRAME, FRAME_HEAD, MOST_WINDOW, Reason, WINDOW, flag, kind, setting};

/// Output that waits to be written, in bytes: bodies wait while there is more, and nothing is read
/// while there is twice as much.
pub(super) const OUT: usize = 64 * 1024;
/// Streams whose late frames are borne because it was we who ended them.
const REMEMBERED: usize = 128;
/// Streams that the peer's errors made us reset, within [`Core::tick`]s that are a second apart
/// (CVE-2025-8671).
const LOCAL_RESETS: u32 = 200;
/// Frames that carry nothing: what a client may send at once, and what is borne each second.
const EMPTY: (u32, u32) = (20_000, 10_000);
/// CONTINUATION frames of one block (CVE-2024-27316).
const CONTINUATIONS: u32 = 16;
/// A block is at most so many times as long as the headers in it may be.
const BLOCK: usize = 2;

/// Bounds of one side.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Streams that the peer may have open.
    pub(crate) streams: u32,
    /// Bytes of headers, as the protocol counts them.
    pub(crate) head: usize,
    /// Windows for the peer, in bytes.
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
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
    /// The connection is gone; what the peer did not look at, it has said.
    Connection { refused: bool },
}

impl Lost {
    /// Whether the peer did not look at the request (section 8.7).
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
            Lost::Reset(Reason(code)) => {
                let why = format!("the stream was reset with code {code}");
                Self::new(io::ErrorKind::ConnectionReset, why)
            }
            Lost::Connection { .. } => io::ErrorKind::ConnectionAborted.into(),
        }
    }
}

/// A place among those who wait to open a stream; empty when it was called.
pub(super) type Ticket = Rc<RefCell<Option<Waker>>>;

/// One exchange of messages.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// A response's head that nobody has taken yet.
    pub(super) head: Option<(StatusCode, HeaderMap)>,
    /// Such a head has come.
    begun: bool,
    data: BytesMut,
    trailers: Option<HeaderMap>,
    /// The peer has said all.
    pub(super) heard: bool,
    /// What the peer's head said that is still to come.
    expected: Option<u64>,
    /// Its head ended it.
    bare: bool,
    /// The response has no body, whatever its head says: HEAD was asked for.
    bodiless: bool,
    /// Nobody reads what still comes.
    unread: bool,
    /// What the peer may send, and what was taken of it but not given back.
    window: i64,
    taken: u32,
    /// We have said all.
    pub(super) said: bool,
    /// What we may send.
    pub(super) room: i64,
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
    frames: u32,
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
    /// What is to be written, of which so much was.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// What the peer takes.
    peer_streams: u32,
    peer_window: i64,
    room: i64,
    window: i64,
    taken: u32,
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
    /// It is over.
    pub(super) closed: bool,
    empty: u32,
    resets: u32,
    /// Frames have come since somebody asked.
    pub(super) heard: bool,
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
            window: i64::from(limits.connection_window.max(WINDOW)),
            taken: 0,
            blocked: VecDeque::new(),
            waiting: VecDeque::new(),
            driver: None,
            asleep: false,
            last: None,
            abandoned: false,
            leaving: Leaving::No,
            closed: false,
            empty: 0,
            resets: 0,
            heard: false,
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
    pub(super) fn is_awake(&mut self) {
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
    pub(super) fn is_flushed(&mut self) {
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
        for key in std::mem::take(&mut self.blocked) {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.blocked = false;
                if let Some(writer) = stream.writer.take() {
                    writer.wake();
                }
            }
        }
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

    /// Writes a head or trailers on a stream.
    pub(super) fn send_headers(
        &mut self,
        key: usize,
        pseudo: &[(&str, &[u8])],
        headers: &HeaderMap,
        end: bool,
    ) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.said || stream.lost.is_some() {
            return;
        }
        stream.said = end;
        let id = stream.id;
        self.put_block(id, end, &mut |encoder, out| {
            for (name, value) in pseudo {
                encoder.field(name, value, false, out);
            }
            for (name, value) in headers {
                // They have no place here (section 8.2.2).
                if matches!(
                    *name,
                    header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE
                ) {
                    continue;
                }
                let secret = matches!(
                    *name,
                    header::AUTHORIZATION
                        | header::COOKIE
                        | header::SET_COOKIE
                        | header::PROXY_AUTHORIZATION
                );
                let secret = secret || value.is_sensitive();
                encoder.field(name.as_str(), value.as_bytes(), secret, out);
            }
        });
        self.wake();
        self.settle(key);
    }

    /// Writes as much of a piece of a body as there is room for, and takes it off.
    pub(super) fn send_data(
        &mut self,
        key: usize,
        data: &mut Bytes,
        end: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Lost>> {
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
            let room = stream.room.min(self.room);
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

    /// Whether a stream ended before its time; if not, its writer is woken when it does.
    pub(super) fn is_lost(&mut self, key: usize, cx: &Context<'_>) -> bool {
        match self.streams.get_mut(key) {
            Some(stream) if stream.lost.is_none() => {
                set(&mut stream.writer, cx);
                false
            }
            _ => true,
        }
    }

    /// The highest stream that the peer opened.
    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    /// Ends a stream before its time.
    pub(super) fn reset(&mut self, key: usize, reason: Reason) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.lost.is_some() || stream.heard && stream.said {
            return;
        }
        let id = stream.id;
        self.lose(key, Lost::Reset(reason));
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
            let stream = self.streams.remove(key);
            self.give_back(stream.data.len());
            if self.is_done() {
                self.wake();
            }
        }
    }

    /// Bytes of bodies were taken, or thrown away: the connection's window opens again.
    fn give_back(&mut self, length: usize) {
        self.taken += u32::try_from(length).unwrap_or_default();
        if self.taken >= self.limits.connection_window.max(WINDOW) / 2 {
            let more = std::mem::take(&mut self.taken);
            self.window += i64::from(more);
            self.put_window_update(0, more);
            self.wake();
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
    pub(super) fn has_room(&self) -> Option<bool> {
        let over = self.closed || self.last.is_some() || self.next > 0x7fff_ffff;
        let most = usize::try_from(self.peer_streams).unwrap_or(usize::MAX);
        (!over).then_some(self.ids.len() < most && self.greeted == Greeting::Settings)
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
    pub(super) fn begin(&mut self, bodiless: bool) -> usize {
        let id = self.next;
        self.next += 2;
        let key = self.insert(id, None, false);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.bodiless = bodiless;
        }
        key
    }

    fn insert(&mut self, id: u32, expected: Option<u64>, heard: bool) -> usize {
        let key = self.streams.insert(Stream {
            id,
            head: None,
            begun: false,
            data: BytesMut::new(),
            trailers: None,
            heard,
            expected,
            bare: heard,
            bodiless: false,
            unread: false,
            window: i64::from(self.limits.stream_window),
            taken: 0,
            said: false,
            room: self.peer_window,
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
            let held = std::mem::take(&mut stream.data);
            stream.unread = true;
            self.give_back(held.len());
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
        self.put_ping(ALIVE_PING, 0);
        self.wake();
    }

    fn put_ping(&mut self, payload: [u8; 8], flags: u8) {
        self.put_head(8, kind::PING, flags, 0);
        self.out.extend_from_slice(&payload);
    }

    /// What was borne within a second is forgotten. To be called once a second.
    pub(super) fn tick(&mut self) {
        self.empty = self.empty.saturating_sub(EMPTY.1);
        self.resets = 0;
        self.block_age = match self.block {
            Some(_) => self.block_age + 1,
            None => 0,
        };
        // Section 8.1: the rest is not wanted; it may just have been on its way.
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

    // Input.

    /// Takes bytes from the peer.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Goaway> {
        self.heard = true;
        if self.partial.is_empty() {
            let used = self.frames(bytes)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let used = self.frames(&all)?;
        all.drain(..used);
        if all.capacity() > 2 * FRAME && all.is_empty() {
            all = Vec::new();
        }
        self.partial = all;
        Ok(())
    }

    /// Reads whole frames; returns the bytes that they are.
    fn frames(&mut self, bytes: &[u8]) -> Result<usize, Goaway> {
        let mut at = 0;
        if self.greeted == Greeting::Nothing {
            let length = bytes.len().min(super::PREFACE.len());
            if bytes[..length] != super::PREFACE[..length] {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            if length < super::PREFACE.len() {
                return Ok(0);
            }
            at = length;
            self.greeted = Greeting::Preface;
        }
        while let Some(head) = bytes.get(at..at + FRAME_HEAD) {
            let &[a, b, c, kind, flags, d, e, f, g] = head else {
                break;
            };
            let length = be32(&[0, a, b, c]) as usize;
            if length > FRAME {
                return Err(Goaway(Reason::FRAME_SIZE_ERROR));
            }
            let begin = at + FRAME_HEAD;
            let Some(payload) = bytes.get(begin..begin + length) else {
                break;
            };
            let id = be32(&[d, e, f, g]) & 0x7fff_ffff;
            self.frame(kind, flags, id, payload)?;
            at = begin + length;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        let fault = Err(Goaway(Reason::PROTOCOL_ERROR));
        if self.greeted == Greeting::Preface {
            if kind != kind::SETTINGS || flags & flag::ACK != 0 {
                return fault;
            }
            self.greeted = Greeting::Settings;
            self.invite_all();
        }
        if let Some(block) = &self.block
            && (kind != kind::CONTINUATION || block.id != id)
        {
            return fault;
        }
        match kind {
            kind::DATA => self.data(flags, id, payload),
            kind::HEADERS => self.headers(flags, id, payload),
            kind::CONTINUATION => self.continuation(flags, id, payload),
            kind::PRIORITY => {
                self.is_empty()?;
                if id == 0 {
                    return fault;
                }
                if payload.len() != 5 {
                    return self.stream_fault(id, Reason::FRAME_SIZE_ERROR);
                }
                if be32(payload) & 0x7fff_ffff == id {
                    return self.stream_fault(id, Reason::PROTOCOL_ERROR);
                }
                Ok(())
            }
            kind::RST_STREAM => self.rst_stream(id, payload),
            kind::SETTINGS => self.settings(flags, id, payload),
            kind::PUSH_PROMISE => fault,
            kind::PING => self.ping(flags, id, payload),
            kind::GOAWAY => self.goaway(id, payload),
            kind::WINDOW_UPDATE => self.window_update(id, payload),
            // Section 5.5.
            _ => self.is_empty(),
        }
    }

    /// One more frame that carries nothing.
    fn is_empty(&mut self) -> Result<(), Goaway> {
        self.empty += 1;
        if self.empty > EMPTY.0 {
            return Err(Goaway(Reason::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }

    /// The peer's fault on one stream.
    fn stream_fault(&mut self, id: u32, reason: Reason) -> Result<(), Goaway> {
        self.resets += 1;
        if self.resets > LOCAL_RESETS && !self.client {
            return Err(Goaway(Reason::ENHANCE_YOUR_CALM));
        }
        match self.ids.get(&id).copied() {
            Some(key) => self.reset(key, reason),
            None => self.put_reset(id, reason),
        }
        Ok(())
    }

    /// Whether a stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        let ours = id % 2 == u32::from(self.client);
        if ours {
            id >= self.next
        } else {
            id > self.highest
        }
    }

    fn data(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if id == 0 || self.is_idle(id) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        let length = payload.len();
        self.window -= length as i64;
        if self.window < 0 {
            return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
        }
        let data = unpadded(flags, payload)?;
        let ends = flags & flag::END_STREAM != 0;
        if data.is_empty() && !ends {
            self.is_empty()?;
        }
        let Some(&key) = self.ids.get(&id) else {
            self.give_back(length);
            if self.forgotten.contains(&id) {
                return Ok(());
            }
            return self.stream_fault(id, Reason::STREAM_CLOSED);
        };
        let client = self.client;
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        stream.window -= length as i64;
        if let Some(expected) = &mut stream.expected {
            let rest = expected.checked_sub(data.len() as u64);
            let Some(rest) = rest.filter(|rest| !ends || *rest == 0) else {
                self.give_back(length);
                return self.stream_fault(id, Reason::PROTOCOL_ERROR);
            };
            *expected = rest;
        }
        let fault = if stream.heard {
            Some(Reason::STREAM_CLOSED)
        } else if client && !stream.begun {
            Some(Reason::PROTOCOL_ERROR)
        } else if stream.window < 0 {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else {
            None
        };
        if let Some(reason) = fault {
            self.give_back(length);
            return self.stream_fault(id, reason);
        }
        stream.heard = ends;
        // Padding takes from the windows, too.
        let mut padding = length - data.len();
        if stream.unread {
            // The stream's window is not opened again.
            padding = length;
            if !ends && !client && stream.window < i64::from(self.limits.stream_window) / 2 {
                self.reset(key, Reason::NO_ERROR);
            }
        } else {
            stream.data.extend_from_slice(data);
            if let Some(reader) = stream.reader.take() {
                reader.wake();
            }
            if padding > 0 {
                self.consume(key, padding);
                padding = 0;
            }
        }
        self.give_back(padding);
        if ends {
            self.settle(key);
        }
        Ok(())
    }

    /// Bytes of a stream were taken: its window opens again, and the connection's.
    fn consume(&mut self, key: usize, length: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.heard
        {
            stream.taken += u32::try_from(length).unwrap_or_default();
            if stream.taken >= self.limits.stream_window / 2 {
                let more = std::mem::take(&mut stream.taken);
                stream.window += i64::from(more);
                let id = stream.id;
                self.put_window_update(id, more);
                self.wake();
            }
        }
        self.give_back(length);
    }

    fn headers(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if id == 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        let mut block = unpadded(flags, payload)?;
        if flags & flag::PRIORITY != 0 {
            let (priority, rest) = block
                .split_at_checked(5)
                .ok_or(Goaway(Reason::FRAME_SIZE_ERROR))?;
            block = rest;
            if be32(priority) & 0x7fff_ffff == id {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
        }
        let ends = flags & flag::END_STREAM != 0;
        if flags & flag::END_HEADERS != 0 {
            return self.complete(id, ends, block);
        }
        self.block = Some(Block {
            id,
            ends,
            bytes: block.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        let Some(block) = &mut self.block else {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        };
        block.frames += 1;
        let long = block.bytes.len() + payload.len() > self.limits.head * BLOCK;
        if block.frames > CONTINUATIONS || long {
            return Err(Goaway(Reason::ENHANCE_YOUR_CALM));
        }
        block.bytes.extend_from_slice(payload);
        if flags & flag::END_HEADERS == 0 {
            return Ok(());
        }
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        self.complete(id, block.ends, &block.bytes)
    }

    /// A whole block of headers.
    fn complete(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Goaway> {
        let mut headers = Headers::new(self.limits.head);
        let decoded = self.decoder.decode(block, &mut |name, value, size| {
            headers.add(name, value, size)
        });
        decoded.map_err(|_| Goaway(Reason::COMPRESSION_ERROR))?;
        match self.ids.get(&id).copied() {
            Some(key) if self.client => self.response(key, ends, headers),
            Some(key) => self.trailers(key, ends, headers),
            None if self.client => {
                if self.is_idle(id) {
                    return Err(Goaway(Reason::PROTOCOL_ERROR));
                }
                // Late, or of a stream that is over.
                Ok(())
            }
            None => self.request(id, ends, headers),
        }
    }

    fn request(&mut self, id: u32, ends: bool, headers: Headers) -> Result<(), Goaway> {
        if id.is_multiple_of(2) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        if id <= self.highest {
            if self.forgotten.contains(&id) {
                return Ok(());
            }
            return Err(Goaway(Reason::STREAM_CLOSED));
        }
        if self.leaving == Leaving::Left {
            // It was told that this one is not looked at.
            self.highest = id;
            self.forget(id);
            return Ok(());
        }
        self.highest = id;
        let most = self.limits.streams as usize;
        // Those that were taken back are still somebody's until that one notices.
        if self.ids.len() >= most || self.streams.len() >= 2 * most {
            self.is_empty()?;
            self.put_reset(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let read = headers.into_request(&mut self.targets).and_then(|head| {
            let length = message::content_length(&head.headers)?;
            if ends && length.is_some_and(|length| length > 0) {
                return Err(Fault::Malformed);
            }
            Ok((head, length))
        });
        match read {
            Ok((head, length)) => {
                let key = self.insert(id, length, ends);
                self.accepted.push(Accepted { key, head });
                Ok(())
            }
            Err(Fault::Malformed) => self.stream_fault(id, Reason::PROTOCOL_ERROR),
            Err(Fault::TooLarge) => {
                self.is_too_large(id, ends);
                Ok(())
            }
        }
    }

    /// Answers a request whose head is larger than the limit.
    fn is_too_large(&mut self, id: u32, ends: bool) {
        let key = self.insert(id, None, ends);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.send_headers(key, &[(":status", b"431")], &headers, true);
        self.release(key, false);
        self.release(key, true);
    }

    fn response(&mut self, key: usize, ends: bool, headers: Headers) -> Result<(), Goaway> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let id = stream.id;
        if stream.begun {
            return self.trailers(key, ends, headers);
        }
        let read = headers.into_response().and_then(|(status, headers)| {
            let length = message::content_length(&headers)?;
            Ok((status, headers, length))
        });
        match read {
            // More follows.
            Ok((status, ..)) if status.is_informational() && !ends => Ok(()),
            Ok((status, headers, length)) if !status.is_informational() => {
                stream.begun = true;
                stream.heard = ends;
                stream.bare = ends;
                // Such responses tell the length of what does not come.
                let none = stream.bodiless || ends || status == StatusCode::NOT_MODIFIED;
                stream.expected = if none { None } else { length };
                stream.head = Some((status, headers));
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
                if ends {
                    self.settle(key);
                }
                Ok(())
            }
            _ => self.stream_fault(id, Reason::PROTOCOL_ERROR),
        }
    }

    fn trailers(&mut self, key: usize, ends: bool, headers: Headers) -> Result<(), Goaway> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let id = stream.id;
        if stream.heard {
            return self.stream_fault(id, Reason::STREAM_CLOSED);
        }
        let short = stream.expected.is_some_and(|rest| rest > 0);
        match headers.into_trailers() {
            Ok(trailers) if ends && !short => {
                stream.heard = true;
                stream.trailers = Some(trailers);
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
                self.settle(key);
                Ok(())
            }
            _ => self.stream_fault(id, Reason::PROTOCOL_ERROR),
        }
    }

    fn rst_stream(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if payload.len() != 4 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        if id == 0 || self.is_idle(id) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        self.is_empty()?;
        if let Some(&key) = self.ids.get(&id) {
            self.lose(key, Lost::Reset(Reason(be32(payload))));
        } else {
            // It says no more.
            self.forgotten.retain(|own| *own != id);
        }
        Ok(())
    }

    fn settings(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        if flags & flag::ACK != 0 {
            return match payload {
                [] => Ok(()),
                _ => Err(Goaway(Reason::FRAME_SIZE_ERROR)),
            };
        }
        self.is_empty()?;
        if !payload.len().is_multiple_of(6) {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        for own in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([own[0], own[1]]);
            self.set(name, be32(&own[2..]))?;
        }
        self.put_head(0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn set(&mut self, name: u16, value: u32) -> Result<(), Goaway> {
        match name {
            setting::HEADER_TABLE_SIZE => {
                self.encoder
                    .bound(usize::try_from(value).unwrap_or(usize::MAX));
            }
            setting::ENABLE_PUSH if value > u32::from(!self.client) => {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.peer_streams = value;
                self.invite_all();
            }
            setting::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                if window > MOST_WINDOW {
                    return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
                }
                let more = window - self.peer_window;
                self.peer_window = window;
                for (_, stream) in &mut self.streams {
                    stream.room += more;
                    if stream.room > MOST_WINDOW {
                        return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
                    }
                    if let Some(writer) = stream.writer.take() {
                        writer.wake();
                    }
                }
            }
            setting::MAX_FRAME_SIZE => {
                let size = usize::try_from(value).unwrap_or(usize::MAX);
                if !(FRAME..1 << 24).contains(&size) {
                    return Err(Goaway(Reason::PROTOCOL_ERROR));
                }
                // Longer frames than every peer takes would only keep others waiting.
            }
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        let payload: [u8; 8] = payload
            .try_into()
            .map_err(|_| Goaway(Reason::FRAME_SIZE_ERROR))?;
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        self.is_empty()?;
        if flags & flag::ACK == 0 {
            self.put_ping(payload, flag::ACK);
        } else if payload == LEAVING_PING && self.leaving == Leaving::Announced {
            // What was sent before it heard of our leaving has come by now.
            self.leaving = Leaving::Left;
            self.put_goaway(self.highest, Reason::NO_ERROR);
        }
        Ok(())
    }

    fn goaway(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        if payload.len() < 8 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        self.is_empty()?;
        let last = be32(payload) & 0x7fff_ffff;
        self.last = Some(last);
        if self.client {
            let beyond = self.ids.iter().filter(|(id, _)| **id > last);
            let keys: Vec<usize> = beyond.map(|(_, key)| *key).collect();
            for key in keys {
                self.lose(key, Lost::Connection { refused: true });
            }
            self.invite_all();
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        if payload.len() != 4 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        self.is_empty()?;
        let more = i64::from(be32(payload) & 0x7fff_ffff);
        if id == 0 {
            self.room += more;
            if more == 0 {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            if self.room > MOST_WINDOW {
                return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
            }
            self.unblock();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        let Some(&key) = self.ids.get(&id) else {
            return Ok(());
        };
        if more == 0 {
            return self.stream_fault(id, Reason::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        stream.room += more;
        if stream.room > MOST_WINDOW {
            return self.stream_fault(id, Reason::FLOW_CONTROL_ERROR);
        }
        if let Some(writer) = stream.writer.take() {
            writer.wake();
        }
        Ok(())
    }
}

/// A payload without its padding.
fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Goaway> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload
        .split_first()
        .ok_or(Goaway(Reason::FRAME_SIZE_ERROR))?;
    let length = rest.len().checked_sub(usize::from(padding));
    length
        .and_then(|length| rest.get(..length))
        .ok_or(Goaway(Reason::PROTOCOL_ERROR))
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

/// The body of a message as it arrives.
pub(crate) struct Received {
    connection: Shared,
    key: usize,
    /// Some of it was taken.
    begun: bool,
    ended: bool,
}

impl Received {
    pub(super) fn new(connection: Shared, key: usize) -> Self {
        Self {
            connection,
            key,
            begun: false,
            ended: false,
        }
    }

    /// The stream it comes on.
    pub(super) fn key(&self) -> usize {
        self.key
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let key = self.key;
        let mut core = self.connection.get_mut();
        let Some(stream) = core.streams.get_mut(key) else {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        };
        let polled = if !stream.data.is_empty() {
            let data = std::mem::take(&mut stream.data).freeze();
            core.consume(key, data.len());
            drop(core);
            self.begun = true;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        } else if let Some(trailers) = stream.trailers.take() {
            Some(Ok(Frame::trailers(trailers)))
        } else if stream.heard {
            None
        } else if let Some(lost) = stream.lost {
            Some(Err(lost.into()))
        } else {
            set(&mut stream.reader, cx);
            return Poll::Pending;
        };
        drop(core);
        self.ended = true;
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        // An empty frame that ends a body is passed on as such: gRPC's servers wait for it.
        let core = self.connection.get();
        let whole = |stream: &Stream| {
            let over = stream.heard && stream.data.is_empty() && stream.trailers.is_none();
            over && (stream.bare || self.begun)
        };
        self.ended || core.streams.get(self.key).is_some_and(whole)
    }

    fn size_hint(&self) -> SizeHint {
        let core = self.connection.get();
        let Some(stream) = core.streams.get(self.key) else {
            return SizeHint::default();
        };
        let here = stream.data.len() as u64;
        match stream.expected {
            Some(rest) => SizeHint::with_exact(here + rest),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.connection.get_mut().release(self.key, true);
    }
}
