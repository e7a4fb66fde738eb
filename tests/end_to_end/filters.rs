//! Filters before real clients and servers: every protocol's own words for what is denied, limited or broken on
//! purpose, and that nothing gets around them.

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

// === HTTP, gRPC, TCP ===

fn front(backend: &str, filters: &str, listener: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, filters: [ own ]{listener} }} ]
routes:
  web:
    - match: {{ protocol: http, path: /here }}
      respond: {{ status: 200, body: here }}
    - to: {{ cluster: back }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
filters: {{ own: {filters} }}
"#
    ))
}

/// The status, the head and the body that curl gets.
fn curl(url: &str, arguments: &[&str]) -> (u16, String) {
    let out = Command::new("curl")
        .args(["-s", "-i", "--max-time", "10"])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let status = text.split(' ').nth(1).and_then(|own| own.parse().ok());
    (status.unwrap_or(0), text)
}

#[test]
fn http_clients_read_403_and_429() {
    let backend = web::serve().to_string();
    let deny = "{ authorization: { default: allow, rules: [ { effect: deny, match: { path: { prefix: /admin } } } ] } }";
    let finback = front(&backend, deny, "");
    let at = finback.local("web");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(curl(&format!("http://{at}/"), &[version]).0, 200);
        // However the path is written.
        for path in [
            "/admin",
            "/admin/x",
            "/%61dmin",
            "/a/../admin",
            "//admin",
            "/./admin",
        ] {
            let (status, text) = curl(&format!("http://{at}{path}"), &[version, "--path-as-is"]);
            assert_eq!(status, 403, "{version} {path}: {text}");
            assert!(text.contains("is not allowed"), "{text}");
        }
    }
    let limit = "{ rate_limit: { rate: 1/m, burst: 2, per: [ { attribute: x-tenant } ] } }";
    let finback = front(&backend, limit, "");
    let at = finback.local("web");
    for (number, version) in ["--http1.1", "--http2-prior-knowledge"].iter().enumerate() {
        let tenant = format!("x-tenant: t{number}");
        let ask = |path: &str| curl(&format!("http://{at}{path}"), &[version, "-H", &tenant]);
        // What is answered here is limited as well.
        assert_eq!((ask("/").0, ask("/here").0), (200, 200));
        let (status, head) = ask("/here");
        assert_eq!(status, 429, "{head}");
        let after = head.to_lowercase();
        let after = after.split("retry-after: ").nth(1).unwrap();
        let after: u64 = after.lines().next().unwrap().trim().parse().unwrap();
        assert!((25..=60).contains(&after), "{after}");
    }
}

#[test]
fn answers_that_are_dropped_and_calls_that_are_late() {
    let backend = web::serve().to_string();
    let fault = "{ fault: { on_request: { attribute: x-fault, source: 127.0.0.0/8 } } }";
    let finback = front(&backend, fault, "");
    let at = finback.local("web");
    let ask = |version: &str, fault: &str, path: &str| {
        let begun = Instant::now();
        let header = format!("x-fault: {fault}");
        let (status, _) = curl(
            &format!("http://{at}{path}"),
            &[version, "-m", "2", "-H", &header],
        );
        (status, begun.elapsed())
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, took) = ask(version, "delay=300ms", "/");
        assert!(
            status == 200 && took >= Duration::from_millis(300),
            "{took:?}"
        );
        let (status, took) = ask(version, "delay=300ms", "/here");
        assert!(
            status == 200 && took >= Duration::from_millis(300),
            "{took:?}"
        );
        assert_eq!(ask(version, "refuse=overloaded", "/").0, 503);
        // The client gives up.
        assert_eq!(ask(version, "drop", "/").0, 0);
        assert_eq!(ask(version, "nothing", "/").0, 200);
    }
    eventually("all places", PATIENCE, || {
        let own = finback.cluster("back").unwrap();
        match own["in_flight"].as_u64() {
            Some(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn filters_after_one_that_waits_are_asked_as_well() {
    let back = web::serve();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, filters: [ late, who ] }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters:
  late: {{ fault: {{ delay: {{ percent: 100, time: 50ms }} }} }}
  who: {{ authorization: {{ default: allow, rules: [ {{ effect: deny, match: {{ path: /admin }} }} ] }} }}
"#
    ));
    let at = finback.local("web");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(curl(&format!("http://{at}/"), &[version]).0, 200);
        assert_eq!(curl(&format!("http://{at}/admin"), &[version]).0, 403);
    }
    // The record names the one that refused it, and not the one that it waited for.
    let (_, recent) = finback.admin("/recent");
    assert!(recent.contains("\"filter\": \"who\""), "{recent}");
    assert!(!recent.contains("\"filter\": \"late\""), "{recent}");
}

fn grpcurl(arguments: &[&str]) -> String {
    let out = Command::new(built("go/grpcurl"))
        .args(["-plaintext", "-max-time", "10"])
        .args(arguments)
        .output()
        .unwrap();
    let mut said = String::from_utf8_lossy(&out.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&out.stderr));
    said
}

#[test]
fn grpc_clients_read_their_statuses() {
    const SERVICE: &str = "grpc.testing.TestService";
    let go = Peer::go();
    let backend = go.ask("grpc-serve", &[]).unwrap();
    let rules = format!(
        "{{ authorization: {{ default: allow, rules: [ {{ effect: deny, match: {{ service: {SERVICE}, method: EmptyCall }} }} ] }} }}"
    );
    let finback = front(backend.as_str().unwrap(), &rules, "");
    let at = finback.local("web");
    let said = eventually("reflection", PATIENCE, || {
        let said = grpcurl(&[&at, "list"]);
        if said.contains(SERVICE) {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert!(said.contains(SERVICE), "{said}");
    let said = grpcurl(&[&at, &format!("{SERVICE}/EmptyCall")]);
    assert!(
        said.contains("PermissionDenied") && said.contains("is not allowed"),
        "{said}"
    );
    let limit = "{ rate_limit: { rate: 1/m, burst: 1, per: [ service ] } }";
    let finback = front(backend.as_str().unwrap(), limit, "");
    let at = finback.local("web");
    let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/go");
    let method = format!("{SERVICE}/EmptyCall");
    let arguments = [
        "-import-path",
        proto.to_str().unwrap(),
        "-proto",
        "test.proto",
        "-v",
        &at,
        &method,
    ];
    assert!(grpcurl(&arguments).contains("{}"));
    let said = grpcurl(&arguments);
    assert!(said.contains("ResourceExhausted"), "{said}");
    assert!(said.contains("grpc-retry-pushback-ms"), "{said}");
}

#[test]
fn triple_consumers_raise_their_own_exceptions() {
    let world = world();
    let at = format!("{}:{}", host_address(), rpc().port("rpc"));
    let provider = Peer::dubbo3();
    let port = crate::support::free_port().to_string();
    provider.export(&[
        ("registry", world.zookeeper()),
        ("protocol", "tri"),
        ("port", &port),
        ("name", "tri"),
        ("group", "tri"),
    ]);
    let url = format!("tri://{at}/{GREETER}");
    let caller = world.dubbo3().caller(&[("url", &url), ("group", "tri")]);
    eventually("an answer", PATIENCE, || {
        caller
            .call("sayHello", "you")
            .map_err(|failure| format!("{failure:?}"))
    });
    let failure = caller.call("noted", "").unwrap_err();
    assert!(failure.text.contains("is not allowed"), "{failure:?}");
    assert!(failure.text.contains("PERMISSION_DENIED"), "{failure:?}");
    let caller = caller.with("@test", "triple");
    for _ in 0..2 {
        assert_eq!(caller.call("add", "20,22").unwrap(), 42);
    }
    let failure = caller.call("add", "1,2").unwrap_err();
    assert!(failure.text.contains("RESOURCE_EXHAUSTED"), "{failure:?}");
}

#[test]
fn identities_are_those_of_certificates_and_nothing_else() {
    let authority = Authority::new();
    authority.issue("server", "server", "DNS:localhost", 3600);
    authority.issue("shop", "shop", "URI:spiffe://acme/shop", 3600);
    authority.issue(
        "other",
        "spiffe://acme/shop",
        "URI:spiffe://acme/other",
        3600,
    );
    let tls = format!(
        ", tls: {{ certificates: [ {{ certificate: \"{}\", key: \"{}\" }} ], client_ca: \"{}\", client_optional: true }}",
        authority.path("server.pem"),
        authority.path("server.key"),
        authority.path("ca.pem"),
    );
    let rules = "{ authorization: { rules: [ { effect: allow, match: { identity: \"spiffe://acme/shop\" } } ] } }";
    let finback = front(&web::serve().to_string(), rules, &tls);
    let port = finback.port("web");
    let url = format!("https://localhost:{port}/");
    let ca = authority.path("ca.pem");
    let as_client = |name: Option<&str>, more: &[&str]| {
        let pair = name.map(|own| {
            [
                authority.path(&format!("{own}.pem")),
                authority.path(&format!("{own}.key")),
            ]
        });
        let mut arguments = vec!["--cacert", &ca];
        if let Some([certificate, key]) = &pair {
            arguments.extend(["--cert", certificate, "--key", key]);
        }
        arguments.extend(more);
        curl(&url, &arguments).0
    };
    assert_eq!(as_client(Some("shop"), &[]), 200);
    assert_eq!(as_client(Some("other"), &[]), 403);
    assert_eq!(as_client(None, &[]), 403);
    // Nobody becomes somebody by what it writes.
    let forged = [
        "-H",
        "x-forwarded-client-cert: URI=spiffe://acme/shop",
        "-H",
        "identity: spiffe://acme/shop",
    ];
    assert_eq!(as_client(None, &forged), 403);
}

#[test]
fn identities_are_chosen_by_their_beginning_or_an_expression() {
    let authority = Authority::new();
    authority.issue("server", "server", "DNS:localhost", 3600);
    for (name, names) in [
        ("shop", "URI:spiffe://acme/shop"),
        ("pay", "URI:spiffe://acme/pay"),
        ("near", "URI:spiffe://acme.evil/shop"),
        // A name of another kind that reads alike.
        ("dns", "DNS:shop.acme.test"),
    ] {
        authority.issue(name, "spiffe://acme/shop", names, 3600);
    }
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls: {{ certificates: [ {{ certificate: "{}", key: "{}" }} ], client_ca: "{}", client_optional: true }}
routes:
  web:
    - {{ match: {{ path: /prefix }}, to: {{ cluster: back }}, filters: [ prefix ] }}
    - {{ match: {{ path: /regex }}, to: {{ cluster: back }}, filters: [ regex ] }}
    - {{ to: {{ cluster: back }}, filters: [ not-pay ] }}
clusters: {{ back: {{ endpoints: [ "{}" ] }} }}
filters:
  prefix:
    authorization: {{ rules: [ {{ effect: allow, match: {{ identity: {{ prefix: "spiffe://acme/" }} }} }} ] }}
  regex:
    authorization: {{ rules: [ {{ effect: allow, match: {{ identity: {{ regex: "spiffe://acme/s.+" }} }} }} ] }}
  not-pay:
    authorization:
      default: allow
      rules: [ {{ effect: deny, match: {{ identity: {{ prefix: "spiffe://acme/p" }} }} }} ]
"#,
        authority.path("server.pem"),
        authority.path("server.key"),
        authority.path("ca.pem"),
        web::serve(),
    ));
    let port = finback.port("web");
    let ca = authority.path("ca.pem");
    let ask = |name: &str, path: &str| {
        let pair = ["pem", "key"].map(|end| authority.path(&format!("{name}.{end}")));
        let mut arguments = vec!["--cacert", &ca];
        if !name.is_empty() {
            arguments.extend(["--cert", &pair[0], "--key", &pair[1]]);
        }
        curl(&format!("https://localhost:{port}{path}"), &arguments).0
    };
    for (name, [prefix, regex, other]) in [
        ("shop", [200, 200, 200]),
        ("pay", [200, 403, 403]),
        ("near", [403, 403, 200]),
        ("dns", [403, 403, 200]),
        ("", [403, 403, 200]),
    ] {
        let said = ["/prefix", "/regex", "/"].map(|path| ask(name, path));
        assert_eq!(said, [prefix, regex, other], "{name}");
    }
}

// === Reload ===

#[test]
fn a_filter_or_listener_by_another_name_decides_the_same() {
    use std::io::{Read, Write};
    let (back, port) = (web::serve(), crate::support::free_port());
    let config = |listener: &str, filter: &str| {
        format!(
            r#"
workers: 1
listeners: [ {{ name: {listener}, address: "127.0.0.1:{port}", protocol: http, routes: web, filters: [ {filter} ] }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters:
  {filter}:
    authorization: {{ default: allow, rules: [ {{ effect: deny, match: {{ path: /admin }} }} ] }}
"#
        )
    };
    let finback = Finback::start(&config("one", "first"));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PROMPT)).unwrap();
    let mut ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).unwrap();
        let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!([ask("/"), ask("/admin")], ["200", "403"]);
    finback.reload(&config("one", "second"));
    assert_eq!([ask("/"), ask("/admin")], ["200", "403"]);
    assert_eq!(decided(&finback, "second", "denied"), 1);
    // Who came by a listener that is gone keeps its filters to the end.
    finback.reload(&config("two", "third"));
    assert_eq!(ask("/admin"), "403");
    let url = format!("http://127.0.0.1:{port}/admin");
    eventually("the new listener", PATIENCE, || match curl(&url, &[]).0 {
        403 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn tcp_connections_are_closed() {
    use std::io::{Read, Write};
    let backend = web::serve().to_string();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: raw, address: "127.0.0.1:0", protocol: tcp, routes: raw, filters: [ once ] }} ]
routes: {{ raw: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
filters: {{ once: {{ rate_limit: {{ rate: 1/m, burst: 1 }} }} }}
"#
    ));
    let ask = || {
        let mut stream = std::net::TcpStream::connect(finback.local("raw")).unwrap();
        let mut answer = [0; 15];
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let read = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    assert_eq!(ask(), "HTTP/1.1 200 OK");
    assert_eq!(ask(), "");
    assert_eq!(decided(&finback, "once", "limited"), 1);
}

// === MQTT ===

fn mqtt(broker: &Mosquitto, filters: &str) -> String {
    format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }}, filters: [ own ] }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
filters: {{ own: {filters} }}
"#,
        broker.address()
    )
}

const PLANTS: &str = r#"{ authorization: { rules: [
  { effect: allow, match: { protocol: mqtt, client_id: { prefix: dev- } }, actions: [ connect ] },
  { effect: allow, match: { protocol: mqtt }, topics: [ "plant/#" ] },
  { effect: deny, match: { protocol: mqtt }, topics: [ "plant/secret" ] } ] } }"#;

fn subscribe(raw: &mut Raw, version: u8, filter: &str) -> u8 {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    raw.say(&packet(
        0x82,
        &[&[0, 1][..], properties, &text(filter), &[1]].concat(),
    ));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x90, "{answer:?}");
    *answer.last().unwrap()
}

/// Publishes at quality 1; the reason that PUBACK gives, 0 if it gives none.
fn publish(raw: &mut Raw, version: u8, topic: &str, alias: Option<u8>) -> u8 {
    let properties: Vec<u8> = match (version, alias) {
        (5, Some(alias)) => vec![3, 0x23, 0, alias],
        (5, None) => vec![0],
        _ => Vec::new(),
    };
    raw.say(&packet(
        0x32,
        &[&text(topic)[..], &[0, 9], &properties, b"x"].concat(),
    ));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x40, "{answer:?}");
    answer.get(4).copied().unwrap_or(0)
}

#[test]
fn devices_are_held_to_their_topics_in_both_versions() {
    let broker = Mosquitto::start();
    let finback = Finback::start(&mqtt(&broker, PLANTS));
    let at = finback.local("mqtt");
    for version in [4, 5] {
        let mut stranger = Raw::open(&at, &connect(version, "other", None));
        let refused = reason(&stranger.hear().unwrap());
        assert_eq!(refused, if version == 5 { 0x87 } else { 5 });
        let mut own = Raw::session(&at, &connect(version, "dev-1", None));
        let denied = if version == 5 { 0x87 } else { 0x80 };
        for (filter, code) in [
            ("plant/1/state", 1),
            ("plant/secret", denied),
            // What would bring it, and what nobody allowed.
            ("plant/#", denied),
            ("plant/+", denied),
            ("#", denied),
            ("$share/g/plant/secret", denied),
            ("other", denied),
        ] {
            assert_eq!(
                subscribe(&mut own, version, filter),
                code,
                "{version} {filter}"
            );
        }
        assert_eq!(
            publish(&mut own, version, "plant/2", None),
            0x10 * u8::from(version == 5)
        );
        let denied = if version == 5 { 0x87 } else { 0 };
        for topic in ["plant/secret", "other"] {
            assert_eq!(
                publish(&mut own, version, topic, None),
                denied,
                "{version} {topic}"
            );
        }
        if version == 5 {
            // An alias is the topic that it stands for.
            assert_eq!(publish(&mut own, 5, "plant/secret", Some(1)), 0x87);
            assert_eq!(publish(&mut own, 5, "", Some(1)), 0x87);
        }
    }
    // What was denied reached nobody: the client of Debian asks the broker itself.
    let kept = std::thread::spawn(move || {
        tool(
            "mosquitto_sub",
            broker.port,
            &["-t", "#", "-W", "2", "-C", "1", "-v"],
        )
    });
    std::thread::sleep(Duration::from_millis(500));
    let mut own = Raw::session(&at, &connect(5, "dev-2", None));
    assert_eq!(publish(&mut own, 5, "plant/secret", None), 0x87);
    assert_eq!(publish(&mut own, 5, "plant/7", None), 0);
    assert_eq!(kept.join().unwrap().trim(), "plant/7 x");
}

#[test]
fn a_session_that_is_not_allowed_any_more_is_told_so_and_ended() {
    let broker = Mosquitto::start();
    let config = |prefix: &str| mqtt(&broker, &PLANTS.replace("dev-", prefix));
    let finback = Finback::start(&config("dev-"));
    let at = finback.local("mqtt");
    let mut five = Raw::session(&at, &connect(5, "dev-5", None));
    let mut three = Raw::session(&at, &connect(4, "dev-3", None));
    let mut stays = Raw::session(&at, &connect(5, "dev-x", None));
    assert_eq!(publish(&mut five, 5, "plant/1", None) & 0xf, 0);
    finback.reload(&config("dev-x"));
    let last = five.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x87), "{last:?}");
    assert!(five.hear().is_none());
    assert!(three.hear().is_none());
    stays.say(b"\xc0\0");
    assert_eq!(stays.hear().unwrap(), b"\xd0\0");
    // The topics of now hold for sessions of before.
    let fewer = config("dev-x").replace("plant/#", "plant/1");
    finback.reload(&fewer);
    eventually("the new rules", PATIENCE, || {
        match publish(&mut stays, 5, "plant/2", None) {
            0x87 => Ok(()),
            other => Err(format!("{other:#x}")),
        }
    });
}

#[test]
fn who_publishes_too_much_is_slowed_down_and_loses_nothing() {
    let broker = Mosquitto::start();
    let limit = "{ rate_limit: { rate: 50/s, burst: 1, unit: messages } }";
    let finback = Finback::start(&mqtt(&broker, limit));
    let port = finback.port("mqtt");
    let heard = std::thread::spawn(move || {
        tool(
            "mosquitto_sub",
            broker.port,
            &["-t", "t", "-C", "100", "-W", "20", "-q", "1"],
        )
    });
    std::thread::sleep(Duration::from_millis(300));
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let begun = Instant::now();
    let sender = Command::new("sh")
        .args([
            "-c",
            &format!("printf '{lines}' | mosquitto_pub -h 127.0.0.1 -p {port} -t t -q 1 -l"),
        ])
        .status()
        .unwrap();
    assert!(sender.success());
    let heard = heard.join().unwrap();
    assert_eq!(heard, lines, "all, and in order");
    let took = begun.elapsed().as_secs_f64();
    assert!(
        (1.8..4.0).contains(&took),
        "100 messages at 50/s took {took} s"
    );
}

// === Shadows ===

#[test]
fn rpc_calls_are_copied_to_real_providers_with_their_marks() {
    let world = world();
    let shadow = crate::support::free_port().to_string();
    let sofa = Peer::sofa();
    sofa.export(&[("host", "127.0.0.1"), ("port", &shadow), ("name", "shadow")]);
    let dubbo_port = crate::support::free_port().to_string();
    let dubbo = Peer::dubbo2();
    dubbo.export(&[
        ("serialization", "hessian2"),
        ("port", &dubbo_port),
        ("group", "two"),
        ("name", "shadow"),
    ]);
    let finback = Finback::start(&format!(
        r#"
workers: 2
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }} ]
routes:
  rpc:
    - match: {{ protocol: bolt }}
      to: {{ registry: zk }}
      shadow: {{ cluster: sofa, mark: sofa }}
    - to: {{ registry: zk }}
      shadow: {{ cluster: dubbo, mark: takin }}
clusters:
  sofa: {{ endpoints: [ "127.0.0.1:{shadow}" ] }}
  dubbo: {{ endpoints: [ "{host}:{dubbo_port}" ] }}
"#,
        world.zookeeper(),
        host = host_address(),
    ));
    let url = format!("bolt://{}", finback.local("rpc"));
    let at = format!("{}:{}", host_address(), finback.port("rpc"));
    let of_dubbo =
        format!("dubbo://{at}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2");
    let direct = format!("bolt://127.0.0.1:{shadow}");
    let to_dubbo = format!(
        "dubbo://{}:{dubbo_port}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2",
        host_address()
    );
    for (caller, shadow) in [
        (
            world.sofa().caller(&[("url", &url)]),
            sofa.caller(&[("url", &direct)]),
        ),
        (
            world
                .dubbo2()
                .caller(&[("url", &of_dubbo), ("group", "two")]),
            dubbo.caller(&[("url", &to_dubbo), ("group", "two")]),
        ),
    ] {
        eventually("an answer", PATIENCE, || {
            caller
                .call("sayHello", "you")
                .map_err(|failure| format!("{failure:?}"))
        });
        // What is noted is noted twice: by the provider, and by its shadow.
        assert_eq!(caller.call("note", "a copy").unwrap(), Value::Null);
        eventually("the copy", PATIENCE, || match shadow.call("noted", "") {
            Ok(noted) if noted == "a copy" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let failure = caller.call("fail", "out of stock").unwrap_err();
        assert_eq!(failure.text, "out of stock");
    }
    // A copy is recorded when its shadow has answered.
    for protocol in ["bolt", "dubbo"] {
        eventually("the copy's record", PATIENCE, || {
            let (_, page) = finback.admin("/metrics");
            let is_own = |line: &str| {
                line.starts_with("finback_requests_total")
                    && line.contains("listener=\"(shadow)\"")
                    && line.contains(&format!("protocol=\"{protocol}\""))
                    && line.contains("method=\"fail\"")
            };
            page.lines().any(is_own).then_some(()).ok_or(page)
        });
    }
}

#[test]
fn web_requests_are_copied_whole_and_a_shadow_that_hangs_is_not_noticed() {
    let seen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shadow = seen.local_addr().unwrap();
    let backend = web::serve().to_string();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }}, shadow: {{ cluster: shadow, mark: {{ x-shadow: "1" }} }} }} ] }}
clusters:
  back: {{ endpoints: [ "{backend}" ] }}
  shadow: {{ endpoints: [ "{shadow}" ] }}
"#
    ));
    let at = finback.local("web");
    let begun = Instant::now();
    // The first is seen, and never answered; the others find the shadow as deaf.
    let post = ["--http1.1", "-d", "amount=7", "-H", "x-shadow: forged"];
    assert_eq!(curl(&format!("http://{at}/pay?x=1"), &post).0, 200);
    seen.set_nonblocking(true).unwrap();
    let (mut stream, _) = eventually("the copy", PATIENCE, || {
        seen.accept().map_err(|error| error.to_string())
    });
    stream.set_nonblocking(false).unwrap();
    let mut head = String::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    while !head.ends_with("amount=7") {
        let mut bytes = [0; 1024];
        let read = std::io::Read::read(&mut stream, &mut bytes).unwrap();
        assert!(read > 0, "{head}");
        head.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(head.starts_with("POST /pay?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("x-shadow: 1\r\n") && !head.contains("forged"),
        "{head}"
    );
    for _ in 0..20 {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            assert_eq!(curl(&format!("http://{at}/"), &[version]).0, 200);
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // Copies go on, and hold no place of their clients, who are gone.
    eventually(
        "places of clients",
        Duration::from_secs(3),
        || match finback.metric("finback_connections", "") {
            0 => Ok(()),
            other => Err(other.to_string()),
        },
    );
    let copies = finback.cluster("shadow").unwrap()["in_flight"].as_u64();
    assert!(copies >= Some(1), "{copies:?}");
    drop((seen, stream));
    assert_eq!(curl(&format!("http://{at}/"), &[]).0, 200);
    let (_, page) = finback.admin("/metrics");
    let own = page
        .lines()
        .find(|line| line.starts_with("finback_cluster_in_flight{cluster=\"back\"}"));
    assert!(own.unwrap().ends_with(" 0"), "{own:?}");
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
        ("bolt", "{ rate_limit: { rate: 0/s } }", "`0/s` is no rate"),
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
            "is no reason",
        ),
        (
            "bolt",
            "{ authorization: { rules: [ { effect: permit } ] } }",
            "is no effect",
        ),
        (
            "mqtt",
            "{ authorization: { rules: [ { effect: deny, topics: [ a ] } ] } }",
            "protocol: mqtt",
        ),
        (
            "mqtt",
            "{ authorization: { rules: [ { effect: deny, match: { protocol: mqtt }, topics: [ \"a/#/b\" ] } ] } }",
            "is no filter of topics",
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
