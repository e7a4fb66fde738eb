//! Filters before clients of HTTP and gRPC, and whom certificates name.

use super::*;

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
