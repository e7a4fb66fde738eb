//! Access log format: which fields of an exchange a line has, as JSON or by a template.

use std::str::FromStr;
use std::sync::Arc;

/// How a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// An object with all fields that say something.
    Json,
    /// A text with the values of fields in it.
    Text(Arc<[Piece]>),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Words that stand in every line.
    Words(Box<str>),
    /// The value of a field.
    LogField(LogField),
}

/// The template of `format: text`.
pub const TEXT: &str = "{time} {listener} {source} {protocol} {service} {method} {outcome} {status} {duration_ms} \
{request_bytes} {response_bytes} {attempts} {route} {cluster} {endpoint} {trace_id}";

/// What a line can say of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogField {
    /// When it ended.
    Time,
    /// The listener's name.
    Listener,
    /// The protocol.
    Protocol,
    /// Who called.
    Source,
    /// The service.
    Service,
    /// The method.
    Method,
    /// The service's version.
    Version,
    /// The service's group.
    Group,
    /// The route.
    Route,
    /// The filter that refused it, or that it waited for to its end.
    Filter,
    /// The lane that it was put into.
    Lane,
    /// The cluster.
    Cluster,
    /// The last endpoint.
    Endpoint,
    /// How it ended.
    Outcome,
    /// The same in the protocol's own terms.
    Status,
    /// How long it took.
    Duration,
    /// How often it was tried.
    Attempts,
    /// Bytes of the request.
    RequestBytes,
    /// Bytes of the answer.
    ResponseBytes,
    /// The trace that it is part of.
    TraceId,
}

/// All fields by their names, in the order in which JSON has them, with what they mean: as the guide says it.
pub const FIELDS: [(&str, LogField, &str); 20] = [
    (
        "time",
        LogField::Time,
        "when it ended, in UTC, with microseconds (RFC 3339)",
    ),
    ("listener", LogField::Listener, "the listener's name"),
    ("protocol", LogField::Protocol, "what was spoken"),
    ("source", LogField::Source, "the client's address"),
    (
        "service",
        LogField::Service,
        "the service, as the caller wrote it; of HTTP the host",
    ),
    (
        "method",
        LogField::Method,
        "the method, as the caller wrote it",
    ),
    ("version", LogField::Version, "the service's version"),
    ("group", LogField::Group, "the service's group"),
    ("route", LogField::Route, "the route that it took"),
    (
        "filter",
        LogField::Filter,
        "the filter that refused it, or that it waited for to its end",
    ),
    ("lane", LogField::Lane, "the lane that a filter put it into"),
    (
        "cluster",
        LogField::Cluster,
        "the cluster of the last endpoint that was tried",
    ),
    (
        "endpoint",
        LogField::Endpoint,
        "the address of the last endpoint that was tried",
    ),
    (
        "outcome",
        LogField::Outcome,
        "how it ended: one of the outcomes of `finback_requests_total`",
    ),
    (
        "status",
        LogField::Status,
        "the same in the protocol's own terms, as the caller was told: a number of HTTP, a name of the others",
    ),
    (
        "duration_ms",
        LogField::Duration,
        "from the request's arrival to its answer's departure, in milliseconds with three decimals",
    ),
    (
        "attempts",
        LogField::Attempts,
        "how often it was sent to an endpoint",
    ),
    (
        "request_bytes",
        LogField::RequestBytes,
        "bytes of the request",
    ),
    (
        "response_bytes",
        LogField::ResponseBytes,
        "bytes of the answer",
    ),
    (
        "trace_id",
        LogField::TraceId,
        "the trace that it is part of, where calls are traced: of calls that are written down there, or whose callers named one",
    ),
];

impl FromStr for AccessLogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => template(TEXT),
            _ if text.contains('{') => template(text),
            _ => Err(format!(
                "`{text}` is not a format; write json, text, or a template such as \"{{time}} {{service}} {{outcome}}\""
            )),
        }
    }
}

fn template(text: &str) -> Result<AccessLogFormat, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((words, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("`{{{after}` has no end; write `}}` after the field's name"))?;
        let field = FIELDS.iter().find(|(own, _, _)| *own == name);
        let Some((_, field, _)) = field else {
            let names: Vec<&str> = FIELDS.iter().map(|(own, _, _)| *own).collect();
            return Err(format!(
                "no field is called `{name}`; write one of: {}",
                names.join(", ")
            ));
        };
        if !words.is_empty() {
            pieces.push(Piece::Words(words.into()));
        }
        pieces.push(Piece::LogField(*field));
        rest = after;
    }
    if text.chars().any(char::is_control) {
        return Err("a line is one line; take line ends and tabs out of the template".to_owned());
    }
    if !rest.is_empty() {
        pieces.push(Piece::Words(rest.into()));
    }
    Ok(AccessLogFormat::Text(pieces.into()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn templates_that_cannot_be_are_refused_with_words() {
        for (text, wanted) in [
            ("yaml", "is not a format; write json, text, or a template"),
            (
                "{tim}",
                "no field is called `tim`; write one of: time, listener,",
            ),
            ("{time", "has no end"),
            ("{time}\n{source}", "a line is one line"),
        ] {
            let why = text.parse::<AccessLogFormat>().unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }
}
