//! Sessions of MQTT by clients of others, with Mosquitto behind.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certificates::certificates;
use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::mosquitto::{Mosquitto, tool};
use crate::support::peer::{Answer, Peer, built};
use crate::support::process::Process;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in front of one broker, whose route says `more`.
fn front(broker: &Mosquitto, more: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt:
    - to: {{ cluster: brokers }}
{more}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"#,
        broker.address()
    ))
}

/// A client of npm's mqtt under a name of its own.
struct Client<'a> {
    peer: &'a Peer,
    name: &'a str,
}

impl<'a> Client<'a> {
    fn connect(
        peer: &'a Peer,
        name: &'a str,
        url: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Self, Value), String> {
        let own = [("name", name), ("url", url), ("id", name)];
        // What is said last holds.
        let all = [&own, fields].concat();
        let answer = peer.ask("connect", &all).map_err(|failure| failure.text)?;
        Ok((Self { peer, name }, answer))
    }

    fn ask(&self, operation: &str, fields: &[(&str, &str)]) -> Answer {
        self.peer
            .ask(operation, &[&[("name", self.name)], fields].concat())
    }

    fn subscribe(&self, filters: &str, qos: &str) -> Value {
        self.ask("subscribe", &[("filters", filters), ("qos", qos)])
            .unwrap()
    }

    fn publish(&self, topic: &str, payload: &str, qos: &str) -> Answer {
        self.ask(
            "publish",
            &[("topic", topic), ("payload", payload), ("qos", qos)],
        )
    }

    /// The topics and payloads of the next messages.
    fn heard(&self, count: usize) -> Vec<(String, String)> {
        let heard = self.ask("heard", &[("count", &count.to_string())]).unwrap();
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let heard = heard.as_array().unwrap().iter();
        heard
            .map(|message| (text(&message["topic"]), text(&message["payload"])))
            .collect()
    }
}

fn url(finback: &Finback) -> String {
    format!("mqtt://{}", finback.local("mqtt"))
}

fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[test]
fn clients_of_python_speak_every_version_over_tcp_and_websocket() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let port = finback.port("mqtt").to_string();
    let out = Command::new("/usr/bin/python3")
        .env("PYTHONPATH", built("python"))
        .args(["tests/peers/python/mqtt_calls.py", "127.0.0.1", &port])
        .output()
        .expect("python3 is missing: run `make peers`");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(said, "fine\n", "{}", String::from_utf8_lossy(&out.stderr));
    // What was said shows in the metrics, by the first level of its topic.
    let (_, metrics) = finback.admin("/metrics");
    for series in [
        r#"qos="0",outcome="sent"} 6"#,
        r#"qos="1",outcome="success"} 12"#,
        r#"qos="2",outcome="success"} 6"#,
    ] {
        let line = format!(
            r#"finback_mqtt_messages_total{{listener="mqtt",topic="paho",kind="publish",{series}"#
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    let accepted = r#"finback_mqtt_connacks_total{listener="mqtt",reason="success"} 7"#;
    assert!(metrics.contains(accepted), "{metrics}");
    // Sessions and messages are no calls.
    assert!(!metrics.contains("finback_requests_total{"), "{metrics}");
}

#[test]
fn clients_of_java_speak_both_versions() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let port = finback.port("mqtt").to_string();
    let peer = Peer::mqtt_java();
    let at = [("host", "127.0.0.1"), ("port", &*port)];
    let plain = json!("at 0, at 1, at 2");
    assert_eq!(
        peer.ask("hivemq5", &at).unwrap(),
        json!("at 0 0, at 1 1, at 2 2")
    );
    for client in ["hivemq3", "paho5", "paho3"] {
        assert_eq!(peer.ask(client, &at).unwrap(), plain, "{client}");
    }
}

#[test]
fn mosquittos_own_tools_publish_and_hear() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let port = finback.port("mqtt");
    for version in ["31", "311", "5"] {
        let topic = format!("tools/{version}");
        tool(
            "mosquitto_pub",
            port,
            &["-V", version, "-t", &topic, "-m", "hello", "-q", "2", "-r"],
        );
        let heard = tool(
            "mosquitto_sub",
            port,
            &["-V", version, "-t", &topic, "-v", "-C", "1", "-W", "10"],
        );
        assert_eq!(heard, format!("{topic} hello\n"));
    }
    // A request and its answer, by response topic and correlation data.
    let mut answering = Command::new("sh");
    let script = format!(
        "mosquitto_sub -p {port} -V 5 -t ask -C 1 -F '%R' | xargs -I '{{}}' mosquitto_pub -p {port} -V 5 -t '{{}}' -m pong"
    );
    answering.args(["-c", &script]);
    let _answering = Process::start("answering", &mut answering);
    std::thread::sleep(Duration::from_millis(500));
    let heard = tool(
        "mosquitto_rr",
        port,
        &[
            "-V",
            "5",
            "-t",
            "ask",
            "-e",
            "answers/1",
            "-m",
            "ping",
            "-W",
            "10",
        ],
    );
    assert_eq!(heard.trim(), "pong");
}

#[test]
fn sessions_wills_and_keepalives_are_the_brokers() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "");
    let peer = Peer::mqtt();
    let at = url(&finback);
    let (watcher, _) = Client::connect(&peer, "watcher", &at, &[("version", "5")]).unwrap();
    watcher.subscribe("will/#", "1");
    for version in ["4", "5"] {
        let topic = format!("will/{version}");
        let will = json!({ "topic": topic, "payload": "gone", "qos": 1 }).to_string();
        let with_will = [("version", version), ("will", &*will)];
        // One that says goodbye leaves no will.
        let (polite, _) = Client::connect(&peer, "polite", &at, &with_will).unwrap();
        polite.ask("end", &[]).unwrap();
        let (rude, _) = Client::connect(&peer, "rude", &at, &with_will).unwrap();
        rude.ask("end", &[("force", "true")]).unwrap();
        assert_eq!(watcher.heard(1), [pair(&topic, "gone")]);
        // What is said while a client is away waits for it.
        let kept = if version == "5" {
            r#"{"sessionExpiryInterval":60}"#
        } else {
            ""
        };
        let keep = [
            ("version", version),
            ("clean", "false"),
            ("properties", kept),
        ];
        let (sleeper, first) = Client::connect(&peer, "sleeper", &at, &keep).unwrap();
        assert_eq!(first["present"], version == "5");
        sleeper.subscribe("dreams/#", "2");
        sleeper.ask("end", &[]).unwrap();
        watcher.publish("dreams/a", "b", "2").unwrap();
        let (sleeper, again) = Client::connect(&peer, "sleeper", &at, &keep).unwrap();
        assert_eq!(again["present"], true);
        assert_eq!(sleeper.heard(1), [pair("dreams/a", "b")]);
        // The same identifier again: the broker ends the former session.
        let (_second, _) = Client::connect(&peer, "twin", &at, &keep).unwrap();
        let second = [&keep[..], &[("id", "twin")]].concat();
        let (_third, _) = Client::connect(&peer, "twin-again", &at, &second).unwrap();
        peer.ask("closed", &[("name", "twin")]).unwrap();
    }
    // A client that falls silent is given up, and its will is published.
    let mut silent = std::net::TcpStream::connect(finback.local("mqtt")).unwrap();
    let connect = b"\x10\x20\0\x04MQTT\x04\x06\0\x01\0\x06silent\0\x06will/s\0\x04lost";
    std::io::Write::write_all(&mut silent, connect).unwrap();
    assert_eq!(watcher.heard(1), [pair("will/s", "lost")]);
    // Broker and client agree on what the broker says.
    let limited = Mosquitto::start_with("allow_anonymous true\nmax_keepalive 30");
    let finback = front(&limited, "");
    let long = [("version", "5"), ("keepalive", "600")];
    let (_client, answer) = Client::connect(&peer, "long", &url(&finback), &long).unwrap();
    assert_eq!(answer["properties"]["serverKeepAlive"], 30);
    // An identifier of the broker's choice is told.
    let nameless = [("version", "5"), ("id", "")];
    let (_client, answer) = Client::connect(&peer, "nameless", &url(&finback), &nameless).unwrap();
    assert!(
        answer["properties"]["assignedClientIdentifier"].is_string(),
        "{answer}"
    );
}

#[test]
fn a_brokers_refusal_is_passed_on_in_its_own_words() {
    let folder = temporary_folder();
    let passwords = folder.join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c", passwords.to_str().unwrap(), "edge", "secret"])
        .status();
    assert!(made.unwrap().success());
    let lines = format!(
        "allow_anonymous false\npassword_file {}",
        passwords.display()
    );
    let broker = Mosquitto::start_with(&lines);
    let peer = Peer::mqtt();
    let finback = front(&broker, "");
    let at = url(&finback);
    for (version, words) in [("4", "Not authorized"), ("5", "Not authorized")] {
        let wrong = [
            ("version", version),
            ("username", "edge"),
            ("password", "guess"),
        ];
        let failure = Client::connect(&peer, "guest", &at, &wrong).err().unwrap();
        assert!(failure.contains(words), "{failure}");
        let right = [
            ("version", version),
            ("username", "edge"),
            ("password", "secret"),
        ];
        Client::connect(&peer, "edge", &at, &right).unwrap();
    }
    // The mesh may log in on behalf of everybody.
    std::fs::write(folder.join("word"), "secret\n").unwrap();
    let login = format!(
        "      mqtt: {{ username: edge, password_file: \"{}\" }}",
        folder.join("word").display()
    );
    let finback = front(&broker, &login);
    Client::connect(&peer, "guest", &url(&finback), &[("username", "me")]).unwrap();
    let (_, metrics) = finback.admin("/metrics");
    assert!(
        metrics.contains(r#"finback_mqtt_connacks_total{listener="mqtt",reason="success"} "#),
        "{metrics}"
    );
}

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

#[test]
fn topics_are_allowed_and_forbidden_in_each_versions_own_words() {
    let broker = Mosquitto::start();
    let finback = front(
        &broker,
        r#"
      mqtt:
        acl:
          - { deny: all, topics: [ "secret/#" ] }
          - { allow: publish, topics: [ "up/{client_id}/#" ] }
          - { allow: subscribe, topics: [ "down/{client_id}/#", "all/+" ] }
"#,
    );
    let peer = Peer::mqtt();
    let at = url(&finback);
    for version in ["4", "5"] {
        let name = format!("device-{version}");
        let fields = [("version", version)];
        let (client, _) = Client::connect(&peer, &name, &at, &fields).unwrap();
        let refused = if version == "5" { 0x87 } else { 0x80 };
        let down = format!("down/{name}/x");
        let granted = client.subscribe(&format!("secret/x {down} # all/+ down/other/x"), "1");
        assert_eq!(granted, json!([refused, 1, refused, 1, refused]));
        assert_eq!(client.subscribe("secret/x", "1"), json!([refused]));
        // The subscriptions that were allowed hold.
        tool("mosquitto_pub", broker.port, &["-t", &down, "-m", "yes"]);
        tool(
            "mosquitto_pub",
            broker.port,
            &["-t", "secret/x", "-m", "no"],
        );
        tool("mosquitto_pub", broker.port, &["-t", "all/x", "-m", "also"]);
        assert_eq!(client.heard(2), [pair(&down, "yes"), pair("all/x", "also")]);
        // What is forbidden never reaches the broker, and blocks nothing that is allowed.
        let (watcher, _) = Client::connect(
            &peer,
            "watcher",
            &format!("mqtt://{}", broker.address()),
            &[],
        )
        .unwrap();
        watcher.subscribe("#", "2");
        let up = format!("up/{name}/power");
        for qos in ["0", "1", "2"] {
            let denied = client.publish("secret/x", "no", qos);
            match (version, qos) {
                ("5", "1" | "2") => {
                    let failure = denied.unwrap_err();
                    assert!(failure.text.contains("Not authorized"), "{failure:?}");
                }
                _ => assert_eq!(denied.unwrap(), json!([0])),
            }
            client.publish(&up, qos, qos).unwrap();
        }
        let large = [("topic", "secret/large"), ("size", "300000"), ("qos", "0")];
        client.ask("publish", &large).unwrap();
        client.publish(&up, "last", "1").unwrap();
        let expected = ["0", "1", "2", "last"].map(|payload| pair(&up, payload));
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.extend(
                watcher
                    .heard(1)
                    .into_iter()
                    .filter(|(topic, _)| topic != &down && topic != "all/x"),
            );
        }
        assert_eq!(heard, expected);
        watcher.ask("end", &[]).unwrap();
        // A will must not say what the client may not.
        let will = json!({ "topic": "secret/will", "payload": "x" }).to_string();
        let failure = Client::connect(
            &peer,
            "plotter",
            &at,
            &[("version", version), ("will", &will)],
        );
        assert!(failure.err().unwrap().contains("Not authorized"));
        client.ask("end", &[]).unwrap();
        // Answers keep the order of messages, whoever gives them.
        for (qos, answer) in [(0x32, 0x40), (0x34, 0x50)] {
            let mut stream = std::net::TcpStream::connect(finback.local("mqtt")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = match version {
                "4" => b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01o".to_vec(),
                _ => b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01o".to_vec(),
            };
            for id in 1..=40 {
                let topic = if id % 3 == 0 { "up/o/x" } else { "secret" };
                let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
                body.extend_from_slice(topic.as_bytes());
                body.extend_from_slice(&[0, id]);
                if version == "5" {
                    body.push(0);
                }
                said.extend_from_slice(&[qos, u8::try_from(body.len()).unwrap()]);
                said.extend(body);
            }
            std::io::Write::write_all(&mut stream, &said).unwrap();
            let mut order = Vec::new();
            while order.len() < 40 {
                let mut head = [0; 2];
                std::io::Read::read_exact(&mut stream, &mut head).unwrap();
                let mut body = vec![0; head[1].into()];
                std::io::Read::read_exact(&mut stream, &mut body).unwrap();
                if head[0] == answer {
                    order.push(body[1]);
                }
            }
            assert!(order.iter().copied().eq(1..=40), "{order:?}");
        }
        // A name that would be more than a name is not let in.
        let failure = Client::connect(&peer, "sly", &at, &[("version", version), ("id", "a/#")]);
        assert!(failure.err().unwrap().contains("Not authorized"));
    }
    let (_, metrics) = finback.admin("/metrics");
    let denied = r#"topic="secret",kind="publish",qos="1",outcome="denied"}"#;
    assert!(metrics.contains(denied), "{metrics}");
}

#[test]
fn topics_have_other_names_at_the_broker_wherever_they_stand() {
    let broker = Mosquitto::start();
    let finback = front(
        &broker,
        r#"
      mqtt:
        mountpoint: "tenants/{username}/"
        rewrite: [ { from: "old/", to: "new/" } ]
"#,
    );
    let peer = Peer::mqtt();
    let at = url(&finback);
    let fields = [("version", "5"), ("username", "acme")];
    let (watcher, _) = Client::connect(
        &peer,
        "watcher",
        &format!("mqtt://{}", broker.address()),
        &[("version", "5")],
    )
    .unwrap();
    watcher.subscribe("tenants/#", "2");
    let will =
        json!({ "topic": "old/will", "payload": "bye", "properties": { "responseTopic": "r" } })
            .to_string();
    let (one, _) = Client::connect(
        &peer,
        "one",
        &at,
        &[&fields[..], &[("will", &will)]].concat(),
    )
    .unwrap();
    let (two, _) = Client::connect(&peer, "two", &at, &fields).unwrap();
    let (other, _) = Client::connect(&peer, "other", &at, &[("username", "rival")]).unwrap();
    other.subscribe("#", "1");
    two.subscribe("#", "2");
    let properties = r#"{"responseTopic":"answers/1","correlationData":"7","userProperties":{"traceparent":"00-1-2-01"}}"#;
    for qos in ["0", "1", "2"] {
        one.ask(
            "publish",
            &[
                ("topic", "old/a"),
                ("payload", qos),
                ("qos", qos),
                ("properties", properties),
            ],
        )
        .unwrap();
        let heard = two.ask("heard", &[("count", "1")]).unwrap();
        let message = &heard[0];
        assert_eq!(message["topic"], "old/a");
        assert_eq!(message["properties"]["responseTopic"], "answers/1");
        assert_eq!(message["properties"]["correlationData"], "7");
        assert_eq!(
            message["properties"]["userProperties"]["traceparent"],
            "00-1-2-01"
        );
        let there = watcher.ask("heard", &[("count", "1")]).unwrap();
        assert_eq!(there[0]["topic"], "tenants/acme/new/a");
        assert_eq!(
            there[0]["properties"]["responseTopic"],
            "tenants/acme/answers/1"
        );
    }
    // By alias, which the broker never sees.
    let define = r#"{"topicAlias":1}"#;
    one.ask(
        "publish",
        &[
            ("topic", "b"),
            ("payload", "1"),
            ("qos", "1"),
            ("properties", define),
        ],
    )
    .unwrap();
    one.ask(
        "publish",
        &[
            ("topic", ""),
            ("payload", "2"),
            ("qos", "1"),
            ("properties", define),
        ],
    )
    .unwrap();
    assert_eq!(two.heard(2), [pair("b", "1"), pair("b", "2")]);
    assert_eq!(
        watcher.heard(2),
        ["1", "2"].map(|n| pair("tenants/acme/b", n))
    );
    // A shared subscription is mounted behind its name; what is unsubscribed is not heard.
    two.ask("unsubscribe", &[("filter", "#")]).unwrap();
    two.subscribe("$share/group/old/+", "1");
    one.publish("c", "unheard", "1").unwrap();
    one.publish("old/d", "heard", "1").unwrap();
    assert_eq!(two.heard(1), [pair("old/d", "heard")]);
    one.ask("end", &[("force", "true")]).unwrap();
    assert_eq!(two.heard(1), [pair("old/will", "bye")]);
    // Nothing of it reached another tenant, who hears its own.
    other.publish("own", "mine", "1").unwrap();
    assert_eq!(other.heard(1), [pair("own", "mine")]);
}

#[test]
fn every_transport_shares_a_port_and_a_certificate_is_an_identity() {
    let broker = Mosquitto::start();
    let folder = temporary_folder();
    certificates(&folder);
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: mqtt
    address: "127.0.0.1:0"
    protocol: auto
    routes: mqtt
    tls:
      certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ]
      client_ca: "{f}/ca.pem"
      client_optional: true
      plain: true
routes:
  mqtt:
    - match: {{ protocol: mqtt, identity: {{ prefix: "spiffe://acme/" }} }}
      to: {{ cluster: brokers }}
      mqtt: {{ mountpoint: "workloads/", username: "{{identity}}" }}
    - match: {{ protocol: mqtt, sni: localhost }}
      to: {{ cluster: brokers }}
      mqtt: {{ mountpoint: "named/" }}
    - match: {{ protocol: mqtt }}
      to: {{ cluster: brokers }}
    - match: {{ protocol: http }}
      respond: {{ status: 200, body: "web" }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
"#,
        broker.address()
    ));
    let peer = Peer::mqtt();
    let address = finback.local("mqtt");
    let (watcher, _) = Client::connect(
        &peer,
        "watcher",
        &format!("mqtt://{}", broker.address()),
        &[],
    )
    .unwrap();
    watcher.subscribe("#", "0");
    let file = |name: &str| folder.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("workload.pem"), file("workload.key"));
    let certified = [("ca", &*ca), ("cert", &*cert), ("key", &*key)];
    let named = [("ca", &*ca), ("servername", "localhost")];
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Fields<'_>, &str); 6] = [
        ("mqtt", &[], "a"),
        ("mqtts", &[("ca", &ca)], "a"),
        ("ws", &[], "a"),
        ("wss", &[("ca", &ca)], "a"),
        ("mqtts", &certified, "workloads/a"),
        ("mqtts", &named, "named/a"),
    ];
    for (scheme, fields, topic) in cases {
        let path = if scheme.starts_with('w') { "/mqtt" } else { "" };
        let at = format!("{scheme}://{address}{path}");
        for version in ["4", "5"] {
            let fields = [fields, &[("version", version)]].concat();
            let (client, _) = Client::connect(&peer, "any", &at, &fields)
                .unwrap_or_else(|why| panic!("{scheme} {version}: {why}"));
            client.subscribe("large", "1");
            client.publish("a", version, "1").unwrap();
            assert_eq!(watcher.heard(1), [pair(topic, version)], "{scheme}");
            client
                .ask(
                    "publish",
                    &[("topic", "large"), ("size", "200000"), ("qos", "2")],
                )
                .unwrap();
            assert_eq!(client.heard(1), [pair("large", "200000")], "{scheme}");
            watcher.heard(1);
            client.ask("end", &[]).unwrap();
        }
    }
    broker.process().await_words("u'spiffe://acme/pay'");
    // HTTP is served on the same port; of it, MQTT only takes its own path.
    for (path, status) in [("/", 200), ("/mqttx", 200), ("/mqtt", 426)] {
        let out = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(format!("http://{address}{path}"))
            .output()
            .expect("curl is missing: run `make peers`, or `apt-get install curl`");
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            status.to_string(),
            "{path}"
        );
    }
}

#[test]
fn a_broker_learns_of_clients_by_the_proxy_protocol() {
    // Debian's Mosquitto knows no PROXY protocol; HAProxy reads it and says what it read.
    let broker = Mosquitto::start();
    let folder = temporary_folder();
    let port = free_port();
    std::fs::write(
        folder.join("haproxy.cfg"),
        format!(
            "global\n log stdout format raw local0\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n \
             timeout server 1m\nfrontend f\n bind 127.0.0.1:{port} accept-proxy\n log global\n \
             log-format 'from %ci:%cp to %fi'\n default_backend b\nbackend b\n server s {}\n",
            broker.address()
        ),
    )
    .unwrap();
    let haproxy = Process::start(
        "haproxy",
        Command::new("/usr/sbin/haproxy")
            .arg("-f")
            .arg(folder.join("haproxy.cfg")),
    );
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt: [ {{ to: {{ cluster: brokers }}, mqtt: {{ proxy_protocol: true }} }} ]
clusters: {{ brokers: {{ endpoints: [ "127.0.0.1:{port}" ] }} }}
"#
    ));
    eventually("haproxy", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
    });
    // From another address than ours, so that only the header can tell.
    let out = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &finback.port("mqtt").to_string()])
        .args(["-A", "127.0.0.9", "-t", "t", "-m", "m", "-q", "1"])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    haproxy.wait_for("the client's address", PATIENCE, 0, |line| {
        line.contains("from 127.0.0.9:").then_some(())
    });
}

#[test]
fn a_second_session_may_be_refused_or_end_the_first_here() {
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let config = |duplicates: &str| {
        format!(
            r#"
workers: 2
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt: [ {{ to: {{ cluster: brokers }}, mqtt: {{ duplicates: {duplicates} }} }} ]
clusters: {{ brokers: {{ endpoints: [ "{}", "{}" ] }} }}
"#,
            brokers[0].address(),
            brokers[1].address()
        )
    };
    let peer = Peer::mqtt();
    // They are at different brokers, which know nothing of each other.
    let finback = Finback::start(&config("take-over"));
    let at = url(&finback);
    let twin = [("version", "5"), ("id", "twin")];
    let (first, _) = Client::connect(&peer, "first", &at, &twin).unwrap();
    let (_second, _) = Client::connect(&peer, "second", &at, &twin).unwrap();
    assert_eq!(first.ask("closed", &[]).unwrap()["reason"], 0x8e);
    let finback = Finback::start(&config("refuse"));
    let at = url(&finback);
    let (first, _) = Client::connect(&peer, "first", &at, &twin).unwrap();
    let failure = Client::connect(&peer, "second", &at, &twin).err().unwrap();
    assert!(failure.contains("Client Identifier not valid"), "{failure}");
    first.ask("end", &[]).unwrap();
    eventually("its place to be free", PATIENCE, || {
        Client::connect(&peer, "second", &at, &twin).map(drop)
    });
}

#[test]
fn those_who_must_go_are_told_where() {
    let broker = Mosquitto::start();
    let finback = front(
        &broker,
        "      mqtt: { server_reference: \"other.test:1883\" }",
    );
    let plain = front(&broker, "");
    let peer = Peer::mqtt();
    let clients: Vec<_> = (0..10).map(|n| format!("told-{n}")).collect();
    for name in &clients {
        Client::connect(&peer, name, &url(&finback), &[("version", "5")]).unwrap();
    }
    let (old, _) = Client::connect(&peer, "old", &url(&finback), &[("version", "4")]).unwrap();
    let (unled, _) = Client::connect(&peer, "unled", &url(&plain), &[("version", "5")]).unwrap();
    finback.process().signal("TERM");
    plain.process().signal("TERM");
    for name in &clients {
        let told = peer.ask("closed", &[("name", name)]).unwrap();
        assert_eq!(told["reason"], 0x9c, "{told}");
        assert_eq!(told["properties"]["serverReference"], "other.test:1883");
    }
    assert_eq!(unled.ask("closed", &[]).unwrap()["reason"], 0x8b);
    old.ask("closed", &[]).unwrap();
    assert!(finback.process().wait_for_end(PATIENCE).success());
}

#[test]
fn one_who_says_too_much_is_read_more_slowly_and_loses_nothing() {
    let broker = Mosquitto::start();
    let finback = front(&broker, "      mqtt: { messages_per_second: 50 }");
    let peer = Peer::mqtt();
    let (client, _) = Client::connect(&peer, "chatty", &url(&finback), &[]).unwrap();
    client.subscribe("flow", "1");
    let began = Instant::now();
    let many = [
        ("topic", "flow"),
        ("payload", ""),
        ("qos", "1"),
        ("count", "200"),
    ];
    client.ask("publish", &many).unwrap();
    // The first fifty at once, the others as they may.
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(2500)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    assert_eq!(client.heard(200).len(), 200);
}
