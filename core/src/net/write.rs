//! Writing: a socket that takes nothing, and does not say that it will, is broken.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Writes some of `bytes`, which are not empty, and says how many.
///
/// # Errors
/// If the connection broke, or takes no more.
pub fn write_some(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    some(ready!(Pin::new(to).poll_write(cx, bytes)))
}

/// Writes some of `pieces`, which are not all empty, and says how many bytes.
///
/// # Errors
/// If the connection broke, or takes no more.
pub fn write_pieces(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    some(ready!(Pin::new(to).poll_write_vectored(cx, pieces)))
}

fn some(written: io::Result<usize>) -> Poll<io::Result<usize>> {
    Poll::Ready(match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    })
}
