//! What devices are promised while Kafka is full, stopped, killed and started again.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::device::{Device, Login};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::kafka::Kafka;

const PATIENCE: Duration = Duration::from_secs(60);
/// Topics that messages are spread over.
const TOPICS: usize = 6;

/// A proxy whose producer has room for hardly anything.
fn narrow(brokers: &str) -> Finback {
    Finback::start(&format!(
        r##"
workers: 1
kafka:
  events:
    brokers: "{brokers}"
    options: {{ queue.buffering.max.messages: "20", queue.buffering.max.kbytes: "4096", message.timeout.ms: "60000" }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: "{{1}}" }}
      mqtt: {{ authenticate: none }}
"##
    ))
}

/// One device of the fleet.
#[derive(Clone)]
struct Part {
    id: String,
    level: u8,
    qos: u8,
    count: usize,
    size: usize,
}

impl Part {
    /// Its messages: `ID:NUMBER` and something to make them long.
    fn messages(&self) -> Vec<(String, Vec<u8>)> {
        let message = |n: usize| {
            let mut payload = format!("{}:{n:05};", self.id).into_bytes();
            payload.resize(self.size.max(payload.len()), b'x');
            (format!("t{}/x", n % TOPICS), payload)
        };
        (0..self.count).map(message).collect()
    }
}

/// How often each message is in Kafka, and each device's messages of one topic in order.
fn written(kafka: &Kafka) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for topic in 0..TOPICS {
        let out = Command::new("kcat")
            .args(["-b", &kafka.address, "-t", &format!("t{topic}"), "-C", "-e"])
            .args(["-q", "-o", "beginning", "-f", "%s\n"])
            .output()
            .expect("kcat is missing: run `make peers`, or `apt-get install kcat`");
        assert!(
            out.status.success(),
            "{:?}",
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8(out.stdout).unwrap();
        let mut last: BTreeMap<&str, &str> = BTreeMap::new();
        for line in text.lines() {
            let name = line.split(';').next().unwrap();
            let (device, number) = name.split_once(':').unwrap();
            let before = last.insert(device, number);
            assert!(
                before <= Some(number),
                "{device}: {before:?} before {number}"
            );
            *found.entry(name.to_owned()).or_default() += 1;
        }
    }
    found
}

fn fleet() -> Vec<Part> {
    let mut parts = Vec::new();
    for level in [4, 5] {
        for qos in [0, 1, 2] {
            let small = Part {
                id: format!("small-{level}-{qos}"),
                level,
                qos,
                count: 120,
                size: 20,
            };
            let large = Part {
                id: format!("large-{level}-{qos}"),
                count: 18,
                size: 500_000,
                ..small.clone()
            };
            parts.extend([small, large]);
        }
    }
    parts
}

fn create_topics(kafka: &Kafka, finback: &Finback) {
    let login = Login {
        level: 4,
        id: "first",
        clean: true,
        ..Login::default()
    };
    let (mut device, _) = Device::connect(finback, login);
    for topic in 0..TOPICS {
        let name = format!("t{topic}/x");
        assert_eq!(device.publish(1, 1, &name, b"first:00000;"), Some(0));
    }
    assert_eq!(written(kafka)["first:00000"], TOPICS);
}

/// Runs the fleet while `disturb` does its worst, and checks what it was promised.
fn endure(kafka: &mut Kafka, finback: &Finback, disturb: impl FnOnce(&mut Kafka, &Finback)) {
    create_topics(kafka, finback);
    let parts = fleet();
    std::thread::scope(|scope| {
        let devices: Vec<_> = parts
            .iter()
            .map(|part| {
                let login = Login {
                    level: part.level,
                    id: &part.id,
                    clean: true,
                    ..Login::default()
                };
                let (mut device, _) = Device::connect(finback, login);
                scope.spawn(move || {
                    let acknowledged = device.publish_all(part.qos, part.messages());
                    (device, acknowledged)
                })
            })
            .collect();
        disturb(kafka, finback);
        for (part, device) in parts.iter().zip(devices) {
            let (_device, acknowledged) = device.join().unwrap();
            let count = u16::try_from(if part.qos == 0 { 0 } else { part.count }).unwrap();
            let expected: Vec<u16> = (1..=count).collect();
            assert_eq!(acknowledged, expected, "{}", part.id);
        }
    });
    // At quality of service 0 nobody says when it is over.
    eventually("every message", PATIENCE, || {
        let found = written(kafka);
        for part in &parts {
            for n in 0..part.count {
                let name = format!("{}:{n:05}", part.id);
                match found.get(&name) {
                    Some(1) => {}
                    other => return Err(format!("{name}: {other:?}")),
                }
            }
        }
        Ok(())
    });
}

/// The processor time of the proxy while `during` is under way.
fn cost(finback: &Finback, during: Duration) -> Duration {
    let before = finback.process().cpu();
    std::thread::sleep(during);
    finback.process().cpu() - before
}

#[test]
fn a_stopped_kafka_costs_devices_nothing_but_time_and_the_proxy_no_processor() {
    let mut kafka = Kafka::start();
    let finback = narrow(&kafka.address);
    endure(&mut kafka, &finback, |kafka, finback| {
        kafka.signal("STOP");
        std::thread::sleep(Duration::from_millis(500));
        let spent = cost(finback, Duration::from_secs(4));
        kafka.signal("CONT");
        assert!(spent < Duration::from_millis(400), "{spent:?} in 4 s");
    });
    let full = finback.metric("finback_kafka_full_total", "events");
    assert!((1..20_000).contains(&full), "{full}");
    // Nothing waits any more, so stopping takes no time.
    let began = Instant::now();
    finback.process().signal("TERM");
    assert!(finback.process().wait_for_end(PATIENCE).success());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_killed_kafka_costs_devices_nothing_but_time() {
    let mut kafka = Kafka::start();
    let finback = narrow(&kafka.address);
    endure(&mut kafka, &finback, |kafka, finback| {
        std::thread::sleep(Duration::from_millis(300));
        kafka.kill();
        let spent = cost(finback, Duration::from_secs(2));
        assert!(spent < Duration::from_millis(400), "{spent:?} in 2 s");
        kafka.restart();
    });
}

#[test]
fn stopping_while_kafka_hangs_takes_a_few_seconds() {
    let mut kafka = Kafka::start();
    let finback = narrow(&kafka.address);
    create_topics(&kafka, &finback);
    kafka.signal("STOP");
    let login = Login {
        level: 5,
        id: "waiting",
        clean: true,
        ..Login::default()
    };
    let (mut device, _) = Device::connect(&finback, login);
    device.say(&device.message(1, 1, "t0/x", b"waiting:00000;"));
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    finback.process().signal("TERM");
    // Not acknowledged, and told to go elsewhere.
    let (kind, body) = device.hear().unwrap();
    assert_eq!((kind, body[0]), (0xe0, 0x8b));
    assert!(finback.process().wait_for_end(PATIENCE).success());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    kafka.kill();
}
