//! Clients of HTTP that others wrote, each for what only it does.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::temporary_folder;

fn front(version: &str) -> (Peer, Finback) {
    front_for("", version)
}

/// For requests that match only.
fn front_for(matched: &str, version: &str) -> (Peer, Finback) {
    let peer = Peer::web();
    let fields = [("name", "one"), ("version", version)];
    let port = peer.ask("serve", &fields).unwrap();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ {matched}to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{port}" ], http: "{version}" }} }}
"#
    ));
    (peer, finback)
}

fn run(program: &str, package: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output();
    let hint = format!("{program} is missing: run `make peers`, or `apt-get install {package}`");
    let out = out.expect(&hint);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let why = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {said}\n{why}");
    said
}

#[test]
fn httpx_is_served_in_both_versions() {
    for file in ["httpx", "h2"] {
        let path = format!("/usr/lib/python3/dist-packages/{file}");
        assert!(
            Path::new(&path).exists(),
            "{path} is missing: run `make peers`, or `apt-get install python3-{file}`"
        );
    }
    for endpoint in ["1.1", "2"] {
        let (_peer, finback) = front(endpoint);
        let at = format!("http://{}", finback.local("web"));
        for version in ["1.1", "2"] {
            let script = "tests/peers/python/httpx_calls.py";
            let arguments = [script, &at, version];
            assert_eq!(run("/usr/bin/python3", "python3", &arguments), "fine\n");
        }
    }
}

#[test]
fn h2load_loses_nothing() {
    let (_peer, finback) = front("1.1");
    let at = format!("http://{}/echo", finback.local("web"));
    for version in [&["-m", "10"][..], &["--h1"]] {
        let arguments = [&["-n", "10000", "-c", "20"], version, &[&at]].concat();
        let said = run("h2load", "nghttp2-client", &arguments);
        let all = "10000 succeeded, 0 failed, 0 errored, 0 timeout";
        let (_, metrics) = finback.admin("/metrics");
        assert!(said.contains(all), "{said}\n{metrics}");
    }
}

/// Who asks first whether a body is wanted is told so when it is, and is spared it when it is not.
#[test]
fn nghttp_is_told_to_go_on() {
    let body = temporary_folder().join("body");
    std::fs::write(&body, "hello").unwrap();
    for endpoint in ["1.1", "2"] {
        let (_peer, finback) = front_for("match: { path: /echo }, ", endpoint);
        let post = |path: &str| {
            let at = format!("http://{}{path}", finback.local("web"));
            let data = body.to_str().unwrap();
            let arguments = ["-v", "--expect-continue", "-d", data, &at];
            run("nghttp", "nghttp2-client", &arguments)
        };
        // It sends the body anyway a second later: what counts is what came first.
        let said = post("/echo");
        let place = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(place(":status: 100") < place("send DATA frame"), "{said}");
        assert!(place("send DATA frame") < place(":status: 200"), "{said}");
        assert!(said.contains("hello"), "{said}");
        let refused = post("/nowhere");
        assert!(refused.contains(":status: 404"), "{refused}");
        assert!(!refused.contains(":status: 100"), "{refused}");
        assert!(!refused.contains("send DATA frame"), "{refused}");
    }
}

/// Who begins in HTTP/1.1 may go on in HTTP/2, unless what it sends has a body.
#[test]
fn curl_goes_on_in_http2() {
    // Only where it is asked for: RFC 9113 took this way away.
    let peer = Peer::web();
    let port = peer.ask("serve", &[("name", "one")]).unwrap();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, http: {{ h2c_upgrade: true }} }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{port}" ], http: "1.1" }} }}
"#
    ));
    let at = format!("http://{}/echo", finback.local("web"));
    let told = [
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code} ",
    ];
    let get = [&told[..], &["--http2", &at, &at]].concat();
    let said = run("curl", "curl", &[&get[..], &["-o", "/dev/null"]].concat());
    assert_eq!(said, "2 200 2 200 ");
    let post = [&told[..], &["--http2", "-d", "x=y", &at]].concat();
    assert_eq!(run("curl", "curl", &post), "1.1 200 ");
    // A head of its own answers it, too.
    let head = [&told[..], &["--http2", "--head", &at]].concat();
    assert_eq!(run("curl", "curl", &head), "2 200 ");
}

/// Dubbo's library for JavaScript, on both sides, in each form that it has.
#[test]
fn dubbo_for_javascript_speaks_triple() {
    let peer = Peer::web();
    let serve = |name: &str, version: &str| {
        let fields = [("name", name), ("serviceVersion", version)];
        let port = peer.ask("tripleServe", &fields).unwrap();
        format!("127.0.0.1:{port}")
    };
    // Its own streams name no version, in any form.
    let (one, two) = (serve("one", ""), serve("two", "2.0.0"));
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - match: {{ service: greet.Greeter, version: 2.0.0 }}
      to: {{ cluster: two }}
    - match: {{ service: greet.Greeter }}
      to: {{ cluster: one }}
clusters: {{ one: {{ endpoints: [ "{one}" ] }}, two: {{ endpoints: [ "{two}" ] }} }}
"#
    ));
    let url = format!("http://{}", finback.local("web"));
    for form in ["triple", "json", "grpc"] {
        let call = |method: &str, argument: &str, service_version: &str| {
            let fields = [
                ("url", url.as_str()),
                ("version", "2"),
                ("form", form),
                ("method", method),
                ("argument", argument),
                ("serviceVersion", service_version),
            ];
            peer.ask("triple", &fields).unwrap()
        };
        let greeted = call("greet", "Ann", "");
        assert_eq!(
            greeted,
            json!({"code": 0, "texts": ["one greets Ann"]}),
            "{form}"
        );
        if form != "grpc" {
            // Its own gRPC form names no version.
            let greeted = call("greet", "Ann", "2.0.0");
            assert_eq!(greeted["texts"][0], "two greets Ann", "{form}: {greeted}");
        }
        let nobody = call("greet", "nobody", "");
        assert_eq!(nobody["code"], 5, "{form}: {nobody}");
        assert_eq!(nobody["text"], "there is nobody", "{form}");
        let counted = call("count", "4", "");
        assert_eq!(
            counted["texts"],
            json!(["1", "2", "3", "4"]),
            "{form}: {counted}"
        );
    }
}

/// After so many requests, a client of HTTP/2 is asked to connect anew, and loses nothing by that.
#[test]
fn clients_connect_anew_when_they_are_asked_to() {
    let finback = Finback::start(
        r#"
workers: 1
listeners: [ { name: web, address: "127.0.0.1:0", routes: web, http: { requests: 1, h2c_upgrade: true } } ]
routes: { web: [ { respond: { status: 204 } } ] }
"#,
    );
    let at = format!("http://{}/", finback.local("web"));
    // In a hurry, each connection serves twice as many; with pauses, as many as it should.
    // (HTTP/1.1 has no such bound.)
    let (quick, slow) = ("1000/s", "24/m");
    for (version, rate, connects) in [
        ("--http2", quick, "10101"),
        ("--http2", slow, "111"),
        ("--http1.1", quick, "10000"),
    ] {
        let told = ["-sS", "--rate", rate, version];
        let form = ["-w", "%{http_code} %{num_connects} "];
        let urls = vec![at.as_str(); connects.len()];
        let said = run("curl", "curl", &[&told[..], &form, &urls].concat());
        let expected: String = connects.chars().map(|n| format!("204 {n} ")).collect();
        assert_eq!(said, expected, "{version} {rate}");
    }
}
