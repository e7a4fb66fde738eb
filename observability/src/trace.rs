//! Traces: exchanges become spans, named as OpenTelemetry has settled it, and go to a collector by OTLP.
//!
//! [`Traces`] is core's port: it reads and writes contexts in the formats that are in use, and
//! hands what is over to the [`Exporter`], which nobody waits for.

mod conventions;
mod export;
mod formats;
mod otlp;
mod span;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use finback_core::trace::{Called, Field, Finished, Incoming, Note, Outgoing, Read, Spans, Tracer};

use conventions::Kind;
use formats::Hop;
use span::Exported;

pub use conventions::{ATTRIBUTES, Protocol, StatusName, System};
pub use export::{Collector, Counts, Encoding, Exporter, Headers, Settings, Tls};
pub use formats::{Format, Formats, SofaKeys, Spelling};

/// The longest value of a note, in bytes: clients choose what stands there.
const LONGEST: usize = 512;

/// How exchanges are traced.
pub struct Traces {
    /// Whoever brings spans away.
    pub exporter: Arc<Exporter>,
    /// The formats of contexts.
    pub formats: Arc<Formats>,
    /// How each protocol is traced.
    pub protocols: Arc<HashMap<&'static str, Protocol>>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces")
            .field("exporter", &self.exporter)
            .finish_non_exhaustive()
    }
}

impl Tracer for Traces {
    fn spans(&self, called: &Called<'_>) -> Arc<dyn Spans> {
        const UNKNOWN: Protocol = Protocol {
            system: System::Connection,
            spelling: Spelling {
                skywalking: "",
                sofatracer: None,
            },
            status: |_, _| None,
        };
        let protocol = self.protocols.get(called.protocol).unwrap_or(&UNKNOWN);
        Arc::new(SpansOf {
            kind: Arc::new(Kind::new(protocol, called)),
            exporter: self.exporter.clone(),
            formats: self.formats.clone(),
        })
    }
}

/// The spans of one kind of call.
struct SpansOf {
    kind: Arc<Kind>,
    exporter: Arc<Exporter>,
    formats: Arc<Formats>,
}

impl Spans for SpansOf {
    fn read(&self, attributes: Read<'_, '_>) -> Incoming {
        self.formats.read(&self.kind.spelling, attributes)
    }

    fn notes(&self, attributes: Read<'_, '_>) -> Vec<Note> {
        let mut notes = Vec::new();
        for (name, attribute) in self.kind.noted() {
            if let Some(value) = attributes(name) {
                let value = finback_core::text::cut(&value, LONGEST);
                notes.push((Cow::Borrowed(*attribute), value.into()));
            }
        }
        self.formats
            .notes(&self.kind.spelling, attributes, &mut notes);
        notes
    }

    fn write(&self, context: &Outgoing, attributes: Read<'_, '_>) -> Vec<Field> {
        let resource = &self.exporter.settings().resource;
        let of = |name| {
            let mut found = resource.iter();
            found
                .find(|(own, _)| own == name)
                .map_or("finback", |(_, value)| value)
        };
        let hop = Hop {
            service: of("service.name"),
            instance: of("service.instance.id"),
            operation: &self.kind.name,
        };
        self.formats
            .write(&self.kind.spelling, context, &hop, attributes)
    }

    fn finish(&self, finished: Finished<'_>) {
        self.exporter.take(Exported::new(&self.kind, finished));
    }
}
