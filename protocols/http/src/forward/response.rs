//! The response of an endpoint, made the one for the caller.

use finback_core::boxed::boxed;
use finback_core::driver::DrivenExchange;
use finback_core::mesh::Lease;
use finback_core::net::Timer;
use finback_core::rejection::Rejection;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use http_body::Body;

use crate::body::{Download, Incoming, Payload};
use crate::forwarded;
use crate::headers;
use crate::pool::PoolGuard;
use crate::rules::{self, Fields};
use crate::translation::{Translated, Translator};
use crate::treatment;
use crate::upgrade::{self, Wanted};

use super::Call;

impl Call {
    /// Makes of the endpoint's response, or ours, the client's.
    pub(super) fn finish(&mut self, answered: Response<Payload>) -> Response<Payload> {
        let mut response = match self.translator.take() {
            None => answered,
            Some((by, content_type)) => translated(answered, by, content_type),
        };
        if let Some(treatment) = &self.treatment {
            treatment::change(response.headers_mut(), &treatment.response);
        }
        response
    }

    /// Makes of an endpoint's response the one for the caller.
    pub(super) fn pass(
        &mut self,
        response: Response<Incoming>,
        (returned, mut timer): (PoolGuard, Timer),
        lease: Lease,
    ) -> Response<Payload> {
        let (mut head, body) = response.into_parts();
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let chosen = match &self.wanted {
            Some(wanted) if switches => wanted.chosen(&head.headers),
            _ => None,
        };
        let fields = Fields::of(&head.headers);
        headers::strip(&mut head.headers, fields);
        forwarded::via(&mut head.headers, head.version);
        if switches {
            let (Some(wanted), Some(chosen)) = (self.wanted.take(), chosen) else {
                return self.reject_for(Rejection::ConnectionLost, "it switches to something else");
            };
            let Some(endpoint) = body.into_socket() else {
                return self.reject(Rejection::ConnectionLost);
            };
            let exchange = self.exchange.take().expect("a call is ended once");
            let (side, payload) = wanted.agree(chosen, &mut head.status, &mut head.headers);
            let caller = self.client.caller.clone();
            let relay = upgrade::relay(caller, side, endpoint, exchange, lease);
            self.client.caller.worker().spawn("a tunnel", relay);
            drop(returned);
            return Response::from_parts(head, payload);
        }
        // To whoever asked by CONNECT, any success means that there is a tunnel.
        let stays = self.wanted.as_ref().is_some_and(Wanted::is_stream);
        if stays && head.status.is_success() {
            let why = "the endpoint does not change its protocol";
            return self.reject_for(Rejection::ConnectionLost, why);
        }
        let exchange = self.exchange.take().expect("a call is ended once");
        if lease.is_limited() {
            self.time(&exchange, &lease, &head.headers);
        }
        head.version = Version::HTTP_11;
        let answer = self.dialect.answer(head.status, &head.headers);
        let idle = self.client.caller.worker().call_timeout();
        // Where nobody set a deadline, the timer may fire early: it looks what has moved.
        if self.bounded {
            timer.reset(exchange.deadline());
        }
        let mut download = boxed(|| Download {
            exchange,
            lease,
            dialect: self.dialect.clone(),
            answer,
            reader: self.reader.take(),
            parting: self.parting(),
            upload: self.upload.clone(),
            bytes: 0,
            // Who was asked to become another protocol's may believe that it has, or that what follows
            // is (RFC 9110, section 7.8): nobody else's request may come next.
            connection: self.wanted.is_none().then_some(returned),
            timer,
            idle: (!self.bounded).then_some(idle),
            moved: self.client.caller.worker().instant(),
            begun: false,
            ended: false,
            body,
        });
        if download.body.is_end_stream() {
            // Trailers that came as the head are the head's.
            download.end(Some(&head.headers.clone()));
        } else if rules::is_bodiless(self.asked.method(), head.status) {
            // Whatever follows is no body.
            download.end(None);
            return Response::from_parts(head, Payload::empty());
        }
        Response::from_parts(head, Payload::Response(download))
    }

    /// Says from when on a response's time counts, unless it is that of a stream.
    #[cold]
    pub(super) fn time(&self, exchange: &DrivenExchange, lease: &Lease, headers: &HeaderMap) {
        let events = headers::is_event_stream(headers.get(header::CONTENT_TYPE));
        if events || !self.upload.is_done() {
            lease.leave_out();
        } else if let Some(moved) = self.upload.moved() {
            exchange.sent_at(lease, moved);
        }
    }
}

/// An endpoint's response in the client's form; a rejection has that already.
pub(super) fn translated(
    response: Response<Payload>,
    by: Box<dyn Translator>,
    content_type: HeaderValue,
) -> Response<Payload> {
    let (mut head, payload) = response.into_parts();
    if !matches!(payload, Payload::Response(_)) {
        return Response::from_parts(head, payload);
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, content_type);
    Response::from_parts(head, Translated::wrap(payload, by, None))
}
