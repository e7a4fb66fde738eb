//! Requests of our own to name servers and brokers, and what these answer. Bytes only: whoever asks has the connections.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use finback_core::frame::{Kind, Malformed};

use crate::code::{answer, request};
use crate::consume::Request;
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
/// How a broker's remark begins where a group has no consumers, in 4.x and 5.x.
const NO_CONSUMER: &str = "no consumer for this group";
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
    /// A broker: something of consumers.
    Consume(&'a Request<'a>),
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
    /// A place in a queue: of a message, of a group, or of the queue's end.
    pub offset: i64,
    /// Where a consumer goes on.
    pub next: i64,
    /// Where the queue ends that was fetched from, if that is said.
    pub end: Option<i64>,
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

    /// Whether it says that there is nothing of what was asked for.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.code == answer::QUERY_NOT_FOUND
    }

    /// Whether it says that there is no such group.
    #[must_use]
    pub fn is_no_group(&self) -> bool {
        self.code == answer::GROUP_NOT_EXIST
    }

    /// Whether it says that a group has no consumers. That has no code of its own (RocketMQ: ConsumerManageProcessor):
    /// a broker in trouble answers with the same one and another remark.
    #[must_use]
    pub fn is_no_consumer(&self) -> bool {
        self.code == answer::SYSTEM_ERROR && self.remark.starts_with(NO_CONSUMER)
    }

    /// Whether a refusal may be about the one message that was sent back, and not about its broker or group. A broker
    /// has no code for that (RocketMQ: AbstractSendMessageProcessor).
    #[must_use]
    pub fn is_about_message(&self) -> bool {
        matches!(self.code, answer::SYSTEM_ERROR | answer::MESSAGE_ILLEGAL)
    }

    /// Whether a fetch was answered: with messages, or with the place to go on from.
    #[must_use]
    pub fn is_fetched(&self) -> bool {
        matches!(
            self.code,
            answer::SUCCESS
                | answer::PULL_NOT_FOUND
                | answer::PULL_RETRY_IMMEDIATELY
                | answer::PULL_OFFSET_MOVED
        )
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

/// Signs requests, for servers that ask who sends them.
pub trait Signer: Send + Sync {
    /// Whose signature it is.
    fn access_key(&self) -> &str;

    /// The signature of this, as a text.
    fn sign(&self, content: &[u8]) -> String;
}

/// A request's own fields.
pub(crate) type Fields<'a> = Vec<(&'static str, Cow<'a, str>)>;

impl Ask<'_> {
    /// Appends the request with this id, in JSON, which every server reads. False if it is too long for a frame.
    pub fn put(&self, id: i32, signer: Option<&dyn Signer>, out: &mut Vec<u8>) -> bool {
        let mut header = Vec::with_capacity(256);
        let (code, body): (i32, &[u8]) = match self {
            Self::Route(_) => (request::GET_ROUTEINFO_BY_TOPIC, b""),
            Self::Brokers => (request::GET_BROKER_CLUSTER_INFO, b""),
            Self::Send(message) if message.is_batch => (request::SEND_BATCH_MESSAGE, message.body),
            Self::Send(message) => (request::SEND_MESSAGE_V2, message.body),
            Self::Consume(own) => (own.code, &own.body),
        };
        let mut fields = self.fields();
        if let Some(signer) = signer {
            sign(&mut fields, body, signer);
        }
        header.extend_from_slice(b"{\"code\":");
        header.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
        header.extend_from_slice(b",\"extFields\":{");
        for (name, value) in &fields {
            put_field(name, value, &mut header);
        }
        if !fields.is_empty() {
            // The last comma.
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

    /// A message's are those of RocketMQ: SendMessageRequestHeaderV2.
    fn fields(&self) -> Fields<'_> {
        let number = |number: i64| Cow::Owned(number.to_string());
        let is = |is: bool| Cow::Borrowed(if is { "true" } else { "false" });
        match self {
            Self::Brokers => Vec::new(),
            Self::Consume(own) => own.fields.clone(),
            Self::Route(topic) => vec![
                ("topic", Cow::Borrowed(*topic)),
                ("acceptStandardJsonOnly", is(true)),
            ],
            Self::Send(message) => vec![
                ("a", Cow::Borrowed(&*message.group)),
                ("b", Cow::Borrowed(&*message.topic)),
                ("c", Cow::Borrowed(MAKES_TOPICS)),
                ("d", number(QUEUES_MADE.into())),
                ("e", number(message.queue.into())),
                ("f", number(message.sys_flag.into())),
                ("g", number(message.born)),
                ("h", number(message.flag.into())),
                ("i", Cow::Borrowed(&*message.properties)),
                ("j", number(0)),
                ("k", is(false)),
                ("m", is(message.is_batch)),
                ("n", Cow::Borrowed(&*message.broker)),
            ],
        }
    }
}

/// Adds a signature of all values by the order of their names, and of the body (RocketMQ: AclUtils).
fn sign(fields: &mut Fields<'_>, body: &[u8], signer: &dyn Signer) {
    fields.push(("AccessKey", Cow::Owned(signer.access_key().to_owned())));
    fields.sort_by_key(|(name, _)| *name);
    let mut content: Vec<u8> = Vec::with_capacity(body.len() + 512);
    for (_, value) in &*fields {
        content.extend_from_slice(value.as_bytes());
    }
    content.extend_from_slice(body);
    let signature = signer.sign(&content);
    fields.push(("Signature", Cow::Owned(signature)));
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
    if let Some(offset) = number("queueOffset").or_else(|| number("offset")) {
        own.offset = offset.parse().unwrap_or_default();
    }
    if let Some(next) = number("nextBeginOffset") {
        own.next = next.parse().unwrap_or_default();
    }
    own.end = number("maxOffset").and_then(|end| end.parse().ok());
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
