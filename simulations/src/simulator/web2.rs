//! HTTP/2 in a world: the h2 crate as clients and servers, moved by hand, so that they go on while our process stands
//! still. Calls say what they say in HTTP/1.1.

mod client;
mod server;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tongue::number_in;
use super::web::{LENGTH, TOKEN, body};

pub(super) use client::Calls;
pub(super) use server::{Desk, Reply};

/// A connection's bytes between such a peer and the network.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    input: Vec<u8>,
    ended: bool,
    output: Vec<u8>,
}

impl Wire {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of the network.
    fn put(&self, bytes: &[u8], ended: bool) {
        let mut ends = self.ends();
        ends.input.extend_from_slice(bytes);
        ends.ended |= ended;
    }

    /// What goes to it.
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.ends().output)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        let count = ends.input.len().min(buf.remaining());
        // Nobody is woken: whoever puts something polls.
        if count == 0 && !ends.ended {
            return Poll::Pending;
        }
        buf.put_slice(&ends.input[..count]);
        ends.input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ends().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Nobody is woken: all is polled when something has come, and when something was said.
fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// How far a body has come.
enum Progress {
    More,
    Whole,
    Broken,
}

/// Reads what there is of a body.
fn read(stream: &mut RecvStream, into: &mut Vec<u8>) -> Progress {
    loop {
        match stream.poll_data(&mut context()) {
            Poll::Ready(Some(Ok(data))) => {
                into.extend_from_slice(&data);
                // The connection may be over; then there is nobody to tell.
                let _ = stream.flow_control().release_capacity(data.len());
            }
            Poll::Ready(Some(Err(_))) => return Progress::Broken,
            Poll::Ready(None) => return Progress::Whole,
            Poll::Pending => return Progress::More,
        }
    }
}

/// Whose token a message has.
fn owner(headers: &HeaderMap) -> Option<usize> {
    number_in(headers.get(TOKEN)?.as_bytes())
}

/// Whether a body is the one that its owner's token stands for.
fn is_whole(headers: &HeaderMap, data: &[u8]) -> bool {
    let told = headers
        .get(LENGTH)
        .and_then(|own| own.to_str().ok()?.parse().ok());
    match (owner(headers), told) {
        (Some(owner), Some(told)) => data == body(owner, told),
        (owner, _) => owner.is_none(),
    }
}

/// The body that goes with a token.
fn content(number: usize, length: usize) -> Bytes {
    Bytes::from(body(number, length))
}
