//! A request of RocketMQ's remoting protocol with a JSON header, for what tests ask servers themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
pub(crate) struct Reply {
    /// The result: 0 is success.
    pub(crate) code: i64,
    /// What the server says of it.
    pub(crate) remark: String,
    /// Its own fields.
    pub(crate) fields: Value,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

/// Asks a server for something over a connection of its own.
pub(crate) fn ask(
    address: &str,
    code: i64,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply, String> {
    exchange(address, &request(code, fields, body)).map_err(|error| error.to_string())
}

/// SEND_MESSAGE_V2: RequestCode.java.
const SEND: i64 = 310;

/// Sends a message of a group's to a topic, with further fields of the header.
pub(crate) fn send(broker: &str, group: &str, topic: &str, more: &[(&str, &str)]) -> Reply {
    let fields = [
        ("a", group),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let fields = [&fields[..], more].concat();
    ask(broker, SEND, &fields, b"body").expect("an answer")
}

/// What a signed request has besides.
pub(crate) const SIGNATURE: &[(&str, &str)] = &[("AccessKey", "mesh"), ("Signature", "x")];

/// A whole frame: length, the header's length under the encoding's number (JSON: 0), header, body.
fn request(code: i64, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    // Version 513 is 5.5.0, to which servers answer in standard JSON.
    let header = json!({
        "code": code, "language": "JAVA", "version": 513, "opaque": 1, "flag": 0, "extFields": fields,
    })
    .to_string();
    let lengths = [4 + header.len() + body.len(), header.len()];
    let [length, own] = lengths.map(|length| u32::try_from(length).unwrap().to_be_bytes());
    [&length[..], &own[..], header.as_bytes(), body].concat()
}

fn exchange(address: &str, frame: &[u8]) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(frame)?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    let mut rest = vec![0; usize::try_from(u32::from_be_bytes(word)).unwrap()];
    stream.read_exact(&mut rest)?;
    // The first of these four bytes is the encoding; servers answer in JSON.
    let own = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]);
    let (header, body) = rest[4..].split_at(usize::try_from(own).unwrap());
    let header: Value = serde_json::from_slice(header)?;
    Ok(Reply {
        code: header["code"].as_i64().unwrap_or(-1),
        remark: header["remark"].as_str().unwrap_or_default().to_owned(),
        fields: header["extFields"].clone(),
        body: body.to_vec(),
    })
}
