//! Text as both versions carry it: counted in UTF-16 units, written in UTF-8 or Java's variant.

use std::borrow::Cow;

use crate::Error;

/// The longest name of a field or key that is given to whoever visits, in bytes.
pub(crate) const LONGEST_NAME: usize = 0xffff;

/// Where the text of `units` UTF-16 units that begins at `at` ends: the wire counts as Java does.
pub(crate) fn end(bytes: &[u8], at: usize, units: usize) -> Result<usize, Error> {
    // Nearly all text is ASCII, where units are bytes.
    if bytes.get(at..at + units).is_some_and(<[u8]>::is_ascii) {
        return Ok(at + units);
    }
    let mut end = at;
    let mut left = units;
    while left > 0 {
        let (len, worth) = match bytes.get(end).ok_or(Error::Truncated)? {
            0x00..=0x7f => (1, 1),
            0xc0..=0xdf => (2, 1),
            0xe0..=0xef => (3, 1),
            // Some writers put real UTF-8 where Java puts two surrogates.
            0xf0..=0xf7 => (4, 2),
            _ => return Err(Error::Text),
        };
        end += len;
        left = left.checked_sub(worth).ok_or(Error::Text)?;
    }
    if end > bytes.len() {
        Err(Error::Truncated)
    } else {
        Ok(end)
    }
}

/// The most bytes on the wire that a text of `limit` bytes of UTF-8 may have: Java writes six where
/// UTF-8 has four.
pub(crate) fn on_wire(limit: usize) -> usize {
    limit.saturating_add(limit / 2)
}

/// The same text, unless it has more than `limit` bytes.
pub(crate) fn bounded(text: Cow<'_, str>, limit: usize) -> Result<Cow<'_, str>, Error> {
    if text.len() > limit {
        Err(Error::LONG_TEXT)
    } else {
        Ok(text)
    }
}

/// The same bytes of a text, unless there are more than `limit`.
pub(crate) fn bounded_bytes(text: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, Error> {
    if text.len() > limit {
        Err(Error::LONG_TEXT)
    } else {
        Ok(Cow::Borrowed(text))
    }
}

/// Text from UTF-8, or from Java's variant of it (surrogates of three bytes each).
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Error> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Ok(Cow::Borrowed(text));
    }
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match *rest {
            [] => break,
            [0xed, high @ 0xa0..=0xbf, low @ 0x80..=0xbf, ref after @ ..] => {
                units.push(0xd000 | u16::from(high & 0x3f) << 6 | u16::from(low & 0x3f));
                rest = after;
            }
            [first, ..] => {
                let len = match first {
                    0x00..=0x7f => 1,
                    0xc0..=0xdf => 2,
                    0xe0..=0xef => 3,
                    _ => 4,
                };
                let (char, after) = rest.split_at_checked(len).ok_or(Error::Text)?;
                let char = str::from_utf8(char).map_err(|_| Error::Text)?;
                units.extend(char.encode_utf16());
                rest = after;
            }
        }
    }
    String::from_utf16(&units)
        .map(Cow::Owned)
        .map_err(|_| Error::Text)
}
