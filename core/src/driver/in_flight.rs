//! The in-flight table of one upstream connection: request ids of exactly the wire's width.
//!
//! An id is a slot's index and its generation. A slot whose call was given up stays taken until
//! its answer comes, so the id of an unanswered call is never used again on that connection: a
//! late answer can be dropped, but never reach another caller.
//!
//! ```text
//!  id on the wire   63 or 31                    0
//!                   +------------+--------------+
//!                   | generation | slot's index |   half of the bits each
//!                   +------------+--------------+
//!  slot 0:  one-ways only; an answer with one of its ids is `Unknown`, as one of another generation is
//!
//!            insert                claim: Live
//!     Free ----------> Taken ----------------------> Free, generation + 1
//!                        | abandon_where
//!                        v          claim: Late
//!                    Abandoned --------------------> Free, generation + 1
//! ```

/// Index 0 is never a slot: its ids go out with one-ways, whose answers nobody waits for.
const ONE_WAY_SLOT: u32 = 0;

enum State<T> {
    Free,
    Taken(T),
    /// Given up; waiting for the late answer.
    Abandoned,
}

struct Slot<T> {
    generation: u32,
    state: State<T>,
}

/// What an answer's id stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim<T> {
    /// The call that waits for it.
    Live(T),
    /// A call that was given up.
    Late,
    /// Nothing that is in flight here.
    Unknown,
}

/// Calls in flight on one connection, by the id they carry on it.
pub(crate) struct InFlight<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    index_bits: u32,
    generation_mask: u32,
    taken: usize,
    abandoned: usize,
    one_ways: u32,
}

impl<T> InFlight<T> {
    /// A table for ids of 32 or 64 bits; half of them count generations.
    pub(crate) fn new(id_bits: u8) -> Self {
        let index_bits = u32::from(id_bits.clamp(8, 64)) / 2;
        let generation_mask = u32::MAX >> (32 - index_bits);
        let reserved = Slot {
            generation: 0,
            state: State::Abandoned,
        };
        Self {
            slots: vec![reserved],
            free: Vec::new(),
            index_bits,
            generation_mask,
            taken: 0,
            abandoned: 0,
            one_ways: 0,
        }
    }

    /// Calls that wait for an answer.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    /// Ids blocked by calls that were given up.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Takes a fresh id for `value`; gives it back if all ids are in use.
    pub(crate) fn insert(&mut self, value: T) -> Result<u64, T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let next = u32::try_from(self.slots.len())
                    .ok()
                    .filter(|index| u64::from(*index) < 1_u64 << self.index_bits.min(31));
                let Some(index) = next else { return Err(value) };
                self.slots.push(Slot {
                    generation: 0,
                    state: State::Free,
                });
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.state = State::Taken(value);
        self.taken += 1;
        Ok(self.id(index, self.slots[index as usize].generation))
    }

    /// An id that no answer can claim.
    pub(crate) fn one_way_id(&mut self) -> u64 {
        self.one_ways = self.one_ways.wrapping_add(1) & self.generation_mask;
        self.id(ONE_WAY_SLOT, self.one_ways)
    }

    /// The call that `id` stands for; its id becomes free.
    pub(crate) fn claim(&mut self, id: u64) -> Claim<T> {
        let Some(index) = self.index_of(id) else {
            return Claim::Unknown;
        };
        let slot = &mut self.slots[index as usize];
        let claim = match std::mem::replace(&mut slot.state, State::Free) {
            State::Taken(value) => {
                self.taken -= 1;
                Claim::Live(value)
            }
            State::Abandoned => {
                self.abandoned -= 1;
                Claim::Late
            }
            State::Free => return Claim::Unknown,
        };
        slot.generation = slot.generation.wrapping_add(1) & self.generation_mask;
        self.free.push(index);
        claim
    }

    /// Shows everything that waits for an answer.
    pub(crate) fn each(&self, mut see: impl FnMut(&T)) {
        for slot in &self.slots {
            if let State::Taken(value) = &slot.state {
                see(value);
            }
        }
    }

    /// Gives up every call for which `expired` says so; their ids stay blocked.
    pub(crate) fn abandon_where(&mut self, mut expired: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut given_up = Vec::new();
        for slot in self.slots.iter_mut().skip(1) {
            if matches!(&slot.state, State::Taken(value) if expired(value))
                && let State::Taken(value) = std::mem::replace(&mut slot.state, State::Abandoned)
            {
                given_up.push(value);
            }
        }
        self.taken -= given_up.len();
        self.abandoned += given_up.len();
        given_up
    }

    /// Frees the ids of calls given up: for when it is certain that none was sent.
    pub(crate) fn release_abandoned(&mut self) {
        for (index, slot) in (0_u32..).zip(self.slots.iter_mut()).skip(1) {
            if matches!(slot.state, State::Abandoned) {
                slot.state = State::Free;
                self.free.push(index);
            }
        }
        self.abandoned = 0;
    }

    /// The calls in flight with their ids.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let bits = self.index_bits;
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(move |(index, slot)| {
                let id = (u64::from(slot.generation) << bits) | index as u64;
                match &mut slot.state {
                    State::Taken(value) => Some((id, value)),
                    State::Free | State::Abandoned => None,
                }
            })
    }

    /// Empties the table: the connection is gone, no answer can come.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let slots = std::mem::take(&mut self.slots);
        let id_bits = u8::try_from(self.index_bits * 2).unwrap_or(64);
        *self = Self::new(id_bits);
        slots
            .into_iter()
            .filter_map(|slot| match slot.state {
                State::Taken(value) => Some(value),
                State::Free | State::Abandoned => None,
            })
            .collect()
    }

    fn id(&self, index: u32, generation: u32) -> u64 {
        (u64::from(generation) << self.index_bits) | u64::from(index)
    }

    fn index_of(&self, id: u64) -> Option<u32> {
        let index = u32::try_from(id & ((1_u64 << self.index_bits) - 1)).ok()?;
        if index == ONE_WAY_SLOT {
            return None;
        }
        let slot = self.slots.get(index as usize)?;
        (u64::from(slot.generation) == id >> self.index_bits).then_some(index)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_finds_its_call_once() {
        let mut table = InFlight::new(32);
        let id = table.insert("a").unwrap();
        assert_eq!(table.claim(id), Claim::Live("a"));
        assert_eq!(table.claim(id), Claim::Unknown);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn the_id_of_a_call_given_up_is_not_used_again_until_answered() {
        let mut table = InFlight::new(32);
        let lost = table.insert(0).unwrap();
        assert_eq!(table.abandon_where(|_| true), vec![0]);
        for n in 1..70_000 {
            let id = table.insert(n).unwrap();
            assert_ne!(id, lost);
            assert_eq!(table.claim(id), Claim::Live(n));
        }
        assert_eq!(table.abandoned(), 1);
        assert_eq!(table.claim(lost), Claim::Late);
        assert_eq!(table.abandoned(), 0);
        assert_eq!(table.claim(lost), Claim::Unknown);
    }

    #[test]
    fn no_answer_claims_a_one_way() {
        let mut table: InFlight<()> = InFlight::new(32);
        for _ in 0..100_000 {
            let id = table.one_way_id();
            assert!(id <= u64::from(u32::MAX));
            assert_eq!(table.claim(id), Claim::Unknown);
        }
    }

    #[test]
    fn ids_fit_the_width_and_run_out_cleanly() {
        let mut table = InFlight::new(32);
        let mut ids = std::collections::HashSet::new();
        while let Ok(id) = table.insert(()) {
            assert!(id <= u64::from(u32::MAX));
            assert!(ids.insert(id));
        }
        assert_eq!(ids.len(), 65_535);
        for id in ids {
            assert_eq!(table.claim(id), Claim::Live(()));
        }
    }

    proptest! {
        /// Whatever happens in whatever order, every live id leads to its own value, and nothing
        /// else leads anywhere.
        #[test]
        fn no_reply_is_crossed(ops in prop::collection::vec((0_u8..4, any::<u16>()), 0..400), wide: bool) {
            let mut table = InFlight::new(if wide { 64 } else { 32 });
            let mut live: Vec<(u64, usize)> = Vec::new();
            let mut dead: Vec<u64> = Vec::new();
            let mut late: Vec<u64> = Vec::new();
            for (serial, (op, pick)) in ops.into_iter().enumerate() {
                let pick = usize::from(pick);
                match op {
                    0 => live.push((table.insert(serial).unwrap(), serial)),
                    1 if !live.is_empty() => {
                        let (id, value) = live.swap_remove(pick % live.len());
                        prop_assert_eq!(table.claim(id), Claim::Live(value));
                        dead.push(id);
                    }
                    2 if !live.is_empty() => {
                        let (id, value) = live.swap_remove(pick % live.len());
                        prop_assert_eq!(table.abandon_where(|v| *v == value), vec![value]);
                        late.push(id);
                    }
                    3 if !late.is_empty() => {
                        let id = late.swap_remove(pick % late.len());
                        prop_assert_eq!(table.claim(id), Claim::Late);
                        dead.push(id);
                    }
                    _ => {
                        for id in &dead {
                            prop_assert_eq!(table.claim(*id), Claim::Unknown);
                        }
                    }
                }
                prop_assert_eq!(table.len(), live.len());
                prop_assert_eq!(table.abandoned(), late.len());
            }
        }
    }
}
