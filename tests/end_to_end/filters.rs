//! Filters before real clients and servers: every protocol's own words for what is denied, limited or broken on
//! purpose, and that nothing gets around them.

mod devices;
mod reload;
mod requests;
mod shadows;

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::{Mosquitto, tool};
use crate::support::mqtt::{Raw, connect, packet, reason, text};
use crate::support::peer::{Caller, Failure, Peer, built};
use crate::support::world::{GREETER, NODE_GREETER, world};
use crate::support::{host_address, web};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than anybody may wait to be refused.
const PROMPT: Duration = Duration::from_secs(3);

// === RPC ===

/// A proxy with a policy on some methods.
fn rpc() -> &'static Finback {
    static FINBACK: OnceLock<Finback> = OnceLock::new();
    FINBACK.get_or_init(|| {
        Finback::start(&format!(
            r#"
workers: 2
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc, filters: [ nobody-notes ] }} ]
routes:
  rpc:
    - match: {{ method: add, protocol: bolt }}
      to: {{ registry: zk }}
      filters: [ twice-by-bolt ]
    - match: {{ method: add }}
      to: {{ registry: zk }}
      filters: [ twice ]
    - match: {{ method: who }}
      to: {{ registry: zk }}
      filters: [ broken ]
    - match: {{ method: measure }}
      to: {{ registry: zk }}
      filters: [ late ]
    - to: {{ registry: zk }}
filters:
  nobody-notes:
    authorization:
      default: allow
      rules: [ {{ name: no-notes, effect: deny, match: {{ method: noted }} }} ]
  twice-by-bolt:
    rate_limit: {{ rate: 1/h, burst: 2, per: [ service ] }}
  twice:
    rate_limit: {{ rate: 1/h, burst: 2, per: [ service, {{ attribute: test }} ] }}
  broken:
    fault: {{ refuse: {{ percent: 100, reason: connection_lost }} }}
  late:
    fault: {{ delay: {{ percent: 100, time: 400ms }} }}
"#,
            world().zookeeper()
        ))
    })
}

/// What one client library makes of refusals.
struct Library {
    name: &'static str,
    caller: Caller<'static>,
    /// Its class and code where a call is denied, or limited.
    denied: (&'static str, Value),
    /// The same where the connection is lost.
    lost: (&'static str, Value),
    /// Whether it carries our text.
    tells: bool,
}

const SOFA: &str = "com.alipay.sofa.rpc.core.exception.SofaRpcException";
const DUBBO: &str = "org.apache.dubbo.rpc.RpcException";

fn libraries() -> Vec<Library> {
    let world = world();
    let url = format!("bolt://{}", rpc().local("rpc"));
    let sofa = world.sofa().caller(&[("url", &url)]);
    let dubbo = |peer: &'static Peer, serialization: &str, group: &str, version: &str| {
        let at = format!("{}:{}", host_address(), rpc().port("rpc"));
        let url = format!(
            "dubbo://{at}/{GREETER}?serialization={serialization}&prefer.serialization={serialization}"
        );
        peer.caller(&[("url", &url), ("group", group), ("version", version)])
    };
    let node = |protocol: &str| {
        let at = rpc().local("rpc");
        world.node().caller(&[
            ("protocol", protocol),
            ("address", &at),
            ("interface", NODE_GREETER),
            ("version", "1.0.0"),
        ])
    };
    let plain = "java.lang.RuntimeException";
    vec![
        Library {
            name: "SOFA-RPC for Java",
            caller: sofa.with("@test", "sofa"),
            denied: (SOFA, json!(199)),
            lost: (SOFA, json!(199)),
            tells: true,
        },
        Library {
            name: "Dubbo 3 for Java, hessian2",
            caller: dubbo(world.dubbo3(), "hessian2", "three", "").with("@test", "hessian2"),
            denied: (plain, Value::Null),
            lost: (DUBBO, json!(1)),
            tells: true,
        },
        Library {
            name: "Dubbo 3 for Java, fastjson2",
            caller: dubbo(world.dubbo3(), "fastjson2", "three", "2.0.0").with("@test", "fast"),
            denied: (plain, Value::Null),
            lost: (DUBBO, json!(1)),
            tells: true,
        },
        Library {
            name: "Dubbo 2.7 for Java",
            caller: dubbo(world.dubbo2(), "hessian2", "two", "").with("@test", "two"),
            denied: (plain, Value::Null),
            lost: (DUBBO, json!(1)),
            tells: true,
        },
        Library {
            name: "npm's Bolt",
            caller: node("bolt"),
            denied: ("", Value::Null),
            lost: ("", Value::Null),
            tells: true,
        },
        Library {
            name: "npm's Dubbo",
            caller: node("dubbo").with("@test", "npm"),
            denied: ("", Value::Null),
            lost: ("", Value::Null),
            tells: true,
        },
    ]
}

impl Library {
    fn fails(&self, method: &str, argument: &str, said: &str, expected: &(&str, Value)) {
        let begun = Instant::now();
        let failure = self.caller.call(method, argument).unwrap_err();
        assert!(begun.elapsed() < PROMPT, "{}: {failure:?}", self.name);
        self.is(&failure, said, expected);
    }

    fn is(&self, failure: &Failure, said: &str, (class, code): &(&str, Value)) {
        let name = self.name;
        assert!(
            !self.tells || failure.text.contains(said),
            "{name}: {failure:?}"
        );
        if !class.is_empty() {
            assert_eq!(failure.class, *class, "{name}: {failure:?}");
            assert_eq!(failure.code, *code, "{name}: {failure:?}");
        }
    }
}

/// How often a filter decided so.
fn decided(finback: &Finback, filter: &str, decision: &str) -> u64 {
    let (_, page) = finback.admin("/metrics");
    let lines = page.lines().filter(|line| {
        line.starts_with("finback_filter_decisions_total{")
            && line.contains(&format!("filter=\"{filter}"))
            && line.contains(&format!("decision=\"{decision}\""))
    });
    let counts = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    counts.sum::<f64>() as u64
}

#[test]
fn rpc_clients_raise_their_own_exceptions_of_what_filters_refuse() {
    for own in libraries() {
        let before = decided(rpc(), "nobody-notes", "denied");
        eventually("an answer", PATIENCE, || {
            own.caller
                .call("sayHello", "you")
                .map_err(|failure| format!("{}: {failure:?}", own.name))
        });
        own.fails("noted", "", "noted is not allowed", &own.denied);
        // Nobody tries again what is forbidden.
        let denied = decided(rpc(), "nobody-notes", "denied") - before;
        assert_eq!(denied, 1, "{}", own.name);

        let before = decided(rpc(), "twice", "limited");
        for _ in 0..2 {
            assert_eq!(own.caller.call("add", "20,22").unwrap(), 42, "{}", own.name);
        }
        own.fails("add", "1,2", "rate limit", &own.denied);
        let limited = decided(rpc(), "twice", "limited") - before;
        assert_eq!(limited, 1, "{}", own.name);

        own.fails("who", "", "lost", &own.lost);
        let begun = Instant::now();
        assert_eq!(own.caller.call("measure", "5").unwrap(), 5, "{}", own.name);
        assert!(
            begun.elapsed() >= Duration::from_millis(400),
            "{}",
            own.name
        );
    }
}

#[test]
fn a_generic_call_is_no_way_around() {
    let world = world();
    let url = format!("bolt://{}", rpc().local("rpc"));
    let sofa = world.sofa().caller(&[("url", &url), ("arg", "you")]);
    let at = format!("{}:{}", host_address(), rpc().port("rpc"));
    let url =
        format!("dubbo://{at}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2");
    let dubbo = world
        .dubbo3()
        .caller(&[("url", &url), ("group", "three"), ("arg", "you")]);
    for caller in [sofa, dubbo] {
        let said = eventually("an answer", PATIENCE, || {
            let generic = caller.with("method", "sayHello").ask("generic");
            generic.map_err(|failure| format!("{failure:?}"))
        });
        assert!(said.as_str().unwrap().starts_with("hello you"), "{said}");
        let failure = caller.with("method", "noted").ask("generic").unwrap_err();
        assert!(failure.text.contains("is not allowed"), "{failure:?}");
    }
}

#[test]
fn what_a_filter_refused_is_told_to_operators() {
    let sofa = &libraries()[0];
    sofa.fails("noted", "", "not allowed", &sofa.denied);
    let (_, recent) = rpc().admin("/recent");
    assert!(recent.contains("\"filter\": \"nobody-notes\""), "{recent}");
    let (_, filters) = rpc().admin("/filters");
    let filters: Value = serde_json::from_str(&filters).unwrap();
    let own = filters.as_array().unwrap().iter();
    let own = own
        .clone()
        .find(|own| own["filter"] == "nobody-notes")
        .unwrap();
    assert_eq!(own["kind"], "authorization");
    assert_eq!(own["listeners"], json!(["rpc"]));
    assert_eq!(own["does"][0], "no-notes: deny where method /[nN]oted/");
    assert!(own["decided"][0]["count"].as_u64().unwrap() >= 1, "{own}");
    let (_, told) = rpc().admin("/explain?service=com.acme.Greeter&method=noted&protocol=bolt");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["served"], false, "{told}");
    assert_eq!(
        told["verdict"],
        "refused as denied by filter nobody-notes: rule no-notes"
    );
}

// === Configuration ===

#[test]
fn what_a_protocol_cannot_honour_is_refused_at_load() {
    let with = |protocol: &str, filters: &str| {
        Finback::check(&format!(
            r#"
listeners: [ {{ name: a, address: "127.0.0.1:0", protocol: {protocol}, routes: r }} ]
routes: {{ r: [ {{ to: {{ cluster: c }}, filters: [ own ] }} ] }}
clusters: {{ c: {{ endpoints: [ "127.0.0.1:1" ] }} }}
filters: {{ own: {filters} }}
"#
        ))
    };
    let messages = "{ rate_limit: { rate: 1/s, unit: messages } }";
    let drops = "{ fault: { drop_response: { percent: 1 } } }";
    for (protocol, filters, said) in [
        ("bolt", messages, "only sessions of MQTT have"),
        ("tcp", drops, "no protocol there has any"),
        (
            "bolt",
            "{ rate_limit: { rate: 0/s } }",
            "`0/s` is not a rate",
        ),
        (
            "bolt",
            "{ rate_limit: { rate: 1/s, per: [ topic ] } }",
            "calls have no topic",
        ),
        ("bolt", "{ }", "exactly one of"),
        ("bolt", "{ fault: { } }", "without any trouble"),
        (
            "bolt",
            "{ fault: { refuse: { percent: 1, reason: bad_luck } } }",
            "is not a reason",
        ),
        (
            "bolt",
            "{ authorization: { rules: [ { effect: permit } ] } }",
            "is not an effect",
        ),
        (
            "mqtt",
            "{ authorization: { rules: [ { effect: deny, topics: [ a ] } ] } }",
            "protocol: mqtt",
        ),
        (
            "mqtt",
            "{ authorization: { rules: [ { effect: deny, match: { protocol: mqtt }, topics: [ \"a/#/b\" ] } ] } }",
            "is not a topic filter",
        ),
    ] {
        let (fine, text) = with(protocol, filters);
        assert!(!fine && text.contains(said), "{filters}: {text}");
        assert!(text.contains(":5:"), "the place: {text}");
    }
    let (fine, text) = with("mqtt", messages);
    assert!(fine, "{text}");
    for (protocol, shadow, said) in [
        ("tcp", "s", "cannot be copied"),
        ("bolt", "c", "leads there itself"),
        ("bolt", "nobody", "no cluster is called"),
    ] {
        let (fine, text) = Finback::check(&format!(
            r#"
listeners: [ {{ name: a, address: "127.0.0.1:0", protocol: {protocol}, routes: r }} ]
routes: {{ r: [ {{ to: {{ cluster: c }}, shadow: {{ cluster: {shadow} }} }} ] }}
clusters: {{ c: {{ endpoints: [ "127.0.0.1:1" ] }}, s: {{ endpoints: [ "127.0.0.1:2" ] }} }}
"#
        ));
        assert!(!fine && text.contains(said), "{text}");
    }
    let (fine, text) = Finback::check(
        "listeners: [ { address: \"127.0.0.1:0\", routes: r, filters: [ nobody ] } ]\nroutes: { r: [ { to: { cluster: c } } ] }\nclusters: { c: { endpoints: [ \"127.0.0.1:1\" ] } }\n",
    );
    assert!(
        !fine && text.contains("no filter is called `nobody`"),
        "{text}"
    );
}
