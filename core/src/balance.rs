//! Load balancing: which endpoint takes the next call.
//!
//! A balancer proposes endpoints in the order of its policy; `Eligibility` turns down those that
//! may not be used now, and passes over those that have yet to show that they answer while
//! others do. An endpoint that was ejected is first tried by one call. While all is well the
//! first proposal is good, and no policy but consistent hashing looks at all endpoints to make it.

mod eligibility;
mod latency;
mod p2c;
mod rendezvous;
mod round_robin;
mod sampler;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::endpoint::{Endpoint, Standing, Trial};
use crate::rng::mix;

use eligibility::{Choosy, Eligibility};
use rendezvous::Rendezvous;
use round_robin::RoundRobin;
use sampler::WeightedSampler;

pub use latency::observe_latency;

/// How calls are spread over endpoints. Every policy respects weights and warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, the turns of unequal weights spread out evenly.
    #[default]
    RoundRobin,
    /// By chance.
    Random,
    /// The one with the fewest calls in flight for its weight: of all if there are few, else of
    /// two chosen by chance.
    LeastRequest,
    /// The one of two chosen by chance that promises the sooner answer, by its recent peak
    /// latency and its calls in flight.
    PeakEwma,
    /// The same endpoint for the same key, as long as that endpoint may be used.
    ConsistentHash(HashOn),
    /// The one of the greatest weight that may be used, of equals the one of the lowest address: the
    /// others stand by.
    Primary,
}

/// The key of consistent hashing. Calls that lack it are spread by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The value of this attribute of the call.
    Attribute(String),
    /// The caller's address.
    Source,
}

/// What the choice of an endpoint depends on besides the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PickArgs<'a> {
    /// The time.
    pub now: Now,
    /// A fresh uniform draw.
    pub random: u64,
    /// The hash of the call's key, for consistent hashing.
    pub hash: Option<u64>,
    /// Endpoints that were tried already: used again only if no other may be.
    pub avoid: &'a [SocketAddr],
    /// Endpoints with this many calls in flight take no more; 0 = no limit.
    pub per_endpoint: u32,
    /// If fewer than this share of the endpoints (percent) is available, they are all used, but
    /// those that cannot be connected to only if there are no others.
    pub panic_percent: u32,
    /// When the call, or this attempt of it, is given up: until then, no other tries an endpoint
    /// that this one tries.
    pub deadline: Now,
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// There is none that may be used: none at all, or none available and no panic.
    Empty,
    /// All that may be used have as many calls in flight as they may.
    Busy,
}

/// The endpoint that was picked.
#[derive(Debug)]
pub struct Pick {
    /// Its place among the members.
    pub place: usize,
    /// The call tries the endpoint for those that follow; its lease carries this.
    pub trial: Option<Trial>,
}

/// How often a pick begins anew because another worker was quicker to try an endpoint.
const RACES: u32 = 8;
/// A trial that takes longer, as a stream may, lets another call try.
const LONGEST: Duration = Duration::from_secs(60);
/// A trial call that was given up has this long to say so before another may try.
const GRACE: Duration = Duration::from_secs(1);

/// One worker's choice among the endpoints of one snapshot.
#[derive(Debug)]
pub struct Balancer(Method);

#[derive(Debug)]
enum Method {
    RoundRobin(RoundRobin),
    Random(WeightedSampler),
    LeastRequest(WeightedSampler),
    PeakEwma(WeightedSampler),
    ConsistentHash {
        rendezvous: Rendezvous,
        without_key: WeightedSampler,
    },
    Primary,
}

impl Balancer {
    /// A balancer for these members. Balancers with different seeds begin at different places,
    /// so that workers do not all turn to the same endpoint at once.
    #[must_use]
    pub fn new(policy: &Policy, members: &[Arc<Endpoint>], now: Now, seed: u64) -> Self {
        Self(match policy {
            Policy::RoundRobin => Method::RoundRobin(RoundRobin::new(members, now, seed)),
            Policy::Random => Method::Random(WeightedSampler::new(members)),
            Policy::LeastRequest => Method::LeastRequest(WeightedSampler::new(members)),
            Policy::PeakEwma => Method::PeakEwma(WeightedSampler::new(members)),
            Policy::ConsistentHash(_) => Method::ConsistentHash {
                rendezvous: Rendezvous::new(members),
                without_key: WeightedSampler::new(members),
            },
            Policy::Primary => Method::Primary,
        })
    }

    /// The endpoint to use, of `members`, the same that the balancer was made for. Never one of
    /// weight 0.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(
        &mut self,
        members: &[Arc<Endpoint>],
        ask: &PickArgs<'_>,
    ) -> Result<Pick, PickError> {
        let place = self.propose(members, ask)?;
        let health = &members[place].health;
        if health.standing(ask.now) != Standing::Due && health.is_proven() {
            health.ask(ask.now);
            return Ok(Pick { place, trial: None });
        }
        let picked = self.choose(place, members, ask)?;
        members[picked.place].health.ask(ask.now);
        Ok(picked)
    }

    /// The endpoint to use where the one that was proposed is to be tried first.
    #[cold]
    fn choose(
        &mut self,
        proposed: usize,
        members: &[Arc<Endpoint>],
        ask: &PickArgs<'_>,
    ) -> Result<Pick, PickError> {
        let mut place = proposed;
        let until = || ask.deadline.min(ask.now.after(LONGEST)).after(GRACE);
        for _ in 0..RACES {
            let health = &members[place].health;
            if health.standing(ask.now) != Standing::Due {
                let trial = Trial::of_unproven(health, ask.now);
                return Ok(Pick { place, trial });
            }
            let trial = Trial::of_ejected(health, ask.now, until());
            if trial.is_some() {
                return Ok(Pick { place, trial });
            }
            // Another worker was quicker: it is on trial now, and no longer to be tried.
            place = self.propose(members, ask)?;
        }
        Ok(Pick { place, trial: None })
    }

    fn propose(
        &mut self,
        members: &[Arc<Endpoint>],
        ask: &PickArgs<'_>,
    ) -> Result<usize, PickError> {
        for choosy in [Choosy::Most, Choosy::Less] {
            if let Some(picked) = self.0.pick(&Eligibility::new(members, ask, choosy)) {
                return Ok(picked);
            }
        }
        let eligible = Eligibility::new(members, ask, Choosy::Least);
        // Where nothing was tried, the last was as little choosy.
        let again = !ask.avoid.is_empty();
        let picked = if again { self.0.pick(&eligible) } else { None };
        picked.ok_or_else(|| eligible.refusal())
    }
}

impl Method {
    fn pick(&mut self, eligible: &Eligibility<'_>) -> Option<usize> {
        match self {
            Self::RoundRobin(round_robin) => round_robin.pick(eligible),
            Self::Random(sampler) => p2c::random(sampler, eligible),
            Self::LeastRequest(sampler) => p2c::least_request(sampler, eligible),
            Self::PeakEwma(sampler) => p2c::peak_ewma(sampler, eligible),
            Self::ConsistentHash {
                rendezvous,
                without_key,
            } => match eligible.ask.hash {
                Some(hash) => rendezvous.pick(hash, eligible),
                None => p2c::random(without_key, eligible),
            },
            Self::Primary => p2c::primary(eligible),
        }
    }
}

/// When the last of the members has warmed up.
fn settled(members: &[Arc<Endpoint>]) -> Now {
    let ends = members.iter().filter_map(|each| {
        let (since, period) = each.warm_up?;
        u64::try_from(i128::from(since) + i128::from(period)).ok()
    });
    Now(ends.max().unwrap_or(0))
}

/// The hash of a key: 64-bit FNV-1a, its bits scattered by `SplitMix64`'s finaliser. It is the
/// same in every process, on every machine and in every version, so that all proxies send one
/// key to one endpoint. It does not resist keys made to collide.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

#[cfg(test)]
mod tests;
