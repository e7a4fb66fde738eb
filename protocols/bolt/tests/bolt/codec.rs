//! Bolt as real clients and servers speak it.

use std::borrow::Cow;
use std::time::Duration;

use crate::frames::{Vector, unhex, vector, vectors};
use bytes::BytesMut;
use finback_bolt::{Bolt, Config};
use finback_core::codec::{Codec, Signal};
use finback_core::conformance;
use finback_core::driver::{Protocol, Sniff};
use finback_core::frame::{Edit, Head, Kind, Malformed, Metadata, Outcome, Reading};
use finback_core::rejection::Rejection;
use finback_hessian::{draft, v2};
use proptest::prelude::*;

fn head(wire: &[u8]) -> Head {
    Bolt::default().peek(wire).unwrap().unwrap()
}

fn call(wire: &[u8]) -> Metadata<'_> {
    match Bolt::default().read(&head(wire), wire) {
        Ok(Reading::Call(metadata)) => metadata,
        other => panic!("{other:?}"),
    }
}

fn outcome(wire: &[u8]) -> Outcome {
    match Bolt::default().read(&head(wire), wire) {
        Ok(Reading::Answer(answer)) => answer.outcome,
        other => panic!("{other:?}"),
    }
}

/// A v1 request of this class, header map and content.
pub(crate) fn request(class: &str, map: &[(&str, &str)], codec: u8, content: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    for text in map.iter().flat_map(|(key, value)| [key, value]) {
        header.extend_from_slice(&(text.len() as u32).to_be_bytes());
        header.extend_from_slice(text.as_bytes());
    }
    let mut wire = vec![1, 1, 0, 1, 1, 0, 0, 0, 7, codec, 0, 0, 0, 0];
    wire.extend_from_slice(&(class.len() as u16).to_be_bytes());
    wire.extend_from_slice(&(header.len() as u16).to_be_bytes());
    wire.extend_from_slice(&(content.len() as u32).to_be_bytes());
    for part in [class.as_bytes(), &header, content] {
        wire.extend_from_slice(part);
    }
    wire
}

pub(crate) const SOFA: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";

#[test]
fn captured_frames_keep_every_law() {
    let samples: Vec<_> = vectors().iter().map(Vector::sample).collect();
    assert_eq!(samples.len(), 104);
    conformance::check(&Bolt::default(), &samples);
}

#[test]
fn captured_heads_are_as_others_read_them() {
    for vector in vectors() {
        let head = head(&vector.bytes);
        let name = vector.name();
        assert_eq!(head.kind, vector.kind(), "{name}");
        assert_eq!(head.id, vector.number("id") as u64, "{name}");
        assert_eq!(head.len, vector.bytes.len(), "{name}");
        let variant = match (vector.bytes[0], vector.bytes[1]) {
            (1, _) => 0,
            (2, ver1) => ver1,
            _ => panic!("{name}"),
        };
        assert_eq!(head.variant, variant, "{name}");
    }
}

#[test]
fn captured_calls_are_as_others_read_them() {
    let mut calls = 0;
    for vector in vectors().iter().filter(|vector| vector.is_call()) {
        let metadata = call(&vector.bytes);
        let name = vector.name();
        let mut unique = vector.text("service").split(':');
        assert_eq!(metadata.service, unique.next().unwrap(), "{name}");
        assert_eq!(metadata.version, unique.next().unwrap_or(""), "{name}");
        assert_eq!(metadata.group, unique.next().unwrap_or(""), "{name}");
        assert_eq!(metadata.method, vector.text("method"), "{name}");
        for text in [
            &metadata.service,
            &metadata.method,
            &metadata.version,
            &metadata.group,
        ] {
            let is_view = matches!(text, Cow::Borrowed(_));
            assert!(is_view || text.is_empty(), "{name}: {text} was copied");
        }
        let timeout = u64::try_from(vector.number("timeout"))
            .ok()
            .map(Duration::from_millis);
        assert_eq!(metadata.timeout, timeout, "{name}");
        calls += 1;
    }
    assert_eq!(calls, 31);
}

#[test]
fn captured_responses_end_as_their_status_and_flag_say() {
    for vector in vectors()
        .iter()
        .filter(|vector| vector.kind() == Kind::Response)
    {
        let flag = vector.fields["header"]["sofa_head_response_error"].as_str();
        let expected = match (vector.number("status"), flag) {
            (0, Some("true")) => Outcome::Exception,
            (0, _) => Outcome::Success,
            // What servers say of the application's own exceptions, and of its answers.
            (2 | 17, _) => Outcome::Exception,
            (4, _) => Outcome::Refused,
            (7, _) => Outcome::TimedOut,
            // The request is at fault.
            (6 | 9 | 18, _) => Outcome::Invalid,
            _ => Outcome::Failed,
        };
        assert_eq!(outcome(&vector.bytes), expected, "{}", vector.name());
    }
    assert_eq!(
        outcome(&vector("java_bolt_v1_response_sofa_biz_exception").bytes),
        Outcome::Exception
    );
    assert_eq!(
        outcome(&vector("bolt_v1_response_protobuf").bytes),
        Outcome::Success
    );
}

#[test]
fn every_captured_hessian_body_is_passed_to_its_last_byte() {
    let mut versions = [0, 0];
    for vector in vectors()
        .iter()
        .filter(|vector| vector.number("codec") == 1)
    {
        let content = vector.content();
        let is_v2 = content.first() == Some(&b'C');
        versions[usize::from(is_v2)] += 1;
        // `remaining` and `skip` of either reader.
        let left = if is_v2 {
            let mut reader = v2::Reader::new(content);
            while reader.remaining() > 0 {
                reader
                    .skip()
                    .unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            }
            reader.remaining()
        } else {
            let mut reader = draft::Reader::new(content);
            while reader.remaining() > 0 {
                reader
                    .skip()
                    .unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            }
            reader.remaining()
        };
        assert_eq!(left, 0);
    }
    assert!(versions[0] > 50 && versions[1] == 7, "{versions:?}");
}

#[test]
fn the_body_names_what_the_header_does_not() {
    for name in [
        "java_bolt_v1_request_sofa_sayHello_uid1",
        "bolt_v1_request_hessian4x",
    ] {
        let content = vector(name).content().to_vec();
        let wire = request(SOFA, &[], 1, &content);
        let metadata = call(&wire);
        assert_eq!(metadata.service, "com.example.HelloService", "{name}");
        assert_eq!(metadata.method, "sayHello", "{name}");
        assert_eq!(metadata.version, "1.0", "{name}");
        assert_eq!(metadata.timeout, None, "a timeout of 0 is none");
        // The header goes first where it speaks.
        let map = [
            ("sofa_head_method_name", "other"),
            ("service", "com.acme.Pay:2.0:blue"),
        ];
        let wire = request(SOFA, &map, 1, &content);
        let metadata = call(&wire);
        assert_eq!(metadata.method, "other");
        assert_eq!(metadata.service, "com.acme.Pay");
        assert_eq!((&*metadata.version, &*metadata.group), ("2.0", "blue"));
        // A body that breaks off still tells what it told before.
        let cut = content
            .windows(8)
            .position(|text| text == b"sayHello")
            .unwrap()
            + 8;
        let wire = request(SOFA, &[("service", "a:1.0")], 1, &content[..cut]);
        assert_eq!(call(&wire).method, "sayHello");
    }
}

#[test]
fn the_target_service_goes_before_the_service() {
    for map in [
        [("service", "other"), ("sofa_head_target_service", "target")],
        [("sofa_head_target_service", "target"), ("service", "other")],
    ] {
        assert_eq!(call(&request(SOFA, &map, 11, b"")).service, "target");
    }
}

#[test]
fn the_shorter_of_two_deadlines_holds() {
    for (timeout, header, expected) in [
        (3000, "250", Some(250)),
        (100, "250", Some(100)),
        (0, "250", Some(250)),
        (-1, "0", None),
        (-1, "-5", None),
        (i32::MAX, "", Some(i32::MAX as u64)),
    ] {
        let map = [("service", "a"), ("sofa_head_deadline_remain_time", header)];
        let mut wire = request(SOFA, &map, 11, b"");
        wire[10..14].copy_from_slice(&i32::to_be_bytes(timeout));
        assert_eq!(
            call(&wire).timeout,
            expected.map(Duration::from_millis),
            "{timeout}, {header}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_never_taken_for_nothing() {
    let codec = Bolt::default();
    let refused = |wire: &[u8]| {
        let read = codec.read(&head(wire), wire);
        assert!(matches!(read, Err(Malformed::Content(_))), "{read:?}");
    };
    for time in ["soon", "3s", "1.5", "99999999999999999999"] {
        let map = [("service", "a"), ("sofa_head_deadline_remain_time", time)];
        refused(&request(SOFA, &map, 11, b""));
    }
    // The method stands in a body that ends, or is none.
    for body in [
        &b""[..],
        b"body",
        b"O\x9bmethod",
        b"C\x01c\x91\x0amethodName\x60\x40",
    ] {
        refused(&request(SOFA, &[("service", "a")], 1, body));
    }
    // It may stand behind whatever fits into the frame.
    let deep = [b"V".repeat(3000), b"N".to_vec(), b"z".repeat(3000)].concat();
    let body = [
        &b"O\x90\x92\x04args\x0amethodNameo\x90"[..],
        &deep,
        b"\x03pay",
    ]
    .concat();
    let wire = request(SOFA, &[("service", "a")], 1, &body);
    assert_eq!(call(&wire).method, "pay");
    // Java makes a map of it, in which the last one counts.
    let twice = [("service", "a"), ("service", "b"), ("x", "1"), ("x", "2")];
    let wire = request(SOFA, &twice, 11, b"");
    let metadata = call(&wire);
    assert_eq!(metadata.service, "b");
    assert_eq!(codec.attribute(&wire, &metadata, "x").unwrap(), "2");
}

#[test]
fn a_call_that_names_no_service_is_answerable() {
    let codec = Bolt::default();
    let broken_map = {
        let mut wire = request(SOFA, &[("service", "a")], 1, b"");
        let at = wire.len() - 5;
        wire[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        wire
    };
    for wire in [
        request(SOFA, &[], 1, b""),
        request(SOFA, &[("service", ":1.0")], 1, b""),
        request(SOFA, &[("app", "x")], 11, b"service"),
        request("", &[], 1, b""),
        broken_map,
    ] {
        let read = codec.read(&head(&wire), &wire);
        assert!(matches!(read, Err(Malformed::Content(_))), "{read:?}");
        let head = head(&wire);
        let status = codec.reject(&head, Rejection::BadRequest, "", &mut BytesMut::new());
        assert!(status.is_some());
    }
    // Null keys and values are none, as Java reads them.
    let mut wire = request(SOFA, &[], 11, b"");
    let map = unhex(
        "ffffffff 00000001 78  00000003 617070 ffffffff  00000007 73657276696365 00000001 61",
    );
    wire[17] = map.len() as u8;
    wire.extend_from_slice(&map);
    assert_eq!(call(&wire).service, "a");
    assert_eq!(codec.attribute(&wire, &call(&wire), "app"), None);
}

#[test]
fn an_application_s_own_header_is_left_alone() {
    let mut wire = request("com.acme.Own", &[], 1, b"");
    wire[17] = 5;
    wire.extend_from_slice(b"no map");
    wire.truncate(wire.len() - 1);
    assert_eq!(call(&wire).service, "com.acme.Own");
    let mut out = BytesMut::new();
    let edit = Edit {
        id: 7,
        attributes: &[("a", "b")],
        ..Edit::default()
    };
    assert_eq!(
        Bolt::default().encode(&head(&wire), &wire, &edit, &mut out),
        0
    );
    assert!(out.is_empty());
}

#[test]
fn attributes_that_do_not_fit_are_left_out() {
    let wire = request(SOFA, &[("service", "a")], 11, b"body");
    let long = "x".repeat(32_767 - 16 - 8 - 1);
    let edited = |codec: &Bolt, value: &str| {
        let mut out = BytesMut::new();
        let edit = Edit {
            id: 9,
            attributes: &[("k", value)],
            ..Edit::default()
        };
        let done = codec.encode(&head(&wire), &wire, &edit, &mut out);
        out.extend_from_slice(&wire[done..]);
        let head = head(&out);
        assert_eq!((head.id, head.len), (9, out.len()));
        let metadata = call(&out);
        codec
            .attribute(&out, &metadata, "k")
            .map(|value| value.len())
    };
    assert_eq!(
        edited(&Bolt::default(), &long),
        Some(long.len()),
        "just fits"
    );
    assert_eq!(
        edited(&Bolt::default(), &format!("{long}x")),
        None,
        "one too many"
    );
    let small = Bolt::new(Config {
        max_frame: wire.len() + 10,
    });
    assert_eq!(edited(&small, "v"), Some(1));
    assert_eq!(
        edited(&small, "vv"),
        None,
        "the frame would be over its limit"
    );
}

#[test]
fn a_checksum_is_there_only_for_ver1_2_and_must_be_right() {
    let codec = Bolt::default();
    let mut wire = vector("bolt_v2_crc_request_hessian3x").bytes;
    assert_eq!(call(&wire).method, "sayHello");
    for at in [30, 200, wire.len() - 1] {
        wire[at] ^= 4;
        let read = codec.read(&head(&wire), &wire);
        assert!(matches!(read, Err(Malformed::Garbage(_))), "{at}: {read:?}");
        wire[at] ^= 4;
    }
    // A Java client of ver1 1 sets the switch all the same, and sends no checksum.
    let wire = vector("java_bolt_v2_ver1_request_raw").bytes;
    assert_eq!((wire[1], wire[11]), (1, 1));
    assert_eq!(head(&wire).len, wire.len());
}

#[test]
fn what_java_would_choke_on_ends_the_connection_here() {
    let codec = Bolt::default();
    let good = vector("bolt_v2_nocrc_request_hessian3x").bytes;
    for (at, byte, what) in [
        (0, 3, "proto"),
        (1, 0, "ver1"),
        (1, 3, "ver1"),
        (2, 3, "type"),
        (2, 0xff, "type"),
        (3, 1, "cmdcode"),
        (4, 3, "cmdcode"),
        (11, 0x80, "switch"),
        (16, 0x80, "class length"),
        (18, 0x80, "header length"),
    ] {
        let mut wire = good.clone();
        wire[at] = byte;
        assert!(
            matches!(codec.peek(&wire), Err(Malformed::Garbage(_))),
            "{what}"
        );
    }
}

#[test]
fn a_frame_over_the_limit_is_known_by_its_header_alone() {
    let codec = Bolt::new(Config { max_frame: 1000 });
    let mut wire = request(SOFA, &[], 1, &[0; 1000 - 22 - 44]);
    assert!(codec.peek(&wire).unwrap().is_some());
    wire[21] += 1;
    wire.truncate(22);
    let Err(Malformed::TooLarge { head, limit: 1000 }) = codec.peek(&wire) else {
        panic!("{:?}", codec.peek(&wire));
    };
    assert_eq!((head.kind, head.id, head.len), (Kind::Request, 7, 1001));
    wire[18..22].copy_from_slice(&[0xff; 4]);
    assert!(
        matches!(codec.peek(&wire), Err(Malformed::TooLarge { .. })),
        "a negative length"
    );
    let default = Bolt::default().peek(&wire);
    assert!(
        matches!(
            default,
            Err(Malformed::TooLarge {
                limit: 16_777_216,
                ..
            })
        ),
        "{default:?}"
    );
}

#[test]
fn heartbeats_are_byte_for_byte_those_of_java_and_node() {
    let codec = Bolt::default();
    for (ping, pong) in [
        (
            "java_bolt_v1_heartbeat_raw",
            "java_bolt_v1_heartbeat_ack_raw",
        ),
        (
            "java_bolt_v2_ver1_heartbeat_raw",
            "java_bolt_v2_ver1_heartbeat_ack_raw",
        ),
        (
            "java_bolt_v2_ver2_heartbeat_raw",
            "java_bolt_v2_ver2_heartbeat_ack_raw",
        ),
    ] {
        let (ping, pong) = (vector(ping).bytes, vector(pong).bytes);
        let last_head = head(&ping);
        let mut out = BytesMut::new();
        assert!(codec.signal(Signal::Ping { id: last_head.id }, &last_head, &mut out));
        assert_eq!(out, ping);
        out.clear();
        assert!(codec.signal(Signal::Pong { wire: &ping }, &last_head, &mut out));
        assert_eq!(out, pong);
        out.clear();
        assert!(!codec.signal(Signal::GoAway { id: 1 }, &last_head, &mut out));
    }
}

#[test]
fn a_peer_s_goodbye_is_understood() {
    let wire = unhex("01 01 0064 01 00000009 01 ffffffff 0000 0000 00000000");
    assert_eq!(head(&wire).kind, Kind::GoAway);
    let one_way_ping = unhex("01 02 0000 01 00000009 01 ffffffff 0000 0000 00000000");
    assert_eq!(head(&one_way_ping).kind, Kind::Ignored);
}

#[test]
fn captured_connections_are_recognised_within_six_bytes() {
    for vector in vectors() {
        let needed = if vector.bytes[0] == 1 { 5 } else { 6 };
        for len in 0..vector.bytes.len().min(64) {
            let expected = if len < needed {
                Sniff::Undecided
            } else {
                Sniff::Match
            };
            let sniffed = Bolt::default().sniff(&vector.bytes[..len]);
            assert_eq!(sniffed, expected, "{}: {len} bytes", vector.name());
        }
    }
}

#[test]
fn other_protocols_are_not_mistaken_for_bolt() {
    for other in [
        &b"\xda\xbb\xc2\x00"[..],
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01\x02",
        b"\x10\x0c\x00\x04MQTT",
        b"\x00\x00\x01\x10",
        b"\x01\x03",
        b"\x01\x01\x01",
        b"\x01\x01\x00\x03",
        b"\x01\x01\x00\x01\x02",
        b"\x02\x03",
        b"\x02\x01\x01\x00\x01\x00",
        b"\x03",
    ] {
        let sniffed = Bolt::default().sniff(other);
        assert_eq!(sniffed, Sniff::Mismatch, "{other:02x?}");
    }
}

proptest! {
    #[test]
    fn sniffing_never_changes_its_mind(bytes in prop::collection::vec(0u8..4, 0..10)) {
        let mut decided = Sniff::Undecided;
        for len in 0..=bytes.len() {
            let now = Bolt::default().sniff(&bytes[..len]);
            prop_assert!(decided == Sniff::Undecided || decided == now, "{:?} at {}", bytes, len);
            decided = now;
        }
        prop_assert!(bytes.len() < 6 || decided != Sniff::Undecided);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        conformance::exercise(&Bolt::default(), &bytes);
    }

    #[test]
    fn no_plausible_bytes_make_it_panic(
        start in prop::sample::select(vec![&[1u8, 1, 0, 1, 1][..], &[1, 0, 0, 2, 1], &[2, 1, 1, 0, 1, 1], &[2, 2, 0, 0, 2, 1]]),
        middle in prop::collection::vec(any::<u8>(), 5..9),
        lengths in (0u16..64, 0u16..64, 0u32..64),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = [start, &middle].concat();
        bytes.extend_from_slice(&lengths.0.to_be_bytes());
        bytes.extend_from_slice(&lengths.1.to_be_bytes());
        bytes.extend_from_slice(&lengths.2.to_be_bytes());
        bytes.extend_from_slice(&rest);
        conformance::exercise(&Bolt::default(), &bytes);
    }

    #[test]
    fn no_mutation_of_a_real_frame_makes_it_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = small_frames();
        let mut bytes = which.get(samples).clone();
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        conformance::exercise(&Bolt::default(), &bytes);
        conformance::exercise(&Bolt::default(), &bytes[cut.index(bytes.len())..]);
        conformance::exercise(&Bolt::default(), &bytes[..cut.index(bytes.len())]);
    }
}

fn small_frames() -> &'static [Vec<u8>] {
    static FRAMES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    FRAMES.get_or_init(|| {
        vectors()
            .into_iter()
            .map(|vector| vector.bytes)
            .filter(|bytes| bytes.len() < 4096)
            .collect()
    })
}
