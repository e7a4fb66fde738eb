//! A process that does not run for a while charges nobody for the time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use finback_simulations::echo::{self, Faults};
use finback_simulations::speech::{Protocol, Speech};
use tokio::runtime::Runtime;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES};

/// Stops the whole process, as a paused machine does.
fn pause(finback: &Finback, time: Duration) {
    finback.process().signal("STOP");
    thread::sleep(time);
    finback.process().signal("CONT");
}

fn list(addresses: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let list: Vec<_> = addresses
        .into_iter()
        .map(|own| format!("\"{own}\""))
        .collect();
    list.join(", ")
}

fn proxy(protocol: &str, endpoints: &str, policy: &str, workers: u32) -> Finback {
    Finback::start(&format!(
        r#"
workers: {workers}
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: {protocol}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }}, timeout: 1s }} ] }}
clusters: {{ all: {{ endpoints: [ {endpoints} ], outlier: {{ max_percent: 100 }}{policy} }} }}
"#
    ))
}

fn assert_nobody_ejected(finback: &Finback, what: &str) {
    assert_eq!(
        finback.metric("finback_cluster_ejections_total", ""),
        0,
        "{what}: ejected\n{}",
        finback.process().tail()
    );
    let unhealthy = finback.endpoints("all", "unhealthy", true);
    assert_eq!(unhealthy, [""; 0], "{what}");
}

#[test]
fn answers_that_came_while_the_process_stood_still_count() {
    for speech in SPEECHES {
        // Answered before the pause, early in it, and half a second before the deadline.
        for (delay, workers) in [(300, 1), (300, 2), (500, 1), (0, 2)] {
            let deed = Deed::AnswerAfter(Duration::from_millis(delay));
            let endpoints = [(); 4].map(|()| Endpoint::start(speech, deed.clone()));
            let addresses = list(endpoints.each_ref().map(|own| own.address));
            let finback = proxy(speech.name(), &addresses, "", workers);
            let mut clients: Vec<_> = (0..10)
                .map(|_| Client::connect(&finback.local("all"), speech))
                .collect();
            let call = Call::new("com.acme.Pay", "pay");
            for client in &mut clients {
                let first = client.call(&call);
                assert!(first.success, "{speech:?} before the pause: {first:?}");
            }
            for client in &mut clients {
                client.send_all(&call, 10);
            }
            thread::sleep(Duration::from_millis(100));
            pause(&finback, Duration::from_millis(1200));
            let what = format!("{speech:?} after {delay} ms, {workers} workers");
            let mut failed = Vec::new();
            for client in &mut clients {
                let answers = client.answers(10);
                failed.extend(answers.into_iter().filter(|answer| !answer.success));
            }
            assert_eq!(failed.len(), 0, "{what}: {:?}", failed.first());
            assert_nobody_ejected(&finback, &what);
        }
    }
}

#[test]
fn who_answers_nothing_even_after_the_pause_is_told_so_but_not_charged_for_it() {
    for speech in SPEECHES {
        let endpoints = [(); 4].map(|()| Endpoint::start(speech, Deed::Silence));
        let addresses = list(endpoints.each_ref().map(|own| own.address));
        let finback = proxy(speech.name(), &addresses, "", 1);
        let mut client = Client::connect(&finback.local("all"), speech);
        client.send_all(&Call::new("com.acme.Pay", "pay"), 100);
        thread::sleep(Duration::from_millis(100));
        pause(&finback, Duration::from_millis(1500));
        let expired = if speech == Speech::Dubbo { 31 } else { 7 };
        for answer in client.answers(100) {
            assert_eq!(answer.status, expired, "{speech:?}: {answer:?}");
        }
        assert_nobody_ejected(&finback, speech.name());
    }
}

#[test]
fn answers_of_http_that_came_while_the_process_stood_still_count() {
    let runtime = Runtime::new().unwrap();
    let servers: Vec<_> = (0..4)
        .map(|_| {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
            let listener = listener.unwrap();
            let address = listener.local_addr().unwrap();
            let faults = Faults {
                delay: Duration::from_millis(300),
                ..Faults::default()
            };
            runtime.spawn(echo::serve(listener, Protocol::Http, faults));
            address
        })
        .collect();
    for version in ["1.1", "2"] {
        let policy = format!(", http: \"{version}\"");
        let finback = proxy("http", &list(&servers), &policy, 1);
        let mut streams: Vec<_> = (0..100)
            .map(|_| TcpStream::connect(finback.local("all")).unwrap())
            .collect();
        // The second round finds connections to the servers there.
        for round in 0..2 {
            for stream in &mut streams {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
                stream.write_all(request).unwrap();
            }
            if round == 1 {
                thread::sleep(Duration::from_millis(150));
                pause(&finback, Duration::from_millis(1200));
            }
            let mut failed = Vec::new();
            for stream in &mut streams {
                let mut head = [0; 4096];
                let n = stream.read(&mut head).unwrap();
                let said = String::from_utf8_lossy(&head[..n]).into_owned();
                if round == 1 && !said.starts_with("HTTP/1.1 200") {
                    failed.push(said);
                }
            }
            let count = failed.len();
            assert_eq!(count, 0, "HTTP/{version} {round}: {:?}", failed.first());
        }
        assert_nobody_ejected(&finback, version);
    }
}

#[test]
fn a_pause_longer_than_all_heartbeats_ends_no_connection() {
    for speech in SPEECHES {
        let endpoints = [(); 4].map(|()| Endpoint::start(speech, Deed::Hold));
        let addresses = list(endpoints.each_ref().map(|own| own.address));
        let policy = ", connections: 1, heartbeat: { interval: 300ms, misses: 3 }";
        let health = format!(
            "{policy}, health_check: {{ protocol: {}, interval: 300ms, timeout: 300ms, unhealthy: 1 }}",
            speech.name()
        );
        for (policy, checked) in [(policy, false), (&*health, true)] {
            let finback = Finback::start(&format!(
                r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ {addresses} ], outlier: {{ max_percent: 100 }}{policy} }} }}
"#,
                speech.name()
            ));
            let calls = |own: &[Endpoint]| own.iter().map(Endpoint::calls).sum::<u64>();
            let already = calls(&endpoints);
            let mut client = Client::connect(&finback.local("all"), speech);
            client.send_all(&Call::new("com.acme.Pay", "pay"), 8);
            eventually("the calls to arrive", PATIENCE, || {
                match calls(&endpoints) - already {
                    8 => Ok(()),
                    other => Err(other.to_string()),
                }
            });
            let open = finback.metric("finback_upstream_connections", "");
            for pauses in 0..3 {
                pause(&finback, Duration::from_millis(2500));
                thread::sleep(Duration::from_millis(100 * pauses));
                let lost = finback.metric("finback_heartbeat_failures_total", "");
                assert_eq!(
                    lost,
                    0,
                    "{speech:?} {checked}\n{}",
                    finback.process().tail()
                );
            }
            assert_eq!(finback.metric("finback_upstream_connections", ""), open);
            let asked: u64 = endpoints.iter().map(Endpoint::pings).sum();
            assert!(asked > 0, "{speech:?}: no heartbeat was ever sent");
            assert_nobody_ejected(&finback, speech.name());
            endpoints.iter().for_each(Endpoint::let_go);
            for answer in client.answers(8) {
                assert!(answer.success, "{speech:?}: {answer:?}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_stands_still_longer_than_all_heartbeats_is_given_up() {
    for speech in SPEECHES {
        // Accepts, and never says anything, not even to heartbeats.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let policy = ", heartbeat: { interval: 300ms, misses: 3 }";
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{}" ]{policy} }} }}
"#,
            speech.name(),
            silent.local_addr().unwrap()
        ));
        let mut client = Client::connect(&finback.local("all"), speech);
        client.send(&Call::new("com.acme.Pay", "pay"));
        let answer = client.hear(Duration::from_secs(5)).unwrap();
        assert!(!answer.success, "{speech:?}: {answer:?}");
        assert_eq!(finback.metric("finback_heartbeat_failures_total", ""), 1);
    }
}
