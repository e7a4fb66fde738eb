//! Finback three times: one that tells nothing of its calls, one that tells what is usual, and one that
//! tells everything of every call.

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

    /// The three, one worker each.
    pub(super) fn proxies(&self, binary: &Path, backends: &Backends) -> anyhow::Result<Vec<Proxy>> {
        let usual = self.extras("usual", "sampling: ratio, ratio: 0.01", "only: failures")?;
        let everything = self.extras("everything", "sampling: always", "format: json")?;
        let all = [
            (NOTHING, Extras::default()),
            ("usual", usual),
            ("everything", everything),
        ];
        let started = all
            .iter()
            .map(|(name, extras)| proxies::finback(name, &self.folder, binary, backends, extras));
        started.collect()
    }

    /// Traces by OTLP, metrics to StatsD beside the Prometheus page, and an access log in a file.
    fn extras(&self, name: &str, sampling: &str, log: &str) -> anyhow::Result<Extras> {
        let path = self.folder.join(format!("{name}.log"));
        fs::write(&path, "")?;
        let statsd = self.statsd.local_addr()?;
        Ok(Extras {
            top: format!(
                "tracing: {{ endpoint: \"http://{}\", {sampling} }}\n\
                 metrics: {{ statsd: {{ address: \"{statsd}\" }} }}\n",
                self.collector
            ),
            listener: format!(", access_log: {{ path: \"{}\", {log} }}", path.display()),
        })
    }
}
