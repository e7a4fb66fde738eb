//! Mistakes that people make, and what they are told: where it is, what is wrong, and what to write.

use super::{GOOD, refused};
use crate::config::parse;
use std::path::Path;

/// A small configuration in the block style, in which most are written.
const BLOCK: &str = r#"listeners:
  - name: web
    address: "127.0.0.1:0"
    protocol: http
    routes: web
routes:
  web:
    - to: { cluster: shop }
      retry: { attempts: 2 }
clusters:
  shop:
    endpoints: [ "127.0.0.1:1" ]
    connect_timeout: 1s
registries:
  zk: { zookeeper: "127.0.0.1:2181" }
"#;

/// What is replaced by what, and what is said about it.
const MISTAKES: &[(&str, &str, &str)] = &[
    // Words of the YAML parser and of serde, in plain words.
    (
        "clusters:\n",
        "clusters:\n  shop: {}\n",
        "f.yaml:12:3: `shop` is written twice; keep one of them",
    ),
    (
        "    routes: web\n",
        "    routes: web\n    routes: web\n",
        "f.yaml:6:5: `routes` is written twice",
    ),
    (
        "endpoints: [ \"127.0.0.1:1\" ]",
        "endpoints: \"127.0.0.1:1\"",
        "a list is needed here; write [ ... ]",
    ),
    (
        "retry: { attempts: 2 }",
        "retry: 3",
        "keys are needed here; write { key: value, ... }",
    ),
    (
        "name: web\n",
        "name: [ web ]\n",
        "one value is needed here, no list and no keys",
    ),
    (
        "attempts: 2",
        "attempts: two",
        "write a whole number from 0 to 4294967295",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { stdout: true, sample: half }\n",
        "f.yaml:5:41: write a number, such as 0.5",
    ),
    (
        "attempts: 2",
        "attempts: -2",
        "write a whole number from 0 to 4294967295",
    ),
    ("attempts: 2", "idempotent: perhaps", "write true or false"),
    (
        "{ cluster: shop }",
        "{ clutser: shop }",
        "no key is called `clutser` here; did you mean `cluster`? keys are:",
    ),
    (
        "listeners:\n",
        "listenrs:\n",
        "no key is called `listenrs` here; did you mean `listeners`?",
    ),
    (
        "    address: \"127.0.0.1:0\"\n",
        "",
        "`address` is missing; write it",
    ),
    (
        "registries:\n",
        "---\nregistries:\n",
        "a second document begins here (`---`); write one document",
    ),
    ("    protocol: http\n", "\tprotocol: http\n", "blanks"),
    (
        "{ cluster: shop }",
        "*nobody",
        "no anchor (`&name`) of this name",
    ),
    ("{ cluster: shop }", "{ cluster: shop ", "f.yaml:"),
    (
        "connect_timeout: 1s",
        "connect_timeout: 5sec",
        "write 800ms, 5s, 2m or 1h",
    ),
    (
        "connect_timeout: 1s",
        "connect_timeout: -5s",
        "write 800ms, 5s, 2m or 1h",
    ),
    (
        "connect_timeout: 1s",
        "connections: 0",
        "0 is not allowed here; write 1 or more",
    ),
    // Addresses.
    (
        "\"127.0.0.1:0\"",
        "\"localhost:8080\"",
        "host names are for a cluster's `endpoints`; write 127.0.0.1:8080 or 0.0.0.0:8080",
    ),
    (
        "\"127.0.0.1:0\"",
        "\":8080\"",
        "write 0.0.0.0:8080 for every address of this host",
    ),
    (
        "\"127.0.0.1:0\"",
        "\"8080\"",
        "write an IP address and port, such as 127.0.0.1:12220",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ shop ]",
        "`shop` is not an endpoint; write IP:PORT, such as 127.0.0.1:12200, or HOST:PORT",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ \"1.2.3:80\" ]",
        "`1.2.3:80` is not an endpoint",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ \"shop:0\" ]",
        "port 0 cannot be connected to",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ \"a b:80\" ]",
        "is not an endpoint",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ \"shop:80\", \"shop:80\" ]",
        "shop:80 is listed twice",
    ),
    (
        "connect_timeout: 1s",
        "refresh: 5s",
        "no endpoint has a host name to ask for again; take `refresh` away",
    ),
    (
        "[ \"127.0.0.1:1\" ]",
        "[ \"${BACKEND}\" ]",
        "variables of the environment are not put in, write the value itself",
    ),
    // Registries.
    (
        "\"127.0.0.1:2181\"",
        "\"zookeeper://zk:2181\"",
        "no `zookeeper://` is needed; write zk:2181",
    ),
    (
        "{ zookeeper: \"127.0.0.1:2181\" }",
        "{ nacos: \"n:8848\" }",
        "`nacos` is not a kind of registry that Finback knows; write zookeeper, etcd, file, memory, dns or http",
    ),
    (
        "{ zookeeper: \"127.0.0.1:2181\" }",
        "{ consul: \"n:8500\" }",
        "`consul` is not a kind of registry",
    ),
    // Logs.
    (
        "registries:\n",
        "log: { level: loud }\nregistries:\n",
        "no level is called `loud`; write error, warn",
    ),
    (
        "registries:\n",
        "log: { format: xml }\nregistries:\n",
        "no format is called `xml`; write text or json",
    ),
    (
        "registries:\n",
        "log: { modules: { a-b: info } }\nregistries:\n",
        "`a-b` is not a module",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: {}\n",
        "write exactly one of `path` and `stdout: true`",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { stdout: true, format: \"{tim}\" }\n",
        "no field is called `tim`; write one of: time, listener",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { stdout: true, sample: 2 }\n",
        "2 is not a share; write one above 0 and up to 1",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { stdout: true, sample: 0.5, only: failures }\n",
        "failures are all written; take `sample` or `only` away",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { stdout: true, rotate: { size: 1MiB } }\n",
        "standard output cannot be moved away",
    ),
    (
        "    protocol: http\n",
        "    protocol: http\n    access_log: { path: a, rotate: { size: 1KiB } }\n",
        "write a `size` of 64KiB or more",
    ),
];

#[test]
fn mistakes_are_told_in_plain_words() {
    for (from, to, expected) in MISTAKES {
        assert!(BLOCK.contains(from), "{from}");
        let error = refused(&BLOCK.replacen(from, to, 1));
        assert!(error.contains(expected), "{to}: {error}");
        assert!(error.starts_with("dir/f.yaml:"), "{error}");
        let parsers = [
            "scalar",
            "sequence",
            "mapping",
            "u32",
            "DuplicateKeyPolicy",
            "from_str",
            "unknown field",
            "missing field",
            "budget",
            "invalid type",
        ];
        for word in parsers {
            assert!(!error.contains(word), "a word of the parser's: {error}");
        }
    }
}

#[test]
fn a_file_over_a_limit_is_told_which_one() {
    let deep = "[".repeat(80) + &"]".repeat(80);
    // So long that its parts are not read again, each for itself.
    let values = "[ 1000 ], ".repeat(125_001);
    let aliases = "*it, ".repeat(101);
    for (more, expected) in [
        (
            format!("x-more: [ {values} ]\n"),
            "the file has more than 250000 values, which is the limit; keep services in a registry",
        ),
        (
            format!("x-more: {deep}\n"),
            "more than 64 levels deep, which is the limit",
        ),
        (
            format!("x-it: &it 1\nx-more: [ {aliases} ]\n"),
            "there are 101 aliases (`*name`) of 1 anchors (`&name`)",
        ),
    ] {
        let error = refused(&format!("{more}{BLOCK}"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_that_says_nothing_is_told_what_to_write() {
    for text in ["", "# nothing\n", "---\n", "\u{feff}\n"] {
        let error = refused(text);
        assert!(
            error.contains("the file says nothing; write `listeners`"),
            "{text:?}: {error}"
        );
    }
    for text in ["{}", "admin: { address: \"127.0.0.1:1\" }\n"] {
        assert!(refused(text).contains("`listeners` is missing, so nothing would ever come in"));
    }
    let error = refused("finback");
    assert!(
        error.contains("keys are needed here") || error.contains("keys such as"),
        "{error}"
    );
}

#[test]
fn every_part_tells_its_own_mistake() {
    let wrong = [
        ("connect_timeout: 1s", "connect_timeout: 1"),
        ("attempts: 2", "attemts: 2"),
        ("name: web\n", "nam: web\n"),
    ];
    let text = wrong.iter().fold(BLOCK.to_owned(), |text, (from, to)| {
        text.replacen(from, to, 1)
    });
    let error = refused(&text);
    let places: Vec<&str> = error
        .lines()
        .map(|line| line.split(": ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        places,
        ["dir/f.yaml:2:5", "dir/f.yaml:9:16", "dir/f.yaml:13:22"],
        "{error}"
    );
    // What makes sense to YAML, and not to us.
    let wrong = [
        ("cluster: pay, weight: 90", "cluster: pya, weight: 90"),
        ("registry: zk, layout: dubbo", "registry: zoo"),
        ("\"127.0.0.1:2\"", "\"127.0.0.1\""),
        ("protocol: auto", "protocol: thrift"),
    ];
    let text = wrong.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        text.replacen(from, to, 1)
    });
    let error = refused(&text);
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 4, "{error}");
    for (line, wanted) in lines.iter().zip(["thrift", "pya", "zoo", "127.0.0.1"]) {
        assert!(line.contains(wanted), "in the order of the file: {error}");
    }
    // No more than anybody reads.
    let many: String = (0..50).map(|n| format!("  c{n}: {{}}\n")).collect();
    let error = refused(
        &format!("{BLOCK}clusters_: 1\n")
            .replacen("clusters:\n", &format!("clusters:\n{many}"), 1)
            .replace("clusters_: 1\n", ""),
    );
    assert_eq!(error.lines().count(), 21, "{error}");
    assert!(error.ends_with("and 30 more"), "{error}");
}

#[test]
fn anchors_stand_in_keys_of_their_own() {
    let text = format!(
        "x-defaults: &defaults\n  connect_timeout: 2s\n  connections: 7\nx-more: [ 1, {{ a: b }} ]\n{}",
        BLOCK.replacen("    connect_timeout: 1s\n", "    <<: *defaults\n", 1)
    );
    let config = parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"));
    let policy = &config.routing.clusters[0].policy;
    assert_eq!(policy.connections, 7);
    assert_eq!(policy.connect_timeout, std::time::Duration::from_secs(2));
    // Only at the top.
    let error = refused(&BLOCK.replacen("    protocol: http\n", "    x-mine: 1\n", 1));
    assert!(error.contains("no key is called `x-mine` here"), "{error}");
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    for (from, to, expected) in [
        (
            "    - to: { cluster: shop }\n",
            "    - respond: { status: 200 }\n    - to: { cluster: shop }\n",
            "f.yaml:9:7: warning: no call comes here: the route in line 8 takes all",
        ),
        (
            "{ cluster: shop }\n      retry: { attempts: 2 }",
            "{ registry: zk }",
            ": warning: no route leads to the cluster `shop`",
        ),
        (
            "routes:\n",
            "routes:\n  other: [ { to: { cluster: shop } } ]\n",
            "f.yaml:7:12: warning: no listener uses the route table `other`",
        ),
        (
            "[ \"127.0.0.1:1\" ]",
            "[]",
            "the cluster `shop` takes no call: it has no endpoint",
        ),
        (
            "[ \"127.0.0.1:1\" ]",
            "[ { address: \"127.0.0.1:1\", weight: 0 } ]",
            "all its endpoints have the weight 0",
        ),
        (
            "{ cluster: shop }",
            "{ cluster: shop, subset: { zone: b } }",
            "no endpoint of the cluster `shop` has the labels of this subset (zone: b)",
        ),
        ("    protocol: http\n", "    protocol: bolt\n", ""),
        (
            "{ zookeeper: \"127.0.0.1:2181\" }",
            "{ zookeeper: \"127.0.0.1:2181\", user: a, password: \"${SECRET}\" }",
            "variables of the environment are not put in; write `password_file`",
        ),
    ] {
        assert!(BLOCK.contains(from), "{from}");
        let text = BLOCK.replacen(from, to, 1);
        let config = parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"));
        let said: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        match expected {
            "" => assert!(said.is_empty(), "{said}"),
            _ => assert!(said.contains(expected), "{to}: {said}"),
        }
    }
    let text = BLOCK.replacen("    protocol: http\n", "    protocol: bolt\n", 1);
    let text = text.replacen("- to:", "- match: { path: /a }\n      to:", 1);
    let text = format!("{text}\n").replacen(
        "listeners:\n",
        "listeners:\n  - { address: \"0.0.0.0:8080\", routes: web, protocol: dubbo }\n  - { address: \"127.0.0.1:8080\", routes: web, protocol: bolt }\n",
        1,
    );
    let config = parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"));
    let said: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("127.0.0.1:8080 and 0.0.0.0:8080 in line 2 are one port"),
        "{said:?}"
    );
    assert!(
        said[1].contains(
            "`path` is of http, and the listeners of this table speak bolt, dubbo: no call matches"
        ),
        "{said:?}"
    );
    // The examples of the guide mean what they say.
    for example in ["minimal", "listed", "canary", "observing"] {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/examples/{example}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let config = parse(&text, &path).unwrap_or_else(|error| panic!("{error}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}

#[test]
fn brokers_of_rocketmq_need_ports_of_their_own_and_one_policy() {
    let text = |listener: &str, routes: &str| {
        format!(
            "listeners:\n  - {{ address: \"127.0.0.1:20005\", protocol: http, routes: mq }}\n  - \
             {{ address: \"127.0.0.1:0\", {listener}, routes: mq }}\nroutes:\n  mq: [ {routes} ]\n\
             clusters:\n  a: {{ endpoints: [ \"127.0.0.1:1\" ] }}\n  b: {{ endpoints: [ \"127.0.0.1:2\" ] }}\n"
        )
    };
    let all = "{ match: { service: x }, to: { cluster: a } }, { to: { cluster: b } }";
    let one = "{ match: { service: x }, to: { cluster: a } }, { to: { cluster: a } }";
    let good = "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012 }";
    for (listener, routes, expected) in [
        (
            "protocol: rocketmq",
            one,
            "f.yaml:3:41: RocketMQ needs ports for its brokers; write",
        ),
        (
            "rocketmq: { broker_ports: 20010-20012 }",
            one,
            "RocketMQ is not told apart by its first bytes",
        ),
        (
            "protocol: http, rocketmq: { broker_ports: 20010-20012 }",
            one,
            "`rocketmq` is for listeners that speak it",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010 }",
            one,
            "`20010` is not a port range",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20011 }",
            one,
            "is not a port range; write FIRST-LAST, three for each",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20000-70000 }",
            one,
            "is not a port range",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20000-20012 }",
            one,
            "the listener 127.0.0.1:20005 has a port among those for brokers",
        ),
        (
            good,
            all,
            "its routes lead to several clusters, or to none; write as `broker_cluster`",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, broker_cluster: c }",
            one,
            "no cluster is called `c`",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, advertise: \"mesh:1\" }",
            one,
            "`mesh:1` is not a host that clients could dial",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, lanes: { own: a, others: [ b ] } }",
            one,
            "f.yaml:3:97: whose lanes? write either `own`",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, lanes: { own: a.b } }",
            one,
            "`a.b` is not a lane of consumers",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, lanes: { own: a, property: x-lane } }",
            one,
            "`x-lane` is not a property that brokers could choose by",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, keys: [ { access_key: \"\", secret_key_file: x } ] }",
            one,
            "`` is not an access key",
        ),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, lanes: { own: a } }",
            one,
            "",
        ),
        (good, one, ""),
        (
            "protocol: rocketmq, rocketmq: { broker_ports: 20010-20012, broker_cluster: b }",
            one,
            "",
        ),
    ] {
        let text = text(listener, routes);
        match expected {
            "" => {
                let config =
                    parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"));
                let warned = config
                    .warnings
                    .iter()
                    .map(ToString::to_string)
                    .collect::<String>();
                let is_about_b = warned.contains("cluster `b`");
                assert_eq!(is_about_b, !listener.contains("broker_cluster"), "{warned}");
            }
            _ => {
                let error = refused(&text);
                assert!(error.contains(expected), "{listener}: {error}");
            }
        }
    }
    let twice = text(good, one).replacen(
        "listeners:\n",
        "listeners:\n  - { name: other, address: \"127.0.0.1:0\", protocol: rocketmq, routes: mq, rocketmq: { broker_ports: 20012-20020 } }\n",
        1,
    );
    let error = refused(&twice);
    assert!(
        error.contains("the listener other has some of these ports for its brokers"),
        "{error}"
    );
}

#[test]
fn brokers_are_told_once_whose_a_connection_is() {
    let told = |by_route: bool| {
        let text = format!(
            "listeners: [ {{ name: all, address: \"127.0.0.1:0\", protocol: mqtt, routes: all }} ]\nroutes:\n  all: [ {{ mqtt: {{ \
             proxy_protocol: {by_route} }}, to: {{ cluster: b }} }} ]\nclusters: {{ b: {{ proxy_protocol: v2, endpoints: [ \
             \"127.0.0.1:1\" ] }} }}\n"
        );
        parse(&text, Path::new("f.yaml")).map(drop)
    };
    assert!(told(false).is_ok());
    let error = told(true).unwrap_err().to_string();
    let expected = "has `proxy_protocol` for the brokers of cluster `b`, too; take one away";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_only_one_protocol_does_needs_a_route_that_only_its_calls_take() {
    for (protocol, route, expected) in [
        (
            "auto",
            "request_headers: { set: { a: b } }",
            "f.yaml:3:10: calls of bolt, dubbo, mqtt may take this route, and what it does beyond routing is not done",
        ),
        (
            "auto",
            "mqtt: { acl: [ { allow: publish, topics: [ \"a\" ] } ] }",
            "calls of bolt, dubbo, grpc, http, rocketmq-grpc, triple may take this route",
        ),
        (
            "http",
            "mqtt: { acl: [ { allow: publish, topics: [ \"a\" ] } ] }",
            "calls of grpc, http, rocketmq-grpc, triple may take this route",
        ),
        (
            "auto",
            "match: { sni: a.test }, rewrite: { host: b.test }",
            "calls of bolt, dubbo, mqtt may take this route",
        ),
        ("http", "rewrite: { host: b.test }", ""),
        ("auto", "match: { path: /a }, rewrite: { host: b.test }", ""),
        (
            "auto",
            "match: { query: { a: b } }, rewrite: { host: b.test }",
            "",
        ),
        (
            "auto",
            "match: { protocol: { regex: \"http|grpc|triple\" } }, response_headers: { set: { a: b } }",
            "",
        ),
        (
            "auto",
            "match: { client_id: a }, mqtt: { acl: [ { allow: publish, topics: [ \"a\" ] } ] }",
            "",
        ),
    ] {
        let text = format!(
            "listeners: [ {{ name: all, address: \"127.0.0.1:0\", protocol: {protocol}, routes: all }} ]\nroutes:\n  all: [ {{ {route}, to: {{ \
             cluster: b }} }} ]\nclusters: {{ b: {{ endpoints: [ \"127.0.0.1:1\" ] }} }}\n"
        );
        match expected {
            "" => {
                parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"));
            }
            _ => {
                let error = refused(&text);
                assert!(error.contains(expected), "{route}: {error}");
            }
        }
    }
}
