//! Names at their longest and beyond, wherever Bolt has them.

use finback_bolt::Bolt;
use finback_core::codec::{Codec, Unambiguous};
use finback_core::conformance::{NameSamples, check_names};
use finback_core::frame::{NAME_LIMIT, Reading};

use crate::codec::{SOFA, request};
use crate::frames::vectors;

/// Lengths that fit into a header, and into a body.
const SHORT: [usize; 2] = [NAME_LIMIT + 1, 20_000];
const LONG: [usize; 3] = [NAME_LIMIT + 1, 20_000, 7 << 20];

fn unique([service, _, version, group]: NameSamples<'_>) -> String {
    format!("{service}:{version}:{group}")
}

/// A text of hessian as Java writes it, in chunks of these two tags: the last one, and others.
fn text(text: &str, [last, other]: [u8; 2]) -> Vec<u8> {
    let mut out = Vec::new();
    if text.is_ascii() && !text.is_empty() {
        let mut chunks = text.as_bytes().chunks(0x4000).peekable();
        while let Some(chunk) = chunks.next() {
            out.push(if chunks.peek().is_some() { other } else { last });
            out.extend((chunk.len() as u16).to_be_bytes());
            out.extend_from_slice(chunk);
        }
        return out;
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut chunks = units.chunks(0x4000).peekable();
    if chunks.peek().is_none() {
        return vec![0];
    }
    while let Some(chunk) = chunks.next() {
        out.push(if chunks.peek().is_some() { other } else { last });
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

#[test]
fn names_in_the_header_are_bounded() {
    check_names(&Bolt::default(), "header", 4, &SHORT, &|names| {
        let unique = unique(names);
        let map = [
            ("service", unique.as_str()),
            ("sofa_head_method_name", names[1]),
        ];
        request(SOFA, &map, 1, b"")
    });
    check_names(
        &Bolt::default(),
        "target in the header",
        4,
        &SHORT,
        &|names| {
            let unique = unique(names);
            let map = [
                ("sofa_head_method_name", names[1]),
                ("sofa_head_target_service", unique.as_str()),
            ];
            request(SOFA, &map, 1, b"")
        },
    );
    check_names(&Bolt::default(), "class", 1, &SHORT, &|[class, ..]| {
        request(class, &[], 1, b"")
    });
}

#[test]
fn names_in_the_body_are_bounded() {
    let fields = ["methodName", "targetServiceUniqueName"];
    let long = |text: &[u8]| [&[text.len() as u8], text].concat();
    check_names(&Bolt::default(), "hessian 3", 4, &LONG, &|names| {
        let tags = [b'S', b's'];
        let mut body = vec![b'O', 0x91, b'C', 0x92];
        body.extend(fields.iter().flat_map(|field| long(field.as_bytes())));
        body.extend([b'o', 0x90]);
        body.extend_from_slice(&text(names[1], tags));
        body.extend_from_slice(&text(&unique(names), tags));
        request(SOFA, &[], 1, &body)
    });
    check_names(&Bolt::default(), "hessian 4", 4, &LONG, &|names| {
        let tags = [b'S', b'R'];
        let mut body = vec![b'C', 1, b'C', 0x92];
        body.extend(fields.iter().flat_map(|field| long(field.as_bytes())));
        body.push(0x60);
        body.extend_from_slice(&text(names[1], tags));
        body.extend_from_slice(&text(&unique(names), tags));
        request(SOFA, &[], 1, &body)
    });
}

/// What a filter judges a call by is what its server runs, which takes the body's word for it.
#[test]
fn a_call_whose_header_and_body_differ_is_ambiguous() {
    let codec = Bolt::default();
    let is_ambiguous = |wire: &[u8]| {
        let head = codec.peek(wire).unwrap().unwrap();
        match codec.read(&head, wire) {
            Ok(Reading::Call(metadata)) => {
                let known = &mut Unambiguous::default();
                Some(codec.is_ambiguous(&head, wire, &metadata, known))
            }
            _ => None,
        }
    };
    let mut changed = 0;
    for vector in vectors() {
        let wire = &vector.bytes;
        let Some(is) = is_ambiguous(wire) else {
            continue;
        };
        assert!(!is, "{}", vector.name());
        // The header's word comes first.
        let named = b"sofa_head_method_name";
        let Some(at) = wire.windows(named.len()).position(|own| own == named) else {
            continue;
        };
        let method = at + named.len() + 4;
        let is_hessian = wire.windows(11).filter(|own| own == b"SofaRequest").count() == 2;
        let mut other = wire.clone();
        other[method] = b'Z';
        // A frame that counts its bytes together is refused for that.
        if let Some(is) = is_ambiguous(&other) {
            assert_eq!(is, is_hessian, "{}", vector.name());
            changed += usize::from(is);
        }
    }
    assert!(changed > 3, "{changed}");
}
