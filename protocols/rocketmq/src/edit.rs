//! Writes a frame anew: with another id, other properties, another body.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Head};

use crate::call::properties_of;
use crate::code::request;
use crate::fields::Field;
use crate::header::{Encoding, IdAt, PREFIX};
use crate::json;
use crate::marks::{self, Marks, Note};
use crate::message::member;
use crate::properties;

/// A broker refuses a message whose properties are longer than 32,767 bytes: near that, none are added.
const PROPERTIES: usize = 31 * 1024;
/// A broker takes a body of 4 MiB, unless it is told otherwise: near that, the messages of a batch are left alone.
const BATCH: usize = 3 << 20;
/// An id takes no more bytes, its name included.
const ID: usize = 24;

/// Bytes in place of others.
type Splice<'a> = (Range<usize>, Cow<'a, [u8]>);

/// Begins the frame anew, as [`Codec::encode`](finback_core::codec::Codec::encode) asks.
pub(crate) fn encode(head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
    let has_id = head.id == edit.id;
    if has_id && !edit.changes_content() && edit.body.is_none() {
        return 0;
    }
    let marks = Marks::unpack(head.marks);
    let mut text = [0; ID];
    let id = id(marks.id_at, wire, edit.id as u32, &mut text);
    if edit.attributes.is_empty() {
        let splices = [id];
        return put(wire, &splices[usize::from(has_id)..], edit.body, out);
    }
    let mut splices = Vec::with_capacity(3);
    if !has_id {
        splices.push(id);
    }
    if Note::unpack(head.note).code == request::SEND_BATCH_MESSAGE {
        let batch = (!marks.said.is_signed && edit.body.is_none())
            .then(|| batch(wire, edit.attributes))
            .flatten();
        if splices.is_empty() && batch.is_none() {
            return 0;
        }
        return put(wire, &splices, batch.as_deref().or(edit.body), out);
    }
    add_properties(head, &marks, wire, edit.attributes, &mut splices);
    splices.sort_by_key(|(at, _)| at.start);
    put(wire, &splices, edit.body, out)
}

/// The body of a batch with properties added to each of its messages; `None` if it cannot be read, or one has no room.
fn batch(wire: &[u8], added: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut rest = wire.get(marks::body_at(wire)..)?;
    if rest.is_empty() || rest.len() > BATCH {
        return None;
    }
    let mut written = Vec::with_capacity(rest.len() + 64);
    while !rest.is_empty() {
        let (own, after) = member(rest)?;
        let all = properties::with(own.properties, added);
        if all.len() > PROPERTIES || written.len() > BATCH {
            return None;
        }
        // Magic and CRC are its client's, whatever they are.
        let kept = rest.get(4..20 + own.body.len())?;
        let size = u32::try_from(4 + kept.len() + 2 + all.len()).ok()?;
        written.extend_from_slice(&size.to_be_bytes());
        written.extend_from_slice(kept);
        written.extend_from_slice(&u16::try_from(all.len()).ok()?.to_be_bytes());
        written.extend_from_slice(all.as_bytes());
        rest = after;
    }
    Some(written)
}

/// Appends the frame's prefix and header with these splices in it, and what stands for its body, if something does;
/// how many bytes that stands for.
fn put(wire: &[u8], splices: &[Splice<'_>], body: Option<&[u8]>, out: &mut BytesMut) -> usize {
    let body_at = marks::body_at(wire).min(wire.len());
    let taken: usize = splices.iter().map(|(at, _)| at.len()).sum();
    let given: usize = splices.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = (body_at - PREFIX + given).saturating_sub(taken);
    let rest = body.map_or(wire.len() - body_at, <[u8]>::len);
    let (Ok(total), Ok(length)) = (u32::try_from(4 + length + rest), u32::try_from(length)) else {
        return 0;
    };
    let encoding = u32::from(Encoding::of(wire) == Encoding::Binary);
    out.reserve(PREFIX + length as usize + rest);
    out.put_u32(total);
    out.put_u32(encoding << 24 | length);
    let mut at = PREFIX;
    for (range, bytes) in splices {
        out.put_slice(&wire[at..range.start]);
        out.put_slice(bytes);
        at = range.end;
    }
    out.put_slice(&wire[at..body_at]);
    match body {
        None => body_at,
        Some(body) => {
            out.put_slice(body);
            wire.len()
        }
    }
}

/// Another id in place of the frame's own.
fn id<'a>(at: IdAt, wire: &[u8], id: u32, text: &'a mut [u8; ID]) -> Splice<'a> {
    // Java's ids are signed.
    let id = id.cast_signed();
    let mut from = ID;
    let mut before = |bytes: &[u8]| {
        from -= bytes.len();
        text[from..from + bytes.len()].copy_from_slice(bytes);
    };
    let range = match (at, Encoding::of(wire)) {
        (IdAt::There(at, length), Encoding::Binary) => {
            before(&id.to_be_bytes());
            at..at + length
        }
        (IdAt::There(at, length), Encoding::Json) => {
            before(itoa::Buffer::new().format(id).as_bytes());
            at..at + length
        }
        (IdAt::Missing { at, more }, _) => {
            before(if more { b"," } else { b"" });
            before(itoa::Buffer::new().format(id).as_bytes());
            before(b"\"opaque\":");
            at..at
        }
    };
    (range, Cow::Borrowed(&text[from..]))
}

/// Adds properties to the message of a request, unless its client has signed them: every field counts in an ACL's
/// signature.
fn add_properties(
    head: &Head,
    marks: &Marks,
    wire: &[u8],
    added: &[(&str, &str)],
    splices: &mut Vec<Splice<'_>>,
) {
    let Some(name) = properties_of(Note::unpack(head.note).code) else {
        return;
    };
    let fields = marks::fields(wire, marks.fields_at);
    let (mut known, mut count) = (None, 0);
    let read = fields.each(|field| {
        count += 1;
        if field.name == name {
            known = Some(field);
        }
        Ok(())
    });
    if read.is_err() || marks.said.is_signed || count == 0 {
        return;
    }
    let before = known.as_ref().map(Field::text).transpose();
    let Ok(before) = before else { return };
    let all = properties::with(&before.unwrap_or_default(), added);
    if all.len() > PROPERTIES {
        return;
    }
    let at = fields.at..fields.body_at;
    match fields.encoding {
        Encoding::Json => splices.push(in_json(at.start, name, known.as_ref(), &all)),
        Encoding::Binary => in_binary(&at, name, known.as_ref(), &all, splices),
    }
}

fn in_json(fields_at: usize, name: &str, known: Option<&Field<'_>>, all: &str) -> Splice<'static> {
    let mut value = vec![b'"'];
    json::escape(all, &mut value);
    value.push(b'"');
    match known {
        Some(field) => (field.at.clone(), Cow::Owned(value)),
        None => {
            // The object has a field already.
            let at = fields_at + 1;
            let entry = [b"\"", name.as_bytes(), b"\":", &value[..], b","].concat();
            (at..at, Cow::Owned(entry))
        }
    }
}

fn in_binary(
    at: &Range<usize>,
    name: &str,
    known: Option<&Field<'_>>,
    all: &str,
    splices: &mut Vec<Splice<'_>>,
) {
    let (place, entry) = match known {
        // Its length stands in the four bytes before it.
        Some(field) => (field.at.start - 4..field.at.end, with_length(all)),
        None => {
            let mut entry = u16::try_from(name.len())
                .unwrap_or_default()
                .to_be_bytes()
                .to_vec();
            entry.extend_from_slice(name.as_bytes());
            entry.extend(with_length(all));
            (at.end..at.end, entry)
        }
    };
    let length = u32::try_from(at.len() - place.len() + entry.len()).unwrap_or_default();
    splices.push((
        at.start - 4..at.start,
        Cow::Owned(length.to_be_bytes().to_vec()),
    ));
    splices.push((place, Cow::Owned(entry)));
}

fn with_length(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len())
        .unwrap_or_default()
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
