//! Version 2 of the PROXY protocol (HAProxy's proxy-protocol.txt, section 2.2): who the client is, for a
//! broker that sees only us.

use std::io;
use std::net::{IpAddr, SocketAddr};

use finback_core::driver::Caller;
use finback_core::net::Socket;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// What TLS told of the client (section 2.2.6).
const SSL: u8 = 0x20;
const SSL_CN: u8 = 0x22;
/// TLS was spoken, and the client had a certificate in this connection.
const SSL_FLAGS: u8 = 1 | 2;
/// The name that the client asked for in its TLS (section 2.2.2).
const AUTHORITY: u8 = 0x02;

/// The header for a client's connection.
///
/// # Errors
/// If the client's connection is gone.
pub(crate) fn header(caller: &Caller, socket: &Socket) -> io::Result<Vec<u8>> {
    let local = socket.local_addr()?;
    Ok(written(
        caller.peer(),
        local,
        caller.server_name(),
        caller.certified().map(|own| own.subject()),
    ))
}

/// `certified` is the common name, if any, of the client's certificate, if it has shown one.
fn written(
    source: SocketAddr,
    local: SocketAddr,
    server_name: Option<&str>,
    certified: Option<Option<&str>>,
) -> Vec<u8> {
    let mut rest = Vec::with_capacity(64);
    let family = match (source.ip(), local.ip()) {
        (IpAddr::V4(source), IpAddr::V4(local)) => {
            rest.extend_from_slice(&source.octets());
            rest.extend_from_slice(&local.octets());
            TCP4
        }
        (source, local) => {
            rest.extend_from_slice(&six(source));
            rest.extend_from_slice(&six(local));
            TCP6
        }
    };
    rest.extend_from_slice(&source.port().to_be_bytes());
    rest.extend_from_slice(&local.port().to_be_bytes());
    if let Some(name) = server_name {
        put(&mut rest, AUTHORITY, name.as_bytes());
    }
    if let Some(common_name) = certified {
        // Flags, then 0: its certificate was verified.
        let mut ssl = vec![SSL_FLAGS, 0, 0, 0, 0];
        // This field is the common name of the certificate (section 2.2.6), and no other kind of name.
        if let Some(common_name) = common_name {
            put(&mut ssl, SSL_CN, common_name.as_bytes());
        }
        put(&mut rest, SSL, &ssl);
    }
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[PROXY, family]);
    header.extend_from_slice(&u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(&rest);
    header
}

fn six(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    }
}

/// A piece of type, length and value; nothing longer than names may be gets here.
fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = &value[..value.len().min(1024)];
    out.push(kind);
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_the_paper_draws_it() {
        let source = SocketAddr::from(([10, 0, 0, 1], 0x1234));
        let local = SocketAddr::from(([10, 0, 0, 2], 1883));
        let plain = written(source, local, None, None);
        assert_eq!(plain[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(plain[16..], [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 7, 91]);
        let known = written(source, local, Some("a"), Some(Some("dev")));
        assert_eq!(known[15], 12 + 4 + 3 + 5 + 6);
        assert_eq!(
            known[28..],
            *b"\x02\0\x01a\x20\0\x0b\x03\0\0\0\0\x22\0\x03dev"
        );
    }
}
