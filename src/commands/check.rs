//! `finback check`: is this configuration good?

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::log::{complain, say};

/// Checks the file; prints what is wrong with it to stderr.
#[must_use]
pub fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(config) => {
            say(format_args!(
                "{}: good; {} listeners, {} route tables, {} clusters, {} registries",
                path.display(),
                config.listeners.len(),
                config.routing.tables.len(),
                config.routing.clusters.len(),
                config
                    .registries
                    .iter()
                    .filter(|(_, registry)| !registry.is_several())
                    .count()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}
