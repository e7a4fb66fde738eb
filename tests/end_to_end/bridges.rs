//! What bridges and registrations write into registries, and what frameworks' own consumers make of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::peer::{Caller, Peer};
use crate::support::world::GREETER;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn zookeeper(servers: &ZooKeeper) -> String {
    format!("{{ zookeeper: \"{}\", session: 4s }}", servers.address)
}

/// A proxy that mirrors Dubbo's or SOFA-RPC's services from one ZooKeeper into another, with its own
/// address.
fn bridging(from: &ZooKeeper, to: &ZooKeeper, layout: &str) -> Finback {
    let listener = free_port();
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ theirs: {}, ours: {} }}
bridges:
  - from: {{ registry: theirs, layout: {layout} }}
    to: {{ registry: ours, layout: {layout} }}
    services: [ "com.acme.*" ]
    address: "{}:{listener}"
listeners: [ {{ name: rpc, address: "0.0.0.0:{listener}", protocol: auto, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: theirs }}, timeout: 20s }} ] }}
"#,
        zookeeper(from),
        zookeeper(to),
        host_address(),
    ))
}

fn eventually_answers(caller: &Caller<'_>, name: &str) {
    eventually("the provider", PATIENCE, || match caller.call("who", "") {
        Ok(found) if found == name => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// The parameters of the entries below a path of ZooKeeper, as they are encoded there.
fn entries(zookeeper: &ZooKeeper, path: &str) -> Vec<String> {
    let tools = Peer::registry();
    let at = [("registry", zookeeper.address.as_str()), ("path", path)];
    let children = tools.ask("children", &at).unwrap();
    let names = children.as_array().unwrap();
    names
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

fn providers() -> String {
    format!("/dubbo/{GREETER}/providers")
}

// === What consumers act on ===

#[test]
fn a_consumer_of_a_bridge_waits_and_retries_as_the_provider_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    for (peer, consumer) in [
        (Peer::dubbo3(), Peer::dubbo3()),
        (Peer::dubbo2(), Peer::dubbo3()),
        (Peer::dubbo3(), Peer::dubbo2()),
    ] {
        let port = free_port().to_string();
        peer.export(&[
            ("registry", &theirs.address),
            ("serialization", "hessian2"),
            ("port", &port),
            ("name", "slow"),
            ("?timeout", "5000"),
            ("?retries", "0"),
            ("?payload", "20000000"),
        ]);
        let finback = bridging(&theirs, &ours, "dubbo");
        let caller = consumer.caller(&[("registry", &ours.address)]);
        eventually_answers(&caller, "slow");
        // Without a word from the provider: a second, three times.
        let bare = caller.with("bare", "true");
        assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
        assert_eq!(bare.call("noted", "").unwrap(), "naps: 1");
        let found = entries(&ours, &providers());
        assert_eq!(found.len(), 1);
        for wanted in ["timeout%3D5000", "retries%3D0", "payload%3D20000000"] {
            assert!(found[0].contains(wanted), "{wanted}: {found:?}");
        }
        for other in ["pid%3D", "bind.", "timestamp%3D1"] {
            assert!(!found[0].contains(other), "{other}: {found:?}");
        }
        peer.ask("unexport", &[("name", "slow")]).unwrap();
        drop(finback);
    }
}

#[test]
fn a_consumer_of_a_bridge_waits_as_a_provider_at_the_application_level_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::dubbo3();
    provider.export(&[
        ("registry", &theirs.address),
        ("mode", "instance"),
        ("application", "acme-instances"),
        ("metadata-type", "remote"),
        ("port", &free_port().to_string()),
        ("name", "instance"),
        ("?timeout", "5000"),
        ("?retries", "0"),
    ]);
    let _finback = bridging(&theirs, &ours, "dubbo");
    let consumer = Peer::dubbo3();
    let caller = consumer.caller(&[("registry", &ours.address)]);
    eventually_answers(&caller, "instance");
    let bare = caller.with("bare", "true");
    assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
    assert_eq!(bare.call("noted", "").unwrap(), "naps: 1");
}

#[test]
fn a_consumer_of_a_bridge_reaches_a_provider_under_its_own_path() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::dubbo3();
    provider.export(&[
        ("registry", &theirs.address),
        ("serialization", "hessian2"),
        ("port", &free_port().to_string()),
        ("name", "elsewhere"),
        ("path", "shop/greeter"),
    ]);
    let _finback = bridging(&theirs, &ours, "dubbo");
    let consumer = Peer::dubbo3();
    eventually_answers(
        &consumer.caller(&[("registry", &ours.address)]),
        "elsewhere",
    );
}

#[test]
fn a_sofa_consumer_of_a_bridge_waits_as_the_provider_says() {
    let (theirs, ours) = (ZooKeeper::start(), ZooKeeper::start());
    let provider = Peer::sofa();
    provider.export(&[
        ("registry", &theirs.address),
        ("host", &host_address().to_string()),
        ("port", &free_port().to_string()),
        ("name", "slow"),
        ("timeout", "9000"),
        ("weight", "70"),
    ]);
    let _finback = bridging(&theirs, &ours, "sofa");
    let consumer = Peer::sofa();
    let caller = consumer.caller(&[("registry", ours.address.as_str())]);
    eventually_answers(&caller, "slow");
    // Without a word from the provider: three seconds.
    let slept = caller.with("bare", "true").call("sleep", "4000");
    assert_eq!(slept.unwrap(), json!("slept 4000"));
    let folder = format!("/sofa-rpc/{GREETER}/providers");
    let (original, ours) = (entries(&theirs, &folder), entries(&ours, &folder));
    assert_eq!((original.len(), ours.len()), (1, 1));
    let parameters = |name: &str| {
        let query = name.split("%3F").nth(1).unwrap().to_owned();
        let own = |pair: &&str| {
            let mine = ["pid", "finback.origin"];
            !mine
                .iter()
                .any(|name| pair.starts_with(&format!("{name}%3D")))
        };
        let mut pairs: Vec<String> = query.split("%26").filter(own).map(str::to_owned).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(parameters(&ours[0]), parameters(&original[0]));
}

#[test]
fn a_registered_service_says_what_its_configuration_says() {
    let zookeeper_ = ZooKeeper::start();
    let (port, listener) = (free_port(), free_port());
    let host = host_address();
    let provider = Peer::dubbo3();
    provider.export(&[
        ("serialization", "hessian2"),
        ("port", &port.to_string()),
        ("name", "local"),
    ]);
    let config = |register: &str| {
        format!(
            r#"
workers: 1
registries: {{ zk: {} }}
register: [ {register} ]
listeners: [ {{ name: rpc, address: "0.0.0.0:{listener}", protocol: dubbo, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: local }}, timeout: 20s }} ] }}
clusters: {{ local: {{ endpoints: [ "{host}:{port}" ] }} }}
"#,
            zookeeper(&zookeeper_)
        )
    };
    let of = |layout: &str, service: &str, more: &str| {
        format!(
            "{{ registry: zk, layout: {layout}, service: {service}, address: \"{host}:{listener}\", {more} }}"
        )
    };
    let parameters = "parameters: { timeout: 5000, retries: 0 }";
    let finback = Finback::start(&config(&of("dubbo", GREETER, parameters)));
    let consumer = Peer::dubbo3();
    let caller = consumer.caller(&[("registry", &zookeeper_.address)]);
    eventually_answers(&caller, "local");
    let bare = caller.with("bare", "true");
    assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
    assert_eq!(bare.call("noted", "").unwrap(), "naps: 1");

    // At the application level, with another service of the same application.
    let application = format!("application: shop, {parameters}");
    let pay = of("dubbo-app", "com.acme.Pay", &application);
    let both = format!("{pay}, {}", of("dubbo-app", GREETER, &application));
    finback.reload(&config(&both));
    let tools = Peer::registry();
    let at = |path: &str| {
        let at = [("registry", zookeeper_.address.as_str()), ("path", path)];
        tools.ask("get", &at)
    };
    let instance = format!("/services/shop/{host}:{listener}");
    eventually("the instance", PATIENCE, || {
        at(&instance).map_err(|why| why.text)
    });
    let newer = Peer::dubbo3();
    let caller = newer.caller(&[
        ("registry", &zookeeper_.address),
        ("registry-type", "service"),
    ]);
    eventually_answers(&caller, "local");
    let bare = caller.with("bare", "true");
    assert_eq!(bare.call("sleep", "1500").unwrap(), "slept 1500");
    assert_eq!(bare.call("noted", "").unwrap(), "naps: 2");
    assert_eq!(at(&format!("/dubbo/mapping/{GREETER}")).unwrap(), "shop");
    assert_eq!(at("/dubbo/mapping/com.acme.Pay").unwrap(), "shop");
    assert_eq!(entries(&zookeeper_, &providers()), [""; 0]);
    finback.process().signal("TERM");
    assert!(finback.process().wait_for_end(PATIENCE).success());
    assert!(at(&instance).is_err());
}

// === Who holds an entry ===

/// Looks every few milliseconds whether something is there, while a test does things to it.
struct Gaps {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Vec<Duration>>,
}

impl Gaps {
    fn watch(mut is_there: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let watching = thread::spawn(move || {
            let mut gaps = Vec::new();
            let mut gone: Option<Gap> = None;
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let there = is_there();
                let took = begun.elapsed();
                if let Some(gap) = &mut gone {
                    gap.longest = gap.longest.max(took);
                }
                match (there, &gone) {
                    (false, None) => gone = Some(Gap::new()),
                    (true, Some(_)) => gaps.extend(gone.take().map(Gap::length)),
                    _ => {}
                }
                thread::sleep(Duration::from_millis(4));
            }
            gaps.extend(gone.map(Gap::length));
            gaps
        });
        Self { stop, watching }
    }

    /// How long it was not there in all that time.
    fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().unwrap()
    }
}

/// A time in which something is not there.
struct Gap {
    since: Instant,
    /// The longest look at it meanwhile.
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    /// How long it was. A server that stalls serves those who would make it again no sooner than us,
    /// so one look is left out, the longest.
    fn length(self) -> Duration {
        self.since.elapsed().saturating_sub(self.longest)
    }
}

/// Whether etcd has keys below a path, asked over one connection.
fn etcd_has(address: String, prefix: &str) -> impl FnMut() -> bool + Send + use<> {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut end = prefix.to_owned();
    end.pop();
    end.push('0');
    let body = format!(
        "{{\"key\":\"{}\",\"range_end\":\"{}\",\"count_only\":true}}",
        encode(prefix),
        encode(&end)
    );
    let mut stream = None;
    move || {
        let stream = stream.get_or_insert_with(|| TcpStream::connect(&address).unwrap());
        let request = format!(
            "POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.contains("\"count\"")
    }
}

/// Whether ZooKeeper has children below a path.
fn zookeeper_has(address: String, path: String) -> impl FnMut() -> bool + Send {
    let tools = Peer::registry();
    move || {
        let at = [("registry", address.as_str()), ("path", &*path)];
        let children = tools.ask("children", &at).unwrap();
        !children.as_array().unwrap().is_empty()
    }
}

/// A proxy that mirrors providers themselves, of services that begin with these.
fn mirroring(zookeeper_: &ZooKeeper, etcd: &Etcd, from: &str, to: &str, services: &str) -> String {
    format!(
        r#"
workers: 1
registries: {{ zk: {}, keys: {{ etcd: "{}" }} }}
bridges:
  - from: {{ registry: {from}, layout: dubbo }}
    to: {{ registry: {to}, layout: dubbo }}
    services: [ {services} ]
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk }} }} ] }}
"#,
        zookeeper(zookeeper_),
        etcd.address,
    )
}

/// What becomes of an entry while its holders come and go; the gaps in which it was missing after
/// SIGTERM, reloads and a restart, and after SIGKILL and SIGSTOP.
fn gaps(
    config: &dyn Fn(&str) -> String,
    is_there: &dyn Fn() -> Gaps,
    lease: Duration,
) -> [Vec<Duration>; 5] {
    let plain = config("\"com.acme.*\"");
    let more = config("\"com.acme.*\", \"org.acme.*\"");
    let one = Finback::start(&plain);
    let there = is_there();
    thread::sleep(Duration::from_secs(3));
    let mut two = Finback::start(&plain);
    thread::sleep(Duration::from_secs(2));
    there.end();
    // The holder is stopped in order, and what it left has run out.
    let there = is_there();
    one.process().signal("TERM");
    assert!(one.process().wait_for_end(PATIENCE).success());
    thread::sleep(lease);
    let terminated = there.end();
    // Both take up a further pattern.
    let three = Finback::start(&plain);
    thread::sleep(Duration::from_secs(2));
    let there = is_there();
    two.reload(&more);
    three.reload(&more);
    thread::sleep(Duration::from_secs(4));
    let reloaded = there.end();
    // The holder hangs for longer than its lease.
    let there = is_there();
    two.process().signal("STOP");
    thread::sleep(lease);
    two.process().signal("CONT");
    thread::sleep(Duration::from_secs(3));
    let stopped = there.end();
    // Killed without a word, one of them the holder.
    let there = is_there();
    for round in 0..2 {
        let next = Finback::start(&plain);
        thread::sleep(Duration::from_secs(2));
        let former = std::mem::replace(&mut two, next);
        former.process().signal("KILL");
        println!("round {round}");
        thread::sleep(lease);
    }
    three.process().signal("KILL");
    thread::sleep(lease);
    let killed = there.end();
    // The only one there is restarts.
    let there = is_there();
    two.process().signal("TERM");
    assert!(two.process().wait_for_end(PATIENCE).success());
    let _next = Finback::start(&plain);
    thread::sleep(lease);
    let restarted = there.end();
    [terminated, reloaded, stopped, killed, restarted]
}

#[test]
fn an_entry_in_etcd_stands_whoever_holds_it() {
    let (zookeeper_, etcd) = (ZooKeeper::start(), Etcd::start());
    let tools = Peer::registry();
    let url = format!("dubbo%3A%2F%2F10.0.0.1%3A20880%2F{GREETER}%3Finterface%3D{GREETER}");
    let node = format!("{}/{url}", providers());
    let create = [("registry", &*zookeeper_.address), ("path", &node)];
    tools.ask("create", &create).unwrap();
    let config = |services: &str| mirroring(&zookeeper_, &etcd, "zk", "keys", services);
    let folder = format!("{}/", providers());
    let is_there = || Gaps::watch(etcd_has(etcd.address.clone(), &folder));
    let gaps = gaps(&config, &is_there, Duration::from_secs(18));
    println!("{gaps:?}");
    assert!(gaps.concat().is_empty(), "{gaps:?}");
    assert_eq!(etcd.keys(&folder).len(), 1);
}

#[test]
fn an_entry_in_zookeeper_stands_whoever_holds_it() {
    let (zookeeper_, etcd) = (ZooKeeper::start(), Etcd::start());
    let url = format!("dubbo%3A%2F%2F10.0.0.1%3A20880%2F{GREETER}%3Finterface%3D{GREETER}");
    etcd.put(&format!("{}/{url}", providers()), "");
    let config = |services: &str| mirroring(&zookeeper_, &etcd, "keys", "zk", services);
    let address = &zookeeper_.address;
    let is_there = || Gaps::watch(zookeeper_has(address.clone(), providers()));
    let gaps = gaps(&config, &is_there, Duration::from_secs(6));
    println!("{gaps:?}");
    let [terminated, reloaded, stopped, killed, restarted] = &gaps;
    let in_order = [&terminated[..], reloaded, restarted].concat();
    assert!(in_order.is_empty(), "{gaps:?}");
    // The server takes an entry away with its session, before anybody else can know.
    let most = Duration::from_millis(100);
    assert!(
        stopped.iter().chain(killed).all(|gap| *gap < most),
        "{gaps:?}"
    );
    assert_eq!(entries(&zookeeper_, &providers()).len(), 1);
}

#[test]
fn a_changed_registration_is_never_missing() {
    let (zookeeper_, etcd) = (ZooKeeper::start(), Etcd::start());
    let tools = Peer::registry();
    let config = |weight: u32| {
        let of = |registry: &str, layout: &str| {
            format!(
                "{{ registry: {registry}, layout: {layout}, service: com.acme.Pay, address: \"10.0.0.5:1\", weight: {weight} }}"
            )
        };
        format!(
            r#"
workers: 1
registries: {{ zk: {}, keys: {{ etcd: "{}" }} }}
register: [ {}, {}, {}, {} ]
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk }} }} ] }}
"#,
            zookeeper(&zookeeper_),
            etcd.address,
            of("zk", "native"),
            of("zk", "dubbo"),
            of("keys", "native"),
            of("keys", "dubbo"),
        )
    };
    let finback = Finback::start(&config(1));
    let native = "/finback/services/com.acme.Pay";
    let dubbo = "/dubbo/com.acme.Pay/providers";
    let address = || zookeeper_.address.clone();
    let weight = |path: &str| {
        let at = [("registry", zookeeper_.address.as_str()), ("path", path)];
        tools.ask("get", &at).unwrap().to_string()
    };
    let in_zookeeper = |path: &str| entries(&zookeeper_, path);
    eventually("all entries", PATIENCE, || {
        let keys = [native, dubbo].map(|path| etcd.keys(&format!("{path}/")).len());
        match (
            keys,
            tools.ask("children", &[("registry", &address()), ("path", dubbo)]),
        ) {
            ([1, 1], Ok(children)) if children.as_array().unwrap().len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let watched = [
        Gaps::watch(zookeeper_has(address(), native.to_owned())),
        Gaps::watch(zookeeper_has(address(), dubbo.to_owned())),
        Gaps::watch(etcd_has(etcd.address.clone(), &format!("{native}/"))),
        Gaps::watch(etcd_has(etcd.address.clone(), &format!("{dubbo}/"))),
    ];
    for wanted in 2..6 {
        finback.reload(&config(wanted));
        thread::sleep(Duration::from_millis(700));
    }
    let gaps = watched.map(Gaps::end);
    assert!(gaps.concat().is_empty(), "{gaps:?}");
    // And the last one is what stands, alone.
    for path in [native, dubbo] {
        let found = in_zookeeper(path);
        let keys = etcd.keys(&format!("{path}/"));
        assert_eq!((found.len(), keys.len()), (1, 1), "{found:?} {keys:?}");
        if path == dubbo {
            assert!(found[0].contains("weight%3D5"), "{found:?}");
            assert!(keys[0].contains("weight%3D5"), "{keys:?}");
        } else {
            let text = weight(&format!("{path}/{}", found[0]));
            assert!(text.contains("\\\"weight\\\":5"), "{text}");
        }
    }
}
