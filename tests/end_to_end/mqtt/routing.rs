//! Which broker a session goes to: routes, registries, affinity, and one that does not accept.

use super::*;

#[test]
fn routes_choose_by_what_connect_says() {
    let brokers: Vec<Mosquitto> = (0..7).map(|_| Mosquitto::start()).collect();
    let etcd = Etcd::start();
    etcd.put(
        "/finback/services/brokers/1",
        &json!({ "address": brokers[6].address() }).to_string(),
    );
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ etcd: {{ etcd: "{}" }} }}
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt:
    - match: {{ client_id: {{ prefix: "meter-" }} }}
      to: {{ cluster: b0 }}
    - match: {{ username: north }}
      to: {{ cluster: b1 }}
    - match: {{ will_topic: {{ regex: "alarm/.*" }} }}
      to: {{ cluster: b2 }}
    - match: {{ attributes: {{ site: south }} }}
      to: {{ cluster: b3 }}
    - match: {{ version: "3.1" }}
      to: {{ cluster: b4 }}
    - match: {{ version: "5" }}
      to: {{ cluster: b5 }}
    - match: {{ username: registered }}
      to: {{ cluster: found }}
clusters:
  b0: {{ endpoints: [ "{}" ] }}
  b1: {{ endpoints: [ "{}" ] }}
  b2: {{ endpoints: [ "{}" ] }}
  b3: {{ endpoints: [ "{}" ] }}
  b4: {{ endpoints: [ "{}" ] }}
  b5: {{ endpoints: [ "{}" ] }}
  found: {{ discover: {{ registry: etcd, layout: native, service: brokers }} }}
"#,
        etcd.address,
        brokers[0].address(),
        brokers[1].address(),
        brokers[2].address(),
        brokers[3].address(),
        brokers[4].address(),
        brokers[5].address(),
    ));
    let peer = Peer::mqtt();
    let at = url(&finback);
    let will = json!({ "topic": "alarm/x", "payload": "" }).to_string();
    let cases: [&[(&str, &str)]; 7] = [
        &[("id", "meter-1"), ("username", "north")],
        &[("username", "north"), ("version", "5")],
        &[("will", &will)],
        &[
            ("version", "5"),
            ("properties", r#"{"userProperties":{"site":"south"}}"#),
        ],
        &[("version", "3")],
        &[("version", "5")],
        &[("username", "registered")],
    ];
    for (number, fields) in cases.into_iter().enumerate() {
        let name = format!("client-{number}");
        let (client, _) = Client::connect(&peer, &name, &at, fields).unwrap();
        client.subscribe("hello", "0");
        tool(
            "mosquitto_pub",
            brokers[number].port,
            &["-t", "hello", "-m", "you"],
        );
        assert_eq!(client.heard(1), [pair("hello", "you")], "{number}");
    }
    // Nobody's session.
    let failure = Client::connect(&peer, "stranger", &at, &[("version", "4")])
        .err()
        .unwrap();
    assert!(failure.contains("Not authorized"), "{failure}");
}

#[test]
fn brokers_come_and_go_in_zookeeper_in_dns_and_in_the_file() {
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let [old, new] = &brokers;
    let zookeeper = ZooKeeper::start();
    let tools = Peer::registry();
    let node = |operation: &str, id: &str, data: &str| {
        let path = format!("/finback/services/brokers/{id}");
        let fields = [
            ("registry", zookeeper.address.as_str()),
            ("path", &path),
            ("data", data),
        ];
        tools.ask(operation, &fields).unwrap();
    };
    let entry = |broker: &Mosquitto| json!({ "address": broker.address() }).to_string();
    node("create", "old", &entry(old));
    let hosts = temporary_folder().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 brokers.test\n").unwrap();
    let config = |listed: &Mosquitto| {
        format!(
            r#"
workers: 1
registries:
  zk: {{ zookeeper: "{}" }}
  names: {{ dns: {{ refresh: 200ms }} }}
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt:
    - match: {{ username: registered }}
      to: {{ cluster: registered }}
    - match: {{ username: named }}
      to: {{ cluster: named }}
    - to: {{ cluster: listed }}
clusters:
  registered: {{ discover: {{ registry: zk, layout: native, service: brokers }} }}
  named: {{ discover: {{ registry: names, service: "brokers.test:{}" }}, connect_timeout: 300ms }}
  listed: {{ endpoints: [ "{}" ] }}
"#,
            zookeeper.address,
            new.port,
            listed.address()
        )
    };
    let finback = Finback::start_with_hosts(&hosts, &config(old));
    let at = url(&finback);
    let peer = Peer::mqtt();
    let (stays, _) = Client::connect(&peer, "stays", &at, &[("username", "registered")]).unwrap();
    stays.subscribe("news", "1");
    // Nothing listens where the name points to yet.
    let failure = Client::connect(&peer, "early", &at, &[("username", "named")]);
    assert!(failure.err().unwrap().contains("Server unavailable"));
    assert_eq!(places(&brokers, &["stays"]), [0]);
    let mut number = 0;
    let mut moved = |username: &str| {
        eventually("the new broker", PATIENCE, || {
            number += 1;
            let id = format!("{username}-{number}");
            Client::connect(&peer, &id, &at, &[("username", username)]).map(drop)?;
            match places(&brokers, &[&id])[..] {
                [1] => Ok(()),
                _ => Err(format!("{id} is at the old broker")),
            }
        });
    };
    node("create", "new", &entry(new));
    node("delete", "old", "");
    moved("registered");
    // The wrapper sees that a file has changed by its time in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    std::fs::write(&hosts, "127.0.0.1 brokers.test\n").unwrap();
    moved("named");
    finback.write(&config(new));
    moved("anybody");
    // A session stays where it began, though its broker is no longer listed.
    tool(
        "mosquitto_pub",
        old.port,
        &["-q", "1", "-t", "news", "-m", "none"],
    );
    assert_eq!(stays.heard(1), [pair("news", "none")]);
}

/// Which broker each client is at, as the brokers' logs tell.
fn places(brokers: &[Mosquitto], clients: &[&str]) -> Vec<usize> {
    clients
        .iter()
        .map(|id| {
            let words = format!(" as {id} (");
            eventually("its broker's log", PATIENCE, || {
                let found = brokers.iter().position(|broker| {
                    let log = broker.process().tail_of(10_000);
                    log.iter().any(|line| line.contains(&words))
                });
                found.ok_or_else(|| {
                    let logs: Vec<_> = brokers
                        .iter()
                        .map(|own| own.process().tail_of(30))
                        .collect();
                    format!("{id} is nowhere: {logs:#?}")
                })
            })
        })
        .collect()
}

#[test]
fn clients_keep_their_broker_and_only_those_of_a_lost_one_move() {
    const CLIENTS: usize = 60;
    let mut brokers: Vec<Mosquitto> = (0..3).map(|_| Mosquitto::start()).collect();
    let addresses: Vec<String> = brokers
        .iter()
        .map(|own| format!("{:?}", own.address()))
        .collect();
    let config = format!(
        r#"
workers: 2
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters:
  brokers: {{ endpoints: [ {} ], balance: {{ consistent-hash: client-id }} }}
"#,
        addresses.join(", ")
    );
    let finback = Finback::start(&config);
    let names: Vec<String> = (0..CLIENTS).map(|n| format!("device-{n}")).collect();
    let clients: Vec<&str> = names.iter().map(String::as_str).collect();
    let say = |finback: &Finback| {
        for id in &clients {
            let message = ["-i", id, "-t", "t", "-m", "m"];
            tool("mosquitto_pub", finback.port("mqtt"), &message);
        }
    };
    say(&finback);
    let before = places(&brokers, &clients);
    for broker in 0..3 {
        let share = before.iter().filter(|place| **place == broker).count();
        assert!((8..35).contains(&share), "{before:?}");
    }
    // Another proxy of the same brokers, and any number of reconnects, choose the same.
    brokers.iter_mut().for_each(|broker| broker.kill());
    brokers.iter_mut().for_each(|broker| broker.restart());
    let other = Finback::start(&config);
    say(&other);
    assert_eq!(places(&brokers, &clients), before);
    // Of three brokers one goes: the clients of the others stay where they are.
    brokers.iter_mut().for_each(|broker| broker.kill());
    brokers[1].restart();
    brokers[2].restart();
    let began = Instant::now();
    say(&finback);
    let each = began.elapsed() / u32::try_from(CLIENTS).unwrap();
    assert!(each < Duration::from_millis(400), "{each:?}");
    let after = places(&brokers[1..], &clients);
    for (before, after) in before.iter().zip(after) {
        assert!(*before == 0 || *before == after + 1);
    }
}

#[test]
fn a_broker_that_does_not_accept_costs_a_client_less_than_400_ms() {
    // A listener that nobody accepts from, and whose queue is full: connections hang.
    let hole = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hole.bind(
        &"127.0.0.1:0"
            .parse::<std::net::SocketAddr>()
            .unwrap()
            .into(),
    )
    .unwrap();
    hole.listen(0).unwrap();
    let at = hole.local_addr().unwrap().as_socket().unwrap();
    let _stuffed: Vec<_> = (0..3)
        .filter_map(|_| std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)).ok())
        .collect();
    let broker = Mosquitto::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{at}", "{}" ] }} }}
"#,
        broker.address()
    ));
    let port = finback.port("mqtt");
    for _ in 0..6 {
        let began = Instant::now();
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut client, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01x").unwrap();
        let mut connack = [0; 4];
        std::io::Read::read_exact(&mut client, &mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        let took = began.elapsed();
        assert!(took < Duration::from_millis(400), "{took:?}");
    }
    // Where nobody accepts, the client is told.
    let nobody = free_port();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "127.0.0.1:{nobody}" ] }} }}
"#
    ));
    let peer = Peer::mqtt();
    for (version, words) in [("4", "Server unavailable"), ("5", "Server unavailable")] {
        let failure = Client::connect(&peer, "lost", &url(&finback), &[("version", version)]);
        let failure = failure.err().unwrap();
        assert!(failure.contains(words), "{failure}");
    }
}
