//! The copy of a request for a shadow, and requests whose answers nobody gets.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use finback_core::frame::Outcome;
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::rejection::Rejection;
use http::Response;
use http_body::Body;

use crate::body::{Incoming, Payload, Upload};
use crate::interim::Interim;
use crate::propagation::Before;
use crate::shadow::{self, Ready};

use super::Call;
use super::look::{attribute, weight};

impl Call {
    /// Keeps what a copy for its route's shadow is made of. A tunnel has none, nor has what is translated on its way.
    pub(super) fn note_shadow(&mut self) {
        if self.wanted.is_some() || self.translator.is_some() {
            return;
        }
        let shadow = self.exchange().shadow();
        self.shadow = shadow.map(|shadow| {
            let head = self.head.clone();
            Box::new(shadow::Shadowing { shadow, head })
        });
    }

    /// Sends a copy to its route's shadow, now that its endpoint answers, if all of its body is known.
    pub(super) fn send_to_shadow(&mut self) {
        let Some(copy) = self.shadow.take() else {
            return;
        };
        let body = self.kept().map(|all| all.bytes);
        let worker = self.client.caller.worker().clone();
        let Some(ready) = body.and_then(|body| Ready::of(copy, body, &worker)) else {
            return;
        };
        let Some(copied) = self.copied(&ready) else {
            return;
        };
        worker.spawn("a copy for a shadow", copied.vanish(ready));
    }

    /// The same request as a call of its own, for a shadow.
    pub(super) fn copied(&self, ready: &Ready) -> Option<Self> {
        let client = &self.client.apart();
        let head = ready.copy.head.clone();
        let metadata = self.dialect.metadata(&head);
        let mut attributes = |name: &str| attribute(client, &head, name);
        let original = self.exchange.as_ref()?;
        let exchange = client.caller.open_shadow(
            (original, &ready.copy.shadow),
            self.source,
            self.dialect.name(),
            &metadata,
            weight(&head) + ready.bytes(),
            &mut attributes,
        )?;
        let upload = Rc::new(Upload::default());
        upload.finish();
        Some(Self {
            client: client.clone(),
            bounded: true,
            prefers_http2: self.prefers_http2,
            reader: None,
            farewell: None,
            wants_fresh: false,
            treatment: None,
            exchange: Some(exchange),
            source: self.source,
            dialect: self.dialect.clone(),
            asked: self.asked.clone(),
            waits: false,
            fields: self.fields,
            wanted: None,
            interim: Interim::nobody(),
            translator: None,
            payload: ready.payload(),
            upload,
            replayable: None,
            before: Before::default(),
            shadow: None,
            head,
        })
    }

    /// Carries a copy to its end, which nobody hears of.
    pub(super) async fn vanish(mut self, ready: Ready) {
        let client = self.client.clone();
        let deadline = self.exchange().deadline();
        let carried = async {
            let mut payload = self.attempts().await.into_body();
            while poll_fn(|cx| Pin::new(&mut payload).poll_frame(cx))
                .await
                .is_some()
            {}
        };
        tokio::select! {
            _ = client.timers.within(deadline, Box::pin(carried)) => {}
            () = client.caller.cut() => {}
        }
        drop(ready);
    }

    /// Keeps an answer from its caller, by a fault that was asked for: as if it had been lost on the way.
    pub(super) async fn withhold(
        &mut self,
        response: Response<Incoming>,
        mut lease: Lease,
    ) -> Response<Payload> {
        let answered = AttemptEnd::Answered(Outcome::Success);
        self.exchange()
            .conclude(&mut lease, answered, Resend::Impossible);
        drop((response, lease));
        let deadline = self.exchange().deadline();
        tokio::time::sleep_until(deadline).await;
        self.reject(Rejection::DeadlineExceeded)
    }
}
