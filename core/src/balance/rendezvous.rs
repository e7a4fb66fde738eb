//! Consistent hashing by rendezvous: each key ranks all members, and the first usable one
//! serves it.
//!
//! When a member leaves, its keys and no others move, to all others in proportion to their
//! weights; when it returns, so do they. A gain of weight, as in warm-up, draws keys to that
//! member only. There is no table: a pick costs about two nanoseconds per member, some thirty
//! where weights differ.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Now;
use crate::endpoint::Endpoint;
use crate::rng::mix;

use super::eligibility::Eligibility;
use super::{hash_bytes, settled};

/// The members' part in the ranking.
#[derive(Debug)]
pub(super) struct Rendezvous {
    /// A number for each member that depends on its address only.
    seeds: Vec<u64>,
    /// Whether weights are equal once warm-up is over.
    equal: bool,
    settled: Now,
}

impl Rendezvous {
    pub(super) fn new(members: &[Arc<Endpoint>]) -> Self {
        Self {
            seeds: members.iter().map(|each| seed(each)).collect(),
            equal: members
                .windows(2)
                .all(|pair| pair[0].weight == pair[1].weight),
            settled: settled(members),
        }
    }

    /// The first member of the key's ranking that may be used.
    pub(super) fn pick(&self, hash: u64, eligible: &Eligibility<'_>) -> Option<usize> {
        let first = if self.equal && eligible.ask.now >= self.settled {
            // With equal weights the ranking is that of the plain draws.
            let draws = self.seeds.iter().enumerate();
            draws
                .max_by_key(|(_, seed)| mix(**seed ^ hash))
                .map(|(member, _)| member)
        } else {
            self.first(hash, eligible, 0..self.seeds.len())
        };
        first.filter(|member| eligible.admits(*member)).or_else(|| {
            // Mostly not needed, so the endpoints' states are not read to rank them.
            self.first(hash, eligible, eligible.admitted())
        })
    }

    /// The first of some members in the key's ranking. A member with draw u, uniform between 0
    /// and 1, and weight w arrives at -ln(u)/w: the first arrival is each member's in
    /// proportion to its weight.
    fn first(
        &self,
        hash: u64,
        eligible: &Eligibility<'_>,
        members: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let arrival = |member: usize| {
            let draw = mix(self.seeds.get(member)? ^ hash);
            let weight = eligible.weight(member);
            (weight > 0).then(|| (member, -ln(unit(draw)) / f64::from(weight)))
        };
        members
            .filter_map(arrival)
            .reduce(|best, next| if next.1 < best.1 { next } else { best })
            .map(|(member, _)| member)
    }
}

fn seed(endpoint: &Endpoint) -> u64 {
    let mut bytes = [0; 18];
    let address = match endpoint.address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..].copy_from_slice(&endpoint.address.port().to_be_bytes());
    hash_bytes(&bytes)
}

/// A draw as a number strictly between 0 and 1.
fn unit(draw: u64) -> f64 {
    ((draw >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// The natural logarithm of a normal positive number, from sums, products and quotients alone:
/// unlike the library's, these are exact to the last bit everywhere, and two proxies of
/// different builds must rank alike. Wrong by less than 1e-9.
fn ln(number: f64) -> f64 {
    let bits = number.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    // ln m = 2 artanh s with s = (m - 1) / (m + 1), which is at most 1/3.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        let mut rng = crate::rng::Rng::new(1);
        for _ in 0..100_000 {
            let number = unit(rng.next());
            assert!((ln(number) - number.ln()).abs() < 1e-9, "ln {number}");
        }
        for draw in [0, 1, u64::MAX] {
            let number = unit(draw);
            assert!(number > 0.0 && number < 1.0, "{number}");
            assert!((ln(number) - number.ln()).abs() < 1e-9, "ln {number}");
        }
    }
}
