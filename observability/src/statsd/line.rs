//! One line of StatsD's protocol, as `metrics-exporter-statsd` writes it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cadence::MetricSink;
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_statsd::{StatsdBuilder, StatsdRecorder};

/// What every metric is registered with; no exporter here looks at it.
const METADATA: Metadata<'static> = Metadata::new("finback", Level::INFO, None);

/// Writes lines.
pub(super) struct Lines {
    recorder: Option<StatsdRecorder>,
    written: Written,
}

/// The last line.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<String>>);

impl MetricSink for Written {
    fn emit(&self, line: &str) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.clone_into(&mut written);
        Ok(line.len())
    }
}

impl Lines {
    /// Lines whose names all begin with `prefix`.
    pub(super) fn new(prefix: &str) -> Self {
        let written = Written::default();
        // Where it would send to is not used: the sink is ours.
        let builder = StatsdBuilder::from("127.0.0.1", 8125).with_sink(written.clone());
        Self {
            recorder: builder.build(Some(prefix)).ok(),
            written,
        }
    }

    /// `name:grown|c`, with tags.
    pub(super) fn counter(&self, name: String, tags: Vec<(String, String)>, grown: u64) -> String {
        if let Some(recorder) = &self.recorder {
            let counter = recorder.register_counter(&key(name, tags), &METADATA);
            counter.increment(grown);
        }
        self.take()
    }

    /// `name:now|g`, with tags.
    pub(super) fn gauge(&self, name: String, tags: Vec<(String, String)>, now: f64) -> String {
        if let Some(recorder) = &self.recorder {
            let gauge = recorder.register_gauge(&key(name, tags), &METADATA);
            gauge.set(now);
        }
        self.take()
    }

    fn take(&self) -> String {
        let mut written = self
            .written
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *written).trim_end().to_owned()
    }
}

fn key(name: String, tags: Vec<(String, String)>) -> Key {
    let labels = tags.into_iter().map(|(key, value)| Label::new(key, value));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}
