//! The end of a session: what its client is told, what the record and the log say, and both goodbyes.

use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::log_limit::LogLimit;
use finback_core::mesh::Lease;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::write;
use crate::entry::{farewell, session_ended};
use crate::open::shortened;
use crate::reason::Reason;

use super::{End, Session};

impl End {
    /// What a client is told, if anything is.
    fn told(&self, has_reference: bool) -> Option<(Reason, &'static str)> {
        match self {
            Self::Fault(fault) | Self::EndpointFault(fault) => Some((fault.reason, fault.why)),
            Self::Hung => Some((Reason::SERVER_BUSY, "the broker does not answer")),
            Self::Silent => Some((Reason::KEEP_ALIVE_TIMEOUT, "")),
            Self::TakenOver => Some((Reason::TAKEN_OVER, "")),
            Self::Revoked => Some((Reason::NOT_AUTHORIZED, "")),
            Self::Leaving if has_reference => Some((Reason::USE_ANOTHER, "")),
            Self::Leaving => Some((Reason::SHUTTING_DOWN, "")),
            Self::Client | Self::Endpoint => None,
        }
    }

    /// What the session's record says; `goodbye` tells that the client had said DISCONNECT.
    fn recorded(&self, goodbye: bool) -> Ending {
        match self {
            Self::Endpoint | Self::EndpointFault(_) if !goodbye => {
                Ending::Rejected(Rejection::ConnectionLost)
            }
            Self::Client | Self::TakenOver | Self::Endpoint | Self::EndpointFault(_) => {
                Ending::Answered(Outcome::Success)
            }
            Self::Revoked => Ending::Rejected(Rejection::Denied),
            Self::Fault(_) => Ending::Rejected(Rejection::BadRequest),
            Self::Hung => Ending::Rejected(Rejection::DeadlineExceeded),
            Self::Silent => Ending::Abandoned,
            Self::Leaving => Ending::Rejected(Rejection::Draining),
        }
    }
}

impl Session {
    /// Ends it, with what is left to be said to both sides.
    pub(super) async fn finish(mut self: Box<Self>, end: End, server: Option<&str>) {
        let caller = self.caller.clone();
        match &end {
            End::Fault(fault) => {
                caller.count_malformed();
                session_ended(&caller, fault);
            }
            End::EndpointFault(fault) => broker_failed(&caller, &self.lease, fault.why),
            End::Hung => {
                broker_failed(&caller, &self.lease, "it owes an answer and says nothing");
                self.lease.fell_silent();
            }
            _ => {}
        }
        self.tally.ended(end.recorded(self.state.goodbye));
        let last = self.last_packet(&end, server);
        let Self {
            mut client,
            mut endpoint,
            lease,
            ..
        } = *self;
        // The broker hears all that the client said, and nothing in its name: whether there was
        // a DISCONNECT decides about the will.
        let both = async {
            tokio::join!(
                farewell(&caller, &mut client, &last),
                farewell(&caller, &mut endpoint, &[])
            )
        };
        tokio::select! {
            _ = both => {}
            () = caller.cut() => {}
        }
        drop(lease);
    }

    /// A DISCONNECT of ours, where the client's version has one, and what its transport says.
    fn last_packet(&mut self, end: &End, server: Option<&str>) -> Vec<u8> {
        let Some((reason, why)) = end.told(server.is_some()) else {
            return Vec::new();
        };
        self.client.set_close(reason.as_close());
        // Whom the broker has told already is not told again.
        if !self.level.is_5() || !self.down.is_between_packets() || self.state.dismissed {
            return Vec::new();
        }
        let server = server.filter(|_| reason == Reason::USE_ANOTHER);
        let written = |why: &'static str| write::disconnect(reason, why, server);
        shortened(self.client_takes, written, why)
    }
}

/// Says why a session ended by its broker's fault.
fn broker_failed(caller: &Caller, lease: &Lease, why: &str) {
    static FAILED: LogLimit = LogLimit::usual();
    if let Some(left_out) = FAILED.admit(caller.worker().now()) {
        let endpoint = lease.address();
        tracing::warn!(%endpoint, why, left_out, "session ended by its broker's fault");
    }
}
