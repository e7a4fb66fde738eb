//! Services listed for people and programs.

use super::*;

#[test]
fn services_are_listed_for_people_and_programs() {
    let (zookeeper_, etcd_) = (ZooKeeper::start(), Etcd::start());
    let _one = provider(&zookeeper_, "one");
    etcd_.put(
        "/finback/services/pay/1",
        r#"{"address":"127.0.0.1:1","protocol":"http","version":"2","weight":7,"labels":{"zone":"a"}}"#,
    );
    let folder = temporary_folder();
    let file = folder.join("f.yaml");
    let config = format!(
        "registries: {{ zk: {}, keys: {} }}\nlisteners: [ {{ address: \"127.0.0.1:0\", routes: r }} ]\nroutes: {{ r: [ {{ to: {{ registry: zk }} }} ] }}\n",
        zookeeper(&zookeeper_),
        etcd(&etcd_)
    );
    std::fs::write(&file, config).unwrap();
    let run = |arguments: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_finback"))
            .args(["services", "-c"])
            .arg(&file)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let why = String::from_utf8(out.stderr).unwrap();
        (out.status.success(), text, why)
    };
    let (good, text, why) = run(&[]);
    assert!(good, "{why}");
    assert!(
        text.contains(NODE_GREETER) && text.contains("zone=a"),
        "{text}"
    );
    let (good, text, _) = run(&["--registry", "keys", "--json", "pay"]);
    assert!(good);
    let object: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(object["providers"][0]["weight"], 7);
    assert_eq!(object["providers"][0]["version"], "2");
    let (good, _, why) = run(&["no.such.Service"]);
    assert!(!good && why.contains("no.such.Service"), "{why}");
    let (good, _, why) = run(&["--layout", "dobbu"]);
    assert!(!good && why.contains("dubbo"), "{why}");
}

#[test]
fn a_listing_says_what_it_could_not_list() {
    let (zookeeper_, mut etcd_) = (ZooKeeper::start(), Etcd::start());
    let _one = provider(&zookeeper_, "one");
    let run = |registries: &str, arguments: &[&str]| {
        let file = temporary_folder().join("f.yaml");
        let config = format!(
            "registries: {{ {registries} }}\nlisteners: [ {{ address: \"127.0.0.1:0\", routes: r }} ]\nroutes: {{ r: [ {{ to: {{ registry: zk }} }} ] }}\n"
        );
        std::fs::write(&file, config).unwrap();
        let begun = Instant::now();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_finback"))
            .env("COLUMNS", "80")
            .args(["services", "-c"])
            .arg(&file)
            .args(arguments)
            .output()
            .unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        let why = String::from_utf8(out.stderr).unwrap();
        (out.status.success(), text, why)
    };
    let good = format!("zk: {}", zookeeper(&zookeeper_));
    let (success, text, why) = run(&good, &[]);
    assert!(success, "{why}");
    assert!(text.contains("node.Greeter"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    // A service that we may not read is named, also when it is asked for.
    let tools = Peer::registry();
    let locked = [
        ("registry", &*zookeeper_.address),
        ("path", "/sofa-rpc/com.locked/providers/one"),
        ("digest", "user:secret"),
    ];
    tools.ask("create-guarded", &locked).unwrap();
    for asked in [&[][..], &["com.locked"]] {
        let (success, _, why) = run(&good, asked);
        let named = why.contains("does not let us read who provides com.locked (sofa)");
        assert!(!success && named, "{why}");
    }
    let gone = [
        ("registry", &*zookeeper_.address),
        ("path", "/sofa-rpc/com.locked"),
    ];
    assert!(tools.ask("delete", &gone).is_err(), "it was not guarded");
    // A server that is not there, beside one that is: the one is listed, the other is named.
    let closed = format!("127.0.0.1:{}", free_port());
    for kind in ["zookeeper", "etcd"] {
        let both = format!("{good}, dead: {{ {kind}: \"{closed}\" }}");
        let (success, text, why) = run(&both, &[]);
        assert!(!success && text.contains("node.Greeter"), "{text}");
        assert!(
            why.contains(&format!("{closed}: Connection refused")),
            "{why}"
        );
        let (success, _, why) = run(&both, &["--registry", "dead", "com.acme.Pay"]);
        assert!(!success && why.contains(&closed), "{why}");
    }
    // One that takes connections and says nothing.
    etcd_.process().signal("STOP");
    let hung = format!("zk: {{ etcd: \"{}\" }}", etcd_.address);
    let (success, text, why) = run(&hung, &[]);
    assert!(!success && text.is_empty(), "{text}");
    assert!(
        why.contains(&format!("{} takes connections", etcd_.address)),
        "{why}"
    );
    etcd_.process().signal("CONT");
    // One that answers, and has nothing.
    let (success, text, why) = run(&hung, &[]);
    assert!(!success && text.is_empty(), "{text}");
    assert!(
        why.contains("registry zk answers, but has no providers"),
        "{why}"
    );
    let chroot = format!("zk: {{ zookeeper: \"{}/no/such\" }}", zookeeper_.address);
    let (success, _, why) = run(&chroot, &[]);
    assert!(
        !success && why.contains("is its root or chroot right?"),
        "{why}"
    );
    etcd_.kill();
}
