//! Counters and histograms of exchanges, written by workers without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use finback_core::frame::Outcome;
use finback_core::record::{Ending, Observer, Record, Series, SeriesKey};
use finback_core::rejection::Rejection;

use crate::prometheus::Page;

/// Series that one worker may have; what comes beyond is counted as the service `(other)`, so
/// that callers cannot fill the memory with names.
const MAX_SERIES: usize = 4096;

/// The service of what has no series of its own.
const OTHER: &str = "(other)";

/// A label is cut to this many bytes: callers choose its length, we keep it for long.
const MAX_LABEL: usize = 256;

/// Upper bounds of the latency histogram, in microseconds.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Endings that are not rejections.
const OTHER_ENDINGS: [Ending; 7] = [
    Ending::Answered(Outcome::Success),
    Ending::Answered(Outcome::Exception),
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
    /// By worker.
    series: Mutex<Vec<HashMap<SeriesKey, Arc<Counts>>>>,
}

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

impl Observer for Metrics {
    fn series(&self, worker: usize, key: &SeriesKey) -> Arc<dyn Series> {
        let mut key = SeriesKey {
            protocol: key.protocol,
            listener: key.listener.clone(),
            service: cut(&key.service),
            method: cut(&key.method),
        };
        let mut workers = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.len() <= worker {
            workers.resize_with(worker + 1, HashMap::new);
        }
        let series = &mut workers[worker];
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            key.service = OTHER.into();
            key.method = "".into();
        }
        series.entry(key).or_default().clone()
    }
}

/// The text, or as many whole characters of it as a label may have.
fn cut(text: &Arc<str>) -> Arc<str> {
    match text.floor_char_boundary(MAX_LABEL) {
        end if end < text.len() => text[..end].into(),
        _ => text.clone(),
    }
}

impl Series for Counts {
    fn record(&self, record: &Record) {
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
        Ending::Answered(outcome) => outcome as usize,
        Ending::Sent => 5,
        Ending::Abandoned => 6,
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
    /// Writes everything that was recorded.
    pub fn write(&self, page: &mut Page) {
        let sums = self.sums();
        let labels = |key: &(&'static str, String, String, String)| {
            vec![
                ("protocol", key.0.to_owned()),
                ("listener", key.1.clone()),
                ("service", key.2.clone()),
                ("method", key.3.clone()),
            ]
        };
        page.family(
            "finback_requests_total",
            "counter",
            "Exchanges, by how they ended.",
        );
        for (key, sums) in &sums {
            for (at, count) in sums
                .endings
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
            {
                let mut labels = labels(key);
                labels.push(("outcome", ending(at).name().to_owned()));
                page.sample("finback_requests_total", &labels, *count as f64);
            }
        }
        page.family(
            "finback_request_duration_seconds",
            "histogram",
            "From a request's arrival to its answer's departure.",
        );
        for (key, sums) in &sums {
            histogram(page, &labels(key), sums);
        }
        for (name, help, value) in [
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
            page.family(name, "counter", help);
            for (key, sums) in &sums {
                page.sample(name, &labels(key), value(sums) as f64);
            }
        }
    }

    fn sums(&self) -> BTreeMap<(&'static str, String, String, String), Sums> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeMap<_, Sums> = BTreeMap::new();
        for (key, counts) in series.iter().flatten() {
            let name = (
                key.protocol,
                key.listener.to_string(),
                key.service.to_string(),
                key.method.to_string(),
            );
            counts.add_to(all.entry(name).or_default());
        }
        all
    }
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
            listener: "l".into(),
            service: service.into(),
            method: "m".into(),
        }
    }

    fn record(ending: Ending, micros: u64) -> Record {
        Record {
            ending,
            took: Duration::from_micros(micros),
            attempts: 1,
            source: [127, 0, 0, 1].into(),
            endpoint: None,
            request_bytes: 10,
            response_bytes: 20,
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

    #[test]
    fn names_beyond_the_cap_share_one_series() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 100 {
            metrics
                .series(0, &key(&n.to_string()))
                .record(&record(Ending::Sent, 1));
        }
        let sums = metrics.sums();
        assert_eq!(sums.len(), MAX_SERIES + 1);
        let (_, other) = sums
            .iter()
            .find(|(key, _)| key.2 == OTHER)
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("none"));
        assert_eq!(other.endings[5], 100);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let metrics = Metrics::default();
        let long = "é".repeat(200);
        for name in [long.clone(), format!("{long}!")] {
            metrics
                .series(0, &key(&name))
                .record(&record(Ending::Sent, 1));
        }
        let sums = metrics.sums();
        let services: Vec<_> = sums.keys().map(|key| key.2.clone()).collect();
        assert_eq!(services, ["é".repeat(MAX_LABEL / 2)]);
    }

    #[test]
    fn a_series_asked_for_again_goes_on_counting() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics
                .series(5, &key("s"))
                .record(&record(Ending::Sent, 1));
        }
        assert!(metrics.sums().values().all(|sums| sums.endings[5] == 3));
        assert_eq!(metrics.sums().len(), 1);
    }
}
