//! Traces: which exchanges leave spans, and the port of whoever writes spans down.
//!
//! An exchange is one span, and each of its attempts is a child of that. Whether they are written down is
//! decided once, when the exchange opens ([`Sampling`]); one that was left out is written down all the same
//! if it turns out slow or failed ([`Tails`]). How a context is spelt in headers, and where spans go, is a
//! [`Tracer`]'s business.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::frame::Names;
use crate::record::Record;

pub use crate::record::TraceId;

/// How a call's attributes (headers, attachments, user properties) are read.
pub type Read<'a, 'b> = &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>;

/// The name of a span within its trace. Zero is no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanId(pub u64);

/// The context that a request came with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Its trace, if it is part of one.
    pub trace: TraceId,
    /// The span that it is a child of.
    pub span: SpanId,
    /// What its caller decided; `None` if that is left to us.
    pub sampled: Option<bool>,
}

/// The context that an attempt goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The trace.
    pub trace: TraceId,
    /// The attempt's span.
    pub span: SpanId,
    /// The exchange's.
    pub parent: SpanId,
    /// The attempt's number, from 1.
    pub attempt: u16,
    /// The endpoint that is asked, if it is one.
    pub endpoint: Option<SocketAddr>,
}

/// A share of all traces, in parts of 2^56.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u64);

impl Ratio {
    /// All of them.
    pub const ALL: Self = Self(1 << 56);
    /// None.
    pub const NONE: Self = Self(0);

    /// This share, from 0 to 1; `None` for other numbers.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number between 0 and 2^56"
        )]
        let parts = (share * Self::ALL.0 as f64) as u64;
        (0.0..=1.0).contains(&share).then_some(Self(parts))
    }

    /// Whether a trace belongs to this share. Whoever asks the same of the same trace is told the same, and
    /// a larger share holds all that a smaller one does (OpenTelemetry, consistent probability sampling).
    #[must_use]
    pub fn holds(self, trace: TraceId) -> bool {
        // The last seven bytes are random, and the same for all who see the trace.
        let [.., a, b, c, d, e, f, g] = trace.0;
        let chance = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        chance >= Self::ALL.0 - self.0
    }
}

/// Which exchanges are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// This share of traces, whatever their callers decided.
    Ratio(Ratio),
    /// Those that their callers chose; of traces that begin here, this share.
    ParentBased(Ratio),
}

impl Sampling {
    /// Whether an exchange is written down that is part of `trace` and came with this context.
    #[must_use]
    pub fn takes(self, incoming: &Incoming, trace: TraceId) -> bool {
        match self {
            Self::Ratio(ratio) => ratio.holds(trace),
            Self::ParentBased(ratio) => incoming.sampled.unwrap_or_else(|| ratio.holds(trace)),
        }
    }

    /// Whether it never takes any, whatever they come with.
    fn takes_none(self) -> bool {
        self == Self::Ratio(Ratio::NONE)
    }
}

/// Which exchanges are written down although they were left out at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tails {
    /// Those that took longer.
    pub slower_than: Option<Duration>,
    /// Those that failed, the caller's own faults aside.
    pub failed: bool,
}

impl Tails {
    /// Whether an exchange is one of them.
    #[must_use]
    pub fn keeps(&self, record: &Record<'_>) -> bool {
        self.slower_than.is_some_and(|most| record.took() > most)
            || self.failed && record.ending.is_failure()
    }

    /// Whether any exchange may be one.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.slower_than.is_some() || self.failed
    }
}

/// What is written down of exchanges. A route may have its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// When they open.
    pub sampling: Sampling,
    /// When they have ended.
    pub tails: Tails,
}

impl Choice {
    /// Whether nothing is ever written down.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.sampling.takes_none() && !self.tails.is_any()
    }
}

/// Tracing as configured.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Whoever writes spans down.
    pub tracer: Arc<dyn Tracer>,
    /// What is written down unless a route says otherwise.
    pub choice: Choice,
    /// What names of traces are mixed with, so that no two processes ever give the same.
    pub salt: u64,
}

/// What all exchanges of one kind have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called<'a> {
    /// The protocol's name.
    pub protocol: &'static str,
    /// The listener's name.
    pub listener: &'a Arc<str>,
    /// The service.
    pub service: &'a str,
    /// The method, or "".
    pub method: &'a str,
    /// The service's version, or "".
    pub version: &'a str,
    /// The service's group, or "".
    pub group: &'a str,
}

/// Something noted of a call beside its names: a span's attribute.
pub type Note = (Cow<'static, str>, Box<str>);

/// A name and a value by which a request carries a context: a header, an attachment, a property.
pub type Field = (Cow<'static, str>, String);

/// One attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Its span.
    pub span: SpanId,
    /// When it began.
    pub began: Now,
    /// When it ended.
    pub ended: Now,
    /// Who was asked.
    pub target: SpanTarget,
    /// Why it failed, in a word; `None` for the last one, which ended as its exchange did.
    pub error: Option<&'static str>,
}

/// Whom an attempt asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanTarget {
    /// An endpoint, with its cluster's name.
    Endpoint(SocketAddr, Arc<str>),
    /// Something that takes messages, and is no endpoint of ours: what it is, and where in it they go.
    Destination(&'static str, Box<str>),
}

/// An exchange that is over and to be written down.
#[derive(Debug)]
pub struct Finished<'a> {
    /// How it went.
    pub record: &'a Record<'a>,
    /// Its trace.
    pub trace: TraceId,
    /// The span that called it, if any.
    pub parent: SpanId,
    /// Its own span.
    pub span: SpanId,
    /// False of a kept tail: nothing was noted of it, and its endpoint was told nothing.
    pub sampled: bool,
    /// When it began.
    pub began: Now,
    /// When it ended.
    pub ended: Now,
    /// What was noted when it opened.
    pub notes: Vec<Note>,
    /// Attempts that were followed by another, in order.
    pub earlier: Vec<Attempted>,
    /// The last one, if there was any.
    pub last: Option<Attempted>,
}

impl Finished<'_> {
    /// Its attempts, in order.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempted> {
        self.earlier.iter().chain(&self.last)
    }

    /// How many spans it is.
    #[must_use]
    pub fn spans(&self) -> usize {
        1 + self.earlier.len() + usize::from(self.last.is_some())
    }
}

/// Whoever writes spans down.
pub trait Tracer: fmt::Debug + Send + Sync + 'static {
    /// The place for spans of one kind of call as seen by one worker. Asked once per kind and worker, from the
    /// worker's own thread, then kept there.
    fn spans(&self, worker: usize, called: &Called<'_>) -> Arc<dyn Spans>;
}

/// The spans of one kind of call. On workers: no lock that anybody holds for long, and nothing that waits.
pub trait Spans: Send + Sync + 'static {
    /// The names of attributes that contexts come in: a request that has none of them has no context.
    fn names(&self) -> Names;

    /// The context that a request came with.
    fn read(&self, attributes: Read<'_, '_>) -> Incoming;

    /// What is worth noting of a request that is written down.
    fn notes(&self, attributes: Read<'_, '_>) -> Vec<Note>;

    /// The names and values by which an attempt carries its context; `attributes` are the request's own.
    fn write(&self, context: &Outgoing, attributes: Read<'_, '_>) -> Vec<Field>;

    /// Takes an exchange that is over.
    fn finish(&self, finished: &Finished<'_>);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(chance: u64) -> TraceId {
        TraceId(u128::from(chance).to_be_bytes())
    }

    #[test]
    fn a_larger_share_holds_what_a_smaller_one_does() {
        let most = (1 << 56) - 1;
        let half = Ratio::new(0.5);
        assert_eq!(half.map(|own| own.holds(trace(most / 2 + 1))), Some(true));
        assert_eq!(half.map(|own| own.holds(trace(most / 2))), Some(false));
        // What stands before the seven random bytes does not matter.
        assert_eq!(half.map(|own| own.holds(trace(0xff << 56))), Some(false));
        for chance in [0, 1, most / 2, most] {
            assert!(Ratio::ALL.holds(trace(chance)));
            assert!(!Ratio::NONE.holds(trace(chance)));
        }
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(wrong), None);
        }
        assert_eq!(Ratio::new(1.0), Some(Ratio::ALL));
        assert_eq!(Ratio::new(0.0), Some(Ratio::NONE));
    }

    #[test]
    fn callers_decide_only_where_they_are_asked() {
        let came = |sampled| Incoming {
            trace: trace(7),
            span: SpanId(1),
            sampled,
        };
        let table = [
            // sampling, what the caller decided, taken
            (Sampling::Ratio(Ratio::ALL), Some(false), true),
            (Sampling::Ratio(Ratio::NONE), Some(true), false),
            (Sampling::ParentBased(Ratio::NONE), Some(true), true),
            (Sampling::ParentBased(Ratio::ALL), Some(false), false),
            (Sampling::ParentBased(Ratio::ALL), None, true),
            (Sampling::ParentBased(Ratio::NONE), None, false),
        ];
        for (sampling, sampled, taken) in table {
            let incoming = came(sampled);
            assert_eq!(
                sampling.takes(&incoming, incoming.trace),
                taken,
                "{sampling:?} {sampled:?}"
            );
        }
    }
}
