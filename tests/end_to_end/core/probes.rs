//! An endpoint that was out comes back by a probe, not by the calls of those who wait.

use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{BlackHole, Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES};

fn proxy(speech: Speech, endpoints: &[String], policy: &str) -> Finback {
    let list: Vec<_> = endpoints.iter().map(|own| format!("\"{own}\"")).collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }}, retry: {{ attempts: 1 }} }} ] }}
clusters: {{ all: {{ endpoints: [ {} ]{policy} }} }}
"#,
        speech.name(),
        list.join(", ")
    ))
}

fn pay() -> Call {
    Call::new("com.acme.Pay", "pay")
}

#[test]
fn a_passing_health_check_lifts_an_ejection() {
    for speech in SPEECHES {
        for protocol in ["tcp", speech.name()] {
            let good = Endpoint::start(speech, Deed::Answer);
            let sick = Endpoint::start(speech, Deed::HangUp);
            let address = sick.address;
            // The calls find out what the checks do not see.
            let policy = format!(
                ", outlier: {{ max_percent: 50, base: 5m }}, health_check: {{ protocol: {protocol}, \
                 interval: 1s, timeout: 300ms, unhealthy: 1, healthy: 2 }}"
            );
            let both = [address.to_string(), good.address.to_string()];
            let finback = proxy(speech, &both, &policy);
            let mut client = Client::connect(&finback.local("rpc"), speech);
            for _ in 0..40 {
                client.call(&pay());
            }
            assert!(finback.metric("finback_cluster_ejections_total", "") > 0);
            drop(sick);
            eventually("the check's finding", PATIENCE, || {
                match finback.endpoints("all", "unhealthy", true) {
                    unhealthy if unhealthy == [address.to_string()] => Ok(()),
                    unhealthy => Err(format!("{unhealthy:?}")),
                }
            });
            let _well = Endpoint::start_at(address, speech, Deed::Answer);
            eventually("its return", Duration::from_secs(10), || {
                match finback.endpoints("all", "available", false) {
                    out if out.is_empty() => Ok(()),
                    out => Err(format!("{speech:?} {protocol}: {out:?} is out")),
                }
            });
            for _ in 0..20 {
                assert!(client.call(&pay()).success, "{speech:?} {protocol}");
            }
        }
    }
}

/// Calls at this rate for a while; when each that failed was sent.
fn calls_at(finback: &Finback, speech: Speech, rate: u32, time: Duration) -> Vec<Duration> {
    let mut client = Client::connect(&finback.local("rpc"), speech);
    let mut reader = Client::connect(&finback.local("rpc"), speech);
    reader.stream = client.stream.try_clone().unwrap();
    let count = (rate as f64 * time.as_secs_f64()) as usize;
    let step = Duration::from_secs(1) / rate;
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for nth in 0..count {
                let due = began + step * nth as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                client.send(&pay().within(5000));
            }
        });
        let answers = reader.answers(count);
        answers
            .iter()
            .filter(|answer| !answer.success)
            .map(|answer| step * (answer.id - 1) as u32)
            .collect()
    })
}

#[test]
fn a_black_hole_costs_few_calls_at_first_and_one_per_probe_later() {
    for speech in SPEECHES {
        let hole = BlackHole::open();
        let good = [(); 3].map(|()| Endpoint::start(speech, Deed::Answer));
        let mut all: Vec<_> = good.iter().map(|own| own.address.to_string()).collect();
        all.push(hole.address.to_string());
        let policy = ", connect_timeout: 300ms, outlier: { base: 1s, max: 2s, max_percent: 50 }";
        let finback = proxy(speech, &all, policy);
        let failed = calls_at(&finback, speech, 500, Duration::from_secs(10));
        let first = Duration::from_millis(1000);
        let (at_first, later): (Vec<_>, Vec<_>) = failed.iter().partition(|at| **at < first);
        println!(
            "{speech:?}: {} at first, {} later",
            at_first.len(),
            later.len()
        );
        assert!(at_first.len() < 10, "{speech:?}: {} failed", at_first.len());
        // In nine seconds, with a probe a second at most.
        assert!(later.len() <= 9, "{speech:?}: {} failed later", later.len());
        let within = |from: &Duration| {
            let end = *from + Duration::from_millis(500);
            later.iter().filter(|at| (from..&&end).contains(at)).count()
        };
        let most = later.iter().map(within).max().unwrap_or(0);
        assert!(most <= 1, "{speech:?}: {most} calls for one probe");

        // And it comes back when there is somebody.
        let filled = hole.fill(speech);
        eventually("its return", PATIENCE, || {
            calls_at(&finback, speech, 100, Duration::from_millis(500));
            match filled.calls() {
                0 => Err("no call".into()),
                _ => Ok(()),
            }
        });
        let failed = calls_at(&finback, speech, 500, Duration::from_secs(2));
        assert_eq!(failed.len(), 0, "{speech:?}");
    }
}

#[test]
fn an_endpoint_that_hangs_up_gets_one_call_at_a_time_after_its_ejection() {
    for speech in SPEECHES {
        let bad = Endpoint::start(speech, Deed::HangUp);
        let good = [(); 3].map(|()| Endpoint::start(speech, Deed::Answer));
        let mut all: Vec<_> = good.iter().map(|own| own.address.to_string()).collect();
        all.push(bad.address.to_string());
        let policy = ", outlier: { base: 1s, max: 1s, max_percent: 50 }";
        let finback = proxy(speech, &all, policy);
        calls_at(&finback, speech, 500, Duration::from_secs(1));
        assert!(finback.metric("finback_cluster_ejections_total", "") > 0);
        let before = bad.calls();
        let failed = calls_at(&finback, speech, 500, Duration::from_secs(5));
        let probes = bad.calls() - before;
        println!("{speech:?}: {probes} calls, {} failed", failed.len());
        assert!(probes >= 1, "{speech:?}: never tried again");
        assert!(failed.len() <= 6, "{speech:?}: {} failed", failed.len());
    }
}
