//! HTTP/2 (RFC 9113), both sides of it, made for passing messages on.
//!
//! A connection belongs to one thread. Its state lies in a [`ConnectionState`](connection::ConnectionState) that its
//! driver and the messages under way share; whoever has something to say writes it straight into
//! the connection's output, and the driver writes all of that to the socket at once. Nothing is
//! allocated for a frame, and an idle connection holds no buffer.

mod client;
mod connection;
mod driver;
mod hpack;
mod huffman;
mod message;
mod server;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::request::Parts;
use http_body::Body;

use crate::rules;

/// Reads any bytes as frames on both sides, as fuzzing does.
pub(crate) fn exercise(bytes: &[u8]) {
    let limits = Limits {
        streams: 10,
        head: 4096,
        stream_window: WINDOW,
        stream_most: WINDOW,
        spare: 0,
        connection_window: WINDOW,
        answers_continue: true,
    };
    let cx = Context::from_waker(Waker::noop());
    let settings = [0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];
    for client in [false, true] {
        let mut core = connection::ConnectionState::new(client, limits.clone());
        let begin = if client { &b""[..] } else { PREFACE };
        let whole = [begin, &settings, bytes].concat();
        for piece in whole.chunks(701) {
            if core.receive(piece).is_err() {
                break;
            }
            if client && core.room_for_stream() == Some(true) {
                let key = core.begin(false, 4096);
                core.send_head(
                    key,
                    &[(":method", b"GET")],
                    false,
                    &http::HeaderMap::new(),
                    None,
                    true,
                );
                core.release(key, false);
            }
            for accepted in std::mem::take(&mut core.accepted) {
                let key = accepted.key;
                core.send_head(
                    key,
                    &[(":status", b"200")],
                    false,
                    &http::HeaderMap::new(),
                    None,
                    false,
                );
                let mut data = bytes::Bytes::from_static(b"hello");
                let _ = core.send_data(key, &mut data, true, &cx);
                core.release(key, false);
                core.release(key, true);
            }
            core.note_flushed();
            core.tick(false);
            assert!(core.streams.len() <= 20 || client, "streams are bounded");
        }
        core.close();
    }
}

/// Carries a request from one side to the other; `None` if it is refused on the way.
pub(crate) fn carry(
    head: &Parts,
    body: &impl Body,
    mut data: Bytes,
    trailers: Option<&HeaderMap>,
) -> Option<(message::RequestHead, Bytes, Option<HeaderMap>)> {
    let limits = Limits {
        streams: 1,
        head: 1 << 20,
        stream_window: WINDOW,
        stream_most: WINDOW,
        spare: 0,
        connection_window: WINDOW,
        answers_continue: true,
    };
    let cx = &mut Context::from_waker(Waker::noop());
    let framing = rules::request(&head.headers, body).ok()?;
    let mut from = connection::ConnectionState::new(true, limits.clone());
    let key = from.begin(false, limits.head);
    let (pseudo, told) = client::pseudo(head);
    let ends = body.is_end_stream();
    from.send_head(
        key,
        &pseudo[..told],
        false,
        &head.headers,
        framing.told,
        ends,
    );
    if !ends {
        let last = trailers.is_none();
        assert!(
            from.send_data(key, &mut data, last, cx).is_ready(),
            "there is room"
        );
        if let Some(trailers) = trailers {
            from.send_trailers(key, trailers, cx);
        }
    }
    let mut to = connection::ConnectionState::new(false, limits);
    to.receive(&from.out).ok()?;
    let accepted = to.accepted.pop()?;
    let mut received = Received::new(connection::Shared::new(to), accepted.key);
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Poll::Ready(frame) = Pin::new(&mut received).poll_frame(cx) {
        let Some(frame) = frame else {
            return Some((accepted.head, data.freeze(), trailers));
        };
        match frame.ok()?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    None
}

pub(crate) use client::{Failure, Heartbeat, Sender, handshake};
pub(crate) use connection::{Limits, Received, Resting, holds_too_much};
pub(crate) use driver::Ended;
pub(crate) use server::{Interim, Server, resume, serve, upgrade};

/// How a client begins (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113, section 6).
mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113, section 6.5.2; RFC 8441, section 3).
mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ended (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) u32);

impl Reason {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// Bytes before each frame.
const FRAME_HEAD: usize = 9;
/// The longest frame that we take, and what every peer takes (RFC 9113, section 6.5.2).
const FRAME: usize = 16 * 1024;
/// A window before anybody says otherwise (RFC 9113, section 6.9.2).
const WINDOW: u32 = 65_535;
/// No window is larger (RFC 9113, section 6.9.1).
const MOST_WINDOW: i64 = (1 << 31) - 1;
