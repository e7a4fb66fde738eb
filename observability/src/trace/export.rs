//! The exporter: takes what workers finished and brings it to a collector, in batches, on its own thread.
//!
//! Between the two is a bounded queue into which workers put what they have and never wait: what does not
//! fit is dropped and counted. The exporter looks into the queue ten times a second, so that putting
//! something there wakes nobody. Whether the collector is slow, refuses or is gone, no call notices.

mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use finback_core::clock::{Clock, Now};
use finback_core::log_limit::LogLimit;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::conventions;
use super::otlp;
use super::span::{Attribute, Exported, Value};
use transport::{Sent, Transport};

pub use transport::{Collector, Encoding, Headers, Tls};

/// How often the queue is looked into.
const LOOK: Duration = Duration::from_millis(100);
/// What waits is sent after so long, be it few.
const DELAY: Duration = Duration::from_secs(1);
/// Spans of one request, about: an exchange's are never torn apart.
const BATCH: usize = 1024;
/// A batch is tried again for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses between the tries of a batch begin and end with this.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// An exporter that is replaced takes what is still finished for so long.
const LINGER: Duration = Duration::from_secs(60);

/// What was counted, in spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// That a collector took.
    pub exported: AtomicU64,
    /// That found no room in the queue.
    pub dropped: AtomicU64,
    /// That no collector took: it refused them, or could not be reached in time.
    pub failed: AtomicU64,
    /// Kept tails beyond those of one second.
    pub limited: AtomicU64,
    /// Requests to a collector that failed, those that were tried again included.
    pub failures: AtomicU64,
}

/// How exporting is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub collector: Collector,
    /// Who we are: attributes of the resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Exchanges that may wait.
    pub queue: usize,
    /// Kept tails of one second.
    pub tails: u32,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |own: &Self| (own.resource.clone(), own.queue, own.tails);
        self.collector == other.collector && is_same(self) == is_same(other)
    }
}

/// What the exporter is to do.
#[derive(Clone, Copy, Debug)]
enum Order {
    Work,
    /// Another one has taken its place: work until then, or until nobody can finish anything.
    Linger(Instant),
    /// Nothing more will come: bring away what is there, until then.
    Flush(Instant),
}

/// An exporter at work. Dropping the last handle has it bring away what is there, and end.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    queue: SyncSender<Box<Exported>>,
    tails: LogLimit,
    counts: Arc<Counts>,
    order: watch::Sender<Order>,
    done: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Exporter {
    /// Starts its thread. Moments of exchanges are those of `clock`; what it counts is added to `counts`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        settings: Settings,
        clock: Clock,
        counts: Arc<Counts>,
    ) -> std::io::Result<Arc<Self>> {
        let (queue, finished) = sync_channel(settings.queue);
        let (order, orders) = watch::channel(Order::Work);
        let (tell, done) = oneshot::channel();
        let work = Work {
            finished,
            orders,
            clock,
            counts: counts.clone(),
            resource: settings.resource.clone(),
            transport: Transport::new(settings.collector.clone()),
            pending: Vec::new(),
            waits_since: None,
            is_down: false,
            is_hopeless: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("spans".to_owned())
            .spawn(move || {
                runtime.block_on(work.run());
                // Nobody may be waiting for it.
                let _ = tell.send(());
            })?;
        Ok(Arc::new(Self {
            tails: LogLimit::per_second(settings.tails),
            settings,
            queue,
            counts,
            order,
            done: tokio::sync::Mutex::new(Some(done)),
        }))
    }

    /// How it was configured.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn take(&self, finished: Box<Exported>) {
        let spans = finished.spans() as u64;
        if !finished.sampled && self.tails.admit(finished.ended).is_none() {
            self.counts.limited.fetch_add(spans, Relaxed);
            return;
        }
        match self.queue.try_send(finished) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(spans, Relaxed);
            }
        }
    }

    /// Says that another one takes its place: it ends when what was begun has had time to finish.
    pub fn retire(&self) {
        self.order
            .send_replace(Order::Linger(Instant::now() + LINGER));
    }

    /// Brings away what is there, for as long as `limit`, and ends. To be called when nothing more comes.
    pub async fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        self.order.send_replace(Order::Flush(until));
        if let Some(done) = self.done.lock().await.take() {
            // A little longer, for its own account of what did not go.
            let _ = timeout_at(until + LOOK, done).await;
        }
    }
}

/// The exporter's own side.
struct Work {
    finished: Receiver<Box<Exported>>,
    orders: watch::Receiver<Order>,
    clock: Clock,
    counts: Arc<Counts>,
    resource: Vec<(String, String)>,
    transport: Transport,
    #[expect(clippy::vec_box, reason = "they come in boxes")]
    pending: Vec<Box<Exported>>,
    waits_since: Option<Instant>,
    /// The last request failed, and somebody was told.
    is_down: bool,
    /// The end has come, and the collector takes nothing.
    is_hopeless: bool,
}

/// What is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// More than one batch.
    Full,
    Empty,
    /// Nobody can put anything there any more.
    Over,
}

impl Work {
    async fn run(mut self) {
        loop {
            let queue = self.collect();
            let order = *self.orders.borrow_and_update();
            let flushes = matches!(order, Order::Flush(_)) || queue == Queue::Over;
            let waited = self
                .waits_since
                .is_some_and(|since| since.elapsed() >= DELAY);
            if !self.pending.is_empty() && (queue == Queue::Full || waited || flushes) {
                self.export().await;
                continue;
            }
            match order {
                _ if queue == Queue::Over => return,
                Order::Flush(_) => return,
                Order::Linger(until) if until <= Instant::now() => return,
                Order::Work | Order::Linger(_) => self.pause(Instant::now() + LOOK).await,
            }
        }
    }

    /// Waits until then, or until it is told something else to do.
    async fn pause(&mut self, until: Instant) {
        tokio::select! {
            biased;
            told = self.orders.changed() => {
                // Whoever could tell it something is gone: the queue tells the same.
                if told.is_err() {
                    sleep_until(until).await;
                }
            }
            () = sleep_until(until) => {}
        }
    }

    /// Takes what waits, up to a batch.
    fn collect(&mut self) -> Queue {
        let mut spans: usize = self.pending.iter().map(|own| own.spans()).sum();
        while spans < BATCH {
            match self.finished.try_recv() {
                Ok(finished) => {
                    spans += finished.spans();
                    self.pending.push(finished);
                    self.waits_since.get_or_insert_with(Instant::now);
                }
                Err(TryRecvError::Empty) => return Queue::Empty,
                Err(TryRecvError::Disconnected) => return Queue::Over,
            }
        }
        Queue::Full
    }

    /// Brings one batch away, or gives it up.
    async fn export(&mut self) {
        let batch = std::mem::take(&mut self.pending);
        self.waits_since = None;
        let spans: usize = batch.iter().map(|own| own.spans()).sum();
        let spans = spans as u64;
        if self.is_hopeless {
            self.counts.failed.fetch_add(spans, Relaxed);
            return;
        }
        let request = self.encode(&batch);
        drop(batch);
        let gives_up = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        loop {
            let again = match self.send(&request).await {
                Sent::Taken { rejected } => {
                    let rejected = rejected.min(spans);
                    self.counts.failed.fetch_add(rejected, Relaxed);
                    self.counts.exported.fetch_add(spans - rejected, Relaxed);
                    self.recovered();
                    return;
                }
                Sent::Refused { why } => {
                    self.complain(&why);
                    None
                }
                Sent::Failed { why, after } => {
                    self.complain(&why);
                    Some(after.unwrap_or(pause))
                }
            };
            self.counts.failures.fetch_add(1, Relaxed);
            let order = *self.orders.borrow_and_update();
            let until = match order {
                Order::Work => gives_up,
                Order::Linger(until) | Order::Flush(until) => gives_up.min(until),
            };
            // At the end nobody waits for a collector that does not take what it is sent.
            self.is_hopeless = matches!(order, Order::Flush(_));
            let again = again.filter(|_| !self.is_hopeless);
            let next = again.map(|pause| Instant::now() + pause);
            let Some(next) = next.filter(|next| *next < until) else {
                self.counts.failed.fetch_add(spans, Relaxed);
                return;
            };
            self.pause(next).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sends a batch once. While flushing there is no more time than was given for that.
    async fn send(&mut self, request: &[u8]) -> Sent {
        let mut orders = self.orders.clone();
        let ends = async move {
            loop {
                if let Order::Flush(until) = *orders.borrow_and_update() {
                    return sleep_until(until).await;
                }
                if orders.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            biased;
            sent = self.transport.send(request) => sent,
            () = ends => Sent::Refused { why: "the process stops".to_owned() },
        }
    }

    fn encode(&self, batch: &[Box<Exported>]) -> Vec<u8> {
        let wall = Wall::now(&self.clock);
        let mut spans = Vec::with_capacity(batch.len() * 2);
        for exported in batch {
            conventions::spans(exported, |moment| wall.nanoseconds(moment), &mut spans);
        }
        let resource = self.resource.iter();
        let resource: Vec<Attribute<'_>> = resource
            .map(|(name, value)| (name.as_str().into(), Value::from(value.as_str())))
            .collect();
        otlp::request(&resource, &spans)
    }

    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_down, true) {
            let collector = self.transport.collector();
            let why = finback_core::text::Escaped(why);
            tracing::warn!(%collector, %why, "spans cannot be exported; calls go on without");
        }
    }

    fn recovered(&mut self) {
        if std::mem::replace(&mut self.is_down, false) {
            let collector = self.transport.collector();
            tracing::info!(%collector, "spans are exported again");
        }
    }
}

/// The time of day as the process's clock has it now: the two may drift apart.
struct Wall {
    now: Now,
    nanoseconds: u64,
}

impl Wall {
    fn now(clock: &Clock) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = since.map_or(0, |since| since.as_nanos());
        Self {
            now: clock.now(),
            nanoseconds: u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        }
    }

    fn nanoseconds(&self, moment: Now) -> u64 {
        let ago = u64::try_from(self.now.since(moment).as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.saturating_sub(ago)
    }
}
