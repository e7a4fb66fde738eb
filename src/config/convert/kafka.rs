//! Kafka clusters.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use finback_kafka::{Mechanism, Sasl, Tls};

use super::Result;
use crate::bridges::kafka::KafkaOutlet;
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Time};

/// Topics in use at a time.
const TOPICS: usize = 1000;
/// After so long a topic that nobody writes to is in use no more.
const TOPIC_IDLE: Duration = Duration::from_secs(600);

pub(super) fn outlet(
    name: &str,
    Placed { value, place }: Placed<file::Kafka>,
    folder: &Folder<'_>,
) -> Result<Placed<Arc<KafkaOutlet>>> {
    let brokers = match value.brokers {
        file::Servers::One(one) => one,
        file::Servers::Many(several) => several.join(","),
    };
    if brokers.is_empty() {
        let message = "a Kafka cluster without brokers; write one, such as 127.0.0.1:9092";
        return Err(Wrong::at(place, message));
    }
    let has_tls = value.tls.is_some();
    let config = finback_kafka::Config {
        brokers,
        tls: value.tls.map(|own| tls(own, folder)).transpose()?,
        sasl: value
            .sasl
            .map(|own| sasl(own, has_tls, folder))
            .transpose()?,
        topics: value.topics.map_or(TOPICS, NonZeroUsize::get),
        topic_idle: value.topic_idle.map_or(TOPIC_IDLE, |Time(idle)| idle),
        options: value.options,
    };
    config
        .check()
        .map_err(|why| Wrong::at(place, format!("Kafka's client does not take this: {why}")))?;
    let value = Arc::new(KafkaOutlet::new(name, config));
    Ok(Placed { value, place })
}

fn tls(Placed { value, place }: Placed<file::KafkaTls>, folder: &Folder<'_>) -> Result<Tls> {
    let pair = match (value.certificate, value.key) {
        (None, None) => None,
        (Some(chain), Some(key)) => Some((folder.join(chain), folder.join(key))),
        _ => {
            let message = "`certificate` and `key` belong together; write both or none";
            return Err(Wrong::at(place, message));
        }
    };
    Ok(Tls {
        authorities: value.ca.map(|path| folder.join(path)),
        pair,
    })
}

fn sasl(
    Placed { value, place }: Placed<file::KafkaSasl>,
    has_tls: bool,
    folder: &Folder<'_>,
) -> Result<Sasl> {
    let mechanism = match &*value.mechanism.value {
        "PLAIN" if !has_tls => {
            let message =
                "PLAIN without TLS tells the password to whoever listens; write `tls: {}` too";
            return Err(Wrong::at(value.mechanism.place, message));
        }
        "PLAIN" => Mechanism::Plain,
        "SCRAM-SHA-256" => Mechanism::ScramSha256,
        "SCRAM-SHA-512" => Mechanism::ScramSha512,
        "OAUTHBEARER" => {
            return match (value.token_file, value.username, value.password_file) {
                (Some(_), None, None) if !has_tls => {
                    let message =
                        "a token without TLS is told to whoever listens; write `tls: {}` too";
                    Err(Wrong::at(value.mechanism.place, message))
                }
                (Some(file), None, None) => Ok(Sasl::Token(folder.join(file))),
                _ => {
                    let message = "OAUTHBEARER needs a `token_file`, and nothing else";
                    Err(Wrong::at(place, message))
                }
            };
        }
        other => {
            let message = format!(
                "`{other}` is not a mechanism here; write PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
            );
            return Err(Wrong::at(value.mechanism.place, message));
        }
    };
    match (value.username, value.password_file, value.token_file) {
        (Some(username), Some(file), None) => Ok(Sasl::Password {
            mechanism,
            username,
            password: folder.secret(&file)?,
        }),
        _ => {
            let message = "this mechanism needs a `username` and a `password_file`, and no token";
            Err(Wrong::at(place, message))
        }
    }
}
