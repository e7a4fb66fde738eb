//! HTTP/1.1 (RFC 9112), both sides of it, made for passing messages on.
//!
//! A connection is a [`Http1Connection`](line::Http1Connection): its socket, what was read but not used, what waits to be
//! written, and where in a body it is. One task serves a client's connection, and the endpoint's
//! connection moves in the same task: there is no channel between them. An idle connection holds
//! no buffer.

mod body;
mod client;
mod head;
mod line;
mod server;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::Body;

use body::{Decode, Piece};

/// Reads any bytes as heads and as a body, as fuzzing does.
pub(crate) fn exercise(bytes: &[u8]) {
    let _ = head::response(bytes, &http::Method::GET);
    let _ = head::trailers(bytes);
    let body = match head::request(bytes) {
        Ok(Some(own)) => {
            assert!(
                own.length <= bytes.len(),
                "a head is no longer than its bytes"
            );
            &bytes[own.length..]
        }
        _ => bytes,
    };
    let mut decode = Decode::chunked();
    let mut input = BytesMut::new();
    let mut taken = 0;
    for piece in body.chunks(61) {
        input.extend_from_slice(piece);
        loop {
            match decode.take(&mut input) {
                Ok(Piece::Data(data)) => taken += data.len(),
                Ok(Piece::Trailers(_)) => {}
                Ok(Piece::More) => break,
                Ok(Piece::End) | Err(_) => return,
            }
        }
    }
    assert!(
        taken + input.len() <= body.len(),
        "no byte comes from nowhere"
    );
}

/// A request with its body and trailers, read whole, and the bytes that it takes; `None` if it is none.
pub(crate) fn read(bytes: &[u8]) -> Option<(Request<()>, Bytes, Option<HeaderMap>, usize)> {
    let head = head::request(bytes).ok()??;
    let mut input = BytesMut::from(&bytes[head.length..]);
    let (mut decode, mut data, mut trailers) = (head.body, BytesMut::new(), None);
    loop {
        match decode.take(&mut input).ok()? {
            Piece::Data(piece) => data.extend_from_slice(&piece),
            Piece::Trailers(own) => {
                trailers = Some(own);
                break;
            }
            Piece::End => break,
            Piece::More => return None,
        }
    }
    let used = bytes.len() - input.len();
    Some((head.request, data.freeze(), trailers, used))
}

/// Writes such a request as it goes to an endpoint; `None` if it contradicts itself.
pub(crate) fn write(
    head: &Parts,
    body: &impl Body,
    data: &[u8],
    trailers: Option<&HeaderMap>,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut encode = client::put_request(head, body, &mut out).ok()?;
    if !data.is_empty() {
        assert!(encode.before(data.len(), &mut out), "a body has room");
        out.extend_from_slice(data);
        out.extend_from_slice(encode.after());
    }
    assert!(encode.end(trailers, &mut out), "a body is whole");
    Some(out)
}

pub(crate) use client::{Connection, Failure, Hear, send};
pub(crate) use head::Fault;
pub(crate) use line::Received;
pub(crate) use server::{Interim, Next, Server};
