//! gRPC's status codes.

use finback_core::frame::Outcome;
use finback_core::rejection::Rejection;
use finback_core::text::{ANSWER_LIMIT, cut};
use http::{HeaderMap, HeaderValue};
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
        Rejection::Overloaded | Rejection::TooLarge => (8, "resource_exhausted"),
        Rejection::Denied => (7, "permission_denied"),
        Rejection::BadRequest => (13, "internal"),
    }
}

/// What a status tells of a call.
pub(crate) fn outcome(status: &HeaderValue) -> Outcome {
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
