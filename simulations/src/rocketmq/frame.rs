//! Frames with a JSON header (RocketMQ: RemotingCommand).

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde_json::{Map, Value, json};

/// The longest frame in bytes.
const LONGEST: usize = 16 << 20;
/// Bits of the flag.
const ANSWER: i64 = 1;
const ONE_WAY: i64 = 2;

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) code: i64,
    pub(crate) id: i64,
    pub(crate) flag: i64,
    pub(crate) remark: String,
    pub(crate) fields: Map<String, Value>,
    pub(crate) body: Bytes,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Frame {
    /// Takes the next frame off the front, if all of it has come.
    pub(crate) fn take(from: &mut BytesMut) -> io::Result<Option<Self>> {
        let Some((lengths, _)) = from.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [a, b, c, d, encoding, e, f, g] = *lengths;
        let total = u32::from_be_bytes([a, b, c, d]) as usize;
        let header = u32::from_be_bytes([0, e, f, g]) as usize;
        if encoding != 0 || total > LONGEST || header + 4 > total {
            return Err(invalid("no frame with a JSON header"));
        }
        if from.len() < total + 4 {
            from.reserve(total + 4 - from.len());
            return Ok(None);
        }
        let mut whole = from.split_to(total + 4).freeze();
        whole.advance(8);
        let header: Value = serde_json::from_slice(&whole.split_to(header))?;
        let number = |name: &str| header[name].as_i64().unwrap_or_default();
        Ok(Some(Self {
            code: number("code"),
            id: number("opaque"),
            flag: number("flag"),
            remark: header["remark"].as_str().unwrap_or_default().to_owned(),
            fields: header["extFields"].as_object().cloned().unwrap_or_default(),
            body: whole,
        }))
    }

    /// A request that wants no answer.
    pub(crate) fn one_way(code: i64) -> Self {
        Self {
            code,
            flag: ONE_WAY,
            ..Self::default()
        }
    }

    /// The answer to it.
    pub(crate) fn answer(&self, code: i64, remark: &str) -> Self {
        Self {
            code,
            id: self.id,
            flag: ANSWER,
            remark: remark.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn is_answer(&self) -> bool {
        self.flag & ANSWER != 0
    }

    pub(crate) fn is_one_way(&self) -> bool {
        self.flag & ONE_WAY != 0
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.fields
            .insert(name.to_owned(), value.to_string().into());
        self
    }

    pub(crate) fn with_body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self
    }

    /// A field's value; some clients write numbers and booleans as such.
    pub(crate) fn text(&self, name: &str) -> String {
        match self.fields.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(own)) => own.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// The same as a number; 0 for what is none.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// What the body says.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        let header = json!({
            "code": self.code, "extFields": self.fields, "flag": self.flag, "language": "JAVA", "opaque": self.id,
            "remark": self.remark, "serializeTypeCurrentRPC": "JSON", "version": 513,
        })
        .to_string();
        let lengths = [4 + header.len() + self.body.len(), header.len()];
        for own in lengths {
            // A body is never longer than what was read.
            out.put_u32(u32::try_from(own).unwrap_or_default());
        }
        out.put_slice(header.as_bytes());
        out.put_slice(&self.body);
    }

    pub(crate) fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.put(&mut out);
        out.freeze()
    }
}
