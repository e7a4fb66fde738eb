//! The PROXY protocol's header, versions 1 and 2: whom a connection is from, told by whoever passes it on
//! (HAProxy's proxy-protocol.txt, in `doc/` of its sources; sections are that paper's).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::socket::Socket;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 1's first word.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included (PROXY protocol, section 2.1).
const LINE: usize = 107;
/// The fixed part of version 2: signature, version and command, family, length.
const FIXED: usize = 16;
/// The longest rest of version 2 that is read. Everything that is defined fits into a tenth of it.
const REST: usize = 16 * 1024;
/// Version 2: on behalf of somebody, and from the sender itself.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Pieces of type, length and value (PROXY protocol, section 2.2).
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_CN: u8 = 0x22;
/// TLS was spoken, and the client had a certificate in this connection.
const SSL_FLAGS: u8 = 1 | 2;

/// The two ends of a connection, as a header tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnds {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
}

/// Which header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary, with what is known of the client's TLS.
    V2,
}

/// What TLS tells of a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The name that it asked for.
    pub server_name: Option<&'a str>,
    /// The common name, if any, of its certificate, if it has shown one.
    pub certified: Option<Option<&'a str>>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads the header with which a connection begins; what follows it stays to be read. `None` if its sender
/// says that the connection is its own, or does not know whose it is.
///
/// # Errors
/// If there is none, or the connection broke.
pub(crate) async fn read_proxy_header(socket: &mut Socket) -> io::Result<Option<ConnectionEnds>> {
    let mut bytes = BytesMut::new();
    loop {
        if let Some((length, ends)) = parse(&bytes)? {
            bytes.advance(length);
            socket.unread(Bytes::from(bytes));
            return Ok(ends);
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length of the header at the beginning, and what it says; `None` while it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, Option<ConnectionEnds>)>> {
    let common = |known: &[u8]| {
        let length = bytes.len().min(known.len());
        bytes[..length] == known[..length]
    };
    if common(WORD) {
        return line(bytes);
    }
    if !common(SIGNATURE) {
        return Err(invalid("it does not begin with a PROXY header"));
    }
    let Some(&[version, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version != PROXY && version != LOCAL {
        return Err(invalid("a PROXY header of an unknown version or command"));
    }
    if length > REST {
        return Err(invalid("a PROXY header that is too long"));
    }
    let Some(whole) = bytes.get(..FIXED + length) else {
        return Ok(None);
    };
    let addresses = match family {
        TCP4 => 12,
        TCP6 => 36,
        // UNIX sockets; datagrams and what is unspecified have no end that is one of TCP's.
        0x31 | 0x32 => 216,
        0x12 => 12,
        0x22 => 36,
        0 => 0,
        _ => return Err(invalid("a PROXY header of an unknown family")),
    };
    let rest = &whole[FIXED..];
    // Of what the sender says about itself nothing is to be read (PROXY protocol, section 2.2).
    if version == LOCAL {
        return Ok(Some((whole.len(), None)));
    }
    let Some((addresses, pieces)) = rest.split_at_checked(addresses) else {
        return Err(invalid("a PROXY header that is too short"));
    };
    look_through(whole, pieces)?;
    let ends = match family {
        TCP4 | TCP6 => ends(addresses),
        _ => None,
    };
    Ok(Some((whole.len(), ends)))
}

/// Reads bytes as a PROXY header, as fuzzing does.
///
/// # Panics
/// If a header depends on what follows it, or is taken for complete before it is.
pub fn exercise_proxy_header(bytes: &[u8]) {
    if let Ok(Some((length, ends))) = parse(bytes) {
        let alone = parse(&bytes[..length]).ok();
        assert_eq!(alone, Some(Some((length, ends))));
        assert_eq!(parse(&bytes[..length - 1]).ok(), Some(None));
    }
}

/// Two addresses of one kind, then two ports.
fn ends(bytes: &[u8]) -> Option<ConnectionEnds> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let address = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(ConnectionEnds {
        source: SocketAddr::new(address(source)?, port(0)),
        destination: SocketAddr::new(address(destination)?, port(2)),
    })
}

/// Walks over the pieces of a header; a checksum among them has to be right.
fn look_through(whole: &[u8], mut pieces: &[u8]) -> io::Result<()> {
    while let Some((&kind, rest)) = pieces.split_first() {
        let cut = || invalid("a PROXY header with a piece cut off");
        let (length, rest) = rest.split_at_checked(2).ok_or_else(cut)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        if kind == CRC32C {
            // The checksum is of the header with zeros in its place (PROXY protocol, section 2.2.3).
            let at = whole.len() - rest.len() - value.len();
            let mut blank = whole.to_vec();
            blank[at..at + value.len()].fill(0);
            if value != crc32c(&blank).to_be_bytes() {
                return Err(invalid("a PROXY header with a wrong checksum"));
            }
        }
        pieces = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), which few headers have: bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// Version 1 (PROXY protocol, section 2.1).
fn line(bytes: &[u8]) -> io::Result<Option<(usize, Option<ConnectionEnds>)>> {
    let within = &bytes[..bytes.len().min(LINE)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return match within.len() < LINE {
            true => Ok(None),
            false => Err(invalid("a PROXY line that is too long")),
        };
    };
    let wrong = || invalid("a PROXY line that cannot be read");
    let text = std::str::from_utf8(&within[..end]).map_err(|_| wrong())?;
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Some((end + 2, None)));
    }
    let mut word = || words.next().ok_or_else(wrong);
    let (source, destination) = (word()?, word()?);
    let (from, to) = (port(word()?), port(word()?));
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let both = address(source).zip(address(destination)).zip(from.zip(to));
    let Some(((source, destination), (from, to))) = both.filter(|_| words.next().is_none()) else {
        return Err(wrong());
    };
    let ends = ConnectionEnds {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    };
    Ok(Some((end + 2, Some(ends))))
}

/// Digits without a sign or a zero before them.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// The header that tells an endpoint whose connection it is; without `ends` it is our own.
#[must_use]
pub fn proxy_header(
    version: ProxyVersion,
    ends: Option<ConnectionEnds>,
    known: Known<'_>,
) -> Vec<u8> {
    match (version, ends) {
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V1, Some(ends)) => {
            let (source, destination) = (ends.source, ends.destination);
            let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
            let text = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => format!("TCP4 {from} {to}"),
                (from, to) => format!("TCP6 {} {}", six(from), six(to)),
            };
            format!("PROXY {text} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        (ProxyVersion::V2, None) => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
        (ProxyVersion::V2, Some(ends)) => binary(ends, known),
    }
}

fn binary(ends: ConnectionEnds, known: Known<'_>) -> Vec<u8> {
    let (source, destination) = (ends.source, ends.destination);
    let mut rest = Vec::with_capacity(64);
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let family = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            rest.extend_from_slice(&from.octets());
            rest.extend_from_slice(&to.octets());
            TCP4
        }
        (from, to) => {
            rest.extend_from_slice(&six(from).octets());
            rest.extend_from_slice(&six(to).octets());
            TCP6
        }
    };
    rest.extend_from_slice(&source.port().to_be_bytes());
    rest.extend_from_slice(&destination.port().to_be_bytes());
    if let Some(name) = known.server_name {
        put(&mut rest, AUTHORITY, name.as_bytes());
    }
    if let Some(common_name) = known.certified {
        // Flags, then 0: its certificate was verified.
        let mut ssl = vec![SSL_FLAGS, 0, 0, 0, 0];
        // This field is the common name of the certificate (PROXY protocol, section 2.2.6), and no other kind of name.
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

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
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
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn both(source: &str, destination: &str) -> ConnectionEnds {
        ConnectionEnds {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn samples() -> Vec<(Vec<u8>, Option<ConnectionEnds>)> {
        let four = both("10.0.0.1:4660", "10.0.0.2:1883");
        let six = both("[2001:db8::1]:1", "[::1]:65535");
        let known = Known {
            server_name: Some("a"),
            certified: Some(Some("dev")),
        };
        let mut all = Vec::new();
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for ends in [None, Some(four), Some(six)] {
                all.push((proxy_header(version, ends, known), ends));
            }
        }
        // With words that mean nothing after it.
        all.push((b"PROXY UNKNOWN ff:: 1 2 3\r\n".to_vec(), None));
        // Of a UNIX socket.
        let unix = [&SIGNATURE[..], &[PROXY, 0x31, 0, 216], &[7; 216]].concat();
        all.push((unix, None));
        // With a checksum.
        let mut checked = proxy_header(ProxyVersion::V2, Some(four), Known::default());
        checked[15] += 7;
        checked.extend_from_slice(&[CRC32C, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c(&checked).to_be_bytes();
        let at = checked.len() - 4;
        checked[at..].copy_from_slice(&sum);
        all.push((checked, Some(four)));
        all
    }

    #[test]
    fn it_is_as_the_paper_draws_it() {
        let four = both("10.0.0.1:4660", "10.0.0.2:1883");
        let plain = proxy_header(ProxyVersion::V2, Some(four), Known::default());
        assert_eq!(plain[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(plain[16..], [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 7, 91]);
        let known = Known {
            server_name: Some("a"),
            certified: Some(Some("dev")),
        };
        let known = proxy_header(ProxyVersion::V2, Some(four), known);
        assert_eq!(
            known[28..],
            *b"\x02\0\x01a\x20\0\x0b\x03\0\0\0\0\x22\0\x03dev"
        );
        let text = proxy_header(ProxyVersion::V1, Some(four), Known::default());
        assert_eq!(text, b"PROXY TCP4 10.0.0.1 10.0.0.2 4660 1883\r\n");
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_written_is_read_back_however_it_is_cut() {
        for (header, ends) in samples() {
            for length in 0..header.len() {
                let cut = parse(&header[..length]).unwrap();
                assert_eq!(cut, None, "{length} of {header:?}");
            }
            let mut more = header.clone();
            more.extend_from_slice(b"hello, whoever you are\r\n");
            assert_eq!(parse(&more).unwrap(), Some((header.len(), ends)));
        }
    }

    #[test]
    fn what_is_none_is_refused_and_nothing_panics() {
        let long = [WORD, &[b' '; 200]].concat();
        let cut = [&SIGNATURE[..], &[PROXY, TCP4, 0, 11], &[0; 11]].concat();
        let piece = [&SIGNATURE[..], &[PROXY, TCP4, 0, 14], &[0; 14]].concat();
        let huge = [&SIGNATURE[..], &[PROXY, TCP4, 255, 255]].concat();
        let version = [&SIGNATURE[..], &[0x11, TCP4, 0, 12], &[0; 12]].concat();
        let command = [&SIGNATURE[..], &[0x22, TCP4, 0, 12], &[0; 12]].concat();
        let family = [&SIGNATURE[..], &[PROXY, 0x41, 0, 12], &[0; 12]].concat();
        for wrong in [
            &b"hello, whoever you are\r\n"[..],
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY \r\n",
            &long,
            &cut,
            &piece,
            &huge,
            &version,
            &command,
            &family,
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for (header, _) in samples() {
            for at in 0..header.len() * 8 {
                let mut flipped = header.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                let _ = parse(&flipped);
            }
        }
        // A checksum that is wrong.
        let (mut checked, _) = samples().pop().unwrap();
        checked[16] ^= 1;
        assert!(parse(&checked).is_err());
    }
}
