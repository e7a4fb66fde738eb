//! Buffers that a thread's connections share: one to read into, and spare ones for output.

use std::cell::RefCell;

use bytes::BytesMut;

/// What is read with one system call, at most.
const SCRATCH: usize = 64 * 1024;
/// The room that a buffer for output begins with.
const ROOM: usize = 4096;
/// Buffers larger than this are not kept for the next user: one that is filled in a turn by the calls of many
/// clients is, or it would grow anew each time.
const KEEP: usize = 1 << 20;
/// The room of all buffers that a thread keeps.
const ROOM_KEPT: usize = 4 << 20;
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
pub struct Buffers<B = BytesMut> {
    kept: Vec<B>,
    /// Their room.
    room: usize,
}

impl<B> Buffers<B> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kept: Vec::new(),
            room: 0,
        }
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
        match self.kept.pop() {
            Some(buffer) => {
                self.room -= buffer.room();
                buffer
            }
            None => B::empty(),
        }
    }

    /// Takes one back, unless it has grown too large to be kept.
    pub fn give_back(&mut self, mut buffer: B) {
        buffer.clear();
        let room = buffer.room();
        let has_place = self.kept.len() < KEPT && self.room + room <= ROOM_KEPT;
        if room > 0 && room <= KEEP && has_place {
            self.room += room;
            self.kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound_and_the_large_ones_of_busy_turns_are_among_it() {
        let mut buffers = Buffers::<Vec<u8>>::new();
        for (room, kept) in [(0, 0), (KEEP, 1), (KEEP + 1, 1), (ROOM, 2)] {
            buffers.give_back(Vec::with_capacity(room));
            assert_eq!(buffers.kept.len(), kept, "{room}");
        }
        for _ in 0..10 {
            buffers.give_back(Vec::with_capacity(KEEP));
        }
        assert_eq!(buffers.room, 3 * KEEP + ROOM);
        for _ in 0..2 * KEPT {
            buffers.give_back(Vec::with_capacity(ROOM));
        }
        assert_eq!(buffers.kept.len(), KEPT);
        let mut lent = Vec::new();
        while buffers.room > 0 {
            lent.push(buffers.borrow());
        }
        assert_eq!(lent.len(), KEPT);
        assert!(buffers.kept.is_empty());
    }
}
