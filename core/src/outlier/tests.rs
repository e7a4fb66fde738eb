//! When endpoints are ejected, for how long, and how they come back.

use super::*;

const SECOND: u64 = 1_000_000;

fn members(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let endpoint = |(port, weight): (u16, &u32)| {
        Arc::new(Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            weight: *weight,
            labels: Default::default(),
            warm_up: None,
            terms: None,
            health: Arc::default(),
        })
    };
    (1..).zip(weights).map(endpoint).collect()
}

fn outlier(consecutive: u32) -> Outlier {
    Outlier {
        consecutive,
        ..Outlier::default()
    }
}

/// Fails the first member until it is ejected; how long that lasts, in seconds.
fn eject(outlier: &Outlier, members: &[Arc<Endpoint>], now: Now) -> Option<u64> {
    let health = &members[0].health;
    let ejected = (0..outlier.consecutive).any(|_| outlier.failure(health, now, members, None));
    ejected.then(|| seconds_out(health, now))
}

fn seconds_out(health: &Health, now: Now) -> u64 {
    match health.standing(now) {
        Standing::Ejected(until) => until.since(now).as_secs(),
        Standing::Available | Standing::Due | Standing::OnTrial(_) => 0,
    }
}

/// Has one call try an endpoint whose time is over.
fn trial(health: &Arc<Health>, now: Now) -> Option<Trial> {
    let trial = Trial::of_ejected(health, now, now.after(Duration::from_secs(10)));
    assert!(trial.is_some(), "{:?}", health.standing(now));
    trial
}

/// When an ejection ends.
fn end(health: &Health) -> Now {
    match health.standing(Now(0)) {
        Standing::Ejected(until) | Standing::OnTrial(until) => until,
        Standing::Available | Standing::Due => Now(0),
    }
}

/// Waits until an ejection is over, and has a trial succeed.
fn come_back(outlier: &Outlier, health: &Arc<Health>) -> Now {
    let now = end(health);
    outlier.success(health, now, trial(health, now));
    now
}

#[test]
fn the_last_of_so_many_failures_in_a_row_ejects() {
    let (outlier, members) = (outlier(3), members(&[1, 1]));
    let (health, now) = (&members[0].health, Now(SECOND));
    assert!(!outlier.failure(health, now, &members, None));
    assert!(!outlier.failure(health, now, &members, None));
    assert!(members[0].available(now));
    assert!(outlier.failure(health, now, &members, None));
    assert!(!members[0].available(now));
    assert!(!members[0].available(Now(31 * SECOND - 1)));
    // One call is to try it before others follow.
    assert!(!members[0].available(Now(31 * SECOND)));
    assert!(members[0].is_due(Now(31 * SECOND)));
    assert!(members[1].available(now));
}

#[test]
fn a_success_between_begins_the_count_anew() {
    let (outlier, members) = (outlier(3), members(&[1, 1]));
    let health = &members[0].health;
    for _ in 0..100 {
        assert!(!outlier.failure(health, Now(SECOND), &members, None));
        assert!(!outlier.failure(health, Now(SECOND), &members, None));
        outlier.success(health, Now(SECOND), None);
    }
}

#[test]
fn zero_failures_mean_never() {
    let (outlier, members) = (outlier(0), members(&[1, 1]));
    for _ in 0..100 {
        assert!(!outlier.failure(&members[0].health, Now(SECOND), &members, None));
    }
}

#[test]
fn one_failure_is_enough_if_it_says_so() {
    assert_eq!(eject(&outlier(1), &members(&[1, 1]), Now(SECOND)), Some(30));
}

#[test]
fn an_ejected_endpoint_is_not_ejected_again_until_it_is_back() {
    let (outlier, members) = (outlier(2), members(&[1, 1]));
    assert_eq!(eject(&outlier, &members, Now(SECOND)), Some(30));
    for _ in 0..100 {
        assert!(!outlier.failure(&members[0].health, Now(20 * SECOND), &members, None));
    }
    let back = come_back(&outlier, &members[0].health);
    assert!(members[0].available(back));
    // It starts with a clean slate: one failure is not two.
    assert!(!outlier.failure(&members[0].health, back, &members, None));
    assert!(outlier.failure(&members[0].health, back, &members, None));
}

#[test]
fn each_ejection_lasts_twice_as_long_up_to_the_most() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let mut now = Now(SECOND);
    let lengths: Vec<_> = (0..40)
        .map(|_| {
            let length = eject(&outlier, &members, now);
            now = come_back(&outlier, &members[0].health);
            length
        })
        .collect();
    assert_eq!(lengths[..4], [Some(30), Some(60), Some(120), Some(240)]);
    assert!(
        lengths[4..].iter().all(|length| *length == Some(300)),
        "{lengths:?}"
    );
}

#[test]
fn good_times_are_remembered_like_bad_ones() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let mut now = Now(SECOND);
    for length in [30, 60, 120] {
        assert_eq!(eject(&outlier, &members, now), Some(length));
        now = come_back(&outlier, &members[0].health);
    }
    // Two times the base without an ejection: two of three are forgotten.
    let later = now.after(Duration::from_secs(60));
    assert_eq!(eject(&outlier, &members, later), Some(60));
    let much_later = come_back(&outlier, &members[0].health).after(Duration::from_secs(86_400));
    assert_eq!(eject(&outlier, &members, much_later), Some(30));
}

#[test]
fn a_sole_endpoint_is_never_ejected() {
    assert_eq!(eject(&outlier(5), &members(&[1]), Now(SECOND)), None);
    // One of weight 0 takes no calls, and so is no company.
    assert_eq!(eject(&outlier(5), &members(&[1, 0, 0]), Now(SECOND)), None);
}

#[test]
fn no_more_than_the_share_is_ejected_but_one_may_always_be() {
    for (count, percent, most) in [
        (2, 0, 1),
        (2, 10, 1),
        (5, 10, 1),
        (10, 10, 1),
        (20, 10, 2),
        (29, 10, 2),
        (4, 50, 2),
        (3, 100, 3),
    ] {
        let outlier = Outlier {
            max_percent: percent,
            ..outlier(1)
        };
        let members = members(&vec![1; count]);
        let fail =
            |each: &Arc<Endpoint>| outlier.failure(&each.health, Now(SECOND), &members, None);
        let ejected = members.iter().filter(|each| fail(each)).count();
        assert_eq!(ejected, most, "{percent} % of {count}");
    }
}

#[test]
fn who_could_not_be_ejected_is_when_there_is_room() {
    let (outlier, members) = (outlier(2), members(&[1, 1, 1]));
    assert_eq!(eject(&outlier, &members, Now(SECOND)), Some(30));
    for _ in 0..10 {
        assert!(!outlier.failure(&members[1].health, Now(2 * SECOND), &members, None));
    }
    let now = come_back(&outlier, &members[0].health);
    assert!(outlier.failure(&members[1].health, now, &members, None));
}

#[test]
fn of_many_workers_one_ejects() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let fail = || {
        let health = &members[0].health;
        (0..1000)
            .filter(|_| outlier.failure(health, Now(SECOND), &members, None))
            .count()
    };
    let ejections: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(fail)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(0))
            .sum()
    });
    assert_eq!(ejections, 1);
}

#[test]
fn extreme_durations_do_not_overflow() {
    let extreme = Outlier {
        consecutive: 1,
        base: Duration::MAX,
        max: Duration::MAX,
        max_percent: u32::MAX,
        ..Outlier::default()
    };
    let members = members(&[1, 1]);
    assert!(extreme.failure(&members[0].health, Now(u64::MAX - 1), &members, None));
    let instant = Outlier {
        base: Duration::ZERO,
        ..extreme
    };
    assert!(instant.failure(&members[1].health, Now(SECOND), &members, None));
}

// === Trials ===

#[test]
fn a_trial_that_succeeds_brings_it_back_and_one_that_fails_does_not() {
    let (outlier, members) = (outlier(1), members(&[1, 1]));
    let health = &members[0].health;
    let mut now = Now(SECOND);
    assert!(outlier.failure(health, now, &members, None));
    for length in [60, 120, 240, 300, 300] {
        now = end(health);
        assert!(outlier.failure(health, now, &members, trial(health, now)));
        assert_eq!(seconds_out(health, now), length);
    }
    now = come_back(&outlier, health);
    assert!(members[0].available(now));
}

#[test]
fn a_trial_that_tells_nothing_leaves_it_to_another() {
    let (outlier, members) = (outlier(1), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.failure(health, Now(SECOND), &members, None));
    let now = end(health);
    drop(trial(health, now));
    assert!(members[0].is_due(now));
}

#[test]
fn other_calls_do_not_decide_a_trial() {
    let (outlier, members) = (outlier(1), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.failure(health, Now(SECOND), &members, None));
    // Sent before the ejection, they end now.
    outlier.success(health, Now(2 * SECOND), None);
    assert_eq!(seconds_out(health, Now(2 * SECOND)), 29);
    let now = end(health);
    let trial = trial(health, now);
    outlier.success(health, now, None);
    assert!(!outlier.failure(health, now, &members, None));
    assert!(matches!(health.standing(now), Standing::OnTrial(_)));
    let unproven = Trial::of_unproven(health, now);
    assert!(!outlier.failure(health, now, &members, unproven));
    assert!(matches!(health.standing(now), Standing::OnTrial(_)));
    outlier.answered(health, now, trial);
    assert!(members[0].available(now), "whatever it said, it answered");
}

#[test]
fn the_last_one_left_is_not_kept_out_by_its_trial() {
    let (outlier, members) = (outlier(1), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.failure(health, Now(SECOND), &members, None));
    let now = end(health);
    assert!(!outlier.failure(health, now, &members[..1], trial(health, now)));
    assert!(members[0].available(now));
}

// === Connections ===

#[test]
fn a_connection_that_cannot_be_made_is_enough() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let health = &members[0].health;
    let mut now = Now(SECOND);
    assert!(outlier.connect_failed(health, now, &members));
    assert!(!members[0].available(now));
    let mut lengths = vec![seconds_out(health, now)];
    for _ in 0..6 {
        now = end(health);
        let trial = trial(health, now);
        assert!(outlier.connect_failed(health, now, &members));
        // The call that waited for it tells nothing, and changes nothing.
        drop(trial);
        lengths.push(seconds_out(health, now));
    }
    assert_eq!(lengths, [1, 2, 4, 8, 16, 30, 30]);
    now = come_back(&outlier, health);
    assert!(!health.is_unreachable());
    assert!(outlier.connect_failed(health, now, &members));
    assert_eq!(seconds_out(health, now), 1, "it begins anew");
}

#[test]
fn workers_that_find_it_out_together_count_once() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let health = &members[0].health;
    let outs = (0..8).filter(|n| outlier.connect_failed(health, Now(SECOND + n), &members));
    assert_eq!(outs.count(), 1);
    assert_eq!(end(health), Now(2 * SECOND));
}

#[test]
fn a_sole_endpoint_is_connected_to_for_ever() {
    let (outlier, members) = (outlier(5), members(&[1, 0]));
    for n in 1..100 {
        assert!(!outlier.connect_failed(&members[0].health, Now(n * SECOND), &members));
    }
    assert!(members[0].available(Now(100 * SECOND)));
}

#[test]
fn all_that_cannot_be_connected_to_are_out_and_leave_room_for_ejections() {
    let (outlier, members) = (outlier(1), members(&[1; 10]));
    for each in &members[..5] {
        assert!(outlier.connect_failed(&each.health, Now(SECOND), &members));
    }
    assert!(outlier.failure(&members[5].health, Now(SECOND), &members, None));
    assert!(!outlier.failure(&members[6].health, Now(SECOND), &members, None));
}

#[test]
fn an_answer_shows_that_it_can_be_reached() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.connect_failed(health, Now(SECOND), &members));
    // Over another connection than the one that failed.
    outlier.success(health, Now(SECOND), None);
    assert!(members[0].available(Now(SECOND)));
}

#[test]
fn who_is_connected_to_and_fails_is_ejected() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.connect_failed(health, Now(SECOND), &members));
    let now = end(health);
    assert!(outlier.failure(health, now, &members, trial(health, now)));
    assert_eq!(seconds_out(health, now), 30);
    assert!(!health.is_unreachable());
}

#[test]
fn no_ejections_at_all_still_spare_who_cannot_be_connected_to() {
    let (outlier, members) = (outlier(0), members(&[1, 1]));
    let health = &members[0].health;
    assert!(outlier.connect_failed(health, Now(SECOND), &members));
    let now = end(health);
    assert!(!outlier.failure(health, now, &members, trial(health, now)));
    assert!(members[0].available(now));
}

// === What a missing answer tells ===

#[test]
fn only_who_waited_and_was_not_alone_with_it_tells_something() {
    let (outlier, members) = (outlier(5), members(&[1, 1]));
    let health = &members[0].health;
    let started = Now(10 * SECOND);
    let after = |millis| started.after(Duration::from_millis(millis));
    assert!(!is_telling(health, started, after(99)), "impatient");
    assert!(is_telling(health, started, after(100)));
    outlier.success(health, started, None);
    assert!(is_telling(health, started, after(500)), "that was before");
    outlier.success(health, after(200), None);
    assert!(
        !is_telling(health, started, after(500)),
        "others got answers meanwhile"
    );
    assert!(is_telling(health, after(300), after(500)));
}
