//! Services and callers of HTTP/1.1 and of gRPC, on hyper.
//!
//! The token of a call stands in an HTTP request's path and comes back as the response's body; in
//! gRPC it is the only field of the message, both ways. What is exported to it by OTLP it takes, and keeps
//! nothing.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::echo::Faults;
use crate::load::{Load, Progress, Tally};
use crate::speech::{METHOD, SERVICE, TOKEN};

/// The host that HTTP requests are for.
pub const HOST_NAME: &str = "orders";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Where exporters of OpenTelemetry send what they have, by gRPC.
const COLLECTOR: &str = "/opentelemetry.proto.collector.";
/// Length of a message's prefix (whether it is compressed, and its length).
const PREFIX: usize = 5;

type Body = BoxBody<Bytes, std::convert::Infallible>;

fn message(token: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + 2 + token.len());
    out.put_u8(0);
    out.put_u32(token.len() as u32 + 2);
    // Field 1, of a length.
    out.put_slice(&[0x0a, token.len() as u8]);
    out.put_slice(token);
    out.freeze()
}

/// Serves HTTP/1.1 and HTTP/2 until dropped.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, faults: Faults) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let faults = faults.clone();
        tokio::spawn(async move {
            let calls = Arc::new(AtomicU64::new(0));
            let service = service_fn(move |request| answer(request, faults.clone(), calls.clone()));
            let builder = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is the ordinary end of a connection.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    faults: Faults,
    calls: Arc<AtomicU64>,
) -> io::Result<Response<Body>> {
    let before = calls.fetch_add(1, Relaxed);
    if faults.reset_after > 0 && before + 1 >= faults.reset_after {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if faults.silent {
        std::future::pending::<()>().await;
    }
    if !faults.delay.is_zero() {
        tokio::time::sleep(faults.delay).await;
    }
    let grpc = request.headers().get(CONTENT_TYPE) == Some(&GRPC);
    if !grpc {
        let path = request.uri().path();
        let token = path.rsplit_once('/').map_or(path, |(_, last)| last);
        return Ok(Response::new(Full::from(token.to_owned()).boxed()));
    }
    let is_export = request.uri().path().starts_with(COLLECTOR);
    let said = request.into_body().collect().await;
    let mut said = said.map_err(io::Error::other)?.to_bytes();
    if is_export {
        // Taken whole, and forgotten: an empty message says that nothing was turned down.
        said = Bytes::from_static(&[0; PREFIX]);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let trailers = async move { Some(Ok(trailers)) };
    let mut response = Response::new(Full::new(said).with_trailers(trailers).boxed());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    Ok(response)
}

/// What calls are sent over.
pub(crate) enum Sender {
    Http(http1::SendRequest<Body>),
    Grpc(http2::SendRequest<Body>),
}

/// TLS to a server whose certificate is this one.
pub(crate) fn trusting(certificate: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Sender {
    async fn connect(
        target: SocketAddr,
        grpc: bool,
        tls: Option<&TlsConnector>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        match tls {
            None => Self::over(stream, grpc).await,
            Some(tls) => {
                let name = ServerName::IpAddress(target.ip().into());
                Self::over(tls.connect(name, stream).await?, grpc).await
            }
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        grpc: bool,
    ) -> io::Result<Self> {
        let io = TokioIo::new(stream);
        if grpc {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok(Self::Grpc(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok(Self::Http(sender))
        }
    }

    /// Makes one call; says whether its token came back.
    async fn call(&mut self, token: &str) -> Result<bool, hyper::Error> {
        match self {
            Self::Http(sender) => {
                let mut request = Request::new(Empty::new().boxed());
                if let Ok(uri) = format!("/orders/{token}").parse() {
                    *request.uri_mut() = uri;
                }
                let headers = request.headers_mut();
                headers.insert(HOST, HeaderValue::from_static(HOST_NAME));
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let right = response.status().is_success();
                let said = response.into_body().collect().await?.to_bytes();
                Ok(right && said == token.as_bytes())
            }
            Self::Grpc(sender) => {
                let sent = message(token.as_bytes());
                let mut request = Request::post(format!("http://{HOST_NAME}/{SERVICE}/{METHOD}"))
                    .header(CONTENT_TYPE, GRPC)
                    .header("te", "trailers")
                    .body(Full::new(sent.clone()).boxed())
                    .unwrap_or_else(|_| unreachable!("every part of it is well-formed"));
                *request.version_mut() = hyper::Version::HTTP_2;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let said = response.into_body().collect().await?;
                let status = said.trailers().and_then(|own| own.get("grpc-status"));
                let right = status.is_some_and(|status| status == "0");
                Ok(right && said.to_bytes() == sent)
            }
        }
    }
}

/// A connection on which one call was made.
pub(crate) async fn held(
    target: SocketAddr,
    grpc: bool,
    tls: Option<&TlsConnector>,
) -> io::Result<Sender> {
    let mut sender = Sender::connect(target, grpc, tls).await?;
    match sender.call("held00000000").await {
        Ok(true) => Ok(sender),
        // A server of another kind says something else, and is there all the same.
        Ok(false) if !grpc => Ok(sender),
        Ok(false) => Err(io::Error::other("a call was answered wrongly")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// One connection's calls. HTTP/1.1 has one call in flight on each, so that there are as many
/// connections as calls in flight.
pub(crate) async fn calls(
    load: &Load,
    grpc: bool,
    number: usize,
    count: u64,
    progress: &Arc<Progress>,
) -> io::Result<Tally> {
    let connection = Sender::connect(load.target, grpc, None).await?;
    let shared = match &connection {
        Sender::Grpc(sender) => Some(sender.clone()),
        Sender::Http(_) => None,
    };
    let mut first = Some(connection);
    let mut tasks = tokio::task::JoinSet::new();
    let lanes = load.in_flight as u64;
    for lane in 0..lanes {
        let own = count / lanes + u64::from(lane < count % lanes);
        let mut sender = match (first.take(), &shared) {
            (Some(first), _) => first,
            (None, Some(shared)) => Sender::Grpc(shared.clone()),
            (None, None) => Sender::connect(load.target, grpc, None).await?,
        };
        let (patience, progress) = (load.patience, progress.clone());
        tasks.spawn(async move {
            let mut tally = Tally::default();
            for serial in 0..own {
                let token = format!(
                    "{:02x}{:02x}{:08x}",
                    number & 0xff,
                    lane & 0xff,
                    serial & 0xffff_ffff
                );
                debug_assert_eq!(token.len(), TOKEN);
                let began = Instant::now();
                let called = tokio::time::timeout(patience, sender.call(&token)).await?;
                let right = called.map_err(io::Error::other)?;
                tally.add(began.elapsed(), right, &progress);
            }
            Ok::<_, io::Error>(tally)
        });
    }
    let mut all = Tally::default();
    while let Some(ended) = tasks.join_next().await {
        all.join(&ended.map_err(io::Error::other)??);
    }
    Ok(all)
}
