//! The header map: names and values of a frame, as SOFA-RPC writes them (Bolt: SimpleMapSerializer).
//!
//! ```text
//! +--------+-----+--------+-------+
//! | keyLen | key | valLen | value |   again until headerLen is used up
//! |  int32 | ... |  int32 |  ...  |   UTF-8; lengths are bytes; -1 is null
//! +--------+-----+--------+-------+
//! ```

use bytes::{BufMut, BytesMut};
use finback_core::frame::Malformed;

/// The length of a text that is null: -1.
const NULL: u32 = u32::MAX;

/// The entries of a header map, one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
}

/// One entry, and its bytes as they stand in the map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// `None` for null, which no one looks for.
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) raw: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(crate) fn new(map: &'a [u8]) -> Self {
        Self { rest: map }
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let before = self.rest;
        let key = self.text()?;
        let value = self.text()?;
        let raw = &before[..before.len() - self.rest.len()];
        Ok(Some(Entry { key, value, raw }))
    }

    #[inline]
    fn text(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        const BROKEN: Malformed = Malformed::Content("the header map's lengths do not add up");
        let (len, rest) = self.rest.split_first_chunk().ok_or(BROKEN)?;
        // A negative length is greater than any that fits here.
        let len = u32::from_be_bytes(*len);
        if let Some((text, rest)) = rest.split_at_checked(len as usize) {
            self.rest = rest;
            return Ok(Some(text));
        }
        if len != NULL {
            return Err(BROKEN);
        }
        self.rest = rest;
        Ok(None)
    }
}

/// The last entry with this key, which is the one that counts in Java; of those before the map
/// is broken.
pub(crate) fn find<'a>(map: &'a [u8], key: &str) -> Option<Entry<'a>> {
    let mut entries = Entries::new(map);
    let mut found = None;
    while let Ok(Some(entry)) = entries.next() {
        if entry.key == Some(key.as_bytes()) {
            found = Some(entry);
        }
    }
    found
}

/// Appends one entry.
pub(crate) fn put(key: &str, value: &str, out: &mut BytesMut) {
    for text in [key, value] {
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
    }
}

/// Appends the map with these attributes in it: in the place of entries that have their keys,
/// else after them.
///
/// # Errors
/// [`Malformed::Content`] if the map is broken; what was appended is then of no use.
pub(crate) fn put_edited(
    map: &[u8],
    attributes: &[(&str, &str)],
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    let mut entries = Entries::new(map);
    // Which of them were written; those beyond are looked for again.
    let mut written: u64 = 0;
    // What is kept is copied in one go, up to the next entry that is not.
    let (mut from, mut to) = (0, 0);
    while let Some(entry) = entries.next()? {
        let named = |(key, _): &(&str, &str)| entry.key == Some(key.as_bytes());
        let begin = to;
        to += entry.raw.len();
        if let Some(at) = attributes.iter().position(named) {
            let (key, value) = attributes[at];
            out.put_slice(&map[from..begin]);
            put(key, value, out);
            from = to;
            written |= u32::try_from(at).map_or(0, |at| 1_u64.checked_shl(at).unwrap_or(0));
        }
    }
    out.put_slice(&map[from..to]);
    for (at, (key, value)) in attributes.iter().enumerate() {
        let is_written = match at {
            0..64 => written >> at & 1 == 1,
            _ => find(map, key).is_some(),
        };
        if !is_written {
            put(key, value, out);
        }
    }
    Ok(())
}
