//! Messages as requests carry them to brokers: read from those of clients, and written in requests of our own.

use std::borrow::Cow;

use finback_core::frame::{Head, Malformed};

use crate::code::request;
use crate::fields::{Field, long};
use crate::marks::{self, CodecData, Marks};
use crate::properties;

/// RocketMQ: MessageSysFlag, `COMPRESSED_FLAG`.
const COMPRESSED: i32 = 1;
/// RocketMQ: MessageSysFlag, `TRANSACTION_PREPARED_TYPE`.
const PREPARED: i32 = 4;
/// RocketMQ: MessageConst, `PROPERTY_TRANSACTION_PREPARED`.
const HALF: &str = "TRAN_MSG";
/// RocketMQ: TopicValidator.
const LONGEST_TOPIC: usize = 127;

/// A message, or several of one topic and queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who sends it: the producer's group.
    pub group: Cow<'a, str>,
    /// Its topic.
    pub topic: Cow<'a, str>,
    /// The name of the broker that its queue belongs to; "" where its client is too old to say.
    pub broker: Cow<'a, str>,
    /// Its queue.
    pub queue: i32,
    /// What the system does with it: a bit for each of compression, several tags, and so on.
    pub sys_flag: i32,
    /// What its sender makes of it.
    pub flag: i32,
    /// When it was sent, in milliseconds since 1970.
    pub born: i64,
    /// Its properties as one text; of several messages what they have in common.
    pub properties: Cow<'a, str>,
    /// Its body holds several messages.
    pub is_batch: bool,
    /// What it says.
    pub body: &'a [u8],
}

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// What its sender makes of it.
    pub flag: i32,
    /// Its properties as one text.
    pub properties: &'a str,
    /// What it says.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// What a client's request sends to a topic; `None` if it sends nothing there, or cannot be read.
    #[must_use]
    pub fn read(head: &Head, wire: &'a [u8]) -> Option<Self> {
        // The one has names for its fields, the others a letter for each.
        let is_long = match CodecData::unpack(head.codec_data).code {
            request::SEND_MESSAGE => true,
            request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => false,
            _ => return None,
        };
        let mut own = Self {
            body: wire.get(marks::body_at(wire)..)?,
            ..Self::default()
        };
        let fields = marks::fields(wire, Marks::unpack(head.marks).fields_at);
        fields
            .each(|field| {
                match is_long {
                    true => own.take_long(&field)?,
                    false => own.take_short(&field)?,
                }
                Ok(())
            })
            .ok()?;
        (!own.topic.is_empty()).then_some(own)
    }

    /// RocketMQ: SendMessageRequestHeaderV2.
    fn take_short(&mut self, field: &Field<'a>) -> Result<(), Malformed> {
        let name = match &*field.name {
            "a" => "producerGroup",
            "b" => "topic",
            "e" => "queueId",
            "f" => "sysFlag",
            "g" => "bornTimestamp",
            "h" => "flag",
            "i" => "properties",
            "m" => "batch",
            "n" => "bname",
            _ => return Ok(()),
        };
        self.take(name, field)
    }

    /// RocketMQ: SendMessageRequestHeader.
    fn take_long(&mut self, field: &Field<'a>) -> Result<(), Malformed> {
        let name = field.name.clone();
        self.take(&name, field)
    }

    fn take(&mut self, name: &str, field: &Field<'a>) -> Result<(), Malformed> {
        let number = || -> Result<i32, Malformed> { Ok(field.text()?.parse().unwrap_or_default()) };
        match name {
            "producerGroup" => self.group = field.text()?,
            "topic" => self.topic = field.text()?,
            "queueId" => self.queue = number()?,
            "sysFlag" => self.sys_flag = number()?,
            "bornTimestamp" => self.born = field.text()?.parse().unwrap_or_default(),
            "flag" => self.flag = number()?,
            "properties" => self.properties = field.text()?,
            "batch" => self.is_batch = &*field.text()? == "true",
            "bname" => self.broker = field.text()?,
            _ => {}
        }
        Ok(())
    }

    /// Whether it is the half of a transaction: nobody knows yet whether it will ever be a message.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.sys_flag & PREPARED != 0
            || properties::find(&self.properties, HALF)
                .is_some_and(|own| own.eq_ignore_ascii_case("true"))
    }

    /// How its body is compressed, if it is (RocketMQ: MessageSysFlag, RocketMQ: CompressionType).
    #[must_use]
    pub fn compression(&self) -> Option<&'static str> {
        if self.sys_flag & COMPRESSED == 0 {
            return None;
        }
        Some(match self.sys_flag >> 8 & 7 {
            1 => "lz4",
            2 => "zstd",
            _ => "zlib",
        })
    }

    /// The messages of a batch; `None` if they cannot be read.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Member<'a>>> {
        let mut all = Vec::new();
        let mut rest = self.body;
        while !rest.is_empty() {
            let (member, after) = member(rest)?;
            all.push(member);
            rest = after;
        }
        Some(all)
    }
}

/// The first message of a batch, and what follows it. As Java writes each (RocketMQ: MessageDecoder, `encodeMessage`):
///
/// ```text
/// total size 4 | magic 4 | CRC 4 | flag 4 | body length 4, body | properties length 2, properties
/// ```
pub(crate) fn member(batch: &[u8]) -> Option<(Member<'_>, &[u8])> {
    let (size, _) = batch.split_first_chunk()?;
    let (message, rest) = batch.split_at_checked(u32::from_be_bytes(*size) as usize)?;
    let (flag, after) = message.get(12..)?.split_first_chunk()?;
    let (body, after) = long(after)?;
    let (length, after) = after.split_first_chunk()?;
    let all = after.get(..usize::from(u16::from_be_bytes(*length)))?;
    let own = Member {
        flag: i32::from_be_bytes(*flag),
        properties: str::from_utf8(all).ok()?,
        body,
    };
    Some((own, rest))
}

/// Whether a topic is RocketMQ's own: of retries, dead letters, traces, transactions and so on.
#[must_use]
pub fn is_system_topic(topic: &str) -> bool {
    const PREFIXES: [&str; 4] = ["%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_"];
    const OWN: [&str; 8] = [
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
        "BenchmarkTest",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "CHECKPOINT_TOPIC",
        "DefaultHeartBeatSyncerTopic",
    ];
    // `CLUSTER_REPLY_TOPIC` carries replies to requests, which belong to one client.
    PREFIXES.iter().any(|own| topic.starts_with(own))
        || OWN.contains(&topic)
        || topic.ends_with("_REPLY_TOPIC")
}

/// Whether a broker takes this as the name of a topic.
#[must_use]
pub fn is_topic(name: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"%|_-".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_TOPIC && name.bytes().all(is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_the_system_are_known() {
        for own in [
            "%RETRY%g",
            "%DLQ%g",
            "RMQ_SYS_TRACE_TOPIC",
            "rmq_sys_x",
            "TBW102",
            "c1_REPLY_TOPIC",
        ] {
            assert!(is_system_topic(own), "{own}");
        }
        for own in ["orders", "MQ_INST_1%orders", "SYS"] {
            assert!(!is_system_topic(own), "{own}");
        }
        for (name, sound) in [
            ("a-b_c%|9", true),
            ("", false),
            ("a.b", false),
            ("a b", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_topic(name), sound, "{name}");
        }
        assert!(is_topic(&"x".repeat(127)) && !is_topic(&"x".repeat(128)));
    }
}
