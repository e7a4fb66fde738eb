//! `finback check`: is this configuration good?

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::log::{complain, say};

/// Checks the file; prints what is wrong with it to stderr, and what is probably not meant. With `alone`,
/// keys, certificates and passwords are not read.
#[must_use]
pub fn check(path: &Path, alone: bool) -> ExitCode {
    let loaded = match alone {
        true => config::load_alone(path),
        false => config::load(path),
    };
    match loaded {
        Ok(config) => {
            for warning in &config.warnings {
                complain(format_args!("{warning}"));
            }
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
