//! A configuration that changes under a running proxy.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Load, Peer};
use crate::support::world::NODE_GREETER;
use crate::support::{eventually, free_port};

/// Two npm providers, `one` and `two`, that no registry knows.
struct Providers {
    peer: Peer,
    ports: [u16; 2],
}

impl Providers {
    fn start() -> Self {
        let peer = Peer::node();
        let ports = [free_port(), free_port()];
        for (name, port) in ["one", "two"].into_iter().zip(ports) {
            peer.export(&[
                ("protocol", "bolt"),
                ("interface", NODE_GREETER),
                ("port", &port.to_string()),
                ("name", name),
            ]);
        }
        Self { peer, ports }
    }

    fn caller(&self, address: &str) -> Caller<'_> {
        self.peer.caller(&[
            ("protocol", "bolt"),
            ("address", address),
            ("interface", NODE_GREETER),
        ])
    }
}

/// A configuration with one listener per name, all leading to one port.
fn config(listeners: &[&str], port: u16) -> String {
    let listeners: Vec<_> = listeners
        .iter()
        .map(|name| {
            format!(
                "  - {{ name: {name}, address: \"127.0.0.1:0\", protocol: bolt, routes: rpc }}\n"
            )
        })
        .collect();
    format!(
        "workers: 2\nlisteners:\n{}routes:\n  rpc:\n    - to: {{ cluster: one }}\n\
         clusters:\n  one: {{ endpoints: [ \"127.0.0.1:{port}\" ] }}\n",
        listeners.concat()
    )
}

fn eventually_who(caller: &Caller<'_>, wanted: &str) {
    eventually(wanted, Duration::from_secs(10), || {
        match caller.call("who", "") {
            Ok(name) if name == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_changed_file_is_taken_up_without_a_lost_call() {
    let providers = Providers::start();
    let finback = Finback::start(&config(&["main"], providers.ports[0]));
    let caller = providers.caller(&finback.local("main"));
    eventually_who(&caller, "one");
    let load = caller.load(3000);
    thread::sleep(Duration::from_millis(300));
    finback.write(&config(&["main"], providers.ports[1]));
    eventually_who(&caller, "two");
    finback.write(&config(&["main"], providers.ports[0]));
    finback.process().signal("HUP");
    eventually_who(&caller, "one");
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert!(load.right > 100, "{load:?}");
}

#[test]
fn a_bad_file_leaves_the_old_configuration_running_and_says_where_it_is_wrong() {
    let providers = Providers::start();
    let finback = Finback::start(&config(&["main"], providers.ports[0]));
    let caller = providers.caller(&finback.local("main"));
    eventually_who(&caller, "one");
    let said = finback.process().said();
    let good = config(&["main"], providers.ports[1]);
    finback.write(&good.replace("cluster: one", "clutser: one"));
    finback
        .process()
        .wait_for("complaint", Duration::from_secs(10), said, |line| {
            (line.contains("finback.yaml:") && line.contains("clutser")).then_some(())
        });
    assert_eq!(caller.call("who", "").unwrap(), "one");
    finback.write(&good);
    eventually_who(&caller, "two");
}

#[test]
fn listeners_come_and_go_and_the_others_do_not_notice() {
    let providers = Providers::start();
    let finback = Finback::start(&config(&["main", "old"], providers.ports[0]));
    let caller = providers.caller(&finback.local("main"));
    let old = finback.local("old");
    eventually_who(&caller, "one");
    let leaving = providers.caller(&old);
    eventually_who(&leaving, "one");
    let load = caller.load(3000);
    let last = leaving.load(3000);
    finback.write(&config(&["main", "new"], providers.ports[0]));
    eventually_who(&providers.caller(&finback.local("new")), "one");
    eventually(
        "the old listener's end",
        Duration::from_secs(5),
        || match TcpStream::connect(&old) {
            Err(_) => Ok(()),
            Ok(_) => Err("still accepted".into()),
        },
    );
    let load = Load::of(load);
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    // Who came by the old one is served until told to go, and never turned away.
    let last = Load::of(last);
    assert!(last.wrong == 0 && last.right > 20, "{last:?}");
    let turned_away = last.errors.keys().any(|text| text.contains("route"));
    assert!(!turned_away, "{last:?}");
}

#[test]
fn a_file_of_endpoints_is_followed() {
    let providers = Providers::start();
    let endpoints =
        |port: u16| format!("- service: {NODE_GREETER}\n  endpoints: [ \"127.0.0.1:{port}\" ]\n");
    let config = r#"
registries:
  local: { file: "endpoints.yaml" }
listeners:
  - { name: main, address: "127.0.0.1:0", protocol: bolt, routes: rpc }
routes:
  rpc:
    - to: { registry: local }
"#;
    let first = endpoints(providers.ports[0]);
    let finback = Finback::start_with(config, &[("endpoints.yaml", &first)]);
    let caller = providers.caller(&finback.local("main"));
    eventually_who(&caller, "one");
    finback.write_file("endpoints.yaml", &endpoints(providers.ports[1]));
    eventually_who(&caller, "two");
    // What cannot be read changes nothing.
    finback.write_file("endpoints.yaml", "- service: [");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(caller.call("who", "").unwrap(), "two");
}
