//! Heads of messages, put together from headers and checked (RFC 9113, section 8).

use std::str::FromStr;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use hyper::ext::Protocol;

use super::hpack::Name;

/// Headers as they come out of a block.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    method: Option<Method>,
    scheme: Option<HeaderValue>,
    authority: Option<HeaderValue>,
    path: Option<HeaderValue>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    fields: HeaderMap,
    size: usize,
    limit: usize,
    /// Some were more than the limit, and were not kept.
    dropped: bool,
    /// Something in it makes the message malformed (RFC 9113, section 8.1.1).
    malformed: bool,
}

/// What there is in the place of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// To be answered with an error of its stream.
    Malformed,
    /// Its headers are more than the limit; they were not kept.
    TooLarge,
}

/// The last target that was put together: clients ask for few.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    scheme: Option<HeaderValue>,
    authority: Option<HeaderValue>,
    path: Option<HeaderValue>,
    uri: Uri,
}

/// A request's head, as [`http::request::Parts`] has it.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) protocol: Option<Protocol>,
    /// It is not all of it: the rest was more than the limit.
    pub(crate) too_large: bool,
    /// Its path or its authority is to enter no table.
    pub(crate) secret_target: bool,
}

fn once<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let fine = place.is_none() && value.is_some();
    *place = value;
    fine
}

impl Headers {
    /// None yet, and of so many bytes at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, name: &Name, value: &HeaderValue, size: usize) {
        self.size += size;
        if self.size > self.limit {
            self.dropped = true;
            // What kind of request it is decides how it is told so.
            if *name != Name::Field(header::CONTENT_TYPE) || size > self.limit {
                return;
            }
        }
        // Those of HTTP/2 come first, each once.
        // RFC 9113, section 8.3.
        let early = self.fields.is_empty();
        let fine = match name {
            Name::Field(name) => self.add_field(name, value),
            Name::Method => {
                let method = Method::from_bytes(value.as_bytes()).ok();
                early && once(&mut self.method, method)
            }
            Name::Scheme => early && once(&mut self.scheme, Some(value.clone())),
            Name::Authority => early && once(&mut self.authority, Some(value.clone())),
            Name::Path => early && once(&mut self.path, Some(value.clone())),
            Name::Protocol => early && once(&mut self.protocol, Some(value.clone())),
            Name::Status => {
                let status = StatusCode::from_bytes(value.as_bytes()).ok();
                early && once(&mut self.status, status)
            }
            Name::Bad => false,
        };
        self.malformed |= !fine;
    }

    fn add_field(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        // Headers of one connection have no place here (RFC 9113, section 8.2.2).
        let fine = match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => false,
            header::TE => value == "trailers",
            _ => name != "keep-alive" && name != "proxy-connection",
        };
        if self.fields.try_append(name.clone(), value.clone()).is_err() {
            self.dropped = true;
        }
        fine
    }

    fn check(&self) -> Result<(), Fault> {
        // RFC 9113, section 8.1.1.
        if self.malformed {
            return Err(Fault::Malformed);
        }
        if self.dropped {
            return Err(Fault::TooLarge);
        }
        Ok(())
    }

    /// A request's head.
    pub(crate) fn into_request(self, targets: &mut Targets) -> Result<RequestHead, Fault> {
        if self.malformed {
            return Err(Fault::Malformed);
        }
        let told = self.method.is_some() && self.path.is_some();
        // RFC 9113, section 10.5.1.
        if self.dropped && !told {
            return Err(Fault::TooLarge);
        }
        let (Some(method), None) = (self.method, self.status) else {
            return Err(Fault::Malformed);
        };
        let plain_connect = method == Method::CONNECT && self.protocol.is_none();
        // RFC 9113, sections 8.3.1 and 8.5; RFC 8441, section 4.
        let complete = if plain_connect {
            self.scheme.is_none() && self.path.is_none() && self.authority.is_some()
        } else {
            self.scheme.is_some() && self.path.is_some()
        };
        let extended = self.protocol.is_some();
        if !complete || extended && method != Method::CONNECT {
            return Err(Fault::Malformed);
        }
        let is_secret =
            |own: &Option<HeaderValue>| own.as_ref().is_some_and(HeaderValue::is_sensitive);
        let secret = is_secret(&self.path) || is_secret(&self.authority);
        let same = targets.scheme == self.scheme
            && targets.authority == self.authority
            && targets.path == self.path;
        if !same {
            let uri = uri(&self.scheme, &self.authority, &self.path);
            targets.uri = uri.ok_or(Fault::Malformed)?;
            targets.scheme = self.scheme;
            targets.authority = self.authority;
            targets.path = self.path;
        }
        let protocol = self.protocol.map(|value| text(&value).map(Protocol::from));
        let protocol = match protocol {
            Some(None) => return Err(Fault::Malformed),
            Some(own) => own,
            None => None,
        };
        Ok(RequestHead {
            method,
            uri: targets.uri.clone(),
            headers: self.fields,
            protocol,
            too_large: self.dropped,
            secret_target: secret,
        })
    }

    /// A response's head.
    pub(crate) fn into_response(self) -> Result<(StatusCode, HeaderMap), Fault> {
        self.check()?;
        // RFC 9113, sections 8.3 and 8.3.2: of those names, a response has its status only.
        let asks = self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some();
        match self.status {
            // RFC 9113, section 8.6: no upgrade here.
            Some(status) if !asks && status != StatusCode::SWITCHING_PROTOCOLS => {
                Ok((status, self.fields))
            }
            _ => Err(Fault::Malformed),
        }
    }

    /// What follows a body.
    pub(crate) fn into_trailers(self) -> Result<HeaderMap, Fault> {
        self.check()?;
        // RFC 9113, section 8.1: none of those names stands in trailers.
        let names = self.method.is_some()
            || self.status.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some();
        if names {
            return Err(Fault::Malformed);
        }
        Ok(self.fields)
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

fn uri(
    scheme: &Option<HeaderValue>,
    authority: &Option<HeaderValue>,
    path: &Option<HeaderValue>,
) -> Option<Uri> {
    let shared = |value: &HeaderValue| Bytes::copy_from_slice(value.as_bytes());
    let mut parts = http::uri::Parts::default();
    if let Some(path) = path {
        // RFC 9113, section 8.3.1.
        let fine = path.as_bytes().starts_with(b"/") || path == "*";
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(shared(path)).ok()?);
        if !fine || path.as_bytes().contains(&b'#') {
            return None;
        }
    }
    if let Some(authority) = authority {
        let own = Authority::from_maybe_shared(shared(authority)).ok()?;
        // A scheme without an authority makes no URI.
        parts.scheme = match scheme {
            Some(scheme) => Some(Scheme::from_str(text(scheme)?).ok()?),
            None => None,
        };
        parts.authority = Some(own);
    }
    Uri::from_parts(parts).ok()
}

/// The version that messages of HTTP/2 have.
pub(crate) const VERSION: Version = Version::HTTP_2;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new(1000);
        for (name, value) in all {
            let name = match *name {
                ":method" => Name::Method,
                ":scheme" => Name::Scheme,
                ":authority" => Name::Authority,
                ":path" => Name::Path,
                ":protocol" => Name::Protocol,
                ":status" => Name::Status,
                own => HeaderName::from_lowercase(own.as_bytes()).map_or(Name::Bad, Name::Field),
            };
            let value = HeaderValue::from_str(value).expect("a value");
            headers.add(&name, &value, 40);
        }
        headers
    }

    fn request(all: &[(&str, &str)]) -> Result<RequestHead, Fault> {
        headers(all).into_request(&mut Targets::default())
    }

    const BASE: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a:80"),
        (":path", "/x?y"),
    ];

    #[test]
    fn a_request_has_all_that_makes_one() {
        let head = request(&[&BASE[..], &[("te", "trailers"), ("a", "b")]].concat());
        let head = head.expect("fine");
        assert_eq!(head.uri, "http://a:80/x?y");
        assert_eq!(head.headers.len(), 2);
        let connect = [(":method", "CONNECT"), (":authority", "a:80")];
        assert_eq!(request(&connect).expect("fine").uri, "a:80");
        let asterisk = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")];
        assert_eq!(request(&asterisk).expect("fine").uri.path(), "*");
        let mut extended = BASE.to_vec();
        extended[0].1 = "CONNECT";
        extended.push((":protocol", "websocket"));
        let head = request(&extended).expect("fine");
        assert_eq!(head.protocol.expect("told").as_str(), "websocket");
    }

    #[test]
    fn what_is_malformed_is_found() {
        let with = |more: &[(&'static str, &'static str)]| [&BASE[..], more].concat();
        let without = |place: usize| {
            let mut all = BASE.to_vec();
            all.remove(place);
            all
        };
        for bad in [
            without(0),
            without(1),
            without(3),
            with(&[("a", "b"), (":path", "/")]),
            with(&[(":path", "/")]),
            with(&[(":status", "200")]),
            with(&[(":protocol", "websocket")]),
            with(&[("connection", "close")]),
            with(&[("transfer-encoding", "chunked")]),
            with(&[("keep-alive", "1")]),
            with(&[("te", "gzip")]),
            with(&[("A", "b")]),
            vec![BASE[0], BASE[1], BASE[2], (":path", "")],
            vec![BASE[0], BASE[1], BASE[2], (":path", "x")],
            vec![BASE[0], BASE[1], BASE[2], (":path", "/a b")],
            vec![BASE[0], BASE[1], (":authority", "a/b"), BASE[3]],
            vec![BASE[0], (":scheme", "h ttp"), BASE[2], BASE[3]],
            vec![(":method", "G T"), BASE[1], BASE[2], BASE[3]],
        ] {
            assert_eq!(request(&bad).err(), Some(Fault::Malformed), "{bad:?}");
        }
        let many = vec![("a", "b"); 30];
        let long = [&BASE[..], &many].concat();
        assert!(request(&long).expect("it is answered").too_large);
        let nothing = [&many[..], &BASE[..]].concat();
        assert_eq!(request(&nothing).err(), Some(Fault::TooLarge));
    }

    #[test]
    fn responses_and_trailers_have_their_own() {
        let fine = headers(&[(":status", "204"), ("a", "b")]).into_response();
        assert_eq!(fine.expect("fine").0, 204);
        for bad in [
            &[("a", "b")][..],
            &[(":status", "101")],
            &[(":status", "2000")],
            &[(":status", "200"), (":path", "/")],
        ] {
            assert_eq!(headers(bad).into_response().err(), Some(Fault::Malformed));
        }
        assert!(headers(&[("a", "b")]).into_trailers().is_ok());
        assert!(headers(&[(":status", "200")]).into_trailers().is_err());
    }
}
