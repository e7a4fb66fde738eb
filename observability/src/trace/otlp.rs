//! OTLP: spans as the OpenTelemetry protocol writes them, version 1 of its trace messages.
//!
//! ```text
//! ExportTraceServiceRequest { 1: ResourceSpans }
//! ResourceSpans             { 1: Resource { 1: KeyValue }, 2: ScopeSpans, 3: schema url }
//! ScopeSpans                { 1: InstrumentationScope { 1: name, 2: version }, 2: Span }
//! Span                      { 1: trace id, 2: span id, 4: parent id, 5: name, 6: kind, 7: start, 8: end,
//!                             9: KeyValue, 15: Status { 2: message, 3: code }, 16: flags }
//! KeyValue                  { 1: key, 2: AnyValue { 1: text, 2: truth, 3: number } }
//! ```
//!
//! These messages are stable: numbers never change their meaning, and readers take fields in any order. Written by
//! hand, ids and times come first in a span, so that spans which differ in nothing else are copied.

use finback_core::trace::{SpanId, TraceId};

use super::span::{Attribute, Role, Span, Value};

/// The names that attributes have are those of this version of the conventions.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

const STATUS_ERROR: u64 = 2;
/// Of a span's flags: the trace is sampled (W3C); it is known whether the parent is elsewhere; it is.
const SAMPLED: u32 = 0x01;
const KNOWS_PARENT: u32 = 0x100;
const REMOTE_PARENT: u32 = 0x200;

/// What stands around the spans of a request: who writes them.
pub(super) struct Envelope {
    resource: Vec<u8>,
    scope: Vec<u8>,
    schema: Vec<u8>,
}

impl Envelope {
    pub(super) fn new(resource: &[Attribute<'_>]) -> Self {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        Self {
            resource: written(&|out| message(out, 1, |out| key_values(out, 1, resource))),
            scope: written(&|out| {
                message(out, 1, |out| {
                    bytes(out, 1, b"finback");
                    bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
                });
            }),
            schema: written(&|out| bytes(out, 3, SCHEMA.as_bytes())),
        }
    }

    /// What comes before spans of so many bytes, and what comes after them.
    pub(super) fn around(&self, spans: usize) -> (Vec<u8>, Vec<u8>) {
        let of_scope = self.scope.len() + spans;
        let mut inner = Vec::with_capacity(16 + self.scope.len());
        key(&mut inner, 2, BYTES);
        varint(&mut inner, of_scope as u64);
        inner.extend_from_slice(&self.scope);
        let whole = self.resource.len() + inner.len() + spans + self.schema.len();
        let mut before = Vec::with_capacity(16 + self.resource.len() + inner.len());
        key(&mut before, 1, BYTES);
        varint(&mut before, whole as u64);
        before.extend_from_slice(&self.resource);
        before.extend_from_slice(&inner);
        (before, self.schema.clone())
    }
}

/// Appends a span as a field of its scope.
pub(super) fn span(out: &mut Vec<u8>, span: &Span<'_>) {
    message(out, 2, |out| write_span(out, span));
}

/// Ids and times of a span: all of it that differs between exchanges of one kind with the same end.
pub(super) struct Ids {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: SpanId,
    pub(super) began: u64,
    pub(super) ended: u64,
}

/// Puts these in place of others in a span that [`span`] wrote, which has a parent if these have one. They
/// stand before everything else, at places that are always the same.
pub(super) fn put_ids(written: &mut [u8], ids: &Ids) -> Option<()> {
    let digits = written.iter().skip(1).position(|byte| *byte < 0x80)?;
    let (_, mut rest) = written.split_at_mut_checked(digits + 2)?;
    let mut put = |name: usize, value: &[u8]| {
        let own = std::mem::take(&mut rest);
        let (field, after) = own.split_at_mut_checked(name + value.len())?;
        field.get_mut(name..)?.copy_from_slice(value);
        rest = after;
        Some(())
    };
    // Names and, of texts, lengths are one byte each.
    put(2, &ids.trace.0)?;
    put(2, &ids.id.0.to_be_bytes())?;
    if ids.parent.0 != 0 {
        put(2, &ids.parent.0.to_be_bytes())?;
    }
    put(1, &ids.began.to_le_bytes())?;
    put(1, &ids.ended.to_le_bytes())
}

fn write_span(out: &mut Vec<u8>, span: &Span<'_>) {
    bytes(out, 1, &span.trace.0);
    bytes(out, 2, &span.id.0.to_be_bytes());
    if span.parent.0 != 0 {
        bytes(out, 4, &span.parent.0.to_be_bytes());
    }
    fixed64(out, 7, span.began);
    fixed64(out, 8, span.ended);
    bytes(out, 5, span.name.as_bytes());
    let kind = match span.role {
        Role::Server => 2,
        Role::Client => 3,
        Role::Producer => 4,
    };
    number(out, 6, kind);
    key_values(out, 9, &span.attributes);
    if let Some(why) = &span.error {
        message(out, 15, |out| {
            bytes(out, 2, why.as_bytes());
            number(out, 3, STATUS_ERROR);
        });
    }
    let mut flags = KNOWS_PARENT;
    if span.sampled {
        flags |= SAMPLED;
    }
    if span.role == Role::Server && span.parent.0 != 0 {
        flags |= REMOTE_PARENT;
    }
    key(out, 16, FIXED32);
    out.extend_from_slice(&flags.to_le_bytes());
}

fn key_values(out: &mut Vec<u8>, field: u64, attributes: &[Attribute<'_>]) {
    for (name, value) in attributes {
        message(out, field, |out| {
            bytes(out, 1, name.as_bytes());
            message(out, 2, |out| match value {
                Value::Text(text) => bytes(out, 1, text.as_bytes()),
                Value::Number(own) => number(out, 3, own.cast_unsigned()),
            });
        });
    }
}

// === What messages are made of (protobuf's encoding) ===

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits and the mark")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message within another: its length stands before it and is known after it.
fn message(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, BYTES);
    let begins = out.len();
    write(out);
    let length = out.len() - begins;
    varint(out, length as u64);
    let digits = out.len() - begins - length;
    out[begins..].rotate_right(digits);
}

// === What is answered ===

/// What a collector says to a batch that it took: how many spans of it were not taken, and why.
///
/// ```text
/// ExportTraceServiceResponse { 1: ExportTracePartialSuccess { 1: rejected spans, 2: message } }
/// ```
pub(super) fn rejected(response: &[u8]) -> Option<(u64, String)> {
    let partial = fields(response).find_map(|(field, value)| match (field, value) {
        (1, Field::Bytes(partial)) => Some(partial),
        _ => None,
    })?;
    let (mut spans, mut why) = (0, String::new());
    for field in fields(partial) {
        match field {
            (1, Field::Number(rejected)) => spans = rejected,
            (2, Field::Bytes(text)) => why = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    (spans > 0).then_some((spans, why))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, as far as it can be read.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = read_varint(&mut message)?;
        let value = match key & 7 {
            VARINT => Field::Number(read_varint(&mut message)?),
            BYTES => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                Field::Bytes(message.split_off(..length)?)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Reads `12 34`, with comments after `#`.
    fn hex(text: &str) -> Vec<u8> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap());
        let words = lines.flat_map(str::split_whitespace);
        words
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect()
    }

    /// Checked against the protocol's official stubs for Python.
    #[test]
    fn a_span_is_written_field_by_field() {
        let mut out = Vec::new();
        let span = Span {
            trace: TraceId([0x11; 16]),
            id: SpanId(2),
            parent: SpanId(3),
            name: "a/b".into(),
            role: Role::Server,
            began: 1,
            ended: 258,
            attributes: vec![
                ("k".into(), Value::Text("v".into())),
                ("n".into(), Value::Number(-1)),
            ],
            error: Some("E".into()),
            sampled: true,
        };
        super::span(&mut out, &span);
        let expected = hex("12 68
             0a 10 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 # trace
             12 08 00 00 00 00 00 00 00 02  # span
             22 08 00 00 00 00 00 00 00 03  # parent
             39 01 00 00 00 00 00 00 00     # start
             41 02 01 00 00 00 00 00 00     # end
             2a 03 61 2f 62                 # name
             30 02                          # kind
             4a 08 0a 01 6b 12 03 0a 01 76  # k: v
             4a 10 0a 01 6e 12 0b 18 ff ff ff ff ff ff ff ff ff 01 # n: -1
             7a 05 12 01 45 18 02           # status
             85 01 01 03 00 00              # flags");
        assert_eq!(out, expected);
    }

    /// A span that was written with other ids, as long as `name`, becomes this one.
    fn becomes(name: &str, parent: u64) {
        let span = |fill: u8, id: u64, parent| Span {
            trace: TraceId([fill; 16]),
            id: SpanId(id),
            parent: SpanId(parent),
            name: name.to_owned().into(),
            role: Role::Client,
            began: id * 3,
            ended: id * 5,
            attributes: vec![("k".into(), Value::Text("v".into()))],
            error: None,
            sampled: true,
        };
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        super::span(&mut out, &span(1, 2, parent.min(1)));
        let own = span(7, 0x0102_0304_0506_0708, parent);
        super::span(&mut expected, &own);
        let ids = Ids {
            trace: own.trace,
            id: own.id,
            parent: own.parent,
            began: own.began,
            ended: own.ended,
        };
        assert_ne!(out, expected);
        put_ids(&mut out, &ids).unwrap();
        assert_eq!(out, expected);
        for end in 0..48 {
            assert_eq!(put_ids(&mut out[..end], &ids), None);
        }
    }

    #[test]
    fn ids_of_a_written_span_are_replaced() {
        for name in ["a", &"a".repeat(100), &"a".repeat(20_000)] {
            becomes(name, 0);
            becomes(name, 0x1112_1314_1516_1718);
        }
    }

    #[test]
    fn an_envelope_fits_around_spans() {
        let resource = [("service.name".into(), Value::Text("mesh".into()))];
        let own = Envelope::new(&resource);
        let (before, after) = own.around(3);
        let whole = [&before[..], &[0x12, 1, 9], &after[..]].concat();
        let Some((1, Field::Bytes(of_resource))) = fields(&whole).next() else {
            panic!("{whole:x?}");
        };
        assert_eq!(fields(&whole).count(), 1);
        let parts: Vec<_> = fields(of_resource).map(|(field, _)| field).collect();
        assert_eq!(parts, [1, 2, 3]);
        let Some((_, Field::Bytes(of_scope))) = fields(of_resource).nth(1) else {
            panic!("{whole:x?}");
        };
        let Some((2, Field::Bytes(span))) = fields(of_scope).nth(1) else {
            panic!("{whole:x?}");
        };
        assert_eq!(span, [9]);
    }

    #[test]
    fn lengths_of_more_than_one_byte_stand_before_what_they_measure() {
        let mut out = vec![9];
        message(&mut out, 1, |out| out.extend_from_slice(&[7; 300]));
        assert_eq!(out[..4], [9, 0x0a, 0xac, 0x02]);
        assert_eq!(out[4..], [7; 300]);
    }

    #[test]
    fn what_a_collector_did_not_take_is_read() {
        assert_eq!(rejected(&[]), None);
        assert_eq!(rejected(&hex("0a 02 12 00")), None);
        let told = hex("0a 06 08 03 12 02 6e 6f");
        assert_eq!(rejected(&told), Some((3, "no".to_owned())));
        // Whatever comes, it is no reason to panic.
        for cut in 0..told.len() {
            let _ = rejected(&told[..cut]);
        }
        assert_eq!(rejected(&hex("0a ff ff ff ff ff ff ff ff ff 01")), None);
    }
}
