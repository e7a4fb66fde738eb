//! Route policies of HTTP: what a route does with its requests beyond routing them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use finback_core::route::RoutePolicy;
use http::header::{HeaderName, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use regex::Regex;

use bytes::Bytes;

/// Takes requests in the place of an endpoint.
pub trait Handler: fmt::Debug + Send + Sync {
    /// The longest body it takes, in bytes.
    fn limit(&self) -> usize;

    /// What it is, and where in it a request's body goes, as traces have it; `None` where it sends nothing.
    fn destination(&self, head: &Parts) -> Option<(&'static str, String)>;

    /// Where bodies go, in words.
    fn explain(&self) -> String;

    /// Takes a request and answers it; dropped when its deadline is over.
    fn take(&self, head: &Parts, body: Bytes) -> Handling;
}

/// An answer that is waited for, on its worker's thread.
pub type Handling = Pin<Box<dyn Future<Output = Response<Bytes>>>>;

/// Of one route.
#[derive(Clone, Debug, Default)]
pub struct HttpPolicy {
    /// Answers here; nothing is sent on.
    pub answer: Option<DirectResponse>,
    /// Somebody here takes it; nothing is sent on.
    pub handler: Option<Arc<dyn Handler>>,
    /// Another host for the endpoint.
    pub host: Option<Authority>,
    /// Another path for the endpoint.
    pub path: Option<Change>,
    /// Changes of the request's headers, in order.
    pub request: Vec<HeaderChange>,
    /// Changes of the response's headers, in order.
    pub response: Vec<HeaderChange>,
}

/// An answer of the route's own.
#[derive(Clone, Debug)]
pub enum DirectResponse {
    /// Fixed.
    Fixed {
        /// Its status.
        status: StatusCode,
        /// Its body.
        body: Bytes,
        /// Its type.
        content_type: HeaderValue,
    },
    /// Look elsewhere: what is not given stays as it was asked for.
    Redirect {
        /// Its status: 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// Another scheme.
        scheme: Option<String>,
        /// Another host.
        host: Option<String>,
        /// Another path.
        path: Option<Change>,
    },
}

/// A change of a path.
#[derive(Clone, Debug)]
pub enum Change {
    /// Another one.
    Whole(String),
    /// Another beginning, of paths that begin so.
    Prefix {
        /// How they begin.
        from: String,
        /// How they begin then.
        to: String,
    },
    /// What a regular expression matches, first found.
    Regex {
        /// The expression.
        from: Regex,
        /// What takes its place; `$1` is its first group.
        to: String,
    },
}

/// A change of headers.
#[derive(Clone, Debug)]
pub enum HeaderChange {
    /// Another value beside those there are.
    Add(HeaderName, HeaderValue),
    /// This value, and no other.
    Set(HeaderName, HeaderValue),
    /// None.
    Remove(HeaderName),
}

impl Change {
    fn apply(&self, path: &str) -> String {
        match self {
            Self::Whole(to) => to.clone(),
            Self::Prefix { from, to } => match path.strip_prefix(from.as_str()) {
                // `/a` to `/` shall not make `//b` of `/a/b`.
                Some(rest) if to.ends_with('/') => {
                    format!("{to}{}", rest.trim_start_matches('/'))
                }
                Some(rest) => format!("{to}{rest}"),
                None => path.to_owned(),
            },
            Self::Regex { from, to } => from.replace(path, to.as_str()).into_owned(),
        }
    }
}

impl RoutePolicy for HttpPolicy {
    fn protocol(&self) -> &'static str {
        crate::NAME
    }

    fn destination(&self) -> Option<String> {
        Some(self.handler.as_ref()?.explain())
    }
}

impl HttpPolicy {
    /// The route's own answer, if it has one, to a request that came under TLS or not.
    pub(crate) fn response(&self, head: &Parts, secure: bool) -> Option<Response<Bytes>> {
        let mut response = match self.answer.as_ref()? {
            DirectResponse::Fixed {
                status,
                body,
                content_type,
            } => {
                let mut response = Response::new(body.clone());
                *response.status_mut() = *status;
                let kind = content_type.clone();
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            DirectResponse::Redirect {
                status,
                scheme,
                host,
                path,
            } => {
                let authority = crate::headers::authority(head).unwrap_or_default();
                let scheme = match scheme {
                    Some(scheme) => scheme,
                    None if secure => "https",
                    None => "http",
                };
                let host = host.as_deref().unwrap_or(authority);
                let own = head.uri.path();
                let path = path.as_ref().map_or(own.to_owned(), |path| path.apply(own));
                let query = head
                    .uri
                    .query()
                    .map_or(String::new(), |query| format!("?{query}"));
                let location = format!("{scheme}://{host}{path}{query}");
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = *status;
                // A path that cannot stand in a header came from a request that had it there.
                let location = HeaderValue::from_str(&location).ok()?;
                response.headers_mut().insert(LOCATION, location);
                response
            }
        };
        change(response.headers_mut(), &self.response);
        Some(response)
    }

    /// Changes a request.
    pub(crate) fn amend(&self, head: &mut Parts) {
        if let Some(path) = &self.path {
            let path = path.apply(head.uri.path());
            let target = match head.uri.query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            };
            if let Ok(target) = target.parse::<PathAndQuery>() {
                let mut parts = head.uri.clone().into_parts();
                parts.path_and_query = Some(target);
                if let Ok(uri) = Uri::from_parts(parts) {
                    head.uri = uri;
                }
            }
        }
        if let Some(host) = &self.host {
            if head.uri.authority().is_some() {
                let mut parts = head.uri.clone().into_parts();
                parts.authority = Some(host.clone());
                if let Ok(uri) = Uri::from_parts(parts) {
                    head.uri = uri;
                }
            }
            if let Ok(host) = HeaderValue::from_str(host.as_str()) {
                head.headers.insert(header::HOST, host);
            }
        }
        change(&mut head.headers, &self.request);
    }
}

/// Changes headers.
pub(crate) fn change(headers: &mut HeaderMap, changes: &[HeaderChange]) {
    for each in changes {
        match each {
            HeaderChange::Add(name, value) => {
                headers.append(name, value.clone());
            }
            HeaderChange::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            HeaderChange::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn head(target: &str) -> Parts {
        let request = http::Request::get(target).header("host", "a.b:80");
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn paths_change_as_they_are_told() {
        let prefix = |from: &str, to: &str| Change::Prefix {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let regex = Change::Regex {
            from: Regex::new("^/v([0-9]+)/").unwrap(),
            to: "/version-$1/".to_owned(),
        };
        for (change, path, wanted) in [
            (prefix("/api", "/"), "/api/x", "/x"),
            (prefix("/api", "/v2"), "/api/x", "/v2/x"),
            (prefix("/api/", "/"), "/other", "/other"),
            (Change::Whole("/one".to_owned()), "/x", "/one"),
            (regex, "/v2/x", "/version-2/x"),
        ] {
            let treatment = HttpPolicy {
                path: Some(change),
                host: Some("c.d".parse().unwrap()),
                ..HttpPolicy::default()
            };
            for prefix in ["", "http://a.b:80"] {
                let mut own = head(&format!("{prefix}{path}?q=1"));
                treatment.amend(&mut own);
                assert_eq!(own.uri.path(), wanted);
                assert_eq!(own.uri.query(), Some("q=1"));
                assert_eq!(own.headers["host"], "c.d");
                let authority = own.uri.authority().map(Authority::as_str);
                assert_eq!(authority.unwrap_or("c.d"), "c.d");
            }
        }
    }

    #[test]
    fn routes_answer_themselves() {
        let redirect = HttpPolicy {
            answer: Some(DirectResponse::Redirect {
                status: StatusCode::MOVED_PERMANENTLY,
                scheme: Some("https".to_owned()),
                host: None,
                path: None,
            }),
            response: vec![HeaderChange::Set(
                HeaderName::from_static("x-own"),
                HeaderValue::from_static("1"),
            )],
            ..HttpPolicy::default()
        };
        let response = redirect.response(&head("/x?y=1"), false).unwrap();
        assert_eq!(response.headers()["location"], "https://a.b:80/x?y=1");
        assert_eq!(response.headers()["x-own"], "1");
        assert!(HttpPolicy::default().response(&head("/"), false).is_none());
    }
}
