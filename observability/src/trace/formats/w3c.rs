//! W3C Trace Context, level 1, and what level 2 adds to its flags.
//!
//! ```text
//! traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!              version, trace id, parent id, flags: 1 sampled, 2 the trace id is random
//! ```

use finback_core::record::TraceId;
use finback_core::trace::{Field, Incoming, Outgoing, Read};

use super::{Written, hex};

const SAMPLED: u128 = 1;
/// W3C Trace Context, section 3.2.2.5.2 (level 2): kept as it came, since it speaks of the id and not of us.
const RANDOM: u128 = 2;

/// The fields of a `traceparent`, and its flags.
fn fields(text: &str) -> Option<(Incoming, u128)> {
    let text = text.trim_matches([' ', '\t']);
    let is_lower = |field: &str| !field.bytes().any(|byte| byte.is_ascii_uppercase());
    let field = |from: usize, to: usize| text.get(from..to).filter(|own| is_lower(own));
    //= W3C Trace Context 3.2.2: version-format; 3.2.2.1: 255 is invalid
    let version = hex::number(field(0, 2)?, 2).filter(|version| *version != 0xff)?;
    let dashes = [2, 35, 52]
        .iter()
        .all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    //= 4.3: of a higher version, what is known is read, and what follows begins with a dash
    let ends = match text.as_bytes().get(55) {
        None => true,
        Some(b'-') => version > 0,
        Some(_) => false,
    };
    if !dashes || !ends {
        return None;
    }
    let flags = hex::number(field(53, 55)?, 2)?;
    let incoming = Incoming {
        trace: hex::trace(field(3, 35)?)?,
        span: hex::span(field(36, 52)?)?,
        sampled: Some(flags & SAMPLED != 0),
    };
    Some((incoming, flags))
}

pub(super) fn read(text: &str) -> Option<Incoming> {
    fields(text).map(|(incoming, _)| incoming)
}

/// The context of a trace that is not written down.
pub(super) fn begun(trace: TraceId, span: u64) -> Field {
    ("traceparent".into(), parent(trace, span, "-00"))
}

fn parent(trace: TraceId, span: u64, flags: &str) -> String {
    let mut parent = String::with_capacity(55);
    parent.push_str("00-");
    hex::put(&mut parent, &trace.0);
    parent.push('-');
    hex::put(&mut parent, &span.to_be_bytes());
    parent.push_str(flags);
    parent
}

pub(super) fn write(context: &Outgoing, attributes: Read<'_, '_>, out: &mut Written) {
    let came = attributes("traceparent").and_then(|text| fields(&text));
    let random = came.map_or(0, |(_, flags)| flags & RANDOM);
    let flags = if random == 0 { "-01" } else { "-03" };
    let parent = parent(context.trace, context.span.0, flags);
    out.push(("traceparent".into(), parent));
    //= W3C Trace Context 3.3: tracestate without a traceparent that can be read is of no trace
    if came.is_none() && attributes("tracestate").is_some() {
        out.push(("tracestate".into(), String::new()));
    }
}
