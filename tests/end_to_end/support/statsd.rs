//! A real StatsD server of the tests' own: npm's `statsd`, which sums until it is asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::peer::built;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running server; dropping it kills it.
pub(crate) struct Statsd {
    /// Where it takes packets.
    pub(crate) port: u16,
    management: u16,
    _process: Process,
}

impl Statsd {
    /// Starts one.
    pub(crate) fn start() -> Self {
        Self::start_at(free_port())
    }

    /// The same on a port.
    pub(crate) fn start_at(port: u16) -> Self {
        let management = free_port();
        let config = temporary_folder().join("statsd.js");
        // It forgets counters at each flush: an hour is longer than any test.
        std::fs::write(
            &config,
            format!(
                "{{ port: {port}, address: '127.0.0.1', mgmt_port: {management}, \
                 mgmt_address: '127.0.0.1', backends: [], flushInterval: 3600000 }}"
            ),
        )
        .unwrap();
        let script = built("node/node_modules/statsd/stats.js");
        let mut command = Command::new("node");
        let process = Process::start("statsd", command.arg(script).arg(config));
        let statsd = Self {
            port,
            management,
            _process: process,
        };
        eventually("StatsD", Duration::from_secs(20), || {
            statsd.ask("health").map(|_| ())
        });
        statsd
    }

    /// The sums of its counters, by name.
    pub(crate) fn counters(&self) -> BTreeMap<String, f64> {
        self.numbers("counters")
    }

    /// Its gauges.
    pub(crate) fn gauges(&self) -> BTreeMap<String, f64> {
        self.numbers("gauges")
    }

    fn numbers(&self, command: &str) -> BTreeMap<String, f64> {
        let said = self.ask(command).unwrap();
        let numbers: Value = json(&said);
        let numbers = numbers.as_object().unwrap();
        numbers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_f64().unwrap()))
            .collect()
    }

    /// Its management port answers one command with a text that ends with END.
    fn ask(&self, command: &str) -> Result<String, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.management)).map_err(text)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
            .write_all(format!("{command}\n").as_bytes())
            .map_err(text)?;
        let mut said = Vec::new();
        let mut chunk = [0; 65_536];
        let whole = |said: &[u8]| said.ends_with(b"END\n\n") || said.starts_with(b"health: ");
        while !whole(&said) {
            match stream.read(&mut chunk).map_err(text)? {
                0 => return Err("it hung up".to_owned()),
                length => said.extend(&chunk[..length]),
            }
        }
        Ok(String::from_utf8(said).unwrap())
    }
}

/// What Node's `util.inspect` or JSON made of an object: names in quotes, END behind it.
fn json(said: &str) -> Value {
    let text = said.trim().trim_end_matches("END").trim();
    serde_json::from_str(text).unwrap_or_else(|_| loose(text))
}

/// The same of `{ 'name': 1, other: 2 }`.
fn loose(text: &str) -> Value {
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    let pairs = inner.split(',').filter_map(|pair| {
        let (name, value) = pair.rsplit_once(':')?;
        let name = name.trim().trim_matches('\'').trim_matches('"');
        let value: f64 = value.trim().parse().ok()?;
        Some((name.to_owned(), Value::from(value)))
    });
    Value::Object(pairs.collect())
}
