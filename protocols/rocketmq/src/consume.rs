//! Requests of a consumer of our own to brokers, and what their answers say.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::ask::Fields;
use crate::code::request;
use crate::route;

/// RocketMQ: PullSysFlag: the broker keeps the request until there is a message; the request brings its subscription
/// along.
const SUSPEND: u32 = 2;
const BRINGS_SUBSCRIPTION: u32 = 4;
/// RocketMQ: MessageConst: a message comes again after the first of a broker's delays, which is a second.
const SOON: &str = "1";
/// Times that a message is consumed again before it is a dead letter, as in RocketMQ's own clients.
const TIMES: &str = "16";

/// A request of a consumer.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) code: i32,
    pub(crate) fields: Fields<'a>,
    pub(crate) body: Vec<u8>,
}

/// One queue of a topic at the broker that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOf<'a> {
    /// The group that consumes.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The queue's number.
    pub queue: i32,
}

/// Which messages of a queue are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch<'a> {
    /// From this place on.
    pub offset: i64,
    /// So many at most.
    pub most: u32,
    /// Those that fulfil this expression; `None`: all.
    pub expression: Option<&'a str>,
    /// How many milliseconds the broker may wait for one; 0: it answers at once.
    pub wait: u32,
}

impl<'a> Request<'a> {
    fn new(code: i32, fields: Fields<'a>) -> Self {
        Self {
            code,
            fields,
            body: Vec::new(),
        }
    }

    /// Which clients a group has; answered with [`clients`].
    #[must_use]
    pub fn consumers(group: &'a str) -> Self {
        let fields = vec![("consumerGroup", Cow::Borrowed(group))];
        Self::new(request::GET_CONSUMER_LIST_BY_GROUP, fields)
    }

    /// Where a group is in a queue.
    #[must_use]
    pub fn offset(of: QueueOf<'a>) -> Self {
        let mut fields = of.fields();
        // Else a queue that still has its first message is said to be consumed up to there.
        fields.push(("setZeroIfNotFound", Cow::Borrowed("false")));
        Self::new(request::QUERY_CONSUMER_OFFSET, fields)
    }

    /// Has a group go on in a queue from this place.
    #[must_use]
    pub fn set_offset(of: QueueOf<'a>, offset: i64) -> Self {
        let mut fields = of.fields();
        fields.push(("commitOffset", Cow::Owned(offset.to_string())));
        Self::new(request::UPDATE_CONSUMER_OFFSET, fields)
    }

    /// Where the first message of a queue is that is still there.
    #[must_use]
    pub fn first(of: QueueOf<'a>) -> Self {
        Self {
            code: request::GET_MIN_OFFSET,
            ..Self::end(of)
        }
    }

    /// Where a queue ends.
    #[must_use]
    pub fn end(of: QueueOf<'a>) -> Self {
        let mut fields = of.fields();
        fields.retain(|(name, _)| *name != "consumerGroup");
        Self::new(request::GET_MAX_OFFSET, fields)
    }

    /// Which queues a topic has, and where they end; answered with [`queues_of`].
    #[must_use]
    pub fn queues(topic: &'a str) -> Self {
        let fields = vec![("topic", Cow::Borrowed(topic))];
        Self::new(request::GET_TOPIC_STATS_INFO, fields)
    }

    /// Messages of a queue.
    #[must_use]
    pub fn fetch(of: QueueOf<'a>, fetch: Fetch<'a>) -> Self {
        let number = |number: i64| Cow::Owned(number.to_string());
        let suspend = if fetch.wait > 0 { SUSPEND } else { 0 };
        let (expression, kind) = match fetch.expression {
            Some(expression) => (expression, "SQL92"),
            None => ("*", "TAG"),
        };
        let mut fields = of.fields();
        fields.extend([
            ("queueOffset", number(fetch.offset)),
            ("maxMsgNums", number(fetch.most.into())),
            ("sysFlag", number((suspend | BRINGS_SUBSCRIPTION).into())),
            ("commitOffset", number(0)),
            ("suspendTimeoutMillis", number(fetch.wait.into())),
            ("subscription", Cow::Borrowed(expression)),
            ("expressionType", Cow::Borrowed(kind)),
            ("subVersion", number(0)),
        ]);
        Self::new(request::PULL_MESSAGE, fields)
    }

    /// Has a message come again to a group: `place` is where it stands among all messages of its broker.
    #[must_use]
    pub fn send_back(group: &'a str, topic: &'a str, place: i64) -> Self {
        let fields = vec![
            ("offset", Cow::Owned(place.to_string())),
            ("group", Cow::Borrowed(group)),
            ("delayLevel", Cow::Borrowed(SOON)),
            ("originTopic", Cow::Borrowed(topic)),
            ("unitMode", Cow::Borrowed("false")),
            ("maxReconsumeTimes", Cow::Borrowed(TIMES)),
        ];
        Self::new(request::CONSUMER_SEND_MSG_BACK, fields)
    }

    /// Tells a broker that a client consumes topics in a group (RocketMQ: HeartbeatData).
    #[must_use]
    pub fn heart_beat(client: &str, group: &str, topics: &[String], version: i64) -> Self {
        let subscriptions = topics.iter().map(|topic| {
            json!({
                "topic": topic, "subString": "*", "classFilterMode": false, "tagsSet": [], "codeSet": [],
                "subVersion": version, "expressionType": "TAG",
            })
        });
        let data = json!({
            "clientID": client,
            "producerDataSet": [],
            "consumerDataSet": [{
                "groupName": group,
                "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "unitMode": false,
                "subscriptionDataSet": subscriptions.collect::<Vec<_>>(),
            }],
        });
        Self {
            body: data.to_string().into_bytes(),
            ..Self::new(request::HEART_BEAT, Vec::new())
        }
    }

    /// Tells a broker that a client leaves its group.
    #[must_use]
    pub fn leave(client: &'a str, group: &'a str) -> Self {
        let fields = vec![
            ("clientID", Cow::Borrowed(client)),
            ("consumerGroup", Cow::Borrowed(group)),
        ];
        Self::new(request::UNREGISTER_CLIENT, fields)
    }

    /// Asks for queues that nobody else of the group may have meanwhile, or gives them back; answered with [`locked`].
    #[must_use]
    pub fn lock(
        client: &str,
        group: &str,
        (broker, topic): (&str, &str),
        queues: &[i32],
        gives_back: bool,
    ) -> Self {
        let all = queues
            .iter()
            .map(|queue| json!({ "topic": topic, "brokerName": broker, "queueId": queue }));
        let data = json!({
            "consumerGroup": group, "clientId": client, "mqSet": all.collect::<Vec<_>>(),
        });
        let code = match gives_back {
            false => request::LOCK_BATCH_MQ,
            true => request::UNLOCK_BATCH_MQ,
        };
        Self {
            body: data.to_string().into_bytes(),
            ..Self::new(code, Vec::new())
        }
    }
}

impl<'a> QueueOf<'a> {
    fn fields(self) -> Fields<'a> {
        vec![
            ("consumerGroup", Cow::Borrowed(self.group)),
            ("topic", Cow::Borrowed(self.topic)),
            ("queueId", Cow::Owned(self.queue.to_string())),
        ]
    }
}

/// The clients of a group, as an answer lists them; `None` if it is no list.
#[must_use]
pub fn clients(body: &[u8]) -> Option<Vec<String>> {
    let data = route::read(body)?;
    let all = data.get("consumerIdList")?.as_array()?.iter();
    Some(all.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The queues that an answer gives its client; `None` if it cannot be read, which does not say that it gives none.
#[must_use]
pub fn locked(body: &[u8]) -> Option<Vec<i32>> {
    let data = route::read(body)?;
    let all = data.get("lockOKMQSet")?.as_array()?.iter();
    all.map(|own| i32::try_from(own.get("queueId")?.as_i64()?).ok())
        .collect()
}

/// The numbers of a topic's queues, and where each ends. Java writes a map whose keys are objects themselves, which is no
/// JSON: it is read up to what is wanted of it.
#[must_use]
pub fn queues_of(body: &[u8]) -> Vec<(i32, i64)> {
    let Ok(text) = str::from_utf8(body) else {
        return Vec::new();
    };
    let number = |text: &str, name: &str| -> Option<i64> {
        let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '-');
        rest[..end.unwrap_or(rest.len())].parse().ok()
    };
    // Each entry has its queue once, in its key, and where it ends once, in its value.
    let mut all = Vec::new();
    for entry in text.split("\"brokerName\":").skip(1) {
        if let (Some(queue), Some(end)) = (number(entry, "queueId"), number(entry, "maxOffset")) {
            all.extend(i32::try_from(queue).ok().map(|queue| (queue, end)));
        }
    }
    all
}
