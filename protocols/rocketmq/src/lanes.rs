//! Lanes of consumers: the consumers of a lane are a group of their own at brokers, and choose the lane's messages.
//!
//! Applications know nothing of that. Through a listener of the lane `gray` the group `orders` is `orders-lane-gray` at
//! brokers, in whatever names it, and each of its subscriptions is for `lane = 'gray'` besides what it says itself. Through a listener
//! of the base, fetches leave out the messages of lanes that have consumers just then; those of a lane without any are
//! the base's ([`Board`] has who that is, and from which place of each queue on).

mod board;
mod expression;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::code::request;
use crate::route;

pub(crate) use board::hash;
pub use board::{Board, Border, FetchPlace, Group};

use expression::{Own, is_property};

/// RocketMQ: MixAll: before a group it is the topic of messages that are consumed again.
pub(crate) const RETRY: &str = "%RETRY%";
/// Between a group's name and its lane.
const BETWEEN: &str = "-lane-";
/// RocketMQ: TopicValidator: the longest name of a group.
const LONGEST: usize = 255;
/// The longest name of a lane.
const LONGEST_LANE: usize = 64;
/// RocketMQ: PullSysFlag: the request brings its subscription along.
const BRINGS_SUBSCRIPTION: i64 = 4;
/// RocketMQ: PullSysFlag: a class of the client's own chooses.
const BY_CLASS: i64 = 8;
/// RocketMQ: ExpressionType.
const SQL: &str = "SQL92";

/// Which lane a listener's consumers are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLanes {
    /// The property of messages that names their lane.
    property: Arc<str>,
    side: Side,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// This one.
    Lane(Arc<str>),
    /// None, beside these.
    Base(Vec<Arc<str>>),
}

/// What is changed about a request.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Fields of the header, added or in place of others.
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Option<Vec<u8>>,
}

/// What a group is called in a lane.
#[must_use]
pub fn group(own: &str, lane: &str) -> String {
    format!("{own}{BETWEEN}{lane}")
}

/// The same name without its lane, whatever follows that; `None` if it has none.
pub(crate) fn without(name: &str, lane: &str) -> Option<String> {
    let mark = format!("{BETWEEN}{lane}");
    let mut found = name.match_indices(&mark).filter_map(|(at, _)| {
        let rest = &name[at + mark.len()..];
        // A topic of POP's retries names the message's own topic behind the group.
        let ends = rest.is_empty() || rest.starts_with(['_', '+']);
        ends.then(|| format!("{}{rest}", &name[..at]))
    });
    found.next()
}

impl GroupLanes {
    /// Consumers are in this lane, whose messages say so in this property.
    ///
    /// # Errors
    /// If one of them is no name.
    pub fn of_lane(property: &str, lane: &str) -> Result<Self, String> {
        Ok(Self {
            property: checked_property(property)?,
            side: Side::Lane(checked_lane(lane)?),
        })
    }

    /// Consumers are in no lane, and others may be in these.
    ///
    /// # Errors
    /// If there is none, or one of them is no name, or there twice.
    pub fn of_base(property: &str, others: &[String]) -> Result<Self, String> {
        if others.is_empty() {
            return Err("which lanes are there? write at least one".to_owned());
        }
        let mut all: Vec<Arc<str>> = Vec::new();
        for lane in others {
            let lane = checked_lane(lane)?;
            if all.contains(&lane) {
                return Err(format!("the lane `{lane}` stands there twice"));
            }
            all.push(lane);
        }
        Ok(Self {
            property: checked_property(property)?,
            side: Side::Base(all),
        })
    }

    /// The lane that consumers are in.
    #[must_use]
    pub fn own(&self) -> Option<&Arc<str>> {
        match &self.side {
            Side::Lane(lane) => Some(lane),
            Side::Base(_) => None,
        }
    }

    /// The lanes that others may be in, where consumers are in none.
    #[must_use]
    pub fn others(&self) -> &[Arc<str>] {
        match &self.side {
            Side::Lane(_) => &[],
            Side::Base(others) => others,
        }
    }

    /// The expression that only messages of a lane fulfil.
    #[must_use]
    pub fn only(&self, lane: &str) -> String {
        Own::default().only(&self.property, lane)
    }

    /// The lane that properties name.
    #[must_use]
    pub fn lane_of<'a>(&self, properties: &'a str) -> Option<&'a str> {
        crate::properties::find(properties, &self.property)
    }

    /// Whether requests of this code are written otherwise than their clients write them.
    pub(crate) fn touches(&self, code: i32) -> bool {
        match &self.side {
            Side::Lane(_) => names_group(code).is_some() || has_group(code),
            Side::Base(_) => is_filtered(code),
        }
    }

    /// Whether anything is changed about, or learned from, requests of this code.
    pub(crate) fn is_about(&self, code: i32) -> bool {
        let learns = matches!(self.side, Side::Base(_)) && code == request::HEART_BEAT;
        learns || self.touches(code)
    }

    /// What is changed about a consumer's request. `field` has its own fields.
    pub(crate) fn change<'a>(
        &self,
        code: i32,
        field: &dyn Fn(&str) -> Option<Cow<'a, str>>,
        body: &[u8],
        board: Option<&Board>,
    ) -> Change {
        let mut change = Change::default();
        match &self.side {
            Side::Lane(lane) => {
                if let Some(name) = names_group(code)
                    && let Some(own) = field(name).filter(|own| !own.is_empty())
                {
                    change.fields.push((name, group(&own, lane)));
                }
                if has_group(code) {
                    change.body = self.in_body(code, body, lane);
                }
                if is_filtered(code) && !is_retry(&field("topic").unwrap_or_default()) {
                    let own = Own::brought(code, field);
                    // What it does not bring along it has told in its heartbeats.
                    change.put(code, field, own.map(|own| own.only(&self.property, lane)));
                }
            }
            Side::Base(others) => {
                let Some(board) = board else { return change };
                if code == request::HEART_BEAT {
                    board.subscribe(body);
                }
                if is_filtered(code) && !is_retry(&field("topic").unwrap_or_default()) {
                    let without = board.fetch(code, field);
                    let without = without.iter().filter_map(|at| others.get(*at));
                    let without: Vec<&str> = without.map(|lane| &**lane).collect();
                    if !without.is_empty() {
                        let own = Own::brought(code, field).or_else(|| board.own(field));
                        let text = own.map(|own| own.without(&self.property, &without));
                        change.put(code, field, text);
                    }
                }
            }
        }
        change
    }

    /// A broker's request to a client names its group as the client does.
    pub(crate) fn asked_back<'a>(
        &self,
        field: &dyn Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Vec<(&'static str, String)> {
        let Side::Lane(lane) = &self.side else {
            return Vec::new();
        };
        ["consumerGroup", "group"]
            .into_iter()
            .filter_map(|name| Some((name, without(&field(name)?, lane)?)))
            .collect()
    }

    /// A body with the lane's group in it, and in a heartbeat with the lane's subscriptions.
    fn in_body(&self, code: i32, body: &[u8], lane: &str) -> Option<Vec<u8>> {
        let mut data = route::read(body)?;
        let rename = |own: &mut Value| {
            if let Some(name) = own.as_str().filter(|own| !own.is_empty()) {
                *own = group(name, lane).into();
            }
        };
        match code {
            request::HEART_BEAT => {
                let consumers = data.get_mut("consumerDataSet")?.as_array_mut()?;
                for consumer in consumers {
                    consumer.get_mut("groupName").map(rename);
                    let subscriptions = consumer.get_mut("subscriptionDataSet");
                    let all = subscriptions.and_then(Value::as_array_mut);
                    for own in all.into_iter().flatten() {
                        self.subscribe(own, lane);
                    }
                }
            }
            request::CHECK_CLIENT_CONFIG => {
                data.get_mut("group").map(rename);
            }
            request::BATCH_ACK_MESSAGE => {
                let all = data.get_mut("acks")?.as_array_mut()?;
                for own in all {
                    own.get_mut("c").map(rename);
                }
            }
            _ => {
                data.get_mut("consumerGroup").map(rename);
            }
        }
        serde_json::to_vec(&data).ok()
    }

    /// A subscription for the lane's messages only (RocketMQ: SubscriptionData).
    fn subscribe(&self, own: &mut Value, lane: &str) {
        let text = |name: &str| own.get(name).and_then(Value::as_str).unwrap_or_default();
        if is_retry(text("topic")) || own.get("classFilterMode") == Some(&Value::Bool(true)) {
            return;
        }
        let Some(before) = Own::of(text("expressionType"), text("subString")) else {
            return;
        };
        let only = before.only(&self.property, lane);
        let Some(members) = own.as_object_mut() else {
            return;
        };
        members.insert("subString".to_owned(), only.into());
        members.insert("expressionType".to_owned(), SQL.into());
        for sets in ["tagsSet", "codeSet"] {
            members.insert(sets.to_owned(), Value::Array(Vec::new()));
        }
    }
}

impl Change {
    /// Has a fetch bring this expression along.
    fn put<'a>(
        &mut self,
        code: i32,
        field: &dyn Fn(&str) -> Option<Cow<'a, str>>,
        expression: Option<String>,
    ) {
        let Some(expression) = expression else { return };
        if !is_pull(code) {
            self.fields.push(("exp", expression));
            self.fields.push(("expType", SQL.to_owned()));
            return;
        }
        let flags = sys_flag(field) | BRINGS_SUBSCRIPTION;
        self.fields.push(("sysFlag", flags.to_string()));
        self.fields.push(("subscription", expression));
        self.fields.push(("expressionType", SQL.to_owned()));
    }
}

fn sys_flag<'a>(field: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> i64 {
    let text = field("sysFlag").unwrap_or_default();
    text.parse().unwrap_or_default()
}

fn is_retry(topic: &str) -> bool {
    topic.starts_with(RETRY)
}

fn is_pull(code: i32) -> bool {
    matches!(code, request::PULL_MESSAGE | request::LITE_PULL_MESSAGE)
}

/// Requests that messages are chosen by.
fn is_filtered(code: i32) -> bool {
    is_pull(code) || matches!(code, request::POP_MESSAGE | request::NOTIFICATION)
}

/// The field that names a consumer's group.
fn names_group(code: i32) -> Option<&'static str> {
    match code {
        request::CONSUMER_SEND_MSG_BACK => Some("group"),
        request::PULL_MESSAGE
        | request::LITE_PULL_MESSAGE
        | request::QUERY_CONSUMER_OFFSET
        | request::UPDATE_CONSUMER_OFFSET
        | request::UNREGISTER_CLIENT
        | request::GET_CONSUMER_LIST_BY_GROUP
        | request::POP_MESSAGE..=request::POLLING_INFO => Some("consumerGroup"),
        _ => None,
    }
}

/// Requests whose bodies name a consumer's group.
fn has_group(code: i32) -> bool {
    matches!(
        code,
        request::HEART_BEAT
            | request::LOCK_BATCH_MQ
            | request::UNLOCK_BATCH_MQ
            | request::CHECK_CLIENT_CONFIG
            | request::QUERY_ASSIGNMENT
            | request::BATCH_ACK_MESSAGE
    )
}

/// A topic of retries as it is called in a lane: behind the group that asks, if it is that one's.
pub(crate) fn retry_of(topic: &str, own: &str, lane: &str) -> Option<String> {
    let rest = topic.strip_prefix(RETRY)?.strip_prefix(own)?;
    let is_own = !own.is_empty() && (rest.is_empty() || rest.starts_with(['_', '+']));
    is_own.then(|| format!("{RETRY}{}{rest}", group(own, lane)))
}

/// Whether a group has room for a lane in its name.
pub(crate) fn fits(own: &str, lane: &str) -> bool {
    own.len() + BETWEEN.len() + lane.len() <= LONGEST - RETRY.len()
}

fn checked_lane(lane: &str) -> Result<Arc<str>, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !lane.is_empty() && lane.len() <= LONGEST_LANE && lane.bytes().all(is_fit) {
        true => Ok(lane.into()),
        false => Err(format!(
            "`{lane}` is not a lane of consumers; write letters, digits, `_` and `-`, {LONGEST_LANE} at most"
        )),
    }
}

fn checked_property(name: &str) -> Result<Arc<str>, String> {
    match is_property(name) {
        true => Ok(name.into()),
        false => Err(format!(
            "`{name}` is not a property that brokers could choose by; write letters, digits and `_`, and no word of SQL"
        )),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
