//! A server of RocketMQ that says what its script says, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// What a server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) code: i32,
    fields: Value,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap_or_default()
    }

    pub(crate) fn group(&self) -> &str {
        self.field("consumerGroup")
    }

    pub(crate) fn topic(&self) -> &str {
        self.field("topic")
    }
}

/// What it answers.
pub(crate) struct Said {
    code: i32,
    remark: String,
    fields: Value,
    body: Vec<u8>,
}

impl Said {
    /// Success, and this body.
    pub(crate) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::error(0, "")
        }
    }

    /// Success, and nothing else; a place in a queue is the fifth.
    pub(crate) fn yes() -> Self {
        Self::body("")
    }

    pub(crate) fn error(code: i32, remark: &str) -> Self {
        Self {
            code,
            remark: remark.to_owned(),
            fields: json!({ "offset": "5" }),
            body: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields[name] = value.into();
        self
    }
}

/// A server.
pub(crate) struct Scripted {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// Answers what `says` says; `None` closes the connection.
    pub(crate) fn start(says: impl Fn(&Asked) -> Option<Said> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
        };
        let (asked, says) = (own.asked.clone(), Arc::new(says));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, says) = (asked.clone(), says.clone());
                thread::spawn(move || serve(stream.unwrap(), &*says, &asked));
            }
        });
        own
    }

    /// All that it was asked so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// What it was asked with one code.
    pub(crate) fn asked_with(&self, code: i32) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|own| own.code == code);
        asked
    }
}

fn serve(
    mut stream: TcpStream,
    says: &dyn Fn(&Asked) -> Option<Said>,
    asked: &Mutex<Vec<Asked>>,
) -> Option<()> {
    loop {
        let mut lengths = [0; 8];
        stream.read_exact(&mut lengths).ok()?;
        let [total, length] = [0, 4].map(|at| {
            let bytes: [u8; 4] = lengths[at..at + 4].try_into().unwrap();
            u32::from_be_bytes(bytes) as usize
        });
        let mut rest = vec![0; total - 4];
        stream.read_exact(&mut rest).ok()?;
        let header: Value = serde_json::from_slice(&rest[..length]).unwrap();
        let own = Asked {
            code: i32::try_from(header["code"].as_i64().unwrap()).unwrap(),
            fields: header["extFields"].clone(),
            body: rest.split_off(length),
        };
        asked.lock().unwrap().push(own.clone());
        let said = says(&own)?;
        let answer = json!({
            "code": said.code, "flag": 1, "opaque": header["opaque"], "remark": said.remark,
            "extFields": said.fields,
        });
        stream
            .write_all(&frame(&answer.to_string(), &said.body))
            .ok()?;
    }
}

/// A frame with a header in JSON.
pub(crate) fn frame(header: &str, body: &[u8]) -> Vec<u8> {
    let lengths = [4 + header.len() + body.len(), header.len()];
    let [total, own] = lengths.map(|length| u32::try_from(length).unwrap().to_be_bytes());
    [&total[..], &own, header.as_bytes(), body].concat()
}

/// A message as a broker keeps it, at this offset of queue 0; its place among all messages is ten times that.
pub(crate) fn kept(topic: &str, offset: i64, properties: &str) -> Vec<u8> {
    let mut own = Vec::new();
    // Magic, CRC, queue, flag.
    for number in [-626_843_481, 0, 0, 0] {
        own.extend_from_slice(&i32::to_be_bytes(number));
    }
    own.extend_from_slice(&offset.to_be_bytes());
    own.extend_from_slice(&(offset * 10).to_be_bytes());
    // System flag, born, where, stored, where, times consumed again, transaction.
    own.extend_from_slice(&[0; 4 + 8 + 8 + 8 + 8 + 4 + 8]);
    own.extend_from_slice(&[0, 0, 0, 1, b'x', u8::try_from(topic.len()).unwrap()]);
    own.extend_from_slice(topic.as_bytes());
    let length = u16::try_from(properties.len()).unwrap();
    own.extend_from_slice(&length.to_be_bytes());
    own.extend_from_slice(properties.as_bytes());
    let size = u32::try_from(4 + own.len()).unwrap().to_be_bytes();
    [&size[..], &own].concat()
}

/// The queues of a topic, numbered, which end at these places, as Java writes them.
pub(crate) fn ends(topic: &str, ends: &[i64]) -> String {
    let each = ends.iter().enumerate().map(|(queue, end)| {
        format!(
            r#"{{"brokerName":"b","queueId":{queue},"topic":"{topic}"}}:{{"lastUpdateTimestamp":0,"maxOffset":{end},"minOffset":0}}"#
        )
    });
    format!(
        r#"{{"offsetTable":{{{}}}}}"#,
        each.collect::<Vec<_>>().join(",")
    )
}
