//! The record of one exchange: the only source of its metric, span and log line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::{Lag, Outcome, Status};
use crate::rejection::Rejection;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// A response was passed on.
    Answered(Outcome),
    /// A one-way was handed to an endpoint's connection.
    Sent,
    /// The mesh answered (or, for a one-way, dropped the call).
    Rejected(Rejection),
    /// The caller went away before its answer came.
    Abandoned,
}

impl Ending {
    /// The ending's name in metrics and logs: `success`, `exception`, `invalid`, `failed`, `refused`,
    /// `timed_out`, `sent`, `abandoned`, or a rejection's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered(Outcome::Success) => "success",
            Self::Answered(Outcome::Exception) => "exception",
            Self::Answered(Outcome::Invalid) => "invalid",
            Self::Answered(Outcome::Failed) => "failed",
            Self::Answered(Outcome::Refused) => "refused",
            Self::Answered(Outcome::TimedOut) => "timed_out",
            Self::Sent => "sent",
            Self::Abandoned => "abandoned",
            Self::Rejected(rejection) => rejection.name(),
        }
    }

    /// Whether something went wrong that is no business of the application's, and no fault of the
    /// caller's alone.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Answered(Outcome::Failed | Outcome::Refused | Outcome::TimedOut) => true,
            Self::Answered(Outcome::Success | Outcome::Exception | Outcome::Invalid)
            | Self::Sent
            | Self::Abandoned
            | Self::Rejected(
                Rejection::BadRequest
                | Rejection::TooLarge
                | Rejection::Limited
                | Rejection::Unauthenticated,
            ) => false,
            Self::Rejected(_) => true,
        }
    }
}

/// What all exchanges of one series have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// The protocol's name.
    pub protocol: &'static str,
    /// Whether a route or a registry knows the service, or it is a name of the protocol's own.
    /// What is not known is a name that some caller wrote, and there is no end of those: all of
    /// it is one series per protocol and listener.
    pub known: bool,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The service, or "" if the call could not be read.
    pub service: Arc<str>,
    /// The method, or "".
    pub method: Arc<str>,
}

/// The name of a trace: 16 bytes, of which the last seven are random (W3C Trace Context, section 3.2.2.3).
/// All zeros are no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    /// Whether it names a trace.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 != [0; 16]
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What is rarely asked of a finished exchange: looked up only when it is.
pub trait About {
    /// Who called.
    fn source(&self) -> IpAddr;

    /// The last endpoint tried.
    fn endpoint(&self) -> Option<SocketAddr>;

    /// The service's version as the call says it, or "".
    fn version(&self) -> &str {
        ""
    }

    /// The service's group as the call says it, or "".
    fn group(&self) -> &str {
        ""
    }

    /// The route it took, or "" if none matched.
    fn route(&self) -> &str {
        ""
    }

    /// The cluster of the last endpoint tried, or "" if none was.
    fn cluster(&self) -> &str {
        ""
    }

    /// The filter that refused it, or that it waited for to its end, or "" if none did.
    fn filter(&self) -> &str {
        ""
    }

    /// The lane that it was put into, or "" if none.
    fn lane(&self) -> &str {
        ""
    }
}

/// Who asked whom, and no more.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Who called.
    pub source: IpAddr,
    /// The endpoint, if there is one.
    pub endpoint: Option<SocketAddr>,
}

impl About for Ends {
    fn source(&self) -> IpAddr {
        self.source
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }
}

/// One finished exchange.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// How it ended.
    pub ending: Ending,
    /// The same in the protocol's own terms, as the caller was told: by the endpoint or by us.
    pub status: Status,
    /// What else there is to tell.
    pub about: &'a dyn About,
    /// The trace that it is part of, where it may be written down; else no name.
    pub trace: TraceId,
    /// From the request's arrival to its answer's departure, as the worker's clock saw it, in microseconds.
    pub micros: u64,
    /// Attempts made; 0 if the call was rejected before any.
    pub attempts: u32,
    /// Bytes of the request frame.
    pub request_bytes: u64,
    /// Bytes of the response frame; 0 if there was none.
    pub response_bytes: u64,
}

impl<'a> Record<'a> {
    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// One that says nothing but how it ended and what stands in `about`.
    #[must_use]
    pub fn new(ending: Ending, about: &'a dyn About) -> Self {
        Self {
            ending,
            status: Status::NONE,
            about,
            trace: TraceId::default(),
            micros: 0,
            attempts: 0,
            request_bytes: 0,
            response_bytes: 0,
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("ending", &self.ending)
            .field("status", &self.status)
            .field("took", &self.took())
            .finish_non_exhaustive()
    }
}

/// Where records go.
pub trait Observer: Send + Sync + 'static {
    /// The place for the records of one series as seen by one worker. Called once per series and
    /// worker, from the worker's own thread, then kept: a series may rely on a single writer.
    fn series(&self, worker: usize, key: &SeriesKey) -> Arc<dyn Series>;
}

/// The records of one series, written by one worker.
pub trait Series: Send + Sync + 'static {
    /// Takes one record. On the hot path: no lock, no allocation.
    fn record(&self, record: &Record<'_>);

    /// Takes what the answer to a fetch told of its consumer's lag.
    fn lag(&self, about: &dyn About, lag: Lag) {
        let _ = (about, lag);
    }
}
