//! A failed or half read is no answer: names that do not resolve, permissions that are withdrawn,
//! files that are being written, and registries that are away at the start.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::world::{GREETER, world};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, host_address, temporary_folder};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any name is believed without being asked for again.
const NAMES: Duration = Duration::from_secs(34);

/// A proxy whose cluster `followed` is found so.
fn config(registries: &str, discover: &str) -> String {
    format!(
        r#"
workers: 1
registries: {{ {registries} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: followed }} }} ] }}
clusters: {{ followed: {{ discover: {{ {discover} }} }} }}
"#
    )
}

fn endpoints(finback: &Finback) -> Option<BTreeSet<String>> {
    let cluster = finback.cluster("followed")?;
    let list = cluster["endpoints"].as_array().unwrap();
    let address = |each: &Value| each["address"].as_str().unwrap().to_owned();
    (cluster["ready"] == json!(true)).then(|| list.iter().map(address).collect())
}

fn set(wanted: &[&str]) -> BTreeSet<String> {
    wanted.iter().map(|each| (*each).to_owned()).collect()
}

fn eventually_following(finback: &Finback, within: Duration, wanted: &[&str]) -> Duration {
    let begun = Instant::now();
    eventually("the endpoints", within, || match endpoints(finback) {
        Some(found) if found == set(wanted) => Ok(()),
        found => Err(format!("{found:?}\n{}", finback.process().tail())),
    });
    begun.elapsed()
}

/// The endpoints stay so all the time.
fn following_for(finback: &Finback, time: Duration, wanted: &[&str]) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert_eq!(
            endpoints(finback),
            Some(set(wanted)),
            "{}",
            finback.process().tail()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn eventually_metric(finback: &Finback, name: &str, wanted: u64) {
    eventually(name, Duration::from_secs(70), || {
        match finback.metric(name, "") {
            found if found == wanted => Ok(()),
            found => Err(format!("{found}\n{}", finback.process().tail())),
        }
    });
}

/// A server of HTTP on this address that says yes to everything.
fn says_yes(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn get(finback: &Finback) -> String {
    let mut stream = TcpStream::connect(finback.local("web")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Replaces a hosts file; those who read it see that by its time in seconds.
fn write_hosts(path: &Path, text: &str) {
    thread::sleep(Duration::from_millis(1100));
    std::fs::write(path, text).unwrap();
}

// === Names ===

#[test]
fn providers_keep_the_addresses_of_names_that_do_not_resolve_any_more() {
    let etcd = Etcd::start();
    let hosts = temporary_folder().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 one.test\n127.0.0.2 two.test\n").unwrap();
    for (id, host) in [
        ("1", "one.test:81"),
        ("2", "two.test:82"),
        ("3", "127.0.0.3:83"),
    ] {
        let value = format!("{{\"address\":\"{host}\"}}");
        etcd.put(&format!("/finback/services/pay/{id}"), &value);
    }
    let folder = temporary_folder();
    let config = format!(
        "snapshots: {{ folder: \"{}\" }}\n{}",
        folder.display(),
        config(
            &format!("r: {{ etcd: \"{}\" }}", etcd.address),
            "registry: r, layout: native, service: pay"
        )
    );
    let finback = Finback::start_with_hosts(&hosts, &config);
    let all = ["127.0.0.1:81", "127.0.0.2:82", "127.0.0.3:83"];
    eventually_following(&finback, PATIENCE, &all);
    write_hosts(&hosts, "127.0.0.1 one.test\n");
    following_for(&finback, NAMES, &all);
    eventually_metric(&finback, "finback_registry_names_failing", 1);
    assert!(finback.metric("finback_registry_stale_seconds", "") < 40);
    assert_eq!(finback.metric("finback_registry_connected", ""), 1);
    write_hosts(&hosts, "");
    following_for(&finback, NAMES, &all);
    eventually_metric(&finback, "finback_registry_names_failing", 2);
    assert!(finback.metric("finback_registry_stale_seconds", "") > 20);
    // A change in the registry is taken at once all the same, and so is a start.
    etcd.put("/finback/services/pay/4", "{\"address\":\"127.0.0.4:84\"}");
    let more = [&all[..], &["127.0.0.4:84"]].concat();
    let took = eventually_following(&finback, PATIENCE, &more);
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(finback);
    let finback = Finback::start_with_hosts(&hosts, &config);
    eventually_following(&finback, PATIENCE, &more);
    // A name that resolves otherwise is taken at its word.
    write_hosts(&hosts, "127.0.0.1 one.test\n127.0.0.9 two.test\n");
    let moved = [
        "127.0.0.1:81",
        "127.0.0.9:82",
        "127.0.0.3:83",
        "127.0.0.4:84",
    ];
    eventually_following(&finback, NAMES, &moved);
    eventually_metric(&finback, "finback_registry_names_failing", 0);
}

#[test]
fn both_families_of_a_name_are_used_whichever_serves() {
    let etcd = Etcd::start();
    let hosts = temporary_folder().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 a.test\n").unwrap();
    let four = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = four.local_addr().unwrap().port();
    says_yes(four);
    etcd.put(
        "/finback/services/pay/1",
        &format!("{{\"address\":\"a.test:{port}\"}}"),
    );
    let dns = config(
        "r: { dns: { refresh: 200ms } }",
        &format!("registry: r, service: \"a.test:{port}\""),
    );
    let native = config(
        &format!("r: {{ etcd: \"{}\" }}", etcd.address),
        "registry: r, layout: native, service: pay",
    );
    let own = format!("127.0.0.1:{port}");
    let both = [&*own, &*format!("[::1]:{port}")];
    for config in [dns, native] {
        write_hosts(&hosts, "127.0.0.1 a.test\n");
        let finback = Finback::start_with_hosts(&hosts, &config);
        eventually_following(&finback, PATIENCE, &[&own]);
        assert_eq!(get(&finback), "HTTP/1.1 200 OK");
        // The service moves to a dual stack: nothing listens on IPv6 yet.
        write_hosts(&hosts, "::1 a.test\n127.0.0.1 a.test\n");
        eventually_following(&finback, NAMES, &both);
        for n in 0..40 {
            assert_eq!(get(&finback), "HTTP/1.1 200 OK", "{n}");
        }
    }
    // And the other way round: only IPv6 serves.
    let six = TcpListener::bind("[::1]:0").unwrap();
    let port = six.local_addr().unwrap().port();
    says_yes(six);
    let finback = Finback::start_with_hosts(
        &hosts,
        &config(
            "r: { dns: { refresh: 200ms } }",
            &format!("registry: r, service: \"a.test:{port}\""),
        ),
    );
    eventually_following(
        &finback,
        PATIENCE,
        &[&*format!("127.0.0.1:{port}"), &*format!("[::1]:{port}")],
    );
    for n in 0..40 {
        assert_eq!(get(&finback), "HTTP/1.1 200 OK", "{n}");
    }
}

// === Permissions ===

#[test]
fn a_permission_withdrawn_in_etcd_freezes_what_was_read() {
    let mut etcd = Etcd::start_with_login();
    etcd.control(&["role", "add", "reader"]);
    let allow = [
        "role",
        "grant-permission",
        "--prefix=true",
        "reader",
        "read",
        "/finback/",
    ];
    etcd.control(&allow);
    etcd.control(&["user", "add", "mesh:secret"]);
    etcd.control(&["user", "grant-role", "mesh", "reader"]);
    let key = |id: u16| format!("/finback/services/pay/{id}");
    for id in [1, 2] {
        etcd.put(&key(id), &format!("{{\"address\":\"127.0.0.1:{id}\"}}"));
    }
    let finback = Finback::start(&config(
        &format!(
            "r: {{ etcd: \"{}\", user: mesh, password: secret, empty_protection: 1s }}",
            etcd.address
        ),
        "registry: r, layout: native, service: pay",
    ));
    let two = ["127.0.0.1:1", "127.0.0.1:2"];
    eventually_following(&finback, PATIENCE, &two);
    etcd.control(&[
        "role",
        "revoke-permission",
        "--prefix=true",
        "reader",
        "/finback/",
    ]);
    etcd.kill();
    etcd.restart();
    eventually_metric(&finback, "finback_registry_reads_failing", 1);
    following_for(&finback, Duration::from_secs(5), &two);
    assert_eq!(finback.metric("finback_registry_connected", ""), 0);
    assert!(finback.metric("finback_registry_stale_seconds", "") > 3);
    etcd.control(&allow);
    etcd.put(&key(3), "{\"address\":\"127.0.0.1:3\"}");
    let three = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    eventually_following(&finback, Duration::from_secs(70), &three);
    eventually_metric(&finback, "finback_registry_connected", 1);
    assert_eq!(finback.metric("finback_registry_reads_failing", ""), 0);
}

#[test]
fn a_login_that_is_wrong_after_a_reload_empties_nothing() {
    let zookeeper = ZooKeeper::start();
    let tools = Peer::registry();
    let fields = [
        ("registry", zookeeper.address.as_str()),
        (
            "path",
            "/dubbo/a.B/providers/dubbo%3A%2F%2F127.0.0.1%3A7%2Fa.B",
        ),
        ("digest", "mesh:secret"),
    ];
    tools.ask("create-guarded", &fields).unwrap();
    let with = |password: &str| {
        config(
            &format!(
                "r: {{ zookeeper: \"{}\", user: mesh, password: {password}, empty_protection: 1s }}",
                zookeeper.address
            ),
            "registry: r, layout: dubbo, service: a.B",
        )
    };
    let finback = Finback::start(&with("secret"));
    eventually_following(&finback, PATIENCE, &["127.0.0.1:7"]);
    finback.reload(&with("wrong"));
    eventually_metric(&finback, "finback_registry_connected", 1);
    following_for(&finback, Duration::from_secs(4), &["127.0.0.1:7"]);
}

// === Files ===

#[test]
fn a_file_of_services_that_is_being_written_empties_nothing() {
    let service = |name: &str, port: u16| {
        format!("- service: {name}\n  endpoints: [ \"127.0.0.1:{port}\" ]\n")
    };
    let both = [service("other", 1), service("pay", 2)].concat();
    let finback = Finback::start_with(
        &config(
            "r: { file: \"services.yaml\" }",
            "registry: r, service: pay",
        ),
        &[("services.yaml", &both)],
    );
    eventually_following(&finback, PATIENCE, &["127.0.0.1:2"]);
    let file = finback.folder().join("services.yaml");
    let half = service("other", 1);
    let broken = both.trim_end();
    for part in [
        "",
        "\n",
        "[]\n",
        &half,
        &broken[..broken.len() - 20],
        "- service: [\n",
    ] {
        std::fs::write(&file, part).unwrap();
        following_for(&finback, Duration::from_millis(1500), &["127.0.0.1:2"]);
        let failing = finback.metric("finback_registry_reads_failing", "");
        assert_eq!(failing, 1, "{part:?}\n{}", finback.process().tail());
        // Who watches for registries that do not answer is told of this one, too.
        assert_eq!(finback.metric("finback_registry_connected", ""), 0);
    }
    std::fs::write(&file, &both).unwrap();
    eventually_metric(&finback, "finback_registry_reads_failing", 0);
    assert_eq!(finback.metric("finback_registry_connected", ""), 1);
    // What is whole is taken soon.
    std::fs::write(&file, [service("other", 1), service("pay", 3)].concat()).unwrap();
    let took = eventually_following(&finback, PATIENCE, &["127.0.0.1:3"]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    // And what stays is believed in the end.
    std::fs::write(&file, &half).unwrap();
    following_for(&finback, Duration::from_secs(25), &["127.0.0.1:3"]);
    eventually_following(&finback, PATIENCE, &[]);
}

#[test]
fn a_configuration_that_is_being_written_is_not_put_in_force() {
    let text = |ports: &[u16]| {
        let list: Vec<String> = ports
            .iter()
            .map(|port| format!("      - \"127.0.0.1:{port}\"\n"))
            .collect();
        format!(
            "workers: 1\nlisteners:\n  - {{ name: web, address: \"127.0.0.1:0\", protocol: http, routes: web }}\nroutes:\n  web: [ {{ to: {{ cluster: followed }} }} ]\nclusters:\n  followed:\n    endpoints:\n{}",
            list.concat()
        )
    };
    let finback = Finback::start(&text(&[1, 2, 3]));
    let all = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    eventually_following(&finback, PATIENCE, &all);
    let file = finback.folder().join("finback.yaml");
    let whole = std::fs::read_to_string(&file).unwrap();
    let line = whole.rfind("      - ").unwrap();
    for cut in [line, line - 25, whole.len() - 4, 0] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        following_for(&finback, Duration::from_secs(3), &all);
        assert_eq!(finback.metric("finback_reloads_total", ""), 0);
        assert_eq!(finback.metric("finback_reloads_refused_total", ""), 0);
    }
    // The rest of it comes: what is whole is taken soon.
    let begun = Instant::now();
    std::fs::write(&file, whole.replace("127.0.0.1:3\"", "127.0.0.1:4\"")).unwrap();
    eventually_following(
        &finback,
        PATIENCE,
        &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4"],
    );
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // Whoever asks for it has it at once.
    std::fs::write(&file, &whole[..line]).unwrap();
    finback.process().signal("HUP");
    eventually_following(
        &finback,
        Duration::from_secs(2),
        &["127.0.0.1:1", "127.0.0.1:2"],
    );
}

// === Snapshots ===

#[test]
fn a_snapshot_is_used_the_moment_that_the_registry_cannot_be_reached() {
    for is_etcd in [true, false] {
        let folder = temporary_folder();
        let port = free_port();
        let registries = match is_etcd {
            true => format!("r: {{ etcd: \"127.0.0.1:{port}\" }}"),
            false => format!("r: {{ zookeeper: \"127.0.0.1:{port}\" }}"),
        };
        // As a former version wrote it, by the same name.
        let earlier = r#"{"registry":"r","layout":"native","service":"pay","providers":[{"address":"127.0.0.1:9","layout":"native","protocol":"","version":"","group":"","weight":100,"labels":{}}]}"#;
        std::fs::write(folder.join("pay-7894d7c5f400b09e.json"), earlier).unwrap();
        std::fs::write(folder.join("damaged-0000000000000000.json"), "{").unwrap();
        let name = "registry: r, layout: native, service: pay";
        let config = format!(
            "snapshots: {{ folder: \"{}\" }}\n{}",
            folder.display(),
            config(&registries, name)
        );
        let finback = Finback::start(&config);
        let took = eventually_following(&finback, PATIENCE, &["127.0.0.1:9"]);
        assert!(took < Duration::from_millis(1000), "{took:?}");
    }
}

#[test]
fn a_snapshot_folder_that_cannot_be_used_is_a_warning() {
    let etcd = Etcd::start();
    etcd.put("/finback/services/pay/1", "{\"address\":\"127.0.0.1:1\"}");
    let file = temporary_folder().join("snapshots");
    std::fs::write(&file, "a file, not a folder").unwrap();
    let finback = Finback::start(&format!(
        "snapshots: {{ folder: \"{}\" }}\n{}",
        file.display(),
        config(
            &format!("r: {{ etcd: \"{}\" }}", etcd.address),
            "registry: r, layout: native, service: pay"
        )
    ));
    eventually_following(&finback, PATIENCE, &["127.0.0.1:1"]);
    let path = file.display().to_string();
    finback.process().await_words("snapshots.folder");
    finback.process().await_words(&path);
}

#[test]
fn rules_hold_after_a_start_while_the_registry_is_away() {
    let mut zookeeper = ZooKeeper::start();
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    let _providers = [("one", &ports[0]), ("two", &ports[1])].map(|(name, port)| {
        let peer = Peer::dubbo3();
        peer.export(&[
            ("registry", &zookeeper.address),
            ("serialization", "hessian2"),
            ("port", port),
            ("name", name),
        ]);
        peer
    });
    let tools = Peer::registry();
    let rule = |key: &str, text: &str| {
        let path = format!("/dubbo/config/dubbo/{key}");
        let fields = [
            ("registry", zookeeper.address.as_str()),
            ("path", path.as_str()),
            ("data", text),
        ];
        tools.ask("create", &fields).unwrap();
    };
    rule(
        &format!("{GREETER}::.condition-router"),
        &format!(
            "{{scope: service, force: true, key: {GREETER}, conditions: [\"method=who => port={}\"]}}",
            ports[0]
        ),
    );
    rule(
        "acme-peer.tag-router",
        &format!(
            "{{force: true, enabled: true, key: acme-peer, tags: [{{name: gray, addresses: [\"{}:{}\"]}}, {{name: green, addresses: [\"10.255.255.255:1\"]}}]}}",
            host_address(),
            ports[1]
        ),
    );
    let folder = temporary_folder();
    let config = format!(
        r#"
workers: 1
registries: {{ r: {{ zookeeper: "{}", session: 4s }} }}
snapshots: {{ folder: "{}" }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: dubbo, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: r }} }} ] }}
"#,
        zookeeper.address,
        folder.display()
    );
    let obeyed = |finback: &Finback| {
        let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
        let caller = world().dubbo3().caller(&[("url", &url)]);
        eventually("the rule to be obeyed", PATIENCE, || {
            let names: Result<BTreeSet<String>, String> = (0..12)
                .map(|_| match caller.call("who", "") {
                    Ok(name) => Ok(name.as_str().unwrap_or_default().to_owned()),
                    Err(failure) => Err(format!("{failure:?}")),
                })
                .collect();
            match names? {
                names if names == set(&["one"]) => Ok(()),
                names => Err(format!("{names:?}\n{}", finback.process().tail())),
            }
        });
        // Forced: a call with a tag that the rule gives to nobody goes nowhere.
        let green = caller.with("@dubbo.tag", "green");
        assert!(green.call("sayHello", "you").is_err());
    };
    let first = Finback::start(&config);
    obeyed(&first);
    eventually("the snapshots", PATIENCE, || {
        match std::fs::read_dir(&folder).unwrap().count() {
            // Providers, and the rules of the configuration centre.
            n if n >= 2 => Ok(()),
            n => Err(format!("{n}")),
        }
    });
    // They are written together, a moment later.
    thread::sleep(Duration::from_secs(1));
    drop(first);
    zookeeper.kill();
    let second = Finback::start(&config);
    obeyed(&second);
    assert_eq!(second.metric("finback_registry_services_from_disk", ""), 1);
}
