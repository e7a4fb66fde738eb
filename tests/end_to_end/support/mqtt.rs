//! A client of MQTT that says bytes, and what it hears.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
pub(crate) struct Raw(pub(crate) TcpStream);

/// A text with its length before it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// A packet of this first byte and body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap();
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// A CONNECT of this version (4 or 5), identifier, and user with password.
pub(crate) fn connect(version: u8, id: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    connect_with(version, id, user, &[])
}

/// The same with properties.
pub(crate) fn connect_with(
    version: u8,
    id: &str,
    user: Option<(&str, &str)>,
    properties: &[u8],
) -> Vec<u8> {
    let flags = if user.is_some() { 0xc2 } else { 2 };
    let mut body = [&text("MQTT")[..], &[version, flags, 0, 60]].concat();
    if version == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(&text(id));
    if let Some((user, password)) = user {
        body.extend_from_slice(&text(user));
        body.extend_from_slice(&text(password));
    }
    packet(0x10, &body)
}

impl Raw {
    /// Connects, and says this first.
    pub(crate) fn open(address: &str, first: &[u8]) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self(stream);
        raw.say(first);
        raw
    }

    /// The same, once it was accepted.
    pub(crate) fn session(address: &str, first: &[u8]) -> Self {
        let mut raw = Self::open(address, first);
        let connack = raw.hear().unwrap();
        assert_eq!((connack[0], reason(&connack)), (0x20, 0), "{connack:?}");
        raw
    }

    /// Says this.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next packet; `None` if the connection ended.
    pub(crate) fn hear(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![self.byte()?];
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            bytes.push(byte);
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        bytes.extend_from_slice(&body);
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.0.read_exact(&mut byte) {
            Ok(()) => Some(byte[0]),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing was heard: {error}"),
        }
    }

    /// Whether nothing is heard for so long.
    pub(crate) fn waits_in_vain(&mut self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).unwrap();
        let began = Instant::now();
        let heard = self.0.peek(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        heard.is_err() && began.elapsed() >= time / 2
    }
}

/// The reason in a packet whose second byte of the body it is (CONNACK), or whose first (DISCONNECT).
pub(crate) fn reason(packet: &[u8]) -> u8 {
    match packet[0] {
        0xe0 => packet.get(2).copied().unwrap_or(0),
        _ => packet[3],
    }
}
