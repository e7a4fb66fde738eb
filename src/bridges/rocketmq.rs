//! RocketMQ clusters of the configuration, as places where messages leave.

mod connection;
mod delivery;
mod producer;
mod routes;
mod servers;
mod signature;
mod way;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use finback_bridges::{Confirm, Failure, Message, Outlet, TemplateNames};
use finback_rocketmq::{is_system_topic, properties};

pub(crate) use connection::Unanswered;
pub use producer::{Config, Counts, Producer};
pub(crate) use producer::{Parcel, now};
pub(crate) use routes::Routes;
pub(crate) use servers::Servers;
pub use signature::{Credentials, signer};
pub(crate) use way::Way;

/// The longest text of properties that a broker takes (RocketMQ: MessageDecoder writes its length in 16 bits, with a sign).
const PROPERTIES: usize = i16::MAX as usize;

/// What names of topics may be (RocketMQ: TopicValidator).
pub static NAMES: TemplateNames = TemplateNames {
    system: "RocketMQ",
    others: "_-",
    words: "`_` and `-`",
    divider: '_',
    longest: 127,
    is_own: is_system_topic,
};

/// A RocketMQ cluster of the configuration, and its producer once that has been started.
pub struct RocketMqOutlet {
    /// Its name.
    pub name: String,
    /// How it is spoken to.
    pub config: Config,
    producer: OnceLock<Arc<Producer>>,
}

impl fmt::Debug for RocketMqOutlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocketMqOutlet")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RocketMqOutlet {
    /// One that has not been started.
    #[must_use]
    pub fn new(name: &str, config: Config) -> Self {
        Self {
            name: name.to_owned(),
            config,
            producer: OnceLock::new(),
        }
    }

    /// Starts its producer, or goes on with that of one that was configured in the same way.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(&self, before: &[Arc<Self>]) -> anyhow::Result<()> {
        let same = before.iter().find(|own| own.is_same(self));
        let producer = match same.and_then(|own| own.producer.get().cloned()) {
            Some(producer) => producer,
            None => Producer::start(&self.name, self.config.clone())?,
        };
        let _ = self.producer.set(producer);
        Ok(())
    }

    /// Whether another one was configured in the same way.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.config == other.config
    }

    /// Its producer, if it has been started.
    #[must_use]
    pub fn producer(&self) -> Option<&Arc<Producer>> {
        self.producer.get()
    }
}

impl Outlet for RocketMqOutlet {
    fn system(&self) -> &'static str {
        "rocketmq"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn limit(&self) -> usize {
        self.config.longest
    }

    fn send(&self, message: &Message<'_>, confirm: Option<Confirm>) -> Result<(), Failure> {
        let producer = self.producer.get().ok_or(Failure::Failed)?;
        let properties = properties_of(message);
        if properties.len() > PROPERTIES {
            return Err(Failure::TooLarge);
        }
        let parcel = Parcel {
            topic: message.topic.into(),
            key: message.key.map(Into::into),
            properties,
            born: producer::now(),
            body: message.payload.to_vec(),
            ..Parcel::default()
        };
        producer.send(parcel, message.owner, None, confirm)
    }
}

/// Writes what is still on its way; waits no longer than this for each. Blocks.
pub fn flush(outlets: &[Arc<RocketMqOutlet>], limit: Duration) {
    for producer in outlets.iter().filter_map(|own| own.producer()) {
        producer.flush(limit);
    }
}

/// The properties of a message: what it is found by, and its headers. Of several of one name the first one counts; those
/// that mean something to RocketMQ itself are left out, and what is no text stands there in base64.
fn properties_of(message: &Message<'_>) -> String {
    let mut all: Vec<(String, String)> = vec![
        ("UNIQ_KEY".to_owned(), unique()),
        // The broker answers once the message is as safe as it is configured to make it.
        ("WAIT".to_owned(), "true".to_owned()),
    ];
    let key = message.key.and_then(|key| str::from_utf8(key).ok());
    for (name, value) in [("KEYS", key), ("TAGS", message.tag)] {
        if let Some(value) = value.filter(|own| !own.is_empty() && properties::is_sound(own)) {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    for (name, value) in message.headers {
        if name.is_empty() || properties::is_reserved(name) {
            continue;
        }
        let (name, value) = match str::from_utf8(value) {
            Ok(text) if properties::is_sound(text) => ((*name).to_owned(), text.to_owned()),
            _ => (format!("{name}.base64"), STANDARD.encode(value)),
        };
        if !all.iter().any(|(own, _)| *own == name) {
            all.push((name, value));
        }
    }
    let all: Vec<(&str, &str)> = all.iter().map(|(a, b)| (&**a, &**b)).collect();
    properties::with("", &all)
}

/// What a message is told from all others by, the same in every try.
fn unique() -> String {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    format!("{process:016X}{:016X}", COUNT.fetch_add(1, Relaxed))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod scripted;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
