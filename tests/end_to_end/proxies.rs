//! Other proxies in front of it and behind it: who the client is, by headers and by the PROXY protocol.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::proxies::Proxy;
use crate::support::temporary_folder;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that answers each request with its head as it came, and closes.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let length = head.len();
                let begin = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(&[begin.as_bytes(), &head].concat());
            });
        }
    });
    address
}

/// What curl gets, from this address of its own.
fn curl(from: &str, url: &str, more: &[&str]) -> Result<String, String> {
    let out = Command::new("curl")
        .args(["-s", "-k", "-m", "10", "--interface", from])
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).to_lowercase()),
        false => Err(format!("{:?}", out.status)),
    }
}

/// The lines of a header in what an endpoint got.
fn lines(head: &str, name: &str) -> Vec<String> {
    let own = head
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    own.map(str::to_owned).collect()
}

#[test]
fn behind_haproxy_the_client_is_the_one_that_it_names() {
    let back = echo();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web, trusted_proxies: 127.0.0.1 }}
routes:
  web:
    - {{ match: {{ source: 127.0.0.9 }}, to: {{ cluster: back }} }}
    - {{ respond: {{ status: 403, body: "somebody else" }} }}
clusters: {{ back: {{ endpoints: [ "{back}" ], http: "1.1" }} }}
"#
    ));
    let at = finback.local("web");
    let haproxy = Proxy::haproxy(&format!(
        "frontend f\n bind PORT\n option forwardfor\n default_backend b\nbackend b\n server s {at}\n"
    ));
    let url = format!("http://{}/", haproxy.address);
    let forged = [
        "-H",
        "X-Forwarded-For: 10.0.0.1",
        "-H",
        "X-Forwarded-For: 10.0.0.2",
        "-H",
        "Via: 1.0 one",
        "-H",
        "Via: 1.0 two",
    ];
    let heard = curl("127.0.0.9", &url, &forged).unwrap();
    let all = "10.0.0.1, 10.0.0.2, 127.0.0.9, 127.0.0.1";
    assert_eq!(lines(&heard, "x-forwarded-for"), [all], "{heard}");
    assert_eq!(lines(&heard, "via"), ["1.0 one, 1.0 two, 1.1 finback"]);
    // Whoever forges the address gets nowhere.
    let heard = curl("127.0.0.8", &url, &["-H", "X-Forwarded-For: 127.0.0.9"]).unwrap();
    assert_eq!(heard, "somebody else");
    // Nor does one who goes round the proxy; it is served as whom it is.
    let direct = format!("http://{at}/");
    let heard = curl("127.0.0.8", &direct, &["-H", "X-Forwarded-For: 127.0.0.9"]).unwrap();
    assert_eq!(heard, "somebody else");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let forged = [
            version,
            "-H",
            "X-Forwarded-For: 10.0.0.1",
            "-H",
            "X-Forwarded-Proto: ftp",
            "-H",
            "X-Forwarded-Host: forged",
            "-H",
            "Forwarded: for=10.0.0.1",
        ];
        let heard = curl("127.0.0.9", &direct, &forged).unwrap();
        assert_eq!(lines(&heard, "x-forwarded-for"), ["127.0.0.9"], "{heard}");
        assert_eq!(lines(&heard, "x-forwarded-proto"), ["http"]);
        assert_eq!(lines(&heard, "x-forwarded-host"), std::slice::from_ref(&at));
        let element = format!("for=127.0.0.9;proto=http;host=\"{at}\"");
        assert_eq!(lines(&heard, "forwarded"), [element]);
    }
}

#[test]
fn haproxy_says_by_the_proxy_protocol_whose_a_connection_is() {
    let back = echo();
    let folder = temporary_folder();
    certificates(&folder);
    let folder = folder.display().to_string();
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: plain, address: "127.0.0.1:0", protocol: http, routes: web, trusted_proxies: 127.0.0.1, proxy_protocol: require }}
  - {{ name: auto, address: "127.0.0.1:0", routes: web, trusted_proxies: 127.0.0.1, proxy_protocol: trusted }}
  - name: tls
    address: "127.0.0.1:0"
    protocol: http
    routes: web
    trusted_proxies: [ 127.0.0.1 ]
    proxy_protocol: require
    tls: {{ certificates: [ {{ certificate: "{folder}/server.pem", key: "{folder}/server.key" }} ] }}
routes:
  web:
    - {{ match: {{ source: 127.0.0.9 }}, to: {{ cluster: back }} }}
    - {{ respond: {{ status: 403, body: "somebody else" }} }}
clusters: {{ back: {{ endpoints: [ "{back}" ], http: "1.1" }} }}
"#
    ));
    for (listener, scheme) in [("plain", "http"), ("auto", "http"), ("tls", "https")] {
        let at = finback.local(listener);
        for how in [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        ] {
            let haproxy = Proxy::haproxy(&format!(
                "frontend f\n mode tcp\n bind PORT\n unique-id-format id-%pid\n default_backend b\n\
                 backend b\n mode tcp\n server s {at} {how} check inter 200ms fall 1\n"
            ));
            let url = format!("{scheme}://{}/", haproxy.address);
            for version in ["--http1.1", "--http2"] {
                let heard = curl("127.0.0.9", &url, &[version]).unwrap();
                assert_eq!(lines(&heard, "x-forwarded-for"), ["127.0.0.9"], "{how}");
                assert_eq!(
                    curl("127.0.0.8", &url, &[version]).unwrap(),
                    "somebody else"
                );
            }
            // Its health checks say that they are its own, and are no fault.
            thread::sleep(Duration::from_millis(500));
            assert!(curl("127.0.0.9", &url, &[]).is_ok());
        }
        // Without a header nobody who has to say one is served; nor who has no say.
        let direct = format!("{scheme}://{at}/");
        assert!(curl("127.0.0.1", &direct, &[]).is_err(), "{listener}");
        let other = curl("127.0.0.9", &direct, &[]);
        assert_eq!(other.is_ok(), listener == "auto", "{listener}: {other:?}");
        let mut liar = TcpStream::connect(&at).unwrap();
        liar.write_all(b"PROXY TCP4 127.0.0.9 1.1.1.1 5 x\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut heard = String::new();
        let _ = liar.read_to_string(&mut heard);
        assert_eq!(heard, "");
    }
}

/// An nginx that says whom the PROXY protocol names.
fn told(http2: &str) -> Proxy {
    let server = format!(
        "listen PORT proxy_protocol {http2}; location / {{ return 200 \"$proxy_protocol_addr $connection\\n\"; }}"
    );
    Proxy::nginx("", &server)
}

#[test]
fn endpoints_are_told_whose_a_connection_is_and_no_client_gets_anothers() {
    for version in ["v1", "v2"] {
        let (one, two) = (told(""), told("http2"));
        let accepting = Proxy::haproxy(
            "frontend f\n mode tcp\n bind PORT accept-proxy\n log global\n log-format 'from %ci'\n \
             default_backend b\nbackend b\n mode tcp\n server s 127.0.0.1:1\n",
        );
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners:
  - {{ name: one, address: "127.0.0.1:0", protocol: http, routes: one }}
  - {{ name: two, address: "127.0.0.1:0", protocol: http, routes: two, trusted_proxies: 127.0.0.1 }}
  - {{ name: tcp, address: "127.0.0.1:0", protocol: tcp, routes: tcp }}
routes:
  one: [ {{ to: {{ cluster: one }} }} ]
  two: [ {{ to: {{ cluster: two }} }} ]
  tcp: [ {{ to: {{ cluster: tcp }} }} ]
clusters:
  one: {{ endpoints: [ "{}" ], http: "1.1", proxy_protocol: {version}, health_check: {{ protocol: http, interval: 100ms }} }}
  two: {{ endpoints: [ "{}" ], http: "2", proxy_protocol: {version} }}
  tcp: {{ endpoints: [ "{}" ], proxy_protocol: {version} }}
"#,
            one.address, two.address, accepting.address
        ));
        for listener in ["one", "two"] {
            let url = format!("http://{}/", finback.local(listener));
            let mut connections = Vec::new();
            // Two requests over each client's connection: its own connection serves both, and nobody else.
            for client in ["127.0.0.8", "127.0.0.9", "127.0.0.8", "127.0.0.9"] {
                let heard = curl(client, &url, &[&url]).unwrap();
                let mut own: Vec<_> = heard.lines().map(str::to_owned).collect();
                assert_eq!(own.len(), 2);
                own.dedup();
                assert_eq!(own.len(), 1, "{own:?}");
                assert!(own[0].starts_with(client), "{version} {listener}: {own:?}");
                connections.extend(own);
            }
            connections.sort();
            connections.dedup();
            assert_eq!(connections.len(), 4);
        }
        // Whom a trusted proxy names counts.
        let url = format!("http://{}/", finback.local("two"));
        for client in ["192.0.2.1", "192.0.2.2"] {
            let named = format!("X-Forwarded-For: {client}");
            let heard = curl("127.0.0.1", &url, &["-H", &named]).unwrap();
            assert!(heard.starts_with(client), "{heard}");
        }
        let _ = curl(
            "127.0.0.9",
            &format!("http://{}/", finback.local("tcp")),
            &[],
        );
        let from = |line: &str| line.contains("from 127.0.0.9").then_some(());
        accepting
            .process()
            .wait_for("the client's address", PATIENCE, 0, from);
        // Health checks are our own, and read as such.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(finback.endpoints("one", "available", true).len(), 1);
    }
}

#[test]
fn what_could_not_be_honoured_is_refused_with_its_place() {
    let config = |listener: &str, route: &str, cluster: &str| {
        format!(
            r#"
listeners:
  - {{ name: a, address: "127.0.0.1:0", routes: a, {listener} }}
routes:
  a: [ {{ to: {{ cluster: c }}{route} }} ]
clusters:
  c: {{ endpoints: [ "127.0.0.1:1" ]{cluster} }}
"#
        )
    };
    let version = ", proxy_protocol: v2";
    for (listener, route, cluster, why) in [
        (
            "protocol: http, proxy_protocol: require",
            "",
            "",
            "finback.yaml:3:",
        ),
        (
            "protocol: http, proxy_protocol: maybe, trusted_proxies: ::1",
            "",
            "",
            "require or trusted",
        ),
        (
            "protocol: bolt, trusted_proxies: 10.0.0.0/8",
            "",
            "",
            "`proxy_protocol` too",
        ),
        (
            "protocol: http, trusted_proxies: 10.0.0.1/8",
            "",
            "",
            "10.0.0.0/8",
        ),
        (
            "protocol: http",
            "",
            ", proxy_protocol: v3",
            "finback.yaml:7:",
        ),
        ("protocol: bolt", "", version, "all clients share"),
        ("protocol: auto", "", version, "all clients share"),
        (
            "protocol: mqtt",
            ", mqtt: { proxy_protocol: true }",
            version,
            "take one away",
        ),
    ] {
        let (good, said) = Finback::check(&config(listener, route, cluster));
        assert!(!good && said.contains(why), "{listener}: {said}");
    }
    for (listener, route, cluster) in [
        (
            "protocol: bolt, trusted_proxies: 10.0.0.0/8, proxy_protocol: trusted",
            "",
            "",
        ),
        ("protocol: auto", ", match: { protocol: http }", version),
        ("protocol: mqtt", "", version),
    ] {
        let (good, said) = Finback::check(&config(listener, route, cluster));
        assert!(good, "{listener}: {said}");
    }
}
