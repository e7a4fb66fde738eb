//! One request from its head to its response's head.

mod attempts;
mod collect;
mod hedged;
mod look;
mod ours;
mod response;
mod sending;
mod shadowed;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use finback_core::boxed::boxed;
use finback_core::driver::{Caller, DrivenExchange};
use finback_core::mesh::{Lease, Routed};
use finback_core::rejection::Rejection;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body;

use crate::Http;
use crate::beginning;
use crate::body::{Incoming, Parting, Payload, Upload};
use crate::client::Client;
use crate::dialect::{AnswerReader, Dialect, Farewell, RequestInfo};
use crate::headers;
use crate::interim::Interim;
use crate::path;
use crate::propagation::Before;
use crate::rules::{self, Fields};
use crate::shadow::{self};
use crate::translation::{Translated, Translator};
use crate::treatment::HttpPolicy;
use crate::upgrade::Wanted;

use attempts::{Replayable, failure};
use collect::Gathered;
use look::{Fault, attribute, fault, metadata, weight};
use ours::own_handler;

/// Passes one request on, which begins at once; always gives a response, if it is only ours.
pub(crate) fn forward(
    client: &Rc<Client>,
    request: Request<Incoming>,
    interim: Interim,
) -> impl Future<Output = Response<Payload>> + use<> {
    let client = client.clone();
    let version = request.version();
    let dialects = &client.http.dialects;
    let wants_beginning = dialects
        .iter()
        .any(|own| own.wants_beginning(request.uri()));
    let begins = match wants_beginning && !request.body().is_end_stream() {
        false => Ok(Call::begin(&client, request, interim)),
        true => Err(Box::new((request, interim))),
    };
    async move {
        let mut begun = match begins {
            Ok(begun) => begun,
            Err(waits) => {
                let (request, interim) = *waits;
                let request = Box::pin(beginning::take(
                    request,
                    &client.timers,
                    client.caller.worker().instant(),
                ))
                .await;
                client.caller.worker().read_clock();
                Call::begin(&client, request, interim)
            }
        };
        let answered = match &mut begun {
            Ok(call) => call.answer_unless_cut(&client.caller).await,
            Err(own) => std::mem::replace(&mut **own, Response::new(Payload::empty())),
        };
        let mut response = match &mut begun {
            Ok(call) => call.finish(answered),
            Err(_) => answered,
        };
        if !response.headers().contains_key(header::DATE) {
            response.headers_mut().insert(header::DATE, headers::date());
        }
        if client.caller.is_dismissed() && version != Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// One request on its way.
struct Call {
    client: Rc<Client>,
    /// Taken by whoever ends it.
    exchange: Option<DrivenExchange>,
    /// Whose request it is.
    source: IpAddr,
    dialect: Arc<dyn Dialect>,
    asked: RequestInfo,
    /// The caller or the route bound it; else a body that moves may take its time.
    bounded: bool,
    /// Its endpoints speak HTTP/2 unless their cluster says otherwise.
    prefers_http2: bool,
    /// A connection broke under it, or took no more requests: the next one has to be new.
    wants_fresh: bool,
    treatment: Option<Arc<HttpPolicy>>,
    /// A filter has not decided about it yet.
    waits: bool,
    /// The fields that its head came with.
    fields: Fields,
    wanted: Option<Wanted>,
    interim: Interim,
    /// Who reads how the call ended, where that stands in the response's body.
    reader: Option<Box<dyn AnswerReader>>,
    /// What is said when we go away, where something is.
    farewell: Option<Box<dyn Farewell>>,
    /// What makes an endpoint's response the client's, and its content type then.
    translator: Option<(Box<dyn Translator>, HeaderValue)>,
    /// The request as the endpoint gets it.
    head: Parts,
    payload: Payload,
    upload: Rc<Upload>,
    /// The same, for another attempt.
    replayable: Option<Box<Replayable>>,
    /// What stood where the attempt under way carries the context of its trace.
    before: Before,
    /// What it leaves for a shadow.
    shadow: Option<Box<shadow::Shadowing>>,
}

impl Call {
    /// Looks at a request; gives our own response if it goes no further.
    fn begin(
        client: &Rc<Client>,
        request: Request<Incoming>,
        interim: Interim,
    ) -> Result<Box<Self>, Box<Response<Payload>>> {
        let http = &client.http;
        let (mut head, mut body) = request.into_parts();
        let spelt = !http.config.normalize_path || path::normalize(&mut head.uri);
        let claims = |dialect: &&Arc<dyn Dialect>| dialect.claims(&head);
        let Some(dialect) = http.dialects.iter().find(claims).cloned() else {
            // The last one claims everything.
            return Err(Box::new(Response::new(Payload::empty())));
        };
        let asked = RequestInfo::of(&head);
        let wanted = Wanted::take(&mut head, &mut body);
        let fields = Fields::of(&head.headers);
        let mut fault = fault(http, &mut head, fields, wanted.is_some());
        if !spelt {
            fault = fault.or_else(|| Some(Fault::bad("a path that is none")));
        }
        if wanted.as_ref().is_some_and(Wanted::is_stream) {
            head.method = Method::GET;
        }
        let mut metadata = metadata(&*dialect, &head, &mut fault);
        metadata.lingers = wanted.is_some();
        let own_timeout = metadata.timeout.is_some();
        let bytes = weight(&head);
        let mut attributes = |name: &str| attribute(client, &head, name);
        let source = client.hop.source(&head.headers, client.caller.proxies());
        let caller = &client.caller;
        let (exchange, routed) =
            caller.open_for(source, dialect.name(), &metadata, bytes, &mut attributes);
        let treated = exchange.treatment();
        let (treatment, routed) = treated.map_or_else(|why| (None, Err(why)), |own| (own, routed));
        let (payload, upload) = uploaded(body, wanted.is_some());
        // Only what asks for a tunnel has lost the body that its length tells of.
        if wanted.is_some() && fault.is_none() && rules::request(&head.headers, &payload).is_err() {
            fault = Some(Fault::bad("a length that is not its body's"));
        }
        let mut call = boxed(|| Self {
            client: client.clone(),
            bounded: own_timeout || exchange.route_timeout().is_some(),
            prefers_http2: dialect.prefers_http2(&head),
            reader: dialect.answer_reader(&head),
            farewell: dialect.farewell(&head),
            wants_fresh: false,
            treatment,
            exchange: Some(exchange),
            source,
            dialect,
            asked,
            waits: false,
            fields,
            wanted,
            interim,
            translator: None,
            head,
            payload,
            upload,
            replayable: None,
            before: Before::default(),
            shadow: None,
        });
        if let Some(fault) = fault {
            return Err(Box::new(call.refuse_unread(&fault)));
        }
        match call.admit(routed) {
            None => Ok(call),
            Some(own) => Err(Box::new(own)),
        }
    }

    /// What becomes of it, now that it is known where it goes: our own response, if it goes no further.
    fn admit(&mut self, routed: Result<Routed, Rejection>) -> Option<Response<Payload>> {
        match routed {
            Err(rejection) => return Some(self.reject(rejection)),
            Ok(Routed::Waits) => {
                self.waits = true;
                return None;
            }
            Ok(Routed::Here) => {
                let is_secure = self.client.hop.is_secure(&self.head.headers);
                let own = self.treatment.as_deref();
                if let Some(own) = own.and_then(|own| own.response(&self.head, is_secure)) {
                    return Some(self.answer_itself(own));
                }
                if own_handler(self.treatment.as_deref()).is_none() {
                    return Some(self.reject(Rejection::Denied));
                }
            }
            Ok(Routed::Onward) => {}
        }
        self.prepare();
        None
    }

    /// Waits until filters have decided about it; gives our own response if it goes no further.
    async fn wait_for_filters(&mut self) -> Option<Response<Payload>> {
        self.waits = false;
        let exchange = self.exchange.as_mut().expect("a call is ended once");
        let (client, head) = (&self.client, &self.head);
        let mut attributes = |name: &str| attribute(client, head, name);
        let routed = exchange.admitted(&mut attributes).await;
        self.admit(routed)
    }

    /// Makes of the client's request the endpoint's.
    fn prepare(&mut self) {
        let (fields, head) = (self.fields, &mut self.head);
        headers::strip(&mut head.headers, fields);
        if fields.has(Fields::TE) {
            headers::keep_trailers(&mut head.headers);
        }
        if fields.has(Fields::EXPECT) && !passes_expectation(&self.client.http, head, &self.payload)
        {
            head.headers.remove(header::EXPECT);
        }
        self.client.hop.tell(head, fields);
        if let Some(treatment) = &self.treatment {
            treatment.amend(head);
        }
        let Some(own) = self.dialect.translation(head) else {
            return;
        };
        self.translator = Some((own.response, own.content_type));
        if let Some(by) = own.request {
            // It could not be translated once more from the middle.
            self.upload.sent().forget();
            let payload = std::mem::replace(&mut self.payload, Payload::empty());
            self.payload = Translated::wrap(payload, by, Some(self.upload.clone()));
        }
    }

    fn exchange(&mut self) -> &mut DrivenExchange {
        self.exchange.as_mut().expect("a call is ended once")
    }

    /// What is said to the caller when we go away, if something is.
    fn parting(&mut self) -> Option<Box<Parting>> {
        let words = self.farewell.take()?;
        let caller = self.client.caller.clone();
        let going = async move { caller.dismissed().await };
        Some(Box::new(Parting::new(words, going)))
    }

    /// An answer also where its client's connection must end before there is one.
    async fn answer_unless_cut(&mut self, caller: &Caller) -> Response<Payload> {
        let answered = {
            let mut attempts = pin!(self.attempts());
            poll_fn(|cx| match attempts.as_mut().poll(cx) {
                Poll::Pending if caller.is_cut() => Poll::Ready(None),
                polled => polled.map(Some),
            })
            .await
        };
        answered.unwrap_or_else(|| self.reject(Rejection::Draining))
    }

    fn speaks_http2(&self, lease: &Lease) -> bool {
        speaks_http2(lease, self.prefers_http2)
    }
}

/// A request's body on its way, and what is known of that; one that asks for a tunnel has none.
fn uploaded(body: Incoming, tunnels: bool) -> (Payload, Rc<Upload>) {
    let upload = Rc::new(Upload::default());
    if tunnels || body.is_end_stream() {
        upload.finish();
        return (Payload::empty(), upload);
    }
    (Payload::Request(body, upload.clone()), upload)
}

/// Whether the endpoint of a lease is spoken to in HTTP/2.
fn speaks_http2(lease: &Lease, prefers_http2: bool) -> bool {
    match lease.cluster().spec.policy.version.as_deref() {
        Some("2") => true,
        Some("1.1") => false,
        _ => prefers_http2,
    }
}

/// Whether a request's `Expect: 100-continue` is for its endpoint (RFC 9110, section 10.1.1).
fn passes_expectation(http: &Http, head: &Parts, body: &Payload) -> bool {
    let asked = head.version != Version::HTTP_10 && headers::expects_continue(&head.headers);
    asked && http.config.proxy_100_continue && !body.is_end_stream()
}
