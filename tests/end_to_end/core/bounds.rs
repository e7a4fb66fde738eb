//! Bounds of frames and queues: what is within them passes, what is beyond costs one call.

use std::io::{ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client, SPEECHES};

const MIB: usize = 1024 * 1024;
/// As long as an honest client may be busy with other things.
const MOMENT: Duration = Duration::from_millis(400);

fn proxy(speech: Speech, endpoints: &[&Endpoint], limits: &str) -> Finback {
    let list: Vec<_> = endpoints
        .iter()
        .map(|own| format!("\"{}\"", own.address))
        .collect();
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: rpc, address: "127.0.0.1:0", protocol: {}, routes: all }} ]
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ {} ], connections: 1, outlier: {{ consecutive: 2, max_percent: 100 }} }} }}
{limits}
"#,
        speech.name(),
        list.join(", ")
    ))
}

/// Answers `large...` with as many MiB as follow, holds `hold`, and answers all else.
fn endpoint(speech: Speech) -> Endpoint {
    Endpoint::scripted(speech, |frame| {
        let find = |word: &[u8]| frame.windows(word.len()).position(|window| window == word);
        if let Some(at) = find(b"large") {
            let digits = &frame[at + 5..at + 7];
            let count: usize = String::from_utf8_lossy(digits).parse().unwrap();
            return Deed::Large(count * MIB);
        }
        match find(b"hold") {
            Some(_) => Deed::Hold,
            None => Deed::Answer,
        }
    })
}

fn large(mib: usize) -> Call {
    Call::new("com.acme.Pay", &format!("large{mib:02}"))
}

/// The longest answer of whole MiB that the default bound of a frame lets pass.
fn near_the_bound(speech: Speech) -> usize {
    match speech {
        Speech::Dubbo => 7,
        _ => 15,
    }
}

#[test]
fn a_frame_that_no_queue_can_hold_is_refused_at_load() {
    let config = |limits: &str| {
        format!(
            "listeners: [ {{ address: \"127.0.0.1:0\", routes: all }} ]\n\
             routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}\n\
             clusters: {{ all: {{ endpoints: [ \"127.0.0.1:1\" ] }} }}\n\
             limits: {limits}\n"
        )
    };
    for bad in [
        "{ frame: 32MiB }",
        "{ frame: 17MiB }",
        "{ frame: 4MiB, queue_hard: 2MiB }",
        "{ queue_hard: 2MiB, frame: 4MiB }",
    ] {
        let (good, said) = Finback::check(&config(bad));
        assert!(!good, "{bad} is taken: {said}");
        assert!(said.contains("finback.yaml:4"), "{bad}: {said}");
        assert!(said.contains("queue_hard"), "{bad}: {said}");
    }
    for good in ["{ frame: 32MiB, queue_hard: 64MiB }", "{ frame: 4MiB }"] {
        let (taken, said) = Finback::check(&config(good));
        assert!(taken, "{good}: {said}");
    }
}

#[test]
fn answers_near_the_bound_of_a_frame_pass() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &[&endpoint], "");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let mib = near_the_bound(speech);
        for _ in 0..3 {
            let answer = client.call(&large(mib));
            assert!(answer.success && answer.len > mib * MIB, "{answer:?}");
        }
        // Together more than a queue may keep, all at once.
        for (count, mib) in [(3, 7), (2, mib)] {
            client.send_all(&large(mib), count);
            thread::sleep(MOMENT);
            for answer in client.answers(count) {
                assert!(answer.success && answer.len > mib * MIB, "{answer:?}");
            }
        }
        assert_eq!(finback.metric("finback_slow_readers_total", ""), 0);
    }
}

#[test]
fn requests_near_the_bound_of_a_frame_pass_while_a_connection_is_made() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &[&endpoint], "");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let call = Call::new("com.acme.Pay", "pay");
        let call = call.with_argument((near_the_bound(speech) * MIB) + MIB / 2);
        client.send_all(&call, 2);
        for answer in client.answers(2) {
            assert!(answer.success, "{speech:?}: {answer:?}");
        }
    }
}

#[test]
fn a_configured_bound_lets_pass_what_is_just_below_it() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let limits = "limits: { frame: 32MiB, queue_hard: 32MiB }";
        let finback = proxy(speech, &[&endpoint], limits);
        let mut client = Client::connect(&finback.local("rpc"), speech);
        client.send_all(&large(20), 2);
        thread::sleep(MOMENT);
        for answer in client.answers(2) {
            assert!(answer.success && answer.len > 20 * MIB, "{answer:?}");
        }
        let request = Call::new("com.acme.Pay", "pay").with_argument(20 * MIB);
        assert!(client.call(&request).success, "{speech:?}");
    }
}

#[test]
fn an_answer_beyond_the_bound_costs_that_call_alone() {
    for speech in SPEECHES {
        let (endpoint, other) = (endpoint(speech), endpoint(speech));
        let finback = proxy(speech, &[&endpoint, &other], "");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let mut beside = Client::connect(&finback.local("rpc"), speech);
        beside.send_all(&Call::new("com.acme.Pay", "hold"), 8);
        thread::sleep(Duration::from_millis(300));
        for mib in [17, 20, 30, 17] {
            let answer = client.call(&large(mib));
            assert!(!answer.success, "{speech:?} {mib}: {answer:?}");
            if speech == Speech::Dubbo {
                // The client's fault, as Dubbo's own codec says it: client error or bad response.
                assert!(matches!(answer.status, 40 | 50 | 90), "{answer:?}");
            }
            let said = answer.text.to_lowercase();
            let named = ["large", "long", "limit", "exceed"];
            assert!(
                named.iter().any(|word| said.contains(word)),
                "{speech:?} does not say why: {answer:?}"
            );
        }
        endpoint.let_go();
        other.let_go();
        for answer in beside.answers(8) {
            assert!(answer.success, "{speech:?} beside it: {answer:?}");
        }
        assert!(client.call(&Call::new("com.acme.Pay", "pay")).success);
        assert_eq!(finback.metric("finback_cluster_ejections_total", ""), 0);
        let made = endpoint.accepted() + other.accepted();
        assert_eq!(made, 2, "{speech:?}: a connection was given up");
    }
}

#[test]
fn frames_that_never_end_are_bounded_in_all_and_cut() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &[&endpoint], "limits: { idle: 2s }");
        let before = finback.process().rss();
        let mib = near_the_bound(speech);
        let call = Call::new("com.acme.Pay", "pay").with_argument(mib * MIB);
        let frame = call.frame(speech, 1);
        let (most, rest) = frame.split_at(frame.len() - 200);
        // They may be cut while they still send, or read from no more.
        let begin = |_| {
            let mut stream = Client::connect(&finback.local("rpc"), speech).stream;
            let second = Some(Duration::from_secs(1));
            stream.set_write_timeout(second).unwrap();
            let _ = stream.write_all(most);
            stream.set_nonblocking(true).unwrap();
            stream
        };
        let mut open: Vec<_> = (0..40).map(begin).collect();
        let mut grown = 0;
        let began = Instant::now();
        for byte in rest.chunks(1) {
            grown = grown.max(finback.process().rss().saturating_sub(before) / 1024);
            open.retain_mut(|stream| match stream.write(byte) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
            // An honest caller is served all the while.
            let mut honest = Client::connect(&finback.local("rpc"), speech);
            assert!(honest.call(&Call::new("com.acme.Pay", "pay")).success);
            if open.is_empty() || began.elapsed() > Duration::from_secs(45) {
                break;
            }
            thread::sleep(Duration::from_millis(400));
        }
        println!("{speech:?}: {grown} MiB more, {} still open", open.len());
        assert!(grown < 256, "{speech:?}: {grown} MiB held by 40 callers");
        assert_eq!(open.len(), 0, "{speech:?}: frames that do not end");
    }
}

#[test]
fn a_large_frame_that_keeps_coming_is_no_frame_that_never_ends() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = proxy(speech, &[&endpoint], "limits: { idle: 2s }");
        let mut client = Client::connect(&finback.local("rpc"), speech);
        let call = Call::new("com.acme.Pay", "pay").with_argument(near_the_bound(speech) * MIB);
        let frame = call.frame(speech, 1);
        // In ten seconds, as over a slow link.
        for piece in frame.chunks(frame.len() / 50) {
            client.stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        assert!(client.answer().success, "{speech:?}");
    }
}

#[test]
fn one_client_cannot_take_the_room_of_all_whose_calls_wait_for_a_filter() {
    for speech in SPEECHES {
        let endpoint = endpoint(speech);
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners:
  - {{ name: four, address: "127.0.0.1:0", protocol: {name}, routes: all, filters: [ late ] }}
  - {{ name: six, address: "[::1]:0", protocol: {name}, routes: all, filters: [ late ] }}
routes: {{ all: [ {{ to: {{ cluster: all }} }} ] }}
clusters: {{ all: {{ endpoints: [ "{address}" ] }} }}
filters: {{ late: {{ fault: {{ delay: {{ percent: 100, time: 6s }} }} }} }}
"#,
            name = speech.name(),
            address = endpoint.address,
        ));
        let mut greedy = Client::connect(&finback.local("four"), speech);
        let call = Call::new("com.acme.Pay", "get").with_argument(MIB);
        greedy.send_all(&call, 100);
        // Half of the room is its own; what finds none is refused, and not kept.
        let refused = greedy.answers(69);
        assert!(refused.iter().all(|own| !own.success), "{refused:?}");
        let mut other = Client::connect(&format!("[::1]:{}", finback.port("six")), speech);
        let begun = Instant::now();
        let answer = other.call(&call.clone().with_argument(4 * MIB));
        assert!(answer.success, "{answer:?}");
        assert!(begun.elapsed() >= Duration::from_secs(5));
        let waited = greedy.answers(31);
        assert!(waited.iter().all(|own| own.success), "{waited:?}");
    }
}
