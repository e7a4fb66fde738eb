//! Dubbo against frames of its real clients and servers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bytes::BytesMut;
use finback_core::codec::{Codec, Signal};
use finback_core::conformance::{self, Sample};
use finback_core::frame::{Edit, Kind, Malformed, Metadata, Outcome, Reading, Status};
use finback_core::rejection::Rejection;
use finback_dubbo::{Config, Dubbo, OPAQUE_SERVICE};
use proptest::prelude::*;

const VECTORS: &str = include_str!("vectors/dubbo.json");

fn vectors() -> Vec<(String, Vec<u8>)> {
    let list: Vec<serde_json::Value> = serde_json::from_str(VECTORS).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|vector| {
            (
                text(&vector["name"]),
                unhex(vector["hex"].as_str().unwrap()),
            )
        })
        .collect()
}

fn vector(name: &str) -> Vec<u8> {
    vectors()
        .into_iter()
        .find(|(own, _)| own == name)
        .unwrap_or_else(|| panic!("{name}"))
        .1
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn call(wire: &[u8]) -> Metadata<'_> {
    let codec = Dubbo::default();
    let head = codec.peek(wire).unwrap().unwrap();
    match codec.read(&head, wire).unwrap() {
        Reading::Call(metadata) => metadata,
        Reading::Answer(outcome) => panic!("an answer: {outcome:?}"),
    }
}

fn outcome(wire: &[u8]) -> Outcome {
    let codec = Dubbo::default();
    let head = codec.peek(wire).unwrap().unwrap();
    match codec.read(&head, wire).unwrap() {
        Reading::Answer(answer) => answer.outcome,
        Reading::Call(call) => panic!("a call: {call:?}"),
    }
}

fn expected_kind(name: &str) -> Kind {
    match name {
        _ if name.contains("heartbeat_ack") => Kind::Pong,
        _ if name.contains("heartbeat") => Kind::Ping,
        _ if name.contains("readonly") => Kind::GoAway,
        _ if name.contains("response") => Kind::Response,
        _ if name.contains("oneway") => Kind::OneWay,
        _ => Kind::Request,
    }
}

#[test]
fn every_captured_frame_obeys_the_laws() {
    let samples: Vec<Sample> = vectors()
        .into_iter()
        .map(|(name, bytes)| {
            let kind = expected_kind(&name);
            let calls = matches!(kind, Kind::Request | Kind::OneWay);
            let service = calls.then(|| ("path".to_owned(), call(&bytes).service.into_owned()));
            Sample {
                kind,
                attributes: service.into_iter().collect(),
                editable: calls,
                bytes,
                name,
            }
        })
        .collect();
    assert_eq!(samples.len(), 44);
    conformance::check(&Dubbo::default(), &samples);
}

#[test]
fn calls_are_read_in_both_serializations() {
    let node = vector("dubbo_request_2args");
    let read = call(&node);
    assert_eq!(read.service, "com.example.HelloService");
    assert_eq!(
        (&*read.method, &*read.version, &*read.group),
        ("sayHello", "1.0.0", "g1")
    );
    assert_eq!(read.timeout, Some(Duration::from_millis(3000)));
    let codec = Dubbo::default();
    assert_eq!(codec.attribute(&node, &read, "dubbo.tag").unwrap(), "gray");
    assert_eq!(codec.attribute(&node, &read, "nothing"), None);
    for name in [
        "java_dubbo_hessian2_request_sayHello",
        "java_dubbo_fastjson2_request_sayHello",
    ] {
        let wire = vector(name);
        let read = call(&wire);
        assert_eq!(read.method, "sayHello", "{name}");
        assert!(
            read.service.ends_with("Service"),
            "{name}: {}",
            read.service
        );
        assert!(read.timeout.is_some(), "{name}");
        let path = codec.attribute(&wire, &read, "path").unwrap();
        assert_eq!(path, read.service, "{name}");
    }
    // Arguments with class references, chunked texts and emoji are passed over.
    for name in [
        "java_dubbo_hessian2_request_complex",
        "dubbo_request_complex_args",
    ] {
        let wire = vector(name);
        assert!(
            codec.attribute(&wire, &call(&wire), "interface").is_some(),
            "{name}"
        );
    }
}

#[test]
fn a_generic_call_is_a_call_of_its_real_method() {
    let wire = vector("dubbo_request_generic_invoke");
    let read = call(&wire);
    assert_ne!(read.method, "$invoke");
    assert!(!read.method.is_empty());
    assert!(
        Dubbo::default()
            .attribute(&wire, &read, "generic")
            .is_some()
    );
}

#[test]
fn outcomes_of_real_answers() {
    for (name, bytes) in vectors() {
        if expected_kind(&name) != Kind::Response {
            continue;
        }
        let expected = match &*name {
            "dubbo_response_status_server_timeout" => Outcome::TimedOut,
            _ if name.contains("exception") => Outcome::Exception,
            "dubbo_response_status_server_error" => Outcome::Failed,
            // The request is at fault, whatever endpoint it goes to.
            _ if name.contains("status") => Outcome::Invalid,
            _ => Outcome::Success,
        };
        assert_eq!(outcome(&bytes), expected, "{name}");
    }
    let mut answer = vector("dubbo_response_status_server_error");
    for (status, expected) in [
        (30, Outcome::TimedOut),
        (31, Outcome::TimedOut),
        (35, Outcome::Failed),
        (40, Outcome::Invalid),
        (50, Outcome::Invalid),
        (60, Outcome::Invalid),
        (70, Outcome::Invalid),
        (80, Outcome::Failed),
        (90, Outcome::Invalid),
        (99, Outcome::Failed),
        (100, Outcome::Refused),
    ] {
        answer[3] = status;
        assert_eq!(outcome(&answer), expected, "{status}");
    }
}

#[test]
fn attributes_are_replaced_where_they_stand_already() {
    let codec = Dubbo::default();
    for name in [
        "dubbo_request_2args",
        "java_dubbo_fastjson2_request_sayHello",
    ] {
        let wire = vector(name);
        let head = codec.peek(&wire).unwrap().unwrap();
        let mut out = BytesMut::new();
        let long = "ü".repeat(2000);
        let edit = Edit {
            id: u64::MAX,
            attributes: &[("timeout", "77"), ("lane", &long)],
            ..Edit::default()
        };
        assert_eq!(codec.encode(&head, &wire, &edit, &mut out), wire.len());
        let read = call(&out);
        assert_eq!(read.timeout, Some(Duration::from_millis(77)), "{name}");
        assert_eq!(codec.attribute(&out, &read, "lane").unwrap(), long);
        assert_eq!(codec.peek(&out).unwrap().unwrap().id, u64::MAX);
    }
}

#[test]
fn rejections_are_the_frames_that_real_consumers_understand() {
    let codec = Dubbo::default();
    let request = vector("dubbo_request_2args");
    let head = codec.peek(&request).unwrap().unwrap();
    let mut out = BytesMut::new();
    let text = "[proxy] no healthy upstream";
    let status = codec.reject(&head, Rejection::NoEndpoint, text, &mut out);
    assert_eq!(status, Some(Status(80)));
    let seen = unhex(
        "dabb025000000000000000010000001c1b5b70726f78795d206e6f206865616c74687920757073747265616d",
    );
    assert_eq!(out, seen);
    let status = |rejection| {
        let mut out = BytesMut::new();
        codec.reject(&head, rejection, "text", &mut out);
        out[3]
    };
    assert_eq!(
        Rejection::ALL.map(status),
        [60, 60, 80, 80, 80, 31, 100, 20, 20, 20, 40, 40, 80]
    );
    let json = vector("java_dubbo_fastjson2_request_nul");
    let head = codec.peek(&json).unwrap().unwrap();
    let mut out = BytesMut::new();
    codec.reject(&head, Rejection::Overloaded, "busy", &mut out);
    assert_eq!(&out[..4], [0xda, 0xbb, 23, 100]);
    assert_eq!(&out[16..], [0, 0, 0, 5, 0x4d, b'b', b'u', b's', b'y']);
    out.clear();
    codec.reject(&head, Rejection::Denied, "no", &mut out);
    let seen = unhex(
        "00000002bd000000003292636a6176612e6c616e672e52756e74696d65457863657074696f6e00\
         a67f5664657461696c4d657373616765014b6e6fa5",
    );
    assert_eq!((out[2], out[3]), (23, 20));
    assert_eq!(out[16..], seen);
    assert_eq!(out[4..12], json[4..12]);
}

#[test]
fn goodbyes_and_heartbeats_speak_the_peers_serialization() {
    let codec = Dubbo::default();
    for (name, goodbye) in [
        (
            "dubbo_request_2args",
            "dabba2000000000000000007000000020152",
        ),
        (
            "java_dubbo_fastjson2_request_nul",
            "dabbb7000000000000000007000000060000000 24a52",
        ),
    ] {
        let last_head = codec.peek(&vector(name)).unwrap().unwrap();
        let mut out = BytesMut::new();
        assert!(codec.signal(Signal::GoAway { id: 7 }, &last_head, &mut out));
        assert_eq!(out, unhex(&goodbye.replace(' ', "")), "{name}");
    }
    let ping = vector("java_dubbo_fastjson2_heartbeat");
    let head = codec.peek(&ping).unwrap().unwrap();
    let mut out = BytesMut::new();
    assert!(codec.signal(Signal::Pong { wire: &ping }, &head, &mut out));
    assert_eq!(out, vector("java_dubbo_fastjson2_heartbeat_ack"));
}

#[test]
fn a_serialization_that_cannot_be_read_passes_as_one_service() {
    let mut wire = vector("dubbo_request_2args");
    wire[2] = wire[2] & 0xe0 | 8;
    let read = call(&wire);
    assert_eq!((&*read.service, &*read.method), (OPAQUE_SERVICE, ""));
    let codec = Dubbo::default();
    let head = codec.peek(&wire).unwrap().unwrap();
    let mut out = BytesMut::new();
    codec.reject(&head, Rejection::NoRoute, "none", &mut out);
    assert_eq!(out[2], 2, "a text that every consumer can read");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let codec = Dubbo::default();
    let mut lying = vector("dubbo_request_2args");
    lying[12..16].fill(0xff);
    assert!(matches!(
        codec.peek(&lying),
        Err(Malformed::TooLarge { .. })
    ));
    assert!(matches!(
        codec.peek(b"GET / HTTP/1.1\r\n"),
        Err(Malformed::Garbage(_))
    ));
    let mut long_event = vector("dubbo_heartbeat");
    long_event[15] = 16;
    assert!(matches!(
        codec.peek(&long_event),
        Err(Malformed::Garbage(_))
    ));
    let mut unreadable = vector("dubbo_request_noargs");
    unreadable[16] = 0x40;
    let head = codec.peek(&unreadable).unwrap().unwrap();
    assert!(matches!(
        codec.read(&head, &unreadable),
        Err(Malformed::Content(_))
    ));
    let small = Dubbo::new(Config {
        max_frame: 100,
        ..Config::default()
    });
    assert!(matches!(
        small.peek(&vector("dubbo_request_noargs")),
        Err(Malformed::TooLarge { .. })
    ));
    // A callback argument.
    let wire = vector("dubbo_request_noargs");
    let head = codec.peek(&wire).unwrap().unwrap();
    let mut out = BytesMut::new();
    let edit = Edit {
        id: 1,
        attributes: &[("sys_callback_arg-1", "x")],
        ..Edit::default()
    };
    codec.encode(&head, &wire, &edit, &mut out);
    let head = codec.peek(&out).unwrap().unwrap();
    assert!(matches!(
        codec.read(&head, &out),
        Err(Malformed::Content(_))
    ));
}

#[test]
fn a_call_whose_arguments_cannot_be_passed_over_is_refused() {
    let mut wire = vector("dubbo_request_2args");
    let at = wire
        .windows(5)
        .position(|window| window == b"peter")
        .unwrap();
    wire[at - 1] = 0x40;
    let codec = Dubbo::default();
    let head = codec.peek(&wire).unwrap().unwrap();
    assert!(matches!(
        codec.read(&head, &wire),
        Err(Malformed::Content(_))
    ));
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        conformance::exercise(&Dubbo::default(), &bytes);
    }

    #[test]
    fn any_body_ends_in_a_result(
        flag in prop::sample::select(vec![0xc2_u8, 0xd7, 0x82, 0x02, 0x17, 0xe2]),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut frame = vec![0xda, 0xbb, flag, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        frame.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend(body);
        conformance::exercise(&Dubbo::default(), &frame);
    }

    #[test]
    fn any_damage_to_a_real_frame_ends_in_a_result(
        which in 0_usize..44, changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)
    ) {
        let (_, mut bytes) = vectors().swap_remove(which);
        bytes.truncate(4096);
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        conformance::exercise(&Dubbo::default(), &bytes);
    }
}
