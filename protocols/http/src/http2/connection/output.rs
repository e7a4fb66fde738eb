//! Frames written: heads, bodies within the peer's windows, and the buffer that the driver empties.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::super::hpack::Encoder;
use super::super::{FRAME, Reason, flag, kind};
use super::streams::Expects;
use super::{ConnectionState, Lost, set};
use crate::rules;

/// Output that waits to be written, in bytes: bodies wait while there is more, and nothing is read
/// while there is twice as much.
pub(in crate::http2) const OUT: usize = 64 * 1024;

impl ConnectionState {
    pub(super) fn put_head(&mut self, length: usize, kind: u8, flags: u8, id: u32) {
        let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
        let [d, e, f, g] = id.to_be_bytes();
        self.out
            .extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
    }

    pub(super) fn put_window_update(&mut self, id: u32, more: u32) {
        self.put_head(4, kind::WINDOW_UPDATE, 0, id);
        self.out.extend_from_slice(&more.to_be_bytes());
    }

    pub(super) fn put_reset(&mut self, id: u32, reason: Reason) {
        self.put_head(4, kind::RST_STREAM, 0, id);
        self.out.extend_from_slice(&reason.0.to_be_bytes());
        self.forget(id);
    }

    pub(in crate::http2) fn put_goaway(&mut self, last: u32, reason: Reason) {
        self.put_head(8, kind::GOAWAY, 0, 0);
        self.out.extend_from_slice(&last.to_be_bytes());
        self.out.extend_from_slice(&reason.0.to_be_bytes());
    }

    pub(super) fn put_ping(&mut self, payload: [u8; 8], flags: u8) {
        self.put_head(8, kind::PING, flags, 0);
        self.out.extend_from_slice(&payload);
    }

    /// Has the driver write what there is.
    pub(in crate::http2) fn wake(&mut self) {
        if std::mem::replace(&mut self.asleep, false)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// The driver moves bytes now: it need not be woken.
    pub(in crate::http2) fn stay_awake(&mut self) {
        self.asleep = false;
    }

    /// The driver waits.
    pub(in crate::http2) fn sleeps(&mut self, cx: &Context<'_>) {
        set(&mut self.driver, cx);
        self.asleep = true;
    }

    /// Bytes that wait to be written.
    pub(in crate::http2) fn unwritten(&self) -> usize {
        self.out.len() - self.written
    }

    /// Everything was written.
    pub(in crate::http2) fn note_flushed(&mut self) {
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > 2 * OUT {
            self.out = Vec::new();
        }
        self.unblock();
    }

    /// Holds nothing that it can do without.
    pub(in crate::http2) fn shrink(&mut self) {
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

    pub(super) fn unblock(&mut self) {
        if self.send_window <= 0 {
            return;
        }
        let (room, kept) = (self.send_window, self.reserved_window());
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
    pub(super) fn put_block(
        &mut self,
        id: u32,
        end: bool,
        write: &mut dyn FnMut(&mut Encoder, &mut Vec<u8>),
    ) {
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
    pub(in crate::http2) fn send_head(
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
    pub(in crate::http2) fn send_interim(
        &mut self,
        key: usize,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        self.put_section(key, false, &mut |encoder, out| {
            encoder.field(":status", status.as_str().as_bytes(), false, out);
            put_fields(headers, encoder, out);
        });
    }

    /// Ends a message with trailers, of which there may be none.
    pub(in crate::http2) fn send_trailers(
        &mut self,
        key: usize,
        trailers: &HeaderMap,
        cx: &Context<'_>,
    ) {
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
    pub(super) fn put_section(
        &mut self,
        key: usize,
        end: bool,
        write: &mut dyn FnMut(&mut Encoder, &mut Vec<u8>),
    ) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.state.has_sent_end() || stream.lost.is_some() {
            return;
        }
        if end {
            stream.state.send_end();
        }
        let id = stream.id;
        self.put_block(id, end, write);
        self.wake();
        self.settle(key);
    }

    /// Tells a client to send its body, if it waits for that.
    pub(in crate::http2) fn go_on(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.expects == Expects::Word {
            stream.expects = Expects::Nothing;
            self.send_interim(key, StatusCode::CONTINUE, &HeaderMap::new());
        }
    }

    /// Writes as much of a piece of a body as there is room for, and takes it off.
    pub(in crate::http2) fn send_data(
        &mut self,
        key: usize,
        data: &mut Bytes,
        end: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        let kept = self.reserved_window();
        loop {
            let Some(stream) = self.streams.get_mut(key) else {
                return Poll::Ready(Err(Lost::Connection { unprocessed: false }));
            };
            if let Some(lost) = stream.lost {
                return Poll::Ready(Err(lost));
            }
            if stream.state.has_sent_end() {
                return Poll::Ready(Err(Lost::Reset(Reason::STREAM_CLOSED)));
            }
            if data.is_empty() && !end {
                return Poll::Ready(Ok(()));
            }
            let room = stream.share(self.send_window, kept);
            let full = self.out.len() - self.written >= OUT;
            if !data.is_empty() && (room <= 0 || full) {
                // An update of the stream's own window wakes it by itself.
                if stream.send_window > 0 && !std::mem::replace(&mut stream.blocked, true) {
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
            stream.send_window -= length as i64;
            stream.unacked_there += length as i64;
            if ends {
                stream.state.send_end();
            }
            self.send_window -= length as i64;
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

    /// Whether bodies wait here: for the socket, or for the connection's window.
    pub(in crate::http2) fn is_clogged(&self) -> bool {
        self.unwritten() >= OUT || self.is_starved()
    }

    /// Whether the peer's window for the connection is used up but for what is kept for small bodies: it does
    /// not read what others send.
    pub(in crate::http2) fn is_starved(&self) -> bool {
        self.send_window <= self.reserved_window()
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
