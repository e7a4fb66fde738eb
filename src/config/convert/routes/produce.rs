//! Routes that write to Kafka or RocketMQ.

use std::sync::Arc;
use std::time::Duration;

use finback_bridges::{Template, TemplateNames as TopicNames};
use finback_core::route::Treatment;
use finback_mqtt::{Policy, Produce};

use super::mqtt::Unbrokered;
use super::{Names, Result};
use crate::bridges::sink::{BridgeSink, Key, Tag};
use crate::bridges::{BridgeOutlet, rocketmq};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;

/// How long sessions of MQTT 3 are remembered while their clients are away, unless they are clean.
const SESSION_EXPIRY: Duration = Duration::from_secs(2 * 3600);

pub(super) fn treatment(
    route: &str,
    produce: Placed<file::Produce>,
    protocol: Option<Placed<file::Text>>,
    request: Option<finback_http::HttpPolicy>,
    session: Option<(Policy, Unbrokered)>,
    names: &Names,
) -> Result<Treatment> {
    let place = produce.place;
    let protocol = protocol.map(|own| own.value);
    let messages = match protocol {
        Some(file::Text::Exact(name)) if name == finback_mqtt::NAME => true,
        Some(file::Text::Exact(name)) if name == finback_http::NAME => false,
        _ => {
            let message =
                "`produce` needs `match: { protocol: mqtt }` or `match: { protocol: http }`";
            return Err(Wrong::at(place, message));
        }
    };
    let sink = sink(produce, messages, names)?;
    let other = |name: &str| {
        let message = format!("this route is for {name}; take what is for the other away");
        Err(Wrong::at(place, message))
    };
    match (messages, request, session) {
        (true, Some(_), _) => other("MQTT"),
        (false, _, Some(_)) => other("HTTP"),
        (true, None, None) => {
            let message = "clients would not be authenticated; write `mqtt: { authenticate: ... }`, or `none` there";
            Err(Wrong::at(place, message))
        }
        (true, None, Some((policy, own))) => Ok(Treatment::new(Policy {
            produce: Some(Produce {
                sink,
                route: route.into(),
                authentication: own.authentication,
                session_expiry: own.session_expiry.unwrap_or(SESSION_EXPIRY),
                refused: own.refused,
            }),
            ..policy
        })),
        (false, request, None) => Ok(Treatment::new(finback_http::HttpPolicy {
            handler: Some(sink),
            ..request.unwrap_or_default()
        })),
    }
}

/// Where messages are written, of MQTT or of HTTP.
pub(in crate::config::convert) fn sink(
    Placed { value, place }: Placed<file::Produce>,
    messages: bool,
    names: &Names,
) -> Result<Arc<BridgeSink>> {
    let (outlet, topics) = match (&value.kafka, &value.rocketmq) {
        (Some(name), None) => {
            let cluster = names.outlets.kafka(name)?;
            (BridgeOutlet::Kafka(cluster), &finback_kafka::NAMES)
        }
        (None, Some(name)) => {
            let cluster = names.outlets.rocketmq(name)?;
            (BridgeOutlet::RocketMq(cluster), &rocketmq::NAMES)
        }
        _ => {
            let message = "where to? write either `kafka` or `rocketmq`";
            return Err(Wrong::at(place, message));
        }
    };
    if let (None, Some(tag)) = (&value.rocketmq, &value.tag) {
        let message = "only messages of RocketMQ have a tag; take `tag` away";
        return Err(Wrong::at(tag.place, message));
    }
    let topic = template(&value.topic, topics)?;
    let key = match value.key {
        None if messages => Key::ClientId,
        None => Key::None,
        Some(Placed { value, place }) => match value {
            file::ProduceKey::Property(own) => Key::Property(own.property),
            file::ProduceKey::Word(word) => match &*word {
                "client-id" if messages => Key::ClientId,
                "topic" => Key::Topic,
                "none" => Key::None,
                _ => {
                    let message = format!(
                        "`{word}` is not a key; write client-id (MQTT), topic, none or {{ property: NAME }}"
                    );
                    return Err(Wrong::at(place, message));
                }
            },
        },
    };
    Ok(Arc::new(BridgeSink {
        outlet,
        topic,
        key,
        tag: value.tag.map_or(Ok(Tag::None), tag)?,
        headers: headers(value.headers, messages)?,
    }))
}

pub(super) fn template(text: &Placed<String>, names: &'static TopicNames) -> Result<Template> {
    let parsed = Template::parse(&text.value, names);
    parsed.map_err(|error| Wrong::at(text.place, error.to_string()))
}

fn tag(Placed { value, place }: Placed<file::ProduceTag>) -> Result<Tag> {
    match value {
        file::ProduceTag::Property(own) => Ok(Tag::Property(own.property)),
        // Consumers write several tags as `a || b`, and `*` for all.
        file::ProduceTag::Word(word) if word.contains(['|', '*', '\u{1}', '\u{2}']) => {
            let message = format!("`{word}` is not a tag that a consumer could ask for");
            Err(Wrong::at(place, message))
        }
        file::ProduceTag::Word(word) => Ok(Tag::Fixed(word)),
    }
}

/// Names of headers that go along, in the letters in which HTTP's are kept.
fn headers(from: Vec<Placed<String>>, messages: bool) -> Result<Vec<String>> {
    let each = from.into_iter().map(|Placed { value, place }| {
        if messages {
            let message = "user properties of MQTT go along anyway; take `headers` away";
            return Err(Wrong::at(place, message));
        }
        match http::HeaderName::try_from(&value) {
            Ok(name) => Ok(name.as_str().to_owned()),
            Err(_) => Err(Wrong::at(place, format!("`{value}` is not a header name"))),
        }
    });
    each.collect()
}
