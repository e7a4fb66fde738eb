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
use finback_hessian::write::put_string;

use crate::jsonb;
use crate::wire::{self, FASTJSON2, HESSIAN2};

/// What consumers throw of a call that is not allowed.
const EXCEPTION: &str = "java.lang.RuntimeException";

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
            if head.codec_data == u32::from(HESSIAN2) =>
        {
            put_exception(head.id, text, out);
            return Status(wire::OK.into());
        }
        Rejection::Denied | Rejection::Unauthenticated | Rejection::Limited
            if head.codec_data == u32::from(FASTJSON2) =>
        {
            put_json_exception(head.id, text, out);
            return Status(wire::OK.into());
        }
        Rejection::Denied | Rejection::Unauthenticated | Rejection::Limited => wire::BAD_REQUEST,
    };
    let mut body = BytesMut::new();
    let serialization = if head.codec_data == u32::from(FASTJSON2) {
        let mut value = BytesMut::new();
        jsonb::put_text(text, &mut value);
        body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        body.put_slice(&value);
        FASTJSON2
    } else {
        put_string(text, &mut body);
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
    put_string(EXCEPTION, &mut body);
    body.put_u8(0x91);
    put_string("detailMessage", &mut body);
    body.put_u8(0x60);
    put_string(text, &mut body);
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
