//! Endpoints are asked whether they are healthy, in every protocol.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::free_port;
use crate::support::peer::Peer;
use crate::support::world::NODE_GREETER;
use crate::support::zookeeper::ZooKeeper;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that accepts connections and never says anything.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    });
    address
}

fn checked(check: &str, endpoints: &[&str]) -> Finback {
    let list: Vec<_> = endpoints.iter().map(|own| format!("\"{own}\"")).collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: back }} }} ] }}
clusters:
  back:
    endpoints: [ {} ]
    outlier: {{ consecutive: 0 }}
    health_check: {{ {check}, interval: 200ms, timeout: 150ms }}
"#,
        list.join(", ")
    ))
}

/// Which endpoints are unhealthy.
fn unhealthy(finback: &Finback) -> Vec<String> {
    let (_, clusters) = finback.admin("/clusters");
    let clusters: Value = serde_json::from_str(&clusters).unwrap();
    let endpoints = clusters[0]["endpoints"].as_array().unwrap();
    let ill = endpoints.iter().filter(|own| own["state"] == "unhealthy");
    ill.map(|own| own["address"].as_str().unwrap().to_owned())
        .collect()
}

fn eventually_unhealthy(finback: &Finback, wanted: &[&str]) {
    eventually("the unhealthy", PATIENCE, || {
        let found = unhealthy(finback);
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

#[test]
fn who_takes_no_connection_or_gives_no_heartbeat_is_unhealthy() {
    let zookeeper = ZooKeeper::start();
    for protocol in ["tcp", "bolt", "dubbo"] {
        let port = free_port().to_string();
        let provider = Peer::node();
        provider.export(&[
            (
                "protocol",
                if protocol == "dubbo" { "dubbo" } else { "bolt" },
            ),
            ("registry", &zookeeper.address),
            ("interface", NODE_GREETER),
            ("port", &port),
            ("name", "one"),
        ]);
        let good = format!("127.0.0.1:{port}");
        let bad = match protocol {
            "tcp" => format!("127.0.0.1:{}", free_port()),
            _ => silent(),
        };
        let finback = checked(&format!("protocol: {protocol}"), &[&good, &bad]);
        eventually_unhealthy(&finback, &[&bad]);
        // And so no call goes there: not one is late or lost.
        if protocol != "dubbo" {
            let caller = provider.caller(&[
                ("protocol", "bolt"),
                ("address", &finback.local("all")),
                ("interface", NODE_GREETER),
            ]);
            for _ in 0..40 {
                assert_eq!(caller.call("who", "").unwrap(), "one");
            }
        }
        drop(provider);
        let mut both = [good.as_str(), bad.as_str()];
        both.sort_unstable_by_key(|own| *own != good);
        eventually_unhealthy(&finback, &both);
    }
}

#[test]
fn http_is_judged_by_its_status_and_comes_back() {
    for version in ["1.1", "2"] {
        let peer = Peer::web();
        let serve = |name: &str| {
            let port = peer.ask("serve", &[("name", name), ("version", version)]);
            format!("127.0.0.1:{}", port.unwrap())
        };
        let (one, two) = (serve("one"), serve("two"));
        let config = |path: &str| {
            format!(
                r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: back }} }} ] }}
clusters:
  back:
    endpoints: [ "{one}", "{two}" ]
    http: "{version}"
    health_check: {{ protocol: http, path: {path}, host: acme.test, status: [200, 204], interval: 200ms }}
"#
            )
        };
        let finback = Finback::start(&config("/echo"));
        thread::sleep(Duration::from_millis(700));
        assert_eq!(unhealthy(&finback), [""; 0], "{version}");
        peer.ask("stop", &[("name", "two")]).unwrap();
        eventually_unhealthy(&finback, &[&two]);
        let port = two.rsplit_once(':').unwrap().1;
        let fields = [("name", "two"), ("version", version), ("port", port)];
        peer.ask("serve", &fields).unwrap();
        eventually_unhealthy(&finback, &[]);
        // Another question is taken up at once, and so is none.
        finback.write(&config("/status/503"));
        eventually_unhealthy(&finback, &[&one, &two]);
        let calm = config("/echo");
        let without: String = calm
            .lines()
            .filter(|l| !l.contains("health_check"))
            .collect::<Vec<_>>()
            .join("\n");
        finback.write(&without);
        eventually_unhealthy(&finback, &[]);
    }
}

#[test]
fn grpc_says_itself_whether_it_serves() {
    let go = Peer::go();
    let serve = || {
        go.ask("grpc-serve", &[])
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (one, two) = (serve(), serve());
    let say = |address: &str, status: &str| {
        let fields = [
            ("address", address),
            ("service", "shop"),
            ("status", status),
        ];
        go.ask("grpc-health", &fields).unwrap();
    };
    say(&one, "SERVING");
    say(&two, "SERVING");
    let finback = checked("protocol: grpc, service: shop", &[&one, &two]);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(unhealthy(&finback), [""; 0]);
    say(&one, "NOT_SERVING");
    eventually_unhealthy(&finback, &[&one]);
    say(&one, "SERVING");
    eventually_unhealthy(&finback, &[]);
    // A server that does not know the service does not serve it.
    let finback = checked("protocol: grpc, service: nobody", &[&one, &two]);
    eventually_unhealthy(&finback, &[&one, &two]);
}
