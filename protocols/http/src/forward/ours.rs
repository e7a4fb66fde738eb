//! Answers of our own: rejections, what a route answers itself, and what a handler in this process answers.

use std::sync::Arc;

use bytes::Bytes;
use finback_core::rejection::Rejection;
use http::{HeaderValue, Response, Version, header};

use crate::body::Payload;
use crate::headers;
use crate::treatment::{Handler, HttpPolicy};

use super::Call;
use super::collect::{Ungathered, gather};
use super::look::Fault;

impl Call {
    pub(super) fn reject(&mut self, rejection: Rejection) -> Response<Payload> {
        let text = self.exchange().rejected(rejection);
        self.word(rejection, &text)
    }

    pub(super) fn reject_for(&mut self, rejection: Rejection, why: &str) -> Response<Payload> {
        self.exchange().rejected(rejection);
        self.word(rejection, &format!("[finback] {why}"))
    }

    /// The same of a request in HTTP/1 whose rest may not be understood either: its connection ends.
    pub(super) fn refuse_unread(&mut self, fault: &Fault) -> Response<Payload> {
        let mut response = self.refuse(fault);
        if self.head.version != Version::HTTP_2 {
            // What follows may be the rest of what was not understood.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    pub(super) fn refuse(&mut self, fault: &Fault) -> Response<Payload> {
        let Some(status) = fault.status else {
            return self.reject_for(fault.rejection, fault.why);
        };
        self.exchange().rejected(fault.rejection);
        let text = format!("[finback] {}", fault.why);
        let asked = &self.asked;
        let response = self
            .dialect
            .reject_as(asked, fault.rejection, status, &text);
        self.finish_rejected(response)
    }

    /// The caller has not sent the body in time; the endpoint is not to blame.
    pub(super) fn reject_slow(&mut self) -> Response<Payload> {
        self.exchange().rejected(Rejection::DeadlineExceeded);
        let text = "[finback] the request's body did not come in time";
        let response = self.dialect.reject_slow(&self.asked, text);
        self.finish_rejected(response)
    }

    pub(super) fn word(&mut self, rejection: Rejection, text: &str) -> Response<Payload> {
        let response = self.dialect.reject(&self.asked, rejection, text);
        self.finish_rejected(response)
    }

    /// Ends the call with the mesh's own answer, whose status stands in its record.
    pub(super) fn finish_rejected(&mut self, mut response: Response<Bytes>) -> Response<Payload> {
        if let Some(after) = self.exchange().retry_after() {
            self.dialect.tell_retry(response.headers_mut(), after);
        }
        let answer = self.dialect.answer(response.status(), response.headers());
        if let Some(answer) = answer {
            self.exchange().set_status(answer.status);
        }
        self.exchange = None;
        response.map(Payload::from)
    }

    pub(super) fn answer_itself(&mut self, response: Response<Bytes>) -> Response<Payload> {
        let answer = self.dialect.answer(response.status(), response.headers());
        let answer = answer.unwrap_or(finback_core::frame::Outcome::Success.into());
        let length = response.body().len() as u64;
        self.exchange().answered(answer, length);
        self.exchange = None;
        response.map(Payload::from)
    }

    /// Has a request taken here.
    pub(super) async fn hand_over(&mut self, handler: Arc<dyn Handler>) -> Response<Payload> {
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        let limit = self.exchange().deadline();
        self.interim.go_on();
        if let Some((system, destination)) = handler.destination(&self.head) {
            let Self { exchange, head, .. } = self;
            let exchange = exchange.as_mut().expect("a call is ended once");
            let mut attributes = |name: &str| headers::attribute(head, name);
            let context = exchange.send(system, &destination, &mut attributes);
            self.before
                .replace(&mut self.head.headers, &context.unwrap_or_default());
        }
        let taking = async {
            let body = gather(payload, handler.limit()).await?;
            Ok(handler.take(&self.head, body.bytes).await)
        };
        match self.client.timers.within(limit, taking).await {
            Ok(Ok(response)) => self.answer_itself(response),
            Ok(Err(Ungathered::TooLong)) => self.reject(Rejection::TooLarge),
            Ok(Err(Ungathered::Broken)) => self.reject(Rejection::BadRequest),
            Err(_) if self.waits_for_caller() => self.reject_slow(),
            Err(_) => self.reject(Rejection::DeadlineExceeded),
        }
    }
}

/// Who takes requests of a route here, if somebody does.
pub(super) fn own_handler(treatment: Option<&HttpPolicy>) -> Option<&Arc<dyn Handler>> {
    treatment.and_then(|own| own.handler.as_ref())
}
