//! SOFATracer's format: a trace's id is a text, a span's is a path.
//!
//! ```text
//! sofaTraceId: 0a0fe87c1590657045031100112345      address, time, number and process: 30 digits
//! sofaRpcId:   0.1.2                               the second call of the first call of the beginning
//! ```
//!
//! A caller and the one it calls share the path: our attempts are the next below it. Neither id can be
//! made one of W3C's, so both are written on as they are, and our own are made of their hash.

use std::borrow::Cow;

use finback_core::trace::{Incoming, Outgoing, Read, SpanId};

use super::{Written, bounded, hashed, hashed_span};

/// The names under which a protocol carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SofaKeys {
    /// Of the trace's id.
    pub trace: &'static str,
    /// Of the path.
    pub span: &'static str,
    /// Of whether it is written down: `true` or `false`.
    pub sampled: &'static str,
}

/// Where paths begin.
const FIRST: &str = "0";

fn is_path(text: &str) -> bool {
    let numbers = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= super::MOST && text.split('.').all(numbers)
}

pub(super) fn read(keys: &SofaKeys, attributes: Read<'_, '_>) -> Option<Incoming> {
    let trace = attributes(keys.trace).map(bounded)?;
    if trace.is_empty() {
        return None;
    }
    let path = attributes(keys.span).filter(|path| is_path(path));
    let path = path.unwrap_or(Cow::Borrowed(FIRST));
    let sampled = attributes(keys.sampled);
    Some(Incoming {
        span: SpanId(hashed_span(&format!("{trace} {path}"))),
        trace: hashed(&trace),
        sampled: match sampled.as_deref() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        },
    })
}

pub(super) fn write(
    keys: &SofaKeys,
    context: &Outgoing,
    attributes: Read<'_, '_>,
    out: &mut Written,
) {
    let came = attributes(keys.trace)
        .map(bounded)
        .filter(|own| !own.is_empty());
    let trace = came.unwrap_or_else(|| format!("{:032x}", u128::from_be_bytes(context.trace.0)));
    let path = attributes(keys.span).filter(|path| is_path(path));
    let path = path.as_deref().unwrap_or(FIRST);
    out.push((keys.trace.into(), trace));
    out.push((keys.span.into(), format!("{path}.{}", context.attempt)));
    out.push((keys.sampled.into(), "true".to_owned()));
}
