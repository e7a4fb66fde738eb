//! Routes that write to Kafka.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use finback_http::Treatment;
use finback_mqtt::{Policy, Produce};

use super::mqtt::Unbrokered;
use super::{Names, Result};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;
use crate::kafka::{KafkaSink, Key};

/// How long sessions of MQTT 3 are remembered while their clients are away, unless they are clean.
const SESSION_EXPIRY: Duration = Duration::from_secs(2 * 3600);

pub(super) fn treatment(
    route: &str,
    Placed { value, place }: Placed<file::Produce>,
    protocol: Option<Placed<file::Text>>,
    request: Option<Treatment>,
    session: Option<(Policy, Unbrokered)>,
    names: &Names,
) -> Result<Arc<dyn Any + Send + Sync>> {
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
    let sink = sink(value, messages, names)?;
    let other = |name: &str| {
        let message = format!("this route is for {name}; take what is for the other away");
        Err(Wrong::at(place, message))
    };
    match (messages, request, session) {
        (true, Some(_), _) => other("MQTT"),
        (false, _, Some(_)) => other("HTTP"),
        (true, None, None) => {
            let message = "nobody would ask who the clients are; write `mqtt: { authenticate: ... }`, or `none` there";
            Err(Wrong::at(place, message))
        }
        (true, None, Some((policy, own))) => Ok(Arc::new(Policy {
            produce: Some(Produce {
                sink,
                route: route.into(),
                authentication: own.authentication,
                session_expiry: own.session_expiry.unwrap_or(SESSION_EXPIRY),
                refused: own.refused,
            }),
            ..policy
        })),
        (false, request, None) => Ok(Arc::new(Treatment {
            taker: Some(sink),
            ..request.unwrap_or_default()
        })),
    }
}

/// Where messages are written, of MQTT or of HTTP.
pub(in crate::config::convert) fn sink(
    value: file::Produce,
    messages: bool,
    names: &Names,
) -> Result<Arc<KafkaSink>> {
    let Some(outlet) = names.kafka.get(&value.kafka.value) else {
        let known: Vec<_> = names.kafka.keys().cloned().collect();
        super::known(&known, "Kafka cluster", &value.kafka)?;
        return Err(Wrong::at(
            value.kafka.place,
            "there is no such Kafka cluster",
        ));
    };
    let topic = value.topic.value.parse();
    let topic = topic.map_err(|error: finback_kafka::TemplateError| {
        Wrong::at(value.topic.place, error.to_string())
    })?;
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
                        "`{word}` is no key; write client-id (MQTT), topic, none or {{ property: NAME }}"
                    );
                    return Err(Wrong::at(place, message));
                }
            },
        },
    };
    Ok(Arc::new(KafkaSink {
        outlet: outlet.value.clone(),
        topic,
        key,
    }))
}
