//! HTTP/1.1 and HTTP/2, both ways and in any combination.
//!
//! Both versions are spoken by codecs of our own, made for passing messages on: the state of a
//! connection lies on one thread, a call moves in one task, and no frame or header is copied from
//! queue to queue. hyper, which they replaced, cost twice the CPU time and held 22 KB for an idle
//! connection; it still asks for health checks, and plays client and server in tests.
//!
//! Requests and responses are streams: they pass without being buffered, and a call is opened
//! with its request's head and recorded with its response's end. What is spoken *in* HTTP (gRPC,
//! Triple) is a [`Dialect`]: it reads service and method, tells outcomes, and words rejections.

mod beginning;
mod body;
mod client;
mod dialect;
mod exercise;
mod forward;
mod forwarded;
mod headers;
mod http1;
mod http2;
mod interim;
mod path;
mod pool;
mod probe;
mod propagation;
mod query;
mod replay;
mod rules;
mod serve;
mod shadow;
mod share;
mod translation;
mod treatment;
mod upgrade;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker};

use http2::PREFACE;

pub use beginning::Beginning;
pub use dialect::{AnswerReader, Dialect, Plain, RequestInfo};
#[doc(hidden)]
pub use exercise::{exercise, exercise_messages};
pub use probe::{HttpProbe, Said, ask};
pub use translation::{Translation, Translator};
pub use treatment::{Change, DirectResponse, Handler, Handling, HeaderChange, HttpPolicy};

/// The protocol's name.
pub const NAME: &str = "http";
/// The most headers that a request may be allowed to have.
pub const MOST_HEADERS: usize = 256;
/// The longest head that a request or a response may be allowed to have, in bytes.
pub const MOST_HEAD: usize = 256 * 1024;
/// Methods by which HTTP/1.1 is recognised, whatever follows.
const METHODS: [&[u8]; 9] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE",
];
/// The longest other method by which HTTP/1.1 is recognised, in bytes.
const METHOD: usize = 32;

/// Bounds of a connection. The defaults are for untrusted clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a request's head, at most; up to [`MOST_HEAD`]. Default: 32 KiB.
    pub head: usize,
    /// Bytes of a response's head, at most; up to [`MOST_HEAD`]. Default: 64 KiB.
    pub response_head: usize,
    /// Headers of a request, at most; up to [`MOST_HEADERS`]. Default: 100.
    pub headers: usize,
    /// Bytes of a request's target, at most. Default: 8 KiB.
    pub target: usize,
    /// Requests in flight on one HTTP/2 connection, at most. Default: 100.
    pub streams: u32,
    /// Requests on one HTTP/2 connection, which is asked to go when it has been silent for a
    /// second then, or has made twice as many; 0 for any number. Default: 10,000.
    pub requests: u64,
    /// Bytes that the body of a request has to bring per second, on the average of a default
    /// deadline, while its response has not begun; 0 for any. Conversations are exempt.
    /// Default: 100.
    pub body_rate: u64,
    /// How long a request's head may take. Default: 10 s.
    pub head_timeout: Duration,
    /// A connection without a request in flight is closed after this; `None` for what the
    /// [limits](finback_core::mesh::Limits::idle) say. Default: `None`.
    pub idle: Option<Duration>,
    /// Paths are normalized before they are looked at or passed on. Default: true.
    pub normalize_path: bool,
    /// `Expect: 100-continue` is the endpoint's to answer; else a client is told to go on as soon as
    /// its request's body is asked for. Default: true.
    pub proxy_100_continue: bool,
    /// A client may go on in HTTP/2 after a request in HTTP/1.1, without TLS. Default: false, as
    /// nobody has use for it any more but to get past a proxy (RFC 9113, appendix B).
    pub h2c_upgrade: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            head: 32 * 1024,
            response_head: 64 * 1024,
            headers: 100,
            target: 8 * 1024,
            streams: 100,
            requests: 10_000,
            body_rate: 100,
            head_timeout: Duration::from_secs(10),
            idle: None,
            normalize_path: true,
            proxy_100_continue: true,
            h2c_upgrade: false,
        }
    }
}

/// HTTP as a listener speaks it.
pub struct Http {
    pub(crate) config: Config,
    /// The first that claims a request has it.
    pub(crate) dialects: Vec<Arc<dyn Dialect>>,
}

impl Http {
    /// HTTP with these dialects, the first of which that claims a request has it; what none
    /// claims is [`Plain`].
    #[must_use]
    pub fn new(config: Config, mut dialects: Vec<Arc<dyn Dialect>>) -> Self {
        dialects.push(Arc::new(Plain));
        Self { config, dialects }
    }
}

impl Protocol for Http {
    fn name(&self) -> &'static str {
        NAME
    }

    fn application_protocols(&self) -> &'static [&'static [u8]] {
        &[b"h2", b"http/1.1"]
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        let common = head.len().min(PREFACE.len());
        if head[..common] == PREFACE[..common] {
            return match common == PREFACE.len() {
                true => Sniff::Match,
                false => Sniff::Undecided,
            };
        }
        // Empty lines may come before a request (RFC 9112, section 2.2).
        let mut rest = head;
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        if matches!(rest, [] | [b'\r']) {
            return Sniff::Undecided;
        }
        let begins = rest.iter().take(METHOD + 1);
        let length = begins
            .take_while(|byte| rules::is_token_byte(**byte))
            .count();
        match rest[length..] {
            [] if length <= METHOD => Sniff::Undecided,
            [b' ', ..] if METHODS.contains(&&rest[..length]) => Sniff::Match,
            [b' '] if (1..=METHOD).contains(&length) => Sniff::Undecided,
            // Any other method (RFC 9110, section 9.1), then what may be asked for: others begin with a
            // word and a space, too.
            [b' ', b'/' | b'*' | b'h' | b'H', ..] if (1..=METHOD).contains(&length) => Sniff::Match,
            _ => Sniff::Mismatch,
        }
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        serve::serve(self, connection, worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        let http = Http::new(Config::default(), Vec::new());
        for (head, said) in [
            (&b"GET / HTTP/1.1"[..], Sniff::Match),
            (b"GE", Sniff::Undecided),
            (b"P", Sniff::Undecided),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Sniff::Undecided),
            (PREFACE, Sniff::Match),
            (b"", Sniff::Undecided),
            (b"\xda\xbb", Sniff::Mismatch),
            (b"PRX", Sniff::Undecided),
            (b"GET ", Sniff::Match),
            (b"PROPFIND ", Sniff::Undecided),
            (b"PROPFIND /dav HTTP/1.1", Sniff::Match),
            (b"M-SEARCH * HTTP/1.1", Sniff::Match),
            (b"query http://a/ HTTP/1.1", Sniff::Match),
            (b"CONNECT a:80 HTTP/1.1", Sniff::Match),
            (b"\r\n", Sniff::Undecided),
            (b"\r\n\r\nGET / HTTP/1.1", Sniff::Match),
            (b"\r\r\n", Sniff::Mismatch),
            (b"EHLO mail", Sniff::Mismatch),
            (b" GET / HTTP/1.1", Sniff::Mismatch),
            (b"a-method-that-is-longer-than-anyones / ", Sniff::Mismatch),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::Mismatch),
            (b"SSH-2.0-OpenSSH\r\n", Sniff::Mismatch),
            (b"\x16\x03\x01", Sniff::Mismatch),
        ] {
            assert_eq!(http.sniff(head), said, "{head:?}");
        }
    }
}
