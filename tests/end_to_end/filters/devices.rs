//! Filters before sessions of MQTT.

use super::*;

fn mqtt(broker: &Mosquitto, filters: &str) -> String {
    format!(
        r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }}, filters: [ own ] }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{}" ] }} }}
filters: {{ own: {filters} }}
"#,
        broker.address()
    )
}

const PLANTS: &str = r#"{ authorization: { rules: [
  { effect: allow, match: { protocol: mqtt, client_id: { prefix: dev- } }, actions: [ connect ] },
  { effect: allow, match: { protocol: mqtt }, topics: [ "plant/#" ] },
  { effect: deny, match: { protocol: mqtt }, topics: [ "plant/secret" ] } ] } }"#;

fn subscribe(raw: &mut Raw, version: u8, filter: &str) -> u8 {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    raw.say(&packet(
        0x82,
        &[&[0, 1][..], properties, &text(filter), &[1]].concat(),
    ));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x90, "{answer:?}");
    *answer.last().unwrap()
}

/// Publishes at quality 1; the reason that PUBACK gives, 0 if it gives none.
fn publish(raw: &mut Raw, version: u8, topic: &str, alias: Option<u8>) -> u8 {
    let properties: Vec<u8> = match (version, alias) {
        (5, Some(alias)) => vec![3, 0x23, 0, alias],
        (5, None) => vec![0],
        _ => Vec::new(),
    };
    raw.say(&packet(
        0x32,
        &[&text(topic)[..], &[0, 9], &properties, b"x"].concat(),
    ));
    let answer = raw.hear().unwrap();
    assert_eq!(answer[0], 0x40, "{answer:?}");
    answer.get(4).copied().unwrap_or(0)
}

#[test]
fn devices_are_held_to_their_topics_in_both_versions() {
    let broker = Mosquitto::start();
    let finback = Finback::start(&mqtt(&broker, PLANTS));
    let at = finback.local("mqtt");
    for version in [4, 5] {
        let mut stranger = Raw::open(&at, &connect(version, "other", None));
        let refused = reason(&stranger.hear().unwrap());
        assert_eq!(refused, if version == 5 { 0x87 } else { 5 });
        let mut own = Raw::session(&at, &connect(version, "dev-1", None));
        let denied = if version == 5 { 0x87 } else { 0x80 };
        for (filter, code) in [
            ("plant/1/state", 1),
            ("plant/secret", denied),
            // What would bring it, and what nobody allowed.
            ("plant/#", denied),
            ("plant/+", denied),
            ("#", denied),
            ("$share/g/plant/secret", denied),
            ("other", denied),
        ] {
            assert_eq!(
                subscribe(&mut own, version, filter),
                code,
                "{version} {filter}"
            );
        }
        assert_eq!(
            publish(&mut own, version, "plant/2", None),
            0x10 * u8::from(version == 5)
        );
        let denied = if version == 5 { 0x87 } else { 0 };
        for topic in ["plant/secret", "other"] {
            assert_eq!(
                publish(&mut own, version, topic, None),
                denied,
                "{version} {topic}"
            );
        }
        if version == 5 {
            // An alias is the topic that it stands for.
            assert_eq!(publish(&mut own, 5, "plant/secret", Some(1)), 0x87);
            assert_eq!(publish(&mut own, 5, "", Some(1)), 0x87);
        }
    }
    // What was denied reached nobody: the client of Debian asks the broker itself.
    let kept = std::thread::spawn(move || {
        tool(
            "mosquitto_sub",
            broker.port,
            &["-t", "#", "-W", "2", "-C", "1", "-v"],
        )
    });
    std::thread::sleep(Duration::from_millis(500));
    let mut own = Raw::session(&at, &connect(5, "dev-2", None));
    assert_eq!(publish(&mut own, 5, "plant/secret", None), 0x87);
    assert_eq!(publish(&mut own, 5, "plant/7", None), 0);
    assert_eq!(kept.join().unwrap().trim(), "plant/7 x");
}

#[test]
fn a_session_that_is_not_allowed_any_more_is_told_so_and_ended() {
    let broker = Mosquitto::start();
    let config = |prefix: &str| mqtt(&broker, &PLANTS.replace("dev-", prefix));
    let finback = Finback::start(&config("dev-"));
    let at = finback.local("mqtt");
    let mut five = Raw::session(&at, &connect(5, "dev-5", None));
    let mut three = Raw::session(&at, &connect(4, "dev-3", None));
    let mut stays = Raw::session(&at, &connect(5, "dev-x", None));
    assert_eq!(publish(&mut five, 5, "plant/1", None) & 0xf, 0);
    finback.reload(&config("dev-x"));
    let last = five.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x87), "{last:?}");
    assert!(five.hear().is_none());
    assert!(three.hear().is_none());
    stays.say(b"\xc0\0");
    assert_eq!(stays.hear().unwrap(), b"\xd0\0");
    // The topics of now hold for sessions of before.
    let fewer = config("dev-x").replace("plant/#", "plant/1");
    finback.reload(&fewer);
    eventually("the new rules", PATIENCE, || {
        match publish(&mut stays, 5, "plant/2", None) {
            0x87 => Ok(()),
            other => Err(format!("{other:#x}")),
        }
    });
}

#[test]
fn who_publishes_too_much_is_slowed_down_and_loses_nothing() {
    let broker = Mosquitto::start();
    let limit = "{ rate_limit: { rate: 50/s, burst: 1, unit: messages } }";
    let finback = Finback::start(&mqtt(&broker, limit));
    let port = finback.port("mqtt");
    let heard = std::thread::spawn(move || {
        tool(
            "mosquitto_sub",
            broker.port,
            &["-t", "t", "-C", "100", "-W", "20", "-q", "1"],
        )
    });
    std::thread::sleep(Duration::from_millis(300));
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let begun = Instant::now();
    let sender = Command::new("sh")
        .args([
            "-c",
            &format!("printf '{lines}' | mosquitto_pub -h 127.0.0.1 -p {port} -t t -q 1 -l"),
        ])
        .status()
        .unwrap();
    assert!(sender.success());
    let heard = heard.join().unwrap();
    assert_eq!(heard, lines, "all, and in order");
    let took = begun.elapsed().as_secs_f64();
    assert!(
        (1.8..4.0).contains(&took),
        "100 messages at 50/s took {took} s"
    );
}
