//! Shares, smoothness, movement and health of every policy, with seeded chance.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod trials;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;
use crate::endpoint::{Health, Seen};
use crate::rng::Rng;

const SECOND: u64 = 1_000_000;

/// One that has answered before.
fn endpoint(port: u16, weight: u32) -> Endpoint {
    let health = Health::default();
    health.prove(Now(1));
    Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        weight,
        labels: Default::default(),
        warm_up: None,
        terms: None,
        health: Arc::new(health),
    }
}

fn eject(member: &Endpoint) {
    member.health.stand.set(Seen::ejected(Now(10 * SECOND)));
}

impl Balancer {
    /// Where a call goes that is no trial, and is answered.
    fn place(&mut self, members: &[Arc<Endpoint>], ask: &PickArgs<'_>) -> Result<usize, PickError> {
        let picked = self.pick(members, ask)?;
        assert!(picked.trial.is_none(), "{picked:?}");
        members[picked.place].health.prove(ask.now);
        Ok(picked.place)
    }
}

fn members(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    (1..)
        .zip(weights)
        .map(|(port, weight)| Arc::new(endpoint(port, *weight)))
        .collect()
}

fn ask(rng: &mut Rng) -> PickArgs<'static> {
    PickArgs {
        now: Now(SECOND),
        random: rng.next(),
        hash: None,
        avoid: &[],
        per_endpoint: 0,
        panic_percent: 50,
        deadline: Now(2 * SECOND),
    }
}

#[test]
fn all_calls_go_to_the_primary_while_it_may_be_used() {
    let members = members(&[100, 100, 200, 100]);
    let mut balancer = Balancer::new(&Policy::Primary, &members, Now(SECOND), 1);
    let mut rng = Rng::new(1);
    let mut pick = || {
        let ask = PickArgs {
            hash: Some(0),
            ..ask(&mut rng)
        };
        balancer.pick(&members, &ask).unwrap().place
    };
    let mut all = |expected| (0..20).all(|_| pick() == expected);
    // Also before it has answered anything.
    members[2].health.unprove();
    assert!(all(2));
    eject(&members[2]);
    assert!(all(0));
    members[0].health.unhealthy.store(true, Relaxed);
    assert!(all(1));
    members[0].health.unhealthy.store(false, Relaxed);
    members[2].health.stand.set(Seen::AVAILABLE);
    assert!(all(2));
}

fn counts(policy: &Policy, members: &[Arc<Endpoint>], picks: u32) -> Vec<u32> {
    let mut balancer = Balancer::new(policy, members, Now(SECOND), 7);
    let mut rng = Rng::new(11);
    let mut counts = vec![0; members.len()];
    for _ in 0..picks {
        let ask = PickArgs {
            hash: Some(rng.next()),
            ..ask(&mut rng)
        };
        counts[balancer.place(members, &ask).unwrap()] += 1;
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

const POLICIES: [Policy; 5] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastRequest,
    Policy::PeakEwma,
    Policy::ConsistentHash(HashOn::Source),
];

/// The 99.999 % points of chi-squared for 1, 2, ... degrees of freedom: some sixty shares are
/// checked here, of which one in a thousand is off by chance at the usual 99.9 %.
const CHI_SQUARED: [f64; 9] = [
    19.51, 23.03, 25.90, 28.47, 30.86, 33.11, 35.26, 37.33, 39.34,
];

/// Checks shares against weights; weight 0 gets exactly nothing.
fn assert_shares(counts: &[u32], weights: &[u32], what: &str) {
    let pairs = || counts.iter().zip(weights);
    assert!(
        pairs().all(|(count, weight)| *weight > 0 || *count == 0),
        "{what}: {counts:?}"
    );
    let (counts, weights): (Vec<u32>, Vec<u32>) =
        pairs().filter(|(_, weight)| **weight > 0).unzip();
    let chi = chi_squared(&counts, &weights);
    let bound = CHI_SQUARED[weights.len() - 2];
    assert!(
        chi < bound,
        "{what}, weights {weights:?}: {counts:?}, chi-squared {chi}"
    );
}

#[test]
fn shares_follow_weights_over_fifty_thousand_picks() {
    for weights in [
        vec![1, 1],
        vec![0, 1, 1],
        vec![99, 1],
        vec![50, 50],
        vec![100, 50, 25, 10],
        vec![1, 2, 3, 4, 0, 5, 6],
    ] {
        for policy in &POLICIES {
            let counts = counts(policy, &members(&weights), 50_000);
            assert_shares(&counts, &weights, &format!("{policy:?}"));
        }
    }
}

#[test]
fn equal_weights_take_strict_turns() {
    let members = members(&[7, 7, 7]);
    let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 3);
    let mut rng = Rng::new(1);
    let picks: Vec<usize> = (0..300)
        .map(|_| balancer.place(&members, &ask(&mut rng)).unwrap())
        .collect();
    assert!(
        picks.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3),
        "{picks:?}"
    );
}

#[test]
fn workers_begin_at_different_places() {
    for weights in [[5; 8], [1, 2, 3, 4, 5, 6, 7, 8]] {
        let members = members(&weights);
        let first = |seed| {
            let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), seed);
            balancer.place(&members, &ask(&mut Rng::new(1))).unwrap()
        };
        let firsts: HashSet<usize> = (0..100).map(first).collect();
        assert!(firsts.len() >= 5, "{firsts:?}");
    }
}

#[test]
fn no_run_is_longer_than_weights_make_it() {
    let longest_runs = |weights: &[u32]| {
        let members = members(weights);
        let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 3);
        let mut rng = Rng::new(1);
        let (mut longest, mut run) = (vec![0; weights.len()], (0, 0));
        for _ in 0..10_000 {
            let picked = balancer.place(&members, &ask(&mut rng)).unwrap();
            run = if run.0 == picked {
                (picked, run.1 + 1)
            } else {
                (picked, 1)
            };
            longest[picked] = longest[picked].max(run.1);
        }
        longest
    };
    // Rounding the interval 1/99 may make one run longer by one turn.
    let of_99_to_1 = longest_runs(&[99, 1]);
    assert!(of_99_to_1[0] <= 100 && of_99_to_1[1] == 1, "{of_99_to_1:?}");
    assert_eq!(longest_runs(&[2, 1]), [2, 1]);
    assert!(longest_runs(&[5, 1, 1])[0] <= 5);
    assert!(longest_runs(&[50, 49]).iter().all(|run| *run <= 2));
}

#[test]
fn round_robin_interleaves_evenly() {
    let members = members(&[5, 1, 1]);
    let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 3);
    let mut rng = Rng::new(1);
    let picks: Vec<usize> = (0..700)
        .map(|_| balancer.place(&members, &ask(&mut rng)).unwrap())
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
                let ask = PickArgs {
                    now,
                    ..ask(&mut rng)
                };
                balancer.place(&members, &ask).unwrap() == 1
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
        let ask = PickArgs {
            hash: Some(hash_bytes(&key.to_be_bytes())),
            ..ask(&mut rng)
        };
        let before = of_ten.place(&ten, &ask).unwrap();
        *shares.entry(before).or_default() += 1;
        let after = of_nine.place(&nine, &ask).unwrap();
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
    for policy in &POLICIES {
        let members = members(&[1, 1, 1, 1]);
        eject(&members[0]);
        let three = counts(policy, &members, 40_000);
        assert_shares(&three, &[0, 1, 1, 1], &format!("{policy:?}, one ejected"));
        members[1].health.leaving_until.store(10 * SECOND, Relaxed);
        let two = counts(policy, &members, 40_000);
        assert_shares(
            &two,
            &[0, 0, 1, 1],
            &format!("{policy:?}, half of them left"),
        );
        // One of four is under the panic threshold of 50 %: all are used.
        eject(&members[2]);
        let panic = counts(policy, &members, 40_000);
        assert_shares(&panic, &[1, 1, 1, 1], &format!("{policy:?}, panic"));
        // Those of weight 0 count neither as available nor as gone.
        let with_idle = [members, self::members(&[0, 0, 0, 0])].concat();
        let still = counts(policy, &with_idle, 40_000);
        assert_shares(
            &still,
            &[1, 1, 1, 1, 0, 0, 0, 0],
            &format!("{policy:?}, idle ones"),
        );
    }
}

#[test]
fn shares_of_the_ejected_fall_to_the_others_by_weight() {
    let weights = [40, 10, 20, 30];
    for policy in &POLICIES {
        let members = members(&weights);
        eject(&members[0]);
        let counts = counts(policy, &members, 50_000);
        assert_shares(&counts, &[0, 10, 20, 30], &format!("{policy:?}"));
    }
}

#[test]
fn who_returns_claims_no_lost_turns() {
    for weights in [[10, 10, 10], [50, 20, 30]] {
        let members = members(&weights);
        let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 3);
        let mut rng = Rng::new(1);
        let mut picks_of_first = |count| {
            (0..count)
                .filter(|_| balancer.place(&members, &ask(&mut rng)) == Ok(0))
                .count()
        };
        eject(&members[0]);
        assert_eq!(picks_of_first(10_000), 0);
        members[0].health.stand.set(Seen::AVAILABLE);
        let fair = 100 * weights[0] as usize / weights.iter().sum::<u32>() as usize;
        let picks = picks_of_first(100);
        assert!(
            picks.abs_diff(fair) <= 2,
            "{picks} of 100, weights {weights:?}"
        );
    }
}

#[test]
fn in_panic_the_tried_still_come_last() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1]);
        for member in &members {
            eject(member);
        }
        let tried = [members[0].address, members[2].address];
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        for _ in 0..100 {
            let ask = PickArgs {
                avoid: &tried,
                hash: Some(rng.next()),
                ..ask(&mut rng)
            };
            assert_eq!(balancer.place(&members, &ask), Ok(1), "{policy:?}");
        }
    }
}

#[test]
fn busy_ones_are_passed_over_by_every_policy() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1, 1, 1]);
        for member in &members[..3] {
            member.health.in_flight.store(8, Relaxed);
        }
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let ask = PickArgs {
                per_endpoint: 8,
                hash: Some(rng.next()),
                ..ask(&mut rng)
            };
            seen.insert(balancer.place(&members, &ask).unwrap());
        }
        assert_eq!(seen, HashSet::from([3, 4]), "{policy:?}");
    }
}

#[test]
fn the_available_but_busy_do_not_send_calls_to_the_ejected() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1]);
        eject(&members[0]);
        for member in &members[1..] {
            member.health.in_flight.store(8, Relaxed);
        }
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let ask = PickArgs {
            per_endpoint: 8,
            hash: Some(7),
            ..ask(&mut rng)
        };
        assert_eq!(
            balancer.place(&members, &ask),
            Err(PickError::Busy),
            "{policy:?}"
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
        let ask = PickArgs {
            avoid: &tried,
            ..ask(&mut rng)
        };
        assert_eq!(balancer.place(&members, &ask), Ok(1));
    }
    members[1].health.in_flight.store(8, Relaxed);
    let bounded = PickArgs {
        avoid: &tried,
        per_endpoint: 8,
        ..ask(&mut rng)
    };
    assert_eq!(balancer.place(&members, &bounded), Ok(0));
    members[0].health.in_flight.store(8, Relaxed);
    assert_eq!(balancer.place(&members, &bounded), Err(PickError::Busy));
    assert_eq!(balancer.place(&[], &bounded), Err(PickError::Empty));
    let none = PickArgs {
        panic_percent: 0,
        ..ask(&mut rng)
    };
    for member in &members {
        member.health.leaving_until.store(10 * SECOND, Relaxed);
    }
    assert_eq!(balancer.place(&members, &none), Err(PickError::Empty));
}

// === Warm-up ===

/// Picks of the one young member from `from` to `to` seconds of its warm-up, which takes 100.
fn young_picks(
    policy: &Policy,
    seed: u64,
    elders: usize,
    per_second: u64,
    (from, to): (u64, u64),
) -> u32 {
    let mut members = members(&vec![100; elders]);
    let mut young = endpoint(1000, 100);
    young.warm_up = Some((0, 100 * SECOND));
    members.push(Arc::new(young));
    let mut rng = Rng::new(11);
    let mut balancer = Balancer::new(policy, &members, Now(0), seed);
    let mut picks = 0;
    for step in 0..to * per_second {
        let now = Now(step * SECOND / per_second);
        let ask = PickArgs {
            now,
            hash: Some(rng.next()),
            ..ask(&mut rng)
        };
        let picked = balancer.place(&members, &ask).unwrap();
        picks += u32::from(picked == elders && now >= Now(from * SECOND));
    }
    picks
}

#[test]
fn shares_grow_while_time_runs() {
    for policy in &POLICIES {
        // Weights of 45 to 55 beside 100: a third of 10,000 calls.
        let half = young_picks(policy, 7, 1, 1000, (45, 55));
        assert!((3150..=3500).contains(&half), "{policy:?}: {half}");
        let grown = young_picks(policy, 7, 1, 1000, (100, 110));
        assert!((4800..=5200).contains(&grown), "{policy:?}: {grown}");
    }
}

#[test]
fn few_calls_do_not_keep_the_young_waiting() {
    // Weight grows from 1 to 100 beside 900: 5.2 % of the calls. With its first deadline kept,
    // the young one would wait for most of these.
    for seed in 0..20 {
        let picks = young_picks(&Policy::RoundRobin, seed, 9, 10, (0, 100));
        assert!(
            (45..=59).contains(&picks),
            "{picks}, not about 52, seed {seed}"
        );
    }
}

#[test]
fn the_warm_take_strict_turns_again() {
    let mut young = endpoint(2, 100);
    young.warm_up = Some((0, 100 * SECOND));
    let members = [Arc::new(endpoint(1, 100)), Arc::new(young)];
    let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 7);
    let mut rng = Rng::new(1);
    let mut pick = |seconds| {
        let ask = PickArgs {
            now: Now(seconds * SECOND),
            ..ask(&mut rng)
        };
        balancer.place(&members, &ask).unwrap()
    };
    assert!((0..10).filter(|_| pick(2) == 1).count() <= 1);
    let picks: Vec<usize> = (0..100).map(|_| pick(100)).collect();
    assert!(picks.windows(2).all(|pair| pair[0] != pair[1]), "{picks:?}");
}

// === Least request and peak-EWMA ===

#[test]
fn least_request_counts_calls_in_units_of_weight() {
    let members = members(&[30, 10]);
    members[0].health.in_flight.store(29, Relaxed);
    members[1].health.in_flight.store(10, Relaxed);
    assert_eq!(counts(&Policy::LeastRequest, &members, 1000), [1000, 0]);
    members[0].health.in_flight.store(31, Relaxed);
    assert_eq!(counts(&Policy::LeastRequest, &members, 1000), [0, 1000]);
}

#[test]
fn calls_that_stay_are_spread_by_weight() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        for weights in [vec![1, 1], vec![3, 1], vec![1; 8], vec![1, 2, 3, 4, 5, 6]] {
            let members = members(&weights);
            for member in &members {
                observe_latency(&member.health, 1_000_000, Now(SECOND));
            }
            let mut balancer = Balancer::new(&policy, &members, Now(SECOND), 7);
            let mut rng = Rng::new(11);
            for _ in 0..6000 {
                let picked = balancer.place(&members, &ask(&mut rng)).unwrap();
                members[picked].health.in_flight.fetch_add(1, Relaxed);
            }
            let total: u32 = weights.iter().sum();
            for (member, weight) in members.iter().zip(&weights) {
                let fair = 6000 * weight / total;
                let held = member.in_flight();
                assert!(
                    held.abs_diff(fair) <= 8 + fair / 50,
                    "{policy:?}: {held}, not {fair}"
                );
            }
        }
    }
}

#[test]
fn least_request_of_many_uses_the_worst_only_by_double_chance() {
    let members = members(&[1; 10]);
    members[3].health.in_flight.store(50, Relaxed);
    let spread = counts(&Policy::LeastRequest, &members, 50_000);
    // Both draws fall on it once in a hundred.
    assert!((400..=600).contains(&spread[3]), "{spread:?}");
}

#[test]
fn a_new_endpoint_is_tried_but_not_flooded() {
    let members = members(&[1, 1]);
    observe_latency(&members[0].health, 1_000_000, Now(SECOND));
    assert!(
        counts(&Policy::PeakEwma, &members, 1000)[1] > 600,
        "nothing is known against it"
    );
    members[1].health.in_flight.store(1, Relaxed);
    assert!(
        counts(&Policy::PeakEwma, &members, 1000)[1] < 350,
        "it has yet to answer"
    );
}

// === Consistent hash ===

const BY_SOURCE: Policy = Policy::ConsistentHash(HashOn::Source);

/// Where each of so many keys goes.
fn homes(members: &[Arc<Endpoint>], now: Now, keys: u32) -> Vec<usize> {
    let mut balancer = Balancer::new(&BY_SOURCE, members, now, 1);
    let mut rng = Rng::new(5);
    let home = |key: u32| {
        let hash = Some(hash_bytes(&key.to_be_bytes()));
        balancer
            .place(
                members,
                &PickArgs {
                    now,
                    hash,
                    ..ask(&mut rng)
                },
            )
            .unwrap()
    };
    (0..keys).map(home).collect()
}

#[test]
fn keys_are_hashed_alike_for_ever() {
    // From an implementation in another language.
    assert_eq!(hash_bytes(b""), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(hash_bytes(b"uid-42"), 0x7d6e_8cfc_7b69_6ab2);
    assert_eq!(hash_bytes(&[0xff; 16]), 0xbe9b_b220_6637_5ef1);
}

#[test]
fn keys_are_at_home_where_every_other_proxy_has_them() {
    let homes = homes(&members(&[1, 1, 1, 1]), Now(SECOND), 16);
    assert_eq!(homes, [2, 0, 0, 0, 1, 3, 2, 2, 1, 2, 1, 0, 3, 1, 3, 1]);
}

#[test]
fn keys_of_the_ejected_spread_and_come_back() {
    let members = members(&[1; 10]);
    let before = homes(&members, Now(SECOND), 50_000);
    eject(&members[4]);
    let during = homes(&members, Now(SECOND), 50_000);
    let mut taken = vec![0; 10];
    for (before, during) in before.iter().zip(&during) {
        if *before == 4 {
            taken[*during] += 1;
        } else {
            assert_eq!(before, during, "not its key");
        }
    }
    assert_shares(
        &taken,
        &[1, 1, 1, 1, 0, 1, 1, 1, 1, 1],
        "keys of the ejected",
    );
    members[4].health.stand.set(Seen::AVAILABLE);
    assert_eq!(homes(&members, Now(11 * SECOND), 50_000), before);
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    let members = members(&[3, 1, 4, 1, 5]);
    let reversed: Vec<_> = members.iter().rev().cloned().collect();
    let there = homes(&members, Now(SECOND), 1000);
    let back = homes(&reversed, Now(SECOND), 1000);
    assert!(
        there
            .iter()
            .zip(&back)
            .all(|(there, back)| there + back == 4)
    );
}

#[test]
fn gaining_weight_draws_keys_from_all_and_moves_no_other() {
    let before = homes(&members(&[100, 100, 100, 100]), Now(SECOND), 50_000);
    let after = homes(&members(&[100, 100, 300, 100]), Now(SECOND), 50_000);
    let mut from = vec![0; 4];
    for (before, after) in before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
    {
        assert_eq!(*after, 2);
        from[*before] += 1;
    }
    assert_shares(&from, &[1, 1, 0, 1], "keys that moved");
}

#[test]
fn without_a_key_it_is_chance() {
    let members = members(&[3, 1]);
    let mut balancer = Balancer::new(&BY_SOURCE, &members, Now(SECOND), 1);
    let mut rng = Rng::new(5);
    let mut counts = [0, 0];
    for _ in 0..50_000 {
        counts[balancer.place(&members, &ask(&mut rng)).unwrap()] += 1;
    }
    assert_shares(&counts, &[3, 1], "without a key");
}

// === Laws of every policy ===

/// The weight of a member, whether it is available, its calls in flight, whether it was tried.
fn any_member() -> impl Strategy<Value = (u32, bool, u32, bool)> {
    let weight = prop_oneof![Just(0), Just(1), 1_u32..200, Just(u32::MAX)];
    (weight, any::<bool>(), 0_u32..4, any::<bool>())
}

proptest! {
    /// Whoever is picked may be picked, and someone is picked if anyone may be.
    #[test]
    fn a_pick_is_one_that_may_be(
        states in prop::collection::vec(any_member(), 0..8),
        randoms in prop::collection::vec((any::<u64>(), any::<Option<u64>>()), 1..20),
        per_endpoint in 0_u32..4, panic_percent in 0_u32..=101, warming: bool,
    ) {
        let mut members = members(&states.iter().map(|state| state.0).collect::<Vec<_>>());
        let mut avoid = Vec::new();
        for (member, (_, available, in_flight, tried)) in members.iter_mut().zip(&states) {
            if warming {
                Arc::get_mut(member).unwrap().warm_up = Some((0, 10 * SECOND));
            }
            member.health.in_flight.store(*in_flight, Relaxed);
            if !*available {
                eject(member);
            }
            avoid.extend(tried.then_some(member.address));
        }
        let weighty: Vec<_> = members.iter().filter(|each| each.weight > 0).collect();
        let available = weighty.iter().filter(|each| each.available(Now(SECOND))).count();
        let panic = available * 100 < weighty.len() * panic_percent as usize;
        let usable = |each: &Endpoint| each.weight > 0 && (panic || each.available(Now(SECOND)));
        let free = |each: &Endpoint| {
            usable(each) && (per_endpoint == 0 || each.in_flight() < per_endpoint)
        };
        let fresh = |each: &Endpoint| free(each) && !avoid.contains(&each.address);
        for policy in &POLICIES {
            let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
            for (random, hash) in &randoms {
                let ask = PickArgs {
                    now: Now(SECOND), random: *random, hash: *hash,
                    avoid: &avoid, per_endpoint, panic_percent, deadline: Now(2 * SECOND),
                };
                match balancer.place(&members, &ask) {
                    Ok(picked) if members.iter().any(|each| fresh(each)) => {
                        prop_assert!(fresh(&members[picked]));
                    }
                    Ok(picked) => prop_assert!(free(&members[picked])),
                    Err(PickError::Busy) => {
                        prop_assert!(members.iter().any(|each| usable(each)));
                        prop_assert!(!members.iter().any(|each| free(each)));
                    }
                    Err(PickError::Empty) => {
                        prop_assert!(!members.iter().any(|each| usable(each)));
                    }
                }
            }
        }
    }

    /// At any moment each member has had its share of the turns, give or take a few.
    #[test]
    fn turns_are_never_far_from_shares(
        weights in prop::collection::vec(1_u32..100, 2..7), seed: u64,
    ) {
        let members = members(&weights);
        let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), seed);
        let mut rng = Rng::new(seed);
        let mut turns = vec![0; weights.len()];
        let total = f64::from(weights.iter().sum::<u32>());
        for count in 1..500_u32 {
            turns[balancer.place(&members, &ask(&mut rng)).unwrap()] += 1;
            for (turns, weight) in turns.iter().zip(&weights) {
                let share = f64::from(count) * f64::from(*weight) / total;
                let bound = 1.0 + weights.len() as f64 * f64::from(*weight) / total;
                prop_assert!((f64::from(*turns) - share).abs() <= bound);
            }
        }
    }
}
