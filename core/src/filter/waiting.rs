//! Room for calls that wait, in fair shares: a client may take as much as it leaves free for others.
//!
//! One client alone gets half of it, two get a third each, and whoever comes next finds room: however much some want, as
//! much as the largest of them holds stays free.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Room that clients, by their addresses, share.
#[derive(Debug)]
pub struct WaitingRoom {
    most: usize,
    taken: usize,
    /// What each holds of it; whoever holds nothing is not there.
    each: BTreeMap<IpAddr, usize>,
}

impl WaitingRoom {
    /// With so much room.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            taken: 0,
            each: BTreeMap::new(),
        }
    }

    /// Takes so much for a client; false if it would then hold more than it leaves free. Whoever holds nothing needs no
    /// more than room.
    #[must_use]
    pub fn enter(&mut self, client: IpAddr, amount: usize) -> bool {
        let before = self.each.get(&client).copied().unwrap_or(0);
        let (own, taken) = (before + amount, self.taken + amount);
        if taken > self.most || before > 0 && own > self.most - taken {
            return false;
        }
        self.taken = taken;
        if own > 0 {
            self.each.insert(client, own);
        }
        true
    }

    /// Gives back so much that a client took.
    pub fn leave(&mut self, client: IpAddr, amount: usize) {
        self.taken = self.taken.saturating_sub(amount);
        if let Some(own) = self.each.get_mut(&client) {
            *own = own.saturating_sub(amount);
            if *own == 0 {
                self.each.remove(&client);
            }
        }
    }

    /// How much is taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn whoever_wants_everything_leaves_room_for_those_who_come_next() {
        let mut room = WaitingRoom::new(1200);
        let mut take = |number| (0..2000).filter(|_| room.enter(client(number), 1)).count();
        assert_eq!(take(1), 600, "half of it for one alone");
        assert_eq!(take(2), 300, "as much as is left free then");
        assert_eq!(take(3), 150);
        assert_eq!(take(1), 0, "who holds more than is free gets no more");
        assert!(take(4) > 0);
    }

    #[test]
    fn what_is_given_back_is_there_again_and_nobody_is_remembered() {
        let mut room = WaitingRoom::new(100);
        for round in 0..100 {
            assert!(room.enter(client(round), 50));
            assert!(!room.enter(client(round), 1));
            assert!(room.enter(client(200), 25));
            room.leave(client(round), 50);
            room.leave(client(200), 25);
        }
        assert_eq!((room.taken(), room.each.len()), (0, 0));
        assert!(!room.enter(client(1), usize::MAX / 2));
        assert!(room.enter(client(1), 0) && room.each.is_empty());
        let mut small = WaitingRoom::new(1);
        assert!(small.enter(client(1), 1) && !small.enter(client(2), 1));
    }
}
