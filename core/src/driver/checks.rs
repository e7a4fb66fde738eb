//! Active health checks: endpoints are asked whether they are healthy.
//!
//! Checks run on the control runtime. What they find is one flag in the endpoint's health, which
//! all workers read as they read ejections; one that passes also ends an ejection early.
//! Nobody is found unhealthy because of what we lack ourselves, or while we did not run.

mod schedule;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::health::HealthCheck;
use crate::mesh::Mesh;
use crate::net::{DialTarget, Known, dial, proxy_header};
use crate::own_error::is_ours;
use crate::stats::MeshStats;

use schedule::{Found, Schedule, Turn, is_late};

/// How often clusters are looked for that are new; and, while answers are awaited, whether we run.
const LOOK: Duration = Duration::from_millis(100);
/// A cluster without endpoints is looked at this often, and when it changes.
const NOBODY: Duration = Duration::from_secs(3600);
/// Checks of one cluster at a time.
const AT_ONCE: usize = 64;

/// Checks the endpoints of all clusters that want it, for ever.
pub async fn keep_checking(mesh: Weak<Mesh>) {
    let mut running: HashMap<usize, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        {
            let Some(mesh) = mesh.upgrade() else { return };
            for cluster in mesh.clusters() {
                let Some(check) = &cluster.spec.policy.health_check else {
                    continue;
                };
                let key = Arc::as_ptr(&cluster).addr();
                let is_running = running.get(&key).is_some_and(|task| !task.is_finished());
                if !is_running {
                    let task = tasks.spawn(follow(Arc::downgrade(&cluster), check.clone()));
                    running.insert(key, task);
                }
            }
        }
        running.retain(|_, task| !task.is_finished());
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(LOOK).await;
    }
}

/// Checks the endpoints of one cluster as long as it is there.
async fn follow(cluster: Weak<Cluster>, check: HealthCheck) {
    let Some(mut changes) = cluster.upgrade().map(|cluster| cluster.changes()) else {
        return;
    };
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut schedule = Schedule::new(check.clone());
    let mut version = None;
    let mut asking = JoinSet::new();
    // A probe that panics tells nothing else than which task it was.
    let mut turns: HashMap<task::Id, Turn> = HashMap::new();
    let mut wake = Instant::now();
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep_until(wake) => None,
            Some(ended) = asking.join_next_with_id() => Some(ended),
            // An error says that the cluster is gone, as the next line finds.
            _ = changes.changed() => None,
        };
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let now = Instant::now();
        // First: what was found is judged knowing whether we ran.
        if is_late(wake, now) {
            schedule.stalled(now);
        }
        if let Some(ended) = ended {
            let (id, found) = match ended {
                Ok((id, found)) => (id, found),
                Err(error) => (error.id(), Found::Nothing(error.to_string())),
            };
            if let Some(turn) = turns.remove(&id) {
                schedule.conclude(&turn, &found, now, cluster.now());
            }
        }
        if version != Some(cluster.version()) {
            // Read first: a change between the two reads is caught next time.
            version = Some(cluster.version());
            schedule.update(&cluster.endpoints().all, now);
        }
        while let Some(turn) = schedule.take_due(now) {
            let address = turn.endpoint.address;
            let task = ask(cluster.clone(), address, check.clone(), places.clone());
            turns.insert(asking.spawn(task).id(), turn);
        }
        wake = schedule.next().unwrap_or(now + NOBODY);
        if !turns.is_empty() {
            // Who never wakes does not know whether it runs.
            wake = wake.min(now + LOOK);
        }
    }
}

async fn ask(
    cluster: Arc<Cluster>,
    mut address: SocketAddr,
    check: HealthCheck,
    places: Arc<Semaphore>,
) -> Found {
    // Never closed.
    let _place = places.acquire().await;
    if let Some(port) = check.port {
        address.set_port(port);
    }
    let policy = &cluster.spec.policy;
    let header = policy.proxy_header;
    let header = header.map(|version| proxy_header(version, None, Known::default()));
    // These connections carry no calls, and are counted nowhere.
    let (mesh_stats, cluster_stats) = (Arc::<MeshStats>::default(), Arc::default());
    let target = DialTarget {
        header: header.as_deref(),
        address,
        timeout: policy.connect_timeout,
        tls: policy.tls.as_deref(),
        application: check.probe.application(),
        stats: &cluster_stats,
    };
    let asking = async {
        match dial(&mesh_stats, None, target).await {
            Ok(socket) => check.probe.ask(socket).await.map_err(Found::Unhealthy),
            Err(error) => Err(unmet(error.cause())),
        }
    };
    match tokio::time::timeout(check.timeout, asking).await {
        Ok(Ok(())) => Found::Healthy,
        Ok(Err(found)) => found,
        Err(_) => Found::Silent,
    }
}

/// What it says of an endpoint that no connection to it could be made.
fn unmet(error: &io::Error) -> Found {
    if is_ours(error) {
        Found::Nothing(error.to_string())
    } else if error.kind() == io::ErrorKind::TimedOut {
        Found::Silent
    } else {
        Found::Unhealthy(error.to_string())
    }
}

#[cfg(test)]
mod tests;
