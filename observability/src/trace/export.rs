//! The exporter: takes what workers finished and brings it to a collector, in batches, on its own thread.
//!
//! Between the two are [`Lanes`], into which workers write and never wait: what does not fit is dropped and
//! counted. The exporter only puts an envelope around what it finds there. Whether the collector is slow, refuses or is gone, no call notices.

mod transport;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use finback_core::clock::Clock;
use finback_core::trace::Finished;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::lanes::{Chunk, Lane, Lanes, NoRoom};
use super::otlp::Envelope;
use super::span::{Attribute, Value};
use super::templates::Templates;
use transport::{Sent, Transport};

pub use transport::{Collector, Encoding, Headers, Tls};

/// How often buffers that are not full are looked into.
const LOOK: Duration = Duration::from_millis(100);
/// What waits is sent after so long, be it few.
const DELAY: Duration = Duration::from_secs(1);
/// Spans of one request, about: an exchange's are never torn apart.
const BATCH: u64 = 2048;
/// Bytes of one request, about: collectors take 4 MiB unless told otherwise.
const BATCH_BYTES: usize = 1024 * 1024;
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
    /// Exchanges of one listener that may wait.
    pub queue: usize,
    /// Kept tails of one listener and second.
    pub tails: u32,
}

impl Settings {
    /// Our service, and our process.
    pub(super) fn identity(&self) -> (String, String) {
        let of = |name| {
            let mut found = self.resource.iter();
            let found = found.find(|(own, _)| own == name);
            found.map_or_else(|| "finback".to_owned(), |(_, value)| value.clone())
        };
        (of("service.name"), of("service.instance.id"))
    }
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
pub struct Exporter {
    settings: Settings,
    lanes: Arc<Lanes>,
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
        let (lanes, chunks) = Lanes::new(settings.queue, settings.tails, &clock);
        let resource = settings.resource.iter();
        let resource: Vec<Attribute<'_>> = resource
            .map(|(name, value)| (name.as_str().into(), Value::from(value.as_str())))
            .collect();
        let (order, orders) = watch::channel(Order::Work);
        let (tell, done) = oneshot::channel();
        let work = Work {
            lanes: lanes.clone(),
            chunks,
            orders,
            clock,
            counts: counts.clone(),
            envelope: Envelope::new(&resource),
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
            settings,
            lanes,
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

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Has an exchange written into a worker's lane.
    pub(super) fn take(
        &self,
        lane: &Lane,
        finished: &Finished<'_>,
        write: impl FnOnce(&mut Templates, &mut Vec<u8>),
    ) {
        let spans = finished.spans() as u64;
        if !finished.sampled && lane.share.tails.admit(finished.ended).is_none() {
            self.counts.limited.fetch_add(spans, Relaxed);
            return;
        }
        if let Err(NoRoom) = self.lanes.put(lane, spans, write) {
            self.counts.dropped.fetch_add(spans, Relaxed);
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

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.lanes.end();
    }
}

/// The exporter's own side.
struct Work {
    lanes: Arc<Lanes>,
    chunks: Receiver<Chunk>,
    orders: watch::Receiver<Order>,
    clock: Clock,
    counts: Arc<Counts>,
    envelope: Envelope,
    transport: Transport,
    pending: Vec<Chunk>,
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
            () = self.lanes.wake.notified() => {}
            () = sleep_until(until) => {}
        }
    }

    /// Takes what waits, up to a batch.
    fn collect(&mut self) -> Queue {
        // Read first: what was put there before is found after.
        let is_over = self.lanes.is_over();
        self.lanes.set_clock(&self.clock);
        while !self.is_full() {
            let Some(chunk) = self.lanes.next_full(&self.chunks) else {
                let rest = self.lanes.rest();
                self.pending.extend(rest);
                let waits = !self.pending.is_empty();
                self.waits_since = self.waits_since.or(waits.then(Instant::now));
                return match (self.is_full(), is_over) {
                    (true, _) => Queue::Full,
                    (false, true) => Queue::Over,
                    (false, false) => Queue::Empty,
                };
            };
            self.pending.push(chunk);
        }
        Queue::Full
    }

    /// Whether there is a batch.
    fn is_full(&self) -> bool {
        let spans: u64 = self.pending.iter().map(|own| own.spans).sum();
        let bytes: usize = self.pending.iter().map(|own| own.bytes.len()).sum();
        spans >= BATCH || bytes >= BATCH_BYTES
    }

    /// Brings one batch away, or gives it up.
    async fn export(&mut self) {
        let batch = std::mem::take(&mut self.pending);
        self.waits_since = None;
        let spans: u64 = batch.iter().map(|own| own.spans).sum();
        if self.is_hopeless {
            self.counts.failed.fetch_add(spans, Relaxed);
            return;
        }
        let request = self.request(batch);
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
    async fn send(&mut self, request: &[Bytes]) -> Sent {
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

    fn request(&self, batch: Vec<Chunk>) -> Vec<Bytes> {
        let spans = batch.iter().map(|own| own.bytes.len()).sum();
        let (before, after) = self.envelope.around(spans);
        let mut parts = vec![before.into()];
        parts.extend(batch.into_iter().map(|own| Bytes::from(own.bytes)));
        parts.push(after.into());
        parts
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
