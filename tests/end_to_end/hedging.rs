//! Hedging: servers that hang hold up no call, and nobody is blamed.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::endpoint::{BlackHole, Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::peer::{Peer, built};
use crate::support::rpc::{Call, Client, SPEECHES};
use crate::support::world::GREETER;
use crate::support::{eventually, free_port, host_address};

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls, about half of which reach the server that hangs.
const CALLS: usize = 12;

/// Hedged routes to these endpoints, after so many milliseconds. Who waits for a connection waits in vain.
fn front(endpoints: [&str; 2], delay: u32) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "0.0.0.0:0", routes: all }} ]
routes:
  all:
    - to: {{ cluster: both }}
      retry: {{ attempts: 2, idempotent: true, hedging_delay: {delay}ms }}
clusters:
  both: {{ endpoints: [ "{}", "{}" ], balance: round-robin, connect_timeout: 60s }}
"#,
        endpoints[0], endpoints[1]
    ))
}

/// Checks that second attempts were made, and that both endpoints are still in rotation.
fn nobody_was_blamed(finback: &Finback) {
    // Counts are written beside the calls.
    eventually("second attempts", PATIENCE, || {
        let (_, metrics) = finback.admin("/metrics");
        let retries = metrics.lines().find_map(|line| {
            let rest = line.strip_prefix("finback_cluster_retries_total{")?;
            rest.split_once("} ")?.1.parse::<f64>().ok()
        });
        retries.filter(|own| *own > 0.0).ok_or(metrics)
    });
    eventually("nothing in flight", PATIENCE, || {
        let cluster = both(finback);
        assert_eq!(cluster["ejections"], json!(0), "{cluster}");
        let is_idle = cluster["in_flight"] == json!(0);
        is_idle.then_some(()).ok_or(cluster.to_string())
    });
}

/// What is said of the cluster.
fn both(finback: &Finback) -> Value {
    let (_, clusters) = finback.admin("/clusters");
    let clusters: Value = serde_json::from_str(&clusters).unwrap();
    let mut all = clusters.as_array().unwrap().iter();
    all.find(|own| own["name"] == "both").unwrap().clone()
}

/// Two providers in a process each, and their ports.
fn two(make: impl Fn() -> Peer, fields: &[(&str, &str)]) -> [(Peer, String); 2] {
    [0, 1].map(|number| {
        let (peer, port) = (make(), free_port().to_string());
        let name = format!("number {number}");
        let own = [("port", port.as_str()), ("name", name.as_str())];
        peer.export(&[fields, &own].concat());
        (peer, port)
    })
}

#[test]
fn calls_of_sofa_and_dubbo_go_on_while_a_provider_hangs() {
    let host = host_address();
    for protocol in ["bolt", "dubbo"] {
        let is_bolt = protocol == "bolt";
        let providers = match is_bolt {
            true => two(Peer::sofa, &[("host", "127.0.0.1")]),
            false => two(Peer::dubbo3, &[("serialization", "hessian2")]),
        };
        let at = match is_bolt {
            true => "127.0.0.1".to_owned(),
            false => host.to_string(),
        };
        let finback = front(
            [
                &format!("{at}:{}", providers[0].1),
                &format!("{at}:{}", providers[1].1),
            ],
            100,
        );
        let client = match is_bolt {
            true => Peer::sofa(),
            false => Peer::dubbo3(),
        };
        let url = match is_bolt {
            true => format!("bolt://{}", finback.local("all")),
            false => format!(
                "dubbo://{host}:{}/{GREETER}?serialization=hessian2",
                finback.port("all")
            ),
        };
        let caller = client.caller(&[("url", &url), ("interface", GREETER)]);
        eventually("a provider", PATIENCE, || {
            let answer = caller.call("who", "");
            answer.map_err(|failure| format!("{failure:?}"))
        });
        providers[0].0.process().signal("STOP");
        for _ in 0..CALLS {
            let name = caller.call("who", "").unwrap();
            assert_eq!(name, json!("number 1"), "{protocol}");
        }
        nobody_was_blamed(&finback);
    }
}

#[test]
fn framed_calls_do_not_wait_for_a_connection_that_is_never_made() {
    for speech in SPEECHES {
        let (hole, good) = (BlackHole::open(), Endpoint::start(speech, Deed::Answer));
        let endpoints = [hole.address.to_string(), good.address.to_string()];
        let finback = front([&endpoints[0], &endpoints[1]], 100);
        let mut client = Client::connect(&finback.local("all"), speech);
        for _ in 0..CALLS {
            let call = Call::new("com.acme.Pay", "pay").within(20_000);
            assert!(client.call(&call).success, "{speech:?}");
        }
        nobody_was_blamed(&finback);
    }
}

/// Two servers of gRPC, and where they are.
fn two_of_grpc() -> [(Peer, String); 2] {
    [0, 1].map(|_| {
        let server = Peer::go();
        let address = server.ask("grpc-serve", &[]).unwrap();
        let address = address.as_str().unwrap().to_owned();
        (server, address)
    })
}

/// One call by grpc-go's client of interoperability.
fn call_grpc(port: u16) -> Result<(), String> {
    let out = Command::new(built("go/grpc-client"))
        .args([
            "-server_host",
            "127.0.0.1",
            "-server_port",
            &port.to_string(),
        ])
        .args(["-test_case", "empty_unary"])
        .output()
        .unwrap();
    match out.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

#[test]
fn calls_of_grpc_go_on_while_a_server_hangs() {
    // The connection to it stands, or is made when it hangs already.
    for stands in [true, false] {
        let servers = two_of_grpc();
        let finback = front([&servers[0].1, &servers[1].1], 100);
        let port = finback.port("all");
        if stands {
            // One after the other gets one.
            (0..2).for_each(|_| call_grpc(port).unwrap());
        }
        servers[0].0.process().signal("STOP");
        (0..CALLS).for_each(|_| call_grpc(port).unwrap());
        nobody_was_blamed(&finback);
    }
}

#[test]
fn a_pause_of_the_proxy_only_puts_off_a_second_attempt() {
    let servers = two_of_grpc();
    servers
        .iter()
        .for_each(|own| own.0.process().signal("STOP"));
    let finback = front([&servers[0].1, &servers[1].1], 2000);
    let port = finback.port("all");
    let call = thread::spawn(move || call_grpc(port));
    eventually("a call", PATIENCE, || {
        let cluster = both(&finback);
        let is_there = cluster["in_flight"] != json!(0);
        is_there.then_some(()).ok_or(cluster.to_string())
    });
    finback.process().signal("STOP");
    thread::sleep(Duration::from_secs(3));
    finback.process().signal("CONT");
    eventually("a second attempt", PATIENCE, || {
        let cluster = both(&finback);
        let is_there = cluster["in_flight"] == json!(2);
        is_there.then_some(()).ok_or(cluster.to_string())
    });
    servers
        .iter()
        .for_each(|own| own.0.process().signal("CONT"));
    call.join().unwrap().unwrap();
}
