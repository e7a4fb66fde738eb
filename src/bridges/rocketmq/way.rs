//! Dialling RocketMQ servers: as a cluster for messages is configured, or as a cluster of the mesh is.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use finback_core::mesh::Mesh;
use finback_core::net::{DialTarget, dial};

use crate::filters::dial::{self as files, Socket};
use crate::tls::ClientFiles;

/// How servers are connected to.
pub(crate) enum Way {
    /// With TLS by these files, or plain.
    Files(Option<ClientFiles>),
    /// By the policy of this cluster of the mesh.
    Cluster(Weak<Mesh>, Arc<str>),
}

impl Way {
    /// Connects to `host:port`.
    pub(super) async fn connect(&self, address: &str) -> io::Result<Box<dyn Socket>> {
        match self {
            Self::Files(tls) => {
                let parts = address.rsplit_once(':');
                let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
                let host = parts.ok_or_else(|| io::Error::other("it is not a host and port"))?;
                let socket = files::dial(host, tls.as_ref(), b"").await;
                socket.map_err(io::Error::other)
            }
            Self::Cluster(mesh, cluster) => {
                let mesh = mesh.upgrade();
                let mesh = mesh.ok_or_else(|| io::Error::other("the process stops"))?;
                let routing = mesh.routing();
                let cluster = routing.cluster(cluster);
                let cluster = cluster.ok_or_else(|| io::Error::other("its cluster is gone"))?;
                let address: SocketAddr = address.parse().map_err(io::Error::other)?;
                let policy = &cluster.spec.policy;
                let target = DialTarget {
                    address,
                    timeout: policy.connect_timeout,
                    tls: policy.tls.as_deref(),
                    header: None,
                    application: None,
                    stats: &cluster.stats,
                };
                let socket = dial(&mesh.stats, None, target).await;
                Ok(Box::new(socket.map_err(io::Error::other)?))
            }
        }
    }
}
