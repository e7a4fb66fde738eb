//! Frames received: what each does to a connection (RFC 9113, sections 5 and 6).

use http::{HeaderMap, Method};

use super::super::message::{Fault, Headers};
use super::super::{FRAME, FRAME_HEAD, MOST_WINDOW, PREFACE, Reason, flag, kind, setting};
use super::goaway::{LEAVING_PING, Leaving};
use super::state::StreamState;
use super::streams::Expects;
use super::{Accepted, Block, ConnectionState, EMPTY, Goaway, Greeting, Lost, be32};
use crate::headers::expects_continue;
use crate::rules;

/// Streams that the peer's errors made us reset, within [`ConnectionState::tick`]s that are a second apart
/// (CVE-2025-8671).
const LOCAL_RESETS: u32 = 200;
/// CONTINUATION frames of one block (CVE-2024-27316).
const CONTINUATIONS: usize = 16;
/// Interim responses that nobody has heard yet, at most.
const INTERIM: usize = 32;
/// A block is at most so many times as long as the headers in it may be.
const BLOCK: usize = 2;

impl ConnectionState {
    /// Takes bytes from the peer.
    pub(in crate::http2) fn receive(&mut self, bytes: &[u8]) -> Result<(), Goaway> {
        self.received = true;
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
            let length = bytes.len().min(PREFACE.len());
            // RFC 9113, section 3.4: another beginning is an error of the connection.
            if bytes[..length] != PREFACE[..length] {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            if length < PREFACE.len() {
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
            // RFC 9113, section 4.2: we never said that we take longer ones.
            if length > FRAME {
                return Err(Goaway(Reason::FRAME_SIZE_ERROR));
            }
            let begin = at + FRAME_HEAD;
            let Some(payload) = bytes.get(begin..begin + length) else {
                break;
            };
            // RFC 9113, section 4.1: the highest bit says nothing.
            let id = be32(&[d, e, f, g]) & 0x7fff_ffff;
            self.frame(kind, flags, id, payload)?;
            at = begin + length;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        let fault = Err(Goaway(Reason::PROTOCOL_ERROR));
        // RFC 9113, section 3.4: SETTINGS comes first.
        if self.greeted == Greeting::Preface {
            if kind != kind::SETTINGS || flags & flag::ACK != 0 {
                return fault;
            }
            self.greeted = Greeting::Settings;
            self.wake_all_waiting();
        }
        // RFC 9113, section 6.10: nothing stands between the frames of one block.
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
                // RFC 9113, section 6.3. What it says about the order of streams is not used (RFC 9113, section 5.3.2).
                self.count_empty()?;
                if id == 0 {
                    return fault;
                }
                if payload.len() != 5 {
                    return self.stream_fault(id, Reason::FRAME_SIZE_ERROR);
                }
                // RFC 7540, section 5.3.1: no stream depends on itself.
                if be32(payload) & 0x7fff_ffff == id {
                    return self.stream_fault(id, Reason::PROTOCOL_ERROR);
                }
                Ok(())
            }
            kind::RST_STREAM => self.rst_stream(id, payload),
            kind::SETTINGS => self.settings(flags, id, payload),
            // RFC 9113, section 8.4: a client cannot push, and we tell servers not to.
            kind::PUSH_PROMISE => fault,
            kind::PING => self.ping(flags, id, payload),
            kind::GOAWAY => self.goaway(id, payload),
            kind::WINDOW_UPDATE => self.window_update(id, payload),
            // RFC 9113, section 5.5.
            _ => self.count_empty(),
        }
    }

    /// One more frame that carries nothing.
    fn count_empty(&mut self) -> Result<(), Goaway> {
        self.empty += 1;
        // RFC 9113, section 10.5: small frames without use are abuse, when they are many.
        if self.empty > EMPTY.0 {
            return Err(Goaway(Reason::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }

    /// The peer's fault on one stream.
    fn stream_fault(&mut self, id: u32, reason: Reason) -> Result<(), Goaway> {
        self.resets += 1;
        // RFC 9113, section 10.5: so are faults.
        if self.resets > LOCAL_RESETS && !self.client {
            return Err(Goaway(Reason::ENHANCE_YOUR_CALM));
        }
        match self.ids.get(&id).copied() {
            Some(key) => self.reset_as(key, reason, Lost::Unreadable(reason)),
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
        // RFC 9113, sections 6.1 and 5.1: DATA belongs to a stream that was opened.
        if id == 0 || self.is_idle(id) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        let length = payload.len();
        // RFC 9113, section 6.9.1: the padding counts, too (RFC 9113, section 6.1).
        self.receive_window -= length as i64;
        if self.receive_window < 0 {
            return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
        }
        self.give_back(length);
        let data = unpadded(flags, payload)?;
        let ends = flags & flag::END_STREAM != 0;
        if data.is_empty() && !ends {
            self.count_empty()?;
        }
        // RFC 9113, section 5.1: late frames of a stream that we reset are no error; others are, of theirs.
        let Some(&key) = self.ids.get(&id) else {
            if self.forgotten.contains(&id) {
                return Ok(());
            }
            return self.stream_fault(id, Reason::STREAM_CLOSED);
        };
        let client = self.client;
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        stream.receive_window -= length as i64;
        // RFC 9113, section 8.1.1: all DATA together is as long as content-length says.
        if let Some(expected) = &mut stream.expected {
            let rest = expected.checked_sub(data.len() as u64);
            let Some(rest) = rest.filter(|rest| !ends || *rest == 0) else {
                return self.stream_fault(id, Reason::PROTOCOL_ERROR);
            };
            *expected = rest;
        }
        // RFC 9113, section 5.1: nothing follows END_STREAM. RFC 9113, section 8.1: DATA follows a head.
        let fault = if stream.state.has_received_end() {
            Some(Reason::STREAM_CLOSED)
        } else if client && !stream.has_head {
            Some(Reason::PROTOCOL_ERROR)
        } else if stream.receive_window < 0 && length > 0 {
            // It may be less than nothing without the peer's fault, see `acknowledged`; then nothing may
            // come but an end without data.
            Some(Reason::FLOW_CONTROL_ERROR)
        } else {
            None
        };
        if let Some(reason) = fault {
            return self.stream_fault(id, reason);
        }
        if ends {
            stream.state.receive_end();
        }
        stream.expects = Expects::Nothing;
        if stream.unread {
            // The stream's window is not opened again.
            if !ends && !client && stream.receive_window < i64::from(self.limits.stream_window) / 2
            {
                self.reset(key, Reason::NO_ERROR);
            }
        } else {
            stream.data.put(data);
            if let Some(reader) = stream.reader.take() {
                reader.wake();
            }
            // Padding takes from the windows, too.
            let padding = length - data.len();
            if padding > 0 {
                self.consume(key, padding);
            }
        }
        if ends {
            self.settle(key);
        }
        Ok(())
    }

    fn headers(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.2.
        if id == 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        let mut block = unpadded(flags, payload)?;
        if flags & flag::PRIORITY != 0 {
            let (priority, rest) = block
                .split_at_checked(5)
                .ok_or(Goaway(Reason::FRAME_SIZE_ERROR))?;
            block = rest;
            // RFC 7540, section 5.3.1: no stream depends on itself.
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
        // RFC 9113, section 6.10: only after HEADERS that does not end the block.
        let Some(block) = &mut self.block else {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        };
        block.frames += 1;
        let long = block.bytes.len() + payload.len() > self.limits.head * BLOCK;
        let most = CONTINUATIONS.max(2 * self.limits.head / FRAME);
        // RFC 9113, section 10.5.1.
        if block.frames > most || long {
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
        let key = self.ids.get(&id).copied();
        let stream = key.and_then(|key| self.streams.get(key));
        let limit = stream.map_or(self.limits.head, |stream| stream.limit);
        let mut headers = Headers::new(limit);
        let decoded = self.decoder.decode(block, &mut |name, value, size| {
            headers.add(name, value, size)
        });
        // RFC 9113, section 4.3: both tables differ from here on, so the connection is lost.
        decoded.map_err(|_| Goaway(Reason::COMPRESSION_ERROR))?;
        match key {
            Some(key) if self.client => self.response(key, ends, headers),
            Some(key) => self.trailers(key, ends, headers),
            None if self.client => {
                // RFC 9113, section 5.1: a server answers what was asked.
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
        // RFC 9113, section 5.1.1: streams of clients have odd identifiers, each larger than all before.
        if id.is_multiple_of(2) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        // RFC 9113, section 5.1.1: an identifier is used once.
        if id <= self.highest {
            if self.forgotten.contains(&id) {
                return Ok(());
            }
            return Err(Goaway(Reason::STREAM_CLOSED));
        }
        // RFC 9113, section 6.8.
        if self.leaving == Leaving::Left {
            // It was told that this one is not looked at.
            self.highest = id;
            self.forget(id);
            return Ok(());
        }
        self.highest = id;
        let most = self.limits.streams as usize;
        // Those that were taken back are still somebody's until that one notices.
        // RFC 9113, section 5.1.2: a refused stream may be opened again.
        if self.ids.len() >= most || self.streams.len() >= 2 * most {
            self.count_empty()?;
            self.put_reset(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let read = headers.into_request(&mut self.targets).and_then(|head| {
            let length = length(&head.headers)?;
            // RFC 9113, section 8.1.1.
            if ends && length.is_some_and(|length| length > 0) {
                return Err(Fault::Malformed);
            }
            Ok((head, length))
        });
        match read {
            Ok((head, length)) => {
                let key = self.insert(id, length, StreamState::opened(ends));
                if !ends && expects_continue(&head.headers) {
                    self.streams[key].expects = Expects::Word;
                }
                if self.accepted.capacity() == 0 {
                    // Most connections have one at a time, and a vector would begin with room for four.
                    self.accepted.reserve_exact(1);
                }
                self.accepted.push(Accepted { key, head });
                Ok(())
            }
            Err(Fault::Malformed) => self.stream_fault(id, Reason::PROTOCOL_ERROR),
            Err(Fault::TooLarge) => {
                self.refuse_too_large(id, ends);
                Ok(())
            }
        }
    }

    /// Answers a request whose head is larger than the limit.
    fn refuse_too_large(&mut self, id: u32, ends: bool) {
        // RFC 9113, section 10.5.1; RFC 6585, section 5.
        let key = self.insert(id, None, StreamState::opened(ends));
        self.send_head(
            key,
            &[(":status", b"431")],
            false,
            &HeaderMap::new(),
            Some(0),
            true,
        );
        self.release(key, false);
        self.release(key, true);
    }

    fn response(&mut self, key: usize, ends: bool, headers: Headers) -> Result<(), Goaway> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let id = stream.id;
        if stream.has_head {
            return self.trailers(key, ends, headers);
        }
        let read = headers.into_response().and_then(|(status, headers)| {
            let length = length(&headers)?;
            // Such responses tell the length of what does not come (RFC 9113, section 8.1.1).
            let none = stream.answers_head || rules::is_bodiless(&Method::GET, status);
            let expected = if none { None } else { length };
            if ends && expected.is_some_and(|length| length > 0) {
                return Err(Fault::Malformed);
            }
            Ok((status, headers, expected))
        });
        match read {
            // More follows.
            // RFC 9113, section 8.1: an interim response never ends its stream.
            Ok((status, headers, _)) if status.is_informational() && !ends => {
                if stream.interim.len() >= INTERIM {
                    return self.stream_fault(id, Reason::ENHANCE_YOUR_CALM);
                }
                stream.interim.push((status, headers));
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
                Ok(())
            }
            Ok((status, headers, expected)) if !status.is_informational() => {
                stream.has_head = true;
                if ends {
                    stream.state.receive_end();
                }
                stream.ended_by_headers = ends;
                stream.expected = if ends { None } else { expected };
                stream.head = Some((status, headers));
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
                if ends {
                    self.settle(key);
                }
                Ok(())
            }
            Err(Fault::TooLarge) => {
                self.lose_too_large(key);
                Ok(())
            }
            _ => self.stream_fault(id, Reason::PROTOCOL_ERROR),
        }
    }

    /// Gives a stream up on which the peer says more than we hear.
    fn lose_too_large(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key) {
            let id = stream.id;
            self.lose(key, Lost::TooLarge);
            self.put_reset(id, Reason::CANCEL);
            self.wake();
        }
    }

    fn trailers(&mut self, key: usize, ends: bool, headers: Headers) -> Result<(), Goaway> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let id = stream.id;
        // RFC 9113, section 5.1: the peer has said END_STREAM.
        if stream.state.has_received_end() {
            return self.stream_fault(id, Reason::STREAM_CLOSED);
        }
        let short = stream.expected.is_some_and(|rest| rest > 0);
        match headers.into_trailers() {
            // RFC 9113, section 8.1: trailers end their stream. RFC 9113, section 8.1.1: the body is complete.
            Ok(trailers) if ends && !short => {
                stream.state.receive_end();
                stream.trailers = Some(trailers);
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
                self.settle(key);
                Ok(())
            }
            Err(Fault::TooLarge) => {
                self.lose_too_large(key);
                Ok(())
            }
            _ => self.stream_fault(id, Reason::PROTOCOL_ERROR),
        }
    }

    fn rst_stream(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.4.
        if payload.len() != 4 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        if id == 0 || self.is_idle(id) {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        self.count_empty()?;
        if let Some(&key) = self.ids.get(&id) {
            self.lose(key, Lost::Reset(Reason(be32(payload))));
        } else {
            // It says no more.
            self.forgotten.retain(|own| *own != id);
        }
        Ok(())
    }

    fn settings(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.5: settings are of the connection.
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        if flags & flag::ACK != 0 {
            return match payload {
                // RFC 9113, section 6.5: an acknowledgement carries nothing.
                [] => {
                    self.acknowledged();
                    Ok(())
                }
                _ => Err(Goaway(Reason::FRAME_SIZE_ERROR)),
            };
        }
        self.count_empty()?;
        // RFC 9113, section 6.5.
        if !payload.len().is_multiple_of(6) {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        for own in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([own[0], own[1]]);
            self.set(name, be32(&own[2..]))?;
        }
        // RFC 9113, section 6.5.3: said at once.
        self.put_head(0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    /// The peer has read our SETTINGS. Until then it could send as much on a stream as it may before it
    /// is told (RFC 9113, section 6.9.3), and what it has sent counts against what it is told
    /// (RFC 9113, section 6.9.2), so that windows may be negative.
    fn acknowledged(&mut self) {
        let told = i64::from(self.limits.stream_window);
        let more = told - std::mem::replace(&mut self.initial_receive_window, told);
        if more != 0 {
            for (_, stream) in &mut self.streams {
                stream.receive_window += more;
            }
        }
    }

    pub(super) fn set(&mut self, name: u16, value: u32) -> Result<(), Goaway> {
        // RFC 9113, section 6.5.2, which also tells these bounds; what is unknown is passed over.
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
                self.wake_all_waiting();
            }
            setting::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                if window > MOST_WINDOW {
                    return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
                }
                // RFC 9113, section 6.9.2: streams that are open change with it, and may be below zero then.
                let more = window - self.initial_send_window;
                self.initial_send_window = window;
                for (_, stream) in &mut self.streams {
                    stream.send_window += more;
                    if stream.send_window > MOST_WINDOW {
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
            // RFC 8441, section 3.
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.7.
        let payload: [u8; 8] = payload
            .try_into()
            .map_err(|_| Goaway(Reason::FRAME_SIZE_ERROR))?;
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        self.count_empty()?;
        if flags & flag::ACK == 0 {
            self.put_ping(payload, flag::ACK);
        } else if payload == LEAVING_PING && self.leaving == Leaving::Announced {
            // RFC 9113, section 6.8: what was sent before it heard of our leaving has come by now.
            self.leaving = Leaving::Left;
            self.put_goaway(self.highest, Reason::NO_ERROR);
        }
        Ok(())
    }

    fn goaway(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.8: it is about the connection.
        if id != 0 {
            return Err(Goaway(Reason::PROTOCOL_ERROR));
        }
        // RFC 9113, section 4.2: too short for what must stand in it.
        if payload.len() < 8 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        self.count_empty()?;
        let last = be32(payload) & 0x7fff_ffff;
        self.last = Some(last);
        if self.client {
            // RFC 9113, section 6.8: those above were not processed, so each may be sent again.
            let beyond = self.ids.iter().filter(|(id, _)| **id > last);
            let keys: Vec<usize> = beyond.map(|(_, key)| *key).collect();
            for key in keys {
                self.lose(key, Lost::Connection { unprocessed: true });
            }
            self.wake_all_waiting();
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Goaway> {
        // RFC 9113, section 6.9.
        if payload.len() != 4 {
            return Err(Goaway(Reason::FRAME_SIZE_ERROR));
        }
        self.count_empty()?;
        let more = i64::from(be32(payload) & 0x7fff_ffff);
        if id == 0 {
            self.send_window += more;
            self.most_send_window = self.most_send_window.max(self.send_window);
            // RFC 9113, section 6.9: nothing is no increment.
            if more == 0 {
                return Err(Goaway(Reason::PROTOCOL_ERROR));
            }
            // RFC 9113, section 6.9.1.
            if self.send_window > MOST_WINDOW {
                return Err(Goaway(Reason::FLOW_CONTROL_ERROR));
            }
            self.unblock();
            return Ok(());
        }
        // RFC 9113, section 5.1: an idle stream has no window.
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
        stream.send_window += more;
        stream.unacked_there = (stream.unacked_there - more).max(0);
        // RFC 9113, section 6.9.1.
        if stream.send_window > MOST_WINDOW {
            return self.stream_fault(id, Reason::FLOW_CONTROL_ERROR);
        }
        if let Some(writer) = stream.writer.take() {
            writer.wake();
        }
        Ok(())
    }
}

/// The length that a message tells.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    rules::content_length(headers).map_err(|_| Fault::Malformed)
}

/// A payload without its padding.
fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Goaway> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    // RFC 9113, section 6.1: the padding is shorter than its frame.
    let (&padding, rest) = payload
        .split_first()
        .ok_or(Goaway(Reason::FRAME_SIZE_ERROR))?;
    let length = rest.len().checked_sub(usize::from(padding));
    length
        .and_then(|length| rest.get(..length))
        .ok_or(Goaway(Reason::PROTOCOL_ERROR))
}
