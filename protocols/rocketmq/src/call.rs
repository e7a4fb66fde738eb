//! Reads what a frame says: which topic and group a request is about, how an answer ended.

use std::borrow::Cow;
use std::time::Duration;

use finback_core::frame::{Answer, Malformed, Metadata, Outcome, Status};

use crate::code::{answer, request, request_name};
use crate::header::Header;
use crate::properties;

/// The service of requests that are about no topic.
const NO_TOPIC: &str = "(rocketmq)";
/// A broker may answer a long poll so much later than it was asked to: as RocketMQ's own proxy has it.
const LATE: Duration = Duration::from_secs(10);
/// `PullSysFlag`: the broker may keep the request until there is a message.
const SUSPEND: i32 = 2;

/// Which fields name what a request is about.
struct Names {
    topic: &'static str,
    groups: &'static [&'static str],
}

fn names(code: i32) -> Names {
    let (topic, groups): (_, &[_]) = match code {
        // SendMessageRequestHeaderV2 has one letter for each.
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => {
            ("b", &["a"])
        }
        // ConsumerSendMsgBackRequestHeader.
        36 => ("originTopic", &["group"]),
        request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE | request::END_TRANSACTION => {
            ("topic", &["producerGroup"])
        }
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE | 14 | 15 | 38 => {
            ("topic", &["consumerGroup"])
        }
        200_050..=200_151 => ("topic", &["consumerGroup"]),
        _ => ("topic", &["consumerGroup", "producerGroup", "group"]),
    };
    Names { topic, groups }
}

/// The field that a request's message properties stand in; `None` if it carries no message, or several.
pub(crate) fn properties_of(code: i32) -> Option<&'static str> {
    match code {
        request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE => Some("properties"),
        request::SEND_MESSAGE_V2 | request::SEND_REPLY_MESSAGE_V2 => Some("i"),
        _ => None,
    }
}

/// Reads a request or one-way in one pass over its fields.
pub(crate) fn read<'a>(header: &Header, wire: &'a [u8]) -> Result<Metadata<'a>, Malformed> {
    let names = names(header.code);
    let mut topic = None;
    let mut groups = [const { None }; 3];
    let (mut suspend, mut poll, mut flag) = (None, None, None);
    header.fields(wire, |field| {
        let group = names.groups.iter().position(|own| *own == field.name);
        let place = match (group, &*field.name) {
            (Some(which), _) => &mut groups[which],
            (None, name) if name == names.topic => &mut topic,
            (None, "suspendTimeoutMillis") => &mut suspend,
            (None, "pollTime") => &mut poll,
            (None, "sysFlag") => &mut flag,
            _ => return Ok(()),
        };
        match place.replace(field.text()?) {
            // The servers' library takes one of them, and we could take the other.
            Some(_) => Err(Malformed::Content("a field of the request stands twice")),
            None => Ok(()),
        }
    })?;
    let topic = topic.filter(|topic| !topic.is_empty());
    let group = groups.into_iter().flatten().find(|group| !group.is_empty());
    let own = topic.is_none();
    let timeout = timeout(header.code, [suspend, poll, flag])?;
    let metadata = Metadata {
        service: topic.unwrap_or(Cow::Borrowed(NO_TOPIC)),
        method: match request_name(header.code) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(header.code.to_string()),
        },
        group: group.unwrap_or_default(),
        timeout,
        // A broker keeps it until there is a message.
        lingers: timeout.is_some(),
        own,
        note: header.head().note,
        ..Metadata::default()
    };
    metadata.names_fit()?;
    Ok(metadata)
}

/// How long a request may wait for a message; `None` if it does not wait for one.
fn timeout(
    code: i32,
    [suspend, poll, flag]: [Option<Cow<'_, str>>; 3],
) -> Result<Option<Duration>, Malformed> {
    let number = |text: Option<Cow<'_, str>>| match text.as_deref() {
        None | Some("") => Ok(0),
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| Malformed::Content("a field of the request is no number")),
    };
    let wait = match code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => {
            match number(flag)? & i64::from(SUSPEND) {
                0 => 0,
                _ => number(suspend)?,
            }
        }
        request::POP_MESSAGE | request::NOTIFICATION => number(poll)?,
        _ => return Ok(None),
    };
    let wait = u64::try_from(wait).unwrap_or_default();
    Ok((wait > 0).then(|| Duration::from_millis(wait).saturating_add(LATE)))
}

/// One attribute of a request: what begins with a colon is its header's, else a property of its message, else one of
/// its own fields.
pub(crate) fn attribute<'a>(header: &Header, wire: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    match name {
        ":code" => return Some(Cow::Owned(header.code.to_string())),
        ":client-version" => return Some(Cow::Owned(header.version.to_string())),
        ":namespace" => return header.field(wire, "ns"),
        ":access-key" => return header.field(wire, "AccessKey"),
        ":tag" => return property(header, wire, "TAGS"),
        ":keys" => return property(header, wire, "KEYS"),
        _ => {}
    }
    property(header, wire, name).or_else(|| header.field(wire, name))
}

fn property<'a>(header: &Header, wire: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let all = header.field(wire, properties_of(header.code)?)?;
    match all {
        Cow::Borrowed(all) => properties::find(all, name).map(Cow::Borrowed),
        Cow::Owned(all) => properties::find(&all, name).map(|own| Cow::Owned(own.to_owned())),
    }
}

/// Reads how an answer ended.
pub(crate) fn answered(header: &Header) -> Answer {
    let outcome = match header.code {
        answer::SUCCESS => Outcome::Success,
        // Stored, though not yet as safely as it shall be.
        10..=12 => Outcome::Success,
        // Nothing there, not yet, or elsewhere: what a consumer goes on from.
        19..=22 | 208..=210 => Outcome::Success,
        // Not run: another broker, or the same one later.
        answer::SYSTEM_BUSY
        | answer::SERVICE_NOT_AVAILABLE
        | answer::FLOW_CONTROL
        | answer::GO_AWAY => Outcome::Refused,
        // The request is at fault, or asks for what is not there.
        3 | answer::MESSAGE_ILLEGAL | 15..=17 | 23..=26 | 206 => Outcome::Invalid,
        _ => Outcome::Failed,
    };
    Answer {
        outcome,
        status: u16::try_from(header.code).map_or(Status::NONE, Status),
    }
}
