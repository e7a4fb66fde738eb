//! Names are a caller's to choose: they are bounded in length, number and life.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::host_address;
use crate::support::rpc::{Answer, Call, Client, PATIENCE, SPEECHES};
use crate::support::zookeeper::ZooKeeper;

const MIB: usize = 1024 * 1024;
const KNOWN: &str = "com.acme.Pay";
/// Known to the registry, and called by nobody before the flood.
const LATER: &str = "com.acme.Stock";
const INVENTED: usize = 20_000;

/// Where a call can carry a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Service,
    Interface,
    Method,
    Version,
    Group,
}

impl Part {
    fn of(speech: Speech) -> &'static [Self] {
        match speech {
            Speech::Dubbo => &[
                Self::Service,
                Self::Interface,
                Self::Method,
                Self::Version,
                Self::Group,
            ],
            _ => &[Self::Service, Self::Method, Self::Version, Self::Group],
        }
    }

    /// A call in which this part is as long as this.
    fn stretched(self, speech: Speech, length: usize, nth: usize) -> Call {
        let mut call = named(speech, KNOWN);
        let name = format!("n{nth:06}{}", "x".repeat(length - 7));
        match self {
            Self::Service => call.service = name,
            Self::Interface => call.interface = name,
            Self::Method => call.method = name,
            Self::Version => call.version = name,
            Self::Group => call.group = name,
        }
        call
    }
}

/// A proxy with a cluster for each protocol's known service, in front of these tables.
fn proxy(tables: &str, endpoints: &[Endpoint; 2]) -> Finback {
    let [bolt, dubbo] = endpoints.each_ref().map(|own| own.address);
    Finback::start(&format!(
        r#"
workers: 1
registries:
  fixed:
    memory:
      - {{ service: {KNOWN}, endpoints: [ "{bolt}" ] }}
      - {{ service: {LATER}, endpoints: [ "{bolt}" ] }}
      - {{ service: {KNOWN}.dubbo, endpoints: [ "{dubbo}" ] }}
      - {{ service: {LATER}.dubbo, endpoints: [ "{dubbo}" ] }}
snapshots: {{ folder: state }}
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: all }}
  - {{ name: dubbo, address: "127.0.0.1:0", protocol: dubbo, routes: all }}
routes: {{ all: [ {tables} ] }}
clusters:
  bolt: {{ endpoints: [ "{bolt}" ] }}
  dubbo: {{ endpoints: [ "{dubbo}" ] }}
"#
    ))
}

/// Any name leads to the endpoints.
const ANY: &str =
    "{ match: { protocol: bolt }, to: { cluster: bolt } }, { to: { cluster: dubbo } }";

/// No name leads anywhere.
const NOBODY: &str = "{ match: { service: nobody }, to: { cluster: bolt } }";
/// The registry knows where names lead.
const REGISTRY: &str = "{ to: { registry: fixed } }";

fn answering() -> [Endpoint; 2] {
    SPEECHES.map(|speech| Endpoint::start(speech, Deed::Answer))
}

/// A name as this protocol's callers say it.
fn named(speech: Speech, service: &str) -> Call {
    match speech {
        Speech::Dubbo => Call::new(&format!("{service}.dubbo"), "pay"),
        _ => Call::new(service, "pay"),
    }
}

fn assert_refused(speech: Speech, what: &str, answer: &Answer) {
    assert!(!answer.success, "{speech:?} {what}: {answer:?}");
    if speech == Speech::Dubbo {
        assert_eq!(answer.status, 40, "{what}: not a bad request: {answer:?}");
    }
    // The name itself is not sent back.
    assert!(answer.len < 8192, "{speech:?} {what}: {} bytes", answer.len);
}

#[test]
fn names_that_are_too_long_are_refused_natively_and_their_connection_goes_on() {
    let endpoints = answering();
    let finback = proxy(ANY, &endpoints);
    for speech in SPEECHES {
        let mut client = Client::connect(&finback.local(speech.name()), speech);
        for part in Part::of(speech) {
            assert!(
                client.call(&part.stretched(speech, 200, 0)).success,
                "{part:?}"
            );
            for length in [1025, 40_000, MIB, 7 * MIB] {
                let answer = client.call(&part.stretched(speech, length, 0));
                assert_refused(speech, &format!("{part:?} of {length}"), &answer);
                assert!(client.call(&Call::new(KNOWN, "pay")).success, "{part:?}");
            }
        }
    }
    let seen: u64 = endpoints.iter().map(Endpoint::calls).sum();
    assert_eq!(seen, 4 * 5 + 5 * 5, "an endpoint saw such a name");
}

#[test]
fn long_names_leave_nothing_in_memory_nor_on_the_metrics_page() {
    for tables in [NOBODY, REGISTRY, ANY] {
        for speech in SPEECHES {
            let count = if tables == REGISTRY { 60 } else { 20 };
            grow_little(tables, speech, Part::Service, count);
        }
    }
    for speech in SPEECHES {
        for part in &Part::of(speech)[1..] {
            grow_little(REGISTRY, speech, *part, 20);
        }
    }
}

/// Calls so many times with other names of 7 MiB.
fn grow_little(tables: &str, speech: Speech, part: Part, count: usize) {
    let endpoints = answering();
    let finback = proxy(tables, &endpoints);
    let mut client = Client::connect(&finback.local(speech.name()), speech);
    // A frame as long, so that buffers have grown.
    client.call(&Call::new("nobody.at.all", "pay").with_argument(7 * MIB));
    let before = finback.process().rss();
    for nth in 0..count {
        client.call(&part.stretched(speech, 7 * MIB, nth));
    }
    small_page(&finback);
    let grown = finback.process().rss().saturating_sub(before) / 1024;
    println!("{tables} {speech:?} {part:?}: {grown} MiB more");
    assert!(grown < 64, "{tables} {speech:?} {part:?}: {grown} MiB more");
}

/// Calls services that do not exist, each once; all are answered.
fn invent(finback: &Finback, speech: Speech, count: usize) {
    let mut client = Client::connect(&finback.local(speech.name()), speech);
    // A flood that the proxy can keep pace with, as an attacker would choose.
    for burst in 0..count / 500 {
        client.send_each((0..500).map(|nth| {
            let name = format!("com.invented.{}.S{burst}x{nth}", speech.name());
            Call::new(&name, "pay").within(2000)
        }));
        client.answers(500);
    }
}

/// The metrics, which are few and come at once.
fn small_page(finback: &Finback) -> String {
    let began = Instant::now();
    let (status, page) = finback.admin("/metrics");
    assert_eq!(status, 200);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "a scrape took {took:?}");
    assert!(page.len() < 2 * MIB, "{} bytes of metrics", page.len());
    page
}

/// What holds after such a flood; `known` says that something knows the service that is called.
fn unharmed(finback: &Finback, speech: Speech, call: &Call, known: bool) {
    let mut client = Client::connect(&finback.local(speech.name()), speech);
    let answer = client.call(call);
    assert!(answer.success, "{speech:?}: a known service: {answer:?}");
    let page = small_page(finback);
    let own = format!("service=\"{}\"", call.service);
    assert!(
        page.contains(&own) || !known,
        "{} has no series of its own",
        call.service
    );
    let state = finback.folder().join("state");
    let invented = std::fs::read_dir(state).map_or(0, |files| {
        files
            .filter(|file| {
                let path = file.as_ref().unwrap().path();
                let text = std::fs::read(&path).unwrap_or_default();
                String::from_utf8_lossy(&text).contains("invented")
                    || path.to_string_lossy().contains("invented")
            })
            .count()
    });
    assert_eq!(invented, 0, "files of services that nobody knows");
}

#[test]
fn invented_names_crowd_out_no_service_that_a_registry_in_the_file_knows() {
    for speech in SPEECHES {
        for tables in [REGISTRY, NOBODY, ANY] {
            let endpoints = answering();
            let finback = proxy(tables, &endpoints);
            let before = finback.process().rss();
            invent(&finback, speech, INVENTED);
            small_page(&finback);
            if tables != NOBODY {
                let call = named(speech, LATER);
                unharmed(&finback, speech, &call, tables == REGISTRY);
            }
            let grown = finback.process().rss().saturating_sub(before) / 1024;
            assert!(grown < 64, "{tables} {speech:?}: {grown} MiB more");
        }
    }
}

#[test]
fn invented_names_crowd_out_no_service_that_zookeeper_knows() {
    let zookeeper = ZooKeeper::start();
    // Dubbo's consumers connect to no loopback address, so none is registered.
    let [bolt, dubbo] = SPEECHES.map(|speech| {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        Endpoint::start_at(any, speech, Deed::Answer)
    });
    let register = |layout: &str, service: &str, endpoint: &Endpoint| {
        let address = SocketAddr::new(host_address(), endpoint.address.port());
        format!(
            "  - {{ registry: zk, layout: {layout}, service: {service}, version: \"1.0\", address: \"{address}\" }}\n"
        )
    };
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {{ zookeeper: "{zookeeper}" }} }}
snapshots: {{ folder: state }}
register:
{}{}
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: all }}
  - {{ name: dubbo, address: "127.0.0.1:0", protocol: dubbo, routes: all }}
routes: {{ all: [ {{ to: {{ registry: zk }} }} ] }}
"#,
        register("sofa", LATER, &bolt),
        register("dubbo", &format!("{LATER}.dubbo"), &dubbo),
        zookeeper = zookeeper.address,
    ));
    eventually("the registration", PATIENCE, || {
        match finback.metric("finback_registered", "") {
            2 => Ok(()),
            other => Err(format!("{other} registered")),
        }
    });
    for speech in SPEECHES {
        let (lines, began) = (finback.process().said(), Instant::now());
        invent(&finback, speech, INVENTED);
        unharmed(&finback, speech, &named(speech, LATER), true);
        let said = finback.process().said() - lines;
        // Lines that clients cause come at a bounded rate, and a busy machine takes its time.
        let most = 200 + 10 * began.elapsed().as_secs() as usize;
        assert!(said < most, "{said} lines in the log");
    }
    // What is written behind the calls, and what is not.
    thread::sleep(Duration::from_secs(2));
    for speech in SPEECHES {
        unharmed(&finback, speech, &named(speech, LATER), true);
    }
}

#[test]
fn names_that_zookeeper_cannot_carry_do_not_reach_it() {
    let zookeeper = ZooKeeper::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: all }}
  - {{ name: dubbo, address: "127.0.0.1:0", protocol: dubbo, routes: all }}
routes: {{ all: [ {{ to: {{ registry: zk }} }} ] }}
"#,
        zookeeper.address
    ));
    let connected = || finback.metric("finback_registry_connected", "");
    eventually("the registry", PATIENCE, || match connected() {
        1 => Ok(()),
        _ => Err("not connected".into()),
    });
    for speech in SPEECHES {
        let mut client = Client::connect(&finback.local(speech.name()), speech);
        for part in [Part::Service, Part::Version, Part::Group] {
            for nth in 0..5 {
                let call = part.stretched(speech, MIB + MIB / 10, nth).within(1000);
                assert_refused(speech, &format!("{part:?}"), &client.call(&call));
            }
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        assert_eq!(connected(), 1, "{}", finback.process().tail());
        thread::sleep(Duration::from_millis(100));
    }
}
