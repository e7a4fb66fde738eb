//! Collectors: by gRPC and HTTP, with TLS and secrets; and what becomes of calls when they fail.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::*;
use crate::support::certificates::certificates;
use crate::support::{free_port, temporary_folder};

#[test]
fn both_protocols_reach_a_collector_with_tls_and_its_stop_loses_nothing() {
    let folder = temporary_folder();
    certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let jaeger = Jaeger::start_secure(&file("server.pem"), &file("server.key"));
    let shop = http_service(|_| 200);
    for (protocol, endpoint) in [("grpc", &jaeger.grpc), ("http", &jaeger.http)] {
        let tls = format!(
            "tls: {{ ca: \"{}\", server_name: localhost }}",
            file("ca.pem")
        );
        let name = format!("over-{protocol}");
        let tracing = format!(
            "tracing: {{ endpoint: \"{endpoint}\", protocol: {protocol}, service_name: {name}, sampling: always, {tls} }}"
        );
        let finback = front(&tracing, &shop, "");
        let web = finback.local("web");
        for _ in 0..10 {
            assert_eq!(get(&web, "/", &[]).0, 200);
        }
        // What waits is exported before it ends.
        stop(&finback);
        assert_eq!(jaeger.service(&name, 20).len(), 20);
    }
}

/// Has it stop, which a collector cannot delay for long.
fn stop(finback: &Finback) {
    finback.process().signal("TERM");
    let status = finback.process().wait_for_end(Duration::from_secs(8));
    assert_eq!(status.code(), Some(0));
}

/// A collector of HTTP that answers as it is told.
struct Collector {
    address: String,
    heads: Seen,
    spoilt: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

impl Collector {
    /// One that answers with this status while it is spoilt.
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heads, spoilt) = (Seen::default(), Arc::new(AtomicBool::new(true)));
        let requests = Arc::<AtomicU64>::default();
        let own = (heads.clone(), spoilt.clone(), requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heads, spoilt, requests) = own.clone();
                thread::spawn(move || take(stream, &heads, &spoilt, &requests, status));
            }
        });
        Self {
            address,
            heads,
            spoilt,
            requests,
        }
    }
}

fn take(
    mut stream: TcpStream,
    heads: &Seen,
    spoilt: &AtomicBool,
    requests: &AtomicU64,
    status: &str,
) {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
        let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let length = head.to_lowercase();
        let length = length.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if all.len() < end + 4 + length {
            continue;
        }
        all.drain(..end + 4 + length);
        heads.note(&head);
        requests.fetch_add(1, Relaxed);
        let status = if spoilt.load(Relaxed) {
            status
        } else {
            "200 OK"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn a_collector_is_told_secrets_as_their_files_are_now() {
    let collector = Collector::start("503 Later");
    collector.spoilt.store(false, Relaxed);
    let shop = http_service(|_| 200);
    let tracing = format!(
        "tracing: {{ endpoint: \"http://{}/own/path\", protocol: http, sampling: always, \
         headers: {{ x-tenant: north, authorization: {{ file: token.txt }} }} }}",
        collector.address
    );
    let finback = Finback::start_with(
        &config(&tracing, &shop, ""),
        &[("token.txt", "Bearer one\n")],
    );
    let web = finback.local("web");
    let head = |wanted: &str| {
        eventually("a request", PATIENCE, || {
            get(&web, "/", &[]);
            let last = collector.heads.all().pop().unwrap_or_default();
            if last.contains(wanted) {
                Ok(last)
            } else {
                Err(last)
            }
        })
    };
    let first = head("authorization: Bearer one");
    assert!(first.starts_with("POST /own/path HTTP/1.1\r\n"), "{first}");
    assert!(
        first.contains("x-tenant: north") && first.contains("content-type: application/x-protobuf"),
        "{first}"
    );
    finback.write_file("token.txt", "Bearer two");
    head("authorization: Bearer two");
}

/// Calls for a while, and says how many went wrong of how many, and the slowest.
fn load(web: &str, time: Duration) -> (u64, u64, Duration) {
    let ends = Instant::now() + time;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let web = web.to_owned();
            thread::spawn(move || {
                let (mut calls, mut wrong, mut slowest) = (0, 0, Duration::ZERO);
                while Instant::now() < ends {
                    let began = Instant::now();
                    wrong += u64::from(get(&web, "/", &[]).0 != 200);
                    slowest = slowest.max(began.elapsed());
                    calls += 1;
                }
                (calls, wrong, slowest)
            })
        })
        .collect();
    let done = callers.into_iter().map(|own| own.join().unwrap());
    done.fold((0, 0, Duration::ZERO), |all, own| {
        (all.0 + own.0, all.1 + own.1, all.2.max(own.2))
    })
}

#[test]
fn no_call_notices_a_collector_that_is_down_hangs_or_refuses() {
    let shop = http_service(|_| 200);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = Collector::start("400 No");
    let busy = Collector::start("503 Later");
    let table = [
        ("down", format!("127.0.0.1:{}", free_port()), "http"),
        ("down", format!("127.0.0.1:{}", free_port()), "grpc"),
        ("hangs", silent.local_addr().unwrap().to_string(), "http"),
        ("hangs", silent.local_addr().unwrap().to_string(), "grpc"),
        ("refuses", refusing.address.clone(), "http"),
        ("is busy", busy.address.clone(), "http"),
        ("is none", shop.clone(), "grpc"),
    ];
    for (how, address, protocol) in table {
        let tracing = format!(
            "tracing: {{ endpoint: \"http://{address}\", protocol: {protocol}, sampling: always, queue: 64, timeout: 500ms }}"
        );
        let finback = front(&tracing, &shop, "");
        let (calls, wrong, slowest) = load(&finback.local("web"), Duration::from_secs(2));
        assert_eq!(wrong, 0, "{how} {protocol}: {calls} calls");
        assert!(
            calls > 100 && slowest < Duration::from_secs(1),
            "{how} {protocol}: {calls} {slowest:?}"
        );
        let dropped = finback.metric("finback_spans_dropped_total", "");
        let failures = finback.metric("finback_span_export_failures_total", "");
        assert!(
            dropped > 0 && failures > 0,
            "{how} {protocol}: {dropped} {failures}"
        );
        assert_eq!(finback.metric("finback_spans_exported_total", ""), 0);
        stop(&finback);
    }
}

#[test]
fn spans_that_a_busy_collector_did_not_take_come_again() {
    let collector = Collector::start("503 Later");
    let shop = http_service(|_| 200);
    let tracing = format!(
        "tracing: {{ endpoint: \"http://{}\", protocol: http, sampling: always }}",
        collector.address
    );
    let finback = front(&tracing, &shop, "");
    assert_eq!(get(&finback.local("web"), "/", &[]).0, 200);
    eventually("another try", PATIENCE, || {
        match collector.requests.load(Relaxed) {
            2.. => Ok(()),
            few => Err(few.to_string()),
        }
    });
    collector.spoilt.store(false, Relaxed);
    eventually("the spans", PATIENCE, || {
        match finback.metric("finback_spans_exported_total", "") {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    assert_eq!(finback.metric("finback_spans_dropped_total", ""), 0);
}

#[test]
fn a_reload_begins_changes_and_ends_tracing() {
    let jaeger = Jaeger::start();
    let shop = http_service(|_| 200);
    let tracing = |name: &str, more: &str| {
        format!(
            "tracing: {{ endpoint: \"{}\", service_name: {name}, sampling: always, {more} }}",
            jaeger.grpc
        )
    };
    let finback = front("", &shop, "");
    let web = finback.local("web");
    let call = || assert_eq!(get(&web, "/", &[]).0, 200);
    call();
    finback.reload(&config(&tracing("first", ""), &shop, ""));
    call();
    assert_eq!(jaeger.service("first", 2).len(), 2);
    finback.reload(&config(&tracing("second", ""), &shop, ""));
    call();
    assert_eq!(jaeger.service("second", 2).len(), 2);
    // What is good for nothing is refused, and the second goes on.
    finback.write(&config(&tracing("third", "ratio: 0.5"), &shop, ""));
    finback.process().signal("HUP");
    finback
        .process()
        .wait_for("a refusal", PATIENCE, 0, |line| {
            line.contains("`always` has no share").then_some(())
        });
    call();
    assert_eq!(jaeger.service("second", 4).len(), 4);
    finback.reload(&config("", &shop, ""));
    call();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(finback.metric("finback_spans_exported_total", ""), 6);
}

#[test]
fn a_jaeger_that_stands_still_has_everything_afterwards() {
    let jaeger = Jaeger::start();
    let shop = http_service(|_| 200);
    for protocol in ["grpc", "http"] {
        let endpoint = match protocol {
            "grpc" => &jaeger.grpc,
            _ => &jaeger.http,
        };
        let name = format!("still-{protocol}");
        let tracing = format!(
            "tracing: {{ endpoint: \"{endpoint}\", protocol: {protocol}, service_name: {name}, sampling: always, timeout: 1s }}"
        );
        let finback = front(&tracing, &shop, "");
        let web = finback.local("web");
        let call = |count| (0..count).for_each(|_| assert_eq!(get(&web, "/", &[]).0, 200));
        call(5);
        jaeger.service(&name, 10);
        jaeger.signal("STOP");
        call(10);
        eventually("a failure", PATIENCE, || {
            match finback.metric("finback_span_export_failures_total", "") {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            }
        });
        call(10);
        jaeger.signal("CONT");
        // What it had taken before it stood still, it is sent again.
        eventually("every span", PATIENCE, || {
            let spans = jaeger.service_now(&name)?;
            let ids: HashSet<&str> = spans.iter().map(|own| own.id.as_str()).collect();
            match ids.len() {
                50 => Ok(()),
                other => Err(other.to_string()),
            }
        });
        let dropped = "finback_spans_dropped_total";
        assert_eq!(finback.metric(dropped, ""), 0);
    }
}
