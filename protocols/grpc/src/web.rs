//! gRPC-Web: gRPC for clients that cannot read trailers (gRPC: PROTOCOL-WEB.md).
//!
//! Trailers come as a last message whose flag has its highest bit set. In the text form, everything
//! is in Base64 besides: in pieces that may each have padding of their own.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use finback_core::frame::{Answer, Metadata};
use finback_core::rejection::Rejection;
use finback_http::{Dialect, RequestInfo, Translation, Translator};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;

use crate::{CONTENT_TYPE, Grpc, is_call};

/// How its content types begin.
const WEB: &str = "application/grpc-web";
/// What the text form has after that.
const TEXT: &str = "-text";
const X_GRPC_WEB: HeaderName = HeaderName::from_static("x-grpc-web");
/// The flag of a message that is trailers.
const TRAILERS: u8 = 0x80;

/// gRPC-Web. Routes know it as gRPC.
pub struct GrpcWeb;

/// Whether a content type is the text form, and what it says of the messages (`+proto`); `None`
/// if it is not gRPC-Web's.
fn form(content_type: &HeaderValue) -> Option<(bool, &str)> {
    let rest = content_type.to_str().ok()?.strip_prefix(WEB)?;
    let (is_text, rest) = match rest.strip_prefix(TEXT) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    matches!(rest.bytes().next(), None | Some(b'+' | b';')).then_some((is_text, rest))
}

impl Dialect for GrpcWeb {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn claims(&self, head: &Parts) -> bool {
        let content_type = head.headers.get(header::CONTENT_TYPE);
        is_call(head) && content_type.and_then(form).is_some()
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        Grpc.metadata(head)
    }

    fn prefers_http2(&self, _: &Parts) -> bool {
        true
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        Grpc.answer(status, headers)
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        Grpc.answer_of_trailers(trailers)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        Grpc.tell_deadline(headers, left);
    }

    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        Grpc.reject(asked, rejection, text)
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Grpc.late_rejection(rejection, text)
    }

    fn translation(&self, head: &mut Parts) -> Option<Translation> {
        let content_type = head.headers.get(header::CONTENT_TYPE)?.clone();
        let (is_text, rest) = form(&content_type)?;
        let plain = HeaderValue::from_str(&format!("{CONTENT_TYPE}{rest}")).ok()?;
        head.headers.insert(header::CONTENT_TYPE, plain);
        let trailers = HeaderValue::from_static("trailers");
        head.headers.insert(header::TE, trailers);
        head.headers.remove(&X_GRPC_WEB);
        if is_text {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let decoder = || Box::<Decoder>::default() as Box<dyn Translator>;
        Some(Translation {
            request: is_text.then(decoder),
            response: Box::new(Encoder { is_text }),
            content_type,
        })
    }
}

/// Reads the text form.
#[derive(Default)]
struct Decoder {
    /// Digits that are not four yet.
    rest: Vec<u8>,
}

impl Translator for Decoder {
    fn data(&mut self, piece: Bytes) -> io::Result<Bytes> {
        let digits = piece.iter().filter(|byte| !byte.is_ascii_whitespace());
        self.rest.extend(digits);
        let whole = self.rest.len() / 4 * 4;
        let mut out = Vec::with_capacity(whole / 4 * 3);
        // gRPC: PROTOCOL-WEB.md: each piece may have padding of its own. Groups of four digits are read, so that
        // it makes no difference how the text is cut.
        let (groups, _) = self.rest[..whole].as_chunks::<4>();
        for run in groups.split_inclusive(|group| group[3] == b'=') {
            let decoded = STANDARD.decode(run.as_flattened());
            out.extend(decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
        }
        self.rest.drain(..whole);
        Ok(out.into())
    }

    fn end(&mut self, _: Option<HeaderMap>) -> io::Result<Option<Frame<Bytes>>> {
        if self.rest.is_empty() {
            Ok(None)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the Base64 ends within a group",
            ))
        }
    }
}

/// Writes trailers as a message, and the text form.
struct Encoder {
    is_text: bool,
}

impl Encoder {
    fn form(&self, piece: Bytes) -> Bytes {
        if self.is_text {
            STANDARD.encode(piece).into()
        } else {
            piece
        }
    }
}

impl Translator for Encoder {
    fn data(&mut self, piece: Bytes) -> io::Result<Bytes> {
        Ok(self.form(piece))
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> io::Result<Option<Frame<Bytes>>> {
        let Some(trailers) = trailers else {
            return Ok(None);
        };
        let mut lines = BytesMut::new();
        for (name, value) in &trailers {
            lines.put_slice(name.as_str().as_bytes());
            lines.put_slice(b": ");
            lines.put_slice(value.as_bytes());
            lines.put_slice(b"\r\n");
        }
        let mut message = BytesMut::with_capacity(lines.len() + 5);
        message.put_u8(TRAILERS);
        message.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        message.put_slice(&lines);
        Ok(Some(Frame::data(self.form(message.freeze()))))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn head(content_type: &str) -> Parts {
        let request = http::Request::post("/a.B/c").header("content-type", content_type);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn its_content_types_become_those_of_grpc() {
        for (kind, plain, decodes) in [
            ("application/grpc-web", "application/grpc", false),
            (
                "application/grpc-web+proto",
                "application/grpc+proto",
                false,
            ),
            ("application/grpc-web-text", "application/grpc", true),
            (
                "application/grpc-web-text+json",
                "application/grpc+json",
                true,
            ),
        ] {
            let mut head = head(kind);
            assert!(GrpcWeb.claims(&head));
            let translation = GrpcWeb.translation(&mut head).unwrap();
            assert_eq!(head.headers["content-type"], plain);
            assert_eq!(head.headers["te"], "trailers");
            assert_eq!(translation.request.is_some(), decodes);
            assert_eq!(translation.content_type, kind);
        }
        for other in ["application/grpc", "application/grpc-webx", "text/plain"] {
            assert!(!GrpcWeb.claims(&head(other)), "{other}");
        }
    }

    #[test]
    fn base64_is_read_however_it_is_cut() {
        let text = format!(
            "{}{}{}",
            STANDARD.encode("a"),
            STANDARD.encode("bcd"),
            STANDARD.encode("ef")
        );
        for size in 1..=text.len() {
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                out.extend(decoder.data(Bytes::copy_from_slice(piece)).unwrap());
            }
            assert!(decoder.end(None).unwrap().is_none());
            assert_eq!(out, b"abcdef", "{size}");
        }
        let mut decoder = Decoder::default();
        decoder.data(Bytes::from_static(b"AAA")).unwrap();
        assert!(decoder.end(None).is_err());
        assert!(decoder.data(Bytes::from_static(b"*___")).is_err());
    }

    #[test]
    fn trailers_are_the_last_message() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        let mut encoder = Encoder { is_text: false };
        let frame = encoder.end(Some(trailers)).unwrap().unwrap();
        let data = frame.into_data().unwrap();
        assert_eq!(&data[..], b"\x80\0\0\0\x10grpc-status: 5\r\n");
    }

    #[test]
    fn padding_ends_four_digits_however_they_are_cut() {
        let decode = |text: &'static [u8], step| {
            let mut decoder = Decoder::default();
            let mut all = Vec::new();
            for piece in text.chunks(step) {
                all.extend(decoder.data(Bytes::from_static(piece))?);
            }
            decoder.end(None).map(|_| all)
        };
        for step in 1..9 {
            assert_eq!(decode(b"YQ==YmM=ZGVm", step).unwrap(), b"abcdef");
            for text in [&b"=ABADEFA"[..], b"A===YQ==", b"====", b"Q=="] {
                assert!(decode(text, step).is_err(), "{text:?} by {step}");
            }
        }
    }
}
