//! Headers of a proxy: which stay on one connection, which tell where a request came from.

use std::cell::RefCell;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use finback_core::filter::READINGS;
use http::header::{self, Entry, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::query;
use crate::rules::{self, Fields};

/// Whether it names a stream of events, whose head may wait for the first of them and whose body does not end (the
/// HTML standard, section 9.2).
pub(crate) fn is_event_stream(value: Option<&HeaderValue>) -> bool {
    const NAME: &[u8] = b"text/event-stream";
    let mut windows = value
        .map(|own| own.as_bytes().windows(NAME.len()))
        .into_iter()
        .flatten();
    windows.any(|own| own.eq_ignore_ascii_case(NAME))
}

/// Whether a client waits to be told to go on before it sends the body (RFC 9110, section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    let expects = headers.get(header::EXPECT);
    expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whom a request is for: host and port.
pub(crate) fn authority(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// Why a request is refused before it is looked at any further; such requests are how one
/// request is made to look like two to whoever is behind us.
pub(crate) fn fault(head: &Parts, fields: Fields) -> Option<&'static str> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("several Host headers");
    }
    if let Some(host) = host {
        let Ok(text) = host.to_str() else {
            return Some("a Host header that is no host");
        };
        if text.contains(['/', '@', ' ', '\\', '#', '?', ',']) {
            return Some("a Host header that is no host");
        }
        // In HTTP/1.1 an absolute target overrides Host (RFC 9112, section 3.2.2); HTTP/2 allows
        // no difference (RFC 9113, section 8.3.1).
        let differs = head
            .uri
            .authority()
            .is_some_and(|own| !own.as_str().eq_ignore_ascii_case(text));
        if differs && head.version == Version::HTTP_2 {
            return Some(":authority and Host differ");
        }
    } else if head.version == Version::HTTP_11 {
        return Some("no Host header");
    }
    if head
        .uri
        .authority()
        .is_some_and(|own| own.as_str().contains('@'))
    {
        return Some("user information in the target");
    }
    if fields.has(Fields::TRANSFER_ENCODING) {
        // With HTTP/1.1 the same was looked at when the body's end was.
        let encodings = head.headers.get_all(header::TRANSFER_ENCODING);
        if encodings
            .iter()
            .any(|own| !own.as_bytes().eq_ignore_ascii_case(b"chunked"))
        {
            return Some("a Transfer-Encoding other than chunked");
        }
        if encodings.iter().count() > 1 {
            return Some("several Transfer-Encoding headers");
        }
        if fields.has(Fields::CONTENT_LENGTH) {
            return Some("both a length and an encoding");
        }
    }
    // RFC 9110, section 9.3.6. A length would be passed on that nothing stands behind.
    let with_content = fields.has(Fields::TRANSFER_ENCODING) || fields.has(Fields::CONTENT_LENGTH);
    if head.method == Method::CONNECT && with_content {
        return Some("CONNECT with content");
    }
    let asterisk = head.uri.path() == "*" && head.method == Method::OPTIONS;
    let path = head.uri.path();
    if head.method != Method::CONNECT && !path.starts_with('/') && !asterisk {
        return Some("a target that is no path");
    }
    None
}

/// The words of a header that lists such, from all its lines (RFC 9110, section 5.3).
pub(crate) fn listed<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).iter();
    let words = lines
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.map(str::trim).filter(|word| !word.is_empty())
}

/// Whether a header lists a word.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    listed(headers, name).any(|own| own.eq_ignore_ascii_case(word))
}

/// Whether the connection shall become another protocol's.
pub(crate) fn wants_upgrade(head: &Parts) -> bool {
    head.version == Version::HTTP_11
        && head.headers.contains_key(header::UPGRADE)
        && lists(&head.headers, &header::CONNECTION, "upgrade")
}

/// The settings of a client who wants to go on in HTTP/2 (RFC 7540, section 3.2.1), with a request
/// that has no body; else it is served as it is.
pub(crate) fn http2_settings<B: http_body::Body>(request: &http::Request<B>) -> Option<Vec<u8>> {
    let to = request.headers().get(header::UPGRADE)?;
    let headers = request.headers();
    let mut settings = headers.get_all("http2-settings").iter();
    let (own, more) = (settings.next()?, settings.next());
    // Whoever passed the request on without knowing them would have kept both names here.
    let named = lists(headers, &header::CONNECTION, "upgrade")
        && lists(headers, &header::CONNECTION, "http2-settings");
    let asks = named && to.as_bytes().eq_ignore_ascii_case(b"h2c") && more.is_none();
    let plain = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    if !asks || !plain {
        return None;
    }
    let settings = URL_SAFE_NO_PAD.decode(own.as_bytes()).ok()?;
    settings.len().is_multiple_of(6).then_some(settings)
}

/// Takes away what means one connection only, of a head that has these fields.
pub(crate) fn strip(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Fields::CONNECTION)
        && let Some(named) = headers.remove(header::CONNECTION)
    {
        let mut more = vec![named];
        if let Entry::Occupied(rest) = headers.entry(header::CONNECTION) {
            more.extend(rest.remove_entry_mult().1);
        }
        for value in more {
            let tokens = value.to_str().unwrap_or_default().split(',');
            for token in tokens.map(str::trim) {
                if !token.is_empty() && !stays(token) {
                    headers.remove(token);
                }
            }
        }
    }
    if fields.has(Fields::HOP_BY_HOP) {
        rules::strip(headers);
    }
}

/// `Connection: close, Host` shall not take away what a request is made of; what asks for another protocol is asked anew.
fn stays(name: &str) -> bool {
    let vital = ["host", "content-length", "te", "upgrade", "connection"];
    vital.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// `TE` is for one connection, but trailers go all the way.
pub(crate) fn keep_trailers(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::TE).iter();
    if lines.next().is_none_or(|own| own == "trailers") && lines.next().is_none() {
        return;
    }
    let welcome = lists(headers, &header::TE, "trailers");
    headers.remove(header::TE);
    if welcome {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The time, as messages tell it (RFC 9110, section 6.6.1).
pub(crate) fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second {
            let fresh = HeaderValue::from_str(&httpdate::fmt_http_date(now));
            *text = fresh.unwrap_or(HeaderValue::from_static(""));
            *last = second;
        }
        text.clone()
    })
}

/// Puts a request's target and host into the form of the version that is spoken to the endpoint.
pub(crate) fn aim(head: &mut Parts, http2: bool, secure: bool) {
    let scheme = if secure { "https" } else { "http" };
    let whole = head.uri.scheme_str() == Some(scheme) && head.uri.authority().is_some();
    if http2 && whole && head.uri.path_and_query().is_some() {
        head.headers.remove(header::HOST);
        head.version = Version::HTTP_2;
        return;
    }
    if !http2 && head.uri.authority().is_none() && head.headers.contains_key(header::HOST) {
        head.version = Version::HTTP_11;
        return;
    }
    let authority = authority(head).unwrap_or_default().to_owned();
    let target = head.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    if http2 {
        head.headers.remove(header::HOST);
        let whole = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(target.clone());
        // Without a host the endpoint has to do with the path alone.
        head.uri = whole.build().unwrap_or_else(|_| Uri::from(target));
        head.version = Version::HTTP_2;
    } else {
        if let Ok(host) = HeaderValue::from_str(&authority) {
            head.headers.insert(header::HOST, host);
        }
        head.uri = Uri::from(target);
        head.version = Version::HTTP_11;
        join_cookies(&mut head.headers);
    }
}

/// HTTP/2 may split cookies over several headers (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().count() < 2 {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// A part of a request by the name that routes give it: `:authority`, `:method`, `:path`,
/// `?name` for a parameter of the query, or a header. After [`READINGS`], what else servers may read there.
pub(crate) fn attribute(head: &Parts, name: &str) -> Option<String> {
    if let Some(name) = name.strip_prefix(READINGS) {
        return match name.strip_prefix('?') {
            Some(parameter) => query::readings(head.uri.query()?, parameter),
            None => readings(&head.headers, name),
        };
    }
    match name {
        ":authority" => Some(authority(head)?.to_ascii_lowercase()),
        ":method" => Some(head.method.as_str().to_owned()),
        ":path" => Some(head.uri.path().to_owned()),
        ":query" => Some(head.uri.query()?.to_owned()),
        _ => match name.strip_prefix('?') {
            Some(parameter) => query::value(head.uri.query()?, parameter),
            // What means this connection only is for no endpoint (RFC 9110, section 7.6.1).
            None if lists(&head.headers, &header::CONNECTION, name) && !stays(name) => None,
            None => combined(&head.headers, name),
        },
    }
}

/// A header's value; that of several lines is a list (RFC 9110, section 5.3), so that a line more
/// hides none.
fn combined(headers: &HeaderMap, name: &str) -> Option<String> {
    // Bytes beyond ASCII may stand there (RFC 9110, section 5.5): a header that has them is there, too.
    let text = |line: &HeaderValue| String::from_utf8_lossy(line.as_bytes()).into_owned();
    let mut lines = headers.get_all(name).iter();
    let mut all = text(lines.next()?);
    for line in lines {
        all.push_str(if name == "cookie" { "; " } else { ", " });
        all.push_str(&text(line));
    }
    Some(all)
}

/// What else than [`combined`] servers may read of a header: the value of each of its lines, and of those whose names
/// differ by underscores only, which gateways (RFC 3875, section 4.1.18) and what is behind them read as the same.
fn readings(headers: &HeaderMap, name: &str) -> Option<String> {
    let plain = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    let is_it = |own: &HeaderName| own.as_str().bytes().map(plain).eq(name.bytes().map(plain));
    let lines: Vec<(&HeaderName, &HeaderValue)> =
        headers.iter().filter(|(own, _)| is_it(own)).collect();
    let is_plain = match lines.as_slice() {
        [] => true,
        [(only, _)] => only.as_str().eq_ignore_ascii_case(name),
        // Those of HTTP/2 come in several lines, and are one (RFC 9113, section 8.2.3).
        [..] => name.eq_ignore_ascii_case("cookie"),
    };
    let text = |(_, line): &(&HeaderName, &HeaderValue)| {
        String::from_utf8_lossy(line.as_bytes()).into_owned()
    };
    (!is_plain).then(|| lines.iter().map(text).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let fine = [("host", "a")];
        let fault = |head: &Parts| fault(head, Fields::of(&head.headers));
        assert_eq!(fault(&head("/", &fine)), None);
        assert_eq!(fault(&head("http://b/", &fine)), None);
        for bad in [
            head("/", &[]),
            head("/", &[("host", "a"), ("host", "a")]),
            head("/", &[("host", "a/b")]),
            head("/", &[("host", "a"), ("transfer-encoding", "xchunked")]),
            head(
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked, chunked")],
            ),
            head(
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "1"),
                ],
            ),
            head("http://u@b/", &fine),
        ] {
            assert!(fault(&bad).is_some(), "{bad:?}");
        }
        let mut two = head("http://b/", &fine);
        two.version = Version::HTTP_2;
        assert!(fault(&two).is_some());
    }

    #[test]
    fn what_means_one_connection_stays_there() {
        let mut own = head(
            "/",
            &[
                ("connection", "close, X-One"),
                ("connection", "Host"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("host", "a"),
                ("keep-alive", "5"),
                ("te", "gzip"),
                ("te", "x, Trailers"),
                ("upgrade", "x"),
            ],
        );
        let fields = Fields::of(&own.headers);
        strip(&mut own.headers, fields);
        keep_trailers(&mut own.headers);
        let names: Vec<_> = own.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(own.headers["te"], "trailers");
        assert_eq!(own.headers["x-two"], "2");
    }

    #[test]
    fn a_request_is_put_into_the_form_of_its_endpoint() {
        let mut own = head("/x?y", &[("host", "a")]);
        aim(&mut own, true, false);
        assert_eq!(own.uri, "http://a/x?y");
        own.headers
            .append("cookie", HeaderValue::from_static("a=1"));
        own.headers
            .append("cookie", HeaderValue::from_static("b=2"));
        assert_eq!(attribute(&own, "cookie").as_deref(), Some("a=1; b=2"));
        aim(&mut own, false, false);
        assert_eq!(
            (own.uri.to_string().as_str(), &own.headers["host"]),
            ("/x?y", &HeaderValue::from_static("a"))
        );
        assert_eq!(own.headers["cookie"], "a=1; b=2");
    }

    #[test]
    fn all_lines_of_a_header_are_seen() {
        let own = head("/", &[("host", "a"), ("lane", "gray"), ("lane", "blue")]);
        assert_eq!(attribute(&own, "lane").as_deref(), Some("gray, blue"));
        let mut own = head("/", &[("host", "a"), ("te", "gzip"), ("te", "trailers")]);
        keep_trailers(&mut own.headers);
        assert_eq!(own.headers["te"], "trailers");
    }

    #[test]
    fn what_servers_may_read_besides_is_told() {
        let readings = |headers: &[(&str, &str)], name: &str| {
            let found = attribute(&head("/?x=1&x=2", headers), &format!("{READINGS}{name}"));
            found.map(|own| own.replace('\n', " "))
        };
        let text = Some("a b".to_owned());
        assert_eq!(readings(&[("x-a", "a")], "x-a"), None);
        assert_eq!(readings(&[("x-a", "a"), ("x-a", "b")], "X-A"), text);
        assert_eq!(readings(&[("x-a", "a"), ("x_a", "b")], "x-a"), text);
        assert_eq!(readings(&[("x_a", "a")], "x-a").as_deref(), Some("a"));
        assert_eq!(
            readings(&[("cookie", "a"), ("cookie", "b")], "cookie"),
            None
        );
        assert_eq!(readings(&[], "?x").as_deref(), Some("1 2 1 2"));
        // What is for this connection alone no endpoint reads.
        let own = head(
            "/",
            &[("connection", "x-a"), ("x-a", "a"), ("upgrade", "h2c")],
        );
        assert_eq!(attribute(&own, "x-a"), None);
        assert_eq!(attribute(&own, "upgrade").as_deref(), Some("h2c"));
    }

    #[test]
    fn routes_see_parts_by_name() {
        let own = head(
            "/x?y=1&z",
            &[
                ("host", "A:80"),
                ("lane", "gray"),
                ("list", "a"),
                ("list", "b, c"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
            ],
        );
        for (name, value) in [
            (":authority", Some("a:80")),
            (":path", Some("/x")),
            (":method", Some("POST")),
            ("?y", Some("1")),
            ("?z", Some("")),
            ("?w", None),
            ("lane", Some("gray")),
            ("list", Some("a, b, c")),
            ("cookie", Some("a=1; b=2")),
            ("no", None),
        ] {
            assert_eq!(attribute(&own, name).as_deref(), value, "{name}");
        }
    }
}
