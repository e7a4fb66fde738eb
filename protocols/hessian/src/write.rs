//! Writer of hessian strings, as Java's readers take them: lengths count UTF-16 units, and a character beyond the basic
//! plane is written as two surrogates of three bytes each.

use bytes::{BufMut, BytesMut};

/// UTF-16 units in one chunk of a string.
const CHUNK: usize = 0x8000;

/// Appends a string in Hessian 2, in as many chunks as it needs (Hessian 2, section 4.12).
pub fn put_string(text: &str, out: &mut BytesMut) {
    // Most strings are short and ASCII: each byte is a unit, and is copied as it is.
    if text.len() < 1024 && text.is_ascii() {
        put_length(text.len() as u16, out);
        out.put_slice(text.as_bytes());
        return;
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut rest = &units[..];
    while rest.len() > CHUNK {
        // A pair of surrogates may be torn between chunks: readers join units, not characters.
        let (chunk, after) = rest.split_at(CHUNK);
        out.put_slice(&[b'R', 0x80, 0x00]);
        put_units(chunk.iter().copied(), out);
        rest = after;
    }
    put_length(rest.len() as u16, out);
    put_units(rest.iter().copied(), out);
}

/// Appends a string in the form that Hessian 2 and the draft before it have in common. Of a string of more than
/// 65,535 UTF-16 units the rest is left out: the two write chunks differently.
pub fn put_common_string(text: &str, out: &mut BytesMut) {
    let units = text.encode_utf16().count().min(usize::from(u16::MAX));
    if units <= 31 {
        out.put_u8(units as u8);
    } else {
        out.put_u8(b'S');
        out.put_u16(units as u16);
    }
    put_units(text.encode_utf16().take(units), out);
}

/// The tag and length of a string's last chunk.
fn put_length(units: u16, out: &mut BytesMut) {
    let [high, low] = units.to_be_bytes();
    match units {
        0..=31 => out.put_u8(low),
        32..=1023 => out.put_slice(&[0x30 + high, low]),
        _ => out.put_slice(&[b'S', high, low]),
    }
}

fn put_units(units: impl Iterator<Item = u16>, out: &mut BytesMut) {
    for unit in units {
        let low = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
        match unit {
            0..=0x7f => out.put_u8(unit as u8),
            0x80..=0x7ff => out.put_slice(&[0xc0 | (unit >> 6) as u8, low(0)]),
            _ => out.put_slice(&[0xe0 | (unit >> 12) as u8, low(6), low(0)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{draft, v2};

    /// Lengths at each end of each form, of one, two, three and four bytes a character.
    fn texts() -> Vec<String> {
        let lengths = [0, 1, 31, 32, 1023, 1024, 0x7fff];
        let of = |letter: &str| lengths.map(|length| letter.repeat(length));
        ["a", "é", "語"].into_iter().flat_map(of).collect()
    }

    #[test]
    fn strings_are_read_as_written() {
        let long = ["a", "語", "😀"].map(|letter| letter.repeat(0x8001));
        for text in texts().into_iter().chain(long) {
            let mut out = BytesMut::new();
            put_string(&text, &mut out);
            let read = v2::Reader::new(&out).string_within(1 << 20);
            assert_eq!(read.ok().flatten().as_deref(), Some(&*text));
        }
    }

    #[test]
    fn common_strings_are_read_as_written_in_both_versions() {
        for text in texts().into_iter().chain(["😀".repeat(99)]) {
            let mut out = BytesMut::new();
            put_common_string(&text, &mut out);
            let read = v2::Reader::new(&out).string_within(1 << 20);
            assert_eq!(read.ok().flatten().as_deref(), Some(&*text));
            let read = draft::Reader::new(&out).string_within(1 << 20);
            assert_eq!(read.ok().flatten().as_deref(), Some(&*text));
        }
    }
}
