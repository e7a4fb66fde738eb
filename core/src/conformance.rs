//! Checks the laws of [`Codec`]: every codec's tests run this one function.

mod driven;
mod names;

pub use names::{NameSamples, check_names};

use std::borrow::Cow;

use bytes::BytesMut;

use self::driven::{attribute, edited, exercise_frame, reject, same_reading, sole};
use crate::codec::{Codec, Signal, Unambiguous};
use crate::frame::{Head, Kind, Malformed, Reading};
use crate::rejection::Rejection;

/// One whole frame as a real peer sent it, and what is known of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name in messages.
    pub name: String,
    /// The frame, nothing before or after it.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Attributes that it has (not necessarily all). Of calls only.
    pub attributes: Vec<(String, String)>,
    /// Whether `encode` can add attributes to it. Where not, it must leave all but the id alone.
    pub editable: bool,
}

/// An attribute that no sample has.
const PROBE: &str = "finback-conformance-probe";
/// Bits of this many bytes are flipped at a sample's beginning, where its structure is.
const FLIPPED_AT_START: usize = 1024;
/// And of this many at its end.
const FLIPPED_AT_END: usize = 32;

/// Checks every law that [`Codec`] states.
///
/// The samples should be captured frames and cover every kind and version.
///
/// # Panics
/// If a law is broken; the message names law and sample.
pub fn check(codec: &dyn Codec, samples: &[Sample]) {
    assert!(!samples.is_empty(), "no samples, no proof");
    pipelining(codec, samples);
    for sample in samples {
        let head = patience(codec, sample);
        match sample.kind {
            Kind::Request | Kind::OneWay | Kind::Response => {
                let head = complete(codec, sample, head);
                identity(codec, sample, &head);
                new_id(codec, sample, &head);
                if sample.kind != Kind::Response {
                    attributes(codec, sample, &head);
                    unambiguous(codec, sample, &head);
                }
                rejection(codec, sample, &head);
            }
            _ => {}
        }
        heartbeat(codec, sample, &head);
        robustness(codec, sample);
    }
}

/// Does to arbitrary bytes what a driver would, as fuzzers and property tests want it.
///
/// # Panics
/// If the codec contradicts itself: a frame of no length, an edit that reads back otherwise, a
/// rejection that does not. (Or if it panics.)
pub fn exercise(codec: &dyn Codec, bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let head = match codec.peek(rest) {
            Ok(Some(head)) => head,
            Err(Malformed::TooLarge { head, .. }) => {
                reject(
                    codec,
                    &head,
                    Rejection::TooLarge,
                    "too large",
                    "arbitrary bytes",
                );
                return;
            }
            Ok(None) | Err(_) => return,
        };
        assert!(
            head.len > 0,
            "a frame of no length: its reader would never get on"
        );
        let Some((wire, after)) = rest.split_at_checked(head.len) else {
            return;
        };
        exercise_frame(codec, head, wire);
        rest = after;
    }
}

// === The laws ===

/// What is remembered of a call changes no answer about another one of the same names.
fn unambiguous(codec: &dyn Codec, sample: &Sample, head: &Head) {
    let names = |wire: &[u8]| match codec.read(head, wire) {
        Ok(Reading::Call(own)) => {
            Some([own.service, own.method, own.version, own.group].map(Cow::into_owned))
        }
        _ => None,
    };
    let mut known = Unambiguous::default();
    let ask = |wire: &[u8], known: &mut Unambiguous| match codec.read(head, wire) {
        Ok(Reading::Call(metadata)) => codec.is_ambiguous(head, wire, &metadata, known),
        _ => true,
    };
    let name = &sample.name;
    let alone = ask(&sample.bytes, &mut known);
    assert_eq!(
        ask(&sample.bytes, &mut known),
        alone,
        "unambiguous: {name}, asked again"
    );
    for at in 0..sample.bytes.len().min(FLIPPED_AT_START) {
        let mut other = sample.bytes.clone();
        other[at] ^= 1;
        if names(&other) == names(&sample.bytes) {
            let alone = ask(&other, &mut Unambiguous::default());
            let then = ask(&other, &mut known);
            assert_eq!(then, alone, "unambiguous: {name}, byte {at} changed");
            ask(&sample.bytes, &mut known);
        }
    }
}

/// Frames one after another are found one after another.
fn pipelining(codec: &dyn Codec, samples: &[Sample]) {
    let stream: Vec<u8> = samples
        .iter()
        .flat_map(|sample| sample.bytes.clone())
        .collect();
    let mut at = 0;
    for Sample { name, bytes, .. } in samples {
        let alone = codec.peek(bytes);
        assert!(
            matches!(alone, Ok(Some(_))),
            "pipelining: {name}: peek says {alone:?}"
        );
        assert_eq!(
            codec.peek(&stream[at..]),
            alone,
            "pipelining: {name} amid others"
        );
        at += bytes.len();
    }
}

/// Nothing early, and no answer that more bytes would change.
fn patience(
    codec: &dyn Codec,
    Sample {
        name, bytes, kind, ..
    }: &Sample,
) -> Head {
    let head = sole(codec, bytes, name);
    assert_eq!(head.kind, *kind, "patience: {name}: its kind");
    let mut answered = false;
    for end in 0..bytes.len() {
        match codec.peek(&bytes[..end]) {
            Ok(None) => assert!(
                !answered,
                "patience: {name}: {end} bytes: the answer was unsaid"
            ),
            Ok(Some(early)) => {
                assert_eq!(early, head, "patience: {name}: {end} bytes: another answer");
                answered = true;
            }
            Err(error) => panic!("patience: {name}: {end} bytes: {error}"),
        }
    }
    head
}

/// The head of a call with its codec data completed, of a response as it is.
fn complete(codec: &dyn Codec, Sample { name, bytes, .. }: &Sample, mut head: Head) -> Head {
    match codec.read(&head, bytes) {
        Ok(Reading::Call(metadata)) => {
            assert_ne!(
                head.kind,
                Kind::Response,
                "{name}: a response read as a call"
            );
            assert!(!metadata.service.is_empty(), "{name}: a call of no service");
            assert_eq!(metadata.names_fit(), Ok(()), "bounded names: {name}");
            head.codec_data = metadata.codec_data;
        }
        Ok(Reading::Answer(_)) => {
            assert_eq!(
                head.kind,
                Kind::Response,
                "{name}: a call read as a response"
            );
        }
        Err(error) => panic!("{name}: cannot be read: {error}"),
    }
    head
}

/// `encode` with nothing to change changes nothing.
fn identity(codec: &dyn Codec, Sample { name, bytes, .. }: &Sample, head: &Head) {
    let same = edited(codec, head, bytes, head.id, &[]);
    assert!(same == *bytes, "identity: {name}");
}

/// A new id arrives, nothing else changes, and the way back leads to the same bytes.
fn new_id(codec: &dyn Codec, Sample { name, bytes, .. }: &Sample, head: &Head) {
    let id_bits = codec.sharing().id_bits();
    let widest = u64::MAX >> (64 - u32::from(id_bits));
    for id in [0, 1, 0x8182_8384, 0x0102_0304_0506_0708 & widest, widest] {
        let changed = edited(codec, head, bytes, id, &[]);
        let now = sole(codec, &changed, name);
        let expected = Head {
            id,
            len: changed.len(),
            // Those are of these very bytes.
            marks: now.marks,
            ..sole(codec, bytes, name)
        };
        assert_eq!(now, expected, "rewriting: {name}: id {id:#x}");
        let now = Head {
            codec_data: head.codec_data,
            ..now
        };
        same_reading(codec, name, (head, bytes), (&now, &changed));
        let back = edited(codec, &now, &changed, head.id, &[]);
        assert!(back == *bytes, "rewriting: {name}: id {id:#x} and back");
    }
}

/// A new attribute arrives, a present one is replaced, nothing else changes.
fn attributes(codec: &dyn Codec, sample: &Sample, head: &Head) {
    let Sample { name, bytes, .. } = sample;
    let known = |wire: &[u8]| {
        for (key, value) in &sample.attributes {
            let found = attribute(codec, wire, name, key);
            assert_eq!(
                found.as_ref(),
                Some(value),
                "rewriting: {name}: attribute {key}"
            );
        }
    };
    known(bytes);
    assert_eq!(
        attribute(codec, bytes, name, PROBE),
        None,
        "{name}: the probe before it is set"
    );
    let id = head.id ^ 1;
    if !sample.editable {
        let untouched = edited(codec, head, bytes, id, &[(PROBE, "value")]);
        let plain = edited(codec, head, bytes, id, &[]);
        assert!(untouched == plain, "rewriting: {name} takes no attributes");
        return;
    }
    let first = edited(codec, head, bytes, id, &[(PROBE, "value"), ("another", "")]);
    // Set again, grown, shrunk and set back: each time it is what it was set to, once.
    let mut wire = first.clone();
    for value in ["value", "a longer value \u{fc}\u{1f600}", "", "value"] {
        let now = Head {
            codec_data: head.codec_data,
            ..sole(codec, &wire, name)
        };
        wire = edited(codec, &now, &wire, id, &[(PROBE, value)]);
        let now = sole(codec, &wire, name);
        assert_eq!(
            (now.kind, now.id, now.variant),
            (head.kind, id, head.variant),
            "rewriting: {name}: the head beside an attribute"
        );
        assert_eq!(
            attribute(codec, &wire, name, PROBE).as_deref(),
            Some(value),
            "{name}"
        );
        assert_eq!(
            attribute(codec, &wire, name, "another").as_deref(),
            Some(""),
            "{name}"
        );
        same_reading(codec, name, (head, bytes), (&now, &wire));
        known(&wire);
    }
    assert!(
        wire == first,
        "rewriting: {name}: an attribute set back gives other bytes"
    );
}

/// Every reason to reject reads back as a failure of the same id; who wants no answer gets none.
fn rejection(codec: &dyn Codec, Sample { name, .. }: &Sample, head: &Head) {
    let long = "\u{fc}\u{1f600} long".repeat(10_000);
    for reason in Rejection::ALL {
        for text in ["no endpoint of com.acme.Pay may take the call", "", &long] {
            reject(codec, head, reason, text, name);
        }
    }
}

/// A ping in this frame's version reads back as one, its pong as a pong of the same id.
fn heartbeat(
    codec: &dyn Codec,
    Sample {
        name, bytes, kind, ..
    }: &Sample,
    head: &Head,
) {
    let pong_of = |ping: &Head, wire: &[u8]| {
        let mut pong = BytesMut::new();
        let answered = codec.signal(Signal::Pong { wire }, ping, &mut pong);
        assert!(answered, "heartbeat: {name}: a ping without a pong");
        let pong = sole(codec, &pong, name);
        assert_eq!(
            (pong.kind, pong.id, pong.variant),
            (Kind::Pong, ping.id, ping.variant),
            "heartbeat: {name}: the pong"
        );
    };
    if *kind == Kind::Ping {
        pong_of(head, bytes);
    }
    let id = 0x7172_7374;
    for (signal, kind) in [
        (Signal::Ping { id }, Kind::Ping),
        (Signal::GoAway { id }, Kind::GoAway),
    ] {
        let mut wire = BytesMut::new();
        if !codec.signal(signal, head, &mut wire) {
            assert!(
                wire.is_empty(),
                "heartbeat: {name}: bytes of a {kind:?} that is none"
            );
            continue;
        }
        let sent = sole(codec, &wire, name);
        assert_eq!(
            (sent.kind, sent.variant),
            (kind, head.variant),
            "heartbeat: {name}"
        );
        if kind == Kind::Ping {
            assert_eq!(sent.id, id, "heartbeat: {name}: the ping's id");
            pong_of(&sent, &wire);
        }
    }
}

/// No flipped bit and no cut makes it panic or contradict itself.
fn robustness(codec: &dyn Codec, Sample { bytes, .. }: &Sample) {
    let mut bytes = bytes.clone();
    for at in 0..bytes.len() {
        if at >= FLIPPED_AT_START && at + FLIPPED_AT_END < bytes.len() {
            continue;
        }
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            exercise(codec, &bytes);
            bytes[at] ^= 1 << bit;
        }
        exercise(codec, &bytes[..at]);
    }
}
