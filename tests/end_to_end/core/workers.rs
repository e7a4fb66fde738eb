//! Few connections use all workers, and one call's bytes hold up no other's.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, SPEECHES};

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

/// What the slow endpoint reads per second: an upload takes it almost two seconds.
const PACE: u64 = 4_000_000;

/// How long a small call takes, in milliseconds; answers to others may come before.
fn small_call(client: &mut Client, service: &str) -> f64 {
    let began = Instant::now();
    let id = client.send(&Call::new(service, "small"));
    while client.answer().id != id {}
    began.elapsed().as_secs_f64() * 1000.0
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
        let slow = Endpoint::slow(speech, PACE);
        let quick = Endpoint::start(speech, Deed::Answer);
        let finback = two_clusters(speech, &slow, &quick);
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let mut calm: f64 = 0.0;
        for _ in 0..20 {
            calm = calm.max(small_call(&mut client, "quick"));
        }
        let upload = Call::new("slow", "upload").with_argument(7 * MIB);
        for round in 1..3 {
            // One behind the other, so that the endpoint's queue is never empty.
            client.send_all(&upload, 2);
            let mut worst: f64 = 0.0;
            while slow.calls() < 2 * round {
                worst = worst.max(small_call(&mut client, "quick"));
                thread::sleep(Duration::from_millis(5));
            }
            println!("{speech:?}: worst {worst:.1} ms, {calm:.1} ms without an upload");
            assert!(worst < 600.0, "{speech:?}: {worst:.1} ms for a small call");
        }
    }
}

#[test]
fn an_upload_to_an_endpoint_holds_up_no_small_call_of_others_to_it() {
    for speech in SPEECHES {
        let slow = Endpoint::slow(speech, PACE);
        let quick = Endpoint::start(speech, Deed::Answer);
        let finback = two_clusters(speech, &slow, &quick);
        let over = AtomicBool::new(false);
        let times = thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = Client::connect(&finback.local("rpc"), speech);
                while !over.load(Relaxed) {
                    client.call(&Call::new("slow", "upload").with_argument(7 * MIB));
                }
            });
            let mut client = Client::connect(&finback.local("rpc"), speech);
            let end = Instant::now() + Duration::from_secs(8);
            let mut times = Vec::new();
            while Instant::now() < end {
                times.push(small_call(&mut client, "slow"));
                thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Relaxed);
            times
        });
        // Connections to an endpoint are several: the one with the fewest bytes takes a call.
        let late = times.iter().filter(|own| **own > 300.0).count();
        println!("{speech:?}: {late} of {} late", times.len());
        assert!(times.len() > 100 && late <= 4, "{speech:?}: {times:?}");
    }
}
