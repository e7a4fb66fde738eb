//! The write queue of one connection: bounded, flushed once per turn.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use crate::net::{Socket, write_some};

use super::worker::Worker;

/// What waits to be written to one peer. Its buffer is borrowed from the worker while anything
/// waits, so that an idle connection holds none.
#[derive(Default)]
struct Queue {
    bytes: BytesMut,
    written: usize,
}

/// The writing side of one connection. Whoever has something for the peer appends it; the
/// worker's flusher writes everything that gathered in a turn with one call.
pub(crate) struct WriteQueue {
    socket: Rc<RefCell<Socket>>,
    queue: RefCell<Queue>,
    /// In the worker's list of links to flush.
    dirty: Cell<bool>,
    /// The socket takes no more for now; its task is woken when it does.
    blocked: Cell<bool>,
    failed: Cell<bool>,
    /// The task that owns the connection wants to know when the queue is empty.
    wants_drained: Cell<bool>,
    waker: RefCell<Waker>,
}

impl WriteQueue {
    pub(crate) fn new(socket: Rc<RefCell<Socket>>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            queue: RefCell::default(),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            failed: Cell::new(false),
            wants_drained: Cell::new(false),
            waker: RefCell::new(Waker::noop().clone()),
        })
    }

    /// Makes `cx` the one that is woken when the link needs its owner.
    pub(crate) fn owned_by(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.will_wake(cx.waker()) {
            *waker = cx.waker().clone();
        }
    }

    /// Wakes the task that owns the connection.
    pub(crate) fn wake_owner(&self) {
        self.waker.borrow().wake_by_ref();
    }

    /// Lets `fill` append to the queue and has it flushed at the end of the turn.
    pub(crate) fn append<R>(
        self: &Rc<Self>,
        worker: &Worker,
        fill: impl FnOnce(&mut BytesMut) -> R,
    ) -> R {
        let mut queue = self.queue.borrow_mut();
        if queue.bytes.capacity() == 0 {
            queue.bytes = worker.borrow_buffer();
        }
        let result = fill(&mut queue.bytes);
        drop(queue);
        if !self.dirty.get() && !self.blocked.get() {
            self.dirty.set(true);
            worker.flush_later(self.clone());
        }
        result
    }

    /// Bytes that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        let queue = self.queue.borrow();
        queue.bytes.len() - queue.written
    }

    /// Whether something still has to be written: under TLS, also what waits in a record.
    pub(crate) fn is_busy(&self) -> bool {
        self.queued() > 0 || self.blocked.get()
    }

    /// Whether the peer is known to be gone.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether the connection was reset, also where nobody reads or writes.
    pub(crate) fn is_broken(&self) -> bool {
        self.socket.borrow().is_broken()
    }

    /// Whether the socket takes no more for now.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Has the owner woken when the queue is empty.
    pub(crate) fn wake_when_drained(&self) {
        self.wants_drained.set(true);
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&self, worker: &Worker) {
        self.dirty.set(false);
        if self.failed.get() {
            return;
        }
        let waker = self.waker.borrow();
        let mut cx = Context::from_waker(&waker);
        match self.poll_flush(&mut cx) {
            Poll::Pending => self.blocked.set(true),
            Poll::Ready(Ok(())) => {
                self.blocked.set(false);
                self.give_back(worker);
                if self.wants_drained.replace(false) {
                    waker.wake_by_ref();
                }
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "write failed");
                self.blocked.set(false);
                self.failed.set(true);
                self.give_back(worker);
                waker.wake_by_ref();
            }
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.queue.borrow_mut();
        let mut socket = self.socket.borrow_mut();
        while queue.written < queue.bytes.len() {
            match write_some(cx, &mut *socket, &queue.bytes[queue.written..]) {
                Poll::Ready(Ok(n)) => queue.written += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // What was written makes room once it outweighs what is left to move.
                    if queue.written > queue.bytes.len() / 2 {
                        let written = std::mem::take(&mut queue.written);
                        let left = queue.bytes.len() - written;
                        queue.bytes.copy_within(written.., 0);
                        queue.bytes.truncate(left);
                    }
                    return Poll::Pending;
                }
            }
        }
        // Under TLS, what was written may still wait in a record.
        Pin::new(&mut *socket).poll_flush(cx)
    }

    fn give_back(&self, worker: &Worker) {
        let mut queue = self.queue.borrow_mut();
        queue.written = 0;
        worker.return_buffer(std::mem::take(&mut queue.bytes));
    }
}
