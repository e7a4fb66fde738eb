//! Tracing as configured: starts, replaces and flushes the exporter behind core's port.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use finback_core::clock::Clock;
use finback_core::metric::Family;
use finback_core::trace::{Choice, Tracing};
use finback_observability::trace::{
    Collector, Counts, Encoding, ExportTls, Exporter, Formats, Headers, Settings, Traces,
};
use finback_observability::{MetricSink, MetricValue};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::ServerName;

use crate::config::units::Placed;
use crate::protocols::{self, Secret};
use crate::tls::ClientFiles;

/// The longest secret that a file holds, in bytes.
const LONGEST: u64 = 16 * 1024;
/// What is there when the process stops has this long to be exported.
const FLUSH: Duration = Duration::from_secs(5);

/// Tracing as configured.
#[derive(Clone, Debug)]
pub struct TracingSpec {
    /// The collector's host, port, and path.
    pub(crate) address: (String, u16, String),
    /// How it is spoken to.
    pub(crate) encoding: Encoding,
    /// With TLS: by these files.
    pub(crate) tls: Option<Placed<ClientFiles>>,
    /// What else requests say.
    pub(crate) headers: Vec<(HeaderName, Placed<HeaderSource>)>,
    pub(crate) timeout: Duration,
    pub(crate) queue: usize,
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) tails_per_second: u32,
    pub(crate) formats: Formats,
    /// Which calls are traced.
    pub(crate) choice: Choice,
}

/// Where a header's value comes from.
#[derive(Clone, Debug)]
pub(crate) enum HeaderSource {
    Text(Secret),
    File(PathBuf),
}

impl HeaderSource {
    /// Reads the value. Blocks while it reads a file.
    pub(crate) fn read(&self) -> anyhow::Result<HeaderValue> {
        let (text, what) = match self {
            Self::Text(Secret(text)) => (text.clone(), Cow::Borrowed("the value")),
            Self::File(path) => {
                let place = path.display();
                let length = std::fs::metadata(path)
                    .with_context(|| format!("{place}"))?
                    .len();
                anyhow::ensure!(length <= LONGEST, "{place} is longer than {LONGEST} bytes");
                let text = std::fs::read(path).with_context(|| format!("{place}"))?;
                (text, Cow::Owned(place.to_string()))
            }
        };
        let mut value = HeaderValue::from_bytes(text.trim_ascii())
            .with_context(|| format!("{what} has what no header can hold"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl TracingSpec {
    fn collector(&self) -> Collector {
        let (host, port, path) = self.address.clone();
        let own = self.headers.clone();
        let headers: Headers = Arc::new(move || {
            let mut headers = HeaderMap::new();
            for (name, source) in &own {
                let value = source.value.read().map_err(|error| format!("{error:#}"))?;
                headers.insert(name, value);
            }
            Ok(headers)
        });
        let tls = self.tls.as_ref().map(|files| {
            let name = files.value.server_name.clone();
            let name = name.or_else(|| ServerName::try_from(host.clone()).ok());
            let files = files.value.clone();
            let read: ExportTls = Arc::new(move || {
                let config = files.config().map_err(|error| format!("{error:#}"))?;
                Ok(Arc::new(config))
            });
            (
                read,
                name.unwrap_or_else(|| std::net::Ipv4Addr::UNSPECIFIED.into()),
            )
        });
        Collector {
            host,
            port,
            path,
            encoding: self.encoding,
            tls,
            headers,
            timeout: self.timeout,
            settings: format!(
                "{:?} {:?} {:?} {:?} {:?}",
                self.address, self.encoding, self.tls, self.headers, self.timeout
            )
            .into(),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            collector: self.collector(),
            resource: self.resource.clone(),
            queue: self.queue,
            tails: self.tails_per_second,
        }
    }
}

/// Who exports.
#[derive(Default)]
struct Exporters {
    current: Option<Arc<Exporter>>,
    /// Those before, as long as something that began with them is not over.
    former: Vec<Weak<Exporter>>,
}

impl Exporters {
    /// Takes the one that works now out of service.
    fn retire(&mut self) {
        self.former.retain(|own| own.strong_count() > 0);
        if let Some(former) = self.current.take() {
            former.retire();
            self.former.push(Arc::downgrade(&former));
        }
    }
}

/// Tracing at work.
pub struct TraceExporter {
    /// What was counted since the start.
    pub counts: Arc<Counts>,
    exporters: Mutex<Exporters>,
    protocols: Arc<HashMap<&'static str, finback_observability::trace::ProtocolConventions>>,
    /// Drawn once: of all processes, only this one mixes it into the names of its traces.
    salt: u64,
}

impl Default for TraceExporter {
    fn default() -> Self {
        Self {
            counts: Arc::default(),
            exporters: Mutex::default(),
            protocols: Arc::new(protocols::traced()),
            salt: RandomState::new().hash_one(std::process::id()),
        }
    }
}

impl TraceExporter {
    /// What core is to be told, given how it is configured now. An exporter whose settings did not change
    /// works on.
    ///
    /// # Errors
    /// If a thread cannot be started; then everything stays as it is.
    pub fn configure(
        &self,
        spec: Option<&TracingSpec>,
        clock: Clock,
    ) -> anyhow::Result<Option<Arc<Tracing>>> {
        let mut own = self.lock();
        let Some(spec) = spec else {
            own.retire();
            return Ok(None);
        };
        let settings = spec.settings();
        let current = own.current.clone();
        let exporter = match current.filter(|own| *own.settings() == settings) {
            Some(current) => current,
            None => {
                let started = Exporter::start(settings, clock, self.counts.clone());
                let started = started.context("cannot start the exporter of spans")?;
                own.retire();
                own.current.insert(started).clone()
            }
        };
        Ok(Some(Arc::new(Tracing {
            tracer: Arc::new(Traces {
                exporter,
                formats: Arc::new(spec.formats.clone()),
                protocols: self.protocols.clone(),
            }),
            choice: spec.choice,
            salt: self.salt,
        })))
    }

    /// Exports what is there; to be called when nothing more comes.
    pub async fn flush(&self) {
        let own = std::mem::take(&mut *self.lock());
        let former = own.former.iter().filter_map(Weak::upgrade);
        let all: Vec<_> = former.chain(own.current).collect();
        join_all(all.iter().map(|own| own.flush(FLUSH))).await;
    }

    fn lock(&self) -> MutexGuard<'_, Exporters> {
        self.exporters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

static EXPORTED: Family = Family::counter(
    "finback_spans_exported_total",
    "spans",
    &[],
    "Spans that a collector took.",
);
static DROPPED: Family = Family::counter(
    "finback_spans_dropped_total",
    "spans",
    &["reason"],
    "Spans that no collector got, by reason.",
);
static FAILURES: Family = Family::counter(
    "finback_span_export_failures_total",
    "requests",
    &[],
    "Requests to a collector that failed, those that were tried again among them.",
);

impl TraceExporter {
    /// Puts its numbers into a sink.
    pub fn collect(&self, sink: &mut dyn MetricSink) {
        let own = &self.counts;
        let read = |count: &AtomicU64| MetricValue::Count(count.load(Relaxed));
        sink.single(&EXPORTED, read(&own.exported));
        sink.family(&DROPPED);
        for (reason, count) in [
            ("queue_full", &own.dropped),
            ("export_failed", &own.failed),
            ("tails_per_second", &own.limited),
        ] {
            sink.series(&[reason], read(count));
        }
        sink.single(&FAILURES, read(&own.failures));
    }
}
