//! Fuzzing: any bytes are read as messages of HTTP/1.1 and frames of HTTP/2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};

use crate::rules::{self, Fields};
use crate::{headers, http1, http2, path};

/// Reads bytes as either version's side that is asked, and that asks, would.
///
/// # Panics
/// If more is held than the bounds allow.
pub fn exercise(bytes: &[u8]) {
    http1::exercise(bytes);
    http2::exercise(bytes);
}

/// A body as far as whoever writes its head asks.
struct Sample {
    length: u64,
    known: bool,
}

impl Sample {
    fn of(head: &Parts, data: &Bytes, trailers: Option<&HeaderMap>) -> Self {
        let told = head.headers.contains_key(http::header::CONTENT_LENGTH);
        let encoded = head.headers.contains_key(http::header::TRANSFER_ENCODING);
        let length = data.len() as u64;
        let known = told || length == 0 && !encoded && trailers.is_none();
        Self { length, known }
    }
}

impl Body for Sample {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.known && self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.known {
            true => SizeHint::with_exact(self.length),
            false => SizeHint::default(),
        }
    }
}

/// Passes a request of HTTP/1.1 on by HTTP/2, and that one by HTTP/1.1, as two proxies would: it
/// remains one request, and the same.
///
/// # Panics
/// If it does not.
pub fn exercise_messages(bytes: &[u8]) {
    let Some((request, data, trailers, _)) = http1::read(bytes) else {
        return;
    };
    let (mut head, ()) = request.into_parts();
    let fine = headers::fault(&head, Fields::of(&head.headers)).is_none()
        && path::normalize(&mut head.uri);
    let is_tunnel = head.method == http::Method::CONNECT;
    if !fine || is_tunnel || data.len() > 16 * 1024 {
        return;
    }
    let body = Sample::of(&head, &data, trailers.as_ref());
    let fields = Fields::of(&head.headers);
    headers::strip(&mut head.headers, fields);
    headers::keep_trailers(&mut head.headers);
    headers::aim(&mut head, true, false);
    let carried = http2::carry(&head, &body, data.clone(), trailers.as_ref());
    let Some((own, carried, trailed)) = carried else {
        // HTTP/2 takes less for a host than HTTP/1.1 does.
        return;
    };
    assert_eq!(carried, data, "a body stays what it is");
    let mut again = Request::new(()).into_parts().0;
    (again.method, again.uri, again.headers) = (own.method, own.uri, own.headers);
    again.version = http::Version::HTTP_2;
    assert_eq!(
        headers::fault(&again, Fields::of(&again.headers)),
        None,
        "what was sound is sound"
    );
    let body = Sample {
        length: carried.len() as u64,
        known: body.known,
    };
    let fields = Fields::of(&again.headers);
    headers::strip(&mut again.headers, fields);
    headers::aim(&mut again, false, false);
    let written = http1::write(&again, &body, &carried, trailed.as_ref());
    let written = written.expect("a request that does not contradict itself");
    let (last, data, trailers, used) = http1::read(&written).expect("a request");
    assert_eq!(used, written.len(), "one request stays one");
    assert_eq!(data, carried, "and its body what it is");
    assert_eq!(last.method(), head.method);
    assert_eq!(last.uri().path(), head.uri.path());
    let trailers = trailers.unwrap_or_default();
    assert!(trailers.keys().all(rules::may_trail), "{trailers:?}");
}

#[cfg(test)]
mod tests {
    use super::{exercise, exercise_messages};

    /// Requests that are passed on, to be damaged.
    const REQUESTS: [&str; 6] = [
        "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n\
         5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 3\r\nHost: b\r\n\r\n",
        "GET //x/../%61 HTTP/1.1\r\nHost: a:80\r\nConnection: close, X\r\nX: 1\r\nTE: a, trailers\r\n\r\n",
        "PUT http://b/ HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b\r\nContent-Length: 0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n",
        "QUERY / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];

    #[test]
    fn a_request_stays_one_whatever_is_damaged() {
        let mut random: u32 = 7;
        let mut step = |most: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % most
        };
        for request in REQUESTS {
            exercise_messages(request.as_bytes());
        }
        for _ in 0..60_000 {
            let mut bytes = REQUESTS[step(REQUESTS.len())].as_bytes().to_vec();
            for _ in 0..=step(3) {
                let other = REQUESTS[step(REQUESTS.len())].as_bytes();
                let at = step(bytes.len());
                match step(4) {
                    0 => bytes[at] = step(256) as u8,
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"\r\n :0,/."[step(8)]),
                    _ => {
                        let begin = step(other.len());
                        let end = (begin + step(40)).min(other.len());
                        bytes.splice(at..at, other[begin..end].iter().copied());
                    }
                }
            }
            exercise_messages(&bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let whole = [
            &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"[..],
            // HEADERS: POST http / with a content type, then DATA that ends it; PING; WINDOW_UPDATE.
            &[0, 0, 3, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84],
            &[0, 0, 3, 0, 1, 0, 0, 0, 1, b'a', b'b', b'c'],
            &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        ]
        .concat();
        exercise(&whole);
        let frames = &whole[whole.len() - 54..];
        exercise(frames);
        let mut random: u32 = 3;
        for round in 0..20_000_usize {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut bytes = match round % 2 {
                0 => whole.clone(),
                _ => frames.to_vec(),
            };
            let at = random as usize % bytes.len();
            bytes[at] ^= 1 << (random >> 29);
            let other = (random >> 8) as usize % bytes.len();
            bytes[other] = (random >> 20) as u8;
            exercise(&bytes);
        }
    }
}
