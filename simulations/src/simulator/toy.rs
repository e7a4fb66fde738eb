//! A framed protocol made for simulations, whose servers can say everything that core tells apart.
//!
//! ```text
//! 0      4     5    6        10
//! | len  | kind|flag| id     | text: token SP service { SP key=value } SP padding, or an answer
//! ```
//! `len` counts the whole frame. Kinds: 1 request, 2 one-way, 3 response, 4 ping, 5 pong, 6 goodbye,
//! 7 welcome. The flag of a response is its outcome, that of a rejection 100 + its reason.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use finback_core::codec::{Codec, Sharing, Signal};
use finback_core::frame::{Edit, Head, Kind, MARKS, Malformed, Metadata, Outcome, Reading, Status};
use finback_core::rejection::Rejection;

/// The longest frame.
pub(super) const MAX_FRAME: usize = 32 * 1024;
pub(super) const HEADER: usize = 10;

pub(super) const REQUEST: u8 = 1;
pub(super) const ONE_WAY: u8 = 2;
pub(super) const RESPONSE: u8 = 3;
pub(super) const PING: u8 = 4;
pub(super) const PONG: u8 = 5;
pub(super) const GOODBYE: u8 = 6;

/// The codec.
pub(super) struct Toy;

/// A frame.
pub(super) fn frame(kind: u8, flag: u8, id: u64, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + text.len());
    out.put_u32((HEADER + text.len()) as u32);
    out.put_u8(kind);
    out.put_u8(flag);
    out.put_u32(id as u32);
    out.put_slice(text);
    out
}

fn word<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut words = text.split(' ').skip(2).take(4);
    words.find_map(|word| {
        word.split_once('=')
            .filter(|(key, _)| *key == name)
            .map(|(_, v)| v)
    })
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Codec for Toy {
    fn sharing(&self) -> Sharing {
        Sharing::Multiplexed { id_bits: 32 }
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let Some(header) = bytes.get(..HEADER) else {
            return Ok(None);
        };
        let kind = match header[4] {
            REQUEST => Kind::Request,
            ONE_WAY => Kind::OneWay,
            RESPONSE => Kind::Response,
            PING => Kind::Ping,
            PONG => Kind::Pong,
            GOODBYE => Kind::GoAway,
            7 => Kind::Resume,
            _ => return Err(Malformed::Garbage("unknown kind")),
        };
        let head = Head {
            kind,
            id: number(&header[6..]),
            len: number(&header[..4]) as usize,
            variant: 0,
            codec_data: u32::from(header[5]),
            marks: [0; MARKS],
        };
        if head.len > MAX_FRAME {
            let limit = MAX_FRAME;
            return Err(Malformed::TooLarge { head, limit });
        }
        if head.len < HEADER {
            return Err(Malformed::Garbage("length too short"));
        }
        Ok(Some(head))
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        if head.kind == Kind::Response {
            return Ok(Reading::Answer(outcome(head.codec_data).into()));
        }
        let text = std::str::from_utf8(&wire[HEADER..]).map_err(|_| Malformed::Content("text"))?;
        let mut words = text.split(' ').skip(1);
        let millis = word(text, "timeout").and_then(|millis| millis.parse().ok());
        let metadata = Metadata {
            service: words.next().unwrap_or_default().into(),
            timeout: millis.map(Duration::from_millis),
            codec_data: head.codec_data,
            ..Metadata::default()
        };
        metadata.names_fit()?;
        Ok(Reading::Call(metadata))
    }

    fn attribute<'a>(&self, wire: &'a [u8], _: &Metadata<'_>, name: &str) -> Option<Cow<'a, str>> {
        word(std::str::from_utf8(&wire[HEADER..]).ok()?, name).map(Cow::Borrowed)
    }

    fn encode(&self, _: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        out.put_slice(&wire[..6]);
        out.put_u32(edit.id as u32);
        HEADER
    }

    fn signal(&self, signal: Signal<'_>, _: &Head, out: &mut BytesMut) -> bool {
        let frame = match signal {
            Signal::Ping { id } => frame(PING, 0, id, &[]),
            Signal::Pong { wire } => {
                let mut pong = wire.to_vec();
                pong[4] = PONG;
                pong
            }
            Signal::GoAway { .. } => frame(GOODBYE, 0, 0, &[]),
        };
        out.put_slice(&frame);
        true
    }

    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status> {
        if head.kind == Kind::OneWay {
            return None;
        }
        let mut all = Rejection::ALL.iter();
        let reason = all.position(|each| *each == rejection).unwrap_or(0);
        let flag = 100 + reason as u8;
        out.put_slice(&frame(RESPONSE, flag, head.id, text.as_bytes()));
        Some(Status(flag.into()))
    }
}

/// Why the mesh refused a call, if that is what a response says.
pub(super) fn refusal(frame: &[u8]) -> Option<Rejection> {
    let reason = frame.get(5)?.checked_sub(100)?;
    Rejection::ALL.get(usize::from(reason)).copied()
}

/// What the flag of a response says.
pub(super) fn outcome(flag: u32) -> Outcome {
    match flag {
        0 => Outcome::Success,
        1 => Outcome::Exception,
        2 => Outcome::Refused,
        3 => Outcome::Invalid,
        4 => Outcome::TimedOut,
        _ => Outcome::Failed,
    }
}
