//! Access logs: their lines agree with metrics and with what callers counted, and nothing that becomes of a log
//! stops a call, a reload or the end.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::broker::{Broker, Options};
use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load};
use finback_simulations::mqtt::{self, MqttLoad};
use finback_simulations::speech::{Protocol, Speech};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client};
use crate::support::{eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(20);
const COUNT: u64 = 300;

/// How many exchanges, by protocol and outcome.
type Counts = BTreeMap<(String, String), u64>;

/// The lines of a log, which are all JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let read =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}"));
    text.lines().map(read).collect()
}

/// What sessions of MQTT have series of.
const MQTT: [&str; 5] = [
    "finback_mqtt_messages_total{",
    "finback_mqtt_packets_total{",
    "finback_mqtt_connects_total{",
    "finback_mqtt_connacks_total{",
    "finback_mqtt_sessions_ended_total{",
];

/// Exchanges of MQTT are of several kinds, which are compared together.
fn key(protocol: &str, outcome: &str) -> (String, String) {
    let outcome = match protocol {
        "mqtt" => "all",
        _ => outcome,
    };
    (protocol.to_owned(), outcome.to_owned())
}

fn logged(path: &Path) -> Counts {
    let mut counts = Counts::new();
    for line in lines(path) {
        let word = |name: &str| line[name].as_str().unwrap();
        *counts
            .entry(key(word("protocol"), word("outcome")))
            .or_default() += 1;
    }
    counts
}

fn label(series: &str, name: &str) -> String {
    let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

fn measured(finback: &Finback) -> Counts {
    let (_, page) = finback.admin("/metrics");
    let mut counts = Counts::new();
    for line in page.lines() {
        let is_mqtt = MQTT.iter().any(|family| line.starts_with(family));
        if !is_mqtt && !line.starts_with("finback_requests_total{") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse::<f64>().unwrap() as u64;
        let own = match is_mqtt {
            true => key("mqtt", ""),
            false => key(&label(series, "protocol"), &label(series, "outcome")),
        };
        if value > 0 {
            *counts.entry(own).or_default() += value;
        }
    }
    counts
}

/// An echo of a protocol.
fn service(runtime: &Runtime, protocol: Protocol, faults: Faults) -> String {
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    runtime.spawn(echo::serve(listener, protocol, faults));
    address
}

/// Makes calls that are all answered, rightly or not: how many were, and how many of them by a failure.
fn calls(runtime: &Runtime, protocol: Protocol, target: &str) -> (u64, u64) {
    let load = Load {
        protocol,
        size: 0,
        target: target.parse().unwrap(),
        connections: 4,
        in_flight: 4,
        count: COUNT,
        warm_up: 0,
        patience: PATIENCE,
    };
    let summary = runtime.block_on(load::run(&load, &Arc::default())).unwrap();
    (summary.calls, summary.errors)
}

const ALL: [(Protocol, &str); 4] = [
    (Protocol::Bolt, "bolt"),
    (Protocol::Dubbo, "dubbo"),
    (Protocol::Grpc, "grpc"),
    (Protocol::Http, "http"),
];

#[test]
fn lines_agree_with_metrics_and_with_what_callers_counted() {
    let runtime = Runtime::new().unwrap();
    let closed = free_port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clusters = String::new();
    let mut listeners = String::new();
    let mut tables = String::new();
    for (protocol, name) in ALL {
        let good = service(&runtime, protocol, Faults::default());
        // One of two endpoints is away: each call that meets it is sent again.
        clusters.push_str(&format!(
            "  {name}: {{ endpoints: [ \"{good}\", \"127.0.0.1:{closed}\" ], outlier: {{ consecutive: 0 }} }}\n"
        ));
        for (kind, cluster) in [("good", name), ("bad", "away")] {
            listeners.push_str(&format!(
                "  - {{ name: {kind}-{name}, address: \"127.0.0.1:0\", routes: {kind}-{name}, access_log: {{ path: access.log }} }}\n"
            ));
            tables.push_str(&format!(
                "  {kind}-{name}: [ {{ name: the-{kind}, to: {{ cluster: {cluster} }} }} ]\n"
            ));
        }
    }
    let broker = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let broker_address = broker.local_addr().unwrap();
    runtime.spawn(Broker::new(Options::default()).serve(broker));
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners:
{listeners}
  - {{ name: messages, address: "127.0.0.1:0", protocol: mqtt, routes: messages, access_log: {{ path: access.log }} }}
  - {{ name: silent, address: "127.0.0.1:0", routes: silent, access_log: {{ path: access.log }} }}
routes:
{tables}
  messages: [ {{ to: {{ cluster: brokers }} }} ]
  silent:
    - {{ match: {{ method: late }}, to: {{ cluster: silent }}, timeout: 300ms }}
    - {{ match: {{ method: pay }}, to: {{ cluster: silent }} }}
clusters:
{clusters}
  away: {{ endpoints: [ "127.0.0.1:{closed}" ] }}
  brokers: {{ endpoints: [ "{broker_address}" ] }}
  silent: {{ endpoints: [ "{}" ] }}
"#,
        silent.local_addr().unwrap()
    ));
    let mut expected = Counts::new();
    let mut add = |protocol: &str, outcome: &str, count: u64| {
        *expected
            .entry((protocol.to_owned(), outcome.to_owned()))
            .or_default() += count;
    };
    for (protocol, name) in ALL {
        let counted = calls(&runtime, protocol, &finback.local(&format!("good-{name}")));
        assert_eq!(
            counted,
            (COUNT, 0),
            "{name}: sent again until it is answered"
        );
        let counted = calls(&runtime, protocol, &finback.local(&format!("bad-{name}")));
        assert_eq!(counted, (COUNT, COUNT), "{name}");
        add(name, "success", COUNT);
        add(name, "connect_failed", COUNT);
    }
    for (speech, name) in [(Speech::Bolt, "bolt"), (Speech::Dubbo, "dubbo")] {
        let mut client = Client::connect(&finback.local("silent"), speech);
        for _ in 0..5 {
            assert!(!client.call(&Call::new("com.acme.Pay", "late")).success);
            assert!(!client.call(&Call::new("com.acme.Pay", "nowhere")).success);
        }
        add(name, "deadline_exceeded", 5);
        add(name, "no_route", 5);
        // Nobody waits for a one-way.
        let mut frame = Call::new("com.acme.Pay", "pay").frame(speech, 77);
        match speech {
            Speech::Dubbo => frame[2] &= !0x40,
            _ => frame[1] = 2,
        }
        for _ in 0..7 {
            client.stream.write_all(&frame).unwrap();
        }
        add(name, "sent", 7);
        // Its caller goes away before the answer.
        let mut gone = Client::connect(&finback.local("silent"), speech);
        gone.send_all(&Call::new("com.acme.Pay", "pay"), 3);
        thread::sleep(Duration::from_millis(300));
        gone.reset();
        add(name, "abandoned", 3);
        thread::sleep(Duration::from_millis(300));
        drop(client);
    }
    let load = MqttLoad {
        target: finback.local("messages").parse().unwrap(),
        connections: 3,
        in_flight: 4,
        qos: 1,
        count: 60,
        size: 10,
        heard: true,
    };
    runtime.block_on(mqtt::run(&load, &Arc::default())).unwrap();
    let path = finback.folder().join("access.log");
    // Sessions of MQTT end when their clients are gone.
    eventually("lines and metrics to agree", PATIENCE, || {
        let (logged, measured) = (logged(&path), measured(&finback));
        let ours = |own: &Counts| {
            let own = own.clone().into_iter();
            own.filter(|((protocol, _), _)| protocol != "mqtt")
                .collect::<Counts>()
        };
        let is_mqtt = logged.keys().any(|(protocol, _)| protocol == "mqtt");
        if logged == measured && ours(&logged) == expected && is_mqtt {
            return Ok(());
        }
        Err(format!(
            "logged {logged:#?}\nmeasured {measured:#?}\nexpected {expected:#?}"
        ))
    });
    let all = lines(&path);
    let retries = all
        .iter()
        .filter(|own| own["outcome"] == "success")
        .map(|own| own["attempts"].as_u64().unwrap().saturating_sub(1));
    let retries: u64 = retries.sum();
    assert!(retries > 0);
    // Those that failed were tried twice, too, in vain.
    let failed = all
        .iter()
        .map(|own| own["attempts"].as_u64().unwrap_or(0).saturating_sub(1));
    assert_eq!(
        failed.sum::<u64>(),
        finback.metric("finback_retries_total", "")
    );
    let good = all
        .iter()
        .find(|own| own["listener"] == "good-bolt")
        .unwrap();
    assert_eq!(good["route"], "the-good");
    assert_eq!(good["cluster"], "bolt");
    assert_eq!(good["source"], "127.0.0.1");
    assert_eq!(good["status"], "success".to_uppercase());
    assert!(good["duration_ms"].as_f64().unwrap() > 0.0, "{good}");
    for bytes in ["request_bytes", "response_bytes"] {
        assert!(good[bytes].as_u64().unwrap() > 0, "{good}");
    }
    for metric in ["request_bytes", "response_bytes"] {
        let calls = all.iter().filter(|own| own["protocol"] != "mqtt");
        let logged: u64 = calls.filter_map(|own| own[metric].as_u64()).sum();
        assert_eq!(
            logged,
            finback.metric(&format!("finback_{metric}_total"), ""),
            "{metric}"
        );
    }
    let lines = all.len() as u64;
    assert_eq!(finback.metric("finback_access_log_lines_total", ""), lines);
    assert_eq!(
        finback.metric("finback_access_log_lines_dropped_total", ""),
        0
    );
}

/// A proxy that answers `/` with 200 and `/nowhere` with 404, and has this access log.
fn web(access_log: &str) -> Finback {
    Finback::start(&web_config(access_log, "one"))
}

fn web_config(access_log: &str, says: &str) -> String {
    format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web, access_log: {access_log} }} ]
routes: {{ web: [ {{ name: all, match: {{ path: / }}, respond: {{ status: 200, body: "{says}" }} }} ] }}
"#
    )
}

fn ask(finback: &Finback, path: &str, count: usize) {
    let mut stream = TcpStream::connect(finback.local("web")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.acme.test\r\n\r\n");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
    }
}

fn count(path: &Path) -> usize {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .count()
}

fn counts(path: &Path, wanted: usize) {
    eventually(&format!("{} lines", path.display()), PATIENCE, || {
        let now = count(path);
        (now == wanted)
            .then_some(())
            .ok_or(format!("{now}, not {wanted}"))
    });
}

fn dropped(finback: &Finback) -> u64 {
    finback.metric("finback_access_log_lines_dropped_total", "")
}

fn ends_well(finback: &Finback) {
    let told = Instant::now();
    finback.process().signal("TERM");
    let status = finback.process().wait_for_end(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", finback.process().tail());
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn failures_only_or_a_share_of_the_rest() {
    let finback =
        web("{ path: a.log, only: failures, format: \"{method} {outcome} {status} {route}\" }");
    ask(&finback, "/", 50);
    ask(&finback, "/nowhere", 5);
    let path = finback.folder().join("a.log");
    counts(&path, 5);
    let text = std::fs::read_to_string(&path).unwrap();
    let words: Vec<&str> = text.lines().next().unwrap().split(' ').collect();
    assert_eq!(words.len(), 4, "{text}");
    assert_eq!(words[1..], ["no_route", "404", "-"], "{text}");
    finback.reload(&web_config("{ path: a.log, sample: 0.2 }", "two"));
    ask(&finback, "/", 2000);
    ask(&finback, "/nowhere", 5);
    ends_well(&finback);
    // 400 are expected of 2000; 5 standard deviations of 18.
    let sampled = count(&path) - 10;
    assert!((310..490).contains(&sampled), "{sampled}");
}

#[test]
fn a_log_without_which_nothing_is_written_costs_no_line() {
    let finback = web("{ path: a.log }");
    ask(&finback, "/", 5);
    let path = finback.folder().join("a.log");
    counts(&path, 5);
    let without = web_config("X", "two").replace(", access_log: X", "");
    finback.reload(&without);
    ask(&finback, "/", 5);
    finback.reload(&web_config("{ path: a.log }", "three"));
    ask(&finback, "/", 5);
    ends_well(&finback);
    assert_eq!(count(&path), 10);
}

#[test]
fn a_file_that_is_moved_away_is_followed_by_another_and_no_line_is_lost() {
    let finback = web("{ path: a.log }");
    let (path, former) = (
        finback.folder().join("a.log"),
        finback.folder().join("a.log.former"),
    );
    ask(&finback, "/", 10);
    counts(&path, 10);
    std::fs::rename(&path, &former).unwrap();
    finback.process().signal("USR1");
    eventually("another file", PATIENCE, || {
        path.exists().then_some(()).ok_or(String::new())
    });
    ask(&finback, "/", 7);
    counts(&path, 7);
    assert_eq!(count(&former), 10);
    // Without a signal, too; and by its removal.
    std::fs::remove_file(&path).unwrap();
    eventually("another file", PATIENCE, || {
        path.exists().then_some(()).ok_or(String::new())
    });
    ask(&finback, "/", 3);
    counts(&path, 3);
    assert_eq!(dropped(&finback), 0);
    ends_well(&finback);
}

#[test]
fn a_file_that_is_long_is_moved_away() {
    let finback = web("{ path: a.log, rotate: { size: 64KiB, keep: 2 } }");
    ask(&finback, "/", 2000);
    ends_well(&finback);
    let names: Vec<_> = ["a.log", "a.log.1", "a.log.2", "a.log.3"]
        .map(|own| finback.folder().join(own))
        .into();
    let lengths: Vec<u64> = names
        .iter()
        .map(|own| std::fs::metadata(own).map_or(0, |own| own.len()))
        .collect();
    assert!(
        lengths[1] >= 64 * 1024 && lengths[2] >= 64 * 1024,
        "{lengths:?}"
    );
    assert_eq!(lengths[3], 0, "{lengths:?}");
    for name in &names[..3] {
        lines(name);
    }
}

#[test]
fn what_cannot_be_written_is_dropped_and_counted_and_stops_nothing() {
    // A full disk; a folder that is not there; a named pipe that nobody reads.
    for target in ["/dev/full", "gone/a.log", "pipe"] {
        let folder = crate::support::temporary_folder();
        let path = match target {
            "pipe" => {
                let made = Command::new("mkfifo")
                    .arg(folder.join("pipe"))
                    .status()
                    .unwrap();
                assert!(made.success());
                folder.join("pipe").display().to_string()
            }
            "/dev/full" => target.to_owned(),
            _ => folder.join(target).display().to_string(),
        };
        let finback = web(&format!("{{ path: \"{path}\" }}"));
        ask(&finback, "/", 200);
        eventually(target, PATIENCE, || {
            let now = dropped(&finback);
            (now == 200).then_some(()).ok_or(now.to_string())
        });
        finback
            .process()
            .await_words("an access log cannot be written");
        let told = finback.process().count("an access log cannot be written");
        assert_eq!(told, 1, "{}", finback.process().tail());
        finback.reload(&web_config(&format!("{{ path: \"{path}\" }}"), "two"));
        // Where it works again, so does the log.
        match target {
            "gone/a.log" => std::fs::create_dir(folder.join("gone")).unwrap(),
            "pipe" => {
                let mut reader = OpenOptions::new();
                // Opened without waiting for a writer (O_NONBLOCK), it reads what is there.
                let reader = reader.read(true).custom_flags(0o4000).open(&path).unwrap();
                thread::sleep(Duration::from_secs(1));
                ask(&finback, "/", 20);
                thread::sleep(Duration::from_millis(500));
                let mut text = Vec::new();
                let _ = (&reader).read_to_end(&mut text);
                assert_eq!(text.iter().filter(|own| **own == b'\n').count(), 20);
                ends_well(&finback);
                continue;
            }
            _ => {
                ends_well(&finback);
                continue;
            }
        }
        thread::sleep(Duration::from_secs(1));
        ask(&finback, "/", 20);
        counts(Path::new(&path), 20);
        std::fs::remove_dir_all(folder.join("gone")).unwrap();
        thread::sleep(Duration::from_secs(1));
        ask(&finback, "/", 20);
        eventually("drops", PATIENCE, || {
            let now = dropped(&finback);
            (now == 220).then_some(()).ok_or(now.to_string())
        });
        ends_well(&finback);
    }
}

#[test]
fn a_reader_that_is_stuck_stops_nothing() {
    let folder = crate::support::temporary_folder();
    let pipe = folder.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(0o4000)
        .open(&pipe)
        .unwrap();
    let log = format!("{{ path: \"{}\" }}", pipe.display());
    let finback = web(&log);
    // More than a pipe holds (64 KiB) and than may wait (16,384 lines).
    let began = Instant::now();
    ask(&finback, "/", 20_000);
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    let written = finback.metric("finback_access_log_lines_total", "");
    let dropped = dropped(&finback);
    assert!(dropped > 0 && written > 0, "{written} {dropped}");
    finback.reload(&web_config(&log, "two"));
    finback.process().signal("USR1");
    assert!(finback.admin("/livez").1.contains("alive"));
    ends_well(&finback);
    drop(reader);
}

#[test]
fn the_guides_configuration_runs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/observing.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("admin: { address: \"127.0.0.1:9901\" }\n", "");
    let text = text.replace("log: { format: json, level: info }\n", "");
    let text = text
        .replace("0.0.0.0:12220", "127.0.0.1:0")
        .replace("0.0.0.0:8080", "127.0.0.1:0");
    let finback = Finback::start(&text);
    ask(&finback, "/", 3);
    // Nobody is behind it.
    finback.process().wait_for("a line", PATIENCE, 0, |line| {
        line.contains("127.0.0.1 shop.acme.test").then_some(())
    });
    ends_well(&finback);
}
