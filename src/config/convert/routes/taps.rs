//! Copies of RocketMQ messages: to a shadow cluster, and to Kafka.

use std::collections::BTreeSet;
use std::sync::Arc;

use finback_core::driver::ListenerSpec;
use finback_core::rng::Share;
use finback_core::route::Route;
use finback_rocketmq::{is_system_topic, is_topic};

use super::super::{Names, Result};
use super::produce::template;
use super::shadow::marks;
use crate::bridges::taps::{Mirror, MirrorKey, SendShadow, SendTap};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::{self, Placed, Time};
use crate::groups::{ConsumerGroup, TOPICS};

/// What stands for a message's own topic.
const TOPIC: &str = "{topic}";

/// The taps of a route, if it has any.
pub(super) fn of(
    copied: Option<&Placed<file::Shadow>>,
    mirrored: Option<Placed<file::RocketMqPolicy>>,
    (table, route): (&str, &Route),
    listeners: &[ListenerSpec],
    names: &Names,
) -> Result<Option<SendTap>> {
    let copied = copied.filter(|own| own.value.rocketmq.is_some());
    let place = copied.map(|own| own.place);
    let place = place.or(mirrored.as_ref().map(|own| own.place));
    let Some(place) = place else { return Ok(None) };
    let spoken = crate::protocols::reaching(listeners, table, route);
    if !spoken.is_empty() && !spoken.contains(&finback_rocketmq::NAME) {
        let spoken = spoken.join(", ");
        let message =
            format!("this is for messages of RocketMQ, and what is spoken there is {spoken}");
        return Err(Wrong::at(place, message));
    }
    Ok(Some(SendTap {
        shadow: copied.map(|own| shadow(own, names)).transpose()?,
        mirror: mirrored
            .map(|own| mirror(own.value.mirror, names))
            .transpose()?,
    }))
}

fn shadow(from: &Placed<file::Shadow>, names: &Names) -> Result<SendShadow> {
    let file::Shadow {
        cluster,
        rocketmq,
        topic,
        percent,
        mark,
        timeout,
    } = from.value.clone();
    let Some(name) = rocketmq.filter(|_| cluster.is_none()) else {
        let message = "a copy goes to one place; write `cluster` or `rocketmq`";
        return Err(Wrong::at(from.place, message));
    };
    let topic = match topic {
        None => (String::new(), String::new()),
        Some(topic) => around(&topic)?,
    };
    let marks = mark.map_or(Ok(Arc::default()), marks)?;
    let is_for_all = marks.iter().filter(|own| own.protocol.is_none());
    let marks = is_for_all.map(|own| (own.name.to_string(), own.value.to_string()));
    Ok(SendShadow {
        outlet: names.outlets.rocketmq(&name)?,
        topic,
        share: percent.map_or(Share::ALL, |units::FractionalPercent(own)| own),
        marks: marks.collect(),
        timeout: timeout.map(|Time(own)| own),
    })
}

/// What stands before and after a message's own topic.
fn around(topic: &Placed<String>) -> Result<(String, String)> {
    let parts = topic.value.split_once(TOPIC);
    let is_sound = |text: &str| text.is_empty() || finback_rocketmq::is_topic(text);
    match parts {
        Some((before, after)) if is_sound(before) && is_sound(after) => {
            Ok((before.to_owned(), after.to_owned()))
        }
        _ => {
            let message = format!(
                "`{}` is not a topic for copies; write letters, digits, `_` and `-` around {TOPIC}",
                topic.value
            );
            Err(Wrong::at(topic.place, message))
        }
    }
}

/// Consumer groups of our own.
pub(in super::super) fn groups(
    all: impl Iterator<Item = file::RocketMqGroup>,
    names: &Names,
) -> impl Iterator<Item = Result<ConsumerGroup>> {
    let mut known = BTreeSet::new();
    all.map(move |own| {
        let name = (own.rocketmq.value.clone(), own.group.value.clone());
        if !known.insert(name) {
            let message = format!(
                "the group `{}` stands here twice; its members have to have the same topics, so write them into one",
                own.group.value
            );
            return Err(Wrong::at(own.group.place, message));
        }
        group(own, names)
    })
}

fn group(from: file::RocketMqGroup, names: &Names) -> Result<ConsumerGroup> {
    let is_topic = |own: &String| is_topic(own) && !is_system_topic(own);
    let group = from.group;
    if !is_topic(&group.value) {
        let message = format!(
            "`{}` is not a group; write letters, digits, `_` and `-`",
            group.value
        );
        return Err(Wrong::at(group.place, message));
    }
    let topics = from.topics;
    let mut sorted = topics.value.clone();
    sorted.sort();
    sorted.dedup();
    let is_sound = !sorted.is_empty() && sorted.len() <= TOPICS && sorted.iter().all(is_topic);
    if !is_sound || sorted.len() < topics.value.len() {
        let message = format!(
            "write the topics that it consumes, each once, {TOPICS} at most, such as [ orders ]"
        );
        return Err(Wrong::at(topics.place, message));
    }
    Ok(ConsumerGroup {
        cluster: names.outlets.rocketmq(&from.rocketmq)?,
        group: group.value,
        topics: topics.value,
        mirror: Arc::new(mirror(from.mirror, names)?),
    })
}

fn mirror(Placed { value, .. }: Placed<file::RocketMqMirror>, names: &Names) -> Result<Mirror> {
    let key = match value.key {
        None => MirrorKey::Keys,
        Some(Placed { value, place }) => match value {
            file::ProduceKey::Property(own) => MirrorKey::Property(own.property),
            file::ProduceKey::Word(word) => match &*word {
                "keys" => MirrorKey::Keys,
                "queue" => MirrorKey::Queue,
                "none" => MirrorKey::None,
                _ => {
                    let message = format!(
                        "`{word}` is not a key; write keys, queue, none or {{ property: NAME }}"
                    );
                    return Err(Wrong::at(place, message));
                }
            },
        },
    };
    Ok(Mirror {
        outlet: names.outlets.kafka(&value.kafka)?,
        topic: template(&value.topic, &finback_kafka::NAMES)?,
        key,
        kept: Arc::default(),
    })
}
