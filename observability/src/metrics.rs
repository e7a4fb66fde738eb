//! The metrics of exchanges: which series there are, and how they are put into a sink.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finback_core::frame::Status;
use finback_core::record::{self, Observer, SeriesKey};
use finback_core::text;

use crate::counts::{Counts, Sums};
use crate::families;
use crate::lags::{self, Lags, Latest};
use crate::sink::MetricSink;

/// Series that one listener may have, over all workers; what comes beyond is counted as the service
/// `(other)`. The bound is each listener's own, so that callers of one do not blind another.
const MAX_SERIES: usize = 4096;

/// Methods that one service may have at a listener; what comes beyond is counted as the method
/// `(other)`: routes and registries know services, but methods are the callers' word.
const MAX_METHODS: usize = 256;

/// The service, or method, of what has no series of its own.
const OTHER: &str = "(other)";

/// A label is cut to this many bytes: callers choose its length, we keep it for long.
const MAX_LABEL: usize = 256;

/// What a status is called in its protocol; `None` where it has no such status. There is a bounded set of
/// names for each protocol.
pub type StatusName = fn(protocol: &str, status: Status) -> Option<Cow<'static, str>>;

/// The metrics of all exchanges.
pub struct Metrics {
    status_name: StatusName,
    /// By the listener's name.
    listeners: Mutex<BTreeMap<Arc<str>, Listener>>,
}

/// The series of one listener.
#[derive(Default)]
struct Listener {
    series: BTreeMap<Name, Series>,
    /// How many methods of each service have a series of their own.
    methods: HashMap<Service, usize>,
    /// How often a name found no place of its own.
    refused: Refused,
    /// What its consumers' lags are, by worker.
    lags: Vec<Arc<Lags>>,
}

/// Names that found no place of their own, by what was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The service's methods.
    pub(crate) methods: u64,
    /// The listener's series.
    pub(crate) series: u64,
}

/// A protocol, and a service called by it.
type Service = (&'static str, Arc<str>);

/// What tells a listener's series apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) protocol: &'static str,
    pub(crate) service: Arc<str>,
    pub(crate) method: Arc<str>,
}

/// One series: its counts by worker.
type Series = Vec<Option<Arc<Counts>>>;

/// One series as it is shown.
pub(crate) struct Row {
    pub(crate) listener: Arc<str>,
    pub(crate) name: Name,
    pub(crate) sums: Sums,
}

/// How full a listener's series are.
pub(crate) struct Fill {
    pub(crate) listener: Arc<str>,
    pub(crate) series: usize,
    pub(crate) refused: Refused,
}

/// What one series comes to.
#[derive(Clone, Debug)]
pub struct Totals {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The protocol's name.
    pub protocol: &'static str,
    /// The service, as it is counted.
    pub service: Arc<str>,
    /// The method, as it is counted.
    pub method: Arc<str>,
    /// Exchanges by how they ended.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Exchanges by how long they took: up to each of [`BOUNDS`](crate::BOUNDS), and beyond.
    pub buckets: Vec<u64>,
}

impl Observer for Metrics {
    fn series(&self, worker: usize, key: &SeriesKey) -> Arc<dyn record::Series> {
        let mut listeners = self.lock();
        let listener = listeners.entry(key.listener.clone()).or_default();
        let name = listener.admit(key);
        if listener.lags.len() <= worker {
            listener.lags.resize_with(worker + 1, Arc::default);
        }
        let lags = (&*name.service != OTHER).then(|| {
            let lags = listener.lags[worker].clone();
            (name.service.clone(), lags)
        });
        let series = listener.series.entry(name).or_default();
        if series.len() <= worker {
            series.resize_with(worker + 1, || None);
        }
        series[worker]
            .get_or_insert_with(|| Arc::new(Counts::of(lags)))
            .clone()
    }
}

impl Listener {
    /// The name under which exchanges of this key are counted.
    fn admit(&mut self, key: &SeriesKey) -> Name {
        let others = |service: &Arc<str>, method: &str| Name {
            protocol: key.protocol,
            service: service.clone(),
            method: method.into(),
        };
        if !key.known {
            return others(&OTHER.into(), "");
        }
        let name = Name {
            protocol: key.protocol,
            service: label(&key.service),
            method: label(&key.method),
        };
        if self.series.contains_key(&name) {
            return name;
        }
        let service = (name.protocol, name.service.clone());
        let methods = self.methods.get(&service).copied().unwrap_or(0);
        if methods >= MAX_METHODS {
            self.refused.methods += 1;
            return others(&name.service, OTHER);
        }
        if self.series.len() >= MAX_SERIES {
            self.refused.series += 1;
            return others(&OTHER.into(), "");
        }
        self.methods.insert(service, methods + 1);
        name
    }
}

/// The text, or as many whole characters of it as a label may have.
pub(crate) fn cut(text: &str) -> &str {
    text::cut(text, MAX_LABEL)
}

fn label(text: &Arc<str>) -> Arc<str> {
    match cut(text) {
        shorter if shorter.len() < text.len() => shorter.into(),
        _ => text.clone(),
    }
}

impl Metrics {
    /// Nothing was counted yet. Statuses are shown by their names.
    #[must_use]
    pub fn new(status_name: StatusName) -> Self {
        Self {
            status_name,
            listeners: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts everything that was recorded into a sink.
    pub fn collect(&self, sink: &mut dyn MetricSink) {
        families::collect(&self.rows(), self.status_name, sink);
        families::lags(&self.lags(), sink);
        families::series(&self.fill(), sink);
    }

    /// What every series comes to, for those who show it themselves.
    #[must_use]
    pub fn totals(&self) -> Vec<Totals> {
        let rows = self.rows().into_iter();
        rows.map(|row| {
            let mut outcomes: Vec<(&'static str, u64)> = Vec::new();
            for ((ending, _), count) in &row.sums.ends {
                match outcomes.iter_mut().find(|own| own.0 == ending.name()) {
                    Some((_, sum)) => *sum += count,
                    None => outcomes.push((ending.name(), *count)),
                }
            }
            Totals {
                listener: row.listener,
                protocol: row.name.protocol,
                service: row.name.service,
                method: row.name.method,
                outcomes,
                buckets: row.sums.latencies.buckets.to_vec(),
            }
        })
        .collect()
    }

    /// Every series, summed over workers: what is written is read from this, outside the lock.
    fn rows(&self) -> Vec<Row> {
        let listeners = self.lock();
        let all = listeners.iter().flat_map(|(listener, own)| {
            own.series.iter().map(|(name, series)| {
                let mut sums = Sums::default();
                for counts in series.iter().flatten() {
                    counts.add_to(&mut sums);
                }
                Row {
                    listener: listener.clone(),
                    name: name.clone(),
                    sums,
                }
            })
        });
        all.collect()
    }

    /// The lags that each listener's workers were told of: read outside the lock.
    fn lags(&self) -> Vec<(Arc<str>, lags::Sums)> {
        let listeners = self.lock();
        let all = listeners.iter();
        let all = all.map(|(name, own)| (name.clone(), own.lags.clone()));
        let all: Vec<_> = all.collect();
        drop(listeners);
        let each = all.into_iter().map(|(name, workers)| {
            let mut latest = Latest::default();
            workers.iter().for_each(|own| own.add_to(&mut latest));
            (name, latest.sums())
        });
        each.collect()
    }

    fn fill(&self) -> Vec<Fill> {
        let listeners = self.lock();
        let all = listeners.iter().map(|(listener, own)| Fill {
            listener: listener.clone(),
            series: own.series.len(),
            refused: own.refused,
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests;
