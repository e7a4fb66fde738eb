//! Active health checks: how an endpoint is asked whether it is healthy.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::codec::{Codec, Signal};
use crate::frame::{Head, Kind, MARKS};
use crate::net::Socket;

/// The longest frame that an answer to a heartbeat may be.
const PONG: usize = 64 * 1024;
/// The id of heartbeats.
const ID: u64 = 1;

/// Asks an endpoint whether it is healthy.
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
    /// So many failures in a row make an endpoint unhealthy; the very first check alone decides.
    /// Default: 3.
    pub unhealthy: u32,
    /// So many successes in a row make it healthy again. Default: 2.
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

/// An endpoint is healthy if it accepts connections.
pub struct Accepts;

impl Probe for Accepts {
    fn ask(&self, _: Socket) -> Asking {
        Box::pin(async { Ok(()) })
    }
}

/// An endpoint is healthy if it answers heartbeats.
pub struct Heartbeats {
    codec: Arc<dyn Codec>,
    last_head: Head,
}

impl Heartbeats {
    /// Of this codec, in the version and serialization that frames of `variant` and `codec_data` are in.
    #[must_use]
    pub fn new(codec: Arc<dyn Codec>, variant: u8, codec_data: u32) -> Self {
        let last_head = Head {
            kind: Kind::Request,
            id: ID,
            len: 0,
            variant,
            codec_data,
            marks: [0; MARKS],
        };
        Self { codec, last_head }
    }
}

impl Probe for Heartbeats {
    fn ask(&self, mut socket: Socket) -> Asking {
        let (codec, last_head) = (self.codec.clone(), self.last_head);
        Box::pin(async move {
            let mut ping = BytesMut::new();
            codec.signal(Signal::Ping { id: ID }, &last_head, &mut ping);
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
