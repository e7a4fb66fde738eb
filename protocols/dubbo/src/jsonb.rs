//! fastjson2's JSONB: texts and scalars read, values of every type passed over.
//!
//! Dubbo's fastjson2 body is a row of values, each with its length in four bytes before it, so
//! that arguments are passed over unread (Dubbo: FastJson2ObjectOutput). Tags from fastjson2's
//! `JSONB`, where `int` and `long` are numbers of their own, and `len` is an int:
//!
//! ```text
//! f0-ff 00-2f int, 1 byte   30-3f int, 2 bytes    40-47 int, 3 bytes    48    int, 5 bytes
//! d8-ef long, 1 byte        c8-d7 long, 2 bytes   c0-c7 long, 3 bytes   bf be long, 5 and 9 bytes
//! 49-78 Latin-1 of 0-47     79    Latin-1, len    7a    UTF-8, len      7b-7d UTF-16, LE, BE, len
//! 7e    GB18030, len        7f    symbol: an int that stands for a text, or a text and its int
//! 90    char: int           91    binary, len     92    type: a symbol without 7f; then a value
//! 93    reference: text     94-a3 array of 0-15   a4    array, len      a6    object until a5
//! a7 a8 time, date and time: 3 and 7 bytes, int   aa    the same and a zone: 7 bytes, int, text
//! a9 ac ad date, seconds, minutes: 4 bytes        ab    millis, 8 bytes ae    instant: long, int
//! af    null                b0 b1 false, true     b2 b3 double 0, 1     b4 b5 double: long; 8 bytes
//! b6 b7 float: int; 4 bytes b8 b9 decimal: long; int and a number       ba bb big int: long; len
//! bc bd short, byte
//! ```

mod reader;

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

pub(crate) use reader::Reader;

pub(crate) const OBJECT: u8 = 0xa6;
pub(crate) const OBJECT_END: u8 = 0xa5;
pub(crate) const NULL: u8 = 0xaf;

/// Values with their lengths before them.
pub(crate) struct Values<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Values<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next value's bytes.
    pub(crate) fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.body.get(self.at..)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let value = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.at += 4 + value.len();
        Some(value)
    }
}

/// Why there is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoText {
    /// It has more bytes than are wanted; nothing was copied.
    TooLong,
    /// It is something else, or broken.
    Unreadable,
}

/// A whole value that is a text of at most `limit` bytes of UTF-8, or null (`None`).
pub(crate) fn text_within(value: &[u8], limit: usize) -> Result<Option<Cow<'_, str>>, NoText> {
    if value == [NULL] {
        return Ok(None);
    }
    let mut reader = Reader::new(value);
    let (tag, bytes) = reader.text().ok_or(NoText::Unreadable)?;
    if reader.remaining() > 0 {
        return Err(NoText::Unreadable);
    }
    decode(tag, bytes, limit).map(Some)
}

/// The text that these bytes are under this tag, if it has no more than `limit` bytes of UTF-8.
pub(crate) fn decode(tag: u8, bytes: &[u8], limit: usize) -> Result<Cow<'_, str>, NoText> {
    // Two bytes of UTF-16 are one of UTF-8 at least.
    let wide = matches!(tag, 0x7b..=0x7d);
    if if wide { bytes.len() / 2 } else { bytes.len() } > limit {
        return Err(NoText::TooLong);
    }
    let text: Cow<'_, str> = match (tag, bytes) {
        (0x49..=0x79 | 0x7e, _) if bytes.is_ascii() => {
            str::from_utf8(bytes).unwrap_or_default().into()
        }
        // Its writers take Java's strings of one byte a character as they are.
        (0x49..=0x79, _) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        (0x7a, _) => str::from_utf8(bytes)
            .map_err(|_| NoText::Unreadable)?
            .into(),
        // Java's UTF-16 may begin with a mark of its order.
        (0x7b, [0xff, 0xfe, bytes @ ..]) | (0x7c, bytes) => utf16(bytes, u16::from_le_bytes)?,
        (0x7b, [0xfe, 0xff, bytes @ ..]) | (0x7b | 0x7d, bytes) => {
            utf16(bytes, u16::from_be_bytes)?
        }
        _ => return Err(NoText::Unreadable),
    };
    if text.len() > limit {
        return Err(NoText::TooLong);
    }
    Ok(text)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, NoText> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(NoText::Unreadable);
    };
    char::decode_utf16(units.iter().map(|pair| unit(*pair)))
        .collect::<Result<String, _>>()
        .map(Cow::Owned)
        .map_err(|_| NoText::Unreadable)
}

/// A whole value that is a scalar, as text of at most `limit` bytes; "" for null.
pub(crate) fn scalar(value: &[u8], limit: usize) -> Result<Cow<'_, str>, NoText> {
    let number = match *value {
        [NULL] => return Ok("".into()),
        [0xb0] => return Ok("false".into()),
        [0xb1] => return Ok("true".into()),
        [0x49..=0x7e, ..] => return text_within(value, limit).map(Option::unwrap_or_default),
        [0xb2] => 0.0,
        [0xb3] => 1.0,
        [0xb5, ref bytes @ ..] => {
            let bytes = bytes.try_into().map_err(|_| NoText::Unreadable)?;
            f64::from_be_bytes(bytes)
        }
        [0xb7, ref bytes @ ..] => {
            let bytes = bytes.try_into().map_err(|_| NoText::Unreadable)?;
            f64::from(f32::from_be_bytes(bytes))
        }
        // A double, a float, a decimal or a big int that is whole is written as an int or a long.
        [0xb4 | 0xb6 | 0xb8 | 0xba, ref number @ ..] => return whole(number),
        [0xbc, high, low] => return Ok(i16::from_be_bytes([high, low]).to_string().into()),
        [0xbd, byte] => return Ok(byte.cast_signed().to_string().into()),
        _ => return whole(value),
    };
    Ok(number.to_string().into())
}

/// An int or long, as text.
fn whole<'a>(value: &[u8]) -> Result<Cow<'a, str>, NoText> {
    let mut reader = Reader::new(value);
    match reader.long() {
        Some(number) if reader.remaining() == 0 => Ok(number.to_string().into()),
        _ => Err(NoText::Unreadable),
    }
}

/// Appends a text.
pub(crate) fn put_text(text: &str, out: &mut BytesMut) {
    match u8::try_from(text.len()) {
        Ok(len @ 0..=47) if text.is_ascii() => out.put_u8(0x49 + len),
        _ => {
            // A length in four bytes is right for every text, if not the shortest.
            out.put_slice(&[0x7a, 0x48]);
            out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
    }
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for text in [
            "",
            "a",
            "日本",
            "caf\u{e9}",
            &"x".repeat(47),
            &"x".repeat(48),
            &"y".repeat(70_000),
        ] {
            let mut out = BytesMut::new();
            put_text(text, &mut out);
            assert_eq!(text_within(&out, usize::MAX), Ok(Some(text.into())));
            out.put_u8(1);
            assert_eq!(text_within(&out, usize::MAX), Err(NoText::Unreadable));
        }
        for (bytes, text) in [
            (&[0x7c_u8, 4, 0x2d, 0x4e, 0x87, 0x65][..], "中文"),
            (&[0x7d, 4, 0x4e, 0x2d, 0x65, 0x87], "中文"),
            (&[0x7b, 4, 0x4e, 0x2d, 0x65, 0x87], "中文"),
            (&[0x7b, 4, 0xff, 0xfe, 0x2d, 0x4e], "中"),
            (&[0x7b, 4, 0xfe, 0xff, 0x4e, 0x2d], "中"),
            (&[0x4d, b'c', b'a', b'f', 0xe9], "caf\u{e9}"),
            (&[0x79, 4, b'c', b'a', b'f', 0xe9], "caf\u{e9}"),
        ] {
            assert_eq!(text_within(bytes, 6), Ok(Some(text.into())), "{bytes:02x?}");
        }
        assert_eq!(text_within(&[NULL], 0), Ok(None));
        assert_eq!(text_within(&[0x4b, b'a'], 9), Err(NoText::Unreadable));
        assert_eq!(text_within(&[0x7e, 1, b'a'], 9), Ok(Some("a".into())));
        let gb18030 = [0x7e, 2, 0xd6, 0xd0];
        assert_eq!(text_within(&gb18030, 9), Err(NoText::Unreadable));
    }

    #[test]
    fn texts_too_long_are_told_apart_from_no_texts() {
        assert_eq!(text_within(&[0x4b, b'a', b'b'], 2), Ok(Some("ab".into())));
        assert_eq!(text_within(&[0x4b, b'a', b'b'], 1), Err(NoText::TooLong));
        // Four bytes of UTF-16 that are six of UTF-8.
        let wide = [0x7c, 4, 0x2d, 0x4e, 0x87, 0x65];
        assert_eq!(text_within(&wide, 5), Err(NoText::TooLong));
        assert_eq!(text_within(&wide, 1), Err(NoText::TooLong));
        // One byte of Latin-1 that is two of UTF-8.
        assert_eq!(text_within(&[0x4a, 0xe9], 1), Err(NoText::TooLong));
    }

    #[test]
    fn scalars_are_texts() {
        for (value, text) in [
            (&[NULL][..], ""),
            (&[0xb1], "true"),
            (&[0x4a, b'a'], "a"),
            (&[0xf0], "-16"),
            (&[0x2f], "47"),
            (&[0x30, 0], "-2048"),
            (&[0x3f, 0xff], "2047"),
            (&[0x40, 0, 0], "-262144"),
            (&[0x48, 0xff, 0xff, 0xff, 0xff], "-1"),
            (&[0xd8], "-8"),
            (&[0xef], "15"),
            (&[0xc8, 0], "-2048"),
            (&[0xc0, 0, 0], "-262144"),
            (&[0xbf, 0, 0, 0x0b, 0xb8], "3000"),
            (&[0xbe, 0, 0, 0, 0, 0, 0, 0x0b, 0xb8], "3000"),
            (&[0xbc, 0xff, 0xfe], "-2"),
            (&[0xbd, 0xff], "-1"),
            (&[0xb2], "0"),
            (&[0xb3], "1"),
            (&[0xb4, 0x43, 0xb8], "Unreadable"),
            (&[0xb4, 0x33, 0xb8], "-1096"),
            (&[0xb5, 0x40, 0xa7, 0x70, 0, 0, 0, 0, 0], "3000"),
            (&[0xb7, 0x3f, 0xc0, 0, 0], "1.5"),
            (&[0x94], "Unreadable"),
            (&[0xa6, 0xa5], "Unreadable"),
            (&[0x93, 0x4a, b'$'], "Unreadable"),
            (&[0x01, 0x01], "Unreadable"),
        ] {
            let read = scalar(value, 99).unwrap_or("Unreadable".into());
            assert_eq!(read, text, "{value:02x?}");
        }
        assert_eq!(scalar(&[0x4b, b'a', b'b'], 1), Err(NoText::TooLong));
    }

    #[test]
    fn lengths_that_lie_find_nothing() {
        assert!(Values::new(&[0xff, 0xff, 0xff, 0xff, 1]).next().is_none());
        assert!(text_within(&[0x7a, 0x48, 0x7f, 0xff, 0xff, 0xff], 9).is_err());
        assert!(text_within(&[0x7a, 0xf0], 9).is_err());
    }
}
