//! Traces in a real Jaeger: one call across protocols, which calls are chosen, and collectors that fail.

mod agents;
mod collectors;
mod contexts;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::jaeger::{Jaeger, Span};
use crate::support::peer::{Peer, built};
use crate::support::rpc::{Call, Client};

const PATIENCE: Duration = Duration::from_secs(20);
/// A context of a caller that has chosen its trace.
const CHOSEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The same of one that has not.
const LEFT_OUT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// The `traceparent` in the bytes of a request.
fn traceparent(bytes: &[u8]) -> Option<String> {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    bytes.windows(55).find_map(|window| {
        let text = std::str::from_utf8(window).ok()?;
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let whole = lengths == [2, 32, 16, 2] && parts.iter().all(|part| is_hex(part));
        whole.then(|| text.to_owned())
    })
}

/// Asks by HTTP/1.1; the status, and the answer as a whole.
fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or(0), answer)
}

/// A service of HTTP that makes a status of each request's head.
fn http_service(answer: impl Fn(&str) -> u16 + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> u16) {
    let mut head = Vec::new();
    let mut byte = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut byte) {
        head.extend_from_slice(&byte[..n]);
        while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head[..end]).into_owned();
            head.drain(..end + 4);
            let status = answer(&text);
            let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// What requests were seen to carry.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A proxy with a route for HTTP to this service, and tracing as configured.
fn front(tracing: &str, backend: &str, route: &str) -> Finback {
    Finback::start(&config(tracing, backend, route))
}

fn config(tracing: &str, backend: &str, route: &str) -> String {
    format!(
        r#"
workers: 1
{tracing}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - name: own
      match: {{ path: {{ prefix: /own }} }}
      to: {{ cluster: back }}
      {route}
    - name: all
      to: {{ cluster: back }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
"#
    )
}

fn named<'a>(spans: &'a [Span], kind: &str, name: &str) -> &'a Span {
    let found = spans
        .iter()
        .find(|own| own.kind() == kind && own.name == name);
    found.unwrap_or_else(|| panic!("no {kind} span {name}: {spans:#?}"))
}

#[test]
fn one_call_through_four_protocols_is_one_trace() {
    let jaeger = Jaeger::start();
    let go = Peer::go();
    let grpc = go.ask("grpc-serve", &[]).unwrap();
    let rpc = Arc::new(Mutex::new(String::new()));
    // Services that pass the context on, as instrumented ones do.
    let at = rpc.clone();
    let dubbo = Endpoint::scripted(Speech::Dubbo, move |frame| {
        let context = traceparent(frame).unwrap_or_default();
        let (proto, header) = (
            format!("{}/tests/peers/go", env!("CARGO_MANIFEST_DIR")),
            format!("traceparent: {context}"),
        );
        let at = at.lock().unwrap().clone();
        let called = Command::new(built("go/grpcurl"))
            .args([
                "-plaintext",
                "-max-time",
                "10",
                "-import-path",
                &proto,
                "-proto",
                "test.proto",
            ])
            .args(["-H", &header, &at, "grpc.testing.TestService/EmptyCall"])
            .output()
            .unwrap();
        match called.status.success() {
            true => Deed::Answer,
            false => Deed::Status(70),
        }
    });
    let at = rpc.clone();
    let bolt = Endpoint::scripted(Speech::Bolt, move |frame| {
        let context = traceparent(frame).unwrap_or_default();
        let call = Call::new("com.acme.Stock", "take").with("traceparent", &context);
        let at = at.lock().unwrap().clone();
        match Client::connect(&at, Speech::Dubbo).call(&call).success {
            true => Deed::Answer,
            false => Deed::Status(1),
        }
    });
    let at = rpc.clone();
    let shop = http_service(move |head| {
        let context = traceparent(head.as_bytes()).unwrap_or_default();
        let call = Call::new("com.acme.Pay", "pay").with("traceparent", &context);
        let at = at.lock().unwrap().clone();
        match Client::connect(&at, Speech::Bolt).call(&call).success {
            true => 200,
            false => 500,
        }
    });
    let finback = Finback::start(&format!(
        r#"
workers: 2
tracing: {{ endpoint: "{}", service_name: mesh, sampling: always, resource: {{ deployment.environment.name: test }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - {{ name: shop, match: {{ protocol: http }}, to: {{ cluster: shop }} }}
    - {{ name: pay, match: {{ protocol: bolt }}, to: {{ cluster: pay }} }}
    - {{ name: stock, match: {{ protocol: dubbo }}, to: {{ cluster: stock }} }}
    - {{ name: audit, match: {{ protocol: grpc }}, to: {{ cluster: audit }} }}
clusters:
  shop: {{ endpoints: [ "{shop}" ] }}
  pay: {{ endpoints: [ "{}" ] }}
  stock: {{ endpoints: [ "{}" ] }}
  audit: {{ endpoints: [ {grpc} ] }}
"#,
        jaeger.grpc, bolt.address, dubbo.address
    ));
    *rpc.lock().unwrap() = finback.local("all");
    let headers = [("traceparent", CHOSEN), ("User-Agent", "tester")];
    let (status, answer) = get(&finback.local("all"), "/cart?secret=1", &headers);
    assert_eq!(status, 200, "{answer}");
    let spans = jaeger.trace(TRACE, 8);
    assert_eq!(spans.len(), 8, "{spans:#?}");
    // Each hop is a child of the one before.
    let order = [
        "GET",
        "com.acme.Pay/pay",
        "com.acme.Stock/take",
        "grpc.testing.TestService/EmptyCall",
    ];
    let mut parent = "00f067aa0ba902b7".to_owned();
    for name in order {
        for kind in ["server", "client"] {
            let span = named(&spans, kind, name);
            assert_eq!(
                span.parent.as_deref(),
                Some(&*parent),
                "{kind} {name}: {spans:#?}"
            );
            assert_eq!(span.tag("error"), "", "{span:#?}");
            parent = span.id.clone();
        }
    }
    says(&spans, grpc.as_str().unwrap());
    let resource = jaeger.resource(TRACE);
    assert_eq!(resource["service.name"], "mesh");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(resource.contains_key("service.instance.id"), "{resource:?}");
}

/// Kind and name of a span, and some of its attributes.
type Said<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// What the spans of the call across protocols say.
fn says(spans: &[Span], grpc: &str) {
    let port = grpc.rsplit_once(':').unwrap().1;
    let table: [Said<'_>; 6] = [
        (
            "server",
            "GET",
            &[
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("url.path", "/cart"),
                ("url.scheme", "http"),
                ("server.address", "shop.test"),
                ("user_agent.original", "tester"),
                ("network.protocol.version", "1.1"),
                ("client.address", "127.0.0.1"),
                ("finback.route", "shop"),
                ("finback.listener", "all"),
                ("finback.outcome", "success"),
            ],
        ),
        (
            "client",
            "GET",
            &[
                ("url.full", "http://shop.test/cart"),
                ("finback.cluster", "shop"),
                ("http.response.status_code", "200"),
            ],
        ),
        (
            "server",
            "com.acme.Pay/pay",
            &[
                ("rpc.system.name", "sofarpc"),
                ("rpc.method", "com.acme.Pay/pay"),
                ("rpc.status_code", "SUCCESS"),
                ("finback.version", "1.0"),
            ],
        ),
        (
            "client",
            "com.acme.Stock/take",
            &[
                ("rpc.system.name", "dubbo"),
                ("rpc.status_code", "OK"),
                ("server.address", "stock"),
                ("network.peer.address", "127.0.0.1"),
            ],
        ),
        (
            "server",
            "grpc.testing.TestService/EmptyCall",
            &[("rpc.system.name", "grpc"), ("rpc.status_code", "OK")],
        ),
        (
            "client",
            "grpc.testing.TestService/EmptyCall",
            &[("network.peer.port", port), ("finback.cluster", "audit")],
        ),
    ];
    for (kind, name, expected) in table {
        let span = named(spans, kind, name);
        for (key, value) in expected {
            assert_eq!(span.tag(key), *value, "{key} of {span:#?}");
        }
        assert!(!format!("{span:?}").contains("secret"), "{span:#?}");
    }
}

#[test]
fn callers_ratios_and_routes_decide_which_calls_are_traced() {
    let jaeger = Jaeger::start();
    let shop = http_service(|_| 200);
    let tracing = |name: &str, more: &str| {
        format!(
            "tracing: {{ endpoint: \"{}\", protocol: http, service_name: {name}, {more} }}",
            jaeger.http
        )
    };
    let route = "tracing: { sampling: always }";
    // Name, what is configured, spans of 40 calls that were chosen, left out, and began here.
    let table = [
        ("always", "sampling: always", (80, 80, 80)),
        ("never", "sampling: never", (0, 0, 0)),
        ("parents", "sampling: parent-based, ratio: 0", (80, 0, 0)),
        (
            "parents-all",
            "sampling: parent-based, ratio: 1",
            (80, 0, 80),
        ),
        ("all", "sampling: ratio, ratio: 1", (80, 80, 80)),
    ];
    for (name, more, (chosen, left_out, fresh)) in table {
        let finback = front(&tracing(name, more), &shop, route);
        let web = finback.local("web");
        for (context, path, spans) in [
            (Some(CHOSEN), "/", chosen),
            (Some(LEFT_OUT), "/", left_out),
            (None, "/", fresh),
            // This route chooses all.
            (Some(LEFT_OUT), "/own", 80),
        ] {
            let before = finback.metric("finback_spans_exported_total", "");
            let header = context.map(|own| ("traceparent", own));
            for _ in 0..40 {
                assert_eq!(get(&web, path, header.as_slice()).0, 200);
            }
            eventually("spans", PATIENCE, || {
                let now = finback.metric("finback_spans_exported_total", "") - before;
                if now == spans {
                    Ok(())
                } else {
                    Err(format!("{name} {context:?} {path}: {now}"))
                }
            });
        }
        let expected = usize::try_from(chosen + left_out + fresh + 80).unwrap();
        assert_eq!(jaeger.service(name, expected).len(), expected);
    }
    // A share of traces, the same for all who see them.
    let finback = front(
        &tracing("share", "sampling: parent-based, ratio: 0.25"),
        &shop,
        "",
    );
    let web = finback.local("web");
    for _ in 0..400 {
        assert_eq!(get(&web, "/", &[]).0, 200);
    }
    thread::sleep(Duration::from_secs(2));
    let spans = finback.metric("finback_spans_exported_total", "");
    assert!(
        (100..300).contains(&spans),
        "{spans} spans of 100 of 400 calls"
    );
}

#[test]
fn slow_and_failed_calls_are_kept_although_not_chosen() {
    let jaeger = Jaeger::start();
    let shop = http_service(|head| {
        let path = head.split(' ').nth(1).unwrap();
        if path.ends_with("/slow") {
            thread::sleep(Duration::from_millis(400));
        }
        if path.ends_with("/bad") { 503 } else { 200 }
    });
    let tails = "tails: { slower_than: 300ms, failed: true }, tails_per_second: 20";
    let endpoint = &jaeger.grpc;
    let tracing = format!(
        "tracing: {{ endpoint: \"{endpoint}\", service_name: tails, sampling: never, {tails} }}"
    );
    let own = "tracing: { tails: { slower_than: 10s } }";
    let finback = front(&tracing, &shop, own);
    let web = finback.local("web");
    for path in ["/", "/slow", "/bad", "/own/slow", "/own/bad"] {
        get(&web, path, &[("traceparent", LEFT_OUT)]);
    }
    let spans = jaeger.trace(TRACE, 4);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let servers: Vec<&Span> = spans.iter().filter(|own| own.kind() == "server").collect();
    assert_eq!(servers[0].tag("http.response.status_code"), "200");
    assert!(servers[0].took >= 400_000, "{servers:#?}");
    assert_eq!(servers[1].tag("http.response.status_code"), "503");
    assert_eq!(
        (servers[1].tag("error"), servers[1].tag("error.type")),
        ("true", "503")
    );
    for server in servers {
        assert_eq!(server.parent.as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!(server.tag("finback.kept"), "tail");
        let client = spans
            .iter()
            .find(|own| own.parent.as_ref() == Some(&server.id))
            .unwrap();
        assert!(
            client.began >= server.began && client.took <= server.took,
            "{client:?}"
        );
    }
    // Nothing says more than so many a second.
    for _ in 0..100 {
        get(&web, "/bad", &[]);
    }
    let limited = finback.metric("finback_spans_dropped_total", "reason=\"tails_per_second\"");
    assert!(limited >= 100, "{limited}");
}

#[test]
fn each_attempt_is_a_span_and_says_how_it_failed() {
    let jaeger = Jaeger::start();
    let seen = Seen::default();
    // Whichever is asked first hangs up.
    let endpoint = || {
        let seen = seen.clone();
        Endpoint::scripted(Speech::Dubbo, move |frame| {
            seen.note(&traceparent(frame).unwrap_or_default());
            match seen.all().len() {
                1 => Deed::HangUp,
                _ => Deed::Answer,
            }
        })
    };
    let (one, two) = (endpoint(), endpoint());
    let finback = Finback::start(&format!(
        r#"
workers: 1
tracing: {{ endpoint: "{}", service_name: retries, sampling: parent-based }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc, access_log: {{ stdout: true }} }} ]
routes: {{ rpc: [ {{ to: {{ cluster: pay }}, retry: {{ attempts: 2, idempotent: true }} }} ] }}
clusters: {{ pay: {{ endpoints: [ "{}", "{}" ] }} }}
"#,
        jaeger.grpc, one.address, two.address
    ));
    let call = Call::new("com.acme.Pay", "pay").with("traceparent", CHOSEN);
    let mut client = Client::connect(&finback.local("rpc"), Speech::Dubbo);
    assert!(client.call(&call).success);
    let spans = jaeger.trace(TRACE, 3);
    // The access log points at it.
    let wanted = format!("\"trace_id\":\"{TRACE}\"");
    finback.process().wait_for("its line", PATIENCE, 0, |line| {
        line.contains(&wanted).then_some(())
    });
    let name = "com.acme.Pay/pay";
    let server = named(&spans, "server", name);
    assert_eq!(server.tag("error"), "");
    let attempts: Vec<&Span> = spans.iter().filter(|own| own.kind() == "client").collect();
    assert_eq!(attempts.len(), 2, "{spans:#?}");
    assert_eq!(attempts[0].tag("error.type"), "connection_lost");
    assert_eq!(attempts[1].tag("error"), "");
    let port = |own: &Span| own.tag("network.peer.port").to_owned();
    assert_ne!(port(attempts[0]), port(attempts[1]));
    // Each endpoint was told the attempt that was its own.
    let told = attempts.iter().map(|own| {
        assert_eq!(own.parent.as_ref(), Some(&server.id));
        format!("00-{TRACE}-{}-01", own.id)
    });
    assert_eq!(seen.all(), told.collect::<Vec<_>>());
}
