//! The simulator: whatever befalls a world, every call gets its own answer, and every place is given
//! back. `finback-sim sweep --from SEED --seeds 1` runs one world again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use finback_simulations::simulator::{run, run_queues};

/// Worlds that are tried each time.
const SEEDS: u64 = 320;
/// Worlds in which longer sweeps found something that was mended: they show it as long as worlds are made alike.
const FOUND: [u64; 4] = [2026112765, 2026113154, 2026113167, 2026113634];
/// Worlds of RocketMQ.
const QUEUES: u64 = 16;
/// Of them speak HTTP/1.1 with their clients, at least.
const HTTP1: usize = 60;
/// The simulator is slow to start and quick to run: its seeds are shared out.
const THREADS: u64 = 2;

#[test]
fn whatever_befalls_a_world_its_calls_are_answered_and_its_places_given_back() {
    let check = |thread: u64| {
        let seeds = (0..SEEDS)
            .chain(FOUND)
            .filter(move |seed| seed % THREADS == thread);
        seeds.map(|seed| run(seed).unwrap()).collect::<Vec<_>>()
    };
    let reports: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || check(thread)))
            .collect();
        threads
            .into_iter()
            .flat_map(|own| own.join().unwrap())
            .collect()
    });
    let http1 = reports
        .iter()
        .filter(|own| own.tongue.starts_with("http/1.1"));
    assert!(http1.count() >= HTTP1);
    let bad = reports.iter().filter(|own| !own.faults.is_empty());
    let bad: String = bad.map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad}");
}

#[test]
fn whatever_befalls_rocketmq_each_request_is_answered_once_and_no_message_lost() {
    let reports: Vec<_> = (0..QUEUES).map(|seed| run_queues(seed).unwrap()).collect();
    let bad = reports.iter().filter(|own| !own.faults.is_empty());
    let bad: String = bad.map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad}");
    let calls: usize = reports.iter().map(|own| own.calls).sum();
    let answers: usize = reports.iter().map(|own| own.answers).sum();
    assert!(
        answers * 2 > calls && calls > 20_000,
        "{answers} of {calls}"
    );
    for seed in 0..6 {
        assert_eq!(run_queues(seed).unwrap(), reports[seed as usize]);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..24 {
        let (first, second) = (run(seed).unwrap(), run(seed).unwrap());
        assert_eq!(first, second);
        assert!(first.calls > 0);
    }
}

#[test]
fn worlds_differ_and_much_happens_in_them() {
    let reports: Vec<_> = (0..20).map(|seed| run(seed).unwrap()).collect();
    let spoken: std::collections::BTreeSet<_> = reports.iter().map(|own| own.tongue).collect();
    assert!(spoken.len() >= 3, "{spoken:?}");
    let traces: std::collections::BTreeSet<_> = reports.iter().map(|own| own.trace).collect();
    assert_eq!(traces.len(), reports.len());
    let mut endings = std::collections::BTreeSet::new();
    for report in &reports {
        endings.extend(report.endings.keys().copied());
        assert!(report.answers <= report.calls);
    }
    for ending in [
        "success",
        "sent",
        "abandoned",
        "connection_lost",
        "deadline_exceeded",
    ] {
        assert!(endings.contains(ending), "no call ended so: {ending}");
    }
}
