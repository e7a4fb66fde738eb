//! What a server hears: exact sums, whatever is lost on the way.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use super::*;

static CALLS: Family = Family::counter("finback_calls_total", "calls", &["service"], "Calls.");
static OPEN: Family = Family::gauge("finback_open", "connections", &["service"], "Open.");
static TIMES: Family = Family::histogram("finback_time_seconds", "seconds", &["service"], "Times.");

fn settings(format: StatsdFormat) -> Settings {
    Settings {
        destination: StatsdServer::Udp(String::new()),
        format,
        prefix: "mesh.a".to_owned(),
        interval: Duration::from_secs(1),
        packet_size: 100,
        tags: vec![("env".to_owned(), "test".to_owned())],
    }
}

/// A server that adds up what it hears.
struct Server {
    socket: UdpSocket,
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, f64>,
    longest: usize,
}

impl Server {
    fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            longest: 0,
        }
    }

    fn link(&self) -> Link {
        Link::udp(self.socket.local_addr().unwrap()).unwrap()
    }

    /// Takes what has come; on loopback that is all that was sent.
    fn hear(&mut self) -> String {
        let mut heard = Vec::new();
        let mut packet = [0; 65_536];
        while let Ok(length) = self.socket.recv(&mut packet) {
            self.longest = self.longest.max(length);
            heard.push(String::from_utf8(packet[..length].to_vec()).unwrap());
        }
        let lines = heard.join("\n");
        for line in lines.lines() {
            let (name, rest) = line.split_once(':').unwrap();
            let (value, kind) = rest.split_once('|').unwrap();
            let (kind, tags) = kind.split_once("|#").unwrap_or((kind, ""));
            let name = format!("{name}{tags}");
            match kind {
                "c" => *self.counters.entry(name).or_default() += value.parse::<u64>().unwrap(),
                "g" => drop(self.gauges.insert(name, value.parse().unwrap())),
                other => panic!("{other}"),
            }
        }
        lines
    }
}

/// Counters, gauges and latencies of services.
#[derive(Clone, Default)]
struct Numbers(Vec<(&'static str, u64, u64, Latencies)>);

impl Numbers {
    fn of(calls: &[(&'static str, u64)]) -> Self {
        let each = calls.iter().map(|(service, count)| {
            let mut latencies = Latencies::default();
            latencies.buckets[Latencies::bucket(80)] = *count;
            latencies.micros = 80 * count;
            (*service, *count, count / 2, latencies)
        });
        Self(each.collect())
    }

    fn walk(&self) -> impl FnOnce(&mut dyn MetricSink) {
        |sink| {
            sink.family(&CALLS);
            for (service, calls, ..) in &self.0 {
                sink.series(&[service], MetricValue::Count(*calls));
            }
            sink.family(&OPEN);
            for (service, _, open, _) in &self.0 {
                sink.series(&[service], MetricValue::Count(*open));
            }
            sink.family(&TIMES);
            for (service, .., times) in &self.0 {
                sink.series(&[service], MetricValue::Latencies(times));
            }
        }
    }
}

fn round(
    sent: &mut Sent,
    link: &mut Link,
    format: StatsdFormat,
    numbers: &Numbers,
) -> io::Result<()> {
    sent.send(&settings(format), link, &Packets::default(), numbers.walk())
}

#[test]
fn names_hold_labels_and_packets_hold_lines() {
    let mut server = Server::start();
    let (mut link, mut sent) = (server.link(), Sent::default());
    let numbers = Numbers::of(&[("com.acme.Pay", 4), ("(none)", 2), ("", 1)]);
    round(&mut sent, &mut link, StatsdFormat::Plain, &numbers).unwrap();
    let lines = server.hear();
    for line in [
        "mesh.a.calls_total.com_acme_Pay:4|c",
        "mesh.a.calls_total._none_:2|c",
        "mesh.a.calls_total._:1|c",
        "mesh.a.open.com_acme_Pay:2|g",
        "mesh.a.open._:0|g",
        "mesh.a.time.com_acme_Pay.count:4|c",
        "mesh.a.time.com_acme_Pay.sum_us:320|c",
        // Halfway between 50 us and 100 us.
        "mesh.a.time.com_acme_Pay.p50_ms:0.075|g",
    ] {
        assert!(lines.lines().any(|own| own == line), "{line} in\n{lines}");
    }
    assert!(server.longest <= 100, "{}", server.longest);
    assert!(lines.len() > 400, "all of it fits into few packets");
}

#[test]
fn tags_hold_labels_that_cannot_break_a_line() {
    let mut server = Server::start();
    let (mut link, mut sent) = (server.link(), Sent::default());
    let numbers = Numbers::of(&[("a|c\nforged:1|c,x:y#z@1", 4), ("", 1)]);
    round(&mut sent, &mut link, StatsdFormat::Dogstatsd, &numbers).unwrap();
    let lines = server.hear();
    let own = "mesh.a.calls_total:4|c|#service:a_c_forged:1_c_x:y_z_1,env:test";
    assert!(lines.lines().any(|line| line == own), "{lines}");
    // Agents know no empty values.
    let other = "mesh.a.calls_total:1|c|#env:test";
    assert!(lines.lines().any(|line| line == other), "{lines}");
}

#[test]
fn counters_are_told_by_how_much_they_grew() {
    let mut server = Server::start();
    let (mut link, mut sent) = (server.link(), Sent::default());
    let mut tell = |numbers: &[(&'static str, u64)]| {
        round(
            &mut sent,
            &mut link,
            StatsdFormat::Plain,
            &Numbers::of(numbers),
        )
        .unwrap();
        server.hear();
        server.counters.get("mesh.a.calls_total.s").copied()
    };
    assert_eq!(tell(&[("s", 0)]), None);
    assert_eq!(tell(&[("s", 5)]), Some(5));
    assert_eq!(tell(&[("s", 5)]), Some(5));
    assert_eq!(tell(&[("s", 12)]), Some(12));
    // One that began anew counts from there.
    assert_eq!(tell(&[("s", 3)]), Some(15));
    // One that was gone did, too, however far it is when it is seen again.
    assert_eq!(tell(&[]), Some(15));
    assert_eq!(tell(&[("s", 9)]), Some(24));
}

#[test]
fn what_is_gone_is_shown_as_nothing_once() {
    let mut server = Server::start();
    let (mut link, mut sent) = (server.link(), Sent::default());
    round(
        &mut sent,
        &mut link,
        StatsdFormat::Plain,
        &Numbers::of(&[("s", 8)]),
    )
    .unwrap();
    server.hear();
    assert_eq!(server.gauges["mesh.a.open.s"], 4.0);
    assert_eq!(server.gauges["mesh.a.time.s.p99_ms"], 0.0995);
    // Idle: the gauge stays, the quantiles are those of nothing.
    round(
        &mut sent,
        &mut link,
        StatsdFormat::Plain,
        &Numbers::of(&[("s", 8)]),
    )
    .unwrap();
    server.hear();
    assert_eq!(server.gauges["mesh.a.open.s"], 4.0);
    assert_eq!(server.gauges["mesh.a.time.s.p99_ms"], 0.0);
    round(
        &mut sent,
        &mut link,
        StatsdFormat::Plain,
        &Numbers::default(),
    )
    .unwrap();
    server.hear();
    assert_eq!(server.gauges["mesh.a.open.s"], 0.0);
    round(
        &mut sent,
        &mut link,
        StatsdFormat::Plain,
        &Numbers::default(),
    )
    .unwrap();
    assert_eq!(server.hear(), "");
}

#[test]
fn what_was_skipped_is_not_told() {
    let mut server = Server::start();
    let (mut link, mut sent) = (server.link(), Sent::default());
    sent.skip(Numbers::of(&[("s", 1000)]).walk());
    round(
        &mut sent,
        &mut link,
        StatsdFormat::Plain,
        &Numbers::of(&[("s", 1001)]),
    )
    .unwrap();
    server.hear();
    assert_eq!(server.counters["mesh.a.calls_total.s"], 1);
    assert_eq!(server.counters["mesh.a.time.s.count"], 1);
    assert_eq!(server.counters["mesh.a.time.s.sum_us"], 80);
}

#[test]
fn what_a_dead_server_did_not_hear_is_told_to_the_next() {
    const SERVICES: [&str; 20] = [
        "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13",
        "s14", "s15", "s16", "s17", "s18", "s19",
    ];
    let numbers = |count: u64| Numbers::of(&SERVICES.map(|service| (service, count)));
    let mut server = Server::start();
    let address = server.socket.local_addr().unwrap().to_string();
    let mut sent = Sent::default();
    round(
        &mut sent,
        &mut server.link(),
        StatsdFormat::Plain,
        &numbers(10),
    )
    .unwrap();
    server.hear();
    let (mut counters, _) = (server.counters.clone(), drop(server.socket));
    // Dead: every round fails at its first packet, which the host refuses.
    for count in [11, 25] {
        let mut link = Link::udp(address.parse().unwrap()).unwrap();
        let told = round(&mut sent, &mut link, StatsdFormat::Plain, &numbers(count));
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    let mut server = Server::at(&address);
    round(
        &mut sent,
        &mut server.link(),
        StatsdFormat::Plain,
        &numbers(40),
    )
    .unwrap();
    server.hear();
    for (name, count) in &server.counters {
        *counters.entry(name.clone()).or_default() += count;
    }
    for service in SERVICES {
        assert_eq!(counters[&format!("mesh.a.calls_total.{service}")], 40);
        assert_eq!(counters[&format!("mesh.a.time.{service}.count")], 40);
        assert_eq!(counters[&format!("mesh.a.time.{service}.sum_us")], 3200);
    }
}

#[test]
fn a_server_that_does_not_read_costs_a_moment_and_nothing_is_told_twice() {
    let folder = std::env::temp_dir().join(format!("finback-statsd-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s.sock");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut link = Link::unix(&path).unwrap();
    let packets = Packets::default();
    let mut sent = Sent::default();
    let mut heard = 0;
    let mut failures = 0;
    for count in 1..60 {
        let numbers = Numbers::of(&[("s", count)]);
        let told = sent.send(
            &settings(StatsdFormat::Plain),
            &mut link,
            &packets,
            numbers.walk(),
        );
        failures += u64::from(told.is_err());
        // It reads now and then.
        if count % 20 == 19 {
            heard += hear(&socket);
        }
    }
    heard += hear(&socket);
    let last = Numbers::of(&[("s", 60)]);
    sent.send(
        &settings(StatsdFormat::Plain),
        &mut link,
        &packets,
        last.walk(),
    )
    .unwrap();
    heard += hear(&socket);
    assert_eq!(heard, 60);
    assert!(failures > 0, "its queue was never full");
    assert_eq!(packets.failed.load(Relaxed), failures);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The sum of what was heard of one counter.
fn hear(socket: &UnixDatagram) -> u64 {
    let mut packet = [0; 65_536];
    let mut sum = 0;
    while let Ok(length) = socket.recv(&mut packet) {
        let text = String::from_utf8_lossy(&packet[..length]).into_owned();
        let own = text.lines().filter_map(|line| {
            line.strip_prefix("mesh.a.calls_total.s:")?
                .strip_suffix("|c")
        });
        sum += own.map(|count| count.parse::<u64>().unwrap()).sum::<u64>();
    }
    sum
}
