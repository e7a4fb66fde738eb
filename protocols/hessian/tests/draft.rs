//! The reader of the draft against bodies as SOFA-RPC writes them, and against bombs.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::borrow::Cow;

use finback_hessian::Error;
use finback_hessian::draft::Reader;
use proptest::prelude::*;

fn reader(bytes: &[u8]) -> Reader<'_> {
    Reader::new(bytes)
}

fn skipped(bytes: &[u8]) -> Result<usize, Error> {
    let mut reader = reader(bytes);
    reader.skip().map(|()| reader.position())
}

/// A class of this name and these fields, then an object of it; its values follow.
fn object(index: u8, class: &str, fields: &[&str]) -> Vec<u8> {
    let mut body = vec![b'O', 0xc8 + (class.len() >> 8) as u8, class.len() as u8];
    body.extend_from_slice(class.as_bytes());
    body.push(0x90 + fields.len() as u8);
    for field in fields {
        body.push(field.len() as u8);
        body.extend_from_slice(field.as_bytes());
    }
    body.extend_from_slice(&[b'o', 0x90 + index]);
    body
}

#[test]
fn every_tag_is_passed_to_its_last_byte() {
    let bodies: &[&[u8]] = &[
        b"\x00",
        b"\x05hello",
        b"\x1f0123456789012345678901234567890",
        b"\x20",
        b"\x23\x01\x02\x03",
        b"\x38\xff\xff",
        b"\x4a\x01",
        b"\x4b\x01\x02",
        b"R\0\0\0\x01",
        b"B\0\x02ab",
        b"b\0\x01aB\0\x01b",
        b"b\0\x01a\x21b",
        b"D12345678",
        b"\x67",
        b"\x68",
        b"\x69\x01",
        b"\x6a\x01\x02",
        b"\x6b\x01\x02\x03\x04",
        b"F",
        b"T",
        b"N",
        b"I1234",
        b"\x80",
        b"\xbf",
        b"\xc8\x30",
        b"\xd4\x30\x31",
        b"L12345678",
        b"\xd8",
        b"\xef",
        b"\xf8\x01",
        b"\x771234",
        b"d12345678",
        b"S\0\x02ab",
        b"s\0\x01aS\0\x01b",
        b"s\0\x01a\x01b",
        b"X\0\x02ab",
        b"Vt\0\x04[intl\0\0\0\x02\x90\x91z",
        b"Vn\x01\x90z",
        b"Vz",
        b"V\x75\x90n\x01Nz",
        b"v\x90\x92\x90\x91",
        b"Mt\0\x01a\x01k\x01vz",
        b"MT\x90z",
        b"Mz",
        b"rt\0\x01a\x01u",
        b"O\x91a\x91\x01fo\x90N",
        b"O\x91a\x91\x01fO\x91b\x90o\x91",
        b"V\x90Vz\x91Mz\x92z",
    ];
    for body in bodies {
        assert_eq!(skipped(body), Ok(body.len()), "{body:02x?}");
        for cut in 0..body.len() {
            assert_eq!(
                skipped(&body[..cut]),
                Err(Error::Truncated),
                "{body:02x?} cut at {cut}"
            );
        }
    }
}

#[test]
fn what_is_no_value_is_refused() {
    for tag in [
        0x30, 0x37, 0x40, b'C', b'z', b'H', b'n', b'l', b't', b'u', b'{',
    ] {
        assert_eq!(skipped(&[tag; 16]), Err(Error::Tag(tag)));
    }
    assert_eq!(
        skipped(b"o\x90"),
        Err(Error::Reference),
        "an object of no class"
    );
    assert_eq!(skipped(b"o\x8f"), Err(Error::Reference), "a negative class");
    assert_eq!(
        skipped(b"O\x91a\x91N"),
        Err(Error::Tag(b'N')),
        "a field without a name"
    );
    assert_eq!(
        skipped(b"b\0\0N"),
        Err(Error::Tag(b'N')),
        "binary that turns into something else"
    );
    assert_eq!(
        skipped(b"s\0\0N"),
        Err(Error::Tag(b'N')),
        "text that turns into something else"
    );
    assert_eq!(skipped(b"\x01\xff"), Err(Error::Text));
}

#[test]
fn a_request_s_fields_are_found_by_name_whatever_their_order() {
    let mut body = object(
        0,
        "com.acme.Request",
        &["props", "methodName", "sigs", "targetServiceUniqueName"],
    );
    body.extend_from_slice(b"M\x01a\x01bz");
    body.extend_from_slice(b"\x04echo");
    body.extend_from_slice(b"Vt\0\x07[stringn\x01\x10java.lang.Stringz");
    body.extend_from_slice(b"\x08acme:1.0");
    let end = body.len();
    body.extend_from_slice(b"\x05world");

    let (mut method, mut service) = (None, None);
    let mut reader = reader(&body);
    reader
        .object(&mut |field, reader| {
            match field {
                "methodName" => method = reader.string()?,
                "targetServiceUniqueName" => service = reader.string()?,
                _ => return Ok(false),
            }
            Ok(true)
        })
        .unwrap();
    assert!(matches!(method, Some(Cow::Borrowed("echo"))));
    assert!(matches!(service, Some(Cow::Borrowed("acme:1.0"))));
    assert_eq!(reader.position(), end);
    assert_eq!(reader.remaining(), 6);
    assert_eq!(reader.string().unwrap().unwrap(), "world");
}

#[test]
fn a_second_object_of_a_known_class_is_read_too() {
    let mut body = object(0, "A", &["x", "y"]);
    body.extend_from_slice(b"\x91\x92o\x90\xc8\x64\xd4\x01\x00");
    let mut reader = reader(&body);
    let mut seen = Vec::new();
    for _ in 0..2 {
        reader
            .object(&mut |field, reader| {
                seen.push((field.to_owned(), reader.int()?));
                Ok(true)
            })
            .unwrap();
    }
    let expected = [("x", 1), ("y", 2), ("x", 100), ("y", 256)];
    assert!(
        seen.iter()
            .map(|(name, value)| (name.as_str(), *value))
            .eq(expected)
    );
}

#[test]
fn a_map_s_entries_are_found_by_key_and_the_rest_passed_over() {
    let body = b"Mt\0\x01a\x01k\x01v\x91\x02no\x01n\x97NVzz\x90";
    let mut seen = Vec::new();
    let mut reader = reader(body);
    reader
        .map(&mut |key, reader| {
            seen.push(key.to_owned());
            Ok(match key {
                "n" => reader.int()? == 7,
                _ => false,
            })
        })
        .unwrap();
    assert_eq!(seen, ["k", "n"]);
    assert_eq!(reader.int(), Ok(0));
    assert_eq!(Reader::new(b"N").map(&mut |_, _| Ok(false)), Ok(()));
    assert_eq!(Reader::new(b"N").object(&mut |_, _| Ok(false)), Ok(()));
}

#[test]
fn text_is_counted_as_java_counts_it() {
    // Two units each: a surrogate pair as Java writes it, and as real UTF-8.
    for body in ["\x02".as_bytes(), b"S\0\x02"] {
        let java = [body, b"\xed\xa0\xbd\xed\xb8\x80"].concat();
        assert_eq!(reader(&java).string().unwrap().unwrap(), "\u{1f600}");
        let real = [body, "\u{1f600}".as_bytes()].concat();
        assert!(matches!(
            reader(&real).string(),
            Ok(Some(Cow::Borrowed("\u{1f600}")))
        ));
    }
    let chunked = b"s\0\x01\xed\xa0\xbds\0\x02\xed\xb8\x80\xc3\xa9\x01!";
    assert_eq!(
        reader(chunked).string().unwrap().unwrap(),
        "\u{1f600}\u{e9}!"
    );
    assert_eq!(skipped(chunked), Ok(chunked.len()));
    assert_eq!(
        reader(b"\x01\xed\xa0\xbd").string(),
        Err(Error::Text),
        "half a pair"
    );
    assert_eq!(
        reader(b"\x01\xf0\x9f\x98\x80").string(),
        Err(Error::Text),
        "half a pair's count"
    );
    assert_eq!(reader(b"N").string(), Ok(None));
    assert_eq!(reader(b"\x90").string(), Err(Error::Tag(0x90)));
}

#[test]
fn bombs_cost_an_error_and_nothing_else() {
    assert_eq!(skipped(b"v\x90I\x7f\xff\xff\xff"), Err(Error::Truncated));
    assert_eq!(skipped(b"Vl\x7f\xff\xff\xffz"), Err(Error::Truncated));
    assert_eq!(skipped(b"v\x90I\xff\xff\xff\xff"), Err(Error::Truncated));
    assert_eq!(skipped(b"O\x91aI\x7f\xff\xff\xff"), Err(Error::Truncated));
    assert_eq!(skipped(b"OI\x7f\xff\xff\xffa"), Err(Error::Truncated));
    for nest in [&b"V"[..], b"M\x90", b"v\x90\x91", b"Vt\0\0"] {
        assert_eq!(
            skipped(&nest.repeat(2_000_000)),
            Err(Error::Truncated),
            "{nest:02x?}"
        );
    }
    let classes = b"O\x91a\x90".repeat(1_000_000);
    assert_eq!(skipped(&classes), Err(Error::Truncated));
    let mut selfish = object(0, "A", &["self"]);
    selfish.extend_from_slice(b"\x4a\x00");
    assert_eq!(
        skipped(&selfish),
        Ok(selfish.len()),
        "a reference is never followed"
    );
    let mut endless = b"s\xff\xff".to_vec();
    endless.extend_from_slice(&[b'a'; 1000]);
    assert_eq!(skipped(&endless), Err(Error::Truncated));
}

#[test]
fn what_is_there_is_read_however_much_and_however_deep() {
    let mut deep = b"V".repeat(1 << 20);
    deep.extend_from_slice(&b"z".repeat(1 << 20));
    let mut wide = vec![b'V'];
    wide.resize(2_000_000, b'N');
    wide.push(b'z');
    let classes: Vec<u8> = (0..2000)
        .flat_map(|_| b"O\x91a\x90".to_vec())
        .chain(*b"o\x90")
        .collect();
    for body in [deep, wide, classes] {
        assert_eq!(skipped(&body), Ok(body.len()), "{:02x?}", &body[..4]);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_overrun(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let mut reader = Reader::new(&bytes);
        while reader.skip().is_ok() && reader.remaining() > 0 {}
        prop_assert!(reader.position() <= bytes.len());
        let mut reader = Reader::new(&bytes);
        let _ = reader.object(&mut |name, reader| Ok(name.len() % 2 == 0 && reader.string().is_ok()));
        prop_assert!(reader.position() <= bytes.len());
        let mut reader = Reader::new(&bytes);
        let _ = reader.map(&mut |name, reader| Ok(name.len() % 2 == 0 && reader.int().is_ok()));
        prop_assert!(reader.position() <= bytes.len());
    }
}
