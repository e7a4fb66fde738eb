//! All services of a registry followed as one: what a change costs, counted in requests, and that it
//! is seen all the same where the servers cannot tell of all at once.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cable::Cable;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::zookeeper::ZooKeeper;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Changes made one by one.
const CHANGES: usize = 10;

/// Codes of ZooKeeper's requests.
const PING: i32 = 11;
const ADD_WATCH: i32 = 106;

/// Between a proxy and a ZooKeeper: counts requests, and can make the server an older one.
struct Meter {
    address: String,
    requests: Arc<Mutex<Vec<i32>>>,
    is_old: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Meter {
    fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            address: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
            is_old: Arc::default(),
            connections: Arc::default(),
        };
        let (requests, is_old) = (own.requests.clone(), own.is_old.clone());
        let (connections, server) = (own.connections.clone(), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                connections.fetch_add(1, Ordering::Relaxed);
                let (requests, is_old) = (requests.clone(), is_old.clone());
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    carry(back.0, back.1, |_, _| {});
                });
                thread::spawn(move || {
                    carry(client, server, |number, request| {
                        // The first is no request.
                        let Some(code) = request.get_mut(4..8).filter(|_| number > 0) else {
                            return;
                        };
                        let own = i32::from_be_bytes(code.try_into().unwrap());
                        if own != PING {
                            requests.lock().unwrap().push(own);
                        }
                        if own == ADD_WATCH && is_old.load(Ordering::Relaxed) {
                            // What no server knows is answered as a server before 3.6 does.
                            code.copy_from_slice(&1006_i32.to_be_bytes());
                        }
                    });
                });
            }
        });
        own
    }

    /// Codes of the requests since the last time.
    fn take(&self) -> Vec<i32> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// Carries messages, each after its length, until one end closes.
fn carry(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(usize, &mut [u8])) {
    let mut length = [0; 4];
    for number in 0.. {
        if from.read_exact(&mut length).is_err() {
            break;
        }
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        if from.read_exact(&mut message).is_err() {
            break;
        }
        look(number, &mut message);
        if to.write_all(&[&length[..], &message].concat()).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // One end is enough to end both.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A proxy that follows all services of Dubbo, and routes to one of them.
fn finback(zookeeper: &str) -> Finback {
    following(&format!("zookeeper: \"{zookeeper}\", session: 20s"))
}

fn following(registry: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {{ {registry}, eager: [ {{ layout: dubbo }} ] }} }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: followed }} }} ] }}
clusters: {{ followed: {{ discover: {{ registry: r, layout: dubbo, service: "a.B" }} }} }}
"#
    ))
}

/// What stands in a ZooKeeper.
struct Providers<'a> {
    tools: Peer,
    zookeeper: &'a ZooKeeper,
}

impl Providers<'_> {
    fn ask(&self, operation: &str, port: usize) {
        let path = format!("/dubbo/a.B/providers/dubbo%3A%2F%2F127.0.0.1%3A{port}%2Fa.B");
        let fields = [
            ("registry", self.zookeeper.address.as_str()),
            ("path", &path),
        ];
        self.tools.ask(operation, &fields).unwrap();
    }
}

fn eventually_following(finback: &Finback, ports: &[usize]) {
    let address = |port: &usize| format!("127.0.0.1:{port}");
    let wanted: BTreeSet<String> = ports.iter().map(address).collect();
    eventually("the endpoints", PATIENCE, || {
        let found = endpoints(finback);
        match found {
            Some(found) if found == wanted => Ok(()),
            found => Err(format!("{found:?}\n{}", finback.process().tail())),
        }
    });
}

fn endpoints(finback: &Finback) -> Option<BTreeSet<String>> {
    let cluster = finback.cluster("followed")?;
    let list = cluster["endpoints"].as_array().unwrap();
    let address = |each: &Value| each["address"].as_str().unwrap().to_owned();
    (cluster["ready"] == json!(true)).then(|| list.iter().map(address).collect())
}

/// Adds a provider and takes it away, so often; each change is waited for.
fn change(finback: &Finback, providers: &Providers<'_>) {
    for _ in 0..CHANGES / 2 {
        providers.ask("create", 8);
        eventually_following(finback, &[7, 8]);
        providers.ask("delete", 8);
        eventually_following(finback, &[7]);
    }
}

#[test]
fn a_change_costs_no_request_of_zookeeper_before_and_after_a_cut() {
    let zookeeper = ZooKeeper::start();
    let providers = Providers {
        tools: Peer::registry(),
        zookeeper: &zookeeper,
    };
    providers.ask("create", 7);
    let cable = Cable::to(&zookeeper.address);
    let meter = Meter::to(&cable.address);
    let finback = finback(&meter.address);
    eventually_following(&finback, &[7]);
    // A list that was being read while it changed is read again.
    thread::sleep(Duration::from_millis(500));
    meter.take();
    change(&finback, &providers);
    assert_eq!(meter.take(), [0_i32; 0]);
    // What changes meanwhile is read when the connection stands again, in the same session.
    cable.cut();
    providers.ask("create", 9);
    providers.ask("delete", 7);
    cable.heal();
    eventually_following(&finback, &[9]);
    providers.ask("create", 7);
    providers.ask("delete", 9);
    eventually_following(&finback, &[7]);
    let again = meter.take();
    let watches = again.iter().filter(|code| **code == ADD_WATCH).count();
    assert_eq!(watches, 1, "{again:?}");
    assert!(meter.connections.load(Ordering::Relaxed) >= 2);
    thread::sleep(Duration::from_millis(500));
    meter.take();
    change(&finback, &providers);
    assert_eq!(meter.take(), [0_i32; 0]);
}

#[test]
fn a_zookeeper_that_knows_no_watch_for_all_is_followed_place_by_place() {
    let zookeeper = ZooKeeper::start();
    let providers = Providers {
        tools: Peer::registry(),
        zookeeper: &zookeeper,
    };
    providers.ask("create", 7);
    let meter = Meter::to(&zookeeper.address);
    meter.is_old.store(true, Ordering::Relaxed);
    let finback = finback(&meter.address);
    eventually_following(&finback, &[7]);
    thread::sleep(Duration::from_millis(500));
    assert!(meter.take().contains(&ADD_WATCH));
    change(&finback, &providers);
    // Each change has the list read again, with a watch.
    let requests = meter.take();
    assert_eq!(requests.len(), CHANGES, "{requests:?}");
}

/// Between a proxy and a server: counts the bytes of the proxy, and answers nothing itself.
fn counting(server: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sent, server) = (Arc::<AtomicUsize>::default(), server.to_owned());
    let counted = sent.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&server) else {
                continue;
            };
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass(back.0, back.1, &AtomicUsize::default()));
            let counted = counted.clone();
            thread::spawn(move || pass(client, server, &counted));
        }
    });
    (address, sent)
}

/// Passes bytes on until one end closes.
fn pass(mut from: TcpStream, mut to: TcpStream, passed: &AtomicUsize) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        passed.fetch_add(read, Ordering::SeqCst);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // One end is enough to end both.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// One request of etcd has at least so many bytes: its head, and the key that is asked for.
const REQUEST: usize = 60;

#[test]
fn a_change_costs_no_request_of_etcd_and_a_service_that_comes_costs_none_either() {
    let etcd = Etcd::start();
    let key = |service: &str, port: usize| {
        format!("/dubbo/{service}/providers/dubbo%3A%2F%2F127.0.0.1%3A{port}%2F{service}")
    };
    etcd.put(&key("a.B", 7), "");
    let (address, sent) = counting(&etcd.address);
    let finback = following(&format!("etcd: \"{address}\""));
    eventually_following(&finback, &[7]);
    let services = |count: usize| {
        eventually("services", PATIENCE, || {
            let (_, body) = finback.admin("/registries");
            let all: Value = serde_json::from_str(&body).unwrap();
            match &all[0]["services"] {
                found if *found == json!(count) => Ok(()),
                found => Err(found.to_string()),
            }
        });
    };
    services(1);
    let before = sent.load(Ordering::SeqCst);
    for number in 0..CHANGES / 2 {
        etcd.put(&key("a.B", 8), "");
        eventually_following(&finback, &[7, 8]);
        etcd.put(&key(&format!("a.C{number}"), 8), "");
        services(2 + number);
        etcd.delete(&key("a.B", 8));
        eventually_following(&finback, &[7]);
    }
    // What keeps the connection alive, and makes room for what comes, is far less than a request each.
    let bytes = sent.load(Ordering::SeqCst) - before;
    assert!(bytes < CHANGES * REQUEST, "{bytes} bytes");
}
