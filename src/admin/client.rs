//! Asking the admin port of a process that runs, on behalf of a command.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use finback_core::net::{ClientTls, DialTarget, dial};
use finback_core::stats::MeshStats;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::config;
use crate::tls::pinned;

use super::access::read_token;

/// How long a connection, and the beginning of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest page that is read.
const LONGEST: usize = 64 * 1024 * 1024;

/// Which part of the admin port is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Health: at its own address, if it has one.
    Health,
    /// Everything else.
    Pages,
}

/// How an admin port is reached.
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
    tls: Option<Arc<ClientTls>>,
}

/// A certificate of ours and its key, where the admin port asks for one.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminIdentity {
    /// A certificate to show, as PEM, where the admin port asks for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl Client {
    /// The way to the admin port that a configuration file names.
    ///
    /// # Errors
    /// If it names none, or what it needs cannot be read.
    pub fn of(file: &Path, part: Part, identity: &AdminIdentity) -> anyhow::Result<Self> {
        let settings = config::admin(file)?;
        if let (Part::Health, Some(address)) = (part, settings.health) {
            return Ok(Self {
                address: reachable(address),
                token: None,
                tls: None,
            });
        }
        let Some(address) = settings.address else {
            bail!(
                "{} names no `admin.address`, where this is served",
                file.display()
            );
        };
        let token = match &settings.token {
            Some(file) => Some(read_token(&file.value)?),
            None => None,
        };
        let tls = match &settings.tls {
            Some(files) => {
                let pair = identity.certificate.as_deref().zip(identity.key.as_deref());
                // Whoever has this certificate's key is the process that is meant.
                let own = files.value.pairs.first().map(|pair| pair.chain.as_path());
                let config = pinned(own.unwrap_or(Path::new("")), pair)?;
                Some(ClientTls::new(config, &[], None, "admin".into()))
            }
            None => None,
        };
        Ok(Self {
            address: reachable(address),
            token,
            tls,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The beginning of the answer to a GET.
    ///
    /// # Errors
    /// If there is none in time; with the address and the cause.
    pub async fn get(&self, target: &str) -> anyhow::Result<Response<Incoming>> {
        let address = self.address;
        let asking = tokio::time::timeout(PATIENCE, self.ask(target)).await;
        let answer = asking.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"));
        answer.with_context(|| {
            format!("the admin port at {address} cannot be asked; does Finback run there?")
        })
    }

    async fn ask(&self, target: &str) -> anyhow::Result<Response<Incoming>> {
        // A connection of a command's is counted nowhere.
        let (mesh_stats, cluster_stats) = (Arc::<MeshStats>::default(), Arc::default());
        let to = DialTarget {
            address: self.address,
            timeout: PATIENCE,
            tls: self.tls.as_deref(),
            header: None,
            application: None,
            stats: &cluster_stats,
        };
        let socket = dial(&mesh_stats, None, to).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the admin port broke");
            }
        });
        let mut request = Request::get(target).header(HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?)
    }

    /// The status and the whole text of the answer to a GET.
    ///
    /// # Errors
    /// If there is none in time.
    pub async fn text(&self, target: &str) -> anyhow::Result<(u16, String)> {
        let answer = self.get(target).await?;
        let status = answer.status().as_u16();
        let body = http_body_util::Limited::new(answer.into_body(), LONGEST).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => bail!("the answer of {} broke off: {error}", self.address),
            Err(_) => bail!("the answer of {} does not end", self.address),
        };
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The value that a GET answers.
    ///
    /// # Errors
    /// If there is none in time, or another status than 200.
    pub async fn value(&self, target: &str) -> anyhow::Result<serde_json::Value> {
        let (status, text) = self.text(target).await?;
        if status != 200 {
            bail!("{} answers {status}: {}", self.address, text.trim());
        }
        serde_json::from_str(&text)
            .context("the answer cannot be read; is it another version of Finback?")
    }
}

/// Where an address that is listened on can be connected to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
