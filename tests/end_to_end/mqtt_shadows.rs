//! Shadow traffic of MQTT: copies of messages that nobody acknowledges, between two real brokers, with paho's client.

use std::time::Duration;

use serde_json::{Value, json};

use crate::matrix::clients::paho;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;

const PATIENCE: Duration = Duration::from_secs(20);

fn front(broker: &str, shadow: &str, more: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt: [ {{ to: {{ cluster: brokers }}, shadow: {{ cluster: shadow{more} }} }} ]
clusters:
  brokers: {{ endpoints: [ "{broker}" ] }}
  shadow: {{ endpoints: [ "{shadow}" ] }}
"#
    ))
}

/// A session of paho's under a name of its own.
struct Session<'a>(&'a Peer, String);

impl<'a> Session<'a> {
    fn begin(peer: &'a Peer, name: &str, port: u16, version: &str) -> Self {
        let port = port.to_string();
        let fields = [
            ("name", name),
            ("host", "127.0.0.1"),
            ("port", &port),
            ("version", version),
            ("id", name),
            ("topic", "plant/#"),
        ];
        let told = peer.ask("watch", &fields).unwrap();
        assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
        Self(peer, name.to_owned())
    }

    fn publish(&self, fields: &[(&str, &str)]) {
        let fields = [&[("name", self.1.as_str())], fields].concat();
        self.0.ask("publish", &fields).unwrap();
    }

    /// So many messages, or as many as come within some seconds.
    fn heard(&self, count: usize, seconds: &str) -> Vec<Value> {
        let count = count.to_string();
        let fields = [("name", &*self.1), ("count", &count), ("wait", seconds)];
        let heard = self.0.ask("heard", &fields).unwrap();
        heard.as_array().unwrap().clone()
    }
}

/// Has the shadow's session be there: a first message is sent until a copy of it arrives.
fn warm(own: &Session<'_>, there: &Session<'_>) {
    eventually("a copy", PATIENCE, || {
        own.publish(&[("topic", "plant/warm"), ("payload", "warm")]);
        match there.heard(1, "0.5").is_empty() {
            true => Err("none".to_owned()),
            false => Ok(()),
        }
    });
    while !there.heard(1, "0.5").is_empty() {}
    while !own.heard(1, "0.2").is_empty() {}
}

#[test]
fn what_nobody_acknowledges_is_copied_with_its_mark_and_nothing_else_is() {
    let (broker, shadow) = (Mosquitto::start(), Mosquitto::start());
    let mark = ", mark: { x-shadow: \"1\" }";
    let finback = front(&broker.address(), &shadow.address(), mark);
    let peer = paho();
    for version in ["4", "5"] {
        let name = |own: &str| format!("{own}-{version}");
        let there = Session::begin(&peer, &name("there"), shadow.port, version);
        let own = Session::begin(&peer, &name("own"), finback.port("mqtt"), version);
        warm(&own, &there);
        for qos in ["1", "0", "2"] {
            let payload = format!("qos {qos} number #");
            let fields = [("topic", "plant/1"), ("payload", &*payload), ("qos", qos)];
            let more = [("count", "20"), ("own", "unit=kelvin")];
            own.publish(&[&fields[..], &more].concat());
        }
        let heard = own.heard(60, "20");
        assert_eq!(heard.len(), 60, "{heard:?}");
        let copies = there.heard(21, "2");
        let properties = match version {
            "5" => json!([["unit", "kelvin"], ["x-shadow", "1"]]),
            _ => json!([]),
        };
        let expected: Vec<_> = (0..20)
            .map(|number| {
                let payload = format!("qos 0 number {number}");
                json!({ "topic": "plant/1", "payload": payload, "qos": 0, "retain": false, "own": properties })
            })
            .collect();
        assert_eq!(copies, expected, "{version}");
        // What its own broker gets is not marked.
        assert!(
            heard
                .iter()
                .all(|own| !own["own"].to_string().contains("x-shadow"))
        );
    }
    // It is one session for all of a version, in the listener of copies.
    let sessions = finback.metric("finback_requests_total", "listener=\"(shadow)\"");
    let sessions = sessions + finback.metric("finback_mqtt_connacks_total", "(shadow)");
    assert!(sessions <= 2, "{sessions}");
    assert_eq!(finback.cluster("shadow").unwrap()["in_flight"], 2);
}

#[test]
fn a_share_is_copied() {
    let (broker, shadow) = (Mosquitto::start(), Mosquitto::start());
    let finback = front(&broker.address(), &shadow.address(), ", percent: 20");
    let peer = paho();
    let there = Session::begin(&peer, "there", shadow.port, "5");
    let own = Session::begin(&peer, "own", finback.port("mqtt"), "5");
    warm(&own, &there);
    own.publish(&[("topic", "plant/1"), ("payload", "#"), ("count", "1000")]);
    assert_eq!(own.heard(1000, "20").len(), 1000);
    // Five standard deviations of 200 copies are 63.
    let copies = there.heard(1000, "3").len();
    assert!((137..=263).contains(&copies), "{copies}");
}

#[test]
fn a_shadow_that_hangs_or_is_gone_is_not_noticed() {
    let (broker, mut shadow) = (Mosquitto::start(), Mosquitto::start());
    let finback = front(&broker.address(), &shadow.address(), "");
    let peer = paho();
    let own = Session::begin(&peer, "own", finback.port("mqtt"), "5");
    {
        let there = Session::begin(&peer, "there", shadow.port, "5");
        warm(&own, &there);
    }
    let dropped = || finback.metric("finback_shadows_dropped_total", "");
    let all_arrive = |count: usize, size: &str| {
        let before = dropped();
        let number = count.to_string();
        let fields = [("topic", "plant/1"), ("count", &*number), ("size", size)];
        own.publish(&fields);
        assert_eq!(own.heard(count, "20").len(), count);
        dropped() - before
    };
    // It reads nothing any more: what waits for it is bounded, by number and by bytes.
    shadow.process().signal("STOP");
    assert!(all_arrive(1500, "20000") > 500);
    shadow.process().signal("CONT");
    shadow.kill();
    assert!(all_arrive(1500, "10") > 500);
    let cluster = finback.cluster("brokers").unwrap();
    assert_eq!(cluster["ejections"], 0, "{cluster}");
    assert_eq!(cluster["in_flight"], 1, "{cluster}");
    // It comes back, and so do copies.
    shadow.restart();
    let there = Session::begin(&peer, "again", shadow.port, "5");
    warm(&own, &there);
}
