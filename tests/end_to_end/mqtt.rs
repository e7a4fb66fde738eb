//! Sessions of MQTT by clients of others, with Mosquitto behind.

mod routing;
mod topics;

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
