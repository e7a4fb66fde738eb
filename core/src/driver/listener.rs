//! Listeners: accepting downstream connections and detecting what they speak.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::frame::Head;
use crate::log_limit::LogLimit;
use crate::mesh::{Mesh, Origin, Pinned};
use crate::net::{Detached, FIRST, ServerTls, Socket, Transport};
use crate::stats::{ListenerStats, decrement, increment};

use super::protocol::{Protocol, Resume, Served, Sniff};
use super::proxies::{Proxies, introduce};
use super::shares::Shares;
use super::worker::Worker;

/// By this many bytes every protocol has decided.
const SNIFFED: usize = 64;
/// Pause after a failed accept (out of descriptors, say) or above the connection limit.
const PAUSE: Duration = Duration::from_millis(100);
/// TLS handshakes of one worker that have begun, at most, while more are accepted: a flood of them waits in
/// the kernel's queue of its own listener, and leaves connections to the others.
const HANDSHAKES: usize = 512;
/// Pause while there are as many.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(5);

/// The lines of the log that clients cause, as few as suit everybody.
static LINES: LogLimit = LogLimit::usual();

/// An address to accept on.
#[derive(Clone)]
pub struct ListenerSpec {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What may be spoken there, in the order in which it is tried. With one protocol
    /// connections are not sniffed.
    pub protocols: Vec<Arc<dyn Protocol>>,
    /// The name of its route table.
    pub routes: Arc<str>,
    /// The one endpoint that it stands for, whatever its routes say; they still tell which calls may pass.
    pub pinned: Option<Pinned>,
    /// TLS, if it is spoken there.
    pub tls: Option<Arc<ServerTls>>,
    /// The proxies in front of it.
    pub proxies: Arc<Proxies>,
    /// Whether its clients may learn the addresses of endpoints from what they are told of failures.
    pub reveal_endpoints: bool,
    /// What its protocols were configured with, so that a reload notices a change.
    pub settings: Arc<str>,
    /// Its connections, for whoever asks.
    pub stats: Arc<ListenerStats>,
}

impl PartialEq for ListenerSpec {
    fn eq(&self, other: &Self) -> bool {
        let names = |spec: &Self| spec.protocols.iter().map(|p| p.name()).collect::<Vec<_>>();
        self.name == other.name
            && self.address == other.address
            && self.routes == other.routes
            && self.pinned == other.pinned
            && self.settings == other.settings
            && self.proxies == other.proxies
            && self.reveal_endpoints == other.reveal_endpoints
            && names(self) == names(other)
    }
}

/// A listener at work in one worker.
pub struct Listening {
    pub(crate) origin: Rc<Origin>,
    protocols: Vec<Arc<dyn Protocol>>,
    tls: Option<Arc<ServerTls>>,
    pub(crate) proxies: Arc<Proxies>,
    stats: Arc<ListenerStats>,
    stop: Notify,
    stopped: Cell<bool>,
}

/// One accepted connection.
pub struct Connection {
    /// With what was read of it to find out its protocol.
    pub(crate) socket: Socket,
    /// What its TLS tells of the client.
    pub(crate) transport: Option<Rc<Transport>>,
    pub(crate) peer: SocketAddr,
    pub(crate) listening: Rc<Listening>,
    pub(crate) presence: Presence,
    /// What it brings along from the worker that had it before.
    pub(crate) carried: Carried,
}

/// What a connection takes along besides its socket when it moves at a boundary of its messages.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// The last request's fixed header: messages of our own have its version and serialization.
    pub(crate) last_head: Option<Head>,
    /// Where its client connected to, as a proxy told.
    pub(crate) local: Option<SocketAddr>,
    /// What a protocol that drives itself goes on from.
    pub(crate) state: Option<Box<dyn Resume>>,
}

/// A connection on its way to another worker.
pub(crate) struct Parcel {
    detached: Detached,
    peer: SocketAddr,
    pub(crate) listener: u64,
    /// What it speaks, if that is known.
    protocol: Option<&'static str>,
    /// What its TLS told.
    transport: Option<Transport>,
    carried: Carried,
}

impl Parcel {
    /// Of a connection that speaks `protocol` here.
    pub(crate) fn new(
        socket: Socket,
        peer: SocketAddr,
        listener: u64,
        protocol: &'static str,
        carried: Carried,
    ) -> Option<Self> {
        Some(Self {
            detached: socket.detach().ok()?,
            peer,
            listener,
            protocol: Some(protocol),
            transport: None,
            carried,
        })
    }

    /// The same of one whose TLS told this.
    pub(crate) fn with(self, transport: Option<&Transport>) -> Self {
        Self {
            transport: transport.cloned(),
            ..self
        }
    }
}

/// What another worker found out about a connection.
#[derive(Default)]
struct Found {
    protocol: Option<&'static str>,
    transport: Option<Transport>,
    carried: Carried,
}

/// Counts a client connection for as long as it lives.
pub(crate) struct Presence {
    mesh: Arc<Mesh>,
    listener: Arc<ListenerStats>,
    shares: Arc<Shares>,
    worker: usize,
}

impl Presence {
    /// Of a connection that the shares count already.
    fn new(worker: &Worker, listener: &Arc<ListenerStats>) -> Self {
        let mesh = worker.mesh();
        increment(&mesh.stats.connections);
        increment(&listener.connections);
        Self {
            mesh: mesh.clone(),
            listener: listener.clone(),
            shares: worker.shares().clone(),
            worker: worker.index(),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        decrement(&self.mesh.stats.connections);
        decrement(&self.listener.connections);
        self.shares.leave(self.worker);
    }
}

/// Clients that are taken from the queue of a listener that ends, at most: as many as a queue holds mostly.
const LAST: usize = 4096;

/// A client that has vanished, or takes nothing of what is sent to it, is disconnected by the
/// kernel after this.
const UNREAD: Duration = Duration::from_secs(60);

impl Listening {
    /// The listener of this number, as `worker` serves it.
    #[must_use]
    pub fn new(id: u64, spec: &ListenerSpec, worker: &Worker) -> Rc<Self> {
        worker.read_clock();
        Rc::new(Self {
            origin: Origin::new(
                id,
                &spec.name,
                &spec.routes,
                spec.reveal_endpoints,
                spec.pinned.clone(),
                worker.routing(),
            ),
            protocols: spec.protocols.clone(),
            tls: spec.tls.clone(),
            proxies: spec.proxies.clone(),
            stats: spec.stats.clone(),
            stop: Notify::new(),
            stopped: Cell::new(false),
        })
    }

    /// Has the accept loop take what already waits and end. Connections go on with the routes that
    /// they came with.
    pub fn stop(&self) {
        self.origin.retire();
        self.stopped.set(true);
        self.stop.notify_one();
    }

    /// Accepts until stopped.
    pub(crate) async fn accept(self: Rc<Self>, socket: TcpListener, worker: Rc<Worker>) {
        while !self.stopped.get() {
            if worker.is_at_limit() {
                worker.pause_accepting(&self.origin.name, "`limits.connections` is reached");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if self.tls.is_some() && worker.handshakes().get() >= HANDSHAKES {
                tokio::time::sleep(HANDSHAKE_PAUSE).await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.stop.notified() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, peer, &worker),
                Err(error) if is_about_the_connection(&error) => {}
                Err(error) => {
                    worker.pause_accepting(&self.origin.name, &error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.take_last(socket, &worker);
    }

    /// Serves the clients that are in the queue, for the kernel has told them that they are connected, and closes the
    /// socket: whoever comes in between is reset. So nothing else has its turn before that.
    fn take_last(self: &Rc<Self>, socket: TcpListener, worker: &Rc<Worker>) {
        let Ok(socket) = socket.into_std() else {
            return;
        };
        for _ in 0..LAST {
            match socket.accept() {
                Ok((stream, peer)) => {
                    let is_ready = stream.set_nonblocking(true);
                    if let Ok(stream) = is_ready.and_then(|()| TcpStream::from_std(stream)) {
                        self.place(stream, peer, worker);
                    }
                }
                Err(error) if is_about_the_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Serves a connection here, or hands it to the worker that has the fewest.
    fn place(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, worker: &Rc<Worker>) {
        increment(&worker.mesh().stats.accepted);
        increment(&self.stats.accepted);
        let socket = Socket::plain(stream);
        let nodelay = socket
            .options()
            .map(|options| options.set_tcp_nodelay(true));
        if nodelay.is_none_or(|set| set.is_err()) || socket.notice_vanished(UNREAD).is_err() {
            return;
        }
        self.assign(socket, peer, worker);
    }

    /// The same, once its options are set.
    pub(super) fn assign(self: &Rc<Self>, socket: Socket, peer: SocketAddr, worker: &Rc<Worker>) {
        let own = worker.index();
        let chosen = if self.stopped.get() {
            worker.shares().take(own);
            own
        } else {
            worker.shares().place(own)
        };
        if chosen == worker.index() {
            return self.start(socket, peer, worker, Found::default());
        }
        let Ok(detached) = socket.detach() else {
            return worker.shares().leave(chosen);
        };
        let parcel = Parcel {
            detached,
            peer,
            listener: self.origin.id,
            protocol: None,
            transport: None,
            carried: Carried::default(),
        };
        if let Err(parcel) = worker.send_to(chosen, Box::new(parcel)) {
            // That worker is gone: it stays here after all.
            worker.shares().leave(chosen);
            worker.shares().take(worker.index());
            self.adopt_counted(*parcel, worker);
        }
    }

    /// Goes on with a connection that another worker had; the shares count it already if that worker
    /// [placed](Shares::place) it.
    pub(crate) fn adopt_counted(self: &Rc<Self>, parcel: Parcel, worker: &Rc<Worker>) {
        let Parcel {
            detached,
            peer,
            protocol,
            transport,
            carried,
            ..
        } = parcel;
        let found = Found {
            protocol,
            transport,
            carried,
        };
        match Socket::attach(detached) {
            Ok(socket) => self.start(socket, peer, worker, found),
            Err(error) => {
                worker.shares().leave(worker.index());
                static LINES: LogLimit = LogLimit::usual();
                if let Some(left_out) = LINES.admit(worker.now()) {
                    tracing::warn!(
                        listener = %self.origin.name, %error, left_out, "a connection is lost"
                    );
                }
            }
        }
    }

    /// Serves a connection that was not accepted from a kernel's socket: of a simulated network.
    pub fn serve(self: &Rc<Self>, socket: Socket, peer: SocketAddr, worker: &Rc<Worker>) {
        increment(&worker.mesh().stats.accepted);
        increment(&self.stats.accepted);
        worker.shares().take(worker.index());
        self.start(socket, peer, worker, Found::default());
    }

    fn start(self: &Rc<Self>, socket: Socket, peer: SocketAddr, worker: &Rc<Worker>, found: Found) {
        let protocol = found.protocol;
        let connection = Connection {
            socket,
            transport: found.transport.map(Rc::new),
            peer,
            listening: self.clone(),
            presence: Presence::new(worker, &self.stats),
            carried: found.carried,
        };
        let spoken = match &*self.protocols {
            [only] if self.tls.is_none() && !self.proxies.expect_header() => Some(only),
            all => all.iter().find(|own| Some(own.name()) == protocol),
        };
        let what = "a client connection";
        match spoken {
            Some(protocol) => {
                let serving = protocol.clone().serve(connection, worker.clone());
                worker.spawn_boxed(what, serving);
            }
            None => worker.spawn_boxed(what, detect(connection, worker.clone())),
        }
    }
}

/// Errors of one connection that was gone before it could be accepted.
fn is_about_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Finds out what a connection speaks, and serves it.
fn detect(connection: Connection, worker: Rc<Worker>) -> Served {
    let (peer, listening) = (connection.peer, connection.listening.clone());
    // A future of its own, and gone before the connection is served: it is many times as large as what is left.
    let found = Box::pin(find(connection, worker.clone()));
    Box::pin(async move {
        let found = found.await;
        if let Some(serving) = serve_found(found, &worker, peer, listening) {
            serving.await;
        }
    })
}

/// Finds out what a connection speaks.
async fn find(connection: Connection, worker: Rc<Worker>) -> Result<Spoken, Unspoken> {
    let connection = Box::pin(secure(connection, &worker)).await?;
    sniff(connection, &worker).await
}

/// Begins to serve a connection in what it speaks, if that is known.
fn serve_found(
    found: Result<Spoken, Unspoken>,
    worker: &Rc<Worker>,
    peer: SocketAddr,
    listening: Rc<Listening>,
) -> Option<Served> {
    let stats = &worker.mesh().stats;
    match found {
        Ok((protocol, connection)) => return Some(protocol.serve(connection, worker.clone())),
        // Something that only looks whether the port is open.
        Err(Unspoken::Silent) => increment(&stats.silent),
        Err(Unspoken::Unknown(why)) => {
            increment(&stats.malformed);
            if let Some(left_out) = LINES.admit(worker.now()) {
                tracing::info!(
                    source = %peer, listener = %listening.origin.name, why, left_out,
                    "no protocol of this listener was detected on a connection"
                );
            }
        }
    }
    None
}

/// A protocol that a connection speaks, and the connection.
type Spoken = (Arc<dyn Protocol>, Connection);

/// Why a connection is not served.
enum Unspoken {
    /// It said nothing.
    Silent,
    /// What it said is understood by nobody here.
    Unknown(String),
}

impl Unspoken {
    fn unknown(why: impl ToString) -> Self {
        Self::Unknown(why.to_string())
    }
}

/// Counts a handshake for as long as it takes.
struct Handshake<'a>(&'a Cell<usize>);

impl<'a> Handshake<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Takes TLS off a connection that speaks it, where the listener does.
async fn secure(mut connection: Connection, worker: &Worker) -> Result<Connection, Unspoken> {
    match introduce(&mut connection, worker).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Unspoken::Silent);
        }
        Err(error) => return Err(Unspoken::unknown(error)),
    }
    let Some(tls) = connection.listening.tls.clone() else {
        return Ok(connection);
    };
    // A client may connect long before it says anything.
    let first = tokio::time::timeout(worker.idle(), connection.socket.readable());
    if !matches!(first.await, Ok(Ok(()))) {
        return Err(Unspoken::Silent);
    }
    if tls.serves_plain() {
        let mut byte = [0];
        let patience = worker.limits().sniff;
        let read = tokio::time::timeout(patience, connection.socket.read(&mut byte)).await;
        let Ok(Ok(length @ 1..)) = read else {
            return Err(Unspoken::Silent);
        };
        connection
            .socket
            .unread(Bytes::copy_from_slice(&byte[..length]));
        if byte[0] != FIRST {
            return Ok(connection);
        }
    }
    let _handshake = Handshake::begin(worker.handshakes());
    match tls.accept(connection.socket).await {
        Ok((socket, transport)) => Ok(Connection {
            socket,
            transport: Some(Rc::new(transport)),
            ..connection
        }),
        // It connected and hung up: a probe of the port.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Unspoken::Silent),
        Err(error) => Err(Unspoken::Unknown(format!(
            "no TLS connection could be made: {error}"
        ))),
    }
}

async fn sniff(
    mut connection: Connection,
    worker: &Worker,
) -> Result<(Arc<dyn Protocol>, Connection), Unspoken> {
    if let [only] = &*connection.listening.protocols {
        return Ok((only.clone(), connection));
    }
    let mut head = [0_u8; SNIFFED];
    // A client may connect long before its first call; only from its first byte on is it timed.
    let first = tokio::time::timeout(worker.idle(), connection.socket.read(&mut head));
    let Ok(Ok(mut length @ 1..)) = first.await else {
        return Err(Unspoken::Silent);
    };
    let deadline = tokio::time::Instant::now() + worker.limits().sniff;
    loop {
        if let Some(decided) = decide(&connection.listening.protocols, &head[..length]) {
            let protocol = decided.ok_or_else(|| {
                let begins = head[..length.min(16)].escape_ascii();
                Unspoken::unknown(format!("it begins with \"{begins}\""))
            })?;
            let protocol = protocol.clone();
            let prefix = Bytes::copy_from_slice(&head[..length]);
            connection.socket.unread(prefix);
            return Ok((protocol, connection));
        }
        let more = connection.socket.read(&mut head[length..]);
        match tokio::time::timeout_at(deadline, more).await {
            Ok(Ok(n @ 1..)) => length += n,
            // Nothing more comes: it is what needs no more to be known.
            Ok(_) | Err(_) => {
                let protocols = connection.listening.protocols.iter();
                let mut certain =
                    protocols.filter(|own| own.sniff(&head[..length]) == Sniff::Match);
                let why = "its first bytes decide nothing, and no more came";
                let protocol = certain
                    .next()
                    .ok_or_else(|| Unspoken::unknown(why))?
                    .clone();
                connection
                    .socket
                    .unread(Bytes::copy_from_slice(&head[..length]));
                return Ok((protocol, connection));
            }
        }
    }
}

/// The first protocol that matches, provided that none before it may still match; `Some(None)`
/// if none can.
fn decide<'a>(
    protocols: &'a [Arc<dyn Protocol>],
    head: &[u8],
) -> Option<Option<&'a Arc<dyn Protocol>>> {
    for protocol in protocols {
        match protocol.sniff(head) {
            Sniff::Match => return Some(Some(protocol)),
            Sniff::Mismatch => {}
            Sniff::Undecided if head.len() < SNIFFED => return None,
            Sniff::Undecided => {}
        }
    }
    Some(None)
}
