//! Power of two choices: least request and peak-EWMA compare two members drawn by chance. Beside them the policies that
//! compare nothing: random, and primary.

use std::cmp::Reverse;

use crate::endpoint::Endpoint;
use crate::rng::mix;

use super::eligibility::Eligibility;
use super::latency::expected_nanos;
use super::sampler::{WeightedSampler, draw_among};

/// Up to this many members are compared all; of more, two.
const FEW: usize = 4;

/// Sets the second draw of a pick apart from the first.
const SECOND: u64 = 0x5851_f42d_4c95_7f2d;
/// Sets the draw that replaces unusable members apart from both.
const INSTEAD: u64 = 0x1405_7b7e_f767_814f;

/// One member by chance.
pub(super) fn random(sampler: &WeightedSampler, eligible: &Eligibility<'_>) -> Option<usize> {
    let drawn = sampler.draw(eligible, eligible.ask.random)?;
    if eligible.admits(drawn) {
        Some(drawn)
    } else {
        instead(eligible)
    }
}

/// The member with the fewest calls in flight for its weight; equals by chance, in proportion
/// to their weights.
pub(super) fn least_request(
    sampler: &WeightedSampler,
    eligible: &Eligibility<'_>,
) -> Option<usize> {
    let load = |member: usize| Load {
        in_flight: eligible
            .members
            .get(member)
            .map_or(0, |endpoint| endpoint.in_flight()),
        weight: eligible.weight(member),
    };
    if eligible.members.len() > FEW {
        return better_of_two(sampler, eligible, |this, other| {
            load(this).is_less(load(other))
        });
    }
    let least = eligible
        .admitted()
        .map(|member| (member, load(member)))
        .reduce(|best, next| if next.1.is_less(best.1) { next } else { best })?;
    let equals = || {
        eligible
            .admitted()
            .filter(|member| !least.1.is_less(load(*member)))
    };
    // Another worker may change a load between the two looks, so that none is equal any more.
    draw_among(eligible, eligible.ask.random, equals).or(Some(least.0))
}

/// The one of two members that promises the sooner answer.
///
/// The two are drawn by weight, so the cost needs weight only to judge the queue: calls in
/// flight count in units of what the mean member would carry. Members of equal cost thus share
/// calls by weight.
pub(super) fn peak_ewma(sampler: &WeightedSampler, eligible: &Eligibility<'_>) -> Option<usize> {
    let mean = sampler.mean_weight() as f64;
    let cost = |member: usize| {
        let Some(endpoint) = eligible.members.get(member) else {
            return f64::INFINITY;
        };
        let capacity = f64::from(eligible.weight(member).max(1)) / mean;
        cost(endpoint, capacity, eligible)
    };
    better_of_two(sampler, eligible, |this, other| cost(this) < cost(other))
}

fn cost(endpoint: &Endpoint, capacity: f64, eligible: &Eligibility<'_>) -> f64 {
    let in_flight = endpoint.in_flight();
    let nanos = expected_nanos(&endpoint.health, eligible.ask.now);
    nanos * (f64::from(in_flight) / capacity + 1.0)
}

/// Two draws with replacement, and the second only if it is better: so every member is tried
/// now and then, and equals share by weight.
fn better_of_two(
    sampler: &WeightedSampler,
    eligible: &Eligibility<'_>,
    is_better: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    let first = sampler.draw(eligible, eligible.ask.random)?;
    let second = sampler.draw(eligible, mix(eligible.ask.random ^ SECOND))?;
    match (eligible.admits(first), eligible.admits(second)) {
        (true, true) if is_better(second, first) => Some(second),
        (true, _) => Some(first),
        (false, true) => Some(second),
        (false, false) => instead(eligible),
    }
}

/// The member of the greatest weight; its warm-up does not matter, for nobody shares with it.
pub(super) fn primary(eligible: &Eligibility<'_>) -> Option<usize> {
    eligible.admitted().max_by_key(|member| {
        let endpoint = &eligible.members[*member];
        (endpoint.weight, Reverse(endpoint.address))
    })
}

/// A member by chance from those that may be used.
fn instead(eligible: &Eligibility<'_>) -> Option<usize> {
    draw_among(eligible, mix(eligible.ask.random ^ INSTEAD), || {
        eligible.admitted()
    })
}

/// Calls in flight in relation to a weight.
#[derive(Clone, Copy)]
struct Load {
    in_flight: u32,
    weight: u32,
}

impl Load {
    fn is_less(self, other: Self) -> bool {
        u64::from(self.in_flight) * u64::from(other.weight)
            < u64::from(other.in_flight) * u64::from(self.weight)
    }
}
