//! Subscriptions of our own at brokers of MQTT.

use super::super::Wrong;
use super::super::file;
use super::super::folder::Folder;
use super::super::units::Placed;
use super::{Names, Result, clusters, routes};
use crate::subscriber::Subscription;

pub(super) fn subscription(
    value: file::MqttSubscription,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<Subscription> {
    let broker = value.broker.value.rsplit_once(':');
    let broker = broker.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let Some(broker) = broker.filter(|(host, _): &(String, u16)| !host.is_empty()) else {
        let message = format!(
            "`{}` is not a broker; write HOST:PORT, such as 127.0.0.1:1883",
            value.broker.value
        );
        return Err(Wrong::at(value.broker.place, message));
    };
    if value.client_id.value.is_empty() {
        let message = "a subscription without a client identifier could not be kept; write one";
        return Err(Wrong::at(value.client_id.place, message));
    }
    let Placed {
        value: topics,
        place: topics_place,
    } = value.topics;
    let level = finback_mqtt::codec::Level::V5;
    if topics.is_empty()
        || !topics
            .iter()
            .all(|topic| finback_mqtt::is_filter(topic, level))
    {
        let message = "write topic filters, such as plant/#";
        return Err(Wrong::at(topics_place, message));
    }
    let login = match (value.username, value.password_file) {
        (None, None) => None,
        (Some(user), None) => Some((user, String::new())),
        (Some(user), Some(file)) => Some((user, folder.secret(&file)?)),
        (None, Some(file)) => {
            return Err(Wrong::at(file.place, "a password needs a `username` too"));
        }
    };
    if let Some(tls) = value.tls.as_ref().filter(|t| t.value.server_name.is_some()) {
        let message =
            "a subscription asks for the certificate of its broker's host; leave `server_name` out";
        return Err(Wrong::at(tls.place, message));
    }
    let tls = value
        .tls
        .map(|tls| clusters::client_files(tls, folder))
        .transpose()?;
    Ok(Subscription {
        broker,
        client_id: value.client_id.value,
        login,
        tls: tls.map(|tls| tls.value),
        topics,
        sink: routes::produce::sink(value.produce, true, names)?,
    })
}
