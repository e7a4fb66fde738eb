//! What one exchange was: the only source of its metric, span and log line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::{Outcome, Status};
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
            | Self::Rejected(Rejection::BadRequest | Rejection::TooLarge) => false,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// One finished exchange.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// How it ended.
    pub ending: Ending,
    /// The same in the protocol's own terms, as the caller was told: by the endpoint or by us.
    pub status: Status,
    /// The service's version as the call says it, or "".
    pub version: &'a str,
    /// The service's group as the call says it, or "".
    pub group: &'a str,
    /// The route it took, or "" if none matched.
    pub route: &'a str,
    /// The cluster of the last endpoint tried, or "" if none was.
    pub cluster: &'a str,
    /// The trace that it is part of, where it may be written down; else no name.
    pub trace: TraceId,
    /// From the request's arrival to its answer's departure, as the worker's clock saw it.
    pub took: Duration,
    /// Attempts made; 0 if the call was rejected before any.
    pub attempts: u32,
    /// Who called.
    pub source: IpAddr,
    /// The last endpoint tried.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of the request frame.
    pub request_bytes: u64,
    /// Bytes of the response frame; 0 if there was none.
    pub response_bytes: u64,
}

impl Record<'_> {
    /// One that says nothing but how it ended and who asked.
    #[must_use]
    pub fn new(ending: Ending, source: IpAddr) -> Self {
        Self {
            ending,
            status: Status::NONE,
            version: "",
            group: "",
            route: "",
            cluster: "",
            trace: TraceId::default(),
            took: Duration::ZERO,
            attempts: 0,
            source,
            endpoint: None,
            request_bytes: 0,
            response_bytes: 0,
        }
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
}
