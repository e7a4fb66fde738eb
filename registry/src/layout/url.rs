//! The URLs that frameworks use as names.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The longest name that is looked at, in bytes.
const MAX_NAME: usize = 64 * 1024;
/// What Java's `URLEncoder` leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'*');

/// One entry: `scheme://host:port/path?name=value&..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Url {
    /// Reads a name, which is the URL encoded once, as Java's `URLEncoder` does.
    pub(crate) fn decode(name: &str) -> Option<Self> {
        Self::parse(&decode(name)?)
    }

    /// One whose port is known.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::parse_any(text).filter(|url| url.port > 0)
    }

    /// One with or without a port, which is 0 then, as in Java.
    pub(crate) fn parse_any(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.rsplit('@').next()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, 0),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if scheme.is_empty() || host.is_empty() {
            return None;
        }
        let parameters = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Some(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            parameters,
        })
    }

    /// The parameter of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The parameter of this name as a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// Whether the parameter of this name is `true`; `default` if there is none.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name)
            .map_or(default, |value| value.eq_ignore_ascii_case("true"))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            scheme,
            host,
            port,
            path,
            parameters,
        } = self;
        write!(f, "{scheme}://")?;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            write!(f, "{host}")?;
        }
        if *port > 0 {
            write!(f, ":{port}")?;
        }
        if !path.is_empty() {
            write!(f, "/{path}")?;
        }
        for (n, (name, value)) in parameters.iter().enumerate() {
            let separator = if n == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

/// Decodes a name as Java's `URLDecoder` does.
pub(crate) fn decode(name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    let spaced = match name.contains('+') {
        true => Cow::Owned(name.replace('+', "%20")),
        false => Cow::Borrowed(name),
    };
    let text = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// Encodes a text as Java's `URLEncoder` does, but for spaces, which it also reads as `%20`.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}
