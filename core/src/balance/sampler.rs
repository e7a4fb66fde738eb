//! Weighted sampling: members drawn by chance, in proportion to their weights.

use std::sync::Arc;

use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::rng::below;

use super::eligibility::Eligibility;
use super::settled;

/// A weighted sampler: a member is drawn in proportion to its weight.
#[derive(Debug)]
pub(super) struct WeightedSampler {
    /// For each member, its weight and those of all members before it.
    cumulative: Vec<u64>,
    /// Until then, weights still change.
    settled: Now,
}

impl WeightedSampler {
    pub(super) fn new(members: &[Arc<Endpoint>]) -> Self {
        let weights = members.iter().scan(0, |sum, each| {
            *sum += u64::from(each.weight);
            Some(*sum)
        });
        Self {
            cumulative: weights.collect(),
            settled: settled(members),
        }
    }

    /// Draws one of all members, whether or not it may be used.
    pub(super) fn draw(&self, eligible: &Eligibility<'_>, random: u64) -> Option<usize> {
        if eligible.ask.now < self.settled {
            return draw_among(eligible, random, || 0..eligible.members.len());
        }
        let total = self.cumulative.last().copied().filter(|total| *total > 0)?;
        let drawn = below(random, total);
        Some(self.cumulative.partition_point(|upto| *upto <= drawn))
    }

    /// The mean weight of all members, at least 1.
    pub(super) fn mean_weight(&self) -> u64 {
        let total = self.cumulative.last().copied().unwrap_or(0);
        (total / (self.cumulative.len() as u64).max(1)).max(1)
    }
}

/// Draws one of `these` members, which is called twice.
pub(super) fn draw_among<I: Iterator<Item = usize>>(
    eligible: &Eligibility<'_>,
    random: u64,
    these: impl Fn() -> I,
) -> Option<usize> {
    let total: u64 = these()
        .map(|member| u64::from(eligible.weight(member)))
        .sum();
    let mut left = below(random, total);
    these().find(|member| {
        let weight = u64::from(eligible.weight(*member));
        if left < weight {
            return true;
        }
        left -= weight;
        false
    })
}
