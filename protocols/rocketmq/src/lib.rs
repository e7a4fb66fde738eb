//! RocketMQ's remoting protocol as a codec, in the roles of a name server and of a broker.
//!
//! A client asks a name server which brokers have a topic, then speaks with each of them over a connection of its
//! own, over which the broker calls it, too. So a connection is a [session](Sharing::Session), and each broker needs
//! an address of ours: the name server's answers are given those in place of the brokers' own ([`Brokers`]).
//!
//! Besides, [`Ask`] writes requests of our own, and [`Message`] is what is sent to a topic, read and written.
//!
//! The wire is that of Java (RocketMQ: RemotingCommand; see `header`), read as leniently as clients write it.

mod ask;
mod brokers;
mod call;
mod code;
mod consume;
mod edit;
mod fields;
mod header;
mod json;
mod keys;
pub mod lanes;
mod marks;
mod message;
pub mod properties;
mod reject;
mod rename;
mod route;
mod stored;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use finback_core::codec::{Codec, Sharing, Signal};
use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker, serve_framed};
use finback_core::frame::{Edit, Head, Kind, Lag, Malformed, Metadata, Reading, Status};
use finback_core::rejection::Rejection;

use code::{Use, request};
use edit::Words;
use header::{Header, Lengths};
use marks::{CodecData, Marks};
use route::Rewriter;

pub use ask::{Answered, Ask, MAKES_TOPICS, QUEUES_MADE, Signer, Taken, take_answer};
pub use brokers::{Broker, Brokers};
pub use code::status_name;
pub use consume::{Fetch, QueueOf, Request, clients, locked, queues_of};
pub use keys::AclKeys;
pub use lanes::{Board, GroupLanes};
pub use message::{Member, Message, is_system_topic, is_topic};
pub use rename::Renaming;
pub use route::{Queue, has_brokers, queues};
pub use stored::{Stored, is_readable, stored};

/// The protocol's name in configuration, metrics and logs.
pub const NAME: &str = "rocketmq";

/// What is kept free of the longest frame: another id may have more digits.
const ROOM: usize = 64;

/// What can be set about RocketMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest frame in bytes; 64 less pass, for the id in it may grow. Default 16 MiB, as of Java's clients and
    /// servers (`com.rocketmq.remoting.frameMaxLength`).
    pub max_frame: usize,
    /// Whether operators' requests pass, which change topics, groups, rights and settings that others use, or take
    /// them away. Default: they are denied.
    pub administration: bool,
    /// The host that clients shall dial for brokers; `None`: the address at which they reached us.
    pub advertise: Option<Arc<str>>,
    /// Topics that brokers call otherwise than clients do. Default: none.
    pub topics: Arc<Renaming>,
    /// The lane that consumers are in, or those that others are in. Default: there are none.
    pub lanes: Option<GroupLanes>,
    /// Keys of clients whose requests may be changed although they are signed. Default: none.
    pub keys: AclKeys,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame: 16 << 20,
            administration: false,
            advertise: None,
            topics: Arc::default(),
            lanes: None,
            keys: AclKeys::default(),
        }
    }
}

/// RocketMQ's remoting protocol.
pub struct RocketMq {
    config: Config,
    /// Where brokers are, if it stands for name servers.
    brokers: Option<Arc<dyn Brokers>>,
    /// Who consumes what at the broker, if it stands for one and there are lanes.
    board: Option<Arc<Board>>,
}

impl RocketMq {
    /// In the role of name servers.
    #[must_use]
    pub fn of_name_servers(config: Config, brokers: Arc<dyn Brokers>) -> Self {
        Self {
            config,
            brokers: Some(brokers),
            board: None,
        }
    }

    /// In the role of a broker.
    #[must_use]
    pub fn of_broker(config: Config) -> Self {
        Self {
            config,
            brokers: None,
            board: None,
        }
    }

    /// The same for consumers who leave lanes' messages out; the board has who consumes them.
    #[must_use]
    pub fn with_board(self, board: Option<Arc<Board>>) -> Self {
        Self { board, ..self }
    }

    fn words(&self) -> Words<'_> {
        Words {
            topics: &self.config.topics,
            lanes: self.config.lanes.as_ref(),
            board: self.board.as_deref(),
            keys: &self.config.keys,
        }
    }

    /// Why a request goes no further, if it must not.
    fn refused(&self, head: &Head, wire: &[u8], metadata: &Metadata<'_>) -> Option<Rejection> {
        let code = CodecData::unpack(head.codec_data).code;
        let is_denied = match code::asked_by(code) {
            Use::Clients => false,
            Use::Administration => !self.config.administration,
            // They register themselves at name servers, and not here.
            Use::Brokers => self.brokers.is_some(),
        };
        if is_denied {
            return Some(Rejection::Denied);
        }
        let marks = Marks::unpack(head.marks);
        let mut has_key = true;
        if marks.said.is_signed {
            has_key = match self
                .config
                .keys
                .verify(marks::fields(wire, marks.fields_at))
            {
                Some(true) => true,
                // Name servers look at no signature.
                Some(false) if self.brokers.is_some() => true,
                Some(false) => return Some(Rejection::Unauthenticated),
                None => false,
            };
        }
        let topics = &self.config.topics;
        let renamed = topics.there(&metadata.service);
        // That is a broker's word, and what comes back would be called otherwise.
        if renamed.is_none() && topics.here(&metadata.service).is_some() {
            return Some(Rejection::NoRoute);
        }
        let lanes = self.config.lanes.as_ref();
        let touched = lanes.is_some_and(|own| own.touches(code));
        if let Some(lane) = lanes.and_then(GroupLanes::own).filter(|_| touched)
            && !lanes::fits(&metadata.group, lane)
        {
            return Some(Rejection::BadRequest);
        }
        // What it is about counts in its signature, which name servers do not look at.
        let is_retry = metadata.service.starts_with(lanes::RETRY) && self.brokers.is_some();
        let is_changed = touched && self.brokers.is_none() || renamed.is_some() && !is_retry;
        (is_changed && !has_key).then_some(Rejection::Denied)
    }

    /// The messages of an answer to the base without those that lanes have by themselves.
    fn of_base(&self, asked: &Head, body: &[u8]) -> Option<Vec<u8>> {
        let board = self.board.as_ref()?;
        let code = CodecData::unpack(asked.codec_data).code;
        // What POP gave is acknowledged by whoever has it.
        let is_pull = matches!(code, request::PULL_MESSAGE | request::LITE_PULL_MESSAGE);
        board
            .without_anothers(asked.marks[Marks::GROUP], body)
            .filter(|_| is_pull)
    }
}

impl Protocol for RocketMq {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        let Some((prefix, rest)) = head.split_first_chunk::<{ header::PREFIX }>() else {
            // The longest frame begins with 1, and after four bytes comes the encoding.
            let is_it = head.first().is_none_or(|byte| *byte <= 1)
                && head.get(4).is_none_or(|byte| *byte <= 1);
            return if is_it {
                Sniff::Undecided
            } else {
                Sniff::Mismatch
            };
        };
        if Lengths::read(prefix).is_err() {
            return Sniff::Mismatch;
        }
        match (prefix[4], rest.first()) {
            (0, None) => Sniff::Undecided,
            (0, Some(b'{')) | (1, _) => Sniff::Match,
            _ => Sniff::Mismatch,
        }
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        serve_framed(self, NAME, connection, worker)
    }
}

impl Codec for RocketMq {
    fn sharing(&self) -> Sharing {
        Sharing::Session { id_bits: 32 }
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let limit = self.config.max_frame.saturating_sub(ROOM);
        let Some(lengths) = Lengths::read(bytes)? else {
            return Ok(None);
        };
        let length = lengths.total + 4;
        // Its header is read once, and not anew with each piece of a body that comes slowly.
        if length <= limit && bytes.len() < length {
            return Ok(None);
        }
        let Some((header, found)) = Header::read(bytes)? else {
            return Ok(None);
        };
        let mut head = header.head(&found, bytes);
        if self.board.is_some() && head.kind == Kind::Request && fields::is_fetch(header.code) {
            let group = Marks::unpack(head.marks).said.group;
            head.marks[Marks::GROUP] = lanes::hash(&group.text(bytes).unwrap_or_default());
        }
        if length > limit {
            return Err(Malformed::TooLarge { head, limit });
        }
        Ok(Some(head))
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        if head.kind == Kind::Response {
            return Ok(Reading::Answer(call::answered(head)));
        }
        let mut metadata = call::read(head, wire)?;
        metadata.refused = self.refused(head, wire, &metadata);
        Ok(Reading::Call(metadata))
    }

    fn attribute<'a>(
        &self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        call::attribute(wire, metadata, name)
    }

    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        edit::encode(head, wire, edit, &self.words(), out)
    }

    fn signal(&self, _: Signal<'_>, _: &Head, _: &mut BytesMut) -> bool {
        // There are no heartbeats but those of clients, which are requests, and GO_AWAY is an answer.
        false
    }

    fn translate(&self, asked: &Head, local: Option<SocketAddr>, wire: &[u8]) -> Option<Vec<u8>> {
        let code = CodecData::unpack(asked.codec_data).code;
        let body = wire.get(marks::body_at(wire)..)?;
        if body.is_empty() {
            return None;
        }
        let topics = &self.config.topics;
        let brokers = self.brokers.as_deref();
        let Some(brokers) = brokers.filter(|_| route::tells_addresses(code)) else {
            // The board has brokers' names.
            let kept = self.of_base(asked, body);
            let renamed = match topics.is_empty() {
                true => None,
                false => topics.answer(code, kept.as_deref().unwrap_or(body)),
            };
            return renamed.or(kept);
        };
        let reached = local.map(|local| match local.ip().to_canonical() {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        });
        let host = self.config.advertise.as_deref().or(reached.as_deref());
        let rewriter = Rewriter {
            host: host.unwrap_or_default(),
            brokers,
            topics,
        };
        Some(rewriter.rewrite(code, body))
    }

    fn asked_back(&self, head: &Head, wire: &[u8]) -> Option<Vec<u8>> {
        edit::asked_back(head, wire, &self.words())
    }

    fn lag(&self, asked: &Head, head: &Head) -> Option<Lag> {
        if !fields::is_fetch(CodecData::unpack(asked.codec_data).code) {
            return None;
        }
        Some(Lag {
            part: i64::from(Marks::unpack(asked.marks).said.queue),
            messages: Marks::lag(head.marks)?,
        })
    }

    fn comes_again(&self, head: &Head) -> bool {
        head.kind == Kind::Request && CodecData::unpack(head.codec_data).knows_go_away
    }

    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status> {
        reject::put(head, rejection, text, out)
    }
}
