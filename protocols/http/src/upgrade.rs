//! Connections that become another protocol's: WebSocket and the like.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use finback_core::driver::{Caller, Carried, DrivenExchange, TunnelEnd};
use finback_core::frame::Outcome;
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::net::Socket;
use finback_core::rejection::Rejection;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body::Body;
use hyper::ext::Protocol;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::oneshot;

use crate::body::{Incoming, Payload};
use crate::{headers, rules};

/// Bytes under way in each direction between a stream of HTTP/2 and its tunnel.
const BUFFER: usize = 8 * 1024;

/// What a client asked to become.
pub(crate) struct Wanted {
    /// Its side of the tunnel.
    client: Client,
    /// What was asked for: one protocol, or several to choose from.
    to: HeaderValue,
}

/// Whether a protocol is HTTP itself, whose requests would pass through a tunnel without being
/// looked at.
fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    ["h2c", "h2", "h3", "http"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

enum Client {
    /// Its connection, once we have agreed.
    Connection(oneshot::Receiver<Socket>),
    /// A stream, by HTTP/2's extended CONNECT (RFC 8441): what the client sends.
    Stream(Incoming),
}

impl Wanted {
    /// What a request asks for, if anything; the request then asks an HTTP/1.1 endpoint for it.
    pub(crate) fn take(head: &mut Parts, body: &mut Incoming) -> Option<Self> {
        if head.method == Method::CONNECT {
            let protocol = head.extensions.remove::<Protocol>()?;
            // RFC 8441, section 4: one name, of those that Upgrade may have.
            if !rules::is_token(protocol.as_str()) || is_http(protocol.as_str()) {
                return None;
            }
            let to = HeaderValue::from_str(protocol.as_str()).ok()?;
            let client = Client::Stream(std::mem::replace(body, Incoming::Nothing));
            return Some(Self { client, to });
        }
        let Incoming::Upgrade(socket) = body else {
            return None;
        };
        let asked = headers::listed(&head.headers, &header::UPGRADE);
        let asked: Vec<&str> = asked.filter(|own| !is_http(own)).collect();
        if asked.is_empty() {
            return None;
        }
        let to = HeaderValue::from_str(&asked.join(", ")).ok()?;
        let (_, nobody) = oneshot::channel();
        let client = Client::Connection(std::mem::replace(socket, nobody));
        Some(Self { client, to })
    }

    /// Whether it is a stream that shall become a tunnel: any success would tell its client that it
    /// has.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.client, Client::Stream(_))
    }

    /// What an endpoint has chosen of what was asked for; `None` if it is something else
    /// (RFC 9110, section 7.8).
    pub(crate) fn chosen(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let asked = self.to.to_str().ok()?;
        let is_asked = |chosen: &str| {
            let mut asked = asked.split(", ");
            asked.any(|own| own.eq_ignore_ascii_case(chosen))
        };
        let chosen: Vec<&str> = headers::listed(headers, &header::UPGRADE).collect();
        if chosen.is_empty() && !asked.contains(',') {
            // There was nothing to choose from.
            return Some(self.to.clone());
        }
        let fine = !chosen.is_empty() && chosen.iter().all(|own| is_asked(own));
        fine.then(|| HeaderValue::from_str(&chosen.join(", ")).ok())?
    }

    /// Writes what asks an HTTP/1.1 endpoint for it.
    pub(crate) fn ask(&self, head: &mut Parts, random: u64) {
        let headers = &mut head.headers;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.to.clone());
        head.version = Version::HTTP_11;
        if self.is_stream() && self.to == "websocket" {
            // HTTP/2 has no key; an HTTP/1.1 server asks for one (RFC 6455, section 4.1).
            let key = HeaderValue::from_str(&key(random));
            headers.extend(key.ok().map(|key| (header::SEC_WEBSOCKET_KEY, key)));
        }
    }

    /// Makes of an endpoint's agreement the one for the client, whose side of the tunnel it gives,
    /// with what the client then gets.
    pub(crate) fn agree(
        self,
        chosen: HeaderValue,
        status: &mut StatusCode,
        headers: &mut HeaderMap,
    ) -> (Side, Payload) {
        match self.client {
            Client::Connection(upgrade) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, chosen);
                (Side::Connection(upgrade), Payload::empty())
            }
            Client::Stream(incoming) => {
                *status = StatusCode::OK;
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                let (ours, theirs) = tokio::io::duplex(BUFFER);
                let stream = StreamSide {
                    from: incoming,
                    rest: Bytes::new(),
                    to: ours,
                };
                (Side::Stream(stream), Payload::Tunnel(theirs))
            }
        }
    }
}

/// A client's side of a tunnel.
pub(crate) enum Side {
    Connection(oneshot::Receiver<Socket>),
    Stream(StreamSide),
}

/// A stream of HTTP/2 as a tunnel's side.
pub(crate) struct StreamSide {
    from: Incoming,
    rest: Bytes,
    to: DuplexStream,
}

impl AsyncRead for StreamSide {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.from).poll_frame(cx)) {
                Some(frame) => self.rest = frame?.into_data().unwrap_or_default(),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamSide {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}

/// Sixteen bytes in Base64.
fn key(random: u64) -> String {
    let bytes = (u128::from(random) << 64 | u128::from(random.rotate_left(23))).to_be_bytes();
    STANDARD.encode(bytes)
}

/// Carries bytes both ways until both sides have ended, or the limits end it.
pub(crate) async fn relay(
    caller: Rc<Caller>,
    client: Side,
    mut endpoint: Socket,
    mut exchange: DrivenExchange,
    mut lease: Lease,
) {
    // It has agreed.
    exchange.begun(&mut lease);
    let nothing = || {};
    let carried = match client {
        Side::Connection(client) => match client.await {
            Ok(mut client) => caller.tunnel(&mut client, &mut endpoint, nothing).await,
            // It has gone before it heard that we agree.
            Err(_) => Carried {
                up: 0,
                down: 0,
                end: TunnelEnd::Closed,
            },
        },
        Side::Stream(mut client) => caller.tunnel(&mut client, &mut endpoint, nothing).await,
    };
    exchange.add_request_bytes(carried.up);
    let end = match carried.end {
        TunnelEnd::Draining => {
            exchange.rejected(Rejection::Draining);
            AttemptEnd::Draining
        }
        TunnelEnd::Closed | TunnelEnd::Broken | TunnelEnd::Idle => {
            exchange.answered(Outcome::Success, carried.down);
            AttemptEnd::Answered(Outcome::Success)
        }
    };
    exchange.conclude(&mut lease, end, Resend::Impossible);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert_eq!(key(0), "AAAAAAAAAAAAAAAAAAAAAA==");
        let one = key(0x0123_4567_89ab_cdef);
        assert!(one.starts_with("ASNFZ4mrze"), "{one}");
        assert_eq!(one.len(), 24);
    }
}
