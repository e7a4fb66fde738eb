//! Dubbo's two protocols on one port, and what Triple's headers carry, with Dubbo's own consumers.

use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::world::{GREETER, world};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, temporary_folder};

/// Longer than anything here may take: providers tell of their metadata when they come to it.
const PATIENCE: Duration = Duration::from_secs(40);

/// A proxy in front of one ZooKeeper that tells protocols apart by itself.
fn front(zookeeper: &ZooKeeper, more: &str) -> String {
    format!(
        r#"
workers: 1
registries: {{ zk: {{ zookeeper: "{}", session: 4s }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk, layout: dubbo }} }} ] }}
{more}
"#,
        zookeeper.address
    )
}

/// What a call with these fields comes to, as soon as it is an answer.
fn answer(
    consumer: &Peer,
    finback: &Finback,
    scheme: &str,
    fields: &[(&str, &str)],
    (method, argument): (&str, &str),
) -> String {
    let url = format!("{scheme}://{}/{GREETER}", finback.public("rpc"));
    let fields = [&[("url", &*url)], fields].concat();
    let caller = consumer.caller(&fields);
    eventually("an answer", PATIENCE, || {
        match caller.call(method, argument) {
            Ok(value) => Ok(value.as_str().unwrap_or_default().to_owned()),
            Err(failure) => Err(format!(
                "{fields:?}: {failure:?}\n{}",
                finback.process().tail()
            )),
        }
    })
}

#[test]
fn both_protocols_of_a_port_are_found_at_every_level() {
    let zookeeper = ZooKeeper::start();
    let finback = Finback::start(&front(&zookeeper, ""));
    for mode in ["interface", "instance", "all"] {
        let provider = Peer::dubbo3();
        provider.export(&[
            ("registry", &zookeeper.address),
            ("mode", mode),
            ("metadata-type", "local"),
            ("application", &format!("acme-{mode}")),
            ("port", &free_port().to_string()),
            ("name", mode),
            ("group", mode),
            ("?ext.protocol", "tri"),
        ]);
        for scheme in ["dubbo", "tri"] {
            let fields = [("group", mode)];
            let found = answer(world().dubbo3(), &finback, scheme, &fields, ("who", ""));
            assert_eq!(found, mode, "{scheme}");
        }
    }
}

#[test]
fn headers_of_triple_carry_what_consumers_and_providers_ask_for() {
    let zookeeper = ZooKeeper::start();
    let finback = Finback::start(&front(&zookeeper, ""));
    let provider = Peer::dubbo3();
    let port = free_port().to_string();
    for (name, group, version, token) in [
        ("one", "g1", "1.0.0", "secret"),
        ("two", "g2", "2.0.0", "other"),
    ] {
        provider.export(&[
            ("registry", &zookeeper.address),
            ("protocol", "tri"),
            ("port", &port),
            ("name", name),
            ("group", group),
            ("version", version),
            ("token", token),
        ]);
    }
    let ask =
        |fields: &[(&str, &str)], call| answer(world().dubbo3(), &finback, "tri", fields, call);
    // Each has its own token, which no consumer knows here.
    let one = [("group", "g1"), ("version", "1.0.0")];
    assert_eq!(ask(&one, ("who", "")), "one");
    let two = [("group", "g2"), ("version", "2.0.0")];
    assert_eq!(ask(&two, ("who", "")), "two");
    // What the caller attaches arrives, and so does how long it waits.
    let lane = [&one[..], &[("@lane", "gray"), ("timeout", "4321")]].concat();
    assert_eq!(ask(&lane, ("attachment", "lane")), "gray");
    let patient = answer(
        world().dubbo3(),
        &finback,
        "tri",
        &[&one[..], &[("timeout", "9000")]].concat(),
        ("sleep", "2000"),
    );
    assert_eq!(patient, "slept 2000");
    let url = format!("tri://{}/{GREETER}", finback.public("rpc"));
    let hasty = world().dubbo3().caller(&[
        ("url", &url),
        ("group", "g1"),
        ("version", "1.0.0"),
        ("timeout", "500"),
    ]);
    assert!(hasty.call("sleep", "3000").is_err());
    // A token of the caller's own stays as it is.
    let own = hasty.with("timeout", "5000").with("@token", "wrong");
    let refused = own.call("who", "").unwrap_err();
    assert!(
        refused.text.contains("incorrect token is wrong"),
        "{refused:?}"
    );
}

#[test]
fn applications_and_their_rules_are_known_after_a_start_without_the_registry() {
    for metadata in ["local", "remote"] {
        let mut zookeeper = ZooKeeper::start();
        let application = format!("acme-{metadata}");
        let ports = [(); 2].map(|()| free_port().to_string());
        let _providers = [("one", &ports[0]), ("two", &ports[1])].map(|(name, port)| {
            let peer = Peer::dubbo3();
            peer.export(&[
                ("registry", &zookeeper.address),
                ("mode", "instance"),
                ("metadata-type", metadata),
                ("application", &application),
                ("serialization", "hessian2"),
                ("port", port),
                ("name", name),
            ]);
            peer
        });
        let rule = format!(
            "{{scope: service, force: true, key: {GREETER}, conditions: [\"method=who => port={}\"]}}",
            ports[0]
        );
        let path = format!("/dubbo/config/dubbo/{GREETER}::.condition-router");
        let fields = [
            ("registry", &*zookeeper.address),
            ("path", &path),
            ("data", &rule),
        ];
        Peer::registry().ask("create", &fields).unwrap();
        let folder = temporary_folder();
        let kept = format!("snapshots: {{ folder: \"{}\" }}", folder.display());
        let config = front(&zookeeper, &kept);
        // Only one of the two obeys the rule, so all calls of a dozen go there.
        let obeyed = |finback: &Finback| {
            let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
            let caller = world().dubbo3().caller(&[("url", &url)]);
            eventually("the rule to be obeyed", PATIENCE, || {
                for _ in 0..12 {
                    match caller.call("who", "") {
                        Ok(name) if name == "one" => {}
                        other => {
                            return Err(format!("{other:?}\n{}", finback.admin("/clusters").1));
                        }
                    }
                }
                Ok(())
            });
        };
        let first = Finback::start(&config);
        obeyed(&first);
        // What is written is written together, a moment later.
        std::thread::sleep(Duration::from_secs(2));
        drop(first);
        zookeeper.kill();
        let second = Finback::start(&config);
        obeyed(&second);
        assert_eq!(second.metric("finback_registry_services_from_disk", ""), 1);
    }
}
