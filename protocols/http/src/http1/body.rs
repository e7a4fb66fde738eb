//! Message bodies: where they end (RFC 9112, sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{self, Fault};

/// The longest line that tells a chunk's size, in bytes.
const SIZE_LINE: usize = 256;
/// Trailers, at most, in bytes.
const TRAILERS: usize = 16 * 1024;
/// Small chunks are put together up to this, in bytes.
const TOGETHER: usize = 16 * 1024;

/// How far a body was read.
#[derive(Debug, Default)]
pub(super) enum Decode {
    /// It has ended, or there is none.
    #[default]
    Done,
    /// So many bytes are to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunk),
    /// Until the connection ends.
    Close,
}

/// Where in a chunk.
#[derive(Debug)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    /// After its data.
    End,
    Trailers,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More is to be read first.
    More,
}

impl Decode {
    pub(super) fn length(length: u64) -> Self {
        match length {
            0 => Self::Done,
            _ => Self::Length(length),
        }
    }

    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes what is there.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Fault> {
        match self {
            Self::Done => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::More),
            Self::Close => Ok(Piece::Data(input.split().freeze())),
            Self::Length(rest) => {
                let data = split(input, rest);
                if *rest == 0 {
                    *self = Self::Done;
                }
                Ok(Piece::Data(data))
            }
            Self::Chunked(_) => self.take_chunks(input),
        }
    }

    fn take_chunks(&mut self, input: &mut BytesMut) -> Result<Piece, Fault> {
        let mut first = Bytes::new();
        let mut together = BytesMut::new();
        while let Self::Chunked(chunk) = self {
            let length = first.len() + together.len();
            let trailers = matches!(chunk, Chunk::Trailers) && !input.starts_with(b"\r\n");
            // What came before them is passed on first.
            if trailers && length > 0 {
                break;
            }
            let data = match chunk.step(input) {
                Ok(Step::Data(data)) => data,
                Ok(Step::On) => continue,
                Ok(Step::Trailers(trailers)) => {
                    *self = Self::Done;
                    return Ok(Piece::Trailers(trailers));
                }
                Ok(Step::End) => {
                    *self = Self::Done;
                    break;
                }
                Ok(Step::More) => break,
                Err(fault) if length == 0 => return Err(fault),
                // It is found again when what came before it was passed on.
                Err(_) => break,
            };
            if length == 0 {
                first = data;
            } else {
                if together.is_empty() {
                    together.extend_from_slice(&std::mem::take(&mut first));
                }
                together.extend_from_slice(&data);
            }
            if length + first.len() > TOGETHER || input.is_empty() {
                break;
            }
        }
        if !together.is_empty() {
            first = together.freeze();
        }
        Ok(match (first.is_empty(), &self) {
            (false, _) => Piece::Data(first),
            (true, Self::Done) => Piece::End,
            _ => Piece::More,
        })
    }
}

/// The next bytes, as many as there are and belong to it.
fn split(input: &mut BytesMut, rest: &mut u64) -> Bytes {
    let length = usize::try_from(*rest)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *rest -= length as u64;
    input.split_to(length).freeze()
}

enum Step {
    Data(Bytes),
    On,
    Trailers(HeaderMap),
    End,
    More,
}

impl Chunk {
    fn step(&mut self, input: &mut BytesMut) -> Result<Step, Fault> {
        match self {
            Self::Size => {
                // RFC 9112, section 7.1.1: extensions are bounded, and mean nothing to us.
                let window = &input[..input.len().min(SIZE_LINE)];
                let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
                    return match window.len() < SIZE_LINE {
                        true => Ok(Step::More),
                        false => Err(Fault::TooLarge),
                    };
                };
                let size = size(&input[..end])?;
                input.advance(end + 1);
                *self = match size {
                    0 => Self::Trailers,
                    _ => Self::Data(size),
                };
                Ok(Step::On)
            }
            Self::Data(rest) => {
                if input.is_empty() {
                    return Ok(Step::More);
                }
                let data = split(input, rest);
                if *rest == 0 {
                    *self = Self::End;
                }
                Ok(Step::Data(data))
            }
            Self::End => match input.get(..2) {
                None => Ok(Step::More),
                // RFC 9112, section 7.1: CRLF follows the data of a chunk.
                Some(b"\r\n") => {
                    input.advance(2);
                    *self = Self::Size;
                    Ok(Step::On)
                }
                Some(_) => Err(Fault::Malformed),
            },
            Self::Trailers => {
                if input.starts_with(b"\r\n") {
                    input.advance(2);
                    return Ok(Step::End);
                }
                match head::trailers(input)? {
                    Some((trailers, length)) => {
                        input.advance(length);
                        Ok(Step::Trailers(trailers))
                    }
                    None if input.len() > TRAILERS => Err(Fault::TooLarge),
                    None => Ok(Step::More),
                }
            }
        }
    }
}

/// The size in a line without its end. What others might read differently is refused.
fn size(line: &[u8]) -> Result<u64, Fault> {
    // RFC 9112, section 7.1: digits, maybe an extension, CRLF.
    let line = line.strip_suffix(b"\r").ok_or(Fault::Malformed)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let digits = digits.count();
    let (number, extension) = line.split_at(digits);
    let blank = extension
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t'));
    let begins = blank.is_none_or(|at| extension[at] == b';');
    let printable = extension.iter().all(|&byte| byte >= b' ' || byte == b'\t');
    if !(1..=15).contains(&digits) || !begins || !printable {
        return Err(Fault::Malformed);
    }
    let text = std::str::from_utf8(number).map_err(|_| Fault::Malformed)?;
    u64::from_str_radix(text, 16).map_err(|_| Fault::Malformed)
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encode {
    /// Not at all: the head is all there is.
    Nothing,
    /// So many bytes are to come.
    Length(u64),
    Chunked,
    /// Until the connection ends.
    Close,
}

impl Encode {
    /// Writes what stands before a piece; false if the body may not have so much.
    pub(super) fn before(&mut self, length: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Length(rest) => match rest.checked_sub(length as u64) {
                Some(less) => {
                    *rest = less;
                    true
                }
                None => false,
            },
            Self::Chunked => {
                put_hex(length, out);
                out.extend_from_slice(b"\r\n");
                true
            }
            Self::Close => true,
        }
    }

    /// What stands after a piece.
    pub(super) fn after(self) -> &'static [u8] {
        match self {
            Self::Chunked => b"\r\n",
            Self::Nothing | Self::Length(_) | Self::Close => b"",
        }
    }

    /// Whether nothing of what was promised is missing.
    pub(super) fn is_whole(self) -> bool {
        !matches!(self, Self::Length(1..))
    }

    /// Writes what ends the body; false if some of it is missing.
    pub(super) fn end(self, trailers: Option<&HeaderMap>, out: &mut Vec<u8>) -> bool {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n");
            head::put_trailers(trailers, out);
        }
        self.is_whole()
    }
}

fn put_hex(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number & 15];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Reads a chunked body that comes in pieces of this size.
    fn read(text: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Fault> {
        let mut decode = Decode::chunked();
        let (mut data, mut trailers) = (Vec::new(), None);
        let mut input = BytesMut::new();
        let mut fed = 0;
        loop {
            match decode.take(&mut input)? {
                Piece::Data(piece) => data.extend_from_slice(&piece),
                Piece::Trailers(own) => trailers = Some(own),
                Piece::End => return Ok((data, trailers, fed - input.len())),
                Piece::More if fed == text.len() => return Err(Fault::TooLarge),
                Piece::More => {
                    let end = (fed + step).min(text.len());
                    input.extend_from_slice(&text[fed..end]);
                    fed = end;
                }
            }
        }
    }

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        let text = b"5\r\nhello\r\n1;x=\"y\"\r\n \r\n00A \r\n0123456789\r\n0\r\nX: y\r\n\r\nrest";
        for step in 1..=text.len() {
            let (data, trailers, used) = read(text, step).unwrap();
            assert_eq!(data, b"hello 0123456789", "{step}");
            assert_eq!(trailers.unwrap()["x"], "y");
            assert_eq!(used, text.len() - 4, "{step}");
        }
        let (data, trailers, _) = read(b"0\r\n\r\n", 1).unwrap();
        assert!(data.is_empty() && trailers.is_none());
    }

    #[test]
    fn small_chunks_are_put_together() {
        let text = [&b"1\r\nx\r\n".repeat(1000)[..], b"0\r\n\r\n"].concat();
        let mut input = BytesMut::from(&text[..]);
        let mut decode = Decode::chunked();
        let Piece::Data(data) = decode.take(&mut input).unwrap() else {
            panic!("no data");
        };
        assert_eq!(data.len(), 1000);
        assert!(decode.is_done() && input.is_empty());
    }

    #[test]
    fn chunks_that_could_be_read_in_two_ways_are_refused() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhelloX0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5 x\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nbad header\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\r\n\n",
            b"0\n\r\n",
        ] {
            let shown = String::from_utf8_lossy(bad);
            assert_eq!(
                read(bad, bad.len()).err(),
                Some(Fault::Malformed),
                "{shown}"
            );
        }
        let long = format!("5;{}\r\n", "x".repeat(SIZE_LINE));
        assert!(read(long.as_bytes(), 7).is_err());
    }

    #[test]
    fn a_body_is_no_longer_and_no_shorter_than_was_said() {
        let mut out = Vec::new();
        let mut encode = Encode::Length(5);
        assert!(encode.before(3, &mut out) && !encode.end(None, &mut out));
        assert!(!encode.before(3, &mut out));
        assert!(encode.before(2, &mut out) && encode.end(None, &mut out));
        assert!(out.is_empty());
        let mut encode = Encode::Chunked;
        assert!(encode.before(0xabc, &mut out));
        assert_eq!(out, b"abc\r\n");
    }
}
