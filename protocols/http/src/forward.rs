//! One request from its head to its response's head.

mod hedged;
mod sending;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{Caller, Stream};
use finback_core::frame::{Malformed, Metadata, Outcome};
use finback_core::mesh::{AttemptEnd, Lease, Resend, Routed};
use finback_core::net::Timer;
use finback_core::rejection::Rejection;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use tokio::time::Instant;

use crate::Http;
use crate::beginning;
use crate::body::{Download, Incoming, Payload, Upload};
use crate::client::Client;
use crate::dialect::{AnswerReader, Asked, Dialect};
use crate::forwarded;
use crate::headers;
use crate::interim::Interim;
use crate::path;
use crate::pool::Returned;
use crate::propagation::Before;
use crate::replay::{KEPT, Replay};
use crate::rules::{self, Fields};
use crate::shadow::{self, Ready};
use crate::translation::{Translated, Translator};
use crate::treatment::{self, Taker, Treatment};
use crate::upgrade::{self, Wanted};

use sending::{Sending, Sent, Unmade};

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

/// An endpoint's response in the client's form; a rejection has that already.
fn translated(
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

/// Why a request is not even routed; with a status of HTTP's, if it has one for that alone.
struct Fault {
    rejection: Rejection,
    status: Option<StatusCode>,
    why: &'static str,
}

impl Fault {
    fn bad(why: &'static str) -> Self {
        Self {
            rejection: Rejection::BadRequest,
            status: None,
            why,
        }
    }

    fn too_large(status: StatusCode, why: &'static str) -> Self {
        Self {
            rejection: Rejection::TooLarge,
            status: Some(status),
            why,
        }
    }
}

fn fault(http: &Http, head: &mut Parts, fields: Fields, upgrades: bool) -> Option<Fault> {
    let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if head.extensions.remove::<rules::HeadTooLarge>().is_some() {
        return Some(Fault::too_large(
            too_large,
            "a head that is longer than the limit",
        ));
    }
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |own| own.as_str().len());
    if target > http.config.target {
        return Some(Fault::bad("the target is longer than the limit"));
    }
    if head.headers.len() > http.config.headers {
        return Some(Fault::too_large(too_large, "more headers than the limit"));
    }
    if let Some(why) = headers::fault(head, fields) {
        return Some(Fault::bad(why));
    }
    (head.method == Method::CONNECT && !upgrades).then_some(Fault {
        rejection: Rejection::Denied,
        status: None,
        why: "CONNECT is not served here",
    })
}

/// What routing may see of a request, and what is wrong with its names besides.
fn metadata<'a>(
    dialect: &'a dyn Dialect,
    head: &'a Parts,
    fault: &mut Option<Fault>,
) -> Metadata<'a> {
    let mut own = dialect.metadata(head);
    if let Err(unfit) = own.names_fit() {
        own = unnamed();
        fault.get_or_insert_with(|| Fault::bad(why(&unfit)));
    }
    own.treats = true;
    own.refused = fault.as_ref().map(|fault| fault.rejection);
    own
}

/// What routing may see of a request whose names are unfit to be seen.
fn unnamed() -> Metadata<'static> {
    Metadata {
        service: Cow::Borrowed("(unfit)"),
        own: true,
        ..Metadata::default()
    }
}

fn why(unfit: &Malformed) -> &'static str {
    match unfit {
        Malformed::Content(why) | Malformed::Garbage(why) => why,
        Malformed::TooLarge { .. } => "a name is too long",
    }
}

/// The version of HTTP as traces have it.
fn spoken(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// What a head weighs, near enough for a record.
fn weight(head: &Parts) -> usize {
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 4);
    head.uri.path().len() + headers.sum::<usize>() + 16
}

/// What routes and filters may ask about a request.
fn attribute(client: &Client, head: &Parts, name: &str) -> Option<String> {
    match name {
        ":scheme" if client.hop.is_secure(&head.headers) => Some("https".to_owned()),
        ":scheme" => Some("http".to_owned()),
        ":version" => Some(spoken(head.version).to_owned()),
        _ => headers::attribute(head, name),
    }
}

/// One request on its way.
struct Call {
    client: Rc<Client>,
    /// Taken by whoever ends it.
    stream: Option<Stream>,
    /// Whose request it is.
    source: IpAddr,
    dialect: Arc<dyn Dialect>,
    asked: Asked,
    /// The caller or the route bound it; else a body that moves may take its time.
    bounded: bool,
    /// Its endpoints speak HTTP/2 unless their cluster says otherwise.
    prefers_http2: bool,
    /// A connection broke under it, or took no more requests: the next one has to be new.
    wants_fresh: bool,
    treatment: Option<Arc<Treatment>>,
    /// A filter has not decided about it yet.
    waits: bool,
    /// The fields that its head came with.
    fields: Fields,
    wanted: Option<Wanted>,
    interim: Interim,
    /// Who reads how the call ended, where that stands in the response's body.
    reader: Option<Box<dyn AnswerReader>>,
    /// What makes an endpoint's response the client's, and its content type then.
    translator: Option<(Box<dyn Translator>, HeaderValue)>,
    /// The request as the endpoint gets it.
    head: Parts,
    payload: Payload,
    upload: Rc<Upload>,
    /// The same, for another attempt.
    copy: Option<Box<Copy>>,
    /// What stood where the attempt under way carries the context of its trace.
    before: Before,
    /// What it leaves for a shadow.
    shadow: Option<Box<shadow::Copy>>,
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
        let asked = Asked::of(&head);
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
        let (stream, routed) =
            caller.open_for(source, dialect.name(), &metadata, bytes, &mut attributes);
        let (treatment, routed) = match stream.treatment() {
            Ok(treatment) => (treatment, routed),
            Err(rejection) => (None, Err(rejection)),
        };
        let upload = Rc::new(Upload::default());
        let payload = if wanted.is_some() || body.is_end_stream() {
            upload.finish();
            Payload::empty()
        } else {
            Payload::Request(body, upload.clone())
        };
        // Only what asks for a tunnel has lost the body that its length tells of.
        if wanted.is_some() && fault.is_none() && rules::request(&head.headers, &payload).is_err() {
            fault = Some(Fault::bad("a length that is not its body's"));
        }
        // In a place of its own: it is passed on from hand to hand, and it is large.
        let place = Box::new_uninit();
        let call = Self {
            client: client.clone(),
            bounded: own_timeout || stream.route_timeout().is_some(),
            prefers_http2: dialect.prefers_http2(&head),
            reader: dialect.answer_reader(&head),
            wants_fresh: false,
            treatment,
            stream: Some(stream),
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
            copy: None,
            before: Before::default(),
            shadow: None,
        };
        let mut call = Box::write(place, call);
        if let Some(fault) = fault {
            let mut response = call.refuse(&fault);
            if call.head.version != Version::HTTP_2 {
                // What follows may be the rest of what was not understood.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            return Err(Box::new(response));
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
                if own_taker(self.treatment.as_deref()).is_none() {
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
        let stream = self.stream.as_mut().expect("a call is ended once");
        let (client, head) = (&self.client, &self.head);
        let mut attributes = |name: &str| attribute(client, head, name);
        let routed = stream.admitted(&mut attributes).await;
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

    /// Makes of the endpoint's response, or ours, the client's.
    fn finish(&mut self, answered: Response<Payload>) -> Response<Payload> {
        let mut response = match self.translator.take() {
            None => answered,
            Some((by, content_type)) => translated(answered, by, content_type),
        };
        if let Some(treatment) = &self.treatment {
            treatment::change(response.headers_mut(), &treatment.response);
        }
        response
    }

    /// Keeps what a copy for its route's shadow is made of. A tunnel has none, nor has what is translated on its way.
    fn note_shadow(&mut self) {
        if self.wanted.is_some() || self.translator.is_some() {
            return;
        }
        let shadow = self.stream().shadow();
        self.shadow = shadow.map(|shadow| {
            let head = self.head.clone();
            Box::new(shadow::Copy { shadow, head })
        });
    }

    /// Sends a copy to its route's shadow, now that its endpoint answers, if all of its body is known.
    fn send_to_shadow(&mut self) {
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
    fn copied(&self, ready: &Ready) -> Option<Self> {
        let client = &self.client.apart();
        let head = ready.copy.head.clone();
        let metadata = self.dialect.metadata(&head);
        let mut attributes = |name: &str| attribute(client, &head, name);
        let original = self.stream.as_ref()?;
        let stream = client.caller.open_shadow(
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
            wants_fresh: false,
            treatment: None,
            stream: Some(stream),
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
            copy: None,
            before: Before::default(),
            shadow: None,
            head,
        })
    }

    /// Carries a copy to its end, which nobody hears of.
    async fn vanish(mut self, ready: Ready) {
        let client = self.client.clone();
        let deadline = self.stream().deadline();
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
    async fn withhold(
        &mut self,
        response: Response<Incoming>,
        mut lease: Lease,
    ) -> Response<Payload> {
        let answered = AttemptEnd::Answered(Outcome::Success);
        self.stream()
            .conclude(&mut lease, answered, Resend::Impossible);
        drop((response, lease));
        let deadline = self.stream().deadline();
        tokio::time::sleep_until(deadline).await;
        self.reject(Rejection::DeadlineExceeded)
    }

    fn stream(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("a call is ended once")
    }

    fn reject(&mut self, rejection: Rejection) -> Response<Payload> {
        let text = self.stream().rejected(rejection);
        self.word(rejection, &text)
    }

    fn reject_for(&mut self, rejection: Rejection, why: &str) -> Response<Payload> {
        self.stream().rejected(rejection);
        self.word(rejection, &format!("[finback] {why}"))
    }

    fn refuse(&mut self, fault: &Fault) -> Response<Payload> {
        let Some(status) = fault.status else {
            return self.reject_for(fault.rejection, fault.why);
        };
        self.stream().rejected(fault.rejection);
        let text = format!("[finback] {}", fault.why);
        let asked = &self.asked;
        let response = self
            .dialect
            .reject_as(asked, fault.rejection, status, &text);
        self.finish_rejected(response)
    }

    /// The caller has not sent the body in time; the endpoint is not to blame.
    fn reject_slow(&mut self) -> Response<Payload> {
        self.stream().rejected(Rejection::DeadlineExceeded);
        let text = "[finback] the request's body did not come in time";
        let response = self.dialect.reject_slow(&self.asked, text);
        self.finish_rejected(response)
    }

    fn word(&mut self, rejection: Rejection, text: &str) -> Response<Payload> {
        let response = self.dialect.reject(&self.asked, rejection, text);
        self.finish_rejected(response)
    }

    /// Ends the call with the mesh's own answer, whose status stands in its record.
    fn finish_rejected(&mut self, mut response: Response<Bytes>) -> Response<Payload> {
        if let Some(after) = self.stream().retry_after() {
            self.dialect.tell_retry(response.headers_mut(), after);
        }
        let answer = self.dialect.answer(response.status(), response.headers());
        if let Some(answer) = answer {
            self.stream().set_status(answer.status);
        }
        self.stream = None;
        response.map(Payload::from)
    }

    fn answer_itself(&mut self, response: Response<Bytes>) -> Response<Payload> {
        let answer = self.dialect.answer(response.status(), response.headers());
        let answer = answer.unwrap_or(finback_core::frame::Outcome::Success.into());
        let length = response.body().len() as u64;
        self.stream().answered(answer, length);
        self.stream = None;
        response.map(Payload::from)
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

    /// Reads a body that is short enough, for another attempt; gives our own response if there is none to send.
    async fn keep_body(&mut self) -> Option<Response<Payload>> {
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        let limit = self.stream().deadline();
        let timers = self.client.timers.clone();
        if is_collected(&payload) {
            // It is asked for here, so it is us who tell the caller to send it.
            self.interim.go_on();
            self.head.headers.remove(header::EXPECT);
        }
        let collected = timers.within(limit, Box::pin(collect(payload))).await;
        match collected.unwrap_or(Collected::Late) {
            Collected::Whole(all) => {
                self.copy = Some(Copy::of(&self.head, Some(all.clone())));
                self.payload = Payload::whole(all.bytes, all.trailers);
                self.upload.sent().forget();
                self.upload.finish();
            }
            Collected::TooLong(rest) => {
                if rest.size_hint().upper().is_none() {
                    // How long it is shows on its way.
                    self.copy = Some(Copy::of(&self.head, None));
                }
                self.payload = rest;
            }
            Collected::Broken => return Some(self.reject(Rejection::BadRequest)),
            Collected::Late => return Some(self.reject_slow()),
        }
        None
    }

    async fn attempts(&mut self) -> Response<Payload> {
        if self.waits
            && let Some(own) = Box::pin(self.wait_for_filters()).await
        {
            return own;
        }
        if let Some(taker) = own_taker(self.treatment.as_deref()) {
            return Box::pin(self.hand_over(taker.clone())).await;
        }
        if self.wanted.is_none()
            && self.stream().may_need_resending()
            && let Some(own) = self.keep_body().await
        {
            return own;
        }
        self.note_shadow();
        let mut refusals = 0;
        loop {
            self.before.restore(&mut self.head.headers);
            let attempted = {
                let stream = self.stream.as_mut().expect("a call is ended once");
                let head = &self.head;
                let mut attributes = |name: &str| headers::attribute(head, name);
                stream.attempt(&mut attributes).await
            };
            let mut lease = match attempted {
                Ok(lease) => lease,
                Err(rejection) => return self.reject(rejection),
            };
            if lease.is_limited() && headers::is_event_stream(self.head.headers.get(header::ACCEPT))
            {
                lease.leave_out();
            }
            let http2 = self.wanted.is_none() && self.speaks_http2(&lease);
            let hedging_delay = self.hedging_delay();
            let current = self.prepared(http2, &lease);
            let sent = match hedging_delay {
                None => {
                    let limit = self.stream().attempt_deadline();
                    let sending = Sending::of(self);
                    sending.send(current, &lease, http2, limit).await
                }
                Some(delay) => {
                    let sent = Box::pin(self.send_hedged(delay, current, lease, http2)).await;
                    lease = sent.1;
                    sent.0
                }
            };
            let (end, rejection, resend) = match sent {
                Ok(Sent::Response(response, returned, timer)) => {
                    self.send_to_shadow();
                    if let Some(end) = self.failed(&response)
                        && self.may_be_restored()
                        && self.stream().conclude(&mut lease, end, Resend::Possible)
                    {
                        self.restore();
                        continue;
                    }
                    self.upload.sent().forget();
                    if self.stream().drops_answer() {
                        return Box::pin(self.withhold(*response, lease)).await;
                    }
                    return self.pass(*response, (returned, timer), lease);
                }
                Ok(Sent::Unsent(end, same)) => {
                    self.take_back(*same);
                    // Nothing was sent.
                    (end, Rejection::ConnectFailed, Resend::Safe)
                }
                Ok(Sent::Lost(..)) if self.upload.is_broken() => {
                    let end = AttemptEnd::RequestBroken;
                    self.stream().conclude(&mut lease, end, Resend::Impossible);
                    return self.reject_for(Rejection::BadRequest, "the body makes no sense");
                }
                Ok(Sent::Lost(end, same)) => {
                    // One that was used before may have been closed just now: not another such.
                    self.wants_fresh = true;
                    (end, Rejection::ConnectionLost, self.recover(*same))
                }
                Ok(Sent::TooLarge) => {
                    let end = AttemptEnd::TooLarge;
                    self.stream().conclude(&mut lease, end, Resend::Impossible);
                    let why = "the response's head is longer than the limit";
                    return self.refuse(&Fault::too_large(StatusCode::BAD_GATEWAY, why));
                }
                Ok(Sent::Late { .. }) if self.waits_for_caller() => {
                    let end = AttemptEnd::RequestBroken;
                    self.stream().conclude(&mut lease, end, Resend::Impossible);
                    return self.reject_slow();
                }
                Ok(Sent::Late { stalled }) => {
                    let end = self.stream().timed_out(&lease, stalled, true);
                    let resend = self.restored();
                    (end, Rejection::DeadlineExceeded, resend)
                }
                Err((Unmade::Late { stalled }, same)) => {
                    self.take_back(*same);
                    let end = self.stream().timed_out(&lease, stalled, false);
                    (end, Rejection::DeadlineExceeded, Resend::Safe)
                }
                Err((Unmade::Failed(end), same)) => {
                    self.take_back(*same);
                    (end, Rejection::ConnectFailed, Resend::Safe)
                }
            };
            let again = self.stream().conclude(&mut lease, end, resend);
            drop(lease);
            if !again {
                return self.reject(rejection);
            }
            if end == AttemptEnd::NotProcessed {
                refusals += 1;
                self.pause_after(refusals).await;
            }
        }
    }

    /// Lets an endpoint take breath that refuses a request again and again.
    async fn pause_after(&self, refusals: u32) {
        if refusals > 2 {
            let period = Duration::from_millis(1 << refusals.min(6));
            let mut timer = self.client.timers.set(Instant::now() + period);
            poll_fn(|cx| timer.poll(cx)).await;
        }
    }

    /// The request comes back as it is.
    fn take_back(&mut self, same: Request<Payload>) {
        (self.head, self.payload) = same.into_parts();
    }

    /// Makes of a request that was sent what can be sent again, and says whether that can be.
    fn recover(&mut self, same: Request<Payload>) -> Resend {
        let (head, rest) = same.into_parts();
        if !self.restore() {
            let Some(payload) = Replay::of(rest, &self.upload) else {
                return Resend::Impossible;
            };
            (self.head, self.payload) = (head, payload);
        }
        match is_idempotent(&self.head.method) {
            true => Resend::Safe,
            false => Resend::Possible,
        }
    }

    /// The same of one of which nothing came back.
    fn restored(&mut self) -> Resend {
        match self.restore() {
            true => Resend::Possible,
            false => Resend::Impossible,
        }
    }

    /// Has a request taken here.
    async fn hand_over(&mut self, taker: Arc<dyn Taker>) -> Response<Payload> {
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        let limit = self.stream().deadline();
        self.interim.go_on();
        if let Some((system, destination)) = taker.destination(&self.head) {
            let Self { stream, head, .. } = self;
            let stream = stream.as_mut().expect("a call is ended once");
            let mut attributes = |name: &str| headers::attribute(head, name);
            let context = stream.send(system, &destination, &mut attributes);
            self.before
                .replace(&mut self.head.headers, &context.unwrap_or_default());
        }
        let taking = async {
            let body = gather(payload, taker.limit()).await?;
            Ok(taker.take(&self.head, body.bytes).await)
        };
        match self.client.timers.within(limit, taking).await {
            Ok(Ok(response)) => self.answer_itself(response),
            Ok(Err(Ungathered::TooLong)) => self.reject(Rejection::TooLarge),
            Ok(Err(Ungathered::Broken)) => self.reject(Rejection::BadRequest),
            Err(_) if self.waits_for_caller() => self.reject_slow(),
            Err(_) => self.reject(Rejection::DeadlineExceeded),
        }
    }

    /// The request as the endpoint of the lease gets it.
    fn prepared(&mut self, http2: bool, lease: &Lease) -> Box<Request<Payload>> {
        let mut current = self.aimed(http2, lease);
        self.tell_deadline(&mut current);
        if let Some(fitting) = self.stream().fitting(lease) {
            self.dialect.fit(current.headers_mut(), fitting.fit());
        }
        self.before
            .replace(current.headers_mut(), lease.propagated());
        current
    }

    /// The request for an endpoint of the lease's cluster.
    fn aimed(&mut self, http2: bool, lease: &Lease) -> Box<Request<Payload>> {
        let mut own = std::mem::replace(&mut self.head, Request::new(()).into_parts().0);
        let tls = lease.cluster().spec.policy.tls.is_some();
        headers::aim(&mut own, http2, tls);
        if let Some(wanted) = &self.wanted {
            wanted.ask(&mut own, self.client.caller.worker().random());
        }
        let payload = std::mem::replace(&mut self.payload, Payload::empty());
        Box::new(Request::from_parts(own, payload))
    }

    /// Its body, if it was read whole and is kept.
    fn kept(&self) -> Option<Gathered> {
        let all = self.copy.as_ref().and_then(|copy| copy.body.clone());
        all.or_else(|| {
            let bytes = self.upload.whole()?;
            let trailers = None;
            Some(Gathered { bytes, trailers })
        })
    }

    fn may_be_restored(&self) -> bool {
        self.copy.is_some() && self.kept().is_some()
    }

    /// Makes the request what it was before it was sent, if all of it is kept.
    fn restore(&mut self) -> bool {
        let (Some(copy), Some(all)) = (&self.copy, self.kept()) else {
            return false;
        };
        self.head = copy.head.clone();
        self.payload = Payload::whole(all.bytes, all.trailers);
        true
    }

    /// How an attempt ended whose response says that the request failed or did not run.
    fn failed(&self, response: &Response<Incoming>) -> Option<AttemptEnd> {
        failure(&*self.dialect, response)
    }

    fn speaks_http2(&self, lease: &Lease) -> bool {
        speaks_http2(lease, self.prefers_http2)
    }

    /// A caller's own deadline goes on to the endpoint as what is left of it.
    fn tell_deadline(&mut self, request: &mut Request<Payload>) {
        if self.bounded {
            let left = self
                .stream()
                .deadline()
                .saturating_duration_since(Instant::now());
            self.dialect.tell_deadline(request.headers_mut(), left);
        }
    }

    /// Whether it is the caller's turn to say something, without which there is no answer.
    fn waits_for_caller(&self) -> bool {
        !self.dialect.converses() && self.upload.is_awaited()
    }

    /// Says from when on a response's time counts, unless it is that of a stream.
    #[cold]
    fn time(&self, stream: &Stream, lease: &Lease, headers: &HeaderMap) {
        let events = headers::is_event_stream(headers.get(header::CONTENT_TYPE));
        if events || !self.upload.is_done() {
            lease.leave_out();
        } else if let Some(moved) = self.upload.moved() {
            stream.sent_at(lease, moved);
        }
    }

    /// Makes of an endpoint's response the one for the caller.
    fn pass(
        &mut self,
        response: Response<Incoming>,
        (returned, mut timer): (Returned, Timer),
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
            let stream = self.stream.take().expect("a call is ended once");
            let (side, payload) = wanted.agree(chosen, &mut head.status, &mut head.headers);
            let caller = self.client.caller.clone();
            let relay = upgrade::relay(caller, side, endpoint, stream, lease);
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
        let stream = self.stream.take().expect("a call is ended once");
        if lease.is_limited() {
            self.time(&stream, &lease, &head.headers);
        }
        head.version = Version::HTTP_11;
        let answer = self.dialect.answer(head.status, &head.headers);
        let idle = self.client.caller.worker().call_timeout();
        // Where nobody set a deadline, the timer may fire early: it looks what has moved.
        if self.bounded {
            timer.reset(stream.deadline());
        }
        let mut download = Download {
            stream,
            lease,
            dialect: self.dialect.clone(),
            answer,
            reader: self.reader.take(),
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
        };
        if download.body.is_end_stream() {
            // Trailers that came as the head are the head's.
            let trailers = head.headers.clone();
            download.end(Some(&trailers));
        } else if rules::is_bodiless(self.asked.method(), head.status) {
            // Whatever follows is no body.
            download.end(None);
            return Response::from_parts(head, Payload::empty());
        }
        Response::from_parts(head, Payload::Response(Box::new(download)))
    }
}

/// How an attempt ended whose response says that the request failed or did not run.
fn failure(dialect: &dyn Dialect, response: &Response<Incoming>) -> Option<AttemptEnd> {
    let answer = dialect.answer(response.status(), response.headers())?;
    match answer.outcome {
        Outcome::Refused => Some(AttemptEnd::Answered(Outcome::Refused)),
        Outcome::Failed if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
            Some(AttemptEnd::Answered(Outcome::Refused))
        }
        Outcome::Failed => Some(AttemptEnd::Answered(Outcome::Failed)),
        Outcome::Success | Outcome::Exception | Outcome::Invalid | Outcome::TimedOut => None,
    }
}

/// Whether the endpoint of a lease is spoken to in HTTP/2.
fn speaks_http2(lease: &Lease, prefers_http2: bool) -> bool {
    match lease.cluster().spec.policy.dialect.as_deref() {
        Some("2") => true,
        Some("1.1") => false,
        _ => prefers_http2,
    }
}

/// Whether a request of this method may be sent twice (RFC 9110, section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What a request is made of once more.
struct Copy {
    head: Parts,
    /// `None`: what is kept of it on its way, if it comes to an end.
    body: Option<Gathered>,
}

impl Copy {
    fn of(head: &Parts, body: Option<Gathered>) -> Box<Self> {
        let mut head = head.clone();
        // Who sends its body was told to go on.
        head.headers.remove(header::EXPECT);
        Box::new(Self { head, body })
    }
}

enum Collected {
    Whole(Gathered),
    TooLong(Payload),
    Broken,
    Late,
}

/// Whether a request's `Expect: 100-continue` is for its endpoint (RFC 9110, section 10.1.1).
fn passes_expectation(http: &Http, head: &Parts, body: &Payload) -> bool {
    let asked = head.version != Version::HTTP_10 && headers::expects_continue(&head.headers);
    asked && http.config.proxy_100_continue && !body.is_end_stream()
}

/// Whether a body is short enough to be read before it is sent on.
fn is_collected(payload: &Payload) -> bool {
    let known = payload.size_hint().upper();
    payload.is_end_stream() || known.is_some_and(|upper| upper <= KEPT as u64)
}

/// Reads a body that is short enough.
async fn collect(payload: Payload) -> Collected {
    if !is_collected(&payload) {
        return Collected::TooLong(payload);
    }
    match gather(payload, KEPT).await {
        Ok(all) => Collected::Whole(all),
        Err(_) => Collected::Broken,
    }
}

/// Why a body was not read whole.
enum Ungathered {
    TooLong,
    Broken,
}

/// A body that was read whole.
#[derive(Clone, Default)]
struct Gathered {
    bytes: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

/// Reads a body of up to so many bytes.
async fn gather(mut payload: Payload, limit: usize) -> Result<Gathered, Ungathered> {
    let mut all = BytesMut::new();
    let mut trailers = None;
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut payload).poll_frame(cx)).await;
        let Some(frame) = frame else {
            let bytes = all.freeze();
            return Ok(Gathered { bytes, trailers });
        };
        match frame.map_err(|_| Ungathered::Broken)?.into_data() {
            Ok(data) if data.len() > limit - all.len() => return Err(Ungathered::TooLong),
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
}

/// Who takes requests of a route here, if somebody does.
fn own_taker(treatment: Option<&Treatment>) -> Option<&Arc<dyn Taker>> {
    treatment.and_then(|own| own.taker.as_ref())
}
