//! gRPC, gRPC-Web, Triple (Dubbo 3's protocol) and RocketMQ 5's protocol as dialects of HTTP.
//!
//! gRPC: the path is `/{service}/{method}`, the outcome stands in the trailers, and every answer
//! has status 200 (gRPC: PROTOCOL-HTTP2.md). Triple is gRPC with headers for version and group,
//! and has a second form without message frames whose errors are JSON with a status of HTTP's
//! (Dubbo: TripleHeaderEnum, Dubbo: TriRpcStatus).

mod probe;
mod rocketmq;
mod status;
mod timeout;
mod triple;
mod web;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use finback_core::frame::{Answer, Metadata};
use finback_core::rejection::Rejection;
use finback_http::{Dialect, RequestInfo};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

pub use probe::GrpcProbe;
pub use rocketmq::RocketMq;
pub use status::status_name;
pub use triple::Triple;
pub use web::GrpcWeb;

/// gRPC's name.
pub const NAME: &str = "grpc";
/// Triple's name.
pub const TRIPLE: &str = "triple";
/// The name of RocketMQ 5's protocol.
pub const ROCKETMQ: &str = "rocketmq-grpc";

/// What a status of RocketMQ 5's protocol is called: its own, or gRPC's where nothing more was said.
#[must_use]
pub fn rocketmq_status_name(code: u16) -> Option<&'static str> {
    rocketmq::status_name(code)
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The service of calls that name none.
const UNNAMED: &str = "(none)";
/// How gRPC's content types begin.
const CONTENT_TYPE: &str = "application/grpc";

/// gRPC.
pub struct Grpc;

/// Whether a content type is gRPC's own; gRPC-Web's is not.
fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok());
    text.and_then(|text| text.strip_prefix(CONTENT_TYPE))
        .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'+' | b';')))
}

/// Whether a request can be a call: gRPC's are all POSTs (gRPC: PROTOCOL-HTTP2.md). Others that
/// say they are would only get past routes for HTTP.
fn is_call(head: &Parts) -> bool {
    head.method == Method::POST
}

/// Service and method, as the path has them; an application's context may stand before.
fn names(path: &str) -> (Option<&str>, &str) {
    let (before, method) = path.rsplit_once('/').unwrap_or(("", path));
    let service = before.rsplit('/').next();
    (service.filter(|service| !service.is_empty()), method)
}

impl Dialect for Grpc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claims(&self, head: &Parts) -> bool {
        is_call(head) && is_grpc(head.headers.get(header::CONTENT_TYPE))
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let (service, method) = names(head.uri.path());
        let given = head.headers.get(&TIMEOUT);
        let timeout = given.and_then(timeout::read);
        Metadata {
            service: Cow::Borrowed(service.unwrap_or(UNNAMED)),
            own: service.is_none(),
            method: Cow::Borrowed(method),
            timeout,
            // Servers take what stands before a last slash for the method.
            unreadable:
                (service.is_some() && method.is_empty())
                    .then_some("a path that names no method")
                    .or((given.is_some() && timeout.is_none())
                        .then_some("a grpc-timeout that is none")),
            ..Metadata::default()
        }
    }

    fn prefers_http2(&self, _: &Parts) -> bool {
        true
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        match headers.get(&STATUS) {
            Some(value) => Some(status::answer(value)),
            None if status != StatusCode::OK => Some(status::answer_of_http(status)),
            None => None,
        }
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        let status = trailers.and_then(|trailers| trailers.get(&STATUS));
        status.map_or(status::UNSAID, status::answer)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        headers.insert(TIMEOUT, timeout::write(left));
    }

    fn tell_retry(&self, headers: &mut HeaderMap, after: Duration) {
        // gRFC A6: in milliseconds; clients whose policy tries again wait for so long.
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
        headers.insert("grpc-retry-pushback-ms", millis.into());
    }

    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let content_type = asked
            .content_type
            .clone()
            .unwrap_or(HeaderValue::from_static(CONTENT_TYPE));
        *response.headers_mut() = status::trailers(rejection, text);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Some(status::trailers(rejection, text))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use finback_core::frame::{Outcome, Status};

    fn head(path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_is_grpc_tells_the_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(
                Grpc.claims(&head("/", &[("content-type", kind)])),
                is,
                "{kind}"
            );
            let mut get = head("/", &[("content-type", kind)]);
            get.method = Method::GET;
            assert!(!Grpc.claims(&get) && !GrpcWeb.claims(&get), "{kind}");
        }
        assert!(GrpcWeb.claims(&head(
            "/",
            &[("content-type", "application/grpc-web+proto")]
        )));
    }

    #[test]
    fn the_path_names_service_and_method() {
        for (path, service, method) in [
            ("/shop.Pay/Charge", Some("shop.Pay"), "Charge"),
            ("/app/shop.Pay/Charge", Some("shop.Pay"), "Charge"),
            ("/Charge", None, "Charge"),
            ("/", None, ""),
        ] {
            assert_eq!(names(path), (service, method));
        }
        let own = head("/a.B/c", &[("grpc-timeout", "250m")]);
        let metadata = Grpc.metadata(&own);
        assert_eq!(metadata.timeout, Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_cannot_be_read_is_never_taken_for_nothing() {
        for (name, value) in [
            ("grpc-timeout", "250"),
            ("grpc-timeout", "soon"),
            ("tri-service-timeout", "3s"),
            ("triple-timeout-ms", "-1"),
        ] {
            let own = head("/a.B/c", &[(name, value)]);
            assert!(
                Triple.metadata(&own).names_fit().is_err(),
                "{name}: {value}"
            );
        }
        for name in ["tri-service-version", "tri-service-group"] {
            let mut own = head("/a.B/c", &[(name, "x")]);
            let broken = HeaderValue::from_bytes(b"gr\xfcn").unwrap();
            own.headers.insert(name, broken);
            assert!(Triple.metadata(&own).names_fit().is_err(), "{name}");
            let text = HeaderValue::from_bytes("gr\u{fc}n".as_bytes()).unwrap();
            own.headers.insert(name, text);
            assert!(Triple.metadata(&own).names_fit().is_ok(), "{name}");
            // Which of two a server takes, nobody knows.
            let two = head("/a.B/c", &[(name, "x"), (name, "x")]);
            assert!(Triple.metadata(&two).names_fit().is_err(), "{name}");
        }
    }

    #[test]
    fn names_that_are_ours_or_too_long_are_unfit() {
        let long = "x".repeat(1025);
        for (path, fits) in [
            ("/Charge".to_owned(), true),
            (format!("/{}/{}", &long[1..], &long[1..]), true),
            (format!("/{long}/Charge"), false),
            ("/shop.Pay/".to_owned(), false),
            ("/shop.Pay/Charge/".to_owned(), false),
            (format!("/shop.Pay/{long}"), false),
            ("/(none)/Charge".to_owned(), false),
            ("/(other)/Charge".to_owned(), false),
        ] {
            let own = head(&path, &[]);
            assert_eq!(Grpc.metadata(&own).names_fit().is_ok(), fits, "{path}");
            assert_eq!(Triple.metadata(&own).names_fit().is_ok(), fits, "{path}");
        }
        for name in ["tri-service-version", "tri-service-group"] {
            let own = head("/a.B/c", &[(name, &long)]);
            assert!(Triple.metadata(&own).names_fit().is_err(), "{name}");
        }
    }

    #[test]
    fn a_callers_text_comes_back_cut() {
        let long = "\u{1f600}".repeat(1 << 20);
        let answer = Grpc.reject(&RequestInfo::default(), Rejection::NoRoute, &long);
        // Each byte is three, encoded.
        assert_eq!(answer.headers()["grpc-message"].len(), 3 * 2048);
        let asked = RequestInfo {
            content_type: Some(HeaderValue::from_static("application/json")),
            is_head: false,
        };
        let answer = Triple.reject(&asked, Rejection::NoRoute, &long);
        assert!(answer.body().len() < 2200, "{}", answer.body().len());
        let answer = Triple.reject(&asked, Rejection::BadRequest, "a name is too long");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn outcomes_come_from_head_or_trailers() {
        let mut headers = HeaderMap::new();
        assert_eq!(Grpc.answer(StatusCode::OK, &headers), None);
        let failed = |status| {
            Some(Answer {
                outcome: Outcome::Failed,
                status: Status(status),
            })
        };
        // As gRPC's clients map the statuses of HTTP.
        for (status, code) in [(502, 14), (404, 12), (401, 16), (500, 2)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Grpc.answer(status, &headers), failed(code));
        }
        assert_eq!(Grpc.answer_of_trailers(None).outcome, Outcome::Failed);
        for (code, outcome) in [
            ("0", Outcome::Success),
            ("5", Outcome::Exception),
            ("4", Outcome::TimedOut),
            ("14", Outcome::Failed),
            ("x", Outcome::Failed),
            ("17", Outcome::Failed),
        ] {
            let status = Status(code.parse().ok().filter(|code| *code < 17).unwrap_or(2));
            let answer = Answer { outcome, status };
            headers.insert(STATUS, HeaderValue::from_static(code));
            assert_eq!(Grpc.answer(StatusCode::OK, &headers), Some(answer));
            assert_eq!(Grpc.answer_of_trailers(Some(&headers)), answer);
        }
    }

    #[test]
    fn every_rejection_reads_back_as_a_failure() {
        for rejection in Rejection::ALL {
            let response = Grpc.reject(&RequestInfo::default(), rejection, "why: ü");
            assert_eq!(response.status(), StatusCode::OK);
            let answer = Grpc.answer(response.status(), response.headers()).unwrap();
            assert_ne!(answer.outcome, Outcome::Success, "{rejection:?}");
            assert_eq!(response.headers()["grpc-message"], "why: %C3%BC");
        }
    }
}
