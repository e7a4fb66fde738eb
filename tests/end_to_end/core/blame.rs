//! Whose fault a failed call is: only the endpoint's own trouble has it ejected.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use finback_simulations::echo::{self, Faults};
use finback_simulations::speech::{Protocol, Speech};
use tokio::runtime::Runtime;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::free_port;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES};

/// Calls that would eject an endpoint eight times over.
const CALLS: usize = 40;

/// A proxy with a cluster of these addresses; `policy` are more keys of its route.
fn proxy(speech: Speech, addresses: &[String], policy: &str) -> Finback {
    let list: Vec<_> = addresses.iter().map(|own| format!("\"{own}\"")).collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }}{policy} }} ] }}
clusters: {{ all: {{ endpoints: [ {} ], outlier: {{ max_percent: 100 }} }} }}
"#,
        speech.name(),
        list.join(", ")
    ))
}

fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints
        .iter()
        .map(|own| own.address.to_string())
        .collect()
}

fn pair(speech: Speech, deed: &Deed) -> [Endpoint; 2] {
    [(); 2].map(|()| Endpoint::start(speech, deed.clone()))
}

fn ejections(finback: &Finback) -> u64 {
    finback.metric("finback_cluster_ejections_total", "cluster=\"all\"")
}

fn assert_nobody_ejected(finback: &Finback, what: &str) {
    assert_eq!(ejections(finback), 0, "{what}: ejected");
    let out = finback.endpoints("all", "available", false);
    assert_eq!(out, [""; 0], "{what}");
}

fn call_often(finback: &Finback, speech: Speech, call: &Call) {
    let mut client = Client::connect(&finback.local("rpc"), speech);
    for _ in 0..CALLS {
        let answer = client.call(call);
        assert!(!answer.success, "{answer:?}");
    }
}

#[test]
fn what_is_wrong_with_a_request_or_thrown_by_the_service_ejects_nobody() {
    for (speech, statuses) in [
        // Timeouts, bad request, bad response, service not found, service error, client error.
        (Speech::Dubbo, &[30, 31, 40, 50, 60, 70, 90][..]),
        // Exception, no processor, timeout, codec, and the two codecs' own.
        (Speech::Bolt, &[2, 6, 7, 9, 17, 18]),
    ] {
        for status in statuses {
            let endpoints = pair(speech, &Deed::Status(*status));
            let finback = proxy(speech, &addresses(&endpoints), "");
            call_often(&finback, speech, &Call::new("com.acme.Pay", "pay"));
            assert_nobody_ejected(&finback, &format!("{speech:?} {status}"));
            let seen: u64 = endpoints.iter().map(Endpoint::calls).sum();
            assert_eq!(seen, CALLS as u64, "{speech:?} {status}: tried again");
        }
    }
}

#[test]
fn what_is_wrong_with_the_endpoint_ejects_it() {
    for (speech, statuses) in [(Speech::Dubbo, [100, 80]), (Speech::Bolt, [4, 1])] {
        for status in statuses {
            let endpoints = pair(speech, &Deed::Status(status));
            let finback = proxy(speech, &addresses(&endpoints), "");
            call_often(&finback, speech, &Call::new("com.acme.Pay", "pay"));
            assert!(ejections(&finback) > 0, "{speech:?} {status}");
        }
        let endpoints = pair(speech, &Deed::HangUp);
        let finback = proxy(speech, &addresses(&endpoints), "");
        call_often(&finback, speech, &Call::new("com.acme.Pay", "pay"));
        assert!(ejections(&finback) > 0, "{speech:?}: lost connections");

        // With nothing tried elsewhere, each of its calls fails until it is left alone.
        let closed = format!("127.0.0.1:{}", free_port());
        let good = Endpoint::start(speech, Deed::Answer);
        let both = [closed.clone(), good.address.to_string()];
        let finback = proxy(speech, &both, ", retry: { attempts: 1 }");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let call = Call::new("com.acme.Pay", "pay");
        let failed = (0..CALLS).filter(|_| !client.call(&call).success).count();
        assert!(failed <= 6, "{speech:?}: {failed} to nobody");
        let out = finback.endpoints("all", "available", false);
        assert_eq!(out, [closed], "{speech:?}: no connections");
    }
}

#[test]
fn one_failing_endpoint_is_ejected_and_the_other_takes_over() {
    for speech in SPEECHES {
        for deed in [
            Deed::HangUp,
            Deed::Status(if speech == Speech::Dubbo { 80 } else { 1 }),
        ] {
            let bad = Endpoint::start(speech, deed.clone());
            let good = Endpoint::start(speech, Deed::Answer);
            let both = [bad.address.to_string(), good.address.to_string()];
            let finback = proxy(speech, &both, "");
            let mut client = Client::connect(&finback.local("rpc"), speech);
            let call = Call::new("com.acme.Pay", "pay");
            let failed = (0..100).filter(|_| !client.call(&call).success).count();
            assert!((5..=10).contains(&failed), "{speech:?} {deed:?}: {failed}");
            assert_eq!(
                finback.endpoints("all", "available", false),
                [bad.address.to_string()]
            );
        }
    }
}

#[test]
fn impatient_callers_eject_nobody() {
    for speech in SPEECHES {
        for patience in [1, 10, 100] {
            let endpoints = pair(speech, &Deed::AnswerAfter(Duration::from_millis(400)));
            let finback = proxy(speech, &addresses(&endpoints), ", timeout: 5s");
            let impatient = Call::new("com.acme.Pay", "pay").within(patience);
            call_often(&finback, speech, &impatient);
            assert_nobody_ejected(&finback, &format!("{speech:?} {patience} ms"));
            let mut patient = Client::connect(&finback.local("rpc"), speech);
            assert!(patient.call(&Call::new("com.acme.Pay", "pay")).success);
        }
    }
}

#[test]
fn who_answers_nothing_within_the_routes_own_time_is_ejected() {
    for speech in SPEECHES {
        let hung = Endpoint::start(speech, Deed::Silence);
        let good = Endpoint::start(speech, Deed::Answer);
        let both = [hung.address.to_string(), good.address.to_string()];
        let finback = proxy(speech, &both, ", timeout: 300ms");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let call = Call::new("com.acme.Pay", "pay");
        let failed = (0..30).filter(|_| !client.call(&call).success).count();
        assert!((5..=8).contains(&failed), "{speech:?}: {failed} failed");
        eventually("the ejection", PATIENCE, || {
            match finback.endpoints("all", "available", false) {
                out if out == [hung.address.to_string()] => Ok(()),
                out => Err(format!("{speech:?}: {out:?}")),
            }
        });
    }
}

/// A server of HTTP that answers, or never does.
fn web(runtime: &Runtime, silent: bool) -> String {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let faults = Faults {
        silent,
        ..Faults::default()
    };
    runtime.spawn(echo::serve(listener, Protocol::Http, faults));
    address
}

/// The status of the answer to a GET.
fn get(address: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head[9..]).parse().unwrap()
}

fn web_proxy(version: &str, hung: &str, good: &str, policy: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }}{policy} }} ] }}
clusters:
  all:
    endpoints: [ "{hung}", "{good}" ]
    http: "{version}"
    outlier: {{ max_percent: 100 }}
"#
    ))
}

#[test]
fn a_server_of_http_that_answers_nothing_within_the_routes_own_time_is_ejected() {
    let runtime = Runtime::new().unwrap();
    for version in ["1.1", "2"] {
        let (hung, good) = (web(&runtime, true), web(&runtime, false));
        let finback = web_proxy(version, &hung, &good, ", timeout: 300ms");
        let address = finback.local("web");
        let failed = (0..30).filter(|_| get(&address, "") != 200).count();
        assert!((5..=8).contains(&failed), "HTTP/{version}: {failed} failed");
        assert_eq!(finback.endpoints("all", "available", false), [hung]);
    }
}

#[test]
fn callers_of_http_that_hang_up_early_eject_nobody() {
    let runtime = Runtime::new().unwrap();
    for version in ["1.1", "2"] {
        let (hung, good) = (web(&runtime, true), web(&runtime, true));
        let finback = web_proxy(version, &hung, &good, ", timeout: 30s");
        for _ in 0..CALLS {
            let mut stream = TcpStream::connect(finback.local("web")).unwrap();
            stream
                .write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_nobody_ejected(&finback, version);
    }
}
