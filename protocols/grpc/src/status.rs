//! gRPC's status codes (gRPC: statuscodes.md).

use finback_core::frame::{Answer, Outcome, Status};
use finback_core::rejection::Rejection;
use finback_core::text::{ANSWER_LIMIT, cut};
use http::{HeaderMap, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What must be encoded in a message: all but the printable characters of ASCII, and `%`.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Code and name of the status that stands for a rejection.
pub(crate) fn code(rejection: Rejection) -> (u8, &'static str) {
    match rejection {
        Rejection::NoRoute | Rejection::NoService => (12, "unimplemented"),
        Rejection::NoEndpoint
        | Rejection::ConnectFailed
        | Rejection::ConnectionLost
        | Rejection::Draining => (14, "unavailable"),
        Rejection::DeadlineExceeded => (4, "deadline_exceeded"),
        Rejection::Overloaded | Rejection::Limited | Rejection::TooLarge => {
            (8, "resource_exhausted")
        }
        Rejection::Denied => (7, "permission_denied"),
        Rejection::Unauthenticated => (16, "unauthenticated"),
        Rejection::BadRequest => (13, "internal"),
    }
}

/// The names of gRPC's codes, by their numbers.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const UNKNOWN: u16 = 2;
const UNAUTHENTICATED: u16 = 16;

/// What a client makes of a stream that ends without a status: it did not end well.
pub(crate) const UNSAID: Answer = Answer {
    outcome: Outcome::Failed,
    status: Status(UNKNOWN),
};

/// The name of a status code; `None` if there is no such code.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    NAMES.get(usize::from(code)).copied()
}

/// How a call ended, by its `grpc-status`. What is no code is UNKNOWN to its client
/// (gRPC: PROTOCOL-HTTP2.md, "Responses").
pub(crate) fn answer(value: &HeaderValue) -> Answer {
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let known = number.filter(|number| status_name(*number).is_some());
    Answer {
        outcome: outcome(value),
        status: Status(known.unwrap_or(UNKNOWN)),
    }
}

/// How a call ended whose answer is no gRPC, by the table that gRPC's clients go by
/// (gRPC: http-grpc-status-mapping.md).
pub(crate) fn answer_of_http(status: StatusCode) -> Answer {
    let code = match status.as_u16() {
        400 => 13,
        401 => UNAUTHENTICATED,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => UNKNOWN,
    };
    Answer {
        outcome: Outcome::Failed,
        status: Status(code),
    }
}

fn outcome(status: &HeaderValue) -> Outcome {
    match status.as_bytes() {
        b"0" => Outcome::Success,
        b"4" => Outcome::TimedOut,
        // Cancelled, invalid, not found, exists, denied, precondition, aborted, out of range,
        // unimplemented, unauthenticated: the application's own business.
        b"1" | b"3" | b"5" | b"6" | b"7" | b"9" | b"10" | b"11" | b"12" | b"16" => {
            Outcome::Exception
        }
        // Unknown, exhausted, internal, unavailable, data loss, and what nobody knows.
        _ => Outcome::Failed,
    }
}

/// The trailers that say no.
pub(crate) fn trailers(rejection: Rejection, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(
        super::STATUS,
        HeaderValue::from(u16::from(code(rejection).0)),
    );
    let message = utf8_percent_encode(cut(text, ANSWER_LIMIT), ENCODED).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(super::MESSAGE, message);
    }
    trailers
}
