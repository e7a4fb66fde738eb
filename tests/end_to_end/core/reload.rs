//! A reload changes tables, limits and clusters in the middle of calls; nobody loses by it.

use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::free_port;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES, Silence};

fn pay() -> Call {
    Call::new("com.acme.Pay", "pay")
}

/// Listeners with the names of their tables, all tables leading to one endpoint; `main` has this
/// port, the others have any.
fn tables(speech: Speech, port: u16, listeners: &[(&str, &str)], endpoint: &Endpoint) -> String {
    let protocol = speech.name();
    let mut config = "workers: 1\nlisteners:\n".to_owned();
    for (name, table) in listeners {
        let port = if *name == "main" { port } else { 0 };
        config += &format!(
            "  - {{ name: {name}, address: \"127.0.0.1:{port}\", protocol: {protocol}, routes: {table} }}\n"
        );
    }
    config += "routes:\n";
    for (_, table) in listeners {
        config += &format!("  {table}: [ {{ to: {{ cluster: all }} }} ]\n");
    }
    config += &format!(
        "clusters: {{ all: {{ endpoints: [ \"{}\" ] }} }}\nlimits: {{ drain_grace: 1s }}\n",
        endpoint.address
    );
    config
}

/// Calls without a pause on one connection for a while, or until it ends: how many were answered.
/// Whatever is sent is answered, by the service or by a goodbye, and never by "no route".
fn keep_calling(client: &mut Client, speech: Speech, time: Duration) -> (u32, bool) {
    let end = Instant::now() + time;
    let mut answered = 0;
    while Instant::now() < end {
        let Ok(id) = client.try_send(&pay()) else {
            return (answered, true);
        };
        match client.hear(PATIENCE) {
            Ok(answer) if answer.success => answered += 1,
            Ok(answer) => {
                assert_eq!(answer.id, id);
                assert!(
                    !answer.text.contains("route"),
                    "{speech:?} after {answered} answers: {answer:?}"
                );
                // Busy or stopping: to be tried on another connection.
                let draining: &[u16] = match speech {
                    Speech::Dubbo => &[80, 100],
                    _ => &[4],
                };
                assert!(draining.contains(&answer.status), "{speech:?}: {answer:?}");
                return (answered, true);
            }
            Err(Silence::Closed) => return (answered, true),
            Err(Silence::Nothing) => panic!("{speech:?}: no answer to {id}"),
        }
    }
    (answered, false)
}

#[test]
fn a_busy_connection_keeps_the_table_it_came_with() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Answer);
        for after in [
            // A table of another name; a listener that is gone, without its table and with it.
            &[("main", "r1"), ("other", "r2")][..],
            &[("other", "r0")],
            &[("other", "r2")],
        ] {
            let before = [("main", "r0"), ("other", "r2")];
            let port = free_port();
            let finback = Finback::start(&tables(speech, port, &before, &endpoint));
            let address = finback.local("main");
            let mut busy = Client::connect(&address, speech);
            let mut waiting = Client::connect(&address, speech);
            assert!(busy.call(&pay()).success);
            assert!(waiting.call(&pay()).success);
            finback.reload(&tables(speech, port, after, &endpoint));
            let (answered, _) = keep_calling(&mut busy, speech, Duration::from_secs(3));
            assert!(answered > 0, "{speech:?}: nothing after the reload");
            // One that was idle meanwhile is served or has ended; it is not turned away.
            keep_calling(&mut waiting, speech, Duration::from_millis(300));
            if let [("main", _), ..] = after {
                let mut new = Client::connect(&finback.local("main"), speech);
                assert!(new.call(&pay()).success, "{speech:?}");
            }
        }
    }
}

#[test]
fn calls_in_flight_across_a_removal_are_answered() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Hold);
        let before = [("main", "r0"), ("other", "r2")];
        let finback = Finback::start(&tables(speech, 0, &before, &endpoint));
        let mut client = Client::connect(&finback.local("main"), speech);
        client.send_all(&pay(), 20);
        eventually("the calls to arrive", PATIENCE, || match endpoint.calls() {
            20 => Ok(()),
            other => Err(other.to_string()),
        });
        finback.reload(&tables(speech, 0, &[("other", "r2")], &endpoint));
        thread::sleep(Duration::from_millis(300));
        endpoint.let_go();
        for answer in client.answers(20) {
            assert!(answer.success, "{speech:?}: {answer:?}");
        }
    }
}

/// One cluster of these endpoints; `policy` are more keys of it, `limits` those of the process.
fn limited(speech: Speech, endpoints: &[&Endpoint], policy: &str, limits: &str) -> String {
    let list: Vec<_> = endpoints
        .iter()
        .map(|own| format!("\"{}\"", own.address))
        .collect();
    format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ {} ]{policy} }} }}
limits: {{ {limits} }}
"#,
        speech.name(),
        list.join(", ")
    )
}

#[test]
fn a_changed_bound_of_calls_in_flight_lets_held_callers_go_on() {
    for speech in SPEECHES {
        for (from, to) in [(100, 400), (100, 101), (100, 10), (101, 1), (10, 4096)] {
            let endpoint = Endpoint::start(speech, Deed::Hold);
            let config = |limit| {
                limited(
                    speech,
                    &[&endpoint],
                    "",
                    &format!("in_flight_per_connection: {limit}"),
                )
            };
            let finback = Finback::start(&config(from));
            let mut client = Client::connect(&finback.local("rpc"), speech);
            client.send_all(&pay(), from + 50);
            eventually("the bound", PATIENCE, || match endpoint.calls() {
                calls if calls >= from as u64 => Ok(()),
                calls => Err(calls.to_string()),
            });
            thread::sleep(Duration::from_millis(200));
            finback.reload(&config(to));
            thread::sleep(Duration::from_millis(200));
            endpoint.let_go();
            let what = format!("{speech:?} {from} to {to}");
            let answered = (0..from + 50)
                .map_while(|_| client.hear(Duration::from_secs(5)).ok())
                .filter(|answer| answer.success)
                .count();
            assert_eq!(answered, from + 50, "{what}: answers");
            client.send(&pay());
            let on = client.hear(PATIENCE);
            assert!(on.is_ok_and(|own| own.success), "{what}: no call after it");
        }
    }
}

#[test]
fn a_changed_bound_of_a_queue_lets_held_callers_go_on() {
    // Together less than the hard bound of a queue.
    const COUNT: u64 = 200;
    let (low, high) = ("queue_soft: 16KiB", "queue_soft: 8MiB");
    for speech in SPEECHES {
        for (from, to) in [(low, high), (high, low), (low, low)] {
            let endpoint = Endpoint::start(speech, Deed::Large(64 * 1024));
            let config = |limits| limited(speech, &[&endpoint], "", limits);
            let finback = Finback::start(&config(from));
            let mut client = Client::connect(&finback.local("rpc"), speech);
            // Far more than kernels hold between us, of which nothing is read for a while.
            let call = pay().with_argument(4096);
            let mut writer = client.stream.try_clone().unwrap();
            let all: Vec<u8> = (0..COUNT).flat_map(|id| call.frame(speech, id)).collect();
            let writing = thread::spawn(move || std::io::Write::write_all(&mut writer, &all));
            thread::sleep(Duration::from_millis(500));
            finback.reload(&config(to));
            thread::sleep(Duration::from_millis(500));
            for answer in client.answers(COUNT as usize) {
                assert!(answer.success, "{speech:?}: {answer:?}");
            }
            writing.join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_raised_bound_of_connections_lets_in_who_waits() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Answer);
        let config = |limits| limited(speech, &[&endpoint], "", limits);
        let finback = Finback::start(&config("connections: 4"));
        let address = finback.local("rpc");
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&address, speech)).collect();
        for client in &mut clients {
            assert!(client.call(&pay()).success);
        }
        let mut waits: Vec<_> = (0..4).map(|_| Client::connect(&address, speech)).collect();
        for client in &mut waits {
            client.send(&pay());
            let heard = client.hear(Duration::from_millis(200)).map(|own| own.id);
            assert_eq!(heard, Err(Silence::Nothing));
        }
        finback.reload(&config("connections: 6"));
        let mut served = 0;
        for client in &mut waits {
            served += u32::from(client.hear(Duration::from_secs(2)).is_ok());
        }
        assert_eq!(served, 2, "{speech:?}: of four that wait");
        // Lowered below what is there: nobody is cut, and room is made by who leaves.
        finback.reload(&config("connections: 3"));
        for client in &mut clients {
            assert!(client.call(&pay()).success, "{speech:?}: cut by a reload");
        }
        clients.truncate(0);
        for client in &mut waits {
            served += u32::from(client.hear(Duration::from_secs(2)).is_ok());
        }
        assert!(served >= 3, "{speech:?}: {served}");
    }
}

#[test]
fn changed_bounds_of_a_cluster_hold_at_once() {
    for speech in SPEECHES {
        for bound in ["in_flight", "per_endpoint"] {
            let endpoint = Endpoint::start(speech, Deed::Hold);
            let config = |limit: u32| {
                let policy = format!(", limits: {{ {bound}: {limit} }}");
                limited(speech, &[&endpoint], &policy, "")
            };
            let finback = Finback::start(&config(10));
            let mut client = Client::connect(&finback.local("rpc"), speech);
            client.send_all(&pay(), 12);
            let refused = client.answers(2);
            assert!(refused.iter().all(|own| !own.success), "{refused:?}");
            finback.reload(&config(20));
            client.send_all(&pay(), 12);
            let refused = client.answers(2);
            assert!(refused.iter().all(|own| !own.success), "{speech:?} {bound}");
            finback.reload(&config(5));
            assert!(!client.call(&pay()).success, "{speech:?} {bound}");
            endpoint.let_go();
            let done = client.answers(20);
            assert!(done.iter().all(|own| own.success), "{speech:?} {bound}");
            assert!(client.call(&pay()).success, "{speech:?} {bound}");
        }
    }
}

#[test]
fn a_reload_that_adds_an_endpoint_forgets_nothing_of_the_others() {
    for speech in SPEECHES {
        let bad = Endpoint::start(speech, Deed::HangUp);
        let good = Endpoint::start(speech, Deed::Answer);
        let third = Endpoint::start(speech, Deed::Answer);
        let fourth = Endpoint::start(speech, Deed::Answer);
        let policy = ", outlier: { max_percent: 50 }";
        let finback = Finback::start(&limited(speech, &[&bad, &good], policy, ""));
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let out = [bad.address.to_string()];
        for _ in 0..40 {
            client.call(&pay());
        }
        assert_eq!(finback.endpoints("all", "available", false), out);
        assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 1);
        for endpoints in [
            &[&bad, &good, &third][..],
            &[&third, &bad],
            &[&good, &bad, &fourth, &third],
        ] {
            finback.reload(&limited(speech, endpoints, policy, ""));
            let now = finback.endpoints("all", "available", false);
            assert_eq!(now, out, "{speech:?}: the ejection is forgotten");
            let counted = finback.metric("finback_cluster_ejections_total", "");
            assert_eq!(counted, 1, "{speech:?}: a counter went back");
            for _ in 0..20 {
                assert!(client.call(&pay()).success, "{speech:?}");
            }
        }
    }
}

#[test]
fn a_reload_that_adds_an_endpoint_keeps_count_of_what_is_in_flight() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Hold);
        let other = Endpoint::start(speech, Deed::Answer);
        let finback = Finback::start(&limited(speech, &[&endpoint], "", ""));
        let mut client = Client::connect(&finback.local("rpc"), speech);
        client.send_all(&pay(), 10);
        let in_flight = |wanted: u64| {
            eventually("the calls in flight", PATIENCE, || {
                let cluster = finback.cluster("all").unwrap();
                match cluster["endpoints"][0]["in_flight"].as_u64().unwrap() {
                    found if found == wanted => Ok(()),
                    found => Err(format!("{speech:?}: {found} and not {wanted}")),
                }
            });
        };
        in_flight(10);
        finback.reload(&limited(speech, &[&endpoint, &other], "", ""));
        in_flight(10);
        endpoint.let_go();
        client.answers(10);
        in_flight(0);
    }
}
