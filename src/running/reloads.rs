//! Reloads and what they change: the configuration as shown, what stays as it is until a restart, and counts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin;
use crate::config::{Config, MeshRegistry};

/// The configuration in force as it may be shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What the file said, without secrets.
    pub value: serde_json::Value,
    /// Since when it is in force.
    pub since: SystemTime,
}

impl Shown {
    /// That of a file whose keys of these names are not in force: they stay as they are.
    pub(super) fn replace(&mut self, mut value: serde_json::Value, fixed: &[&str]) {
        if let (Some(own), Some(new)) = (self.value.as_object(), value.as_object_mut()) {
            for key in fixed {
                new.remove(*key);
                new.extend(own.get(*key).map(|kept| ((*key).to_owned(), kept.clone())));
            }
        }
        *self = Self {
            value,
            since: SystemTime::now(),
        };
    }
}

/// What of a configuration only a restart changes.
pub(super) struct Fixed {
    workers: usize,
    admin: Option<admin::Settings>,
    mesh_registry: Option<MeshRegistry>,
    pub(super) snapshots: Option<PathBuf>,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            workers: config.workers,
            admin: config.admin.clone(),
            mesh_registry: config.mesh_registry.clone(),
            snapshots: config.snapshots.clone(),
        }
    }

    /// The keys that differ from those of another configuration.
    pub(super) fn changed(&self, other: &Self) -> Vec<&'static str> {
        let keys = [
            ("workers", self.workers != other.workers),
            ("admin", self.admin != other.admin),
            ("mesh_registry", self.mesh_registry != other.mesh_registry),
            ("snapshots", self.snapshots != other.snapshots),
        ];
        let changed = keys.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| key).collect()
    }
}

/// Counts of reloads, and when the last were, in seconds since 1970.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Put in force.
    pub accepted: AtomicU64,
    /// When one was put in force last, the first included.
    pub accepted_at: AtomicU64,
    /// Refused; the configuration before stayed.
    pub refused: AtomicU64,
    /// When one was refused last; 0 if none was.
    pub refused_at: AtomicU64,
}

impl Reloads {
    /// None yet but what the process was started with.
    pub(super) fn begin() -> Self {
        let reloads = Self::default();
        reloads.accepted_at.store(seconds(), Ordering::Relaxed);
        reloads
    }

    /// A configuration was put in force.
    pub fn accept(&self) {
        self.accepted_at.store(seconds(), Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A configuration was refused.
    pub fn refuse(&self) {
        self.refused_at.store(seconds(), Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |own| own.as_secs())
}
