//! The opening handshake of WebSocket (RFC 6455, section 4.2): a request read, checked and answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use finback_core::driver::{Proxies, node};
use finback_core::net::Socket;
use httparse::{Header, Request};
use sha1::{Digest, Sha1};
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a server's answer proves to have read the client's key by (RFC 6455, section 1.3).
const PROOF: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A request's head is no longer.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Bytes of a client's key once decoded (RFC 6455, section 4.1).
const KEY: usize = 16;

/// Who may open a WebSocket, and who passes requests for one on.
pub(crate) struct Door<'a> {
    /// Those whose pages may connect; empty: any.
    pub(crate) origins: &'a [String],
    /// The proxies in front, and the hop before us.
    pub(crate) proxies: &'a Proxies,
    pub(crate) hop: IpAddr,
}

/// Reads a request and answers it, in as much time as the caller gives; what of the connection was
/// read beyond it is left in `head`. Gives whose it is: the hop's, or whom trusted proxies name in
/// X-Forwarded-For.
///
/// # Errors
/// What is to be logged; the client has got its answer.
pub(crate) async fn shake_hands(
    socket: &mut Socket,
    head: &mut BytesMut,
    door: &Door<'_>,
) -> Result<IpAddr, &'static str> {
    let accepted = loop {
        match answer(head, door) {
            Some(Ok(accepted)) => break accepted,
            Some(Err((status, why))) => {
                let text = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
                     sec-websocket-version: 13\r\nconnection: close\r\n\r\n{why}\n",
                    why.len() + 1
                );
                let _ = socket.write_all(text.as_bytes()).await;
                let _ = socket.shutdown().await;
                return Err(why);
            }
            None => {}
        }
        match socket.read_buf(head).await {
            Ok(n) if n > 0 => {}
            _ => return Err("the client went away within its request for a WebSocket"),
        }
    };
    head.advance(accepted.length);
    match socket.write_all(accepted.answer.as_bytes()).await {
        Ok(()) => Ok(accepted.source),
        Err(_) => Err("the client did not take the answer to its request for a WebSocket"),
    }
}

type Refused = (&'static str, &'static str);

/// A request that is granted.
struct Accepted {
    /// The request's length.
    length: usize,
    answer: String,
    /// Whose it is.
    source: IpAddr,
}

/// The answer to a request; `None` if bytes are missing.
fn answer(bytes: &[u8], door: &Door<'_>) -> Option<Result<Accepted, Refused>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return None,
        _ => return Some(Err(("400 Bad Request", "the request cannot be read"))),
    };
    let forwarded: Vec<&str> = all(request.headers, "x-forwarded-for").collect();
    let source = door.proxies.source(door.hop, forwarded.into_iter(), node);
    let accepted = accepted(&request, door.origins);
    Some(accepted.map(|answer| Accepted {
        length,
        answer,
        source,
    }))
}

/// The answer to a whole request.
fn accepted(request: &Request<'_, '_>, origins: &[String]) -> Result<String, Refused> {
    let headers = &*request.headers;
    if request.method != Some("GET")
        || !lists(headers, "upgrade", "websocket")
        || !lists(headers, "connection", "upgrade")
    {
        let why = "MQTT is spoken here, over TCP or WebSocket";
        return Err(("426 Upgrade Required", why));
    }
    if only(headers, "sec-websocket-version") != Some("13") {
        let why = "only version 13 of WebSocket is spoken here";
        return Err(("426 Upgrade Required", why));
    }
    let key = only(headers, "sec-websocket-key");
    let is_key = |key: &&str| STANDARD.decode(key).is_ok_and(|own| own.len() == KEY);
    let Some(key) = key.filter(is_key) else {
        let why = "the request has no Sec-WebSocket-Key";
        return Err(("400 Bad Request", why));
    };
    if !is_welcome(headers, origins) {
        let why = "pages of this origin may not connect here";
        return Err(("403 Forbidden", why));
    }
    // The standard's name, and the one from before it was settled.
    let Some(spoken) = ["mqtt", "mqttv3.1"]
        .into_iter()
        .find(|name| lists(headers, "sec-websocket-protocol", name))
    else {
        let why = "the subprotocol must be mqtt";
        return Err(("400 Bad Request", why));
    };
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(PROOF);
    let accept = STANDARD.encode(hash.finalize());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {spoken}\r\n\r\n"
    ))
}

/// The values of all lines of a header.
fn all<'a>(headers: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let own = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    own.filter_map(|header| std::str::from_utf8(header.value).ok())
        .map(str::trim)
}

/// The value of a header that stands once.
fn only<'a>(headers: &'a [Header<'_>], name: &'a str) -> Option<&'a str> {
    let mut values = all(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// Whether a word stands in a list, which several lines may carry together (RFC 6455, section 11.3.4).
fn lists(headers: &[Header<'_>], name: &str, word: &str) -> bool {
    all(headers, name)
        .flat_map(|list| list.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// Whether a request may come from where it says it does (RFC 6455, section 10.2). Browsers always say so;
/// clients that are none need not, and could say anything.
fn is_welcome(headers: &[Header<'_>], origins: &[String]) -> bool {
    if origins.is_empty() {
        return true;
    }
    all(headers, "origin").all(|own| {
        origins
            .iter()
            .any(|origin| origin.eq_ignore_ascii_case(own))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n";

    fn door(origins: &[String]) -> Door<'_> {
        static NONE: LazyLock<Proxies> = LazyLock::new(Proxies::default);
        Door {
            origins,
            proxies: &NONE,
            hop: [10, 0, 0, 1].into(),
        }
    }

    #[test]
    fn whose_it_is_trusted_proxies_say() {
        let request = format!(
            "{REQUEST}Sec-WebSocket-Protocol: mqtt\r\nX-Forwarded-For: 203.0.113.9\r\n\
             X-Forwarded-For: 198.51.100.7:8080, 10.0.0.2\r\n\r\n"
        );
        let trusting = |trusted: &[&str]| Proxies {
            trusted: trusted.iter().map(|own| own.parse().unwrap()).collect(),
            ..Proxies::default()
        };
        for (trusted, wanted) in [
            (&[][..], "10.0.0.1"),
            (&["10.0.0.1"], "10.0.0.2"),
            (&["10.0.0.0/8"], "198.51.100.7"),
            (&["0.0.0.0/0"], "203.0.113.9"),
        ] {
            let proxies = trusting(trusted);
            let door = Door {
                proxies: &proxies,
                ..door(&[])
            };
            let accepted = answer(request.as_bytes(), &door).unwrap();
            let source = accepted.map(|own| own.source.to_string());
            assert_eq!(source, Ok(wanted.to_owned()), "{trusted:?}");
        }
    }

    #[test]
    fn the_handshake_is_that_of_the_standard() {
        // RFC 6455, section 1.3 gives this key and its answer.
        let request = format!("{REQUEST}Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\nrest");
        let request = request.as_bytes();
        let answer = |bytes: &[u8]| answer(bytes, &door(&[]));
        let accepted = answer(request).unwrap().unwrap();
        assert_eq!(accepted.length, request.len() - 4);
        let text = accepted.answer;
        assert!(text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(text.contains("sec-websocket-protocol: mqtt\r\n"));
        for length in 0..request.len() - 4 {
            assert!(answer(&request[..length]).is_none());
        }
    }

    fn status(lines: &str, origins: &[String]) -> &'static str {
        let request = format!("{lines}\r\n");
        match answer(request.as_bytes(), &door(origins)).unwrap() {
            Ok(_) => "101",
            Err((status, _)) => status,
        }
    }

    #[test]
    fn what_is_no_request_for_mqtt_over_websocket_is_refused() {
        let mqtt = "Sec-WebSocket-Protocol: mqtt\r\n";
        for (lines, expected) in [
            (format!("{REQUEST}{mqtt}"), "101"),
            (
                format!("{REQUEST}Sec-WebSocket-Protocol: foo\r\n{mqtt}"),
                "101",
            ),
            (
                format!("{REQUEST}{mqtt}Sec-WebSocket-Protocol: foo, bar\r\n"),
                "101",
            ),
            (
                format!("{REQUEST}Sec-WebSocket-Protocol: foo\r\n"),
                "400 Bad Request",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\n".to_owned(),
                "426 Upgrade Required",
            ),
            (
                format!("{REQUEST}{mqtt}Sec-WebSocket-Version: 8\r\n"),
                "426 Upgrade Required",
            ),
            (
                format!("{REQUEST}{mqtt}").replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
                "400 Bad Request",
            ),
        ] {
            assert_eq!(status(&lines, &[]), expected, "{lines}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused_and_clients_that_are_no_browsers_are_not() {
        let origins = ["https://app.acme.test".to_owned()];
        let request = format!("{REQUEST}Sec-WebSocket-Protocol: mqtt\r\n");
        for (line, expected) in [
            ("", "101"),
            ("Origin: https://app.acme.test\r\n", "101"),
            ("Origin: HTTPS://App.acme.test\r\n", "101"),
            ("Origin: https://app.acme.test:8443\r\n", "403 Forbidden"),
            ("Origin: http://app.acme.test\r\n", "403 Forbidden"),
            (
                "Origin: https://app.acme.test.evil.test\r\n",
                "403 Forbidden",
            ),
            ("Origin: null\r\n", "403 Forbidden"),
            (
                "Origin: https://app.acme.test\r\nOrigin: https://evil.test\r\n",
                "403 Forbidden",
            ),
        ] {
            assert_eq!(
                status(&format!("{request}{line}"), &origins),
                expected,
                "{line}"
            );
            assert_eq!(status(&format!("{request}{line}"), &[]), "101", "{line}");
        }
    }
}
