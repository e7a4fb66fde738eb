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
//! These messages are stable: numbers never change their meaning. Written by hand, a batch is one buffer,
//! and nothing is built only to be written.

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

/// A request with these spans; `resource` says who writes them.
pub(super) fn request(resource: &[Attribute<'_>], spans: &[Span<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + spans.len() * 512);
    message(&mut out, 1, |out| {
        message(out, 1, |out| key_values(out, 1, resource));
        message(out, 2, |out| {
            message(out, 1, |out| {
                bytes(out, 1, b"finback");
                bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for span in spans {
                message(out, 2, |out| write_span(out, span));
            }
        });
        bytes(out, 3, SCHEMA.as_bytes());
    });
    out
}

fn write_span(out: &mut Vec<u8>, span: &Span<'_>) {
    bytes(out, 1, &span.trace.0);
    bytes(out, 2, &span.id.0.to_be_bytes());
    if span.parent.0 != 0 {
        bytes(out, 4, &span.parent.0.to_be_bytes());
    }
    bytes(out, 5, span.name.as_bytes());
    let kind = match span.role {
        Role::Server => 2,
        Role::Client => 3,
        Role::Producer => 4,
    };
    number(out, 6, kind);
    fixed64(out, 7, span.began);
    fixed64(out, 8, span.ended);
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
    use finback_core::trace::{SpanId, TraceId};

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
        message(&mut out, 2, |out| write_span(out, &span));
        let expected = hex("12 68
             0a 10 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 # trace
             12 08 00 00 00 00 00 00 00 02  # span
             22 08 00 00 00 00 00 00 00 03  # parent
             2a 03 61 2f 62                 # name
             30 02                          # kind
             39 01 00 00 00 00 00 00 00     # start
             41 02 01 00 00 00 00 00 00     # end
             4a 08 0a 01 6b 12 03 0a 01 76  # k: v
             4a 10 0a 01 6e 12 0b 18 ff ff ff ff ff ff ff ff ff 01 # n: -1
             7a 05 12 01 45 18 02           # status
             85 01 01 03 00 00              # flags");
        assert_eq!(out, expected);
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
