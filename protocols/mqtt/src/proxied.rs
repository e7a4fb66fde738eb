//! The PROXY protocol's header (version 2): who the client is, for a broker that sees only us.

use std::io;

use finback_core::driver::Caller;
use finback_core::net::{ConnectionEnds, ProxyVersion, Socket, proxy_header};

/// The header for a client's connection.
///
/// # Errors
/// If the client's connection is gone.
pub(crate) fn header(caller: &Caller, socket: &Socket) -> io::Result<Vec<u8>> {
    let destination = match caller.local() {
        Some(local) => local,
        None => socket.local_addr()?,
    };
    let ends = ConnectionEnds {
        source: caller.peer(),
        destination,
    };
    Ok(proxy_header(ProxyVersion::V2, Some(ends), caller.known()))
}
