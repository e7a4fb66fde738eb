//! What one exchange was: the only source of its metric, span and log line.

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
