//! Writes a frame anew: with another id, topic or body, or other properties.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Head, Kind};

use crate::call::properties_of;
use crate::code::request;
use crate::fields::Field;
use crate::header::{Encoding, IdAt, PREFIX};
use crate::json;
use crate::marks::{self, Marks, Note};
use crate::message::member;
use crate::properties;
use crate::rename::Renaming;

/// A broker refuses a message whose properties are longer than 32,767 bytes: near that, none are added.
const PROPERTIES: usize = 31 * 1024;
/// A broker takes a body of 4 MiB, unless it is told otherwise: near that, the messages of a batch are left alone.
const BATCH: usize = 3 << 20;
/// An id takes no more bytes, its name included.
const ID: usize = 24;

/// Bytes in place of others.
type Splice<'a> = (Range<usize>, Cow<'a, [u8]>);

/// Begins the frame anew, as [`Codec::encode`](finback_core::codec::Codec::encode) asks.
pub(crate) fn encode(
    head: &Head,
    wire: &[u8],
    edit: &Edit<'_>,
    topics: &Renaming,
    out: &mut BytesMut,
) -> usize {
    let has_id = head.id == edit.id;
    let is_renamed = edit.onward && head.kind != Kind::Response && !topics.is_empty();
    if has_id && !edit.changes_content() && edit.body.is_none() && !is_renamed {
        return 0;
    }
    let marks = Marks::unpack(head.marks);
    let mut text = [0; ID];
    let id = id(marks.id_at, wire, edit.id as u32, &mut text);
    if edit.attributes.is_empty() && !is_renamed {
        let splices = [id];
        return put(wire, &splices[usize::from(has_id)..], edit.body, out);
    }
    let code = Note::unpack(head.note).code;
    let mut changes = Vec::new();
    let mut body = None;
    if is_renamed {
        changes.extend(topic(&marks, wire, |own| topics.there(own)));
        body = topics.request(code, wire.get(marks::body_at(wire)..).unwrap_or_default());
    }
    if !edit.attributes.is_empty() && !marks.said.is_signed {
        match code {
            request::SEND_BATCH_MESSAGE if edit.body.is_none() => {
                body = batch(wire, edit.attributes);
            }
            _ => changes.extend(properties(code, &marks, wire, edit.attributes)),
        }
    }
    let mut splices = in_header(&marks, wire, changes);
    if !has_id {
        splices.push(id);
    }
    let body = body.as_deref().or(edit.body);
    if splices.is_empty() && body.is_none() {
        return 0;
    }
    splices.sort_by_key(|(at, _)| at.start);
    put(wire, &splices, body, out)
}

/// What a broker asks its client, with the names that clients have for topics; `None` if it names none of these.
pub(crate) fn asked_back(head: &Head, wire: &[u8], topics: &Renaming) -> Option<Vec<u8>> {
    if topics.is_empty() {
        return None;
    }
    let marks = Marks::unpack(head.marks);
    let code = Note::unpack(head.note).code;
    let body = topics.asked_back(code, wire.get(marks::body_at(wire)..)?);
    let changes = topic(&marks, wire, |own| topics.here(own)).into_iter();
    let splices = in_header(&marks, wire, changes.collect());
    if splices.is_empty() && body.is_none() {
        return None;
    }
    let mut out = BytesMut::new();
    let used = put(wire, &splices, body.as_deref(), &mut out);
    out.extend_from_slice(wire.get(used..)?);
    Some(out.to_vec())
}

/// Another topic in place of a request's own, where it is called otherwise.
fn topic<'a>(
    marks: &Marks,
    wire: &[u8],
    other: impl FnOnce(&str) -> Option<&'a str>,
) -> Option<Splice<'static>> {
    let at = marks.said.topic.range();
    let own = marks.said.topic.text(wire).ok()?;
    let other = other(&own)?;
    Some(match Encoding::of(wire) {
        Encoding::Binary => (at.start.checked_sub(4)?..at.end, with_length(other).into()),
        Encoding::Json => {
            // Topics have nothing that would have to be escaped; a name of digits alone may be a number.
            let is_text = wire.get(at.start.checked_sub(1)?) == Some(&b'"');
            let other = match is_text {
                true => other.to_owned(),
                false => format!("\"{other}\""),
            };
            (at, other.into_bytes().into())
        }
    })
}

/// Changes of a header's fields, with what says how long all of them are.
fn in_header<'a>(marks: &Marks, wire: &[u8], mut changes: Vec<Splice<'a>>) -> Vec<Splice<'a>> {
    if changes.is_empty() || Encoding::of(wire) == Encoding::Json {
        return changes;
    }
    let taken: usize = changes.iter().map(|(at, _)| at.len()).sum();
    let given: usize = changes.iter().map(|(_, bytes)| bytes.len()).sum();
    let all = marks::body_at(wire).saturating_sub(marks.fields_at);
    let length = u32::try_from((all + given).saturating_sub(taken)).unwrap_or_default();
    let at = marks.fields_at.saturating_sub(4)..marks.fields_at;
    changes.push((at, length.to_be_bytes().to_vec().into()));
    changes.sort_by_key(|(at, _)| at.start);
    changes
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

/// The properties of a request's message with others added. Not for what its client has signed: every field counts in
/// an ACL's signature.
fn properties<'a>(
    code: i32,
    marks: &Marks,
    wire: &'a [u8],
    added: &[(&str, &str)],
) -> Option<Splice<'a>> {
    let name = properties_of(code)?;
    let fields = marks::fields(wire, marks.fields_at);
    let (mut known, mut count) = (None, 0);
    let read = fields.each(|field| {
        count += 1;
        if field.name == name {
            known = Some(field);
        }
        Ok(())
    });
    if read.is_err() || count == 0 {
        return None;
    }
    let before = known.as_ref().map(Field::text).transpose().ok()?;
    let all = properties::with(&before.unwrap_or_default(), added);
    if all.len() > PROPERTIES {
        return None;
    }
    Some(match fields.encoding {
        Encoding::Json => in_json(fields.at, name, known.as_ref(), &all),
        Encoding::Binary => in_binary(fields.body_at, name, known.as_ref(), &all),
    })
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
    fields_end: usize,
    name: &str,
    known: Option<&Field<'_>>,
    all: &str,
) -> Splice<'static> {
    match known {
        // Its length stands in the four bytes before it.
        Some(field) => (field.at.start - 4..field.at.end, with_length(all).into()),
        None => {
            let mut entry = u16::try_from(name.len())
                .unwrap_or_default()
                .to_be_bytes()
                .to_vec();
            entry.extend_from_slice(name.as_bytes());
            entry.extend(with_length(all));
            (fields_end..fields_end, entry.into())
        }
    }
}

fn with_length(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len())
        .unwrap_or_default()
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
