//! The mesh's own answers, as Dubbo's consumers take them.
//!
//! Observed with Dubbo 3.3's Java consumer: any status but OK becomes a `RemotingException` with
//! our text (Dubbo: DefaultFuture, `doReceived`), and its failover cluster tries again; an OK answer with an exception is thrown as it
//! is and not tried again. The text is one string in the request's own serialization; in one that
//! we cannot write, a hessian2 string marked as such is understood. An empty body is not.

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Head, Status};
use finback_core::rejection::Rejection;
use finback_core::text::{self, ANSWER_LIMIT};

use crate::jsonb;
use crate::wire::{self, FASTJSON2, HESSIAN2};

/// What consumers throw of a call that is not allowed.
const EXCEPTION: &str = "java.lang.RuntimeException";
/// UTF-16 units in one chunk of a text.
const CHUNK: usize = 0x8000;

/// Appends the answer to the request of `head`; returns its status.
pub(crate) fn put(head: &Head, rejection: Rejection, text: &str, out: &mut BytesMut) -> Status {
    let text = if text.is_empty() {
        rejection.name()
    } else {
        text::cut(text, ANSWER_LIMIT)
    };
    let status = match rejection {
        Rejection::NoRoute | Rejection::NoService => wire::SERVICE_NOT_FOUND,
        Rejection::NoEndpoint
        | Rejection::ConnectFailed
        | Rejection::ConnectionLost
        | Rejection::Draining => wire::SERVER_ERROR,
        Rejection::DeadlineExceeded => wire::SERVER_TIMEOUT,
        Rejection::Overloaded => wire::SERVER_THREADPOOL_EXHAUSTED_ERROR,
        Rejection::BadRequest | Rejection::TooLarge => wire::BAD_REQUEST,
        Rejection::Denied | Rejection::Unauthenticated | Rejection::Limited
            if head.note == u32::from(HESSIAN2) =>
        {
            put_exception(head.id, text, out);
            return Status(wire::OK.into());
        }
        Rejection::Denied | Rejection::Unauthenticated | Rejection::Limited
            if head.note == u32::from(FASTJSON2) =>
        {
            put_json_exception(head.id, text, out);
            return Status(wire::OK.into());
        }
        Rejection::Denied | Rejection::Unauthenticated | Rejection::Limited => wire::BAD_REQUEST,
    };
    let mut body = BytesMut::new();
    let serialization = if head.note == u32::from(FASTJSON2) {
        let mut value = BytesMut::new();
        jsonb::put_text(text, &mut value);
        body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        body.put_slice(&value);
        FASTJSON2
    } else {
        put_hessian_text(text, &mut body);
        HESSIAN2
    };
    wire::put_response(serialization, status, head.id, body.len(), out);
    out.put_slice(&body);
    Status(status.into())
}

/// An exception as the service itself would throw it: not worth trying again.
fn put_exception(id: u64, text: &str, out: &mut BytesMut) {
    let mut body = BytesMut::new();
    // 0: an exception follows, no attachments.
    body.put_u8(0x90);
    body.put_u8(b'C');
    put_hessian_text(EXCEPTION, &mut body);
    body.put_u8(0x91);
    put_hessian_text("detailMessage", &mut body);
    body.put_u8(0x60);
    put_hessian_text(text, &mut body);
    wire::put_response(HESSIAN2, wire::OK, id, body.len(), out);
    out.put_slice(&body);
}

/// The same in JSONB: each value after its length (Dubbo: FastJson2ObjectOutput).
fn put_json_exception(id: u64, text: &str, out: &mut BytesMut) {
    let mut exception = BytesMut::new();
    // A typed object, its class the first symbol, its only field the second.
    exception.put_u8(0x92);
    jsonb::put_text(EXCEPTION, &mut exception);
    exception.put_slice(&[0x00, 0xa6, 0x7f]);
    jsonb::put_text("detailMessage", &mut exception);
    exception.put_u8(0x01);
    jsonb::put_text(text, &mut exception);
    exception.put_u8(0xa5);
    let mut body = BytesMut::new();
    // 0: an exception follows, no attachments.
    body.put_slice(&[0, 0, 0, 2, 0xbd, 0]);
    body.put_u32(u32::try_from(exception.len()).unwrap_or(u32::MAX));
    body.put_slice(&exception);
    wire::put_response(FASTJSON2, wire::OK, id, body.len(), out);
    out.put_slice(&body);
}

/// Appends a text in hessian2: its length counts UTF-16 units, and what lies beyond the basic
/// plane is written as two surrogates, as Java does.
pub(crate) fn put_hessian_text(text: &str, out: &mut BytesMut) {
    // As short texts of ASCII alone mostly are: each byte is a unit, and stands as it is.
    if text.len() < 1024 && text.is_ascii() {
        let [high, low] = (text.len() as u16).to_be_bytes();
        match text.len() {
            0..=31 => out.put_u8(low),
            _ => out.put_slice(&[0x30 + high, low]),
        }
        out.put_slice(text.as_bytes());
        return;
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut rest = &units[..];
    while rest.len() > CHUNK {
        // A pair of surrogates may be torn between chunks: readers join units, not characters.
        let (chunk, after) = rest.split_at(CHUNK);
        out.put_slice(&[b'R', 0x80, 0x00]);
        put_units(chunk, out);
        rest = after;
    }
    let len = rest.len() as u16;
    let [high, low] = len.to_be_bytes();
    match len {
        0..=31 => out.put_u8(low),
        32..=1023 => out.put_slice(&[0x30 + high, low]),
        _ => out.put_slice(&[b'S', high, low]),
    }
    put_units(rest, out);
}

fn put_units(units: &[u16], out: &mut BytesMut) {
    for unit in units {
        let low = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
        match unit {
            0..=0x7f => out.put_u8(*unit as u8),
            0x80..=0x7ff => out.put_slice(&[0xc0 | (unit >> 6) as u8, low(0)]),
            _ => out.put_slice(&[0xe0 | (unit >> 12) as u8, low(6), low(0)]),
        }
    }
}
