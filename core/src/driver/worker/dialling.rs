//! Dialling of a worker: the bound of all upstream connections, and room made by idle ones.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::endpoint::{ConnectionAttempt, Endpoint};
use crate::log_limit::LogLimit;
use crate::mesh::{AttemptEnd, Lease};
use crate::net::{
    ConnectionEnds, DialError, DialTarget, Known, Socket, TlsFailure, dial, proxy_header,
};
use crate::stats::increment;
use crate::text::Escaped;

use super::super::resident::IdleConnections;
use super::Worker;

/// How often it is tried again to connect when there is no room.
const TRIES: u32 = 20;
/// Pause between two tries: other workers look for idle connections several times a second.
const PAUSE: Duration = Duration::from_millis(50);

/// The lines of the log that a misconfigured endpoint causes, as few as suit everybody.
static LINES: LogLimit = LogLimit::usual();

impl From<&DialError> for AttemptEnd {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Own(_) => Self::OwnFailure,
            DialError::Refused(_) if error.is_about_tls() => Self::TlsFailed,
            DialError::Refused(_) => Self::ConnectFailed,
        }
    }
}

impl Worker {
    /// Connects to the endpoint of a lease, with this application protocol where TLS is spoken.
    ///
    /// # Errors
    /// Whose failure it is. That of an endpoint is counted against it, once.
    pub async fn connect(
        &self,
        lease: &Lease,
        application: Option<&'static [u8]>,
    ) -> Result<Socket, DialError> {
        self.dial(lease.cluster(), lease.endpoint(), application, None)
            .await
    }

    /// The same on behalf of one client, of whom the endpoint is told where its cluster wants that.
    ///
    /// # Errors
    /// Whose failure it is.
    pub async fn connect_for(
        &self,
        lease: &Lease,
        application: Option<&'static [u8]>,
        ends: Option<ConnectionEnds>,
        known: Known<'_>,
    ) -> Result<Socket, DialError> {
        let version = lease.cluster().spec.policy.proxy_header;
        let header = version.map(|version| proxy_header(version, ends, known));
        let (cluster, endpoint) = (lease.cluster(), lease.endpoint());
        self.dial_saying(cluster, endpoint, application, header.as_deref())
            .await
    }

    pub(crate) async fn dial(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        application: Option<&'static [u8]>,
        ends: Option<ConnectionEnds>,
    ) -> Result<Socket, DialError> {
        let version = cluster.spec.policy.proxy_header;
        let header = version.map(|version| proxy_header(version, ends, Known::default()));
        self.dial_saying(cluster, endpoint, application, header.as_deref())
            .await
    }

    async fn dial_saying(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        application: Option<&'static [u8]>,
        header: Option<&[u8]>,
    ) -> Result<Socket, DialError> {
        let policy = &cluster.spec.policy;
        let target = DialTarget {
            header,
            address: endpoint.address,
            timeout: policy.connect_timeout,
            tls: policy.tls.as_deref(),
            application,
            stats: &cluster.stats,
        };
        let stats = &self.mesh().stats;
        let begun = tokio::time::Instant::now();
        let _connecting = ConnectionAttempt::begin(&endpoint.health, self.mesh().clock.now());
        for tries in 0.. {
            let last = tries >= TRIES || begun.elapsed() >= policy.connect_timeout;
            if !last && self.is_full() {
                self.make_room().await;
                continue;
            }
            let dialled = dial(stats, self.network.as_deref(), target).await;
            match dialled {
                Err(DialError::Own(_)) if !last => self.make_room().await,
                Err(DialError::Refused(ref error)) => {
                    let now = self.mesh().clock.now();
                    cluster.cannot_connect(endpoint, now, error);
                    if let Err(failed) = &dialled {
                        log_tls(cluster, endpoint, failed, now);
                    }
                    return dialled;
                }
                Ok(_) | Err(DialError::Own(_)) => return dialled,
            }
        }
        unreachable!("the last try returns")
    }

    /// Notes that TLS was spoken with the endpoint of a lease, but is of no use: what was agreed on in
    /// it is not what was asked for. Called once for a connection.
    pub fn cannot_secure(&self, lease: &Lease, why: io::Error) -> DialError {
        self.read_clock();
        let (now, error) = (self.mesh().clock.now(), TlsFailure::error(why));
        let (cluster, endpoint) = (lease.cluster(), lease.endpoint());
        cluster.cannot_connect(endpoint, now, &error);
        let failed = DialError::Refused(error);
        log_tls(cluster, endpoint, &failed, now);
        failed
    }

    fn is_full(&self) -> bool {
        let open = self.mesh().stats.upstream_connections.load(Relaxed);
        usize::try_from(open).unwrap_or(usize::MAX) >= self.limits().upstream_connections
    }

    /// Closes an idle upstream connection, here or, before long, in another worker.
    async fn make_room(&self) {
        if self.close_longest_idle() {
            // Its task has to run before its descriptor is free.
            return tokio::task::yield_now().await;
        }
        self.mesh().room_wanted.store(true, Relaxed);
        tokio::time::sleep(PAUSE).await;
    }

    /// Makes room for another worker that has nothing idle itself.
    pub(super) fn relieve_others(&self) {
        let wanted = &self.mesh().room_wanted;
        if wanted.load(Relaxed) && self.close_longest_idle() {
            wanted.store(false, Relaxed);
        }
    }

    /// Closes the upstream connection that has been idle for the longest time; false if none is.
    fn close_longest_idle(&self) -> bool {
        let own = self
            .upstreams()
            .into_iter()
            .filter_map(|upstream| Some((upstream.idle_since()?, upstream)))
            .max_by_key(|(since, _)| Reverse(*since));
        let others = self
            .idle
            .borrow()
            .iter()
            .filter_map(std::rc::Weak::upgrade)
            .filter_map(|pool| Some((pool.idle_since()?, pool)))
            .max_by_key(|(since, _)| Reverse(*since));
        match (own, others) {
            (Some((since, upstream)), other)
                if other.as_ref().is_none_or(|(at, _)| since <= *at) =>
            {
                upstream.make_room();
            }
            (_, Some((_, pool))) => pool.close_longest_idle(),
            (_, None) => return false,
        }
        increment(&self.mesh().stats.closed_for_room);
        true
    }

    /// Makes a pool's idle connections known, so that they can make room for others.
    pub fn register_idle(&self, pool: &Rc<impl IdleConnections + 'static>) {
        let pool: Rc<dyn IdleConnections> = pool.clone();
        self.idle.borrow_mut().push(Rc::downgrade(&pool));
    }
}

/// Says why no TLS could be spoken with an endpoint: nobody else could find it out, for clients are
/// not told.
fn log_tls(cluster: &Cluster, endpoint: &Endpoint, failed: &DialError, now: Now) {
    if failed.is_about_tls()
        && let Some(left_out) = LINES.admit(now)
    {
        tracing::warn!(
            cluster = %Escaped(cluster.name()), endpoint = %endpoint.address,
            why = %Escaped(&failed.to_string()), left_out,
            "the TLS handshake with an endpoint failed"
        );
    }
}
