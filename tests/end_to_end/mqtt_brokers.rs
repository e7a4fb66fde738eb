//! Brokers of MQTT that hang, in every phase of a session: what that costs their devices, and that it
//! costs nobody else anything.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::mqtt::{Raw, connect, connect_with, packet, reason, text};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a hung broker may cost its devices.
const COST: Duration = Duration::from_secs(5);

fn front(brokers: &[&Mosquitto], listener: &str, cluster: &str) -> Finback {
    let endpoints: Vec<String> = brokers.iter().map(|own| own.address()).collect();
    Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt{listener} }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters:
  brokers: {{ endpoints: {endpoints:?}, balance: {{ consistent-hash: client-id }}{cluster} }}
"#
    ))
}

fn in_flight(finback: &Finback) -> u64 {
    finback.metric("finback_cluster_in_flight", "brokers")
}

fn until_nobody_is_left(finback: &Finback, within: Duration) {
    eventually("places to be given back", within, || {
        match in_flight(finback) {
            0 => Ok(()),
            left => Err(left.to_string()),
        }
    });
}

/// How long each of these clients takes from CONNECT to a CONNACK of success, all at once.
fn times(address: &str, names: &[String]) -> Vec<(Duration, Raw)> {
    let all: Vec<_> = names
        .iter()
        .map(|name| {
            let (address, first) = (address.to_owned(), connect(5, name, None));
            thread::spawn(move || {
                let began = Instant::now();
                let raw = Raw::session(&address, &first);
                (began.elapsed(), raw)
            })
        })
        .collect();
    all.into_iter().map(|own| own.join().unwrap()).collect()
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Those who are at the first broker and those who are not, by what the first has in its log.
fn split(broker: &Mosquitto, finback: &Finback, names: Vec<String>) -> [Vec<String>; 2] {
    let address = finback.local("mqtt");
    drop(times(&address, &names));
    until_nobody_is_left(finback, PATIENCE);
    let said = broker.process().tail_of(usize::MAX).join("\n");
    let (here, there): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| said.contains(&format!(" as {name} ")));
    // By chance of their ports.
    assert!(here.len() > 1 && there.len() > 1, "{here:?} {there:?}");
    [here, there]
}

#[test]
fn a_broker_that_says_no_connack_costs_its_devices_five_seconds_and_others_nothing() {
    let (hung, sound) = (Mosquitto::start(), Mosquitto::start());
    let finback = front(&[&hung, &sound], "", "");
    let address = finback.local("mqtt");
    let [its, others] = split(&hung, &finback, names("dev", 16));
    hung.process().signal("STOP");
    let waiting = {
        let (address, its) = (address.clone(), its.clone());
        thread::spawn(move || times(&address, &its))
    };
    // Others come and go meanwhile.
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < Duration::from_secs(3) {
        took.extend(times(&address, &others).into_iter().map(|(took, _)| took));
    }
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    assert!(
        p99 < Duration::from_millis(500),
        "{p99:?} of {}",
        took.len()
    );
    let waited = waiting.join().unwrap();
    let longest = waited.iter().map(|(took, _)| *took).max().unwrap();
    assert!(longest < COST, "{longest:?}");
    // Enough of them have waited for the broker to be known: nobody else waits.
    let again: Vec<_> = times(&address, &names("dev", 16));
    let longest = again.iter().map(|(took, _)| *took).max().unwrap();
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    drop((waited, again));
    until_nobody_is_left(&finback, Duration::from_secs(5));
    hung.process().signal("CONT");
}

#[test]
fn who_leaves_while_its_broker_hangs_gives_its_place_back_at_once() {
    let broker = Mosquitto::start();
    let finback = front(
        &[&broker],
        ", mqtt: { connecting: 4, connack_timeout: 60s }",
        "",
    );
    let address = finback.local("mqtt");
    broker.process().signal("STOP");
    let waiting: Vec<Raw> = names("gone", 8)
        .iter()
        .map(|name| Raw::open(&address, &connect(5, name, None)))
        .collect();
    eventually("them to wait", PATIENCE, || match in_flight(&finback) {
        // Two workers have four places each, at most.
        4..=8 => Ok(()),
        other => Err(other.to_string()),
    });
    drop(waiting);
    until_nobody_is_left(&finback, Duration::from_secs(2));
    // One that says goodbye before it goes is gone as well.
    for last in [&b"\xe0\0"[..], b"\xc0\0\xe0\0"] {
        let mut raw = Raw::open(&address, &connect(4, "polite", None));
        raw.say(last);
        drop(raw);
    }
    until_nobody_is_left(&finback, Duration::from_secs(2));
    broker.process().signal("CONT");
}

#[test]
fn what_was_published_before_connack_by_one_who_went_is_delivered() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], "", "");
    let address = finback.local("mqtt");
    let mut subscriber = Raw::session(&address, &connect(4, "sub", None));
    subscriber.say(&packet(0x82, &[&[0, 1][..], &text("early"), &[1]].concat()));
    assert_eq!(subscriber.hear().unwrap()[0], 0x90);
    broker.process().signal("STOP");
    let message = packet(0x30, &[&text("early")[..], b"x"].concat());
    let mut hasty = Raw::open(&address, &connect(4, "hasty", None));
    hasty.say(&[&message[..], b"\xe0\0"].concat());
    drop(hasty);
    thread::sleep(Duration::from_millis(500));
    broker.process().signal("CONT");
    assert_eq!(subscriber.hear().unwrap(), message);
}

#[test]
fn devices_of_a_hung_broker_take_no_places_of_a_sound_one() {
    let (hung, sound) = (Mosquitto::start(), Mosquitto::start());
    let listener = ", mqtt: { connecting: 16, connack_timeout: 60s }";
    let finback = front(&[&hung, &sound], listener, "");
    let address = finback.local("mqtt");
    let [its, others] = split(&hung, &finback, names("dev", 12));
    hung.process().signal("STOP");
    let mut waiting = Vec::new();
    for name in its.iter().cycle().take(80) {
        waiting.push(Raw::open(&address, &connect(5, name, None)));
    }
    thread::sleep(Duration::from_millis(300));
    let mut answers: Vec<u8> = Vec::new();
    for raw in &mut waiting {
        if !raw.waits_in_vain(Duration::from_millis(20)) {
            answers.push(reason(&raw.hear().unwrap()));
        }
    }
    assert!(answers.len() >= 40, "{answers:?}");
    assert!(answers.iter().all(|own| *own == 0x89), "{answers:?}");
    for (took, _) in times(&address, &others) {
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    hung.process().signal("CONT");
}

#[test]
fn devices_of_little_patience_find_another_broker_as_well() {
    let (hung, sound) = (Mosquitto::start(), Mosquitto::start());
    let finback = front(&[&hung, &sound], "", "");
    let address = finback.local("mqtt");
    let [its, _] = split(&hung, &finback, names("dev", 12));
    hung.process().signal("STOP");
    let began = Instant::now();
    // It waits for a second and a half, and comes again.
    let online = |name: &str| {
        let mut raw = Raw::open(&address, &connect(5, name, None));
        !raw.waits_in_vain(Duration::from_millis(1500))
    };
    while !its.iter().take(1).all(|name| online(name)) {
        assert!(began.elapsed() < PATIENCE);
    }
    hung.process().signal("CONT");
}

#[test]
fn a_broker_is_asked_whether_it_is_well_by_connect() {
    let strict = "allow_anonymous false";
    let (hung, strict) = (Mosquitto::start(), Mosquitto::start_with(strict));
    let check = "health_check: { protocol: mqtt, interval: 200ms, timeout: 500ms, unhealthy: 1, healthy: 1 }";
    let finback = front(&[&hung, &strict], "", &format!(", {check}"));
    let unhealthy = || finback.endpoints("brokers", "unhealthy", true);
    // One that refuses strangers is healthy.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(unhealthy(), Vec::<String>::new());
    hung.process().signal("STOP");
    eventually("the hung one to be unhealthy", PATIENCE, || {
        let found = unhealthy();
        if found == [hung.address()] {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    hung.process().signal("CONT");
    eventually("it to be healthy again", PATIENCE, || {
        let found = unhealthy();
        if found.is_empty() {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    // Checks say goodbye, and leave no session.
    let said = hung.process().tail_of(usize::MAX).join("\n");
    assert!(said.contains("Received DISCONNECT from finback"), "{said}");
}

/// Sessions that each owe something of a broker that stops at that moment, and end in time.
#[test]
fn a_broker_that_stops_in_mid_session_ends_its_sessions_in_bounded_time() {
    let (hung, sound) = (Mosquitto::start(), Mosquitto::start());
    let finback = front(&[&hung, &sound], ", mqtt: { answer_timeout: 1s }", "");
    let address = finback.local("mqtt");
    let [its, _] = split(&hung, &finback, names("dev", 40));
    let message = |first: u8| packet(first, &[&text("t")[..], &[0, 7, 0], b"payload"].concat());
    let subscribe = packet(0x82, &[&[0, 1, 0][..], &text("t"), &[1]].concat());
    let unsubscribe = packet(0xa2, &[&[0, 1, 0][..], &text("t")].concat());
    let phases = [
        ("SUBSCRIBE", subscribe),
        ("UNSUBSCRIBE", unsubscribe),
        ("PUBLISH 1", message(0x32)),
        ("PUBLISH 2", message(0x34)),
        ("PINGREQ", b"\xc0\0".to_vec()),
    ];
    let mut sessions: Vec<_> = phases
        .iter()
        .zip(&its)
        .map(|((what, said), name)| {
            let raw = Raw::session(&address, &connect(5, name, None));
            (*what, said.clone(), raw)
        })
        .collect();
    // Between PUBREC and PUBCOMP.
    let mut released = Raw::session(&address, &connect(5, &its[5], None));
    released.say(&message(0x34));
    assert_eq!(released.hear().unwrap()[0], 0x50);
    sessions.push(("PUBREL", b"\x62\x02\0\x07".to_vec(), released));
    // One that only listens.
    let mut idle = Raw::session(&address, &connect(5, &its[6], None));
    assert!(sessions.len() > 5, "enough to have the broker ejected");
    hung.process().signal("STOP");
    let began = Instant::now();
    for (_, said, raw) in &mut sessions {
        raw.say(said);
    }
    for (what, _, raw) in &mut sessions {
        let last = raw.hear().unwrap();
        assert_eq!((last[0], reason(&last)), (0xe0, 0x89), "{what}: {last:?}");
        assert!(raw.hear().is_none(), "{what}");
    }
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(3),
        "{took:?}"
    );
    // It hears it from the others.
    let last = idle.hear().unwrap();
    assert_eq!((last[0], reason(&last)), (0xe0, 0x89), "{last:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    // They come back to the other one; the broker is known to be hung.
    let again = times(&address, &its);
    let longest = again.iter().map(|(took, _)| *took).max().unwrap();
    assert!(longest < COST, "{longest:?}");
    hung.process().signal("CONT");
}

#[test]
fn a_broker_that_reads_no_more_ends_its_publishers_in_bounded_time() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], ", mqtt: { answer_timeout: 1s }", "");
    let address = finback.local("mqtt");
    let mut raw = Raw::session(&address, &connect(5, "flood", None));
    broker.process().signal("STOP");
    let message = packet(0x30, &[&text("t")[..], &[0], &vec![b'x'; 100_000]].concat());
    let began = Instant::now();
    raw.0
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    loop {
        use std::io::Write;
        if raw.0.write_all(&message).is_err() || began.elapsed() > PATIENCE {
            let over = !raw.waits_in_vain(Duration::from_millis(50));
            if over {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(6), "it still waits");
    }
    broker.process().signal("CONT");
}

#[test]
fn a_broker_that_pauses_loses_no_session_and_its_client_hears_only_its_own_answers() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], ", mqtt: { answer_timeout: 1s }", "");
    let mut raw = Raw::session(&finback.local("mqtt"), &connect(5, "patient", None));
    broker.process().signal("STOP");
    let message = packet(0x32, &[&text("t")[..], &[0, 7, 0], b"payload"].concat());
    raw.say(&message);
    thread::sleep(Duration::from_millis(1300));
    // It has been asked by now; the client asks too.
    raw.say(b"\xc0\0");
    broker.process().signal("CONT");
    let mut heard = [raw.hear().unwrap()[0], raw.hear().unwrap()[0]];
    heard.sort_unstable();
    assert_eq!(heard, [0x40, 0xd0]);
    assert!(raw.waits_in_vain(Duration::from_millis(500)));
    let said = broker.process().tail_of(usize::MAX).join("\n");
    assert_eq!(said.matches("Received PINGREQ from patient").count(), 2);
}

#[test]
fn a_client_that_does_not_read_is_not_taken_for_a_silent_broker() {
    let broker = Mosquitto::start();
    let finback = front(&[&broker], ", mqtt: { answer_timeout: 500ms }", "");
    let mut raw = Raw::session(&finback.local("mqtt"), &connect(4, "lazy", None));
    raw.say(&packet(0x82, &[&[0, 1][..], &text("t"), &[0]].concat()));
    assert_eq!(raw.hear().unwrap()[0], 0x90);
    // What it says to itself is more than lies in sockets.
    let message = packet(0x30, &[&text("t")[..], &vec![b'x'; 500_000]].concat());
    let mut writer = Raw(raw.0.try_clone().unwrap());
    let said = message.clone();
    let saying = thread::spawn(move || {
        for _ in 0..40 {
            writer.say(&said);
        }
        writer.say(&packet(0x32, &[&text("last")[..], &[0, 9], b"x"].concat()));
    });
    thread::sleep(Duration::from_secs(3));
    for _ in 0..40 {
        assert!(
            raw.hear().is_some_and(|own| own == message),
            "the session ended"
        );
    }
    assert_eq!(raw.hear().unwrap(), b"\x40\x02\0\x09");
    saying.join().unwrap();
}

/// A broker of the tests' own that asks for AUTH, and then does as it is told.
fn asking_broker(answers: usize) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut raw = Raw(stream.unwrap());
                raw.hear();
                let auth = packet(0xf0, &[&[0x18, 8, 0x15][..], &text("SCRAM")].concat());
                for _ in 0..answers {
                    raw.say(&auth);
                    if raw.hear().is_none_or(|own| own[0] != 0xf0) {
                        return;
                    }
                }
                raw.say(b"\x20\x03\0\0\0");
                while raw.hear().is_some() {}
            });
        }
    });
    address
}

#[test]
fn whoever_is_asked_to_authenticate_itself_has_a_time_for_it() {
    let broker = asking_broker(2);
    let config = format!(
        r#"
workers: 1
listeners:
  - {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt, mqtt: {{ auth_timeout: 1s }} }}
routes: {{ mqtt: [ {{ to: {{ cluster: brokers }} }} ] }}
clusters: {{ brokers: {{ endpoints: [ "{broker}" ] }} }}
"#
    );
    let finback = Finback::start(&config);
    let address = finback.local("mqtt");
    let method = |name: &str| [&[0x15][..], &text(name)].concat();
    let first = connect_with(5, "scram", None, &method("SCRAM"));
    let answer = |code: u8, name: &str| {
        let property = method(name);
        let length = u8::try_from(property.len()).unwrap();
        packet(0xf0, &[&[code, length][..], &property].concat())
    };
    // As the standard says.
    let mut raw = Raw::open(&address, &first);
    for _ in 0..2 {
        assert_eq!(raw.hear().unwrap()[0], 0xf0);
        raw.say(&answer(0x18, "SCRAM"));
    }
    assert_eq!(reason(&raw.hear().unwrap()), 0);
    // Silence, and one that goes.
    let began = Instant::now();
    let mut silent = Raw::open(&address, &first);
    assert_eq!(silent.hear().unwrap()[0], 0xf0);
    assert_eq!(reason(&silent.hear().unwrap()), 0x87);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let mut gone = Raw::open(&address, &first);
    assert_eq!(gone.hear().unwrap()[0], 0xf0);
    drop((gone, raw));
    until_nobody_is_left(&finback, Duration::from_secs(2));
    // What may not be said there.
    for said in [
        answer(0x19, "SCRAM"),
        answer(0, "SCRAM"),
        answer(0x18, "PLAIN"),
        b"\xf0\0".to_vec(),
        b"\xc0\0".to_vec(),
    ] {
        let mut raw = Raw::open(&address, &first);
        assert_eq!(raw.hear().unwrap()[0], 0xf0);
        raw.say(&said);
        let last = raw.hear().unwrap();
        assert!(matches!(reason(&last), 0x81 | 0x82), "{said:?}: {last:?}");
    }
}

#[test]
fn bounds_and_checks_that_could_do_nothing_are_refused() {
    let config = |listener: &str, check: &str| {
        format!(
            r#"
listeners:
  - {{ address: "127.0.0.1:0", protocol: mqtt, routes: m, mqtt: {{ {listener} }} }}
routes: {{ m: [ {{ to: {{ cluster: b }} }} ] }}
clusters: {{ b: {{ endpoints: [ "127.0.0.1:1" ], health_check: {{ {check} }} }} }}
"#
        )
    };
    for (listener, check, why) in [
        ("connack_timeout: 0s", "protocol: mqtt", "no time at all"),
        ("answer_timeout: 0s", "protocol: mqtt", "no time at all"),
        ("auth_timeout: 0s", "protocol: mqtt", "no time at all"),
        ("connecting: 0", "protocol: mqtt", "0 is not allowed here"),
        (
            "connecting: 1",
            "protocol: tcp, client_id: x",
            "is not for `tcp`",
        ),
        (
            "connecting: 1",
            "protocol: mqtt, path: /",
            "is not for `mqtt`",
        ),
        (
            "connecting: 1",
            "protocol: mqtt, password_file: x",
            "needs a `username`",
        ),
    ] {
        let (good, said) = Finback::check(&config(listener, check));
        assert!(!good && said.contains(why), "{listener} {check}: {said}");
    }
    let (good, said) = Finback::check(&config("connecting: 1", "protocol: mqtt"));
    assert!(good, "{said}");
}
