//! Requests of our own to name servers and brokers, and what these answer. Bytes only: whoever asks has the connections.

use bytes::{Buf, Bytes, BytesMut};
use finback_core::frame::{Kind, Malformed};

use crate::code::{answer, request};
use crate::fields::long;
use crate::header::{Encoding, Header, Lengths, PREFIX};
use crate::json::{self, Reader};
use crate::marks;
use crate::message::Message;

/// The topic whose route tells where one may be made that does not exist yet (RocketMQ: TopicValidator).
pub const MAKES_TOPICS: &str = "TBW102";
/// As many queues a broker makes for a topic that does not exist yet (RocketMQ: DefaultMQProducer).
pub const QUEUES_MADE: u32 = 4;
/// The version whose words these are: servers of it answer in JSON as others read it.
const VERSION: &str = "513";
/// The longest answer in bytes.
const LONGEST: usize = 16 << 20;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// A name server: where a topic is.
    Route(&'a str),
    /// A name server: which brokers there are.
    Brokers,
    /// A broker: to take a message.
    Send(&'a Message<'a>),
}

/// What a server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// To which request.
    pub id: i32,
    /// How it ended.
    pub code: i32,
    /// What the server says of that; "" if it says nothing.
    pub remark: String,
    /// Of a message: its queue.
    pub queue: i32,
    /// Of a message: its place there.
    pub offset: i64,
    /// What follows the header.
    pub body: Bytes,
}

/// How a broker took a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has it.
    Stored,
    /// It has it not, and another one may take it, or the same one later.
    NotNow,
    /// Nobody will ever take it.
    Never,
}

impl Answered {
    /// How a broker took the message that was sent.
    #[must_use]
    pub fn taken(&self) -> Taken {
        match self.code {
            // From 10: not yet as safely as it shall be.
            answer::SUCCESS | 10..=12 => Taken::Stored,
            answer::MESSAGE_ILLEGAL => Taken::Never,
            _ => Taken::NotNow,
        }
    }

    /// Whether it says that there is no such topic.
    #[must_use]
    pub fn is_no_topic(&self) -> bool {
        self.code == answer::TOPIC_NOT_EXIST
    }

    /// Whether it says what was asked for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == answer::SUCCESS
    }
}

impl Ask<'_> {
    /// Appends the request with this id, in JSON, which every server reads. False if it is too long for a frame.
    pub fn put(&self, id: i32, out: &mut Vec<u8>) -> bool {
        let mut header = Vec::with_capacity(256);
        let (code, body): (i32, &[u8]) = match self {
            Self::Route(_) => (request::GET_ROUTEINFO_BY_TOPIC, b""),
            Self::Brokers => (request::GET_BROKER_CLUSTER_INFO, b""),
            Self::Send(message) if message.is_batch => (request::SEND_BATCH_MESSAGE, message.body),
            Self::Send(message) => (request::SEND_MESSAGE_V2, message.body),
        };
        header.extend_from_slice(b"{\"code\":");
        header.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
        header.extend_from_slice(b",\"extFields\":{");
        match self {
            Self::Route(topic) => {
                put_field("topic", topic, &mut header);
                put_field("acceptStandardJsonOnly", "true", &mut header);
            }
            Self::Brokers => {}
            Self::Send(message) => put_message(message, &mut header),
        }
        if header.last() == Some(&b',') {
            header.pop();
        }
        header.extend_from_slice(b"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":");
        header.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
        header.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        header.extend_from_slice(VERSION.as_bytes());
        header.push(b'}');
        let lengths = [4 + header.len() + body.len(), header.len()].map(u32::try_from);
        // A server cuts a connection off that brings more.
        let [Ok(total), Ok(length @ 0..0x0100_0000)] = lengths else {
            return false;
        };
        if total as usize > LONGEST - 4 {
            return false;
        }
        out.reserve(PREFIX + header.len() + body.len());
        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
        true
    }
}

/// RocketMQ: SendMessageRequestHeaderV2.
fn put_message(message: &Message<'_>, header: &mut Vec<u8>) {
    let mut queues = itoa::Buffer::new();
    let mut number = itoa::Buffer::new();
    put_field("a", &message.group, header);
    put_field("b", &message.topic, header);
    put_field("c", MAKES_TOPICS, header);
    put_field("d", queues.format(QUEUES_MADE), header);
    put_field("e", number.format(message.queue), header);
    put_field("f", number.format(message.sys_flag), header);
    put_field("g", number.format(message.born), header);
    put_field("h", number.format(message.flag), header);
    put_field("i", &message.properties, header);
    put_field("j", "0", header);
    put_field("k", "false", header);
    put_field("m", if message.is_batch { "true" } else { "false" }, header);
    put_field("n", &message.broker, header);
}

fn put_field(name: &str, value: &str, header: &mut Vec<u8>) {
    header.push(b'"');
    header.extend_from_slice(name.as_bytes());
    header.extend_from_slice(b"\":\"");
    json::escape(value, header);
    header.extend_from_slice(b"\",");
}

/// Takes the next frame off the front, if all of it has come: an answer, or `Some(None)` for what a server asks of its
/// client.
///
/// # Errors
/// If it is no frame, or a longer one than servers write.
pub fn take_answer(bytes: &mut BytesMut) -> Result<Option<Option<Answered>>, Malformed> {
    let Some(lengths) = Lengths::read(bytes)? else {
        return Ok(None);
    };
    let length = lengths.total + 4;
    if length > LONGEST {
        return Err(Malformed::Garbage("the answer is too long"));
    }
    if bytes.len() < length {
        bytes.reserve(length - bytes.len());
        return Ok(None);
    }
    let mut wire = bytes.split_to(length).freeze();
    let Some((header, found)) = Header::read(&wire)? else {
        return Err(Malformed::Garbage("the lengths contradict each other"));
    };
    let head = header.head(&found, &wire);
    if head.kind != Kind::Response {
        return Ok(Some(None));
    }
    let mut own = Answered {
        id: header.opaque,
        code: header.code,
        remark: remark(&wire).unwrap_or_default(),
        ..Answered::default()
    };
    let number = |name| marks::fields(&wire, marks::Marks::unpack(head.marks).fields_at).get(name);
    if let Some(queue) = number("queueId") {
        own.queue = queue.parse().unwrap_or_default();
    }
    if let Some(offset) = number("queueOffset") {
        own.offset = offset.parse().unwrap_or_default();
    }
    wire.advance(marks::body_at(&wire).min(length));
    own.body = wire;
    Ok(Some(Some(own)))
}

/// What stands in a header beside its code.
fn remark(wire: &[u8]) -> Option<String> {
    let header = wire.get(PREFIX..marks::body_at(wire))?;
    if Encoding::of(wire) == Encoding::Binary {
        let (remark, _) = long(header.get(13..)?)?;
        return Some(String::from_utf8_lossy(remark).into_owned());
    }
    let mut found = None;
    let read = Reader::new(header).members(|reader, key| {
        let (value, _) = reader.value()?;
        if key.raw == b"remark" {
            found = value.text()?.map(|text| text.into_owned());
        }
        Ok::<(), json::NoJson>(())
    });
    read.ok()?;
    found
}
