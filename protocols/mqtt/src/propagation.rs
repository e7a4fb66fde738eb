//! Propagation: the context of a trace in a message's user properties (W3C Trace Context: MQTT, section 3.1).
//! MQTT before 5 has no place for it: a trace begins, or ends, with such a client.

use std::borrow::Cow;

use finback_core::mesh::Traced;
use finback_core::trace::{Choice, Field, SpanTarget};

use crate::codec::Properties;
use crate::codec::properties::{Value, Writer};

/// The service and the method of messages in traces.
pub(crate) const MESSAGE: (&str, &str) = ("(message)", "publish");
/// The same of those that come from a broker.
pub(crate) const DELIVERY: (&str, &str) = ("(message)", "deliver");

/// How messages of one session are traced.
pub(crate) struct Tracing {
    /// What the session's route says of it.
    pub(crate) choice: Option<Choice>,
    /// Whom they go to, if that is a broker.
    pub(crate) target: Option<SpanTarget>,
}

/// The spans of one message.
pub(crate) type Spans = Option<Box<Traced>>;

/// How a context is read from a message.
pub(crate) fn reading<'a>(properties: Properties<'a>) -> impl FnMut(&str) -> Option<Cow<'a, str>> {
    move |name| properties.user(name).map(Cow::Borrowed)
}

/// A packet's properties with user properties in place of those of the same names that came. An empty value takes one
/// away; names that begin with a colon are no user property's.
pub(crate) fn propagate(properties: Properties<'_>, context: &[Field]) -> Vec<u8> {
    let mut writer = Writer::default();
    for (_, value, piece) in properties.pieces() {
        let is_replaced = match value {
            Value::Pair(name, _) => context.iter().any(|(own, _)| own == name),
            _ => false,
        };
        if !is_replaced {
            writer.raw(piece);
        }
    }
    let is_own = |(name, value): &&Field| !value.is_empty() && !name.starts_with(':');
    for (name, value) in context.iter().filter(is_own) {
        writer.user(name, value);
    }
    writer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::properties::id;

    #[test]
    fn a_context_takes_the_place_of_the_one_that_came() {
        let mut came = Writer::default();
        came.user("traceparent", "came");
        came.text(id::CONTENT_TYPE, "text/plain");
        came.user("own", "kept");
        came.user("secret", "one");
        came.user("secret", "two");
        let context = [
            ("traceparent".into(), "ours".to_owned()),
            ("secret".into(), String::new()),
            (":username".into(), "nobody".to_owned()),
        ];
        let written = propagate(Properties::of(&came), &context);
        let mut expected = Writer::default();
        expected.text(id::CONTENT_TYPE, "text/plain");
        expected.user("own", "kept");
        expected.user("traceparent", "ours");
        assert_eq!(written, expected.into_bytes());
    }
}
