//! Frames of consumers in lanes, and frames that are signed.

use std::sync::Arc;

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_core::frame::{Edit, Reading};
use finback_core::rejection::Rejection;
use finback_rocketmq::{AclKeys, Config, GroupLanes, Renaming, RocketMq, Signer};
use serde_json::{Value, json};

use crate::written::{binary, json as frame};

/// Signs by adding up, for what is signed is what matters here.
struct Sum;

impl Signer for Sum {
    fn access_key(&self) -> &str {
        "mesh"
    }

    fn sign(&self, content: &[u8]) -> String {
        let sum: u64 = content
            .iter()
            .zip(1..)
            .map(|(byte, at)| u64::from(*byte) * at)
            .sum();
        format!("{sum}-{}", String::from_utf8_lossy(content).len())
    }
}

fn codec(keys: bool) -> RocketMq {
    let mut topics = Renaming::default();
    topics.set_lane(&"gray".into());
    RocketMq::of_broker(Config {
        topics: Arc::new(topics),
        lanes: Some(GroupLanes::of_lane("lane", "gray").unwrap()),
        keys: AclKeys::new(if keys {
            vec![Arc::new(Sum)]
        } else {
            Vec::new()
        }),
        ..Config::default()
    })
}

fn onward(codec: &RocketMq, wire: &[u8], attributes: &[(&str, &str)]) -> BytesMut {
    let head = codec.peek(wire).unwrap().unwrap();
    let edit = Edit {
        id: head.id,
        attributes,
        onward: true,
        ..Edit::default()
    };
    let mut out = BytesMut::new();
    let used = codec.encode(&head, wire, &edit, &mut out);
    out.extend_from_slice(&wire[used..]);
    out
}

fn field(codec: &RocketMq, wire: &[u8], name: &str) -> String {
    let head = codec.peek(wire).unwrap().unwrap();
    assert_eq!(head.len, wire.len());
    match codec.read(&head, wire).unwrap() {
        Reading::Call(metadata) => codec
            .attribute(wire, &metadata, name)
            .unwrap_or_default()
            .into_owned(),
        Reading::Answer(answer) => panic!("{answer:?}"),
    }
}

fn refused(codec: &RocketMq, wire: &[u8]) -> Option<Rejection> {
    let head = codec.peek(wire).unwrap().unwrap();
    match codec.read(&head, wire).unwrap() {
        Reading::Call(metadata) => metadata.refused,
        Reading::Answer(answer) => panic!("{answer:?}"),
    }
}

fn signed(code: i32, fields: &Value, body: &[u8]) -> Vec<u8> {
    let mut fields = fields.as_object().unwrap().clone();
    fields.insert("AccessKey".into(), "mesh".into());
    // Those of a serde_json map are in order.
    let values: String = fields.values().map(|own| own.as_str().unwrap()).collect();
    let signature = Sum.sign(&[values.as_bytes(), body].concat());
    fields.insert("Signature".into(), signature.into());
    let header = json!({ "code": code, "opaque": 7, "flag": 0, "extFields": fields });
    frame(&header.to_string(), body)
}

#[test]
fn both_encodings_name_the_lanes_group() {
    let codec = codec(false);
    let fields = [
        ("consumerGroup", "g"),
        ("topic", "%RETRY%g_t"),
        ("queueId", "0"),
    ];
    let header = json!({ "code": 200_051, "opaque": 7, "flag": 0, "extFields": {
        "consumerGroup": "g", "topic": "%RETRY%g_t", "queueId": 0 } });
    for wire in [
        frame(&header.to_string(), b"body"),
        binary(3443, 0, &fields),
    ] {
        let out = onward(&codec, &wire, &[]);
        assert_eq!(field(&codec, &out, "consumerGroup"), "g-lane-gray");
        assert_eq!(field(&codec, &out, "topic"), "%RETRY%g-lane-gray_t");
        assert_eq!(field(&codec, &out, "queueId"), "0");
    }
    let long = json!({ "code": 38, "extFields": { "consumerGroup": "g".repeat(250) } });
    assert_eq!(
        refused(&codec, &frame(&long.to_string(), b"")),
        Some(Rejection::BadRequest)
    );
}

#[test]
fn what_is_signed_is_checked_and_signed_again() {
    let codec = codec(true);
    let pull = signed(38, &json!({ "consumerGroup": "g", "z": "1" }), b"body");
    assert_eq!(refused(&codec, &pull), None);
    let out = onward(&codec, &pull, &[]);
    assert_eq!(field(&codec, &out, "consumerGroup"), "g-lane-gray");
    // It is what its client would have signed.
    assert_eq!(refused(&codec, &out), None);
    let send = signed(
        310,
        &json!({ "a": "p", "b": "t", "i": "k\u{1}v\u{2}" }),
        b"body",
    );
    let out = onward(&codec, &send, &[("lane", "gray")]);
    assert_eq!(field(&codec, &out, "lane"), "gray");
    assert_eq!(refused(&codec, &out), None);
    let mut forged = pull.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(refused(&codec, &forged), Some(Rejection::Unauthenticated));
    // Nothing is said about what it would have been without a change.
    let same = onward(
        &codec,
        &signed(37, &json!({ "producerGroup": "p" }), b""),
        &[],
    );
    assert_eq!(same, signed(37, &json!({ "producerGroup": "p" }), b""));
}

#[test]
fn what_is_signed_with_a_key_that_is_not_known_goes_no_further() {
    let codec = codec(false);
    for code in [11, 34, 38, 200_050] {
        let wire = signed(code, &json!({ "consumerGroup": "g", "topic": "t" }), b"{}");
        assert_eq!(refused(&codec, &wire), Some(Rejection::Denied), "{code}");
    }
    let send = signed(310, &json!({ "a": "p", "b": "t" }), b"");
    assert_eq!(refused(&codec, &send), None);
}
