//! What is wrong is said with its place and its remedy.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod concurrency;
mod messages;
mod rocketmq;

use std::path::Path;

use super::*;

fn refused(text: &str) -> String {
    match parse(text, Path::new("dir/f.yaml")) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

const GOOD: &str = r#"
workers: 2
admin: { address: "127.0.0.1:0" }
registries:
  zk: { zookeeper: "127.0.0.1:2181" }
  local: { file: "endpoints.yaml" }
  mem: { memory: [ { service: a.B, version: "1.0", endpoints: [ "127.0.0.1:1" ] } ] }
listeners:
  - { name: rpc, address: "127.0.0.1:0", protocol: auto, routes: rpc }
routes:
  rpc:
    - match: { service: com.acme.Pay, method: { prefix: get }, attributes: { lane: { regex: "g.*" } }, source: "10.0.0.0/8" }
      to: [ { cluster: pay, subset: { version: "2" }, fallback: any, weight: 10 }, { cluster: pay, weight: 90 } ]
      timeout: 800ms
      retry: { attempts: 3, idempotent: true }
    - to: { registry: zk, layout: dubbo }
clusters:
  pay:
    endpoints: [ "127.0.0.1:2", { address: "127.0.0.1:3", weight: 50, labels: { version: "2" } } ]
    balance: { consistent-hash: { attribute: uid } }
    heartbeat: { interval: 2s }
  found:
    discover: { registry: zk, layout: sofa, service: com.acme.Pay }
limits: { frame: 1MiB, drain: 10s }
"#;

#[test]
fn the_whole_shape_is_understood() {
    let config = parse(GOOD, Path::new("dir/f.yaml")).unwrap();
    assert_eq!(
        (
            config.workers,
            config.listeners.len(),
            config.registries.len()
        ),
        (2, 1, 3)
    );
    assert_eq!(config.routing.clusters.len(), 2);
    assert_eq!(config.routing.tables[0].routes.len(), 2);
    assert_eq!(
        config.routing.limits.drain,
        std::time::Duration::from_secs(10)
    );
    let local = config
        .registries
        .iter()
        .find(|(name, _)| name == "local")
        .unwrap();
    assert_eq!(local.1, RegistryConfig::File("dir/endpoints.yaml".into()));
}

#[test]
fn several_registries_are_one_by_their_own_name() {
    let text = GOOD.replacen(
        "to: { registry: zk, layout: dubbo }",
        "to: { registry: [ zk, mem ], layout: dubbo }",
        1,
    );
    let text = text.replacen(
        "discover: { registry: zk",
        "discover: { registry: { in_order: [ zk, local ] }",
        1,
    );
    let config = parse(&text, Path::new("dir/f.yaml")).unwrap();
    let named = |name: &str| {
        let mut all = config.registries.iter();
        all.find(|(own, _)| own == name)
            .map(|(_, config)| config.clone())
    };
    let several = |registries: [&str; 2], in_order| {
        RegistryConfig::Several(finback_registry::Several {
            registries: registries.map(str::to_owned).to_vec(),
            in_order,
        })
    };
    assert_eq!(named("zk + mem"), Some(several(["zk", "mem"], false)));
    assert_eq!(named("zk > local"), Some(several(["zk", "local"], true)));
    assert_eq!(config.registries.len(), 5);
}

#[test]
fn mistakes_are_refused_with_place_and_remedy() {
    for (from, to, expected) in [
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { registry: [ zk ], layout: dubbo }",
            "a list of registries has two at least",
        ),
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { registry: [ zk, ky ], layout: dubbo }",
            "16:29: no registry is called `ky`; write one of: local, mem, zk",
        ),
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { registry: { in_order: [ zk, zk ] } }",
            "16:41: `zk` is listed twice; write it once",
        ),
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { registry: { order: [ zk, mem ] } }",
            "16:2",
        ),
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { registry: [ zk, mem ], spill: true }",
            "beside `registry` only `layout` has a meaning",
        ),
        (
            "{ cluster: pay, weight: 90 }",
            "{ cluster: pay, weight: 0, spill: true }",
            "with a weight of 0 it has no share to hand on",
        ),
        (
            "fallback: any, weight: 10 }, { cluster: pay, weight: 90 }",
            "fallback: any, weight: 10, spill: false }, { cluster: pay, weight: 0 }",
            "no other cluster could take its share",
        ),
        (
            "to: { registry: zk, layout: dubbo }",
            "to: { cluster: pay, spill: false }",
            "16:34: no other cluster could take its share",
        ),
        ("workers: 2", "wokers: 2", "dir/f.yaml:2:1: "),
        ("workers: 2", "wokers: 2", "did you mean `workers`?"),
        (
            "workers: 2",
            "workers: 0",
            "2:10: 0 workers can do no work; write 1 or more",
        ),
        (
            "127.0.0.1:0\" }\nreg",
            "0.0.0.0:1\" }\nreg",
            "3:19: outside of this machine the admin port needs a `token_file`",
        ),
        (
            "routes: rpc }",
            "routes: rcp }",
            "no route table is called `rcp`; write one of: rpc",
        ),
        (
            "routes: rpc }",
            "routes: rpc, tls: { certificates: [ { certificate: a, key: b } ], crl: [ c ] } }",
            "9:131: `crl` needs a `client_ca`",
        ),
        (
            "routes: rpc }",
            "routes: rpc, tls: { certificates: [ { certificate: a, key: b } ], close_expired: true } }",
            "`close_expired` needs a `client_ca`",
        ),
        (
            "heartbeat: { interval: 2s }",
            "tls: { crl: [ c ] }",
            "21:19: `crl` needs a `ca`",
        ),
        (
            "service: com.acme.Pay, method",
            "identity: \"https://acme/pay\", method",
            "12:26: `https://acme/pay` fits no identity; write a SPIFFE ID (spiffe://...), a DNS name",
        ),
        (
            "protocol: auto",
            "protocol: thrift",
            "no protocol is called `thrift`",
        ),
        (
            "routes: rpc }",
            "routes: rpc, http: { header_count: 257 } }",
            "257 headers are too many; write 256 at most",
        ),
        (
            "protocol: auto",
            "protocol: bolt, http: { streams: 5 }",
            "`http` is for listeners that speak it; take it away",
        ),
        (
            "cluster: pay, weight",
            "cluster: pya, weight",
            "no cluster is called `pya`",
        ),
        (
            "weight: 10 }, { cluster: pay, weight: 90",
            "weight: 0 }, { cluster: pay, weight: 0",
            "weight above 0",
        ),
        ("\"g.*\"", "\"g(\"", "`g(` is not a regular expression"),
        ("10.0.0.0/8", "10.0.0.0/99", "write a number from 0 to 32"),
        ("800ms", "800", "write 800ms, 5s, 2m or 1h"),
        ("attempts: 3", "attempts: 0", "write 1 or more"),
        (
            "layout: dubbo",
            "layout: dubo",
            "no layout is called `dubo`",
        ),
        (
            "registry: zk, layout: dubbo",
            "registry: zoo",
            "no registry is called `zoo`",
        ),
        (
            "{ registry: zk, layout: dubbo }",
            "registry",
            "which registry?",
        ),
        ("\"127.0.0.1:2\"", "\"127.0.0.1\"", "is not an endpoint"),
        ("\"127.0.0.1:2\"", "\"127.0.0.1:3\"", "listed twice"),
        (
            "{ attribute: uid }",
            "header",
            "is not a load-balancing policy",
        ),
        ("fallback: any", "fallback: all", "is not a fallback"),
        ("frame: 1MiB", "frame: 1MB", "16MiB"),
        ("{ zookeeper: \"127.0.0.1:2181\" }", "{}", "exactly one of"),
        (
            "{ registry: zk, layout: dubbo }",
            "{ regsitry: zk }",
            "16:13: no key is called `regsitry` here",
        ),
        (
            "[ { cluster: pay, subset",
            "[ { clutser: pay, subset",
            "did you mean `cluster`?",
        ),
        (
            "cluster: pay, weight",
            "cluster: pay, registry: zk, weight",
            "stand alone",
        ),
        (
            "{ registry: zk, layout: dubbo }",
            "{ registry: zk, weight: 1 }",
            "only `layout` has a meaning",
        ),
        (
            "service: com.acme.Pay, method",
            "version: 1.0, method",
            "in quotes",
        ),
        (
            "{ prefix: get }",
            "{ prefx: get }",
            "did you mean `prefix`?",
        ),
        (
            "{ prefix: get }",
            "{ prefix: get, regex: g }",
            "exactly one of `prefix` and `regex`",
        ),
        ("\"10.0.0.0/8\"", "[]", "an empty list matches no address"),
        (
            "attribute: uid",
            "atribute: uid",
            "did you mean `attribute`?",
        ),
        ("interval: 2s", "interval: 8761h", "at most 8760h"),
        ("drain: 10s", "idle: 0s", "leaves no time"),
        ("frame: 1MiB", "connections: 0", "write 1 or more"),
        (
            "frame: 1MiB",
            "queue_soft: 17MiB",
            "is over `queue_hard` (16777216 bytes)",
        ),
        (
            "heartbeat: { interval: 2s }",
            "outlier: { max_percent: 101 }",
            "write 0 to 100",
        ),
        (
            "heartbeat: { interval: 2s }",
            "health_check: { protocol: smtp }",
            "write tcp, http, grpc, bolt, dubbo or mqtt",
        ),
        (
            "heartbeat: { interval: 2s }",
            "health_check: { protocol: bolt, path: /x }",
            "`path` is not for `bolt`",
        ),
        (
            "heartbeat: { interval: 2s }",
            "health_check: { protocol: http, status: [400, 200] }",
            "the lowest and the highest",
        ),
        (
            "layout: sofa, service: com.acme.Pay",
            "service: com.acme.Pay",
            "write `layout` too",
        ),
        (
            "{ zookeeper: \"127.0.0.1:2181\" }",
            "{ zookeeper: \"127.0.0.1:2181\", dns: {} }",
            "exactly one of",
        ),
        (
            "2181\" }",
            "2181,localhost\" }",
            "`localhost` is not a server",
        ),
        ("service: a.B,", "service: \"\",", "write its name"),
        (
            "endpoints: [ \"127.0.0.1:1\" ] } ]",
            "endpoints: [] }, { service: a.B, version: \"1.0\", endpoints: [] } ]",
            "service `a.B` is listed twice",
        ),
        ("workers: 2", "workers: 100000", "too many"),
        (
            "workers: 2",
            "workers: 2\nworkers: 3",
            "3:1: `workers` is written twice",
        ),
        (
            "    discover:",
            "    balance: random\n    #",
            "needs either",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = refused(&GOOD.replacen(from, to, 1));
        assert!(error.contains(expected), "{to}: {error}");
        assert!(error.starts_with("dir/f.yaml:"), "{error}");
        let place: Vec<&str> = error.split(": ").next().unwrap().split(':').collect();
        assert_eq!(place.len(), 3, "line and column: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// A configuration that registers a service of a layout with these further keys.
fn registering(layout: &str, keys: &str) -> String {
    let register = format!(
        "register: [ {{ registry: zk, layout: {layout}, service: a.B, address: \"10.0.0.5:1\", {keys} }} ]\nlisteners:"
    );
    GOOD.replacen("listeners:", &register, 1)
}

#[test]
fn a_registration_says_what_consumers_act_on() {
    let text = registering("dubbo", "parameters: { timeout: 5000, a.retries: \"0\" }");
    let config = parse(&text, Path::new("dir/f.yaml")).unwrap();
    let parameters = &config.registrations[0].parameters;
    assert_eq!(parameters["timeout"], "5000");
    assert_eq!(parameters["a.retries"], "0");
    for (layout, keys) in [
        (
            "sofa",
            "parameters: { timeout: 3000, serialization: protobuf }",
        ),
        (
            "spring",
            "parameters: { version: \"2\" }, labels: { zone: a&b }",
        ),
        ("grpc", "labels: { weight: \"1\" }"),
        ("dubbo", "labels: { tag: gray }"),
        (
            "dubbo-app",
            "application: shop, parameters: { timeout: 5000 }",
        ),
    ] {
        parse(&registering(layout, keys), Path::new("f.yaml")).unwrap();
    }
}

#[test]
fn what_a_registration_writes_itself_is_refused_with_its_place() {
    for (layout, keys, expected) in [
        (
            "dubbo",
            "parameters: { weight: 5 }",
            "8:103: `weight` is written from what else",
        ),
        (
            "dubbo",
            "parameters: { interface: c.D }",
            "`interface` is written",
        ),
        (
            "dubbo",
            "parameters: { timestamp: 5 }",
            "`timestamp` is written",
        ),
        (
            "dubbo",
            "parameters: { finback.origin: x }",
            "`finback.origin` is written",
        ),
        (
            "dubbo",
            "labels: { version: \"1\" }",
            "`version` is written",
        ),
        (
            "dubbo",
            "parameters: { x: \"a&b\" }",
            "`x` is nothing that a registry can have",
        ),
        ("dubbo", "parameters: { \"a=b\": c }", "`a=b` is nothing"),
        ("dubbo", "labels: { zone: \"a&b\" }", "`zone` is nothing"),
        (
            "sofa",
            "parameters: { uniqueId: x }",
            "`uniqueId` is written",
        ),
        (
            "sofa",
            "parameters: { startTime: 5 }",
            "`startTime` is written",
        ),
        (
            "grpc",
            "parameters: { x: y }",
            "knows no parameters; write `labels`",
        ),
        ("native", "parameters: { x: y }", "knows no parameters"),
        (
            "dubbo-app",
            "parameters: { x: y }",
            "an application needs its name",
        ),
        ("dubbo-app", "application: \"a,b\"", "`a,b` is not a name"),
    ] {
        let error = refused(&registering(layout, keys));
        assert!(error.starts_with("dir/f.yaml:8:"), "{error}");
        assert!(error.contains(expected), "{keys}: {error}");
    }
}

#[test]
fn the_schema_names_every_part() {
    let schema = serde_json::to_string(&schema()).unwrap();
    for part in [
        "listeners",
        "consistent-hash",
        "retry_budget",
        "opaque_service",
    ] {
        assert!(schema.contains(part), "{part}");
    }
    assert!(
        !schema.contains("[`"),
        "a link that only rustdoc can follow"
    );
    let value = serde_json::to_value(super::schema()).unwrap();
    assert_eq!(value["title"], "Finback configuration");
    assert!(value["patternProperties"].to_string().contains("^x-"));
    let listed = &value["$defs"]["Listener"]["properties"]["protocol"]["enum"];
    let listed: std::collections::BTreeSet<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|own| own.as_str())
        .collect();
    let mut spoken: std::collections::BTreeSet<&str> =
        crate::protocols::names().into_iter().collect();
    spoken.insert("auto");
    assert_eq!(listed, spoken);
}

fn tracing(keys: &str) -> String {
    GOOD.replacen(
        "listeners:",
        &format!("tracing: {{ {keys} }}\nlisteners:"),
        1,
    )
}

#[test]
fn what_tracing_cannot_mean_is_refused_with_its_place() {
    let at = "endpoint: \"http://collector:4317\"";
    let routed = |route: &str, keys: &str| {
        let with = format!("{{ registry: zk, layout: dubbo }}\n      tracing: {{ {route} }}");
        tracing(keys).replacen("{ registry: zk, layout: dubbo }", &with, 1)
    };
    let table = [
        (tracing(""), "`endpoint` is missing"),
        (
            tracing("endpoint: \"collector:4317\""),
            "is not an endpoint",
        ),
        (
            tracing("endpoint: \"ftp://collector:4317\""),
            "write http://HOST:PORT",
        ),
        (
            tracing("endpoint: \"http://u:p@collector\""),
            "is not an endpoint",
        ),
        (
            tracing("endpoint: \"http://collector:0\""),
            "is not an endpoint",
        ),
        (
            tracing("endpoint: \"http://collector/x\""),
            "gRPC's path is always the same",
        ),
        (
            tracing("endpoint: \"http://collector?x=1\", protocol: http"),
            "is not an endpoint",
        ),
        (
            tracing(&format!("{at}, protocol: thrift")),
            "write grpc or http",
        ),
        (
            tracing(&format!("{at}, tls: {{ ca: a.pem }}")),
            "write https://",
        ),
        (
            tracing(&format!("{at}, headers: {{ \"a b\": c }}")),
            "is not a header name",
        ),
        (
            tracing(&format!("{at}, headers: {{ host: c }}")),
            "is written by us",
        ),
        (
            tracing(&format!("{at}, headers: {{ a: {{ path: c }} }}")),
            "no key is called `path`",
        ),
        (tracing(&format!("{at}, queue: 0")), "write 1 to"),
        (
            tracing(&format!("{at}, service_name: \"\"")),
            "a service without a name",
        ),
        (
            tracing(&format!("{at}, resource: {{ service.name: a }}")),
            "is said by us",
        ),
        (
            tracing(&format!("{at}, sampling: sometimes")),
            "write always, never",
        ),
        (
            tracing(&format!("{at}, sampling: always, ratio: 0.5")),
            "`always` has no share",
        ),
        (tracing(&format!("{at}, ratio: 1.5")), "write 0 to 1"),
        (tracing(&format!("{at}, ratio: .nan")), "write 0 to 1"),
        (
            tracing(&format!("{at}, tails: {{ slower_than: 0s }}")),
            "leaves no time",
        ),
        (
            tracing(&format!("{at}, tails_per_second: 0")),
            "write 1 or more",
        ),
        (
            tracing(&format!("{at}, propagation: {{ read: [ zipkin ] }}")),
            "is not a context format",
        ),
        (
            tracing(&format!("{at}, propagation: {{ write: [ b3, b3 ] }}")),
            "stands here twice",
        ),
        (
            GOOD.replacen("timeout: 800ms", "tracing: { sampling: always }", 1),
            "nothing is traced",
        ),
        (routed("ratio: 2", at), "write 0 to 1"),
        (
            routed("tails_per_second: 2", at),
            "no key is called `tails_per_second`",
        ),
    ];
    for (text, why) in table {
        let error = refused(&text);
        assert!(error.contains(why), "{why}: {error}");
        assert!(error.starts_with("dir/f.yaml:"), "{error}");
    }
}

#[test]
fn a_route_takes_from_the_whole_what_it_does_not_say() {
    use finback_core::trace::{Ratio, Sampling};
    let at = "endpoint: \"https://[::1]\", protocol: http, ratio: 0.5, tails: { failed: true }";
    let text = tracing(at).replacen("timeout: 800ms", "tracing: { ratio: 1 }", 1);
    let config = parse(&text, Path::new("dir/f.yaml")).unwrap();
    let spec = config.tracing.unwrap();
    assert_eq!(
        spec.address,
        ("::1".to_owned(), 4318, "/v1/traces".to_owned())
    );
    assert!(spec.tls.is_some());
    let half = Ratio::new(0.5).unwrap();
    assert_eq!(spec.choice.sampling, Sampling::ParentBased(half));
    let routes = &config.routing.tables[0].routes;
    let own = routes[0].tracing.unwrap();
    assert_eq!(own.sampling, Sampling::ParentBased(Ratio::ALL));
    assert!(own.tails.failed && routes[1].tracing.is_none());
}
