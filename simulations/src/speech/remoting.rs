//! RocketMQ's messages as Java's client 5.5.0 sends them, and what a broker answers.

use bytes::{BufMut, BytesMut};

use super::{HASHES, Kind, Template, find, number};

/// Stands before the token.
pub(super) const MARK: &[u8] = b"token-";
/// Digits of an id, sign included.
const ID: usize = 11;

/// What a header has.
pub(super) struct Header {
    code: i16,
    flag: u8,
    fields: &'static [(&'static str, &'static str)],
    has_body: bool,
}

/// SEND_MESSAGE_V2. Control characters between properties are written as JSON has to.
pub(super) const SEND: Header = Header {
    code: 310,
    flag: 0,
    fields: &[
        ("a", "order-producers"),
        ("b", "orders"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "2"),
        ("f", "0"),
        ("g", "1764156000000"),
        ("h", "0"),
        ("j", "0"),
        ("k", "false"),
        ("l", "0"),
        ("m", "false"),
        ("n", "broker-a"),
        (
            "i",
            "TAGS\u{1}paid\u{2}WAIT\u{1}true\u{2}UNIQ_KEY\u{1}token-############\u{2}",
        ),
    ],
    has_body: true,
};

/// Its acknowledgement.
pub(super) const SENT: Header = Header {
    code: 0,
    flag: 1,
    fields: &[
        ("msgId", "7F00000100002A9F0000000000001234"),
        ("queueId", "2"),
        ("queueOffset", "1234"),
        ("transactionId", "token-############"),
    ],
    has_body: false,
};

fn frame(encoding: u8, header: &[u8], body: usize) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_u32((4 + header.len() + body) as u32);
    frame.put_u32(u32::from(encoding) << 24 | header.len() as u32);
    frame.put_slice(header);
    frame.resize(frame.len() + body, b'.');
    frame
}

/// In JSON, members in the order of Java's library.
pub(super) fn in_json(of: Header, size: usize) -> Template {
    let fields = of.fields.iter().map(|(name, value)| {
        let value = value
            .replace('\u{1}', "\\u0001")
            .replace('\u{2}', "\\u0002");
        format!("\"{name}\":\"{value}\"")
    });
    let fields = fields.collect::<Vec<_>>().join(",");
    let header = format!(
        "{{\"code\":{},\"extFields\":{{{fields}}},\"flag\":{},\"language\":\"JAVA\",\"opaque\":{:>ID$},\
         \"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}}",
        of.code, of.flag, 0
    );
    let body = if of.has_body { size } else { 0 };
    let frame = frame(0, header.as_bytes(), body);
    let id_at = find(&frame, b"\"opaque\":").map_or(0, |at| at + 9);
    let mut template = Template::new(frame, id_at, ID);
    template.is_text = true;
    template
}

/// With a binary header.
pub(super) fn in_binary(of: Header, size: usize) -> Template {
    let mut fields = BytesMut::new();
    for (name, value) in of.fields {
        fields.put_u16(name.len() as u16);
        fields.put_slice(name.as_bytes());
        fields.put_u32(value.len() as u32);
        fields.put_slice(value.as_bytes());
    }
    let mut header = BytesMut::new();
    header.put_i16(of.code);
    header.put_slice(&[0, 2, 1, 0, 0, 0, 0, 0, 0, 0, of.flag, 0, 0, 0, 0]);
    header.put_u32(fields.len() as u32);
    header.put_slice(&fields);
    let body = if of.has_body { size } else { 0 };
    Template::new(frame(1, &header, body), 13, 4)
}

/// Length, id and kind of a frame of either encoding.
pub(super) fn split(bytes: &[u8]) -> Option<(usize, u64, Kind)> {
    let prefix = bytes.get(..8)?;
    let len = 4 + usize::try_from(number(&prefix[..4])).ok()?;
    let header = bytes.get(8..8 + usize::try_from(number(&prefix[5..])).ok()?)?;
    let (code, flag, id) = if prefix[4] == 1 {
        (
            number(header.get(..2)?),
            number(header.get(9..13)?),
            number(header.get(5..9)?),
        )
    } else {
        let id = member(header, b"\"opaque\":")?.cast_unsigned();
        let code = member(header, b"\"code\":")? as u64;
        (code, member(header, b"\"flag\":")? as u64, u64::from(id))
    };
    let kind = match (flag & 1, code) {
        (0, _) => Kind::Request,
        (_, 0) => Kind::Success,
        _ => Kind::Failure,
    };
    Some((len, id, kind))
}

fn member(header: &[u8], name: &[u8]) -> Option<i32> {
    let rest = &header[find(header, name)? + name.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    str::from_utf8(&rest[..end]).ok()?.trim().parse().ok()
}

const _: () = assert!(HASHES.len() == super::TOKEN);
