//! The attachments at the end of a request: read, searched, and written anew.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Malformed, Metadata, NAME_LIMIT};
use finback_hessian::{Error, Limits, v2};

use crate::jsonb;
use crate::wire::{FASTJSON2, Fixed, HEADER, HESSIAN2, ID, LENGTH};

/// Arguments of this prefix are functions that the server calls back.
const CALLBACK: &str = "sys_callback_arg-";

const INTERFACE: &str = "interface";
const GROUP: &str = "group";

/// The attachments that every call is asked for.
#[derive(Debug, Default)]
pub(crate) struct Attachments<'a> {
    pub(crate) interface: Option<Cow<'a, str>>,
    pub(crate) group: Option<Cow<'a, str>>,
    pub(crate) timeout: Option<Cow<'a, str>>,
    pub(crate) has_callback: bool,
}

/// Calls `visit` with every attachment whose value is a scalar, as text; without the value if that
/// has more than `limit` bytes, of which none is copied. What cannot be read ends the visit: what
/// was found before counts.
fn visit<'a>(
    serialization: u8,
    bytes: &'a [u8],
    limit: usize,
    visit: &mut dyn FnMut(&str, Option<Cow<'a, str>>),
) {
    if serialization == FASTJSON2 {
        visit_jsonb(bytes, limit, visit);
        return;
    }
    let mut reader = v2::Reader::new(bytes, Limits::default());
    let _ = reader.map(&mut |key, reader| {
        match scalar(reader, limit) {
            Ok(None) => return Ok(false),
            Ok(value) => visit(key, value),
            Err(Error::LONG_TEXT) => visit(key, None),
            Err(error) => return Err(error),
        }
        Ok(true)
    });
}

fn visit_jsonb<'a>(
    bytes: &'a [u8],
    limit: usize,
    visit: &mut dyn FnMut(&str, Option<Cow<'a, str>>),
) {
    let Some(mut rest) = jsonb_entries(bytes) else {
        return;
    };
    while let Some((key, after)) = jsonb::take_text(rest) {
        let Some((value, after)) = jsonb::take_scalar(after, limit) else {
            return;
        };
        visit(&key, value);
        rest = after;
    }
}

/// The entries of a whole, length-prefixed JSONB object, its end included.
fn jsonb_entries(bytes: &[u8]) -> Option<&[u8]> {
    jsonb::Values::new(bytes)
        .next()?
        .strip_prefix(&[jsonb::OBJECT])
}

/// Reads a scalar as text of at most `limit` bytes; `None`, and nothing read, if the value is none.
fn scalar<'a>(reader: &mut v2::Reader<'a>, limit: usize) -> Result<Option<Cow<'a, str>>, Error> {
    Ok(Some(match reader.tag() {
        Some(0x00..=0x1f | 0x30..=0x33 | b'R' | b'S' | b'N') => {
            reader.string_within(limit)?.unwrap_or_default()
        }
        Some(tag @ (b'T' | b'F')) => {
            reader.skip()?;
            Cow::Borrowed(if tag == b'T' { "true" } else { "false" })
        }
        Some(0x80..=0xbf | 0xc0..=0xd7 | b'I' | 0xd8..=0xff | 0x38..=0x3f | 0x59 | b'L') => {
            Cow::Owned(reader.long()?.to_string())
        }
        _ => return Ok(None),
    }))
}

/// Reads what every call is asked for.
///
/// # Errors
/// If a name among it is too long to be one.
pub(crate) fn read(serialization: u8, bytes: &[u8]) -> Result<Attachments<'_>, Malformed> {
    if serialization == HESSIAN2
        && let Some(found) = read_plain(bytes)
    {
        return Ok(found);
    }
    let mut found = Attachments::default();
    let mut fits = true;
    visit(serialization, bytes, NAME_LIMIT, &mut |key, value| {
        fits &= value.is_some() || !matches!(key, INTERFACE | GROUP);
        found.take(key.as_bytes(), || value);
    });
    if fits {
        Ok(found)
    } else {
        Err(Malformed::LONG_NAME)
    }
}

/// The same for a hessian2 map that holds nothing but ASCII texts of one chunk, as ordinary calls
/// do: this runs once per call, and such a map can be walked without looking into most of it.
fn read_plain(bytes: &[u8]) -> Option<Attachments<'_>> {
    let mut found = Attachments::default();
    let mut rest = bytes.strip_prefix(b"H")?;
    loop {
        if let [b'Z', ..] = rest {
            return Some(found);
        }
        let (key, after) = take_plain(rest)?;
        let (value, after) = take_plain(after)?;
        found.take(key, || str::from_utf8(value).ok().map(Cow::Borrowed));
        rest = after;
    }
}

/// An ASCII text of one chunk, and what follows.
#[inline]
fn take_plain(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, rest) = match bytes {
        [len @ 0x00..=0x1f, rest @ ..] => rest.split_at_checked(usize::from(*len))?,
        [high @ 0x30..=0x33, low, rest @ ..] => {
            rest.split_at_checked(usize::from(high - 0x30) << 8 | usize::from(*low))?
        }
        _ => return None,
    };
    // Lengths count UTF-16 units, which are bytes in ASCII alone.
    text.is_ascii().then_some((text, rest))
}

impl<'a> Attachments<'a> {
    #[inline]
    fn take(&mut self, key: &[u8], value: impl FnOnce() -> Option<Cow<'a, str>>) {
        // Slices of different lengths differ at once.
        match key {
            b"interface" => self.interface = value(),
            b"group" => self.group = value(),
            b"timeout" => self.timeout = value(),
            _ if key.starts_with(CALLBACK.as_bytes()) => self.has_callback = true,
            _ => {}
        }
    }
}

/// The value of one attachment of a whole request.
pub(crate) fn find<'a>(
    wire: &'a [u8],
    metadata: &Metadata<'_>,
    name: &str,
) -> Option<Cow<'a, str>> {
    let fixed = Fixed::read(wire).ok().flatten()?;
    let bytes = wire.get(metadata.attributes_at..)?;
    if metadata.attributes_at < HEADER {
        return None;
    }
    let mut found = None;
    visit(
        fixed.serialization(),
        bytes,
        usize::MAX,
        &mut |key, value| {
            if key == name {
                found = value;
            }
        },
    );
    found
}

/// Writes the whole request with its attachments changed; false, and nothing written, if they
/// cannot be read or the frame would become longer than `max_frame`.
pub(crate) fn rewrite(wire: &[u8], edit: &Edit<'_>, max_frame: usize, out: &mut BytesMut) -> bool {
    let Ok(Some(fixed)) = Fixed::read(wire) else {
        return false;
    };
    let Ok(metadata) = crate::call::read(&fixed, wire, "") else {
        return false;
    };
    let at = metadata.attributes_at;
    let Some(attachments) = wire.get(at..).filter(|_| at >= HEADER) else {
        return false;
    };
    let written = match fixed.serialization() {
        HESSIAN2 => rewrite_hessian2(attachments, edit),
        FASTJSON2 => rewrite_jsonb(attachments, edit),
        _ => None,
    };
    let Some(written) = written else { return false };
    let body = at - HEADER + written.len();
    let Ok(length) = u32::try_from(body) else {
        return false;
    };
    if HEADER + body > max_frame {
        return false;
    }
    out.put_slice(&wire[..ID]);
    out.put_u64(edit.id);
    debug_assert_eq!(ID + 8, LENGTH);
    out.put_u32(length);
    out.put_slice(&wire[HEADER..at]);
    out.put_slice(&written);
    true
}

/// The map with values replaced where they stand and new entries at its end, where no reference
/// to an earlier value is disturbed.
fn rewrite_hessian2(bytes: &[u8], edit: &Edit<'_>) -> Option<BytesMut> {
    let mut out = BytesMut::with_capacity(bytes.len() + 64);
    let mut left = edit.attributes.to_vec();
    out.put_u8(b'H');
    let mut at = 1;
    match bytes.first()? {
        b'N' => {}
        b'H' => {
            while *bytes.get(at)? != b'Z' {
                let mut entry = v2::Reader::new(&bytes[at..], Limits::default());
                let key = if is_text(entry.tag()?) {
                    entry.string().ok()?
                } else {
                    None
                };
                if key.is_none() {
                    entry.skip().ok()?;
                }
                let value_at = at + entry.position();
                let replaceable = scalar(&mut entry, usize::MAX).ok()?.is_some();
                if !replaceable {
                    entry.skip().ok()?;
                }
                let end = at + entry.position();
                match key.and_then(|key| take(&mut left, &key)) {
                    Some(value) if replaceable => {
                        out.put_slice(&bytes[at..value_at]);
                        crate::reject::put_hessian_text(value, &mut out);
                    }
                    _ => out.put_slice(&bytes[at..end]),
                }
                at = end;
            }
            at += 1;
        }
        _ => return None,
    }
    for (key, value) in left {
        crate::reject::put_hessian_text(key, &mut out);
        crate::reject::put_hessian_text(value, &mut out);
    }
    out.put_u8(b'Z');
    out.put_slice(&bytes[at..]);
    Some(out)
}

fn rewrite_jsonb(bytes: &[u8], edit: &Edit<'_>) -> Option<BytesMut> {
    let value = jsonb::Values::new(bytes).next()?;
    let mut object = BytesMut::with_capacity(value.len() + 64);
    let mut left = edit.attributes.to_vec();
    object.put_u8(jsonb::OBJECT);
    let mut rest = match value {
        [jsonb::NULL] => &[jsonb::OBJECT_END][..],
        [jsonb::OBJECT, entries @ ..] => entries,
        _ => return None,
    };
    while let Some((key, value)) = jsonb::take_text(rest) {
        let (_, after) = jsonb::take_scalar(value, usize::MAX)?;
        match take(&mut left, &key) {
            Some(new) => {
                object.put_slice(&rest[..rest.len() - value.len()]);
                jsonb::put_text(new, &mut object);
            }
            None => object.put_slice(&rest[..rest.len() - after.len()]),
        }
        rest = after;
    }
    if rest != [jsonb::OBJECT_END] {
        return None;
    }
    for (key, value) in left {
        jsonb::put_text(key, &mut object);
        jsonb::put_text(value, &mut object);
    }
    object.put_u8(jsonb::OBJECT_END);
    let mut out = BytesMut::with_capacity(object.len() + 4);
    out.put_u32(u32::try_from(object.len()).ok()?);
    out.put_slice(&object);
    out.put_slice(&bytes[4 + value.len()..]);
    Some(out)
}

/// Takes the value for `key` out of what is left to set.
fn take<'a>(left: &mut Vec<(&str, &'a str)>, key: &str) -> Option<&'a str> {
    let at = left.iter().position(|(name, _)| *name == key)?;
    Some(left.remove(at).1)
}

fn is_text(tag: u8) -> bool {
    matches!(tag, 0x00..=0x1f | 0x30..=0x33 | b'R' | b'S')
}
