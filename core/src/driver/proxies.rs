//! Proxies in front of a listener: which are trusted, and whether they say whom a connection is from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::net::read_proxy_header;
use crate::route::Cidr;

use super::listener::Connection;
use super::worker::Worker;

/// How long a header may take; it leaves its sender together with the connection's first byte.
const HEADER: Duration = Duration::from_secs(5);

/// Which connections begin with a header of the PROXY protocol. None is ever guessed to: whoever can choose
/// could say anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// None does.
    #[default]
    None,
    /// Those of trusted proxies; others are served as they are.
    Trusted,
    /// All; whoever is no trusted proxy is refused.
    Required,
}

/// The proxies in front of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses: what they say of a client is believed.
    pub trusted: Vec<Cidr>,
    /// Whether they say it at the beginning of a connection.
    pub header: ProxyHeader,
}

impl Proxies {
    /// Whether this address is a trusted proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|own| own.contains(address))
    }

    /// Whose a call is that a hop at this address passed on: the hop's own, or whom the proxies behind it
    /// name that are believed. `lines` list them, each proxy after whom it speaks for, and `read` takes an
    /// address from an element. Of them it is the last that is no trusted proxy: whoever wrote it was one.
    pub fn source<'a>(
        &self,
        hop: IpAddr,
        lines: impl DoubleEndedIterator<Item = &'a str>,
        read: fn(&str) -> Option<IpAddr>,
    ) -> IpAddr {
        let mut source = hop;
        if !self.trusts(hop.to_canonical()) {
            return source;
        }
        let elements = lines.rev().flat_map(|line| line.rsplit(','));
        let elements = elements.map(str::trim).filter(|own| !own.is_empty());
        for element in elements {
            // What cannot be read, or is hidden, ends what is known.
            let Some(address) = read(element) else { break };
            source = address;
            if !self.trusts(address) {
                break;
            }
        }
        source
    }

    pub(super) fn expect_header(&self) -> bool {
        self.header != ProxyHeader::None
    }
}

/// The address that a text is, maybe with a port, in brackets or in quotes (RFC 7239, section 6).
#[must_use]
pub fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<IpAddr>().ok().map(|own| own.to_canonical())
}

/// Takes the header off a connection that has to begin with one, and believes it.
///
/// # Errors
/// Why the connection is not served.
pub(super) async fn introduce(connection: &mut Connection, worker: &Worker) -> io::Result<()> {
    let proxies = connection.listening.proxies.clone();
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    match (proxies.header, proxies.trusts(connection.peer.ip())) {
        (ProxyHeader::None, _) | (ProxyHeader::Trusted, false) => return Ok(()),
        (ProxyHeader::Required, false) => return refuse("it comes from no trusted proxy"),
        (ProxyHeader::Trusted | ProxyHeader::Required, true) => {}
    }
    let reading = read_proxy_header(&mut connection.socket);
    let Some(read) = worker.timers().patiently(HEADER, reading).await else {
        return refuse("its PROXY header did not come in time");
    };
    if let Some(ends) = read? {
        connection.peer = ends.source;
        connection.carried.local = Some(ends.destination);
    }
    Ok(())
}
