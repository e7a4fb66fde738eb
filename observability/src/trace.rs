//! Traces: exchanges become spans, named as OpenTelemetry has settled it, and go to a collector by OTLP.
//!
//! [`Traces`] is core's port: it reads and writes contexts in the formats that are in use, and
//! hands what is over to the [`Exporter`], which nobody waits for.

mod conventions;
mod export;
mod formats;
mod lanes;
mod otlp;
mod span;
mod templates;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use finback_core::frame::Names;
use finback_core::trace::{
    Called, Field, Finished, Incoming, Note, Outgoing, Read, SpanId, SpanTarget, Spans, Tracer,
};

use conventions::Kind;
use formats::Hop;
use lanes::Lane;
use otlp::Ids;
use span::Exported;
use templates::{Key, Templates};

pub use conventions::{ATTRIBUTES, ProtocolConventions, SpanStatus, System};
pub use export::{Collector, Counts, Encoding, ExportTls, Exporter, Headers, Settings};
pub use formats::{ContextFormat, Formats, SofaKeys, Spelling, begun, exercise};

/// The longest value of a note, in bytes: clients choose what stands there.
const LONGEST: usize = 512;

/// How exchanges are traced.
pub struct Traces {
    /// Whoever brings spans away.
    pub exporter: Arc<Exporter>,
    /// The formats of contexts.
    pub formats: Arc<Formats>,
    /// How each protocol is traced.
    pub protocols: Arc<HashMap<&'static str, ProtocolConventions>>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces")
            .field("exporter", &self.exporter)
            .finish_non_exhaustive()
    }
}

impl Tracer for Traces {
    fn spans(&self, worker: usize, called: &Called<'_>) -> Arc<dyn Spans> {
        const UNKNOWN: ProtocolConventions = ProtocolConventions {
            system: System::Connection,
            spelling: Spelling {
                skywalking: "",
                sofatracer: None,
            },
            status: |_, _| None,
        };
        let protocol = self.protocols.get(called.protocol).unwrap_or(&UNKNOWN);
        Arc::new(SpansOf {
            kind: Kind::new(protocol, called),
            number: self.exporter.lanes().number(),
            lane: self.exporter.lanes().lane(called.listener, worker),
            resource: self.exporter.settings().identity(),
            exporter: self.exporter.clone(),
            formats: self.formats.clone(),
        })
    }
}

/// The spans of one kind of call, for one worker.
struct SpansOf {
    kind: Kind,
    /// The kind's number.
    number: u64,
    lane: Arc<Lane>,
    /// Our service, and our process.
    resource: (String, String),
    exporter: Arc<Exporter>,
    formats: Arc<Formats>,
}

impl Spans for SpansOf {
    fn names(&self) -> Names {
        self.formats.names(&self.kind.spelling)
    }

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
        let (service, instance) = &self.resource;
        let hop = Hop {
            service,
            instance,
            operation: &self.kind.name,
        };
        self.formats
            .write(&self.kind.spelling, context, &hop, attributes)
    }

    fn finish(&self, finished: &Finished<'_>) {
        let write = |templates: &mut Templates, out: &mut Vec<u8>| {
            self.put_server(finished, templates, out);
            self.put_clients(finished, templates, out);
        };
        self.exporter.take(&self.lane, finished, write);
    }
}

impl SpansOf {
    fn ids(&self, finished: &Finished<'_>) -> Ids {
        let lanes = self.exporter.lanes();
        Ids {
            trace: finished.trace,
            id: finished.span,
            parent: finished.parent,
            began: lanes.nanoseconds(finished.began),
            ended: lanes.nanoseconds(finished.ended),
        }
    }

    fn key<'a>(&self, finished: &Finished<'a>, parent: SpanId) -> Key<'a> {
        let record = finished.record;
        Key {
            kind: self.number,
            client: false,
            ending: record.ending,
            status: record.status,
            sampled: finished.sampled,
            has_parent: parent.0 != 0,
            peer: Some(SocketAddr::new(record.about.source(), 0)),
            name: record.about.route(),
        }
    }

    /// The span of the exchange.
    fn put_server(&self, finished: &Finished<'_>, templates: &mut Templates, out: &mut Vec<u8>) {
        let write = |out: &mut Vec<u8>| {
            let own = Exported::new(&self.kind, finished);
            let at = |moment| self.exporter.lanes().nanoseconds(moment);
            otlp::span(out, &conventions::server(&own, at));
        };
        if finished.notes.is_empty() {
            let key = self.key(finished, finished.parent);
            templates.put(&key, &self.ids(finished), out, write);
        } else {
            write(out);
        }
    }

    /// The spans of its attempts.
    fn put_clients(&self, finished: &Finished<'_>, templates: &mut Templates, out: &mut Vec<u8>) {
        for (number, attempt) in finished.attempts().enumerate() {
            let at = |moment| self.exporter.lanes().nanoseconds(moment);
            let write = |out: &mut Vec<u8>| {
                let own = Exported::new(&self.kind, finished);
                otlp::span(out, &conventions::client(&own, attempt, number, at));
            };
            let is_ordinary = number == 0 && attempt.error.is_none() && finished.notes.is_empty();
            match &attempt.target {
                SpanTarget::Endpoint(endpoint, cluster) if is_ordinary => {
                    let key = Key {
                        client: true,
                        peer: Some(*endpoint),
                        name: cluster,
                        ..self.key(finished, finished.span)
                    };
                    let ids = Ids {
                        id: attempt.span,
                        parent: finished.span,
                        began: at(attempt.began),
                        ended: at(attempt.ended),
                        ..self.ids(finished)
                    };
                    templates.put(&key, &ids, out, write);
                }
                SpanTarget::Endpoint(..) | SpanTarget::Destination(..) => write(out),
            }
        }
    }
}
