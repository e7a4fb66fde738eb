//! Running out of file descriptors is our own trouble: no endpoint is charged, the operator gets in.

use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, SPEECHES};

fn config(speech: Speech, endpoints: &[Endpoint], policy: &str) -> String {
    let list: Vec<_> = endpoints
        .iter()
        .map(|own| format!("\"{}\"", own.address))
        .collect();
    format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ {} ], outlier: {{ consecutive: 1, max_percent: 100 }}{policy} }} }}
"#,
        speech.name(),
        list.join(", ")
    )
}

/// Calls of so many callers, in turns; how many failed.
fn call_around(finback: &Finback, speech: Speech, clients: usize, rounds: usize) -> usize {
    let mut clients: Vec<_> = (0..clients)
        .map(|_| Client::connect(&finback.local("rpc"), speech))
        .collect();
    let call = Call::new("com.acme.Pay", "pay").within(3000);
    let mut failed = 0;
    for _ in 0..rounds {
        for client in &mut clients {
            client.send(&call);
            // Those that wait to be accepted are not asked about.
            failed += match client.hear(Duration::from_secs(4)) {
                Ok(answer) => usize::from(!answer.success),
                Err(_) => 0,
            };
        }
    }
    failed
}

fn assert_unharmed(finback: &Finback, what: &str) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        let began = Instant::now();
        assert_eq!(finback.admin(path).0, 200, "{what}");
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "{what}: {path} took {took:?}"
        );
    }
    let ejected = finback.metric("finback_cluster_ejections_total", "");
    assert_eq!(ejected, 0, "{what}\n{}", finback.process().tail());
    let unhealthy = finback.endpoints("all", "unhealthy", true);
    assert_eq!(unhealthy, [""; 0], "{what}\n{}", finback.process().tail());
    let out = finback.endpoints("all", "available", false);
    assert_eq!(out, [""; 0], "{what}");
}

#[test]
fn endpoints_are_not_charged_for_descriptors_that_we_lack() {
    for speech in SPEECHES {
        for (limit, count, clients) in [(64, 40, 10), (64, 80, 10), (256, 250, 5)] {
            let endpoints: Vec<_> = (0..count)
                .map(|_| Endpoint::start(speech, Deed::Answer))
                .collect();
            let check = ", health_check: { protocol: tcp, interval: 200ms, unhealthy: 1 }";
            for policy in ["", check] {
                let config = config(speech, &endpoints, policy);
                let finback = Finback::start_limited(limit, &config);
                let rounds = 2 * count / clients;
                let failed = call_around(&finback, speech, clients, rounds);
                let what = format!("{speech:?}, {count} endpoints, {limit} descriptors{policy}");
                println!("{what}: {failed} of {} failed", rounds * clients);
                assert_unharmed(&finback, &what);
                assert_eq!(failed, 0, "{what}: of {}", rounds * clients);
            }
        }
    }
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let endpoints = [Endpoint::start(Speech::Bolt, Deed::Answer)];
    let config = config(Speech::Bolt, &endpoints, "");
    let finback = Finback::start_limited_softly(128, &config);
    let limits = format!("/proc/{}/limits", finback.process().id());
    let limits = std::fs::read_to_string(limits).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3], words[4], "soft and hard");
    let call = Call::new("com.acme.Pay", "pay");
    let mut clients: Vec<_> = (0..200)
        .map(|_| Client::connect(&finback.local("rpc"), Speech::Bolt))
        .collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        client.send(&call);
        let heard = client.hear(Duration::from_secs(2));
        assert!(heard.is_ok_and(|own| own.success), "client {nth}");
    }
}

#[test]
fn a_pause_of_accepting_is_said_once_and_counted() {
    let endpoints = [Endpoint::start(Speech::Bolt, Deed::Answer)];
    let config = config(Speech::Bolt, &endpoints, "");
    let finback = Finback::start_limited(128, &config);
    let crowd: Vec<_> = (0..300)
        .map(|_| Client::connect(&finback.local("rpc"), Speech::Bolt))
        .collect();
    let said = || {
        finback
            .process()
            .tail_of(1000)
            .iter()
            .filter(|line| line.contains("WARN"))
            .count()
    };
    std::thread::sleep(Duration::from_secs(3));
    let warnings = said();
    assert!((1..=5).contains(&warnings), "{}", finback.process().tail());
    assert_unharmed(&finback, "a crowd");
    drop(crowd);
}
