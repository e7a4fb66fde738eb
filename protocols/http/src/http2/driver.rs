//! The driver of an HTTP/2 connection: moves bytes between its socket and its state.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use finback_core::net::{self, Socket, Turn, scratch, write_some};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Reason;
use super::connection::{ConnectionState, Goaway, OUT, Shared};

/// A peer that says much has to let others have their turn: its frames cost more than their bytes.
const READS_PER_TURN: u8 = 2;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed it, or we did when all was said.
    Well,
    /// The socket broke.
    Broken,
    /// The peer has broken the rules, and was told.
    Fault(Reason),
}

/// Moves a connection's bytes.
pub(crate) struct Driver {
    pub(super) shared: Shared,
    io: Socket,
    flushing: bool,
    fault: Option<Goaway>,
    turn: Turn,
}

impl Driver {
    pub(super) fn new(io: Socket, core: ConnectionState) -> Self {
        Self {
            shared: Shared::new(core),
            io,
            flushing: false,
            fault: None,
            turn: Turn::of(READS_PER_TURN),
        }
    }

    /// Moves what can be moved. Ready when requests have come, or when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        loop {
            let mut core = self.shared.get_mut();
            core.stay_awake();
            if write(&mut self.io, &mut core, &mut self.flushing, cx).is_err() {
                core.close();
                return Poll::Ready(Some(Ended::Broken));
            }
            if !core.accepted.is_empty() {
                return Poll::Ready(None);
            }
            let flushed = core.unwritten() == 0 && !self.flushing;
            if core.is_done() && flushed {
                core.close();
                drop(core);
                return Poll::Ready(Some(match self.fault.take() {
                    Some(Goaway(reason)) => Ended::Fault(reason),
                    None => Ended::Well,
                }));
            }
            if core.closed || core.unwritten() >= 2 * OUT {
                core.sleeps(cx);
                return Poll::Pending;
            }
            if self.turn.take(cx, READS_PER_TURN).is_pending() {
                core.stay_awake();
                return Poll::Pending;
            }
            let io = &mut self.io;
            let polled = scratch(|bytes| {
                let mut buffer = ReadBuf::new(bytes);
                let polled = Pin::new(io).poll_read(cx, &mut buffer);
                polled.map_ok(|()| match buffer.filled() {
                    [] => None,
                    bytes => Some(core.receive(bytes)),
                })
            });
            match polled {
                Poll::Ready(Ok(Some(Ok(())))) => {}
                Poll::Ready(Ok(Some(Err(fault)))) => {
                    let last = core.highest();
                    core.put_goaway(last, fault.0);
                    self.fault = Some(fault);
                    core.close();
                }
                Poll::Ready(Ok(None)) => {
                    core.close();
                    return Poll::Ready(Some(Ended::Well));
                }
                Poll::Ready(Err(_)) => {
                    core.close();
                    return Poll::Ready(Some(Ended::Broken));
                }
                Poll::Pending => {
                    self.turn.end(READS_PER_TURN);
                    core.sleeps(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether all that was written has left.
    pub(super) fn is_flushed(&self) -> bool {
        !self.flushing
    }

    /// The socket, for whoever goes on with it.
    pub(super) fn into_socket(mut self) -> Socket {
        let nothing = Socket::memory(tokio::io::empty());
        std::mem::replace(&mut self.io, nothing)
    }

    /// Closes the connection so that the peer reads what was written last.
    pub(super) async fn close(self) {
        net::close(self.into_socket()).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.get_mut().close();
    }
}

fn write(
    io: &mut Socket,
    core: &mut ConnectionState,
    flushing: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    while core.unwritten() > 0 {
        match write_some(cx, io, &core.out[core.written..])? {
            Poll::Ready(length) => core.written += length,
            Poll::Pending => break,
        }
        *flushing = true;
    }
    if core.unwritten() == 0 && !core.out.is_empty() {
        core.note_flushed();
    }
    if *flushing && let Poll::Ready(flushed) = Pin::new(io).poll_flush(cx) {
        flushed?;
        *flushing = false;
    }
    Ok(())
}

/// Drives a connection on which we ask to its end.
pub(super) async fn run(mut driver: Driver) {
    let _ended = std::future::poll_fn(|cx| {
        loop {
            if let Some(ended) = ready!(driver.poll(cx)) {
                return Poll::Ready(ended);
            }
        }
    })
    .await;
}
