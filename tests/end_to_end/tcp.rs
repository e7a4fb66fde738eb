//! Connections that are passed through, by real clients and servers of protocols we do not speak.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn zookeeper_is_reached_through_a_port_that_speaks_everything() {
    let zookeeper = ZooKeeper::start();
    let peer = Peer::web();
    let web = peer.ask("serve", &[("name", "one")]).unwrap();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, tcp_fallback: true }} ]
routes:
  all:
    - match: {{ protocol: tcp }}
      to: {{ cluster: zookeeper }}
    - match: {{ protocol: http }}
      to: {{ cluster: web }}
clusters:
  zookeeper: {{ endpoints: [ "127.0.0.1:{}", "{}" ] }}
  web: {{ endpoints: [ "127.0.0.1:{web}" ] }}
"#,
        free_port(),
        zookeeper.address
    ));
    let address = finback.local("all");
    // Curator's sessions live on it, though one of two endpoints is not there.
    let tools = Peer::registry();
    let at = |path: &'static str| {
        [
            ("registry", address.as_str()),
            ("path", path),
            ("data", "hello"),
        ]
    };
    tools.ask("create", &at("/a/b")).unwrap();
    assert_eq!(tools.ask("get", &at("/a/b")).unwrap(), json!("hello"));
    let url = format!("http://{address}/x");
    assert_eq!(peer.ask("fetch", &[("url", &url)]).unwrap()["status"], 200);
    // A client that only ends its own half still hears the answer.
    let mut half = TcpStream::connect(&address).unwrap();
    half.write_all(b"ruok").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    half.set_read_timeout(Some(PATIENCE)).unwrap();
    half.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "imok");
    eventually("its record", PATIENCE, || {
        let (_, metrics) = finback.admin("/metrics");
        let series =
            "finback_tcp_connections_total{listener=\"all\",service=\"(tcp)\",outcome=\"success\"}";
        if metrics.contains(series) {
            Ok(())
        } else {
            Err(metrics)
        }
    });
}

#[test]
fn tls_is_passed_on_unopened_to_whom_its_name_says() {
    let (secure, folder) = Etcd::start_with_tls();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: tcp, routes: all }} ]
routes:
  all: [ {{ match: {{ sni: localhost }}, to: {{ cluster: etcd }} }} ]
clusters: {{ etcd: {{ endpoints: [ "{}" ] }} }}
"#,
        secure.address
    ));
    let port = finback.port("all");
    let ask = |host: &str| {
        let out = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "5", "--cacert"])
            .arg(folder.join("ca.pem"))
            .arg("--cert")
            .arg(folder.join("client.pem"))
            .arg("--key")
            .arg(folder.join("client.key"))
            .arg(format!("https://{host}:{port}/health"))
            .output()
            .expect("curl is missing: run `make peers`, or `apt-get install curl`");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    // Its own certificates are verified from end to end.
    assert_eq!(ask("localhost"), "{\"health\":\"true\"}");
    // Without a name in it, no route fits: closed, not left hanging.
    let began = Instant::now();
    assert_eq!(ask("127.0.0.1"), "");
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"hello").unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard);
    assert!(heard.is_empty() && began.elapsed() < Duration::from_secs(10));
}

/// A server that gives back what it gets, after it has switched protocols for who asks for that.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let answer = if bytes.starts_with(b"GET ") {
                        &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n"[..]
                    } else {
                        &bytes[..count]
                    };
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn tunnels_end_when_nothing_moves_in_them() {
    let port = echo();
    let finback = Finback::start(&format!(
        r#"
workers: 1
limits: {{ idle: 1s }}
listeners:
  - {{ name: tcp, address: "127.0.0.1:0", protocol: tcp, routes: all }}
  - {{ name: web, address: "127.0.0.1:0", protocol: http, routes: all }}
routes: {{ all: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{port}" ], http: "1.1" }} }}
"#
    ));
    for listener in ["tcp", "web"] {
        let mut tunnel = TcpStream::connect(finback.local(listener)).unwrap();
        tunnel.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = [0; 4096];
        if listener == "web" {
            let request =
                b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n";
            tunnel.write_all(request).unwrap();
            let count = tunnel.read(&mut heard).unwrap();
            assert!(heard[..count].starts_with(b"HTTP/1.1 101 "), "{listener}");
        }
        // Longer than it may be idle.
        for _ in 0..8 {
            tunnel.write_all(b"ping").unwrap();
            tunnel.read_exact(&mut heard[..4]).unwrap();
            thread::sleep(Duration::from_millis(250));
        }
        let quiet = Instant::now();
        assert_eq!(tunnel.read(&mut heard).unwrap(), 0, "{listener}");
        let took = quiet.elapsed();
        assert!(
            (Duration::from_millis(500)..Duration::from_secs(5)).contains(&took),
            "{listener}: {took:?}"
        );
    }
}
