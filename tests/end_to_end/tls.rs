//! TLS on both sides, for every protocol, by clients of others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::peer::{Load, Peer, built};
use crate::support::world::NODE_GREETER;
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);

fn files() -> PathBuf {
    let folder = temporary_folder();
    certificates(&folder);
    folder
}

fn curl(arguments: &[&str]) -> Result<String, String> {
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .args(arguments)
        .output()
        .expect("curl is missing: run `make peers`, or `apt-get install curl`");
    if out.status.success() {
        return Ok(String::from_utf8(out.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned())
}

fn web(peer: &Peer) -> String {
    let port = peer.ask("serve", &[("name", "one")]).unwrap();
    format!("127.0.0.1:{port}")
}

/// The path of a file in a folder.
fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn clients_choose_version_and_certificate_and_show_who_they_are() {
    let peer = Peer::web();
    let backend = web(&peer);
    let folder = files();
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates:
        - {{ certificate: "{f}/server.pem", key: "{f}/server.key" }}
        - {{ certificate: "{f}/other.pem", key: "{f}/other.key" }}
      client_ca: "{f}/ca.pem"
      client_optional: true
      plain: true
routes:
  web:
    - match: {{ protocol: http, identity: {{ prefix: "spiffe://acme/" }} }}
      to: {{ cluster: back }}
      request_headers: {{ set: {{ x-who: workload }} }}
    - match: {{ protocol: http, sni: a.wild.test }}
      to: {{ cluster: back }}
      request_headers: {{ set: {{ x-who: wild }} }}
    - to: {{ cluster: back }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
"#
    ));
    let port = finback.port("web");
    let ca = at(&folder, "ca.pem");
    let secure = format!("https://127.0.0.1:{port}/x");
    for (version, wanted) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for tls in [
            ["--tlsv1.2", "--tls-max", "1.2"],
            ["--tlsv1.3", "--tls-max", "1.3"],
        ] {
            let said = curl(
                &[
                    &[version, "--cacert", &ca][..],
                    &tls,
                    &["-w", "\n%{http_version}", &secure],
                ]
                .concat(),
            );
            let said = said.unwrap();
            assert!(said.ends_with(&format!("\n{wanted}")), "{said}");
            assert!(said.contains("\"x-forwarded-proto\":\"https\""), "{said}");
        }
    }
    // Without TLS on the same port, too.
    let said = curl(&[&format!("http://127.0.0.1:{port}/x")]).unwrap();
    assert!(said.contains("\"x-forwarded-proto\":\"http\""), "{said}");
    // Another name has another certificate, which curl verifies.
    for host in ["other.test", "a.wild.test"] {
        let resolve = format!("{host}:{port}:127.0.0.1");
        let url = format!("https://{host}:{port}/x");
        let said = curl(&["--cacert", &ca, "--resolve", &resolve, &url]).unwrap();
        assert_eq!(
            said.contains("\"x-who\":\"wild\""),
            host == "a.wild.test",
            "{said}"
        );
    }
    let (certificate, key) = (at(&folder, "workload.pem"), at(&folder, "workload.key"));
    let said = curl(&[
        "--cacert",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
        &secure,
    ])
    .unwrap();
    assert!(said.contains("\"x-who\":\"workload\""), "{said}");
    // A stranger's certificate is refused, and so is garbage.
    let stranger = files();
    let (certificate, key) = (at(&stranger, "client.pem"), at(&stranger, "client.key"));
    curl(&[
        "--cacert",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
        &secure,
    ])
    .unwrap_err();
    let mut garbage = TcpStream::connect(("127.0.0.1", port)).unwrap();
    garbage.write_all(b"\x16\x03\x01\xff\xff garbage").unwrap();
    garbage.set_read_timeout(Some(PATIENCE)).unwrap();
    let began = Instant::now();
    let mut heard = Vec::new();
    // Ended or reset, but not left open.
    let _ = garbage.read_to_end(&mut heard);
    assert!(began.elapsed() < Duration::from_secs(10), "{heard:?}");
}

#[test]
fn certificates_are_read_again_and_nobody_is_cut_off() {
    let peer = Peer::web();
    let backend = web(&peer);
    let (folder, next) = (files(), files());
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls: {{ certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ] }}
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
"#
    ));
    let url = format!("https://127.0.0.1:{}/events/1500", finback.port("web"));
    let (old, new) = (at(&folder, "ca.pem"), at(&next, "ca.pem"));
    let mut long = Command::new("curl");
    let long = long.args(["-sS", "-N", "--cacert", &old, &url]);
    let long = long.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    curl(&["--cacert", &new, &url]).unwrap_err();
    // Half of the pair fits nothing: the former stays.
    std::fs::copy(next.join("server.pem"), folder.join("server.pem")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let fixed = url.replace("/events/1500", "/x");
    curl(&["--cacert", &old, &fixed]).unwrap();
    std::fs::copy(next.join("server.key"), folder.join("server.key")).unwrap();
    eventually("the new certificate", PATIENCE, || {
        curl(&["--cacert", &new, &fixed]).map(|_| ())
    });
    let said = long.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&said.stdout)
            .matches("data:")
            .count(),
        3
    );
}

#[test]
fn every_protocol_is_carried_from_mesh_to_mesh_under_mutual_tls() {
    let node = Peer::node();
    let bolt = free_port();
    node.export(&[
        ("protocol", "bolt"),
        ("interface", NODE_GREETER),
        ("port", &bolt.to_string()),
        ("name", "far"),
    ]);
    let peer = Peer::web();
    let backend = web(&peer);
    let folder = files();
    let f = folder.display();
    // One port takes everything under TLS, and knows who it is from.
    let far = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: all
    address: "127.0.0.1:0"
    routes: all
    tls:
      certificates: [ {{ certificate: "{f}/other.pem", key: "{f}/other.key" }} ]
      client_ca: "{f}/ca.pem"
routes:
  all:
    - match: {{ protocol: bolt, identity: "spiffe://acme/pay" }}
      to: {{ cluster: bolt }}
    - match: {{ protocol: http, identity: "spiffe://acme/pay" }}
      to: {{ cluster: web }}
clusters:
  bolt: {{ endpoints: [ "127.0.0.1:{bolt}" ] }}
  web: {{ endpoints: [ "{backend}" ] }}
"#
    ));
    let front = |more: &str| {
        Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: far }} }} ] }}
clusters:
  far:
    endpoints: [ "127.0.0.1:{}" ]
    {more}
"#,
            far.port("all")
        ))
    };
    let tls = format!(
        "tls: {{ ca: {f}/ca.pem, certificate: {f}/workload.pem, key: {f}/workload.key, server_name: other.test }}"
    );
    for version in ["1.1", "2"] {
        let near = front(&format!("http: \"{version}\"\n    {tls}"));
        let url = format!("http://{}/echo", near.local("all"));
        for down in ["1.1", "2"] {
            let fields = [
                ("url", url.as_str()),
                ("version", down),
                ("method", "POST"),
                ("length", "2000000"),
            ];
            let got = peer.ask("fetch", &fields).unwrap();
            assert_eq!(got["status"], 200, "{got}");
            assert!(got["body"].as_str().unwrap().contains("\"length\":2000000"));
        }
        if version == "1.1" {
            let caller = node.caller(&[
                ("protocol", "bolt"),
                ("address", &near.local("all")),
                ("interface", NODE_GREETER),
            ]);
            assert_eq!(caller.call("who", "").unwrap(), json!("far"));
            assert_eq!(caller.call("large", "1000000").unwrap(), json!(1_000_000));
            let load = Load::of(caller.load(1500));
            assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
            assert!(load.right > 50, "{load:?}");
        }
    }
    // An endpoint that is not who it should be gets nothing.
    let nameless = tls.replace(", server_name: other.test", "");
    for wrong in [nameless, tls.replace("other.test", "another.test")] {
        let near = front(&wrong);
        let url = format!("http://{}/echo", near.local("all"));
        let got = peer.ask("fetch", &[("url", &url)]).unwrap();
        assert_eq!(got["status"], 502, "{got}");
    }
    // Neither does one that cannot say who we are.
    let silent = tls.replace(
        &format!("certificate: {f}/workload.pem, key: {f}/workload.key, "),
        "",
    );
    let near = front(&silent);
    let url = format!("http://{}/echo", near.local("all"));
    let got = peer.ask("fetch", &[("url", &url)]).unwrap();
    assert_eq!(got["status"], 502, "{got}");
}

#[test]
fn h2spec_passes_strictly_under_tls() {
    let peer = Peer::web();
    let backend = web(&peer);
    let folder = files();
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls: {{ certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ] }}
  - name: only
    address: "127.0.0.1:0"
    protocol: http
    routes: web
    tls: {{ certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ] }}
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
"#
    ));
    for listener in ["web", "only"] {
        let port = finback.port(listener).to_string();
        let out = Command::new(built("go/h2spec"))
            .args(["-S", "-t", "-k", "-h", "127.0.0.1", "-p", &port])
            .args(["--timeout", "5"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let last = said.lines().rfind(|line| line.contains("tests"));
        assert!(
            last.is_some_and(|last| last.contains(" 0 skipped, 0 failed")),
            "{listener}: {said}"
        );
    }
}

/// An endpoint whose authority was exchanged for another is spoken to as soon as the files of the
/// cluster are exchanged, too; nobody reloads anything, and what is under way goes on.
#[test]
fn keys_towards_endpoints_are_read_again() {
    let peer = Peer::web();
    let backend = web(&peer);
    let (folder, next, own) = (files(), files(), files());
    let names = ["ca.pem", "workload.pem", "workload.key"];
    let exchange = |from: &Path| {
        for name in names {
            std::fs::copy(from.join(name), own.join(name)).unwrap();
        }
    };
    exchange(&folder);
    let far = |folder: &Path| {
        let f = folder.display();
        Finback::start(&format!(
            r#"
workers: 1
listeners:
  - name: all
    address: "127.0.0.1:0"
    routes: all
    tls:
      certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ]
      client_ca: "{f}/ca.pem"
routes: {{ all: [ {{ match: {{ identity: "spiffe://acme/pay" }}, to: {{ cluster: web }} }} ] }}
clusters: {{ web: {{ endpoints: [ "{backend}" ] }} }}
"#
        ))
    };
    let (former, latter) = (far(&folder), far(&next));
    let o = own.display();
    let near = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ path: {{ prefix: /events }} }}
      to: {{ cluster: former }}
    - to: {{ cluster: latter }}
clusters:
  former:
    endpoints: [ "127.0.0.1:{}" ]
    tls: {{ ca: {o}/ca.pem, certificate: {o}/workload.pem, key: {o}/workload.key }}
  latter:
    endpoints: [ "127.0.0.1:{}" ]
    tls: {{ ca: {o}/ca.pem, certificate: {o}/workload.pem, key: {o}/workload.key }}
"#,
        former.port("all"),
        latter.port("all")
    ));
    let url = |path: &str| format!("http://{}{path}", near.local("all"));
    let status = |path: &str| {
        let form = ["-o", "/dev/null", "-w", "%{http_code}"];
        curl(&[&form[..], &[&url(path)]].concat()).unwrap()
    };
    let mut long = Command::new("curl");
    let long = long.args(["-sS", "-N", &url("/events/2500")]);
    let long = long.stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert_eq!(status("/events/1"), "200");
    assert_eq!(status("/echo"), "502");
    exchange(&next);
    eventually("the new keys", PATIENCE, || {
        match status("/echo").as_str() {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let said = long.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.matches("data:").count(), 3, "{said}");
}
