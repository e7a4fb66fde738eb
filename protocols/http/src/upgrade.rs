//! Connections that become another protocol's: WebSocket and the like.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use finback_core::driver::{Caller, Stream};
use finback_core::frame::Outcome;
use finback_core::mesh::{Lease, Verdict};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::rc::Rc;

/// Bytes under way in each direction; many tunnels are idle for long.
const BUFFER: usize = 8 * 1024;

/// What a client asked to become.
pub(crate) struct Wanted {
    /// Its side of the tunnel, once we have agreed.
    pub(crate) client: OnUpgrade,
    /// What was asked for.
    to: HeaderValue,
    /// It asked by HTTP/2's extended CONNECT (RFC 8441).
    pub(crate) extended: bool,
}

impl Wanted {
    /// What a request asks for, if anything; the request then asks an HTTP/1.1 endpoint for it.
    pub(crate) fn take(head: &mut Parts) -> Option<Self> {
        let protocol = head.extensions.remove::<Protocol>();
        let extended = head.method == Method::CONNECT && protocol.is_some();
        let to = if extended {
            HeaderValue::from_str(protocol?.as_str()).ok()?
        } else if crate::headers::wants_upgrade(head) {
            head.headers.get(header::UPGRADE)?.clone()
        } else {
            return None;
        };
        let client = head.extensions.remove::<OnUpgrade>()?;
        if extended {
            head.method = Method::GET;
        }
        Some(Self {
            client,
            to,
            extended,
        })
    }

    /// Writes what asks an HTTP/1.1 endpoint for it.
    pub(crate) fn ask(&self, head: &mut Parts, random: u64) {
        let headers = &mut head.headers;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.to.clone());
        head.version = Version::HTTP_11;
        if self.extended && self.to == "websocket" {
            // HTTP/2 has no key; an HTTP/1.1 server asks for one (RFC 6455, section 4.1).
            let key = HeaderValue::from_str(&key(random));
            headers.extend(key.ok().map(|key| (header::SEC_WEBSOCKET_KEY, key)));
        }
    }

    /// Makes of an endpoint's agreement the one for the client.
    pub(crate) fn agree(&self, headers: &mut HeaderMap) {
        if self.extended {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, self.to.clone());
        }
    }
}

/// Sixteen bytes in Base64.
fn key(random: u64) -> String {
    let bytes = (u128::from(random) << 64 | u128::from(random.rotate_left(23))).to_be_bytes();
    STANDARD.encode(bytes)
}

/// Carries bytes both ways until both sides have ended.
pub(crate) async fn relay(
    caller: Rc<Caller>,
    client: OnUpgrade,
    endpoint: OnUpgrade,
    mut stream: Stream,
    mut lease: Lease,
) {
    let carry = async {
        let (client, endpoint) = futures_util::future::join(client, endpoint).await;
        let (client, endpoint): (Upgraded, Upgraded) = (client?, endpoint?);
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        let carried =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER);
        Ok::<_, hyper::Error>(carried.await.unwrap_or_default())
    };
    let carried = tokio::select! {
        carried = carry => carried.unwrap_or_default(),
        () = caller.cut() => (0, 0),
    };
    lease.went(Verdict::Good);
    stream.add_request_bytes(carried.0);
    stream.answered(Outcome::Success, carried.1);
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
