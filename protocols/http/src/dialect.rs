//! Dialects: what is spoken in HTTP.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use finback_core::frame::{Answer, Fit, Metadata, NAME_LIMIT, Outcome, Status};
use finback_core::rejection::Rejection;
use finback_core::text::{ANSWER_LIMIT, cut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};

use crate::translation::Translation;

/// A way to use HTTP: how calls are named, how they end, and how the mesh says no.
pub trait Dialect: Send + Sync + 'static {
    /// Its name, as the protocol in routes and metrics.
    fn name(&self) -> &'static str;

    /// Whether a request is of its kind.
    fn claims(&self, head: &Parts) -> bool;

    /// Whether what routing may see of a request stands in its body: its beginning is waited for, then, and is
    /// among the head's [extensions](crate::Beginning).
    fn wants_beginning(&self, _: &Uri) -> bool {
        false
    }

    /// What routing may see of a request.
    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a>;

    /// Whether its endpoints are spoken to in HTTP/2 unless their cluster says otherwise.
    fn prefers_http2(&self, head: &Parts) -> bool;

    /// How a call ended, if the response's head tells; else its trailers do.
    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer>;

    /// How a call ended, as the trailers tell; `None` if there were none.
    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer;

    /// Who reads a response's body for how the call ended, where neither head nor trailers tell.
    fn answer_reader(&self, _: &Parts) -> Option<Box<dyn AnswerReader>> {
        None
    }

    /// Writes what is left of the caller's deadline into a request, where the dialect has a
    /// place for it.
    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration);

    /// Writes what the endpoint wants of a call into a request, where the dialect has a place for it.
    fn fit(&self, _: &mut HeaderMap, _: Fit<'_>) {}

    /// The mesh's own answer, which its client libraries turn into a clean error with `text`.
    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes>;

    /// The mesh's own answer where a request's body did not come in time.
    fn reject_slow(&self, asked: &RequestInfo, text: &str) -> Response<Bytes> {
        self.reject(asked, Rejection::DeadlineExceeded, text)
    }

    /// The mesh's own answer where HTTP has a status for just this.
    fn reject_as(
        &self,
        asked: &RequestInfo,
        rejection: Rejection,
        _: StatusCode,
        text: &str,
    ) -> Response<Bytes> {
        self.reject(asked, rejection, text)
    }

    /// Says in the mesh's own answer when the caller may try again.
    fn tell_retry(&self, headers: &mut HeaderMap, after: Duration) {
        // RFC 9110, section 10.2.3: in whole seconds.
        let seconds = after.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        headers.insert(header::RETRY_AFTER, seconds.into());
    }

    /// Whether a request's body may be a conversation, that takes its time.
    fn converses(&self) -> bool {
        true
    }

    /// Trailers that end a response which has begun already, if there is such a thing.
    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap>;

    /// What has to be changed where the endpoint is spoken to in another form; changes the
    /// request's head. Most have one form only.
    fn translation(&self, _: &mut Parts) -> Option<Translation> {
        None
    }
}

/// Reads the body of one response for how the call ended.
pub trait AnswerReader {
    /// Takes what passed.
    fn read(&mut self, data: &[u8]);

    /// How the call ended, as far as the body tells. It counts where head and trailers tell of a success.
    fn answer(&self) -> Option<Answer>;
}

/// What a rejection needs to know of a request that is gone.
#[derive(Clone, Debug, Default)]
pub struct RequestInfo {
    /// Its content type.
    pub content_type: Option<HeaderValue>,
    /// Whether it was a HEAD.
    pub is_head: bool,
}

impl RequestInfo {
    pub(crate) fn of(head: &Parts) -> Self {
        Self {
            content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
            is_head: head.method == Method::HEAD,
        }
    }

    /// A method whose responses have a body where its own have.
    pub(crate) fn method(&self) -> &'static Method {
        match self.is_head {
            true => &Method::HEAD,
            false => &Method::GET,
        }
    }
}

/// HTTP with nothing in it: the service is the host, the method is HTTP's.
pub struct Plain;

impl Dialect for Plain {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn claims(&self, _: &Parts) -> bool {
        true
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let authority = crate::headers::authority(head).unwrap_or_default();
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        let service = if host.is_empty() {
            Cow::Borrowed("(none)")
        } else if host.len() <= NAME_LIMIT && host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let method = match head.method.as_str() {
            known @ ("GET" | "POST" | "PUT" | "HEAD" | "DELETE" | "OPTIONS" | "PATCH"
            | "CONNECT" | "TRACE") => known,
            // Anything may stand there; metrics shall not follow it.
            _ => "(other)",
        };
        Metadata {
            service,
            method: Cow::Borrowed(method),
            own: host.is_empty(),
            ..Metadata::default()
        }
    }

    fn prefers_http2(&self, _: &Parts) -> bool {
        false
    }

    fn answer(&self, status: StatusCode, _: &HeaderMap) -> Option<Answer> {
        let outcome = match status.as_u16() {
            ..400 => Outcome::Success,
            400..500 => Outcome::Exception,
            504 => Outcome::TimedOut,
            _ => Outcome::Failed,
        };
        Some(Answer {
            outcome,
            status: Status(status.as_u16()),
        })
    }

    fn answer_of_trailers(&self, _: Option<&HeaderMap>) -> Answer {
        Outcome::Success.into()
    }

    fn tell_deadline(&self, _: &mut HeaderMap, _: Duration) {}

    fn reject(&self, _: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        let body = format!("{}\n", cut(text, ANSWER_LIMIT));
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status(rejection);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if rejection == Rejection::Draining {
            let retry = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, retry);
        }
        if rejection == Rejection::Unauthenticated {
            // RFC 9110, section 15.5.2: such a response has to say how; RFC 6750, section 3.
            let challenge = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }

    fn reject_slow(&self, asked: &RequestInfo, text: &str) -> Response<Bytes> {
        let mut response = self.reject(asked, Rejection::DeadlineExceeded, text);
        *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
        response
    }

    fn reject_as(
        &self,
        asked: &RequestInfo,
        rejection: Rejection,
        status: StatusCode,
        text: &str,
    ) -> Response<Bytes> {
        let mut response = self.reject(asked, rejection, text);
        *response.status_mut() = status;
        response
    }

    fn converses(&self) -> bool {
        false
    }

    fn late_rejection(&self, _: Rejection, _: &str) -> Option<HeaderMap> {
        None
    }
}

/// The status that stands for a rejection (RFC 9110, section 15).
fn status(rejection: Rejection) -> StatusCode {
    match rejection {
        Rejection::NoRoute | Rejection::NoService => StatusCode::NOT_FOUND,
        Rejection::NoEndpoint | Rejection::Overloaded | Rejection::Draining => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        // RFC 6585, section 4.
        Rejection::Limited => StatusCode::TOO_MANY_REQUESTS,
        Rejection::ConnectFailed | Rejection::ConnectionLost => StatusCode::BAD_GATEWAY,
        Rejection::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Rejection::Denied => StatusCode::FORBIDDEN,
        Rejection::Unauthenticated => StatusCode::UNAUTHORIZED,
        Rejection::BadRequest => StatusCode::BAD_REQUEST,
        Rejection::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn parts(host: &str) -> Parts {
        let request = http::Request::get("/a?b=c").header("host", host);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_service_is_the_host_without_its_port() {
        for (host, service) in [
            ("Pay.Acme:8080", "pay.acme"),
            ("pay", "pay"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            let head = parts(host);
            assert_eq!(Plain.metadata(&head).service, service, "{host}");
        }
    }

    #[test]
    fn hosts_that_are_ours_or_too_long_are_unfit() {
        let long = "X".repeat(1025);
        for (host, fits) in [
            (&long[1..], true),
            (&long, false),
            ("", true),
            ("(none)", false),
            ("(unfit)", false),
        ] {
            let head = parts(host);
            assert_eq!(Plain.metadata(&head).names_fit().is_ok(), fits, "{host}");
        }
        let text = "\u{e9}".repeat(5000);
        let answer = Plain.reject(&RequestInfo::default(), Rejection::NoRoute, &text);
        assert_eq!(answer.body().len(), 2049);
    }

    #[test]
    fn every_rejection_is_an_error() {
        for rejection in Rejection::ALL {
            let response = Plain.reject(&RequestInfo::default(), rejection, "why");
            assert!(response.status().as_u16() >= 400, "{rejection:?}");
            assert_eq!(&response.body()[..], b"why\n");
            let answer = Plain.answer(response.status(), response.headers()).unwrap();
            assert_ne!(answer.outcome, Outcome::Success);
            assert_eq!(answer.status.0, response.status().as_u16());
        }
    }
}
