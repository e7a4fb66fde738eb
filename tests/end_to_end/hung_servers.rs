//! Hedging of requests of HTTP and of Triple: a server that hangs holds none of them up.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::world::GREETER;
use crate::support::{eventually, free_port, host_address};

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls, about half of which reach the server that hangs.
const CALLS: usize = 12;

/// Hedged routes to two endpoints that speak this version of HTTP.
fn front(endpoints: &[String], version: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "0.0.0.0:0", routes: all }} ]
routes:
  all:
    - to: {{ cluster: both }}
      retry: {{ attempts: 2, idempotent: true, hedging_delay: 100ms }}
clusters:
  both: {{ endpoints: {endpoints:?}, balance: round-robin, http: "{version}" }}
"#
    ))
}

/// Checks that nobody was blamed, that nothing is left, and what the metrics tell: whoever hangs answers nothing.
fn nobody_was_blamed(finback: &Finback) {
    let [made, won] = ["hedges_total", "hedges_won_total"]
        .map(|own| finback.metric(&format!("finback_cluster_{own}"), "cluster=\"both\""));
    assert!(made >= won && won >= 3, "{won} of {made}");
    eventually("all places", PATIENCE, || {
        let cluster = finback.cluster("both").unwrap();
        match (&cluster["ejections"], &cluster["in_flight"]) {
            (ejections, places) if *ejections == 0 && *places == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn requests_go_on_while_a_server_hangs() {
    for (endpoints, client) in [
        ("1.1", "--http1.1"),
        ("1.1", "--http2-prior-knowledge"),
        ("2", "--http1.1"),
        ("2", "--http2-prior-knowledge"),
    ] {
        let servers = ["0", "1"].map(|name| {
            let peer = Peer::web();
            let port = peer.ask("serve", &[("name", name), ("version", endpoints)]);
            (peer, format!("127.0.0.1:{}", port.unwrap()))
        });
        let addresses = servers.each_ref().map(|(_, address)| address.clone());
        let finback = front(&addresses, endpoints);
        let ask = || {
            let url = format!("http://{}/who", finback.local("all"));
            let out = Command::new("curl")
                .args(["-s", "--max-time", "20", client, "-d", "amount=7", &url])
                .output()
                .unwrap();
            let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            (said["name"].clone(), said["length"].clone())
        };
        let mut seen = [false; 2];
        eventually("both servers", PATIENCE, || {
            let (name, _) = ask();
            seen[usize::from(name == "1")] |= name.is_string();
            seen.iter()
                .all(|own| *own)
                .then_some(())
                .ok_or(format!("{seen:?}"))
        });
        servers[0].0.process().signal("STOP");
        for _ in 0..CALLS {
            assert_eq!(ask(), (json!("1"), json!(8)), "{endpoints} {client}");
        }
        nobody_was_blamed(&finback);
    }
}

#[test]
fn calls_of_triple_go_on_while_a_provider_hangs() {
    let host = host_address();
    let providers = ["0", "1"].map(|name| {
        let (peer, port) = (Peer::dubbo3(), free_port().to_string());
        peer.export(&[("protocol", "tri"), ("port", &port), ("name", name)]);
        (peer, format!("{host}:{port}"))
    });
    let addresses = providers.each_ref().map(|(_, address)| address.clone());
    let finback = front(&addresses, "2");
    let client = Peer::dubbo3();
    let url = format!("tri://{}/{GREETER}", finback.public("all"));
    let caller = client.caller(&[("url", &url)]);
    let mut seen = [false; 2];
    eventually("both providers", PATIENCE, || {
        let name = caller
            .call("who", "")
            .map_err(|failure| format!("{failure:?}"))?;
        seen[usize::from(name == "1")] = true;
        seen.iter()
            .all(|own| *own)
            .then_some(())
            .ok_or(format!("{seen:?}"))
    });
    providers[0].0.process().signal("STOP");
    let begun = Instant::now();
    for _ in 0..CALLS {
        assert_eq!(caller.call("who", "").unwrap(), json!("1"));
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    nobody_was_blamed(&finback);
}
