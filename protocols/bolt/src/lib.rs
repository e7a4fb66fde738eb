//! SOFA-RPC's Bolt protocol, v1 and v2, as a codec.
//!
//! A connection is multiplexed by `requestId`; both sides may call. Numbers are big-endian. After
//! the fixed header stand a class name, a map of headers (see `map`) and the content, which only
//! its serialization (`codec`) understands.
//!
//! ```text
//! v1 request, 22 bytes; a response has status (2) for timeout (4), so 20 bytes
//! +-------+------+---------+------+-----------+-------+---------+----------+-----------+------------+
//! | proto | type | cmdcode | ver2 | requestId | codec | timeout | classLen | headerLen | contentLen |
//! |   1   |  1   |    2    |  1   |     4     |   1   |    4    |    2     |     2     |     4      |
//! +-------+------+---------+------+-----------+-------+---------+----------+-----------+------------+
//! v2 request, 24 bytes; a response has status (2) for timeout (4), so 22 bytes
//! +-------+------+------+---------+------+-----------+-------+--------+---------+----------+ - -
//! | proto | ver1 | type | cmdcode | ver2 | requestId | codec | switch | timeout | classLen |
//! |   1   |  1   |  1   |    2    |  1   |     4     |   1   |   1    |    4    |    2     |
//! +-------+------+------+---------+------+-----------+-------+--------+---------+----------+ - -
//! then
//! +-----------+------------+---------+--------------------------------------+
//! | className | header map | content | crc32, if ver1 = 2 and switch & 1    |
//! +-----------+------------+---------+--------------------------------------+
//! ```
//!
//! The layout is that of sofa-bolt's classes (Bolt: RpcProtocol, Bolt: RpcProtocolV2). What its documentation
//! does not say: the checksum exists only if `ver1` is 2 as well as the switch set (a Java client
//! of `ver1` 1 sets the switch and sends none), and it is each frame's own affair; a Java server
//! speaks the version of a connection's first frame for ever, hence [`Head::variant`].

mod call;
mod edit;
mod map;
mod reject;
mod wire;

pub use wire::status_name;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use finback_core::codec::{Codec, Sharing, Signal, Unambiguous};
use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker, serve_framed};
use finback_core::frame::{Edit, Head, Kind, Malformed, Metadata, Reading, Status};
use finback_core::health::{Heartbeats, Probe};
use finback_core::rejection::Rejection;

use crate::call::{CodecData, Form};
use crate::wire::{Encoding, Fixed, Version};

/// The protocol's name in configuration, metrics and logs.
pub const NAME: &str = "bolt";

/// What can be set about Bolt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest frame in bytes, header and checksum included. Default 16 MiB; Bolt itself
    /// knows no limit.
    pub max_frame: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame: 16 << 20,
        }
    }
}

/// Bolt v1 and v2.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bolt {
    config: Config,
}

impl Bolt {
    /// Bolt as `config` wants it.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

/// A health check by heartbeat (v1, hessian).
#[must_use]
pub fn probe() -> Arc<dyn Probe> {
    let codec_data = CodecData {
        codec: wire::codec::HESSIAN,
        form: Form::Unknown,
    };
    let (codec, version) = (Arc::new(Bolt::default()), Version::V1);
    Arc::new(Heartbeats::new(codec, version.variant(), codec_data.pack()))
}

impl Protocol for Bolt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        wire::sniff(head)
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        serve_framed(self, NAME, connection, worker)
    }
}

impl Codec for Bolt {
    fn sharing(&self) -> Sharing {
        Sharing::Multiplexed { id_bits: 32 }
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        wire::peek(bytes, self.config.max_frame)
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        let fixed = Fixed::of_head(head, wire)
            .ok_or(Malformed::Garbage("not the frame that its head says"))?;
        if !fixed.intact(wire) {
            return Err(Malformed::Garbage("the frame's checksum is wrong"));
        }
        match head.kind {
            Kind::Response => Ok(Reading::Answer(call::answer(&fixed, wire))),
            _ => call::read(&fixed, wire),
        }
    }

    fn attribute<'a>(
        &self,
        wire: &'a [u8],
        _metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        let fixed = Fixed::of_whole(wire)?;
        let map = &wire[fixed.header_at..fixed.content_at];
        map::find(map, name)?.value.map(String::from_utf8_lossy)
    }

    fn is_ambiguous(
        &self,
        head: &Head,
        wire: &[u8],
        metadata: &Metadata<'_>,
        known: &mut Unambiguous,
    ) -> bool {
        let fixed = Fixed::of_head(head, wire);
        fixed.is_none_or(|fixed| call::is_ambiguous(&fixed, wire, metadata, known))
    }

    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        edit::encode(head, wire, edit, self.config.max_frame, out)
    }

    fn signal(&self, signal: Signal<'_>, last_head: &Head, out: &mut BytesMut) -> bool {
        let encoding = Encoding {
            version: Version::of_variant(last_head.variant),
            codec: CodecData::unpack(last_head.codec_data).codec,
        };
        match signal {
            Signal::Ping { id } => encoding.put_ping(id as u32, out),
            Signal::Pong { .. } => encoding.put_pong(last_head.id as u32, out),
            // Bolt: RpcCommandCode has none. Some meshes have one (100), but Java closes the connection on it.
            Signal::GoAway { .. } => return false,
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
        let version = Version::of_variant(head.variant);
        let call = (version, CodecData::unpack(head.codec_data), head.id as u32);
        Some(reject::put(call, rejection, text, out))
    }
}
