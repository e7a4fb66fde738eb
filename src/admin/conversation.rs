//! One connection of the admin port: one request, bounded in bytes and time, and its answer.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use finback_core::net::{ServerTls, Socket};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Shared;
use super::endpoints::{self, AdminEndpoint, ENDPOINTS};
use super::tap::Pulse;

/// How long a client may take for its request and our answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take for the head of its request, and TLS before that.
const HEAD: Duration = Duration::from_secs(5);
/// A client that reads nothing of what goes on for this long is let go.
const UNREAD: Duration = Duration::from_secs(30);
/// The longest head that is read.
const LONGEST_HEAD: usize = 16 * 1024;
/// The longest body that is read: what is told to us is a word or two.
const LONGEST_BODY: usize = 4 * 1024;

/// The body of an answer: a page, or lines that come as they happen.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: Body,
    /// It goes on for as long as the client reads it, of which this tells.
    pub(super) pulse: Option<Arc<Pulse>>,
    /// The client is asked who it is.
    pub(super) challenge: bool,
    /// The methods that are served there, where another was asked for.
    pub(super) allow: Option<String>,
}

impl Answer {
    pub(super) fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            kind,
            body: Full::new(body.into()).boxed_unsync(),
            pulse: None,
            challenge: false,
            allow: None,
        }
    }

    pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    /// A value, laid out for people too.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new(StatusCode::OK, "application/json", format!("{value:#}\n"))
    }

    /// A value that programs ask for again and again.
    pub(super) fn compact(value: &serde_json::Value) -> Self {
        Self::new(StatusCode::OK, "application/json", format!("{value}\n"))
    }

    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &'static str| {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        };
        set("content-type", self.kind);
        set("cache-control", "no-store");
        set("x-content-type-options", "nosniff");
        set("referrer-policy", "no-referrer");
        set("cross-origin-resource-policy", "same-origin");
        // Only what is served here is shown or run, and nobody shows us within a page of theirs.
        set(
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        );
        if self.challenge {
            set(
                "www-authenticate",
                "Basic realm=\"Finback: any user, and the token as the password\", charset=\"UTF-8\"",
            );
        }
        if let Some(Ok(allow)) = self.allow.map(HeaderValue::try_from) {
            headers.insert(hyper::header::ALLOW, allow);
        }
        response
    }
}

/// What a request asks for, its body read.
pub(super) struct Asked {
    pub(super) endpoint: &'static AdminEndpoint,
    pub(super) query: super::query::Query,
    pub(super) body: Bytes,
}

/// Holds the conversation with one client.
pub(super) async fn hold(stream: TcpStream, tls: Option<&ServerTls>, shared: &Arc<Shared>) {
    let socket = match tls {
        None => Socket::plain(stream),
        Some(tls) => match tls.secure(stream).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "no TLS with a client of the admin port");
                return;
            }
        },
    };
    let pulse = Arc::<OnceLock<Arc<Pulse>>>::default();
    let answering = service_fn(|request| {
        let (shared, pulse) = (shared.clone(), pulse.clone());
        async move {
            let mut answer = answer(request, &shared).await;
            if let Some(own) = answer.pulse.take() {
                // One connection has one request.
                let _ = pulse.set(own);
            }
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), answering);
    let mut connection = std::pin::pin!(connection);
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = tokio::time::sleep(PATIENCE) => match pulse.get() {
                Some(pulse) if pulse.silence() < UNREAD => {}
                _ => return,
            },
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin port broke");
    }
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let path = request.uri().path();
    let here = ENDPOINTS
        .iter()
        .filter(|own| own.path == path && shared.access.serves(own));
    let here: Vec<&'static AdminEndpoint> = here.collect();
    let Some(first) = here.first() else {
        let list = endpoints::list(|own| shared.access.serves(own));
        return Answer::text(
            StatusCode::NOT_FOUND,
            format!("nothing here; see\n\n{list}"),
        );
    };
    let asked = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let found = here
        .iter()
        .copied()
        .find(|own| own.method == asked.as_str());
    // Who may not ask is not told what could be asked.
    if let Some(refusal) = shared.access.refuse(&request, found.unwrap_or(first)) {
        return refusal;
    }
    let Some(endpoint) = found else {
        let allow: Vec<_> = here.iter().map(|own| own.method).collect();
        let allow = allow.join(", ");
        let text = format!("{path} is served to {allow} only\n");
        let mut answer = Answer::text(StatusCode::METHOD_NOT_ALLOWED, text);
        answer.allow = Some(allow);
        return answer;
    };
    let query = super::query::Query::read(request.uri().query().unwrap_or_default());
    let body = match Limited::new(request.into_body(), LONGEST_BODY)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let text = format!("a body has up to {LONGEST_BODY} bytes\n");
            return Answer::text(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
    };
    let asked = Asked {
        endpoint,
        query,
        body,
    };
    endpoints::answer(asked, shared).await
}
