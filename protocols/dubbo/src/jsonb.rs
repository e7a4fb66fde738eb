//! As much of fastjson2's JSONB as attachments need: texts and small scalars.
//!
//! Dubbo's fastjson2 body is a row of values, each with its length in four bytes before it, so
//! that arguments are passed over unread (Dubbo's `FastJson2ObjectOutput`). Tags from fastjson2's
//! `JSONB`: 49-78 ASCII of 0-47 bytes, 79 ASCII, 7a UTF-8, 7b UTF-16, 7c UTF-16LE, 7d UTF-16BE
//! (these with a length), a6 object until a5, af null, b0 b1 false true.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

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
    match take_text_within(value, limit) {
        Some((Some(text), [])) => Ok(Some(text)),
        Some((None, [])) => Err(NoText::TooLong),
        _ => Err(NoText::Unreadable),
    }
}

/// The text that `bytes` begin with, and what follows.
pub(crate) fn take_text(bytes: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let (text, rest) = take_text_within(bytes, usize::MAX)?;
    Some((text?, rest))
}

/// A text, unless it is too long, and what follows.
pub(crate) type Taken<'a> = (Option<Cow<'a, str>>, &'a [u8]);

/// The same, but `None` in the place of a text of more than `limit` bytes of UTF-8, of which
/// nothing is copied.
fn take_text_within(bytes: &[u8], limit: usize) -> Option<Taken<'_>> {
    let (tag, rest) = bytes.split_first()?;
    let (len, rest) = match tag {
        0x49..=0x78 => (usize::from(tag - 0x49), rest),
        0x79..=0x7d => {
            let (len, rest) = take_int(rest)?;
            (usize::try_from(len).ok()?, rest)
        }
        _ => return None,
    };
    let (text, rest) = rest.split_at_checked(len)?;
    // Two bytes of UTF-16 are one of UTF-8 at least.
    let units = matches!(tag, 0x7b..=0x7d);
    if if units { len / 2 } else { len } > limit {
        return Some((None, rest));
    }
    let text: Cow<'_, str> = match tag {
        0x7b | 0x7d => utf16(text, u16::from_be_bytes)?.into(),
        0x7c => utf16(text, u16::from_le_bytes)?.into(),
        _ => str::from_utf8(text).ok()?.into(),
    };
    Some((Some(text).filter(|text| text.len() <= limit), rest))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    char::decode_utf16(units.iter().map(|pair| unit(*pair)))
        .collect::<Result<_, _>>()
        .ok()
}

/// The int that `bytes` begin with, and what follows.
fn take_int(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    match tag {
        0xf0..=0xff => Some((i32::from(*tag) - 0x100, rest)),
        0x00..=0x2f => Some((i32::from(*tag), rest)),
        0x30..=0x3f => {
            let (low, rest) = rest.split_first()?;
            Some((((i32::from(*tag) - 0x38) << 8) + i32::from(*low), rest))
        }
        0x40..=0x47 => {
            let (low, rest) = rest.split_first_chunk::<2>()?;
            let low = i32::from(u16::from_be_bytes(*low));
            Some((((i32::from(*tag) - 0x44) << 16) + low, rest))
        }
        0x48 => {
            let (int, rest) = rest.split_first_chunk::<4>()?;
            Some((i32::from_be_bytes(*int), rest))
        }
        _ => None,
    }
}

/// The scalar that `bytes` begin with, as text (null: ""), and what follows; no text if that has
/// more than `limit` bytes. `None` for anything else.
pub(crate) fn take_scalar(bytes: &[u8], limit: usize) -> Option<Taken<'_>> {
    match bytes {
        [NULL, rest @ ..] => Some((Some("".into()), rest)),
        [0xb0, rest @ ..] => Some((Some("false".into()), rest)),
        [0xb1, rest @ ..] => Some((Some("true".into()), rest)),
        [0x49..=0x7d, ..] => take_text_within(bytes, limit),
        _ => take_int(bytes).map(|(int, rest)| (Some(int.to_string().into()), rest)),
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
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for text in [
            "",
            "a",
            "日本",
            &"x".repeat(47),
            &"x".repeat(48),
            &"y".repeat(70_000),
        ] {
            let mut out = BytesMut::new();
            put_text(text, &mut out);
            out.put_u8(1);
            assert_eq!(take_text(&out).unwrap(), (text.into(), &[1_u8][..]));
        }
        assert_eq!(
            text_within(&[0x7c, 4, 0x2d, 0x4e, 0x87, 0x65], 6),
            Ok(Some("中文".into()))
        );
        assert_eq!(text_within(&[NULL], 0), Ok(None));
        assert_eq!(text_within(&[0x4b, b'a'], 9), Err(NoText::Unreadable));
    }

    #[test]
    fn texts_too_long_are_told_apart_from_no_texts() {
        assert_eq!(text_within(&[0x4b, b'a', b'b'], 2), Ok(Some("ab".into())));
        assert_eq!(text_within(&[0x4b, b'a', b'b'], 1), Err(NoText::TooLong));
        // Four bytes of UTF-16 that are six of UTF-8.
        let wide = [0x7c, 4, 0x2d, 0x4e, 0x87, 0x65];
        assert_eq!(text_within(&wide, 5), Err(NoText::TooLong));
        assert_eq!(text_within(&wide, 1), Err(NoText::TooLong));
        let after: &[u8] = &[1];
        assert_eq!(take_scalar(&[0x4b, b'a', b'b', 1], 1), Some((None, after)));
    }

    #[test]
    fn ints_of_every_width() {
        for (bytes, int) in [
            (&[0xf0_u8][..], -16),
            (&[0x2f], 47),
            (&[0x30, 0], -2048),
            (&[0x3f, 0xff], 2047),
            (&[0x40, 0, 0], -262_144),
            (&[0x48, 0xff, 0xff, 0xff, 0xff], -1),
        ] {
            assert_eq!(take_int(bytes), Some((int, &[][..])));
        }
    }

    #[test]
    fn lengths_that_lie_find_nothing() {
        assert!(Values::new(&[0xff, 0xff, 0xff, 0xff, 1]).next().is_none());
        assert!(take_text(&[0x7a, 0x48, 0x7f, 0xff, 0xff, 0xff]).is_none());
        assert!(take_text(&[0x7a, 0xf0]).is_none());
    }
}
