//! The URLs that frameworks use as node names.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

/// The longest node name that is looked at, in bytes.
const MAX_NAME: usize = 64 * 1024;

/// One entry: `scheme://host:port/path?name=value&..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    parameters: HashMap<String, String>,
}

impl Url {
    /// Reads a node's name, which is the URL encoded once, as Java's `URLEncoder` does.
    pub(crate) fn decode(name: &str) -> Option<Self> {
        if name.len() > MAX_NAME {
            return None;
        }
        let spaced = name.replace('+', "%20");
        let text = percent_decode_str(&spaced).decode_utf8().ok()?;
        Self::parse(&text)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.rsplit('@').next()?;
        let (host, port) = authority.rsplit_once(':')?;
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
            port: port.parse().ok().filter(|port| *port > 0)?,
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
