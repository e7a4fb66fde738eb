//! HTTP/1.1, HTTP/2, gRPC and Triple through the real binary, by clients and servers of others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Load, Peer, built};
use crate::support::process::Process;
use crate::support::world::GREETER;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of Node's, and its address.
fn backend(peer: &Peer, name: &str, version: &str) -> String {
    let fields = [("name", name), ("version", version)];
    let port = peer.ask("serve", &fields).unwrap();
    format!("127.0.0.1:{port}")
}

/// A proxy in front of one cluster.
fn front(address: &str, version: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{address}" ], http: "{version}" }} }}
"#
    ))
}

fn url(finback: &Finback, path: &str) -> String {
    format!("http://{}{path}", finback.local("web"))
}

fn fetch(peer: &Peer, version: &str, url: &str, more: &[(&str, &str)]) -> Value {
    let fields = [&[("version", version), ("url", url)], more].concat();
    peer.ask("fetch", &fields).unwrap()
}

fn said(answer: &Value) -> Value {
    serde_json::from_str(answer["body"].as_str().unwrap()).unwrap()
}

fn curl(arguments: &[&str]) -> (String, Duration) {
    let began = Instant::now();
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "60"])
        .args(arguments)
        .output()
        .expect("curl is missing: run `make peers`, or `apt-get install curl`");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    (String::from_utf8(out.stdout).unwrap(), began.elapsed())
}

/// What a raw client hears until the connection ends or nothing more comes.
fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(700)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n) = stream.read(&mut piece) {
        if n == 0 {
            break;
        }
        heard.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn versions_go_together_in_any_combination() {
    let peer = Peer::web();
    for up in ["1.1", "2"] {
        let finback = front(&backend(&peer, up, up), up);
        for down in ["1.1", "2"] {
            let at = url(&finback, "/echo?x=1");
            let answer = fetch(&peer, down, &at, &[("@x-own", "7")]);
            let heard = said(&answer);
            assert_eq!(answer["status"], 200, "{down} {up}");
            assert_eq!(answer["headers"]["x-name"], up);
            assert_eq!(heard["url"], "/echo?x=1");
            assert_eq!(heard["headers"]["x-own"], "7");
            assert_eq!(heard["headers"]["x-forwarded-for"], "127.0.0.1");
            assert_eq!(heard["version"], if up == "2" { "2.0" } else { "1.1" });
            let answer = fetch(
                &peer,
                down,
                &at,
                &[("method", "POST"), ("length", "3000000")],
            );
            assert_eq!(said(&answer)["length"], 3_000_000);
            let large = fetch(&peer, down, &url(&finback, "/large/3000000"), &[]);
            assert_eq!(large["body"].as_str().unwrap().len(), 3_000_000);
            let head = fetch(&peer, down, &at, &[("method", "HEAD")]);
            assert_eq!((&head["status"], &head["body"]), (&json!(200), &json!("")));
        }
    }
}

#[test]
fn bodies_pass_as_they_come() {
    let peer = Peer::web();
    let finback = front(&backend(&peer, "one", "1.1"), "1.1");
    // The first event is there long before the last.
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let at = url(&finback, "/events/400");
        let (first, took) = curl(&[
            version,
            "-N",
            &at,
            "-o",
            "/dev/null",
            "-w",
            "%{time_starttransfer}",
        ]);
        let first: f64 = first.parse().unwrap();
        assert!(
            first < 0.35 && took > Duration::from_millis(1000),
            "{first} {took:?}"
        );
    }
    // A gigabyte goes through in the memory that a little of it takes.
    let at = url(&finback, "/echo");
    let upload = |bytes: u64| {
        let script = format!(
            "head -c {bytes} /dev/zero | curl -sS -T - -o /dev/null -w '%{{http_code}}' {at}"
        );
        let out = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "200");
        finback.process().rss()
    };
    let before = upload(64 << 20);
    let grown = upload(1 << 30).saturating_sub(before);
    println!("{grown} KiB more after a gigabyte");
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[test]
fn routes_see_every_part_of_a_request_and_may_change_it() {
    let peer = Peer::web();
    let backend = backend(&peer, "one", "1.1");
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes:
  web:
    - match: {{ host: nobody.test }}
      respond: {{ status: 418, body: "short and stout", content_type: text/x-tea }}
    - match: {{ path: {{ prefix: /old/ }} }}
      redirect: {{ status: 301, scheme: https, path: {{ prefix: /old/, with: /new/ }} }}
    - match: {{ query: {{ lane: gray }} }}
      to: {{ cluster: back }}
      rewrite: {{ host: other.test, path: {{ regex: "^/v([0-9])/", with: "/version-$1/" }} }}
    - match: {{ http_method: DELETE }}
      respond: {{ status: 405 }}
    - match: {{ service: known.test, method: {{ regex: "GET|POST" }}, attributes: {{ x-lane: blue }} }}
      to: {{ cluster: back }}
      request_headers: {{ remove: [ x-lane ], set: {{ x-set: "1" }}, add: {{ x-add: "2" }} }}
      response_headers: {{ remove: [ x-name ], set: {{ x-mesh: "yes" }} }}
    - match: {{ path: /dead }}
      to: {{ cluster: dead }}
clusters:
  back: {{ endpoints: [ "{backend}" ] }}
  dead: {{ endpoints: [ "127.0.0.1:{}" ] }}
"#,
        free_port()
    ));
    for version in ["1.1", "2"] {
        let ask =
            |path: &str, more: &[(&str, &str)]| fetch(&peer, version, &url(&finback, path), more);
        let host = if version == "2" {
            "@:authority"
        } else {
            "@host"
        };
        let tea = ask("/", &[(host, "nobody.test")]);
        assert_eq!(
            (&tea["status"], &tea["body"]),
            (&json!(418), &json!("short and stout"))
        );
        assert_eq!(tea["headers"]["content-type"], "text/x-tea");
        let moved = ask("/old/x?y=1", &[(host, "a.test")]);
        assert_eq!(moved["status"], 301);
        assert_eq!(moved["headers"]["location"], "https://a.test/new/x?y=1");
        let gray = said(&ask("/v2/x?lane=gray", &[]));
        assert_eq!(gray["url"], "/version-2/x?lane=gray");
        assert_eq!(gray["headers"]["host"], "other.test");
        assert_eq!(ask("/", &[("method", "DELETE")])["status"], 405);
        let blue = ask("/", &[(host, "known.test:80"), ("@x-lane", "blue")]);
        let heard = said(&blue);
        assert_eq!(blue["headers"]["x-mesh"], "yes");
        assert!(blue["headers"]["x-name"].is_null() && heard["headers"]["x-lane"].is_null());
        assert_eq!(
            (&heard["headers"]["x-set"], &heard["headers"]["x-add"]),
            (&json!("1"), &json!("2"))
        );
        // Nowhere, and nobody there.
        let lost = ask("/", &[(host, "known.test")]);
        assert_eq!(lost["status"], 404);
        assert!(
            lost["body"]
                .as_str()
                .unwrap()
                .starts_with("[finback] no route"),
            "{lost}"
        );
        let dead = ask("/dead", &[]);
        assert_eq!(dead["status"], 502);
    }
}

#[test]
fn websockets_pass_over_both_versions() {
    let peer = Peer::web();
    let finback = front(&backend(&peer, "one", "1.1"), "1.1");
    let at = format!("ws://{}/chat", finback.local("web"));
    let fields = [("url", at.as_str()), ("text", "hello there")];
    assert_eq!(peer.ask("socket", &fields).unwrap(), json!("hello there"));
    let at = url(&finback, "/chat");
    let fields = [("url", at.as_str()), ("text", "hello there")];
    assert_eq!(peer.ask("extended", &fields).unwrap(), json!("hello there"));
    let (_, metrics) = finback.admin("/metrics");
    eventually("their records", PATIENCE, || {
        let (_, metrics) = finback.admin("/metrics");
        let ended = metrics.lines().filter(|line| {
            line.starts_with("finback_requests_total{protocol=\"http\"")
                && line.contains("outcome=\"success\"")
                && line.ends_with(" 2")
        });
        if ended.count() == 1 {
            Ok(())
        } else {
            Err(metrics)
        }
    });
    drop(metrics);
}

#[test]
fn requests_that_could_be_read_in_two_ways_never_become_two() {
    let peer = Peer::web();
    let finback = front(&backend(&peer, "one", "1.1"), "1.1");
    let at = finback.local("web");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let refused = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"
            .to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n X-Folded: 1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(),
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(),
        "GET nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ];
    for request in &refused {
        let heard = raw(&at, request.as_bytes());
        let status: u16 = heard
            .split_whitespace()
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        assert!((400..500).contains(&status), "{request:?}: {heard:?}");
        assert_eq!(
            heard.matches("HTTP/1.1 ").count(),
            1,
            "{request:?}: {heard:?}"
        );
    }
    // An encoding beats a length (RFC 9112, section 6.3): one request, and the connection ends.
    let both = format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    );
    let heard = raw(&at, both.as_bytes());
    assert!(!heard.contains("/smuggled"), "{heard}");
    // What stands in a chunk is a body, whatever it looks like.
    let inside = format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
        smuggled.len()
    );
    let heard = raw(&at, inside.as_bytes());
    assert!(
        !heard.contains("\"url\":\"/smuggled\"") && heard.contains("200 OK"),
        "{heard}"
    );
    // Pipelined requests are two, in order.
    let two = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let heard = raw(&at, two.as_bytes());
    assert!(
        heard.find("\"/a\"").unwrap() < heard.find("\"/b\"").unwrap(),
        "{heard}"
    );
}

#[test]
fn oversized_and_slow_heads_end_their_own_connection() {
    let peer = Peer::web();
    let finback = front(&backend(&peer, "one", "1.1"), "1.1");
    let at = finback.local("web");
    let load = peer.begin(
        "load",
        &[("url", &url(&finback, "/echo")), ("millis", "14000")],
    );
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    );
    let heard = raw(&at, long.as_bytes());
    assert!(
        heard.is_empty() || heard.starts_with("HTTP/1.1 431"),
        "{heard}"
    );
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let heard = raw(
        &at,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes(),
    );
    assert!(heard.starts_with("HTTP/1.1 4"), "{heard}");
    let heard = raw(
        &at,
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "z".repeat(9000)).as_bytes(),
    );
    assert!(heard.starts_with("HTTP/1.1 4"), "{heard}");
    // A head that never ends is cut off after ten seconds, however often a byte of it comes.
    let mut slow = TcpStream::connect(&at).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let began = Instant::now();
    let mut piece = [0; 256];
    loop {
        assert!(began.elapsed() < Duration::from_secs(14), "still open");
        match slow.read(&mut piece) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            _ => {}
        }
        let _ = slow.write_all(b"X");
    }
    assert!(
        began.elapsed() > Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
}

#[test]
fn nothing_is_lost_when_either_side_is_deployed_anew() {
    for version in ["1.1", "2"] {
        let peer = Peer::web();
        let servers = Peer::web();
        let (one, two) = (
            backend(&servers, "one", version),
            backend(&servers, "two", version),
        );
        let config = |port: u16| {
            format!(
                r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:{port}", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{one}", "{two}" ], http: "{version}" }} }}
"#
            )
        };
        let port = free_port();
        let finback = Finback::start(&config(port));
        let at = format!("http://127.0.0.1:{port}/echo");
        let fields = [
            ("url", at.as_str()),
            ("version", version),
            ("millis", "6000"),
        ];
        let load = peer.begin("load", &fields);
        thread::sleep(Duration::from_secs(1));
        servers.ask("stop", &[("name", "two")]).unwrap();
        thread::sleep(Duration::from_millis(500));
        // A second proxy takes over the port, and the first one goes.
        let next = Finback::take_over(&config(port));
        finback.process().signal("TERM");
        assert!(finback.process().wait_for_end(PATIENCE).success());
        let load = Load::of(load);
        println!("HTTP/{version}: {load:?}");
        assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
        assert!(load.right > 200 && load.who.len() == 2, "{load:?}");
        drop(next);
    }
}

#[test]
fn retries_and_deadlines_are_the_same_as_for_other_protocols() {
    let peer = Peer::web();
    let backend = backend(&peer, "one", "1.1");
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes:
  web:
    - match: {{ path: {{ prefix: /sleep }} }}
      to: {{ cluster: back }}
      timeout: 300ms
    - match: {{ path: {{ prefix: /status }} }}
      to: {{ cluster: live }}
      retry: {{ attempts: 3, idempotent: true, refused: true }}
    - to: [ {{ cluster: back }} ]
clusters:
  back: {{ endpoints: [ "127.0.0.1:{}", "{backend}" ], outlier: {{ consecutive: 1000 }} }}
  live: {{ endpoints: [ "{backend}" ] }}
"#,
        free_port()
    ));
    // An attempt that finds nobody there is made again: nothing was sent.
    for _ in 0..10 {
        let answer = fetch(
            &peer,
            "1.1",
            &url(&finback, "/echo"),
            &[("method", "POST"), ("body", "x")],
        );
        assert_eq!(said(&answer)["length"], 1);
    }
    let slow = fetch(&peer, "1.1", &url(&finback, "/sleep/2000"), &[]);
    assert_eq!(slow["status"], 504);
    let failed = fetch(
        &peer,
        "1.1",
        &url(&finback, "/status/503"),
        &[("method", "POST"), ("body", "x")],
    );
    assert_eq!(failed["status"], 503);
    let (_, metrics) = finback.admin("/metrics");
    let retries = metrics
        .lines()
        .find(|line| line.starts_with("finback_retries_total"));
    let retries: f64 = retries
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // One found out that nobody is there, and two were answered with 503: who cannot be connected to
    // is asked again now and then only.
    assert!((3.0..=6.0).contains(&retries), "{retries}");
    // One that breaks off cannot be told from one that ran.
    let dropped = fetch(
        &peer,
        "1.1",
        &url(&finback, "/drop"),
        &[("method", "POST"), ("body", "x")],
    );
    assert_eq!(dropped["status"], 502);
}

// === gRPC and Triple ===

/// gRPC's interoperability cases for streams of every kind, deadlines, cancellation, errors and
/// metadata.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

fn interop(port: u16, case: &str) -> Result<(), String> {
    let out = Command::new(built("go/grpc-client"))
        .args([
            "-server_host",
            "127.0.0.1",
            "-server_port",
            &port.to_string(),
        ])
        .args(["-test_case", case])
        .output()
        .unwrap();
    if out.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn the_interoperability_cases_of_grpc_pass() {
    let port = free_port();
    let mut command = Command::new(built("go/grpc-server"));
    let server = Process::start("grpc-server", command.args(["-port", &port.to_string()]));
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ match: {{ protocol: grpc, service: {{ prefix: grpc.testing. }} }}, to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{port}" ] }} }}
"#
    ));
    let through = finback.port("web");
    eventually("the server", PATIENCE, || interop(through, CASES[0]));
    for case in CASES {
        if let Err(why) = interop(through, case) {
            panic!("{case}: {why}");
        }
    }
    let (_, metrics) = finback.admin("/metrics");
    for series in [
        "method=\"EmptyCall\",outcome=\"success\"",
        "method=\"UnimplementedCall\",outcome=\"exception\"",
        "method=\"FullDuplexCall\",outcome=\"abandoned\"",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    // With nobody there, and nowhere to go, clients get a status of their own.
    drop(server);
    let unavailable = interop(through, "empty_unary").unwrap_err();
    assert!(unavailable.contains("Unavailable"), "{unavailable}");
}

#[test]
fn h2spec_passes_strictly() {
    let peer = Peer::web();
    // On a port for HTTP alone, a wrong preface is a bad request of HTTP/1.1; `auto` closes.
    let finback = front(&backend(&peer, "one", "1.1"), "1.1");
    let port = finback.port("web").to_string();
    let out = Command::new(built("go/h2spec"))
        .args(["-S", "-h", "127.0.0.1", "-p", &port, "--timeout", "5"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let last = said.lines().rfind(|line| line.contains("tests"));
    println!("{last:?}");
    assert!(
        last.is_some_and(|last| last.contains(" 0 skipped, 0 failed")),
        "{said}"
    );
}

#[test]
fn triple_is_found_in_zookeeper_and_called_from_java() {
    let zookeeper = ZooKeeper::start();
    let provider = Peer::dubbo3();
    provider.export(&[
        ("registry", &zookeeper.address),
        ("protocol", "tri"),
        ("port", &free_port().to_string()),
        ("version", "1.0.0"),
        ("name", "triple"),
    ]);
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk, layout: dubbo }} }} ] }}
"#,
        zookeeper.address
    ));
    let at = format!("tri://{}/{GREETER}", finback.public("rpc"));
    let consumer = Peer::dubbo3();
    let caller: Caller<'_> = consumer.caller(&[("url", &at), ("version", "1.0.0")]);
    assert_eq!(
        caller.call("sayHello", "you").unwrap(),
        json!("hello you from triple")
    );
    let failure = caller.call("fail", "on purpose").unwrap_err();
    assert!(failure.text.contains("on purpose"), "{failure:?}");
    // Another version is not served: the client's own kind of exception, with the reason.
    let other = consumer.caller(&[("url", &at), ("version", "9.9.9")]);
    let failure = other.call("who", "").unwrap_err();
    assert!(failure.text.contains("[finback]"), "{failure:?}");
    let (_, metrics) = finback.admin("/metrics");
    let series =
        format!("protocol=\"triple\",listener=\"rpc\",service=\"{GREETER}\",method=\"sayHello\"");
    assert!(metrics.contains(&series), "{metrics}");
}

#[test]
fn a_listener_has_bounds_of_its_own() {
    let finback = Finback::start(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    http: { header_size: 1KiB, header_count: 5, uri_size: 50, header_timeout: 300ms, streams: 7, idle: 400ms }
routes: { web: [ { respond: { status: 204 } } ] }
"#,
    );
    let at = finback.local("web");
    let status = |request: &str| {
        let said = raw(&at, request.as_bytes());
        said.lines().next().unwrap_or_default().to_owned()
    };
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
    assert_eq!(status(&target(49)), "HTTP/1.1 204 No Content");
    assert_eq!(status(&target(50)), "HTTP/1.1 400 Bad Request");
    let headers = |count: usize, length: usize| {
        let own = format!("X-A: {}\r\n", "x".repeat(length)).repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{own}\r\n")
    };
    assert_eq!(status(&headers(5, 200)), "HTTP/1.1 204 No Content");
    let too_many = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(status(&headers(6, 1)), too_many);
    let large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(status(&headers(5, 260)), large);
    assert_eq!(
        status("GET / HTTP/1.1\r\nHo"),
        "HTTP/1.1 408 Request Timeout"
    );
    // Who asks for nothing more is closed, long before a read of it would fail.
    let mut idle = TcpStream::connect(&at).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    idle.write_all(target(1).as_bytes()).unwrap();
    let mut said = String::new();
    idle.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    let said = Command::new("nghttp")
        .args(["-v", &url(&finback, "/")])
        .output();
    let said =
        said.expect("nghttp is missing: run `make peers`, or `apt-get install nghttp2-client`");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("SETTINGS_MAX_CONCURRENT_STREAMS(0x03):7"),
        "{said}"
    );
}
