//! Tap: exchanges as they end, to whoever watches. A reader that is too slow loses lines, and is told how
//! many; traffic never waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finback_core::record::{Record, SeriesKey};
use finback_observability::{Watcher, Watching};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::units;
use crate::running::Running;

use super::conversation::{Answer, Body};
use super::query::{Query, encode};
use super::seen::{is_error, shown};

/// Lines that wait for the reader, at most.
const WAITING: usize = 1024;
/// Exchanges that are shown per second unless it is said how many.
const USUAL_RATE: u32 = 100;
/// The same at most: each costs its worker a little.
const MOST: u32 = 5000;
/// Taps at a time.
const TAPS: usize = 4;
/// After so long without an exchange there is an empty line, so that both sides know of each other.
const SILENCE: Duration = Duration::from_secs(5);

/// What a query may say.
const NAMES: [&str; 10] = [
    "service",
    "method",
    "outcome",
    "protocol",
    "listener",
    "route",
    "cluster",
    "endpoint",
    "slower_than",
    "rate",
];

/// Room for taps.
pub(super) struct Taps(Arc<Semaphore>);

impl Default for Taps {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TAPS)))
    }
}

/// Which exchanges are shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TapFilter {
    /// Only of this service; with a `*` at its end, of those that begin so.
    #[arg(long)]
    pub service: Option<String>,
    /// Only of this method, likewise.
    #[arg(long)]
    pub method: Option<String>,
    /// Only with this outcome; `error` for all but `success` and `sent`.
    #[arg(long)]
    pub outcome: Option<String>,
    /// Only that took longer, such as `100ms`.
    #[arg(long, value_name = "TIME")]
    pub slower_than: Option<String>,
    /// Only of this protocol.
    #[arg(long)]
    pub protocol: Option<String>,
    /// Only of this listener.
    #[arg(long)]
    pub listener: Option<String>,
    /// Only of this route.
    #[arg(long)]
    pub route: Option<String>,
    /// Only with an endpoint of this cluster.
    #[arg(long)]
    pub cluster: Option<String>,
    /// Only with this endpoint.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// So many per second at most, up to 5000. Default: 100.
    #[arg(long, value_name = "NUMBER")]
    pub rate: Option<u32>,
}

impl TapFilter {
    fn pairs(&self) -> [(&'static str, Option<String>); 10] {
        [
            ("service", self.service.clone()),
            ("method", self.method.clone()),
            ("outcome", self.outcome.clone()),
            ("protocol", self.protocol.clone()),
            ("listener", self.listener.clone()),
            ("route", self.route.clone()),
            ("cluster", self.cluster.clone()),
            ("endpoint", self.endpoint.clone()),
            ("slower_than", self.slower_than.clone()),
            ("rate", self.rate.map(|own| own.to_string())),
        ]
    }

    /// The request that asks for it.
    #[must_use]
    pub fn target(&self) -> String {
        let pairs = self.pairs().into_iter();
        let pairs = pairs.filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?))));
        format!("/tap?{}", pairs.collect::<Vec<_>>().join("&"))
    }

    fn read(query: &Query) -> Result<Self, String> {
        if let Some(name) = query.unknown(&NAMES) {
            return Err(format!(
                "`{name}` means nothing; write {}",
                NAMES.join(", ")
            ));
        }
        let text = |name: &str| query.get(name).map(str::to_owned);
        let rate = query.get("rate").map(|own| {
            let rate = own.parse().ok().filter(|own| (1..=MOST).contains(own));
            rate.ok_or_else(|| format!("`{own}` is not a rate; write 1 to {MOST}"))
        });
        Ok(Self {
            service: text("service"),
            method: text("method"),
            outcome: text("outcome"),
            slower_than: text("slower_than"),
            protocol: text("protocol"),
            listener: text("listener"),
            route: text("route"),
            cluster: text("cluster"),
            endpoint: text("endpoint"),
            rate: rate.transpose()?,
        })
    }
}

/// A filter as it is applied, and where lines go.
struct Tap {
    filter: TapFilter,
    longer_than: Duration,
    rate: u64,
    begun: Instant,
    /// The second, and how many were shown in it.
    window: AtomicU64,
    lost: Arc<AtomicU64>,
    lines: Sender<Bytes>,
}

/// Whether a text is as it is wanted.
fn fits(wanted: Option<&String>, text: &str) -> bool {
    match wanted.map(String::as_str) {
        None => true,
        Some(wanted) => match wanted.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => wanted == text,
        },
    }
}

impl Tap {
    fn wants(&self, key: &SeriesKey, record: &Record<'_>) -> bool {
        let own = &self.filter;
        let outcome = match own.outcome.as_deref() {
            None => true,
            Some("error") => is_error(record.ending),
            Some(name) => record.ending.name() == name,
        };
        outcome
            && record.took() >= self.longer_than
            && fits(own.service.as_ref(), &key.service)
            && fits(own.method.as_ref(), &key.method)
            && fits(own.protocol.as_ref(), key.protocol)
            && fits(own.listener.as_ref(), &key.listener)
            && fits(own.route.as_ref(), record.about.route())
            && fits(own.cluster.as_ref(), record.about.cluster())
            && own.endpoint.as_ref().is_none_or(|wanted| {
                record
                    .about
                    .endpoint()
                    .is_some_and(|own| own.to_string() == *wanted)
            })
    }

    /// Whether there is room for one more in this second. Workers that begin a second together may let
    /// a few more through.
    fn admit(&self) -> bool {
        let second = self.begun.elapsed().as_secs() << 32;
        if self.window.load(Relaxed) >> 32 << 32 != second {
            self.window.store(second, Relaxed);
        }
        self.window.fetch_add(1, Relaxed) & u64::from(u32::MAX) < self.rate
    }
}

impl Watcher for Tap {
    fn see(&self, key: &SeriesKey, record: &Record<'_>) {
        if !self.wants(key, record) {
            return;
        }
        // First whether it would be taken: making a line costs more than that.
        if self.lines.capacity() == 0 || !self.admit() {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let line = format!("{}\n", shown(key, record));
        if self.lines.try_send(line.into()).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A tap from its reader's side; dropping it ends it.
struct Flow {
    lines: Receiver<Bytes>,
    lost: Arc<AtomicU64>,
    pulse: Arc<Pulse>,
    _watching: Watching,
    _place: OwnedSemaphorePermit,
}

/// When the reader last took something.
pub(super) struct Pulse {
    begun: Instant,
    taken: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            taken: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    fn beat(&self) {
        self.taken.store(self.begun.elapsed().as_secs(), Relaxed);
    }

    /// For how long nothing was taken.
    pub(super) fn silence(&self) -> Duration {
        let now = self.begun.elapsed().as_secs();
        Duration::from_secs(now.saturating_sub(self.taken.load(Relaxed)))
    }
}

impl Flow {
    /// The next line: of an exchange, of how many were lost, or an empty one.
    async fn next(&mut self) -> Option<Bytes> {
        self.pulse.beat();
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            return Some(format!("{{\"lost\":{lost}}}\n").into());
        }
        match tokio::time::timeout(SILENCE, self.lines.recv()).await {
            Ok(line) => line,
            Err(_) => Some(Bytes::from_static(b"\n")),
        }
    }
}

/// Begins a tap.
pub(super) fn begin(query: &Query, running: &Running, taps: &Taps) -> Answer {
    let bad = |why: String| Answer::text(StatusCode::BAD_REQUEST, format!("{why}\n"));
    let filter = match TapFilter::read(query) {
        Ok(filter) => filter,
        Err(why) => return bad(why),
    };
    let longer_than = match filter.slower_than.as_deref().map(units::time) {
        None => Duration::ZERO,
        Some(Ok(time)) => time,
        Some(Err(why)) => return bad(why),
    };
    let Ok(place) = taps.0.clone().try_acquire_owned() else {
        let text = format!("{TAPS} taps are open already; end one of them\n");
        return Answer::text(StatusCode::TOO_MANY_REQUESTS, text);
    };
    let (sender, lines) = channel(WAITING);
    let lost = Arc::<AtomicU64>::default();
    let tap = Tap {
        longer_than,
        rate: u64::from(filter.rate.unwrap_or(USUAL_RATE)),
        filter,
        begun: Instant::now(),
        window: AtomicU64::new(0),
        lost: lost.clone(),
        lines: sender,
    };
    let pulse = Arc::<Pulse>::default();
    let flow = Flow {
        lines,
        lost,
        pulse: pulse.clone(),
        _watching: running.watchers.add(Arc::new(tap)),
        _place: place,
    };
    let mut answer = Answer::new(StatusCode::OK, "application/x-ndjson", "");
    answer.body = body(flow);
    answer.pulse = Some(pulse);
    answer
}

fn body(flow: Flow) -> Body {
    let lines = stream::unfold(flow, |mut flow| async move {
        let line = flow.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), flow))
    });
    StreamBody::new(lines).boxed_unsync()
}
