//! Dubbo's rules: what its own consumer does with each form is what the proxy does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Peer};
use crate::support::world::GREETER;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The versions and groups that are offered, by both providers.
const OFFERED: [(&str, &str); 3] = [("1.0.0", ""), ("2.0.0", ""), ("1.0.0", "gg")];

/// A registry with two providers that follow no rule themselves, as those that are not written in
/// Java, a consumer that reads the registry, and the proxy.
struct World {
    zookeeper: ZooKeeper,
    tools: Peer,
    consumer: Peer,
    _providers: Vec<Peer>,
    finback: Finback,
    host: String,
    ports: [u16; 2],
}

impl World {
    fn start() -> Self {
        let zookeeper = ZooKeeper::start();
        let (tools, host) = (Peer::registry(), host_address().to_string());
        let ports = [free_port(), free_port()];
        let providers = ["one", "two"].into_iter().zip(ports).map(|(name, port)| {
            let peer = Peer::dubbo3();
            for (version, group) in OFFERED {
                let own = format!("{name} {version} {group}");
                let port = port.to_string();
                let mut fields = vec![("port", &*port), ("name", &*own), ("version", version)];
                fields.extend((!group.is_empty()).then_some(("group", group)));
                peer.export(&fields);
            }
            peer
        });
        let finback = Finback::start(&format!(
            r#"
workers: 1
registries: {{ r: {{ zookeeper: "{}", session: 4s }} }}
listeners:
  - {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }}
routes:
  rpc: [ {{ to: {{ registry: r }} }} ]
"#,
            zookeeper.address
        ));
        let world = Self {
            _providers: providers.collect(),
            consumer: Peer::dubbo3(),
            zookeeper,
            tools,
            finback,
            host,
            ports,
        };
        for (port, zone) in world.ports.into_iter().zip(["x", "z"]) {
            for (version, group) in OFFERED {
                let group = if group.is_empty() {
                    String::new()
                } else {
                    format!("&group={group}")
                };
                world.create(&format!(
                    "/dubbo/{GREETER}/providers/{}",
                    encoded(&format!(
                        "dubbo://{}:{port}/{GREETER}?application=shop&interface={GREETER}&side=provider&dubbo=2.0.2&release=3.3.5&category=providers&methods=who,add,sayHello&version={version}{group}&zone={zone}",
                        world.host
                    ))
                ), "");
            }
        }
        world
    }

    fn ask(&self, operation: &str, path: &str, data: &str) {
        let fields = [
            ("registry", self.zookeeper.address.as_str()),
            ("path", path),
            ("data", data),
        ];
        self.tools.ask(operation, &fields).unwrap();
    }

    fn create(&self, path: &str, data: &str) {
        self.ask("create", path, data);
    }

    /// Who answers calls of each version and group: the numbers of the providers.
    fn reached(&self, through: &str) -> String {
        let reached = OFFERED.map(|(version, group)| {
            let mut fields = vec![("version", version), ("timeout", "3000")];
            let url = format!("dubbo://{}/{GREETER}", self.finback.public("rpc"));
            fields.extend((!group.is_empty()).then_some(("group", group)));
            fields.push(match through {
                "registry" => ("registry", self.zookeeper.address.as_str()),
                _ => ("url", &*url),
            });
            fields.push(("application", "web"));
            let caller: Caller<'_> = self.consumer.caller(&fields);
            let names: BTreeSet<String> = (0..8)
                .map(|_| match caller.call("who", "") {
                    Ok(Value::String(name)) => name.split(' ').next().unwrap().to_owned(),
                    _ => "none".to_owned(),
                })
                .collect();
            names.into_iter().collect::<Vec<_>>().join("+")
        });
        reached.join(", ")
    }

    fn eventually(&self, what: &str, wanted: &str) {
        for through in ["registry", "finback"] {
            eventually(&format!("{what}, by {through}"), PATIENCE, || {
                match self.reached(through) {
                    reached if reached == wanted => Ok(()),
                    reached => Err(format!("{reached} instead of {wanted}")),
                }
            });
        }
    }

    /// A rule is written, obeyed as `wanted`, and taken away.
    fn obey(&self, path: &str, data: &str, wanted: &str) {
        self.create(path, data);
        self.eventually(&format!("{path} {data}"), wanted);
        self.ask("delete", path, "");
        self.eventually("no rule", ALL);
    }
}

/// Every provider, for every version and group.
const ALL: &str = "one+two, one+two, one+two";

/// As Java's `URLEncoder` writes it.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'*' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[test]
fn documents_hold_for_whom_they_name_as_for_dubbos_own_consumer() {
    let world = World::start();
    world.eventually("no rule", ALL);
    let at = |key: &str| format!("/dubbo/config/dubbo/{key}");
    let service = |scope: &str, kind: &str| at(&format!("{GREETER}:{scope}.{kind}"));
    let (one, two) = (world.ports[0], world.ports[1]);
    let to_one = format!("{{force: true, conditions: ['=> port={one}']}}");

    world.obey(
        &service("2.0.0:", "condition-router"),
        &to_one,
        "one+two, one, one+two",
    );
    world.obey(
        &service("1.0.0:gg", "condition-router"),
        &to_one,
        "one+two, one+two, one",
    );
    world.obey(&at("shop.condition-router"), &to_one, "one, one, one");
    world.obey(&at("web.condition-router"), &to_one, "one, one, one");
    let elsewhere = format!("{{force: true, conditions: ['application=cart => port={one}']}}");
    world.obey(&at("shop.condition-router"), &elsewhere, ALL);
    let zones = "{force: true, conditions: ['method=who & host!=1.2.3.4 => zone!=x']}";
    world.obey(
        &service("1.0.0:", "condition-router"),
        zones,
        "two, one+two, one+two",
    );
    let ranges = format!("{{force: true, conditions: ['=> port={one}~{one}']}}");
    world.obey(
        &service("1.0.0:", "condition-router"),
        &ranges,
        "one, one+two, one+two",
    );
    let unsaid = "{force: true, conditions: ['=> nothing!=x']}";
    world.obey(
        &service("1.0.0:", "condition-router"),
        unsaid,
        "none, one+two, one+two",
    );
    let several = format!(
        "{{configVersion: v3.1, force: true, conditions: [{{from: {{match: 'method=who'}}, to: [{{match: 'zone=x', weight: 100}}, {{match: 'zone=q', weight: 9000}}]}}]}}"
    );
    world.obey(
        &service("2.0.0:", "condition-router"),
        &several,
        "one+two, one, one+two",
    );

    let disabled = |key: &str, more: &str| {
        format!(
            "{{configVersion: v2.7, scope: service, key: '{key}', enabled: true, configs: [{{side: consumer, parameters: {{disabled: true}}, {more}}}]}}"
        )
    };
    let second = format!("{GREETER}:2.0.0");
    world.obey(
        &service("2.0.0:", "configurators"),
        &disabled(&second, "addresses: ['0.0.0.0']"),
        "one+two, none, one+two",
    );
    let one_address = format!("providerAddresses: ['{}:{one}']", world.host);
    world.obey(
        &service("2.0.0:", "configurators"),
        &disabled(&second, &one_address),
        "one+two, two, one+two",
    );
    let one_port = format!("providerAddresses: ['0.0.0.0:{two}']");
    world.obey(
        &service("2.0.0:", "configurators"),
        &disabled(&second, &one_port),
        "one+two, one, one+two",
    );

    let tags = format!(
        "{{force: true, enabled: true, key: shop, tags: [{{name: gray, addresses: ['{}:{two}']}}]}}",
        world.host
    );
    world.obey(&at("shop.tag-router"), &tags, "one, one, one");
    world.obey(&at("elsewhere.tag-router"), &tags, ALL);
    let matched = "{configVersion: v3.0, force: true, key: shop, tags: [{name: gray, match: [{key: zone, value: {exact: z}}]}]}";
    world.obey(&at("shop.tag-router"), matched, "one, one, one");
}

#[test]
fn older_rules_hold_for_whom_they_name_as_for_dubbos_own_consumer() {
    let world = World::start();
    world.eventually("no rule", ALL);
    let (one, two) = (world.ports[0], world.ports[1]);
    // One that changes nothing stands there always: a folder that becomes empty leaves consumers of
    // Dubbo with the last rule that was in it.
    let node = |kind: &str, url: &str| format!("/dubbo/{GREETER}/{kind}/{}", encoded(url));
    let rule = |authority: &str, rest: &str| {
        node(
            "configurators",
            &format!(
                "override://{authority}/{GREETER}?category=configurators&dynamic=false&enabled=true&disabled=true{rest}"
            ),
        )
    };
    world.create(&rule("0.0.0.0", "&version=9.9.9"), "");
    world.obey(
        &rule("0.0.0.0", "&version=2.0.0"),
        "",
        "one+two, none, one+two",
    );
    world.obey(
        &rule("0.0.0.0", "&version=1.0.0&group=gg"),
        "",
        "one+two, one+two, none",
    );
    world.obey(
        &rule(&format!("0.0.0.0:{one}"), "&version=1.0.0"),
        "",
        "two, one+two, one+two",
    );
    world.obey(
        &rule(&format!("{}:{two}", world.host), "&version=1.0.0"),
        "",
        "one, one+two, one+two",
    );
    world.obey(&rule("0.0.0.0", ""), "", ALL);
    world.obey(&rule("1.2.3.4", "&version=1.0.0"), "", ALL);
    let router = |rest: &str, text: &str| {
        let text = encoded(text);
        node(
            "routers",
            &format!(
                "condition://0.0.0.0/{GREETER}?category=routers&dynamic=false&enabled=true&force=true&runtime=true&rule={text}{rest}"
            ),
        )
    };
    let to_one = format!("=> port = {one}");
    world.create(&router("&version=9.9.9", &to_one), "");
    world.obey(
        &router("&version=2.0.0", &to_one),
        "",
        "one+two, one, one+two",
    );
    world.obey(
        &router("&version=1.0.0&group=gg", &to_one),
        "",
        "one+two, one+two, one",
    );
    world.obey(&router("", &to_one), "", ALL);
}
