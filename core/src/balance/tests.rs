//! Shares, smoothness, movement and health of every policy, with seeded chance.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::rng::Rng;

const SECOND: u64 = 1_000_000;

fn endpoint(port: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        weight,
        labels: Default::default(),
        warm_up: None,
        health: Arc::default(),
    }
}

fn members(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    (1..)
        .zip(weights)
        .map(|(port, weight)| Arc::new(endpoint(port, *weight)))
        .collect()
}

fn ask(rng: &mut Rng) -> Ask<'static> {
    Ask {
        now: Now(SECOND),
        random: rng.next(),
        hash: None,
        avoid: &[],
        per_endpoint: 0,
        panic_percent: 50,
    }
}

fn counts(policy: &Policy, members: &[Arc<Endpoint>], picks: u32) -> Vec<u32> {
    let mut balancer = Balancer::new(policy, members, Now(SECOND), 7);
    let mut rng = Rng::new(11);
    let mut counts = vec![0; members.len()];
    for _ in 0..picks {
        counts[balancer.pick(members, &ask(&mut rng)).unwrap()] += 1;
    }
    counts
}

fn chi_squared(counts: &[u32], weights: &[u32]) -> f64 {
    let total: u32 = weights.iter().sum();
    let picks: u32 = counts.iter().sum();
    counts
        .iter()
        .zip(weights)
        .map(|(count, weight)| {
            let expected = f64::from(picks) * f64::from(*weight) / f64::from(total);
            (f64::from(*count) - expected).powi(2) / expected
        })
        .sum()
}

#[test]
fn shares_follow_weights_over_fifty_thousand_picks() {
    for weights in [vec![1, 1], vec![99, 1], vec![50, 50], vec![100, 50, 25, 10]] {
        for policy in [Policy::RoundRobin, Policy::Random] {
            let counts = counts(&policy, &members(&weights), 50_000);
            let chi = chi_squared(&counts, &weights);
            assert!(
                chi < 16.27,
                "{policy:?} {weights:?}: {counts:?}, chi-squared {chi}"
            );
        }
    }
}

#[test]
fn round_robin_interleaves_evenly() {
    let members = members(&[5, 1, 1]);
    let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 3);
    let mut rng = Rng::new(1);
    let picks: Vec<usize> = (0..700)
        .map(|_| balancer.pick(&members, &ask(&mut rng)).unwrap())
        .collect();
    let light: Vec<usize> = (0..700).filter(|n| picks[*n] == 1).collect();
    assert_eq!(light.len(), 100);
    for pair in light.windows(2) {
        assert!((5..=9).contains(&(pair[1] - pair[0])), "{pair:?}");
    }
}

#[test]
fn a_young_endpoint_gets_its_share_by_and_by() {
    let mut young = endpoint(2, 100);
    young.warm_up = Some((0, 100 * SECOND));
    let members = [Arc::new(endpoint(1, 100)), Arc::new(young)];
    let mut rng = Rng::new(1);
    for (age, low, high) in [(1, 0, 200), (50, 3200, 3500), (100, 4990, 5010)] {
        let now = Now(age * SECOND);
        let mut balancer = Balancer::new(&Policy::RoundRobin, &members, now, 7);
        let share = (0..10_000)
            .filter(|_| {
                let ask = Ask {
                    now,
                    ..ask(&mut rng)
                };
                balancer.pick(&members, &ask).unwrap() == 1
            })
            .count();
        assert!((low..=high).contains(&share), "age {age}: {share}");
    }
}

#[test]
fn least_request_avoids_the_loaded_and_weighs() {
    let members = members(&[1, 1, 1]);
    members[0].health.in_flight.store(50, Relaxed);
    let spread = counts(&Policy::LeastRequest, &members, 30_000);
    assert_eq!(spread[0], 0);
    assert!(chi_squared(&spread[1..], &[1, 1]) < 10.83, "{spread:?}");
}

#[test]
fn peak_ewma_prefers_the_quick_and_forgives_with_time() {
    let members = members(&[1, 1]);
    observe_latency(&members[0].health, 50_000_000, Now(SECOND));
    observe_latency(&members[1].health, 1_000_000, Now(SECOND));
    // Of two draws both may be the slow one: a quarter, so that it is tried now and then.
    assert!(counts(&Policy::PeakEwma, &members, 1000)[0] < 300);
    // One slow answer counts at once.
    observe_latency(&members[1].health, 900_000_000, Now(SECOND));
    assert!(counts(&Policy::PeakEwma, &members, 1000)[1] < 300);
    // Quick ones win it back.
    for step in 1..100 {
        observe_latency(&members[1].health, 1_000_000, Now(SECOND + step * SECOND));
    }
    assert!(members[1].health.ewma_nanos.load(Relaxed) < 2_000_000);
}

#[test]
fn consistent_hash_moves_only_the_keys_of_the_one_that_left() {
    let ten = members(&[100; 10]);
    let nine: Vec<_> = ten[..9].to_vec();
    let policy = Policy::ConsistentHash(HashOn::Source);
    let mut of_ten = Balancer::new(&policy, &ten, Now(SECOND), 1);
    let mut of_nine = Balancer::new(&policy, &nine, Now(SECOND), 2);
    let mut rng = Rng::new(5);
    let mut shares: HashMap<usize, u32> = HashMap::new();
    for key in 0..50_000_u32 {
        let ask = Ask {
            hash: Some(hash_bytes(&key.to_be_bytes())),
            ..ask(&mut rng)
        };
        let before = of_ten.pick(&ten, &ask).unwrap();
        *shares.entry(before).or_default() += 1;
        let after = of_nine.pick(&nine, &ask).unwrap();
        assert!(
            before == after || before == 9,
            "key {key} moved from {before} to {after}"
        );
    }
    for (member, share) in shares {
        assert!(
            (3500..=6800).contains(&share),
            "{member} has {share} of 50000"
        );
    }
}

#[test]
fn the_ejected_are_passed_over_until_too_few_are_left() {
    for policy in [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastRequest,
        Policy::PeakEwma,
        Policy::ConsistentHash(HashOn::Source),
    ] {
        let members = members(&[1, 1, 1, 1]);
        members[0].health.ejected_until.store(10 * SECOND, Relaxed);
        let three = counts(&policy, &members, 4000);
        assert_eq!(three[0], 0, "{policy:?}");
        assert!(
            three[1..].iter().all(|count| *count > 800),
            "{policy:?}: {three:?}"
        );
        for member in &members[1..3] {
            member.health.ejected_until.store(10 * SECOND, Relaxed);
        }
        // One of four is under the panic threshold of 50 %: all are used.
        let panic = counts(&policy, &members, 4000);
        assert!(
            panic.iter().all(|count| *count > 500),
            "{policy:?}: {panic:?}"
        );
    }
}

#[test]
fn tried_ones_come_last_and_busy_ones_not_at_all() {
    let members = members(&[1, 1]);
    let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 1);
    let mut rng = Rng::new(1);
    let tried = [members[0].address];
    for _ in 0..100 {
        let ask = Ask {
            avoid: &tried,
            ..ask(&mut rng)
        };
        assert_eq!(balancer.pick(&members, &ask), Ok(1));
    }
    members[1].health.in_flight.store(8, Relaxed);
    let bounded = Ask {
        avoid: &tried,
        per_endpoint: 8,
        ..ask(&mut rng)
    };
    assert_eq!(balancer.pick(&members, &bounded), Ok(0));
    members[0].health.in_flight.store(8, Relaxed);
    assert_eq!(balancer.pick(&members, &bounded), Err(NoPick::Busy));
    assert_eq!(balancer.pick(&[], &bounded), Err(NoPick::Empty));
    let none = Ask {
        panic_percent: 0,
        ..ask(&mut rng)
    };
    for member in &members {
        member.health.leaving_until.store(10 * SECOND, Relaxed);
    }
    assert_eq!(balancer.pick(&members, &none), Err(NoPick::Empty));
}
