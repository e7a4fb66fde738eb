//! Requests of our own against those of Java's clients, and messages read from theirs.

use std::borrow::Cow;

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_rocketmq::{Ask, Message, QUEUES_MADE, Taken, has_brokers, queues, take_answer};
use serde_json::Value;

use crate::captured::{codec, frame};

/// The header of a frame in JSON.
fn header(wire: &[u8]) -> Value {
    let length = u32::from_be_bytes([0, wire[5], wire[6], wire[7]]) as usize;
    serde_json::from_slice(&wire[8..8 + length]).unwrap()
}

fn message(wire: &[u8]) -> Option<Message<'_>> {
    let head = codec().peek(wire).unwrap().unwrap();
    Message::read(&head, wire)
}

#[test]
fn messages_are_read_from_what_clients_send_and_written_as_java_does() {
    for (name, key, ends) in [
        ("java-5.5.0-json-req-310", "PG_j5", true),
        ("bin5-bin-req-310", "PG_j5b", true),
        ("v409-json-req-310", "PG_j49v", false),
    ] {
        let wire = frame(name);
        let own = message(&wire).unwrap();
        assert_eq!(own.group, key, "{name}");
        assert!(own.topic.starts_with("T_j"), "{name}");
        assert_eq!((&*own.broker, own.body), ("b1", &b"hello"[..]), "{name}");
        assert_eq!(own.properties.ends_with('\u{2}'), ends, "{name}");
        assert!(!own.is_half() && !own.is_batch, "{name}");
        let id = codec().peek(&wire).unwrap().unwrap().id;
        let mut written = Vec::new();
        assert!(Ask::Send(&own).put(i32::try_from(id).unwrap(), None, &mut written));
        assert_eq!(message(&written).unwrap(), own, "{name}");
        if name.starts_with("java-5") {
            // As others wrote it, member by member.
            assert_eq!(header(&written), header(&wire));
        }
    }
    for name in [
        "java-5.5.0-json-req-320",
        "bin5-bin-req-320",
        "v409-json-req-320",
    ] {
        let wire = frame(name);
        let own = message(&wire).unwrap();
        assert!(own.is_batch, "{name}");
        let members = own.members().unwrap();
        let bodies: Vec<_> = members.iter().map(|own| own.body).collect();
        assert_eq!(bodies[..2], [b"b0", b"b1"], "{name}");
        assert!(
            members[0].properties.contains("TAGS\u{1}TagBatch"),
            "{name}"
        );
    }
    for name in [
        "java-5.5.0-json-req-34",
        "java-5.5.0-json-req-325",
        "java-5.5.0-json-req-37",
    ] {
        assert_eq!(message(&frame(name)), None, "{name}");
    }
}

#[test]
fn halves_of_transactions_are_known() {
    let half = |sys_flag, properties: &'static str| Message {
        sys_flag,
        properties: Cow::Borrowed(properties),
        ..Message::default()
    };
    assert!(half(4, "").is_half());
    assert!(half(0, "a\u{1}b\u{2}TRAN_MSG\u{1}true\u{2}").is_half());
    assert!(!half(1, "TRAN_MSG\u{1}false\u{2}").is_half());
}

#[test]
fn name_servers_are_asked_as_java_asks_them() {
    let mut written = Vec::new();
    assert!(Ask::Route("T_j5").put(0, None, &mut written));
    let (own, java) = (header(&written), header(&frame("java-5.5.0-json-req-105")));
    assert_eq!(own["extFields"]["topic"], java["extFields"]["topic"]);
    for member in ["code", "flag", "opaque", "version"] {
        assert_eq!(own[member], java[member], "{member}");
    }
    written.clear();
    assert!(Ask::Brokers.put(7, None, &mut written));
    assert_eq!(header(&written)["extFields"], serde_json::json!({}));
}

#[test]
fn answers_are_read_however_they_come() {
    let names = [
        "java-5.5.0-json-resp-310-0",
        "java-5.5.0-json-req-40",
        "java-5.5.0-json-resp-105-17",
        "bin5-bin-resp-326-0",
        "java-5.5.0-json-resp-105-0",
        "java-5.5.0-json-resp-106-0",
    ];
    let all: Vec<u8> = names.iter().flat_map(|name| frame(name)).collect();
    for step in [1, 7, all.len()] {
        let (mut bytes, mut seen) = (BytesMut::new(), Vec::new());
        for piece in all.chunks(step) {
            bytes.extend_from_slice(piece);
            while let Some(own) = take_answer(&mut bytes).unwrap() {
                seen.push(own);
            }
        }
        assert!(bytes.is_empty());
        assert_eq!(seen.len(), names.len());
        // What a server asks is no answer.
        assert_eq!(seen[1], None);
        let answer = |at: usize| seen[at].as_ref().unwrap();
        assert_eq!((answer(0).id, answer(0).queue, answer(0).offset), (6, 0, 0));
        assert_eq!(answer(0).taken(), Taken::Stored);
        assert!(answer(2).is_no_topic());
        assert!(
            answer(2).remark.starts_with("No topic route info"),
            "{:?}",
            answer(2)
        );
        let route = queues(&answer(4).body, QUEUES_MADE);
        assert_eq!(route.len(), 4);
        assert_eq!(
            (&*route[0].broker, &*route[0].address, route[3].id),
            ("b1", "127.0.0.1:26110", 3)
        );
        assert_eq!(queues(&answer(4).body, u32::MAX).len(), 8);
        assert!(has_brokers(&answer(5).body) && !has_brokers(b"{\"brokerAddrTable\":{}}"));
    }
    assert!(take_answer(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_err());
}

#[test]
fn only_masters_that_take_messages_have_queues_for_them() {
    let route = br#"{"brokerDatas":[{"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"b2"},{"brokerAddrs":{1:"h:3"},"brokerName":"slave"},
        {"brokerAddrs":{"0":"h:4"},"brokerName":"b1"},{"brokerAddrs":{"0":"h:5"},"brokerName":"read"}],
        "queueDatas":[{"brokerName":"b2","perm":6,"writeQueueNums":2},{"brokerName":"slave","perm":6,"writeQueueNums":2},
        {"brokerName":"b1","perm":2,"writeQueueNums":1},{"brokerName":"read","perm":4,"writeQueueNums":2},{"brokerName":"gone","perm":6,"writeQueueNums":2}]}"#;
    let found = queues(route, u32::MAX);
    let found: Vec<_> = found
        .iter()
        .map(|own| format!("{} {} {}", own.broker, own.id, own.address))
        .collect();
    assert_eq!(found, ["b1 0 h:4", "b2 0 h:1", "b2 1 h:1"]);
    for body in [&b""[..], b"x", b"[]", b"{}"] {
        assert!(queues(body, 4).is_empty());
    }
}

/// Signs with what it is given.
struct Plain;

impl finback_rocketmq::Signer for Plain {
    fn access_key(&self) -> &str {
        "mesh"
    }

    fn sign(&self, content: &[u8]) -> String {
        String::from_utf8(content.to_vec()).unwrap()
    }
}

#[test]
fn a_signature_is_of_all_values_by_the_order_of_their_names_and_the_body() {
    let message = Message {
        group: "g".into(),
        topic: "t".into(),
        broker: "b1".into(),
        properties: "p".into(),
        body: b"body",
        ..Message::default()
    };
    let mut written = Vec::new();
    assert!(Ask::Send(&message).put(1, Some(&Plain), &mut written));
    let fields = &header(&written)["extFields"];
    assert_eq!(fields["AccessKey"], "mesh");
    // AccessKey, then a to n.
    assert_eq!(fields["Signature"], "meshgtTBW10240000p0falsefalseb1body");
}
