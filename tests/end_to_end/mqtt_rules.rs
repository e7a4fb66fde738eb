//! What holds between a client of MQTT, the proxy and its broker: who is known before anything happens
//! in its name, whose limits bind whom, and which names lead where.

use std::process::Command;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::mqtt::{Raw, connect, connect_with, packet, reason, text};
use crate::support::{eventually, free_port, temporary_folder};

const QUIET: Duration = Duration::from_millis(400);

/// A proxy in front of brokers that take turns, with a listener and a route that say more.
fn front(brokers: &[&Mosquitto], listener: &str, policy: &str) -> Finback {
    let endpoints: Vec<String> = brokers.iter().map(|own| own.address()).collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt{listener} }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }}, mqtt: {{ {policy} }} }} ] }}
clusters: {{ brokers: {{ endpoints: {endpoints:?} }} }}
"#
    ))
}

/// A broker that lets in those who know their password: their name.
fn strict(users: &[&str]) -> Mosquitto {
    let file = temporary_folder().join("passwords");
    std::fs::write(&file, "").unwrap();
    for user in users {
        let made = Command::new("mosquitto_passwd")
            .args(["-b", file.to_str().unwrap(), user, user])
            .status();
        assert!(made.unwrap().success());
    }
    let file = file.display();
    Mosquitto::start_with(&format!("allow_anonymous false\npassword_file {file}"))
}

fn subscribe(raw: &mut Raw, version: u8, filter: &str, qos: u8) -> u8 {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    raw.say(&packet(
        0x82,
        &[&[0, 1][..], properties, &text(filter), &[qos]].concat(),
    ));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x90, "{answer:?}");
    *answer.last().unwrap()
}

/// A PUBLISH of MQTT 5, quality 1.
fn publish(topic: &str, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut length = Vec::new();
    length.extend(packet(0, properties)[1..].iter());
    let body = [&text(topic)[..], &[0, 7], &length, payload].concat();
    packet(0x32, &body)
}

/// The topic of a PUBLISH.
fn topic(message: &[u8]) -> String {
    assert_eq!(message[0] >> 4, 3, "{message:?}");
    let header = message
        .iter()
        .skip(1)
        .take_while(|own| **own >= 0x80)
        .count()
        + 2;
    let length = usize::from(message[header]) << 8 | usize::from(message[header + 1]);
    String::from_utf8(message[header + 2..header + 2 + length].to_vec()).unwrap()
}

fn expect_pong(raw: &mut Raw) {
    raw.say(b"\xc0\0");
    assert_eq!(raw.hear().unwrap(), b"\xd0\0");
}

#[test]
fn who_does_not_log_in_ends_and_refuses_nobodys_session() {
    let broker = strict(&["alice"]);
    for duplicates in ["take-over", "refuse"] {
        let finback = front(&[&broker], "", &format!("duplicates: {duplicates}"));
        let address = finback.local("mqtt");
        let alice = connect(5, "dev-1", Some(("alice", "alice")));
        let mut own = Raw::session(&address, &alice);
        for user in [Some(("alice", "guess")), Some(("mallory", "alice")), None] {
            let mut intruder = Raw::open(&address, &connect(5, "dev-1", user));
            let refused = reason(&intruder.hear().unwrap());
            assert!(matches!(refused, 0x85..=0x87), "{refused:#x}");
            assert!(intruder.hear().is_none());
            expect_pong(&mut own);
        }
        // Neither does one whose answer is still to come.
        drop(own);
        eventually("its place to be free", Duration::from_secs(5), || {
            let mut own = Raw::open(&address, &alice);
            let code = reason(&own.hear().unwrap());
            if code == 0 {
                Ok(())
            } else {
                Err(code.to_string())
            }
        });
    }
}

#[test]
fn who_has_logged_in_takes_the_place_and_the_former_is_told_once() {
    let broker = strict(&["alice"]);
    let finback = front(&[&broker], "", "duplicates: take-over");
    let address = finback.local("mqtt");
    let alice = connect(5, "dev-1", Some(("alice", "alice")));
    let mut former = Raw::session(&address, &alice);
    let mut own = Raw::session(&address, &alice);
    let last = former.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x8e));
    assert!(former.hear().is_none());
    expect_pong(&mut own);
}

#[test]
fn duplicates_are_those_whom_the_broker_sees_as_one() {
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let brokers = [&brokers[0], &brokers[1]];
    let policy = "duplicates: take-over, client_id: \"{username}\"";
    let finback = front(&brokers, "", policy);
    let address = finback.local("mqtt");
    let client = |id: &str, user: &str| Raw::session(&address, &connect(5, id, Some((user, ""))));
    // Two to their brokers, though they have one identifier.
    let mut one = client("same", "u1");
    let mut two = client("same", "u2");
    expect_pong(&mut one);
    expect_pong(&mut two);
    // One to their brokers, though they are at different ones and have two identifiers.
    let mut other = client("another", "u1");
    let last = one.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x8e));
    expect_pong(&mut other);
    expect_pong(&mut two);
    // Another cluster has sessions of its own: the same file with two routes.
    let endpoints: Vec<String> = brokers.iter().map(|own| own.address()).collect();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes:
  mqtt:
    - {{ match: {{ username: u1 }}, to: {{ cluster: one }}, mqtt: {{ duplicates: take-over }} }}
    - {{ to: {{ cluster: two }}, mqtt: {{ duplicates: take-over }} }}
clusters: {{ one: {{ endpoints: [ "{}" ] }}, two: {{ endpoints: [ "{}" ] }} }}
"#,
        endpoints[0], endpoints[1]
    ));
    let address = finback.local("mqtt");
    let client = |user: &str| Raw::session(&address, &connect(5, "same", Some((user, ""))));
    let mut one = client("u1");
    let mut two = client("u2");
    expect_pong(&mut one);
    expect_pong(&mut two);
}

#[test]
fn the_will_of_one_whose_place_is_taken_is_published() {
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let finback = front(&[&brokers[0], &brokers[1]], "", "duplicates: take-over");
    let address = finback.local("mqtt");
    let mut watchers: Vec<Raw> = brokers
        .iter()
        .map(|broker| {
            let mut raw = Raw::session(&broker.address(), &connect(4, "watcher", None));
            subscribe(&mut raw, 4, "will", 0);
            raw
        })
        .collect();
    // A clean session with a will, of MQTT 3.1.1.
    let body = [
        &text("MQTT")[..],
        &[4, 6, 0, 60],
        &text("dev"),
        &text("will"),
        &text("gone"),
    ];
    let first = Raw::session(&address, &packet(0x10, &body.concat()));
    // The next one is at the other broker, as they take turns.
    let second = Raw::session(&address, &connect(4, "dev", None));
    let heard = watchers.iter_mut().any(|raw| !raw.waits_in_vain(QUIET));
    assert!(heard, "no will was published");
    drop((first, second));
}

#[test]
fn whatever_a_broker_sends_is_passed_on_or_left_out_and_ends_no_session() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], "", "mountpoint: \"tenants/{username}/\"");
    let address = finback.local("mqtt");
    let mut direct = Raw::session(&broker.address(), &connect(5, "direct", None));
    let user = [&[0x26][..], &text("a"), &text("b")].concat();
    let deep = format!("tenants/acme/{}x", "d/".repeat(100));
    let big = [&[0x26][..], &text("big"), &text(&"v".repeat(20_000))].concat();
    let properties = [
        ("deep", deep.clone(), Vec::new()),
        ("many", "tenants/acme/many".to_owned(), user.repeat(200)),
        ("big", "tenants/acme/big".to_owned(), big),
        (
            "response",
            "tenants/acme/response".to_owned(),
            [&[8][..], &text(&"r/".repeat(100))].concat(),
        ),
    ];
    for (what, name, properties) in &properties {
        let mut message = publish(name, properties, b"x");
        // Kept for later subscribers, who meet it again and again.
        message[0] |= 1;
        direct.say(&message);
        let answer = direct.hear().unwrap();
        assert_eq!(answer[0], 0x40, "{what}: {answer:?}");
    }
    for version in [4, 5] {
        let client = connect(version, "sub", Some(("acme", "")));
        for qos in [0, 1, 2] {
            let mut raw = Raw::session(&address, &client);
            assert_eq!(subscribe(&mut raw, version, "#", qos), qos);
            let mut heard: Vec<String> = (0..properties.len())
                .map(|_| topic(&raw.hear().unwrap()))
                .collect();
            heard.sort();
            assert_eq!(heard[1], deep["tenants/acme/".len()..], "{heard:?}");
            expect_pong(&mut raw);
        }
    }
}

#[test]
fn levels_are_counted_with_the_mount_point() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], "", "mountpoint: \"tenants/{username}/\"");
    let address = finback.local("mqtt");
    let first = connect(5, "pub", Some(("acme", "")));
    let levels = |count: usize| vec!["l"; count].join("/");
    let mut raw = Raw::session(&address, &first);
    raw.say(&publish(&levels(62), &[], b"x"));
    assert_eq!(raw.hear().unwrap()[0], 0x40);
    assert_eq!(subscribe(&mut raw, 5, &levels(62), 0), 0);
    assert_eq!(subscribe(&mut raw, 5, &levels(63), 0), 0x8f);
    raw.say(&publish(&levels(63), &[], b"x"));
    let last = raw.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x90));
}

#[test]
fn a_message_too_long_for_its_client_is_acknowledged_and_left_out() {
    let broker = Mosquitto::start();
    let rewrite = "rewrite: [ { from: \"a-rather-long-name-of-a-folder/\", to: \"n/\" } ]";
    let finback = front(&[&broker], "", rewrite);
    let mut direct = Raw::session(&broker.address(), &connect(5, "direct", None));
    // One message on its way at a time, of 80 bytes at most.
    let limits = [0x21, 0, 1, 0x27, 0, 0, 0, 80];
    let first = connect_with(5, "sub", None, &limits);
    let mut raw = Raw::session(&finback.local("mqtt"), &first);
    let folder = "a-rather-long-name-of-a-folder/";
    assert_eq!(subscribe(&mut raw, 5, &format!("{folder}#"), 2), 2);
    for qos in [1, 2] {
        for (name, length) in [("n/long", 60), ("n/short", 1)] {
            let mut message = publish(name, &[], &vec![b'x'; length]);
            message[0] = 0x30 | qos << 1;
            direct.say(&message);
            direct.hear().unwrap();
            if qos == 2 {
                direct.say(b"\x62\x02\0\x07");
                direct.hear().unwrap();
            }
        }
        let heard = raw.hear().unwrap();
        assert_eq!(topic(&heard), format!("{folder}short"));
        let id = [heard[heard.len() - 4], heard[heard.len() - 3]];
        raw.say(&packet(if qos == 1 { 0x40 } else { 0x50 }, &id));
        if qos == 2 {
            assert_eq!(raw.hear().unwrap()[0], 0x62);
            raw.say(&packet(0x70, &id));
        }
        expect_pong(&mut raw);
    }
    let (_, metrics) = finback.admin("/metrics");
    assert!(metrics.contains("too_large"), "{metrics}");
}

/// The numbers of these properties in a CONNACK.
fn granted(connack: &[u8]) -> Vec<(u8, u64)> {
    let mut at = 5;
    let mut found = Vec::new();
    while let Some(id) = connack.get(at) {
        let length = match id {
            0x27 | 0x11 => 4,
            0x21 | 0x22 | 0x13 => 2,
            0x24 | 0x25 | 0x28..=0x2a => 1,
            _ => panic!("{id:#x} in {connack:?}"),
        };
        let value = connack[at + 1..at + 1 + length].iter();
        found.push((*id, value.fold(0, |sum, byte| sum << 8 | u64::from(*byte))));
        at += 1 + length;
    }
    found
}

#[test]
fn clients_are_told_the_limits_that_hold_for_them() {
    let broker = Mosquitto::start();
    let low = Mosquitto::start_with("allow_anonymous true\nmax_packet_size 2000");
    let first = connect(5, "dev", Some(("acme", "")));
    let connack = |broker: &Mosquitto, policy: &str| {
        let finback = front(&[broker], "", policy);
        let mut raw = Raw::open(&finback.local("mqtt"), &first);
        granted(&raw.hear().unwrap())
    };
    let plain = connack(&broker, "denied: close");
    assert!(plain.contains(&(0x27, 1 << 20)), "{plain:?}");
    let mounted = connack(&broker, "mountpoint: \"t/\"");
    assert!(mounted.contains(&(0x27, 1 << 20)), "{mounted:?}");
    assert!(mounted.iter().any(|(id, most)| *id == 0x21 && *most <= 100));
    let below = connack(&low, "denied: close");
    assert!(below.contains(&(0x27, 2000)), "{below:?}");
    // A message of that length still has to get its mount point.
    let below = connack(&low, "mountpoint: \"t/\"");
    let most = below.iter().find(|(id, _)| *id == 0x27).unwrap().1;
    assert!((1980..1999).contains(&most), "{below:?}");
    let finback = front(&[&low], "", "mountpoint: \"t/\"");
    let mut raw = Raw::session(&finback.local("mqtt"), &first);
    let payload = vec![b'x'; usize::try_from(most).unwrap() - 10];
    let message = publish("name", &[], &payload);
    assert!(message.len() as u64 <= most + 4, "{}", message.len());
    raw.say(&publish("name", &[], &payload[..payload.len() - 4]));
    assert_eq!(raw.hear().unwrap()[0], 0x40);
}

#[test]
fn a_connect_with_a_large_will_is_accepted_or_told_that_it_is_too_long() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], "", "denied: close");
    let address = finback.local("mqtt");
    let will = |version: u8, payload: usize, more: usize| {
        let own: &[u8] = if version == 5 { &[0] } else { &[] };
        let long = |length: usize| {
            let length = u16::try_from(length).unwrap();
            [&length.to_be_bytes()[..], &vec![b'w'; length.into()]].concat()
        };
        let body = [
            &text("MQTT")[..],
            &[version, 0xc6, 0, 60],
            own,
            &text("dev"),
            own,
            &text("will"),
            &long(payload),
            &long(more),
            &long(more),
        ];
        packet(0x10, &body.concat())
    };
    for version in [4, 5] {
        drop(Raw::session(&address, &will(version, 65_535, 10)));
    }
    let mut raw = Raw::open(&address, &will(5, 65_535, 65_535));
    let refused = raw.hear().unwrap();
    assert_eq!((refused[0], reason(&refused)), (0x20, 0x95));
    assert!(raw.hear().is_none());
    let mut raw = Raw::open(&address, &will(4, 65_535, 65_535));
    assert!(raw.hear().is_none());
}

#[test]
fn names_that_begin_with_a_dollar_lead_out_of_no_mount_point() {
    let broker = Mosquitto::start();
    let mut direct = Raw::session(&broker.address(), &connect(4, "direct", None));
    for filter in ["$delayed/#", "$CONTROL/#", "$share-/#", "#"] {
        subscribe(&mut direct, 4, filter, 0);
    }
    let finback = front(&[&broker], "", "mountpoint: \"tenants/{username}/\"");
    let address = finback.local("mqtt");
    for version in [4, 5] {
        let first = connect(version, "tenant", Some(("acme", "")));
        let mut raw = Raw::session(&address, &first);
        let refused = if version == 5 { 0x87 } else { 0x80 };
        for filter in ["$SYS/#", "$share/g/$SYS/#", "$queue/#", "$exclusive/a"] {
            assert_eq!(subscribe(&mut raw, version, filter, 0), refused, "{filter}");
        }
        for name in ["$delayed/5/tenants/other/cmd", "$CONTROL/x", "$share-/x"] {
            let own: &[u8] = if version == 5 { &[0] } else { &[] };
            let body = [&text(name)[..], &[0, 9], own, b"x"].concat();
            raw.say(&packet(0x32, &body));
            let answer = raw.hear().unwrap();
            assert_eq!(answer[0], 0x40);
            assert_eq!(
                answer.get(4).copied().unwrap_or(0),
                if version == 5 { 0x87 } else { 0 }
            );
        }
        // A shared one is mounted behind its group.
        assert_eq!(subscribe(&mut raw, version, "$share/g/a/#", 0), 0);
        let message = packet(0x30, &[&text("tenants/acme/a/b")[..], b"x"].concat());
        direct.say(&message);
        assert_eq!(topic(&raw.hear().unwrap()), "a/b");
        assert_eq!(direct.hear().unwrap(), message);
    }
    assert!(direct.waits_in_vain(QUIET));
    // A rule may name them.
    let policy =
        "mountpoint: \"t/\", acl: [ { allow: all, topics: [ \"$SYS/broker/version\", \"#\" ] } ]";
    let finback = front(&[&broker], "", policy);
    let mut raw = Raw::session(&finback.local("mqtt"), &connect(5, "named", None));
    assert_eq!(subscribe(&mut raw, 5, "$SYS/#", 0), 0x87);
    assert_eq!(subscribe(&mut raw, 5, "$SYS/broker/version", 0), 0);
    assert_eq!(topic(&raw.hear().unwrap()), "$SYS/broker/version");
}

#[test]
fn refusals_name_nothing_that_stands_behind_and_are_no_longer_than_their_client_takes() {
    let nobody = free_port();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: inner-table }} ]
routes:
  inner-table:
    - {{ match: {{ username: lost }}, to: {{ cluster: inner }} }}
    - {{ match: {{ username: nobody }}, to: {{ cluster: empty }} }}
clusters: {{ inner: {{ endpoints: [ "127.0.0.1:{nobody}" ] }}, empty: {{ endpoints: [] }} }}
"#
    ));
    let address = finback.local("mqtt");
    for (user, code) in [("lost", 0x88), ("nobody", 0x88), ("stranger", 0x87)] {
        let mut raw = Raw::open(&address, &connect(5, "dev", Some((user, ""))));
        let said = raw.hear().unwrap();
        assert_eq!(reason(&said), code, "{user}");
        let words = String::from_utf8_lossy(&said).into_owned();
        for inner in ["127.", &nobody.to_string(), "inner", "finback", "(mqtt)"] {
            assert!(!words.contains(inner), "{words}");
        }
        assert!(words.contains(' '), "{words}");
        // Sections 3.2.2.3.9 and 3.1.2.11.4.
        let limit = [0x27, 0, 0, 0, 20];
        let mut raw = Raw::open(&address, &connect_with(5, "dev", Some((user, "")), &limit));
        let said = raw.hear().unwrap();
        assert_eq!((reason(&said), said.len()), (code, 5), "{said:?}");
    }
    finback.process().await_words(&nobody.to_string());
}

#[test]
fn a_session_may_be_subscribed_to_so_many_filters() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], ", mqtt: { subscriptions: 3 }", "denied: close");
    let address = finback.local("mqtt");
    for (version, refused) in [(4, 0x80), (5, 0x97)] {
        let mut raw = Raw::session(&address, &connect(version, "sub", None));
        let own: &[u8] = if version == 5 { &[0] } else { &[] };
        let many: Vec<u8> = ["a", "b", "a", "c", "d", "e"]
            .iter()
            .flat_map(|filter| [text(filter), vec![1]].concat())
            .collect();
        raw.say(&packet(0x82, &[&[0, 1][..], own, &many].concat()));
        let answer = raw.hear().unwrap();
        let codes = &answer[answer.len() - 6..];
        assert_eq!(codes, [1, 1, 1, 1, refused, refused], "{answer:?}");
        assert_eq!(subscribe(&mut raw, version, "d", 1), refused);
        assert_eq!(subscribe(&mut raw, version, "b", 1), 1);
        let unsubscribe = [&[0, 2][..], own, &text("a")].concat();
        raw.say(&packet(0xa2, &unsubscribe));
        assert_eq!(raw.hear().unwrap()[0], 0xb0);
        assert_eq!(subscribe(&mut raw, version, "d", 1), 1);
    }
}

#[test]
fn auth_within_a_session_is_for_those_who_named_a_method() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], "", "denied: close");
    let method = [&[0x15][..], &text("SCRAM")].concat();
    let auth = packet(0xf0, &[&[0x19, 8][..], &method].concat());
    let mut raw = Raw::session(&finback.local("mqtt"), &connect(5, "dev", None));
    raw.say(&auth);
    let last = raw.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x82));
}
