//! StatsD sender: sends metrics in rounds, on a thread that may wait, and never on a worker's.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finback_observability::statsd::{Link, Packets, Sent, Settings, StatsdServer};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::metrics;
use crate::running::Running;

/// After so long a host name is asked for anew, and another socket used.
const RESOLVED: Duration = Duration::from_secs(60);

/// The exporter. What it sent is kept here, whatever becomes of the task that sends.
pub struct Statsd {
    settings: watch::Sender<Option<Arc<Settings>>>,
    packets: Packets,
    sending: Mutex<Sending>,
    /// The last round was not sent; told when that changes.
    failing: AtomicBool,
}

#[derive(Default)]
struct Sending {
    sent: Sent,
    link: Option<(Arc<Settings>, Link, Instant)>,
}

impl Statsd {
    /// One that sends nothing yet unless there are settings.
    pub fn new(settings: Option<Settings>) -> Self {
        Self {
            settings: watch::Sender::new(settings.map(Arc::new)),
            packets: Packets::default(),
            sending: Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// What became of packets.
    pub fn packets(&self) -> &Packets {
        &self.packets
    }

    /// Puts other settings in force.
    pub fn replace(&self, settings: Option<Settings>) {
        self.settings.send_if_modified(|own| {
            let changed = own.as_deref() != settings.as_ref();
            if changed {
                *own = settings.map(Arc::new);
            }
            changed
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sending> {
        // A round that panicked has noted what it sent so far.
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a round every interval, for as long as the process runs.
pub async fn keep_sending(running: Arc<Running>) {
    let mut settings = running.statsd.settings.subscribe();
    let mut was_on = settings.borrow().is_some();
    loop {
        let now = settings.borrow_and_update().clone();
        let Some(now) = now else {
            was_on = false;
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        };
        if !was_on {
            // The server is not told at once of all that happened before it was asked to count.
            let skipping = running.clone();
            let skip = move || {
                let walk = |sink: &mut dyn finback_observability::MetricSink| {
                    metrics::collect(&skipping, sink);
                };
                skipping.statsd.lock().sent.skip(walk);
            };
            let _ = tokio::task::spawn_blocking(skip).await;
            was_on = true;
        }
        let mut ticks = tokio::time::interval_at(Instant::now() + now.interval, now.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => round(&running, &now).await,
                changed = settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

/// Sends what is left, when the process stops.
pub async fn flush(running: &Arc<Running>) {
    let settings = running.statsd.settings.borrow().clone();
    if let Some(settings) = settings {
        round(running, &settings).await;
    }
}

/// Sends one round. Failures are counted, and told now and then.
async fn round(running: &Arc<Running>, settings: &Arc<Settings>) {
    let address = match resolve(&settings.destination).await {
        Ok(address) => address,
        Err(error) => return tell(&running.statsd, settings, Some(&error)),
    };
    let (own, asked) = (running.clone(), settings.clone());
    let sending = tokio::task::spawn_blocking(move || send(&own, &asked, address));
    match sending.await {
        Ok(Ok(())) => tell(&running.statsd, settings, None),
        Ok(Err(error)) => tell(&running.statsd, settings, Some(&error)),
        Err(_) => tracing::error!("a round of StatsD ended by a panic; the next goes on"),
    }
}

/// The address of a host name; `None` for a socket in the file system.
async fn resolve(destination: &StatsdServer) -> io::Result<Option<SocketAddr>> {
    match destination {
        StatsdServer::Unix(_) => Ok(None),
        StatsdServer::Udp(host) => {
            if let Ok(address) = host.parse() {
                return Ok(Some(address));
            }
            let found = tokio::net::lookup_host(host).await?.next();
            found
                .map(Some)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }
}

/// Blocks for some milliseconds where there is much to send.
fn send(
    running: &Arc<Running>,
    settings: &Arc<Settings>,
    address: Option<SocketAddr>,
) -> io::Result<()> {
    let statsd = &running.statsd;
    let mut sending = statsd.lock();
    let Sending { sent, link } = &mut *sending;
    let is_good = |(own, _, since): &(Arc<Settings>, Link, Instant)| {
        Arc::ptr_eq(own, settings) && since.elapsed() < RESOLVED
    };
    if !link.as_ref().is_some_and(is_good) {
        let fresh = match (&settings.destination, address) {
            (StatsdServer::Unix(path), _) => Link::unix(path)?,
            (StatsdServer::Udp(_), Some(address)) => Link::udp(address)?,
            (StatsdServer::Udp(_), None) => return Err(io::ErrorKind::NotFound.into()),
        };
        *link = Some((settings.clone(), fresh, Instant::now()));
    }
    let Some((_, open, _)) = link else {
        return Ok(());
    };
    let walk = |sink: &mut dyn finback_observability::MetricSink| metrics::collect(running, sink);
    let told = sent.send(settings, open, &statsd.packets, walk);
    if told.is_err() {
        // Whoever listens there next may be another.
        *link = None;
    }
    told
}

/// Says when rounds begin to fail, and when they are sent again.
fn tell(statsd: &Statsd, settings: &Settings, error: Option<&io::Error>) {
    if statsd.failing.swap(error.is_some(), Relaxed) == error.is_some() {
        return;
    }
    let server = match &settings.destination {
        StatsdServer::Udp(host) => host.clone(),
        StatsdServer::Unix(path) => path.display().to_string(),
    };
    match error {
        Some(error) => tracing::warn!(
            server, %error, "metrics are not taken by StatsD; counters go with a later round"
        ),
        None => tracing::info!(server, "metrics are taken by StatsD again"),
    }
}
