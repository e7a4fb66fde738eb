//! Renaming: topics that are called otherwise at brokers than by clients, in both directions.
//!
//! Requests are written with brokers' names, and what comes back with clients' names: messages that are fetched,
//! assignments and locks of queues, lists of topics, and what brokers ask their clients. A broker's own name of a topic
//! that is renamed is unknown to clients, so that each name means one topic, whichever way it goes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::code::request;
use crate::lanes::{self, RETRY};
use crate::message::{is_system_topic, is_topic};
use crate::properties;
use crate::route;
use crate::stored::{self, Stored};

/// Properties that name the topic of a message that stands in another one for now.
const TOPICS: [&str; 2] = ["RETRY_TOPIC", "REAL_TOPIC"];

/// Topics by both of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renaming {
    /// By what clients call them.
    there: BTreeMap<Arc<str>, Arc<str>>,
    /// By what brokers call them.
    here: BTreeMap<Arc<str>, Arc<str>>,
    /// The lane that consumers are in: their groups are called otherwise there, and so are topics of retries.
    pub(crate) lane: Option<Arc<str>>,
}

impl Renaming {
    /// Has clients' `own` topic be `there` at brokers.
    ///
    /// # Errors
    /// If one of them is no topic or RocketMQ's own, or has a part in another pair.
    pub fn add(&mut self, own: &str, there: &str) -> Result<(), String> {
        for name in [own, there] {
            if !is_topic(name) || is_system_topic(name) {
                return Err(format!(
                    "`{name}` is not a topic that can be renamed; write letters, digits, `_` and `-`"
                ));
            }
            if self.there.contains_key(name) || self.here.contains_key(name) {
                return Err(format!(
                    "`{name}` is renamed twice; each topic has one name here and one there"
                ));
            }
        }
        if own == there {
            return Err(format!("`{own}` is called so already"));
        }
        let (own, there): (Arc<str>, Arc<str>) = (own.into(), there.into());
        self.here.insert(there.clone(), own.clone());
        self.there.insert(own, there);
        Ok(())
    }

    /// Has topics of retries be those of this lane's groups.
    pub fn set_lane(&mut self, lane: &Arc<str>) {
        self.lane = Some(lane.clone());
    }

    /// Whether nothing is renamed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.there.is_empty() && self.lane.is_none()
    }

    /// What brokers call a topic, if not so.
    pub(crate) fn there(&self, own: &str) -> Option<Cow<'_, str>> {
        if let Some(there) = self.there.get(own) {
            return Some(Cow::Borrowed(there));
        }
        let group = own.strip_prefix(RETRY)?;
        let lane = self.lane.as_deref()?;
        Some(Cow::Owned(format!("{RETRY}{}", lanes::group(group, lane))))
    }

    /// What clients call a topic, if not so.
    pub(crate) fn here(&self, there: &str) -> Option<Cow<'_, str>> {
        if let Some(own) = self.here.get(there) {
            return Some(Cow::Borrowed(own));
        }
        if !there.starts_with(RETRY) {
            return None;
        }
        let own = lanes::without(there, self.lane.as_deref()?)?;
        Some(Cow::Owned(own))
    }

    /// A request's body with brokers' names in it; `None` where it names none of these topics.
    pub(crate) fn request(&self, code: i32, body: &[u8]) -> Option<Vec<u8>> {
        names_topics(code).then(|| in_json(body, &|own| self.there(own)))?
    }

    /// The body of the answer to a request with clients' names in it; `None` where it names none of these topics.
    pub(crate) fn answer(&self, code: i32, body: &[u8]) -> Option<Vec<u8>> {
        if names_topics(code) {
            return in_json(body, &|own| self.here(own));
        }
        is_of_messages(code).then(|| self.messages(body))?
    }

    /// The same of what a broker asks.
    pub(crate) fn asked_back(&self, code: i32, body: &[u8]) -> Option<Vec<u8>> {
        let is_message = matches!(
            code,
            request::CHECK_TRANSACTION_STATE | request::CONSUME_MESSAGE_DIRECTLY
        );
        is_message.then(|| self.messages(body))?
    }

    /// A list of topics.
    pub(crate) fn list(&self, topics: &mut [Value]) {
        // What clients do not know by its own name is not listed by it.
        for own in topics.iter_mut() {
            let here = own.as_str().and_then(|own| self.here(own));
            if let Some(here) = here.map(Cow::into_owned) {
                *own = here.into();
            }
        }
    }

    /// Messages as brokers keep them, one after another, with clients' names; `None` if none is renamed, or they
    /// cannot be read.
    fn messages(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len() + 64);
        let (mut rest, mut is_changed) = (body, false);
        while !rest.is_empty() {
            let (message, after) = stored::split(rest)?;
            match self.message(message)? {
                Some(own) => {
                    is_changed = true;
                    out.extend_from_slice(&own);
                }
                None => out.extend_from_slice(message),
            }
            rest = after;
        }
        is_changed.then_some(out)
    }

    /// One of them; `Some(None)` if it stays as it is (RocketMQ: MessageDecoder).
    fn message(&self, wire: &[u8]) -> Option<Option<Vec<u8>>> {
        let Some(own) = Stored::read(wire)? else {
            return Some(None);
        };
        let named: Vec<(&str, Cow<'_, str>)> = TOPICS
            .iter()
            .filter_map(|name| {
                let there = properties::find(own.properties, name)?;
                Some((*name, self.here(there)?))
            })
            .collect();
        let here = self.here(own.topic);
        if here.is_none() && named.is_empty() {
            return Some(None);
        }
        let named: Vec<(&str, &str)> = named.iter().map(|(name, own)| (*name, &**own)).collect();
        let all = match named.is_empty() {
            true => Cow::Borrowed(own.properties),
            false => Cow::Owned(properties::with(own.properties, &named)),
        };
        let topic = here.as_deref().unwrap_or(own.topic);
        let mut out = wire[..own.topic_at].to_vec();
        let length = u16::try_from(topic.len()).ok()?.to_be_bytes();
        out.extend_from_slice(&length[2 - own.wide..]);
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(&u16::try_from(all.len()).ok()?.to_be_bytes());
        out.extend_from_slice(all.as_bytes());
        out.extend_from_slice(&wire[own.end()..]);
        let size = u32::try_from(out.len()).ok()?;
        out[..4].copy_from_slice(&size.to_be_bytes());
        Some(Some(out))
    }
}

/// Requests whose bodies, and those of their answers, name topics in JSON.
fn names_topics(code: i32) -> bool {
    matches!(
        code,
        request::HEART_BEAT
            | request::LOCK_BATCH_MQ
            | request::UNLOCK_BATCH_MQ
            | request::CHECK_CLIENT_CONFIG
            | request::QUERY_ASSIGNMENT
    )
}

/// Requests that are answered with messages.
fn is_of_messages(code: i32) -> bool {
    matches!(
        code,
        request::PULL_MESSAGE
            | request::LITE_PULL_MESSAGE
            | request::POP_MESSAGE
            | request::PEEK_MESSAGE
            | request::QUERY_MESSAGE
            | request::VIEW_MESSAGE_BY_ID
    )
}

/// The body with each `topic` in it called otherwise; `None` if none is.
fn in_json<'a>(body: &[u8], other: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> Option<Vec<u8>> {
    let mut data = route::read(body)?;
    walk(&mut data, other).then(|| serde_json::to_vec(&data).ok())?
}

/// Bodies that are read are no deeper than serde_json reads.
fn walk<'a>(value: &mut Value, other: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> bool {
    match value {
        Value::Object(members) => members.iter_mut().fold(false, |changed, (name, own)| {
            let new = match name.as_str() {
                "topic" => own.as_str().and_then(other),
                _ => None,
            };
            match new {
                Some(new) => {
                    *own = new.into_owned().into();
                    true
                }
                None => walk(own, other) || changed,
            }
        }),
        // Each of them, whether one before it was changed or not.
        Value::Array(all) => {
            let changed = all
                .iter_mut()
                .filter_map(|own| walk(own, other).then_some(()));
            changed.count() > 0
        }
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::stored::{BORN_V6, MAGIC, MAGIC_V2, STORED_V6, SYS_FLAG_AT};

    fn renaming() -> Renaming {
        let mut own = Renaming::default();
        own.add("orders", "orders-v2").unwrap();
        own
    }

    /// A stored message.
    fn stored(magic: i32, flags: i32, topic: &str, all: &str) -> Vec<u8> {
        let mut out = vec![7; SYS_FLAG_AT];
        out[4..8].copy_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        let host = |is_v6: i32| if flags & is_v6 != 0 { 20 } else { 8 };
        out.extend(std::iter::repeat_n(
            5,
            8 + host(BORN_V6) + 8 + host(STORED_V6) + 12,
        ));
        out.extend_from_slice(&[0, 0, 0, 4]);
        out.extend_from_slice(b"body");
        let length = (topic.len() as u16).to_be_bytes();
        out.extend_from_slice(if magic == MAGIC {
            &length[1..]
        } else {
            &length
        });
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(&(all.len() as u16).to_be_bytes());
        out.extend_from_slice(all.as_bytes());
        let size = (out.len() as u32).to_be_bytes();
        out[..4].copy_from_slice(&size);
        out
    }

    #[test]
    fn messages_come_back_under_the_name_that_clients_know() {
        for magic in [MAGIC, MAGIC_V2] {
            for flags in [0, BORN_V6, STORED_V6, BORN_V6 | STORED_V6] {
                let told = |topic: &str, retry: &str| {
                    let all = format!("KEYS\u{1}k\u{2}RETRY_TOPIC\u{1}{retry}\u{2}");
                    stored(magic, flags, topic, &all)
                };
                let blank = {
                    let mut own = vec![0; 12];
                    own[3] = 12;
                    own[4..8].copy_from_slice(&(-875_286_124_i32).to_be_bytes());
                    own
                };
                let body = [
                    told("orders-v2", "orders-v2"),
                    told("other", "x"),
                    blank.clone(),
                    told("%RETRY%g", "orders-v2"),
                ]
                .concat();
                let wanted = [
                    told("orders", "orders"),
                    told("other", "x"),
                    blank,
                    told("%RETRY%g", "orders"),
                ]
                .concat();
                assert_eq!(
                    renaming().answer(request::PULL_MESSAGE, &body),
                    Some(wanted)
                );
                for end in 0..body.len() {
                    // Whatever is cut off, nothing breaks.
                    let _ = renaming().answer(request::PULL_MESSAGE, &body[..end]);
                }
            }
        }
        let other = stored(MAGIC, 0, "other", "");
        assert_eq!(renaming().answer(request::PULL_MESSAGE, &other), None);
        let lies = [0xff; 200];
        assert_eq!(renaming().answer(request::PULL_MESSAGE, &lies), None);
    }

    #[test]
    fn bodies_name_topics_as_their_readers_do() {
        let body = br#"{"consumerDataSet":[{"subscriptionDataSet":[{"topic":"orders","subString":"orders"},{"topic":"%RETRY%g"}]}]}"#;
        let there = renaming().request(request::HEART_BEAT, body).unwrap();
        let there = String::from_utf8(there).unwrap();
        assert!(there.contains(r#""topic":"orders-v2""#), "{there}");
        assert!(there.contains(r#""subString":"orders""#), "{there}");
        assert_eq!(renaming().request(request::SEND_MESSAGE_V2, body), None);
        assert_eq!(renaming().request(request::HEART_BEAT, b"{}"), None);
        let locked = br#"{"lockOKMQSet":[{"brokerName":"b1","queueId":0,"topic":"orders-v2"}]}"#;
        let here = renaming().answer(request::LOCK_BATCH_MQ, locked).unwrap();
        assert!(
            String::from_utf8(here)
                .unwrap()
                .contains(r#""topic":"orders""#)
        );
    }

    #[test]
    fn each_topic_has_one_name_here_and_one_there() {
        for (own, there) in [
            ("orders", "x"),
            ("x", "orders"),
            ("x", "orders-v2"),
            ("orders-v2", "x"),
            ("x", "x"),
            ("a.b", "x"),
            ("x", "%RETRY%g"),
            ("TBW102", "x"),
            ("", "x"),
        ] {
            assert!(renaming().add(own, there).is_err(), "{own} {there}");
        }
        assert!(renaming().add("a", "b").is_ok());
    }
}
