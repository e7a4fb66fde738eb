//! Accepting connections and finding out what they speak.

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

use crate::mesh::{Gauges, Mesh};
use crate::protocol::{Protocol, Sniff};

use super::socket::Socket;
use super::tls::{FIRST, ServerTls, Transport};
use super::worker::Worker;

/// By this many bytes every protocol has decided.
const SNIFFED: usize = 64;
/// Pause after a failed accept (out of descriptors, say) or above the connection limit.
const PAUSE: Duration = Duration::from_millis(100);

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
    /// TLS, if it is spoken there.
    pub tls: Option<Arc<ServerTls>>,
    /// What its protocols were configured with, so that a reload notices a change.
    pub settings: Arc<str>,
}

impl PartialEq for ListenerSpec {
    fn eq(&self, other: &Self) -> bool {
        let names = |spec: &Self| spec.protocols.iter().map(|p| p.name()).collect::<Vec<_>>();
        self.name == other.name
            && self.address == other.address
            && self.routes == other.routes
            && self.settings == other.settings
            && names(self) == names(other)
    }
}

/// A listener at work in one worker.
pub(crate) struct Listening {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) routes: Arc<str>,
    protocols: Vec<Arc<dyn Protocol>>,
    tls: Option<Arc<ServerTls>>,
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
}

/// Counts a client connection for as long as it lives.
pub(crate) struct Presence(Arc<Mesh>);

impl Presence {
    fn new(mesh: &Arc<Mesh>) -> Self {
        Gauges::add(&mesh.gauges.connections);
        Gauges::add(&mesh.gauges.accepted);
        Self(mesh.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        Gauges::sub(&self.0.gauges.connections);
    }
}

/// A client that has vanished, or takes nothing of what is sent to it, is disconnected by the
/// kernel after this.
const UNREAD: Duration = Duration::from_secs(60);

impl Listening {
    pub(crate) fn new(id: u64, spec: &ListenerSpec) -> Rc<Self> {
        Rc::new(Self {
            id,
            name: spec.name.clone(),
            routes: spec.routes.clone(),
            protocols: spec.protocols.clone(),
            tls: spec.tls.clone(),
            stop: Notify::new(),
            stopped: Cell::new(false),
        })
    }

    /// Has the accept loop take what already waits and end.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.stop.notify_one();
    }

    /// Accepts until stopped.
    pub(crate) async fn accept(self: Rc<Self>, socket: TcpListener, worker: Rc<Worker>) {
        while !self.stopped.get() {
            if worker.is_crowded() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.stop.notified() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer, &worker),
                Err(error) if is_about_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(listener = %self.name, %error, "cannot accept; pausing");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // Clients in the queue have been told that they are connected: serve them.
        while let Ok(Ok((stream, peer))) =
            tokio::time::timeout(Duration::from_millis(1), socket.accept()).await
        {
            self.welcome(stream, peer, &worker);
        }
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, worker: &Rc<Worker>) {
        let socket = socket2::SockRef::from(&stream);
        if stream.set_nodelay(true).is_err() || socket.set_tcp_user_timeout(Some(UNREAD)).is_err() {
            return;
        }
        let connection = Connection {
            socket: Socket::plain(stream),
            transport: None,
            peer,
            listening: self.clone(),
            presence: Presence::new(worker.mesh()),
        };
        match &*self.protocols {
            [only] if self.tls.is_none() => {
                let served = only.clone().serve(connection, worker.clone());
                tokio::task::spawn_local(served);
            }
            _ => {
                tokio::task::spawn_local(greet(connection, worker.clone()));
            }
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
async fn greet(connection: Connection, worker: Rc<Worker>) {
    let (peer, listening) = (connection.peer, connection.listening.clone());
    let Some(connection) = Box::pin(secure(connection, &worker)).await else {
        Gauges::add(&worker.mesh().gauges.malformed);
        return;
    };
    let Some((protocol, connection)) = recognise(connection, &worker).await else {
        tracing::info!(
            source = %peer, listener = %listening.name,
            "connection speaks no protocol of this listener"
        );
        Gauges::add(&worker.mesh().gauges.malformed);
        return;
    };
    protocol.serve(connection, worker).await;
}

/// Takes TLS off a connection that speaks it, where the listener does.
async fn secure(mut connection: Connection, worker: &Worker) -> Option<Connection> {
    let Some(tls) = connection.listening.tls.clone() else {
        return Some(connection);
    };
    // A client may connect long before it says anything.
    let first = tokio::time::timeout(worker.idle(), connection.socket.readable());
    first.await.ok()?.ok()?;
    if tls.serves_plain() {
        let mut byte = [0];
        let read = tokio::time::timeout(worker.sniff(), connection.socket.read(&mut byte));
        let length = read.await.ok()?.ok()?;
        connection
            .socket
            .unread(Bytes::copy_from_slice(&byte[..length]));
        if byte[0] != FIRST {
            return Some(connection);
        }
    }
    match tls.accept(connection.socket).await {
        Ok((socket, transport)) => Some(Connection {
            socket,
            transport: Some(Rc::new(transport)),
            ..connection
        }),
        Err(error) => {
            tracing::info!(
                source = %connection.peer, listener = %connection.listening.name, %error,
                "no TLS connection could be made"
            );
            None
        }
    }
}

async fn recognise(
    mut connection: Connection,
    worker: &Worker,
) -> Option<(Arc<dyn Protocol>, Connection)> {
    if let [only] = &*connection.listening.protocols {
        return Some((only.clone(), connection));
    }
    let mut head = [0_u8; SNIFFED];
    // A client may connect long before its first call; only from its first byte on is it timed.
    let first = tokio::time::timeout(worker.idle(), connection.socket.read(&mut head));
    let mut length = first.await.ok()?.ok()?;
    let deadline = tokio::time::Instant::now() + worker.sniff();
    while length > 0 {
        if let Some(decided) = decide(&connection.listening.protocols, &head[..length]) {
            let protocol = decided.cloned()?;
            let prefix = Bytes::copy_from_slice(&head[..length]);
            connection.socket.unread(prefix);
            return Some((protocol, connection));
        }
        let more = connection.socket.read(&mut head[length..]);
        match tokio::time::timeout_at(deadline, more).await {
            Ok(Ok(n)) if n > 0 => length += n,
            _ => return None,
        }
    }
    None
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
