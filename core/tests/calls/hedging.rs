//! Hedging: a second attempt beside one that takes long.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use finback_core::cluster::ClusterPolicy;
use finback_core::frame::Names;
use finback_core::mesh::RoutingSpec;
use finback_core::rejection::Rejection;
use finback_core::route::Retry;
use finback_core::trace::{
    Called, Choice, Field, Finished, Incoming, Note, Outgoing, Ratio, Read, Sampling, SpanTarget,
    Spans, Tails, Tracer, Tracing,
};

use crate::toy::*;

/// What an endpoint is waited for in vain.
const QUIET: Duration = Duration::from_millis(300);
/// Long before a call's time is over.
const SOON: Duration = Duration::from_secs(10);

fn hedged(attempts: u32) -> Retry {
    Retry {
        attempts,
        idempotent: true,
        hedging_delay: Some(Duration::from_millis(30)),
        ..Retry::default()
    }
}

/// A mesh in front of two servers, a client whose call is under way, and the two in the order in which they were asked.
struct Raced {
    mess: Mess,
    client: Peer,
    first: (Peer, Got),
    second: (Peer, Got),
}

async fn race(spec: impl FnOnce(&[SocketAddr]) -> RoutingSpec) -> Raced {
    race_traced(spec, None).await
}

async fn race_traced(
    spec: impl FnOnce(&[SocketAddr]) -> RoutingSpec,
    tracing: Option<Arc<Tracing>>,
) -> Raced {
    let servers = [Server::bind().await, Server::bind().await];
    let mess = mess(spec(&[servers[0].address, servers[1].address]));
    mess.mesh.trace(tracing);
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 77, "svc get").await;
    let (first, other) = tokio::select! {
        first = servers[0].accept() => (first, &servers[1]),
        first = servers[1].accept() => (first, &servers[0]),
    };
    let first = asked(first).await;
    let second = asked(other.accept().await).await;
    Raced {
        mess,
        client,
        first,
        second,
    }
}

async fn asked(mut peer: Peer) -> (Peer, Got) {
    let got = peer.get().await.unwrap();
    assert_eq!((got.kind, got.text.as_str()), (1, "svc get"));
    (peer, got)
}

fn usual(servers: &[SocketAddr]) -> RoutingSpec {
    let mut spec = routing(servers, policy(), hedged(2));
    spec.limits.call_timeout = 10 * SOON;
    spec
}

impl Raced {
    /// What the client was answered, once every place is free again and its record is written.
    async fn answered(&mut self) -> Got {
        let got = self.client.get().await.unwrap();
        assert_eq!((got.kind, got.id), (3, 77));
        let given_back = async {
            while self.mess.mesh.status()[0].in_flight > 0 || self.mess.records.endings().is_empty()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let given_back = tokio::time::timeout(SOON, given_back).await;
        assert!(given_back.is_ok(), "whoever lost is not given up");
        let status = self.mess.mesh.status();
        let endpoints = &status[0].endpoints;
        assert!(
            endpoints.iter().all(|own| own.in_flight == 0),
            "{endpoints:?}"
        );
        assert_eq!(self.mess.records.endings().len(), 1);
        assert_eq!(self.mess.records.last().attempts, 2);
        got
    }

    /// Hedges made, and those that won.
    fn hedges(&self) -> [u64; 2] {
        let stats = self.mess.mesh.status()[0].stats.clone();
        [&stats.hedges, &stats.hedges_won].map(|own| own.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn the_second_attempt_answers_for_a_first_that_hangs_and_late_answers_reach_nobody() {
    let mut raced = race(usual).await;
    let (mut peer, got) = raced.second;
    peer.answer(&got, 0, "by the second").await;
    raced.second = (peer, got);
    assert_eq!(raced.answered().await.text, "by the second");
    assert_eq!(raced.hedges(), [1, 1]);
    raced.first.0.answer(&raced.first.1, 0, "too late").await;
    raced.client.get_nothing(QUIET).await;
    // Its id is free again, and it is blamed for nothing: the next calls reach both.
    let status = raced.mess.mesh.status();
    assert!(
        status[0].endpoints.iter().all(|own| own.available),
        "{status:?}"
    );
    assert_eq!(raced.mess.records.endings(), ["success"]);
}

#[tokio::test]
async fn the_first_attempt_may_still_answer() {
    let mut raced = race(usual).await;
    raced
        .first
        .0
        .answer(&raced.first.1, 0, "by the first")
        .await;
    assert_eq!(raced.answered().await.text, "by the first");
    assert_eq!(raced.hedges(), [1, 0]);
    raced.second.0.answer(&raced.second.1, 0, "too late").await;
    raced.client.get_nothing(QUIET).await;
}

/// Whom attempts of exchanges that are over asked, and how each ended but the last.
#[derive(Clone, Debug, Default)]
struct Attempts(Arc<Mutex<Vec<Asked>>>);

type Asked = Vec<(SocketAddr, Option<&'static str>)>;

impl Attempts {
    /// Tracing of all calls.
    fn tracing(&self) -> Option<Arc<Tracing>> {
        Some(Arc::new(Tracing {
            tracer: Arc::new(self.clone()),
            choice: Choice {
                sampling: Sampling::Ratio(Ratio::ALL),
                tails: Tails {
                    slower_than: None,
                    failed: false,
                },
            },
            salt: 0,
        }))
    }

    /// Those of the first exchange.
    async fn of_first(&self) -> Asked {
        let written = async {
            loop {
                if let Some(own) = self.0.lock().unwrap().first() {
                    return own.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let written = tokio::time::timeout(SOON, written).await;
        written.expect("it is written down")
    }
}

impl Tracer for Attempts {
    fn spans(&self, _: usize, _: &Called<'_>) -> Arc<dyn Spans> {
        Arc::new(self.clone())
    }
}

impl Spans for Attempts {
    fn names(&self) -> Names {
        Names::default()
    }

    fn read(&self, _: Read<'_, '_>) -> Incoming {
        Incoming::default()
    }

    fn notes(&self, _: Read<'_, '_>) -> Vec<Note> {
        Vec::new()
    }

    fn write(&self, _: &Outgoing, _: Read<'_, '_>) -> Vec<Field> {
        Vec::new()
    }

    fn finish(&self, finished: &Finished<'_>) {
        let asked = finished.attempts().map(|own| match own.target {
            SpanTarget::Endpoint(address, _) => (address, own.error),
            SpanTarget::Destination(..) => panic!("{own:?}"),
        });
        self.0.lock().unwrap().push(asked.collect());
    }
}

#[tokio::test]
async fn the_loser_is_written_down_as_given_up_and_the_winner_as_who_answered() {
    for wins in [0, 1] {
        let attempts = Attempts::default();
        let mut raced = race_traced(usual, attempts.tracing()).await;
        let both = [&raced.first.0, &raced.second.0];
        let both = both.map(|own| own.0.local_addr().unwrap());
        let (peer, got) = [&mut raced.first, &mut raced.second]
            .into_iter()
            .nth(wins)
            .unwrap();
        peer.answer(got, 0, "well").await;
        assert_eq!(raced.answered().await.text, "well");
        let (winner, loser) = (both[wins], both[1 - wins]);
        assert_eq!(raced.mess.records.last().endpoint, Some(winner));
        let asked = attempts.of_first().await;
        assert_eq!(asked, [(loser, Some("abandoned")), (winner, None)]);
    }
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_that_of_the_next_call() {
    for wins in [0, 1] {
        let mut raced = race(usual).await;
        let both = [&mut raced.first, &mut raced.second];
        let (peer, got) = both.into_iter().nth(wins).unwrap();
        peer.answer(got, 0, "well").await;
        assert_eq!(raced.answered().await.text, "well");
        // Nobody answers it, so that it reaches both.
        raced.client.send(1, 78, "svc next").await;
        let both = [raced.first, raced.second];
        let (mut loser, late) = both.into_iter().nth(1 - wins).unwrap();
        let next = loser.get().await.unwrap();
        assert_eq!(next.text, "svc next");
        loser.answer(&late, 0, "too late").await;
        raced.client.get_nothing(QUIET).await;
        loser.answer(&next, 0, "next").await;
        let answer = raced.client.get().await.unwrap();
        assert_eq!((answer.id, &*answer.text), (78, "next"));
    }
}

#[tokio::test]
async fn one_that_fails_leaves_the_call_to_the_other() {
    // Flag 1 is a failure of the server's, 2 says that it is busy.
    for flag in [2, 3] {
        let mut raced = race(usual).await;
        raced.second.0.answer(&raced.second.1, flag, "no").await;
        raced.client.get_nothing(QUIET).await;
        raced
            .first
            .0
            .answer(&raced.first.1, 0, "by the first")
            .await;
        assert_eq!(raced.answered().await.text, "by the first");
        assert_eq!(raced.hedges(), [1, 0]);
        let mut raced = race(usual).await;
        raced.first.0.answer(&raced.first.1, flag, "no").await;
        raced.client.get_nothing(QUIET).await;
        raced
            .second
            .0
            .answer(&raced.second.1, 0, "by the second")
            .await;
        assert_eq!(raced.answered().await.text, "by the second");
        assert_eq!(raced.hedges(), [1, 1]);
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_leaves_the_call_to_the_other() {
    let mut raced = race(usual).await;
    drop(raced.first.0);
    let (mut peer, got) = raced.second;
    raced.client.get_nothing(QUIET).await;
    peer.answer(&got, 0, "by the second").await;
    let answer = raced.client.get().await.unwrap();
    assert_eq!((answer.id, &*answer.text), (77, "by the second"));
    let mut raced = race(usual).await;
    drop(raced.second.0);
    raced.client.get_nothing(QUIET).await;
    let (mut peer, got) = raced.first;
    peer.answer(&got, 0, "by the first").await;
    let answer = raced.client.get().await.unwrap();
    assert_eq!((answer.id, &*answer.text), (77, "by the first"));
}

#[tokio::test]
async fn where_both_fail_the_call_does_and_nothing_is_left() {
    let mut raced = race(usual).await;
    raced.second.0.answer(&raced.second.1, 2, "no").await;
    raced.client.get_nothing(QUIET).await;
    raced.first.0.answer(&raced.first.1, 2, "neither").await;
    assert_eq!(raced.answered().await.text, "neither");
    assert_eq!(raced.hedges(), [1, 0]);
}

#[tokio::test]
async fn a_deadline_ends_both_with_one_answer() {
    let limited = |servers: &[SocketAddr]| {
        let mut spec = usual(servers);
        spec.limits.call_timeout = Duration::from_millis(400);
        spec
    };
    let mut raced = race(limited).await;
    assert_eq!(
        raced.answered().await.rejection(),
        Some(Rejection::DeadlineExceeded)
    );
    raced.client.get_nothing(QUIET).await;
    // What it had taken of the budget is back.
    assert_eq!(raced.mess.mesh.status()[0].in_flight, 0);
}

#[tokio::test]
async fn a_client_that_goes_takes_both_attempts_along() {
    let raced = race(usual).await;
    raced.client.0.set_zero_linger().unwrap();
    drop(raced.client);
    let given_up = async {
        while raced.mess.mesh.status()[0].in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let given_up = tokio::time::timeout(SOON, given_up).await;
    assert!(
        given_up.is_ok(),
        "they go when it goes, not in their own time"
    );
    let status = raced.mess.mesh.status();
    assert!(
        status[0].endpoints.iter().all(|own| own.in_flight == 0),
        "{status:?}"
    );
    assert_eq!(raced.mess.records.endings(), ["abandoned"]);
}

#[tokio::test]
async fn there_is_no_second_attempt_where_none_may_be() {
    let unsafe_one = Retry {
        idempotent: false,
        ..hedged(2)
    };
    let no_budget = ClusterPolicy {
        retry_budget: 0,
        ..policy()
    };
    for (what, policy, retry, servers) in [
        ("not idempotent", policy(), unsafe_one, 2),
        ("one attempt", policy(), hedged(1), 2),
        ("no budget", no_budget, hedged(2), 2),
        ("one endpoint", policy(), hedged(2), 1),
    ] {
        let all = [Server::bind().await, Server::bind().await];
        let addresses = [all[0].address, all[1].address];
        let mess = mess(routing(&addresses[..servers], policy, retry));
        let mut client = Peer::connect(mess.address).await;
        client.send(1, 1, "svc get").await;
        let (first, other) = tokio::select! {
            first = all[0].accept() => (first, &all[1]),
            first = all[1].accept() => (first, &all[0]),
        };
        let (mut first, got) = asked(first).await;
        let second = tokio::time::timeout(QUIET, other.listener.accept()).await;
        assert!(second.is_err(), "{what}");
        first.answer(&got, 0, "alone").await;
        assert_eq!(client.get().await.unwrap().text, "alone", "{what}");
        assert_eq!(mess.mesh.stats.retries.load(Ordering::Relaxed), 0, "{what}");
    }
}

#[tokio::test]
async fn who_answers_in_time_is_alone() {
    let (one, ones) = echo().await;
    let (other, others) = echo().await;
    let slow = Retry {
        hedging_delay: Some(Duration::from_secs(4)),
        ..hedged(2)
    };
    let mess = mess(routing(&[one, other], policy(), slow));
    let mut client = Peer::connect(mess.address).await;
    for id in 0..200 {
        assert_eq!(client.call(id, "svc get").await.text, "svc get");
    }
    let calls = ones.load(Ordering::SeqCst) + others.load(Ordering::SeqCst);
    assert_eq!(calls, 200);
}
