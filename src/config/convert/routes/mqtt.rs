//! MQTT settings of routes: what they do with sessions beyond routing.

use std::num::NonZeroU32;
use std::time::Duration;

use finback_mqtt::authentication::Authentication;
use finback_mqtt::codec::Level;
use finback_mqtt::{
    Action, Denied, Duplicates, MessageMirror, NameTemplate, Policy, Rewrite, Rule, is_filter,
};

use super::{Names, Result, authentication};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Size};

/// What stands in for a broker where there is none.
#[derive(Default)]
pub(super) struct Unbrokered {
    pub(super) authentication: Authentication,
    pub(super) session_expiry: Option<Duration>,
    pub(super) refused: Denied,
    /// Whether sessions have claims.
    tokens: bool,
}

/// What a route does with sessions; `unbrokered`: there is no broker behind.
pub(super) fn policy(
    Placed { mut value, place }: Placed<file::MqttPolicy>,
    unbrokered: bool,
    folder: &Folder<'_>,
    names: &Names,
) -> Result<(Policy, Unbrokered)> {
    useful(&value, unbrokered)?;
    let own = if unbrokered {
        stand_in(&mut value, place, folder, names)?
    } else {
        Unbrokered::default()
    };
    no_claims(&value, &own)?;
    let optional = |given: Option<Placed<String>>| given.as_ref().map(template).transpose();
    let password = match (&value.username, value.password_file) {
        (_, None) => None,
        (None, Some(file)) => {
            let message = "a password needs a `username` too";
            return Err(Wrong::at(file.place, message));
        }
        (Some(_), Some(file)) => Some(folder.secret(&file)?.into_bytes()),
    };
    let policy = Policy {
        produce: None,
        mirror: value.mirror.map(|own| mirror(own, names)).transpose()?,
        rules: value.acl.into_iter().map(rule).collect::<Result<_>>()?,
        mount: value.mountpoint.map(mount).transpose()?,
        rewrites: value
            .rewrite
            .into_iter()
            .map(rewrite)
            .collect::<Result<_>>()?,
        denied: value.denied.map_or(Ok(Denied::default()), denied)?,
        client_id: optional(value.client_id)?,
        username: optional(value.username)?,
        password,
        proxy_protocol: value.proxy_protocol.is_some_and(|own| own.value),
        messages_per_second: value.messages_per_second.map(NonZeroU32::get),
        bytes_per_second: match value.bytes_per_second {
            Some(Size(0)) => {
                let message = "with 0 bytes per second nothing could be said; write more";
                return Err(Wrong::at(place, message));
            }
            given => given.map(|Size(bytes)| bytes as u64),
        },
        server_reference: value.server_reference,
        duplicates: match value.duplicates {
            None => Duplicates::default(),
            Some(word) => match &*word.value {
                "broker" => Duplicates::Broker,
                "take-over" => Duplicates::TakeOver,
                "refuse" => Duplicates::Refuse,
                _ => return Err(unknown(&word, "broker, take-over or refuse")),
            },
        },
    };
    Ok((policy, own))
}

/// Refuses keys that would have no effect.
fn useful(value: &file::MqttPolicy, unbrokered: bool) -> Result<()> {
    fn at<T>(key: &Option<Placed<T>>) -> Option<(u64, u64)> {
        key.as_ref().map(|own| own.place)
    }
    let to_broker = value.duplicates.as_ref();
    let to_broker = to_broker.filter(|own| own.value == "broker");
    let keys = if unbrokered {
        [
            ("password_file", at(&value.password_file)),
            ("proxy_protocol", at(&value.proxy_protocol)),
            ("mirror", at(&value.mirror)),
            ("duplicates: broker", to_broker.map(|own| own.place)),
        ]
    } else {
        [
            ("authenticate", at(&value.authenticate)),
            ("session_expiry", at(&value.session_expiry)),
            ("refused", at(&value.refused)),
            ("", None),
        ]
    };
    let (who, there) = match unbrokered {
        true => ("a broker, and this route has none", "with `produce`"),
        false => ("a route with `produce`: here, the broker does that", "here"),
    };
    for (key, place) in keys {
        if let Some(place) = place {
            let message = format!("`{key}` is for {who}; it would do nothing {there}");
            return Err(Wrong::at(place, message));
        }
    }
    Ok(())
}

fn stand_in(
    value: &mut file::MqttPolicy,
    place: (u64, u64),
    folder: &Folder<'_>,
    names: &Names,
) -> Result<Unbrokered> {
    let Some(asked) = value.authenticate.take() else {
        let message = "clients would not be authenticated; write `authenticate`, with `none` if that is meant";
        return Err(Wrong::at(place, message));
    };
    let tokens = matches!(&asked.value, file::MqttAuthenticate::By(own) if own.tokens.is_some());
    Ok(Unbrokered {
        tokens,
        authentication: authentication::authentication(asked, folder, names)?,
        session_expiry: value.session_expiry.take().map(|own| own.value.0),
        refused: value.refused.take().map_or(Ok(Denied::default()), denied)?,
    })
}

/// Claims are known where tokens are asked for.
fn no_claims(value: &file::MqttPolicy, own: &Unbrokered) -> Result<()> {
    let texts = [&value.mountpoint, &value.client_id, &value.username];
    let texts = texts
        .into_iter()
        .flatten()
        .map(|own| (own.value.as_str(), own.place));
    let topics = value.acl.iter().map(|rule| &rule.value.topics);
    let topics = topics.flat_map(|own| own.value.iter().map(|text| (text.as_str(), own.place)));
    for (text, place) in texts.chain(topics) {
        if text.contains("{claims.") && !own.tokens {
            let message = "claims are known with `authenticate: { tokens: ... }` only";
            return Err(Wrong::at(place, message));
        }
    }
    Ok(())
}

fn denied(word: Placed<String>) -> Result<Denied> {
    match &*word.value {
        "acknowledge" => Ok(Denied::Acknowledge),
        "close" => Ok(Denied::Close),
        _ => Err(unknown(&word, "acknowledge or close")),
    }
}

fn mirror(
    Placed { value, place }: Placed<file::MqttMirror>,
    names: &Names,
) -> Result<MessageMirror> {
    let mut topics = Vec::new();
    for Placed { value, place } in value.topics {
        if !is_filter(&value, Level::V311) {
            let message = format!("`{value}` is not a topic filter; write one such as a/+/b/#");
            return Err(Wrong::at(place, message));
        }
        topics.push(value);
    }
    let produced = file::Produce {
        kafka: Some(value.kafka),
        rocketmq: None,
        topic: value.topic,
        key: value.key,
        tag: None,
        headers: Vec::new(),
    };
    let value_of = |value| Placed { value, place };
    Ok(MessageMirror {
        sink: super::produce::sink(value_of(produced), true, names)?,
        hold: value.wait,
        topics,
    })
}

pub(super) fn unknown(word: &Placed<String>, instead: &str) -> Wrong {
    let message = format!("`{}` is not allowed here; write {instead}", word.value);
    Wrong::at(word.place, message)
}

pub(super) fn template(text: &Placed<String>) -> Result<NameTemplate> {
    let parsed = text.value.parse::<NameTemplate>();
    parsed.map_err(|error| Wrong::at(text.place, error.to_string()))
}

fn mount(text: Placed<String>) -> Result<NameTemplate> {
    if text.value.is_empty() || text.value.contains(['+', '#']) || text.value.starts_with('$') {
        let message = format!(
            "`{}` cannot begin the names of topics; write one such as tenants/{{username}}/",
            text.value
        );
        return Err(Wrong::at(text.place, message));
    }
    template(&text)
}

fn rewrite(Placed { value, place }: Placed<file::MqttRewrite>) -> Result<Rewrite> {
    let file::MqttRewrite { from, to } = value;
    let bad = |text: &str| text.is_empty() || text.contains(['+', '#']) || text.starts_with('$');
    if bad(&from) || bad(&to) {
        let message = "`from` and `to` are beginnings of topics, without wildcards";
        return Err(Wrong::at(place, message));
    }
    Ok(Rewrite { from, to })
}

fn rule(Placed { value, place }: Placed<file::MqttRule>) -> Result<Rule> {
    let (allow, word) = match (value.allow, value.deny) {
        (Some(word), None) => (true, word),
        (None, Some(word)) => (false, word),
        _ => return Err(Wrong::at(place, "write exactly one of `allow` and `deny`")),
    };
    let action = match &*word {
        "publish" => Action::Publish,
        "subscribe" => Action::Subscribe,
        "all" => Action::All,
        _ => {
            let message = format!("`{word}` is not an action; write publish, subscribe or all");
            return Err(Wrong::at(place, message));
        }
    };
    let Placed { value, place } = value.topics;
    if value.is_empty() {
        return Err(Wrong::at(
            place,
            "a rule about no topic; write some, or `#`",
        ));
    }
    let topics = value.into_iter().map(|topic| {
        if !is_filter(&topic, Level::V311) {
            let message = format!("`{topic}` is not a topic filter; write one such as a/+/b/#");
            return Err(Wrong::at(place, message));
        }
        template(&Placed {
            value: topic,
            place,
        })
    });
    Ok(Rule {
        allow,
        action,
        topics: topics.collect::<Result<_>>()?,
    })
}
