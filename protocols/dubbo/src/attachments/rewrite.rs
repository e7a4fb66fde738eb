//! Writes a request anew with other attachments, and for the version that its endpoint has.

use bytes::{BufMut, BytesMut};
use finback_core::frame::Edit;
use finback_hessian::write::put_string;

use crate::call::{self, Beginning, NO_VERSION};
use crate::jsonb;
use crate::wire::{FASTJSON2, Fixed, HEADER, HESSIAN2, ID, LENGTH};

use super::{Entries, Entry, scalar, take_plain};

/// What is to become of an attachment.
#[derive(Clone, Copy)]
enum Change<'a> {
    /// It has this value.
    Set(&'a str),
    /// It has this value unless it has one.
    Default(&'a str),
    /// It has this value if it is there.
    Correct(&'a str),
    /// It is not there.
    Remove,
}

/// Changes by attachment, those that are done marked.
struct Changes<'a>(Vec<(&'a str, Change<'a>, bool)>);

/// What to do with one attachment that is there.
enum Verdict<'a> {
    Keep,
    Drop,
    Replace(&'a str),
}

impl<'a> Changes<'a> {
    fn of(edit: &Edit<'a>) -> Self {
        let set = edit.attributes.iter();
        let mut all: Vec<_> = set
            .map(|(name, value)| (*name, Change::Set(value), false))
            .collect();
        if let Some(fit) = edit.fit {
            let terms = fit.terms;
            for (name, value) in &terms.attributes {
                all.push((&**name, Change::Set(value), false));
            }
            for (name, value) in &terms.defaults {
                all.push((&**name, Change::Default(value), false));
            }
            if let Some(version) = written_version(edit) {
                all.push(("version", Change::Correct(version), false));
            }
            match terms.group.as_deref().filter(|_| fit.group) {
                Some("") => all.push(("group", Change::Remove, false)),
                Some(group) => all.push(("group", Change::Set(group), false)),
                None => {}
            }
        }
        Self(all)
    }

    fn verdict(&mut self, serialization: u8, entry: &Entry<'_>) -> Verdict<'a> {
        let key = entry.key.as_deref();
        let Some((_, change, done)) = self.0.iter_mut().find(|(own, ..)| Some(*own) == key) else {
            return Verdict::Keep;
        };
        let value = scalar(serialization, entry.value, usize::MAX);
        match (*change, value) {
            // Others may refer to what is no scalar: it stays, and what is written after it counts.
            (Change::Set(_) | Change::Remove, Err(_)) => Verdict::Keep,
            (Change::Default(_), Ok(value)) if value.is_empty() => Verdict::Drop,
            (Change::Default(_), _) => {
                *done = true;
                Verdict::Keep
            }
            (Change::Correct(value), Err(_)) => {
                *change = Change::Set(value);
                Verdict::Keep
            }
            (Change::Set(value) | Change::Correct(value), Ok(_)) => {
                *done = true;
                Verdict::Replace(value)
            }
            (Change::Remove, Ok(_)) => Verdict::Drop,
        }
    }

    /// What is still to be written.
    fn left(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter_map(|(name, change, done)| match change {
                Change::Set(value) | Change::Default(value) if !done => Some((*name, *value)),
                _ => None,
            })
    }
}

/// The version to write, if the call leaves it open and the endpoint's is known.
fn written_version<'a>(edit: &Edit<'a>) -> Option<&'a str> {
    let fit = edit.fit.filter(|fit| fit.version)?;
    let version = fit.terms.version.as_deref()?;
    Some(if version.is_empty() {
        NO_VERSION
    } else {
        version
    })
}

/// Appends a text in the request's own serialization, as it stands in a map.
fn put_text(serialization: u8, text: &str, out: &mut BytesMut) {
    if serialization == FASTJSON2 {
        jsonb::put_text(text, out);
    } else {
        put_string(text, out);
    }
}

/// Writes the whole request as `edit` wants it; false, and nothing written, if it cannot be read.
pub(crate) fn rewrite(wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> bool {
    let Ok(Some(fixed)) = Fixed::read(wire) else {
        return false;
    };
    let Ok(Some(parts)) = call::parts(&fixed, wire) else {
        return false;
    };
    let start = out.len();
    out.put_slice(wire.get(..ID).unwrap_or_default());
    out.put_u64(edit.id);
    debug_assert_eq!(ID + 8, LENGTH);
    out.put_u32(0);
    let written = put_body(fixed.serialization(), parts, edit, out);
    let length = u32::try_from(out.len() - start - HEADER);
    let (Some(()), Ok(length)) = (written, length) else {
        out.truncate(start);
        return false;
    };
    out[start + LENGTH..start + HEADER].copy_from_slice(&length.to_be_bytes());
    true
}

fn put_body(
    serialization: u8,
    (beginning, entries): (Beginning<'_>, Entries<'_>),
    edit: &Edit<'_>,
    out: &mut BytesMut,
) -> Option<()> {
    let (body, version_at, at) = (
        beginning.body,
        beginning.version_at.clone(),
        beginning.attachments_at,
    );
    match written_version(edit) {
        None => out.put_slice(body.get(..at)?),
        Some(version) => {
            out.put_slice(body.get(..version_at.start)?);
            let mut text = BytesMut::new();
            put_text(serialization, version, &mut text);
            if serialization == FASTJSON2 {
                out.put_u32(u32::try_from(text.len()).ok()?);
            }
            out.put_slice(&text);
            out.put_slice(body.get(version_at.end..at)?);
        }
    }
    let is_simple = serialization == HESSIAN2 && edit.fit.is_none();
    if is_simple && put_plain(body.get(at..)?, edit.attributes, out).is_some() {
        return Some(());
    }
    let mut changes = Changes::of(edit);
    if serialization == FASTJSON2 {
        put_fastjson2(body.get(at..)?, entries, &mut changes, out)
    } else {
        put_hessian2(body.get(at..)?, entries, &mut changes, out)
    }
}

/// The entries with values replaced where they stand and new ones at the end, where no reference
/// to an earlier value is disturbed.
fn put_entries(
    serialization: u8,
    mut entries: Entries<'_>,
    changes: &mut Changes<'_>,
    out: &mut BytesMut,
) -> Option<usize> {
    while let Some(entry) = entries.next().ok()? {
        match changes.verdict(serialization, &entry) {
            Verdict::Keep => out.put_slice(entry.raw),
            Verdict::Drop => {}
            Verdict::Replace(value) => {
                let key = entry.raw.len() - entry.value.len();
                out.put_slice(entry.raw.get(..key)?);
                put_text(serialization, value, out);
            }
        }
    }
    for (key, value) in changes.left() {
        put_text(serialization, key, out);
        put_text(serialization, value, out);
    }
    Some(entries.position())
}

/// Attachments that are nothing but short texts of ASCII, as those of ordinary calls are, with these set among them:
/// what stays as it is is copied in one go. `None`, and nothing written, if they are others.
fn put_plain(bytes: &[u8], attributes: &[(&str, &str)], out: &mut BytesMut) -> Option<()> {
    if attributes.len() > 64 {
        return None;
    }
    let start = out.len();
    let is_ascii = bytes.is_ascii();
    // Which of them were written.
    let mut written: u64 = 0;
    let mut kept = bytes;
    let mut rest = bytes.strip_prefix(b"H")?;
    let copy = |out: &mut BytesMut, kept: &[u8], rest: &[u8]| {
        out.put_slice(kept.get(..kept.len() - rest.len()).unwrap_or_default());
    };
    while !matches!(rest, [b'Z', ..]) {
        let taken = take_plain(rest, is_ascii).and_then(|(key, value)| {
            let (_, after) = take_plain(value, is_ascii)?;
            Some((key, value, after))
        });
        let Some((key, value, after)) = taken else {
            out.truncate(start);
            return None;
        };
        let named = |(own, _): &(&str, &str)| own.as_bytes() == key;
        if let Some(at) = attributes.iter().position(named) {
            copy(out, kept, value);
            put_string(attributes[at].1, out);
            written |= 1 << at;
            kept = after;
        }
        rest = after;
    }
    copy(out, kept, rest);
    for (at, (key, value)) in attributes.iter().enumerate() {
        if written >> at & 1 == 0 {
            put_string(key, out);
            put_string(value, out);
        }
    }
    out.put_slice(rest);
    Some(())
}

fn put_hessian2(
    bytes: &[u8],
    entries: Entries<'_>,
    changes: &mut Changes<'_>,
    out: &mut BytesMut,
) -> Option<()> {
    let start = entries.position();
    let is_map = !matches!(entries, Entries::None);
    let whole = match &entries {
        Entries::Hessian2(body, _) => body.len(),
        _ => bytes.len(),
    };
    // Where the attachments begin, in what the positions count.
    let base = whole - bytes.len();
    if is_map {
        out.put_slice(bytes.get(..start - base)?);
    } else {
        out.put_u8(b'H');
    }
    let end = put_entries(0, entries, changes, out)?;
    out.put_u8(b'Z');
    // A null is one byte, if it is there at all.
    let after = if is_map {
        end - base
    } else {
        1.min(bytes.len())
    };
    out.put_slice(bytes.get(after..)?);
    Some(())
}

fn put_fastjson2(
    bytes: &[u8],
    entries: Entries<'_>,
    changes: &mut Changes<'_>,
    out: &mut BytesMut,
) -> Option<()> {
    let value = jsonb::Values::new(bytes).next().unwrap_or_default();
    let length_at = out.len();
    out.put_u32(0);
    if matches!(entries, Entries::None) {
        out.put_u8(jsonb::OBJECT);
    } else {
        out.put_slice(value.get(..entries.position())?);
    }
    put_entries(FASTJSON2, entries, changes, out)?;
    out.put_u8(jsonb::OBJECT_END);
    let length = u32::try_from(out.len() - length_at - 4).ok()?;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    out.put_slice(bytes.get(4 + value.len()..).unwrap_or_default());
    Some(())
}
