//! Active health checks: endpoints are asked whether they are well.
//!
//! Checks run on the control runtime. What they find is one flag in the endpoint's health, which
//! all workers read as they read ejections.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::codec::{Codec, Signal};
use crate::endpoint::Endpoint;
use crate::frame::{Head, Kind};
use crate::mesh::Mesh;

use super::socket::{Socket, dial};

/// How often clusters and endpoints are looked for that are new, or due.
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
                let Some(check) = cluster.spec.policy.health_check.clone() else {
                    continue;
                };
                let key = Arc::as_ptr(&cluster).addr();
                let is_running = running.get(&key).is_some_and(|task| !task.is_finished());
                if !is_running {
                    let task = tasks.spawn(follow(Arc::downgrade(&cluster), check));
                    running.insert(key, task);
                }
            }
        }
        running.retain(|_, task| !task.is_finished());
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(LOOK).await;
    }
}

/// What is known of an endpoint.
struct Known {
    due: Instant,
    /// Checks in a row that went as the last one did; 0 before the first.
    streak: u32,
    went_well: bool,
    busy: bool,
}

/// Checks the endpoints of one cluster as long as it is there.
async fn follow(cluster: Weak<Cluster>, check: HealthCheck) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut known: HashMap<SocketAddr, Known> = HashMap::new();
    let mut asking = JoinSet::new();
    let mut look = tokio::time::interval(LOOK.min(check.interval));
    loop {
        tokio::select! {
            _ = look.tick() => {
                let Some(cluster) = cluster.upgrade() else { return };
                let endpoints = cluster.endpoints();
                let now = Instant::now();
                known.retain(|address, _| endpoints.all.iter().any(|own| own.address == *address));
                for endpoint in &endpoints.all {
                    let one = known.entry(endpoint.address).or_insert(Known {
                        due: now,
                        streak: 0,
                        went_well: true,
                        busy: false,
                    });
                    if one.busy || one.due > now {
                        continue;
                    }
                    one.busy = true;
                    one.due = now + check.interval;
                    let (check, places) = (check.clone(), places.clone());
                    asking.spawn(ask(cluster.clone(), endpoint.clone(), check, places));
                }
            }
            Some(Ok((endpoint, went))) = asking.join_next() => {
                if let Some(one) = known.get_mut(&endpoint.address) {
                    one.busy = false;
                    judge(&check, one, &endpoint, went);
                }
            }
        }
    }
}

async fn ask(
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    check: HealthCheck,
    places: Arc<Semaphore>,
) -> (Arc<Endpoint>, Result<(), String>) {
    // Never closed.
    let _place = places.acquire().await;
    let mut address = endpoint.address;
    if let Some(port) = check.port {
        address.set_port(port);
    }
    let asking = async {
        let socket = dial(&cluster, address, check.probe.application()).await;
        let socket = socket.map_err(|error| error.to_string())?;
        check.probe.ask(socket).await
    };
    let went = match tokio::time::timeout(check.timeout, asking).await {
        Ok(went) => went,
        Err(_) => Err(format!("no answer within {:?}", check.timeout)),
    };
    (endpoint, went)
}

fn judge(check: &HealthCheck, one: &mut Known, endpoint: &Endpoint, went: Result<(), String>) {
    let is_first = one.streak == 0;
    let well = went.is_ok();
    one.streak = if well == one.went_well {
        one.streak + 1
    } else {
        1
    };
    one.went_well = well;
    let was_unwell = endpoint.health.unwell.load(Relaxed);
    let enough = if well { check.healthy } else { check.unhealthy };
    if was_unwell != well || (one.streak < enough && !is_first) {
        return;
    }
    endpoint.health.unwell.store(!well, Relaxed);
    let address = endpoint.address;
    match went {
        Ok(()) => tracing::info!(%address, "endpoint is well again"),
        Err(why) => tracing::warn!(%address, why, "endpoint is unwell"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unhealthy: u32, healthy: u32) -> HealthCheck {
        HealthCheck {
            probe: Arc::new(Accepts),
            settings: "".into(),
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy,
            healthy,
        }
    }

    #[test]
    fn it_takes_several_in_a_row_but_for_the_first() {
        let endpoint = Endpoint {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 1,
            labels: Default::default(),
            warm_up: None,
            health: Arc::default(),
        };
        let fresh = || Known {
            due: Instant::now(),
            streak: 0,
            went_well: true,
            busy: false,
        };
        let check = check(3, 2);
        let mut one = fresh();
        let mut after = |said: &str| -> Vec<bool> {
            let each = said.chars().map(|letter| {
                let went = (letter == '+').then_some(()).ok_or_else(String::new);
                judge(&check, &mut one, &endpoint, went);
                endpoint.health.unwell.load(Relaxed)
            });
            each.collect()
        };
        assert_eq!(after("+--+"), [false; 4]);
        assert_eq!(after("---"), [false, false, true]);
        assert_eq!(after("+-++"), [true, true, true, false]);
        // One that is found unwell at once.
        let mut one = fresh();
        judge(&check, &mut one, &endpoint, Err(String::new()));
        assert!(endpoint.health.unwell.load(Relaxed));
    }
}
