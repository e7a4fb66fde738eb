//! HTTP/1.1 in a world: messages as clients and servers write and find them.
//!
//! A call's host is its service, one header its token, another one the length of its body; which bytes the body has
//! follows from the token. Answers come in the order of calls, and nothing else tells whose they are.

mod client;
mod server;
mod watched;

use finback_core::rejection::Rejection;

use super::chance::Chance;
use super::tongue::{number_in, token};

pub(super) use client::{Due, Order};
pub(super) use server::Doings;
pub(super) use watched::protocol;

/// The header that has the token, and that which has the body's length.
pub(super) const TOKEN: &str = "x-token";
pub(super) const LENGTH: &str = "x-length";
/// When messages are, in every world: what the time is would change how long a head is in HTTP/2.
pub(super) const DATE: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
/// Where a head ends.
const END: &[u8] = b"\r\n\r\n";
/// Methods of requests with a body, and whether they may be sent again (RFC 9110, section 9.2.2).
pub(super) const METHODS: [(&str, bool); 3] = [("POST", false), ("PATCH", false), ("PUT", true)];

/// How it is told where a body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    /// By the end of the connection.
    Close,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Request,
    /// With its status.
    Response(u16),
}

/// A message that has come.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) start: Start,
    /// Whose token it has.
    pub(super) number: Option<usize>,
    /// It is the last of its connection.
    pub(super) closes: bool,
    /// Its body is that of the token's owner, from its first byte to its last.
    pub(super) is_whole: bool,
}

/// A call, and whether it may be sent again whatever its route says.
fn request(chance: &mut Chance, number: usize, service: &str, padding: usize) -> (Vec<u8>, bool) {
    let (method, is_safe, length) = match chance.between(0, 4) {
        0 => ("GET", true, 0),
        1 => ("DELETE", true, 0),
        _ => {
            let (method, is_safe) = chance.pick(&METHODS);
            (method, is_safe, padding)
        }
    };
    let framing = match length {
        0 => Framing::Length,
        _ => chance.pick(&[Framing::Length, Framing::Length, Framing::Chunked]),
    };
    let begin = format!("{method} /call HTTP/1.1\r\nhost: {service}\r\n");
    let bytes = message(chance, &begin, (number, length), framing);
    (bytes, is_safe)
}

/// A head that does not come to its end.
pub(super) fn endless(length: usize) -> Vec<u8> {
    format!("GET /call HTTP/1.1\r\nx-much: {}", ".".repeat(length)).into_bytes()
}

fn message(
    chance: &mut Chance,
    begin: &str,
    (number, length): (usize, usize),
    framing: Framing,
) -> Vec<u8> {
    let mut out = begin.as_bytes().to_vec();
    out.extend_from_slice(TOKEN.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(&token(number));
    out.extend_from_slice(format!("\r\n{LENGTH}: {length}\r\n").as_bytes());
    let body = body(number, length);
    match framing {
        Framing::Length => {
            out.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            out.extend_from_slice(&body);
        }
        Framing::Close => {
            out.extend_from_slice(b"connection: close\r\n\r\n");
            out.extend_from_slice(&body);
        }
        Framing::Chunked => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            let most = chance.pick(&[7, 300, 9000, 70_000]);
            // A few thousand chunks tell as much as more would.
            for piece in body.chunks(most.max(length / 1000 + 1)) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
    out
}

/// Why the mesh refused a call, as far as it matters: nobody else answers without a token.
pub(super) fn refusal(owner: Option<usize>, status: u16) -> Option<Rejection> {
    match (owner, status) {
        (None, 504) => Some(Rejection::DeadlineExceeded),
        (None, 502) => Some(Rejection::ConnectionLost),
        _ => None,
    }
}

/// What a body of this length says.
pub(super) fn body(number: usize, length: usize) -> Vec<u8> {
    (number..number + length)
        .map(|at| b'a' + (at % 23) as u8)
        .collect()
}

/// Takes all whole messages out of what was read.
fn take(inbox: &mut Vec<u8>) -> Vec<Message> {
    let (mut used, mut found) = (0, Vec::new());
    while let Some((message, length)) = find(&inbox[used..]) {
        used += length;
        found.push(message);
    }
    inbox.drain(..used);
    found
}

/// The message at the beginning, if all of it is there, and the bytes that it takes.
fn find(bytes: &[u8]) -> Option<(Message, usize)> {
    let head = bytes.windows(END.len()).position(|own| own == END)? + END.len();
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let header = |wanted: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let number = |name| header(name).and_then(|value| value.parse::<usize>().ok());
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let start = match status {
        Some(status) => Start::Response(status.parse().ok()?),
        None => Start::Request,
    };
    let rest = &bytes[head..];
    let (content, length) = match header("transfer-encoding") {
        Some(_) => unchunk(rest)?,
        None => {
            let length = number("content-length").unwrap_or(0);
            (rest.get(..length)?.to_vec(), length)
        }
    };
    let owner = header(TOKEN).and_then(|own| number_in(own.as_bytes()));
    let is_whole = owner.is_none_or(|owner| {
        let told = number(LENGTH).unwrap_or(usize::MAX);
        told == content.len() && content == body(owner, told)
    });
    let message = Message {
        start,
        number: owner,
        closes: header("connection").is_some_and(|own| own.eq_ignore_ascii_case("close")),
        is_whole,
    };
    Some((message, head + length))
}

/// The data of a body in chunks, and the bytes that it takes; `None` if it has not all come.
fn unchunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut data) = (0, Vec::new());
    loop {
        let rest = &bytes[at..];
        let line = rest.windows(2).position(|own| own == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let end = line + 2 + size;
        if rest.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        data.extend_from_slice(&rest[line + 2..end]);
        at += end + 2;
        if size == 0 {
            return Some((data, at));
        }
    }
}
