//! Registries that are killed, stopped, emptied and full of nonsense: no call is lost.

use super::*;

#[test]
fn zookeeper_killed_and_stopped_costs_no_call() {
    let mut zookeeper_ = ZooKeeper::start();
    let _one = provider(&zookeeper_, "one");
    let finback = finback(&zookeeper(&zookeeper_));
    let caller = caller(world().node(), &finback);
    eventually_answering(&caller, &["one"]);
    without_a_lost_call(&caller, 9000, || {
        zookeeper_.kill();
        eventually_connected(&finback, false);
        thread::sleep(Duration::from_secs(1));
        zookeeper_.restart();
    });
    eventually_connected(&finback, true);
    // A partition: the server is there and says nothing, for longer than the session.
    without_a_lost_call(&caller, 9000, || {
        zookeeper_.process().signal("STOP");
        eventually_connected(&finback, false);
        assert!(
            registry_status(&finback)["stale_seconds"]
                .as_u64()
                .is_some()
        );
        zookeeper_.process().signal("CONT");
    });
    eventually_connected(&finback, true);
    // What comes after the trouble is followed as before.
    let two = provider(&zookeeper_, "two");
    eventually("two to answer", PATIENCE, || {
        let names = answering(&caller)?;
        if names.contains("two") {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    drop(two);
}

#[test]
fn a_registry_that_lost_everything_does_not_empty_the_mesh() {
    let mut zookeeper_ = ZooKeeper::start();
    let _one = provider(&zookeeper_, "one");
    let finback = finback(&zookeeper(&zookeeper_));
    let caller = caller(world().node(), &finback);
    eventually_answering(&caller, &["one"]);
    without_a_lost_call(&caller, 8000, || {
        zookeeper_.kill();
        zookeeper_.wipe();
        eventually_connected(&finback, false);
        zookeeper_.restart();
        eventually_connected(&finback, true);
    });
}

#[test]
fn etcd_killed_compacted_and_stopped_costs_no_update() {
    let mut etcd_ = Etcd::start();
    let key = |n: u32| format!("/finback/services/pay/{n}");
    let value = |n: u32| format!("{{\"address\":\"127.0.0.1:{n}\"}}");
    etcd_.put(&key(1), &value(1));
    etcd_.put(&key(2), &value(2));
    let finback = following(&etcd(&etcd_), "native", "pay");
    eventually_following(&finback, &["127.0.0.1:1", "127.0.0.1:2"]);

    etcd_.process().signal("STOP");
    eventually_connected(&finback, false);
    assert_eq!(endpoints(&finback, "followed").unwrap().len(), 2);
    etcd_.process().signal("CONT");
    eventually_connected(&finback, true);

    etcd_.kill();
    eventually_connected(&finback, false);
    etcd_.restart();
    // Written, taken away and compacted before the proxy is back: nothing of it is missed.
    etcd_.put(&key(3), &value(3));
    etcd_.delete(&key(1));
    etcd_.compact();
    eventually_following(&finback, &["127.0.0.1:2", "127.0.0.1:3"]);
    // One explicit removal counts at once, also of the last.
    etcd_.delete(&key(2));
    eventually_following(&finback, &["127.0.0.1:3"]);
    etcd_.delete(&key(3));
    eventually_following(&finback, &[]);
}

#[test]
fn a_start_during_an_outage_works_from_the_snapshot() {
    let mut zookeeper_ = ZooKeeper::start();
    let _one = provider(&zookeeper_, "one");
    let folder = temporary_folder();
    let start = || {
        Finback::start(&format!(
            r#"
workers: 1
registries: {{ r: {} }}
snapshots: {{ folder: "{}" }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: r }} }} ] }}
"#,
            zookeeper(&zookeeper_),
            folder.display()
        ))
    };
    let first = start();
    eventually_answering(&caller(world().node(), &first), &["one"]);
    eventually("a snapshot", PATIENCE, || {
        match std::fs::read_dir(&folder).unwrap().count() {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
    drop(first);
    zookeeper_.kill();
    let second = Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {} }}
snapshots: {{ folder: "{}" }}
listeners: [ {{ name: rpc, address: "127.0.0.1:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: r }} }} ] }}
"#,
        zookeeper(&zookeeper_),
        folder.display()
    ));
    let caller = caller(world().node(), &second);
    eventually_answering(&caller, &["one"]);
    assert_eq!(registry_status(&second)["from_disk"], json!(1));
    zookeeper_.restart();
    eventually_connected(&second, true);
    eventually(
        "the registry's own word",
        PATIENCE,
        || match registry_status(&second)["from_disk"].as_u64() {
            Some(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    eventually_answering(&caller, &["one"]);
}

#[test]
fn an_update_reaches_routing_within_a_tenth_of_a_second() {
    let etcd_ = Etcd::start();
    etcd_.put("/finback/services/pay/0", r#"{"address":"127.0.0.1:1"}"#);
    let zookeeper_ = ZooKeeper::start();
    let tools = Peer::registry();
    let at = |path: &'static str| [("registry", zookeeper_.address.as_str()), ("path", path)];
    let node = "/dubbo/a.B/providers/dubbo%3A%2F%2F127.0.0.1%3A7%2Fa.B";
    tools.ask("create", &at("/dubbo/a.B/providers")).unwrap();
    let keys = following(&etcd(&etcd_), "native", "pay");
    let nodes = following(&zookeeper(&zookeeper_), "dubbo", "a.B");
    eventually_following(&keys, &["127.0.0.1:1"]);
    eventually_following(&nodes, &[]);
    let until = |finback: &Finback, count: usize| {
        let begun = Instant::now();
        while endpoints(finback, "followed").unwrap().len() != count {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(2));
        }
        begun.elapsed()
    };
    let mut took = Vec::new();
    for _ in 0..5 {
        tools.ask("create", &at(node)).unwrap();
        took.push(until(&nodes, 1));
        tools.ask("delete", &at(node)).unwrap();
        took.push(until(&nodes, 0));
        etcd_.put("/finback/services/pay/1", r#"{"address":"127.0.0.1:2"}"#);
        took.push(until(&keys, 2));
        etcd_.delete("/finback/services/pay/1");
        took.push(until(&keys, 1));
    }
    took.sort();
    println!("updates seen after {took:?}");
    // The machine may be busy with other tests: the better half tells.
    assert!(
        took[took.len() / 2] < Duration::from_millis(100),
        "{took:?}"
    );
}

/// Numbers that look random, the same for the same seed (a linear congruential generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn any_sequence_of_events_ends_as_a_fresh_list() {
    let (zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    let tools = Peer::registry();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let registries = [zookeeper(&zookeeper_), etcd(&etcd_)];
    let follow = |registry: &String| following(registry, "native", "pay");
    let long = registries.each_ref().map(follow);
    let seen = |finback: &Finback| {
        let (_, body) = finback.admin("/clusters");
        let clusters: Value = serde_json::from_str(&body).unwrap();
        let list = clusters[0]["endpoints"].as_array().unwrap();
        let mut list: Vec<String> = list
            .iter()
            .map(|each| format!("{} {} {}", each["address"], each["weight"], each["labels"]))
            .collect();
        list.sort();
        (clusters[0]["ready"] == json!(true)).then_some(list)
    };
    let mut there = BTreeSet::new();
    for round in 0..4 {
        for _ in 0..40 {
            let id = chance.below(8);
            let path = format!("/finback/services/pay/{id}");
            let zk = [("registry", &*zookeeper_.address), ("path", &*path)];
            // The last one stays: an empty service would be doubted for a while.
            if chance.below(3) == 0 && there.len() > 1 {
                if there.remove(&id) {
                    tools.ask("delete", &zk).unwrap();
                    etcd_.delete(&path);
                }
                continue;
            }
            let value = match chance.below(6) {
                0 => "not for us".to_owned(),
                weight => format!(
                    r#"{{"address":"127.0.0.1:{}","weight":{weight},"labels":{{"zone":"{}"}}}}"#,
                    chance.below(5) + 1,
                    chance.below(2),
                ),
            };
            let operation = if there.insert(id) { "create" } else { "set" };
            let [registry, path_] = zk;
            tools
                .ask(operation, &[registry, path_, ("data", &value)])
                .unwrap();
            etcd_.put(&path, &value);
        }
        let fresh = registries.each_ref().map(follow);
        for (fresh, long) in fresh.iter().zip(&long) {
            eventually("the same endpoints", PATIENCE, || {
                match (seen(fresh), seen(long)) {
                    (Some(fresh), Some(long)) if fresh == long => Ok(()),
                    other => Err(format!("round {round}: {other:?}")),
                }
            });
        }
        let [one, other] = fresh.each_ref().map(seen);
        assert_eq!(one, other);
    }
}
