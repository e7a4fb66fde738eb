//! Calls in flight and sessions, as the workers tell of them.

use std::time::Duration;

use finback_core::driver::{InFlight, SessionStatus, Survey};
use serde_json::{Value, json};

use crate::running::Running;

use super::seen::millis;

/// How long workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of each kind so many are told, the oldest ones.
const MOST: usize = 200;

async fn ask(running: &Running) -> (Survey, Vec<usize>) {
    running.workers.survey(MOST, PATIENCE).await
}

pub(super) async fn calls(running: &Running) -> Value {
    let (survey, silent) = ask(running).await;
    let calls: Vec<_> = survey.calls.iter().map(call).collect();
    json!({ "all": survey.all_calls, "oldest": calls, "silent_workers": silent })
}

fn call(own: &InFlight) -> Value {
    json!({
        "age_ms": millis(own.age),
        "protocol": own.protocol,
        "listener": &*own.listener,
        "service": own.service,
        "method": own.method,
        "route": &*own.route,
        "cluster": &*own.cluster,
        "endpoint": own.endpoint.map(|own| own.to_string()),
        "source": own.source.to_string(),
        "attempts": own.attempts,
        "waits_for": own.waits_for.name(),
    })
}

pub(super) async fn sessions(running: &Running) -> Value {
    let (survey, silent) = ask(running).await;
    let sessions: Vec<_> = survey.sessions.iter().map(session).collect();
    json!({ "all": survey.all_sessions, "oldest": sessions, "silent_workers": silent })
}

fn session(own: &SessionStatus) -> Value {
    json!({
        "age_seconds": own.age.as_secs(),
        "protocol": own.protocol,
        "listener": &*own.listener,
        "name": own.name,
        "peer": own.peer.to_string(),
        "endpoint": own.endpoint.map(|own| own.to_string()),
    })
}
