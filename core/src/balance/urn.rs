//! Draws of members by chance, in proportion to their weights.

use std::sync::Arc;

use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::rng::below;

use super::gate::Gate;
use super::settled;

/// A weighted sampler: a member is drawn as often as its weight says.
#[derive(Debug)]
pub(super) struct Urn {
    /// For each member, its lots and those of all members before it.
    lots: Vec<u64>,
    /// Until then, weights still change.
    settled: Now,
}

impl Urn {
    pub(super) fn new(members: &[Arc<Endpoint>]) -> Self {
        let lots = members.iter().scan(0, |sum, each| {
            *sum += u64::from(each.weight);
            Some(*sum)
        });
        Self {
            lots: lots.collect(),
            settled: settled(members),
        }
    }

    /// Draws one of all members, whether or not it may be used.
    pub(super) fn draw(&self, gate: &Gate<'_>, random: u64) -> Option<usize> {
        if gate.ask.now < self.settled {
            return draw_among(gate, random, || 0..gate.members.len());
        }
        let total = self.lots.last().copied().filter(|total| *total > 0)?;
        let lot = below(random, total);
        Some(self.lots.partition_point(|upto| *upto <= lot))
    }

    /// The mean weight of all members, at least 1.
    pub(super) fn mean_weight(&self) -> u64 {
        let total = self.lots.last().copied().unwrap_or(0);
        (total / (self.lots.len() as u64).max(1)).max(1)
    }
}

/// Draws one of `these` members, which is called twice.
pub(super) fn draw_among<I: Iterator<Item = usize>>(
    gate: &Gate<'_>,
    random: u64,
    these: impl Fn() -> I,
) -> Option<usize> {
    let total: u64 = these().map(|member| u64::from(gate.weight(member))).sum();
    let mut left = below(random, total);
    these().find(|member| {
        let weight = u64::from(gate.weight(*member));
        if left < weight {
            return true;
        }
        left -= weight;
        false
    })
}
