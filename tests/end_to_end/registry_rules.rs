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
    fn start(consumer: impl FnOnce(&str) -> Peer) -> Self {
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
        // Consumers of Dubbo 3 see no document that is written before there is any.
        let fields = [
            ("registry", zookeeper.address.as_str()),
            ("path", "/dubbo/config/dubbo/nobody.tag-router"),
            ("data", "tags: []"),
        ];
        tools.ask("create", &fields).unwrap();
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
            consumer: consumer(&zookeeper.address),
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
    let world = World::start(Peer::dubbo3_governed);
    world.eventually("no rule", ALL);
    let at = |key: &str| format!("/dubbo/config/dubbo/{key}");
    let service = |scope: &str, kind: &str| at(&format!("{GREETER}:{scope}.{kind}"));
    let (one, two) = (world.ports[0], world.ports[1]);
    let router = |key: &str, text: &str, wanted: &str| {
        world.obey(&at(&format!("{key}.condition-router")), text, wanted);
    };
    let to_one = format!("{{force: true, conditions: ['=> port={one}']}}");
    router(
        &format!("{GREETER}:2.0.0:"),
        &to_one,
        "one+two, one, one+two",
    );
    router(
        &format!("{GREETER}:1.0.0:gg"),
        &to_one,
        "one+two, one+two, one",
    );
    router(&format!("{GREETER}::"), &to_one, ALL);
    router("shop", &to_one, "one, one, one");
    router("web", &to_one, "one, one, one");
    router("elsewhere", &to_one, ALL);
    let first = format!("{GREETER}:1.0.0:");
    let of_first = |condition: &str, wanted: &str| {
        let text = format!("{{force: true, conditions: [{condition}]}}");
        router(&first, &text, &format!("{wanted}, one+two, one+two"));
    };
    of_first("'method=who & host!=1.2.3.4 => zone!=x'", "two");
    of_first(&format!("'=> port={one}~{one}'"), "one");
    of_first("'=> nothing!=x'", "none");
    of_first("'=> zone=x', 'arguments[0]=a => zone=q'", "one");
    of_first("'=> zone=x', 'a==b => zone=z'", "one+two");
    let weighted = "{configVersion: v3.1, force: true, conditions: [{from: {match: 'method=who'}, to: [{match: 'zone=x', weight: 100}, {match: 'zone=q', weight: 9000}]}]}";
    router(
        &format!("{GREETER}:2.0.0:"),
        weighted,
        "one+two, one, one+two",
    );

    let disabled = |version: &str, key: &str, more: &str, wanted: &str| {
        let text = format!(
            "{{configVersion: {version}, scope: service, key: '{key}', enabled: true, configs: [{{side: consumer, parameters: {{disabled: true}}, {more}}}]}}"
        );
        let parts = key.split(['/', ':']).collect::<Vec<_>>();
        let scope = match *parts {
            [group, _, version] => format!("{version}:{group}"),
            _ => format!("{}:", parts[1]),
        };
        world.obey(&service(&scope, "configurators"), &text, wanted);
    };
    let address = format!("providerAddresses: ['{}:{one}']", world.host);
    disabled(
        "v2.7",
        &format!("{GREETER}:2.0.0"),
        &address,
        "one+two, two, one+two",
    );
    disabled(
        "v2.7",
        &format!("gg/{GREETER}:1.0.0"),
        &address,
        "one+two, one+two, two",
    );
    let port = format!("providerAddresses: ['0.0.0.0:{two}']");
    disabled(
        "v2.7",
        &format!("gg/{GREETER}:1.0.0"),
        &port,
        "one+two, one+two, one",
    );
    let wildcard = format!("match: {{providerAddress: {{wildcard: '*:{one}'}}}}");
    disabled(
        "v3.0",
        &format!("{GREETER}:2.0.0"),
        &wildcard,
        "one+two, two, one+two",
    );

    let tagged = |application: &str, tag: &str, wanted: &str| {
        let text = format!("{{configVersion: v3.0, force: true, tags: [{{name: gray, {tag}}}]}}");
        world.obey(&at(&format!("{application}.tag-router")), &text, wanted);
    };
    let addresses = format!("addresses: ['{}:{two}']", world.host);
    tagged("shop", &addresses, "one, one, one");
    tagged("elsewhere", &addresses, ALL);
    tagged(
        "shop",
        "match: [{key: zone, value: {exact: z}}]",
        "one, one, one",
    );
}

/// Dubbo 3.3 does not read older routers any more, and of older configurators not all.
#[test]
fn older_rules_hold_for_whom_they_name_as_for_dubbos_own_consumer() {
    let world = World::start(|_| Peer::dubbo2());
    world.eventually("no rule", ALL);
    let (one, two) = (world.ports[0], world.ports[1]);
    let node = |kind: &str, url: &str| format!("/dubbo/{GREETER}/{kind}/{}", encoded(url));
    let rule = |authority: &str, rest: &str| {
        node(
            "configurators",
            &format!(
                "override://{authority}/{GREETER}?category=configurators&dynamic=false&enabled=true&disabled=true{rest}"
            ),
        )
    };
    let router = |rest: &str| {
        let text = encoded(&format!("=> port = {one}"));
        node(
            "routers",
            &format!(
                "condition://0.0.0.0/{GREETER}?category=routers&dynamic=false&enabled=true&force=true&runtime=true&rule={text}{rest}"
            ),
        )
    };
    // A folder that becomes empty leaves consumers of Dubbo with the last rule that was in it.
    world.create(&rule("0.0.0.0", "&version=9.9.9"), "");
    world.create(&router("&version=9.9.9"), "");
    let (at_one, at_two) = (
        format!("{}:{one}", world.host),
        format!("{}:{two}", world.host),
    );
    world.obey(
        &rule(&at_one, "&version=2.0.0"),
        "",
        "one+two, two, one+two",
    );
    world.obey(
        &rule(&at_two, "&version=1.0.0&group=gg"),
        "",
        "one+two, one+two, one",
    );
    world.obey(
        &rule(&format!("0.0.0.0:{one}"), "&version=1.0.0"),
        "",
        "two, one+two, one+two",
    );
    let among = format!("&version=1.0.0&providerAddresses={at_one}");
    world.obey(&rule("0.0.0.0", &among), "", "two, one+two, one+two");
    world.obey(
        &rule("0.0.0.0", "&version=1.0.0&~zone=x"),
        "",
        "two, one+two, one+two",
    );
    world.obey(&rule("0.0.0.0", ""), "", ALL);
    world.obey(&rule("1.2.3.4", "&version=1.0.0"), "", ALL);
    world.obey(
        &rule(&at_one, "&version=1.0.0&side=consumer"),
        "",
        "two, one+two, one+two",
    );
    world.obey(&router("&version=2.0.0"), "", "one+two, one, one+two");
    world.obey(
        &router("&version=1.0.0&group=gg"),
        "",
        "one+two, one+two, one",
    );
    world.obey(&router(""), "", ALL);
}
