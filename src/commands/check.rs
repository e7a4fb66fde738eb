//! `finback check`: is this configuration good?

use std::path::Path;
use std::process::ExitCode;

use crate::config;

/// Checks the file; prints what is wrong with it to stderr.
#[must_use]
pub fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(config) => {
            println!(
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
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
