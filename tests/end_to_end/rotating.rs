//! Endpoints that renew their connections all the time, as servers of HTTP/2 do: nothing is lost by that.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::proxies::Proxy;

const PATIENCE: Duration = Duration::from_secs(20);

fn front(endpoints: &[&str], http: &str, more: &str) -> Finback {
    let endpoints = endpoints.join("\", \"");
    Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{endpoints}" ], http: "{http}"{more} }} }}
"#
    ))
}

fn load(finback: &Finback, more: &[&str]) -> String {
    let out = Command::new("h2load")
        .args(["-n", "40000", "-c4", "-m25"])
        .args(more)
        .arg(format!("http://{}/", finback.local("web")))
        .output()
        .expect("h2load is missing: run `make peers`, or `apt-get install nghttp2-client`");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn rotating(requests: &str) -> Proxy {
    let server = format!("listen PORT http2; {requests} location / {{ return 200 fine; }}");
    Proxy::nginx("", &server)
}

#[test]
fn an_nginx_that_renews_its_connections_loses_nothing() {
    // Its default of 1000, and one that makes it renew them far more often than a worker needs.
    for requests in ["", "keepalive_requests 50;"] {
        let nginx = rotating(requests);
        let finback = front(&[&nginx.address], "2", "");
        for body in [&[][..], &["-d", "/etc/hosts"]] {
            let said = load(&finback, body);
            assert!(said.contains("40000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
        }
        assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 0);
    }
}

#[test]
fn endpoints_that_renew_their_connections_are_not_ejected() {
    let all: Vec<Proxy> = (0..3).map(|_| rotating("keepalive_requests 50;")).collect();
    let addresses: Vec<&str> = all.iter().map(|own| &*own.address).collect();
    let finback = front(
        &addresses,
        "2",
        ", outlier: { consecutive: 5, max_percent: 50 }",
    );
    let said = load(&finback, &[]);
    assert!(said.contains("40000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 0);
    assert_eq!(finback.endpoints("back", "available", true).len(), 3);
}

#[test]
fn a_server_of_go_that_ends_connections_loses_nothing() {
    let go = Peer::go();
    for http in ["1.1", "2"] {
        let server = go.ask("http-serve", &[("every", "50")]).unwrap();
        let finback = front(&[server.as_str().unwrap()], http, "");
        for body in [&[][..], &["-d", "/etc/hosts"]] {
            let said = load(&finback, body);
            assert!(
                said.contains("40000 2xx, 0 3xx, 0 4xx, 0 5xx"),
                "HTTP/{http}: {said}"
            );
        }
        assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 0);
    }
}

#[test]
fn a_grpc_server_with_few_streams_and_young_connections_loses_nothing() {
    let go = Peer::go();
    let fields = [("age", "500"), ("streams", "10"), ("delay", "50")];
    let server = go.ask("grpc-serve", &fields).unwrap();
    let finback = front(&[server.as_str().unwrap()], "2", "");
    let at = finback.local("web");
    let endings = eventually("calls", PATIENCE, || {
        let load = [("address", &*at), ("callers", "200"), ("calls", "10")];
        go.ask("grpc-load", &load).map_err(|failure| failure.text)
    });
    assert_eq!(endings["ok"], Value::from(2000), "{endings}");
    assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 0);
}
