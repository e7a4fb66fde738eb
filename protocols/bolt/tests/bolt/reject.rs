//! The mesh's own answers, byte for byte as real clients were seen to take them.

use crate::frames::{Vector, unhex, vector, vectors};
use bytes::BytesMut;
use finback_bolt::Bolt;
use finback_core::codec::Codec;
use finback_core::frame::{Answer, Head, Kind, Malformed, Outcome, Reading, Status};
use finback_core::rejection::Rejection;
use finback_hessian::{draft, v2};

/// The head of a call, its codec data completed as a driver completes it.
fn head(wire: &[u8]) -> Head {
    let codec = Bolt::default();
    let mut head = codec.peek(wire).unwrap().unwrap();
    if let Ok(Reading::Call(metadata)) = codec.read(&head, wire) {
        head.codec_data = metadata.codec_data;
    }
    head
}

fn rejected(wire: &[u8], rejection: Rejection, text: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    let status = Bolt::default().reject(&head(wire), rejection, text, &mut out);
    assert!(status.is_some());
    out.to_vec()
}

/// The text of an answer's body in either version.
fn error_text(content: &[u8], field: &str) -> String {
    let mut text = None;
    let wanted = field;
    if content[0] == b'C' {
        let mut reader = v2::Reader::new(content);
        let read = reader.object(&mut |field, reader| {
            let here = field == wanted;
            if here {
                text = reader.string()?;
            }
            Ok(here)
        });
        assert_eq!((read, reader.remaining()), (Ok(()), 0));
    } else {
        let mut reader = draft::Reader::new(content);
        let read = reader.object(&mut |field, reader| {
            let here = field == wanted;
            if here {
                text = reader.string()?;
            }
            Ok(here)
        });
        assert_eq!((read, reader.remaining()), (Ok(()), 0));
    }
    text.unwrap().into_owned()
}

#[test]
fn hessian_3_callers_get_what_a_java_server_says() {
    let server = vector("java_bolt_v1_response_sofa_service_not_found");
    let text = error_text(server.content(), "errorMsg");
    let request = vector("java_bolt_v1_request_sofa_sayHello_nouid");
    assert_eq!(request.number("id"), server.number("id"));
    let mut answer = rejected(&request.bytes, Rejection::NoService, &text);
    // The last field, `responseProps`, repeats the header map there and is null here.
    assert_eq!(answer.pop(), Some(b'N'));
    let shared = answer.len();
    assert_eq!(
        answer[..16],
        server.bytes[..16],
        "all but the content's length"
    );
    assert_eq!(answer[20..], server.bytes[20..shared]);
    assert_eq!(server.bytes[shared], b'M');
}

#[test]
fn both_versions_bodies_are_those_that_node_writes() {
    for version in ["3x", "4x"] {
        let server = vector(&format!(
            "bolt_v1_response_framework_error_hessian{version}"
        ));
        let text = error_text(server.content(), "errorMsg");
        let request = vector(&format!("bolt_v1_request_hessian{version}"));
        let answer = rejected(&request.bytes, Rejection::NoEndpoint, &text);
        assert!(answer.ends_with(server.content()), "{version}");
    }
}

#[test]
fn protobuf_callers_get_plain_text() {
    let server = vector("bolt_v1_response_protobuf_error");
    let request = vector("bolt_v1_request_protobuf");
    let text = str::from_utf8(server.content()).unwrap();
    // Node says status 2, Java 0: both show the text, but 2 would not be Java's way.
    let mut expected = server.bytes.clone();
    expected[10..12].copy_from_slice(&[0, 0]);
    assert_eq!(rejected(&request.bytes, Rejection::Denied, text), expected);
}

#[test]
fn applications_without_sofa_rpc_get_a_server_exception() {
    let request = vector("java_bolt_v2_ver2_request_raw");
    let expected = unhex(
        "02 02 00 0002 01 00000015 01 00 0002 0034 0000 0000004d
         636f6d2e616c697061792e72656d6f74696e672e7270632e657863657074696f6e2e527063536572766572457863657074696f6e
         4fc834
         636f6d2e616c697061792e72656d6f74696e672e7270632e657863657074696f6e2e527063536572766572457863657074696f6e
         91 0d 64657461696c4d657373616765 6f90 04 6e6f7065",
    );
    let answer = rejected(&request.bytes, Rejection::NoRoute, "nope");
    assert_eq!(answer, expected);
}

#[test]
fn busy_and_late_are_headers_and_nothing_else() {
    for (vector, expected) in [
        (
            "java_bolt_v1_request_sofa_sayHello",
            "01 00 0002 01 00000001 01 STAT 0000 0000 00000000",
        ),
        (
            "bolt_v2_crc_request_hessian3x",
            "02 02 00 0002 01 00000001 01 00 STAT 0000 0000 00000000",
        ),
        (
            "bolt_v2_ver1_1_request_protobuf",
            "02 01 00 0002 01 00000004 0b 00 STAT 0000 0000 00000000",
        ),
    ] {
        let request = crate::frames::vector(vector).bytes;
        for (rejection, status) in [
            (Rejection::Overloaded, "0004"),
            (Rejection::Draining, "0004"),
            (Rejection::DeadlineExceeded, "0007"),
        ] {
            let expected = unhex(&expected.replace("STAT", status));
            assert_eq!(
                rejected(&request, rejection, "text"),
                expected,
                "{vector} {rejection:?}"
            );
        }
    }
}

#[test]
fn who_cannot_be_told_in_words_gets_a_status_that_java_knows() {
    // JSON: a body that we cannot write.
    let mut request = vector("java_bolt_v1_request_sofa_sayHello").bytes;
    request[9] = 12;
    for (rejection, status) in [
        (Rejection::NoRoute, 6),
        (Rejection::NoService, 6),
        (Rejection::NoEndpoint, 5),
        (Rejection::ConnectFailed, 5),
        (Rejection::ConnectionLost, 0x10),
        (Rejection::DeadlineExceeded, 7),
        (Rejection::Overloaded, 4),
        (Rejection::Denied, 1),
        (Rejection::Unauthenticated, 1),
        (Rejection::BadRequest, 9),
        (Rejection::TooLarge, 9),
        (Rejection::Draining, 4),
    ] {
        let answer = rejected(&request, rejection, "text");
        assert_eq!((answer.len(), answer[9]), (20, 12), "{rejection:?}");
        assert_eq!(answer[10..12], [0, status], "{rejection:?}");
    }
    // A frame that was never read, for its length: its version is not known.
    let mut request = vector("java_bolt_v1_request_sofa_sayHello").bytes;
    request[18] = 0x70;
    let Err(Malformed::TooLarge { head, .. }) = Bolt::default().peek(&request) else {
        panic!("not too large");
    };
    let mut out = BytesMut::new();
    let status = Bolt::default().reject(&head, Rejection::TooLarge, "text", &mut out);
    assert_eq!(status, Some(Status(9)));
    assert_eq!(
        out,
        unhex("01 00 0002 01 00000001 01 0009 0000 0000 00000000")
    );
}

#[test]
fn text_arrives_whole_or_shortened_never_broken() {
    for name in [
        "java_bolt_v1_request_sofa_sayHello",
        "bolt_v1_request_hessian4x",
        "java_bolt_v2_ver1_request_raw",
    ] {
        let request = vector(name);
        let field = if name.ends_with("raw") {
            "detailMessage"
        } else {
            "errorMsg"
        };
        let told = |text: &str| {
            let answer = rejected(&request.bytes, Rejection::NoRoute, text);
            let at = answer
                .windows(2)
                .position(|two| two == b"Oc" || two == b"O\xbe");
            let at = at.or_else(|| answer.windows(3).position(|three| three == b"O\xc84"));
            let at = at
                .or_else(|| answer.windows(2).position(|two| two == b"C0"))
                .unwrap();
            error_text(&answer[at..], field)
        };
        for text in [
            "x",
            &"y".repeat(31),
            &"z".repeat(32),
            &"\u{fc}\u{4e2d}\u{1f600}".repeat(30),
        ] {
            assert_eq!(told(text), text, "{name}");
        }
        assert_eq!(told(""), "no_route", "{name}: no text is no message");
        assert_eq!(
            told(&"\u{1f600}".repeat(5000)),
            "\u{1f600}".repeat(512),
            "{name}"
        );
    }
}

#[test]
fn no_rejection_of_a_captured_call_reads_as_a_success() {
    let codec = Bolt::default();
    for request in vectors()
        .iter()
        .filter(|vector| vector.kind() == Kind::Request)
    {
        let head = head(&request.bytes);
        for rejection in Rejection::ALL {
            let answer = rejected(&request.bytes, rejection, "text");
            let answer_head = codec.peek(&answer).unwrap().unwrap();
            let expected = match rejection {
                Rejection::Overloaded | Rejection::Draining => &[Outcome::Refused][..],
                Rejection::DeadlineExceeded => &[Outcome::TimedOut],
                _ if is_sofa(request) => &[Outcome::Exception],
                // By the status that its kind of client turns into a clean exception.
                _ => &[Outcome::Exception, Outcome::Invalid, Outcome::Failed],
            };
            let Ok(Reading::Answer(Answer { outcome, .. })) = codec.read(&answer_head, &answer)
            else {
                panic!("{}: {rejection:?} cannot be read", request.name());
            };
            let name = request.name();
            assert!(
                expected.contains(&outcome),
                "{name}: {rejection:?}: {outcome:?}"
            );
            assert_eq!(answer_head.id, head.id);
        }
    }
}

fn is_sofa(request: &Vector) -> bool {
    request.text("class").ends_with("SofaRequest")
}
