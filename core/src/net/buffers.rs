//! Buffers that a thread's connections share: one to read into, and spare ones for output.

use std::cell::RefCell;

use bytes::BytesMut;

/// What is read with one system call, at most.
const SCRATCH: usize = 64 * 1024;
/// The room that a buffer for output begins with.
const ROOM: usize = 4096;
/// Buffers larger than this are not kept for the next user.
const KEEP: usize = 256 * 1024;
/// Buffers kept per thread.
const KEPT: usize = 64;

thread_local! {
    static SCRATCHES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's buffer for reading to `read`. It is one buffer, not one per connection, since
/// what was read is used or copied before the next connection is read.
pub fn scratch<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCHES.with(|kept| {
        // Taken out, for who reads may read something else meanwhile.
        let mut scratch = kept.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH];
        }
        let result = read(&mut scratch);
        kept.replace(scratch);
        result
    })
}

/// What output is written into.
pub trait Buffer {
    /// An empty one, with some room.
    fn empty() -> Self;

    /// Its room.
    fn room(&self) -> usize;

    /// Takes out what is in it.
    fn clear(&mut self);
}

impl Buffer for BytesMut {
    fn empty() -> Self {
        Self::with_capacity(ROOM)
    }

    fn room(&self) -> usize {
        self.capacity()
    }

    fn clear(&mut self) {
        self.clear();
    }
}

impl Buffer for Vec<u8> {
    fn empty() -> Self {
        Self::with_capacity(ROOM)
    }

    fn room(&self) -> usize {
        self.capacity()
    }

    fn clear(&mut self) {
        self.clear();
    }
}

/// Output buffers that connections borrow while something waits to be written, so that an idle
/// connection holds none.
pub struct Buffers<B = BytesMut>(Vec<B>);

impl<B> Buffers<B> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }
}

impl<B> Default for Buffers<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Buffer> Buffers<B> {
    /// An empty buffer.
    pub fn borrow(&mut self) -> B {
        self.0.pop().unwrap_or_else(B::empty)
    }

    /// Takes one back, unless it has grown too large to be kept.
    pub fn give_back(&mut self, mut buffer: B) {
        if buffer.room() > 0 && buffer.room() <= KEEP && self.0.len() < KEPT {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}
