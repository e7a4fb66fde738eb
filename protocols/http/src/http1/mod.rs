//! HTTP/1.1 (RFC 9112), both sides of it, made for passing messages on.
//!
//! A connection is a [`Line`](line::Line): its socket, what was read but not used, what waits to be
//! written, and where in a body it is. One task serves a client's connection, and the endpoint's
//! connection moves in the same task: there is no channel between them. An idle connection holds
//! no buffer.

mod body;
mod client;
mod head;
mod line;
mod server;

use bytes::BytesMut;

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

pub(crate) use client::{Connection, Failure, send};
pub(crate) use head::Fault;
pub(crate) use line::Received;
pub(crate) use server::{Next, Server};
