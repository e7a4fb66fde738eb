//! The limit against endpoints that serve so many calls at a time, in a model without network: by
//! events, in its own time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;
use crate::rng::Rng;

const SECOND: u64 = 1_000_000;
const MILLI: u64 = 1000;
/// Runs of each story; in sixty of them, the worst was at 90 %, and most at 97 % and more.
const SEEDS: u64 = 2;

/// Who decides how many calls are in flight.
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and a test has room"
)]
enum Limiter {
    Fixed { most: u32, in_flight: u32 },
    Adaptive(ConcurrencyLimit),
}

impl Limiter {
    fn admit(&mut self) -> bool {
        match self {
            Self::Fixed { most, in_flight } => {
                let admitted = *in_flight < *most;
                *in_flight += u32::from(admitted);
                admitted
            }
            Self::Adaptive(limit) => limit.admit(Priority::Default),
        }
    }

    fn leave(&mut self, timed: Timed, started: u64, now: u64) {
        match self {
            Self::Fixed { in_flight, .. } => *in_flight -= 1,
            Self::Adaptive(limit) => limit.leave(timed, Now(started), Now(now)),
        }
    }
}

/// What happens to endpoints.
struct Story {
    /// Calls that are served at a time.
    servers: u32,
    /// Calls a second, at a time in seconds.
    rate: fn(u64) -> u64,
    /// How long one is served, at a time, by two lots between 0 and 1.
    service: fn(u64, (f64, f64)) -> u64,
    /// Callers wait no longer.
    patience: u64,
    /// Answers from here to the end are counted, in seconds.
    counted: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Done(usize),
    GivenUp(usize),
}

struct Model<'a> {
    story: &'a Story,
    limiter: Limiter,
    rng: Rng,
    now: u64,
    queue: VecDeque<usize>,
    busy: u32,
    /// When each was sent, and whether its caller still waits.
    calls: Vec<(u64, bool)>,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    scheduled: usize,
    good: u64,
}

impl Model<'_> {
    fn lot(&mut self) -> f64 {
        (self.rng.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn schedule(&mut self, later: u64, event: Event) {
        self.scheduled += 1;
        let at = self.now + later;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn serve(&mut self) {
        while self.busy < self.story.servers
            && let Some(call) = self.queue.pop_front()
        {
            self.busy += 1;
            let lots = (self.lot(), self.lot());
            let service = (self.story.service)(self.now / SECOND, lots);
            self.schedule(service, Event::Done(call));
        }
    }

    fn run(mut self) -> (u64, Limiter) {
        let (from, until) = self.story.counted;
        self.schedule(0, Event::Arrival);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            if at >= until * SECOND {
                break;
            }
            match event {
                Event::Arrival => {
                    let rate = (self.story.rate)(at / SECOND);
                    let gap = -(1.0 - self.lot()).ln() * SECOND as f64;
                    let gap = (gap as u64)
                        .checked_div(rate)
                        .unwrap_or(SECOND - at % SECOND);
                    self.schedule(gap, Event::Arrival);
                    if rate > 0 && self.limiter.admit() {
                        let call = self.calls.len();
                        self.calls.push((at, true));
                        self.queue.push_back(call);
                        self.schedule(self.story.patience, Event::GivenUp(call));
                        self.serve();
                    }
                }
                Event::Done(call) => {
                    self.busy -= 1;
                    let (started, waits) = self.calls[call];
                    if std::mem::replace(&mut self.calls[call].1, false) && waits {
                        self.limiter.leave(Timed::Answered, started, at);
                        self.good += u64::from(at >= from * SECOND);
                    }
                    self.serve();
                }
                Event::GivenUp(call) => {
                    let (started, waits) = self.calls[call];
                    if waits {
                        // It is served nevertheless: nobody tells the endpoint.
                        self.calls[call].1 = false;
                        self.limiter.leave(Timed::GivenUp, started, at);
                    }
                }
            }
        }
        (self.good, self.limiter)
    }
}

fn run(story: &Story, limiter: Limiter, seed: u64) -> (u64, Limiter) {
    let model = Model {
        story,
        limiter,
        rng: Rng::new(seed),
        now: 0,
        queue: VecDeque::new(),
        busy: 0,
        calls: Vec::new(),
        events: BinaryHeap::new(),
        scheduled: 0,
        good: 0,
    };
    model.run()
}

/// The limit's goodput in comparison with that of the best fixed one.
fn compare(name: &str, story: &Story) {
    for seed in 1..=SEEDS {
        let fixed = [16, 20, 24, 30, 40, 100, 1000];
        let fixed = fixed.map(|most| {
            let limiter = Limiter::Fixed { most, in_flight: 0 };
            (run(story, limiter, seed).0, most)
        });
        let (best, most) = fixed.into_iter().max().unwrap_or_default();
        let limit = ConcurrencyLimit::new(AdaptiveConcurrency::default(), None);
        let (own, limiter) = run(story, Limiter::Adaptive(limit), seed);
        let Limiter::Adaptive(limit) = limiter else {
            unreachable!("it was made so")
        };
        let told = format!(
            "{name}, seed {seed}: {own} answered in time, {best} by a fixed limit of {most}; \
             at last {}, baseline {:?}; {fixed:?}",
            limit.limit(),
            limit.baseline()
        );
        assert!(own * 10 >= best * 9, "{told}");
    }
}

/// Twenty milliseconds on the average, half of it by chance.
fn ordinary((lot, _): (f64, f64)) -> u64 {
    10 * MILLI + (-(1.0 - lot).ln() * 10_000.0) as u64
}

const ORDINARY: Story = Story {
    servers: 20,
    rate: |_| 400,
    service: |_, lots| ordinary(lots),
    patience: 200 * MILLI,
    counted: (0, 20),
};

#[test]
fn a_load_below_what_endpoints_can_do_is_not_limited() {
    compare("a small load", &ORDINARY);
}

#[test]
fn three_times_the_load() {
    let story = Story {
        rate: |second| if second < 10 { 450 } else { 1350 },
        counted: (10, 30),
        ..ORDINARY
    };
    compare("three times the load", &story);
}

#[test]
fn ten_times_the_latency() {
    let slower = |second, lots| match second {
        0..10 => ordinary(lots),
        _ => 10 * ordinary(lots),
    };
    let story = Story {
        rate: |_| 450,
        service: slower,
        patience: 2 * SECOND,
        counted: (10, 40),
        ..ORDINARY
    };
    compare("ten times the latency", &story);
    // There is room for all of them, if only they are let.
    let story = Story {
        servers: 150,
        ..story
    };
    compare("ten times the latency, and room", &story);
}

#[test]
fn a_burst_after_an_idle_hour() {
    let story = Story {
        rate: |second| match second {
            0..10 => 450,
            10..3610 => 0,
            _ => 2500,
        },
        counted: (3610, 3625),
        ..ORDINARY
    };
    compare("a burst", &story);
}

#[test]
fn a_burst_at_the_very_beginning() {
    let story = Story {
        rate: |_| 2500,
        ..ORDINARY
    };
    compare("a burst at once", &story);
}

#[test]
fn quick_and_slow_methods_at_once() {
    let bimodal = |_, (lot, _): (f64, f64)| match lot {
        0.0..0.8 => 5 * MILLI,
        _ => 80 * MILLI,
    };
    let story = Story {
        rate: |second| if second < 10 { 450 } else { 1350 },
        service: bimodal,
        patience: 300 * MILLI,
        counted: (10, 30),
        ..ORDINARY
    };
    compare("two kinds of methods", &story);
    let small = Story {
        servers: 10,
        rate: |second| if second < 6 { 200 } else { 600 },
        counted: (6, 20),
        ..story
    };
    compare("two kinds of methods, few servers", &small);
    // One in ten, where a percentile of ninety would leap from one kind to the other.
    let story = Story {
        service: |_, (lot, _)| match lot {
            0.0..0.9 => 5 * MILLI,
            _ => 155 * MILLI,
        },
        ..story
    };
    compare("two kinds of methods, one of them seldom", &story);
}

#[test]
fn an_overload_that_does_not_end_does_not_become_normal() {
    let story = Story {
        rate: |_| 1350,
        counted: (50, 60),
        ..ORDINARY
    };
    compare("a long overload", &story);
}

// === Places ===

fn limit(min: u32, max: u32) -> ConcurrencyLimit {
    let settings = AdaptiveConcurrency {
        min,
        max,
        ..AdaptiveConcurrency::default()
    };
    ConcurrencyLimit::new(settings, None)
}

fn take(limit: &ConcurrencyLimit, priority: Priority) -> u32 {
    (0..1000).map(|_| u32::from(limit.admit(priority))).sum()
}

#[test]
fn critical_calls_are_shed_last() {
    let limit = limit(1, 32);
    assert_eq!(take(&limit, Priority::Sheddable), 24);
    assert_eq!(take(&limit, Priority::Default), 4);
    assert_eq!(take(&limit, Priority::Critical), 4);
    assert_eq!((limit.in_flight(), limit.shed()), (32, 2968));
    limit.leave(Timed::Nothing, Now(1), Now(2));
    assert_eq!(take(&limit, Priority::Sheddable), 0);
    assert_eq!(take(&limit, Priority::Critical), 1);
}

#[test]
fn one_call_can_always_be_made() {
    for priority in [Priority::Critical, Priority::Default, Priority::Sheddable] {
        assert_eq!(take(&limit(1, 1), priority), 1, "{priority:?}");
    }
}

#[test]
fn what_was_found_out_outlives_its_settings() {
    let former = limit(1, 1000);
    assert_eq!(take(&former, Priority::Critical), FIRST);
    for number in 0..10_000 {
        let now = Now((number + 2) * 10 * MILLI);
        former.leave(Timed::Answered, Now(now.0 - 9000), now);
        assert!(former.admit(Priority::Critical));
    }
    let found = former.limit();
    assert!(found > 2 * FIRST, "{found}");
    let settings = AdaptiveConcurrency {
        max: 500,
        ..former.settings()
    };
    let next = ConcurrencyLimit::new(settings, Some(&former));
    assert_eq!(next.limit(), found.min(500));
    assert_eq!((next.in_flight(), next.shed()), (FIRST, former.shed()));
    assert_eq!(next.baseline(), former.baseline());
    // Calls of before give their places back.
    former.leave(Timed::Nothing, Now(1), Now(2));
    assert_eq!(next.in_flight(), FIRST - 1);
}

#[test]
fn callers_of_no_patience_tell_nothing() {
    let limit = limit(1, 1000);
    let mut now = Now(SECOND);
    let mut call = |timed, took| {
        assert!(limit.admit(Priority::Critical));
        now.0 += 10 * MILLI;
        limit.leave(timed, Now(now.0 - took), now);
    };
    for _ in 0..500 {
        call(Timed::Answered, 9 * MILLI);
    }
    let baseline = limit.baseline();
    for _ in 0..5000 {
        call(Timed::GivenUp, MILLI);
        call(Timed::Nothing, 10);
    }
    assert_eq!(limit.baseline(), baseline);
    assert!(baseline.is_some_and(|own| own > Duration::from_millis(8)));
}

#[test]
fn workers_together_keep_to_it() {
    let limit = limit(40, 40);
    let most = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (limit, most) = (&limit, &most);
            scope.spawn(move || {
                for number in 0..20_000_u64 {
                    let now = Now(SECOND + number * 100 + worker);
                    if limit.admit(Priority::Critical) {
                        // Those who are turned away are counted for a moment.
                        most.fetch_max(limit.in_flight(), Relaxed);
                        limit.leave(Timed::Answered, Now(now.0 - 50), now);
                    }
                }
            });
        }
    });
    assert_eq!(limit.in_flight(), 0);
    assert!(most.load(Relaxed) <= 44);
}
