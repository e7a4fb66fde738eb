//! Propagation: the formats in which a trace's context travels, read and written as pure functions.
//!
//! | format | keys | ids |
//! |---|---|---|
//! | W3C Trace Context | `traceparent`, `tracestate` | 128 and 64 bits, in hex |
//! | Jaeger | `uber-trace-id` | the same, leading zeros may be left out |
//! | B3 | `b3`, or `X-B3-...` | 64 or 128 bits, and 64 |
//! | SkyWalking | `sw8` | texts |
//! | SOFATracer | `sofaTraceId`, `sofaRpcId`, ... | texts; a span is a path such as `0.1.2` |
//!
//! Baggage (`baggage`, `uberctx-...`, `sw8-correlation`, `sofaPenAttrs`) is nobody's business here: what
//! came with a request goes on with it.

mod b3;
mod exercise;
mod hex;
mod jaeger;
mod skywalking;
mod sofatracer;
mod w3c;

use std::borrow::Cow;

use finback_core::frame::Names;
use finback_core::trace::{Field, Incoming, Note, Outgoing, Read, TraceId};

pub use exercise::exercise;
pub use sofatracer::SofaKeys;

/// One way to spell a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextFormat {
    /// W3C Trace Context.
    W3c,
    /// Jaeger's own, older one.
    Jaeger,
    /// Zipkin's B3 in one header.
    B3,
    /// Zipkin's B3 in several headers.
    B3Multi,
    /// Apache SkyWalking's.
    SkyWalking,
    /// SOFATracer's.
    SofaTracer,
}

impl ContextFormat {
    /// All of them, by the names that the configuration knows.
    pub const ALL: [(&'static str, Self); 6] = [
        ("w3c", Self::W3c),
        ("jaeger", Self::Jaeger),
        ("b3", Self::B3),
        ("b3-multi", Self::B3Multi),
        ("skywalking", Self::SkyWalking),
        ("sofatracer", Self::SofaTracer),
    ];
}

/// How a protocol spells the formats' keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spelling {
    /// What stands before SkyWalking's keys.
    pub skywalking: &'static str,
    /// SOFATracer's keys, where it has any for this protocol.
    pub sofatracer: Option<SofaKeys>,
}

/// Who we are, for formats that tell it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    /// Our service.
    pub(crate) service: &'a str,
    /// Our process.
    pub(crate) instance: &'a str,
    /// What was called.
    pub(crate) operation: &'a str,
}

/// What is written, in order.
pub(crate) type Written = Vec<Field>;

impl ContextFormat {
    /// Its place in a set of formats.
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The context in this format, if it came in it.
    pub(crate) fn read(self, spelling: &Spelling, attributes: Read<'_, '_>) -> Option<Incoming> {
        match self {
            Self::W3c => w3c::read(&attributes("traceparent")?),
            Self::Jaeger => jaeger::read(&attributes("uber-trace-id")?),
            Self::B3 => b3::read_single(&attributes("b3")?),
            Self::B3Multi => b3::read_several(attributes),
            Self::SkyWalking => skywalking::read(&attributes(&skywalking::key(spelling))?),
            Self::SofaTracer => sofatracer::read(spelling.sofatracer.as_ref()?, attributes),
        }
    }

    /// The names of attributes of which one is there if a context in this format is.
    fn names(self, spelling: &Spelling) -> Names {
        let all = |names: &[&str]| {
            let names = names.iter().map(|own| Names::of(own.as_bytes()));
            names.fold(Names::NONE, Names::and)
        };
        match self {
            Self::W3c => all(&["traceparent"]),
            Self::Jaeger => all(&["uber-trace-id"]),
            Self::B3 => all(&["b3"]),
            Self::B3Multi => all(&b3::KEYS),
            Self::SkyWalking => all(&[&skywalking::key(spelling)]),
            Self::SofaTracer => match &spelling.sofatracer {
                Some(keys) => all(&[keys.trace]),
                None => Names::NONE,
            },
        }
    }

    /// Whether the request has a context in this format, be it unreadable.
    fn is_present(self, spelling: &Spelling, attributes: Read<'_, '_>) -> bool {
        match self {
            Self::W3c => attributes("traceparent").is_some(),
            Self::Jaeger => attributes("uber-trace-id").is_some(),
            Self::B3 => attributes("b3").is_some(),
            Self::B3Multi => b3::KEYS.iter().any(|key| attributes(key).is_some()),
            Self::SkyWalking => attributes(&skywalking::key(spelling)).is_some(),
            Self::SofaTracer => spelling
                .sofatracer
                .is_some_and(|keys| attributes(keys.trace).is_some()),
        }
    }

    fn write(
        self,
        spelling: &Spelling,
        context: &Outgoing,
        hop: &Hop<'_>,
        attributes: Read<'_, '_>,
        out: &mut Written,
    ) {
        match self {
            Self::W3c => w3c::write(context, attributes, out),
            Self::Jaeger => jaeger::write(context, attributes, out),
            Self::B3 => b3::write_single(context, attributes, out),
            Self::B3Multi => b3::write_several(context, attributes, out),
            Self::SkyWalking => skywalking::write(spelling, context, hop, attributes, out),
            Self::SofaTracer => {
                if let Some(keys) = &spelling.sofatracer {
                    sofatracer::write(keys, context, attributes, out);
                }
            }
        }
    }
}

/// Which formats are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Looked for in this order; the first that is there and can be read holds.
    pub read: Vec<ContextFormat>,
    /// Written, whatever came in.
    pub write: Vec<ContextFormat>,
}

impl Default for Formats {
    fn default() -> Self {
        Self {
            read: vec![ContextFormat::W3c],
            write: vec![ContextFormat::W3c],
        }
    }
}

impl Formats {
    /// All formats, to read and to write.
    #[must_use]
    pub fn all() -> Self {
        let all = ContextFormat::ALL.map(|(_, format)| format).to_vec();
        Self {
            read: all.clone(),
            write: all,
        }
    }

    /// The trace that a call is part of, by the first context that is there and can be read.
    #[must_use]
    pub fn trace(&self, spelling: &Spelling, attributes: Read<'_, '_>) -> TraceId {
        self.read(spelling, attributes).trace
    }

    /// The names of attributes of which one is there if a context that is read is.
    pub(crate) fn names(&self, spelling: &Spelling) -> Names {
        let all = self.read.iter().map(|format| format.names(spelling));
        all.fold(Names::NONE, Names::and)
    }

    pub(crate) fn read(&self, spelling: &Spelling, attributes: Read<'_, '_>) -> Incoming {
        let mut found = self.read.iter();
        let found = found.find_map(|format| format.read(spelling, &mut *attributes));
        found.unwrap_or_default()
    }

    /// What an attempt carries: what is to be written, and everything that came in, so that a service
    /// which knows only that stays in the trace.
    pub(crate) fn write(
        &self,
        spelling: &Spelling,
        context: &Outgoing,
        hop: &Hop<'_>,
        attributes: Read<'_, '_>,
    ) -> Written {
        let set = |formats: &[ContextFormat]| formats.iter().fold(0, |set, own| set | own.bit());
        let (write, read) = (set(&self.write), set(&self.read));
        // Most formats have one field, and it is kept as long as its call.
        let mut out = Written::with_capacity(self.write.len());
        for (_, format) in ContextFormat::ALL {
            let bit = format.bit();
            let writes = write & bit != 0
                || read & bit != 0 && format.is_present(spelling, &mut *attributes);
            if writes {
                format.write(spelling, context, hop, &mut *attributes, &mut out);
            }
        }
        out
    }

    /// The names that other tracers gave the trace, where those cannot be ours.
    pub(crate) fn notes(
        &self,
        spelling: &Spelling,
        attributes: Read<'_, '_>,
        notes: &mut Vec<Note>,
    ) {
        let mut note = |key, value: Option<String>| {
            if let Some(value) = value {
                notes.push((Cow::Borrowed(key), value.into()));
            }
        };
        if self.read.contains(&ContextFormat::SofaTracer)
            && let Some(keys) = &spelling.sofatracer
        {
            note("sofa.trace_id", attributes(keys.trace).map(bounded));
            note("sofa.rpc_id", attributes(keys.span).map(bounded));
        }
        if self.read.contains(&ContextFormat::SkyWalking) {
            let sw8 = attributes(&skywalking::key(spelling));
            note(
                "sw8.trace_id",
                sw8.and_then(|own| skywalking::trace_text(&own)),
            );
        }
    }
}

/// The context of a trace that begins here and is not written down, in the format of the W3C.
#[must_use]
pub fn begun(trace: TraceId, span: u64) -> Field {
    w3c::begun(trace, span)
}

/// The longest name of a trace or span that is passed on, in bytes. A longer one is cut.
const MOST: usize = 256;

fn bounded(text: Cow<'_, str>) -> String {
    finback_core::text::cut(&text, MOST).to_owned()
}

/// Our name for a trace whose own is a text: the same for everybody who sees that text.
///
/// FNV-1a of 128 bits: what matters is that all of a mesh agree, not that nobody can find a second text.
fn hashed(text: &str) -> TraceId {
    if let Some(id) = hex::trace(text) {
        return id;
    }
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    TraceId(hash.max(1).to_be_bytes())
}

/// The same of a span.
fn hashed_span(text: &str) -> u64 {
    let [_, _, _, _, _, _, _, _, low @ ..] = hashed(text).0;
    u64::from_be_bytes(low).max(1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
