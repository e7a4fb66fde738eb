//! HTTP/1.1 in a world: messages as clients and servers write and find them, and the real protocol, watched.
//!
//! A call is a POST, which nobody may run twice by itself. Its host is the service, a header its token. Answers come
//! in the order of calls, which is all that tells whose they are.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::Protocol;
use finback_core::frame::{Answer, Fit, Head, Kind, Metadata};
use finback_core::rejection::Rejection;
use finback_http::{Asked, Config, Dialect, Http, Plain};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::tongue::{ReadLog, Token, number_in};

/// The header that has the token.
const HEADER: &str = "x-token";
/// Where a head ends.
const END: &[u8] = b"\r\n\r\n";

/// A call.
pub(super) fn request(token: &Token, service: &str, padding: usize) -> Vec<u8> {
    message(
        &format!("POST /call HTTP/1.1\r\nhost: {service}\r\n"),
        token,
        padding,
    )
}

/// The answer to it.
pub(super) fn response(token: &Token, padding: usize) -> Vec<u8> {
    message("HTTP/1.1 200 OK\r\n", token, padding)
}

fn message(begin: &str, token: &Token, padding: usize) -> Vec<u8> {
    let mut out = begin.as_bytes().to_vec();
    out.extend_from_slice(HEADER.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(token);
    out.extend_from_slice(format!("\r\ncontent-length: {padding}\r\n\r\n").as_bytes());
    out.resize(out.len() + padding, b'.');
    out
}

/// The message at the beginning of these bytes, as soon as all of its head is there.
pub(super) fn peek(bytes: &[u8]) -> Option<Head> {
    let head = bytes.windows(END.len()).position(|own| own == END)?;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let kind = match text.starts_with("HTTP/1.1 ") {
        true => Kind::Response,
        false => Kind::Request,
    };
    Some(Head {
        kind,
        id: 0,
        len: head + END.len() + length.unwrap_or(0),
        variant: 0,
        note: 0,
        marks: Default::default(),
    })
}

/// Whether a message is the last of its connection, and whether it is a server's answer that says so.
pub(super) fn is_last(message: &[u8]) -> Option<bool> {
    let end = message.windows(END.len()).position(|own| own == END)?;
    let text = std::str::from_utf8(&message[..end]).ok()?;
    let closes = text
        .lines()
        .any(|line| line.eq_ignore_ascii_case("connection: close"));
    closes.then(|| text.starts_with("HTTP/1.1 200"))
}

/// The protocol, which notes the calls that it reads.
pub(super) fn protocol(log: ReadLog) -> Arc<dyn Protocol> {
    let watched: Arc<dyn Dialect> = Arc::new(Watched(log));
    Arc::new(Http::new(Config::default(), vec![watched]))
}

/// Plain HTTP, watched.
struct Watched(ReadLog);

impl Dialect for Watched {
    fn name(&self) -> &'static str {
        Plain.name()
    }

    fn claims(&self, head: &Parts) -> bool {
        Plain.claims(head)
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let token = head.headers.get(HEADER);
        if let Some(number) = token.and_then(|own| number_in(own.as_bytes())) {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.insert(number);
        }
        Plain.metadata(head)
    }

    fn prefers_http2(&self, head: &Parts) -> bool {
        Plain.prefers_http2(head)
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        Plain.answer(status, headers)
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        Plain.answer_of_trailers(trailers)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        Plain.tell_deadline(headers, left);
    }

    fn fit(&self, headers: &mut HeaderMap, fit: Fit<'_>) {
        Plain.fit(headers, fit);
    }

    fn reject(&self, asked: &Asked, rejection: Rejection, text: &str) -> Response<Bytes> {
        Plain.reject(asked, rejection, text)
    }

    fn reject_slow(&self, asked: &Asked, text: &str) -> Response<Bytes> {
        Plain.reject_slow(asked, text)
    }

    fn reject_as(
        &self,
        asked: &Asked,
        rejection: Rejection,
        status: StatusCode,
        text: &str,
    ) -> Response<Bytes> {
        Plain.reject_as(asked, rejection, status, text)
    }

    fn converses(&self) -> bool {
        Plain.converses()
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Plain.late_rejection(rejection, text)
    }
}
