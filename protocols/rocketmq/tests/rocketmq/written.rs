//! Frames that clients could write, well or badly.

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_core::conformance::{self, NameSamples, check_names};
use finback_core::filter::BARE;
use finback_core::frame::{Edit, Kind, Lag, Malformed, Metadata, Reading};
use finback_core::rejection::Rejection;
use finback_rocketmq::{Broker, Brokers, Config, Message, Renaming, RocketMq};
use proptest::prelude::*;
use std::sync::Arc;

use crate::captured::codec;

/// A frame with this JSON header.
pub(crate) fn json(header: &str, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap();
    let total = length + 4 + u32::try_from(body.len()).unwrap();
    [
        &total.to_be_bytes()[..],
        &length.to_be_bytes(),
        header.as_bytes(),
        body,
    ]
    .concat()
}

/// A frame with a binary header of these fields.
pub(crate) fn binary(code: i16, flag: i32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in fields {
        all.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mut header = code.to_be_bytes().to_vec();
    header.extend_from_slice(&[0, 1, 0xe0, 0, 0, 0, 7]);
    header.extend_from_slice(&flag.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&u32::try_from(all.len()).unwrap().to_be_bytes());
    header.extend_from_slice(&all);
    let length = u32::try_from(header.len()).unwrap();
    let encoding = (1 << 24 | length).to_be_bytes();
    [&(length + 4).to_be_bytes()[..], &encoding, &header].concat()
}

fn call(wire: &[u8]) -> Result<Metadata<'_>, Malformed> {
    let head = codec().peek(wire)?.unwrap();
    match codec().read(&head, wire)? {
        Reading::Call(metadata) => Ok(metadata),
        Reading::Answer(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn what_lenient_clients_write_is_read() {
    // As npm's ali-ons writes it: numbers and booleans among the fields, members left out.
    let wire = json(
        r#"{"code":310,"opaque":3,"extFields":{"b":"T","a":"G","e":0,"k":false,"i":"TAGS\u0001x\u0002"}}"#,
        b"body",
    );
    let metadata = call(&wire).unwrap();
    assert_eq!((&*metadata.service, &*metadata.group), ("T", "G"));
    assert_eq!(codec().attribute(&wire, &metadata, "e").unwrap(), "0");
    assert_eq!(codec().attribute(&wire, &metadata, "k").unwrap(), "false");
    assert_eq!(codec().attribute(&wire, &metadata, ":tag").unwrap(), "x");
    let bare = json("{}", b"");
    let head = codec().peek(&bare).unwrap().unwrap();
    assert_eq!((head.kind, head.id), (Kind::Request, 0));
    // An id finds its place where there was none.
    for header in ["{}", "{\"code\":1}"] {
        let wire = json(header, b"x");
        let head = codec().peek(&wire).unwrap().unwrap();
        let mut out = BytesMut::new();
        let edit = Edit {
            id: 9,
            ..Edit::default()
        };
        let used = codec().encode(&head, &wire, &edit, &mut out);
        out.extend_from_slice(&wire[used..]);
        assert_eq!(codec().peek(&out).unwrap().unwrap().id, 9);
        assert!(out.ends_with(b"x"));
    }
}

#[test]
fn another_spelling_of_a_request_is_the_same_request_or_none() {
    for (header, is_fine) in [
        (r#"{"code":310,"extFields":{"\u0062":"T"}}"#, true),
        (r#"{"code":310,"ext\u0046ields":{"b":"T"}}"#, true),
        (r#"{"code":"310","extFields":{"b":"T"}}"#, true),
        // fastjson would take the one, and we the other.
        (
            r#"{"code":310,"extFields":{"b":"T"},"extFields":{"b":"U"}}"#,
            false,
        ),
        (r#"{"code":310,"extFields":{"b":"T","b":"U"}}"#, false),
        (
            r#"{"code":310,"extFields":{"b":"T"},"ext_fields":{"b":"U"}}"#,
            false,
        ),
        (r#"{"code":310,"extFields":{"b":"T"},"Code":11}"#, false),
        (r#"{'code':310,'extFields':{'b':'T'}}"#, false),
        (r#"{"code":310,"extFields":["b"]}"#, false),
    ] {
        let wire = json(header, b"");
        let read = call(&wire);
        match is_fine {
            true => assert_eq!(read.unwrap().service, "T", "{header}"),
            false => assert!(read.is_err(), "{header}: {read:?}"),
        }
    }
    let twice = binary(310, 0, &[("b", "T"), ("b", "U")]);
    assert!(call(&twice).is_err());
}

#[test]
fn a_header_says_the_same_in_any_order() {
    // Which fields matter is known once the code is, and that may stand behind them.
    let fields =
        r#""extFields":{"topic":"no","a":"G","consumerGroup":"no","b":"\u0054","sysFlag":"x"}"#;
    for header in [
        format!(r#"{{"code":310,"opaque":5,"version":400,{fields}}}"#),
        format!(r#" {{ "opaque" : 5 , {fields} , "version":"400", "code":310 }} "#),
        format!(r#"{{"version":400,{fields},"remark":"a \" b","code":310,"opaque":"5"}}"#),
    ] {
        let wire = json(&header, b"body");
        let head = codec().peek(&wire).unwrap().unwrap();
        assert_eq!((head.id, head.kind), (5, Kind::Request), "{header}");
        let metadata = call(&wire).unwrap();
        assert_eq!(
            (&*metadata.service, &*metadata.group),
            ("T", "G"),
            "{header}"
        );
        let own = codec().attribute(&wire, &metadata, ":client-version");
        assert_eq!(own.unwrap(), "400", "{header}");
        let mut out = BytesMut::new();
        let edit = Edit {
            id: u64::from(u32::MAX),
            ..Edit::default()
        };
        let used = codec().encode(&head, &wire, &edit, &mut out);
        out.extend_from_slice(&wire[used..]);
        let text = String::from_utf8_lossy(&out[8..]);
        assert!(text.replace(' ', "").contains("\"opaque\":-1"), "{text}");
        assert_eq!(call(&out).unwrap().service, "T", "{text}");
    }
}

#[test]
fn fields_that_cannot_be_read_end_a_client_and_no_answer() {
    for fields in [r#"{"a":}"#, r#"{"b" "T"}"#] {
        let request = json(&format!(r#"{{"code":310,"extFields":{fields}}}"#), b"");
        assert!(
            matches!(call(&request), Err(Malformed::Garbage(_))),
            "{fields}"
        );
        let answer = json(
            &format!(r#"{{"code":0,"flag":1,"extFields":{fields},"opaque":7}}"#),
            b"",
        );
        let head = codec().peek(&answer).unwrap().unwrap();
        assert_eq!((head.kind, head.id), (Kind::Response, 7));
        assert!(codec().read(&head, &answer).is_ok());
    }
    let wire = json(
        r#"{"code":11,"extFields":{"sysFlag":"2","suspendTimeoutMillis":"soon"}}"#,
        b"",
    );
    assert!(matches!(call(&wire), Err(Malformed::Content(_))));
}

#[test]
fn a_group_is_the_one_that_the_server_reads() {
    for (code, fields, group) in [
        (10, r#""consumerGroup":"no","producerGroup":"yes""#, "yes"),
        (37, r#""consumerGroup":"no","producerGroup":"yes""#, "yes"),
        (310, r#""producerGroup":"no","a":"yes""#, "yes"),
        (11, r#""producerGroup":"no","consumerGroup":"yes""#, "yes"),
        (
            200_051,
            r#""producerGroup":"no","consumerGroup":"yes""#,
            "yes",
        ),
        (36, r#""consumerGroup":"no","group":"yes""#, "yes"),
        (35, r#""producerGroup":"yes""#, "yes"),
        (35, r#""consumerGroup":"yes""#, "yes"),
    ] {
        let wire = json(
            &format!(r#"{{"code":{code},"extFields":{{{fields}}}}}"#),
            b"",
        );
        assert_eq!(call(&wire).unwrap().group, group, "{code} {fields}");
    }
}

#[test]
fn a_header_of_very_many_members_is_refused() {
    let members: String = (0..17).map(|n| format!("\"m{n}\":1,")).collect();
    let wire = json(&format!("{{{members}\"code\":1}}"), b"");
    assert!(matches!(codec().peek(&wire), Err(Malformed::Garbage(_))));
}

#[test]
fn a_header_is_looked_at_when_its_frame_is_there() {
    // Each piece of a body would have it read anew.
    let wire = json("{\"code\":310,\"opaque\":1}", &[b'.'; 1000]);
    for end in 0..wire.len() {
        assert_eq!(codec().peek(&wire[..end]), Ok(None), "{end}");
    }
    assert!(codec().peek(&wire).unwrap().is_some());
}

#[test]
fn properties_near_their_limit_are_left_alone() {
    for (length, is_added) in [(1000, true), (31 * 1024, false)] {
        let wire = json(
            &format!(
                r#"{{"code":310,"extFields":{{"b":"T","i":"k\u0001{}\u0002"}}}}"#,
                "x".repeat(length)
            ),
            b"",
        );
        let head = codec().peek(&wire).unwrap().unwrap();
        let mut out = BytesMut::new();
        let edit = Edit {
            id: head.id,
            attributes: &[("traceparent", "00-1")],
            ..Edit::default()
        };
        let used = codec().encode(&head, &wire, &edit, &mut out);
        out.extend_from_slice(&wire[used..]);
        let found = codec().attribute(&out, &call(&out).unwrap(), "traceparent");
        assert_eq!(found.is_some(), is_added, "{length}");
    }
}

#[test]
fn each_message_of_a_batch_gets_what_is_added() {
    let message = |body: &str, all: &str| {
        let mut own = vec![7; 16];
        own.extend_from_slice(&(body.len() as u32).to_be_bytes());
        own.extend_from_slice(body.as_bytes());
        own.extend_from_slice(&(all.len() as u16).to_be_bytes());
        own.extend_from_slice(all.as_bytes());
        let size = (own.len() as u32).to_be_bytes();
        own[..4].copy_from_slice(&size);
        own
    };
    let body = [
        message("one", "lane\u{1}x\u{2}KEYS\u{1}k\u{2}"),
        message("", ""),
        message("three", "KEYS\u{1}l"),
    ]
    .concat();
    let binary = {
        let mut own = binary(320, 0, &[("b", "T"), ("m", "true")]);
        let total = u32::try_from(own.len() - 4 + body.len()).unwrap();
        own[..4].copy_from_slice(&total.to_be_bytes());
        [own, body.clone()].concat()
    };
    let fields = r#""b":"T","m":"true""#;
    let header =
        |more: &str| format!(r#"{{"code":320,"opaque":7,"extFields":{{{fields}{more}}}}}"#);
    let edit = |wire: &[u8], id: Option<u64>| {
        let head = codec().peek(wire).unwrap().unwrap();
        let edit = Edit {
            id: id.unwrap_or(head.id),
            attributes: &[("lane", "gray")],
            ..Edit::default()
        };
        let mut out = BytesMut::new();
        let used = codec().encode(&head, wire, &edit, &mut out);
        out.extend_from_slice(&wire[used..]);
        out
    };
    for wire in [json(&header(""), &body), binary] {
        for id in [None, Some(900)] {
            let out = edit(&wire, id);
            let head = codec().peek(&out).unwrap().unwrap();
            assert_eq!(head.id, id.unwrap_or(7));
            assert_eq!(head.len, out.len());
            let metadata = call(&out).unwrap();
            assert_eq!(codec().attribute(&out, &metadata, "lane").unwrap(), "gray");
            let all = Message::read(&head, &out).unwrap();
            let members = all.members().unwrap();
            let bodies: Vec<_> = members.iter().map(|own| own.body).collect();
            assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
            assert!(members.iter().all(|own| own.flag == 0x0707_0707));
            assert_eq!(members[2].properties, "KEYS\u{1}l\u{2}lane\u{1}gray\u{2}");
        }
    }
    // A signature is about its body; what cannot be read is nobody's to change.
    let signed = json(&header(r#","Signature":"x""#), &body);
    let broken = json(&header(""), &body[..body.len() - 1]);
    let large = json(&header(""), &message(&"x".repeat(4 << 20), ""));
    for wire in [signed, broken, large, json(&header(""), b"")] {
        assert_eq!(edit(&wire, None), wire);
        let out = edit(&wire, Some(900));
        assert!(out.ends_with(&wire[wire.len() - 20..]));
    }
}

#[test]
fn only_requests_with_messages_can_be_given_something() {
    let is_bare = |code: i32| {
        let wire = json(
            &format!(r#"{{"code":{code},"extFields":{{"b":"T"}}}}"#),
            b"",
        );
        let metadata = call(&wire).unwrap();
        codec().attribute(&wire, &metadata, BARE).is_some()
    };
    for code in [10, 310, 320, 324, 325] {
        assert!(!is_bare(code), "{code}");
    }
    for code in [11, 14, 15, 34, 36, 37, 38, 105, 200_050, 399] {
        assert!(is_bare(code), "{code}");
    }
}

#[test]
fn a_renamed_topic_is_written_as_its_reader_calls_it() {
    let mut topics = Renaming::default();
    topics.add("orders", "o2").unwrap();
    topics.add("123", "numbered").unwrap();
    let codec = RocketMq::of_broker(Config {
        topics: Arc::new(topics),
        ..Config::default()
    });
    let service = |wire: &[u8]| call(wire).unwrap().service.into_owned();
    let frames = |topic: &str| {
        [
            json(
                &format!(
                    r#"{{"code":310,"opaque":7,"extFields":{{"a":"g","b":"{topic}","i":"k\u0001v"}}}}"#
                ),
                b"body",
            ),
            json(
                &format!(r#"{{"extFields":{{"b":{topic}}},"opaque":7,"code":310}}"#)
                    .replace(":orders", ":\"orders\""),
                b"body",
            ),
            binary(310, 0, &[("a", "g"), ("b", topic), ("i", "k\u{1}v\u{2}")]),
        ]
    };
    for (topic, there) in [("orders", "o2"), ("123", "numbered")] {
        for wire in frames(topic) {
            let head = codec.peek(&wire).unwrap().unwrap();
            for (id, attributes, onward) in [
                (7, &[][..], true),
                (70_000, &[("lane", "gray")][..], true),
                (7, &[("lane", "gray"), ("k", "a longer value")][..], true),
                (9, &[][..], false),
            ] {
                let edit = Edit {
                    id,
                    attributes,
                    onward,
                    ..Edit::default()
                };
                let mut out = BytesMut::new();
                let used = codec.encode(&head, &wire, &edit, &mut out);
                out.extend_from_slice(&wire[used..]);
                let now = codec.peek(&out).unwrap().unwrap();
                assert_eq!((now.id, now.len), (id, out.len()));
                assert_eq!(service(&out), if onward { there } else { topic });
                let metadata = call(&out).unwrap();
                for (name, value) in attributes {
                    let found = codec.attribute(&out, &metadata, name);
                    assert_eq!(found.as_deref(), Some(*value), "{name}");
                }
                // What a broker asks back is called as here.
                if onward {
                    let back = codec.asked_back(&now, &out).unwrap();
                    assert_eq!(service(&back), topic);
                }
            }
        }
    }
    let refused = |fields: &str| {
        let wire = json(&format!(r#"{{"code":310,"extFields":{{{fields}}}}}"#), b"");
        let head = codec.peek(&wire).unwrap().unwrap();
        match codec.read(&head, &wire).unwrap() {
            Reading::Call(metadata) => metadata.refused,
            Reading::Answer(answer) => panic!("{answer:?}"),
        }
    };
    assert_eq!(refused(r#""b":"orders""#), None);
    assert_eq!(refused(r#""b":"o2""#), Some(Rejection::NoRoute));
    let signed = r#""b":"orders","Signature":"x""#;
    assert_eq!(refused(signed), Some(Rejection::Denied));
    assert_eq!(refused(r#""b":"other","Signature":"x""#), None);
}

#[test]
fn codes_of_pop_are_found_in_their_binary_wrap() {
    let fields = [("topic", "T"), ("consumerGroup", "G"), ("pollTime", "5000")];
    let wire = binary(3442, 0, &fields);
    let metadata = call(&wire).unwrap();
    assert_eq!(metadata.method, "POP_MESSAGE");
    assert_eq!(metadata.timeout.unwrap().as_millis(), 15_000);
}

#[test]
fn lengths_that_lie_end_the_connection() {
    let good = json("{\"code\":1}", b"");
    for (at, bytes) in [
        (0, vec![0xff, 0xff, 0xff, 0xff]),
        (0, vec![0, 0, 0, 3]),
        (4, vec![0, 0xff, 0xff, 0xff]),
        (4, vec![2]),
        (5, vec![0, 0, 200]),
    ] {
        let mut wire = good.clone();
        wire[at..at + bytes.len()].copy_from_slice(&bytes);
        assert!(
            matches!(codec().peek(&wire), Err(Malformed::Garbage(_))),
            "{wire:?}"
        );
    }
    // One over the limit is answered before it has come.
    let mut wire = json("{\"code\":310,\"opaque\":5}", b"");
    wire[..4].copy_from_slice(&(17_u32 << 20).to_be_bytes());
    let Err(Malformed::TooLarge { head, .. }) = codec().peek(&wire) else {
        panic!("too large");
    };
    assert_eq!(head.id, 5);
}

#[test]
fn names_are_bounded() {
    let in_json = |[topic, _, _, group]: NameSamples<'_>| {
        let header =
            format!(r#"{{"code":11,"extFields":{{"topic":"{topic}","consumerGroup":"{group}"}}}}"#);
        json(&header, b"")
    };
    let in_binary = |[topic, _, _, group]: NameSamples<'_>| {
        binary(11, 0, &[("topic", topic), ("consumerGroup", group)])
    };
    let lengths = [1025, 60_000];
    check_names(&codec(), "JSON", 1, &lengths, &in_json);
    check_names(&codec(), "binary", 1, &lengths, &in_binary);
    let long = "x".repeat(1025);
    for write in [&in_json as &dyn Fn(NameSamples<'_>) -> Vec<u8>, &in_binary] {
        assert!(call(&write(["T", "", "", "G"])).is_ok());
        assert_eq!(
            call(&write(["T", "", "", &long])).unwrap_err(),
            Malformed::LONG_NAME
        );
        assert_eq!(
            call(&write(["(other)", "", "", "G"])).unwrap_err(),
            Malformed::OWN_NAME
        );
    }
}

#[test]
fn signed_requests_are_left_alone() {
    let head_of = |wire: &[u8]| codec().peek(wire).unwrap().unwrap();
    for signed in [false, true] {
        let signature = if signed { r#","Signature":"x""# } else { "" };
        let wire = json(
            &format!(r#"{{"code":310,"opaque":1,"extFields":{{"b":"T"{signature}}}}}"#),
            b"body",
        );
        let head = head_of(&wire);
        let mut out = BytesMut::new();
        let edit = Edit {
            id: 1,
            attributes: &[("traceparent", "00-1")],
            ..Edit::default()
        };
        let used = codec().encode(&head, &wire, &edit, &mut out);
        out.extend_from_slice(&wire[used..]);
        let found = codec().attribute(&out, &call(&out).unwrap(), "traceparent");
        assert_eq!(found.is_some(), !signed);
    }
}

#[test]
fn refusals_tell_clients_what_to_do() {
    let code = |version: u32, code: u32, why| {
        let wire = json(
            &format!(r#"{{"code":{code},"opaque":-3,"version":{version}}}"#),
            b"",
        );
        let head = codec().peek(&wire).unwrap().unwrap();
        let mut out = BytesMut::new();
        let status = codec()
            .reject(&head, why, "why \"not\"\n", &mut out)
            .unwrap();
        let answer = codec().peek(&out).unwrap().unwrap();
        assert_eq!((answer.id, answer.kind), (head.id, Kind::Response));
        status.0
    };
    assert_eq!(code(409, 310, Rejection::Draining), 14);
    assert_eq!(code(479, 310, Rejection::Draining), 1500);
    assert_eq!(code(479, 310, Rejection::Denied), 16);
    assert_eq!(code(479, 310, Rejection::NoRoute), 17);
}

#[test]
fn a_fetch_tells_its_lag() {
    let lag = |asked: &str, answered: &str| {
        let [asked, answer] = [asked, answered].map(|header| json(header, b""));
        let heads = [&asked, &answer].map(|wire| codec().peek(wire).unwrap().unwrap());
        codec().lag(&heads[0], &heads[1])
    };
    let pull = r#"{"code":11,"extFields":{"topic":"T","queueId":"3"}}"#;
    let told = |fields: &str| format!(r#"{{"code":0,"extFields":{{{fields}}},"flag":1}}"#);
    let behind = |part, messages| Some(Lag { part, messages });
    for (asked, fields, wanted) in [
        (
            pull,
            r#""nextBeginOffset":"10","maxOffset":25"#,
            behind(3, 15),
        ),
        (
            pull,
            r#""maxOffset":"7","nextBeginOffset":"7""#,
            behind(3, 0),
        ),
        (
            pull,
            r#""maxOffset":"7","nextBeginOffset":"9""#,
            behind(3, 0),
        ),
        (
            pull,
            r#""nextBeginOffset":"0","maxOffset":"900000000000""#,
            behind(3, 900_000_000_000),
        ),
        (pull, r#""maxOffset":"7""#, None),
        (pull, r#""maxOffset":"many","nextBeginOffset":"9""#, None),
        (
            r#"{"code":200050,"extFields":{"topic":"T","queueId":-1}}"#,
            r#""restNum":"4","popTime":"1""#,
            behind(-1, 4),
        ),
        (
            r#"{"code":310,"extFields":{"b":"T"}}"#,
            r#""maxOffset":"7","nextBeginOffset":"1""#,
            None,
        ),
    ] {
        assert_eq!(lag(asked, &told(fields)), wanted, "{fields}");
    }
}

struct Nobody;

impl Brokers for Nobody {
    fn port(&self, _: &Broker<'_>) -> Option<u16> {
        None
    }
}

#[test]
fn nobody_registers_a_broker_through_us_or_administers_one_unasked() {
    let with = |administration| Config {
        administration,
        ..Config::default()
    };
    let names = |own| RocketMq::of_name_servers(with(own), Arc::new(Nobody));
    let broker = |own| RocketMq::of_broker(with(own));
    let denied = |codec: &RocketMq, code: u32| {
        let wire = json(&format!(r#"{{"code":{code}}}"#), b"");
        let head = codec.peek(&wire).unwrap().unwrap();
        match codec.read(&head, &wire).unwrap() {
            Reading::Call(metadata) => metadata.refused.is_some(),
            Reading::Answer(answer) => panic!("{answer:?}"),
        }
    };
    for code in [103, 104, 322, 904, 1003] {
        for administration in [false, true] {
            assert!(denied(&names(administration), code), "{code}");
            let may = !denied(&broker(administration), code);
            assert!(may, "{code}: a broker may be asked that");
        }
    }
    for code in [17, 25, 100, 205, 215, 216, 217, 318, 3001] {
        for own in [names(false), broker(false)] {
            assert!(denied(&own, code), "{code}");
        }
        for own in [names(true), broker(true)] {
            assert!(!denied(&own, code), "{code}");
        }
    }
    for code in [10, 34, 105, 106, 206, 319, 399, 70_000] {
        assert!(!denied(&names(false), code), "{code}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        conformance::exercise(&codec(), &bytes);
    }

    #[test]
    fn no_header_breaks_anything(header in "[{}\\[\\],:\"a-z0-9\\\\ ]{0,200}") {
        conformance::exercise(&codec(), &json(&header, b"body"));
    }
}
