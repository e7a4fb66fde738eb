//! Other spellings of one call: what filters judge is what the endpoint reads, or the call is refused.

use std::process::Command;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::policy::{Policy, decided};
use crate::support::rpc::{Call, Client};
use crate::support::{eventually, free_port, host_address, temporary_folder, web};
use finback_simulations::speech::Speech;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

/// The status that curl reads; 0 if it reads none.
fn curl(version: &str, url: &str, headers: &[&str]) -> u16 {
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10"]);
    command.args([version, "--path-as-is", "--globoff"]);
    for header in headers {
        command.args(["-H", header]);
    }
    let out = command.arg(url).output().unwrap();
    String::from_utf8_lossy(&out.stdout).parse().unwrap_or(0)
}

/// HTTP whose calls pass a filter by their paths.
fn front() -> Finback {
    let back = web::serve();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - {{ match: {{ path: /deny }}, to: {{ cluster: back }}, filters: [ deny ] }}
    - {{ match: {{ path: /allow }}, to: {{ cluster: back }}, filters: [ allow ] }}
    - {{ match: {{ path: /limit }}, to: {{ cluster: back }}, filters: [ limit ] }}
    - {{ match: {{ path: /query }}, to: {{ cluster: back }}, filters: [ query ] }}
    - {{ to: {{ cluster: back }}, filters: [ host ] }}
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters:
  deny:
    authorization:
      default: allow
      rules:
        - {{ effect: deny, match: {{ query: {{ role: admin }} }} }}
        - {{ effect: deny, match: {{ attributes: {{ x-role: admin }} }} }}
  allow:
    authorization:
      rules:
        - {{ effect: allow, match: {{ query: {{ plan: gold }} }} }}
        - {{ effect: allow, match: {{ attributes: {{ x-plan: gold }} }} }}
  limit: {{ rate_limit: {{ rate: 1/h, burst: 1, per: [ {{ attribute: x-tenant }} ] }} }}
  query: {{ rate_limit: {{ rate: 1/h, burst: 1, per: [ {{ attribute: "?tenant" }} ] }} }}
  host:
    authorization: {{ default: allow, rules: [ {{ effect: deny, match: {{ host: admin.test }} }} ] }}
"#
    ))
}

#[test]
fn a_query_is_judged_as_servers_read_it() {
    let finback = front();
    let at = finback.local("web");
    for version in VERSIONS {
        let ask = |target: &str| curl(version, &format!("http://{at}{target}"), &[]);
        for good in [
            "/deny",
            "/deny?role=user",
            "/deny?roles=admin",
            "/deny?role=%2561dmin",
        ] {
            assert_eq!(ask(good), 200, "{version} {good}");
        }
        for bad in [
            "/deny?role=admin",
            "/deny?%72ole=%61dmin",
            "/deny?x=1&role=admin&y",
            "/deny?role=user&role=admin",
            "/deny?role=admin&role=user",
            "/deny?role=user&rol%65=admin",
            "/deny?ROLE=admin",
            "/deny?x=1;role=admin",
            "/allow",
            "/allow?plan=free",
            "/allow?plan=gold&plan=free",
            "/allow?plan=free&plan=gold",
            "/allow?plan=gold&Plan=free",
            "/allow?plan=gold;plan=free",
        ] {
            assert_eq!(ask(bad), 403, "{version} {bad}");
        }
        for good in ["/allow?plan=gold", "/allow?pl%61n=g%6Fld"] {
            assert_eq!(ask(good), 200, "{version} {good}");
        }
    }
}

#[test]
fn a_header_of_several_lines_is_judged_by_each_of_them() {
    let finback = front();
    let at = finback.local("web");
    for version in VERSIONS {
        let ask =
            |path: &str, headers: &[&str]| curl(version, &format!("http://{at}{path}"), headers);
        assert_eq!(ask("/deny", &["x-role: user", "x-role: guest"]), 200);
        assert_eq!(ask("/allow", &["x-plan: gold"]), 200);
        for bad in [
            &["x-role: admin"][..],
            &["X-ROLE: admin"],
            &["x-role: user", "x-role: admin"],
            &["x-role: admin", "x-role: user"],
            &["x_role: admin"],
            &["x-role: user", "x_role: admin"],
        ] {
            assert_eq!(ask("/deny", bad), 403, "{version} {bad:?}");
        }
        for bad in [
            &["x-plan: gold", "x-plan: free"][..],
            &["x-plan: free", "x-plan: gold"],
            &["x_plan: gold"],
            &["x-plan: gold", "x_plan: free"],
        ] {
            assert_eq!(ask("/allow", bad), 403, "{version} {bad:?}");
        }
    }
    // The endpoint would not get it.
    let url = format!("http://{at}/allow");
    let headers = ["x-plan: gold", "connection: x-plan"];
    assert_eq!(curl("--http1.1", &url, &headers), 403);
}

#[test]
fn a_call_of_two_names_uses_up_the_share_of_neither() {
    let finback = front();
    let at = finback.local("web");
    let ask = |target: &str, headers: &[&str]| {
        curl(VERSIONS[0], &format!("http://{at}{target}"), headers)
    };
    for bad in [
        ["x-tenant: a", "x-tenant: b"],
        ["x-tenant: a", "x_tenant: b"],
    ] {
        assert_eq!(ask("/limit", &bad), 400);
    }
    // Refused for another reason; a name that is as good as its own is used up by nobody else.
    assert_eq!(
        ask(
            "/limit",
            &["x-tenant: a", "transfer-encoding: chunked, chunked"]
        ),
        400
    );
    assert_eq!(ask("/query?tenant=a&tenant=b", &[]), 400);
    assert_eq!(decided(&finback, "limit", "limited"), 0);
    for tenant in ["x-tenant: a", "x-tenant: b"] {
        assert_eq!(ask("/limit", &[tenant]), 200, "{tenant}");
        assert_eq!(ask("/limit", &[tenant]), 429, "{tenant}");
    }
    assert_eq!(ask("/query?tenant=b", &[]), 200);
    assert_eq!(ask("/query?tenant=%62", &[]), 429);
}

#[test]
fn a_host_is_the_same_in_any_case_with_a_port_and_with_a_dot() {
    let finback = front();
    let url = format!("http://{}/", finback.local("web"));
    for version in VERSIONS {
        let ask = |host: &str| curl(version, &url, &[&format!("host: {host}")]);
        assert_eq!(ask("other.test"), 200);
        assert_eq!(ask("admin.test.other"), 200);
        for host in [
            "admin.test",
            "ADMIN.Test",
            "admin.test.",
            "admin.test:80",
            "admin.test:8080",
            "Admin.Test.:1",
        ] {
            assert_eq!(ask(host), 403, "{version} {host}");
        }
    }
}

#[test]
fn methods_of_grpc_are_the_same_however_their_path_is_written() {
    let policy = Policy::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, filters: [ own ] }} ]
routes: {{ all: [ {{ to: {{ cluster: grpc }} }} ] }}
clusters: {{ grpc: {{ endpoints: [ "127.0.0.1:{}" ] }} }}
filters:
  own:
    authorization:
      default: allow
      rules: [ {{ effect: deny, match: {{ service: acme.Shop, method: Buy }} }} ]
"#,
        policy.port
    ));
    let at = finback.local("all");
    for good in ["/acme.Shop/Sell", "/acme.Stock/Buy"] {
        let said = policy.call(&at, good, "");
        assert!(said["said"].is_object(), "{good}: {said}");
    }
    for bad in [
        "/acme.Shop/Buy",
        "/acme.Shop/buy",
        "//acme.Shop/Buy",
        "/acme.Shop//Buy",
        "/acme.Shop/./Buy",
        "/x/../acme.Shop/Buy",
        "/acme.Shop/%42uy",
        "/acme.Shop/Buy/",
        "/acme.Shop/Buy//",
    ] {
        let said = policy.call(&at, bad, "");
        let code = said["code"].as_str().unwrap_or_default();
        let is_refused = ["PERMISSION_DENIED", "INTERNAL"].contains(&code);
        assert!(is_refused, "{bad}: {said}");
    }
    assert_eq!(decided_by(&finback, "own[0]"), 7);
}

/// How often a rule denied.
fn decided_by(finback: &Finback, rule: &str) -> u64 {
    let (_, page) = finback.admin("/metrics");
    let label = format!("rule=\"{rule}\",decision=\"denied\"");
    let line = page.lines().find(|line| line.contains(&label));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn methods_of_triple_are_the_same_however_their_path_is_written() {
    const SERVICE: &str = "com.acme.Greeter";
    let provider = Peer::dubbo3();
    let port = free_port().to_string();
    provider.export(&[("protocol", "tri"), ("port", &port), ("name", "tri")]);
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, filters: [ own ] }} ]
routes: {{ all: [ {{ to: {{ cluster: tri }} }} ] }}
clusters: {{ tri: {{ endpoints: [ "{}:{port}" ] }} }}
filters:
  own:
    authorization:
      default: allow
      rules: [ {{ name: no-who, effect: deny, match: {{ service: {SERVICE}, method: who }} }} ]
"#,
        host_address()
    ));
    let at = finback.local("all");
    let ask = |path: &str, more: &[&str]| {
        let mut headers = vec![
            "content-type: application/json",
            "tri-service-timeout: 5000",
        ];
        headers.extend(more);
        let file = temporary_folder().join("body");
        let mut command = Command::new("curl");
        command.args([
            "-s",
            "-m",
            "10",
            "--path-as-is",
            "-d",
            "[]",
            "-w",
            "\n%{http_code}",
        ]);
        command.args(["--http2-prior-knowledge", "-o"]).arg(&file);
        for header in headers {
            command.args(["-H", header]);
        }
        let out = command.arg(format!("http://{at}{path}")).output().unwrap();
        let body = std::fs::read_to_string(file).unwrap_or_default();
        (String::from_utf8_lossy(&out.stdout).trim().to_owned(), body)
    };
    // Served under the name that is allowed, so that what follows is not refused for being unknown.
    eventually("an answer", PATIENCE, || {
        match ask(&format!("/{SERVICE}/noted"), &[]) {
            (status, _) if status == "200" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for bad in ["who", "Who", "/who", "./who", "who/", "who//"] {
        let (status, body) = ask(&format!("/{SERVICE}/{bad}"), &[]);
        assert!(["403", "400"].contains(&&*status), "{bad}: {status} {body}");
    }
    let twice = ["tri-service-group: a", "tri-service-group: b"];
    assert_eq!(ask(&format!("/{SERVICE}/noted"), &twice).0, "400");
}

#[test]
fn a_call_that_says_two_things_takes_nothing_from_whom_it_names() {
    let back = Peer::sofa();
    let port = free_port().to_string();
    back.export(&[("host", "127.0.0.1"), ("port", &port), ("name", "own")]);
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc, filters: [ once ] }} ]
routes: {{ rpc: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{port}" ] }} }}
filters: {{ once: {{ rate_limit: {{ rate: 1/h, burst: 1, per: [ service ] }} }} }}
"#
    ));
    let at = finback.local("rpc");
    // Header and body of SOFA's request differ.
    let mut liar = Client::connect(&at, Speech::Bolt);
    let call =
        Call::new("com.acme.Greeter", "who").with("sofa_head_target_service", "com.acme.Other");
    for _ in 0..3 {
        let answer = liar.call(&call);
        assert!(
            !answer.success && answer.text.contains("cannot be read"),
            "{answer:?}"
        );
    }
    let caller = back.caller(&[("url", &format!("bolt://{at}"))]);
    assert_eq!(caller.call("who", "").unwrap(), "own");
    let failure = caller.call("who", "").unwrap_err();
    assert!(failure.text.contains("rate limit"), "{failure:?}");
}
