//! The table of verdicts and repeats: whose fault an ending is, and whether the call may run again.
//!
//! It is the same for every protocol. Drivers say how an attempt ended ([`AttemptEnd`]); what follows is
//! decided here and nowhere else. The rows are printed in docs/configuration.md, and a test
//! compares them.

use crate::frame::Outcome;

/// How one attempt ended, as its driver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The endpoint answered.
    Answered(Outcome),
    /// No connection could be made. The failed dial itself counts against the endpoint, once,
    /// however many calls waited for it.
    ConnectFailed,
    /// A connection was made, but no TLS could be spoken on it. It counts like one that was not made.
    TlsFailed,
    /// Nothing was sent: the connections there are take no more, or were given up before.
    Unsent,
    /// The endpoint said that it did not process the request, and will not: GOAWAY with a last stream id that is lower than its own,
    /// REFUSED_STREAM (RFC 9113, sections 6.8 and 8.7).
    NotProcessed,
    /// We lack a descriptor, a port or a buffer, or did not run in time.
    OwnFailure,
    /// The connection broke after the request was sent and before any of its answer.
    Lost {
        /// It had carried other requests before, one at a time: the endpoint may have closed it for
        /// being idle at the very moment.
        reused: bool,
    },
    /// The connection broke, or fell silent, within the answer.
    Truncated,
    /// The answer cannot be read.
    Unreadable,
    /// The answer is longer than we pass on.
    TooLarge,
    /// No answer within the time of the attempt.
    TimedOut {
        /// Who set that time.
        whose: DeadlineOwner,
        /// Whether the request was sent at all.
        sent: bool,
    },
    /// A session was asked for, and the endpoint neither granted nor refused it in its time: it has
    /// taken the connection and is silent. Nothing was granted, so it may be asked for elsewhere.
    Unopened {
        /// Whether that tells anything of the endpoint: we did run, and it answered nobody else
        /// meanwhile. One that lets a caller wait that cannot log in is healthy.
        telling: bool,
    },
    /// The caller broke off its own request, sent it too slowly, or made it unreadable halfway.
    RequestBroken,
    /// The caller is gone.
    Abandoned,
    /// We are stopping.
    Draining,
}

impl AttemptEnd {
    /// The ending's name in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered(Outcome::Success) => "success",
            Self::Answered(Outcome::Exception) => "exception",
            Self::Answered(Outcome::Invalid) => "invalid",
            Self::Answered(Outcome::Failed) => "failed",
            Self::Answered(Outcome::Refused) => "refused",
            Self::Answered(Outcome::TimedOut) => "timed_out",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::Unsent => "unsent",
            Self::NotProcessed => "not_processed",
            Self::OwnFailure => "own_failure",
            Self::Lost { .. } => "connection_lost",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::TimedOut { .. } | Self::Unopened { .. } => "deadline_exceeded",
            Self::RequestBroken => "request_broken",
            Self::Abandoned => "abandoned",
            Self::Draining => "draining",
        }
    }
}

/// Who set the time that an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineOwner {
    /// The route, or `limits.call_timeout` where neither route nor caller says anything.
    Route,
    /// The caller, and long enough that a sound endpoint would have answered.
    Caller,
    /// The caller, too short to tell anything of the endpoint: shorter than a connection may take to
    /// be made (`connect_timeout`), or the endpoint answered others meanwhile.
    TooShort,
    /// It passed while we did not run: after a pause of the machine, say.
    OurStall,
}

/// What an attempt tells about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint did what was asked.
    Good,
    /// The endpoint answered, which tells that it is there, and nothing else.
    Alive,
    /// The endpoint failed the call.
    Bad,
    /// No answer in a time that its caller set and that is too short to blame anybody: while others
    /// answer they are asked first, and whoever is being tried after an ejection has not passed.
    Silent,
    /// Nothing: the attempt was given up for other reasons.
    Neutral,
}

/// How often a call goes on from an endpoint that has not processed it before that counts as an attempt.
pub(super) const MOVES: u16 = 8;

/// Whether the call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Not at all.
    Never,
    /// It may have run: only where the route says `idempotent`, and at the cost of retry budget.
    IfIdempotent,
    /// As before, and also, once, where the request is idempotent by its own method
    /// (RFC 9110, section 9.2.2): a retry of a failed retry is the route's to allow.
    IfSafe,
    /// It did not run: on at once, whatever the method, free of budget.
    Free,
    /// As before; and the attempt is not counted, up to `MOVES` times: endpoints that renew their
    /// connections all the time lose nothing. A route with one attempt has one delivery, though.
    Uncounted,
}

/// One row of the table, for one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What it tells about the endpoint.
    pub verdict: Verdict,
    /// Whether the call may be sent again.
    pub repeat: Repeat,
}

const fn row(verdict: Verdict, repeat: Repeat) -> Ruling {
    Ruling { verdict, repeat }
}

/// The table. `retries_refused` is the route's `retry.refused`.
#[must_use]
pub const fn rule(end: AttemptEnd, retries_refused: bool) -> Ruling {
    use Repeat::{Free, IfIdempotent, IfSafe, Never, Uncounted};
    use Verdict::{Alive, Bad, Good, Neutral, Silent};
    match end {
        AttemptEnd::Answered(Outcome::Success | Outcome::Exception) => row(Good, Never),
        AttemptEnd::Answered(Outcome::Invalid | Outcome::TimedOut) => row(Alive, Never),
        AttemptEnd::Answered(Outcome::Failed) => row(Bad, IfIdempotent),
        AttemptEnd::Answered(Outcome::Refused) if retries_refused => row(Alive, Free),
        AttemptEnd::Answered(Outcome::Refused) => row(Bad, IfIdempotent),
        AttemptEnd::ConnectFailed
        | AttemptEnd::TlsFailed
        | AttemptEnd::Unsent
        | AttemptEnd::OwnFailure
        | AttemptEnd::TimedOut { sent: false, .. } => row(Neutral, Free),
        AttemptEnd::NotProcessed => row(Neutral, Uncounted),
        AttemptEnd::Lost { reused: true } => row(Neutral, IfSafe),
        AttemptEnd::Lost { reused: false } => row(Bad, IfSafe),
        AttemptEnd::Truncated => row(Bad, Never),
        AttemptEnd::Unreadable => row(Bad, IfIdempotent),
        AttemptEnd::TooLarge => row(Alive, Never),
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::Route | DeadlineOwner::Caller,
            ..
        } => row(Bad, IfIdempotent),
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::TooShort,
            ..
        } => row(Silent, IfIdempotent),
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::OurStall,
            ..
        } => row(Neutral, IfIdempotent),
        AttemptEnd::Unopened { telling: true } => row(Bad, Free),
        AttemptEnd::Unopened { telling: false } => row(Neutral, Free),
        AttemptEnd::RequestBroken | AttemptEnd::Abandoned | AttemptEnd::Draining => {
            row(Neutral, Never)
        }
    }
}

impl AttemptEnd {
    /// The guide's words for it.
    #[must_use]
    pub fn words(self) -> &'static str {
        let row = ROWS.iter().find(|(_, end, _)| *end == self);
        row.map_or("the caller broke its request", |(words, ..)| *words)
    }
}

/// Every ending with the words that the guide has for it; the route retries refusals or not.
const ROWS: [(&str, AttemptEnd, bool); 26] = [
    (
        "answered: success",
        AttemptEnd::Answered(Outcome::Success),
        false,
    ),
    (
        "answered: an exception of the application",
        AttemptEnd::Answered(Outcome::Exception),
        false,
    ),
    (
        "answered: the request is at fault (unknown service or method, unreadable)",
        AttemptEnd::Answered(Outcome::Invalid),
        false,
    ),
    (
        "answered: the server gave up waiting for its own work",
        AttemptEnd::Answered(Outcome::TimedOut),
        false,
    ),
    (
        "answered: the server's framework failed",
        AttemptEnd::Answered(Outcome::Failed),
        false,
    ),
    (
        "answered: busy",
        AttemptEnd::Answered(Outcome::Refused),
        false,
    ),
    (
        "answered: busy, route with `refused: true`",
        AttemptEnd::Answered(Outcome::Refused),
        true,
    ),
    (
        "no connection could be made",
        AttemptEnd::ConnectFailed,
        false,
    ),
    ("no TLS could be spoken on it", AttemptEnd::TlsFailed, false),
    (
        "nothing was sent: connections full or given up",
        AttemptEnd::Unsent,
        false,
    ),
    (
        "not processed: GOAWAY with a last stream id lower than the stream's, REFUSED_STREAM",
        AttemptEnd::NotProcessed,
        false,
    ),
    (
        "no descriptor, port or buffer left here",
        AttemptEnd::OwnFailure,
        false,
    ),
    (
        "a connection used before broke before any answer",
        AttemptEnd::Lost { reused: true },
        false,
    ),
    (
        "the connection broke before any answer",
        AttemptEnd::Lost { reused: false },
        false,
    ),
    (
        "the connection broke within the answer",
        AttemptEnd::Truncated,
        false,
    ),
    ("the answer cannot be read", AttemptEnd::Unreadable, false),
    (
        "the answer is over the limit of a frame",
        AttemptEnd::TooLarge,
        false,
    ),
    (
        "no answer within the route's time",
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::Route,
            sent: true,
        },
        false,
    ),
    (
        "no answer within the caller's time",
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::Caller,
            sent: true,
        },
        false,
    ),
    (
        "no answer within the caller's time, which is shorter than `connect_timeout`, or others were answered meanwhile",
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::TooShort,
            sent: true,
        },
        false,
    ),
    (
        "time passed while Finback did not run, or so soon after that the endpoint was not heard for `connect_timeout`",
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::OurStall,
            sent: true,
        },
        false,
    ),
    (
        "time passed before anything was sent",
        AttemptEnd::TimedOut {
            whose: DeadlineOwner::Route,
            sent: false,
        },
        false,
    ),
    (
        "a session was asked for, and neither granted nor refused in its time",
        AttemptEnd::Unopened { telling: true },
        false,
    ),
    (
        "the same, but others were answered meanwhile",
        AttemptEnd::Unopened { telling: false },
        false,
    ),
    (
        "the caller is gone, or broke its request",
        AttemptEnd::Abandoned,
        false,
    ),
    ("Finback stops", AttemptEnd::Draining, false),
];

/// The table as the guide prints it, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from(
        "| an attempt ended | counts against the endpoint | sent again |\n|---|---|---|\n",
    );
    for (words, end, refused) in ROWS {
        let Ruling { verdict, repeat } = rule(end, refused);
        let counts = match verdict {
            Verdict::Good => "no: it is well",
            Verdict::Bad => "yes",
            Verdict::Neutral
                if matches!(end, AttemptEnd::ConnectFailed | AttemptEnd::TlsFailed) =>
            {
                "yes, once for the connection"
            }
            Verdict::Silent => "no, but others are asked first while they answer",
            Verdict::Alive | Verdict::Neutral => "no",
        };
        let again = match repeat {
            Repeat::Never => "no",
            Repeat::IfIdempotent => "if the route is `idempotent`; takes budget",
            Repeat::IfSafe => {
                "if the route is `idempotent`, or, once, if the request's method is; takes budget"
            }
            Repeat::Free => "yes, at once; takes no budget",
            Repeat::Uncounted => {
                "yes, at once; takes no budget, and up to 8 times no attempt, unless the route has one attempt"
            }
        };
        text.push_str(&format!("| {words} | {counts} | {again} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_processed_is_nobodys_fault_and_costs_no_budget() {
        for (end, repeat) in [
            (AttemptEnd::Unsent, Repeat::Free),
            (AttemptEnd::NotProcessed, Repeat::Uncounted),
            (AttemptEnd::OwnFailure, Repeat::Free),
            (AttemptEnd::ConnectFailed, Repeat::Free),
            (AttemptEnd::TlsFailed, Repeat::Free),
        ] {
            assert_eq!(rule(end, false), row(Verdict::Neutral, repeat), "{end:?}");
        }
        assert!(table().contains(&format!("up to {MOVES} times")));
    }

    #[test]
    fn what_may_have_run_is_never_sent_again_for_free() {
        for (words, end, refused) in ROWS {
            let ruling = rule(end, refused);
            let may_have_run = !matches!(
                end,
                AttemptEnd::ConnectFailed
                    | AttemptEnd::TlsFailed
                    | AttemptEnd::Unsent
                    | AttemptEnd::NotProcessed
                    | AttemptEnd::OwnFailure
                    | AttemptEnd::TimedOut { sent: false, .. }
                    | AttemptEnd::Unopened { .. }
                    | AttemptEnd::Answered(Outcome::Refused)
            );
            if may_have_run {
                let free = matches!(ruling.repeat, Repeat::Free | Repeat::Uncounted);
                assert!(!free, "{words}");
            }
        }
    }

    #[test]
    fn callers_cannot_have_an_endpoint_blamed() {
        for end in [
            AttemptEnd::Answered(Outcome::Invalid),
            AttemptEnd::Answered(Outcome::TimedOut),
            AttemptEnd::RequestBroken,
            AttemptEnd::Abandoned,
            AttemptEnd::TooLarge,
            AttemptEnd::TimedOut {
                whose: DeadlineOwner::TooShort,
                sent: true,
            },
        ] {
            assert_ne!(rule(end, false).verdict, Verdict::Bad, "{end:?}");
        }
        let exception = AttemptEnd::Answered(Outcome::Exception);
        assert_eq!(rule(exception, false).verdict, Verdict::Good);
    }
}
