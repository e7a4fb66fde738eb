//! The mesh's own answers, such that client libraries raise a clean exception of them.

use bytes::{BufMut, BytesMut};
use finback_core::frame::Status;
use finback_core::rejection::Rejection;
use finback_core::text::{self, ANSWER_LIMIT};
use finback_hessian::write::put_common_string;

use crate::call::{CodecData, Form, key};
use crate::map;
use crate::wire::{Encoding, Version, status};

/// What SOFA-RPC answers with, also where it could not find the service.
const RESPONSE_CLASS: &str = "com.alipay.sofa.rpc.core.response.SofaResponse";
/// What sofa-bolt alone answers with when the server threw.
const EXCEPTION_CLASS: &str = "com.alipay.remoting.rpc.exception.RpcServerException";
const RESPONSE_FIELDS: [&str; 4] = ["isError", "errorMsg", "appResponse", "responseProps"];
const EXCEPTION_FIELDS: [&str; 1] = ["detailMessage"];

/// How a reason is said.
struct Answer {
    /// The status of an answer that is a header and nothing else.
    status: u16,
    /// Whether to say it in words instead, if the caller can read them.
    in_words: bool,
}

/// Each status becomes an exception of its own in the caller (Bolt: RpcResponseResolver).
fn answer_to(rejection: Rejection) -> Answer {
    let words_or = |status| Answer {
        status,
        in_words: true,
    };
    let only = |status| Answer {
        status,
        in_words: false,
    };
    match rejection {
        Rejection::NoRoute | Rejection::NoService => words_or(status::NO_PROCESSOR),
        Rejection::NoEndpoint | Rejection::ConnectFailed => words_or(status::ERROR_COMM),
        Rejection::ConnectionLost => words_or(status::CONNECTION_CLOSED),
        Rejection::DeadlineExceeded => only(status::TIMEOUT),
        // "Busy" is what clients with retries configured try elsewhere (SOFA-RPC: FailoverCluster).
        Rejection::Overloaded | Rejection::Draining => only(status::SERVER_THREADPOOL_BUSY),
        // Not "busy", which would have the client try again at once.
        Rejection::Limited | Rejection::Denied | Rejection::Unauthenticated => {
            words_or(status::ERROR)
        }
        Rejection::BadRequest | Rejection::TooLarge => words_or(status::CODEC_EXCEPTION),
    }
}

/// Appends the answer to request `id`; returns its status.
pub(crate) fn put(
    (version, codec_data, id): (Version, CodecData, u32),
    rejection: Rejection,
    text: &str,
    out: &mut BytesMut,
) -> Status {
    let encoding = Encoding {
        version,
        codec: codec_data.codec,
    };
    let Answer { status, in_words } = answer_to(rejection);
    let form = if in_words {
        codec_data.form
    } else {
        Form::Unknown
    };
    let text = if text.is_empty() {
        rejection.name()
    } else {
        text
    };
    let text = text::cut(text, ANSWER_LIMIT);

    let mut content = BytesMut::new();
    let (status, class) = match form {
        Form::Unknown => (status, ""),
        Form::SofaDraft | Form::SofaV2 => {
            put_class(
                form == Form::SofaV2,
                RESPONSE_CLASS,
                &RESPONSE_FIELDS,
                &mut content,
            );
            content.put_u8(b'T');
            put_common_string(text, &mut content);
            content.put_slice(b"NN");
            (status::SUCCESS, RESPONSE_CLASS)
        }
        Form::SofaProtobuf => {
            content.put_slice(text.as_bytes());
            (status::SUCCESS, RESPONSE_CLASS)
        }
        // With this status and no body, a client would show an exception without a message.
        Form::PlainDraft | Form::PlainV2 => {
            put_class(
                form == Form::PlainV2,
                EXCEPTION_CLASS,
                &EXCEPTION_FIELDS,
                &mut content,
            );
            put_common_string(text, &mut content);
            (status::SERVER_EXCEPTION, EXCEPTION_CLASS)
        }
    };
    let mut header = BytesMut::new();
    if class == RESPONSE_CLASS {
        map::put(key::ERROR, "true", &mut header);
    }
    encoding.put_response(id, status, (class, &header, &content), out);
    Status(status)
}

/// Appends the definition of a class and the beginning of an object of it; its values follow.
fn put_class(is_v2: bool, class: &str, fields: &[&str], out: &mut BytesMut) {
    // The lengths of both classes fit both of the short forms: text of up to 1023, int of up
    // to 2047.
    let [high, low] = (class.len() as u16).to_be_bytes();
    if is_v2 {
        out.put_slice(&[b'C', 0x30 + high, low]);
    } else if class.len() <= 47 {
        out.put_slice(&[b'O', 0x90 + low]);
    } else {
        out.put_slice(&[b'O', 0xc8 + high, low]);
    }
    out.put_slice(class.as_bytes());
    out.put_u8(0x90 + fields.len() as u8);
    for field in fields {
        out.put_u8(field.len() as u8);
        out.put_slice(field.as_bytes());
    }
    out.put_slice(if is_v2 { b"\x60" } else { b"o\x90" });
}
