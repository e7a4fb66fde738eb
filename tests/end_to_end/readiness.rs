//! Load balancers and consumers: told when clients may be sent here, and before it stops.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client};
use crate::support::zookeeper::ZooKeeper;

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks on a connection of its own.
fn ask(address: &str) -> Result<String, String> {
    let trouble = |error: std::io::Error| error.to_string();
    let address: SocketAddr = address.parse().unwrap();
    let mut stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(trouble)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .map_err(trouble)?;
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(trouble)?;
    Ok(said)
}

fn becomes_ready(finback: &Finback, within: Duration) {
    eventually("readiness", within, || match finback.admin("/readyz") {
        (200, _) => Ok(()),
        (status, why) => Err(format!("{status} {why}\n{}", finback.process().tail())),
    });
}

#[test]
fn told_to_stop_it_serves_on_for_the_delay_but_is_not_ready_and_not_registered() {
    let etcd = Etcd::start();
    let finback = Finback::start(&format!(
        r#"
workers: 2
registries: {{ keys: {{ etcd: "{}" }} }}
register: [ {{ registry: keys, layout: native, service: pay, address: "127.0.0.1:9" }} ]
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ respond: {{ status: 200, body: "here" }} }} ] }}
limits: {{ drain_delay: 3s }}
"#,
        etcd.address
    ));
    let web = finback.local("web");
    eventually("the registration", PATIENCE, || {
        let keys = etcd.keys("/finback/services/pay/");
        (keys.len() == 1).then_some(()).ok_or(format!("{keys:?}"))
    });
    becomes_ready(&finback, PATIENCE);
    finback.process().signal("TERM");
    let told = Instant::now();
    eventually("the end of readiness", Duration::from_secs(1), || {
        let (status, why) = finback.admin("/readyz");
        (status == 503 && why == "stopping\n")
            .then_some(())
            .ok_or(why)
    });
    assert_eq!(finback.admin("/livez").0, 200, "it lives");
    eventually("the registration's end", Duration::from_secs(2), || {
        let keys = etcd.keys("/finback/services/pay/");
        keys.is_empty().then_some(()).ok_or(format!("{keys:?}"))
    });
    // A new configuration would register again.
    finback.process().signal("HUP");
    while told.elapsed() < Duration::from_millis(2500) {
        let said = ask(&web).unwrap();
        assert!(said.ends_with("here"), "{:?}: {said}", told.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    finback.process().await_words("it is going to stop");
    assert!(etcd.keys("/finback/services/pay/").is_empty());
    let status = finback.process().wait_for_end(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0));
    let took = told.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(ask(&web).is_err(), "nobody listens any more");
}

#[test]
fn without_a_word_in_the_configuration_sigterm_is_delayed_and_sigint_is_not() {
    for (signal, least, most) in [("INT", 0, 3), ("TERM", 5, 12)] {
        let finback = Finback::start(
            r#"
workers: 1
# drain_delay: is not said here
listeners: [ { name: web, address: "127.0.0.1:0", protocol: http, routes: web } ]
routes: { web: [ { respond: { status: 200, body: "here" } } ] }
"#,
        );
        becomes_ready(&finback, PATIENCE);
        finback.process().signal(signal);
        let told = Instant::now();
        let status = finback.process().wait_for_end(Duration::from_secs(most));
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(told.elapsed() >= Duration::from_secs(least), "{signal}");
    }
}

/// A proxy whose only registry is at this address, reached by a route and by a cluster.
fn of_registry(kind: &str, address: &str, more: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ away: {{ {kind}: "{address}" }} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ match: {{ service: other }}, to: {{ cluster: other }} }}, {{ to: {{ registry: away }} }} ] }}
clusters: {{ other: {{ discover: {{ registry: away, layout: native, service: other }} }} }}
{more}
"#
    ))
}

#[test]
fn it_is_ready_when_its_registry_has_answered_and_says_at_once_what_keeps_it() {
    let (mut zookeeper, mut etcd) = (ZooKeeper::start(), Etcd::start());
    zookeeper.kill();
    etcd.kill();
    for kind in ["zookeeper", "etcd"] {
        let address = match kind {
            "zookeeper" => zookeeper.address.clone(),
            _ => etcd.address.clone(),
        };
        let more = "limits: { registry_wait: 60s, call_timeout: 1s }";
        let begun = Instant::now();
        let finback = of_registry(kind, &address, more);
        let (status, why) = finback.admin("/readyz");
        assert_eq!(status, 503);
        assert_eq!(why, "waiting for registry away, cluster other\n");
        let line = format!("{address}: Connection refused");
        finback
            .process()
            .wait_for(&line, Duration::from_secs(3), 0, |said| {
                (said.contains("registry=\"away\"") && said.contains(&line)).then_some(())
            });
        assert!(begun.elapsed() < Duration::from_secs(5));
        // Whoever calls meanwhile learns who did not answer.
        let mut client = Client::connect(&finback.local("rpc"), Speech::Dubbo);
        let answer = client.call(&Call::new("com.acme.PayService", "pay").within(1000));
        assert!(!answer.success);
        let said = format!("{answer:?}");
        assert!(
            said.contains("the registry did not answer within"),
            "{said}"
        );
        assert_eq!(finback.admin("/readyz").0, 503);
        assert_eq!(finback.admin("/livez").0, 200);
        match kind {
            "zookeeper" => zookeeper.restart(),
            _ => etcd.restart(),
        }
        becomes_ready(&finback, Duration::from_secs(40));
        finback.process().wait_for("the word", PATIENCE, 0, |said| {
            said.ends_with("INFO ready").then_some(())
        });
        // Once ready, an outage takes nobody away.
        match kind {
            "zookeeper" => zookeeper.kill(),
            _ => etcd.kill(),
        }
        thread::sleep(Duration::from_secs(1));
        assert_eq!(finback.admin("/readyz").0, 200);
    }
}

#[test]
fn a_server_that_takes_connections_and_says_nothing_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for kind in ["zookeeper", "etcd"] {
        let finback = of_registry(kind, &address, "limits: { registry_wait: 2s }");
        finback
            .process()
            .wait_for("its name", Duration::from_secs(12), 0, |said| {
                (said.contains("WARN")
                    && said.contains("registry=\"away\"")
                    && said.contains(&address))
                .then_some(())
            });
        becomes_ready(&finback, PATIENCE);
        let told = "ready, but nothing was heard of registry away, cluster other";
        finback.process().await_words(told);
        assert_eq!(
            finback.process().count(told),
            1,
            "{}",
            finback.process().tail()
        );
    }
}

#[test]
fn a_snapshot_makes_it_ready_while_the_registry_is_away() {
    let folder = crate::support::temporary_folder();
    let endpoint = Endpoint::start(Speech::Bolt, Deed::Answer);
    let mut etcd = Etcd::start();
    let value = format!("{{\"address\":\"{}\"}}", endpoint.address);
    etcd.put("/finback/services/other/1", &value);
    let more = format!(
        "snapshots: {{ folder: \"{}\" }}\nlimits: {{ registry_wait: 60s }}",
        folder.display()
    );
    let first = of_registry("etcd", &etcd.address, &more);
    becomes_ready(&first, PATIENCE);
    eventually("the snapshot", PATIENCE, || {
        let files = std::fs::read_dir(&folder).unwrap().count();
        (files > 0).then_some(()).ok_or_else(|| files.to_string())
    });
    thread::sleep(Duration::from_secs(1));
    drop(first);
    etcd.kill();
    let second = of_registry("etcd", &etcd.address, &more);
    becomes_ready(&second, Duration::from_secs(10));
    let found = second.endpoints("other", "available", true);
    assert_eq!(found, [endpoint.address.to_string()]);
}
