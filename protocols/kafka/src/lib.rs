//! Messages into Kafka: one producer per cluster, for the whole process.
//!
//! A message is taken when the producer has room for it, and confirmed when the brokers of its
//! partition have it; whoever brought it decides what to do meanwhile.

mod config;
mod security;

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwap;
use finback_bridges::{Admitted, Confirm, Failure, Message, Place, TemplateNames, Topics};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};

pub use config::Config;
pub use security::{Mechanism, Sasl, Tls};

/// A producer that is given up has so long to say what became of its messages.
const LAST: Duration = Duration::from_secs(5);
/// What names of topics may be (org.apache.kafka.common.internals.Topic). Those of Kafka's own begin with `_`, and those
/// of what is built on it.
pub static NAMES: TemplateNames = TemplateNames {
    system: "Kafka",
    others: "._-",
    words: "`.`, `_` and `-`",
    divider: '.',
    longest: 249,
    is_own: |name| name.starts_with('_'),
};

fn failure_of(error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => Failure::Full,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Failure::TooLarge,
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed,
        ) => Failure::NoTopic,
        Some(Code::MessageTimedOut | Code::RequestTimedOut) => Failure::TimedOut,
        _ => Failure::Failed,
    }
}

/// Numbers about a producer.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that were taken.
    pub taken: AtomicU64,
    /// Messages that were confirmed.
    pub confirmed: AtomicU64,
    /// Messages that were taken and then failed.
    pub failed: AtomicU64,
    /// Copies that were left out: there was no room, or no name for a topic.
    pub left_out: AtomicU64,
    /// Times that there was no room, or a new topic had to wait.
    pub full: AtomicU64,
    /// Producers that were given up after an error that nothing can mend, or for the topics that they had
    /// heard of.
    pub rebuilt: AtomicU64,
}

struct Context {
    name: Arc<str>,
    /// Where the token of OAUTHBEARER is.
    token: Option<std::path::PathBuf>,
    counts: Arc<Counts>,
    fatal: Arc<AtomicBool>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let file = self.token.as_deref().unwrap_or(Path::new(""));
        security::token(file).inspect_err(|error| {
            tracing::warn!(kafka = %self.name, %error, "no token to log in to Kafka with");
        })
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::warn!(kafka = %self.name, facility, message, "Kafka's client says");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Relaxed);
        }
        tracing::warn!(kafka = %self.name, %error, reason, "Kafka cannot be reached, or refuses");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Option<Confirm>>;

    fn delivery(&self, result: &DeliveryResult<'_>, confirm: Self::DeliveryOpaque) {
        let told = match result {
            Ok(message) => {
                self.counts.confirmed.fetch_add(1, Relaxed);
                Ok(Place {
                    partition: message.partition(),
                    offset: message.offset(),
                    ..Place::default()
                })
            }
            Err((error, _)) => {
                self.counts.failed.fetch_add(1, Relaxed);
                tracing::debug!(kafka = %self.name, %error, "a message was not written");
                Err(failure_of(error))
            }
        };
        if let Some(confirm) = *confirm {
            confirm(told);
        }
    }
}

/// The producer of one cluster.
pub struct Producer {
    name: Arc<str>,
    config: Config,
    current: ArcSwap<ThreadedProducer<Context>>,
    fatal: Arc<AtomicBool>,
    topics: Topics,
    /// Threads that hand a message over now.
    sending: AtomicUsize,
    /// It is to begin anew when nothing is on its way any more, so that messages keep their order.
    renewing: AtomicBool,
    /// What was counted.
    pub counts: Arc<Counts>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Producer {
    /// Starts one; brokers that cannot be reached are tried again for ever.
    ///
    /// # Errors
    /// If the configuration is none.
    pub fn start(name: &str, config: Config) -> Result<Arc<Self>, String> {
        let name: Arc<str> = name.into();
        let (counts, fatal) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let current = make(&name, &config, &counts, &fatal)?;
        Ok(Arc::new(Self {
            name,
            topics: Topics::new(config.topics, config.topic_idle),
            config,
            current: ArcSwap::from_pointee(current),
            fatal,
            sending: AtomicUsize::new(0),
            renewing: AtomicBool::new(false),
            counts,
        }))
    }

    /// Its cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes a message; `confirm` is told when the brokers have it, or do not get it.
    ///
    /// # Errors
    /// If it is not taken; nobody is told then, and `confirm` is gone.
    pub fn send(&self, message: &Message<'_>, confirm: Option<Confirm>) -> Result<(), Failure> {
        self.sending.fetch_add(1, SeqCst);
        let renewing = self.renewing.load(SeqCst);
        let sent = match self.topics.admit(message.topic, message.owner) {
            _ if renewing => Err(Failure::Full),
            Admitted::Yes => self.hand_over(message, confirm),
            Admitted::YesButRenew => {
                self.renewing.store(true, SeqCst);
                Err(Failure::Full)
            }
            Admitted::Later => Err(Failure::Full),
            Admitted::Never => Err(Failure::TooManyTopics),
        };
        self.sending.fetch_sub(1, SeqCst);
        if sent == Err(Failure::Full) {
            self.counts.full.fetch_add(1, Relaxed);
        }
        if renewing {
            self.renew();
        }
        sent
    }

    /// Gives back what librdkafka keeps of topics: it forgets none as long as it lives.
    fn renew(&self) {
        let quiet = self.sending.load(SeqCst) == 0 && self.current.load().in_flight_count() == 0;
        // One does it; others find that it is done.
        if quiet && self.renewing.swap(false, SeqCst) {
            self.rebuild();
            self.topics.renewed();
        }
    }

    fn hand_over(&self, message: &Message<'_>, confirm: Option<Confirm>) -> Result<(), Failure> {
        if self.fatal.swap(false, Relaxed) {
            self.rebuild();
        }
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in message.headers {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let opaque = Box::new(confirm);
        let mut record = BaseRecord::with_opaque_to(message.topic, opaque)
            .payload(message.payload)
            .headers(headers);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        match self.current.load().send(record) {
            Ok(()) => {
                self.counts.taken.fetch_add(1, Relaxed);
                Ok(())
            }
            Err((error, _)) => {
                let failure = failure_of(&error);
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    self.fatal.store(true, Relaxed);
                }
                Err(failure)
            }
        }
    }

    /// Begins anew, after an error that this producer cannot get over (an idempotent producer
    /// that lost its place among the brokers, say). What it had taken fails.
    fn rebuild(&self) {
        match make(&self.name, &self.config, &self.counts, &self.fatal) {
            Ok(fresh) => {
                self.counts.rebuilt.fetch_add(1, Relaxed);
                tracing::warn!(kafka = %self.name, "the producer was replaced");
                let old = self.current.swap(Arc::new(fresh));
                // It waits for its threads, which is not ours to do.
                std::thread::spawn(move || end(old));
            }
            Err(error) => {
                self.fatal.store(true, Relaxed);
                tracing::error!(kafka = %self.name, error, "the producer cannot be replaced");
            }
        }
    }

    /// Waits until everything that was taken is confirmed or has failed, or `limit` is over.
    /// Blocks.
    pub fn flush(&self, limit: Duration) {
        if let Err(error) = self.current.load().flush(limit) {
            let left = self.current.load().in_flight_count();
            tracing::warn!(kafka = %self.name, %error, left, "messages were not written in time");
        }
    }
}

/// Ends a producer that is in use no more: whoever waits for it is told.
fn end(old: Arc<ThreadedProducer<Context>>) {
    old.purge(PurgeConfig::default().queue().inflight());
    let told = old.flush(LAST);
    tracing::debug!(?told, "a producer has ended");
}

fn make(
    name: &Arc<str>,
    config: &Config,
    counts: &Arc<Counts>,
    fatal: &Arc<AtomicBool>,
) -> Result<ThreadedProducer<Context>, String> {
    let context = Context {
        name: name.clone(),
        token: match &config.sasl {
            Some(Sasl::Token(file)) => Some(file.clone()),
            _ => None,
        },
        counts: counts.clone(),
        fatal: fatal.clone(),
    };
    let made = config.client().create_with_context(context);
    made.map_err(|error| error.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
