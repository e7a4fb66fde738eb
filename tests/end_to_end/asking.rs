//! Filters that ask a server: Envoy's external authorization and rate limit service by grpcio, with real clients of
//! several protocols before the proxy, and servers that are slow, wrong, new and gone.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::policy::{Policy, decided, get, status};
use crate::support::{eventually, free_port, host_address, temporary_folder, web};

const PATIENCE: Duration = Duration::from_secs(30);

/// HTTP whose calls pass one filter, `asks`, of this text; those under `/free/` pass none.
fn front(filter: &str) -> String {
    let back = web::serve();
    format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes:
  web:
    - match: {{ path: {{ prefix: /free/ }} }}
      to: {{ cluster: back }}
    - to: {{ cluster: back }}
      filters: [ asks ]
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters:
  asks: {filter}
"#
    )
}

#[test]
fn a_server_decides_about_calls_of_every_protocol() {
    let policy = Policy::start();
    let (sofa, dubbo) = (Peer::sofa(), Peer::dubbo3());
    let [bolt_port, dubbo_port] = [free_port(), free_port()].map(|own| own.to_string());
    sofa.export(&[("host", "127.0.0.1"), ("port", &bolt_port), ("name", "own")]);
    dubbo.export(&[
        ("serialization", "hessian2"),
        ("port", &dubbo_port),
        ("name", "own"),
    ]);
    let (back, grpc, host) = (web::serve(), policy.port, host_address());
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: all, address: "0.0.0.0:0", routes: all, filters: [ asks ] }} ]
routes:
  all:
    - match: {{ protocol: bolt }}
      to: {{ cluster: bolt }}
    - match: {{ protocol: dubbo }}
      to: {{ cluster: dubbo }}
    - match: {{ protocol: grpc }}
      to: {{ cluster: grpc }}
    - to: {{ cluster: web }}
clusters:
  bolt: {{ endpoints: [ "127.0.0.1:{bolt_port}" ] }}
  dubbo: {{ endpoints: [ "{host}:{dubbo_port}" ] }}
  grpc: {{ endpoints: [ "127.0.0.1:{grpc}" ] }}
  web: {{ endpoints: [ "{back}" ] }}
filters:
  asks:
    external_authorization:
      server: "{server}"
      timeout: 5s
      attributes: [ x-tenant ]
      context: {{ team: pay, protocol: forged }}
"#,
        server = policy.url(),
    ));
    let at = finback.local("all");

    // HTTP.
    let answer = get(&at, "/a/b?c=d", "X-Tenant: t1\r\nX-Other: o\r\n");
    assert_eq!(status(&answer), 200, "{answer}");
    let (asked, _) = policy.asked();
    let own = &asked[0]["attributes"];
    let http = &own["request"]["http"];
    assert_eq!(http["path"], "/a/b?c=d");
    assert_eq!(
        (&http["method"], &http["host"]),
        (&"GET".into(), &"shop.test".into())
    );
    assert_eq!(http["headers"], serde_json::json!({ "x-tenant": "t1" }));
    let address = &own["source"]["address"]["socketAddress"];
    assert_eq!(address["address"], "127.0.0.1");
    let context = &own["contextExtensions"];
    assert_eq!(
        (&context["team"], &context["protocol"]),
        (&"pay".into(), &"http".into())
    );
    let denied = get(&at, "/denied", "");
    assert_eq!(status(&denied), 403, "{denied}");
    assert!(denied.contains("not on a  Sunday"), "{denied}");
    let limited = get(&at, "/limited", "");
    assert_eq!(status(&limited), 429, "{limited}");
    assert!(
        limited.to_ascii_lowercase().contains("retry-after: 7\r\n"),
        "{limited}"
    );

    // gRPC: what is set takes the place of what the caller forged, and what is removed does not arrive.
    let said = policy.call(&at, "/acme.Shop/Buy", "x-user=forged,x-secret=1,x-own=2");
    assert_eq!(said["said"]["x-user"], "alice", "{said}");
    assert_eq!(said["said"]["x-own"], "2", "{said}");
    assert!(said["said"].get("x-secret").is_none(), "{said}");
    let (asked, _) = policy.asked();
    let http = &asked.last().unwrap()["attributes"]["request"]["http"];
    assert_eq!(http["path"], "/acme.Shop/Buy");
    let denied = policy.call(&at, "/acme.Shop/denied", "");
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied}");
    let limited = policy.call(&at, "/acme.Shop/limited", "");
    assert_eq!(limited["code"], "RESOURCE_EXHAUSTED", "{limited}");
    assert_eq!(
        limited["trailers"]["grpc-retry-pushback-ms"], "7000",
        "{limited}"
    );

    // Bolt and Dubbo for Java.
    let bolt = format!("bolt://{at}");
    let dubbo_url = format!(
        "dubbo://{}/com.acme.Greeter?serialization=hessian2",
        finback.public("all")
    );
    for (peer, url, class) in [
        (
            &sofa,
            &bolt,
            "com.alipay.sofa.rpc.core.exception.SofaRpcException",
        ),
        (&dubbo, &dubbo_url, "java.lang.RuntimeException"),
    ] {
        let caller = peer.caller(&[("url", url)]);
        let caller = caller.with("@x-tenant", "t2");
        assert_eq!(caller.call("who", "").unwrap(), "own", "{url}");
        let denied = caller.call("noted", "").unwrap_err();
        assert_eq!(denied.class, class, "{denied:?}");
        assert!(
            denied.text.contains("noted is not allowed: not on a"),
            "{denied:?}"
        );
        let limited = caller.call("measure", "5").unwrap_err();
        assert_eq!(limited.class, class, "{limited:?}");
        assert!(limited.text.contains("try again in 7000 ms"), "{limited:?}");
        let (asked, _) = policy.asked();
        // The denial is not tried again.
        let noted = asked.iter().filter(|own| {
            own["attributes"]["request"]["http"]["path"] == "/com.acme.Greeter/noted"
        });
        assert_eq!(noted.count(), 1, "{url}");
    }
    assert_eq!(decided(&finback, "asks", "denied"), 4);
    assert_eq!(decided(&finback, "asks", "limited"), 4);
    assert!(decided(&finback, "asks", "allowed") >= 4);
    assert_eq!(decided(&finback, "asks", "error"), 0);
}

#[test]
fn silence_and_errors_are_refused_or_let_pass_as_configured() {
    let policy = Policy::start();
    let (port, url) = (policy.port, policy.url());
    let closed = front(&format!(
        "{{ external_authorization: {{ server: \"{url}\", timeout: 300ms }} }}"
    ));
    let open = front(&format!(
        "{{ external_authorization: {{ server: \"{url}\", timeout: 300ms, failure_mode_allow: true }} }}"
    ));
    let (closed_text, closed) = (closed.clone(), Finback::start(&closed));
    let open = Finback::start(&open);
    let both = |path: &str| {
        [&closed, &open].map(|own| {
            let begun = Instant::now();
            let status = status(&get(&own.local("web"), path, ""));
            (status, begun.elapsed())
        })
    };
    eventually("an answer", PATIENCE, || match both("/a") {
        [(200, _), (200, _)] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let before = decided(&closed, "asks", "error");
    // It says that it cannot decide.
    assert_eq!(both("/broken").map(|own| own.0), [403, 200]);
    // It is slow.
    policy.set(&[("delay", "3")]);
    for (_, took) in both("/a") {
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert!(took < Duration::from_millis(2500), "{took:?}");
    }
    assert_eq!(both("/a").map(|own| own.0), [403, 200]);
    policy.set(&[]);
    eventually("no delay", PATIENCE, || match both("/a") {
        [(200, _), (200, _)] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // It is gone, and comes again.
    drop(policy);
    assert_eq!(both("/a").map(|own| own.0), [403, 200]);
    assert_eq!(both("/a").map(|own| own.0), [403, 200]);
    assert!(decided(&closed, "asks", "error") >= before + 5);
    assert!(decided(&open, "asks", "error_allowed") >= 5);
    assert_eq!(decided(&open, "asks", "error"), 0);
    closed
        .process()
        .await_words("a filter's server does not answer as it should");
    let policy = Policy::start_at(&[&port.to_string()]);
    eventually("the new one", PATIENCE, || match both("/a") {
        [(200, _), (200, _)] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(both("/denied").map(|own| own.0), [403, 403]);
    // A reload without a change asks the same one, and one with a change another.
    closed.reload(&closed_text);
    assert_eq!(both("/a")[0].0, 200);
    let other = Policy::start();
    closed.reload(&closed_text.replace(&url, &other.url()));
    policy.asked();
    eventually("the other", PATIENCE, || match both("/a")[0] {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(!other.asked().0.is_empty());
}

#[test]
fn a_slow_server_holds_up_no_call_that_does_not_wait_for_it() {
    let policy = Policy::start();
    let finback = Finback::start(&front(&format!(
        "{{ external_authorization: {{ server: \"{}\", timeout: 8s, in_flight: 80 }} }}",
        policy.url()
    )));
    let at = finback.local("web");
    eventually("an answer", PATIENCE, || {
        match status(&get(&at, "/a", "")) {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    policy.set(&[("delay", "4")]);
    let begun = Instant::now();
    let callers: Vec<_> = (0..300)
        .map(|_| {
            let at = at.clone();
            thread::spawn(move || status(&get(&at, "/a", "")))
        })
        .collect();
    // As soon as it has all that it may have.
    eventually("the flood", PATIENCE, || {
        match decided(&finback, "asks", "error") {
            260.. => Ok(()),
            other => Err(other.to_string()),
        }
    });
    // Half of the places are for one client alone; whoever comes from elsewhere finds one.
    let other = {
        let url = format!("http://{at}/a");
        thread::spawn(move || {
            let arguments = [
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--interface",
                "127.0.0.2",
            ];
            let out = Command::new("curl")
                .args(arguments)
                .arg(url)
                .output()
                .unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        })
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let own = Instant::now();
        assert_eq!(status(&get(&at, "/free/x", "")), 200);
        slowest = slowest.max(own.elapsed());
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "the flood is over"
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let statuses: Vec<u16> = callers.into_iter().map(|own| own.join().unwrap()).collect();
    let passed = statuses.iter().filter(|own| **own == 200).count();
    assert_eq!(passed, 40, "{statuses:?}");
    assert!(statuses.iter().all(|own| [200, 403].contains(own)));
    assert_eq!(other.join().unwrap(), "200");
    assert_eq!(policy.asked().1, 41);
}

#[test]
fn an_answer_that_may_not_be_refuses_the_call_and_so_does_what_cannot_be_asked() {
    let policy = Policy::start();
    let finback = Finback::start(&front(&format!(
        "{{ external_authorization: {{ server: \"{}\", timeout: 5s, failure_mode_allow: true, \
         attributes: [ x-tenant, X-Tenant, X-TENANT ] }} }}",
        policy.url()
    )));
    let at = finback.local("web");
    for header in [
        ":path",
        ":authority",
        "host",
        "content-length",
        "Transfer-Encoding",
        "x-finback-identity",
        "claim.admin",
        "x evil",
    ] {
        policy.set(&[("header", header)]);
        assert_eq!(status(&get(&at, "/a", "")), 403, "{header}");
    }
    policy.set(&[("header", "x-good")]);
    assert_eq!(status(&get(&at, "/a", "")), 200);
    assert_eq!(decided(&finback, "asks", "error"), 8);
    policy.asked();
    // Together longer than what is asked.
    let long = format!("X-Tenant: {}\r\n", "x".repeat(25_000));
    assert_eq!(status(&get(&at, "/a", &long)), 403);
    assert!(policy.asked().0.is_empty());
    assert_eq!(decided(&finback, "asks", "error"), 9);
}

#[test]
fn a_dry_run_refuses_nothing_and_counts() {
    let folder = temporary_folder();
    certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let policy = Policy::start_at(&[
        &free_port().to_string(),
        &file("server.key"),
        &file("server.pem"),
        "tls",
    ]);
    let with = |ca: &str| {
        front(&format!(
            "{{ external_authorization: {{ server: \"https://127.0.0.1:{}\", tls: {{ ca: \"{}\" }}, \
             timeout: 5s, dry_run: true }} }}",
            policy.port,
            file(ca)
        ))
    };
    // With TLS, too.
    let finback = Finback::start(&with("ca.pem"));
    let at = finback.local("web");
    eventually("an answer", PATIENCE, || {
        get(&at, "/a", "");
        match decided(&finback, "asks", "allowed") {
            0 => Err(finback.process().tail()),
            _ => Ok(()),
        }
    });
    assert_eq!(status(&get(&at, "/denied", "")), 200);
    assert_eq!(decided(&finback, "asks", "would_deny"), 1);
    // Another's certificate is nobody's.
    finback.reload(&with("other.pem"));
    let before = decided(&finback, "asks", "error");
    assert_eq!(status(&get(&at, "/a", "")), 200);
    assert_eq!(decided(&finback, "asks", "error"), before + 1);
    finback.process().await_words("TLS");
}

#[test]
fn a_server_counts_the_calls_of_every_protocol() {
    let policy = Policy::start();
    let sofa = Peer::sofa();
    let bolt_port = free_port().to_string();
    sofa.export(&[("host", "127.0.0.1"), ("port", &bolt_port), ("name", "own")]);
    let (back, grpc) = (web::serve(), policy.port);
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, filters: [ counts ] }} ]
routes:
  all:
    - {{ name: bolt, match: {{ protocol: bolt }}, to: {{ cluster: bolt }} }}
    - {{ name: grpc, match: {{ protocol: grpc }}, to: {{ cluster: grpc }} }}
    - {{ name: web, to: {{ cluster: web }} }}
clusters:
  bolt: {{ endpoints: [ "127.0.0.1:{bolt_port}" ] }}
  grpc: {{ endpoints: [ "127.0.0.1:{grpc}" ] }}
  web: {{ endpoints: [ "{back}" ] }}
filters:
  counts:
    rate_limit_service:
      server: "{server}"
      timeout: 5s
      domain: shop
      descriptors:
        - [ {{ key: route, of: route }}, {{ key: limit, value: "3" }} ]
        - [ {{ key: tenant, of: {{ attribute: x-tenant }} }}, {{ key: caller, of: source }} ]
"#,
        server = policy.url(),
    ));
    let at = finback.local("all");
    for _ in 0..3 {
        assert_eq!(status(&get(&at, "/a", "X-Tenant: t1\r\n")), 200);
    }
    let limited = get(&at, "/a", "");
    assert_eq!(status(&limited), 429, "{limited}");
    assert!(
        limited.to_ascii_lowercase().contains("retry-after: 30\r\n"),
        "{limited}"
    );
    // Whose call that is, nobody knows: it is not counted.
    let unclear = get(&at, "/a", "X-Tenant: t1\r\nX-Tenant: t2\r\n");
    assert_eq!(status(&unclear), 400, "{unclear}");
    let (asked, _) = policy.asked();
    assert_eq!(asked.len(), 4);
    let entries = serde_json::json!([
        { "entries": [ { "key": "route", "value": "web" }, { "key": "limit", "value": "3" } ] },
        { "entries": [ { "key": "tenant", "value": "t1" }, { "key": "caller", "value": "127.0.0.1" } ] },
    ]);
    assert_eq!(asked[0]["descriptors"], entries);
    assert_eq!(
        (&asked[0]["domain"], &asked[0]["hitsAddend"]),
        (&"shop".into(), &1.into())
    );
    // The call without a tenant is not counted by it.
    assert_eq!(asked[3]["descriptors"].as_array().unwrap().len(), 1);
    for _ in 0..3 {
        let said = policy.call(&at, "/acme.Shop/Buy", "");
        assert!(said.get("said").is_some(), "{said}");
    }
    let limited = policy.call(&at, "/acme.Shop/Buy", "");
    assert_eq!(limited["code"], "RESOURCE_EXHAUSTED", "{limited}");
    let caller = sofa.caller(&[("url", &format!("bolt://{at}"))]);
    for _ in 0..3 {
        assert_eq!(caller.call("who", "").unwrap(), "own");
    }
    let limited = caller.call("who", "").unwrap_err();
    assert!(
        limited.text.contains("try again in 30000 ms"),
        "{limited:?}"
    );
    assert_eq!(decided(&finback, "counts", "limited"), 3);
    assert_eq!(decided(&finback, "counts", "allowed"), 9);
}

#[test]
fn calls_that_cannot_be_counted_pass_unless_the_configuration_says_otherwise() {
    let policy = Policy::start();
    let text = |server: &str, more: &str| {
        front(&format!(
            "{{ rate_limit_service: {{ server: \"{server}\", domain: d, timeout: 300ms{more}, \
             descriptors: [ [ {{ key: all, value: all }} ] ] }} }}"
        ))
    };
    let open = Finback::start(&text(&policy.url(), ""));
    let closed = Finback::start(&text(&policy.url(), ", failure_mode_deny: true"));
    let both = || [&open, &closed].map(|own| status(&get(&own.local("web"), "/a", "")));
    eventually("an answer", PATIENCE, || match both() {
        [200, 200] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    policy.set(&[("delay", "2")]);
    assert_eq!(both(), [200, 503]);
    drop(policy);
    assert_eq!(both(), [200, 503]);
    assert!(decided(&open, "asks", "error_allowed") >= 2);
    assert!(decided(&closed, "asks", "error") >= 2);
}
