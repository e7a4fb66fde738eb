//! Heads of messages (RFC 9112, sections 2 to 5).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use httparse::{Header, ParserConfig, Status};

use super::body::Decode;
use crate::headers::{expects_continue, lists};
use crate::rules::{self, Fields};

/// Headers of one message, at most.
const HEADERS: usize = crate::MOST_HEADERS;

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It makes no sense, or could be read in two ways.
    Malformed,
    /// More or longer headers than the limit.
    TooLarge,
    /// Another HTTP.
    Version,
}

/// A request's head with what it says about its body and its connection.
pub(super) struct RequestHead {
    pub(super) request: Request<()>,
    pub(super) body: Decode,
    pub(super) keep_alive: bool,
    /// It waits to be told to send its body.
    pub(super) expects: bool,
    /// It has use for trailers.
    pub(super) trailers: bool,
    /// Bytes that it takes.
    pub(super) length: usize,
}

/// The same of a response.
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) body: Decode,
    pub(super) keep_alive: bool,
    pub(super) length: usize,
}

/// Puts headers together whose texts lie in `head`, which is a copy of `from`.
fn map(head: &Bytes, from: &[u8], headers: &[Header<'_>]) -> Result<(HeaderMap, Fields), Fault> {
    // Some are added on the way.
    let mut map = HeaderMap::with_capacity(headers.len() + 6);
    let mut fields = Fields::default();
    for own in headers {
        // RFC 9110, section 5.1 (names are tokens) and RFC 9110, section 5.5 (values).
        let name = HeaderName::from_bytes(own.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(part(head, from, own.value));
        let value = value.map_err(|_| Fault::Malformed)?;
        fields.add(&name);
        map.try_append(name, value).map_err(|_| Fault::TooLarge)?;
    }
    Ok((map, fields))
}

/// The part of a copy that is a part of its original.
fn part(copy: &Bytes, original: &[u8], part: &[u8]) -> Bytes {
    let begin = part.as_ptr() as usize - original.as_ptr() as usize;
    copy.slice(begin..begin + part.len())
}

fn uninit<'a>() -> [MaybeUninit<Header<'a>>; HEADERS] {
    [const { MaybeUninit::uninit() }; HEADERS]
}

fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::TooManyHeaders => Fault::TooLarge,
        _ => Fault::Malformed,
    }
}

/// Whether the connection goes on after a message.
fn keeps_alive(version: Version, headers: &HeaderMap, fields: Fields) -> bool {
    // RFC 9112, section 9.3.
    if !fields.has(Fields::CONNECTION) {
        return version == Version::HTTP_11;
    }
    if version == Version::HTTP_11 {
        !lists(headers, &header::CONNECTION, "close")
    } else {
        lists(headers, &header::CONNECTION, "keep-alive")
    }
}

/// What a message says about its body's end; `None` if nothing.
fn framing(version: Version, headers: &HeaderMap, fields: Fields) -> Result<Option<Decode>, Fault> {
    if !fields.has(Fields::CONTENT_LENGTH) && !fields.has(Fields::TRANSFER_ENCODING) {
        return Ok(None);
    }
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let own = rules::decimal(value.as_bytes());
        // Once, and as nothing but a number (RFC 9112, section 6.3).
        if own.is_none() || length.is_some() {
            return Err(Fault::Malformed);
        }
        length = own;
    }
    let Some(encoding) = encoding else {
        return Ok(length.map(Decode::length));
    };
    // RFC 9112, section 6.1: what could be read in two ways is not read, nor what HTTP/1.0 does not have.
    let chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
    let alone = encodings.next().is_none() && length.is_none();
    if !chunked || !alone || version != Version::HTTP_11 {
        return Err(Fault::Malformed);
    }
    Ok(Some(Decode::chunked()))
}

fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

/// Reads a request's head; `None` if it is not all there.
pub(super) fn request(bytes: &[u8]) -> Result<Option<RequestHead>, Fault> {
    let mut headers = uninit();
    let mut parsed = httparse::Request::new(&mut []);
    let status =
        ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, bytes, &mut headers);
    // RFC 9112, sections 5.1 and 5.2: a blank before a colon and folded lines are refused here.
    let length = match status {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => return of_another_version(bytes),
        Err(error) => return Err(fault(error)),
    };
    if !ends_its_lines(&bytes[..length], parsed.headers) {
        return Err(Fault::Malformed);
    }
    let head = Bytes::copy_from_slice(&bytes[..length]);
    let version = version(parsed.version);
    let (headers, fields) = map(&head, bytes, parsed.headers)?;
    let target = parsed.path.unwrap_or_default().as_bytes();
    // RFC 9112, sections 3.1 and 3.2.
    let uri = Uri::from_maybe_shared(part(&head, bytes, target)).map_err(|_| Fault::Malformed)?;
    let method = parsed.method.unwrap_or_default().as_bytes();
    let method = Method::from_bytes(method).map_err(|_| Fault::Malformed)?;
    // A request that says nothing about a body has none.
    // RFC 9112, section 6.3.
    let body = framing(version, &headers, fields)?.unwrap_or(Decode::Done);
    // RFC 9110, section 10.1.1: HTTP/1.0 has no such expectation.
    let expects =
        fields.has(Fields::EXPECT) && version == Version::HTTP_11 && expects_continue(&headers);
    let keep_alive = keeps_alive(version, &headers, fields);
    let trailers = fields.has(Fields::TE) && lists(&headers, &header::TE, "trailers");
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(Some(RequestHead {
        request,
        body,
        keep_alive,
        expects,
        trailers,
        length,
    }))
}

/// Whether all lines of what was parsed end in CRLF, where these headers begin `head`'s lines but its
/// first. Others might take a lone LF, which they may (RFC 9112, section 2.2), for something else.
fn ends_its_lines(head: &[u8], headers: &[Header<'_>]) -> bool {
    let begins = headers
        .iter()
        .map(|own| own.name.as_ptr() as usize - head.as_ptr() as usize);
    let ends = head == b"\r\n" || head.ends_with(b"\r\n\r\n") && !matches!(head[0], b'\r' | b'\n');
    ends && begins
        .filter(|at| *at > 0)
        .all(|at| head[..at].ends_with(b"\r\n"))
}

/// Reads a head whose version the parser does not know. A later one of HTTP/1 is read as 1.1
/// (RFC 9110, section 2.5).
fn of_another_version(bytes: &[u8]) -> Result<Option<RequestHead>, Fault> {
    let line = bytes.iter().position(|&byte| byte == b'\n');
    let line = line.map_or(bytes, |end| &bytes[..end]);
    let Some(at) = line.windows(6).rposition(|own| own == b" HTTP/") else {
        return Err(Fault::Malformed);
    };
    // RFC 9112, section 3: a method, a target, and nothing more.
    if line[..at].iter().filter(|own| **own == b' ').count() != 1 {
        return Err(Fault::Malformed);
    }
    match line[at + 6..] {
        [b'1', b'.', b'2'..=b'9', b'\r'] => {
            let mut bytes = bytes.to_vec();
            bytes[at + 8] = b'1';
            request(&bytes)
        }
        [major, b'.', minor, b'\r'] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Fault::Version)
        }
        _ => Err(Fault::Malformed),
    }
}

/// Reads the head of a response to a request with this method; `None` if it is not all there.
pub(super) fn response(bytes: &[u8], method: &Method) -> Result<Option<ResponseHead>, Fault> {
    let mut headers = uninit();
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut headers,
    );
    let Status::Complete(length) = status.map_err(fault)? else {
        return Ok(None);
    };
    let head = Bytes::copy_from_slice(&bytes[..length]);
    let version = version(parsed.version);
    let (headers, fields) = map(&head, bytes, parsed.headers)?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    // RFC 9112, section 4: three digits.
    let status = status.map_err(|_| Fault::Malformed)?;
    let framing = framing(version, &headers, fields)?;
    // RFC 9112, section 6.3.
    let body = match framing {
        _ if rules::is_bodiless(method, status) => Decode::Done,
        Some(body) => body,
        None => Decode::Close,
    };
    let keep_alive = keeps_alive(version, &headers, fields) && !matches!(body, Decode::Close);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    Ok(Some(ResponseHead {
        response,
        body,
        keep_alive,
        length,
    }))
}

/// Reads headers alone, as trailers are; `None` if they are not all there.
pub(super) fn trailers(bytes: &[u8]) -> Result<Option<(HeaderMap, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let status = httparse::parse_headers(bytes, &mut headers).map_err(fault)?;
    let Status::Complete((length, headers)) = status else {
        return Ok(None);
    };
    // RFC 9112, section 7.1.
    if !ends_its_lines(&bytes[..length], headers) {
        return Err(Fault::Malformed);
    }
    let head = Bytes::copy_from_slice(&bytes[..length]);
    Ok(Some((map(&head, bytes, headers)?.0, length)))
}

/// Writes the headers of a head and the line that ends them; but for those that tell where its body
/// ends, which whoever writes the body has written.
pub(super) fn put_headers(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        if !rules::is_framing(name) {
            put_header(name.as_str(), value.as_bytes(), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes trailers, those that may be ones, and the line that ends them.
pub(super) fn put_trailers(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
    for (name, value) in trailers.and_then(rules::trailers).into_iter().flatten() {
        put_header(name.as_str(), value.as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a header that is not in a message's own.
#[inline]
pub(super) fn put_header(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes how many bytes follow.
pub(super) fn put_length(length: u64, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    put_header("content-length", digits.format(length).as_bytes(), out);
}

/// Writes a request's first line.
pub(super) fn put_request_line(method: &Method, uri: &Uri, out: &mut Vec<u8>) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes a response's first line.
pub(super) fn put_status_line(status: StatusCode, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<RequestHead>, Fault> {
        request(text.as_bytes())
    }

    #[test]
    fn a_head_tells_about_its_body_and_its_connection() {
        let whole = "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let head = read(whole).unwrap().unwrap();
        assert_eq!(head.request.uri(), "/x?y");
        assert_eq!(head.length, whole.len() - 5);
        assert!(matches!(head.body, Decode::Length(5)) && head.keep_alive);
        for length in 0..head.length {
            assert!(read(&whole[..length]).unwrap().is_none(), "{length}");
        }
        for (text, keeps) in [
            ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: x, CLOSE\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            let head = read(text).unwrap().unwrap();
            assert_eq!(head.keep_alive, keeps, "{text}");
            assert!(matches!(head.body, Decode::Done));
        }
        let expects = "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nTE: trailers\r\n\r\n";
        let head = read(expects).unwrap().unwrap();
        assert!(head.expects && head.trailers);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for headers in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "X: y\r\n folded",
            "X\0: y",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n");
            assert_eq!(read(&text).err(), Some(Fault::Malformed), "{headers}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old).err(), Some(Fault::Malformed));
        let many = "A: b\r\n".repeat(HEADERS + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(read(&many).err(), Some(Fault::TooLarge));
        for line in ["GET / HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/3.1"] {
            let text = format!("{line}\r\n\r\n");
            assert_eq!(read(&text).err(), Some(Fault::Version), "{line}");
        }
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\n\n",
        ] {
            assert_eq!(read(text).err(), Some(Fault::Malformed), "{text:?}");
        }
        let later = read("GET /x HTTP/1.2\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert_eq!(later.request.version(), Version::HTTP_11);
        assert_eq!(later.request.uri(), "/x");
        for line in [
            "GET /a b HTTP/1.1",
            "GET / HTTP/1.10",
            "GET / HTTP/x.1",
            "GET / HTTQ/1.1",
            "G\u{e9}T / HTTP/1.1",
        ] {
            let text = format!("{line}\r\n\r\n");
            assert_eq!(read(&text).err(), Some(Fault::Malformed), "{line}");
        }
    }

    #[test]
    fn a_response_ends_as_its_status_and_its_method_say() {
        let read = |text: &str, method: Method| {
            let head = response(text.as_bytes(), &method).unwrap().unwrap();
            (head.body, head.keep_alive)
        };
        let known = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert!(matches!(
            read(known, Method::GET),
            (Decode::Length(5), true)
        ));
        assert!(matches!(read(known, Method::HEAD), (Decode::Done, true)));
        let open = "HTTP/1.1 200 OK\r\n\r\n";
        assert!(matches!(read(open, Method::GET), (Decode::Close, false)));
        let none = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
        assert!(matches!(read(none, Method::GET), (Decode::Done, true)));
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(response(both.as_bytes(), &Method::GET).is_err());
    }
}
