//! The containers around a value that is passed over: the stack that recursion would have used.

use crate::Error;

/// A container that has been entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// This many values are left in it.
    Count(usize),
    /// It goes on until its end is written.
    UntilEnd,
}

/// Containers within containers, a byte each where their counts are small. It never takes more
/// memory than the body that it is made of, because each value that a container still lacks is a
/// byte of that body at least: one that has fewer left is cut off.
#[derive(Clone, Debug, Default)]
pub struct Nest {
    /// The innermost.
    current: Option<Open>,
    /// The others, the outermost first. A count above `WIDE` has four bytes before it.
    outer: Vec<u8>,
    /// Bytes that all of them together still need at least.
    owed: usize,
}

/// The highest count in one byte.
const NARROW: u8 = 0xfd;
/// Stands after a count in four bytes.
const WIDE: u8 = 0xfe;
/// Stands for [`Open::UntilEnd`].
const UNTIL_END: u8 = 0xff;

impl Nest {
    /// Begins anew within this container.
    pub fn begin(&mut self, outermost: Open) {
        self.outer.clear();
        self.owed = needs(outermost);
        self.current = Some(outermost);
    }

    /// The innermost container; `None` once all were left.
    #[must_use]
    pub fn innermost(&self) -> Option<Open> {
        self.current
    }

    /// Counts one value of the innermost container as begun.
    pub fn take_one(&mut self) {
        if let Some(Open::Count(left)) = &mut self.current {
            *left = left.saturating_sub(1);
            self.owed = self.owed.saturating_sub(1);
        }
    }

    /// Goes into a container within the innermost one; `remaining` bytes of the body are left.
    ///
    /// # Errors
    /// [`Error::Truncated`] if that cannot be all that is still wanted.
    pub fn enter(&mut self, inner: Open, remaining: usize) -> Result<(), Error> {
        self.owed = self.owed.saturating_add(needs(inner));
        if self.owed > remaining {
            return Err(Error::Truncated);
        }
        match self.current.replace(inner) {
            // Nothing is left to be done there.
            None | Some(Open::Count(0)) => {}
            Some(Open::UntilEnd) => self.outer.push(UNTIL_END),
            Some(Open::Count(left)) => match u8::try_from(left) {
                Ok(left @ ..=NARROW) => self.outer.push(left),
                _ => {
                    let left = u32::try_from(left).map_err(|_| Error::Truncated)?;
                    self.outer.extend_from_slice(&left.to_be_bytes());
                    self.outer.push(WIDE);
                }
            },
        }
        Ok(())
    }

    /// Leaves the innermost container.
    pub fn leave(&mut self) {
        if self.current == Some(Open::UntilEnd) {
            self.owed = self.owed.saturating_sub(1);
        }
        self.current = match self.outer.pop() {
            None => None,
            Some(UNTIL_END) => Some(Open::UntilEnd),
            Some(WIDE) => {
                let count = self.outer.split_off(self.outer.len().saturating_sub(4));
                let count = count
                    .iter()
                    .fold(0, |all, byte| all << 8 | usize::from(*byte));
                Some(Open::Count(count))
            }
            Some(left) => Some(Open::Count(usize::from(left))),
        };
    }
}

fn needs(open: Open) -> usize {
    match open {
        Open::Count(left) => left,
        Open::UntilEnd => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_left_in_the_order_in_which_they_were_entered() {
        let all = [
            Open::Count(3),
            Open::UntilEnd,
            Open::Count(253),
            Open::Count(254),
            Open::Count(255),
            Open::UntilEnd,
            Open::Count(100_000),
            Open::Count(1),
        ];
        let mut nest = Nest::default();
        nest.begin(all[0]);
        for inner in &all[1..] {
            assert_eq!(nest.enter(*inner, 1 << 20), Ok(()));
        }
        for open in all.iter().rev() {
            assert_eq!(nest.innermost(), Some(*open));
            nest.leave();
        }
        assert_eq!(nest.innermost(), None);
    }

    #[test]
    fn one_that_is_used_up_takes_no_room() {
        let mut nest = Nest::default();
        nest.begin(Open::Count(1));
        for _ in 0..1000 {
            nest.take_one();
            assert_eq!(nest.enter(Open::Count(1), 1), Ok(()));
        }
        assert!(nest.outer.is_empty());
        nest.leave();
        assert_eq!(nest.innermost(), None);
    }

    #[test]
    fn more_than_is_left_is_never_waited_for() {
        let mut nest = Nest::default();
        nest.begin(Open::Count(2));
        nest.take_one();
        assert_eq!(nest.enter(Open::Count(9), 9), Err(Error::Truncated));
        nest.begin(Open::Count(2));
        nest.take_one();
        assert_eq!(nest.enter(Open::Count(9), 10), Ok(()));
        nest.take_one();
        assert_eq!(nest.enter(Open::UntilEnd, 9), Err(Error::Truncated));
    }
}
