//! Who is checked when, and what each finding changes.

use super::*;
use crate::endpoint::{Seen, Standing};
use crate::health::Accepts;

const SECOND: Duration = Duration::from_secs(1);
const AT: Now = Now(5_000_000);

fn check(unhealthy: u32, healthy: u32) -> HealthCheck {
    HealthCheck {
        probe: Arc::new(Accepts),
        settings: "".into(),
        port: None,
        interval: 10 * SECOND,
        timeout: SECOND,
        unhealthy,
        healthy,
    }
}

fn endpoints(ports: std::ops::Range<u16>) -> Vec<Arc<Endpoint>> {
    ports
        .map(|port| {
            Arc::new(Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight: 1,
                labels: Default::default(),
                warm_up: None,
                terms: None,
                health: Arc::default(),
            })
        })
        .collect()
}

/// One endpoint and its schedule.
fn one(unhealthy: u32, healthy: u32) -> (Arc<Endpoint>, Schedule, Instant) {
    let now = Instant::now();
    let mut schedule = Schedule::new(check(unhealthy, healthy));
    let all = endpoints(1..2);
    schedule.update(&all, now);
    (all[0].clone(), schedule, now)
}

/// Has the next turn, when it is due, end with this.
fn turn(schedule: &mut Schedule, found: &Found) -> Option<Instant> {
    let due = schedule.next()?;
    let turn = schedule.take_due(due)?;
    schedule.conclude(&turn, found, due, AT);
    Some(due)
}

fn unhealthy() -> Found {
    Found::Unhealthy("it says so".to_owned())
}

#[test]
fn it_takes_several_in_a_row_but_for_the_first() {
    let (endpoint, mut schedule, _) = one(3, 2);
    let mut after = |said: &str| -> Vec<bool> {
        let each = said.chars().map(|letter| {
            let found = if letter == '+' {
                Found::Healthy
            } else {
                unhealthy()
            };
            turn(&mut schedule, &found);
            endpoint.health.unhealthy.load(Relaxed)
        });
        each.collect()
    };
    assert_eq!(after("+--+"), [false; 4]);
    assert_eq!(after("---"), [false, false, true]);
    assert_eq!(after("+-++"), [true, true, true, false]);
    // One that is found unhealthy at once.
    let (endpoint, mut schedule, _) = one(3, 2);
    turn(&mut schedule, &unhealthy());
    assert!(endpoint.health.unhealthy.load(Relaxed));
}

#[test]
fn each_is_checked_once_an_interval_and_not_twice_at_once() {
    let (_, mut schedule, now) = one(3, 2);
    let first = schedule.take_due(now);
    assert!(first.is_some());
    assert!(
        schedule.take_due(now + 100 * SECOND).is_none(),
        "it is being checked"
    );
    if let Some(first) = first {
        schedule.conclude(&first, &Found::Healthy, now + SECOND, AT);
    }
    assert_eq!(schedule.next(), Some(now + 10 * SECOND));
    assert!(schedule.take_due(now + 9 * SECOND).is_none());
    assert!(schedule.take_due(now + 10 * SECOND).is_some());
}

#[test]
fn who_left_is_not_checked_and_who_returns_begins_anew() {
    let (endpoint, mut schedule, now) = one(3, 2);
    turn(&mut schedule, &Found::Healthy);
    let Some(late) = schedule.take_due(now + 10 * SECOND) else {
        panic!("it is due")
    };
    schedule.update(&[], now + 10 * SECOND);
    schedule.update(std::slice::from_ref(&endpoint), now + 11 * SECOND);
    // What was found of the former one says nothing, and frees no place of the new one.
    schedule.conclude(&late, &unhealthy(), now + 11 * SECOND, AT);
    assert!(!endpoint.health.unhealthy.load(Relaxed));
    assert!(schedule.take_due(now + 11 * SECOND).is_some());
    assert!(schedule.take_due(now + 99 * SECOND).is_none());
}

#[test]
fn who_left_while_waiting_is_passed_over() {
    let now = Instant::now();
    let mut schedule = Schedule::new(check(3, 2));
    let all = endpoints(1..4);
    schedule.update(&all, now);
    schedule.update(&all[2..], now);
    let turns: Vec<_> = std::iter::from_fn(|| schedule.take_due(now)).collect();
    assert_eq!(turns.len(), 1);
    assert_eq!(turns[0].endpoint.address, all[2].address);
}

#[test]
fn who_left_and_returned_while_waiting_has_one_turn() {
    let (endpoint, mut schedule, now) = one(3, 2);
    schedule.update(&[], now);
    schedule.update(std::slice::from_ref(&endpoint), now);
    assert!(schedule.take_due(now).is_some());
    assert!(schedule.take_due(now).is_none());
}

#[test]
fn what_we_lack_or_missed_is_nobodys_fault() {
    let (endpoint, mut schedule, now) = one(1, 1);
    turn(
        &mut schedule,
        &Found::Nothing("too many open files".to_owned()),
    );
    assert!(!endpoint.health.unhealthy.load(Relaxed));
    assert_eq!(schedule.next(), Some(now + SECOND), "asked again soon");
    // Silent, but we did not run.
    let Some(asked) = schedule.take_due(now + SECOND) else {
        panic!("it is due")
    };
    schedule.stalled(now + 2 * SECOND);
    schedule.conclude(&asked, &Found::Silent, now + 2 * SECOND, AT);
    assert!(!endpoint.health.unhealthy.load(Relaxed));
    // Silent, and we have been running all the time since.
    turn(&mut schedule, &Found::Silent);
    assert!(endpoint.health.unhealthy.load(Relaxed));
}

#[test]
fn a_wrong_answer_is_one_however_long_we_slept() {
    let (endpoint, mut schedule, now) = one(1, 1);
    let asked = schedule.take_due(now);
    schedule.stalled(now + SECOND);
    if let Some(asked) = asked {
        schedule.conclude(&asked, &unhealthy(), now + SECOND, AT);
    }
    assert!(endpoint.health.unhealthy.load(Relaxed));
}

#[test]
fn timers_tell_whether_we_ran() {
    let set = Instant::now();
    assert!(!is_late(set, set + Duration::from_millis(50)));
    assert!(is_late(set, set + Duration::from_millis(51)));
    assert!(!is_late(set + SECOND, set));
}

#[test]
fn a_passing_check_ends_an_ejection_once() {
    let (endpoint, mut schedule, _) = one(3, 2);
    let health = &endpoint.health;
    let ejected = Seen::ejected(Now(AT.0 * 10));
    health.stand.set(ejected);
    health.connect_failures.store(3, Relaxed);
    turn(&mut schedule, &Found::Healthy);
    assert_eq!(health.standing(AT), Standing::Due, "one call may try it");
    assert!(!health.is_unreachable(), "the check reached it");
    // The trial failed: checks that pass say too little about calls.
    health.stand.set(ejected);
    for _ in 0..5 {
        turn(&mut schedule, &Found::Healthy);
    }
    assert_eq!(health.standing(AT), Standing::Ejected(Now(AT.0 * 10)));
    // One that passes after one that failed says something new.
    turn(&mut schedule, &unhealthy());
    assert_eq!(health.standing(AT), Standing::Ejected(Now(AT.0 * 10)));
    turn(&mut schedule, &Found::Healthy);
    assert_eq!(health.standing(AT), Standing::Due);
}

#[test]
fn an_unhealthy_endpoint_is_no_sooner_tried() {
    let (endpoint, mut schedule, _) = one(1, 2);
    turn(&mut schedule, &unhealthy());
    endpoint.health.stand.set(Seen::ejected(Now(AT.0 * 10)));
    turn(&mut schedule, &Found::Healthy);
    assert!(matches!(endpoint.health.standing(AT), Standing::Ejected(_)));
    turn(&mut schedule, &Found::Healthy);
    assert_eq!(endpoint.health.standing(AT), Standing::Due);
}

#[test]
fn a_look_at_many_is_a_look_at_the_first() {
    let now = Instant::now();
    let mut schedule = Schedule::new(check(3, 2));
    schedule.update(&endpoints(0..u16::MAX), now);
    while schedule.next() == Some(now) {
        turn(&mut schedule, &Found::Healthy);
    }
    // In the time of ten looks when each compared all with all.
    let began = Instant::now();
    for _ in 0..100_000 {
        assert!(schedule.take_due(now + SECOND).is_none());
    }
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}
