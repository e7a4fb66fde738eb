//! A real Prometheus of the tests' own, and its tool.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running server; dropping it kills it.
pub(crate) struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// One that scrapes this port every half second.
    pub(crate) fn start(target: u16) -> Self {
        let (port, folder) = (free_port(), temporary_folder());
        let config = folder.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 500ms }}\n\
                 scrape_configs:\n  - job_name: finback\n    static_configs:\n\
                 \x20     - targets: ['127.0.0.1:{target}']\n"
            ),
        )
        .unwrap();
        let process = Process::start(
            "prometheus",
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    folder.join("data").display()
                ))
                .arg(format!("--web.listen-address=127.0.0.1:{port}")),
        );
        let prometheus = Self {
            port,
            _process: process,
        };
        // Its first targets are there after five seconds.
        eventually("a scrape", Duration::from_secs(40), || {
            match prometheus.query("up{job=\"finback\"} == 1")?.len() {
                0 => Err("nothing was scraped".to_owned()),
                _ => Ok(()),
            }
        });
        prometheus
    }

    /// What a query gives now: labels, as `name=value` in order, and the value.
    pub(crate) fn query(&self, query: &str) -> Result<BTreeMap<Vec<String>, f64>, String> {
        let out = Command::new("curl")
            .args(["-s", "--max-time", "10", "--get", "--data-urlencode"])
            .arg(format!("query={query}"))
            .arg(format!("http://127.0.0.1:{}/api/v1/query", self.port))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let answer: Value =
            serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        if answer["status"] != "success" {
            return Err(said);
        }
        let result = answer["data"]["result"].as_array().unwrap();
        let each = result.iter().map(|sample| {
            let labels = sample["metric"].as_object().unwrap().iter();
            let labels = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap()));
            let value = sample["value"][1].as_str().unwrap();
            (labels.collect(), value.parse().unwrap())
        });
        Ok(each.collect())
    }
}

/// Runs promtool in a folder with a text to read; its exit code and what it says.
pub(crate) fn promtool(folder: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let read = temporary_folder().join("input");
    std::fs::write(&read, input).unwrap();
    let out = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(std::fs::File::open(read).unwrap())
        .output()
        .expect("promtool is missing: run `make peers`, or `apt-get install prometheus`");
    let said = [out.stdout, out.stderr].concat();
    (
        out.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
