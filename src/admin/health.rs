//! Health: whether the process lives, and whether it wants more clients.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::StatusCode;

use crate::running::{Readiness, Running};

use super::conversation::Answer;

/// A worker that has not looked after its connections for this long has stopped.
const STUCK: Duration = Duration::from_secs(5);

/// Whether every worker still looks after its connections.
pub(super) fn live(running: &Running) -> Answer {
    match alive(running) {
        Ok(text) => Answer::text(StatusCode::OK, text),
        Err(text) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// Whether new clients are wanted.
pub(super) fn ready(running: &Running) -> Answer {
    let why = match running.readiness() {
        Readiness::Ready => return Answer::text(StatusCode::OK, "ready\n"),
        Readiness::Stopping => "stopping\n".to_owned(),
        Readiness::Waiting(missing) => format!("waiting for {}\n", missing.join(", ")),
    };
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Both in one, for whoever asks one question only.
pub(super) fn healthy(running: &Running) -> Answer {
    match alive(running) {
        Ok(_) => ready(running),
        Err(text) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

fn alive(running: &Running) -> Result<String, String> {
    let workers = running.workers.status();
    let stuck = workers.iter().enumerate();
    let stuck: Vec<usize> = stuck
        .filter(|(_, worker)| worker.turned > STUCK)
        .map(|(index, _)| index)
        .collect();
    if !stuck.is_empty() {
        return Err(format!("workers {stuck:?} have not run for {STUCK:?}\n"));
    }
    match running.mesh.stats.panics.load(Relaxed) {
        0 => Ok("alive\n".to_owned()),
        panics => Ok(format!(
            "alive, but {panics} tasks ended by a panic; see the log\n"
        )),
    }
}
