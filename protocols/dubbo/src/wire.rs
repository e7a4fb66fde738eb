//! Offsets, flags and numbers of the fixed header, and the events that consist of little else.

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Kind, Malformed};

pub(crate) const MAGIC_HIGH: u8 = 0xda;
pub(crate) const MAGIC_LOW: u8 = 0xbb;
pub(crate) const FLAG: usize = 2;
pub(crate) const STATUS: usize = 3;
pub(crate) const ID: usize = 4;
pub(crate) const LENGTH: usize = 12;
/// Length of the fixed header.
pub(crate) const HEADER: usize = 16;

const REQUEST: u8 = 0x80;
const TWO_WAY: u8 = 0x40;
const EVENT: u8 = 0x20;
const SERIALIZATION: u8 = 0x1f;

/// Serialization ids (Dubbo: Constants, of dubbo-serialization-api).
pub(crate) const HESSIAN2: u8 = 2;
pub(crate) const FASTJSON2: u8 = 23;

/// Response statuses (Dubbo: Response).
pub(crate) const OK: u8 = 20;
pub(crate) const CLIENT_TIMEOUT: u8 = 30;
pub(crate) const SERVER_TIMEOUT: u8 = 31;
pub(crate) const BAD_REQUEST: u8 = 40;
pub(crate) const BAD_RESPONSE: u8 = 50;
pub(crate) const SERVICE_NOT_FOUND: u8 = 60;
pub(crate) const SERVICE_ERROR: u8 = 70;
pub(crate) const SERVER_ERROR: u8 = 80;
pub(crate) const CLIENT_ERROR: u8 = 90;
pub(crate) const SERVER_THREADPOOL_EXHAUSTED_ERROR: u8 = 100;

/// The name of a response's status (Dubbo: Response); `None` if there is no such status.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    Some(match u8::try_from(code).ok()? {
        OK => "OK",
        25 => "SERIALIZATION_ERROR",
        CLIENT_TIMEOUT => "CLIENT_TIMEOUT",
        SERVER_TIMEOUT => "SERVER_TIMEOUT",
        35 => "CHANNEL_INACTIVE",
        BAD_REQUEST => "BAD_REQUEST",
        BAD_RESPONSE => "BAD_RESPONSE",
        SERVICE_NOT_FOUND => "SERVICE_NOT_FOUND",
        SERVICE_ERROR => "SERVICE_ERROR",
        SERVER_ERROR => "SERVER_ERROR",
        CLIENT_ERROR => "CLIENT_ERROR",
        SERVER_THREADPOOL_EXHAUSTED_ERROR => "SERVER_THREADPOOL_EXHAUSTED_ERROR",
        _ => return None,
    })
}

/// The longest event body that Java peers take (Dubbo: ExchangeCodec, `decodeEventData`).
const MAX_EVENT: usize = 15;

/// The fixed header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    flag: u8,
    pub(crate) id: u64,
    body: usize,
}

impl Fixed {
    /// Reads it; `None` if more bytes are needed. Bytes that cannot become one are refused at
    /// the first that differs.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        // Dubbo: ExchangeCodec would take what is before the magic number for a telnet command. We have none.
        let magic = [MAGIC_HIGH, MAGIC_LOW];
        if bytes
            .iter()
            .zip(magic)
            .any(|(byte, expected)| *byte != expected)
        {
            return Err(Malformed::Garbage("not a Dubbo frame"));
        }
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (start, length) = header.split_at(LENGTH);
        let id = start[ID..]
            .iter()
            .fold(0, |id, byte| id << 8 | u64::from(*byte));
        let body = length
            .iter()
            .fold(0, |body, byte| body << 8 | usize::from(*byte));
        Ok(Some(Self {
            flag: header[FLAG],
            id,
            body,
        }))
    }

    /// Length of the whole frame.
    pub(crate) fn len(&self) -> usize {
        HEADER + self.body
    }

    /// Whether it answers a request, and is no event.
    pub(crate) fn is_answer(&self) -> bool {
        self.flag & (REQUEST | EVENT) == 0
    }

    /// The serialization id.
    pub(crate) fn serialization(&self) -> u8 {
        self.flag & SERIALIZATION
    }

    /// What the frame is; an event tells only by its body, so `None` until that is there.
    pub(crate) fn kind(&self, bytes: &[u8]) -> Result<Option<Kind>, Malformed> {
        let request = self.flag & REQUEST != 0;
        // Dubbo: ExchangeCodec, `decodeBody`.
        if self.flag & EVENT == 0 {
            return Ok(Some(match (request, self.flag & TWO_WAY != 0) {
                (true, true) => Kind::Request,
                (true, false) => Kind::OneWay,
                (false, _) => Kind::Response,
            }));
        }
        if self.body > MAX_EVENT {
            return Err(Malformed::Garbage("event body is too long"));
        }
        let Some(body) = bytes.get(HEADER..self.len()) else {
            return Ok(None);
        };
        Ok(Some(match (request, body) {
            (false, _) => Kind::Pong,
            // A text of one letter, in hessian2 or length-prefixed JSONB.
            (true, [0x01, b'R'] | [0, 0, 0, 2, 0x4a, b'R']) => Kind::GoAway,
            (true, [0x01, b'W'] | [0, 0, 0, 2, 0x4a, b'W']) => Kind::Resume,
            (true, _) if self.flag & TWO_WAY != 0 => Kind::Ping,
            (true, _) => Kind::Ignored,
        }))
    }
}

/// The serialization for a message of our own to a peer that uses `codec_data`: one that we can write.
fn ours(codec_data: u32) -> u8 {
    if codec_data == u32::from(FASTJSON2) {
        FASTJSON2
    } else {
        HESSIAN2
    }
}

fn put_event(flag: u8, status: u8, id: u64, body: &[u8], out: &mut BytesMut) {
    put_header(flag | EVENT, status, id, body.len(), out);
    out.put_slice(body);
}

fn put_header(flag: u8, status: u8, id: u64, body: usize, out: &mut BytesMut) {
    out.put_slice(&[MAGIC_HIGH, MAGIC_LOW, flag, status]);
    out.put_u64(id);
    // Bodies of our own are far below 4 GiB; a longer one could not be announced anyway.
    out.put_u32(u32::try_from(body).unwrap_or(u32::MAX));
}

/// A header of a request in hessian2 that wants an answer, for a body of `body` bytes.
pub(crate) fn put_request(id: u64, body: usize, out: &mut BytesMut) {
    put_header(REQUEST | TWO_WAY | HESSIAN2, 0, id, body, out);
}

/// A response header for a body of `body` bytes.
pub(crate) fn put_response(
    serialization: u8,
    status: u8,
    id: u64,
    body: usize,
    out: &mut BytesMut,
) {
    put_header(serialization & SERIALIZATION, status, id, body, out);
}

/// A heartbeat: a null that wants an answer.
pub(crate) fn put_heartbeat(codec_data: u32, id: u64, out: &mut BytesMut) {
    let serialization = ours(codec_data);
    let null: &[u8] = if serialization == FASTJSON2 {
        &[0, 0, 0, 1, 0xaf]
    } else {
        b"N"
    };
    put_event(REQUEST | TWO_WAY | serialization, 0, id, null, out);
}

/// The answer to a heartbeat: same id, same serialization, same body.
pub(crate) fn put_heartbeat_answer(ping: &[u8], out: &mut BytesMut) {
    let Ok(Some(fixed)) = Fixed::read(ping) else {
        return;
    };
    let body = ping.get(HEADER..).unwrap_or_default();
    put_event(fixed.serialization(), OK, fixed.id, body, out);
}

/// "Read only": choose this connection no more, but read on.
pub(crate) fn put_readonly(codec_data: u32, id: u64, out: &mut BytesMut) {
    let serialization = ours(codec_data);
    let text: &[u8] = if serialization == FASTJSON2 {
        &[0, 0, 0, 2, 0x4a, b'R']
    } else {
        &[0x01, b'R']
    };
    put_event(REQUEST | serialization, 0, id, text, out);
}
