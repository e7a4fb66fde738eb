//! Forwarding headers, whom a request came from as proxies tell each other: X-Forwarded-*, Forwarded (RFC 7239) and Via.
//!
//! What a trusted proxy says is kept, and we add to it; what anybody else says is overwritten.

use std::net::{IpAddr, SocketAddr};

use finback_core::driver::{Proxies, node};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};

use crate::rules::{self, Fields};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PORT: HeaderName = HeaderName::from_static(rules::X_FORWARDED_PORT);

/// The hop before us.
pub(crate) struct Hop {
    /// Its address, as its socket has it, and as it is told.
    peer: IpAddr,
    address: IpAddr,
    /// The same, as headers write it.
    text: HeaderValue,
    /// It speaks TLS.
    secure: bool,
    /// Where it connected to.
    port: Option<u16>,
    /// It is a proxy that is believed.
    trusted: bool,
}

impl Hop {
    pub(crate) fn new(
        peer: SocketAddr,
        local: Option<SocketAddr>,
        secure: bool,
        proxies: &Proxies,
    ) -> Self {
        let address = peer.ip().to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self {
            peer: peer.ip(),
            address,
            text: text.unwrap_or(HeaderValue::from_static("unknown")),
            secure,
            port: local.map(|local| local.port()),
            trusted: proxies.trusts(address),
        }
    }

    /// Whose request it is: the hop's, or whom the proxies behind it name that are believed.
    pub(crate) fn source(&self, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
        if !self.trusted {
            return self.peer;
        }
        let (name, read): (_, fn(&str) -> Option<IpAddr>) = match headers.contains_key(&FOR) {
            true => (&FOR, node),
            false => (&header::FORWARDED, node_of_element),
        };
        let lines = headers.get_all(name).iter();
        let lines = lines.map(|line| line.to_str().unwrap_or("?"));
        proxies.source(self.peer, lines, read)
    }

    /// Tells the endpoint whom a request came from.
    pub(crate) fn tell(&self, head: &mut Parts, fields: Fields) {
        via(&mut head.headers, head.version);
        let host = match head.uri.authority() {
            Some(own) => HeaderValue::from_str(own.as_str()).ok(),
            None => head.headers.get(header::HOST).cloned(),
        };
        let scheme = HeaderValue::from_static(if self.secure { "https" } else { "http" });
        let headers = &mut head.headers;
        if fields.has(Fields::FORWARDED) {
            let own = self.element(host.as_ref());
            self.add(headers, header::FORWARDED, own);
        }
        self.add(headers, FOR, self.text.clone());
        self.set(headers, PROTO, Some(scheme));
        self.set(headers, HOST, host);
        // Only where it is told anyway.
        if fields.has(Fields::X_FORWARDED_PORT) {
            self.set(headers, PORT, self.port.map(HeaderValue::from));
        }
    }

    /// Keeps what a trusted proxy said, or replaces what anybody else did.
    fn set(&self, headers: &mut HeaderMap, name: HeaderName, own: Option<HeaderValue>) {
        if self.trusted && headers.contains_key(&name) {
            return;
        }
        match own {
            Some(own) => headers.insert(name, own),
            None => headers.remove(name),
        };
    }

    /// Adds to what a trusted proxy said, or replaces what anybody else did.
    fn add(&self, headers: &mut HeaderMap, name: HeaderName, own: HeaderValue) {
        if self.trusted {
            append(headers, name, own);
        } else {
            headers.insert(name, own);
        }
    }

    /// An element of Forwarded (RFC 7239, section 4).
    fn element(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let node = match self.address {
            IpAddr::V4(four) => four.to_string(),
            IpAddr::V6(six) => format!("\"[{six}]\""),
        };
        let scheme = if self.secure { "https" } else { "http" };
        let mut element = format!("for={node};proto={scheme}");
        if let Some(host) = host.and_then(|host| host.to_str().ok())
            && !host.contains(['"', '\\'])
        {
            element.push_str(&format!(";host=\"{host}\""));
        }
        HeaderValue::from_str(&element).unwrap_or(HeaderValue::from_static("for=unknown"))
    }
}

impl Hop {
    /// Whether the hop itself speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.secure
    }

    /// Whether the client that a request is from speaks TLS: to us, or as a trusted proxy says.
    pub(crate) fn is_secure(&self, headers: &HeaderMap) -> bool {
        match headers.get(&PROTO) {
            Some(told) if self.trusted => told.as_bytes().eq_ignore_ascii_case(b"https"),
            _ => self.secure,
        }
    }
}

/// The `for` of an element of Forwarded.
fn node_of_element(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    node(value)
}

/// One more at the end of those that a header lists, in however many lines.
fn append(headers: &mut HeaderMap, name: HeaderName, own: HeaderValue) {
    let mut lines = headers.get_all(&name).iter();
    let Some(first) = lines.next() else {
        headers.insert(name, own);
        return;
    };
    let mut all = first.as_bytes().to_vec();
    for line in lines.map(HeaderValue::as_bytes).chain([own.as_bytes()]) {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line);
    }
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(name, all);
    }
}

/// Adds us to those who passed a message on (RFC 9110, section 7.6.3).
pub(crate) fn via(headers: &mut HeaderMap, version: Version) {
    let own = match version {
        Version::HTTP_2 => "2 finback",
        Version::HTTP_10 => "1.0 finback",
        _ => "1.1 finback",
    };
    append(headers, header::VIA, HeaderValue::from_static(own));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn proxies(trusted: &[&str]) -> Proxies {
        Proxies {
            trusted: trusted.iter().map(|own| own.parse().unwrap()).collect(),
            ..Proxies::default()
        }
    }

    fn hop(proxies: &Proxies) -> Hop {
        let peer = "10.0.0.1:5".parse().unwrap();
        Hop::new(peer, "10.0.0.2:443".parse().ok(), true, proxies)
    }

    const FORGED: [(&str, &str); 9] = [
        ("host", "a"),
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-for", "203.0.113.2, 203.0.113.3"),
        ("x-forwarded-proto", "ftp"),
        ("x-forwarded-host", "forged"),
        ("x-forwarded-port", "1"),
        ("forwarded", "for=203.0.113.1"),
        ("via", "1.0 one"),
        ("via", "1.1 two"),
    ];

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let mut own = head(&FORGED);
        let fields = Fields::of(&own.headers);
        hop(&proxies(&["10.0.0.0/8"])).tell(&mut own, fields);
        for (name, value) in [
            (
                "x-forwarded-for",
                "203.0.113.1, 203.0.113.2, 203.0.113.3, 10.0.0.1",
            ),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-host", "forged"),
            ("x-forwarded-port", "1"),
            (
                "forwarded",
                "for=203.0.113.1, for=10.0.0.1;proto=https;host=\"a\"",
            ),
            ("via", "1.0 one, 1.1 two, 1.1 finback"),
        ] {
            assert_eq!(own.headers.get_all(name).iter().count(), 1, "{name}");
            assert_eq!(own.headers[name], value);
        }
    }

    #[test]
    fn what_anybody_else_says_is_overwritten() {
        let mut own = head(&FORGED);
        let fields = Fields::of(&own.headers);
        hop(&proxies(&["10.0.0.9"])).tell(&mut own, fields);
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=10.0.0.1;proto=https;host=\"a\""),
            ("via", "1.0 one, 1.1 two, 1.1 finback"),
        ] {
            assert_eq!(own.headers.get_all(name).iter().count(), 1, "{name}");
            assert_eq!(own.headers[name], value);
        }
        let mut own = head(&[("host", "a")]);
        let fields = Fields::of(&own.headers);
        hop(&proxies(&[])).tell(&mut own, fields);
        assert_eq!(own.headers.len(), 5, "{:?}", own.headers);
    }

    #[test]
    fn a_request_is_from_the_rightmost_that_is_no_trusted_proxy() {
        let trusted = proxies(&["10.0.0.0/8", "fd00::/8"]);
        for (headers, source) in [
            (&[][..], "10.0.0.1"),
            (&[("x-forwarded-for", "203.0.113.1")], "203.0.113.1"),
            (
                &[("x-forwarded-for", "1.1.1.1, 203.0.113.1, 10.0.0.7")],
                "203.0.113.1",
            ),
            (
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "203.0.113.1, 10.0.0.7"),
                ],
                "203.0.113.1",
            ),
            (&[("x-forwarded-for", "10.0.0.8, 10.0.0.7")], "10.0.0.8"),
            (
                &[("x-forwarded-for", "1.1.1.1, nonsense, 10.0.0.7")],
                "10.0.0.7",
            ),
            (&[("x-forwarded-for", "203.0.113.1:80,, ")], "203.0.113.1"),
            (&[("x-forwarded-for", "[2001:db8::1]:80")], "2001:db8::1"),
            (&[("x-forwarded-for", "::ffff:203.0.113.1")], "203.0.113.1"),
            (
                &[(
                    "forwarded",
                    "for=1.1.1.1;by=x, For=\"[2001:db8::1]:7\";proto=http, for=\"[fd00::1]\"",
                )],
                "2001:db8::1",
            ),
            (&[("forwarded", "for=1.1.1.1, for=_hidden")], "10.0.0.1"),
        ] {
            let own = head(headers);
            let found = hop(&trusted).source(&own.headers, &trusted);
            assert_eq!(found.to_string(), source, "{headers:?}");
            let nobody = proxies(&[]);
            let found = hop(&nobody).source(&own.headers, &nobody);
            assert_eq!(found.to_string(), "10.0.0.1");
        }
    }
}
