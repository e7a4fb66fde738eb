//! Endpoints by host name, resolved by the system and followed as they change.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use finback_simulations::speech::Speech;
use serde_json::Value;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client};
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);

fn pay() -> Call {
    Call::new("com.acme.Pay", "pay")
}

/// Replaces the file of host names in one step.
fn hosts(etc: &Path, text: &str) {
    let draft = etc.join("hosts.draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, etc.join("hosts")).unwrap();
}

fn await_endpoints(finback: &Finback, cluster: &str, wanted: &[String]) {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    eventually("the endpoints", PATIENCE, || {
        let mut now = finback.endpoints(cluster, "available", true);
        now.sort();
        (now == wanted).then_some(()).ok_or(format!(
            "{now:?}, not {wanted:?}\n{}",
            finback.process().tail()
        ))
    });
}

#[test]
fn addresses_of_a_name_are_followed_and_the_last_good_ones_kept() {
    let port = free_port();
    let at = |ip: &str| -> SocketAddr { format!("{ip}:{port}").parse().unwrap() };
    let one = Endpoint::start_at(at("127.0.0.1"), Speech::Bolt, Deed::Answer);
    let two = Endpoint::start_at(at("127.0.0.2"), Speech::Bolt, Deed::Answer);
    let six = TcpListener::bind("[::1]:0").is_ok();
    let names = temporary_folder();
    hosts(
        &names,
        "127.0.0.1 pay.acme.test\n127.0.0.3 spare.acme.test\n",
    );
    let finback = Finback::start_with_hosts(
        &names.join("hosts"),
        &format!(
            r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: bolt, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: pay }} }} ] }}
clusters:
  pay:
    refresh: 200ms
    endpoints: [ "pay.acme.test:{port}", {{ address: "spare.acme.test:{port}", weight: 0, labels: {{ zone: b }} }} ]
"#
        ),
    );
    let spare = format!("127.0.0.3:{port}");
    await_endpoints(&finback, "pay", &[one.address.to_string(), spare.clone()]);
    let cluster = finback.cluster("pay").unwrap();
    let endpoints = cluster["endpoints"].as_array().unwrap();
    let of_spare: Vec<&Value> = endpoints
        .iter()
        .filter(|own| own["address"] == *spare)
        .collect();
    assert_eq!(of_spare[0]["weight"], 0);
    assert!(
        of_spare[0]["labels"].to_string().contains("zone"),
        "{cluster}"
    );
    let mut client = Client::connect(&finback.local("rpc"), Speech::Bolt);
    assert!(client.call(&pay()).success);
    // Another host takes over; calls follow, on the client's same connection.
    hosts(
        &names,
        "127.0.0.2 pay.acme.test\n127.0.0.3 spare.acme.test\n",
    );
    await_endpoints(&finback, "pay", &[two.address.to_string(), spare.clone()]);
    let before = two.calls();
    assert!(client.call(&pay()).success);
    assert_eq!(two.calls(), before + 1);
    // Both families, where this machine has both.
    if six {
        hosts(
            &names,
            "127.0.0.2 pay.acme.test\n::1 pay.acme.test\n127.0.0.3 spare.acme.test\n",
        );
        let wanted = [
            two.address.to_string(),
            format!("[::1]:{port}"),
            spare.clone(),
        ];
        await_endpoints(&finback, "pay", &wanted);
        hosts(
            &names,
            "127.0.0.2 pay.acme.test\n127.0.0.3 spare.acme.test\n",
        );
        await_endpoints(&finback, "pay", &[two.address.to_string(), spare.clone()]);
    }
    assert_eq!(
        finback.metric("finback_registry_names_failing", "(hosts)"),
        0
    );
    // Nobody knows the name any more: what it was stays, and that is seen.
    hosts(&names, "127.0.0.3 spare.acme.test\n");
    eventually("the failure to be seen", PATIENCE, || {
        match finback.metric("finback_registry_names_failing", "(hosts)") {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    assert!(finback.admin("/registries").1.contains("(hosts)"));
    finback.process().wait_for("a line", PATIENCE, 0, |line| {
        (line.contains("WARN") && line.contains("cannot resolve") && line.contains("pay.acme.test"))
            .then_some(())
    });
    await_endpoints(&finback, "pay", &[two.address.to_string(), spare.clone()]);
    for _ in 0..10 {
        assert!(client.call(&pay()).success);
    }
    hosts(
        &names,
        "127.0.0.1 pay.acme.test\n127.0.0.3 spare.acme.test\n",
    );
    await_endpoints(&finback, "pay", &[one.address.to_string(), spare]);
    eventually("the failure to end", PATIENCE, || {
        match finback.metric("finback_registry_names_failing", "(hosts)") {
            0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    drop((one, two));
}

#[test]
fn a_name_that_never_resolved_is_a_cluster_without_endpoints() {
    let names = temporary_folder();
    hosts(&names, "127.0.0.1 other.acme.test\n");
    let endpoint = Endpoint::start(Speech::Bolt, Deed::Answer);
    // A listener that a reload replaces is to be found again.
    let port = free_port();
    let config = |reveal: bool| {
        format!(
            r#"
workers: 1
registries: {{ names: {{ dns: {{}} }} }}
listeners:
  - {{ name: rpc, address: "127.0.0.1:{port}", routes: all, reveal_endpoints: {reveal} }}
routes:
  all:
    - {{ match: {{ path: /dns }}, to: {{ cluster: dns }} }}
    - {{ to: {{ cluster: bad }} }}
clusters:
  bad: {{ endpoints: [ "no-such.acme.test:80" ], refresh: 200ms }}
  dns: {{ discover: {{ registry: names, service: "nor-this.acme.test:80" }} }}
"#
        )
    };
    let finback = Finback::start_with_hosts(&names.join("hosts"), &config(false));
    eventually("readiness", PATIENCE, || match finback.admin("/readyz") {
        (200, _) => Ok(()),
        (_, why) => Err(why),
    });
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(finback.local("rpc")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    for (path, cluster) in [("/", "bad"), ("/dns", "dns")] {
        let said = ask(path);
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(
            said.contains(&format!("cluster '{cluster}' has no endpoint")),
            "{said}"
        );
        assert!(
            !said.contains("acme.test"),
            "outside nobody learns where it would be: {said}"
        );
    }
    for speech in [Speech::Bolt, Speech::Dubbo] {
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let answer = client.call(&pay());
        assert!(!answer.success, "{answer:?}");
        assert!(
            answer.text.contains("cluster 'bad' has no endpoint"),
            "{answer:?}"
        );
    }
    finback.reload(&config(true));
    // The listener that is gone still takes what had already connected to it.
    eventually("the address that is revealed", PATIENCE, || {
        let said = ask("/");
        let is_told = said.contains("now: cannot resolve no-such.acme.test");
        is_told.then_some(()).ok_or(said)
    });
    // Once it resolves, it is an endpoint.
    let address = endpoint.address;
    finback.reload(&config(true).replace(
        "no-such.acme.test:80",
        &format!("no-such.acme.test:{}", address.port()),
    ));
    hosts(&names, "127.0.0.1 no-such.acme.test\n");
    await_endpoints(&finback, "bad", &[address.to_string()]);
    let mut client = Client::connect(&finback.local("rpc"), Speech::Bolt);
    assert!(client.call(&pay()).success);
    thread::sleep(Duration::from_millis(100));
}
