//! gRPC's health checking protocol (gRPC: health-checking.md): `grpc.health.v1.Health/Check`.

use bytes::{BufMut, Bytes, BytesMut};
use finback_core::health::{Asking, Probe};
use finback_core::net::Socket;
use finback_http::{Said, ask};
use http::{HeaderValue, Request, Version, header};

use crate::{CONTENT_TYPE, MESSAGE, STATUS};

/// `HealthCheckResponse.status` of one that is healthy.
const SERVING: u64 = 1;
/// The key of field 1 as a text, and as a number (protobuf's wire types 2 and 0).
const TEXT: u8 = 0x0a;
const NUMBER: u8 = 0x08;

/// An endpoint is healthy if it says that it serves.
pub struct GrpcProbe {
    /// The service that is asked about; "" asks about the server.
    pub service: String,
    /// The authority that is asked.
    pub host: Option<String>,
}

impl GrpcProbe {
    fn request(&self) -> Result<Request<Bytes>, String> {
        let mut message = BytesMut::new();
        if !self.service.is_empty() {
            message.put_u8(TEXT);
            put_varint(self.service.len(), &mut message);
            message.put_slice(self.service.as_bytes());
        }
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).map_err(|error| error.to_string())?);
        body.put_slice(&message);
        let host = self.host.as_deref().unwrap_or("health");
        Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
            .version(Version::HTTP_2)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::TE, "trailers")
            .body(body.freeze())
            .map_err(|error| error.to_string())
    }
}

impl Probe for GrpcProbe {
    fn application(&self) -> Option<&'static [u8]> {
        Some(b"h2")
    }

    fn ask(&self, socket: Socket) -> Asking {
        let request = self.request();
        Box::pin(async move { judge(&ask(socket, request?).await?) })
    }
}

fn put_varint(mut number: usize, out: &mut BytesMut) {
    while number > 0x7f {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn judge(said: &Said) -> Result<(), String> {
    // Without a message, the head has what trailers would have.
    let trailers = said.trailers.as_ref().unwrap_or(&said.head.headers);
    let text = |value: Option<&HeaderValue>| {
        let text = value.and_then(|value| value.to_str().ok());
        text.unwrap_or_default().to_owned()
    };
    match trailers.get(&STATUS) {
        None => return Err(format!("status {} and no grpc-status", said.head.status)),
        Some(status) if status != "0" => {
            let (status, message) = (text(Some(status)), text(trailers.get(&MESSAGE)));
            return Err(format!("grpc-status {status} {message}"));
        }
        Some(_) => {}
    }
    match status(&said.body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("it says that it does not know".to_owned()),
        Some(2) => Err("it says that it does not serve".to_owned()),
        Some(3) => Err("it says that it does not know the service".to_owned()),
        _ => Err("an answer that makes no sense".to_owned()),
    }
}

/// The status in a message: field 1, 0 if it is left out.
fn status(body: &[u8]) -> Option<u64> {
    let message = body.get(5..)?;
    match message {
        [] => Some(0),
        [NUMBER, number] => Some(u64::from(*number)),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn said(body: &'static [u8], trailers: &[(&'static str, &'static str)]) -> Said {
        let pairs = trailers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        Said {
            head: http::Response::new(()).into_parts().0,
            body: Bytes::from_static(body),
            trailers: Some(pairs.collect()),
        }
    }

    #[test]
    fn only_serving_is_well() {
        let ok = &[("grpc-status", "0")][..];
        assert_eq!(judge(&said(&[0, 0, 0, 0, 2, 8, 1], ok)), Ok(()));
        for (body, trailers) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], ok),
            (&[0, 0, 0, 0, 0], ok),
            (&[0, 0, 0, 0, 2, 8, 1], &[("grpc-status", "14")]),
            (&[0, 0, 0, 0, 2, 8, 1], &[]),
            (&[], ok),
        ] {
            judge(&said(body, trailers)).unwrap_err();
        }
    }

    #[test]
    fn the_service_stands_in_the_message() {
        let probe = GrpcProbe {
            service: "x".repeat(200),
            host: None,
        };
        let request = probe.request().unwrap();
        let body = request.body();
        assert_eq!(body[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
        assert_eq!(body.len(), 208);
    }
}
