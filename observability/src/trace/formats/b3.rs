//! Zipkin's B3, in one header or several.
//!
//! ```text
//! b3: {trace}-{span}-{1 | 0 | d}-{parent}      or only the decision: 0, 1, d
//! X-B3-TraceId, X-B3-SpanId, X-B3-ParentSpanId, X-B3-Sampled: 1 | 0, X-B3-Flags: 1 for debug
//! ```
//!
//! A trace's id has 16 or 32 digits. Without a decision, that is left to whoever reads it.

use finback_core::trace::{Incoming, Outgoing, Read};

use super::{Written, hex};

const TRACE: &str = "X-B3-TraceId";
const SPAN: &str = "X-B3-SpanId";
const PARENT: &str = "X-B3-ParentSpanId";
const SAMPLED: &str = "X-B3-Sampled";
const FLAGS: &str = "X-B3-Flags";
/// All of them.
pub(super) const ALL: [&str; 5] = [TRACE, SPAN, PARENT, SAMPLED, FLAGS];
/// Each of these shows that there is a context.
pub(super) const KEYS: [&str; 3] = [TRACE, SAMPLED, FLAGS];

/// A decision alone: no span of the caller's is known.
fn decided(sampled: bool) -> Incoming {
    Incoming {
        sampled: Some(sampled),
        ..Incoming::default()
    }
}

/// What a word decides: `d` is debug, and `true` and `false` were written by old clients.
fn decision(word: &str) -> Option<bool> {
    match word {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

pub(super) fn read_single(text: &str) -> Option<Incoming> {
    if let Some(sampled) = decision(text) {
        return Some(decided(sampled));
    }
    let mut parts = text.split('-');
    let trace = hex::short_trace(parts.next()?)?;
    let span = hex::span(parts.next()?)?;
    let sampled = match parts.next() {
        None => None,
        Some(word) => Some(decision(word)?),
    };
    Some(Incoming {
        trace,
        span,
        sampled,
    })
}

pub(super) fn read_several(attributes: Read<'_, '_>) -> Option<Incoming> {
    let debug = attributes(FLAGS).is_some_and(|flags| flags == "1");
    let sampled = match debug {
        true => Some(true),
        false => attributes(SAMPLED).and_then(|word| decision(&word)),
    };
    let ids = attributes(TRACE).zip(attributes(SPAN));
    let ids = ids.and_then(|(trace, span)| hex::short_trace(&trace).zip(hex::span(&span)));
    match ids {
        Some((trace, span)) => Some(Incoming {
            trace,
            span,
            sampled,
        }),
        None => sampled.map(decided),
    }
}

pub(super) fn write_single(context: &Outgoing, attributes: Read<'_, '_>, out: &mut Written) {
    let came = attributes("b3");
    let mut words = came.iter().flat_map(|text| text.split('-'));
    let decision = if words.any(|word| word == "d") {
        "d"
    } else {
        "1"
    };
    let trace = hex::shortest(context.trace);
    let (span, parent) = (context.span.0, context.parent.0);
    out.push((
        "b3".into(),
        format!("{trace}-{span:016x}-{decision}-{parent:016x}"),
    ));
}

pub(super) fn write_several(context: &Outgoing, attributes: Read<'_, '_>, out: &mut Written) {
    out.push((TRACE.into(), hex::shortest(context.trace)));
    out.push((SPAN.into(), format!("{:016x}", context.span.0)));
    out.push((PARENT.into(), format!("{:016x}", context.parent.0)));
    // Debug implies the decision, and goes on as it came.
    if attributes(FLAGS).is_none_or(|flags| flags != "1") {
        out.push((SAMPLED.into(), "1".to_owned()));
    }
}
