//! The plug of any protocol: recognising a connection and serving it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::net::Socket;

use super::driven::Caller;
use super::listener::Connection;
use super::worker::Worker;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// This protocol.
    Match,
    /// Not this protocol, whatever follows.
    Mismatch,
    /// More bytes are needed.
    Undecided,
}

/// A future that stays on its worker's thread.
pub type Served = Pin<Box<dyn Future<Output = ()>>>;

/// What a protocol gives along with a connection that goes to another worker, beside its socket: it knows itself how it is
/// gone on with.
pub trait Resume: Send {
    /// Serves the connection there, to its end.
    fn resume(self: Box<Self>, caller: Rc<Caller>, socket: Socket) -> Served;
}

impl fmt::Debug for dyn Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resume")
    }
}

/// A protocol that a listener can speak.
pub trait Protocol: Send + Sync + 'static {
    /// Its name in configuration, metrics and logs.
    fn name(&self) -> &'static str;

    /// What it is called in TLS's negotiation of application protocols, the preferred one first.
    fn application_protocols(&self) -> &'static [&'static [u8]] {
        &[]
    }

    /// Whether a connection that begins with `head` speaks it. Must decide within 64 bytes, and
    /// never change its mind.
    fn sniff(&self, head: &[u8]) -> Sniff;

    /// Serves one accepted connection to its end.
    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served;
}
