//! Ids in hexadecimal.

use finback_core::trace::{SpanId, TraceId};

/// A number in lower-case or upper-case hex digits, no more than `most` of them.
pub(super) fn number(text: &str, most: usize) -> Option<u128> {
    let fits = !text.is_empty() && text.len() <= most;
    let digits = fits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits {
        u128::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// Appends bytes, two digits each, of which there are no more than 32: part of what every traced call costs.
pub(super) fn put(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (two, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        two[0] = DIGITS[usize::from(byte >> 4)];
        two[1] = DIGITS[usize::from(byte & 15)];
    }
    let digits = digits.get(..2 * bytes.len()).unwrap_or_default();
    out.push_str(str::from_utf8(digits).unwrap_or_default());
}

/// A trace's name of exactly 32 digits.
pub(super) fn trace(text: &str) -> Option<TraceId> {
    let id = number(text, 32).filter(|id| *id != 0 && text.len() == 32)?;
    Some(TraceId(id.to_be_bytes()))
}

/// A trace's name of up to 32 digits.
pub(super) fn short_trace(text: &str) -> Option<TraceId> {
    let id = number(text, 32).filter(|id| *id != 0)?;
    Some(TraceId(id.to_be_bytes()))
}

/// A span's name of up to 16 digits.
pub(super) fn span(text: &str) -> Option<SpanId> {
    let id = number(text, 16).and_then(|id| u64::try_from(id).ok());
    id.filter(|id| *id != 0).map(SpanId)
}

/// A trace's name as 32 digits, or 16 if those say all: who gave it 64 bits looks for it so.
pub(super) fn shortest(trace: TraceId) -> String {
    let id = u128::from_be_bytes(trace.0);
    if id >> 64 == 0 {
        format!("{id:016x}")
    } else {
        format!("{id:032x}")
    }
}
