//! Jaeger's own format: `uber-trace-id: trace:span:parent:flags`.
//!
//! Ids are hex without leading zeros, or with; the parent is deprecated and written as 0. Flags: 1 sampled,
//! 2 debug. Some clients escape the colons, as in a URL.

use finback_core::trace::{Incoming, Outgoing, Read};

use super::{Written, hex};

const SAMPLED: u128 = 1;
const DEBUG: u128 = 2;

fn fields(text: &str) -> Option<(Incoming, u128)> {
    let plain = text.replace("%3A", ":").replace("%3a", ":");
    let mut parts = plain.split(':');
    let trace = hex::short_trace(parts.next()?)?;
    let span = hex::span(parts.next()?)?;
    let _parent = parts.next()?;
    let flags = hex::number(parts.next()?, 2)?;
    let incoming = Incoming {
        trace,
        span,
        sampled: Some(flags & (SAMPLED | DEBUG) != 0),
    };
    parts.next().is_none().then_some((incoming, flags))
}

pub(super) fn read(text: &str) -> Option<Incoming> {
    fields(text).map(|(incoming, _)| incoming)
}

pub(super) fn write(context: &Outgoing, attributes: Read<'_, '_>, out: &mut Written) {
    let came = attributes("uber-trace-id").and_then(|text| fields(&text));
    let debug = came.map_or(0, |(_, flags)| flags & DEBUG);
    let trace = hex::shortest(context.trace);
    let (span, flags) = (context.span.0, SAMPLED | debug);
    out.push((
        "uber-trace-id".into(),
        format!("{trace}:{span:016x}:0:{flags:x}"),
    ));
}
