//! Buffers that a thread's connections share: one to read into, and spare ones for output.

use std::cell::RefCell;

use bytes::BytesMut;

/// What is read with one system call, at most.
const SCRATCH: usize = 64 * 1024;
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
    let mut scratch = SCRATCHES.take();
    if scratch.is_empty() {
        scratch = vec![0; SCRATCH];
    }
    let result = read(&mut scratch);
    SCRATCHES.set(scratch);
    result
}

/// Output buffers that connections borrow while something waits to be written, so that an idle
/// connection holds none.
#[derive(Default)]
pub struct Buffers(Vec<BytesMut>);

impl Buffers {
    /// An empty buffer.
    pub fn borrow(&mut self) -> BytesMut {
        self.0
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(4096))
    }

    /// Takes one back, unless it has grown too large to be kept.
    pub fn give_back(&mut self, mut buffer: BytesMut) {
        if buffer.capacity() > 0 && buffer.capacity() <= KEEP && self.0.len() < KEPT {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}
