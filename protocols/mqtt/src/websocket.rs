//! The server's side of WebSocket (RFC 6455), as far as MQTT needs it (MQTT 5, section 6): binary
//! messages, whose borders mean nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use finback_core::net::Socket;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a server's answer proves to have read the client's key by (section 1.3).
const PROOF: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A request's head is no longer.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// The longest payload of a control frame (section 5.5).
const MAX_CONTROL: usize = 125;
/// The longest header of a frame: 2 bytes, 8 of length, 4 of mask.
const MAX_HEADER: usize = 14;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Reads a request and answers it, in as much time as the caller gives; what of the connection was read beyond it is left in `head`.
///
/// # Errors
/// What is to be logged; the client has got its answer.
pub(crate) async fn shake_hands(
    socket: &mut Socket,
    head: &mut BytesMut,
) -> Result<(), &'static str> {
    let (length, answer) = loop {
        match answer(head) {
            Some(Ok((length, answer))) => break (length, answer),
            Some(Err((status, why))) => {
                let text = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
                     sec-websocket-version: 13\r\nconnection: close\r\n\r\n{why}\n",
                    why.len() + 1
                );
                let _ = socket.write_all(text.as_bytes()).await;
                let _ = socket.shutdown().await;
                return Err(why);
            }
            None => {}
        }
        match socket.read_buf(head).await {
            Ok(n) if n > 0 => {}
            _ => return Err("the client went away within its request for a WebSocket"),
        }
    };
    head.advance(length);
    let answered = socket.write_all(answer.as_bytes()).await;
    answered.map_err(|_| "the client did not take the answer to its request for a WebSocket")
}

type Refused = (&'static str, &'static str);

/// The answer to a request and the request's length; `None` if bytes are missing.
fn answer(bytes: &[u8]) -> Option<Result<(usize, String), Refused>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return None,
        _ => return Some(Err(("400 Bad Request", "the request cannot be read"))),
    };
    let header = |name: &str| {
        let found = request
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let lists = |name: &str, word: &str| {
        header(name).is_some_and(|list| {
            list.split(',')
                .any(|item| item.trim().eq_ignore_ascii_case(word))
        })
    };
    if request.method != Some("GET")
        || !lists("upgrade", "websocket")
        || !lists("connection", "upgrade")
    {
        let why = "MQTT is spoken here, over TCP or WebSocket";
        return Some(Err(("426 Upgrade Required", why)));
    }
    if header("sec-websocket-version").map(str::trim) != Some("13") {
        let why = "only version 13 of WebSocket is spoken here";
        return Some(Err(("426 Upgrade Required", why)));
    }
    let Some(key) = header("sec-websocket-key") else {
        return Some(Err((
            "400 Bad Request",
            "the request has no Sec-WebSocket-Key",
        )));
    };
    // The standard's name, and the one from before it was settled.
    let Some(spoken) = ["mqtt", "mqttv3.1"]
        .into_iter()
        .find(|name| lists("sec-websocket-protocol", name))
    else {
        let why = "the subprotocol must be mqtt";
        return Some(Err(("400 Bad Request", why)));
    };
    let mut hash = Sha1::new();
    hash.update(key.trim().as_bytes());
    hash.update(PROOF);
    let accept = STANDARD.encode(hash.finalize());
    Some(Ok((
        length,
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {spoken}\r\n\r\n"
        ),
    )))
}

/// One connection's state between two reads.
#[derive(Debug, Default)]
pub(crate) struct WebSocket {
    header: [u8; MAX_HEADER],
    header_length: usize,
    /// Payload of the frame that is still to come.
    left: u64,
    opcode: u8,
    mask: [u8; 4],
    masked: usize,
    control: Vec<u8>,
    /// Frames that answer the client's: pongs, a close.
    pub(crate) answers: Vec<u8>,
    pub(crate) closed: bool,
}

/// Bytes that are no frames a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(&'static str);

impl From<Broken> for std::io::Error {
    fn from(Broken(why): Broken) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, why)
    }
}

impl WebSocket {
    /// Takes frames off `bytes`: moves what they carry to the front, and says how much it is.
    pub(crate) fn unwrap(&mut self, bytes: &mut [u8]) -> Result<usize, Broken> {
        let (mut read, mut written) = (0, 0);
        while read < bytes.len() && !self.closed {
            if self.left == 0 {
                self.header[self.header_length] = bytes[read];
                self.header_length += 1;
                read += 1;
                self.begin()?;
                continue;
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let length = left.min(bytes.len() - read);
            unmask(&mut bytes[read..read + length], self.mask, self.masked);
            self.masked = (self.masked + length) % 4;
            self.left -= length as u64;
            if self.opcode >= CLOSE {
                self.control.extend_from_slice(&bytes[read..read + length]);
            } else {
                bytes.copy_within(read..read + length, written);
                written += length;
            }
            read += length;
            if self.left == 0 {
                self.end();
            }
        }
        Ok(written)
    }

    /// Looks at a header, of which a byte more has come.
    fn begin(&mut self) -> Result<(), Broken> {
        let header = &self.header[..self.header_length];
        let &[first, second, ref rest @ ..] = header else {
            return Ok(());
        };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if second & 0x80 == 0 {
            return Err(Broken("a client's frame without a mask"));
        }
        if first & 0x70 != 0 {
            return Err(Broken("a frame with reserved bits"));
        }
        if rest.len() < extended + 4 {
            return Ok(());
        }
        let (length, mask) = rest.split_at(extended);
        self.left = match length {
            [] => u64::from(second & 0x7f),
            more => more.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.mask.copy_from_slice(mask);
        self.masked = 0;
        self.header_length = 0;
        self.opcode = first & 0x0f;
        match self.opcode {
            CONTINUATION | BINARY => {}
            CLOSE | PING | PONG if first & 0x80 == 0 || self.left > MAX_CONTROL as u64 => {
                return Err(Broken("a control frame that is too long, or cut up"));
            }
            CLOSE | PING | PONG => {}
            1 => return Err(Broken("a message of text; MQTT is binary")),
            _ => return Err(Broken("a frame that there is not")),
        }
        if self.left == 0 {
            self.end();
        }
        Ok(())
    }

    fn end(&mut self) {
        match self.opcode {
            PING => frame(&mut self.answers, PONG, &self.control),
            CLOSE => {
                frame(
                    &mut self.answers,
                    CLOSE,
                    self.control.get(..2).unwrap_or_default(),
                );
                self.closed = true;
            }
            _ => {}
        }
        self.control.clear();
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let mut turned = mask;
    turned.rotate_left(at);
    let word = u32::from_ne_bytes(turned);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for each in words {
        *each = (u32::from_ne_bytes(*each) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned) {
        *byte ^= key;
    }
}

fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let (header, length) = header(opcode, payload.len());
    out.extend_from_slice(&header[..length]);
    out.extend_from_slice(payload);
}

fn header(opcode: u8, payload: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x80 | opcode;
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short), _) if short < 126 => {
            header[1] = short;
            (header, 2)
        }
        (_, Ok(middle)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&middle.to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            (header, 10)
        }
    }
}

/// Appends what a server sends as one binary message.
pub(crate) fn wrap(out: &mut BytesMut, payload: &[u8]) {
    let (header, length) = header(BINARY, payload.len());
    out.extend_from_slice(&header[..length]);
    out.extend_from_slice(payload);
}

/// A frame that ends the connection: nothing more is to come (section 7.4.1).
pub(crate) const GOODBYE: [u8; 4] = [0x80 | CLOSE, 2, 0x03, 0xe8];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let (mut head, length) = header(first & 0x0f, payload.len());
        head[0] = first;
        head[1] |= 0x80;
        let mut bytes = head[..length].to_vec();
        let mask = [1, 2, 3, 4];
        bytes.extend_from_slice(&mask);
        let from = bytes.len();
        bytes.extend_from_slice(payload);
        unmask(&mut bytes[from..], mask, 0);
        bytes
    }

    #[test]
    fn what_frames_carry_is_found_however_they_are_cut() {
        let long = vec![7; 70_000];
        let whole = [
            masked(0x02, b"hel"),
            masked(0x89, b"are you there"),
            masked(0x80, b"lo"),
            masked(0x82, &[9; 300]),
            masked(0x82, &long),
            masked(0x88, &[3, 0xe8]),
        ]
        .concat();
        let expected = [b"hello".to_vec(), vec![9; 300], long].concat();
        for size in [1, 2, 3, 7, 64, 1000, whole.len()] {
            let mut socket = WebSocket::default();
            let mut found = Vec::new();
            for piece in whole.chunks(size) {
                let mut piece = piece.to_vec();
                let length = socket.unwrap(&mut piece).unwrap();
                found.extend_from_slice(&piece[..length]);
            }
            assert_eq!(found, expected, "{size}");
            assert!(socket.closed);
            assert_eq!(socket.answers[..15], *b"\x8a\x0dare you there");
            assert_eq!(socket.answers[15..], [0x88, 2, 3, 0xe8]);
        }
    }

    #[test]
    fn what_no_client_sends_is_refused() {
        let unmasked = [0x82, 1, 0];
        let text = masked(0x81, b"hi");
        let long_ping = masked(0x89, &[0; 126]);
        let reserved = masked(0xc2, b"x");
        let unknown = masked(0x83, b"x");
        for bytes in [&unmasked[..], &text, &long_ping, &reserved, &unknown] {
            assert!(WebSocket::default().unwrap(&mut bytes.to_vec()).is_err());
        }
    }

    #[test]
    fn the_handshake_is_that_of_the_standard() {
        // Section 1.3 gives this key and its answer.
        let request = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
            Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\nrest";
        let (length, text) = answer(request).unwrap().unwrap();
        assert_eq!(length, request.len() - 4);
        assert!(text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(text.contains("sec-websocket-protocol: mqtt\r\n"));
        for length in 0..request.len() - 4 {
            assert!(answer(&request[..length]).is_none());
        }
        let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(
            answer(plain).unwrap().unwrap_err().0,
            "426 Upgrade Required"
        );
    }
}
