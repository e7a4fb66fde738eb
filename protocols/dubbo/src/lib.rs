//! Dubbo 2 as a codec: the `dubbo://` protocol with hessian2, fastjson2 or any other bodies.
//!
//! ```text
//! 0      2      3        4        12       16
//! | dabb | flag | status | id     | length | body ...
//! ```
//! All integers are big-endian. `flag`: 0x80 request, 0x40 two-way, 0x20 event, low five bits the
//! serialization. `status` is 0 in requests. `length` counts the body alone (Dubbo: ExchangeCodec,
//! Dubbo: DubboCodec).

mod attachments;
mod call;
mod jsonb;
mod metadata;
mod reject;
mod wire;

pub use metadata::{MetadataError, metadata_request, take_metadata};
pub use wire::status_name;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use finback_core::codec::{Codec, Sharing, Signal, Unambiguous};
use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker, serve_framed};
use finback_core::frame::{Edit, Head, Kind, MARKS, Malformed, Metadata, Reading, Status};
use finback_core::health::{Heartbeats, Probe};
use finback_core::rejection::Rejection;

use wire::Fixed;

/// The protocol's name in configuration, metrics and logs.
pub const NAME: &str = "dubbo";

/// The service that calls in a serialization that cannot be read are routed as, unless
/// configured otherwise.
pub const OPAQUE_SERVICE: &str = "(opaque)";

/// What may be set about Dubbo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest frame, in bytes, header included. Default: 8 MiB, which is Dubbo's own limit
    /// of a body (Dubbo: AbstractCodec), and the header.
    pub max_frame: usize,
    /// The service that calls in a serialization that cannot be read are routed as.
    /// Default: [`OPAQUE_SERVICE`].
    pub opaque_service: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame: 8 * 1024 * 1024 + wire::HEADER,
            opaque_service: OPAQUE_SERVICE.to_owned(),
        }
    }
}

/// Dubbo 2.
#[derive(Clone, Debug, Default)]
pub struct Dubbo {
    config: Config,
}

impl Dubbo {
    /// Dubbo with this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

/// A health check by heartbeat (hessian2).
#[must_use]
pub fn probe() -> Arc<dyn Probe> {
    let codec = Arc::new(Dubbo::new(Config::default()));
    Arc::new(Heartbeats::new(codec, 0, u32::from(wire::HESSIAN2)))
}

impl Protocol for Dubbo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        match head {
            [] | [wire::MAGIC_HIGH] => Sniff::Undecided,
            [wire::MAGIC_HIGH, wire::MAGIC_LOW, ..] => Sniff::Match,
            _ => Sniff::Mismatch,
        }
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        serve_framed(self, NAME, connection, worker)
    }
}

impl Codec for Dubbo {
    fn sharing(&self) -> Sharing {
        Sharing::Multiplexed { id_bits: 64 }
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let Some(fixed) = Fixed::read(bytes)? else {
            return Ok(None);
        };
        let Some(kind) = fixed.kind(bytes)? else {
            return Ok(None);
        };
        let head = Head {
            kind,
            id: fixed.id,
            len: fixed.len(),
            variant: 0,
            codec_data: u32::from(fixed.serialization()),
            marks: [0; MARKS],
        };
        let limit = self.config.max_frame;
        if head.len > limit {
            return Err(Malformed::TooLarge { head, limit });
        }
        Ok(Some(head))
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        let serialization = head.codec_data as u8;
        match head.kind {
            Kind::Response => {
                let status = *wire
                    .get(wire::STATUS)
                    .ok_or(Malformed::Garbage("shorter than its header"))?;
                Ok(Reading::Answer(call::answer(status, serialization, wire)))
            }
            _ => call::read(serialization, wire, &self.config.opaque_service),
        }
    }

    fn attribute<'a>(
        &self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        attachments::find(wire, metadata, name)
    }

    fn is_ambiguous(
        &self,
        head: &Head,
        wire: &[u8],
        metadata: &Metadata<'_>,
        known: &mut Unambiguous,
    ) -> bool {
        call::is_ambiguous(wire, head.codec_data as u8, metadata, known)
    }

    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        if edit.changes_content()
            && matches!(head.kind, Kind::Request | Kind::OneWay)
            && attachments::rewrite(wire, edit, out)
        {
            return wire.len();
        }
        out.put_slice(wire.get(..wire::ID).unwrap_or_default());
        out.put_u64(edit.id);
        wire::LENGTH.min(wire.len())
    }

    fn signal(&self, signal: Signal<'_>, last_head: &Head, out: &mut BytesMut) -> bool {
        match signal {
            Signal::Ping { id } => wire::put_heartbeat(last_head.codec_data, id, out),
            Signal::Pong { wire } => wire::put_heartbeat_answer(wire, out),
            Signal::GoAway { id } => wire::put_readonly(last_head.codec_data, id, out),
        }
        true
    }

    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status> {
        if head.kind != Kind::Request {
            return None;
        }
        Some(reject::put(head, rejection, text, out))
    }
}
