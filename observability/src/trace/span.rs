//! Spans as they are exported: of an exchange, and of each of its attempts.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use finback_core::clock::Now;
use finback_core::record::Ending;
use finback_core::trace::{Attempted, Finished, Note, SpanId, TraceId};

use super::conventions::Kind;

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<T: Into<i64>> From<Num<T>> for Value<'_> {
    fn from(Num(number): Num<T>) -> Self {
        Self::Number(number.into())
    }
}

/// A number that becomes a value.
pub(super) struct Num<T>(pub(super) T);

/// An attribute's name and value.
pub(super) type Attribute<'a> = (Cow<'a, str>, Value<'a>);

/// Whose work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody asked us.
    Server,
    /// We asked somebody.
    Client,
    /// We sent somebody a message.
    Producer,
}

/// One span.
#[derive(Clone, Debug)]
pub(super) struct Span<'a> {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: SpanId,
    pub(super) name: Cow<'a, str>,
    pub(super) role: Role,
    /// In nanoseconds since 1970.
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) attributes: Vec<Attribute<'a>>,
    /// What went wrong, if it did.
    pub(super) error: Option<Cow<'a, str>>,
    pub(super) sampled: bool,
}

/// An exchange on its way to the exporter.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) kind: Arc<Kind>,
    pub(super) ending: Ending,
    /// The status, by its protocol's name for it.
    pub(super) status: Option<Cow<'static, str>>,
    pub(super) source: IpAddr,
    pub(super) trace: TraceId,
    pub(super) parent: SpanId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
    pub(super) began: Now,
    pub(super) ended: Now,
    pub(super) route: Box<str>,
    pub(super) notes: Vec<Note>,
    pub(super) attempts: Vec<Attempted>,
}

impl Exported {
    pub(super) fn new(kind: &Arc<Kind>, finished: Finished<'_>) -> Box<Self> {
        let record = finished.record;
        Box::new(Self {
            kind: kind.clone(),
            ending: record.ending,
            status: (kind.status)(kind.protocol, record.status),
            source: record.source,
            trace: finished.trace,
            parent: finished.parent,
            span: finished.span,
            sampled: finished.sampled,
            began: finished.began,
            ended: finished.ended,
            route: record.route.into(),
            notes: finished.notes,
            attempts: finished.attempts,
        })
    }

    /// How many spans it is.
    pub(super) fn spans(&self) -> usize {
        1 + self.attempts.len()
    }
}
