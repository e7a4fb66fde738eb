//! The mesh's own answers, as clients of RocketMQ understand them.

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Head, Kind, Status};
use finback_core::rejection::Rejection;
use finback_core::text::{self, ANSWER_LIMIT};

use crate::code::answer;
use crate::json;
use crate::marks::CodecData;

/// The code of an answer. Producers try another broker after SYSTEM_ERROR, SERVICE_NOT_AVAILABLE, NO_PERMISSION and
/// TOPIC_NOT_EXIST, and after GO_AWAY the same one anew (RocketMQ: DefaultMQProducer, `retryResponseCodes`).
fn code(codec_data: CodecData, rejection: Rejection) -> i32 {
    match rejection {
        Rejection::NoRoute | Rejection::NoService => answer::TOPIC_NOT_EXIST,
        Rejection::NoEndpoint | Rejection::ConnectFailed => answer::SERVICE_NOT_AVAILABLE,
        // It may have been stored.
        Rejection::ConnectionLost | Rejection::DeadlineExceeded => answer::SYSTEM_ERROR,
        Rejection::Overloaded => answer::SYSTEM_BUSY,
        // The only one that no client sends again.
        Rejection::Limited => answer::FLOW_CONTROL,
        Rejection::Denied | Rejection::Unauthenticated => answer::NO_PERMISSION,
        Rejection::BadRequest | Rejection::TooLarge => answer::MESSAGE_ILLEGAL,
        Rejection::Draining if codec_data.knows_go_away => answer::GO_AWAY,
        Rejection::Draining => answer::SERVICE_NOT_AVAILABLE,
    }
}

/// Appends the answer to a request, in JSON: every client reads both encodings, and most servers write this one.
pub(crate) fn put(
    head: &Head,
    rejection: Rejection,
    text: &str,
    out: &mut BytesMut,
) -> Option<Status> {
    if head.kind != Kind::Request {
        return None;
    }
    let code = code(CodecData::unpack(head.codec_data), rejection);
    let id = (head.id as u32).cast_signed();
    let mut header = Vec::with_capacity(160 + text.len());
    header.extend_from_slice(b"{\"code\":");
    header.extend_from_slice(code.to_string().as_bytes());
    header.extend_from_slice(b",\"flag\":1,\"language\":\"RUST\",\"opaque\":");
    header.extend_from_slice(id.to_string().as_bytes());
    header.extend_from_slice(b",\"remark\":\"");
    json::escape(text::cut(text, ANSWER_LIMIT), &mut header);
    header.extend_from_slice(b"\",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":0}");
    // An answer's text is bounded.
    let length = u32::try_from(header.len()).unwrap_or_default();
    out.put_u32(length + 4);
    out.put_u32(length);
    out.put_slice(&header);
    u16::try_from(code).ok().map(Status)
}
