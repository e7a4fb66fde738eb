//! Writes a frame anew: with another id, more properties, another body.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Head};

use crate::call::properties_of;
use crate::header::{Encoding, Field, Header, IdAt, PREFIX};
use crate::json;
use crate::properties;

/// A broker refuses a message whose properties are longer than 32,767 bytes: near that, none are added.
const PROPERTIES: usize = 31 * 1024;

/// Bytes in place of others.
type Splice<'a> = (Range<usize>, Cow<'a, [u8]>);

/// Begins the frame anew, as [`Codec::encode`](finback_core::codec::Codec::encode) asks.
pub(crate) fn encode(head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
    let has_id = head.id == edit.id;
    if has_id && !edit.changes_content() && edit.body.is_none() {
        return 0;
    }
    // It was read before.
    let Ok(Some(header)) = Header::read(wire) else {
        return 0;
    };
    let mut splices = Vec::with_capacity(4);
    if !has_id {
        splices.push(id(&header, edit.id as u32));
    }
    if !edit.attributes.is_empty() {
        add_properties(&header, wire, edit.attributes, &mut splices);
    }
    splices.sort_by_key(|(at, _)| at.start);
    let old = header.body_at - PREFIX;
    let taken: usize = splices.iter().map(|(at, _)| at.len()).sum();
    let given: usize = splices.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = old - taken + given;
    let body = edit.body.map_or(header.len - header.body_at, <[u8]>::len);
    let (Ok(total), Ok(length)) = (u32::try_from(4 + length + body), u32::try_from(length)) else {
        return 0;
    };
    out.put_u32(total);
    out.put_u32(u32::from(header.encoding == Encoding::Binary) << 24 | length);
    let mut at = PREFIX;
    for (range, bytes) in &splices {
        out.put_slice(&wire[at..range.start]);
        out.put_slice(bytes);
        at = range.end;
    }
    out.put_slice(&wire[at..header.body_at]);
    match edit.body {
        None => header.body_at,
        Some(body) => {
            out.put_slice(body);
            wire.len()
        }
    }
}

fn id<'a>(header: &Header, id: u32) -> Splice<'a> {
    // Java's ids are signed.
    let id = id.cast_signed();
    match (&header.id_at, header.encoding) {
        (IdAt::There(at), Encoding::Binary) => (at.clone(), Cow::Owned(id.to_be_bytes().to_vec())),
        (IdAt::There(at), Encoding::Json) => (at.clone(), Cow::Owned(id.to_string().into_bytes())),
        (IdAt::Missing { at, more }, _) => {
            let comma = if *more { "," } else { "" };
            let text = format!("\"opaque\":{id}{comma}");
            (*at..*at, Cow::Owned(text.into_bytes()))
        }
    }
}

/// Adds properties to the message of a request, unless its client has signed them: every field counts in an ACL's
/// signature.
fn add_properties(
    header: &Header,
    wire: &[u8],
    added: &[(&str, &str)],
    splices: &mut Vec<Splice<'_>>,
) {
    let Some(name) = properties_of(header.code) else {
        return;
    };
    let (mut known, mut is_signed, mut fields) = (None, false, 0);
    let read = header.fields(wire, |field| {
        fields += 1;
        is_signed |= field.name == "Signature";
        if field.name == name {
            known = Some(field);
        }
        Ok(())
    });
    if read.is_err() || is_signed || fields == 0 {
        return;
    }
    let before = known.as_ref().map(Field::text).transpose();
    let Ok(before) = before else { return };
    let all = properties::with(&before.unwrap_or_default(), added);
    if all.len() > PROPERTIES {
        return;
    }
    match header.encoding {
        Encoding::Json => splices.push(in_json(header, name, known.as_ref(), &all)),
        Encoding::Binary => in_binary(header, name, known.as_ref(), &all, splices),
    }
}

fn in_json(header: &Header, name: &str, known: Option<&Field<'_>>, all: &str) -> Splice<'static> {
    let mut value = vec![b'"'];
    json::escape(all, &mut value);
    value.push(b'"');
    match known {
        Some(field) => (field.at.clone(), Cow::Owned(value)),
        None => {
            // The object has a field already.
            let at = header.fields_at.start + 1;
            let entry = [b"\"", name.as_bytes(), b"\":", &value[..], b","].concat();
            (at..at, Cow::Owned(entry))
        }
    }
}

fn in_binary(
    header: &Header,
    name: &str,
    known: Option<&Field<'_>>,
    all: &str,
    splices: &mut Vec<Splice<'_>>,
) {
    let at = &header.fields_at;
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
