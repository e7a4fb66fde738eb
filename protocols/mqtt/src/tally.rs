//! Session metrics: records of messages by the first level of their topic, and packets that
//! are answered with the time that took.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use finback_core::clock::Now;
use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::record::{Ending, Ends, Record, Series};
use finback_core::rejection::Rejection;
use finback_core::text;

use crate::NAME;
use crate::codec::Properties;
use crate::propagation::{DELIVERY, MESSAGE, Spans, Tracing, reading};

/// The service of what is not about a topic.
const SESSION_SERVICE: &str = "(session)";
/// First levels of topics that one worker tells apart.
const MAX_PREFIXES: usize = 128;
/// The longest of them; longer ones are cut off.
const MAX_PREFIX: usize = 64;
/// The first levels beyond that.
const OTHER: &str = "(other)";
/// The first level where only an alias stands.
const ALIAS: &str = "(alias)";
/// Series that a session has at hand.
const AT_HAND: usize = 4;
/// As much of a topic, or a client identifier, as a span says.
const MAX_TOPIC: usize = 256;
/// Packets that wait for an answer and are timed; those beyond are recorded when they are sent.
const MAX_TIMED: usize = 256;

/// Methods of records.
pub(crate) mod method {
    pub(crate) const PUBLISH: [&str; 3] = ["publish.qos0", "publish.qos1", "publish.qos2"];
    pub(crate) const DELIVER: [&str; 3] = ["deliver.qos0", "deliver.qos1", "deliver.qos2"];
    pub(crate) const SUBSCRIBE: &str = "subscribe";
    pub(crate) const UNSUBSCRIBE: &str = "unsubscribe";
    pub(crate) const PING: &str = "ping";
    pub(crate) const SESSION: &str = "session";
    /// A message that was left out where it was to go besides its broker.
    pub(crate) const MIRROR: &str = "mirror";
}

/// What a packet is about.
#[derive(Clone, Copy)]
pub(crate) enum About<'a> {
    /// The session.
    Session,
    /// A topic, which its sender chose.
    Topic(&'a str),
}

pub(crate) const SESSION: About<'static> = About::Session;

impl<'a> From<&'a str> for About<'a> {
    fn from(topic: &'a str) -> Self {
        Self::Topic(topic)
    }
}

/// First levels that were seen in this worker.
#[derive(Default)]
struct Prefixes(RefCell<HashSet<Box<str>>>);

struct Known {
    method: &'static str,
    prefix: Box<str>,
    series: Arc<dyn Series>,
}

/// What waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A client's message.
    Publish(u16),
    /// A broker's message.
    Deliver(u16),
    /// A client's other packet.
    Packet(u16),
    /// A client's ping.
    Ping,
}

impl Asked {
    /// Whether it is for the broker to answer.
    fn is_brokers(self) -> bool {
        !matches!(self, Self::Deliver(_))
    }
}

struct Timed {
    asked: Asked,
    since: Now,
    bytes: u64,
    known: Rc<Known>,
    spans: Spans,
}

/// What one session's records are made of.
pub(crate) struct Tally {
    caller: Rc<Caller>,
    ends: Ends,
    known: Vec<Rc<Known>>,
    timed: Vec<Timed>,
    /// Those of them that the broker is to answer.
    owed: usize,
    began: Now,
    tracing: Tracing,
    /// Bytes that the client sent, and that it was sent.
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// The same between two workers.
pub(crate) struct Parted {
    ends: Ends,
    timed: Vec<PartedTimed>,
    began: Now,
    tracing: Tracing,
    up: u64,
    down: u64,
}

struct PartedTimed {
    asked: Asked,
    since: Now,
    bytes: u64,
    method: &'static str,
    prefix: Box<str>,
    spans: Spans,
}

impl Tally {
    /// Leaves its worker.
    pub(crate) fn part(self) -> Parted {
        let timed = self.timed.into_iter().map(|own| PartedTimed {
            asked: own.asked,
            since: own.since,
            bytes: own.bytes,
            method: own.known.method,
            prefix: own.known.prefix.clone(),
            spans: own.spans,
        });
        Parted {
            ends: self.ends,
            timed: timed.collect(),
            began: self.began,
            tracing: self.tracing,
            up: self.up,
            down: self.down,
        }
    }

    /// Goes on in the worker of this caller.
    pub(crate) fn resume(caller: Rc<Caller>, parted: Parted) -> Self {
        let mut tally = Self {
            ends: parted.ends,
            began: parted.began,
            up: parted.up,
            down: parted.down,
            ..Self::new(caller, None, parted.tracing)
        };
        for own in parted.timed {
            let service = tally.allowed(&own.prefix);
            let series = tally.caller.series(NAME, service, own.method);
            tally.owed += usize::from(own.asked.is_brokers());
            tally.timed.push(Timed {
                asked: own.asked,
                since: own.since,
                bytes: own.bytes,
                known: Rc::new(Known {
                    method: own.method,
                    prefix: own.prefix,
                    series,
                }),
                spans: own.spans,
            });
        }
        tally
    }

    pub(crate) fn new(caller: Rc<Caller>, endpoint: Option<SocketAddr>, tracing: Tracing) -> Self {
        let began = caller.worker().now();
        Self {
            ends: Ends {
                source: caller.peer().ip(),
                endpoint,
            },
            caller,
            known: Vec::new(),
            timed: Vec::new(),
            owed: 0,
            began,
            tracing,
            up: 0,
            down: 0,
        }
    }

    fn known(&mut self, method: &'static str, about: About<'_>) -> &Rc<Known> {
        // Mostly a message comes in and goes out, and both are known.
        if let About::Topic(topic) = about
            && let Some(at) = self.known.iter().position(|known| {
                std::ptr::eq(known.method, method) && begins(topic, &known.prefix)
            })
        {
            // The first two stay where they are: they would change places with each message.
            if at < 2 {
                return &self.known[at];
            }
            self.known.swap(at, at - 1);
            return &self.known[at - 1];
        }
        let prefix = match about {
            About::Session => SESSION_SERVICE,
            About::Topic(topic) => first_level(topic),
        };
        // Both are compared, the pointer of the method first.
        let found = self
            .known
            .iter()
            .position(|known| std::ptr::eq(known.method, method) && *known.prefix == *prefix);
        let at = match found {
            Some(0) => 0,
            Some(at) => {
                self.known.swap(at, at - 1);
                at - 1
            }
            None => {
                if self.known.len() >= AT_HAND {
                    self.known.pop();
                }
                let service = self.allowed(prefix);
                let series = self.caller.series(NAME, service, method);
                self.known.push(Rc::new(Known {
                    method,
                    prefix: prefix.into(),
                    series,
                }));
                self.known.len() - 1
            }
        };
        &self.known[at]
    }

    fn allowed<'a>(&self, prefix: &'a str) -> &'a str {
        // Ours: no topic's first level begins so.
        if prefix.starts_with('(') {
            return prefix;
        }
        let prefixes = self.caller.worker().state::<Prefixes>();
        let mut prefixes = prefixes.0.borrow_mut();
        if prefixes.contains(prefix) {
            return prefix;
        }
        if prefixes.len() >= MAX_PREFIXES {
            return OTHER;
        }
        prefixes.insert(prefix.into());
        prefix
    }

    fn record<'a>(&self, ends: &'a Ends, ending: Ending, since: Now, bytes: u64) -> Record<'a> {
        Record {
            micros: self.caller.worker().now().micros_since(since),
            attempts: 1,
            request_bytes: bytes,
            ..Record::new(ending, ends)
        }
    }

    /// The spans of a client's message that has this topic, if it leaves any.
    pub(crate) fn trace(&self, properties: Properties<'_>, topic: &str, client: &str) -> Spans {
        self.trace_message(MESSAGE, properties, topic, client)
    }

    /// Whether any message may leave spans.
    pub(crate) fn is_traced(&self) -> bool {
        self.caller.worker().is_tracing()
    }

    /// The same of a broker's message to this client.
    pub(crate) fn trace_delivery(
        &self,
        properties: Properties<'_>,
        topic: &str,
        client: &str,
    ) -> Spans {
        self.trace_message(DELIVERY, properties, topic, client)
    }

    fn trace_message(
        &self,
        which: (&str, &'static str),
        properties: Properties<'_>,
        topic: &str,
        client: &str,
    ) -> Spans {
        let choice = self.tracing.choice.as_ref();
        let mut reading = reading(properties);
        let mut traced = self.caller.trace(NAME, which, choice, &mut reading)?;
        let topic = text::cut(topic, MAX_TOPIC);
        traced.note("messaging.destination.name", topic);
        if !client.is_empty() {
            traced.note("messaging.client.id", text::cut(client, MAX_TOPIC));
        }
        Some(Box::new(traced))
    }

    fn write_down(&self, spans: Spans, record: &Record<'_>) {
        if let Some(spans) = spans {
            let now = self.caller.worker().now();
            spans.finish(record, now, self.tracing.target.clone());
        }
    }

    /// Something was passed on that is not answered, or answered by us.
    pub(crate) fn sent<'a>(
        &mut self,
        method: &'static str,
        about: impl Into<About<'a>>,
        bytes: usize,
        ending: Ending,
    ) {
        self.message_sent(method, about, bytes, ending, None);
    }

    /// The same of a message.
    pub(crate) fn message_sent<'a>(
        &mut self,
        method: &'static str,
        about: impl Into<About<'a>>,
        bytes: usize,
        ending: Ending,
        spans: Spans,
    ) {
        let now = self.caller.worker().now();
        let ends = self.ends;
        let record = self.record(&ends, ending, now, bytes as u64);
        self.known(method, about.into()).series.record(&record);
        self.write_down(spans, &record);
    }

    /// Something was passed on that will be answered.
    pub(crate) fn asked<'a>(
        &mut self,
        asked: Asked,
        method: &'static str,
        about: impl Into<About<'a>>,
        bytes: usize,
    ) {
        self.message_asked(asked, method, about, bytes, None);
    }

    /// The same of a message.
    pub(crate) fn message_asked<'a>(
        &mut self,
        asked: Asked,
        method: &'static str,
        about: impl Into<About<'a>>,
        bytes: usize,
        spans: Spans,
    ) {
        let about = about.into();
        if self.timed.len() >= MAX_TIMED {
            self.message_sent(method, about, bytes, Ending::Sent, spans);
            return;
        }
        let known = self.known(method, about).clone();
        let timed = Timed {
            asked,
            since: self.caller.worker().now(),
            bytes: bytes as u64,
            known,
            spans,
        };
        // Sent again, it is still one.
        match self.timed.iter_mut().find(|timed| timed.asked == asked) {
            Some(former) => former.bytes = timed.bytes,
            None => {
                self.owed += usize::from(asked.is_brokers());
                self.timed.push(timed);
            }
        }
    }

    /// Whether the broker owes an answer.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed > 0
    }

    /// An answer has come.
    pub(crate) fn answered(&mut self, asked: Asked, well: bool) {
        let Some(at) = self.timed.iter().position(|timed| timed.asked == asked) else {
            return;
        };
        let timed = self.timed.swap_remove(at);
        self.owed -= usize::from(asked.is_brokers());
        if self.timed.is_empty() && self.timed.capacity() > 16 {
            self.timed = Vec::new();
        }
        let outcome = if well {
            Outcome::Success
        } else {
            Outcome::Failed
        };
        let ending = Ending::Answered(outcome);
        self.settle(timed, ending);
    }

    fn settle(&self, timed: Timed, ending: Ending) {
        let record = self.record(&self.ends, ending, timed.since, timed.bytes);
        timed.known.series.record(&record);
        self.write_down(timed.spans, &record);
    }

    /// The session is over.
    pub(crate) fn ended(&mut self, ending: Ending) {
        for timed in std::mem::take(&mut self.timed) {
            let lost = Ending::Rejected(Rejection::ConnectionLost);
            self.settle(timed, lost);
        }
        let series = self.caller.series(NAME, SESSION_SERVICE, method::SESSION);
        let mut record = self.record(&self.ends, ending, self.began, self.up);
        record.response_bytes = self.down;
        series.record(&record);
    }
}

/// The first level of a topic, which is what metrics tell topics apart by. Topics may be as long as
/// MQTT allows: only so much of one becomes a name, and none of ours.
fn first_level(topic: &str) -> &str {
    if topic.is_empty() {
        return ALIAS;
    }
    let level = topic.split('/').next().unwrap_or_default();
    match level.as_bytes().first() {
        // "/a" has an empty first level.
        None => "/",
        // As names of our own begin.
        Some(b'(') => OTHER,
        Some(_) => text::cut(level, MAX_PREFIX),
    }
}

/// Whether this is the topic's first level; false where it takes more than a look to tell.
fn begins(topic: &str, level: &str) -> bool {
    let rest = topic.as_bytes().strip_prefix(level.as_bytes());
    // Names of ours are no topic's.
    rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..])) && !level.starts_with('(')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_look_never_says_otherwise() {
        let names = [
            "plant",
            "plants",
            "/",
            "",
            "(alias)",
            "(other)",
            "(session)",
            "p",
        ];
        let long = "l".repeat(MAX_PREFIX);
        let names = names.iter().copied().chain([&*long]);
        // No level is empty.
        for level in names.clone().filter(|level| !level.is_empty()) {
            for name in names.clone() {
                for end in ["", "/", "/a", "l", "//"] {
                    let topic = format!("{name}{end}");
                    let says = begins(&topic, level);
                    assert!(!says || first_level(&topic) == level, "{topic} {level}");
                }
            }
        }
        assert!(begins("plant/a", "plant") && begins("plant", "plant"));
    }

    #[test]
    fn a_topic_is_known_by_its_first_level() {
        let long = "l".repeat(65_535);
        for (topic, level) in [
            ("plant/line/1", "plant"),
            ("plant", "plant"),
            ("/plant", "/"),
            ("", ALIAS),
            ("(session)", OTHER),
            ("(alias)/x", OTHER),
            ("(whatever", OTHER),
            (&long, &long[..MAX_PREFIX]),
            (&format!("{}\u{e9}/x", &long[..63]), &long[..63]),
        ] {
            assert_eq!(first_level(topic), level, "{topic}");
        }
    }
}
