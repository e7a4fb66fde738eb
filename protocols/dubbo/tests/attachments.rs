//! Attachments are read whole whatever stands among them, or the call is refused.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bytes::BytesMut;
use finback_core::codec::{Codec, Unambiguous};
use finback_core::discovery::Terms;
use finback_core::frame::{Edit, Fit, Malformed, Metadata, Reading};
use finback_dubbo::Dubbo;

const HESSIAN2: u8 = 2;
const FASTJSON2: u8 = 23;

/// A frame of one-way or two-way calls with this body.
fn frame(serialization: u8, body: &[u8]) -> Vec<u8> {
    let mut wire = vec![0xda, 0xbb, 0xc0 | serialization, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    wire.extend((body.len() as u32).to_be_bytes());
    wire.extend_from_slice(body);
    wire
}

/// A short text of hessian2.
fn h(text: &str) -> Vec<u8> {
    assert!(text.len() < 32);
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// A short text of JSONB.
fn j(text: &str) -> Vec<u8> {
    assert!(text.len() < 48);
    [&[0x49 + text.len() as u8], text.as_bytes()].concat()
}

fn sized(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u32).to_be_bytes(), value].concat()
}

/// A call in hessian2 with these arguments, as they stand, and attachments as they stand.
fn hessian2(version: &str, descriptor: &str, arguments: &[u8], attachments: &[u8]) -> Vec<u8> {
    let names = ["2.0.2", "com.acme.Pay", version, "pay", descriptor].map(h);
    let body = [&names.concat(), arguments, attachments].concat();
    frame(HESSIAN2, &body)
}

/// The same in fastjson2; each argument is one value.
fn fastjson2(version: &str, descriptor: &str, arguments: &[&[u8]], attachments: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for text in ["2.0.2", "com.acme.Pay", version, "pay", descriptor] {
        body.extend(sized(&j(text)));
    }
    for value in arguments.iter().chain([&attachments]) {
        body.extend(sized(value));
    }
    frame(FASTJSON2, &body)
}

fn read(wire: &[u8]) -> Result<Metadata<'_>, Malformed> {
    let codec = Dubbo::default();
    let head = codec.peek(wire).unwrap().unwrap();
    match codec.read(&head, wire)? {
        Reading::Call(call) => Ok(call),
        Reading::Answer(answer) => panic!("{answer:?}"),
    }
}

fn attribute(wire: &[u8], name: &str) -> Option<String> {
    let call = read(wire).unwrap();
    let found = Dubbo::default().attribute(wire, &call, name)?;
    Some(found.into_owned())
}

/// Values that may stand anywhere among attachments, in both serializations.
const HESSIAN2_VALUES: &[&[u8]] = &[
    b"L\0\0\0\x01\0\0\0\0",
    b"\xe0",
    b"D\x40\x09\x21\xfb\x54\x44\x2d\x18",
    b"\x5d\x01",
    b"\x4a\0\0\x01\x8b\0\0\0\0",
    b"\x23abc",
    b"N",
    b"\x57\x90\x91Z",
    b"\x72\x01[\x90\x91",
    b"H\x01aH\x01bNZZ",
    b"M\x01t\x01a\x91Z",
    b"C\x01c\x91\x01a\x60\x91",
    b"\x79\x79\x79\x79N",
    b"S\0\x03abc",
];
const FASTJSON2_VALUES: &[&[u8]] = &[
    b"\xbe\0\0\0\x01\0\0\0\0",
    b"\xe5",
    b"\xbf\x7f\xff\xff\xff",
    b"\xb5\x40\x09\x21\xfb\x54\x44\x2d\x18",
    b"\xb7\x40\x09\x21\xfb",
    b"\xb9\x02\xbb\x02\x01\x02",
    b"\xab\0\0\x01\x8b\0\0\0\0",
    b"\x91\x02\xff\xff",
    b"\x94",
    b"\x96\x01\x4aa",
    b"\x92\x4dint[\0\xa4\x02\x01\x02",
    b"\xa6\x4aa\xa6\x4ab\xaf\xa5\xa5",
    b"\x92\x53com.acme.T\0\xa6\x7f\x4aa\x01\x01\xa5",
    b"\x93\x4a$",
    b"\x90\x38\x41",
    b"\x7e\x02\xd6\xd0",
    b"\x4d\x63\x61\x66\xe9",
];

#[test]
fn group_and_timeout_are_found_behind_values_of_every_type() {
    for value in HESSIAN2_VALUES {
        let attachments = [
            b"H",
            &h("any")[..],
            value,
            &h("group"),
            &h("blue"),
            &h("timeout"),
            &h("1500"),
            b"Z",
        ]
        .concat();
        let wire = hessian2("1.0", "", b"", &attachments);
        let call = read(&wire).unwrap();
        assert_eq!(
            (&*call.group, call.timeout),
            ("blue", Some(Duration::from_millis(1500))),
            "{value:02x?}"
        );
        assert_eq!(attribute(&wire, "group").unwrap(), "blue");
    }
    for value in FASTJSON2_VALUES {
        let attachments = [
            b"\xa6",
            &j("any")[..],
            value,
            &j("group"),
            &j("blue"),
            &j("timeout"),
            &j("1500"),
            b"\xa5",
        ]
        .concat();
        let wire = fastjson2("1.0", "", &[], &attachments);
        let call = read(&wire).unwrap();
        assert_eq!(
            (&*call.group, call.timeout),
            ("blue", Some(Duration::from_millis(1500))),
            "{value:02x?}"
        );
        assert_eq!(attribute(&wire, "group").unwrap(), "blue");
    }
}

#[test]
fn keys_of_every_type_are_passed_over() {
    for key in HESSIAN2_VALUES {
        let attachments = [b"H", *key, b"\x91", &h("group"), &h("blue"), b"Z"].concat();
        let wire = hessian2("1.0", "", b"", &attachments);
        assert_eq!(read(&wire).unwrap().group, "blue", "{key:02x?}");
    }
    for key in FASTJSON2_VALUES.iter().filter(|key| key[0] != 0x7e) {
        let attachments = [b"\xa6", *key, b"\x01", &j("group"), &j("blue"), b"\xa5"].concat();
        let wire = fastjson2("1.0", "", &[], &attachments);
        assert_eq!(read(&wire).unwrap().group, "blue", "{key:02x?}");
    }
}

#[test]
fn arguments_are_bounded_by_the_frame_alone() {
    let attachments = [b"H", &h("group")[..], &h("blue"), b"Z"].concat();
    let ints = [
        b"V\x04[int\x49\0\x0f\x44\xac".to_vec(),
        vec![0x90; 1_000_620],
    ]
    .concat();
    let deep = [vec![0x57; 3000], b"N".to_vec(), vec![b'Z'; 3000]].concat();
    let maps = [b"H\x90".repeat(65), b"N".to_vec(), vec![b'Z'; 65]].concat();
    let lists = [vec![0x79; 100_000], b"N".to_vec()].concat();
    for argument in [ints, deep, maps, lists] {
        let wire = hessian2("1.0", "Ljava/lang/Object;", &argument, &attachments);
        assert_eq!(read(&wire).unwrap().group, "blue");
    }
    let deep = [
        b"\xa6\x4aa".repeat(3000),
        b"\xaf".to_vec(),
        vec![0xa5; 3000],
    ]
    .concat();
    let attachments = [b"\xa6\x4aa", &deep[..], &j("group"), &j("blue"), b"\xa5"].concat();
    let wire = fastjson2("1.0", "", &[], &attachments);
    assert_eq!(read(&wire).unwrap().group, "blue");
}

#[test]
fn attachments_may_hold_objects_of_the_arguments_classes() {
    let argument = b"C\x01c\x91\x01a\x60\x91";
    let attachments = [
        b"H",
        &h("o")[..],
        b"\x60\x92",
        &h("group"),
        &h("blue"),
        b"Z",
    ]
    .concat();
    let wire = hessian2("1.0", "Lc;", argument, &attachments);
    assert_eq!(read(&wire).unwrap().group, "blue");
    assert_eq!(attribute(&wire, "group").unwrap(), "blue");
    assert_eq!(attribute(&wire, "o"), None);
    assert_eq!(attribute(&wire, "nothing"), None);
    // And the request written anew still has them.
    let changed = edited(&wire, &[("token", "t")], None);
    assert_eq!(attribute(&changed, "token").unwrap(), "t");
    assert_eq!(attribute(&changed, "group").unwrap(), "blue");
}

#[test]
fn what_cannot_be_read_is_refused_and_never_taken_for_nothing() {
    let refused = |wire: &[u8]| {
        assert!(
            matches!(read(wire), Err(Malformed::Content(_))),
            "{wire:02x?}"
        )
    };
    for attachments in [
        &b"H\x01a\x40Z"[..],
        b"H\x01a\x91",
        b"H\x01aZ",
        b"H\x01a\x60Z",
        b"H\x01a",
        b"\x57Z",
        b"\x05group",
        b"H\x05group\x57ZZ",
        b"H\x05groupH\x01a\x91ZZ",
        b"H\x05group\x24blueZ",
        b"H\x09interface\x57ZZ",
        b"H\x07timeout\x57ZZ",
        b"H\x07timeout\x04soonZ",
        // A key whose text is no text: Java's readers may take it for any.
        b"H\x05\xc1\xa7roup\x04blueZ",
    ] {
        refused(&hessian2("1.0", "", b"", attachments));
    }
    for attachments in [
        &b"\xa6\x4aa\x80\xa5"[..],
        b"\xa6\x4aa\x01",
        b"\xa6\x4aa\xa5",
        b"\xa6\x4aa\x01\xa5\xaf",
        b"\x94",
        b"\x4aa",
        b"\xaf\xaf",
        b"",
        b"\xa6\x4egroup\x94\xa5",
        b"\xa6\x4egroup\x93\x4a$\xa5",
        b"\xa6\x4egroup\x7e\x02\xd6\xd0\xa5",
        b"\xa6\x50timeout\x94\xa5",
        b"\xa6\x50timeout\x4dsoon\xa5",
        // A key that only its writer's table of symbols tells.
        b"\xa6\x7f\xff\x4dblue\xa5",
    ] {
        refused(&fastjson2("1.0", "", &[], attachments));
    }
    // Where the arguments end is not known.
    refused(&hessian2("1.0", "Q", b"\x91", b"H\x05group\x04blueZ"));
    refused(&hessian2("1.0", "I", b"\x40", b"H\x05group\x04blueZ"));
    refused(&fastjson2("1.0", "III", &[b"\x01"], b""));
    // Neither what a generic call calls.
    let generic = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";
    let names = ["2.0.2", "com.acme.Pay", "1.0", "$invoke"].map(h).concat();
    let descriptor = [&[0x30, generic.len() as u8], generic.as_bytes()].concat();
    let body = [&names[..], &descriptor, b"\x91\x91\x91HZ"].concat();
    refused(&frame(HESSIAN2, &body));
}

#[test]
fn names_and_times_may_be_other_scalars() {
    for (value, group) in [
        (&b"N"[..], ""),
        (b"\x95", "5"),
        (b"L\0\0\0\x01\0\0\0\0", "4294967296"),
        (b"T", "true"),
        (b"R\0\x02bl\x02ue", "blue"),
    ] {
        let attachments = [b"H\x05group", value, b"Z"].concat();
        let wire = hessian2("1.0", "", b"", &attachments);
        assert_eq!(read(&wire).unwrap().group, group, "{value:02x?}");
    }
    for (value, millis) in [
        (&b"N"[..], None),
        (b"\x00", None),
        (b"\x90", None),
        (b"\x8f", None),
        (b"\xd4\x0b\xb8", Some(3000)),
        (b"\x3c\x0b\xb8", Some(3000)),
        (b"\x5e\x0b\xb8", Some(3000)),
        (b"D\x40\xa7\x70\0\0\0\0\0", Some(3000)),
    ] {
        let attachments = [b"H\x07timeout", value, b"Z"].concat();
        let wire = hessian2("1.0", "", b"", &attachments);
        let expected = millis.map(Duration::from_millis);
        assert_eq!(read(&wire).unwrap().timeout, expected, "{value:02x?}");
    }
    for (value, millis) in [
        (&b"\xaf"[..], None),
        (b"\x00", None),
        (b"\xff", None),
        (b"\x43\x0b\xb8", None),
        (b"\x44\x0b\xb8", Some(3000)),
        (b"\xc4\x0b\xb8", Some(3000)),
        (b"\xbe\0\0\0\0\0\0\x0b\xb8", Some(3000)),
        (b"\xb5\x40\xa7\x70\0\0\0\0\0", Some(3000)),
    ] {
        let attachments = [b"\xa6\x50timeout", value, b"\xa5"].concat();
        let wire = fastjson2("1.0", "", &[], &attachments);
        let expected = millis.map(Duration::from_millis);
        assert_eq!(read(&wire).unwrap().timeout, expected, "{value:02x?}");
    }
}

#[test]
fn a_call_without_attachments_has_none() {
    for wire in [
        hessian2("1.0", "", b"", b""),
        hessian2("1.0", "", b"", b"N"),
        fastjson2("1.0", "", &[], b"\xaf"),
        // A map of a class of its own.
        hessian2("1.0", "", b"", b"M\x01tZ"),
        fastjson2("1.0", "", &[], b"\x92\x4aT\0\xa6\xa5"),
    ] {
        let call = read(&wire).unwrap();
        assert_eq!((&*call.group, call.timeout), ("", None));
        let changed = edited(&wire, &[("a", "b")], None);
        assert_eq!(attribute(&changed, "a").unwrap(), "b", "{changed:02x?}");
    }
}

// === What endpoints want in it ===

fn edited(wire: &[u8], attributes: &[(&str, &str)], fit: Option<Fit<'_>>) -> Vec<u8> {
    let codec = Dubbo::default();
    let head = codec.peek(wire).unwrap().unwrap();
    let mut out = BytesMut::new();
    let edit = Edit {
        id: 9,
        attributes,
        fit,
        ..Edit::default()
    };
    let used = codec.encode(&head, wire, &edit, &mut out);
    out.extend_from_slice(&wire[used..]);
    let head = codec.peek(&out).unwrap().unwrap();
    assert_eq!((head.id, head.len), (9, out.len()));
    out.to_vec()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).into(), (*b).into()))
        .collect()
}

/// The same call in both serializations, with these attachments.
fn both(version: &str, attachments: &[(&str, &str)]) -> [Vec<u8>; 2] {
    let flat = || attachments.iter().flat_map(|(key, value)| [*key, *value]);
    let map: Vec<u8> = flat().flat_map(h).collect();
    let object: Vec<u8> = flat().flat_map(j).collect();
    [
        hessian2(version, "I", b"\x91", &[b"H", &map[..], b"Z"].concat()),
        fastjson2(
            version,
            "I",
            &[b"\x01"],
            &[b"\xa6", &object[..], b"\xa5"].concat(),
        ),
    ]
}

#[test]
fn a_token_is_given_to_calls_that_have_none() {
    let terms = Terms {
        defaults: pairs(&[("token", "secret")]),
        ..Terms::default()
    };
    let fit = Fit {
        terms: &terms,
        version: false,
        group: false,
    };
    for (attachments, token) in [
        (&[("group", "g")][..], "secret"),
        (&[("token", "own"), ("group", "g")], "own"),
        (&[("token", ""), ("group", "g")], "secret"),
    ] {
        for wire in both("1.0", attachments) {
            let changed = edited(&wire, &[], Some(fit));
            assert_eq!(attribute(&changed, "token").unwrap(), token);
            let call = read(&changed).unwrap();
            assert_eq!((&*call.group, &*call.version), ("g", "1.0"));
            if token == "own" {
                assert_eq!(changed[12..], wire[12..], "nothing changes");
            }
        }
    }
    let null = hessian2("1.0", "", b"", b"H\x05tokenNZ");
    assert_eq!(
        attribute(&edited(&null, &[], Some(fit)), "token").unwrap(),
        "secret"
    );
}

#[test]
fn a_call_that_leaves_version_and_group_open_gets_those_of_its_endpoint() {
    let asked = [
        ("path", "com.acme.Pay"),
        ("interface", "com.acme.Pay"),
        ("version", "*"),
        ("group", "g1,g2"),
        ("timeout", "1000"),
    ];
    for (version, group) in [("2.0.0", "g2"), ("", "")] {
        let terms = Terms {
            version: Some(version.into()),
            group: Some(group.into()),
            ..Terms::default()
        };
        let fit = Fit {
            terms: &terms,
            version: true,
            group: true,
        };
        let written = if version.is_empty() { "0.0.0" } else { version };
        for wire in both("*", &asked) {
            let changed = edited(&wire, &[], Some(fit));
            let call = read(&changed).unwrap();
            assert_eq!((&*call.version, &*call.group), (version, group));
            assert_eq!(attribute(&changed, "version").unwrap(), written);
            assert_eq!(attribute(&changed, "group").unwrap_or_default(), group);
            assert_eq!(call.timeout, Some(Duration::from_secs(1)));
            // Its own consumers would have written the very same.
            let mut expected: Vec<_> = asked.to_vec();
            expected[2].1 = written;
            expected[3].1 = group;
            expected.retain(|(_, value)| !value.is_empty());
            let twin = both(written, &expected);
            let twin = twin.iter().find(|twin| twin[2] == wire[2]).unwrap();
            assert_eq!(changed[12..], twin[12..]);
        }
        // Only what is left open is filled in.
        let only_group = Fit {
            version: false,
            ..fit
        };
        for wire in both("1.0", &[("group", "*")]) {
            let changed = edited(&wire, &[], Some(only_group));
            let call = read(&changed).unwrap();
            assert_eq!((&*call.version, &*call.group), ("1.0", group));
            assert_eq!(attribute(&changed, "version"), None);
        }
    }
}

#[test]
fn the_endpoints_own_path_takes_the_place_of_the_callers() {
    let terms = Terms {
        attributes: pairs(&[("path", "ctx/com.acme.Pay")]),
        ..Terms::default()
    };
    let fit = Fit {
        terms: &terms,
        version: false,
        group: false,
    };
    for attachments in [&[("path", "com.acme.Pay")][..], &[]] {
        for wire in both("1.0", attachments) {
            let changed = edited(&wire, &[], Some(fit));
            assert_eq!(attribute(&changed, "path").unwrap(), "ctx/com.acme.Pay");
        }
    }
    // One that is no scalar stays, since others may refer to it; what comes last counts.
    let odd = hessian2("1.0", "", b"", b"H\x04path\x57ZZ");
    let changed = edited(&odd, &[], Some(fit));
    assert_eq!(attribute(&changed, "path").unwrap(), "ctx/com.acme.Pay");
}

fn is_ambiguous(wire: &[u8]) -> bool {
    let codec = Dubbo::default();
    let head = codec.peek(wire).unwrap().unwrap();
    codec.is_ambiguous(
        &head,
        wire,
        &read(wire).unwrap(),
        &mut Unambiguous::default(),
    )
}

/// What a filter judges a call by is what its provider runs.
#[test]
fn a_call_that_says_two_things_is_ambiguous() {
    for (attachments, version, is) in [
        (
            &[("path", "com.acme.Pay"), ("interface", "com.acme.Pay")][..],
            "1.0",
            false,
        ),
        (&[("version", "1.0"), ("group", "blue")], "1.0", false),
        (&[("version", "0.0.0")], "", false),
        (&[], "1.0", false),
        // Providers take the attachments' word for the path and the version, and nobody's for the interface.
        (&[("interface", "com.acme.Free")], "1.0", true),
        (&[("path", "com.acme.Free")], "1.0", true),
        (
            &[("path", "com.acme.Free"), ("interface", "com.acme.Free")],
            "1.0",
            true,
        ),
        (&[("version", "2.0")], "1.0", true),
        (&[("interface", "Pay")], "1.0", true),
    ] {
        for wire in both(version, attachments) {
            assert_eq!(is_ambiguous(&wire), is, "{attachments:?}");
        }
    }
    // What nobody here can read may be anything.
    assert!(is_ambiguous(&frame(3, b"kryo")));
}

#[test]
fn a_generic_call_is_named_as_its_provider_trims_it() {
    let descriptor = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";
    let names = ["2.0.2", "com.acme.Pay", "", "$invoke"].map(h);
    let call = |descriptor: &str, name: &str| {
        let long = [&[0x30, descriptor.len() as u8], descriptor.as_bytes()].concat();
        let arguments = [h(name), vec![b'N', b'N']].concat();
        frame(
            HESSIAN2,
            &[names.concat(), long, arguments, vec![b'H', b'Z']].concat(),
        )
    };
    let wire = call(descriptor, " transfer\n");
    assert_eq!(read(&wire).unwrap().method, "transfer");
    assert!(!is_ambiguous(&wire));
    let wire = call(
        "Ljava/lang/String;Ljava/lang/Object;Ljava/lang/Object;",
        "transfer",
    );
    assert!(is_ambiguous(&wire), "it may be generic all the same");
}
