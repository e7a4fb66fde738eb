//! A file that is read again when it has changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;

/// How often it is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// What a file says.
pub trait Parsed: Sized {
    /// Makes something of its bytes.
    fn parse(bytes: &[u8]) -> anyhow::Result<Self>;
}

/// A file and what it says; a version that is no good leaves the former in force.
pub struct Fresh<T> {
    path: PathBuf,
    state: Mutex<State<T>>,
}

struct State<T> {
    version: Option<(SystemTime, u64)>,
    looked: Option<Instant>,
    current: Option<Arc<T>>,
}

impl<T> fmt::Debug for Fresh<T> {
    /// Its name only: what it says is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fresh").field(&self.path).finish()
    }
}

fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let known = std::fs::metadata(path).ok()?;
    Some((known.modified().ok()?, known.len()))
}

impl<T: Parsed> Fresh<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        let state = State {
            version: None,
            looked: None,
            current: None,
        };
        Self {
            path,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(&self) -> anyhow::Result<()> {
        let state = &mut *self.lock();
        self.read_into(state)
    }

    fn read_into(&self, state: &mut State<T>) -> anyhow::Result<()> {
        state.looked = Some(Instant::now());
        state.version = version(&self.path);
        let name = || self.path.display().to_string();
        let bytes = std::fs::read(&self.path).with_context(|| format!("cannot read {}", name()))?;
        let parsed = T::parse(&bytes).with_context(name)?;
        state.current = Some(Arc::new(parsed));
        Ok(())
    }

    /// What it says now; `None` if it has never been good.
    pub(super) fn current(&self) -> Option<Arc<T>> {
        let state = &mut *self.lock();
        let due = state.looked.is_none_or(|last| last.elapsed() >= WATCH);
        if due && (state.current.is_none() || version(&self.path) != state.version) {
            match self.read_into(state) {
                Ok(()) => tracing::info!(file = %self.path.display(), "read again"),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::warn!(
                        why,
                        "a changed file is not valid; what it said before stays in force"
                    );
                }
            }
        } else if due {
            state.looked = Some(Instant::now());
        }
        state.current.clone()
    }
}
