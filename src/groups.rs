//! Consumer groups of our own at clusters of RocketMQ, whose messages go to Kafka.
//!
//! A group shares out its queues as RocketMQ's own clients do, with whoever else is in it; each queue is locked at its
//! broker, so that one client has it at a time. The group goes on from behind a message only when Kafka has it: what was
//! under way when one of the three was gone comes again.

mod counts;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use finback_core::text::Escaped;
use finback_rocketmq::{Ask, Queue, Request, clients, locked};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bridges::rocketmq::{RocketMqOutlet, Routes, Servers, Way};
use crate::bridges::taps::Mirror;

pub use counts::{GroupCounts, GroupStatus};
use queue::{Follow, follow};

/// How often it is looked who has which queue; a broker forgets a client that it has not heard of for two minutes, and a
/// lock after one.
const LOOK: Duration = Duration::from_secs(5);
/// While stopping, messages on their way have this long to be written.
const LAST: Duration = Duration::from_secs(5);
/// Topics of one group.
pub(crate) const TOPICS: usize = 64;

/// A group as configured.
#[derive(Debug)]
pub struct ConsumerGroup {
    /// The cluster that it consumes at.
    pub cluster: Arc<RocketMqOutlet>,
    /// Its name.
    pub group: String,
    /// What it consumes.
    pub topics: Vec<String>,
    /// Where messages go.
    pub mirror: Arc<Mirror>,
}

impl ConsumerGroup {
    fn is_same(&self, other: &Self) -> bool {
        self.cluster.is_same(&other.cluster)
            && self.group == other.group
            && self.topics == other.topics
            && self.mirror.is_same(&other.mirror)
    }
}

/// Groups at work.
#[derive(Default)]
pub struct Groups(Vec<Working>);

struct Working {
    of: Arc<ConsumerGroup>,
    /// Its task has the other end as long as it works.
    stop: watch::Sender<bool>,
    counts: Counted,
}

/// What is counted of each topic of a group.
type Counted = Arc<BTreeMap<String, Arc<GroupCounts>>>;

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Groups").field(&self.0.len()).finish()
    }
}

impl Groups {
    /// These, at work. Must be called within a tokio runtime.
    #[must_use]
    pub fn of(wanted: Vec<ConsumerGroup>) -> Self {
        let mut own = Self::default();
        own.replace(wanted);
        own
    }

    /// Ends those that are not wanted any more, and begins those that are new. Must be called within a tokio runtime.
    pub fn replace(&mut self, wanted: Vec<ConsumerGroup>) {
        let (kept, ending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|own| wanted.iter().any(|other| own.of.is_same(other)));
        self.0 = kept;
        for own in &ending {
            let _ = own.stop.send(true);
        }
        for of in wanted {
            if self.0.iter().any(|own| own.of.is_same(&of)) {
                continue;
            }
            let of = Arc::new(of);
            // A group whose configuration is another one goes on counting.
            let before = ending
                .iter()
                .find(|own| own.of.cluster.name == of.cluster.name && own.of.group == of.group);
            let counts = of.topics.iter().map(|topic| {
                let known = before.and_then(|own| own.counts.get(topic).cloned());
                (topic.clone(), known.unwrap_or_default())
            });
            let counts: Counted = Arc::new(counts.collect());
            let (stop, stopped) = watch::channel(false);
            tokio::spawn(work(of.clone(), counts.clone(), stopped));
            self.0.push(Working { of, stop, counts });
        }
    }

    /// Tells all of them to end. The future is ready when they have: what is on its way is written first, if that does
    /// not take long.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        let ending: Vec<_> = self.0.iter().map(|own| own.stop.clone()).collect();
        for stop in &ending {
            let _ = stop.send(true);
        }
        async move {
            for stop in ending {
                let _ = tokio::time::timeout(2 * LAST, stop.closed()).await;
            }
        }
    }

    /// What became of the messages of each group.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        let all = self.0.iter().map(|own| {
            let topics = own.counts.iter();
            GroupStatus {
                cluster: own.of.cluster.name.clone(),
                group: own.of.group.clone(),
                topics: topics
                    .map(|(topic, counts)| (topic.clone(), counts.clone()))
                    .collect(),
            }
        });
        all.collect()
    }
}

/// A member of a group.
struct Member {
    of: Arc<ConsumerGroup>,
    counts: Counted,
    client: String,
    servers: Arc<Servers>,
    routes: Arc<Routes>,
    /// What its brokers are told of its subscriptions.
    version: i64,
    /// The queues that it has.
    queues: BTreeMap<Queue, BTreeMap<String, Held>>,
    /// Each broker that it has told of itself.
    brokers: BTreeSet<Arc<str>>,
    /// Topics whose failure the log has been told of.
    failing: BTreeSet<String>,
}

/// A queue that is followed.
struct Held {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Member {
    fn new(of: Arc<ConsumerGroup>, counts: Counted) -> Self {
        let config = &of.cluster.config;
        let way = Way::Files(config.tls.clone());
        let servers = Arc::new(Servers::new(config.credentials.as_ref(), way));
        let own = RandomState::new().hash_one(std::process::id());
        Self {
            client: format!("finback@{own:016x}"),
            routes: Routes::new(servers.clone(), config.names.clone(), TOPICS),
            servers,
            version: crate::bridges::rocketmq::now(),
            queues: BTreeMap::new(),
            brokers: BTreeSet::new(),
            failing: BTreeSet::new(),
            counts,
            of,
        }
    }
}

async fn work(of: Arc<ConsumerGroup>, counts: Counted, mut stopped: watch::Receiver<bool>) {
    let mut member = Member::new(of.clone(), counts);
    loop {
        for topic in &of.topics {
            let went = member.share(topic).await;
            member.tell(topic, went);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.changed() => break,
        }
    }
    member.leave().await;
}

impl Member {
    async fn ask(&self, broker: &str, request: &Request<'_>) -> Result<Vec<u8>, String> {
        let answer = self.servers.ask(broker, &Ask::Consume(request)).await;
        let answer = answer.map_err(|why| why.to_string())?;
        match answer.is_success() {
            true => Ok(answer.body.to_vec()),
            false => Err(format!("{} {}", answer.code, Escaped(&answer.remark))),
        }
    }

    /// Tells the log of a topic that fails, once until it is well again; whether that was now.
    fn tell(&mut self, topic: &str, went: Result<(), String>) -> bool {
        let Err(why) = went else {
            self.failing.remove(topic);
            return false;
        };
        let is_new = self.failing.insert(topic.to_owned());
        if is_new {
            tracing::warn!(
                group = self.of.group, topic, %why,
                "a consumer group cannot find out which queues are its own; it goes on with those that it has"
            );
        }
        is_new
    }

    /// Takes up the queues of a topic that are its own, and gives back those that are not.
    async fn share(&mut self, topic: &str) -> Result<(), String> {
        let found = self.routes.of(topic).await;
        let all = found.map_err(|why| format!("{why:?}"))?;
        let group = self.of.group.clone();
        let addresses: BTreeSet<Arc<str>> = all.iter().map(|own| own.address.clone()).collect();
        let heartbeat = Request::heart_beat(&self.client, &group, &self.of.topics, self.version);
        // A broker that cannot be asked keeps what it has, and holds up no other.
        let (mut failing, mut went) = (BTreeSet::new(), Ok(()));
        for broker in &addresses {
            match self.ask(broker, &heartbeat).await {
                Ok(_) => drop(self.brokers.insert(broker.clone())),
                Err(why) => {
                    failing.insert(broker.clone());
                    went = went.and(Err(why));
                }
            }
        }
        let Some(first) = addresses.difference(&failing).next() else {
            return went;
        };
        let members = clients(&self.ask(first, &Request::consumers(&group)).await?);
        let members = members.ok_or("a group's list of clients cannot be read");
        let mut members = members?;
        members.sort();
        let mut wanted: BTreeSet<&Queue> = share_of(&all, &members, &self.client).collect();
        for broker in &addresses {
            let given = match failing.contains(broker) {
                true => Vec::new(),
                false => match self.lock(broker, topic, &wanted).await {
                    Ok(given) => given,
                    Err(why) => {
                        failing.insert(broker.clone());
                        went = went.and(Err(why));
                        Vec::new()
                    }
                },
            };
            // What another member still has is asked for again.
            wanted.retain(|own| own.address != *broker || given.contains(&own.id));
        }
        self.give_back(topic, &wanted, &failing).await;
        for queue in wanted {
            let held = self.queues.entry(queue.clone()).or_default();
            held.entry(topic.to_owned()).or_insert_with(|| {
                let (stop, stopped) = watch::channel(false);
                let follow_it = Follow {
                    of: self.of.clone(),
                    counts: self.counts.get(topic).cloned().unwrap_or_default(),
                    servers: self.servers.clone(),
                    queue: queue.clone(),
                    topic: topic.to_owned(),
                };
                let task = tokio::spawn(follow(follow_it, stopped));
                Held { stop, task }
            });
        }
        went
    }

    /// Locks those of these queues that are at a broker; which of them nobody else has.
    async fn lock(
        &self,
        broker: &str,
        topic: &str,
        wanted: &BTreeSet<&Queue>,
    ) -> Result<Vec<i32>, String> {
        let queues: Vec<_> = wanted
            .iter()
            .filter(|own| *own.address == *broker)
            .collect();
        let Some(first) = queues.first() else {
            return Ok(Vec::new());
        };
        let numbers: Vec<i32> = queues.iter().map(|own| own.id).collect();
        let place = (&*first.broker, topic);
        let lock = Request::lock(&self.client, &self.of.group, place, &numbers, false);
        let given = locked(&self.ask(broker, &lock).await?);
        given.ok_or_else(|| "the list of queues that a broker gives cannot be read".to_owned())
    }

    /// Ends with the queues of a topic that are not among these, nor at these brokers, and lets others have them.
    async fn give_back(
        &mut self,
        topic: &str,
        kept: &BTreeSet<&Queue>,
        failing: &BTreeSet<Arc<str>>,
    ) {
        let gone: Vec<Queue> = self
            .queues
            .iter()
            .filter(|(queue, held)| {
                held.contains_key(topic)
                    && !kept.contains(queue)
                    && !failing.contains(&queue.address)
            })
            .map(|(queue, _)| queue.clone())
            .collect();
        for queue in gone {
            let held = self.queues.get_mut(&queue);
            if let Some(held) = held.and_then(|own| own.remove(topic)) {
                held.end().await;
            }
            let place = (&*queue.broker, topic);
            let unlock = Request::lock(&self.client, &self.of.group, place, &[queue.id], true);
            let _ = self.ask(&queue.address, &unlock).await;
        }
    }

    async fn leave(&mut self) {
        let topics = self.of.topics.clone();
        for held in self.queues.values().flat_map(BTreeMap::values) {
            let _ = held.stop.send(true);
        }
        for topic in &topics {
            self.give_back(topic, &BTreeSet::new(), &BTreeSet::new())
                .await;
        }
        for broker in &self.brokers {
            let leave = Request::leave(&self.client, &self.of.group);
            let _ = self.ask(broker, &leave).await;
        }
    }
}

impl Held {
    async fn end(self) {
        let _ = self.stop.send(true);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(LAST, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// The queues that a member has of all, as RocketMQ's own clients share them out: each member has as many as the others or
/// one more, one after another.
fn share_of<'a>(
    all: &'a [Queue],
    members: &[String],
    own: &str,
) -> impl Iterator<Item = &'a Queue> + use<'a> {
    let count = members.len().max(1);
    let at = members.iter().position(|member| member == own);
    let (each, more) = (all.len() / count, all.len() % count);
    let (first, length) = match at {
        Some(at) if at < more => (at * (each + 1), each + 1),
        Some(at) => (at * each + more, each),
        // The broker has not heard of it yet.
        None => (0, 0),
    };
    all.iter().skip(first).take(length)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
