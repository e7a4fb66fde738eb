//! Delivery of one message to a broker: which queue, how many attempts, and what the answer means.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use finback_bridges::{Failure, Place};
use finback_core::clock::Now;
use finback_core::log_limit::LogLimit;
use finback_rocketmq::{Ask, Message, Queue, Taken};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Unanswered;
use super::producer::{Config, Job, Parcel};
use super::routes::{NoQueues, Routes, said};
use super::servers::Servers;
use super::way::Way;

/// After every broker has been asked in vain: so long at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// Lines of the log about messages that are not written.
static LINES: LogLimit = LogLimit::per_second(1);

/// Messages of one topic with one key.
type Lane = (Box<str>, Box<[u8]>);

/// Who brings messages to the brokers of one cluster.
pub(super) struct Delivery {
    name: Arc<str>,
    group: Arc<str>,
    routes: Arc<Routes>,
    servers: Arc<Servers>,
    /// What waits for another message of its lane.
    lanes: Mutex<HashMap<Lane, VecDeque<Job>>>,
    /// Messages without a key take queues by turns.
    turn: AtomicUsize,
    began: Instant,
}

/// What came of one try.
enum Tried {
    /// The broker has it.
    Stored(Place),
    /// It has it not, or did not say: another one may take it.
    Elsewhere(String),
    /// Nobody will ever take it.
    Never(Failure, String),
}

impl Delivery {
    pub(super) fn new(name: &Arc<str>, config: &Config) -> Arc<Self> {
        let servers = Arc::new(Servers::new(
            config.credentials.as_ref(),
            Way::Files(config.tls.clone()),
        ));
        // A topic in use is never the one that is forgotten.
        let topics = config.topics + 1;
        Arc::new(Self {
            name: name.clone(),
            group: config.group.as_str().into(),
            routes: Routes::new(servers.clone(), config.names.clone(), topics),
            servers,
            lanes: Mutex::default(),
            turn: AtomicUsize::new(0),
            began: Instant::now(),
        })
    }

    /// Delivers all that comes, until nobody sends any more.
    pub(super) async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            self.begin(job);
        }
    }

    /// Messages of one lane go one after another, so that a broker has them in their order.
    fn begin(self: &Arc<Self>, job: Job) {
        let lane = job.parcel.key.as_ref();
        let lane = lane.map(|key| -> Lane { (job.parcel.topic.clone(), key.clone()) });
        if let Some(lane) = &lane {
            let mut lanes = self.lock();
            if let Some(waiting) = lanes.get_mut(lane) {
                waiting.push_back(job);
                return;
            }
            lanes.insert(lane.clone(), VecDeque::new());
        }
        let own = self.clone();
        tokio::spawn(async move {
            let mut next = Some(job);
            while let Some(job) = next {
                let went = own.deliver(&job.parcel, job.deadline).await;
                job.tell(went);
                next = lane.as_ref().and_then(|lane| own.next(lane));
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, VecDeque<Job>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message of a lane, which is over if there is none.
    fn next(&self, lane: &Lane) -> Option<Job> {
        let mut lanes = self.lock();
        let next = lanes.get_mut(lane)?.pop_front();
        if next.is_none() {
            lanes.remove(lane);
        }
        next
    }

    async fn deliver(&self, parcel: &Parcel, deadline: Instant) -> Result<Place, Failure> {
        let mut last = "there was no time".to_owned();
        let tried = timeout_at(deadline, self.attempts(parcel, &mut last)).await;
        let went = tried.unwrap_or(Err(Failure::TimedOut));
        if let Err(failure) = &went
            && let now = Now(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
            && let Some(left_out) = LINES.admit(now)
        {
            tracing::warn!(rocketmq = %self.name, topic = %parcel.topic, %failure, last, left_out, "a message was not written");
        }
        went
    }

    /// Tries until a broker has it, or nobody ever will.
    async fn attempts(&self, parcel: &Parcel, last: &mut String) -> Result<Place, Failure> {
        let mut avoided: Vec<Arc<str>> = Vec::new();
        let [mut pause, longest] = PAUSES;
        loop {
            match self.routes.of(&parcel.topic).await {
                Ok(queues) => {
                    let queue = self.choose(parcel, &queues, &avoided);
                    match self.attempt(parcel, queue).await {
                        Tried::Stored(place) => return Ok(place),
                        Tried::Never(failure, why) => {
                            *last = why;
                            return Err(failure);
                        }
                        Tried::Elsewhere(why) => *last = why,
                    }
                    self.routes.doubt(&parcel.topic);
                    avoided.push(queue.broker.clone());
                    if queues.iter().any(|own| !avoided.contains(&own.broker)) {
                        continue;
                    }
                    avoided.clear();
                }
                Err(NoQueues::NoTopic) => {
                    "no name server knows the topic".clone_into(last);
                    return Err(Failure::NoTopic);
                }
                Err(NoQueues::Unknown(why)) => *last = why,
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// By its key, as Java's SelectMessageQueueByHash does, or by turns; not of brokers that were asked in vain.
    fn choose<'a>(&self, parcel: &Parcel, queues: &'a [Queue], avoided: &[Arc<str>]) -> &'a Queue {
        let number = match &parcel.key {
            Some(key) => hash(key),
            None => self.turn.fetch_add(1, Relaxed),
        };
        let queue = &queues[number % queues.len()];
        if !avoided.contains(&queue.broker) {
            return queue;
        }
        let others = queues.iter().filter(|own| !avoided.contains(&own.broker));
        let count = others.clone().count().max(1);
        others.clone().nth(number % count).unwrap_or(queue)
    }

    async fn attempt(&self, parcel: &Parcel, queue: &Queue) -> Tried {
        let message = Message {
            group: Cow::Borrowed(&self.group),
            topic: Cow::Borrowed(&parcel.topic),
            broker: Cow::Borrowed(&queue.broker),
            queue: queue.id,
            sys_flag: parcel.sys_flag,
            flag: parcel.flag,
            born: parcel.born,
            properties: Cow::Borrowed(&parcel.properties),
            is_batch: parcel.is_batch,
            body: &parcel.body,
        };
        let answer = match self.servers.ask(&queue.address, &Ask::Send(&message)).await {
            Ok(answer) => answer,
            Err(why @ Unanswered::TooLong) => {
                return Tried::Never(Failure::TooLarge, why.to_string());
            }
            Err(why) => return Tried::Elsewhere(why.to_string()),
        };
        match answer.taken() {
            Taken::Stored => Tried::Stored(Place {
                broker: Some(queue.broker.clone()),
                partition: answer.queue,
                offset: answer.offset,
            }),
            Taken::NotNow => Tried::Elsewhere(said(&answer)),
            Taken::Never => Tried::Never(Failure::TooLarge, said(&answer)),
        }
    }
}

/// Java's `String.hashCode`, of which SelectMessageQueueByHash takes the remainder without its sign.
fn hash(key: &[u8]) -> usize {
    let units = String::from_utf8_lossy(key).into_owned();
    let hash = units.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    hash.unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_the_queue_that_javas_clients_take() {
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE, "hello".hashCode() 99162322.
        assert_eq!(hash(b"hello"), 99_162_322);
        assert_eq!(hash(b"polygenelubricants"), 1 << 31);
        assert_eq!(hash(b""), 0);
    }
}
