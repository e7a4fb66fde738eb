//! The configuration: the file's types become core's, or an error that says where and what.

mod convert;
pub mod file;
mod forms;
mod shown;
pub mod units;

use units::Placed;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLogConfig;
use crate::log::LogConfig;
use crate::tls::{ClientFiles, ServerFiles};
use finback_core::driver::ListenerSpec;
use finback_core::mesh::RoutingSpec;
use finback_registry::{Bridge, Registration, RegistryConfig};

/// A configuration that was checked whole.
pub struct Config {
    /// Worker threads.
    pub workers: usize,
    /// Listen beside another process, which is then stopped; said on the command line.
    pub take_over: bool,
    /// The admin port, if there is one.
    pub admin: Option<crate::admin::Settings>,
    /// The file as it may be shown: without secrets.
    pub shown: serde_json::Value,
    /// The StatsD server that metrics are sent to, if any.
    pub statsd: Option<finback_observability::statsd::Settings>,
    /// Registries by name.
    pub registries: Vec<(String, RegistryConfig)>,
    /// Kafka clusters.
    pub kafka: Vec<Arc<crate::kafka::Outlet>>,
    /// Subscriptions of our own at brokers.
    pub subscriptions: Vec<crate::subscriber::Subscription>,
    /// Local services to register.
    pub registrations: Vec<Registration>,
    /// Services to mirror.
    pub bridges: Vec<Bridge>,
    /// SOFA-RPC's mesh registry, if it is served.
    pub mesh_registry: Option<MeshRegistry>,
    /// Where snapshots of registries are kept, if anywhere.
    pub snapshots: Option<PathBuf>,
    /// Listeners.
    pub listeners: Vec<ListenerSpec>,
    /// Everything about routing.
    pub routing: RoutingSpec,
    /// How it starts and stops.
    pub lifecycle: Lifecycle,
    /// How the log is written.
    pub log: LogConfig,
    /// Access logs, by the names of their listeners.
    pub access_logs: Vec<(Arc<str>, AccessLogConfig)>,
    /// The files of all TLS, in the order of what they belong to.
    pub(crate) files: TlsFiles,
}

/// The files of all TLS of a configuration, and of those who are let in.
#[derive(Default)]
pub(crate) struct TlsFiles {
    pub(crate) listeners: Vec<Option<Placed<ServerFiles>>>,
    pub(crate) clusters: Vec<Option<Placed<ClientFiles>>>,
    pub(crate) registry_clusters: Option<Placed<ClientFiles>>,
    pub(crate) kafka: Vec<Placed<Arc<crate::kafka::Outlet>>>,
    /// What clients of MQTT are asked for.
    pub(crate) credentials: Vec<Placed<Arc<crate::authentication::Credentials>>>,
}

impl Config {
    /// Reads the keys and certificates.
    fn arm(&mut self) -> Result<(), Wrong> {
        let wrong = |place: (u64, u64)| move |error| Wrong::at(place, format!("{error:#}"));
        for (listener, files) in self.listeners.iter_mut().zip(&self.files.listeners) {
            if let Some(Placed { value, place }) = files {
                listener.tls = Some(value.build().map_err(wrong(*place))?);
            }
        }
        for (cluster, files) in self.routing.clusters.iter_mut().zip(&self.files.clusters) {
            if let Some(Placed { value, place }) = files {
                cluster.policy.tls = Some(value.build().map_err(wrong(*place))?);
            }
        }
        if let Some(Placed { value, place }) = &self.files.registry_clusters {
            let tls = value.build().map_err(wrong(*place))?;
            self.routing.registry_policy.tls = Some(tls);
        }
        for Placed { value, place } in &self.files.kafka {
            if let Some(tls) = &value.config.tls {
                let files = ClientFiles {
                    authorities: tls.authorities.clone(),
                    pair: tls.pair.clone(),
                    revoked: Vec::new(),
                    server_name: None,
                };
                files.config().map_err(wrong(*place))?;
            }
        }
        for Placed { value, place } in &self.files.credentials {
            value.read().map_err(wrong(*place))?;
        }
        if let Some(admin) = &self.admin {
            admin
                .check()
                .map_err(|(place, error)| wrong(place)(error))?;
        }
        Ok(())
    }
}

/// How it starts and stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// For how long it goes on serving, not ready, when it is told to stop; `None` leaves that to
    /// the signal.
    pub drain_delay: Option<Duration>,
    /// For how long it waits, not ready, for registries of which nothing is known.
    pub registry_wait: Duration,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            drain_delay: None,
            registry_wait: Duration::from_secs(15),
        }
    }
}

/// How SOFA-RPC's mesh registry is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    /// The registry that it registers with.
    pub registry: String,
    /// Where the application listens.
    pub application: SocketAddr,
    /// What other consumers connect to.
    pub advertise: SocketAddr,
    /// Our listener for the application's own calls.
    pub outbound: SocketAddr,
}

/// Why a configuration is refused.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    place: Option<(u64, u64)>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong, and where in the file.
pub(crate) struct Wrong {
    place: (u64, u64),
    message: String,
}

impl Wrong {
    pub(crate) fn at(place: (u64, u64), message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
        file: path.to_owned(),
        place: None,
        message: format!("cannot be read: {error}"),
    })?;
    let mut config = parse(&text, path)?;
    config.arm().map_err(|wrong| ConfigError {
        file: path.to_owned(),
        place: Some(wrong.place),
        message: wrong.message,
    })?;
    Ok(config)
}

/// Checks the text of the file at `path`, which need not exist; paths in it are relative to its
/// folder. Keys and certificates are not read.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let refuse = |place, message| ConfigError {
        file: path.to_owned(),
        place,
        message,
    };
    let file: file::File = serde_saphyr::from_str(text).map_err(|error| {
        let place = error
            .location()
            .map(|location| (location.line(), location.column()));
        refuse(place, explain(&error.without_snippet().to_string()))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut config =
        convert::config(file, folder).map_err(|wrong| refuse(Some(wrong.place), wrong.message))?;
    config.shown = shown::shown(text);
    Ok(config)
}

/// The admin port of the file at `path`, whatever else stands there: for commands that ask a process
/// that runs, also while its file is being edited.
///
/// # Errors
/// If the file cannot be read, or names no admin port.
pub fn admin(path: &Path) -> Result<crate::admin::Settings, ConfigError> {
    #[derive(serde::Deserialize)]
    struct Part {
        admin: Option<Placed<file::Admin>>,
    }
    let refuse = |place, message| ConfigError {
        file: path.to_owned(),
        place,
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(None, format!("cannot be read: {error}")))?;
    let part: Part = serde_saphyr::from_str(&text).map_err(|error| {
        let place = error
            .location()
            .map(|location| (location.line(), location.column()));
        refuse(place, explain(&error.without_snippet().to_string()))
    })?;
    let Some(admin) = part.admin else {
        let message = "names no admin port to ask; write `admin: { address: \"127.0.0.1:9901\" }`";
        return Err(refuse(None, message.to_owned()));
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    convert::admin_settings(admin, folder).map_err(|wrong| refuse(Some(wrong.place), wrong.message))
}

/// The parser's message in one line, with the key that was probably meant.
fn explain(message: &str) -> String {
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    // The place stands at the beginning already.
    let message = message.split(" at line ").next().unwrap_or_default();
    let parts = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once("`, expected "));
    let Some((unknown, expected)) = parts else {
        return message.to_owned();
    };
    let known = expected.trim_start_matches("one of ").split(", ");
    let nearest = known
        .map(|known| known.trim_matches('`'))
        .map(|known| (distance(unknown, known), known))
        .min();
    match nearest {
        Some((steps, known)) if steps <= 2.max(unknown.len() / 3) => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message.to_owned(),
    }
}

/// How many letters must be changed, added or left out to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, d) in other.iter().enumerate() {
            let change = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(file::File)
}

#[cfg(test)]
mod tests;
