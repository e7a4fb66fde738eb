//! The lease of what we hold in etcd: renewed, and replaced whenever it is lost.

use std::time::Duration;

use etcd_client::{Client, Error, LeaseClient};
use tokio::sync::{Notify, watch};

use super::connect::is_denied;
use super::within;
use crate::store::pause::Pause;

/// What we hold goes away so long after we did, in seconds.
pub(super) const LEASE: i64 = 15;
/// So many failures in a row are the server's: another one may do better.
const FAILURES: u32 = 3;

/// The state of the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Term {
    /// There is none.
    #[default]
    None,
    /// One of the connection before; nobody has said yet whether it still lives.
    Former(i64),
    /// One that lives.
    Granted(i64),
}

impl Term {
    pub(super) fn id(self) -> Option<i64> {
        match self {
            Self::None => None,
            Self::Former(id) | Self::Granted(id) => Some(id),
        }
    }

    /// The same for the next connection.
    pub(super) fn former(self) -> Self {
        self.id().map_or(Self::None, Self::Former)
    }
}

/// The lease of a connection, as those see it who hold something.
pub(super) struct Lease {
    pub(super) term: watch::Receiver<Term>,
    pub(super) wishes: std::sync::Arc<Wishes>,
}

/// What those who hold something tell the one who renews.
#[derive(Default)]
pub(super) struct Wishes {
    /// A lease is wanted at all.
    pub(super) wanted: Notify,
    /// The servers know nothing of it any more.
    pub(super) doubted: Notify,
}

/// Why a lease is not renewed any more.
enum Ended {
    /// The servers do not know it.
    Lost(Error),
    /// Something else went wrong.
    Failed(Error),
    /// There was no answer.
    Silent(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            // What the library makes of an answer without a time to live.
            Error::LeaseKeepAliveError(_) => Self::Lost(error),
            _ if is_not_found(&error) => Self::Lost(error),
            // What `within` makes of silence.
            Error::Internal(_) => Self::Silent(error),
            _ => Self::Failed(error),
        }
    }
}

/// Keeps a lease from when one is wanted: the former one is tried once, and whatever comes of
/// that, there is a lease as long as the server grants any. Ends if the server fails.
pub(super) async fn keep_lease(
    client: &Client,
    wishes: &Wishes,
    owner: &watch::Sender<Term>,
) -> Error {
    let mut leases = client.lease_client();
    let mut pause = Pause::default();
    let mut failures = 0;
    let mut fresh = *owner.borrow() == Term::None;
    if fresh {
        wishes.wanted.notified().await;
    }
    loop {
        let term = *owner.borrow();
        let mut renewed = false;
        let ended = match term.id() {
            Some(lease) if !fresh => renew(&mut leases, lease, wishes, owner, &mut renewed).await,
            _ => match within(leases.grant(LEASE, None)).await {
                Ok(granted) => {
                    owner.send_replace(Term::Granted(granted.id()));
                    fresh = false;
                    continue;
                }
                Err(error) => error.into(),
            },
        };
        if renewed {
            failures = 0;
            pause = Pause::default();
        }
        let untried = matches!(term, Term::Former(_)) && !renewed && !fresh;
        match ended {
            Ended::Silent(error) => return error,
            // The former one had its try.
            Ended::Lost(error) | Ended::Failed(error) if untried => {
                tracing::info!(%error, "the former lease is gone; registering again");
                fresh = true;
                continue;
            }
            Ended::Lost(error) => {
                tracing::warn!(%error, "the lease was lost; registering again");
                fresh = true;
                owner.send_replace(Term::None);
                if renewed {
                    continue;
                }
            }
            Ended::Failed(error) => {
                tracing::warn!(%error, "cannot renew what is registered; trying again");
                failures += 1;
                // One who may not have leases may still read.
                if failures >= FAILURES && !is_denied(&error) {
                    return error;
                }
            }
        }
        pause.wait().await;
    }
}

/// Renews a lease for as long as that goes well.
async fn renew(
    leases: &mut LeaseClient,
    lease: i64,
    wishes: &Wishes,
    owner: &watch::Sender<Term>,
    renewed: &mut bool,
) -> Ended {
    let ended = |why: &str| Ended::Failed(Error::WatchError(why.to_owned()));
    let (mut keeper, mut answers) = match within(leases.keep_alive(lease)).await {
        Ok(pair) => pair,
        Err(error) => return error.into(),
    };
    loop {
        *renewed = true;
        let granted = Term::Granted(lease);
        owner.send_if_modified(|term| std::mem::replace(term, granted) != granted);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(LEASE as u64 / 3)) => {}
            () = wishes.doubted.notified() => {}
        }
        if keeper.keep_alive().await.is_err() {
            return ended("the stream of renewals has ended");
        }
        match within(answers.message()).await {
            Ok(Some(answer)) if answer.ttl() > 0 => {}
            Ok(Some(_)) => {
                let why = "the servers do not know it".to_owned();
                return Ended::Lost(Error::LeaseKeepAliveError(why));
            }
            Ok(None) => return ended("the stream of renewals has ended"),
            Err(error) => return error.into(),
        }
    }
}

/// gRPC's NOT_FOUND is 5: of a request that names a lease, the lease.
pub(super) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == 5)
}
