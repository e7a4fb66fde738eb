//! The admin port: who may reach it, what it tells, and the commands that ask it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;
use serde_json::Value;

use crate::support::certificates::certificates;
use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::rpc::{Call, Client};
use crate::support::{eventually, free_port, host_address, temporary_folder, web};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-token-that-nobody-guesses";

/// What curl makes of an address: the status, 0 without an answer, and the body.
fn curl(arguments: &[&str], url: &str) -> (u16, String) {
    let out = Command::new("curl")
        .args(["-sS", "-m", "15", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl is missing: run `make peers`, or `apt-get install curl`");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (status.parse().unwrap_or(0), body.to_owned())
}

/// A command of the binary with a configuration file.
fn command(name: &str, file: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_finback"))
        .args([name, "-c"])
        .arg(file)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(out: &Output) -> String {
    let all = [&*out.stdout, &*out.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn json(finback: &Finback, path: &str) -> Value {
    let (status, body) = finback.admin(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// One listener of HTTP whose calls go to these endpoints.
fn one_way(endpoints: &[String], cluster: &str) -> String {
    let list: Vec<_> = endpoints.iter().map(|own| format!("\"{own}\"")).collect();
    format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: all }} ]
routes:
  all:
    - {{ name: gray, match: {{ attributes: {{ x-lane: gray }} }}, to: {{ cluster: nobody }} }}
    - {{ name: shop, match: {{ host: shop.test }}, to: {{ cluster: back }} }}
clusters:
  nobody: {{ endpoints: [] }}
  back: {{ endpoints: [ {} ], {cluster} }}
"#,
        list.join(", ")
    )
}

/// A proxy with its own `admin:`.
struct Own {
    finback: Finback,
}

impl Own {
    fn start(admin: &str, files: &[(&str, &str)]) -> Self {
        let back = web::serve();
        let config = one_way(&[back.to_string()], "balance: round-robin");
        Self {
            finback: Finback::start_with_admin(admin, &config, files),
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.finback.folder().join("finback.yaml")
    }
}

#[test]
fn probes_and_scrapes_come_from_elsewhere_and_see_nothing_else() {
    let (admin, health, metrics) = (free_port(), free_port(), free_port());
    let own = Own::start(
        &format!(
            r#"{{ address: "127.0.0.1:{admin}", health: {{ address: "0.0.0.0:{health}" }}, metrics: {{ address: "0.0.0.0:{metrics}" }} }}"#
        ),
        &[],
    );
    let outside = host_address();
    let ask = |port: u16, path: &str| curl(&[], &format!("http://{outside}:{port}{path}")).0;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(ask(health, path), 200, "{path}");
        assert_eq!(ask(metrics, path), 404, "{path}");
    }
    assert_eq!(ask(metrics, "/metrics"), 200);
    for path in ["/metrics", "/", "/config", "/clusters", "/tap", "/version"] {
        assert_eq!(ask(health, path), 404, "{path}");
    }
    for path in ["/", "/config", "/clusters", "/tap"] {
        assert_eq!(ask(metrics, path), 404, "{path}");
    }
    // The rest is for this machine.
    assert_eq!(ask(admin, "/livez"), 0);
    assert_eq!(curl(&[], &format!("http://127.0.0.2:{admin}/livez")).0, 0);
    assert_eq!(curl(&[], &format!("http://127.0.0.1:{admin}/livez")).0, 200);
    let (_, page) = curl(&[], &format!("http://{outside}:{metrics}/metrics"));
    assert!(page.contains("finback_connections "), "{page}");
    // The command asks where nobody is asked who it is.
    let out = command("health", &own.file(), &[]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(
        command("health", &own.file(), &["--ready"])
            .status
            .success()
    );
    // Whatever else is being edited in the file.
    std::fs::write(
        own.file(),
        format!("admin: {{ health: {{ address: \"0.0.0.0:{health}\" }} }}\nlisteners: nonsense\n"),
    )
    .unwrap();
    let out = command("health", &own.file(), &[]);
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn one_address_may_serve_health_and_metrics() {
    let port = free_port();
    let _own = Own::start(
        &format!(
            r#"{{ health: {{ address: "127.0.0.1:{port}" }}, metrics: {{ address: "127.0.0.1:{port}" }} }}"#
        ),
        &[],
    );
    for (path, status) in [("/readyz", 200), ("/metrics", 200), ("/clusters", 404)] {
        let url = format!("http://127.0.0.1:{port}{path}");
        assert_eq!(curl(&[], &url).0, status, "{path}");
    }
}

#[test]
fn what_would_be_open_or_without_effect_is_refused_at_load() {
    let rest = "listeners: [ { address: \"127.0.0.1:0\", routes: all } ]\nroutes: { all: [] }\n";
    for (admin, words) in [
        (
            r#"{ address: "0.0.0.0:9901" }"#,
            "1:19: outside of this machine the admin port needs a `token_file`",
        ),
        (
            r#"{ address: "0.0.0.0:9901", tls: { certificate: a, key: b } }"#,
            "needs a `token_file`",
        ),
        ("{}", "serves nothing; write `address`"),
        (
            r#"{ health: { address: "0.0.0.0:1" }, token_file: t }"#,
            "`token_file` has no effect without an `address`",
        ),
        (
            r#"{ address: "127.0.0.1:1", metrics: { address: "127.0.0.1:1" } }"#,
            "leave `metrics` out",
        ),
        (
            r#"{ address: "127.0.0.1:1", token_file: nowhere }"#,
            "cannot read the token in",
        ),
        (
            r#"{ address: "127.0.0.1:1", trace_url: "http://jaeger/" }"#,
            "write a URL with {trace_id} in it",
        ),
        (
            r#"{ address: "127.0.0.1:1", trace_url: "javascript:{trace_id}" }"#,
            "write a URL",
        ),
        (
            r#"{ address: "127.0.0.1:1", hosts: [ "a.test:1" ] }"#,
            "is not a host name; write it without a port",
        ),
        (
            r#"{ address: "127.0.0.1:1", secret: x }"#,
            "no key is called `secret` here",
        ),
    ] {
        let (good, text) = Finback::check(&format!("admin: {admin}\n{rest}"));
        assert!(!good && text.contains(words), "{admin}: {text}");
    }
}

#[test]
fn outside_of_this_machine_a_token_opens_it() {
    let port = free_port();
    let own = Own::start(
        &format!(r#"{{ address: "0.0.0.0:{port}", token_file: "admin.token" }}"#),
        &[("admin.token", &format!("{TOKEN}\n"))],
    );
    let url = format!("http://{}:{port}/version", host_address());
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    assert_eq!(curl(&[], &url).0, 401);
    assert_eq!(
        curl(&["-H", &bearer("a-token-that-nobody-guessed")], &url).0,
        401
    );
    let (status, body) = curl(&["-H", &bearer(TOKEN)], &url);
    assert_eq!(status, 200, "{body}");
    assert_eq!(curl(&["-u", &format!("me:{TOKEN}")], &url).0, 200);
    // Metrics and health are no exception here.
    let health = format!("http://{}:{port}/livez", host_address());
    assert_eq!(curl(&[], &health).0, 401);
    // The browser is asked for it.
    let (_, head) = curl(&["-i"], &url);
    assert!(
        head.to_lowercase().contains("www-authenticate: basic"),
        "{head}"
    );
    // Commands read the file that the configuration names.
    let out = command("health", &own.file(), &[]);
    assert!(out.status.success(), "{}", said(&out));
    let out = command("top", &own.file(), &["--once", "--every", "100ms"]);
    assert!(out.status.success(), "{}", said(&out));
    // Another token holds within a second or two, and one that is none does not.
    own.finback.write_file("admin.token", "short");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(curl(&["-H", &bearer(TOKEN)], &url).0, 200);
    let other = "another-token-of-some-length";
    own.finback.write_file("admin.token", other);
    eventually("the other token", PATIENCE, || {
        match curl(&["-H", &bearer(other)], &url).0 {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    });
    assert_eq!(curl(&["-H", &bearer(TOKEN)], &url).0, 401);
}

#[test]
fn a_client_certificate_opens_it_too() {
    let port = free_port();
    let folder = temporary_folder();
    certificates(&folder);
    let f = folder.display();
    let own = Own::start(
        &format!(
            r#"{{ address: "0.0.0.0:{port}", tls: {{ certificate: "{f}/server.pem", key: "{f}/server.key", client_ca: "{f}/ca.pem" }} }}"#
        ),
        &[],
    );
    let url = format!("https://{}:{port}/version", host_address());
    let (cert, key) = (format!("{f}/client.pem"), format!("{f}/client.key"));
    assert_eq!(curl(&["-k"], &url).0, 0);
    let (status, body) = curl(&["-k", "--cert", &cert, "--key", &key], &url);
    assert_eq!(status, 200, "{body}");
    let out = command("health", &own.file(), &[]);
    assert!(!out.status.success());
    let out = command(
        "health",
        &own.file(),
        &["--certificate", &cert, "--key", &key],
    );
    assert!(out.status.success(), "{}", said(&out));
    // Commands know the process by its certificate, and nobody else.
    let other = folder.join("other.yaml");
    std::fs::write(
        &other,
        format!(
            r#"admin: {{ address: "0.0.0.0:{port}", tls: {{ certificate: "{f}/other.pem", key: "{f}/other.key", client_ca: "{f}/ca.pem" }} }}"#
        ),
    )
    .unwrap();
    let out = command("health", &other, &["--certificate", &cert, "--key", &key]);
    assert!(!out.status.success(), "{}", said(&out));
}

#[test]
fn only_what_is_meant_is_answered() {
    let port = free_port();
    let own = Own::start(
        &format!(r#"{{ address: "127.0.0.1:{port}", hosts: [ mesh.acme.test ] }}"#),
        &[],
    );
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    assert_eq!(curl(&["-X", "POST"], &url("/clusters")).0, 405);
    assert_eq!(curl(&[], &url("/drain")).0, 405);
    assert_eq!(curl(&["-X", "DELETE"], &url("/")).0, 405);
    assert_eq!(curl(&[], &url("/nothing")).0, 404);
    assert_eq!(curl(&["-I"], &url("/clusters")).0, 200);
    // A name that leads here but is not ours: a page of somebody else's may not read on.
    let host = |name: &str| format!("Host: {name}");
    assert_eq!(curl(&["-H", &host("evil.test")], &url("/config")).0, 421);
    assert_eq!(curl(&["-H", &host("evil.test")], &url("/livez")).0, 200);
    assert_eq!(
        curl(&["-H", &host("mesh.acme.test:99")], &url("/config")).0,
        200
    );
    let reload = ["-X", "POST", "-H"];
    let post = |header: &str| curl(&[&reload[..], &[header]].concat(), &url("/reload")).0;
    assert_eq!(post("Origin: http://evil.test"), 403);
    assert_eq!(post("Sec-Fetch-Site: cross-site"), 403);
    assert_eq!(post(&host("evil.test")), 421);
    assert_eq!(post(&format!("Origin: http://127.0.0.1:{port}")), 200);
    let (_, head) = curl(&["-i", "-H", "Origin: http://evil.test"], &url("/version"));
    assert!(!head.to_lowercase().contains("access-control"), "{head}");
    assert!(
        head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    // Heads and bodies are bounded.
    let long = format!("X-Long: {}", "x".repeat(20_000));
    assert_ne!(curl(&["-H", &long], &url("/version")).0, 200);
    let body = "x".repeat(5000);
    let put = ["-X", "PUT", "-d", &body];
    assert_eq!(curl(&put, &url("/log/level")).0, 413);
    assert_eq!(own.finback.admin_at(port, "/version").0, 200);
}

#[test]
fn who_connects_and_says_nothing_is_let_go() {
    let port = free_port();
    let _own = Own::start(&format!(r#"{{ address: "127.0.0.1:{port}" }}"#), &[]);
    let begun = Instant::now();
    let idle: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").unwrap();
    eventually("an answer", Duration::from_secs(40), || {
        match curl(&["-m", "3"], &format!("http://127.0.0.1:{port}/livez")).0 {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    });
    let mut rest = Vec::new();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = slow.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(45));
    drop(idle);
}

#[test]
fn the_configuration_in_force_is_told() {
    let back = web::serve().to_string();
    let config = one_way(&[back], "balance: random");
    let finback = Finback::start(&config);
    let told = json(&finback, "/config");
    assert_eq!(told["configuration"]["workers"], 2);
    assert_eq!(
        told["configuration"]["clusters"]["back"]["balance"],
        "random"
    );
    finback.reload(
        &config
            .replace("random", "least-request")
            .replace("workers: 2", "workers: 1"),
    );
    let told = json(&finback, "/config");
    assert_eq!(
        told["configuration"]["clusters"]["back"]["balance"],
        "least-request"
    );
    // That only a restart changes.
    assert_eq!(told["configuration"]["workers"], 2);
    assert_eq!(told["reloads"], 1);
    let version = json(&finback, "/version");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["workers"], 2);
    let listeners = json(&finback, "/listeners");
    assert_eq!(listeners[0]["name"], "web");
    assert_eq!(listeners[0]["protocols"][0], "http");
}

#[test]
fn routes_listeners_and_services_are_counted() {
    let back = web::serve().to_string();
    let finback = Finback::start(&one_way(&[back], "balance: random"));
    let front = finback.local("web");
    for _ in 0..7 {
        assert_eq!(web::get(&front, "shop.test", "/"), 200);
    }
    for _ in 0..3 {
        assert_eq!(web::get(&front, "elsewhere.test", "/"), 404);
    }
    assert_eq!(web::get(&front, "shop.test", "/fail"), 500);
    let routes = json(&finback, "/routes");
    assert_eq!(routes[0]["table"], "all");
    assert_eq!(routes[0]["routes"][0]["hits"], 0);
    assert_eq!(routes[0]["routes"][1]["hits"], 8);
    assert_eq!(routes[0]["no_route"], 3);
    let services = json(&finback, "/services");
    let series = services["series"].as_array().unwrap();
    let shop = series.iter().find(|own| own["service"] == "shop.test");
    let outcomes = &shop.unwrap_or_else(|| panic!("{services:#}"))["outcomes"];
    assert_eq!(outcomes["success"], 7);
    eventually("connections to end", PATIENCE, || {
        let listeners = json(&finback, "/listeners");
        match listeners[0]["connections"].as_u64() {
            Some(0) if listeners[0]["accepted"] == 11 => Ok(()),
            _ => Err(listeners.to_string()),
        }
    });
    let recent = json(&finback, "/recent");
    let failed = recent["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 4, "{recent:#}");
    assert_eq!(failed[0]["cluster"], "back");
    assert_eq!(failed[1]["outcome"], "no_route");
}

#[test]
fn endpoints_tell_why_they_take_no_calls() {
    let back = web::serve().to_string();
    let (gone, ill) = (free_port(), free_port());
    let all = [back, format!("127.0.0.1:{gone}")];
    let finback = Finback::start(&one_way(&all, "balance: round-robin"));
    let front = finback.local("web");
    for _ in 0..6 {
        assert_eq!(web::get(&front, "shop.test", "/"), 200);
    }
    let cluster = finback.cluster("back").unwrap();
    let bad = &cluster["endpoints"][1];
    assert_eq!(bad["state"], "ejected", "{cluster:#}");
    let why = bad["why"].as_str().unwrap();
    assert!(
        why.contains("no connection can be made") && why.contains("refused"),
        "{why}"
    );
    assert!(bad["ends_in_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(cluster["endpoints"][0]["state"], "available");
    let check = "health_check: { protocol: tcp, interval: 200ms, timeout: 150ms }";
    finback.reload(&one_way(
        &[all[0].clone(), format!("127.0.0.1:{ill}")],
        check,
    ));
    eventually("the check", PATIENCE, || {
        let cluster = finback.cluster("back").unwrap();
        let bad = &cluster["endpoints"][1];
        let why = bad["why"].as_str().unwrap_or_default();
        if bad["state"] == "unhealthy" && why.contains("refused") && why.contains("have failed for")
        {
            Ok(())
        } else {
            Err(cluster.to_string())
        }
    });
}

#[test]
fn repeated_failures_are_told_by_their_last() {
    // Whoever connects is hung up on: each call is lost after it was sent.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let all = [web::serve().to_string(), bad.clone()];
    let finback = Finback::start(&one_way(
        &all,
        "outlier: { consecutive: 3, max_percent: 100 }",
    ));
    let front = finback.local("web");
    eventually("the ejection", PATIENCE, || {
        web::get(&front, "shop.test", "/");
        let cluster = finback.cluster("back").unwrap();
        let own = &cluster["endpoints"][1];
        let why = own["why"].as_str().unwrap_or_default();
        if own["state"] == "ejected"
            && why.starts_with("3 failures in a row, the last: the connection broke")
        {
            Ok(())
        } else {
            Err(cluster.to_string())
        }
    });
}

#[test]
fn calls_in_flight_are_listed_with_what_they_wait_for() {
    let back = web::serve().to_string();
    let finback = Finback::start(&one_way(std::slice::from_ref(&back), "balance: random"));
    let front = finback.local("web");
    let slow = thread::spawn(move || web::get(&front, "shop.test", "/slow/3000"));
    let call = eventually("the call", PATIENCE, || {
        let calls = json(&finback, "/calls");
        match calls["oldest"].get(0) {
            Some(own) if own["endpoint"] == back => Ok(own.clone()),
            _ => Err(calls.to_string()),
        }
    });
    assert_eq!(call["service"], "shop.test");
    assert_eq!(call["route"], "shop");
    assert_eq!(call["cluster"], "back");
    assert_eq!(call["waits_for"], "answer");
    assert_eq!(call["source"], "127.0.0.1");
    assert_eq!(slow.join().unwrap(), 200);
    eventually("its end", PATIENCE, || {
        let calls = json(&finback, "/calls");
        (calls["all"] == 0).then_some(()).ok_or(calls.to_string())
    });
}

#[test]
fn how_much_is_logged_changes_while_it_runs() {
    let port = free_port();
    let own = Own::start(&format!(r#"{{ address: "127.0.0.1:{port}" }}"#), &[]);
    let url = format!("http://127.0.0.1:{port}/log/level");
    let put = |level: &str| curl(&["-X", "PUT", "-d", level], &url);
    assert!(curl(&[], &url).1.contains("info"));
    let debug = || own.finback.process().count("DEBUG");
    assert_eq!(debug(), 0);
    let (status, body) = put("debug");
    assert!(status == 200 && body.contains("debug"), "{body}");
    eventually("a line of debug", PATIENCE, || {
        let mut nonsense = TcpStream::connect(("127.0.0.1", port)).unwrap();
        nonsense.write_all(b"\0\0\0\r\n\r\n").unwrap();
        let _ = nonsense.read_to_end(&mut Vec::new());
        (debug() > 0).then_some(()).ok_or("none".to_owned())
    });
    assert_eq!(put("nonsense=nonsense").0, 400);
    assert_eq!(put("").0, 400);
    assert_eq!(put("error").0, 200);
}

#[test]
fn it_reloads_and_stops_when_asked() {
    let port = free_port();
    let own = Own::start(&format!(r#"{{ address: "127.0.0.1:{port}" }}"#), &[]);
    let post = |path: &str| curl(&["-X", "POST"], &format!("http://127.0.0.1:{port}{path}"));
    let (status, body) = post("/reload");
    assert!(
        status == 200 && body.contains("\"reloaded\": true"),
        "{body}"
    );
    let good = std::fs::read_to_string(own.file()).unwrap();
    std::fs::write(own.file(), format!("{good}nonsense: 1\n")).unwrap();
    let (status, body) = post("/reload");
    assert!(
        status == 422 && body.contains("no key is called `nonsense`"),
        "{status} {body}"
    );
    std::fs::write(own.file(), good).unwrap();
    assert_eq!(post("/drain").0, 202);
    let ended = own.finback.process().wait_for_end(PATIENCE);
    assert_eq!(ended.code(), Some(0), "{}", own.finback.process().tail());
}

// === Commands ===

#[test]
fn a_process_that_is_not_there_is_named_with_the_cause() {
    let folder = temporary_folder();
    let file = folder.join("finback.yaml");
    let port = free_port();
    std::fs::write(
        &file,
        format!("admin: {{ address: \"127.0.0.1:{port}\" }}\n"),
    )
    .unwrap();
    for name in ["health", "top", "tap"] {
        let begun = Instant::now();
        let out = command(name, &file, &[]);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(1), "{name}: {text}");
        assert!(
            text.contains(&port.to_string()) && text.contains("refused"),
            "{name}: {text}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}");
    }
    // One that takes connections and never says anything.
    let silent = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let begun = Instant::now();
    let out = command("health", &file, &[]);
    assert!(said(&out).contains("no answer within"), "{}", said(&out));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
    std::fs::write(&file, "workers: 1\n").unwrap();
    let out = command("health", &file, &[]);
    assert!(said(&out).contains("names no admin port"), "{}", said(&out));
}

#[test]
fn explain_says_which_way_a_call_takes_and_why() {
    let back = web::serve().to_string();
    let dead = format!("127.0.0.1:{}", free_port());
    let config = one_way(&[back.clone(), dead.clone()], "balance: round-robin");
    let finback = Finback::start(&config);
    let front = finback.local("web");
    for _ in 0..4 {
        assert_eq!(web::get(&front, "shop.test", "/"), 200);
    }
    let file = finback.folder().join("finback.yaml");
    let explain = |arguments: &[&str]| command("explain", &file, arguments);
    let out = explain(&["--service", "shop.test"]);
    let text = said(&out);
    assert!(out.status.success(), "{text}");
    for words in [
        "not route gray: attribute x-lane is missing",
        "route shop: to back",
        "goes to one of 1 endpoints, of 2 that may take it",
        "ejected",
        "refused",
        &back,
        &dead,
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // The route of an attribute leads to a cluster without endpoints.
    let out = explain(&["--service", "shop.test", "--attribute", "X-Lane=gray"]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("refused as no_endpoint"), "{text}");
    let out = explain(&["--service", "elsewhere.test"]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains("no_route")
            && text.contains("not route shop: host must be 'shop.test', and is 'elsewhere.test'"),
        "{text}"
    );
    for (arguments, words) in [
        (
            &["--listener", "other"][..],
            "no listener is called `other`; there are: web",
        ),
        (&["--protocol", "bolt"], "does not speak bolt, but: http"),
        (&["--attribute", "x"], "write NAME=VALUE"),
    ] {
        let out = explain(arguments);
        assert!(
            !out.status.success() && said(&out).contains(words),
            "{}",
            said(&out)
        );
    }
    let out = explain(&["--service", "shop.test", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["route"]["name"], "shop");
    // From the file alone, of endpoints nothing is known.
    let text = said(&explain(&["--service", "shop.test", "--offline"]));
    assert!(
        text.contains("route shop") && !text.contains("ejected"),
        "{text}"
    );
    drop(finback);
    let text = said(&explain(&["--service", "shop.test"]));
    assert!(
        text.contains("what follows is what the file says") && text.contains("route shop"),
        "{text}"
    );
}

#[test]
fn top_shows_what_is_called() {
    let back = web::serve().to_string();
    let finback = Finback::start(&one_way(&[back], "balance: random"));
    let front = finback.local("web");
    web::get(&front, "shop.test", "/");
    let calls = thread::spawn(move || {
        for _ in 0..40 {
            web::get(&front, "shop.test", "/");
            web::get(&front, "shop.test", "/fail");
        }
    });
    let file = finback.folder().join("finback.yaml");
    let out = Command::new(env!("CARGO_BIN_EXE_finback"))
        .env("COLUMNS", "90")
        .args(["top", "--once", "--every", "1s", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    calls.join().unwrap();
    let text = said(&out);
    assert!(out.status.success(), "{text}");
    let row = text.lines().find(|line| line.starts_with("shop.test.GET"));
    let row: Vec<_> = row
        .unwrap_or_else(|| panic!("{text}"))
        .split_whitespace()
        .collect();
    assert_eq!(row[1], "http", "{text}");
    assert!(row[2].parse::<f64>().unwrap() > 1.0, "{text}");
    let errors: f64 = row[3].parse().unwrap();
    assert!((40.0..60.0).contains(&errors), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 90),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn tap_shows_exchanges_by_filter() {
    let back = web::serve().to_string();
    let finback = Finback::start(&one_way(std::slice::from_ref(&back), "balance: random"));
    let front = finback.local("web");
    let file = finback.folder().join("finback.yaml");
    let mut tap = Command::new(env!("CARGO_BIN_EXE_finback"))
        .args([
            "tap",
            "--service",
            "shop.*",
            "--outcome",
            "error",
            "-n",
            "2",
            "--json",
            "-c",
        ])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while tap.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "no two exchanges were shown");
        web::get(&front, "shop.test", "/");
        web::get(&front, "shop.test", "/fail");
        web::get(&front, "elsewhere.test", "/");
    }
    let mut text = String::new();
    tap.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    for line in text.lines() {
        let own: Value = serde_json::from_str(line).unwrap();
        assert_eq!(own["service"], "shop.test", "{line}");
        assert_eq!(own["status"], "500", "{line}");
        assert_eq!(own["endpoint"], back, "{line}");
        assert_eq!(own["route"], "shop", "{line}");
    }
    let out = command("tap", &file, &["--slower-than", "soon"]);
    assert!(said(&out).contains("is not a duration"), "{}", said(&out));
}

#[test]
fn a_tap_that_nobody_reads_loses_lines_and_holds_up_nothing() {
    let port = free_port();
    let own = Own::start(&format!(r#"{{ address: "127.0.0.1:{port}" }}"#), &[]);
    let front = own.finback.local("web");
    let mut tap = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tap.write_all(b"GET /tap?rate=5000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    // Five are too many at a time, and four are not.
    let mut others: Vec<_> = (0..3)
        .map(|_| {
            let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
            other
                .write_all(b"GET /tap HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
            other
        })
        .collect();
    for other in &mut others {
        let mut first = [0; 15];
        other.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
    assert_eq!(curl(&[], &format!("http://127.0.0.1:{port}/tap")).0, 429);
    drop(others);
    let mut client = TcpStream::connect(&front).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // More than buffers on the way can hold: about 300 bytes each.
    let begun = Instant::now();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..200 {
        let many = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".repeat(100);
        client.write_all(many.as_bytes()).unwrap();
        let mut left = 100;
        let mut heard = String::new();
        while left > 0 {
            let count = client.read(&mut buffer).unwrap();
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
            let done = heard.matches("hey").count();
            left = 100_usize.saturating_sub(done);
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    // It reads again: what is missing is told.
    tap.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    let end = Instant::now() + PATIENCE;
    while !text.contains("\"lost\":") {
        assert!(Instant::now() < end, "nothing was lost");
        let count = tap.read(&mut buffer).unwrap();
        assert!(count > 0, "the tap ended");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn framed_calls_are_found_where_they_are() {
    let silent = Endpoint::start(Speech::Bolt, Deed::Silence);
    let finback = Finback::start(&format!(
        r#"
workers: 2
registries: {{ zk: {{ zookeeper: "127.0.0.1:{}" }} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: bolt, routes: all }} ]
routes:
  all:
    - {{ name: listed, match: {{ service: com.acme.Pay }}, to: {{ cluster: back }} }}
    - {{ name: asked, to: {{ registry: zk }} }}
clusters: {{ back: {{ endpoints: [ "{}" ] }} }}
limits: {{ registry_wait: 1s }}
"#,
        free_port(),
        silent.address
    ));
    let front = finback.local("rpc");
    let mut client = Client::connect(&front, Speech::Bolt);
    client.send_all(&Call::new("com.acme.Pay", "pay"), 300);
    let mut other = Client::connect(&front, Speech::Bolt);
    other.send(&Call::new("com.acme.Unknown", "ask"));
    let calls = eventually("the calls", PATIENCE, || {
        let calls = json(&finback, "/calls");
        let enough = calls["all"] == 301 && calls["oldest"].as_array().map(Vec::len) == Some(200);
        // They wait for the connection that the first of them asked for, before they wait for answers.
        let sent = calls["oldest"][0]["waits_for"] == "answer";
        (enough && sent)
            .then_some(calls.clone())
            .ok_or(format!("{} of {}", calls["oldest"][0], calls["all"]))
    });
    let first = &calls["oldest"][0];
    assert_eq!(first["service"], "com.acme.Pay");
    assert_eq!(first["method"], "pay");
    assert_eq!(first["route"], "listed");
    assert_eq!(first["waits_for"], "answer");
    assert_eq!(first["endpoint"], silent.address.to_string());
    drop(client);
    let calls = eventually("the other call", PATIENCE, || {
        let calls = json(&finback, "/calls");
        (calls["all"] == 1)
            .then_some(calls.clone())
            .ok_or(calls["all"].to_string())
    });
    let own = &calls["oldest"][0];
    assert_eq!(
        (&own["waits_for"], &own["route"]),
        (&"registry".into(), &"asked".into()),
        "{own}"
    );
    let registries = json(&finback, "/registries");
    assert_eq!(registries[0]["connected"], false);
    let error = registries[0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("127.0.0.1:"), "{registries:#}");
    // What would become of such a call, and that the registry does not say.
    let file = finback.folder().join("finback.yaml");
    let out = command(
        "explain",
        &file,
        &["--service", "com.acme.Other", "--version", "1.0"],
    );
    let text = said(&out);
    assert!(
        text.contains("registry zk is asked for com.acme.Other"),
        "{text}"
    );
    assert!(text.contains("the registry does not answer"), "{text}");
}

#[test]
fn sessions_are_listed_by_their_names() {
    let broker = Mosquitto::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: devices, address: "127.0.0.1:0", protocol: mqtt, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"#,
        broker.address()
    ));
    let port = finback.port("devices");
    let mut device = Command::new("mosquitto_sub")
        .args(["-i", "meter-17", "-t", "up/#", "-p", &port.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let session = eventually("the session", PATIENCE, || {
        let sessions = json(&finback, "/sessions");
        let own = sessions["oldest"].get(0).cloned();
        own.filter(|_| sessions["all"] == 1)
            .ok_or(sessions.to_string())
    });
    device.kill().unwrap();
    device.wait().unwrap();
    assert_eq!(session["name"], "meter-17");
    assert_eq!(session["listener"], "devices");
    assert_eq!(session["endpoint"], broker.address());
    eventually("its end", PATIENCE, || {
        let sessions = json(&finback, "/sessions");
        (sessions["all"] == 0)
            .then_some(())
            .ok_or(sessions.to_string())
    });
}
