//! Configuration: a file that is checked whole becomes typed settings, or an error that says where and what.

mod convert;
pub mod file;
mod folder;
mod forms;
mod parts;
mod shown;
pub mod units;
mod words;

use folder::Folder;
use units::Placed;
use words::explain;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLogConfig;
use crate::log::LogConfig;
use crate::rocketmq::BrokerListeners;
use crate::tls::{self, ClientFiles, ServerFiles};
use crate::traces::TracingSpec;
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
    pub outlets: crate::bridges::Outlets,
    /// What filters need beside the data path.
    pub background: Vec<Arc<dyn crate::filters::Background>>,
    /// Subscriptions of our own at brokers.
    pub subscriptions: Vec<crate::subscriber::Subscription>,
    /// Consumer groups of our own.
    pub groups: Vec<crate::groups::ConsumerGroup>,
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
    /// Who has listeners stand for RocketMQ's brokers, by the names of their parents.
    pub brokers: Vec<(Arc<str>, Arc<BrokerListeners>)>,
    /// Everything about routing.
    pub routing: RoutingSpec,
    /// How it starts and stops.
    pub lifecycle: Lifecycle,
    /// How the log is written.
    pub log: LogConfig,
    /// Access logs, by the names of their listeners.
    pub access_logs: Vec<(Arc<str>, AccessLogConfig)>,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Warning>,
    /// Where things stand in the file.
    pub places: Places,
    /// The same as `warnings`, until it is known which file it is.
    pub(crate) found: Vec<Wrong>,
    /// Whether, and how, calls are traced.
    pub tracing: Option<TracingSpec>,
    /// The files of all TLS, in the order of what they belong to.
    pub(crate) files: TlsFiles,
}

/// Where things stand in a configuration's file.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: PathBuf,
    /// The addresses of listeners, by their names.
    pub(crate) listeners: Vec<(Arc<str>, (u64, u64))>,
}

impl Places {
    /// The file, and where in it the address of a listener stands.
    #[must_use]
    pub fn of(&self, listener: &str) -> String {
        let mut places = self.listeners.iter();
        let file = self.file.display();
        match places.find(|(name, _)| **name == *listener) {
            Some((_, (line, column))) => format!("{file}:{line}:{column}"),
            None => file.to_string(),
        }
    }
}

/// The files of all TLS of a configuration, and of those who are let in.
#[derive(Default)]
pub(crate) struct TlsFiles {
    pub(crate) listeners: Vec<Option<Placed<ServerFiles>>>,
    pub(crate) clusters: Vec<Option<Placed<ClientFiles>>>,
    pub(crate) registry_clusters: Option<Placed<ClientFiles>>,
    /// Those of servers that filters ask.
    pub(crate) servers: Vec<Placed<ClientFiles>>,
    /// Keys of tokens that filters prove.
    pub(crate) keys: Vec<Placed<Arc<crate::filters::keys::KeyRing>>>,
    pub(crate) kafka: Vec<Placed<Arc<crate::bridges::kafka::KafkaOutlet>>>,
    /// What clients of MQTT are asked for.
    pub(crate) credentials: Vec<Placed<Arc<crate::authentication::ClientCredentials>>>,
}

impl Config {
    fn warn(&mut self, found: Vec<Wrong>) {
        let warnings = found.into_iter().map(|own| Warning {
            file: self.places.file.clone(),
            place: own.place,
            message: own.message,
        });
        self.warnings.extend(warnings);
        self.warnings.sort_by_key(|own| own.place);
    }

    /// Reads the keys and certificates.
    fn arm(&mut self) -> Vec<Wrong> {
        let mut found = Vec::new();
        let mut wrong = |place, error: anyhow::Error| {
            found.push(Wrong::at(place, format!("{error:#}")));
        };
        for (listener, files) in self.listeners.iter_mut().zip(&self.files.listeners) {
            if let Some(Placed { value, place }) = files {
                let built = value.build().map_err(|error| wrong(*place, error));
                listener.tls = built.ok();
            }
        }
        for (cluster, files) in self.routing.clusters.iter_mut().zip(&self.files.clusters) {
            if let Some(Placed { value, place }) = files {
                let built = value.build().map_err(|error| wrong(*place, error));
                cluster.policy.tls = built.ok();
            }
        }
        if let Some(Placed { value, place }) = &self.files.registry_clusters {
            let built = value.build().map_err(|error| wrong(*place, error));
            self.routing.registry_policy.tls = built.ok();
        }
        for Placed { value, place } in &self.files.servers {
            let _ = value.config().map_err(|error| wrong(*place, error));
        }
        for Placed { value, place } in &self.files.keys {
            let _ = value.check().map_err(|error| wrong(*place, error));
        }
        for Placed { value, place } in &self.files.kafka {
            if let Some(tls) = &value.config.tls {
                let files = ClientFiles {
                    authorities: tls.authorities.clone(),
                    pair: tls.pair.clone(),
                    revoked: Vec::new(),
                    server_name: None,
                };
                let _ = files.config().map_err(|error| wrong(*place, error));
            }
        }
        if let Some(tracing) = &self.tracing {
            if let Some(Placed { value, place }) = &tracing.tls {
                let _ = value.config().map_err(|error| wrong(*place, error));
            }
            for (_, Placed { value, place }) in &tracing.headers {
                let _ = value.read().map_err(|error| wrong(*place, error));
            }
        }
        for Placed { value, place } in &self.files.credentials {
            let _ = value.read().map_err(|error| wrong(*place, error));
        }
        if let Some(admin) = &self.admin {
            let _ = admin.check().map_err(|(place, error)| wrong(place, error));
        }
        found
    }

    /// Certificates that have ended: what is served with them, nobody accepts.
    fn ended(&self) -> Vec<Wrong> {
        let listeners = self.files.listeners.iter().flatten();
        let listeners = listeners.flat_map(|own| {
            let chains = own.value.pairs.iter().map(|pair| &pair.chain);
            chains.map(move |chain| (own.place, chain))
        });
        let clusters = self
            .files
            .clusters
            .iter()
            .chain([&self.files.registry_clusters]);
        let clusters = clusters.flatten().filter_map(|own| {
            let (chain, _) = own.value.pair.as_ref()?;
            Some((own.place, chain))
        });
        let ended = listeners.chain(clusters).filter_map(|(place, chain)| {
            let when = tls::ended(chain)?;
            Some(Wrong::at(
                place,
                format!("the certificate of {} ended {when}", chain.display()),
            ))
        });
        ended.collect()
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

/// What of a configuration's mistakes is shown at once.
const SHOWN: usize = 20;

/// Why a configuration is refused: one line for each mistake, in the order of the file.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    /// Each with its place, if it has one.
    wrong: Vec<(Option<(u64, u64)>, String)>,
}

impl ConfigError {
    fn new(file: &Path, place: Option<(u64, u64)>, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            wrong: vec![(place, message.into())],
        }
    }

    fn of(file: &Path, mut wrong: Vec<Wrong>) -> Self {
        wrong.sort_by_key(|own| own.place);
        let wrong = wrong.into_iter().map(|own| (Some(own.place), own.message));
        Self {
            file: file.to_owned(),
            wrong: wrong.collect(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (place, message)) in self.wrong.iter().take(SHOWN).enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write_place(f, &self.file, *place)?;
            write!(f, "{message}")?;
            if message.contains("`${") {
                f.write_str(
                    "; variables of the environment are not put in, write the value itself",
                )?;
            }
        }
        match self.wrong.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file.display()),
        }
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, file: &Path, place: Option<(u64, u64)>) -> fmt::Result {
    write!(f, "{}", file.display())?;
    if let Some((line, column)) = place {
        write!(f, ":{line}:{column}")?;
    }
    f.write_str(": ")
}

impl std::error::Error for ConfigError {}

/// Something in a configuration that is allowed, and probably not meant.
#[derive(Debug)]
pub struct Warning {
    file: PathBuf,
    place: (u64, u64),
    message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, Some(self.place))?;
        write!(f, "warning: {}", self.message)
    }
}

/// What is wrong, and where in the file.
#[derive(Debug)]
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

/// Reads and checks the file at `path`, and the files that it names.
///
/// # Errors
/// What is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut config = parse_with(&read(path)?, path, true)?;
    let wrong = config.arm();
    if !wrong.is_empty() {
        return Err(ConfigError::of(path, wrong));
    }
    let ended = config.ended();
    config.warn(ended);
    Ok(config)
}

/// The same without the files that it names: keys, certificates, passwords.
///
/// # Errors
/// What is wrong with it.
pub fn load_alone(path: &Path) -> Result<Config, ConfigError> {
    parse_with(&read(path)?, path, false)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path)
        .map_err(|error| ConfigError::new(path, None, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let begin = good
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&good[begin..]).chars().count() as u64 + 1;
        let message = "this is not UTF-8 text; save the file as UTF-8";
        ConfigError::new(path, Some((line, column)), message)
    })
}

/// How YAML is read.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    // Messages are one line.
    options.with_snippet = false;
    options
}

/// Checks the text of the file at `path`, which need not exist; paths in it are relative to its
/// folder. Keys and certificates are not read.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    parse_with(text, path, true)
}

fn parse_with(text: &str, path: &Path, reads: bool) -> Result<Config, ConfigError> {
    let read: Result<file::Whole, _> = serde_saphyr::from_str_with_options(text, options());
    let file = read.map_err(|error| match explain(&error, text) {
        (None, message) => ConfigError::new(path, None, message),
        (Some(place), message) => {
            ConfigError::of(path, parts::all(text, Wrong::at(place, message)))
        }
    })?;
    let converted = convert::config(file.0, &Folder::of(path, reads));
    let mut config = converted.map_err(|wrong| ConfigError::of(path, wrong))?;
    let found = std::mem::take(&mut config.found);
    config.places.file = path.to_owned();
    config.warn(found);
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
    let text = read(path)?;
    let part: Result<Part, _> = serde_saphyr::from_str_with_options(&text, options());
    let part = part.map_err(|error| {
        let (place, message) = explain(&error, &text);
        ConfigError::new(path, place, message)
    })?;
    let Some(admin) = part.admin else {
        let message = "names no admin port to ask; write `admin: { address: \"127.0.0.1:9901\" }`";
        return Err(ConfigError::new(path, None, message));
    };
    let settings = convert::admin_settings(admin, &Folder::of(path, true));
    settings.map_err(|wrong| ConfigError::of(path, vec![wrong]))
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(file::File)
}

#[cfg(test)]
mod tests;
