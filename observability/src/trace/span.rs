//! Spans as they are exported: of an exchange, and of each of its attempts.

use std::borrow::Cow;

use finback_core::record::Ending;
use finback_core::trace::{Finished, SpanId, TraceId};

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

/// An exchange that is written down, as its spans are made of it.
pub(super) struct Exported<'a> {
    pub(super) kind: &'a Kind,
    pub(super) finished: &'a Finished<'a>,
    pub(super) ending: Ending,
    /// The status, by its protocol's name for it.
    pub(super) status: Option<Cow<'static, str>>,
}

impl<'a> Exported<'a> {
    pub(super) fn new(kind: &'a Kind, finished: &'a Finished<'a>) -> Self {
        let record = finished.record;
        Self {
            kind,
            finished,
            ending: record.ending,
            status: (kind.status)(kind.protocol, record.status),
        }
    }
}
