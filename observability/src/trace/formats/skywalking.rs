//! Apache SkyWalking's cross-process format, version 3.
//!
//! ```text
//! sw8: sample-trace-segment-span-service-instance-endpoint-target
//!      0 | 1, base64, base64, a number, base64, base64, base64, base64
//! ```
//!
//! A segment is what one process does of a trace: each of our attempts is one, with a span of number 0. A
//! trace's id is a text. One of 32 hex digits is ours as it is, of others we take the hash, so that all who
//! pass the trace on call it the same.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use finback_core::trace::{Incoming, Outgoing, Read, SpanId};

use super::{Hop, MOST, Spelling, Written, hashed, hashed_span};

pub(super) fn key(spelling: &Spelling) -> Cow<'static, str> {
    match spelling.skywalking {
        "" => Cow::Borrowed("sw8"),
        prefix => Cow::Owned(format!("{prefix}sw8")),
    }
}

/// A header's parts that matter here.
struct Header {
    sampled: bool,
    trace: String,
    segment: String,
    span: String,
}

fn text(part: &str) -> Option<String> {
    let bytes = STANDARD_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok().filter(|own| !own.is_empty())
}

fn parts(header: &str) -> Option<Header> {
    // Names of services and endpoints may be long; what is longer than this was not meant for us.
    if header.len() > 8 * 1024 {
        return None;
    }
    let parts: Vec<&str> = header.split('-').collect();
    let [
        sample,
        trace,
        segment,
        span,
        _service,
        _instance,
        _endpoint,
        _target,
    ] = *parts
    else {
        return None;
    };
    let sampled = match sample {
        "1" => true,
        "0" => false,
        _ => return None,
    };
    span.parse::<u32>().ok()?;
    Some(Header {
        sampled,
        // No more than goes on: who is asked next shall call it the same.
        trace: finback_core::text::cut(&text(trace)?, MOST).to_owned(),
        segment: text(segment)?,
        span: span.to_owned(),
    })
}

/// The trace as SkyWalking calls it.
pub(super) fn trace_text(header: &str) -> Option<String> {
    parts(header).map(|own| own.trace)
}

pub(super) fn read(header: &str) -> Option<Incoming> {
    let own = parts(header)?;
    Some(Incoming {
        trace: hashed(&own.trace),
        span: SpanId(hashed_span(&format!("{}.{}", own.segment, own.span))),
        sampled: Some(own.sampled),
    })
}

pub(super) fn write(
    spelling: &Spelling,
    context: &Outgoing,
    hop: &Hop<'_>,
    attributes: Read<'_, '_>,
    out: &mut Written,
) {
    let key = key(spelling);
    let came = attributes(&key).and_then(|header| trace_text(&header));
    let trace = came.unwrap_or_else(|| format!("{:032x}", u128::from_be_bytes(context.trace.0)));
    let segment = format!("{:016x}.{}.0", context.parent.0, context.attempt);
    let encoded = |text: &str| STANDARD.encode(text);
    let target = match context.endpoint {
        Some(endpoint) => encoded(&endpoint.to_string()),
        None => encoded(hop.operation),
    };
    let header = format!(
        "1-{}-{}-0-{}-{}-{}-{}",
        encoded(&trace),
        encoded(&segment),
        encoded(hop.service),
        encoded(hop.instance),
        encoded(hop.operation),
        target,
    );
    out.push((key, header));
}
