//! Chance of a simulation: whatever is left to it follows from one seed.

use finback_core::rng::Rng;

/// Draws that depend on nothing but a seed.
#[derive(Clone, Debug)]
pub(super) struct Chance(Rng);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    /// Another one, whose draws tell nothing of this one's.
    pub(super) fn fork(&mut self) -> Self {
        Self::new(self.draw())
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0.next()
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.draw() % (most - least + 1)
    }

    /// An index of a list of so many.
    pub(super) fn index(&mut self, count: usize) -> usize {
        (self.draw() % count.max(1) as u64) as usize
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.draw().is_multiple_of(count)
    }

    pub(super) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
}
