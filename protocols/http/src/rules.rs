//! Message framing: what makes a message, whichever version carries it (RFC 9110, sections 6 to 9): whether it has a
//! body, how long that is, and which fields may stand where.
//!
//! All who write messages ask here. What a head says of its body's length is never passed on as it
//! came: it is told anew, from the body that is written.

use http::header::{self, HeaderName};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;

/// What a message's head has to say of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// What Content-Length tells, if anything did before.
    pub(crate) told: Option<u64>,
    pub(crate) follows: Follows,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Such a message has no body, whatever it tells.
    Never,
    /// So many bytes, or none.
    Exactly(u64),
    /// Nobody knows how many.
    Open,
}

/// A message that contradicts itself: its head tells another length than its body has, or lengths
/// that make no sense. One of its readers would take the rest for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

/// Marks a request of whose head not all was kept, as it is larger than the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadTooLarge;

/// Marks a request whose path or authority is to enter no table on its way (RFC 7541, section 6.2.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecretTarget;

/// Names of fields that a `HeaderMap` has no constant for.
const KEEP_ALIVE: &str = "keep-alive";
const PROXY_CONNECTION: &str = "proxy-connection";
const HTTP2_SETTINGS: &str = "http2-settings";
pub(crate) const X_FORWARDED_PORT: &str = "x-forwarded-port";

/// Which of the fields that a proxy acts on a head has: found in one look over its names, since most
/// heads have few of them, and to look for each by itself takes longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields(u16);

impl Fields {
    pub(crate) const CONNECTION: Self = Self(1);
    /// Those that mean one connection, other than `Connection`.
    pub(crate) const HOP_BY_HOP: Self = Self(1 << 1);
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 2);
    pub(crate) const CONTENT_LENGTH: Self = Self(1 << 3);
    pub(crate) const TE: Self = Self(1 << 4);
    pub(crate) const EXPECT: Self = Self(1 << 5);
    pub(crate) const FORWARDED: Self = Self(1 << 6);
    pub(crate) const X_FORWARDED_PORT: Self = Self(1 << 7);
    pub(crate) const UPGRADE: Self = Self(1 << 8);

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        headers.keys().for_each(|name| found.add(name));
        found
    }

    /// One more is there.
    pub(crate) fn add(&mut self, name: &HeaderName) {
        self.0 |= Self::kind(name).0;
    }

    /// Whether any of these is there.
    pub(crate) fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    fn kind(name: &HeaderName) -> Self {
        match *name {
            header::CONNECTION => Self::CONNECTION,
            header::TRANSFER_ENCODING => Self(Self::TRANSFER_ENCODING.0 | Self::HOP_BY_HOP.0),
            header::CONTENT_LENGTH => Self::CONTENT_LENGTH,
            header::TE => Self::TE,
            header::EXPECT => Self::EXPECT,
            header::FORWARDED => Self::FORWARDED,
            header::UPGRADE => Self(Self::UPGRADE.0 | Self::HOP_BY_HOP.0),
            _ => match name.as_str() {
                KEEP_ALIVE | PROXY_CONNECTION | HTTP2_SETTINGS => Self::HOP_BY_HOP,
                X_FORWARDED_PORT => Self::X_FORWARDED_PORT,
                _ => Self::default(),
            },
        }
    }
}

/// The length that a message tells, if it tells one that can be (RFC 9110, section 8.6).
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Contradiction> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let own = decimal(value.as_bytes()).ok_or(Contradiction)?;
        if length.is_some_and(|before| before != own) {
            return Err(Contradiction);
        }
        length = Some(own);
    }
    Ok(length)
}

/// A number of nothing but digits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let (first, rest) = text.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    rest.iter().try_fold(digit(first)?, |number, byte| {
        number.checked_mul(10)?.checked_add(digit(byte)?)
    })
}

/// Whether a response has no body, whatever its head tells (RFC 9110, section 6.4.1;
/// RFC 9112, section 6.3). One that opens a tunnel has none either: what follows is the tunnel's.
pub(crate) fn is_bodiless(asked: &Method, status: StatusCode) -> bool {
    *asked == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a request's head has to say of the body that is written.
pub(crate) fn request(headers: &HeaderMap, body: &impl Body) -> Result<Framing, Contradiction> {
    matched(content_length(headers)?, body)
}

/// The same of a response to a request of this method.
pub(crate) fn response(
    asked: &Method,
    status: StatusCode,
    headers: &HeaderMap,
    body: &impl Body,
) -> Result<Framing, Contradiction> {
    let never = |told| Framing {
        told,
        follows: Follows::Never,
    };
    // RFC 9110, section 8.6: those tell no length.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Ok(never(None));
    }
    // RFC 9110, section 9.3.6: nor does what opens a tunnel, whose bytes are no body.
    if *asked == Method::CONNECT && status.is_success() {
        return Ok(Framing {
            told: None,
            follows: Follows::Open,
        });
    }
    let told = content_length(headers)?;
    if !is_bodiless(asked, status) {
        return matched(told, body);
    }
    // What GET would have brought, where that is known (RFC 9110, section 9.3.2).
    let known = match body.is_end_stream() {
        false if *asked == Method::HEAD => body.size_hint().exact(),
        _ => None,
    };
    Ok(never(told.or(known)))
}

fn matched(told: Option<u64>, body: &impl Body) -> Result<Framing, Contradiction> {
    let exact = match body.is_end_stream() {
        true => Some(0),
        false => body.size_hint().exact(),
    };
    match (told, exact) {
        (Some(told), Some(exact)) if told != exact => Err(Contradiction),
        (_, Some(exact)) => Ok(Framing {
            told,
            follows: Follows::Exactly(exact),
        }),
        // Its writer takes no more and no less.
        (Some(told), None) => Ok(Framing {
            told: Some(told),
            follows: Follows::Exactly(told),
        }),
        (None, None) => Ok(Framing {
            told,
            follows: Follows::Open,
        }),
    }
}

/// Whether a field tells where a message ends: it is written for the body that is written.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
}

/// Whether a field means one connection (RFC 9110, section 7.6.1). `TE` does, too, but that trailers
/// are welcome is said all the way.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => true,
        _ => matches!(
            name.as_str(),
            KEEP_ALIVE | PROXY_CONNECTION | HTTP2_SETTINGS
        ),
    }
}

/// Takes away the fields that mean one connection.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // Made when this is compiled: a name made from text is looked up, for each message anew.
    const NAMES: [HeaderName; 6] = [
        header::CONNECTION,
        HeaderName::from_static(KEEP_ALIVE),
        HeaderName::from_static(PROXY_CONNECTION),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static(HTTP2_SETTINGS),
    ];
    for name in NAMES {
        headers.remove(name);
    }
}

/// Whether a field may stand in trailers (RFC 9110, section 6.5.1). What tells where a message ends,
/// where it goes, who sends it or how it is to be read belongs into heads: readers that merge trailers
/// into heads would take it from there.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    if is_framing(name) || is_hop_by_hop(name) {
        return false;
    }
    !matches!(
        *name,
        header::HOST
            | header::TE
            | header::TRAILER
            | header::AUTHORIZATION
            | header::PROXY_AUTHORIZATION
            | header::PROXY_AUTHENTICATE
            | header::WWW_AUTHENTICATE
            | header::COOKIE
            | header::SET_COOKIE
            | header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::CONTENT_RANGE
            | header::EXPECT
            | header::MAX_FORWARDS
            | header::RANGE
            | header::IF_MATCH
            | header::IF_NONE_MATCH
            | header::IF_MODIFIED_SINCE
            | header::IF_UNMODIFIED_SINCE
            | header::IF_RANGE
            | header::CACHE_CONTROL
            | header::PRAGMA
            | header::AGE
            | header::DATE
            | header::EXPIRES
            | header::LOCATION
            | header::RETRY_AFTER
            | header::VARY
            | header::WARNING
            | header::VIA
            | header::FORWARDED
    ) && !name.as_str().starts_with("x-forwarded-")
}

/// The trailers that are passed on; `None` if none of them may be.
pub(crate) fn trailers(
    all: &HeaderMap,
) -> Option<impl Iterator<Item = (&HeaderName, &header::HeaderValue)>> {
    let mut own = all.iter().filter(|(name, _)| may_trail(name)).peekable();
    own.peek().is_some().then_some(own)
}

/// Whether a text is a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether a byte may stand in a token.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = all.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    fn body(bytes: &'static [u8]) -> Full<Bytes> {
        Full::new(Bytes::from_static(bytes))
    }

    #[test]
    fn lengths_that_contradict_each_other_are_none() {
        let lengths = |all: &[&'static str]| {
            let all: Vec<_> = all.iter().map(|own| ("content-length", *own)).collect();
            content_length(&headers(&all))
        };
        assert_eq!(lengths(&[]), Ok(None));
        assert_eq!(lengths(&["5", "5"]), Ok(Some(5)));
        let most = "18446744073709551615";
        assert_eq!(lengths(&[most]), Ok(Some(u64::MAX)));
        for bad in [
            &["5", "6"][..],
            &["+5"],
            &[""],
            &["5, 5"],
            &["-1"],
            &["18446744073709551616"],
        ] {
            assert_eq!(lengths(bad), Err(Contradiction));
        }
    }

    #[test]
    fn a_length_is_that_of_the_body_that_is_written() {
        let told = |length| headers(&[("content-length", length)]);
        for (headers, bytes, wanted) in [
            (told("0"), &b""[..], Ok((Some(0), Follows::Exactly(0)))),
            (told("2"), b"hi", Ok((Some(2), Follows::Exactly(2)))),
            (headers(&[]), b"hi", Ok((None, Follows::Exactly(2)))),
            (headers(&[]), b"", Ok((None, Follows::Exactly(0)))),
            // What asked for a tunnel has lost its body, and nothing but it.
            (told("20"), b"", Err(Contradiction)),
            (told("1"), b"hi", Err(Contradiction)),
            (told("3"), b"hi", Err(Contradiction)),
        ] {
            let framing = request(&headers, &body(bytes));
            let framing = framing.map(|own| (own.told, own.follows));
            assert_eq!(framing, wanted, "{headers:?}");
            let framing = response(&Method::GET, StatusCode::OK, &headers, &body(bytes));
            let framing = framing.map(|own| (own.told, own.follows));
            assert_eq!(framing, wanted, "{headers:?}");
        }
    }

    #[test]
    fn some_responses_have_no_body() {
        let told = headers(&[("content-length", "9")]);
        for (method, status, headers, wanted) in [
            (Method::HEAD, 200, &told, Some(9)),
            (Method::HEAD, 200, &HeaderMap::new(), Some(2)),
            (Method::GET, 304, &told, Some(9)),
            (Method::GET, 304, &HeaderMap::new(), None),
            (Method::GET, 204, &told, None),
            (Method::HEAD, 204, &told, None),
            (Method::GET, 103, &told, None),
        ] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let framing = response(&method, status, headers, &body(b"hi"));
            let framing = framing.map(|own| (own.told, own.follows));
            assert_eq!(framing, Ok((wanted, Follows::Never)), "{method} {status}");
            assert!(is_bodiless(&method, status));
        }
        let tunnel = response(&Method::CONNECT, StatusCode::OK, &told, &body(b"hi"));
        let tunnel = tunnel.map(|own| (own.told, own.follows));
        assert_eq!(tunnel, Ok((None, Follows::Open)));
        let refused = response(&Method::CONNECT, StatusCode::FORBIDDEN, &told, &body(b"hi"));
        assert_eq!(refused, Err(Contradiction));
    }

    #[test]
    fn fields_of_heads_are_no_trailers() {
        let mixed = headers(&[
            ("content-length", "1"),
            ("x-forwarded-for", "a"),
            ("grpc-status", "0"),
            ("keep-alive", "1"),
            ("x-own", "1"),
        ]);
        let names: Vec<_> = trailers(&mixed)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["grpc-status", "x-own"]);
        assert!(trailers(&headers(&[("te", "trailers")])).is_none());
        assert!(trailers(&HeaderMap::new()).is_none());
        for (text, is) in [
            ("websocket", true),
            ("a, b", false),
            ("", false),
            ("a/1", false),
        ] {
            assert_eq!(is_token(text), is, "{text}");
        }
    }
}
