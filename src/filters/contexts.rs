//! Trace contexts in calls of every protocol, for filters that decide by the trace.

use std::collections::HashMap;

use finback_core::filter::lane::Contexts;
use finback_core::record::TraceId;
use finback_core::trace::{Field, Read};
use finback_observability::trace::{Formats, ProtocolConventions, begun};

use crate::protocols;

/// Contexts in all formats that are known.
#[derive(Debug)]
pub struct Everywhere {
    formats: Formats,
    protocols: HashMap<&'static str, ProtocolConventions>,
}

impl Default for Everywhere {
    fn default() -> Self {
        Self {
            formats: Formats::all(),
            protocols: protocols::traced(),
        }
    }
}

impl Contexts for Everywhere {
    fn trace(&self, protocol: &str, read: Read<'_, '_>) -> TraceId {
        let own = self.protocols.get(protocol);
        own.map_or(TraceId::default(), |own| {
            self.formats.trace(&own.spelling, read)
        })
    }

    fn begin(&self, _: &str, trace: TraceId, span: u64) -> Vec<Field> {
        // What every tracer of today reads, whatever else it knows.
        vec![begun(trace, span)]
    }
}
