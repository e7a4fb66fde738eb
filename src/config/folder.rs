//! The folder of a configuration file: what paths in it are relative to, and whether other files are read.

use std::path::{Path, PathBuf};

use super::Wrong;
use super::units::Placed;

/// The folder of a configuration file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder<'a> {
    path: &'a Path,
    /// Files that the configuration names are read.
    pub(super) reads: bool,
}

impl<'a> Folder<'a> {
    /// That of the configuration file at `path`.
    pub(super) fn of(path: &'a Path, reads: bool) -> Self {
        let path = path.parent().unwrap_or(Path::new(""));
        Self { path, reads }
    }

    /// A path as it is written, made whole.
    pub(super) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// The secret in a file, without the end of its line.
    pub(super) fn secret(&self, file: &Placed<String>) -> Result<String, Wrong> {
        if !self.reads {
            return Ok(String::new());
        }
        let path = self.join(&file.value);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let message = format!("{} cannot be read: {error}", path.display());
            Wrong::at(file.place, message)
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}
