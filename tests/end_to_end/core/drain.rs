//! The end of the process, and its beginning beside another: every call is answered, once.

use std::net::TcpListener;
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

/// What a caller is told when the proxy stops: busy, or the server's error.
fn assert_told_of_the_end(
    speech: Speech,
    what: &str,
    heard: Result<crate::support::rpc::Answer, Silence>,
) {
    let answer = heard.unwrap_or_else(|silence| panic!("{speech:?} {what}: {silence:?}"));
    let told: &[u16] = match speech {
        Speech::Dubbo => &[80, 100],
        _ => &[4, 5, 0],
    };
    assert!(!answer.success, "{speech:?} {what}: {answer:?}");
    assert!(
        told.contains(&answer.status),
        "{speech:?} {what}: {answer:?}"
    );
}

#[test]
fn calls_that_wait_for_a_registry_are_answered_before_the_end() {
    // Refuses connections, or takes them and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        format!("127.0.0.1:{}", free_port()),
        silent.local_addr().unwrap().to_string(),
    ];
    for speech in SPEECHES {
        for kind in ["zookeeper", "etcd"] {
            for address in &addresses {
                let finback = Finback::start(&format!(
                    r#"
workers: 2
registries: {{ away: {{ {kind}: "{address}" }} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ registry: away }} }} ] }}
limits: {{ drain_grace: 500ms, drain: 2s }}
"#,
                    speech.name()
                ));
                let mut clients: Vec<_> = (0..4)
                    .map(|_| Client::connect(&finback.local("rpc"), speech))
                    .collect();
                for client in &mut clients {
                    client.send_all(&pay(), 5);
                }
                thread::sleep(Duration::from_millis(500));
                finback.process().signal("TERM");
                let began = Instant::now();
                for client in &mut clients {
                    for _ in 0..5 {
                        let heard = client.hear(Duration::from_secs(6));
                        assert_told_of_the_end(speech, &format!("{kind} {address}"), heard);
                    }
                    assert_eq!(
                        client.hear(PATIENCE).map(|own| own.id),
                        Err(Silence::Closed)
                    );
                }
                let status = finback.process().wait_for_end(Duration::from_secs(8));
                assert_eq!(status.code(), Some(0), "{}", finback.process().tail());
                assert!(began.elapsed() < Duration::from_secs(6));
            }
        }
    }
}

#[test]
fn calls_that_wait_for_a_connection_are_answered_before_the_end() {
    let hole = crate::support::endpoint::BlackHole::open();
    for speech in SPEECHES {
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{}" ], connect_timeout: 30s }} }}
limits: {{ drain_grace: 500ms, drain: 2s }}
"#,
            speech.name(),
            hole.address
        ));
        let mut client = Client::connect(&finback.local("rpc"), speech);
        client.send_all(&pay(), 5);
        thread::sleep(Duration::from_millis(300));
        finback.process().signal("TERM");
        for _ in 0..5 {
            let heard = client.hear(Duration::from_secs(6));
            assert_told_of_the_end(speech, "connecting", heard);
        }
        finback.process().wait_for_end(Duration::from_secs(8));
    }
}

#[test]
fn a_forced_end_sends_no_call_a_second_time() {
    for speech in SPEECHES {
        let endpoints = [(); 3].map(|()| Endpoint::start(speech, Deed::Silence));
        let [one, two, three] = endpoints.each_ref().map(|own| own.address);
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }}, retry: {{ attempts: 3, idempotent: true, refused: true }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{one}", "{two}", "{three}" ], retry_budget: 100 }} }}
limits: {{ drain_grace: 200ms, drain: 1s }}
"#,
            speech.name()
        ));
        let calls = || endpoints.iter().map(Endpoint::calls).sum::<u64>();
        let mut client = Client::connect(&finback.local("rpc"), speech);
        client.send_all(&pay(), 30);
        eventually("the calls to arrive", PATIENCE, || match calls() {
            30 => Ok(()),
            other => Err(other.to_string()),
        });
        finback.process().signal("TERM");
        for _ in 0..30 {
            let heard = client.hear(Duration::from_secs(6));
            assert_told_of_the_end(speech, "forced", heard);
        }
        finback.process().wait_for_end(Duration::from_secs(8));
        assert_eq!(calls(), 30, "{speech:?}: calls were sent again");
    }
}

#[test]
fn a_second_process_on_one_address_ends_and_says_why() {
    let port = free_port();
    let endpoint = Endpoint::start(Speech::Bolt, Deed::Answer);
    let config = |workers: u32| {
        format!(
            r#"
workers: {workers}
listeners: [ {{ name: rpc, address: "127.0.0.1:{port}", protocol: bolt, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{}" ] }} }}
"#,
            endpoint.address
        )
    };
    for (first, second) in [(1, 1), (2, 2), (1, 2), (2, 1)] {
        let finback = Finback::start(&config(first));
        let beside = Finback::run_beside(&config(second));
        let status = beside.wait_for_end(Duration::from_secs(10));
        assert!(!status.success(), "{}", beside.tail());
        let said = beside.tail_of(1000).join("\n");
        assert!(said.contains(&port.to_string()), "{said}");
        let why = ["in use", "taken"];
        assert!(why.iter().any(|own| said.contains(own)), "{said}");
        // The first goes on, and alone.
        for _ in 0..20 {
            let mut client = Client::connect(&finback.local("rpc"), Speech::Bolt);
            assert!(client.call(&pay()).success);
        }
        drop(finback);
    }
    // What is left behind by one that ended hinders no other.
    let again = Finback::start(&config(2));
    let mut client = Client::connect(&again.local("rpc"), Speech::Bolt);
    assert!(client.call(&pay()).success);
}
