//! Names at their longest and beyond, in every serialization that Dubbo's frames are read in.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_core::conformance::{NameSamples, check_names};
use finback_core::frame::{Malformed, NAME_LIMIT, Reading};
use finback_core::rejection::Rejection;
use finback_dubbo::{Config, Dubbo};

const LENGTHS: [usize; 3] = [NAME_LIMIT + 1, 20_000, 7 << 20];
const GENERIC: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";
const HESSIAN2: u8 = 2;
const FASTJSON2: u8 = 23;

fn codec() -> Dubbo {
    Dubbo::new(Config {
        max_frame: 64 << 20,
        ..Config::default()
    })
}

fn frame(serialization: u8, body: &[u8]) -> Vec<u8> {
    let mut wire = vec![0xda, 0xbb, 0xc0 | serialization, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    wire.extend((body.len() as u32).to_be_bytes());
    wire.extend_from_slice(body);
    wire
}

/// A text of hessian2 as Java writes it.
fn hessian(text: &str) -> Vec<u8> {
    if text.is_ascii() && text.len() <= 31 {
        return [&[text.len() as u8], text.as_bytes()].concat();
    }
    let mut out = Vec::new();
    if text.is_ascii() {
        let mut chunks = text.as_bytes().chunks(0x4000).peekable();
        while let Some(chunk) = chunks.next() {
            out.push(if chunks.peek().is_some() { b'R' } else { b'S' });
            out.extend((chunk.len() as u16).to_be_bytes());
            out.extend_from_slice(chunk);
        }
        return out;
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut chunks = units.chunks(0x4000).peekable();
    while let Some(chunk) = chunks.next() {
        out.push(if chunks.peek().is_some() { b'R' } else { b'S' });
        out.extend((chunk.len() as u16).to_be_bytes());
        for unit in chunk {
            let low = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
            match unit {
                0..=0x7f => out.push(*unit as u8),
                0x80..=0x7ff => out.extend([0xc0 | (unit >> 6) as u8, low(0)]),
                _ => out.extend([0xe0 | (unit >> 12) as u8, low(6), low(0)]),
            }
        }
    }
    out
}

/// A body of hessian2: the values before the attachments, and these.
fn hessian_body(values: &[&str], attachments: &[(&str, &str)]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|value| hessian(value)).collect();
    let mut body = values.concat();
    body.push(b'H');
    for (key, value) in attachments {
        body.extend_from_slice(&hessian(key));
        body.extend_from_slice(&hessian(value));
    }
    body.push(b'Z');
    body
}

/// A text of JSONB in UTF-8.
fn utf8(text: &str) -> Vec<u8> {
    let mut out = vec![0x7a, 0x48];
    out.extend((text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

/// A text of JSONB in UTF-16.
fn utf16(text: &str) -> Vec<u8> {
    let units: Vec<u8> = if text.is_ascii() {
        let mut units = vec![0; 2 * text.len()];
        let (pairs, _) = units.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(text.bytes()) {
            pair[0] = byte;
        }
        units
    } else {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let mut out = vec![0x7c, 0x48];
    out.extend((units.len() as u32).to_be_bytes());
    out.extend_from_slice(&units);
    out
}

/// A body of fastjson2.
fn json_body(text: fn(&str) -> Vec<u8>, values: &[&str], attachments: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut value = |bytes: &[u8]| {
        body.extend((bytes.len() as u32).to_be_bytes());
        body.extend_from_slice(bytes);
    };
    for each in values {
        value(&text(each));
    }
    let mut object = vec![0xa6];
    for each in attachments.iter().flat_map(|(key, value)| [key, value]) {
        object.extend_from_slice(&text(each));
    }
    object.push(0xa5);
    value(&object);
    body
}

#[test]
fn names_of_hessian2_are_bounded() {
    let body = |[service, method, version, group]: NameSamples<'_>| {
        let values = ["2.0.2", service, version, method, ""];
        frame(HESSIAN2, &hessian_body(&values, &[("group", group)]))
    };
    check_names(&codec(), "hessian2", 4, &LENGTHS, &body);
    // The interface takes the path's place, and attachments that are not plain are read too.
    let body = |[service, method, version, group]: NameSamples<'_>| {
        let values = ["2.0.2", "path", version, method, ""];
        let attachments = [("\u{e9}", ""), ("interface", service), ("group", group)];
        frame(HESSIAN2, &hessian_body(&values, &attachments))
    };
    check_names(&codec(), "hessian2, interface", 4, &LENGTHS, &body);
    let body = |[service, method, version, group]: NameSamples<'_>| {
        let values = ["2.0.2", service, version, "$invoke", GENERIC, method];
        let values: Vec<Vec<u8>> = values.iter().map(|value| hessian(value)).collect();
        let mut body = values.concat();
        body.extend(*b"NNH");
        for each in ["group", group] {
            body.extend_from_slice(&hessian(each));
        }
        body.push(b'Z');
        frame(HESSIAN2, &body)
    };
    check_names(&codec(), "hessian2, generic", 4, &LENGTHS, &body);
}

#[test]
fn names_of_fastjson2_are_bounded() {
    for text in [utf8, utf16] {
        let body = |[service, method, version, group]: NameSamples<'_>| {
            let values = ["2.0.2", service, version, method, ""];
            frame(FASTJSON2, &json_body(text, &values, &[("group", group)]))
        };
        check_names(&codec(), "fastjson2", 4, &LENGTHS, &body);
        let body = |[service, method, version, group]: NameSamples<'_>| {
            let values = ["2.0.2", "path", version, method, ""];
            let attachments = [("group", group), ("interface", service)];
            frame(FASTJSON2, &json_body(text, &values, &attachments))
        };
        check_names(&codec(), "fastjson2, interface", 4, &LENGTHS, &body);
    }
}

#[test]
fn what_is_no_name_may_be_long() {
    let long = "x".repeat(1 << 20);
    let values = ["2.0.2", "a.B", "", "call", "Ljava/lang/String;", &long];
    let attachments = [("token", long.as_str()), ("group", "g")];
    for wire in [
        frame(HESSIAN2, &hessian_body(&values, &attachments)),
        frame(FASTJSON2, &json_body(utf8, &values, &attachments)),
        frame(FASTJSON2, &json_body(utf16, &values, &attachments)),
    ] {
        let codec = codec();
        let head = codec.peek(&wire).unwrap().unwrap();
        let Ok(Reading::Call(call)) = codec.read(&head, &wire) else {
            panic!("it cannot be read");
        };
        assert_eq!((&*call.service, &*call.group), ("a.B", "g"));
        assert_eq!(codec.attribute(&wire, &call, "token").unwrap(), long);
    }
    // But what stands where a name should, as long as a frame may be, is refused.
    let protocol = frame(
        HESSIAN2,
        &hessian_body(&[&long, "a.B", "", "call", ""], &[]),
    );
    let head = codec().peek(&protocol).unwrap().unwrap();
    let refused = codec().read(&head, &protocol);
    assert_eq!(refused.unwrap_err(), Malformed::LONG_NAME);
}

#[test]
fn a_callers_text_comes_back_cut() {
    let long = "\u{1f600}".repeat(2 << 20);
    for serialization in [HESSIAN2, FASTJSON2, 8] {
        let wire = frame(serialization, b"");
        let head = codec().peek(&wire).unwrap().unwrap();
        for reason in Rejection::ALL {
            let mut out = BytesMut::new();
            assert!(codec().reject(&head, reason, &long, &mut out).is_some());
            assert!(out.len() < 4096, "{reason:?}: {} bytes", out.len());
            assert!(out.len() > 2048, "{reason:?}: {} bytes", out.len());
        }
    }
}
