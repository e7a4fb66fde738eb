//! Addresses of brokers, where clients reach those that name servers tell of: the port by which this crate asks.

/// A broker as name servers tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Broker<'a> {
    /// The name of its cluster.
    pub cluster: &'a str,
    /// Its name, which a master and its slaves share.
    pub name: &'a str,
    /// Its number among those; 0 is the master.
    pub id: i64,
    /// Where it listens, as it says so itself: mostly an IP address and a port.
    pub address: &'a str,
}

/// Has a listener of ours stand for each broker.
pub trait Brokers: Send + Sync + 'static {
    /// The port at which clients reach a broker through the mesh; whoever connects to it from now on is served.
    /// `None` if there is no port for it, or its address is of no use: then clients are not told of the broker.
    ///
    /// Called by workers, which it must not keep waiting.
    fn port(&self, broker: &Broker<'_>) -> Option<u16>;
}
