//! Metrics as their servers see them: npm's StatsD, Debian's Prometheus, and what callers counted themselves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::Duration;

use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load};
use finback_simulations::speech::{Protocol, Speech};
use rdkafka::mocking::MockCluster;
use tokio::runtime::Runtime;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::mosquitto::{Mosquitto, tool};
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::rpc::{Call, Client};
use crate::support::statsd::Statsd;
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(40);

/// Calls by protocol, outcome and status, as callers counted them.
#[derive(Default)]
struct Expected(BTreeMap<[String; 3], u64>);

impl Expected {
    fn add(&mut self, protocol: &str, outcome: &str, status: &str, count: u64) {
        let key = [protocol, outcome, status].map(str::to_owned);
        *self.0.entry(key).or_default() += count;
    }
}

/// A server of HTTP/1.1 that answers `/status/N` with N, and `/slow` after a while.
fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let end = received.windows(4).position(|own| own == b"\r\n\r\n");
        let Some(end) = end else {
            match stream.read(&mut chunk) {
                Ok(length) if length > 0 => received.extend(&chunk[..length]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        received.drain(..end + 4);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path == "/slow" {
            sleep(Duration::from_secs(2));
        }
        let status = path.strip_prefix("/status/").unwrap_or("200");
        let answer = format!("HTTP/1.1 {status} Any\r\nContent-Length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks by HTTP/1.1 and reads the status.
fn get(address: &str, path: &str, body: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (method, body) = body.map_or(("GET", ""), |body| ("POST", body));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What all protocols stand on in one test.
struct World {
    runtime: Runtime,
    statsd: Statsd,
    finback: Finback,
    _endpoints: Vec<Endpoint>,
    _mosquitto: Mosquitto,
    _kafka: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
}

impl World {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let stand_in = |protocol: Protocol| {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
            let listener = listener.unwrap();
            let address = listener.local_addr().unwrap();
            runtime.spawn(echo::serve(listener, protocol, Faults::default()));
            address
        };
        let (grpc, tcp) = (stand_in(Protocol::Grpc), stand_in(Protocol::Bytes));
        let echo = stand_in(Protocol::Http);
        let deed = |speech: Speech, failure: u16| {
            Endpoint::scripted(speech, move |frame| {
                let has = |word: &str| frame.windows(word.len()).any(|own| own == word.as_bytes());
                match () {
                    () if has("failing") => Deed::Status(failure),
                    () if has("silent") => Deed::Silence,
                    () => Deed::Answer,
                }
            })
        };
        // Bolt's SERVER_EXCEPTION, Dubbo's SERVICE_ERROR.
        let (bolt, dubbo) = (deed(Speech::Bolt, 2), deed(Speech::Dubbo, 70));
        let (mosquitto, statsd, web) = (Mosquitto::start(), Statsd::start(), web());
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("events", 1, 1).unwrap();
        let (dead, unreachable) = (free_port(), free_port());
        let finback = Finback::start(&format!(
            r##"
workers: 2
metrics: {{ statsd: {{ address: "127.0.0.1:{}", interval: 200ms }} }}
kafka: {{ events: {{ brokers: "{}" }} }}
listeners:
  - {{ name: all, address: "127.0.0.1:0", routes: all, tcp_fallback: true }}
routes:
  all:
    - match: {{ protocol: bolt }}
      to: {{ cluster: bolt }}
      retry: {{ attempts: 3 }}
    - match: {{ protocol: dubbo }}
      to: {{ cluster: dubbo }}
    - match: {{ protocol: grpc, service: com.acme.Gone }}
      to: {{ cluster: gone }}
    - match: {{ protocol: grpc }}
      to: {{ cluster: grpc }}
    - match: {{ protocol: mqtt }}
      to: {{ cluster: mqtt }}
    - match: {{ protocol: tcp }}
      to: {{ cluster: tcp }}
    - match: {{ protocol: http, path: {{ prefix: /events }} }}
      produce: {{ kafka: events, topic: events }}
    - match: {{ protocol: http, path: /gone }}
      to: {{ cluster: gone }}
    - match: {{ protocol: http, host: web.test }}
      to: {{ cluster: web }}
    - match: {{ protocol: http }}
      to: {{ cluster: echo }}
clusters:
  echo: {{ endpoints: [ "{echo}" ] }}
  bolt: {{ endpoints: [ "127.0.0.1:{dead}", "{}" ] }}
  dubbo: {{ endpoints: [ "{}" ] }}
  grpc: {{ endpoints: [ "{grpc}" ] }}
  gone: {{ endpoints: [ "127.0.0.1:{unreachable}" ] }}
  mqtt: {{ endpoints: [ "{}" ] }}
  tcp: {{ endpoints: [ "{tcp}" ] }}
  web: {{ endpoints: [ "{web}" ] }}
"##,
            statsd.port,
            kafka.bootstrap_servers(),
            bolt.address,
            dubbo.address,
            mosquitto.address(),
        ));
        Self {
            runtime,
            statsd,
            finback,
            _endpoints: vec![bolt, dubbo],
            _mosquitto: mosquitto,
            _kafka: kafka,
        }
    }

    /// Calls of a load generator, all of which are answered rightly.
    fn load(&self, protocol: Protocol, count: u64) -> u64 {
        let load = Load {
            protocol,
            size: 0,
            target: self.finback.local("all").parse().unwrap(),
            connections: 4,
            in_flight: 8,
            count,
            warm_up: 0,
            patience: PATIENCE,
        };
        let summary = self.runtime.block_on(load::run(&load, &Arc::default()));
        let summary = summary.unwrap();
        assert_eq!(summary.errors, 0);
        summary.calls
    }

    fn http(&self, expected: &mut Expected) {
        let at = self.finback.local("all");
        expected.add("http", "success", "200", self.load(Protocol::Http, 500));
        for (path, status, outcome, times) in [
            ("/status/404", 404, "exception", 3),
            ("/status/429", 429, "exception", 2),
            ("/status/503", 503, "failed", 4),
            ("/gone", 502, "connect_failed", 1),
        ] {
            for _ in 0..times {
                assert_eq!(get(&at, path, None), status, "{path}");
            }
            expected.add("http", outcome, &status.to_string(), times);
        }
        // A number that nobody knows is its class.
        assert_eq!(get(&at, "/status/599", None), 599);
        expected.add("http", "failed", "5xx", 1);
        for _ in 0..3 {
            let mut stream = TcpStream::connect(&at).unwrap();
            let request = b"GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n";
            stream.write_all(request).unwrap();
            sleep(Duration::from_millis(200));
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
        expected.add("http", "abandoned", "", 3);
        let out = Command::new("h2load")
            .args(["-n", "400", "-c", "4", "-m", "5"])
            .args([
                "-H",
                ":authority: web.test",
                &format!("http://{at}/status/200"),
            ])
            .output()
            .expect("h2load is missing: run `make peers`");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("400 succeeded"), "{said}");
        expected.add("http", "success", "200", 400);
    }

    fn grpc(&self, expected: &mut Expected) {
        expected.add("grpc", "success", "OK", self.load(Protocol::Grpc, 300));
    }

    fn framed(&self, speech: Speech, expected: &mut Expected) {
        let at = self.finback.local("all");
        let (name, good, bad, late) = match speech {
            Speech::Bolt => ("bolt", "SUCCESS", "SERVER_EXCEPTION", "TIMEOUT"),
            _ => ("dubbo", "OK", "SERVICE_ERROR", "SERVER_TIMEOUT"),
        };
        let mut client = Client::connect(&at, speech);
        for _ in 0..600 {
            assert!(client.call(&Call::new("com.acme.Pay", "good")).success);
        }
        expected.add(name, "success", good, 600);
        for _ in 0..5 {
            let answer = client.call(&Call::new("com.acme.Pay", "failing"));
            assert!(!answer.success);
        }
        let outcome = self.outcome_of(name, bad);
        expected.add(name, &outcome, bad, 5);
        for _ in 0..2 {
            client.call(&Call::new("com.acme.Pay", "silent").within(100));
        }
        expected.add(name, "deadline_exceeded", late, 2);
        // One-ways have no answer, and no status.
        let call = Call::new("com.acme.Pay", "told");
        for id in 0..7 {
            let mut frame = call.frame(speech, 1000 + id);
            match speech {
                Speech::Bolt => frame[1] = 2,
                _ => frame[2] &= !0x40,
            }
            client.stream.write_all(&frame).unwrap();
        }
        expected.add(name, "sent", "", 7);
        // Cancelled: the caller is gone before its answer comes.
        let mut gone = Client::connect(&at, speech);
        for _ in 0..4 {
            gone.send(&Call::new("com.acme.Pay", "silent"));
        }
        sleep(Duration::from_millis(300));
        gone.reset();
        expected.add(name, "abandoned", "", 4);
    }

    /// The outcome that a status was given: which one is another test's business.
    fn outcome_of(&self, protocol: &str, status: &str) -> String {
        let page = self.finback.admin("/metrics").1;
        let line = page.lines().find(|line| {
            line.starts_with(&format!("finback_requests_total{{protocol=\"{protocol}\""))
                && line.contains(&format!("status=\"{status}\""))
        });
        let line = line.unwrap_or_else(|| panic!("{status}\n{page}"));
        let (_, rest) = line.split_once("outcome=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }
}

/// The labels and the value of a sample of this metric.
fn samples(page: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let own = page
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let each = own.map(|rest| {
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let labels = labels.split("\",").map(|pair| {
            let (label, text) = pair.split_once("=\"").unwrap();
            (label.to_owned(), text.trim_end_matches('"').to_owned())
        });
        (labels.collect(), value.parse().unwrap())
    });
    each.collect()
}

/// Every counter of calls, clusters, sessions and messages on the page, by its name at a plain server.
fn counters(page: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let word = |text: &str| {
        let kept = |own: char| own.is_ascii_alphanumeric() || matches!(own, '_' | '-');
        let text: String = text
            .chars()
            .map(|own| if kept(own) { own } else { '_' })
            .collect();
        if text.is_empty() {
            "_".to_owned()
        } else {
            text
        }
    };
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for (name, kind) in names.map(|own| own.split_once(' ').unwrap()) {
        // These go on while nothing happens, or are told as gauges.
        let own = name.starts_with("finback_statsd") || name.starts_with("finback_control");
        if own || name.contains("_seconds_total") {
            continue;
        }
        // A line of names and values in the order of the page.
        let lines = page.lines().filter(|line| {
            let whole = if kind == "histogram" { "_count" } else { "" };
            let rest = line
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(whole));
            rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        for line in lines {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let labels = series.split_once('{').map_or("", |(_, labels)| labels);
            let values = labels.split("=\"").skip(1);
            let values = values.map(|rest| word(rest.split('"').next().unwrap()));
            let bare = name.strip_prefix("finback_").unwrap_or(name);
            let (bare, part) = match kind {
                "histogram" => (bare.trim_end_matches("_seconds"), Some("count".to_owned())),
                "counter" => (bare, None),
                _ => continue,
            };
            let parts = ["finback".to_owned(), bare.to_owned()].into_iter();
            let key: Vec<_> = parts.chain(values).chain(part).collect();
            let value: f64 = value.parse().unwrap();
            // A counter that never grew is not told of.
            if value > 0.0 {
                all.insert(key.join("."), value);
            }
        }
    }
    all
}

/// The counters of a server that agree or not, for the reader of a failure.
fn differences(ours: &BTreeMap<String, f64>, theirs: &BTreeMap<String, f64>) -> Vec<String> {
    let names = ours.keys().chain(theirs.keys());
    let mut all: Vec<_> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name}: {:?} {:?}", ours.get(name), theirs.get(name)))
        .collect();
    all.dedup();
    all
}

#[test]
fn all_servers_count_what_callers_counted() {
    let world = World::start();
    let finback = &world.finback;
    let prometheus = Prometheus::start(finback.admin_port());
    let mut expected = Expected::default();
    world.http(&mut expected);
    world.grpc(&mut expected);
    world.framed(Speech::Bolt, &mut expected);
    world.framed(Speech::Dubbo, &mut expected);
    let at = finback.local("all");
    // Of Kafka: by HTTP, and counted once more where they were written.
    for _ in 0..25 {
        assert_eq!(get(&at, "/events", Some("hello")) / 100, 2);
    }
    let produced = samples(&finback.admin("/metrics").1, "finback_requests_total");
    let produced = produced
        .iter()
        .filter(|(labels, _)| labels["outcome"] == "success");
    let status = produced
        .map(|(labels, _)| labels["status"].clone())
        .find(|status| matches!(&**status, "202" | "204"));
    expected.add(
        "http",
        "success",
        &status.unwrap_or_else(|| "200".to_owned()),
        25,
    );
    // Connections passed through.
    for _ in 0..6 {
        let mut stream = TcpStream::connect(&at).unwrap();
        stream.write_all(&[0xfe; 300]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back);
    }
    // Sessions of MQTT with five messages each, acknowledged.
    let port = finback.port("all");
    for _ in 0..4 {
        let arguments = ["-t", "plant/a", "-m", "x", "-q", "1", "--repeat", "5"];
        tool("mosquitto_pub", port, &arguments);
    }

    let calls = |page: &str| {
        let mut found: BTreeMap<[String; 3], u64> = BTreeMap::new();
        for (labels, value) in samples(page, "finback_requests_total") {
            let key = ["protocol", "outcome", "status"].map(|label| labels[label].clone());
            *found.entry(key).or_default() += value as u64;
        }
        found
    };
    eventually("the page to agree with callers", PATIENCE, || {
        let found = calls(&finback.admin("/metrics").1);
        if found == expected.0 {
            return Ok(());
        }
        Err(format!("{found:#?}\n{:#?}", expected.0))
    });
    for (query, count) in [
        (
            r#"sum(finback_mqtt_messages_total{kind="publish",outcome="success"})"#,
            20.0,
        ),
        (r#"sum(finback_mqtt_connacks_total{reason="success"})"#, 4.0),
        ("sum(finback_mqtt_sessions_ended_total)", 4.0),
        ("sum(finback_mqtt_sessions)", 0.0),
        ("sum(finback_tcp_connections_total)", 6.0),
        (
            r#"sum(finback_tcp_bytes_total{direction="received"})"#,
            1800.0,
        ),
        (
            r#"sum(finback_kafka_messages_total{outcome="confirmed"})"#,
            25.0,
        ),
        (
            r#"sum(finback_cluster_retries_total{cluster="bolt"}) > bool 0"#,
            1.0,
        ),
        (
            r#"sum(finback_cluster_connect_failures_total{cluster="gone"}) > bool 0"#,
            1.0,
        ),
    ] {
        eventually(query, PATIENCE, || {
            match prometheus.query(query)?.values().next() {
                Some(found) if *found == count => Ok(()),
                found => Err(format!(
                    "{found:?}, not {count}\n{}",
                    finback.admin("/metrics").1
                )),
            }
        });
    }
    eventually("Prometheus to agree", PATIENCE, || {
        let query = "sum by (protocol, outcome, status) (finback_requests_total)";
        let mut found = BTreeMap::new();
        for (labels, value) in prometheus.query(query)? {
            let of = |name: &str| {
                let own = labels
                    .iter()
                    .find_map(|own| own.strip_prefix(&format!("{name}=")));
                own.unwrap_or_default().to_owned()
            };
            found.insert(["protocol", "outcome", "status"].map(of), value as u64);
        }
        if found == expected.0 {
            return Ok(());
        }
        Err(format!("{found:#?}\n{:#?}", expected.0))
    });
    eventually("StatsD to agree with the page", PATIENCE, || {
        let ours = counters(&finback.admin("/metrics").1);
        let mut theirs = world.statsd.counters();
        let others = |name: &String| {
            let own = name.starts_with("finback.statsd") || name.starts_with("finback.control");
            // What the page says otherwise: sums of times, and the server's own counters.
            own || name.ends_with(".sum_us") || !name.starts_with("finback.")
        };
        theirs.retain(|name, _| !others(name));
        match differences(&ours, &theirs) {
            none if none.is_empty() => Ok(()),
            some => Err(some.join("\n")),
        }
    });
    let gauges = world.statsd.gauges();
    assert_eq!(gauges["finback.cluster_endpoints.bolt"], 2.0, "{gauges:?}");
    assert!(gauges.contains_key("finback.process_resident_memory_bytes"));
}

#[test]
fn no_count_is_lost_or_told_twice_by_outages_reloads_and_the_end() {
    let statsd = Statsd::start();
    let port = statsd.port;
    let web = web();
    let config = |more: &str| {
        format!(
            r#"
workers: 1
metrics: {{ statsd: {{ address: "127.0.0.1:{port}", interval: 100ms{more} }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: web }} }} ] }}
clusters: {{ web: {{ endpoints: [ "{web}" ] }} }}
"#
        )
    };
    let finback = Finback::start(&config(""));
    let at = finback.local("web");
    let told = |statsd: &Statsd| -> f64 {
        let counters = statsd.counters();
        let own = counters
            .iter()
            .filter(|(name, _)| name.contains("requests_total.http"));
        own.map(|(_, count)| *count).sum()
    };
    let call = |times: u32| (0..times).for_each(|_| assert_eq!(get(&at, "/any", None), 200));
    call(30);
    eventually("the first calls", PATIENCE, || match told(&statsd) {
        30.0 => Ok(()),
        other => Err(other.to_string()),
    });
    // The server is gone; packets fail, and calls do not wait.
    drop(statsd);
    call(50);
    eventually("failures", PATIENCE, || {
        match finback.metric("finback_statsd_packets_failed_total", "") {
            0 | 1 => Err("none failed".to_owned()),
            _ => Ok(()),
        }
    });
    call(20);
    let statsd = Statsd::start_at(port);
    eventually("the calls of the outage", PATIENCE, || {
        match told(&statsd) {
            70.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    // Another name, another interval: it goes on from there.
    finback.reload(&config(", prefix: other"));
    call(11);
    eventually("the calls after a reload", PATIENCE, || {
        match told(&statsd) {
            81.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    let counters = statsd.counters();
    let other = counters
        .iter()
        .filter(|(name, _)| name.starts_with("other.requests_total"));
    assert_eq!(other.map(|(_, count)| *count).sum::<f64>(), 11.0);
    // The last round goes out although the next is an hour away.
    finback.reload(&config(", interval: 1h").replace("interval: 100ms, ", ""));
    call(9);
    finback.process().signal("TERM");
    eventually("the last calls", PATIENCE, || match told(&statsd) {
        90.0 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_socket_in_the_file_system_is_told_with_tags() {
    let path = temporary_folder().join("dsd.socket");
    let agent = UnixDatagram::bind(&path).unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    let web = web();
    let finback = Finback::start(&format!(
        r#"
workers: 1
metrics:
  statsd: {{ address: "unix:{}", format: dogstatsd, prefix: mesh, interval: 200ms, packet_size: 600, tags: {{ env: test }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ match: {{ host: web.test }}, to: {{ cluster: web }} }} ] }}
clusters: {{ web: {{ endpoints: [ "{web}" ] }} }}
"#,
        path.display()
    ));
    for _ in 0..4 {
        assert_eq!(get(&finback.local("web"), "/status/404", None), 404);
    }
    let own = "mesh.requests_total:";
    let tags = "protocol:http,listener:web,service:web.test,method:GET,outcome:exception,status:404,env:test";
    let (mut sum, mut packet) = (0, [0; 65_536]);
    while sum < 4 {
        let length = agent.recv(&mut packet).unwrap();
        assert!(length <= 600, "{length}");
        let text = String::from_utf8_lossy(&packet[..length]).into_owned();
        for line in text.lines() {
            let (_, told) = line.split_once("|#").unwrap();
            assert!(told.ends_with("env:test"), "{line}");
            if let Some(rest) = line.strip_prefix(own) {
                let count = rest.strip_suffix(&format!("|c|#{tags}"));
                let count = count.unwrap_or_else(|| panic!("{line}"));
                sum += count.parse::<u64>().unwrap();
            }
        }
    }
    assert_eq!(sum, 4);
}

#[test]
fn a_port_scan_and_a_flood_of_names_leave_metrics_readable() {
    let web = web();
    let finback = Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: web, address: "127.0.0.1:0", routes: web }}
  - {{ name: any, address: "127.0.0.1:0", routes: any }}
routes:
  web: [ {{ match: {{ host: web.test }}, to: {{ cluster: web }} }} ]
  any: [ {{ to: {{ cluster: web }} }} ]
clusters: {{ web: {{ endpoints: [ "{web}" ] }} }}
"#
    ));
    let (at, any) = (finback.local("web"), finback.local("any"));
    let before = finback.admin("/metrics").1.lines().count();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&at).unwrap();
        if n % 2 == 0 {
            stream.write_all(&[0xff; 64]).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
    }
    let flood = |at: &str, tag: &str| {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let heard = thread::spawn(move || {
            let (mut all, mut chunk) = (0, vec![0; 1 << 16]);
            while let Ok(length) = reader.read(&mut chunk) {
                if length == 0 {
                    break;
                }
                all += length;
            }
            all
        });
        for n in 0..6000 {
            let close = if n == 5999 {
                "Connection: close\r\n"
            } else {
                ""
            };
            let request =
                format!("GET /{tag}{n} HTTP/1.1\r\nHost: {tag}{n}.evil.test\r\n{close}\r\n");
            stream.write_all(request.as_bytes()).unwrap();
        }
        assert!(heard.join().unwrap() > 6000);
    };
    // Nobody's names, and names that one route takes all of.
    flood(&at, "unrouted");
    flood(&any, "routed");
    assert_eq!(get(&at, "/fine", None), 200);
    let page = eventually("the records", PATIENCE, || {
        let page = finback.admin("/metrics").1;
        let all = samples(&page, "finback_requests_total");
        match all.iter().map(|(_, count)| *count).sum::<f64>() {
            count if count >= 12_001.0 => Ok(page),
            count => Err(count.to_string()),
        }
    });
    let samples = samples(&page, "finback_requests_total");
    let own = samples
        .iter()
        .find(|(labels, _)| labels["service"] == "web.test");
    assert_eq!(own.unwrap().1, 1.0, "{samples:?}");
    let unrouted = samples
        .iter()
        .find(|(labels, _)| labels["listener"] == "web" && labels["service"] == "(other)");
    assert_eq!(unrouted.unwrap().1, 6000.0, "{samples:?}");
    let lines = page.lines().count();
    assert!(lines < before + 40 * 600, "{lines} lines, {before} before");
    assert!(finback.metric("finback_malformed_total", "") >= 100);
    assert!(finback.metric("finback_silent_total", "") >= 90);
    let (code, said) = promtool(Path::new("."), &["check", "metrics"], &page);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn rules_and_dashboards_are_good() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let folder = deploy.join("prometheus");
    for arguments in [
        &["check", "rules", "alerts.yaml"][..],
        &["check", "config", "prometheus.yml"],
        &["test", "rules", "alerts.test.yaml"],
    ] {
        let (code, said) = promtool(&folder, arguments, "");
        assert_eq!(code, Some(0), "{said}");
    }
    // Every query of the dashboard is one that Prometheus takes.
    let finback = Finback::start(
        "listeners: [ { name: a, address: \"127.0.0.1:0\", routes: a } ]\nroutes: { a: [ { respond: { status: 204 } } ] }\n",
    );
    let prometheus = Prometheus::start(finback.admin_port());
    let text = std::fs::read_to_string(deploy.join("grafana/finback-prometheus.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut queries = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let mut asked = query.replace("$__rate_interval", "1m");
            for variable in ["$instance", "$listener", "$service"] {
                asked = asked.replace(variable, ".*");
            }
            prometheus
                .query(&asked)
                .unwrap_or_else(|error| panic!("{query}: {error}"));
            queries += 1;
        }
    }
    assert!(queries > 40, "{queries}");
}
