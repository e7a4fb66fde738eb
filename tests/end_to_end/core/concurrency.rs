//! Adaptive concurrency: a call over the limit is refused in its protocol's own words, and what waits for something to
//! happen holds no place. Breakers: who fails more than others is left alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, PATIENCE, SPEECHES};
use crate::support::web;

/// One call at a time.
const ONE: &str = "adaptive_concurrency: { min: 1, max: 1 }";

fn proxy(protocol: &str, routes: &str, endpoints: &[SocketAddr], policy: &str) -> Finback {
    let list: Vec<_> = endpoints.iter().map(|own| format!("\"{own}\"")).collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: in, address: "127.0.0.1:0", protocol: {protocol}, routes: all }} ]
routes: {{ all: [ {routes} ] }}
clusters: {{ all: {{ endpoints: [ {} ], {policy} }} }}
"#,
        list.join(", ")
    ))
}

const ALL: &str = "{ to: { cluster: all } }";

fn limit(finback: &Finback, what: &str) -> u64 {
    let cluster = finback.cluster("all").unwrap();
    cluster["concurrency"][what].as_u64().unwrap()
}

#[test]
fn a_call_over_the_limit_is_refused_in_its_own_words() {
    for (speech, status) in [(Speech::Bolt, 4), (Speech::Dubbo, 100)] {
        let endpoint = Endpoint::scripted(speech, |frame| {
            match frame.windows(4).any(|own| own == b"hold") {
                true => Deed::Hold,
                false => Deed::Answer,
            }
        });
        let finback = proxy(speech.name(), ALL, &[endpoint.address], ONE);
        let mut holder = Client::connect(&finback.local("in"), speech);
        holder.send(&Call::new("com.acme.Pay", "hold"));
        eventually("the call that holds the place", PATIENCE, || {
            let calls = endpoint.calls();
            (calls == 1).then_some(()).ok_or(calls.to_string())
        });
        let mut client = Client::connect(&finback.local("in"), speech);
        let refused = client.call(&Call::new("com.acme.Pay", "pay"));
        assert_eq!(refused.status, status, "{refused:?}");
        // Bolt's "busy" is a status without words.
        let says = matches!(speech, Speech::Bolt) || refused.text.contains("a limit is reached");
        assert!(says, "{refused:?}");
        assert_eq!(endpoint.calls(), 1);
        assert_eq!(
            (limit(&finback, "limit"), limit(&finback, "in_flight")),
            (1, 1)
        );
        assert_eq!(
            finback.metric("finback_cluster_concurrency_limit", "cluster=\"all\""),
            1
        );
        assert_eq!(
            finback.metric("finback_cluster_shed_total", "cluster=\"all\""),
            1
        );
        endpoint.let_go();
        assert!(holder.answer().success);
        assert!(client.call(&Call::new("com.acme.Pay", "pay")).success);
        assert_eq!(
            (limit(&finback, "in_flight"), limit(&finback, "shed")),
            (0, 1)
        );
    }
}

#[test]
fn http_refuses_a_call_over_the_limit_with_503() {
    let finback = proxy("http", ALL, &[web::serve()], ONE);
    let address = finback.local("in");
    let slow = {
        let address = address.clone();
        thread::spawn(move || web::get(&address, "a.test", "/slow/1500"))
    };
    eventually("the call that holds the place", PATIENCE, || {
        let held = limit(&finback, "in_flight");
        (held == 1).then_some(()).ok_or(held.to_string())
    });
    assert_eq!(web::get(&address, "a.test", "/"), 503);
    assert_eq!(slow.join().unwrap(), 200);
    assert_eq!(web::get(&address, "a.test", "/"), 200);
    assert_eq!(finback.metric("finback_cluster_shed_total", ""), 1);
}

/// A server that begins to answer and does not end: by the path, at once, after a byte of the request's body, or never.
fn lingering() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || linger(stream));
        }
    });
    address
}

fn linger(mut stream: TcpStream) -> Option<()> {
    let mut asked = Vec::new();
    let mut piece = [0; 4096];
    while !asked.windows(4).any(|own| own == b"\r\n\r\n") {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        asked.extend_from_slice(&piece[..count]);
    }
    let asked = String::from_utf8_lossy(&asked);
    let said = match asked.split_whitespace().nth(1)? {
        "/stream" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhey\r\n",
        "/socket" => "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        "/" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhey",
        // It waits for something to happen.
        _ => "",
    };
    stream.write_all(said.as_bytes()).ok()?;
    thread::sleep(Duration::from_secs(30));
    Some(())
}

#[test]
fn what_waits_for_something_to_happen_holds_no_place() {
    let server = lingering();
    let routes = "{ match: { path: /poll }, to: { cluster: all }, long_poll: true }, { to: { cluster: all } }";
    let upgrade = "Connection: upgrade\r\nUpgrade: echo\r\n";
    for (path, headers, holds) in [
        ("/stream", "", false),
        ("/events", "Accept: text/event-stream\r\n", false),
        ("/socket", upgrade, false),
        ("/poll", "", false),
        // A request that is still being sent after a second.
        ("/upload", "Transfer-Encoding: chunked\r\n", false),
        ("/silent", "", true),
    ] {
        let finback = proxy("http", routes, &[server], ONE);
        let mut client = TcpStream::connect(finback.local("in")).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n");
        client.write_all(request.as_bytes()).unwrap();
        eventually("the call is on its way", PATIENCE, || {
            let counted = finback.metric("finback_cluster_in_flight", "");
            (counted == 1).then_some(()).ok_or(counted.to_string())
        });
        let end = Instant::now() + Duration::from_millis(1700);
        while holds && Instant::now() < end {
            assert_eq!(limit(&finback, "in_flight"), 1, "{path}");
            thread::sleep(Duration::from_millis(100));
        }
        if !holds {
            eventually("its place is given back", PATIENCE, || {
                let held = limit(&finback, "in_flight");
                (held == 0).then_some(()).ok_or(format!("{path}: {held}"))
            });
        }
        let status = web::get(&finback.local("in"), "a.test", "/");
        assert_eq!(status, if holds { 503 } else { 200 }, "{path}");
        // It is still there.
        assert_eq!(finback.metric("finback_cluster_in_flight", ""), 1, "{path}");
    }
}

// === Breakers ===

/// An endpoint that fails every third call, or none.
fn failing(speech: Speech, fails: bool) -> Endpoint {
    let calls = AtomicU64::new(0);
    let status = match speech {
        Speech::Dubbo => 80,
        _ => 1,
    };
    Endpoint::scripted(speech, move |_| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        match fails && number.is_multiple_of(3) {
            true => Deed::Status(status),
            false => Deed::Answer,
        }
    })
}

#[test]
fn who_fails_every_third_call_is_left_alone() {
    for speech in SPEECHES {
        let endpoints: Vec<_> = (0..5).map(|n| failing(speech, n == 3)).collect();
        let addresses: Vec<_> = endpoints.iter().map(|own| own.address).collect();
        let bad = addresses[3].to_string();
        for (rule, detector, told) in [
            (
                "success_rate: { volume: 20 }",
                "success_rate",
                "went well, which is below",
            ),
            (
                "failure_percentage: { threshold: 30, volume: 20 }",
                "failure_percentage",
                "failed, which is 30 % or more",
            ),
        ] {
            let policy = format!("outlier: {{ {rule}, interval: 500ms }}");
            let finback = proxy(speech.name(), ALL, &addresses, &policy);
            let mut client = Client::connect(&finback.local("in"), speech);
            let call = Call::new("com.acme.Pay", "pay");
            let out = eventually("an ejection", PATIENCE, || {
                (0..200).for_each(|_| drop(client.call(&call)));
                let out = finback.endpoints("all", "available", false);
                (!out.is_empty()).then_some(out).ok_or("none".to_owned())
            });
            assert_eq!(out, std::slice::from_ref(&bad), "{speech:?} {rule}");
            let cluster = finback.cluster("all").unwrap();
            assert_eq!(cluster["ejections_by"][detector], 1, "{cluster}");
            assert_eq!(cluster["ejections_by"]["consecutive"], 0, "{cluster}");
            let why = cluster["endpoints"][3]["why"].as_str().unwrap();
            assert!(why.contains(told), "{why}");
            let label = format!("detector=\"{detector}\"");
            assert_eq!(finback.metric("finback_cluster_ejections_total", &label), 1);
            assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 1);
            // Others answer all that comes now.
            assert!(
                (0..100).all(|_| client.call(&call).success),
                "{speech:?} {rule}"
            );
        }
    }
}
