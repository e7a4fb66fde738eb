//! RocketMQ 5's protocol (`apache.rocketmq.v2`), which is gRPC: its calls are named by their topic and group, and
//! end as the `Status` in their answers says, for gRPC's own status is OK whatever became of them.
//!
//! Numbers of fields are those of `service.proto` and `definition.proto` (apache/rocketmq-apis). Of a request, what
//! stands in its beginning is enough: topics and groups come first.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use finback_core::frame::{Answer, Metadata, Outcome, Status};
use finback_core::rejection::Rejection;
use finback_http::{AnswerReader, Beginning, Dialect, RequestInfo};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Uri, header};

use crate::{Grpc, is_call, is_grpc};

/// Where all of its calls are.
const SERVICE: &str = "/apache.rocketmq.v2.MessagingService/";
/// The service of calls about no topic.
const NO_TOPIC: &str = "(rocketmq)";
/// The service of calls that are compressed, or not what they should be.
const OPAQUE: &str = "(opaque)";
/// What stands before each message of gRPC's: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// RocketMQ 5's protocol.
pub struct RocketMq;

/// Where a request has its topic and its group: fields inside of fields.
fn places(method: &str) -> Option<(&'static [u64], &'static [u64])> {
    Some(match method {
        "QueryRoute" | "EndTransaction" | "RecallMessage" => (&[1], &[]),
        "SendMessage" => (&[1, 1], &[]),
        "QueryAssignment" => (&[1], &[2]),
        "ReceiveMessage" | "PullMessage" | "UpdateOffset" | "GetOffset" => (&[2, 1], &[1]),
        "QueryOffset" => (&[1, 1], &[]),
        "AckMessage" | "ForwardMessageToDeadLetterQueue" | "ChangeInvisibleDuration" => {
            (&[2], &[1])
        }
        "Heartbeat" | "NotifyClientTermination" => (&[], &[1]),
        _ => return None,
    })
}

/// A varint, and what follows.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

/// The first field of this number that has bytes, as far as they are there.
fn field(mut bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    loop {
        let (key, rest) = varint(bytes)?;
        let skipped = match key & 7 {
            0 => varint(rest)?.1,
            1 => rest.get(8..)?,
            5 => rest.get(4..)?,
            2 => {
                let (length, rest) = varint(rest)?;
                let length = usize::try_from(length).ok()?;
                if key >> 3 == wanted {
                    return rest.get(..length.min(rest.len()));
                }
                rest.get(length..)?
            }
            _ => return None,
        };
        bytes = skipped;
    }
}

/// A Resource's name: its second field.
fn resource<'a>(message: &'a [u8], path: &[u64]) -> Option<&'a str> {
    if path.is_empty() {
        return None;
    }
    let own = path
        .iter()
        .try_fold(message, |within, number| field(within, *number))?;
    str::from_utf8(field(own, 2)?).ok()
}

impl Dialect for RocketMq {
    fn name(&self) -> &'static str {
        crate::ROCKETMQ
    }

    fn claims(&self, head: &Parts) -> bool {
        head.uri.path().starts_with(SERVICE)
            && is_call(head)
            && is_grpc(head.headers.get(header::CONTENT_TYPE))
    }

    fn wants_beginning(&self, uri: &Uri) -> bool {
        let method = uri.path().strip_prefix(SERVICE);
        method.is_some_and(|method| places(method).is_some())
    }

    fn metadata<'a>(&self, head: &'a Parts) -> Metadata<'a> {
        let called = Grpc.metadata(head);
        let method = head.uri.path().strip_prefix(SERVICE).unwrap_or_default();
        let of = |service: Option<&'a str>, group: Option<&'a str>, nothing| Metadata {
            service: Cow::Borrowed(service.unwrap_or(nothing)),
            own: service.is_none(),
            method: Cow::Borrowed(method),
            group: Cow::Borrowed(group.unwrap_or_default()),
            ..called.clone()
        };
        let Some((topic, group)) = places(method) else {
            return of(None, None, NO_TOPIC);
        };
        let bytes = match head.extensions.get::<Beginning>() {
            Some(Beginning(Ok(bytes))) => bytes,
            Some(Beginning(Err(why))) => {
                return Metadata {
                    unreadable: Some(*why),
                    ..of(None, None, OPAQUE)
                };
            }
            None => return of(None, None, OPAQUE),
        };
        // Compressed, or cut off.
        let Some((0, message)) = bytes
            .split_first()
            .and_then(|(compressed, rest)| Some((*compressed, rest.get(PREFIX - 1..)?)))
        else {
            return of(None, None, OPAQUE);
        };
        let name = |path| resource(message, path).filter(|name: &&str| !name.is_empty());
        of(name(topic), name(group), NO_TOPIC)
    }

    fn prefers_http2(&self, _: &Parts) -> bool {
        true
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<Answer> {
        Grpc.answer(status, headers)
    }

    fn answer_of_trailers(&self, trailers: Option<&HeaderMap>) -> Answer {
        Grpc.answer_of_trailers(trailers)
    }

    fn answer_reader(&self, head: &Parts) -> Option<Box<dyn AnswerReader>> {
        // What comes on a stream of commands says nothing of the stream.
        self.wants_beginning(&head.uri)
            .then(|| Box::<Statuses>::default() as Box<dyn AnswerReader>)
    }

    fn tell_deadline(&self, headers: &mut HeaderMap, left: Duration) {
        Grpc.tell_deadline(headers, left);
    }

    fn reject(&self, asked: &RequestInfo, rejection: Rejection, text: &str) -> Response<Bytes> {
        Grpc.reject(asked, rejection, text)
    }

    fn late_rejection(&self, rejection: Rejection, text: &str) -> Option<HeaderMap> {
        Grpc.late_rejection(rejection, text)
    }
}

/// Bytes of a message that are looked at: a Status in front has its code within these.
const LOOKED_AT: usize = 16;

/// Looks for a Status in each of an answer's messages, whose first field it is wherever there is one.
#[derive(Default)]
struct Statuses {
    /// What is kept of the message under way, its prefix included.
    kept: [u8; PREFIX + LOOKED_AT],
    length: usize,
    /// Bytes of it that are of no interest.
    skip: usize,
    code: Option<u16>,
}

impl AnswerReader for Statuses {
    fn read(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(data.len());
                self.skip -= skipped;
                data = &data[skipped..];
                continue;
            }
            let wanted = self.wanted() - self.length;
            let taken = wanted.min(data.len());
            self.kept[self.length..self.length + taken].copy_from_slice(&data[..taken]);
            self.length += taken;
            data = &data[taken..];
            if self.length == self.wanted() {
                self.message();
            }
        }
    }

    fn answer(&self) -> Option<Answer> {
        let code = self.code?;
        Some(Answer {
            outcome: outcome(code),
            status: Status(code),
        })
    }
}

impl Statuses {
    /// How long the message under way is, as far as that is known.
    fn message_length(&self) -> Option<usize> {
        let [_, length @ ..] = self.kept.first_chunk::<PREFIX>()?;
        (self.length >= PREFIX).then(|| u32::from_be_bytes(*length) as usize)
    }

    fn wanted(&self) -> usize {
        PREFIX + self.message_length().map_or(0, |own| own.min(LOOKED_AT))
    }

    /// The part of a message that is looked at is there.
    fn message(&mut self) {
        let Some(length) = self.message_length() else {
            return;
        };
        let message = &self.kept[PREFIX..self.length];
        let is_plain = self.kept[0] == 0;
        // Field 1, bytes; in it field 1, a number.
        if let [0x0a, rest @ ..] = message
            && is_plain
            && let Some((_, [0x08, rest @ ..])) = varint(rest)
            && let Some((code, _)) = varint(rest)
        {
            self.code = u16::try_from(code).ok();
        }
        self.skip = length - message.len();
        self.length = 0;
    }
}

/// What a code means (`Code` of definition.proto).
fn outcome(code: u16) -> Outcome {
    match code {
        20_000 | 30_000 => Outcome::Success,
        // Nothing there: a consumer asks again.
        40_401 => Outcome::Success,
        // Stored, though not yet as safely as it shall be.
        50_002 | 50_401 | 50_402 => Outcome::Success,
        40_800 | 50_400 => Outcome::TimedOut,
        42_900 => Outcome::Refused,
        40_000..50_000 | 50_100 | 50_500..60_000 => Outcome::Invalid,
        60_000.. => Outcome::Exception,
        _ => Outcome::Failed,
    }
}

/// What a code is called.
pub(crate) fn status_name(code: u16) -> Option<&'static str> {
    Some(match code {
        20_000 => "OK",
        30_000 => "MULTIPLE_RESULTS",
        40_000 => "BAD_REQUEST",
        40_001 => "ILLEGAL_ACCESS_POINT",
        40_002 => "ILLEGAL_TOPIC",
        40_003 => "ILLEGAL_CONSUMER_GROUP",
        40_004 => "ILLEGAL_MESSAGE_TAG",
        40_005 => "ILLEGAL_MESSAGE_KEY",
        40_006 => "ILLEGAL_MESSAGE_GROUP",
        40_007 => "ILLEGAL_MESSAGE_PROPERTY_KEY",
        40_008 => "INVALID_TRANSACTION_ID",
        40_009 => "ILLEGAL_MESSAGE_ID",
        40_010 => "ILLEGAL_FILTER_EXPRESSION",
        40_011 => "ILLEGAL_INVISIBLE_TIME",
        40_012 => "ILLEGAL_DELIVERY_TIME",
        40_013 => "INVALID_RECEIPT_HANDLE",
        40_014 => "MESSAGE_PROPERTY_CONFLICT_WITH_TYPE",
        40_015 => "UNRECOGNIZED_CLIENT_TYPE",
        40_016 => "MESSAGE_CORRUPTED",
        40_017 => "CLIENT_ID_REQUIRED",
        40_018 => "ILLEGAL_POLLING_TIME",
        40_100 => "UNAUTHORIZED",
        40_200 => "PAYMENT_REQUIRED",
        40_300 => "FORBIDDEN",
        40_400 => "NOT_FOUND",
        40_401 => "MESSAGE_NOT_FOUND",
        40_402 => "TOPIC_NOT_FOUND",
        40_403 => "CONSUMER_GROUP_NOT_FOUND",
        40_800 => "REQUEST_TIMEOUT",
        41_300 => "PAYLOAD_TOO_LARGE",
        41_301 => "MESSAGE_BODY_TOO_LARGE",
        42_800 => "PRECONDITION_FAILED",
        42_900 => "TOO_MANY_REQUESTS",
        43_100 => "REQUEST_HEADER_FIELDS_TOO_LARGE",
        43_101 => "MESSAGE_PROPERTIES_TOO_LARGE",
        50_000 => "INTERNAL_ERROR",
        50_001 => "INTERNAL_SERVER_ERROR",
        50_002 => "HA_NOT_AVAILABLE",
        50_100 => "NOT_IMPLEMENTED",
        50_400 => "PROXY_TIMEOUT",
        50_401 => "MASTER_PERSISTENCE_TIMEOUT",
        50_402 => "SLAVE_PERSISTENCE_TIMEOUT",
        50_500 => "UNSUPPORTED",
        50_501 => "VERSION_UNSUPPORTED",
        50_502 => "VERIFY_FIFO_MESSAGE_UNSUPPORTED",
        60_000 => "FAILED_TO_CONSUME_MESSAGE",
        _ => return crate::status::status_name(code),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A field of bytes.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, value.len() as u8], value].concat()
    }

    fn named(name: &str) -> Vec<u8> {
        [bytes(1, b"namespace"), bytes(2, name.as_bytes())].concat()
    }

    fn message(body: &[u8]) -> Vec<u8> {
        [&[0][..], &(body.len() as u32).to_be_bytes(), body].concat()
    }

    fn head(method: &str, beginning: Option<Beginning>) -> Parts {
        let request = http::Request::post(format!("{SERVICE}{method}"))
            .header("content-type", "application/grpc");
        let mut head = request.body(()).unwrap().into_parts().0;
        head.extensions.insert(beginning);
        if let Some(Some(own)) = head.extensions.remove::<Option<Beginning>>() {
            head.extensions.insert(own);
        }
        head
    }

    #[test]
    fn calls_are_named_by_topic_and_group() {
        let topic = || named("orders");
        let queue = || bytes(1, &topic());
        for (method, body, service, group) in [
            ("QueryRoute", bytes(1, &topic()), "orders", ""),
            (
                "SendMessage",
                [bytes(1, &[bytes(1, &topic()), bytes(4, b"x")].concat())].concat(),
                "orders",
                "",
            ),
            (
                "ReceiveMessage",
                [bytes(1, &named("g")), bytes(2, &queue())].concat(),
                "orders",
                "g",
            ),
            (
                "AckMessage",
                [bytes(1, &named("g")), bytes(2, &topic())].concat(),
                "orders",
                "g",
            ),
            ("Heartbeat", bytes(1, &named("g")), "(rocketmq)", "g"),
            ("Heartbeat", vec![0x10, 1], "(rocketmq)", ""),
            ("Telemetry", bytes(1, &topic()), "(rocketmq)", ""),
        ] {
            let whole = message(&body);
            let head = head(method, Some(Beginning(Ok(whole.clone().into()))));
            assert!(RocketMq.claims(&head));
            let metadata = RocketMq.metadata(&head);
            assert_eq!(
                (&*metadata.service, &*metadata.method, &*metadata.group),
                (service, method, group)
            );
            assert_eq!(metadata.names_fit(), Ok(()), "{method}");
            // What is cut off says less, and breaks nothing.
            for end in 0..whole.len() {
                let cut = Bytes::copy_from_slice(&whole[..end]);
                let head = super::tests::head(method, Some(Beginning(Ok(cut))));
                let _ = RocketMq.metadata(&head);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_another_topic() {
        let mut compressed = message(&bytes(1, &named("orders")));
        compressed[0] = 1;
        let own = head("QueryRoute", Some(Beginning(Ok(compressed.into()))));
        assert_eq!(RocketMq.metadata(&own).service, OPAQUE);
        let own = head("QueryRoute", Some(Beginning(Err("too late"))));
        assert!(RocketMq.metadata(&own).names_fit().is_err());
        let ours = message(&bytes(1, &named("(rocketmq)")));
        let own = head("QueryRoute", Some(Beginning(Ok(ours.into()))));
        assert!(RocketMq.metadata(&own).names_fit().is_err());
    }

    #[test]
    fn an_answer_ends_as_its_status_says_however_it_comes() {
        let status = |code: u64| {
            let mut varint = Vec::new();
            let mut rest = code;
            while rest >= 0x80 {
                varint.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            varint.push(rest as u8);
            bytes(1, &[&[0x08][..], &varint, &bytes(2, b"why")].concat())
        };
        let found = [status(20_000), bytes(2, &[b'.'; 100])].concat();
        for (messages, wanted) in [
            (vec![found.clone()], Some((Outcome::Success, 20_000))),
            (vec![status(40_402)], Some((Outcome::Invalid, 40_402))),
            (vec![status(50_400)], Some((Outcome::TimedOut, 50_400))),
            (vec![status(42_900)], Some((Outcome::Refused, 42_900))),
            // A stream: messages, and a status among them.
            (
                vec![bytes(3, b"time"), status(40_401), bytes(2, &[b'm'; 50])],
                Some((Outcome::Success, 40_401)),
            ),
            (vec![bytes(2, b"message")], None),
            (vec![], None),
            (vec![vec![]], None),
        ] {
            let wire: Vec<u8> = messages.iter().flat_map(|own| message(own)).collect();
            for size in 1..=wire.len().max(1) {
                let mut reader = Statuses::default();
                wire.chunks(size).for_each(|piece| reader.read(piece));
                let answer = reader.answer();
                let answer = answer.map(|own| (own.outcome, own.status.0));
                assert_eq!(answer, wanted, "pieces of {size}");
            }
        }
    }

    #[test]
    fn every_code_has_a_name_and_a_meaning() {
        for code in [20_000, 40_017, 50_502, 60_000, 14] {
            assert!(status_name(code).is_some(), "{code}");
        }
        assert_eq!(status_name(12_345), None);
        assert_eq!(outcome(14), Outcome::Failed);
    }
}
