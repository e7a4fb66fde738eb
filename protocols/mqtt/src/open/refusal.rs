//! Refusals: what a client is told whose session does not begin, and what the log and the metrics are told.

use bytes::Bytes;
use finback_core::driver::{Caller, DrivenExchange};
use finback_core::frame::{Answer, Outcome};
use finback_core::log_limit::LogLimit;
use finback_core::record::{Ending, Ends, Record};
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;

use crate::NAME;
use crate::channel::Channel;
use crate::codec::{Fault, Level, write};
use crate::entry::farewell;
use crate::reason::Reason;

/// The service of records by what CONNACK said.
const CONNACKS: &str = "(connack)";

/// Why there is no session.
pub(crate) enum Refused {
    /// The mesh says so.
    Here {
        reason: Reason,
        /// What the client is told: nothing of what stands behind us.
        why: &'static str,
        /// What the log is told besides.
        detail: String,
    },
    /// The client's bytes are malformed.
    Malformed(Fault),
    /// The broker said so.
    There { reason: Reason, connack: Bytes },
    /// There is nobody to be told.
    Gone,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Malformed(fault)
    }
}

/// Refused by a rule of our own.
pub(crate) fn here(reason: Reason, why: &'static str) -> Refused {
    let detail = String::new();
    Refused::Here {
        reason,
        why,
        detail,
    }
}

/// Refused by a rejection, which is recorded. What it explains names endpoints and routes: that is for
/// the log, not for strangers.
pub(crate) fn reject(exchange: &mut DrivenExchange, rejection: Rejection) -> Refused {
    exchange.rejected(rejection);
    let reason = Reason::of(rejection);
    exchange.set_status(reason.status());
    Refused::Here {
        reason,
        why: told(rejection),
        detail: exchange.explain_in_full(rejection),
    }
}

/// What a client may know of a rejection.
fn told(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::NoRoute => "no route is for this session",
        Rejection::Denied => "this session is not allowed",
        Rejection::Unauthenticated => "this client does not prove who it is",
        Rejection::NoService | Rejection::NoEndpoint => "there is no broker for this session",
        Rejection::ConnectFailed | Rejection::ConnectionLost => "the broker cannot be reached",
        Rejection::DeadlineExceeded => "the broker does not answer",
        Rejection::Overloaded => "there are too many sessions",
        Rejection::Limited => "too many sessions begin",
        Rejection::BadRequest => "the packet cannot be read",
        Rejection::TooLarge => "the packet is longer than the limit",
        Rejection::Draining => "the server is shutting down",
    }
}

/// Tells a client of this version, which takes packets of so many bytes, that it has no session.
pub(super) async fn answer(
    caller: &Caller,
    client: &mut Channel,
    (level, takes): (Option<Level>, usize),
    refused: Refused,
) {
    let (reason, why, detail) = match refused {
        Refused::Here {
            reason,
            why,
            detail,
        } => (reason, why, detail),
        Refused::Malformed(Fault { reason, why }) => {
            caller.count_malformed();
            (reason, why, String::new())
        }
        Refused::There { reason, connack } => {
            count(caller, reason);
            return farewell(caller, client, &connack).await;
        }
        Refused::Gone => return,
    };
    log(caller, reason, why, &detail);
    count(caller, reason);
    client.set_close(reason.as_close());
    let last =
        level.map(|level| shortened(takes, |why| write::connack(level, reason, why, None), why));
    farewell(caller, client, &last.unwrap_or_default()).await;
}

/// A packet with its reason in words, or without where it would be longer than its receiver takes
/// (MQTT 5, sections 3.2.2.3.9, 3.14.2.2.3); nothing if it is even then.
pub(crate) fn shortened(
    takes: usize,
    written: impl Fn(&'static str) -> Vec<u8>,
    why: &'static str,
) -> Vec<u8> {
    [why, ""]
        .into_iter()
        .map(written)
        .find(|packet| packet.len() <= takes)
        .unwrap_or_default()
}

fn log(caller: &Caller, reason: Reason, why: &str, detail: &str) {
    static REFUSED: LogLimit = LogLimit::usual();
    caller.worker().read_clock();
    if let Some(left_out) = REFUSED.admit(caller.worker().now()) {
        let why = Escaped(if detail.is_empty() { why } else { detail });
        let (source, reason) = (caller.peer(), reason.name());
        tracing::info!(%source, reason, %why, left_out, "session refused");
    }
}

/// Tells a client whose CONNECT is longer than the limit (MQTT 5, section 3.2.2.2: 0x95); older versions have
/// no word for that.
pub(crate) async fn too_long(caller: &Caller, client: &mut Channel, level: Option<Level>) {
    let fault = Fault::new(Reason::TOO_LARGE, "CONNECT is longer than the limit");
    let level = level.filter(|level| level.is_5());
    answer(caller, client, (level, usize::MAX), fault.into()).await;
}

/// One more CONNACK of this reason.
pub(crate) fn count(caller: &Caller, reason: Reason) {
    let ending = Ending::Answered(outcome(reason));
    let series = caller.series(NAME, CONNACKS, reason.name());
    let ends = Ends {
        source: caller.peer().ip(),
        endpoint: None,
    };
    series.record(&Record {
        status: reason.status(),
        ..Record::new(ending, &ends)
    });
}

/// How a CONNACK of this reason ends the call for a session.
pub(crate) fn answer_of(reason: Reason) -> Answer {
    Answer {
        outcome: outcome(reason),
        status: reason.status(),
    }
}

/// What a CONNACK of this reason tells of its broker.
pub(crate) fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::SUCCESS => Outcome::Success,
        Reason::SERVER_UNAVAILABLE
        | Reason::SERVER_BUSY
        | Reason::USE_ANOTHER
        | Reason::MOVED
        | Reason::CONNECTION_RATE
        | Reason::SHUTTING_DOWN => Outcome::Refused,
        // The rest is between client and broker.
        _ => Outcome::Exception,
    }
}
