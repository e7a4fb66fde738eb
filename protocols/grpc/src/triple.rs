//! Triple: gRPC with Dubbo's version and group, and its form without message frames.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use finback_core::frame::{Answer, Fit, Metadata, Outcome, Status};
use finback_core::rejection::Rejection;
use finback_core::text::{ANSWER_LIMIT, cut};
use finback_http::{Dialect, RequestInfo};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::{Grpc, is_call, is_grpc, status};

const TIMEOUT: HeaderName = HeaderName::from_static("tri-service-timeout");
/// As dubbo-go names it.
const GO_TIMEOUT: HeaderName = HeaderName::from_static("triple-timeout-ms");

/// What tells Triple: clients of its frameworks send some of these (Dubbo: TripleHeaderEnum).
const NAMES: [&str; 11] = [
    "tri-service-version",
    "tri-service-group",
    "tri-service-timeout",
    "tri-protocol-version",
    "tri-consumer-appname",
    "tri-unit-info",
    "tri-req-id",
    "tri-trace-traceid",
    "tri-trace-rpcid",
    "tri-trace-proto-bin",
    "triple-timeout-ms",
];
/// How its calls are written, besides gRPC's ways; streams of Dubbo for JavaScript as those of Connect.
const FORMS: [&str; 7] = [
    "application/json",
    "application/proto",
    "application/protobuf",
    "application/x-protobuf",
    "application/triple+wrapper",
    "application/connect+json",
    "application/connect+proto",
];

/// Whether a content type is one that calls of Triple have.
fn carries(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    is_grpc(Some(content_type)) || FORMS.iter().any(|own| kind.eq_ignore_ascii_case(own))
}

/// Triple.
pub struct Triple;

impl Dialect for Triple {
    fn name(&self) -> &'static str {
        crate::TRIPLE
    }

    fn claims(&self, head: &Parts) -> bool {
        // Most names are none of these, as their beginning tells.
        let own = |name: &HeaderName| {
            let name = name.as_str();
            name.starts_with("tri") && NAMES.contains(&name)
        };
        let carried = || head.headers.get(header::CONTENT_TYPE).is_some_and(carries);
        is_call(head) && head.headers.keys().any(own) && carried()
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let called = Grpc.metadata(head);
        let mut unreadable = called.unreadable;
        let mut of = |name| {
            let mut values = head.headers.get_all(name).iter();
            let value = values.next();
            if values.next().is_some() {
                // Which of them a server takes, nobody knows.
                unreadable = Some("several versions or groups");
            }
            let text = value.and_then(|value| str::from_utf8(value.as_bytes()).ok());
            if value.is_some() && text.is_none() {
                unreadable = Some("a version or group that is not text");
            }
            Cow::Borrowed(text.unwrap_or_default())
        };
        let (version, group) = (of("tri-service-version"), of("tri-service-group"));
        let mut millis = |name: &HeaderName| {
            let value = head.headers.get(name)?;
            let millis = value.to_str().ok().and_then(|text| text.parse().ok());
            if millis.is_none() {
                unreadable = Some("a timeout that is not a number of milliseconds");
            }
            millis.map(Duration::from_millis)
        };
        let (own, of_go) = (millis(&TIMEOUT), millis(&GO_TIMEOUT));
        Metadata {
            version,
            group,
            timeout: own.or(of_go).or(called.timeout),
            unreadable,
            ..called
        }
    }

    fn fit(&self, headers: &mut HeaderMap, fit: Fit<'_>) {
        let put = |headers: &mut HeaderMap, name: &str, value: &str| {
            let value = HeaderValue::from_str(value);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
                headers.insert(name, value);
            }
        };
        for (name, value) in &fit.terms.defaults {
            let has = headers.get(&**name).is_some_and(|own| !own.is_empty());
            if !has {
                put(headers, name, value);
            }
        }
        for (name, value, open) in [
            ("tri-service-version", &fit.terms.version, fit.version),
            ("tri-service-group", &fit.terms.group, fit.group),
        ] {
            match value.as_deref().filter(|_| open) {
                Some("") => {
                    headers.remove(name);
                }
                Some(value) => put(headers, name, value),
                None => {}
            }
        }
    }

    fn prefers_http2(&self, _: &Parts) -> bool {
        true
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        if is_grpc(headers.get(header::CONTENT_TYPE)) {
            return Grpc.answer(status, headers);
        }
        let outcome = match status.as_u16() {
            ..400 => Outcome::Success,
            408 | 504 => Outcome::TimedOut,
            429 => Outcome::Failed,
            400..500 => Outcome::Exception,
            _ => Outcome::Failed,
        };
        // Its unary calls end with HTTP's own numbers, which are all above gRPC's.
        Some(Answer {
            outcome,
            status: Status(status.as_u16()),
        })
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        Grpc.answer_of_trailers(trailers)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        if is_grpc(headers.get(header::CONTENT_TYPE)) {
            Grpc.tell_deadline(headers, left);
        }
        for name in [TIMEOUT, GO_TIMEOUT] {
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            if headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from(millis));
            }
        }
    }

    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        if is_grpc(asked.content_type.as_ref()) {
            return Grpc.reject(asked, rejection, text);
        }
        let (_, name) = status::code(rejection);
        let body =
            serde_json::json!({ "code": name, "message": cut(text, ANSWER_LIMIT) }).to_string();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = match rejection {
            // Its code says that somebody speaks badly; HTTP knows who.
            Rejection::BadRequest => StatusCode::BAD_REQUEST,
            _ => http_status(name),
        };
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Grpc.late_rejection(rejection, text)
    }
}

/// HTTP's status for one of gRPC's, as Triple's own servers choose it.
fn http_status(name: &str) -> StatusCode {
    match name {
        "unimplemented" => StatusCode::NOT_FOUND,
        "deadline_exceeded" => StatusCode::REQUEST_TIMEOUT,
        "permission_denied" => StatusCode::FORBIDDEN,
        "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post("/com.acme.Greeter/hello");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn headers_tell_version_group_and_timeout() {
        let own = head(&[
            ("tri-service-version", "1.0.0"),
            ("tri-service-group", "blue"),
            ("tri-service-timeout", "3000"),
            ("content-type", "application/json; charset=utf-8"),
        ]);
        assert!(Triple.claims(&own));
        let mut get = head(&[]);
        (get.method, get.headers) = (http::Method::GET, own.headers.clone());
        let other = [("tri-x", "1"), ("content-type", "application/json")];
        let untyped = [("tri-service-version", "1.0.0")];
        for none in [get, head(&other), head(&untyped)] {
            assert!(!Triple.claims(&none), "{none:?}");
        }
        let metadata = Triple.metadata(&own);
        assert_eq!((&*metadata.version, &*metadata.group), ("1.0.0", "blue"));
        assert_eq!(
            (&*metadata.service, &*metadata.method),
            ("com.acme.Greeter", "hello")
        );
        assert_eq!(metadata.timeout, Some(Duration::from_secs(3)));
        assert!(!Triple.claims(&head(&[("content-type", "application/grpc")])));
        let go = head(&[("triple-timeout-ms", "20")]);
        assert_eq!(
            Triple.metadata(&go).timeout,
            Some(Duration::from_millis(20))
        );
    }

    #[test]
    fn rejections_come_in_both_forms() {
        for rejection in Rejection::ALL {
            for kind in ["application/grpc+proto", "application/json"] {
                let asked = RequestInfo {
                    content_type: Some(HeaderValue::from_static(kind)),
                    is_head: false,
                };
                let response = Triple.reject(&asked, rejection, "why");
                let answer = Triple
                    .answer(response.status(), response.headers())
                    .unwrap();
                assert_ne!(answer.outcome, Outcome::Success, "{rejection:?} {kind}");
            }
        }
    }

    #[test]
    fn a_deadline_goes_on_in_the_form_it_came() {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, HeaderValue::from_static("3000"));
        Triple.tell_deadline(&mut headers, Duration::from_millis(1200));
        assert_eq!(headers[&TIMEOUT], "1200");
        assert_eq!(headers.len(), 1);
    }
}
