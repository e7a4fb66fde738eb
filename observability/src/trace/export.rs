//! The exporter: takes what workers finished and brings it to a collector, in batches, on its own thread.
//!
//! Between the two are [`Lanes`], into which workers write and never wait: what does not fit is dropped and
//! counted. The exporter only puts an envelope around what it finds there. Whether the collector is slow, refuses or is gone, no call notices.

mod transport;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use finback_core::clock::Clock;
use finback_core::trace::Finished;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::lanes::{Lane, Lanes, NoRoom};
use super::otlp::Envelope;
use super::span::{Attribute, Value};
use super::templates::Templates;
use transport::Transport;
use work::Work;

pub use transport::{Collector, Encoding, ExportTls, Headers};

/// How often buffers that are not full are looked into.
const LOOK: Duration = Duration::from_millis(100);
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
