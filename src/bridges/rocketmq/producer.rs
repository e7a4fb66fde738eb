//! The producer of one cluster of RocketMQ: takes messages as long as it has room, on a thread of its own.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_bridges::{Admitted, Confirm, Failure, Place, Topics};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::tls::ClientFiles;

use super::delivery::Delivery;
use super::signature::Credentials;

/// Messages on their way, at most, and their bytes.
const MESSAGES: usize = 10_000;
const BYTES: usize = 64 << 20;
/// What a message takes besides what it says.
const OVERHEAD: usize = 512;
/// Whether all are written is looked at this often.
const LOOK: Duration = Duration::from_millis(10);

/// How a cluster is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name servers, `host:port`.
    pub names: Vec<String>,
    /// The producer's group.
    pub group: String,
    /// TLS; `None`: none is spoken.
    pub tls: Option<ClientFiles>,
    /// What requests are signed with; `None`: they are not.
    pub credentials: Option<Credentials>,
    /// How long a message may take to be taken by a broker.
    pub timeout: Duration,
    /// Bytes of the longest message, its properties included.
    pub longest: usize,
    /// Names of topics in use at a time.
    pub topics: usize,
    /// How long one is in use after its last message.
    pub topic_idle: Duration,
}

/// A message on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) topic: Box<str>,
    /// What decides about its queue; messages of one key go one after another.
    pub(crate) key: Option<Box<[u8]>>,
    pub(crate) properties: String,
    pub(crate) sys_flag: i32,
    pub(crate) flag: i32,
    /// When it was sent, in milliseconds since 1970.
    pub(crate) born: i64,
    pub(crate) is_batch: bool,
    pub(crate) body: Vec<u8>,
}

/// A parcel, and who is told what becomes of it: however it ends, once.
pub(super) struct Job {
    pub(super) parcel: Parcel,
    pub(super) deadline: Instant,
    confirm: Option<Confirm>,
    is_told: bool,
    room: Room,
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
    /// Copies that were left out for want of room.
    pub left_out: AtomicU64,
    /// Times that there was no room, or a new topic had to wait.
    pub full: AtomicU64,
}

#[derive(Debug, Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// Room for a message; given back when dropped.
struct Room {
    load: Arc<Load>,
    counts: Arc<Counts>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.load.messages.fetch_sub(1, Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Job {
    pub(super) fn tell(mut self, went: Result<Place, Failure>) {
        self.tell_once(went);
    }

    fn tell_once(&mut self, went: Result<Place, Failure>) {
        self.is_told = true;
        let counts = &self.room.counts;
        let count = match &went {
            Ok(_) => &counts.confirmed,
            Err(_) => &counts.failed,
        };
        count.fetch_add(1, Relaxed);
        if let Some(confirm) = self.confirm.take() {
            confirm(went);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell_once(Err(Failure::Failed));
        }
    }
}

/// The producer of one cluster.
pub struct Producer {
    config: Config,
    jobs: mpsc::Sender<Job>,
    load: Arc<Load>,
    topics: Topics,
    /// What was counted.
    pub counts: Arc<Counts>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    /// Starts one; servers that cannot be reached are tried again for every message.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(name: &str, config: Config) -> io::Result<Arc<Self>> {
        let name: Arc<str> = name.into();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (jobs, queued) = mpsc::channel(MESSAGES);
        let load = Arc::<Load>::default();
        let delivery = Delivery::new(&name, &config);
        let left = load.clone();
        thread::Builder::new()
            .name("rocketmq".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    delivery.run(queued).await;
                    // Whoever brought what is still on its way is told within its time.
                    while left.messages.load(Relaxed) > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                });
            })?;
        Ok(Arc::new(Self {
            topics: Topics::new(config.topics, config.topic_idle),
            config,
            jobs,
            load,
            counts: Arc::default(),
        }))
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes a message, for as long as it may take at most; `confirm` is told when a broker has it, or does not get it.
    ///
    /// # Errors
    /// If it is not taken; nobody is told then.
    pub(crate) fn send(
        &self,
        parcel: Parcel,
        owner: &str,
        timeout: Option<Duration>,
        confirm: Option<Confirm>,
    ) -> Result<(), Failure> {
        let taken = self.take(parcel, owner, timeout, confirm);
        match taken {
            Ok(()) => self.counts.taken.fetch_add(1, Relaxed),
            Err(Failure::Full) => self.counts.full.fetch_add(1, Relaxed),
            Err(_) => 0,
        };
        taken
    }

    fn take(
        &self,
        parcel: Parcel,
        owner: &str,
        timeout: Option<Duration>,
        confirm: Option<Confirm>,
    ) -> Result<(), Failure> {
        if parcel.body.len() + parcel.properties.len() > self.config.longest {
            return Err(Failure::TooLarge);
        }
        let bytes = parcel.body.len() + parcel.properties.len() + OVERHEAD;
        let room = self.room(bytes).ok_or(Failure::Full)?;
        match self.topics.admit(&parcel.topic, owner) {
            Admitted::Yes => {}
            // Nothing here remembers names: there is nothing to begin anew.
            Admitted::YesButRenew => self.topics.renewed(),
            Admitted::Later => return Err(Failure::Full),
            Admitted::Never => return Err(Failure::TooManyTopics),
        }
        let place = self.jobs.try_reserve().map_err(|_| Failure::Full)?;
        place.send(Job {
            parcel,
            deadline: Instant::now() + timeout.unwrap_or(self.config.timeout),
            confirm,
            is_told: false,
            room,
        });
        Ok(())
    }

    fn room(&self, bytes: usize) -> Option<Room> {
        // Counted first: of two who come at once, one may be refused for the other's sake, but never both be let in.
        let messages = self.load.messages.fetch_add(1, Relaxed) + 1;
        let all = self.load.bytes.fetch_add(bytes, Relaxed) + bytes;
        let room = Room {
            load: self.load.clone(),
            counts: self.counts.clone(),
            bytes,
        };
        (messages <= MESSAGES && all <= BYTES).then_some(room)
    }

    /// Waits until everything that was taken is confirmed or has failed, or `limit` is over. Blocks.
    pub fn flush(&self, limit: Duration) {
        let began = Instant::now();
        while self.load.messages.load(Relaxed) > 0 {
            if began.elapsed() >= limit {
                let left = self.load.messages.load(Relaxed);
                tracing::warn!(left, "messages for RocketMQ were not written in time");
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |own| i64::try_from(own.as_millis()).unwrap_or_default())
}
