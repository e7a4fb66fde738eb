//! Lists of what is running: version, configuration, listeners, registries, certificates.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_registry::RegistryStatus;
use serde_json::{Value, json};

use crate::running::Running;

/// Seconds since 1970.
fn seconds(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

pub(super) fn version(running: &Running, trace_url: Option<&str>) -> Value {
    let up = running.started.elapsed().unwrap_or_default();
    json!({
        "name": "finback",
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": seconds(running.started),
        "up_seconds": up.as_secs(),
        "workers": running.workers.status().len(),
        "draining": running.is_draining(),
        "trace_url": trace_url,
    })
}

pub(super) fn configuration(running: &Running) -> Value {
    let shown = running.shown();
    json!({
        "in_force_since": seconds(shown.since),
        "reloads": running.reloads.accepted.load(Relaxed),
        "reloads_refused": running.reloads.refused.load(Relaxed),
        "configuration": shown.value,
    })
}

pub(super) async fn listeners(running: &Running) -> Value {
    let brokers = running.brokers().await;
    let all = running.listeners().await.into_iter();
    all.map(|own| {
        let brokers: Vec<_> = brokers
            .iter()
            .filter(|broker| broker.listener == own.name)
            .collect();
        json!({
            "brokers": brokers,
            "name": own.name,
            "address": own.address.to_string(),
            "protocols": own.protocols,
            "routes": own.routes,
            "tls": own.tls,
            "connections": own.connections,
            "accepted": own.accepted,
        })
    })
    .collect()
}

pub(super) fn registries(registries: &[RegistryStatus]) -> Value {
    let all = registries.iter();
    all.map(|registry| {
        json!({
            "name": registry.name,
            "connected": registry.connected,
            "stale_seconds": registry.stale.as_secs(),
            "services": registry.services,
            "waiting": registry.waiting,
            "protected": registry.protected,
            "from_disk": registry.from_disk,
            "failing_reads": registry.failing_reads,
            "failing_names": registry.failing_names,
            "error": registry.error,
        })
    })
    .collect()
}

pub(super) fn certificates(running: &Running) -> Value {
    let now = seconds(SystemTime::now());
    let all = running.certificates.list().into_iter();
    all.map(|own| {
        let days = own.end.saturating_sub(now) / (24 * 60 * 60);
        json!({
            "of": format!("{} {}", own.owner.role, own.owner.name),
            "kind": if own.is_certificate { "certificate" } else { "revocation" },
            "file": own.file.display().to_string(),
            "name": own.name,
            "not_after": own.end,
            "days_left": days,
        })
    })
    .collect()
}
