//! The policies that draw lots (random, least request and peak-EWMA), and the one that has a favourite.

use std::cmp::Reverse;

use crate::endpoint::Endpoint;
use crate::rng::mix;

use super::gate::Gate;
use super::latency::expected_nanos;
use super::urn::{Urn, draw_among};

/// Up to this many members are compared all; of more, two.
const FEW: usize = 4;

/// Sets the second draw of a pick apart from the first.
const SECOND: u64 = 0x5851_f42d_4c95_7f2d;
/// Sets the draw that replaces unusable members apart from both.
const INSTEAD: u64 = 0x1405_7b7e_f767_814f;

/// One member by chance.
pub(super) fn random(urn: &Urn, gate: &Gate<'_>) -> Option<usize> {
    let drawn = urn.draw(gate, gate.ask.random)?;
    if gate.admits(drawn) {
        Some(drawn)
    } else {
        instead(gate)
    }
}

/// The member with the fewest calls in flight for its weight; equals by chance, in proportion
/// to their weights.
pub(super) fn least_request(urn: &Urn, gate: &Gate<'_>) -> Option<usize> {
    let load = |member: usize| Load {
        in_flight: gate
            .members
            .get(member)
            .map_or(0, |endpoint| endpoint.in_flight()),
        weight: gate.weight(member),
    };
    if gate.members.len() > FEW {
        return better_of_two(urn, gate, |this, other| load(this).is_less(load(other)));
    }
    let least = gate
        .admitted()
        .map(|member| (member, load(member)))
        .reduce(|best, next| if next.1.is_less(best.1) { next } else { best })?;
    let equals = || {
        gate.admitted()
            .filter(|member| !least.1.is_less(load(*member)))
    };
    // Another worker may change a load between the two looks, so that none is equal any more.
    draw_among(gate, gate.ask.random, equals).or(Some(least.0))
}

/// The one of two members that promises the sooner answer.
///
/// The two are drawn by weight, so the cost needs weight only to judge the queue: calls in
/// flight count in units of what the mean member would carry. Members of equal cost thus share
/// calls by weight.
pub(super) fn peak_ewma(urn: &Urn, gate: &Gate<'_>) -> Option<usize> {
    let mean = urn.mean_weight() as f64;
    let cost = |member: usize| {
        let Some(endpoint) = gate.members.get(member) else {
            return f64::INFINITY;
        };
        let capacity = f64::from(gate.weight(member).max(1)) / mean;
        cost(endpoint, capacity, gate)
    };
    better_of_two(urn, gate, |this, other| cost(this) < cost(other))
}

fn cost(endpoint: &Endpoint, capacity: f64, gate: &Gate<'_>) -> f64 {
    let in_flight = endpoint.in_flight();
    let nanos = expected_nanos(&endpoint.health, gate.ask.now);
    nanos * (f64::from(in_flight) / capacity + 1.0)
}

/// Two draws with replacement, and the second only if it is better: so every member is tried
/// now and then, and equals share by weight.
fn better_of_two(
    urn: &Urn,
    gate: &Gate<'_>,
    is_better: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    let first = urn.draw(gate, gate.ask.random)?;
    let second = urn.draw(gate, mix(gate.ask.random ^ SECOND))?;
    match (gate.admits(first), gate.admits(second)) {
        (true, true) if is_better(second, first) => Some(second),
        (true, _) => Some(first),
        (false, true) => Some(second),
        (false, false) => instead(gate),
    }
}

/// The member of the greatest weight; its warm-up does not matter, for nobody shares with it.
pub(super) fn primary(gate: &Gate<'_>) -> Option<usize> {
    gate.admitted().max_by_key(|member| {
        let endpoint = &gate.members[*member];
        (endpoint.weight, Reverse(endpoint.address))
    })
}

/// A member by chance from those that may be used.
fn instead(gate: &Gate<'_>) -> Option<usize> {
    draw_among(gate, mix(gate.ask.random ^ INSTEAD), || gate.admitted())
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
