//! Client of Dubbo's metadata service, without its socket: asks an application for the services that it tells no registry,
//! by one call of `MetadataService.getMetadataInfo` in hessian2.

use bytes::{BufMut, BytesMut};
use finback_hessian::v2::Reader;
use finback_hessian::{Error, write::put_string};
use serde_json::{Map, Value, json};

use crate::wire::{self, Fixed, HEADER, OK, STATUS};

/// The longest body of an answer that is read, in bytes.
const MAX_BODY: usize = 8 * 1024 * 1024;
const ID: u64 = 1;
const PROTOCOL_VERSION: &str = "2.0.2";
const SERVICE: &str = "org.apache.dubbo.metadata.MetadataService";
const SERVICE_VERSION: &str = "1.0.0";
const METHOD: &str = "getMetadataInfo";
const PARAMETERS: &str = "Ljava/lang/String;";

/// Why an application did not tell its services.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The peer does not speak Dubbo 2.
    #[error("the peer does not answer in Dubbo 2")]
    NotDubbo,
    /// The answer is longer than 8 MiB.
    #[error("an answer of {0} bytes is over the limit of 8 MiB")]
    TooLong(usize),
    /// The answer has another status than OK: its number, and the peer's text.
    #[error("status {0}: {1}")]
    Refused(u8, String),
    /// The application does not know the revision.
    #[error("the application does not know this revision")]
    NoRevision,
    /// The answer names no service. A revision without services has a name of its own, which nobody asks for.
    #[error("the answer names no service of the revision")]
    NoServices,
    /// The body is not what `getMetadataInfo` returns.
    #[error("the body cannot be read: {0}")]
    Body(#[from] Error),
}

/// Takes the next answer off `received`, the bytes of the connection over which [`metadata_request`] went: the services of
/// the revision, in the JSON form in which Dubbo writes them into registries (Dubbo: MetadataInfo). `None` until it is whole.
///
/// # Errors
/// If the peer refuses, or its answer cannot be read.
pub fn take_metadata(received: &mut BytesMut) -> Result<Option<Vec<u8>>, MetadataError> {
    while let Some(fixed) = Fixed::read(received).map_err(|_| MetadataError::NotDubbo)? {
        let len = fixed.len() - HEADER;
        if len > MAX_BODY {
            return Err(MetadataError::TooLong(len));
        }
        if received.len() < fixed.len() {
            return Ok(None);
        }
        let frame = received.split_to(fixed.len());
        let body = &frame[HEADER..];
        // The server's own heartbeats, events and calls may come first.
        if fixed.is_answer() {
            return match frame[STATUS] {
                OK => Ok(Some(services(body)?.to_string().into_bytes())),
                status => Err(MetadataError::Refused(status, reason(body))),
            };
        }
    }
    Ok(None)
}

/// The only request on its connection: for the services of an application's `revision`.
#[must_use]
pub fn metadata_request(application: &str, revision: &str) -> BytesMut {
    let mut body = BytesMut::new();
    for text in [
        PROTOCOL_VERSION,
        SERVICE,
        SERVICE_VERSION,
        METHOD,
        PARAMETERS,
        revision,
    ] {
        put_string(text, &mut body);
    }
    // The attachments. An application is the group of its metadata service.
    body.put_u8(b'H');
    for (name, value) in [
        ("path", SERVICE),
        ("interface", SERVICE),
        ("version", SERVICE_VERSION),
        ("group", application),
    ] {
        put_string(name, &mut body);
        put_string(value, &mut body);
    }
    body.put_u8(b'Z');
    let mut frame = BytesMut::new();
    wire::put_request(ID, body.len(), &mut frame);
    frame.put_slice(&body);
    frame
}

/// What a peer says that refuses: one string, of which what cannot be read is shown as it is.
fn reason(body: &[u8]) -> String {
    match Reader::new(body).string() {
        Ok(Some(text)) => text.into_owned(),
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

/// The services in the body of an answer.
fn services(body: &[u8]) -> Result<Value, MetadataError> {
    let mut reader = Reader::new(body);
    // 1 and 4 announce a value, 0 and 3 an exception, 2 and 5 null (Dubbo: DubboCodec).
    if !matches!(reader.int()?, 1 | 4) {
        return Err(MetadataError::NoRevision);
    }
    let mut services = Map::new();
    reader.object(&mut |field, reader| {
        if field != "services" {
            return Ok(false);
        }
        reader.map(&mut |key, reader| {
            let service = service(reader)?;
            services.insert(key.to_owned(), service);
            Ok(true)
        })?;
        Ok(true)
    })?;
    if services.is_empty() {
        return Err(MetadataError::NoServices);
    }
    Ok(json!({ "services": services }))
}

fn service(reader: &mut Reader<'_>) -> Result<Value, Error> {
    let mut service = Map::new();
    reader.object(&mut |field, reader| {
        let value = match field {
            "name" | "group" | "version" | "protocol" | "path" => match reader.string()? {
                Some(text) => text.into_owned().into(),
                None => return Ok(true),
            },
            "port" => reader.int()?.into(),
            "params" => {
                let mut parameters = Map::new();
                reader.map(&mut |name, reader| {
                    if let Some(value) = reader.string()? {
                        parameters.insert(name.to_owned(), value.into_owned().into());
                    }
                    Ok(true)
                })?;
                parameters.into()
            }
            _ => return Ok(false),
        };
        service.insert(field.to_owned(), value);
        Ok(true)
    })?;
    Ok(service.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use finback_core::codec::Codec;
    use finback_core::frame::{Kind, Reading};

    use crate::{Config, Dubbo};

    /// An answer: a value, an object of a class M whose one field is a map of one service.
    const ANSWER: &[u8] =
        b"\x91C\x01M\x91\x08services`H\x03g/aC\x01S\x92\x04name\x04porta\x03dem\xd4\x51\x90Z";

    fn frame(flag: u8, status: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xda, 0xbb, flag, status, 0, 0, 0, 0, 0, 0, 0, 1];
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    fn taken(received: &[u8]) -> Result<Option<String>, String> {
        match take_metadata(&mut received.into()) {
            Ok(answer) => Ok(answer.and_then(|own| String::from_utf8(own).ok())),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_request_is_a_call_of_the_metadata_service() {
        let codec = Dubbo::new(Config::default());
        let frame = metadata_request("shop", "r1");
        let head = codec.peek(&frame).ok().flatten().expect("a whole frame");
        assert_eq!(
            (head.kind, head.id, head.len),
            (Kind::Request, 1, frame.len())
        );
        let Ok(Reading::Call(call)) = codec.read(&head, &frame) else {
            panic!("no call");
        };
        assert_eq!((&*call.service, &*call.method), (SERVICE, METHOD));
        assert_eq!((&*call.version, &*call.group), (SERVICE_VERSION, "shop"));
    }

    #[test]
    fn services_are_read_once_they_are_whole_after_what_the_server_says_of_its_own() {
        let heartbeat = frame(0xe2, 0, b"N");
        let call = frame(0xc2, 0, b"N");
        let received = [heartbeat, call, frame(0x02, OK, ANSWER)].concat();
        let services = r#"{"services":{"g/a":{"name":"dem","port":20880}}}"#;
        assert_eq!(taken(&received), Ok(Some(services.to_owned())));
        for len in 0..received.len() {
            assert_eq!(taken(&received[..len]), Ok(None));
        }
    }

    #[test]
    fn an_answer_without_services_says_why() {
        let none = b"\x91C\x01M\x91\x08services`HZ";
        for (status, body, why) in [
            (OK, &none[..], "the answer names no service of the revision"),
            (OK, b"\x92", "the application does not know this revision"),
            (
                OK,
                b"\x91C\x01",
                "the body cannot be read: body ends within a value",
            ),
            (60, b"\x04gone", "status 60: gone"),
        ] {
            assert_eq!(taken(&frame(0x02, status, body)), Err(why.to_owned()));
        }
    }

    #[test]
    fn an_answer_that_is_too_long_or_not_in_dubbo_is_refused_by_its_header() {
        let mut header = frame(0x02, OK, b"");
        header[12..].copy_from_slice(&(8_u32 << 20 | 1).to_be_bytes());
        let why = "an answer of 8388609 bytes is over the limit of 8 MiB";
        assert_eq!(taken(&header), Err(why.to_owned()));
        let why = "the peer does not answer in Dubbo 2";
        assert_eq!(taken(b"HTTP/1.1 400"), Err(why.to_owned()));
    }
}
