//! Adaptive concurrency: whatever the load and the endpoints do, nearly as many calls are answered in time as with the best
//! limit that an operator could have written. That one is found out here, too.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use finback_core::concurrency::AdaptiveConcurrency;
use finback_simulations::simulator::{Limiter, Outcome, Story, overload};

/// Fixed limits that are tried.
const FIXED: [u32; 5] = [8, 16, 24, 48, 400];

/// Ten calls at a time, of twenty milliseconds on the average, half of it by chance.
const ORDINARY: Story = Story {
    slots: 5,
    rate: |_| 200,
    service: |_, lot| ordinary(lot),
    patience: 250,
    counted: (0, 10),
    shares: [0, 1, 0],
};

fn ordinary(lot: f64) -> u64 {
    10 + (-(1.0 - lot).ln() * 10.0) as u64
}

fn adaptive(story: &Story) -> Outcome {
    let settings = AdaptiveConcurrency::default();
    overload(story, Limiter::Adaptive(settings), 7).unwrap()
}

/// Compares with fixed limits; whether these differ so much that it matters which one is chosen.
fn compare(name: &str, story: &Story) {
    let own = adaptive(story);
    let fixed = FIXED.map(|most| {
        (
            overload(story, Limiter::Fixed(most), 7).unwrap().goodput(),
            most,
        )
    });
    let (best, most) = fixed.into_iter().max().unwrap();
    let (worst, _) = fixed.into_iter().min().unwrap();
    let told = format!(
        "{name}: {} answered in time, {best} with the best fixed limit, {most}; {fixed:?}; {:?}",
        own.goodput(),
        own.found
    );
    eprintln!("{told}");
    assert!(own.goodput() * 10 >= best * 9, "{told}");
    assert!(worst * 10 < best * 9, "any limit would do: {told}");
}

#[test]
fn three_times_the_load() {
    let story = Story {
        rate: |second| if second < 6 { 200 } else { 600 },
        counted: (6, 18),
        ..ORDINARY
    };
    compare("three times the load", &story);
}

#[test]
fn ten_times_the_latency() {
    let story = Story {
        service: |second, lot| match second {
            0..6 => ordinary(lot),
            _ => 10 * ordinary(lot),
        },
        patience: 2000,
        counted: (6, 36),
        ..ORDINARY
    };
    compare("ten times the latency", &story);
    let story = Story { slots: 40, ..story };
    compare("ten times the latency, and room", &story);
}

#[test]
fn a_burst_after_idle_times() {
    let story = Story {
        rate: |second| match second {
            0..5 => 200,
            5..65 => 0,
            _ => 1200,
        },
        counted: (65, 73),
        ..ORDINARY
    };
    compare("a burst", &story);
}

#[test]
fn quick_and_slow_methods_at_once() {
    let story = Story {
        rate: |second| if second < 6 { 200 } else { 600 },
        service: |_, lot| if lot < 0.8 { 5 } else { 80 },
        patience: 300,
        counted: (6, 20),
        ..ORDINARY
    };
    compare("quick and slow methods", &story);
}

#[test]
fn critical_calls_are_shed_last() {
    let story = Story {
        rate: |second| if second < 4 { 200 } else { 900 },
        counted: (5, 15),
        shares: [1, 1, 1],
        ..ORDINARY
    };
    let own = adaptive(&story);
    let share = |at: usize| own.good[at] as f64 / own.calls[at] as f64;
    let told = format!("{own:?}");
    assert!(share(0) > 0.9, "{told}");
    assert!(share(1) < 0.8 * share(0), "{told}");
    assert!(share(2) < share(1), "{told}");
    assert!(own.found.unwrap().shed > 1000, "{told}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let story = Story {
        rate: |_| 600,
        counted: (0, 4),
        ..ORDINARY
    };
    assert_eq!(
        format!("{:?}", adaptive(&story)),
        format!("{:?}", adaptive(&story))
    );
}
