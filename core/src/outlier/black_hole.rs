//! A simulation: how many calls does one black hole among four endpoints cost?
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::balance::{Balancer, PickArgs, Policy};
use crate::endpoint::ConnectionAttempt;
use crate::rng::Rng;

const MILLI: u64 = 1000;
const SECOND: u64 = 1000 * MILLI;
/// The endpoint that is one.
const HOLE: usize = 2;
const CONNECT_TIMEOUT: u64 = SECOND;
const HEALED: u64 = u64::MAX;

/// How the hole swallows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// It accepts connections and answers nothing.
    Mute,
    /// Connecting to it takes until it is given up.
    Lost,
    /// It refuses connections.
    Closed,
    /// It answers for 5 s, then no more.
    Frozen,
}

/// A call on its way.
struct Call {
    place: usize,
    worker: usize,
    trial: Option<Trial>,
    sent: u64,
}

/// Workers that call four endpoints, one of which is a hole until it heals.
struct Scene {
    hole: Hole,
    heals: u64,
    timeout: u64,
    outlier: Outlier,
    members: Vec<Arc<Endpoint>>,
    balancers: Vec<Balancer>,
    /// For each worker: the connection to the hole that it makes, and since when.
    connecting: Vec<Option<(u64, ConnectionAttempt)>>,
    calls: Vec<Call>,
    rng: Rng,
    /// When calls failed, and when the hole served one.
    failed: Vec<u64>,
    served: Vec<u64>,
}

impl Scene {
    fn new(hole: Hole, policy: &Policy, workers: usize, timeout: u64) -> Self {
        let endpoint = |port: u16| {
            Arc::new(Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight: 100,
                labels: Default::default(),
                warm_up: None,
                terms: None,
                health: Arc::default(),
            })
        };
        let members: Vec<_> = (0..4).map(endpoint).collect();
        let balancer = |seed| Balancer::new(policy, &members, Now(SECOND), seed);
        Self {
            hole,
            heals: HEALED,
            timeout,
            outlier: Outlier::default(),
            balancers: (0..workers as u64).map(balancer).collect(),
            connecting: (0..workers).map(|_| None).collect(),
            members,
            calls: Vec::new(),
            rng: Rng::new(3),
            failed: Vec::new(),
            served: Vec::new(),
        }
    }

    /// 500 calls a second for so long.
    fn run(&mut self, seconds: u64) {
        for turn in 0..seconds * 500 {
            let now = SECOND + turn * 2 * MILLI;
            self.end_connecting(now);
            self.end_calls(now);
            let worker = usize::try_from(turn).unwrap() % self.balancers.len();
            self.call(worker, now, now, &[]);
        }
    }

    fn call(&mut self, worker: usize, now: u64, sent: u64, avoid: &[std::net::SocketAddr]) {
        let ask = PickArgs {
            now: Now(now),
            random: self.rng.next(),
            hash: None,
            avoid,
            per_endpoint: 0,
            panic_percent: 50,
            deadline: Now(sent + self.timeout),
        };
        let picked = self.balancers[worker].pick(&self.members, &ask).unwrap();
        let health = &self.members[picked.place].health;
        health.in_flight.fetch_add(1, Relaxed);
        let is_cut_off = matches!(self.hole, Hole::Lost | Hole::Closed) && now < self.heals;
        if picked.place == HOLE && is_cut_off && self.connecting[worker].is_none() {
            let mark = ConnectionAttempt::begin(health, Now(now));
            self.connecting[worker] = Some((now, mark));
        }
        self.calls.push(Call {
            place: picked.place,
            worker,
            trial: picked.trial,
            sent,
        });
    }

    /// Gives up connections; the calls that waited for them go elsewhere.
    fn end_connecting(&mut self, now: u64) {
        let takes = if self.hole == Hole::Closed {
            MILLI
        } else {
            CONNECT_TIMEOUT
        };
        for worker in 0..self.connecting.len() {
            let is_over = |made: &(u64, ConnectionAttempt)| now >= (made.0 + takes).min(self.heals);
            if !self.connecting[worker].as_ref().is_some_and(is_over) {
                continue;
            }
            self.connecting[worker] = None;
            if now >= self.heals {
                continue;
            }
            let health = self.members[HOLE].health.clone();
            self.outlier
                .connect_failed(&health, Now(now), &self.members);
            let calls = std::mem::take(&mut self.calls);
            let waited = |call: &Call| call.place == HOLE && call.worker == worker;
            let (unsent, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(waited);
            self.calls = others;
            for call in unsent {
                health.in_flight.fetch_sub(1, Relaxed);
                let avoid = [self.members[HOLE].address];
                self.call(worker, now, call.sent, &avoid);
            }
        }
    }

    /// Ends calls that are answered, a turn later, or given up.
    fn end_calls(&mut self, now: u64) {
        for call in std::mem::take(&mut self.calls) {
            let health = self.members[call.place].health.clone();
            let is_answered = call.place != HOLE || self.answers(now);
            if is_answered && now > call.sent {
                self.outlier.success(&health, Now(now), call.trial);
                if call.place == HOLE {
                    self.served.push(now);
                }
            } else if now >= call.sent + self.timeout {
                self.failed.push(now);
                let is_connecting = call.place == HOLE && self.connecting[call.worker].is_some();
                if is_connecting && is_telling(&health, Now(call.sent), Now(now)) {
                    self.outlier
                        .connect_failed(&health, Now(now), &self.members);
                } else if !is_connecting {
                    self.outlier
                        .failure(&health, Now(now), &self.members, call.trial);
                }
            } else {
                self.calls.push(call);
                continue;
            }
            health.in_flight.fetch_sub(1, Relaxed);
        }
    }

    /// Whether the hole is none at this time.
    fn answers(&self, now: u64) -> bool {
        now >= self.heals || self.hole == Hole::Frozen && now < 5 * SECOND
    }

    /// Failed calls from and to these seconds.
    fn failed(&self, from: u64, to: u64) -> usize {
        let during = from * SECOND..to * SECOND;
        self.failed.iter().filter(|at| during.contains(at)).count()
    }
}

/// All that tell apart how calls meet the hole.
fn scenes() -> impl Iterator<Item = Scene> {
    let holes = [Hole::Mute, Hole::Lost, Hole::Closed, Hole::Frozen];
    let policies = [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastRequest,
        Policy::PeakEwma,
    ];
    holes.into_iter().flat_map(move |hole| {
        policies.clone().into_iter().flat_map(move |policy| {
            [(1, 2000), (3, 200)]
                .map(|(workers, timeout)| Scene::new(hole, &policy, workers, timeout * MILLI))
        })
    })
}

#[test]
fn it_costs_less_than_ten_calls_at_first_and_one_for_each_trial() {
    for mut scene in scenes() {
        scene.run(45);
        let what = format!("{:?}, timeout {}", scene.hole, scene.timeout);
        let first = scene.failed(0, 15);
        assert!(first < 10, "{what}: {first} at first contact");
        // An ejection of 30 s, or back-offs of 1, 2, 4, ... 30 s.
        let trials = match scene.hole {
            Hole::Mute | Hole::Frozen => 1,
            Hole::Lost | Hole::Closed => 3,
        };
        let later = scene.failed(15, 46);
        assert!(later <= trials, "{what}: {later} later: {:?}", scene.failed);
        assert!(scene.served.iter().all(|at| *at <= 5 * SECOND));
    }
}

#[test]
fn what_is_healed_is_soon_used_again() {
    for mut scene in scenes() {
        scene.heals = 12 * SECOND;
        scene.run(60);
        let what = format!("{:?}, timeout {}", scene.hole, scene.timeout);
        let last = scene.failed.iter().max().copied().unwrap_or(0);
        assert!(last < 15 * SECOND, "{what}");
        let first = scene.served.iter().find(|at| **at > 6 * SECOND);
        let first = first.copied().unwrap_or(u64::MAX);
        assert!(first < 45 * SECOND, "{what}: served from {first}");
        let late = scene.served.iter().filter(|at| **at > 50 * SECOND).count();
        assert!(late > 700, "{what}: {late} calls in 11 s");
    }
}
