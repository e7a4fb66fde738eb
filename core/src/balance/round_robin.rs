//! Round robin: members take turns, those of unequal weights by their next deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::rng::{Rng, below};

use super::eligibility::Eligibility;
use super::settled;

/// Virtual time between two turns of a member of weight 1.
const TURN: u64 = 1 << 40;
/// Deadlines are brought down when they pass this: far below overflow, so far up that it costs
/// nothing.
const REBASE: u64 = 1 << 60;
/// How often weights are looked at again while members warm up.
const REWEIGH: Duration = Duration::from_millis(100);

/// The order of turns.
#[derive(Debug)]
pub(super) struct RoundRobin {
    /// The next member of the round robin while all weights are equal.
    next: usize,
    /// The order while they are not.
    schedule: Option<Schedule>,
    /// Whether weights are equal once warm-up is over.
    equal: bool,
    settled: Now,
}

impl RoundRobin {
    pub(super) fn new(members: &[Arc<Endpoint>], now: Now, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let next = usize::try_from(below(rng.next(), members.len() as u64)).unwrap_or(0);
        let equal = members
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight);
        let settled = settled(members);
        let schedule = (!equal || now < settled).then(|| Schedule::new(members, now, &mut rng));
        Self {
            next,
            schedule,
            equal,
            settled,
        }
    }

    /// The next member whose turn it is. Members that are passed over lose their turn, so that
    /// it does not fall to a neighbour but to all others.
    pub(super) fn pick(&mut self, eligible: &Eligibility<'_>) -> Option<usize> {
        if let Some(schedule) = &mut self.schedule {
            let now = eligible.ask.now;
            if !self.equal || now < self.settled {
                return schedule.pick(eligible, (now < self.settled).then_some(now));
            }
            self.schedule = None;
        }
        let count = eligible.members.len();
        for _ in 0..count {
            let member = self.next;
            self.next = if member + 1 < count { member + 1 } else { 0 };
            if eligible.admits(member) {
                return Some(member);
            }
        }
        None
    }
}

/// Earliest deadline first: a member of weight w has a turn every `TURN / w` of virtual time, so
/// the turns of a heavy one are spread out between those of the light ones.
#[derive(Debug)]
struct Schedule {
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    /// The weight that each member's deadline was made with.
    weights: Vec<u32>,
    /// Members passed over in the pick at hand; empty between picks.
    passed: Vec<(u64, usize)>,
    /// The virtual time: the deadline of the last turn taken.
    time: u64,
    reweigh: Now,
}

impl Schedule {
    fn new(members: &[Arc<Endpoint>], now: Now, rng: &mut Rng) -> Self {
        let weights: Vec<u32> = members.iter().map(|each| each.weight_at(now)).collect();
        // Each begins somewhere within its first interval; else all heavy ones would come first.
        let turns = weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0)
            .map(|(member, weight)| Reverse((below(rng.next(), interval(*weight)), member)))
            .collect();
        Self {
            turns,
            weights,
            passed: Vec::new(),
            time: 0,
            reweigh: now.after(REWEIGH),
        }
    }

    fn pick(&mut self, eligible: &Eligibility<'_>, warming: Option<Now>) -> Option<usize> {
        if let Some(now) = warming.filter(|now| *now >= self.reweigh) {
            self.reweigh(eligible, now);
        }
        if self.time > REBASE {
            self.rebase();
        }
        let picked = loop {
            let Some(mut first) = self.turns.peek_mut() else {
                break None;
            };
            let (deadline, member) = first.0;
            if eligible.admits(member) {
                let weight = eligible.weight(member);
                first.0.0 = deadline.saturating_add(interval(weight));
                drop(first);
                self.time = deadline;
                self.note_weight(member, weight);
                break Some(member);
            }
            self.passed.push(PeekMut::pop(first).0);
        };
        // Who was passed over waits a whole interval from the turn taken: it neither comes
        // first in every pick nor claims the turns it lost when it is back. If no turn was
        // taken, nothing moves.
        while let Some((deadline, member)) = self.passed.pop() {
            let wait = interval(self.weights.get(member).copied().unwrap_or(1));
            let next = if picked.is_some() {
                self.time.saturating_add(wait)
            } else {
                deadline
            };
            self.turns.push(Reverse((next, member)));
        }
        picked
    }

    fn note_weight(&mut self, member: usize, weight: u32) {
        if let Some(known) = self.weights.get_mut(member) {
            *known = weight;
        }
    }

    /// Shortens the wait of members that gained weight since their deadline was made: at weight
    /// 1 among hundreds, the next turn may be hours away.
    fn reweigh(&mut self, eligible: &Eligibility<'_>, now: Now) {
        self.reweigh = now.after(REWEIGH);
        let mut turns = std::mem::take(&mut self.turns).into_vec();
        for Reverse((deadline, member)) in &mut turns {
            let weight = eligible.weight(*member).max(1);
            let before = self.weights.get(*member).copied().unwrap_or(weight);
            let wait = u128::from(deadline.saturating_sub(self.time));
            let wait = wait * u128::from(before) / u128::from(weight);
            *deadline = self
                .time
                .saturating_add(u64::try_from(wait).unwrap_or(TURN));
            self.note_weight(*member, weight);
        }
        self.turns = turns.into();
    }

    fn rebase(&mut self) {
        let mut turns = std::mem::take(&mut self.turns).into_vec();
        for Reverse((deadline, _)) in &mut turns {
            *deadline = deadline.saturating_sub(self.time);
        }
        self.turns = turns.into();
        self.time = 0;
    }
}

/// Virtual time between two turns of a member of this weight.
fn interval(weight: u32) -> u64 {
    TURN / u64::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::PickArgs;
    use crate::balance::eligibility::Choosy;

    #[test]
    fn shares_survive_the_end_of_virtual_time() {
        let endpoint = |(port, weight): (u16, u32)| {
            Arc::new(Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight,
                labels: Default::default(),
                warm_up: None,
                terms: None,
                health: Arc::default(),
            })
        };
        let members: Vec<_> = [(1, 3), (2, 1)].into_iter().map(endpoint).collect();
        let mut round_robin = RoundRobin::new(&members, Now(1), 7);
        let Some(schedule) = &mut round_robin.schedule else {
            panic!("weights are unequal")
        };
        // As after a million turns of a member of weight 1.
        let mut turns = std::mem::take(&mut schedule.turns).into_vec();
        turns
            .iter_mut()
            .for_each(|turn| turn.0.0 += REBASE - 10 * TURN);
        schedule.turns = turns.into();
        schedule.time = REBASE - 10 * TURN;

        let ask = PickArgs {
            now: Now(1),
            random: 0,
            hash: None,
            avoid: &[],
            per_endpoint: 0,
            panic_percent: 50,
            deadline: Now(2),
        };
        let mut light = 0;
        for pick in 1..400_i32 {
            let eligible = Eligibility::new(&members, &ask, Choosy::Least);
            light += i32::from(round_robin.pick(&eligible) == Some(1));
            assert!((light - pick / 4).abs() <= 1, "{light} of {pick}");
        }
        let time = round_robin.schedule.map(|schedule| schedule.time);
        assert!(
            time.is_some_and(|time| time < REBASE / 2),
            "brought down: {time:?}"
        );
    }
}
