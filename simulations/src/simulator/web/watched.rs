//! Plain HTTP, watched: it notes the calls that the mesh reads.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::Protocol;
use finback_core::frame::{Answer, Fit, Metadata};
use finback_core::rejection::Rejection;
use finback_http::{Config, Dialect, Http, Plain, RequestInfo};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::super::tongue::{ReadLog, number_in};
use super::{DATE, TOKEN};

/// The protocol, which notes the calls that it reads.
pub(crate) fn protocol(log: ReadLog) -> Arc<dyn Protocol> {
    let watched: Arc<dyn Dialect> = Arc::new(Watched(log));
    Arc::new(Http::new(Config::default(), vec![watched]))
}

fn dated(mut response: Response<Bytes>) -> Response<Bytes> {
    let date = HeaderValue::from_static(DATE);
    response.headers_mut().insert(header::DATE, date);
    response
}

/// Plain HTTP, watched.
struct Watched(ReadLog);

impl Dialect for Watched {
    fn name(&self) -> &'static str {
        Plain.name()
    }

    fn claims(&self, head: &Parts) -> bool {
        Plain.claims(head)
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let token = head.headers.get(TOKEN);
        if let Some(number) = token.and_then(|own| number_in(own.as_bytes())) {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.insert(number);
        }
        Plain.metadata(head)
    }

    fn prefers_http2(&self, head: &Parts) -> bool {
        Plain.prefers_http2(head)
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        Plain.answer(status, headers)
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        Plain.answer_of_trailers(trailers)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        Plain.tell_deadline(headers, left);
    }

    fn fit(&self, headers: &mut HeaderMap, fit: Fit<'_>) {
        Plain.fit(headers, fit);
    }

    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        dated(Plain.reject(asked, rejection, text))
    }

    fn reject_slow(&self, asked: &RequestInfo, text: &str) -> Response<Bytes> {
        dated(Plain.reject_slow(asked, text))
    }

    fn reject_as(
        &self,
        asked: &RequestInfo,
        rejection: Rejection,
        status: StatusCode,
        text: &str,
    ) -> Response<Bytes> {
        dated(Plain.reject_as(asked, rejection, status, text))
    }

    fn converses(&self) -> bool {
        Plain.converses()
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Plain.late_rejection(rejection, text)
    }
}
