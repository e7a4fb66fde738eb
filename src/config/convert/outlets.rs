//! Kafka and RocketMQ clusters that messages go to, by name.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::clusters::client_files;
use super::{Result, Wrongs, kafka, known};
use crate::bridges::Outlets;
use crate::bridges::kafka::KafkaOutlet;
use crate::bridges::rocketmq::{self, Credentials, RocketMqOutlet};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Size, Time};

/// The group that messages are sent as.
const GROUP: &str = "finback";
/// How long a message may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message: what brokers take unless they are told otherwise.
const LONGEST: usize = 4 << 20;
/// The longest frame that brokers take, with something left for its header.
const MOST: usize = 15 << 20;
/// Topics in use at a time, and how long one is after its last message.
const TOPICS: usize = 1000;
const TOPIC_IDLE: Duration = Duration::from_secs(600);

/// All of them.
#[derive(Default)]
pub(super) struct Named {
    pub(super) kafka: BTreeMap<String, Placed<Arc<KafkaOutlet>>>,
    rocketmq: BTreeMap<String, Arc<RocketMqOutlet>>,
}

impl Named {
    pub(super) fn of(
        kafka: BTreeMap<String, Placed<file::Kafka>>,
        rocketmq: BTreeMap<String, Placed<file::RocketMqCluster>>,
        folder: &Folder<'_>,
        wrongs: &mut Wrongs,
    ) -> Self {
        let kafka = kafka.into_iter().map(|(name, own)| {
            let outlet = kafka::outlet(&name, own, folder)?;
            Ok((name, outlet))
        });
        let rocketmq = rocketmq.into_iter().map(|(name, own)| {
            let config = cluster(own, folder)?;
            let outlet = Arc::new(RocketMqOutlet::new(&name, config));
            Ok((name, outlet))
        });
        Self {
            kafka: wrongs.all(kafka).into_iter().collect(),
            rocketmq: wrongs.all(rocketmq).into_iter().collect(),
        }
    }

    pub(super) fn all(&self) -> Outlets {
        Outlets {
            kafka: self.kafka.values().map(|own| own.value.clone()).collect(),
            rocketmq: self.rocketmq.values().cloned().collect(),
        }
    }

    /// The Kafka cluster of this name.
    pub(super) fn kafka(&self, name: &Placed<String>) -> Result<Arc<KafkaOutlet>> {
        let found = self.kafka.get(&name.value).map(|own| own.value.clone());
        named(found, self.kafka.keys(), "Kafka cluster", name)
    }

    /// The RocketMQ cluster of this name.
    pub(super) fn rocketmq(&self, name: &Placed<String>) -> Result<Arc<RocketMqOutlet>> {
        let found = self.rocketmq.get(&name.value).cloned();
        named(found, self.rocketmq.keys(), "RocketMQ cluster", name)
    }
}

fn named<'a, T>(
    found: Option<T>,
    all: impl Iterator<Item = &'a String>,
    what: &str,
    name: &Placed<String>,
) -> Result<T> {
    match found {
        Some(found) => Ok(found),
        None => {
            known(&all.cloned().collect::<Vec<_>>(), what, name)?;
            Err(Wrong::at(name.place, format!("there is no such {what}")))
        }
    }
}

fn cluster(
    Placed { value, place: own }: Placed<file::RocketMqCluster>,
    folder: &Folder<'_>,
) -> Result<rocketmq::Config> {
    let place = value.name_servers.place;
    let names = match value.name_servers.value {
        file::Servers::One(one) => vec![one],
        file::Servers::Many(several) => several,
    };
    let is_address = |own: &String| {
        let parts = own.rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if names.is_empty() || !names.iter().all(is_address) {
        let message = "write name servers as HOST:PORT, such as 127.0.0.1:9876, or a list of them";
        return Err(Wrong::at(place, message));
    }
    let credentials = match (value.access_key, value.secret_key_file) {
        (None, None) => None,
        (Some(access_key), Some(file)) => Some(Credentials {
            access_key,
            secret_key: folder.secret(&file)?,
        }),
        _ => {
            let message = "`access_key` and `secret_key_file` belong together; write both or none";
            return Err(Wrong::at(own, message));
        }
    };
    let tls = value.tls.map(|tls| client_files(tls, folder)).transpose()?;
    let group = match value.group {
        None => GROUP.to_owned(),
        Some(group) if finback_rocketmq::is_topic(&group.value) => group.value,
        Some(group) => {
            let message = format!(
                "`{}` is not a group; write letters, digits, `_` and `-`",
                group.value
            );
            return Err(Wrong::at(group.place, message));
        }
    };
    let longest = match value.longest_message {
        None => LONGEST,
        Some(own) if own.value.0 > MOST => {
            let message = "brokers take no longer frames than 16 MiB; write 15MiB at most";
            return Err(Wrong::at(own.place, message));
        }
        Some(Placed {
            value: Size(own), ..
        }) => own,
    };
    Ok(rocketmq::Config {
        names,
        group,
        tls: tls.map(|tls| tls.value),
        credentials,
        timeout: value.timeout.map_or(TIMEOUT, |Time(own)| own),
        longest,
        topics: value.topics.map_or(TOPICS, NonZeroUsize::get),
        topic_idle: value.topic_idle.map_or(TOPIC_IDLE, |Time(idle)| idle),
    })
}
