//! The server's side of WebSocket (RFC 6455), as far as MQTT needs it (MQTT 5, section 6): binary
//! messages, whose borders mean nothing.

mod handshake;

use bytes::BytesMut;

pub(crate) use handshake::{Door, shake_hands};

/// The longest payload of a control frame (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;
/// The longest header of a frame: 2 bytes, 8 of length, 4 of mask.
const MAX_HEADER: usize = 14;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a connection is closed (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Nothing more is to come.
    Normal = 1000,
    /// We are going away.
    Going = 1001,
    /// Bytes that no client sends.
    Protocol = 1002,
    /// A kind of message that is not taken here.
    Unacceptable = 1003,
    /// Policy forbids it.
    Policy = 1008,
    /// A message over the limit.
    TooLarge = 1009,
}

/// One connection's state between two reads.
#[derive(Debug, Default)]
pub(crate) struct WebSocket {
    header: [u8; MAX_HEADER],
    header_length: usize,
    /// Payload of the frame that is still to come.
    left: u64,
    opcode: u8,
    /// The frame under way is the last of its message.
    last: bool,
    /// A message is under way, of which more frames are to come.
    fragmented: bool,
    mask: [u8; 4],
    masked: usize,
    control: Vec<u8>,
    /// Frames that answer the client's: pongs, a close.
    pub(crate) answers: Vec<u8>,
    /// The peer said Close, and was answered, or we did: no frame may follow ours (RFC 6455, section 5.5.1).
    pub(crate) closed: bool,
    /// The peer sent what no client sends: nothing of it is read any more.
    pub(crate) broken: Option<Broken>,
}

/// Bytes that are no frames a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) close: Close,
    pub(crate) why: &'static str,
}

const fn broken(why: &'static str) -> Broken {
    let close = Close::Protocol;
    Broken { close, why }
}

impl From<Broken> for std::io::Error {
    fn from(Broken { why, .. }: Broken) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, why)
    }
}

impl WebSocket {
    /// Takes frames off `bytes`: moves what they carry to the front, and says how much it is. Where
    /// they end in nonsense, or by a Close, what stands before it counts.
    pub(crate) fn unwrap(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut written) = (0, 0);
        while read < bytes.len() && !self.closed && self.broken.is_none() {
            if self.left == 0 {
                self.header[self.header_length] = bytes[read];
                self.header_length += 1;
                read += 1;
                if let Err(why) = self.begin() {
                    self.broken = Some(why);
                }
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
        written
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
            return Err(broken("a client's frame without a mask"));
        }
        if first & 0x70 != 0 {
            return Err(broken("a frame with reserved bits"));
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
        self.last = first & 0x80 != 0;
        self.check()?;
        if self.left == 0 {
            self.end();
        }
        Ok(())
    }

    /// Whether the frame that begins may stand here.
    fn check(&self) -> Result<(), Broken> {
        // The highest bit of a length is 0 (RFC 6455, section 5.2).
        if self.left >> 63 != 0 {
            return Err(broken("a frame whose length cannot be"));
        }
        match self.opcode {
            CONTINUATION if self.fragmented => Ok(()),
            CONTINUATION => Err(broken("a frame that continues no message")),
            TEXT | BINARY if self.fragmented => {
                Err(broken("a message within another that is not whole"))
            }
            BINARY => Ok(()),
            // MQTT is binary (MQTT 5, section 6).
            TEXT => Err(Broken {
                close: Close::Unacceptable,
                why: "a message of text; MQTT is binary",
            }),
            CLOSE | PING | PONG if !self.last || self.left > MAX_CONTROL as u64 => {
                Err(broken("a control frame that is too long, or cut up"))
            }
            CLOSE if self.left == 1 => Err(broken("a Close with half a code")),
            CLOSE | PING | PONG => Ok(()),
            _ => Err(broken("a frame that there is not")),
        }
    }

    fn end(&mut self) {
        match self.opcode {
            PING => frame(&mut self.answers, PONG, &self.control),
            CLOSE => {
                match self.control.first_chunk() {
                    Some(code) if !is_code(u16::from_be_bytes(*code)) => {
                        self.broken = Some(broken("a Close with a code that there is not"));
                    }
                    // The code is given back (RFC 6455, section 5.5.1).
                    code => {
                        let code = code.map_or(&[][..], |code| &code[..]);
                        frame(&mut self.answers, CLOSE, code);
                        self.closed = true;
                    }
                }
            }
            PONG => {}
            _ => self.fragmented = !self.last,
        }
        self.control.clear();
    }

    /// Has the connection closed with a code, unless it is already.
    pub(crate) fn close(&mut self, out: &mut BytesMut, close: Close) {
        if self.closed {
            return;
        }
        self.closed = true;
        let close = self.broken.map_or(close, |own| own.close);
        let [high, low] = (close as u16).to_be_bytes();
        out.extend_from_slice(&[0x80 | CLOSE, 2, high, low]);
    }
}

/// Whether a peer may send this code (RFC 6455, section 7.4).
fn is_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
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

#[cfg(test)]
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
                let length = socket.unwrap(&mut piece);
                found.extend_from_slice(&piece[..length]);
            }
            assert_eq!(found, expected, "{size}");
            assert!(socket.closed);
            assert_eq!(socket.answers[..15], *b"\x8a\x0dare you there");
            assert_eq!(socket.answers[15..], [0x88, 2, 3, 0xe8]);
            // Nothing may follow a Close.
            let mut out = BytesMut::new();
            socket.close(&mut out, Close::Normal);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn what_no_client_sends_ends_with_the_code_of_the_standard_and_what_came_before_counts() {
        let half = masked(0x02, b"a");
        let cases: [(&str, Vec<u8>, u16); 12] = [
            ("no mask", vec![0x82, 1, 0], 1002),
            ("text", masked(0x81, b"hi"), 1003),
            ("a long ping", masked(0x89, &[0; 126]), 1002),
            ("a ping in pieces", masked(0x09, b"a"), 1002),
            ("reserved bits", masked(0xc2, b"x"), 1002),
            ("an unknown opcode", masked(0x83, b"x"), 1002),
            ("nothing to continue", masked(0x80, b"x"), 1002),
            (
                "a message in a message",
                [half.clone(), masked(0x82, b"b")].concat(),
                1002,
            ),
            (
                "text in a message",
                [half, masked(0x81, b"b")].concat(),
                1002,
            ),
            (
                "a length beyond all",
                b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
                1002,
            ),
            ("half a code", masked(0x88, &[3]), 1002),
            ("a code that is reserved", masked(0x88, &[3, 0xed]), 1002),
        ];
        for (what, bytes, code) in cases {
            let mut socket = WebSocket::default();
            let mut bytes = [masked(0x82, b"before"), bytes].concat();
            let length = socket.unwrap(&mut bytes);
            assert_eq!(&bytes[..6.min(length)], b"before", "{what}");
            let mut out = BytesMut::new();
            socket.close(&mut out, Close::Normal);
            let [high, low] = code.to_be_bytes();
            assert_eq!(out[..], [0x88, 2, high, low], "{what}");
        }
    }
}
