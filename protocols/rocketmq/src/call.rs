//! Reads what a frame says: which topic and group a request is about, how an answer ended.

use std::borrow::Cow;

use finback_core::filter::{BARE, READINGS};
use finback_core::frame::{Answer, Head, Malformed, Metadata, Outcome, Status};

use crate::code::{answer, request, request_name};
use crate::fields::{self, Fields};
use crate::header::whole;
use crate::marks::{self, CodecData, Marks};
use crate::properties;

/// The service of requests that are about no topic.
const NO_TOPIC: &str = "(rocketmq)";

/// The field that a request's message properties stand in; `None` if it carries no message, or several.
pub(crate) fn properties_of(code: i32) -> Option<&'static str> {
    match code {
        request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE => Some("properties"),
        request::SEND_MESSAGE_V2 | request::SEND_REPLY_MESSAGE_V2 => Some("i"),
        _ => None,
    }
}

/// Reads a request or one-way, of which what is wanted was found before.
pub(crate) fn read<'a>(head: &Head, wire: &'a [u8]) -> Result<Metadata<'a>, Malformed> {
    let Marks {
        said, fields_at, ..
    } = Marks::unpack(head.marks);
    if let Some(problem) = said.problem {
        return Err(problem.why());
    }
    let topic = said.topic.text(wire)?;
    let own = topic.is_empty();
    let code = CodecData::unpack(head.codec_data).code;
    let timeout = fields::timeout(said.wait);
    let metadata = Metadata {
        service: if own { Cow::Borrowed(NO_TOPIC) } else { topic },
        method: match request_name(code) {
            Some(name) => Cow::Borrowed(name),
            // The codec data has no room for all of them.
            None => Cow::Owned(whole(wire)?.code.to_string()),
        },
        group: said.group.text(wire)?,
        timeout,
        // A broker keeps it until there is a message.
        lingers: timeout.is_some(),
        own,
        attributes_at: fields_at,
        codec_data: head.codec_data,
        ..Metadata::default()
    };
    metadata.names_fit()?;
    Ok(metadata)
}

/// One attribute of a request: what begins with a colon is its header's, else a property of its message, else one of
/// its own fields.
pub(crate) fn attribute<'a>(
    wire: &'a [u8],
    metadata: &Metadata<'_>,
    name: &str,
) -> Option<Cow<'a, str>> {
    if let Some(name) = name.strip_prefix(READINGS) {
        return readings(wire, metadata, name).map(Cow::Owned);
    }
    if name == BARE {
        let code = CodecData::unpack(metadata.codec_data).code;
        let has_message = properties_of(code).is_some() || code == request::SEND_BATCH_MESSAGE;
        return (!has_message).then_some(Cow::Borrowed(""));
    }
    let header = || whole(wire).ok();
    let fields = marks::fields(wire, metadata.attributes_at);
    let code = CodecData::unpack(metadata.codec_data).code;
    match name {
        ":code" => return Some(Cow::Owned(header()?.code.to_string())),
        ":client-version" => return Some(Cow::Owned(header()?.version.to_string())),
        ":namespace" => return fields.get("ns"),
        ":access-key" => return fields.get("AccessKey"),
        ":tag" => return property(fields, code, "TAGS"),
        ":keys" => return property(fields, code, "KEYS"),
        _ => {}
    }
    property(fields, code, name).or_else(|| fields.get(name))
}

/// What else may be read in an attribute of a batch: its messages need not agree.
fn readings(wire: &[u8], metadata: &Metadata<'_>, name: &str) -> Option<String> {
    if CodecData::unpack(metadata.codec_data).code != request::SEND_BATCH_MESSAGE {
        return None;
    }
    let name = match name {
        ":tag" => "TAGS",
        ":keys" => "KEYS",
        name => name,
    };
    properties::readings(wire.get(marks::body_at(wire)..)?, name)
}

fn property<'a>(fields: Fields<'a>, code: i32, name: &str) -> Option<Cow<'a, str>> {
    if code == request::SEND_BATCH_MESSAGE {
        let body = fields.wire.get(fields.body_at..)?;
        return properties::of_batch(body, name).map(Cow::Borrowed);
    }
    match fields.get(properties_of(code)?)? {
        Cow::Borrowed(all) => properties::find(all, name).map(Cow::Borrowed),
        Cow::Owned(all) => properties::find(&all, name).map(|own| Cow::Owned(own.to_owned())),
    }
}

/// Reads how an answer ended.
pub(crate) fn answered(head: &Head) -> Answer {
    let code = CodecData::unpack(head.codec_data).code;
    let outcome = match code {
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
        status: u16::try_from(code).map_or(Status::NONE, Status),
    }
}
