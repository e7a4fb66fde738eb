//! The lingering close: a connection that we end is read on, so that its last bytes arrive.
//!
//! A socket closed with something unread resets its connection, and takes with it what was written
//! but not read yet (RFC 9112, section 9.6).

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::buffers::scratch;
use super::socket::Socket;
use super::timer::{Timer, Timers};

/// How long a connection that we end may take to have its last bytes written, and how long it is
/// read on afterwards.
pub const LINGER: Duration = Duration::from_secs(1);
/// Reads of a lingering connection, at most: whoever goes on sending is not waited for.
const READS: u16 = 256;

/// A lingering close under way.
pub struct Linger {
    shut: bool,
    timer: Timer,
    reads: u16,
}

impl Linger {
    /// Begins to close; the peer has [`LINGER`] to take what is written, and to hang up as well.
    #[must_use]
    pub fn begin(timers: &Rc<Timers>) -> Self {
        Self {
            shut: false,
            timer: timers.set(Instant::now() + LINGER),
            reads: 0,
        }
    }

    /// Whether its time is over: to be asked while something still waits to be written.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(cx)
    }

    /// Ends the writing side, then reads until the peer is gone or has had its time.
    pub fn poll(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<()> {
        if self.timer.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.shut {
            let shut = ready!(Pin::new(&mut *socket).poll_shutdown(cx));
            if shut.is_err() {
                return Poll::Ready(());
            }
            self.shut = true;
            self.timer.reset(Instant::now() + LINGER);
        }
        loop {
            let read = scratch(|bytes| {
                let mut buffer = ReadBuf::new(bytes);
                let read = Pin::new(&mut *socket).poll_read(cx, &mut buffer);
                read.map_ok(|()| buffer.filled().len())
            });
            self.reads += 1;
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) if self.reads >= READS => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Closes a connection so that its peer reads what was written last.
pub async fn close(mut socket: Socket) {
    let mut linger = Linger::begin(&Rc::default());
    std::future::poll_fn(|cx| linger.poll(cx, &mut socket)).await;
}
