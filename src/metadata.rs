//! Asks a Dubbo application for the metadata that it keeps to itself: one call of
//! `MetadataService.getMetadataInfo` over Dubbo 2 with hessian2 bodies.

use std::net::SocketAddr;

use finback_hessian::Error;
use finback_hessian::v2::Reader;
use finback_registry::{InstanceAsked, MetadataService};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer that is read.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
const HEADER: usize = 16;
const SERVICE: &str = "org.apache.dubbo.metadata.MetadataService";
const VERSION: &str = "1.0.0";
const OK: u8 = 20;

/// A client of Dubbo's metadata service.
pub struct DubboMetadata;

impl MetadataService for DubboMetadata {
    fn ask<'a>(
        &'a self,
        address: SocketAddr,
        application: &'a str,
        revision: &'a str,
    ) -> InstanceAsked<'a> {
        Box::pin(async move {
            let answer = call(address, &request(application, revision))
                .await
                .map_err(|error| error.to_string())?;
            let info = read(&answer)?;
            Ok(info.to_string().into_bytes())
        })
    }
}

async fn call(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
        if header[..2] != [0xda, 0xbb] || length > MAX_ANSWER {
            return Err(std::io::Error::other("that is no Dubbo answer"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        // A heartbeat of the server's may come first.
        let is_answer = header[2] & 0xa0 == 0;
        if is_answer {
            if header[3] != OK {
                let text = String::from_utf8_lossy(&body).into_owned();
                return Err(std::io::Error::other(text));
            }
            return Ok(body);
        }
    }
}

fn request(application: &str, revision: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for text in [
        "2.0.2",
        SERVICE,
        VERSION,
        "getMetadataInfo",
        "Ljava/lang/String;",
        revision,
    ] {
        put_text(text, &mut body);
    }
    body.push(b'H');
    for (name, value) in [
        ("path", SERVICE),
        ("interface", SERVICE),
        ("version", VERSION),
        ("group", application),
    ] {
        put_text(name, &mut body);
        put_text(value, &mut body);
    }
    body.push(b'Z');
    let mut frame = vec![0xda, 0xbb, 0xc2, 0];
    frame.extend_from_slice(&1_u64.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// A text of hessian2, in one chunk.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let units = text.encode_utf16().count().min(0xffff) as u16;
    match units {
        0..=31 => out.push(units as u8),
        32..=1023 => out.extend_from_slice(&[0x30 + (units >> 8) as u8, units as u8]),
        _ => {
            out.push(b'S');
            out.extend_from_slice(&units.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// The services in an answer, as registries keep them.
fn read(body: &[u8]) -> Result<Value, String> {
    let mut reader = Reader::new(body);
    let kind = reader.int().map_err(|error| error.to_string())?;
    // 1 and 4 announce a value; 0 and 3 an exception; 2 and 5 null.
    if !matches!(kind, 1 | 4) {
        return Err("it knows no such revision".to_owned());
    }
    let info = info(&mut reader).map_err(|error| error.to_string())?;
    // A revision without services has a name of its own, and nobody asks for it.
    match info["services"].as_object() {
        Some(services) if !services.is_empty() => Ok(info),
        _ => Err("it tells no services of the revision".to_owned()),
    }
}

fn info(reader: &mut Reader<'_>) -> Result<Value, Error> {
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

    #[test]
    fn an_answer_without_services_is_none() {
        // A value: an object of a class M with one field, an empty map.
        let body = b"\x91C\x01M\x91\x08services`HZ";
        let why = read(body).err();
        assert_eq!(why.as_deref(), Some("it tells no services of the revision"));
    }
}
