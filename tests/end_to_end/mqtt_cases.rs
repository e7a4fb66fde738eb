//! What a session promises in MQTT 3.1.1 and 5, tried on npm's client with Mosquitto behind, and with
//! the broker of the demo. Chosen after the interoperability tests of Eclipse Paho.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use finback_simulations::broker::{self, Broker};
use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use crate::support::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing has come if nothing has come for so long.
const QUIET: Duration = Duration::from_millis(300);

/// A proxy and the broker behind it.
struct Way {
    finback: Finback,
    _broker: Option<Mosquitto>,
    /// Whether the broker is the demo's.
    own: bool,
}

fn front(address: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{address}" ] }} }}
"#
    ))
}

/// The demo's broker, which lives as long as the test.
fn own(options: broker::Options) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            Broker::new(options).serve(listener).await
        })
    });
    told.recv().unwrap()
}

/// One way to each broker.
fn ways() -> [Way; 2] {
    let mosquitto = Mosquitto::start();
    let options = broker::Options {
        keep_alive: Some(60),
        refused: vec!["nobody".to_owned()],
        ..broker::Options::default()
    };
    [
        Way {
            finback: front(&mosquitto.address()),
            _broker: Some(mosquitto),
            own: false,
        },
        Way {
            finback: front(&own(options).to_string()),
            _broker: None,
            own: true,
        },
    ]
}

/// A client of npm's mqtt.
struct Client<'a> {
    peer: &'a Peer,
    name: String,
}

impl<'a> Client<'a> {
    fn connect(way: &Way, peer: &'a Peer, name: &str, fields: &[(&str, &str)]) -> (Self, Value) {
        let url = format!("mqtt://{}", way.finback.local("mqtt"));
        let own = [("name", name), ("url", &*url), ("id", name)];
        let answer = peer.ask("connect", &[&own, fields].concat()).unwrap();
        let name = name.to_owned();
        (Self { peer, name }, answer)
    }

    fn ask(&self, operation: &str, fields: &[(&str, &str)]) -> Value {
        let own = [("name", &*self.name)];
        self.peer.ask(operation, &[&own, fields].concat()).unwrap()
    }

    fn subscribe(&self, filters: &str, qos: &str, more: &[(&str, &str)]) -> Value {
        let own = [("filters", filters), ("qos", qos)];
        self.ask("subscribe", &[&own, more].concat())
    }

    fn publish(&self, topic: &str, payload: &str, qos: &str, more: &[(&str, &str)]) {
        let own = [("topic", topic), ("payload", payload), ("qos", qos)];
        self.ask("publish", &[&own, more].concat());
    }

    /// The next messages, of which there are no more.
    fn heard(&self, count: usize) -> Vec<Value> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let more = self.ask("heard", &[("count", "1")]);
            heard.extend(more.as_array().unwrap().iter().cloned());
        }
        std::thread::sleep(QUIET);
        let more = self.ask("heard", &[("count", "0")]);
        heard.extend(more.as_array().unwrap().iter().cloned());
        assert_eq!(heard.len(), count, "{heard:?}");
        heard
    }

    fn payloads(&self, count: usize) -> Vec<String> {
        let heard = self.heard(count);
        heard.iter().map(|own| text(&own["payload"])).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

const VERSIONS: [&str; 2] = ["4", "5"];

#[test]
fn messages_are_retained_queued_and_selected() {
    let peer = Peer::mqtt();
    for way in ways() {
        for version in VERSIONS {
            let v = [("version", version)];
            let (one, _) = Client::connect(&way, &peer, "one", &v);
            let (two, _) = Client::connect(&way, &peer, "two", &v);
            // Retained, until an empty message takes its place.
            let keep = [("retain", "true")];
            for qos in ["0", "1", "2"] {
                let topic = format!("kept{version}/{qos}");
                one.publish(&topic, qos, qos, &keep);
            }
            one.publish(&format!("kept{version}/1"), "", "1", &keep);
            two.subscribe(&format!("kept{version}/+"), "2", &[]);
            let kept = two.heard(2);
            assert!(kept.iter().all(|own| own["retain"] == true), "{kept:?}");
            one.publish(&format!("kept{version}/3"), "new", "1", &keep);
            assert_eq!(two.heard(1)[0]["retain"], false);
            // Two filters that both select it: once or twice, but as the better one says.
            let over = format!("over{version}/a");
            two.subscribe(&format!("over{version}/+"), "2", &[]);
            two.subscribe(&format!("over{version}/#"), "1", &[]);
            one.publish(&over, "x", "2", &[]);
            std::thread::sleep(QUIET);
            let heard = two.ask("heard", &[("count", "1")]);
            let heard = heard.as_array().unwrap();
            let best = heard.iter().filter(|own| own["qos"] == 2).count();
            assert_eq!((best, heard.len() <= 2), (1, true), "{heard:?}");
            // Names that begin with $ are not selected by wildcards before it.
            two.subscribe("+/a", "1", &[]);
            one.publish(&format!("$hidden{version}/a"), "x", "1", &[]);
            assert_eq!(two.heard(0).len(), 0);
            two.ask("unsubscribe", &[("filter", "+/a")]);
            two.subscribe(&format!("$hidden{version}/+"), "1", &[]);
            one.publish(&format!("$hidden{version}/a"), "x", "1", &[]);
            two.heard(1);
            // No more is heard of what is unsubscribed.
            two.subscribe("a b c", "1", &[]);
            two.ask("unsubscribe", &[("filter", "b")]);
            for topic in ["a", "b", "c"] {
                one.publish(topic, topic, "1", &[]);
            }
            assert_eq!(two.payloads(2), ["a", "c"]);
            if way.own {
                let granted = two.subscribe("nobody", "1", &[]);
                assert_eq!(granted, json!([0x80]));
            }
            // What is published meanwhile waits for a session that is kept.
            let forever = r#"{"sessionExpiryInterval":1000}"#;
            let lasting = [
                ("version", version),
                ("clean", "false"),
                ("properties", forever),
            ];
            let lasting = &lasting[..if version == "5" { 3 } else { 2 }];
            let sleeper = format!("sleeper{version}");
            let (asleep, first) = Client::connect(&way, &peer, &sleeper, lasting);
            assert_eq!(first["present"], false);
            asleep.subscribe("wait/#", "2", &[]);
            asleep.ask("end", &[]);
            for qos in ["1", "2"] {
                one.publish("wait/x", qos, qos, &[]);
            }
            let (awake, again) = Client::connect(&way, &peer, &sleeper, lasting);
            assert_eq!(again["present"], true);
            assert_eq!(awake.payloads(2), ["1", "2"]);
            // A clean start forgets it.
            awake.ask("end", &[]);
            let (new, present) = Client::connect(&way, &peer, &sleeper, &v);
            assert_eq!(present["present"], false);
            one.publish("wait/x", "lost", "1", &[]);
            assert_eq!(new.heard(0).len(), 0);
            for own in [one, two, new] {
                own.ask("end", &[]);
            }
        }
    }
}

/// Reads one packet whose length is told by one byte.
fn packet(from: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    from.read_exact(&mut head).unwrap();
    let mut packet = head.to_vec();
    packet.resize(2 + usize::from(head[1]), 0);
    from.read_exact(&mut packet[2..]).unwrap();
    packet
}

#[test]
fn what_was_not_acknowledged_is_sent_again_and_marked() {
    for way in ways() {
        let open = |present: u8| {
            let mut stream = TcpStream::connect(way.finback.local("mqtt")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // 3.1.1, the session is kept.
            let connect = b"\x10\x0d\0\x04MQTT\x04\0\0\x3c\0\x01r";
            stream.write_all(connect).unwrap();
            assert_eq!(packet(&mut stream), [0x20, 2, present, 0]);
            stream
        };
        let mut stream = open(0);
        stream.write_all(b"\x82\x06\0\x01\0\x01t\x02").unwrap();
        assert_eq!(packet(&mut stream), [0x90, 3, 0, 1, 2]);
        stream
            .write_all(b"\x32\x06\0\x01t\0\x01a\x34\x06\0\x01t\0\x02b")
            .unwrap();
        let mut sent = Vec::new();
        while sent.len() < 2 {
            let heard = packet(&mut stream);
            match heard[0] & 0xf0 {
                0x30 => sent.push(heard),
                0x50 => stream.write_all(b"\x62\x02\0\x02").unwrap(),
                _ => {}
            }
        }
        assert_eq!([sent[0][0], sent[1][0]], [0x32, 0x34]);
        drop(stream);
        let mut stream = open(1);
        for own in &sent {
            let mut again = own.clone();
            again[0] |= 8;
            assert_eq!(packet(&mut stream), again);
        }
        // Half of it is acknowledged, and that half is not sent again.
        stream
            .write_all(&[0x40, 2, sent[0][5], sent[0][6]])
            .unwrap();
        stream
            .write_all(&[0x50, 2, sent[1][5], sent[1][6]])
            .unwrap();
        let release = packet(&mut stream);
        assert_eq!(release, [0x62, 2, sent[1][5], sent[1][6]]);
        drop(stream);
        let mut stream = open(1);
        assert_eq!(packet(&mut stream), release);
        stream
            .write_all(&[0x70, 2, sent[1][5], sent[1][6]])
            .unwrap();
        stream.write_all(b"\xc0\0").unwrap();
        assert_eq!(packet(&mut stream), [0xd0, 0]);
        drop(stream);
        let mut stream = open(1);
        stream.write_all(b"\xc0\0").unwrap();
        assert_eq!(packet(&mut stream), [0xd0, 0]);
    }
}

#[test]
fn properties_of_messages_and_subscriptions_do_what_they_say() {
    let peer = Peer::mqtt();
    let v5 = [("version", "5")];
    for way in ways() {
        let (one, answer) = Client::connect(
            &way,
            &peer,
            "one",
            &[&v5[..], &[("keepalive", "600")]].concat(),
        );
        if way.own {
            assert_eq!(answer["properties"]["serverKeepAlive"], 60);
        }
        let (two, _) = Client::connect(&way, &peer, "two", &v5);
        two.subscribe("p/#", "2", &[]);
        let properties = json!({
            "payloadFormatIndicator": true,
            "contentType": "text/plain",
            "responseTopic": "answers/one",
            "correlationData": "334",
            "messageExpiryInterval": 60,
            "userProperties": { "a": ["1", "2"], "c": "3" },
        });
        let properties = properties.to_string();
        one.publish("p/all", "x", "2", &[("properties", &properties)]);
        let heard = two.heard(1).remove(0)["properties"].clone();
        assert_eq!(heard["payloadFormatIndicator"], true);
        assert_eq!(heard["contentType"], "text/plain");
        assert_eq!(heard["responseTopic"], "answers/one");
        assert_eq!(heard["correlationData"], "334");
        assert_eq!(
            heard["userProperties"],
            json!({ "a": ["1", "2"], "c": "3" })
        );
        let left = heard["messageExpiryInterval"].as_u64().unwrap();
        assert!((55..=60).contains(&left), "{left}");
        // A question and its answer, on a topic that both have subscribed to without their own words.
        for own in [&one, &two] {
            own.subscribe("ask", "2", &[("options", r#"{"nl":true}"#)]);
        }
        let question = json!({ "responseTopic": "ask", "correlationData": "5" }).to_string();
        one.publish("ask", "question", "1", &[("properties", &question)]);
        let asked = two.heard(1);
        two.publish(
            &text(&asked[0]["properties"]["responseTopic"]),
            "answer",
            "1",
            &[],
        );
        assert_eq!(one.payloads(1), ["answer"]);
        assert_eq!(two.heard(0).len(), 0);
        // Whether a subscription hears what is retained, and that it was.
        one.publish("rh", "x", "1", &[("retain", "true")]);
        for (handling, expected) in [("1", 1), ("1", 0), ("0", 1), ("2", 0)] {
            let options = format!(r#"{{"rh":{handling},"rap":true}}"#);
            two.subscribe("rh", "1", &[("options", &options)]);
            assert_eq!(two.heard(expected).len(), expected, "{handling}");
        }
        one.publish("rh", "y", "1", &[("retain", "true")]);
        assert_eq!(two.heard(1)[0]["retain"], true);
        // For which subscriptions a message is. Mosquitto 2.0.11 forgets some.
        if way.own {
            for (filter, id) in [("id/a", "456789"), ("id/+", "2")] {
                let id = format!(r#"{{"subscriptionIdentifier":{id}}}"#);
                two.subscribe(filter, "2", &[("properties", &id)]);
            }
            one.publish("id/a", "x", "2", &[]);
            let ids = two.heard(1)[0]["properties"]["subscriptionIdentifier"].clone();
            let mut ids: Vec<u64> = serde_json::from_value(ids).unwrap();
            ids.sort_unstable();
            assert_eq!(ids, [2, 456_789]);
        }
        // Members of a group share what comes, and everybody else hears all of it.
        let (three, _) = Client::connect(&way, &peer, "three", &v5);
        for own in [&two, &three] {
            own.subscribe("$share/group/work/#", "1", &[]);
        }
        one.subscribe("work/#", "1", &[]);
        for n in 0..10 {
            one.publish("work/x", &n.to_string(), "1", &[]);
        }
        assert_eq!(one.heard(10).len(), 10);
        let mut all = Vec::new();
        for own in [&two, &three] {
            let more = own.ask("heard", &[("count", "1")]);
            let more = more.as_array().unwrap();
            assert!(more.len() < 10, "one of them hears all of it");
            all.extend(more.iter().map(|own| text(&own["payload"])));
        }
        all.sort();
        let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(all, expected);
        for own in [one, two, three] {
            own.ask("end", &[]);
        }
    }
}

#[test]
fn limits_of_clients_and_brokers_are_kept() {
    let peer = Peer::mqtt();
    for way in ways() {
        let (one, _) = Client::connect(&way, &peer, "one", &[("version", "5")]);
        // A client that takes little at a time, and only short packets.
        let limits = r#"{"maximumPacketSize":64,"topicAliasMaximum":1,"sessionExpiryInterval":0}"#;
        let (two, answer) = Client::connect(
            &way,
            &peer,
            "two",
            &[("version", "5"), ("properties", limits)],
        );
        two.subscribe("l/#", "1", &[]);
        one.publish("l/a", &"x".repeat(64), "1", &[]);
        for payload in ["a", "b"] {
            one.publish("l/a", payload, "1", &[]);
        }
        let heard = two.heard(2);
        assert_eq!([&heard[0]["payload"], &heard[1]["payload"]], ["a", "b"]);
        assert_eq!(heard[1]["topic"], "l/a");
        if way.own {
            assert_eq!(heard[1]["properties"]["topicAlias"], 1);
        }
        // A client's own aliases.
        let granted = answer["properties"]["topicAliasMaximum"].as_u64().unwrap();
        assert!(granted >= 2, "{answer}");
        let alias = r#"{"topicAlias":2}"#;
        two.publish("l/alias", "first", "1", &[("properties", alias)]);
        two.publish("", "second", "1", &[("properties", alias)]);
        let heard = two.heard(2);
        assert_eq!([&heard[0]["topic"], &heard[1]["topic"]], ["l/alias"; 2]);
        // Two messages at a time: the third comes when the first is acknowledged.
        let mut slow = TcpStream::connect(way.finback.local("mqtt")).unwrap();
        slow.set_read_timeout(Some(PATIENCE)).unwrap();
        slow.write_all(b"\x10\x13\0\x04MQTT\x05\x02\0\x3c\x03\x21\0\x02\0\x03slw")
            .unwrap();
        assert_eq!(packet(&mut slow)[..1], [0x20]);
        slow.write_all(b"\x82\x07\0\x01\0\0\x01s\x01").unwrap();
        assert_eq!(packet(&mut slow)[..1], [0x90]);
        for payload in ["1", "2", "3"] {
            one.publish("s", payload, "1", &[]);
        }
        let first = packet(&mut slow);
        let second = packet(&mut slow);
        slow.set_read_timeout(Some(QUIET)).unwrap();
        slow.read_exact(&mut [0]).unwrap_err();
        slow.set_read_timeout(Some(PATIENCE)).unwrap();
        slow.write_all(&[0x40, 2, first[5], first[6]]).unwrap();
        let third = packet(&mut slow);
        let said: Vec<_> = [first, second, third]
            .iter()
            .map(|own| own.last().copied())
            .collect();
        assert_eq!(said, [Some(b'1'), Some(b'2'), Some(b'3')]);
        for own in [one, two] {
            own.ask("end", &[]);
        }
    }
    // More messages at a time than the broker grants.
    let options = broker::Options {
        receive_maximum: 3,
        ..broker::Options::default()
    };
    let finback = front(&own(options).to_string());
    let mut eager = TcpStream::connect(finback.local("mqtt")).unwrap();
    eager.set_read_timeout(Some(PATIENCE)).unwrap();
    eager
        .write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01e")
        .unwrap();
    for id in 1..=4 {
        eager.write_all(&[0x34, 6, 0, 1, b't', 0, id, 0]).unwrap();
    }
    let mut answers = Vec::new();
    eager.read_to_end(&mut answers).unwrap();
    assert!(
        answers
            .windows(3)
            .any(|own| own[0] == 0xe0 && own[2] == 0x93),
        "{answers:x?}"
    );
}

#[test]
fn sessions_messages_and_wills_last_as_long_as_they_say() {
    let peer = Peer::mqtt();
    for way in ways() {
        let (one, _) = Client::connect(&way, &peer, "one", &[("version", "5")]);
        // A session of a second is there after a moment, and is gone after two.
        let expiry = |seconds: u32| format!(r#"{{"sessionExpiryInterval":{seconds}}}"#);
        let second = expiry(1);
        let short = [
            ("version", "5"),
            ("clean", "false"),
            ("properties", &*second),
        ];
        let present = || {
            let (own, answer) = Client::connect(&way, &peer, "short", &short);
            (own, answer["present"] == true)
        };
        let (own, known) = present();
        assert!(!known);
        own.subscribe("e", "1", &[]);
        own.ask("end", &[]);
        let (own, known) = present();
        assert!(known);
        own.ask("end", &[]);
        std::thread::sleep(Duration::from_millis(2500));
        let (own, known) = present();
        assert!(!known);
        // What its DISCONNECT says holds.
        own.ask("end", &[("properties", &expiry(0))]);
        let (own, known) = present();
        assert!(!known);
        own.subscribe("e", "1", &[]);
        own.ask("end", &[("properties", &expiry(100))]);
        // A message that nobody wants after a second, and one that somebody does.
        for (payload, seconds) in [("old", 1), ("young", 100)] {
            let lasts = format!(r#"{{"messageExpiryInterval":{seconds}}}"#);
            one.publish("e", payload, "1", &[("properties", &lasts)]);
        }
        std::thread::sleep(Duration::from_millis(2500));
        let (own, known) = present();
        assert!(known);
        let heard = own.heard(1);
        assert_eq!(heard[0]["payload"], "young");
        let left = heard[0]["properties"]["messageExpiryInterval"]
            .as_u64()
            .unwrap();
        assert!((90..=98).contains(&left), "{left}");
        // A will that is delayed, and is not published if its session goes on before.
        one.subscribe("will/#", "1", &[]);
        let will = |delay: u32| {
            let properties = json!({ "willDelayInterval": delay });
            json!({ "topic": "will/x", "payload": delay.to_string(), "qos": 1, "properties": properties })
                .to_string()
        };
        let leave = |delay: u32, expiry_seconds: u32| {
            let (will, lasts) = (will(delay), expiry(expiry_seconds));
            let fields = [
                ("version", "5"),
                ("clean", "false"),
                ("properties", &*lasts),
                ("will", &*will),
            ];
            let (own, _) = Client::connect(&way, &peer, "dying", &fields);
            own.ask("end", &[("force", "true")]);
            Instant::now()
        };
        let left = leave(2, 100);
        assert_eq!(one.payloads(1), ["2"]);
        let delay = left.elapsed();
        assert!(delay > Duration::from_millis(1500), "{delay:?}");
        leave(3, 100);
        let back = expiry(100);
        let back = [("version", "5"), ("clean", "false"), ("properties", &*back)];
        let (own, answer) = Client::connect(&way, &peer, "dying", &back);
        assert_eq!(answer["present"], true);
        own.ask("end", &[("properties", &expiry(0))]);
        std::thread::sleep(Duration::from_millis(3500));
        assert_eq!(one.heard(0).len(), 0);
        // The session's end is the will's too. Mosquitto 2.0.11 waits for its delay.
        if way.own {
            let left = leave(20, 1);
            assert_eq!(one.payloads(1), ["20"]);
            assert!(left.elapsed() < Duration::from_secs(5));
        }
        one.ask("end", &[]);
    }
}

#[test]
fn anybody_may_use_the_broker_of_the_demo() {
    let demo = Process::start(
        "demo",
        Command::new(env!("CARGO_BIN_EXE_finback")).args(["demo", "--duration", "60"]),
    );
    let port = demo.wait_for("address", PATIENCE, 0, |line| {
        let address = line.strip_prefix("One port, ")?.split(',').next()?;
        address.rsplit(':').next().map(str::to_owned)
    });
    let missing =
        "mosquitto_sub is missing: run `make peers`, or `apt-get install mosquitto-clients`";
    let hearing = Process::start(
        "mosquitto_sub",
        Command::new("stdbuf").args([
            "-oL",
            "mosquitto_sub",
            "-p",
            &port,
            "-i",
            "a",
            "-t",
            "hello/#",
            "-v",
            "-d",
        ]),
    );
    hearing.wait_for("a subscription", PATIENCE, 0, |line| {
        line.starts_with("Subscribed").then_some(())
    });
    // Whichever of the two addresses each of them was led to.
    for client in ["b", "c", "d"] {
        let said = Command::new("mosquitto_pub")
            .args([
                "-p",
                &port,
                "-i",
                client,
                "-t",
                "hello/world",
                "-m",
                client,
                "-q",
                "2",
            ])
            .status()
            .expect(missing);
        assert!(said.success());
        hearing.wait_for("message", PATIENCE, 0, |line| {
            (line == format!("hello/world {client}")).then_some(())
        });
    }
}
