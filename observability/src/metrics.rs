//! Counters and histograms of exchanges, written by workers without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finback_core::frame::Outcome;
use finback_core::record::{self, Ending, Observer, Record, SeriesKey};
use finback_core::rejection::Rejection;
use finback_core::text;

use crate::prometheus::Page;

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

/// Upper bounds of the latency histogram, in microseconds.
pub const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Endings that are not rejections.
const OTHER_ENDINGS: [Ending; 8] = [
    Ending::Answered(Outcome::Success),
    Ending::Answered(Outcome::Exception),
    Ending::Answered(Outcome::Invalid),
    Ending::Answered(Outcome::Failed),
    Ending::Answered(Outcome::Refused),
    Ending::Answered(Outcome::TimedOut),
    Ending::Sent,
    Ending::Abandoned,
];
const ENDINGS: usize = OTHER_ENDINGS.len() + Rejection::ALL.len();

/// The metrics of all exchanges.
#[derive(Default)]
pub struct Metrics {
    /// By the listener's name.
    listeners: Mutex<BTreeMap<Arc<str>, Listener>>,
}

/// The series of one listener.
#[derive(Default)]
struct Listener {
    series: BTreeMap<Name, Series>,
    /// How many methods of each service have a series of their own.
    methods: HashMap<Service, usize>,
}

/// A protocol, and a service called by it.
type Service = (&'static str, Arc<str>);

/// What tells a listener's series apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    protocol: &'static str,
    service: Arc<str>,
    method: Arc<str>,
}

/// One series: its counts by worker.
type Series = Vec<Option<Arc<Counts>>>;

/// One series of one worker. Only that worker's thread writes, so a plain load and store do.
#[derive(Default)]
struct Counts {
    endings: [AtomicU64; ENDINGS],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// A series summed over workers.
#[derive(Clone, Default)]
struct Sums {
    endings: [u64; ENDINGS],
    buckets: [u64; BOUNDS.len() + 1],
    micros: u64,
    request_bytes: u64,
    response_bytes: u64,
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
    /// Exchanges by how long they took: up to each of [`BOUNDS`], and beyond.
    pub buckets: Vec<u64>,
}

impl Observer for Metrics {
    fn series(&self, worker: usize, key: &SeriesKey) -> Arc<dyn record::Series> {
        let mut listeners = self.lock();
        let listener = listeners.entry(key.listener.clone()).or_default();
        let name = listener.admit(key);
        let series = listener.series.entry(name).or_default();
        if series.len() <= worker {
            series.resize_with(worker + 1, || None);
        }
        series[worker].get_or_insert_default().clone()
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
            service: cut(&key.service),
            method: cut(&key.method),
        };
        if self.series.contains_key(&name) {
            return name;
        }
        let service = (name.protocol, name.service.clone());
        let methods = self.methods.get(&service).copied().unwrap_or(0);
        if methods >= MAX_METHODS {
            return others(&name.service, OTHER);
        }
        if self.series.len() >= MAX_SERIES {
            return others(&OTHER.into(), "");
        }
        self.methods.insert(service, methods + 1);
        name
    }
}

/// The text, or as many whole characters of it as a label may have.
fn cut(text: &Arc<str>) -> Arc<str> {
    match text::cut(text, MAX_LABEL) {
        shorter if shorter.len() < text.len() => shorter.into(),
        _ => text.clone(),
    }
}

impl record::Series for Counts {
    fn record(&self, record: &Record<'_>) {
        add(&self.endings[place(record.ending)], 1);
        let micros = u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX);
        add(
            &self.buckets[BOUNDS.partition_point(|bound| *bound < micros)],
            1,
        );
        add(&self.micros, micros);
        add(&self.request_bytes, record.request_bytes);
        add(&self.response_bytes, record.response_bytes);
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

fn place(ending: Ending) -> usize {
    match ending {
        Ending::Answered(outcome) => match outcome {
            Outcome::Success => 0,
            Outcome::Exception => 1,
            Outcome::Invalid => 2,
            Outcome::Failed => 3,
            Outcome::Refused => 4,
            Outcome::TimedOut => 5,
        },
        Ending::Sent => 6,
        Ending::Abandoned => 7,
        Ending::Rejected(rejection) => OTHER_ENDINGS.len() + rejection as usize,
    }
}

fn ending(place: usize) -> Ending {
    match OTHER_ENDINGS.get(place) {
        Some(ending) => *ending,
        None => Ending::Rejected(Rejection::ALL[place - OTHER_ENDINGS.len()]),
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes everything that was recorded.
    pub fn write(&self, page: &mut Page) {
        let sums = self.sums();
        page.family(
            "finback_requests_total",
            "counter",
            "Exchanges, by how they ended.",
        );
        for (listener, name, sums) in &sums {
            let ended = sums.endings.iter().enumerate();
            for (at, count) in ended.filter(|(_, count)| **count > 0) {
                let mut labels = labels(listener, name);
                labels.push(("outcome", ending(at).name().to_owned()));
                page.sample("finback_requests_total", &labels, *count as f64);
            }
        }
        page.family(
            "finback_request_duration_seconds",
            "histogram",
            "From a request's arrival to its answer's departure.",
        );
        for (listener, name, sums) in &sums {
            histogram(page, &labels(listener, name), sums);
        }
        for (family, help, value) in [
            (
                "finback_request_bytes_total",
                "Bytes of request frames.",
                (|sums| sums.request_bytes) as fn(&Sums) -> u64,
            ),
            (
                "finback_response_bytes_total",
                "Bytes of response frames.",
                |sums| sums.response_bytes,
            ),
        ] {
            page.family(family, "counter", help);
            for (listener, name, sums) in &sums {
                page.sample(family, &labels(listener, name), value(sums) as f64);
            }
        }
    }

    /// What every series comes to, for those who show it themselves.
    #[must_use]
    pub fn totals(&self) -> Vec<Totals> {
        let sums = self.sums().into_iter();
        sums.map(|(listener, name, sums)| {
            let ended = sums.endings.iter().enumerate();
            Totals {
                listener,
                protocol: name.protocol,
                service: name.service,
                method: name.method,
                outcomes: ended
                    .filter(|(_, count)| **count > 0)
                    .map(|(at, count)| (ending(at).name(), *count))
                    .collect(),
                buckets: sums.buckets.to_vec(),
            }
        })
        .collect()
    }

    /// Every series, summed over workers: what is written is read from this, outside the lock.
    fn sums(&self) -> Vec<(Arc<str>, Name, Sums)> {
        let listeners = self.lock();
        let all = listeners.iter().flat_map(|(listener, own)| {
            own.series.iter().map(|(name, series)| {
                let mut sums = Sums::default();
                for counts in series.iter().flatten() {
                    counts.add_to(&mut sums);
                }
                (listener.clone(), name.clone(), sums)
            })
        });
        all.collect()
    }
}

fn labels(listener: &str, name: &Name) -> Vec<(&'static str, String)> {
    vec![
        ("protocol", name.protocol.to_owned()),
        ("listener", listener.to_owned()),
        ("service", name.service.to_string()),
        ("method", name.method.to_string()),
    ]
}

impl Counts {
    fn add_to(&self, sums: &mut Sums) {
        for (sum, count) in sums.endings.iter_mut().zip(&self.endings) {
            *sum += count.load(Relaxed);
        }
        for (sum, count) in sums.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.load(Relaxed);
        }
        sums.micros += self.micros.load(Relaxed);
        sums.request_bytes += self.request_bytes.load(Relaxed);
        sums.response_bytes += self.response_bytes.load(Relaxed);
    }
}

fn histogram(page: &mut Page, labels: &[(&'static str, String)], sums: &Sums) {
    let name = "finback_request_duration_seconds";
    let mut below = 0;
    let bounds = BOUNDS
        .iter()
        .map(|micros| (*micros as f64 / 1e6).to_string());
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(sums.buckets) {
        below += count;
        let mut labels = labels.to_vec();
        labels.push(("le", bound));
        page.sample(&format!("{name}_bucket"), &labels, below as f64);
    }
    page.sample(&format!("{name}_sum"), labels, sums.micros as f64 / 1e6);
    page.sample(&format!("{name}_count"), labels, below as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(service: &str) -> SeriesKey {
        SeriesKey {
            protocol: "p",
            known: true,
            listener: "l".into(),
            service: service.into(),
            method: "m".into(),
        }
    }

    #[test]
    fn every_ending_has_a_place_of_its_own() {
        for (at, own) in OTHER_ENDINGS.into_iter().enumerate() {
            assert_eq!((place(own), ending(at)), (at, own));
        }
        for rejection in Rejection::ALL {
            let own = Ending::Rejected(rejection);
            assert_eq!(ending(place(own)), own);
        }
    }

    fn record(ending: Ending, micros: u64) -> Record<'static> {
        Record {
            took: Duration::from_micros(micros),
            attempts: 1,
            request_bytes: 10,
            response_bytes: 20,
            ..Record::new(ending, [127, 0, 0, 1].into())
        }
    }

    #[test]
    fn every_ending_has_its_own_place() {
        for at in 0..ENDINGS {
            assert_eq!(place(ending(at)), at);
        }
    }

    #[test]
    fn workers_are_summed_and_buckets_cumulate() {
        let metrics = Metrics::default();
        let success = Ending::Answered(Outcome::Success);
        metrics.series(0, &key("s")).record(&record(success, 100));
        metrics.series(1, &key("s")).record(&record(success, 101));
        metrics
            .series(0, &key("s"))
            .record(&record(Ending::Rejected(Rejection::NoRoute), 20_000_000));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.into_text();
        let labels = r#"protocol="p",listener="l",service="s",method="m""#;
        for line in [
            format!("finback_requests_total{{{labels},outcome=\"success\"}} 2"),
            format!("finback_requests_total{{{labels},outcome=\"no_route\"}} 1"),
            format!("finback_request_duration_seconds_bucket{{{labels},le=\"0.0001\"}} 1"),
            format!("finback_request_duration_seconds_bucket{{{labels},le=\"0.00025\"}} 2"),
            format!("finback_request_duration_seconds_bucket{{{labels},le=\"10\"}} 2"),
            format!("finback_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("finback_request_duration_seconds_count{{{labels}}} 3"),
            format!("finback_response_bytes_total{{{labels}}} 60"),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    /// Service and method of every series, and how many one-ways it counted.
    fn counted(metrics: &Metrics) -> Vec<(String, String, String, u64)> {
        let sums = metrics.sums();
        let each = sums.into_iter().map(|(listener, name, sums)| {
            let [listener, service, method] =
                [&listener, &name.service, &name.method].map(ToString::to_string);
            (listener, service, method, sums.endings[place(Ending::Sent)])
        });
        each.collect()
    }

    fn count(metrics: &Metrics, worker: usize, key: &SeriesKey) {
        metrics.series(worker, key).record(&record(Ending::Sent, 1));
    }

    #[test]
    fn services_that_nobody_knows_are_one_series_each_for_protocol_and_listener() {
        let metrics = Metrics::default();
        for n in 0..10_000 {
            for (protocol, listener) in [("p", "l"), ("q", "l"), ("p", "other")] {
                let invented = SeriesKey {
                    protocol,
                    known: false,
                    listener: listener.into(),
                    ..key(&format!("invented.{n}"))
                };
                count(&metrics, n % 4, &invented);
            }
        }
        count(&metrics, 0, &key("real"));
        let all = counted(&metrics);
        assert_eq!(all.len(), 4);
        let others = all.iter().filter(|(_, service, ..)| service == OTHER);
        assert_eq!(others.map(|(.., sent)| sent).sum::<u64>(), 30_000);
        let real = ("l".to_owned(), "real".to_owned(), "m".to_owned(), 1);
        assert!(all.contains(&real), "{all:?}");
    }

    #[test]
    fn names_beyond_a_listeners_bound_share_one_series() {
        let metrics = Metrics::default();
        // Workers that see different names share the bound.
        for n in 0..MAX_SERIES + 100 {
            count(&metrics, n % 3, &key(&n.to_string()));
        }
        let another = SeriesKey {
            listener: "another".into(),
            ..key("s")
        };
        count(&metrics, 0, &another);
        let all = counted(&metrics);
        assert_eq!(all.len(), MAX_SERIES + 2);
        let other = ("l".to_owned(), OTHER.to_owned(), String::new(), 100);
        assert!(all.contains(&other));
        let another = ("another".to_owned(), "s".to_owned(), "m".to_owned(), 1);
        assert!(all.contains(&another), "one listener blinds another");
        // One that is there already goes on, in every worker.
        count(&metrics, 7, &key("0"));
        let first = ("l".to_owned(), "0".to_owned(), "m".to_owned(), 2);
        assert!(counted(&metrics).contains(&first));
    }

    #[test]
    fn methods_that_callers_invent_do_not_use_up_the_bound() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 100 {
            let invented = SeriesKey {
                method: n.to_string().into(),
                ..key("s")
            };
            count(&metrics, 0, &invented);
        }
        let all = counted(&metrics);
        assert_eq!(all.len(), MAX_METHODS + 1);
        let beyond = (MAX_SERIES + 100 - MAX_METHODS) as u64;
        let other = ("l".to_owned(), "s".to_owned(), OTHER.to_owned(), beyond);
        assert!(all.contains(&other));
        count(&metrics, 0, &key("t"));
        assert_eq!(counted(&metrics).len(), MAX_METHODS + 2);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let metrics = Metrics::default();
        let long = "é".repeat(200);
        for name in [long.clone(), format!("{long}!")] {
            count(&metrics, 0, &key(&name));
        }
        let all = counted(&metrics);
        let services: Vec<_> = all.iter().map(|(_, service, ..)| service.clone()).collect();
        assert_eq!(services, ["é".repeat(MAX_LABEL / 2)]);
    }

    #[test]
    fn a_series_asked_for_again_goes_on_counting() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            count(&metrics, 5, &key("s"));
        }
        let all = counted(&metrics);
        assert_eq!(all, [("l".into(), "s".into(), "m".into(), 3)]);
    }

    #[test]
    fn names_from_outside_cannot_break_the_page() {
        let metrics = Metrics::default();
        let forged = "x\"} 1\nfinback_forged{a=\"\r\u{2028}\0\\";
        count(&metrics, 0, &key(forged));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.into_text();
        for line in text.lines() {
            let sound = line.starts_with('#') || line.starts_with("finback_request");
            assert!(sound || line.starts_with("finback_response"), "{line}");
            assert!(!line.contains(char::is_control), "{line}");
        }
    }
}
