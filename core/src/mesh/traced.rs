//! The spans of one exchange: decided when it opens, written down when it ends.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::Now;
use crate::record::Record;
use crate::trace::{
    Attempted, Called, Choice, Field, Finished, Note, Outgoing, Read, SpanId, Spans, Tails, Target,
    TraceId,
};

use super::Mesh;
use super::local::LocalMesh;

/// How exchanges of one site are traced.
pub(crate) struct Tracing {
    spans: Arc<dyn Spans>,
    choice: Choice,
    salt: u64,
}

impl Tracing {
    pub(crate) fn of(mesh: &Mesh, called: &Called<'_>) -> Option<Self> {
        let tracing = mesh.tracing.load();
        tracing.as_ref().map(|own| Self {
            spans: own.tracer.spans(called),
            choice: own.choice,
            salt: own.salt,
        })
    }
}

/// The names and values by which an attempt carries its context.
pub type Propagated = Box<[Field]>;

/// What tells spans of one exchange apart: an odd number, so that no two of few are the same.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// An exchange that is written down, or may be when it has ended. It has one allocation of its own;
/// exchanges that leave no span have none, and are no longer for it.
pub struct Traced {
    spans: Arc<dyn Spans>,
    trace: TraceId,
    /// The span that called it.
    parent: SpanId,
    /// Its own. Those of its attempts are made of it.
    span: u64,
    sampled: bool,
    tails: Tails,
    began: Now,
    /// When the attempt under way began.
    attempt_began: Now,
    attempts: u16,
    /// What most have nothing of.
    more: Option<Box<More>>,
}

/// What is known of an exchange beside its ids and times.
#[derive(Default)]
struct More {
    /// What was noted of it; nothing unless it is sampled.
    notes: Vec<Note>,
    /// Attempts that failed and were followed by another.
    earlier: Vec<Attempted>,
    /// Where the last attempt goes, if that is no endpoint.
    destination: Option<Target>,
}

impl Traced {
    /// Decides about an exchange that opens now; `None` if it leaves no span whatever comes of it.
    pub(crate) fn open(
        local: &LocalMesh,
        site: &Tracing,
        route: Option<&Choice>,
        attributes: Read<'_, '_>,
    ) -> Option<Self> {
        let choice = route.unwrap_or(&site.choice);
        if choice.is_nothing() {
            return None;
        }
        let incoming = site.spans.read(&mut *attributes);
        let trace = if incoming.trace.is_some() {
            incoming.trace
        } else {
            fresh(local.random() ^ site.salt, local.random())
        };
        let sampled = choice.sampling.takes(&incoming, trace);
        if !sampled && !choice.tails.is_any() {
            return None;
        }
        let notes = if sampled {
            site.spans.notes(attributes)
        } else {
            Vec::new()
        };
        Some(Self {
            spans: site.spans.clone(),
            trace,
            parent: incoming.span,
            // Zero is no name.
            span: local.random().max(1),
            sampled,
            tails: choice.tails,
            began: local.now(),
            attempt_began: local.now(),
            attempts: 0,
            more: (!notes.is_empty()).then(|| {
                Box::new(More {
                    notes,
                    ..More::default()
                })
            }),
        })
    }

    /// Its trace, for those who point at it: if it is written down, or its caller named it.
    pub(crate) fn trace(&self, record: &Record<'_>) -> TraceId {
        if self.parent.0 != 0 || self.is_written(record) {
            self.trace
        } else {
            TraceId::default()
        }
    }

    fn is_written(&self, record: &Record<'_>) -> bool {
        self.sampled || self.tails.keeps(record)
    }

    /// Notes something more of it.
    pub fn note(&mut self, name: &'static str, value: &str) {
        if self.sampled {
            let note = (name.into(), value.into());
            self.more.get_or_insert_default().notes.push(note);
        }
    }

    /// A message goes somewhere that is no endpoint of ours: how it carries its context.
    pub fn send(
        &mut self,
        now: Now,
        system: &'static str,
        destination: &str,
        attributes: Read<'_, '_>,
    ) -> Option<Propagated> {
        let destination = Target::Destination(system, destination.into());
        self.more.get_or_insert_default().destination = Some(destination);
        self.attempt(now, None, attributes)
    }

    /// An attempt begins, at this endpoint if it is one: how it carries its context. One that is not
    /// sampled carries what came.
    pub fn attempt(
        &mut self,
        now: Now,
        endpoint: Option<SocketAddr>,
        attributes: Read<'_, '_>,
    ) -> Option<Propagated> {
        self.attempts = self.attempts.saturating_add(1);
        self.attempt_began = now;
        if !self.sampled {
            return None;
        }
        let context = Outgoing {
            trace: self.trace,
            span: self.attempt_span(),
            parent: SpanId(self.span),
            attempt: self.attempts,
            endpoint,
        };
        Some(self.spans.write(&context, attributes).into())
    }

    fn attempt_span(&self) -> SpanId {
        let step = STEP.wrapping_mul(u64::from(self.attempts));
        SpanId(self.span.wrapping_add(step).max(1))
    }

    /// The attempt under way has failed, and another one follows.
    pub(crate) fn failed(&mut self, now: Now, target: Target, error: &'static str) {
        let attempted = self.attempted(now, target, Some(error));
        self.more.get_or_insert_default().earlier.push(attempted);
    }

    fn attempted(&self, ended: Now, target: Target, error: Option<&'static str>) -> Attempted {
        Attempted {
            span: self.attempt_span(),
            began: self.attempt_began,
            ended,
            target,
            error,
        }
    }

    /// Writes it down if it is to be. `last` is whom its last attempt asked, if there was any.
    pub fn finish(mut self, record: &Record<'_>, now: Now, last: Option<Target>) {
        if !self.is_written(record) {
            return;
        }
        let More {
            notes,
            earlier,
            destination,
        } = self.more.take().map(|more| *more).unwrap_or_default();
        let last = destination.or(last);
        let last = last.filter(|_| usize::from(self.attempts) > earlier.len());
        let last = last.map(|target| self.attempted(now, target, None));
        let mut attempts = earlier;
        attempts.extend(last);
        self.spans.finish(Finished {
            record,
            trace: self.trace,
            parent: self.parent,
            span: SpanId(self.span),
            sampled: self.sampled,
            began: self.began,
            ended: now,
            notes,
            attempts,
        });
    }
}

/// A name for a trace that begins here.
fn fresh(high: u64, low: u64) -> TraceId {
    let id = u128::from(high) << 64 | u128::from(low);
    TraceId(id.max(1).to_be_bytes())
}
