//! Finback five times: one that tells nothing of its calls, one that tells what is usual, one that writes all traces
//! and nothing else, one that writes a line of every call and nothing else, and one that tells everything.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use super::proxies::{self, Backends, Extras, Proxy, echo};
use crate::process::Process;
use crate::speech::Protocol;

/// The one that others are compared with.
pub(super) const NOTHING: &str = "nothing";

/// Who is told.
pub(super) struct Observing {
    folder: PathBuf,
    _collector: Process,
    collector: SocketAddr,
    /// Its buffer fills up, and the kernel drops what comes then, which costs the sender the same.
    statsd: UdpSocket,
}

impl Observing {
    pub(super) fn start(folder: &Path) -> anyhow::Result<Self> {
        let (process, collector) = echo(Protocol::Grpc)?;
        Ok(Self {
            folder: folder.to_owned(),
            _collector: process,
            collector,
            statsd: UdpSocket::bind("127.0.0.1:0")?,
        })
    }

    /// All of them, one worker each.
    pub(super) fn proxies(&self, binary: &Path, backends: &Backends) -> anyhow::Result<Vec<Proxy>> {
        let (all, ratio) = ("sampling: always", "sampling: ratio, ratio: 0.01");
        let (failures, json) = ("only: failures", "format: json");
        let wanted = [
            (NOTHING, None, false, None),
            ("usual", Some(ratio), true, Some(failures)),
            ("all traces", Some(all), false, None),
            ("all lines", None, false, Some(json)),
            ("everything", Some(all), true, Some(json)),
        ];
        let started = wanted.map(|(name, traces, metrics, log)| {
            let extras = self.extras(name, traces, metrics, log)?;
            proxies::finback(name, &self.folder, binary, backends, &extras)
        });
        started.into_iter().collect()
    }

    /// Traces by OTLP, metrics to StatsD beside the Prometheus page, an access log in a file.
    fn extras(
        &self,
        name: &str,
        traces: Option<&str>,
        metrics: bool,
        log: Option<&str>,
    ) -> anyhow::Result<Extras> {
        let mut extras = Extras::default();
        if let Some(sampling) = traces {
            let collector = self.collector;
            extras.top = format!("tracing: {{ endpoint: \"http://{collector}\", {sampling} }}\n");
        }
        if metrics {
            let statsd = self.statsd.local_addr()?;
            let metrics = format!("metrics: {{ statsd: {{ address: \"{statsd}\" }} }}\n");
            extras.top.push_str(&metrics);
        }
        if let Some(log) = log {
            let path = self.folder.join(format!("{name}.log"));
            fs::write(&path, "")?;
            extras.listener = format!(", access_log: {{ path: \"{}\", {log} }}", path.display());
        }
        Ok(extras)
    }
}
