//! The exporter's thread: it gathers batches, sends each until a collector takes it or its time is over, and
//! counts what became of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use finback_core::clock::Clock;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::lanes::{Chunk, Lanes};
use super::super::otlp::Envelope;
use super::transport::{Sent, Transport};
use super::{Counts, LOOK, Order};

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

/// The exporter's own side.
pub(super) struct Work {
    pub(super) lanes: Arc<Lanes>,
    pub(super) chunks: Receiver<Chunk>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) clock: Clock,
    pub(super) counts: Arc<Counts>,
    pub(super) envelope: Envelope,
    pub(super) transport: Transport,
    pub(super) pending: Vec<Chunk>,
    pub(super) waits_since: Option<Instant>,
    /// The last request failed, and somebody was told.
    pub(super) is_down: bool,
    /// The end has come, and the collector takes nothing.
    pub(super) is_hopeless: bool,
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
    pub(super) async fn run(mut self) {
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
