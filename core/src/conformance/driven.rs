//! A codec driven step by step, as core's drivers do, each step's result checked.

use bytes::BytesMut;

use super::PROBE;
use crate::codec::{Codec, Signal};
use crate::frame::{Edit, Head, Kind, Malformed, Metadata, Names, Outcome, Reading, Status};
use crate::rejection::Rejection;
use crate::text::ANSWER_LIMIT;

/// The longest answer of the mesh's own: its text, which may be written in more bytes than it is
/// handed over in, and the frame around it.
const LONGEST_ANSWER: usize = 2 * ANSWER_LIMIT + 1024;

/// Does to one whole frame what a driver does to it.
pub(super) fn exercise_frame(codec: &dyn Codec, mut head: Head, wire: &[u8]) {
    const WHAT: &str = "arbitrary bytes";
    match head.kind {
        Kind::Request | Kind::OneWay | Kind::Response => {}
        Kind::Ping => {
            let mut pong = BytesMut::new();
            if codec.signal(Signal::Pong { wire }, &head, &mut pong) {
                let answer = sole(codec, &pong, WHAT);
                assert_eq!((answer.kind, answer.id), (Kind::Pong, head.id), "pong");
            }
            return;
        }
        Kind::Pong | Kind::GoAway | Kind::Resume | Kind::Ignored => return,
    }
    match codec.read(&head, wire) {
        Ok(Reading::Call(metadata)) => {
            assert!(!metadata.service.is_empty(), "a call of no service");
            assert_eq!(metadata.names_fit(), Ok(()), "bounded names");
            for name in [PROBE, "", "timeout", "service"] {
                codec.attribute(wire, &metadata, name);
            }
            head.codec_data = metadata.codec_data;
        }
        Ok(Reading::Answer(_)) => {}
        Err(Malformed::Garbage(_)) => return,
        Err(_) => {
            reject(codec, &head, Rejection::BadRequest, "unreadable", WHAT);
            return;
        }
    }
    assert_eq!(
        edited(codec, &head, wire, head.id, &[]),
        wire,
        "identity of {wire:02x?}"
    );
    let id = head.id ^ 1;
    let changed = edited(codec, &head, wire, id, &[(PROBE, "value")]);
    assert_eq!(sole(codec, &changed, WHAT).id, id, "a new id");
    reject(codec, &head, Rejection::NoRoute, "no route", WHAT);
}

/// The head of a frame that is all of `bytes`.
pub(super) fn sole(codec: &dyn Codec, bytes: &[u8], name: &str) -> Head {
    match codec.peek(bytes) {
        Ok(Some(head)) => {
            assert_eq!(head.len, bytes.len(), "{name}: the frame's length");
            head
        }
        other => panic!("{name}: a whole frame, yet peek says {other:?}"),
    }
}

/// The frame as `encode` makes it, put together as a driver does.
pub(super) fn edited(
    codec: &dyn Codec,
    head: &Head,
    wire: &[u8],
    id: u64,
    attributes: &[(&str, &str)],
) -> Vec<u8> {
    const BEFORE: &[u8] = b"what was there before";
    let mut out = BytesMut::from(BEFORE);
    let stands_for = codec.encode(
        head,
        wire,
        &Edit {
            body: None,
            id,
            attributes,
            fit: None,
            onward: true,
        },
        &mut out,
    );
    out.extend_from_slice(&wire[stands_for..]);
    assert!(out.starts_with(BEFORE), "encode must append");
    out[BEFORE.len()..].to_vec()
}

/// The call's metadata.
fn metadata<'a>(codec: &dyn Codec, head: &Head, wire: &'a [u8], name: &str) -> Metadata<'a> {
    match codec.read(head, wire) {
        Ok(Reading::Call(metadata)) => metadata,
        other => panic!("{name}: a call that reads as {other:?}"),
    }
}

pub(super) fn attribute(codec: &dyn Codec, wire: &[u8], name: &str, key: &str) -> Option<String> {
    let head = sole(codec, wire, name);
    let metadata = metadata(codec, &head, wire, name);
    let value = codec.attribute(wire, &metadata, key)?;
    assert!(
        metadata.names.may_share(Names::of(key.as_bytes())),
        "names: {name}: {key} is there, and not among them"
    );
    Some(value.into_owned())
}

/// Both frames say the same, except where their attributes stand.
pub(super) fn same_reading(
    codec: &dyn Codec,
    name: &str,
    before: (&Head, &[u8]),
    after: (&Head, &[u8]),
) {
    match (codec.read(before.0, before.1), codec.read(after.0, after.1)) {
        (Ok(Reading::Call(before)), Ok(Reading::Call(after))) => {
            let after = Metadata {
                attributes_at: before.attributes_at,
                names: before.names,
                ..after
            };
            assert_eq!(before, after, "rewriting: {name}: what it says");
        }
        (Ok(Reading::Answer(before)), Ok(Reading::Answer(after))) => {
            assert_eq!(before, after, "rewriting: {name}: how it ended");
        }
        (before, after) => panic!("rewriting: {name}: reads {before:?}, then {after:?}"),
    }
}

/// Rejects the frame of `head` and checks what comes of it.
pub(super) fn reject(codec: &dyn Codec, head: &Head, reason: Rejection, text: &str, name: &str) {
    let mut out = BytesMut::from(&b"before"[..]);
    let status = codec.reject(head, reason, text, &mut out);
    let answered = status.is_some();
    assert!(
        out.starts_with(b"before"),
        "rejection: {name}: reject must append"
    );
    let wire = &out[6..];
    let wanted = head.kind == Kind::Request;
    assert_eq!(
        answered, wanted,
        "rejection: {name}: {reason:?}: who wants an answer gets one"
    );
    if !answered {
        assert!(
            wire.is_empty(),
            "rejection: {name}: {reason:?}: bytes of no answer"
        );
        return;
    }
    assert!(
        wire.len() <= LONGEST_ANSWER,
        "bounded names: {name}: {reason:?}: an answer of {} bytes",
        wire.len()
    );
    let answer = sole(codec, wire, name);
    assert_eq!(
        (answer.kind, answer.id, answer.variant),
        (Kind::Response, head.id, head.variant),
        "rejection: {name}: {reason:?}"
    );
    match codec.read(&answer, wire) {
        Ok(Reading::Answer(answer)) if answer.outcome != Outcome::Success => {
            let read_back = (answer.status != Status::NONE).then_some(answer.status);
            assert!(
                read_back.is_none() || read_back == status,
                "rejection: {name}: {reason:?}: told {status:?}, wrote {read_back:?}"
            );
        }
        other => panic!("rejection: {name}: {reason:?} reads back as {other:?}"),
    }
}
