//! Health checks by HTTP: one request over a connection of its own.

use std::ops::RangeInclusive;

use bytes::Bytes;
use finback_core::health::{Asking, Probe};
use finback_core::net::Socket;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// The longest body that is read of an answer, in bytes.
const BODY: usize = 64 * 1024;

/// What a server said.
pub struct Said {
    /// Status and headers.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
    /// What came after it.
    pub trailers: Option<HeaderMap>,
}

/// Asks once over a connection, which is then closed. The request's version decides what is
/// spoken; in HTTP/2 its target must be whole.
///
/// # Errors
/// What went wrong.
pub async fn ask(socket: Socket, request: Request<Bytes>) -> Result<Said, String> {
    let request = request.map(Full::new);
    let io = TokioIo::new(socket);
    let failed = |error: hyper::Error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let (response, driving) = if request.version() == Version::HTTP_2 {
        let made = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = made.map_err(failed)?;
        let driving = tokio::spawn(async move { drop(connection.await) });
        (sender.send_request(request).await, driving)
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(failed)?;
        let driving = tokio::spawn(async move { drop(connection.await) });
        (sender.send_request(request).await, driving)
    };
    let read = async {
        let (head, body) = response.map_err(failed)?.into_parts();
        let body = Limited::new(body, BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        Ok(Said {
            head,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    };
    let said = read.await;
    driving.abort();
    said
}

/// An endpoint is healthy if it answers a GET with one of these statuses.
pub struct HttpProbe {
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// What is asked for. Default: `/`.
    pub path: String,
    /// The `Host` of the request; `None` writes `health`.
    pub host: Option<String>,
    /// Statuses of one that is healthy.
    pub statuses: RangeInclusive<u16>,
}

impl Probe for HttpProbe {
    fn application(&self) -> Option<&'static [u8]> {
        Some(if self.http2 { b"h2" } else { b"http/1.1" })
    }

    fn ask(&self, socket: Socket) -> Asking {
        let statuses = self.statuses.clone();
        let request = self.request();
        Box::pin(async move {
            let said = ask(socket, request?).await?;
            let status = said.head.status;
            if statuses.contains(&status.as_u16()) {
                Ok(())
            } else {
                Err(format!("status {status}"))
            }
        })
    }
}

impl HttpProbe {
    fn request(&self) -> Result<Request<Bytes>, String> {
        let host = self.host.as_deref().unwrap_or("health");
        let built = if self.http2 {
            Request::get(format!("http://{host}{}", self.path))
                .version(Version::HTTP_2)
                .body(Bytes::new())
        } else {
            Request::get(&self.path)
                .header(header::HOST, host)
                .header(header::CONNECTION, HeaderValue::from_static("close"))
                .body(Bytes::new())
        };
        built.map_err(|error| error.to_string())
    }
}
