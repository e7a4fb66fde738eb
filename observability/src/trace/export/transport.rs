//! The way to a collector: OTLP over gRPC or over HTTP, on one connection that is made when it is needed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::otlp;

/// The service that takes spans by gRPC.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The most that is read of a collector's answer.
const ANSWER: usize = 64 * 1024;
/// A longer `Retry-After` is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a request is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// gRPC, on HTTP/2.
    Grpc,
    /// Protobuf in the body of a POST, on HTTP/1.1.
    Http,
}

/// Reads headers that every request has: their values may be secrets in files, which change.
pub type Headers = Arc<dyn Fn() -> Result<HeaderMap, String> + Send + Sync>;
/// Reads authorities and keys, anew for each connection.
pub type ExportTls = Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// A collector of spans.
#[derive(Clone)]
pub struct Collector {
    /// Its host: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it takes spans; of HTTP only.
    pub path: String,
    /// How it is spoken to.
    pub encoding: Encoding,
    /// TLS, and whose certificate is expected.
    pub tls: Option<(ExportTls, ServerName<'static>)>,
    /// What else requests say.
    pub headers: Headers,
    /// A request may take so long, its connection included.
    pub timeout: Duration,
    /// What it was made from, so that a change is noticed.
    pub settings: Arc<str>,
}

impl PartialEq for Collector {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collector({self})")
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Collector {
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What came of sending a batch.
pub(super) enum Sent {
    /// It was taken, but for so many spans.
    Taken { rejected: u64 },
    /// It was not, and never will be.
    Refused { why: String },
    /// It was not, but may be after a pause.
    Failed {
        why: String,
        after: Option<Duration>,
    },
}

enum Connection {
    Http1(http1::SendRequest<Parts>),
    Http2(http2::SendRequest<Parts>),
}

pub(super) struct Transport {
    collector: Collector,
    connection: Option<Connection>,
}

impl Transport {
    pub(super) fn new(collector: Collector) -> Self {
        Self {
            collector,
            connection: None,
        }
    }

    pub(super) fn collector(&self) -> &Collector {
        &self.collector
    }

    /// Sends a batch once.
    pub(super) async fn send(&mut self, batch: &[Bytes]) -> Sent {
        let limit = self.collector.timeout;
        let sent = match tokio::time::timeout(limit, self.exchange(batch)).await {
            Ok(sent) => sent,
            Err(_) => Sent::Failed {
                why: format!("no answer within {limit:?}"),
                after: None,
            },
        };
        if !matches!(sent, Sent::Taken { .. }) {
            // Another one may lead to a collector that works, behind the same name.
            self.connection = None;
        }
        sent
    }

    async fn exchange(&mut self, batch: &[Bytes]) -> Sent {
        let failed = |why: String| Sent::Failed { why, after: None };
        let request = match self.request(batch) {
            Ok(request) => request,
            Err(why) => return failed(why),
        };
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => match self.connect().await {
                Ok(connection) => connection,
                Err(why) => return failed(why),
            },
        };
        let response = match connection.send(request).await {
            Ok(response) => response,
            Err(error) => return failed(chain(&error)),
        };
        let sent = match self.collector.encoding {
            Encoding::Grpc => grpc_answer(response).await,
            Encoding::Http => http_answer(response).await,
        };
        self.connection = Some(connection);
        sent
    }

    fn request(&self, batch: &[Bytes]) -> Result<Request<Parts>, String> {
        let own = &self.collector;
        let scheme = if own.tls.is_some() { "https" } else { "http" };
        let authority = own.authority();
        let builder = match own.encoding {
            Encoding::Grpc => Request::post(format!("{scheme}://{authority}{EXPORT}"))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers"),
            Encoding::Http => Request::post(&own.path)
                .header(header::HOST, authority)
                .header(header::CONTENT_TYPE, "application/x-protobuf"),
        };
        let mut body = Parts(batch.iter().cloned().collect());
        if own.encoding == Encoding::Grpc {
            body.frame()?;
        }
        let mut request = builder
            .header(
                header::USER_AGENT,
                concat!("finback/", env!("CARGO_PKG_VERSION")),
            )
            .body(body)
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend((own.headers)()?);
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let own = &self.collector;
        let address = (own.host.as_str(), own.port);
        let socket = TcpStream::connect(address).await;
        let socket = socket.map_err(|error| format!("cannot connect: {error}"))?;
        // It could only make small requests wait for each other.
        let _ = socket.set_nodelay(true);
        let Some((tls, name)) = &own.tls else {
            return self.speak(socket).await;
        };
        let mut config = (*tls()?).clone();
        config.alpn_protocols = vec![match own.encoding {
            Encoding::Grpc => b"h2".to_vec(),
            Encoding::Http => b"http/1.1".to_vec(),
        }];
        let connector = TlsConnector::from(Arc::new(config));
        let socket = connector.connect(name.clone(), socket).await;
        self.speak(socket.map_err(|error| format!("TLS: {error}"))?)
            .await
    }

    async fn speak<S>(&self, socket: S) -> Result<Connection, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(socket);
        match self.collector.encoding {
            Encoding::Grpc => {
                let made = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = made.map_err(|error| chain(&error))?;
                tokio::spawn(connection);
                Ok(Connection::Http2(sender))
            }
            Encoding::Http => {
                let made = http1::handshake(io).await;
                let (sender, connection) = made.map_err(|error| chain(&error))?;
                tokio::spawn(connection);
                Ok(Connection::Http1(sender))
            }
        }
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Parts>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// A body that stands in several places.
struct Parts(VecDeque<Bytes>);

impl Parts {
    fn length(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Makes it a message as gRPC frames it: not compressed, and its length.
    fn frame(&mut self) -> Result<(), String> {
        let length = u32::try_from(self.length()).map_err(|_| "too long a batch".to_owned())?;
        let mut head = BytesMut::with_capacity(5);
        head.put_u8(0);
        head.put_u32(length);
        self.0.push_front(head.freeze());
        Ok(())
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length() as u64)
    }
}

/// An error and what caused it: hyper's own says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The whole answer: its body, and what trails it.
async fn read(response: Response<Incoming>) -> io::Result<(Bytes, Option<HeaderMap>)> {
    let collected = Limited::new(response.into_body(), ANSWER).collect().await;
    let collected = collected.map_err(io::Error::other)?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

fn taken(message: &[u8]) -> Sent {
    let rejected = otlp::rejected(message);
    if let Some((spans, why)) = &rejected {
        let why = finback_core::text::Escaped(why);
        tracing::debug!(spans, %why, "the collector did not take all spans");
    }
    Sent::Taken {
        rejected: rejected.map_or(0, |(spans, _)| spans),
    }
}

fn text_of(value: Option<&HeaderValue>) -> String {
    value.map_or_else(String::new, |own| {
        String::from_utf8_lossy(own.as_bytes()).into_owned()
    })
}

/// OTLP, section "OTLP/HTTP Response".
async fn http_answer(response: Response<Incoming>) -> Sent {
    let status = response.status();
    let after = text_of(response.headers().get(header::RETRY_AFTER));
    let after = after.parse().ok().map(Duration::from_secs);
    let body = match read(response).await {
        Ok((body, _)) => body,
        Err(error) => {
            let (why, after) = (error.to_string(), None);
            return Sent::Failed { why, after };
        }
    };
    if status.is_success() {
        return taken(&body);
    }
    let why = format!("the collector answers {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Sent::Failed {
            why,
            after: after.map(|pause| pause.min(LONGEST_PAUSE)),
        },
        _ => Sent::Refused { why },
    }
}

/// OTLP, section "OTLP/gRPC Response": which statuses may be tried again.
async fn grpc_answer(response: Response<Incoming>) -> Sent {
    let http = response.status();
    let in_head = response.headers().clone();
    let (body, trailers) = match read(response).await {
        Ok(read) => read,
        Err(error) => {
            let (why, after) = (error.to_string(), None);
            return Sent::Failed { why, after };
        }
    };
    // Without a message, what trails it stands in the head.
    let told = |name| {
        let trailer = trailers.as_ref().and_then(|own| own.get(name));
        trailer.or_else(|| in_head.get(name)).cloned()
    };
    let Some(status) = told("grpc-status") else {
        let why = format!("the collector answers {http}, without a status of gRPC's");
        return Sent::Failed { why, after: None };
    };
    let status = text_of(Some(&status));
    if status == "0" {
        return taken(body.get(5..).unwrap_or_default());
    }
    let message = text_of(told("grpc-message").as_ref());
    let why = format!("the collector answers status {status} {message}");
    // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
    match &*status {
        "1" | "4" | "10" | "11" | "14" | "15" => Sent::Failed { why, after: None },
        _ => Sent::Refused { why },
    }
}
