//! Filters and sessions of MQTT: other names of a topic, subscriptions of before, and who is asked about where no broker is.

use std::process::Command;
use std::time::Duration;

use rdkafka::mocking::MockCluster;

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::{Mosquitto, tool};
use crate::support::mqtt::{Raw, connect, connect_with, packet, reason, text};
use crate::support::policy::decided;
use crate::support::temporary_folder;

const PATIENCE: Duration = Duration::from_secs(20);
/// Where these bits of CONNECT stand.
const FLAGS: usize = 9;

fn front(broker: &Mosquitto, rules: &str) -> String {
    format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }}, filters: [ own ] }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
filters: {{ own: {{ authorization: {{ {rules} }} }} }}
"#,
        broker.address()
    )
}

/// Topics that may be published to and subscribed to.
fn only(topics: &str) -> String {
    format!(
        "rules: [ {{ effect: allow, match: {{ protocol: mqtt }}, actions: [ connect ] }}, \
         {{ effect: allow, match: {{ protocol: mqtt }}, topics: [ {topics} ] }} ]"
    )
}

/// What SUBACK says.
fn subscribe(raw: &mut Raw, version: u8, filter: &str) -> u8 {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let body = [&[0, 1][..], properties, &text(filter), &[1]].concat();
    raw.say(&packet(0x82, &body));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x90, "{answer:?}");
    *answer.last().unwrap()
}

/// What PUBACK says; 0 before MQTT 5.
fn publish(raw: &mut Raw, version: u8, topic: &str) -> u8 {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let body = [&text(topic)[..], &[0, 9], properties, b"x"].concat();
    raw.say(&packet(0x32, &body));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x40, "{answer:?}");
    answer.get(4).copied().unwrap_or(0)
}

/// A CONNECT of a session that its broker keeps.
fn lasting(version: u8, id: &str) -> Vec<u8> {
    let hour = [0x11, 0, 0, 0x0e, 0x10];
    let mut bytes = match version {
        5 => connect_with(5, id, None, &hour),
        _ => connect(version, id, None),
    };
    bytes[FLAGS] = 0;
    bytes
}

#[test]
fn other_names_of_a_topic_are_no_way_around() {
    let broker = Mosquitto::start();
    let denies = Finback::start(&front(
        &broker,
        "default: allow, rules: [ { effect: deny, match: { protocol: mqtt }, topics: [ \"plant/secret\" ] } ]",
    ));
    let allows = Finback::start(&front(&broker, &only("\"plant/#\"")));
    for finback in [&denies, &allows] {
        let mut own = Raw::session(&finback.local("mqtt"), &connect(5, "dev", None));
        for filter in ["$exclusive/plant/1", "$queue/plant/1", "$share/g/plant/1"] {
            assert_ne!(subscribe(&mut own, 5, filter), 0x87, "{filter}");
        }
        let mut own = Raw::session(&finback.local("mqtt"), &connect(5, "other", None));
        for topic in ["plant/1", "$delayed/5/plant/1"] {
            assert_ne!(publish(&mut own, 5, topic), 0x87, "{topic}");
        }
        assert_eq!(
            publish(&mut own, 5, "$delayed/x/other") == 0x87,
            std::ptr::eq(finback, &allows)
        );
    }
    let mut own = Raw::session(&denies.local("mqtt"), &connect(5, "dev", None));
    for filter in [
        "plant/secret",
        "$queue/plant/secret",
        "$exclusive/plant/+",
        "$share/g/plant/secret",
        "$oshare/g/plant/secret",
        "$anything/x/plant/secret",
    ] {
        assert_eq!(subscribe(&mut own, 5, filter), 0x87, "{filter}");
    }
    for topic in [
        "plant/secret",
        "$delayed/5/plant/secret",
        "$anything/plant/secret",
    ] {
        assert_eq!(publish(&mut own, 5, topic), 0x87, "{topic}");
    }
    let mut own = Raw::session(&allows.local("mqtt"), &connect(5, "dev", None));
    for filter in ["other", "$queue/other", "$exclusive/#", "$anything/plant/1"] {
        assert_eq!(subscribe(&mut own, 5, filter), 0x87, "{filter}");
    }
    for topic in ["other", "$delayed/5/other", "$anything/plant/1"] {
        assert_eq!(publish(&mut own, 5, topic), 0x87, "{topic}");
    }
}

#[test]
fn a_subscription_that_is_not_allowed_any_more_ends_its_session() {
    let broker = Mosquitto::start();
    let finback = Finback::start(&front(&broker, &only("\"plant/#\"")));
    let at = finback.local("mqtt");
    let open = |version, id: &str, filter: &str| {
        let mut raw = Raw::session(&at, &connect(version, id, None));
        assert_eq!(subscribe(&mut raw, version, filter), 1);
        raw
    };
    let mut five = open(5, "five", "plant/1");
    let mut three = open(4, "three", "plant/1");
    let mut wide = open(5, "wide", "plant/+");
    let mut stays = open(5, "stays", "plant/2");
    let mut gave_up = open(5, "gave-up", "plant/1");
    let body = [&[0, 2, 0][..], &text("plant/1")].concat();
    gave_up.say(&packet(0xa2, &body));
    assert_eq!(gave_up.hear().unwrap()[0], 0xb0);
    finback.reload(&front(&broker, &only("\"plant/2\"")));
    for ended in [&mut five, &mut wide] {
        let last = ended.hear().unwrap();
        assert_eq!((last[0], reason(&last)), (0xe0, 0x87), "{last:?}");
        assert!(ended.hear().is_none());
    }
    assert!(three.hear().is_none());
    for raw in [&mut stays, &mut gave_up] {
        raw.say(b"\xc0\0");
        assert_eq!(raw.hear().unwrap(), b"\xd0\0");
    }
}

#[test]
fn what_a_broker_kept_of_a_session_is_heard_only_as_allowed_now() {
    let broker = Mosquitto::start();
    let finback = Finback::start(&front(&broker, &only("\"plant/#\"")));
    let at = finback.local("mqtt");
    for version in [4, 5] {
        let mut raw = Raw::session(&at, &lasting(version, &format!("kept-{version}")));
        assert_eq!(subscribe(&mut raw, version, "plant/1"), 1);
        assert_eq!(subscribe(&mut raw, version, "plant/2"), 1);
    }
    finback.reload(&front(&broker, &only("\"plant/2\"")));
    for version in [4, 5] {
        // The former one has gone.
        let mut raw = Raw::session(&at, &lasting(version, &format!("kept-{version}")));
        for topic in ["plant/1", "plant/2"] {
            tool(
                "mosquitto_pub",
                broker.port,
                &["-t", topic, "-m", topic, "-q", "1"],
            );
        }
        // What was queued while it was away, too.
        let mut count = 0;
        while !raw.waits_in_vain(Duration::from_millis(500)) {
            let heard = raw.hear().unwrap();
            let said = String::from_utf8_lossy(&heard).into_owned();
            let is_allowed = said.contains("plant/2") && !said.contains("plant/1");
            assert!(heard[0] & 0xf0 == 0x30 && is_allowed, "{said}");
            count += 1;
        }
        assert!(count > 0, "{version}");
    }
}

/// A file of users, as `mosquitto_passwd` writes it.
fn users(name: &str, password: &str) -> String {
    let file = temporary_folder().join("users");
    std::fs::write(&file, "").unwrap();
    let mut command = Command::new("mosquitto_passwd");
    let made = command.arg("-b").arg(&file).args([name, password]).status();
    assert!(
        made.expect("mosquitto_passwd is missing: run `make peers`")
            .success()
    );
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn nothing_is_used_up_in_a_name_that_was_not_proved() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("up", 1, 1).unwrap();
    let config = format!(
        r#"
workers: 1
kafka: {{ events: {{ brokers: "{}" }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", protocol: mqtt, routes: all, filters: [ once, who ] }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: up }}
      mqtt: {{ authenticate: {{ users: users }} }}
filters:
  once: {{ rate_limit: {{ rate: 2/h, burst: 2, per: [ {{ attribute: ":username" }} ] }} }}
  who:
    authorization:
      default: allow
      rules: [ {{ effect: deny, match: {{ protocol: mqtt, username: mallory }} }} ]
"#,
        cluster.bootstrap_servers()
    );
    let users = users("alice", "secret") + &users("mallory", "own");
    let finback = Finback::start_with(&config, &[("users", &users)]);
    let at = finback.local("all");
    let enters = |user: &str, password: &str| {
        let own = connect(5, "dev", Some((user, password)));
        let mut raw = Raw::open(&at, &own);
        let code = reason(&raw.hear().unwrap());
        (code, raw)
    };
    // Whoever fails to prove the name is told that, and nothing about the name.
    for _ in 0..4 {
        assert_eq!(enters("alice", "guess").0, 0x86);
        assert_eq!(enters("mallory", "guess").0, 0x86);
    }
    assert_eq!(decided(&finback, "once", "limited"), 0);
    let codes: Vec<u8> = (0..3).map(|_| enters("alice", "secret").0).collect();
    assert_eq!(codes, [0, 0, 0x9f]);
    assert_eq!(enters("mallory", "own").0, 0x87);
    let said = eventually("the log of access", PATIENCE, || {
        match finback.admin("/metrics").1 {
            page if page.contains("rule=\"who[0]\",decision=\"denied\"} 1") => Ok(page),
            page => Err(page),
        }
    });
    assert!(!said.is_empty());
}

#[test]
fn a_session_is_judged_by_filters_of_another_name_as_well() {
    let broker = Mosquitto::start();
    let text = front(&broker, &only("\"plant/#\""));
    let finback = Finback::start(&text);
    let mut own = Raw::session(&finback.local("mqtt"), &connect(5, "dev", None));
    assert_eq!(publish(&mut own, 5, "other"), 0x87);
    finback.reload(&text.replace("own", "other-name"));
    assert_eq!(publish(&mut own, 5, "other"), 0x87);
    assert_ne!(publish(&mut own, 5, "plant/1"), 0x87);
    let fewer = front(&broker, &only("\"plant/2\""));
    finback.reload(&fewer.replace("own", "third"));
    assert_eq!(publish(&mut own, 5, "plant/1"), 0x87);
}

#[test]
fn messages_are_judged_by_what_the_filters_before_left_of_connect() {
    let broker = Mosquitto::start();
    let config = |filters: &str| {
        format!(
            r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }}, filters: [ {filters} ] }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
filters:
  strip: {{ strip: {{ attributes: [ x-role ], source: 203.0.113.0/24 }} }}
  who:
    authorization:
      rules:
        - {{ effect: allow, match: {{ protocol: mqtt }}, actions: [ connect ] }}
        - {{ effect: allow, match: {{ protocol: mqtt, attributes: {{ x-role: admin }} }}, topics: [ plant ] }}
"#,
            broker.address()
        )
    };
    let admin = [&[0x26][..], &text("x-role"), &text("admin")].concat();
    for (filters, reasons) in [("strip, who", [0x87; 2]), ("who, strip", [0x10, 0x87])] {
        let finback = Finback::start(&config(filters));
        let hello = connect_with(5, "dev", None, &admin);
        let mut own = Raw::session(&finback.local("mqtt"), &hello);
        let before = publish(&mut own, 5, "plant");
        // What a filter took away that is gone is not there again.
        let renamed = config(&filters.replace("strip", "other"));
        finback.reload(&renamed.replace("  strip: {", "  other: {"));
        let after = publish(&mut own, 5, "plant");
        assert_eq!([before, after], reasons, "{filters}");
    }
}

#[test]
fn who_publishes_too_many_bytes_is_slowed_down() {
    let broker = Mosquitto::start();
    let limit = "rate_limit: { rate: 50000/s, burst: 1000, unit: message_bytes }";
    let config = front(&broker, "");
    let finback = Finback::start(&config.replace("authorization: {  }", limit));
    let mut own = Raw::session(&finback.local("mqtt"), &connect(5, "dev", None));
    let body = [&text("t")[..], &[0, 9, 0], &vec![b'x'; 10_000]].concat();
    let begun = std::time::Instant::now();
    for _ in 0..11 {
        own.say(&packet(0x32, &body));
        let answer = own.hear().unwrap();
        assert_eq!(answer[0], 0x40, "{answer:?}");
    }
    // The first goes at once; each costs a fifth of a second to those that follow.
    let took = begun.elapsed().as_secs_f64();
    assert!(
        (1.7..4.0).contains(&took),
        "100 KB at 50 KB/s took {took} s"
    );
}
