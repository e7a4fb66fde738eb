//! Routes of topics, which queues each has: asked of name servers, kept, and asked again in the background.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use finback_rocketmq::{Answered, Ask, MAKES_TOPICS, QUEUES_MADE, Queue, has_brokers, queues};
use tokio::time::Instant;

use super::connection::Unanswered;
use super::servers::Servers;

/// What a name server said holds so long: as in RocketMQ's own clients.
const FRESH: Duration = Duration::from_secs(30);
/// A topic that is about to be made is there a moment later.
const MADE: Duration = Duration::from_secs(1);
/// A topic that was there is believed to be gone after name servers have said so for this long: one that has just
/// started has not heard of every broker.
const GONE: Duration = Duration::from_secs(60);

/// Why a topic has no queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoQueues {
    /// There is no such topic, and none is made for messages to it.
    NoTopic,
    /// That is not known.
    Unknown(String),
}

/// Topics by name, with the queues that they have.
pub(super) struct Routes {
    servers: Arc<Servers>,
    names: Vec<String>,
    /// The name server that answered last.
    good: AtomicUsize,
    /// So many topics are kept.
    most: usize,
    known: Mutex<HashMap<Box<str>, Arc<Known>>>,
}

/// What is known of one topic.
struct Known {
    /// Held by whoever asks while nothing is known.
    asking: tokio::sync::Mutex<()>,
    is_refreshed: AtomicBool,
    found: Mutex<Found>,
}

struct Found {
    queues: Option<Arc<[Queue]>>,
    /// Until when that holds.
    until: Instant,
    /// Since when name servers say that there is no such topic.
    missing: Option<Instant>,
    used: Instant,
}

impl Routes {
    pub(super) fn new(servers: Arc<Servers>, names: Vec<String>, most: usize) -> Arc<Self> {
        Arc::new(Self {
            servers,
            names,
            good: AtomicUsize::new(0),
            most,
            known: Mutex::default(),
        })
    }

    /// The queues of a topic. Those that are known serve while name servers are asked again, or cannot be.
    pub(super) async fn of(self: &Arc<Self>, topic: &str) -> Result<Arc<[Queue]>, NoQueues> {
        let known = self.known(topic);
        if let Some((queues, is_fresh)) = known.queues() {
            if !is_fresh {
                self.refresh(topic, known);
            }
            return Ok(queues);
        }
        let _asking = known.asking.lock().await;
        if let Some((queues, _)) = known.queues() {
            return Ok(queues);
        }
        let (queues, holds) = self.look_up(topic).await?;
        known.set(queues.clone(), holds);
        Ok(queues)
    }

    /// What is known of a topic is not to be relied on: name servers are asked again before long.
    pub(super) fn doubt(&self, topic: &str) {
        self.known(topic).lock().until = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, topic: &str) -> Arc<Known> {
        let mut all = self.lock();
        if let Some(known) = all.get(topic) {
            return known.clone();
        }
        if all.len() >= self.most {
            // The one that nobody has sent to for longest makes room.
            let oldest = all.iter().min_by_key(|(_, own)| own.lock().used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                all.remove(&oldest);
            }
        }
        let known = Arc::new(Known::default());
        all.insert(topic.into(), known.clone());
        known
    }

    /// Asks in the background, once at a time for a topic.
    fn refresh(self: &Arc<Self>, topic: &str, known: Arc<Known>) {
        if known.is_refreshed.swap(true, Relaxed) {
            return;
        }
        let (own, topic) = (self.clone(), topic.to_owned());
        tokio::spawn(async move {
            match own.look_up(&topic).await {
                Ok((queues, holds)) => known.set(queues, holds),
                Err(why) => known.miss(&why),
            }
            known.is_refreshed.store(false, Relaxed);
        });
    }

    /// Asks name servers for a topic's queues, and how long that holds.
    async fn look_up(&self, topic: &str) -> Result<(Arc<[Queue]>, Duration), NoQueues> {
        let answer = self.ask(&Ask::Route(topic)).await?;
        if answer.is_success() {
            let queues = queues(&answer.body, u32::MAX);
            return match queues.is_empty() {
                true => Err(NoQueues::Unknown("no broker takes messages to it".into())),
                false => Ok((queues.into(), FRESH)),
            };
        }
        if !answer.is_no_topic() {
            return Err(NoQueues::Unknown(said(&answer)));
        }
        // As RocketMQ's own clients do: a broker that makes topics says so by having this one.
        let makes = self.ask(&Ask::Route(MAKES_TOPICS)).await?;
        if makes.is_success() {
            let queues = queues(&makes.body, QUEUES_MADE);
            if !queues.is_empty() {
                return Ok((queues.into(), MADE));
            }
        }
        let brokers = self.ask(&Ask::Brokers).await?;
        match brokers.is_success() && has_brokers(&brokers.body) {
            true => Err(NoQueues::NoTopic),
            false => Err(NoQueues::Unknown("no broker has registered yet".into())),
        }
    }

    /// Asks one name server after another until one knows; else tells what the last one said.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Answered, NoQueues> {
        let first = self.good.load(Relaxed);
        let mut last = Err(NoQueues::Unknown("there is no name server".into()));
        for step in 0..self.names.len() {
            let at = (first + step) % self.names.len();
            match self.servers.ask(&self.names[at], ask).await {
                Ok(answer) if answer.is_success() => {
                    self.good.store(at, Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => last = Ok(answer),
                // That one does not know says more than that another one is away.
                Err(why) if last.is_err() => last = Err(NoQueues::Unknown(why.to_string())),
                Err(_) => {}
            }
        }
        last
    }
}

impl Default for Known {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            asking: tokio::sync::Mutex::default(),
            is_refreshed: AtomicBool::new(false),
            found: Mutex::new(Found {
                queues: None,
                until: now,
                missing: None,
                used: now,
            }),
        }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues, if they are known, and whether that still holds.
    fn queues(&self) -> Option<(Arc<[Queue]>, bool)> {
        let mut found = self.lock();
        let now = Instant::now();
        found.used = now;
        Some((found.queues.clone()?, now < found.until))
    }

    fn set(&self, queues: Arc<[Queue]>, holds: Duration) {
        let mut found = self.lock();
        found.queues = Some(queues);
        found.until = Instant::now() + holds;
        found.missing = None;
    }

    /// Nobody could say where it is.
    fn miss(&self, why: &NoQueues) {
        let mut found = self.lock();
        let now = Instant::now();
        found.until = now + MADE;
        if *why != NoQueues::NoTopic {
            found.missing = None;
        } else if found.missing.get_or_insert(now).elapsed() >= GONE {
            found.queues = None;
        }
    }
}

/// What a server said, for the log.
pub(super) fn said(answer: &Answered) -> String {
    format!(
        "{} {}",
        answer.code,
        finback_core::text::Escaped(&answer.remark)
    )
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => f.write_str("the message is too long"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}
