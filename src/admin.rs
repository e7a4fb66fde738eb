//! The admin port: pages, an API and metrics over HTTP, for those who may see them.
//!
//! Everything is served at `admin.address`: to this machine, or to whoever brings the token or a
//! certificate. Health and metrics may have listeners of their own, which serve nothing else and ask
//! nobody who they are. Nothing here holds up a worker: what is shown is read from atomics, snapshots and
//! lists of bounded length.

mod access;
pub mod client;
mod clusters;
mod conversation;
mod dashboard;
pub mod endpoints;
pub mod explain;
mod filters;
mod health;
mod in_flight;
mod lists;
mod query;
mod recent;
mod routes;
mod seen;
mod services;
mod settings;
pub mod tap;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use finback_core::net::ServerTls;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::log::LIFECYCLE;
use crate::running::Running;
use crate::tls::{self, Owner};

use access::{Access, Token};
use recent::Recent;
use tap::Taps;

pub use settings::Settings;

/// Connections that one address serves at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 32;
/// Pause when nothing can be accepted: of descriptors a share is kept for this port.
const PAUSE: Duration = Duration::from_millis(100);

/// What an address serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Serves {
    everything: bool,
    health: bool,
    metrics: bool,
}

/// An address that is bound, and what it serves.
struct Port {
    name: &'static str,
    socket: TcpListener,
    serves: Serves,
}

/// The addresses of the admin port, bound, with the keys that they need.
pub struct Ports {
    ports: Vec<Port>,
    settings: Settings,
    token: Option<Arc<Token>>,
    tls: Option<Arc<ServerTls>>,
}

impl Ports {
    /// Binds the addresses.
    ///
    /// # Errors
    /// If one cannot be bound, or token or keys not be read.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let everything = Serves {
            everything: true,
            ..Serves::default()
        };
        let health = Serves {
            health: true,
            ..Serves::default()
        };
        let metrics = Serves {
            metrics: true,
            ..Serves::default()
        };
        let mut wanted: Vec<(&'static str, SocketAddr, Serves)> = Vec::new();
        wanted.extend(settings.address.map(|own| ("admin", own, everything)));
        wanted.extend(settings.health.map(|own| ("health", own, health)));
        match settings.metrics {
            Some(own) if settings.health == Some(own) => {
                for (name, _, serves) in wanted.iter_mut().filter(|(_, other, _)| *other == own) {
                    *name = "health-and-metrics";
                    serves.metrics = true;
                }
            }
            own => wanted.extend(own.map(|own| ("metrics", own, metrics))),
        }
        let mut ports = Vec::new();
        for (name, address, serves) in wanted {
            let socket = TcpListener::bind(address)
                .await
                .with_context(|| format!("the admin port cannot listen on {address}"))?;
            ports.push(Port {
                name,
                socket,
                serves,
            });
        }
        let token = match &settings.token {
            Some(file) => Some(Arc::new(Token::read(&file.value)?)),
            None => None,
        };
        let tls = match &settings.tls {
            Some(files) => Some(files.value.build()?),
            None => None,
        };
        Ok(Self {
            ports,
            settings,
            token,
            tls,
        })
    }

    /// Where everything is served, if anywhere.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let own = self.ports.iter().find(|own| own.serves.everything)?;
        own.socket.local_addr().ok()
    }

    /// Serves until the runtime ends.
    ///
    /// # Errors
    /// If an address cannot be told.
    pub fn serve(self, running: &Arc<Running>) -> anyhow::Result<()> {
        if let Some(token) = &self.token
            && let Some(file) = &self.settings.token
        {
            tokio::spawn(token.clone().keep_fresh(file.value.clone()));
            let outside = self.settings.address.filter(|own| !own.ip().is_loopback());
            if let (Some(outside), None) = (outside, &self.tls) {
                tracing::warn!(%outside, "the admin port's token is sent without TLS: write `tls`, or keep others off that network");
            }
        }
        if let (Some(tls), Some(files)) = (&self.tls, &self.settings.tls) {
            let owner = Owner {
                role: "listener",
                name: "admin".to_owned(),
            };
            let ledger = running.certificates.clone();
            let kept = Arc::downgrade(tls);
            tokio::spawn(tls::keep_fresh(kept, files.value.clone(), owner, ledger));
        }
        for Port {
            name,
            socket,
            serves,
        } in self.ports
        {
            let tls = self.tls.clone().filter(|_| serves.everything);
            let protocol = if tls.is_some() { "https" } else { "http" };
            let address = socket.local_addr()?;
            tracing::info!(target: LIFECYCLE, "listening {name} {address} protocol={protocol}");
            let shared = Arc::new(Shared {
                access: Access {
                    serves,
                    token: self.token.clone().filter(|_| serves.everything),
                    knows_clients: serves.everything && self.settings.knows_clients(),
                    hosts: self.settings.hosts.clone(),
                },
                trace_url: self.settings.trace_url.clone(),
                running: running.clone(),
                taps: Taps::default(),
                recent: serves.everything.then(|| Recent::begin(&running.watchers)),
            });
            tokio::spawn(accept(socket, tls, shared));
        }
        Ok(())
    }
}

/// What all connections of an address share.
struct Shared {
    access: Access,
    trace_url: Option<String>,
    running: Arc<Running>,
    taps: Taps,
    /// Where everything is served.
    recent: Option<Recent>,
}

async fn accept(socket: TcpListener, tls: Option<Arc<ServerTls>>, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed, so that this cannot fail.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, _)) => {
                let (tls, shared) = (tls.clone(), shared.clone());
                tokio::spawn(async move {
                    conversation::hold(stream, tls.as_deref(), &shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept; pausing");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
