//! Who tries an endpoint that was ejected, and who is passed over meanwhile.

use super::*;
use crate::endpoint::ConnectionAttempt;

/// Where a call goes, and whether it is the trial of one that was ejected.
fn tried(
    balancer: &mut Balancer,
    members: &[Arc<Endpoint>],
    ask: &PickArgs<'_>,
) -> (usize, Option<Trial>) {
    let picked = balancer.pick(members, ask).unwrap();
    (picked.place, picked.trial)
}

#[test]
fn one_call_at_a_time_tries_who_was_ejected() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1, 1]);
        members[2].health.stand.set(Seen::ejected(Now(SECOND)));
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let mut picks = || {
            let ask = PickArgs {
                hash: Some(rng.next()),
                ..ask(&mut rng)
            };
            tried(&mut balancer, &members, &ask)
        };
        let mut trials: Vec<Trial> = Vec::new();
        for _ in 0..200 {
            let (place, trial) = picks();
            assert_eq!(place == 2, trial.is_some(), "{policy:?}");
            trials.extend(trial);
        }
        assert_eq!(trials.len(), 1, "{policy:?}");
        trials.clear();
        let again = (0..200).any(|_| picks().1.is_some());
        assert!(again, "{policy:?}: it was given back");
    }
}

#[test]
fn a_call_that_failed_elsewhere_is_no_trial_unless_nothing_else_is_left() {
    for policy in &POLICIES {
        let members = members(&[1, 1]);
        members[1].health.stand.set(Seen::ejected(Now(SECOND)));
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let avoid = [([127, 0, 0, 1], 9).into()];
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let ask = PickArgs {
                avoid: &avoid,
                hash: Some(rng.next()),
                ..ask(&mut rng)
            };
            assert_eq!(balancer.place(&members, &ask), Ok(0), "{policy:?}");
        }
        members[0].health.unhealthy.store(true, Relaxed);
        let ask = PickArgs {
            avoid: &avoid,
            panic_percent: 0,
            ..ask(&mut rng)
        };
        let (place, trial) = tried(&mut balancer, &members, &ask);
        assert!(place == 1 && trial.is_some(), "{policy:?}");
    }
}

#[test]
fn a_trial_lasts_as_long_as_its_call_but_not_for_ever() {
    for (deadline, taken_until) in [(3, 4), (1000, 62)] {
        let members = members(&[1, 1]);
        members[0].health.stand.set(Seen::ejected(Now(SECOND)));
        members[1].health.unhealthy.store(true, Relaxed);
        let mut balancer = Balancer::new(&Policy::RoundRobin, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let ask = |now, rng: &mut Rng| PickArgs {
            now: Now(now),
            deadline: Now(deadline * SECOND),
            panic_percent: 0,
            ..ask(rng)
        };
        let first = balancer.pick(&members, &ask(SECOND, &mut rng)).unwrap();
        assert!(first.trial.is_some());
        let early = balancer.pick(&members, &ask(taken_until * SECOND - 1, &mut rng));
        assert_eq!(early.map(|picked| picked.place), Err(PickError::Empty));
        let late = balancer.pick(&members, &ask(taken_until * SECOND, &mut rng));
        assert!(late.unwrap().trial.is_some());
    }
}

#[test]
fn few_wait_for_who_has_yet_to_answer() {
    for policy in &POLICIES {
        let mut members = members(&[1, 1, 1, 1]);
        Arc::get_mut(&mut members[2]).unwrap().health = Arc::default();
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let mut waiting: Vec<Trial> = Vec::new();
        for _ in 0..500 {
            let (place, trial) = tried(&mut balancer, &members, &ask(&mut rng));
            assert_eq!(place == 2, trial.is_some(), "{policy:?}");
            waiting.extend(trial);
        }
        assert_eq!(waiting.len(), 2, "{policy:?}");
        members[2].health.prove(Now(SECOND));
        let spread = counts(policy, &members, 4000);
        assert!(spread[2] > 800, "{policy:?}: {spread:?}");
    }
}

#[test]
fn who_falls_silent_is_passed_over_while_others_answer() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1, 1]);
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let mut picks_of_silent = |millis: std::ops::Range<u64>| {
            let mut picks = 0;
            for millis in millis {
                let now = Now(SECOND).after(Duration::from_millis(millis));
                let ask = PickArgs {
                    now,
                    ..ask(&mut rng)
                };
                let place = balancer.pick(&members, &ask).unwrap().place;
                if place == 3 {
                    picks += 1;
                } else {
                    members[place].health.prove(now);
                }
            }
            picks
        };
        // Many at once say nothing yet.
        assert!((4..=14).contains(&picks_of_silent(0..31)), "{policy:?}");
        assert!(picks_of_silent(31..60) <= 8, "{policy:?}");
        assert_eq!(picks_of_silent(60..4000), 0, "{policy:?}");
        assert_eq!(picks_of_silent(4000..7000), 1, "{policy:?}: now and then");
        members[3].health.prove(Now(8 * SECOND));
        assert!(picks_of_silent(8000..8400) >= 8, "{policy:?}");
        // Calls that tell nothing are not held against it.
        for _ in 0..100 {
            members[3].health.excuse();
        }
        assert!(picks_of_silent(9000..9400) >= 8, "{policy:?}");
    }
}

#[test]
fn where_all_have_yet_to_answer_all_are_used() {
    for policy in &POLICIES {
        let mut members = members(&[1, 1]);
        for member in &mut members {
            Arc::get_mut(member).unwrap().health = Arc::default();
        }
        let mut balancer = Balancer::new(policy, &members, Now(SECOND), 1);
        let mut rng = Rng::new(1);
        let mut waiting = Vec::new();
        let mut seen = [0, 0];
        for _ in 0..400 {
            let (place, trial) = tried(&mut balancer, &members, &ask(&mut rng));
            seen[place] += 1;
            waiting.push(trial);
        }
        assert!(
            seen.iter().all(|count| *count > 100),
            "{policy:?}: {seen:?}"
        );
    }
}

#[test]
fn in_panic_who_cannot_be_connected_to_comes_last() {
    for policy in &POLICIES {
        let members = members(&[1, 1, 1, 1]);
        eject(&members[0]);
        for member in &members[1..] {
            eject(member);
            member.health.connect_failures.store(1, Relaxed);
        }
        let spread = counts(policy, &members, 1000);
        assert_eq!(spread, [1000, 0, 0, 0], "{policy:?}");
        members[0].health.connect_failures.store(1, Relaxed);
        let spread = counts(policy, &members, 1000);
        assert!(
            spread.iter().all(|count| *count > 100),
            "{policy:?}: {spread:?}"
        );
    }
}

#[test]
fn a_slow_connection_is_in_doubt_until_it_is_made() {
    let health = Arc::new(Health::default());
    let at = |millis| Now(SECOND).after(Duration::from_millis(millis));
    let first = ConnectionAttempt::begin(&health, at(0));
    let second = ConnectionAttempt::begin(&health, at(40));
    assert!(!health.is_suspect(at(50)));
    assert!(health.is_suspect(at(51)));
    drop(second);
    assert!(health.is_suspect(at(51)), "the first still waits");
    health.prove(at(51));
    assert!(!health.is_suspect(at(51)));
    health.connection_lost();
    assert!(health.is_suspect(at(51)));
    drop(first);
    assert!(!health.is_suspect(at(51)));
}
