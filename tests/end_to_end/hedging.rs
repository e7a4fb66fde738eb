//! Hedging: servers that hang hold up no call, and nobody is blamed.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::peer::{Peer, built};
use crate::support::world::GREETER;
use crate::support::{eventually, free_port, host_address};

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls, about half of which reach the server that hangs.
const CALLS: usize = 12;

/// Hedged routes to these endpoints.
fn front(endpoints: [&str; 2]) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "0.0.0.0:0", routes: all }} ]
routes:
  all:
    - to: {{ cluster: both }}
      retry: {{ attempts: 2, idempotent: true, hedging_delay: 100ms }}
clusters:
  both: {{ endpoints: [ "{}", "{}" ], balance: round-robin }}
"#,
        endpoints[0], endpoints[1]
    ))
}

/// Checks that second attempts were made, and that both endpoints are still in rotation.
fn nobody_was_blamed(finback: &Finback) {
    let (_, metrics) = finback.admin("/metrics");
    let retries = metrics.lines().find_map(|line| {
        let rest = line.strip_prefix("finback_cluster_retries_total{")?;
        rest.split_once("} ")?.1.parse::<f64>().ok()
    });
    assert!(retries.is_some_and(|own| own > 0.0), "{metrics}");
    let (_, clusters) = finback.admin("/clusters");
    let clusters: Value = serde_json::from_str(&clusters).unwrap();
    let mut all = clusters.as_array().unwrap().iter();
    let own = all.find(|own| own["name"] == "both").unwrap();
    assert_eq!(own["ejections"], json!(0), "{clusters}");
    assert_eq!(own["in_flight"], json!(0), "{clusters}");
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
        let finback = front([
            &format!("{at}:{}", providers[0].1),
            &format!("{at}:{}", providers[1].1),
        ]);
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
fn calls_of_grpc_go_on_while_a_server_hangs() {
    let servers = [Peer::go(), Peer::go()];
    let addresses = servers.each_ref().map(|own| {
        own.ask("grpc-serve", &[])
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    });
    let finback = front([&addresses[0], &addresses[1]]);
    let port = finback.port("all").to_string();
    let call = || {
        let out = Command::new(built("go/grpc-client"))
            .args(["-server_host", "127.0.0.1", "-server_port", &port])
            .args(["-test_case", "large_unary"])
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    };
    eventually("both servers", PATIENCE, call);
    servers[0].process().signal("STOP");
    for _ in 0..CALLS {
        call().unwrap();
    }
    nobody_was_blamed(&finback);
}
