//! Writes a frame anew: with another id, topic or body, or other properties.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Head, Kind};

use crate::call::properties_of;
use crate::code::{answer, request};
use crate::fields::{Field, Fields};
use crate::header::{Encoding, Header, IdAt, PREFIX};
use crate::json;
use crate::keys::{AclKeys, SIGNATURE};
use crate::lanes::{self, Board, GroupLanes};
use crate::marks::{self, CodecData, Marks};
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

/// What stands between a client's words and its broker's.
pub(crate) struct Words<'a> {
    pub(crate) topics: &'a Renaming,
    pub(crate) lanes: Option<&'a GroupLanes>,
    pub(crate) board: Option<&'a Board>,
    pub(crate) keys: &'a AclKeys,
}

impl Words<'_> {
    /// Whether requests are in the same words.
    fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.lanes.is_none()
    }
}

/// Begins the frame anew, as [`Codec::encode`](finback_core::codec::Codec::encode) asks.
pub(crate) fn encode(
    head: &Head,
    wire: &[u8],
    edit: &Edit<'_>,
    words: &Words<'_>,
    out: &mut BytesMut,
) -> usize {
    let has_id = head.id == edit.id;
    let is_translated = edit.onward && head.kind != Kind::Response && !words.is_empty();
    if has_id && !edit.changes_content() && edit.body.is_none() && !is_translated {
        return 0;
    }
    let marks = Marks::unpack(head.marks);
    let mut text = [0; ID];
    let id = id(marks.id_at, wire, edit.id as u32, &mut text);
    if edit.attributes.is_empty() && !is_translated {
        let mut splices = vec![id];
        splices.truncate(usize::from(!has_id));
        if is_emptied(head, edit) {
            splices.extend(retry(wire));
            splices.sort_by_key(|(at, _)| at.start);
        }
        return put(wire, &splices, edit.body, out);
    }
    let Content { mut splices, body } = content(head, &marks, wire, edit, is_translated, words);
    let is_changed = !splices.is_empty() || body.is_some();
    if !has_id {
        splices.push(id);
    }
    let body = body.as_deref().or(edit.body);
    if splices.is_empty() && body.is_none() {
        return 0;
    }
    splices.sort_by_key(|(at, _)| at.start);
    match is_changed && marks.said.is_signed {
        true => put_signed(wire, &splices, body, words.keys, out),
        false => put(wire, &splices, body, out),
    }
}

/// What a frame says in other words.
#[derive(Default)]
struct Content<'a> {
    splices: Vec<Splice<'a>>,
    body: Option<Vec<u8>>,
}

fn content<'a>(
    head: &Head,
    marks: &Marks,
    wire: &'a [u8],
    edit: &Edit<'_>,
    is_translated: bool,
    words: &Words<'_>,
) -> Content<'a> {
    let code = CodecData::unpack(head.codec_data).code;
    let mut changes = Vec::new();
    let mut body = None;
    let fields = marks::fields(wire, marks.fields_at);
    if is_translated {
        let lane = words.topics.lane.as_deref();
        let group = marks.said.group.text(wire).unwrap_or_default();
        changes.extend(topic(marks, wire, |own| {
            // Topics of POP's retries have the message's topic behind the group.
            let retry = lane.and_then(|lane| lanes::retry_of(own, &group, lane));
            retry.map(Cow::Owned).or_else(|| words.topics.there(own))
        }));
        let before = wire.get(marks::body_at(wire)..).unwrap_or_default();
        body = words.topics.request(code, before);
        if let Some(lanes) = words.lanes.filter(|own| own.is_about(code)) {
            let all = all(fields);
            // The board has brokers' names for topics.
            let field = |name: &str| {
                let own = all.iter().rev().find(|own| own.name == name)?.text().ok()?;
                match words.topics.there(&own).filter(|_| name == "topic") {
                    Some(there) => Some(Cow::Owned(there.into_owned())),
                    None => Some(own),
                }
            };
            let before = body.as_deref().unwrap_or(before);
            let change = lanes.change(code, &field, before, words.board);
            for (name, value) in &change.fields {
                let known = all.iter().rev().find(|own| own.name == *name);
                changes.push(set(fields, name, known, value));
            }
            body = change.body.or(body);
        }
    }
    if !edit.attributes.is_empty() && (!marks.said.is_signed || words.keys.of(fields).is_some()) {
        match code {
            request::SEND_BATCH_MESSAGE if edit.body.is_none() => {
                body = batch(wire, edit.attributes).or(body);
            }
            _ => changes.extend(properties(code, marks, wire, edit.attributes)),
        }
    }
    Content {
        splices: in_header(marks, wire, changes),
        body,
    }
}

/// All fields of a header; none if they cannot be read.
fn all(fields: Fields<'_>) -> Vec<Field<'_>> {
    let mut all = Vec::new();
    let read = fields.each(|field| {
        all.push(field);
        Ok(())
    });
    match read {
        Ok(()) => all,
        Err(_) => Vec::new(),
    }
}

/// As [`put`], and signed anew by its client's key, which stands for what was checked before.
fn put_signed(
    wire: &[u8],
    splices: &[Splice<'_>],
    body: Option<&[u8]>,
    keys: &AclKeys,
    out: &mut BytesMut,
) -> usize {
    let mut written = BytesMut::new();
    let used = put(wire, splices, body, &mut written);
    written.extend_from_slice(wire.get(used..).unwrap_or_default());
    let signed = keys.sign(&written).and_then(|signature| {
        let (header, found) = Header::read(&written).ok()??;
        let marks = Marks::unpack(header.head(&found, &written).marks);
        let fields = marks::fields(&written, marks.fields_at);
        let all = all(fields);
        let known = all.iter().find(|own| own.name == SIGNATURE);
        let change = set(fields, SIGNATURE, known, &signature);
        let mut signed = BytesMut::new();
        let used = put(
            &written,
            &in_header(&marks, &written, vec![change]),
            None,
            &mut signed,
        );
        signed.extend_from_slice(written.get(used..)?);
        Some(signed)
    });
    out.extend_from_slice(&signed.unwrap_or(written));
    wire.len()
}

/// Whether nothing is left of the messages of an answer.
fn is_emptied(head: &Head, edit: &Edit<'_>) -> bool {
    head.kind == Kind::Response
        && edit.body.is_some_and(<[u8]>::is_empty)
        && CodecData::unpack(head.codec_data).code == answer::SUCCESS
}

/// Has an answer say that its client should go on from behind what was found, for nothing of that is for it: clients
/// read messages where the code says that there are some.
fn retry(wire: &[u8]) -> Option<Splice<'static>> {
    let again = answer::PULL_RETRY_IMMEDIATELY;
    if Encoding::of(wire) == Encoding::Binary {
        let code = i16::try_from(again).unwrap_or_default();
        return Some((PREFIX..PREFIX + 2, code.to_be_bytes().to_vec().into()));
    }
    let header = wire.get(PREFIX..marks::body_at(wire))?;
    let mut found = None;
    let read = json::Reader::new(header).members(|reader, key| {
        let (_, at) = reader.value()?;
        if key.raw == b"code" {
            found = Some(PREFIX + at.start..PREFIX + at.end);
        }
        Ok::<(), json::NoJson>(())
    });
    read.ok()?;
    Some((found?, again.to_string().into_bytes().into()))
}

/// What a broker asks its client, with the names that clients have for topics and groups; `None` if it names none of these.
pub(crate) fn asked_back(head: &Head, wire: &[u8], words: &Words<'_>) -> Option<Vec<u8>> {
    if words.is_empty() {
        return None;
    }
    let marks = Marks::unpack(head.marks);
    let code = CodecData::unpack(head.codec_data).code;
    let body = words
        .topics
        .asked_back(code, wire.get(marks::body_at(wire)..)?);
    let mut changes: Vec<Splice<'_>> = Vec::new();
    changes.extend(topic(&marks, wire, |own| words.topics.here(own)));
    if let Some(lanes) = words.lanes {
        let fields = marks::fields(wire, marks.fields_at);
        let all = all(fields);
        let field = |name: &str| all.iter().rev().find(|own| own.name == name)?.text().ok();
        for (name, value) in lanes.asked_back(&field) {
            let known = all.iter().rev().find(|own| own.name == name);
            changes.push(set(fields, name, known, &value));
        }
    }
    let splices = in_header(&marks, wire, changes);
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
    other: impl FnOnce(&str) -> Option<Cow<'a, str>>,
) -> Option<Splice<'static>> {
    let at = marks.said.topic.range();
    let own = marks.said.topic.text(wire).ok()?;
    let other = other(&own)?;
    Some(match Encoding::of(wire) {
        Encoding::Binary => (at.start.checked_sub(4)?..at.end, with_length(&other).into()),
        Encoding::Json => {
            // Topics have nothing that would have to be escaped; a name of digits alone may be a number.
            let is_text = wire.get(at.start.checked_sub(1)?) == Some(&b'"');
            let other = match is_text {
                true => other.into_owned(),
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
    Some(set(fields, name, known.as_ref(), &all))
}

/// A field with this value, in place of the one that is known, or beside others.
fn set(fields: Fields<'_>, name: &str, known: Option<&Field<'_>>, all: &str) -> Splice<'static> {
    match fields.encoding {
        Encoding::Json => in_json(fields.at, name, known, all),
        Encoding::Binary => in_binary(fields.body_at, name, known, all),
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
