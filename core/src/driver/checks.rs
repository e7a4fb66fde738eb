//! Active health checks: endpoints are asked whether they are well.
//!
//! Checks run on the control runtime. What they find is one flag in the endpoint's health, which
//! all workers read as they read ejections; one that passes also ends an ejection early.
//! Nobody is found unwell because of what we lack ourselves, or while we did not run.

mod schedule;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::codec::{Codec, Signal};
use crate::frame::{Head, Kind};
use crate::mesh::Mesh;
use crate::own_error::is_ours;

use super::socket::{Socket, dial};

use schedule::{Found, Schedule, Turn, is_late};

/// How often clusters and endpoints are looked for that are new.
const LOOK: Duration = Duration::from_millis(100);
/// Checks of one cluster at a time.
const AT_ONCE: usize = 64;
/// The longest frame that an answer to a heartbeat may be.
const PONG: usize = 64 * 1024;
/// The id of heartbeats.
const ID: u64 = 1;

/// Asks an endpoint whether it is well.
pub trait Probe: Send + Sync + 'static {
    /// The application protocol to agree on, where TLS is spoken.
    fn application(&self) -> Option<&'static [u8]> {
        None
    }

    /// Asks over a fresh connection. An error says what is wrong.
    fn ask(&self, socket: Socket) -> Asking;
}

/// An answer to come.
pub type Asking = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// How endpoints of a cluster are checked.
#[derive(Clone)]
pub struct HealthCheck {
    /// Who asks.
    pub probe: Arc<dyn Probe>,
    /// What the probe was made from, so that a change is noticed.
    pub settings: Arc<str>,
    /// Another port than the endpoint's.
    pub port: Option<u16>,
    /// From one check to the next. Default: 5 s.
    pub interval: Duration,
    /// How long an answer may take, connecting included. Default: 1 s.
    pub timeout: Duration,
    /// So many failures in a row make an endpoint unwell; the very first check alone decides.
    /// Default: 3.
    pub unhealthy: u32,
    /// So many successes in a row make it well again. Default: 2.
    pub healthy: u32,
}

impl PartialEq for HealthCheck {
    fn eq(&self, other: &Self) -> bool {
        let timing = |own: &Self| {
            (
                own.port,
                own.interval,
                own.timeout,
                own.unhealthy,
                own.healthy,
            )
        };
        self.settings == other.settings && timing(self) == timing(other)
    }
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HealthCheck").field(&self.settings).finish()
    }
}

/// An endpoint is well if it accepts connections.
pub struct Accepts;

impl Probe for Accepts {
    fn ask(&self, _: Socket) -> Asking {
        Box::pin(async { Ok(()) })
    }
}

/// An endpoint is well if it answers heartbeats.
pub struct Heartbeats {
    codec: Arc<dyn Codec>,
    cue: Head,
}

impl Heartbeats {
    /// Of this codec, in the dialect that frames of `variant` and `note` are in.
    #[must_use]
    pub fn new(codec: Arc<dyn Codec>, variant: u8, note: u32) -> Self {
        let cue = Head {
            kind: Kind::Request,
            id: ID,
            len: 0,
            variant,
            note,
        };
        Self { codec, cue }
    }
}

impl Probe for Heartbeats {
    fn ask(&self, mut socket: Socket) -> Asking {
        let (codec, cue) = (self.codec.clone(), self.cue);
        Box::pin(async move {
            let mut ping = BytesMut::new();
            codec.signal(Signal::Ping { id: ID }, &cue, &mut ping);
            let failed = |error: io::Error| error.to_string();
            socket.write_all(&ping).await.map_err(failed)?;
            let mut heard = BytesMut::with_capacity(256);
            loop {
                while let Some(head) = codec.peek(&heard).map_err(|error| error.to_string())? {
                    if head.len > PONG {
                        return Err("a frame too long for a heartbeat".to_owned());
                    }
                    if heard.len() < head.len {
                        break;
                    }
                    if head.kind == Kind::Pong && head.id == ID {
                        return Ok(());
                    }
                    // It may have a question of its own first.
                    let _ = heard.split_to(head.len);
                }
                if socket.read_buf(&mut heard).await.map_err(failed)? == 0 {
                    return Err("it closed the connection".to_owned());
                }
            }
        })
    }
}

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
        let look = now + LOOK;
        wake = schedule.next().map_or(look, |due| due.min(look));
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
    let asking = async {
        match dial(&cluster, address, check.probe.application()).await {
            Ok(socket) => check.probe.ask(socket).await.map_err(Found::Unwell),
            Err(error) if is_ours(&error) => Err(Found::Nothing(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Found::Silent),
            Err(error) => Err(Found::Unwell(error.to_string())),
        }
    };
    match tokio::time::timeout(check.timeout, asking).await {
        Ok(Ok(())) => Found::Well,
        Ok(Err(found)) => found,
        Err(_) => Found::Silent,
    }
}

#[cfg(test)]
mod tests;
