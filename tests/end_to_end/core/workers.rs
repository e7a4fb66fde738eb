//! Few connections use all workers, and one call's bytes hold up no other's.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES};

const MIB: usize = 1024 * 1024;

/// How many client connections each of eight workers has.
fn spread(finback: &Finback) -> Vec<u64> {
    (0..8)
        .map(|nth| finback.metric("finback_worker_connections", &format!("worker=\"{nth}\"")))
        .collect()
}

fn eventually_spread(finback: &Finback, what: &str, good: impl Fn(&[u64]) -> bool) {
    eventually(what, Duration::from_secs(5), || match spread(finback) {
        found if good(&found) => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn as_many_clients_as_workers_use_all_of_them() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Answer);
        let finback = Finback::start(&format!(
            r#"
workers: 8
listeners:
  - {{ name: rpc, address: "127.0.0.1:0", protocol: {0}, routes: all }}
  - {{ name: too, address: "127.0.0.1:0", protocol: {0}, routes: all }}
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{1}" ] }} }}
"#,
            speech.name(),
            endpoint.address
        ));
        // On one listener, then over two.
        for listeners in [["rpc", "rpc"], ["rpc", "too"]] {
            let mut clients: Vec<_> = (0..8)
                .map(|nth| Client::connect(&finback.local(listeners[nth % 2]), speech))
                .collect();
            for client in &mut clients {
                assert!(client.call(&Call::new("com.acme.Pay", "pay")).success);
            }
            eventually_spread(&finback, "one client each", |found| *found == [1; 8]);
            let more: Vec<_> = (0..8)
                .map(|_| Client::connect(&finback.local("rpc"), speech))
                .collect();
            eventually_spread(&finback, "two clients each", |found| *found == [2; 8]);
            // Those that come go where others left.
            drop(clients);
            eventually_spread(&finback, "eight left", |own| own.iter().sum::<u64>() == 8);
            let again: Vec<_> = (0..8)
                .map(|_| Client::connect(&finback.local("rpc"), speech))
                .collect();
            eventually_spread(&finback, "two clients each again", |own| *own == [2; 8]);
            drop((more, again));
            eventually_spread(&finback, "all left", |found| *found == [0; 8]);
        }
    }
}

/// The times in milliseconds that small calls took on a connection, one after another.
fn small_calls(client: &mut Client, service: &str, count: usize) -> Vec<f64> {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let began = Instant::now();
            let id = client.send(&Call::new(service, "small"));
            // Answers to large calls come in between.
            while client.answer().id != id {}
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Clusters `slow` and `quick`, for the services of these names.
fn two_clusters(speech: Speech, slow: &Endpoint, quick: &Endpoint) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes:
  all:
    - match: {{ service: slow }}
      to: {{ cluster: slow }}
    - to: {{ cluster: quick }}
clusters:
  slow: {{ endpoints: [ "{}" ] }}
  quick: {{ endpoints: [ "{}" ] }}
"#,
        speech.name(),
        slow.address,
        quick.address
    ))
}

#[test]
fn an_upload_to_a_slow_endpoint_holds_up_no_call_to_another_cluster() {
    for speech in SPEECHES {
        let slow = Endpoint::slow(speech, 20_000_000);
        let quick = Endpoint::start(speech, Deed::Answer);
        let finback = two_clusters(speech, &slow, &quick);
        let mut client = Client::connect(&finback.local("rpc"), speech);
        small_calls(&mut client, "quick", 20);
        let upload = Call::new("slow", "upload").with_argument(7 * MIB);
        let mut times = Vec::new();
        for _ in 0..5 {
            client.send(&upload);
            times.extend(small_calls(&mut client, "quick", 20));
        }
        times.sort_by(f64::total_cmp);
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{speech:?}: median {median:.1} ms, worst {worst:.1} ms");
        assert!(median < 10.0, "{speech:?}: median {median:.1} ms");
        // The upload takes 350 ms of the slow endpoint's time.
        assert!(worst < 200.0, "{speech:?}: worst {worst:.1} ms");
    }
}

#[test]
fn an_upload_to_an_endpoint_holds_up_no_small_call_of_others_to_it() {
    for speech in SPEECHES {
        let slow = Endpoint::slow(speech, 20_000_000);
        let quick = Endpoint::start(speech, Deed::Answer);
        let finback = two_clusters(speech, &slow, &quick);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = Client::connect(&finback.local("rpc"), speech);
                while !over.load(Relaxed) {
                    client.call(&Call::new("slow", "upload").with_argument(7 * MIB));
                }
            });
            let mut client = Client::connect(&finback.local("rpc"), speech);
            eventually("the upload", PATIENCE, || match slow.accepted() {
                0 => Err("no connection".into()),
                _ => Ok(()),
            });
            let times = small_calls(&mut client, "slow", 60);
            over.store(true, Relaxed);
            let (median, late) = (times[30], times[57]);
            println!("{speech:?}: median {median:.1} ms, p95 {late:.1} ms");
            // Connections to an endpoint are several: the one with the fewest bytes takes a call.
            assert!(median < 20.0, "{speech:?}: median {median:.1} ms");
            assert!(late < 150.0, "{speech:?}: p95 {late:.1} ms");
        });
    }
}
