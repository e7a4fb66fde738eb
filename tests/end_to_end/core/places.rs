//! A caller that goes away gives back what it held of clusters and endpoints.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use finback_simulations::echo::{self, Faults};
use finback_simulations::speech::{Protocol, Speech};
use tokio::runtime::Runtime;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES, Silence};

const DAY: u64 = 86_400_000;
/// How long a place may outlive its caller.
const SOON: Duration = Duration::from_secs(10);

/// Never answers `hang`, and answers everything else.
fn endpoint(speech: Speech) -> Endpoint {
    Endpoint::scripted(speech, |frame| {
        match frame.windows(4).any(|four| four == b"hang") {
            true => Deed::Silence,
            false => Deed::Answer,
        }
    })
}

fn proxy(speech: Speech, endpoint: &Endpoint, limits: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{}" ] }} }}
{limits}
"#,
        speech.name(),
        endpoint.address
    ))
}

fn in_flight(finback: &Finback) -> u64 {
    let cluster = finback.cluster("all").unwrap();
    let endpoint = cluster["endpoints"][0]["in_flight"].as_u64().unwrap();
    endpoint.max(cluster["in_flight"].as_u64().unwrap())
}

fn eventually_in_flight(finback: &Finback, what: &str, limit: Duration, wanted: u64) {
    eventually(what, limit, || match in_flight(finback) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found} in flight")),
    });
}

/// Three callers that take every place of the cluster, for a day.
fn greedy(finback: &Finback, speech: Speech) -> Vec<Client> {
    let call = Call::new("com.acme.Pay", "hang").within(DAY);
    let mut clients: Vec<_> = (0..3)
        .map(|_| Client::connect(&finback.local("rpc"), speech))
        .collect();
    for client in &mut clients {
        client.send_all(&call, 4000);
    }
    // A worker on its own has room for no more than some eight thousand.
    eventually("a full cluster", PATIENCE, || match in_flight(finback) {
        8000.. => Ok(()),
        found => Err(format!("{found} in flight")),
    });
    clients
}

fn assert_free(finback: &Finback, speech: Speech, how: &str) {
    eventually_in_flight(finback, how, SOON, 0);
    let mut client = Client::connect(&finback.local("rpc"), speech);
    for _ in 0..20 {
        let answer = client.call(&Call::new("com.acme.Pay", "pay"));
        assert!(answer.success, "{speech:?} after {how}: {answer:?}");
    }
}

#[test]
fn callers_that_reset_their_connections_give_their_places_back() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &endpoint, "");
        for client in greedy(&finback, speech) {
            client.reset();
        }
        assert_free(&finback, speech, "resets");
    }
}

#[test]
fn callers_that_close_their_connections_give_their_places_back() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &endpoint, "");
        for mut client in greedy(&finback, speech) {
            // With everything read, closing is a FIN and not a reset.
            while client.hear(Duration::from_millis(300)).err() != Some(Silence::Nothing) {}
        }
        assert_free(&finback, speech, "closes");
    }
}

#[test]
fn callers_that_leave_one_by_one_leave_the_others_theirs() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &endpoint, "");
        let mut stays = Client::connect(&finback.local("rpc"), speech);
        let hang = Call::new("com.acme.Pay", "hang").within(DAY);
        stays.send_all(&hang, 7);
        for round in 0..40 {
            let mut leaves = Client::connect(&finback.local("rpc"), speech);
            leaves.send_all(&hang, 100);
            assert!(stays.call(&Call::new("com.acme.Pay", "pay")).success);
            match round % 2 {
                0 => leaves.reset(),
                _ => drop(leaves),
            }
        }
        eventually_in_flight(&finback, "only those that stay", SOON, 7);
        assert!(stays.call(&Call::new("com.acme.Pay", "pay")).success);
    }
}

#[test]
fn who_only_stops_sending_still_gets_what_it_asked_for() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::AnswerAfter(Duration::from_millis(500)));
        let finback = proxy(speech, &endpoint, "");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        client.send_all(&Call::new("com.acme.Pay", "pay"), 10);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        for answer in client.answers(10) {
            assert!(answer.success, "{speech:?}: {answer:?}");
        }
    }
}

#[test]
fn callers_of_http_that_leave_give_their_places_back() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    let faults = Faults {
        silent: true,
        ..Faults::default()
    };
    runtime.spawn(echo::serve(listener, Protocol::Http, faults));
    for version in ["1.1", "2"] {
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{address}" ], http: "{version}" }} }}
"#
        ));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let mut stream = TcpStream::connect(finback.local("web")).unwrap();
                stream
                    .write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                stream
            })
            .collect();
        eventually_in_flight(&finback, "all in flight", PATIENCE, 100);
        for (nth, stream) in waiting.into_iter().enumerate() {
            if nth % 2 == 0 {
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        eventually_in_flight(&finback, "none in flight", SOON, 0);
    }
}

#[test]
fn a_callers_own_patience_has_a_ceiling() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &endpoint, "limits: { call_timeout_max: 1s }");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        for patience in [DAY, 2_000_000_000, u64::MAX] {
            let began = Instant::now();
            let answer = client.call(&Call::new("com.acme.Pay", "hang").within(patience));
            let took = began.elapsed();
            let expired = if speech == Speech::Dubbo { 31 } else { 7 };
            assert_eq!(answer.status, expired, "{speech:?}: {answer:?}");
            let right = Duration::from_millis(900)..Duration::from_secs(4);
            assert!(right.contains(&took), "{speech:?} {patience}: {took:?}");
        }
        eventually_in_flight(&finback, "none in flight", SOON, 0);
    }
}

#[test]
fn a_callers_patience_in_grpc_has_the_same_ceiling() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    let faults = Faults {
        silent: true,
        ..Faults::default()
    };
    runtime.spawn(echo::serve(listener, Protocol::Http, faults));
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{address}" ] }} }}
limits: {{ call_timeout_max: 1s }}
"#
    ));
    let mut stream = TcpStream::connect(finback.local("web")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // gRPC's own words, over HTTP/1.1 as gRPC-Web has it.
    let request = "POST /acme.Pay/Pay HTTP/1.1\r\nHost: a\r\ngrpc-timeout: 24H\r\n\
                   content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains("grpc-status") {
        let n = stream.read(&mut piece).expect("an answer soon");
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    // DEADLINE_EXCEEDED.
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split("grpc-status:").nth(1).map(str::trim_start);
    assert!(status.is_some_and(|own| own.starts_with('4')), "{answer}");
}
