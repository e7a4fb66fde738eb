//! The spans of one exchange: decided when it opens, written down when it ends.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Now;
use crate::frame::Names;
use crate::record::Record;
use crate::rng::Rng;
use crate::route::Route;
use crate::trace::{
    Attempted, Called, Choice, Field, Finished, Incoming, Note, Outgoing, Read, SpanId, SpanTarget,
    Spans, Tails, TraceId,
};

use super::local::LocalMesh;

/// How exchanges of one resolved call are traced.
pub(crate) struct Tracing {
    spans: Arc<dyn Spans>,
    /// The names that contexts come in.
    names: Names,
    choice: Choice,
    salt: u64,
    chance: Rc<RefCell<Rng>>,
    /// Some exchange may be a tail.
    pub(crate) has_tails: bool,
}

impl Tracing {
    /// As configured now; `routes` are those that the resolved call's exchanges may take.
    pub(crate) fn of(
        local: &LocalMesh,
        called: &Called<'_>,
        routes: &[Arc<Route>],
    ) -> Option<Self> {
        let tracing = local.mesh().tracing.load();
        tracing.as_ref().map(|own| {
            let spans = own.tracer.spans(local.index(), called);
            let choices = routes.iter().filter_map(|route| route.tracing.as_ref());
            let mut choices = choices.chain([&own.choice]);
            Self {
                names: spans.names(),
                spans,
                choice: own.choice,
                salt: own.salt,
                chance: local.shared_rng(),
                has_tails: choices.any(|choice| choice.tails.is_any()),
            }
        })
    }

    /// What is written down, where a route may have its own say.
    pub(crate) fn choice<'a>(&'a self, route: Option<&'a Choice>) -> &'a Choice {
        route.unwrap_or(&self.choice)
    }

    fn random(&self) -> u64 {
        self.chance.borrow_mut().next()
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
    /// Which of them is under way, or was the last.
    current: u16,
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
    destination: Option<SpanTarget>,
}

impl Traced {
    /// Decides about an exchange that opens now; `None` if it leaves no span unless it turns out to be a tail:
    /// then it is [`late`](Self::late) that makes them. Nothing is read of a request that has none of the names
    /// that contexts come in, and nothing is kept of one that is not sampled and came without.
    pub(crate) fn open(
        resolved: &Tracing,
        now: Now,
        route: Option<&Choice>,
        names: Names,
        attributes: Read<'_, '_>,
    ) -> Option<Self> {
        let choice = resolved.choice(route);
        if choice.is_nothing() {
            return None;
        }
        let incoming = match resolved.names.may_share(names) {
            true => resolved.spans.read(&mut *attributes),
            false => Incoming::default(),
        };
        // Who decides by the trace looks at the lower half of its name alone.
        let low = resolved.random();
        let comes = incoming.trace.is_some();
        let trace = if comes { incoming.trace } else { named(0, low) };
        let sampled = choice.sampling.takes(&incoming, trace);
        if !sampled && !comes {
            return None;
        }
        let mut own = Self::new(resolved, choice, now);
        own.trace = if comes {
            trace
        } else {
            named(resolved.random() ^ resolved.salt, low)
        };
        own.parent = incoming.span;
        own.sampled = sampled;
        if sampled {
            let notes = resolved.spans.notes(attributes);
            own.more = (!notes.is_empty()).then(|| {
                Box::new(More {
                    notes,
                    ..More::default()
                })
            });
        }
        Some(own)
    }

    /// The same of something that is no exchange of core's, so that nobody asks for late spans.
    pub(crate) fn open_apart(
        local: &LocalMesh,
        resolved: &Tracing,
        route: Option<&Choice>,
        attributes: Read<'_, '_>,
    ) -> Option<Self> {
        let now = local.now();
        let is_tail = || {
            let tails = &resolved.choice(route).tails;
            tails.is_any().then(|| Self::late(resolved, route, now))
        };
        Self::open(resolved, now, route, Names::ANY, attributes).or_else(is_tail)
    }

    /// Of an exchange that began then, and was left out when it opened.
    #[cold]
    pub(crate) fn late(resolved: &Tracing, route: Option<&Choice>, began: Now) -> Self {
        let mut own = Self::new(resolved, resolved.choice(route), began);
        own.trace = named(resolved.random() ^ resolved.salt, resolved.random());
        own
    }

    fn new(resolved: &Tracing, choice: &Choice, now: Now) -> Self {
        Self {
            spans: resolved.spans.clone(),
            trace: TraceId::default(),
            parent: SpanId::default(),
            // Zero is no name.
            span: resolved.random().max(1),
            sampled: false,
            tails: choice.tails,
            began: now,
            attempt_began: now,
            attempts: 0,
            current: 0,
            more: None,
        }
    }

    /// So many attempts were made, of which the last began then.
    pub(crate) fn catch_up(&mut self, attempts: u16, began: Now) {
        self.attempts = attempts;
        self.current = attempts;
        self.attempt_began = began;
    }

    /// Its trace, whether or not anything is written down of it.
    pub(super) fn id(&self) -> TraceId {
        self.trace
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
        let destination = SpanTarget::Destination(system, destination.into());
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
        self.current = self.attempts;
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

    /// What it is about goes on to somebody who is no endpoint of ours and answers nothing: how that carries
    /// its context. Who gets it is a child of the exchange itself.
    pub fn pass_on(&self, attributes: Read<'_, '_>) -> Option<Propagated> {
        let context = Outgoing {
            trace: self.trace,
            span: SpanId(self.span),
            parent: self.parent,
            attempt: 1,
            endpoint: None,
        };
        let written = || self.spans.write(&context, attributes).into();
        self.sampled.then(written)
    }

    fn attempt_span(&self) -> SpanId {
        let step = STEP.wrapping_mul(u64::from(self.current));
        SpanId(self.span.wrapping_add(step).max(1))
    }

    /// The attempt under way has failed, and another one follows.
    pub(crate) fn failed(&mut self, now: Now, target: SpanTarget, error: &'static str) {
        let attempted = self.attempted(now, target, Some(error));
        self.more.get_or_insert_default().earlier.push(attempted);
    }

    /// One of two attempts is over, the other goes on: that of this number, which began then.
    #[cold]
    pub(crate) fn over(
        &mut self,
        (number, began): (u16, Now),
        ended: Now,
        target: SpanTarget,
        error: &'static str,
    ) {
        let current = (self.current, self.attempt_began);
        (self.current, self.attempt_began) = (number, began);
        self.failed(ended, target, error);
        (self.current, self.attempt_began) = current;
    }

    /// It is this attempt that is waited for.
    pub(crate) fn goes_on_with(&mut self, number: u16, began: Now) {
        (self.current, self.attempt_began) = (number, began);
    }

    fn attempted(&self, ended: Now, target: SpanTarget, error: Option<&'static str>) -> Attempted {
        Attempted {
            span: self.attempt_span(),
            began: self.attempt_began,
            ended,
            target,
            error,
        }
    }

    /// Writes it down if it is to be. `last` is whom its last attempt asked, if there was any.
    pub fn finish(mut self, record: &Record<'_>, now: Now, last: Option<SpanTarget>) {
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
        self.spans.finish(&Finished {
            record,
            trace: self.trace,
            parent: self.parent,
            span: SpanId(self.span),
            sampled: self.sampled,
            began: self.began,
            ended: now,
            notes,
            earlier,
            last,
        });
    }
}

/// A name for a trace, of two halves.
fn named(high: u64, low: u64) -> TraceId {
    let id = u128::from(high) << 64 | u128::from(low);
    TraceId(id.max(1).to_be_bytes())
}
