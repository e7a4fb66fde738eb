//! Semantic conventions: what spans and their attributes are called, as OpenTelemetry has settled it.
//!
//! Those of RPC and HTTP are stable; those of messaging are not yet, and are written as they stand in
//! version 1.45. What has no name there begins with `finback.`.

mod attributes;

use std::borrow::Cow;
use std::sync::Arc;

use finback_core::clock::Now;
use finback_core::frame::{Outcome, Status};
use finback_core::record::Ending;
use finback_core::trace::{Attempted, Called, SpanTarget};

pub use attributes::ATTRIBUTES;

use super::formats::Spelling;
use super::span::{Attribute, Exported, Num, Role, Span, Value};

/// Notes of a request that are attributes by themselves: where they are read, and what they are called.
const HTTP_NOTES: [(&str, &str); 4] = [
    (":version", "network.protocol.version"),
    (":path", "url.path"),
    (":scheme", "url.scheme"),
    ("user-agent", "user_agent.original"),
];

/// What a protocol's calls are, in the words of the conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Remote procedure calls of this system.
    Rpc {
        /// `rpc.system.name`.
        name: &'static str,
        /// The statuses that are a server's fault. Where there are none, outcomes tell.
        server_faults: &'static [&'static str],
    },
    /// HTTP.
    Http,
    /// Messages of this system.
    Messaging {
        /// `messaging.system`.
        name: &'static str,
    },
    /// Connections.
    Connection,
}

/// How a protocol is traced.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolConventions {
    /// What its calls are.
    pub system: System,
    /// How it spells the keys of contexts.
    pub spelling: Spelling,
    /// What it calls a status.
    pub status: SpanStatus,
}

/// What a protocol calls a status, if it has one.
pub type SpanStatus = fn(&str, Status) -> Option<Cow<'static, str>>;

/// What spans of one kind of call have in common.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) system: System,
    pub(super) spelling: Spelling,
    pub(super) status: SpanStatus,
    pub(super) protocol: &'static str,
    listener: Arc<str>,
    service: Box<str>,
    method: Box<str>,
    version: Box<str>,
    group: Box<str>,
    /// The spans' name.
    pub(super) name: String,
    /// `rpc.method`.
    qualified: String,
}

/// A message is on its way to somebody who keeps it.
const SEND: &str = "send";
/// The same, as MQTT calls it.
const PUBLISH: &str = "publish";

impl Kind {
    pub(super) fn new(protocol: &ProtocolConventions, called: &Called<'_>) -> Self {
        let Called {
            service, method, ..
        } = *called;
        let qualified = match method {
            "" => service.to_owned(),
            _ => format!("{service}/{method}"),
        };
        let name = match protocol.system {
            System::Rpc { .. } => qualified.clone(),
            System::Http => method_of_http(method).unwrap_or("HTTP").to_owned(),
            System::Messaging { .. } => method.to_owned(),
            System::Connection => called.protocol.to_owned(),
        };
        Self {
            system: protocol.system,
            spelling: protocol.spelling,
            status: protocol.status,
            protocol: called.protocol,
            listener: called.listener.clone(),
            service: service.into(),
            method: method.into(),
            version: called.version.into(),
            group: called.group.into(),
            name,
            qualified,
        }
    }

    /// What is read of a request to become an attribute, with the attribute's name.
    pub(super) fn noted(&self) -> &'static [(&'static str, &'static str)] {
        match self.system {
            System::Http => &HTTP_NOTES,
            System::Rpc { .. } | System::Messaging { .. } | System::Connection => &[],
        }
    }

    /// Whether it is about single messages.
    fn is_message(&self) -> bool {
        matches!(self.system, System::Messaging { .. }) && &*self.method == PUBLISH
    }

    /// What the spans of an exchange and of its attempts say alike.
    fn common<'a>(&'a self, out: &mut Vec<Attribute<'a>>) {
        match self.system {
            System::Rpc { name, .. } => {
                put(out, "rpc.system.name", name);
                put(out, "rpc.method", &*self.qualified);
            }
            System::Http => {
                let method = method_of_http(&self.method).unwrap_or("_OTHER");
                put(out, "http.request.method", method);
            }
            System::Messaging { name } => {
                put(out, "messaging.system", name);
                put(out, "messaging.operation.name", &*self.method);
                if self.is_message() {
                    put(out, "messaging.operation.type", SEND);
                }
            }
            System::Connection => put(out, "network.protocol.name", self.protocol),
        }
    }
}

fn method_of_http(method: &str) -> Option<&str> {
    Some(method).filter(|own| !own.starts_with('('))
}

fn put<'a>(out: &mut Vec<Attribute<'a>>, name: &'a str, value: impl Into<Value<'a>>) {
    out.push((Cow::Borrowed(name), value.into()));
}

/// Whether text says something; `put` nothing else.
fn put_some<'a>(out: &mut Vec<Attribute<'a>>, name: &'a str, value: &'a str) {
    if !value.is_empty() {
        put(out, name, value);
    }
}

// === The spans of one exchange ===

/// Makes the span of an exchange that is over; `at` gives the time of day of its moments.
pub(super) fn server<'a>(own: &'a Exported<'_>, at: impl Fn(Now) -> u64) -> Span<'a> {
    let error = server_error(own);
    let finished = own.finished;
    Span {
        trace: finished.trace,
        id: finished.span,
        parent: finished.parent,
        name: Cow::Borrowed(&own.kind.name),
        role: Role::Server,
        began: at(finished.began),
        ended: at(finished.ended),
        attributes: server_attributes(own, error.as_deref()),
        error,
        sampled: finished.sampled,
    }
}

/// Makes the span of an attempt of it; `number` counts them from 0.
pub(super) fn client<'a>(
    own: &'a Exported<'_>,
    attempt: &'a Attempted,
    number: usize,
    at: impl Fn(Now) -> u64,
) -> Span<'a> {
    let error = match attempt.error {
        Some(error) => Some(Cow::Borrowed(error)),
        None => client_error(own),
    };
    let (name, role) = match &attempt.target {
        SpanTarget::Destination(_, destination) => {
            (format!("{SEND} {destination}").into(), Role::Producer)
        }
        SpanTarget::Endpoint(..) if own.kind.is_message() => {
            (Cow::Borrowed(&*own.kind.name), Role::Producer)
        }
        SpanTarget::Endpoint(..) => (Cow::Borrowed(&*own.kind.name), Role::Client),
    };
    Span {
        trace: own.finished.trace,
        id: attempt.span,
        parent: own.finished.span,
        name,
        role,
        began: at(attempt.began),
        ended: at(attempt.ended),
        attributes: client_attributes(own, attempt, number, error.as_deref()),
        error,
        sampled: own.finished.sampled,
    }
}

/// The note of this name.
fn noted<'a>(own: &'a Exported<'_>, name: &str) -> Option<&'a str> {
    let mut notes = own.finished.notes.iter();
    notes
        .find(|(key, _)| key == name)
        .map(|(_, value)| &**value)
}

fn server_attributes<'a>(own: &'a Exported<'_>, error: Option<&str>) -> Vec<Attribute<'a>> {
    let kind = own.kind;
    let mut out = Vec::with_capacity(20);
    kind.common(&mut out);
    put_status(&mut out, own);
    put(
        &mut out,
        "client.address",
        own.finished.record.about.source().to_string(),
    );
    if kind.system == System::Http {
        put_some(&mut out, "server.address", &kind.service);
    }
    put_some(&mut out, "finback.version", &kind.version);
    put_some(&mut out, "finback.group", &kind.group);
    put(&mut out, "finback.listener", &*kind.listener);
    put_some(&mut out, "finback.route", own.finished.record.about.route());
    put_some(
        &mut out,
        "finback.filter",
        own.finished.record.about.filter(),
    );
    put_some(&mut out, "finback.lane", own.finished.record.about.lane());
    put(&mut out, "finback.outcome", own.ending.name());
    if !own.finished.sampled {
        put(&mut out, "finback.kept", "tail");
    }
    for (name, value) in &own.finished.notes {
        put(&mut out, name, &**value);
    }
    if let Some(error) = error {
        put(&mut out, "error.type", error.to_owned());
    }
    out
}

fn client_attributes<'a>(
    own: &'a Exported<'_>,
    attempt: &'a Attempted,
    number: usize,
    error: Option<&str>,
) -> Vec<Attribute<'a>> {
    let kind = own.kind;
    let mut out = Vec::with_capacity(12);
    match &attempt.target {
        SpanTarget::Destination(system, destination) => {
            put(&mut out, "messaging.system", *system);
            put(&mut out, "messaging.operation.name", SEND);
            put(&mut out, "messaging.operation.type", SEND);
            put(&mut out, "messaging.destination.name", &**destination);
        }
        SpanTarget::Endpoint(endpoint, cluster) => {
            kind.common(&mut out);
            if attempt.error.is_none() && matches!(own.ending, Ending::Answered(_)) {
                put_status(&mut out, own);
            }
            put(&mut out, "network.peer.address", endpoint.ip().to_string());
            put(&mut out, "network.peer.port", Num(endpoint.port()));
            put(&mut out, "finback.cluster", &**cluster);
            if kind.system == System::Http {
                put_http(&mut out, own, number);
            } else {
                put(&mut out, "server.address", &**cluster);
            }
            if let Some(topic) = noted(own, "messaging.destination.name") {
                put(&mut out, "messaging.destination.name", topic);
            }
        }
    }
    if let Some(error) = error {
        put(&mut out, "error.type", error.to_owned());
    }
    out
}

/// What an attempt of HTTP's says of where it went.
fn put_http<'a>(out: &mut Vec<Attribute<'a>>, own: &'a Exported<'_>, number: usize) {
    let host = &*own.kind.service;
    put_some(out, "server.address", host);
    if number > 0 {
        let repetition = i64::try_from(number).unwrap_or(i64::MAX);
        put(out, "http.request.resend_count", Num(repetition));
    }
    if let Some(path) = noted(own, "url.path") {
        let scheme = noted(own, "url.scheme").unwrap_or("http");
        put(out, "url.full", format!("{scheme}://{host}{path}"));
    }
}

fn put_status<'a>(out: &mut Vec<Attribute<'a>>, own: &'a Exported<'_>) {
    let Some(status) = &own.status else {
        return;
    };
    match own.kind.system {
        System::Rpc { .. } => put(out, "rpc.status_code", &**status),
        System::Http => {
            if let Ok(code) = status.parse::<i64>() {
                put(out, "http.response.status_code", Num(code));
            }
        }
        System::Messaging { .. } | System::Connection => {}
    }
}

/// What is wrong with the span of an exchange, seen from its caller.
fn server_error<'a>(own: &'a Exported<'_>) -> Option<Cow<'a, str>> {
    let status = own.status.as_deref().map(Cow::Borrowed);
    let by_name = || own.ending.is_failure().then(|| own.ending.name().into());
    let Some(status) = status.filter(|_| matches!(own.ending, Ending::Answered(_))) else {
        return by_name();
    };
    let is_fault = match own.kind.system {
        System::Rpc { server_faults, .. } if !server_faults.is_empty() => {
            server_faults.contains(&&*status)
        }
        //= OpenTelemetry, HTTP spans, Status: 4xx is no error of a server's
        System::Http => status.starts_with('5'),
        System::Rpc { .. } | System::Messaging { .. } | System::Connection => {
            own.ending.is_failure()
        }
    };
    is_fault.then_some(status)
}

/// What is wrong with the span of the last attempt: to who asked, everything that did not go well.
fn client_error<'a>(own: &'a Exported<'_>) -> Option<Cow<'a, str>> {
    let outcome = match own.ending {
        Ending::Answered(outcome) => outcome,
        Ending::Sent => return None,
        Ending::Rejected(_) | Ending::Abandoned => return Some(own.ending.name().into()),
    };
    let is_error = match (&own.status, own.kind.system) {
        (Some(status), System::Http) => status.starts_with(['4', '5']),
        //= OpenTelemetry, RPC spans of Dubbo and gRPC: every status but OK
        (Some(status), System::Rpc { .. }) => !matches!(&**status, "OK" | "SUCCESS"),
        (Some(_) | None, _) => !matches!(outcome, Outcome::Success | Outcome::Exception),
    };
    let name = own.status.as_deref().unwrap_or(own.ending.name());
    is_error.then_some(Cow::Borrowed(name))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
