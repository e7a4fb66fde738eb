//! Dialling: connections to endpoints, each counted, and failures told apart by whose they are.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::own_error::is_ours;
use crate::stats::{ClusterStats, MeshStats, UpstreamConnection, increment};

use super::socket::Socket;
use super::timer::LATE;
use super::tls::ClientTls;

/// A peer that vanished without a word is noticed also while data waits to be acknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Another network than the kernel's: a simulated one.
pub trait Network: Send + Sync {
    /// Connects to an address.
    fn connect(&self, address: SocketAddr) -> Connecting;
}

/// A connection to come.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>>;

/// Where to connect, and how.
#[derive(Clone, Copy)]
pub struct DialTarget<'a> {
    /// The endpoint.
    pub address: SocketAddr,
    /// How long it may take, TLS included.
    pub timeout: Duration,
    /// TLS, if it is spoken there.
    pub tls: Option<&'a ClientTls>,
    /// What is said first, before TLS.
    pub header: Option<&'a [u8]>,
    /// The application protocol to agree on, where TLS is spoken.
    pub application: Option<&'static [u8]>,
    /// Where its cluster's connections are counted.
    pub stats: &'a Arc<ClusterStats>,
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint does not take it, or not in time.
    #[error("{0}")]
    Refused(io::Error),
    /// We cannot make it: no descriptor, port or buffer is left, or we did not run in time. It tells
    /// nothing of the endpoint.
    #[error("{0} (here, not at the endpoint)")]
    Own(io::Error),
}

impl DialError {
    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> &io::Error {
        match self {
            Self::Refused(error) | Self::Own(error) => error,
        }
    }

    /// Whether the endpoint took the connection, but no TLS could be spoken on it.
    #[must_use]
    pub fn is_about_tls(&self) -> bool {
        match self {
            Self::Refused(error) => error.get_ref().is_some_and(|own| own.is::<TlsFailure>()),
            Self::Own(_) => false,
        }
    }

    fn of(error: io::Error) -> Self {
        if is_ours(&error) {
            Self::Own(error)
        } else {
            Self::Refused(error)
        }
    }
}

/// Why no TLS could be spoken on a connection that was made.
#[derive(Debug)]
pub struct TlsFailure(io::Error);

impl TlsFailure {
    /// As an error of the connection.
    #[must_use]
    pub fn error(why: io::Error) -> io::Error {
        io::Error::new(why.kind(), Self(why))
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no TLS: {}", self.0)
    }
}

impl std::error::Error for TlsFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Connects to an endpoint, counted in `stats` whether it succeeds or not.
///
/// # Errors
/// Whose failure it is.
pub async fn dial(
    stats: &Arc<MeshStats>,
    network: Option<&dyn Network>,
    target: DialTarget<'_>,
) -> Result<Socket, DialError> {
    let is_connected = AtomicBool::new(false);
    let connecting = async {
        let mut plain = match network {
            Some(network) => network.connect(target.address).await?,
            None => connect(target.address).await?,
        };
        if let Some(header) = target.header {
            plain.write_all(header).await?;
        }
        match target.tls {
            None => Ok(plain),
            Some(tls) => {
                is_connected.store(true, Relaxed);
                let secured = tls.connect(plain, target.address, target.application);
                secured.await.map_err(TlsFailure::error)
            }
        }
    };
    let due = Instant::now() + target.timeout;
    let failed = match tokio::time::timeout_at(due, connecting).await {
        Ok(Ok(mut socket)) => {
            socket.count(UpstreamConnection::open(stats, target.stats));
            return Ok(socket);
        }
        Ok(Err(error)) => DialError::of(error),
        Err(_) => {
            let why = format!("no answer within {:?}", target.timeout);
            let mut error = io::Error::new(io::ErrorKind::TimedOut, why);
            if is_connected.load(Relaxed) {
                error = TlsFailure::error(error);
            }
            // Its answer may have come while we did not run.
            if Instant::now() >= due + LATE {
                DialError::Own(error)
            } else {
                DialError::Refused(error)
            }
        }
    };
    match &failed {
        DialError::Refused(_) => increment(&stats.connect_failures),
        DialError::Own(_) => increment(&stats.own_failures),
    }
    Err(failed)
}

async fn connect(address: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = Socket::plain(stream);
    socket.notice_vanished(UNACKNOWLEDGED)?;
    Ok(socket)
}
