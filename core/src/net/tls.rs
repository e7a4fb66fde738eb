//! TLS on either side of a connection. Keys and certificates are read by whoever makes these.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::clock::Now;
use crate::identity::Identity;

use super::socket::Socket;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds that no process lives for: a hundred years.
const FOREVER: u64 = 100 * 365 * 24 * 60 * 60;
/// How often others have their turn between two handshakes: a call needs several, one for each
/// side that it hears from.
const PAUSES: usize = 8;
/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
pub(crate) const FIRST: u8 = 0x16;

/// Reads the identity in a client's certificate.
pub type Identify = fn(&CertificateDer<'_>) -> Option<Identity>;
/// Reads the last second, since 1970, in which a chain of certificates is valid.
pub type LastSecond = fn(&[CertificateDer<'_>]) -> u64;

/// TLS as a listener speaks it. What it holds may be replaced while connections live.
pub struct ServerTls {
    config: ArcSwap<ServerConfig>,
    /// Connections without TLS are served too.
    plain: bool,
    identify: Identify,
    /// Reads when a client's certificates end, where its connection is to end with them.
    last_second: Option<LastSecond>,
}

impl ServerTls {
    /// With these keys; `plain` serves connections without TLS on the same port, and `last_second` has
    /// connections end with the certificates of their clients.
    #[must_use]
    pub fn new(
        config: ServerConfig,
        plain: bool,
        identify: Identify,
        last_second: Option<LastSecond>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            plain,
            identify,
            last_second,
        })
    }

    /// Puts other keys in force for connections to come.
    pub fn replace(&self, config: ServerConfig) {
        self.config.store(Arc::new(config));
    }

    pub(crate) fn serves_plain(&self) -> bool {
        self.plain
    }

    /// Speaks TLS on a connection that is no listener's of the mesh.
    ///
    /// # Errors
    /// If the client does not, or not in time, or has no certificate that is asked for.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<Socket> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let accepting = acceptor.accept(Socket::plain(stream).into_rewound()?);
        let accepting = HANDSHAKE.scope(Handshake::default(), accepting);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await??;
        Ok(Socket::tls(TlsStream::Server(stream)))
    }

    pub(crate) async fn accept(&self, socket: Socket) -> io::Result<(Socket, Transport)> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let accepting = in_turn(|| Ok(acceptor.accept(socket.into_rewound()?)));
        let accepting = HANDSHAKE.scope(Handshake::default(), accepting);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await??;
        let (_, state) = stream.get_ref();
        let chain = state.peer_certificates().unwrap_or_default();
        let last_second = self.last_second.filter(|_| !chain.is_empty());
        let transport = Transport {
            server_name: state.server_name().map(Into::into),
            identity: chain.first().and_then(|own| (self.identify)(own)),
            not_after: last_second.map(|read| read(chain)),
        };
        Ok((Socket::tls(TlsStream::Server(stream)), transport))
    }
}

tokio::task_local! {
    /// The server's side of the handshake that is being polled.
    static HANDSHAKE: Handshake;
}

/// What is known of a client while its handshake lasts: how long its authentication holds. Whoever
/// verifies certificates says so here, and whoever makes session tickets reads it, for rustls tells
/// neither of them about the other.
#[derive(Debug)]
pub struct Handshake {
    /// In seconds since 1970.
    not_after: Cell<u64>,
}

impl Default for Handshake {
    fn default() -> Self {
        Self {
            not_after: Cell::new(u64::MAX),
        }
    }
}

impl Handshake {
    /// Says that what the client has shown holds up to and including this second since 1970.
    pub fn set_not_after(not_after: u64) {
        // Outside a handshake there is nobody to tell.
        let _ = HANDSHAKE.try_with(|own| own.not_after.set(not_after));
    }

    /// The last second, since 1970, in which the client's authentication holds; the highest number
    /// there is if it has shown nothing that could end. `None` outside a handshake.
    #[must_use]
    pub fn not_after() -> Option<u64> {
        HANDSHAKE.try_with(|own| own.not_after.get()).ok()
    }
}

thread_local! {
    /// One handshake of this thread computes at a time.
    static TURN: Rc<Semaphore> = Rc::new(Semaphore::new(1));
}

/// Begins a handshake when it is its turn. That is when its sums are done: a fraction of a
/// millisecond in which nobody else on this thread is served. So it is one at a time, and sockets
/// are looked after in between: a flood of handshakes delays calls by one of them, not by all. Who
/// waits holds nothing but its socket.
async fn in_turn<T, F: Future<Output = io::Result<T>>>(
    begin: impl FnOnce() -> io::Result<F>,
) -> io::Result<T> {
    let turn = TURN.with(Rc::clone);
    // It is never closed.
    let turn = turn.acquire().await;
    let mut accepting = pin!(begin()?);
    let polled = std::future::poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await;
    for _ in 0..PAUSES {
        tokio::task::yield_now().await;
    }
    drop(turn);
    match polled {
        Poll::Ready(accepted) => accepted,
        Poll::Pending => accepting.await,
    }
}

/// What a connection's TLS tells about its client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    server_name: Option<Box<str>>,
    identity: Option<Identity>,
    /// The last second, since 1970, of its certificate, if the connection is to end with it.
    not_after: Option<u64>,
}

impl Transport {
    /// What calls over it have as attributes: `:sni`, and `:identity` as text.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            ":sni" => self.server_name.as_deref(),
            ":identity" => Some(self.identity()?.text()),
            _ => None,
        }
    }

    /// Whether an attribute is one of a connection, not of a call.
    pub(crate) fn names(name: &str) -> bool {
        matches!(name, ":sni" | ":identity")
    }

    /// When the connection is to end.
    pub(crate) fn ends(&self, now: Now) -> Option<Now> {
        let left = self.not_after?.saturating_sub(UnixTime::now().as_secs());
        // The last second is a valid one.
        let left = Duration::from_secs(left.min(FOREVER) + 1);
        Some(now.after(left))
    }

    /// Who the client's certificate says it is.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

/// TLS as endpoints of a cluster are spoken to. Its keys may be replaced while connections live.
pub struct ClientTls {
    keys: ArcSwap<ClientKeys>,
    /// Application protocols that may be asked for.
    applications: Box<[&'static [u8]]>,
    /// Whose certificate is expected; `None` expects the endpoint's address in it.
    server_name: Option<ServerName<'static>>,
    /// What it was made from, so that a change is noticed.
    settings: Arc<str>,
}

impl ClientTls {
    /// With these authorities and keys; `applications` are the application protocols that may be
    /// asked for. Two of the same `settings` are the same.
    #[must_use]
    pub fn new(
        config: ClientConfig,
        applications: &[&'static [u8]],
        server_name: Option<ServerName<'static>>,
        settings: Arc<str>,
    ) -> Arc<Self> {
        Arc::new(Self {
            keys: ArcSwap::from_pointee(ClientKeys::new(config, applications)),
            applications: applications.into(),
            server_name,
            settings,
        })
    }

    /// Puts other authorities and keys in force for connections to come.
    pub fn replace(&self, config: ClientConfig) {
        let keys = ClientKeys::new(config, &self.applications);
        self.keys.store(Arc::new(keys));
    }

    pub(crate) async fn connect(
        &self,
        socket: Socket,
        address: SocketAddr,
        application: Option<&'static [u8]>,
    ) -> io::Result<Socket> {
        let config = self.keys.load().speaking(application);
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::IpAddress(address.ip().into()),
        };
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, socket.into_rewound()?).await?;
        Ok(Socket::tls(TlsStream::Client(stream)))
    }
}

/// Authorities and keys as endpoints are spoken to.
struct ClientKeys {
    config: Arc<ClientConfig>,
    /// The same for one application protocol each.
    speaking: Vec<(&'static [u8], Arc<ClientConfig>)>,
}

impl ClientKeys {
    fn new(config: ClientConfig, applications: &[&'static [u8]]) -> Self {
        let speaking = |application: &&'static [u8]| {
            let mut own = config.clone();
            own.alpn_protocols = vec![application.to_vec()];
            (*application, Arc::new(own))
        };
        Self {
            speaking: applications.iter().map(speaking).collect(),
            config: Arc::new(config),
        }
    }

    fn speaking(&self, application: Option<&[u8]>) -> Arc<ClientConfig> {
        let asked = application.and_then(|asked| {
            let mut all = self.speaking.iter();
            all.find_map(|(own, config)| (*own == asked).then_some(config))
        });
        asked.unwrap_or(&self.config).clone()
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl fmt::Debug for ClientTls {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}
