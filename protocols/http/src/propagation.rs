//! Propagation: the context of a trace in a request's head, as one attempt after the other carries it.

use finback_core::trace::Field;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What the client wrote where attempts write their own context.
#[derive(Default)]
pub(crate) struct Before(Vec<(HeaderName, Vec<HeaderValue>)>);

impl Before {
    /// Writes an attempt's context in place of the client's. Attempts that carry none change nothing.
    pub(crate) fn replace(&mut self, headers: &mut HeaderMap, context: &[Field]) {
        for (name, value) in context {
            // Names and values are made by us; what is none of HTTP's is left out.
            let name = HeaderName::from_bytes(name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
                continue;
            };
            let came = headers.get_all(&name).iter().cloned().collect();
            self.0.push((name.clone(), came));
            match value.is_empty() {
                // A filter took it away.
                true => headers.remove(name),
                false => headers.insert(name, value),
            };
        }
    }

    /// Gives the head back what the client wrote, so that the next attempt begins with that.
    pub(crate) fn restore(&mut self, headers: &mut HeaderMap) {
        for (name, came) in self.0.drain(..) {
            headers.remove(&name);
            for value in came {
                headers.append(name.clone(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_begins_with_what_the_client_wrote() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", HeaderValue::from_static("came"));
        headers.append("sofarpcid", HeaderValue::from_static("0.1"));
        headers.append("sofarpcid", HeaderValue::from_static("0.2"));
        let written = headers.clone();
        let mut before = Before::default();
        let context = ["traceparent", "sofaRpcId", "b3", "no name"];
        before.replace(
            &mut headers,
            &context.map(|name| (name.into(), "ours".to_owned())),
        );
        for name in ["traceparent", "sofarpcid", "b3"] {
            assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), ["ours"]);
        }
        before.restore(&mut headers);
        assert_eq!(headers, written);
        before.restore(&mut headers);
        assert_eq!(headers, written);
    }
}
