//! The plug of a framed protocol: pure functions between bytes and frames.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::BytesMut;

use crate::frame::{Edit, Head, Lag, Malformed, Metadata, Reading, Status};
use crate::rejection::Rejection;

/// Who may share an upstream connection. Answers come in any order and find their request by an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The calls of all clients.
    Multiplexed {
        /// Width of the id on the wire: 32 or 64 bits.
        id_bits: u8,
    },
    /// The calls of one client: a server remembers who speaks on a connection, and calls that client
    /// over it. They end with the client, and the client with the last of them.
    Session {
        /// Width of the id on the wire: 32 or 64 bits.
        id_bits: u8,
    },
}

impl Sharing {
    /// Width of the id on the wire, in bits.
    #[must_use]
    pub fn id_bits(self) -> u8 {
        match self {
            Self::Multiplexed { id_bits } | Self::Session { id_bits } => id_bits,
        }
    }

    /// Whether a client has upstream connections of its own.
    #[must_use]
    pub fn is_session(self) -> bool {
        matches!(self, Self::Session { .. })
    }
}

/// A message about the connection itself.
#[derive(Clone, Copy, Debug)]
pub enum Signal<'a> {
    /// A heartbeat with this id.
    Ping {
        /// The id that the answer shall carry.
        id: u64,
    },
    /// The answer to the heartbeat whose whole frame this is.
    Pong {
        /// The heartbeat as it came.
        wire: &'a [u8],
    },
    /// "Send me nothing new", with this id where the protocol wants one.
    GoAway {
        /// An id of our own.
        id: u64,
    },
}

/// By which bytes a call was found [to say one thing](Codec::is_ambiguous): one of the same names that has the same says
/// it, too.
#[derive(Debug, Default)]
pub struct Unambiguous {
    bytes: Vec<u8>,
    /// So many of them stand where it begins to say it.
    begins: usize,
}

impl Unambiguous {
    /// More bytes are read again each time.
    const MOST: usize = 1024;

    /// Whether `from` begins with what is remembered of a beginning, and `end` is what is remembered of an end.
    #[must_use]
    pub fn is_of(&self, from: &[u8], end: &[u8]) -> bool {
        let (own, own_end) = self.bytes.split_at(self.begins);
        // What is empty is not compared: that takes long where it points nowhere.
        !own.is_empty()
            && own_end.len() == end.len()
            && from.starts_with(own)
            && (end.is_empty() || own_end == end)
    }

    /// Remembers this beginning and this end in the place of others, unless they are too long.
    pub fn remember(&mut self, beginning: &[u8], end: &[u8]) {
        if beginning.len() + end.len() <= Self::MOST {
            self.bytes.clear();
            self.bytes.extend_from_slice(beginning);
            self.bytes.extend_from_slice(end);
            self.begins = beginning.len();
        }
    }
}

/// A stateless reader and writer of one protocol's frames.
///
/// Every method is a function of its arguments: no socket, clock, randomness or memory. The laws,
/// checked for every codec by [`conformance::check`](crate::conformance::check):
///
/// * *identity*: `encode` with the frame's own id and no attributes gives the same bytes back;
/// * *patience*: `peek` on any prefix is `Ok(None)` until the fixed header is complete, and its
///   answer never changes with more bytes;
/// * *pipelining*: frames one after another are found one after another;
/// * *rewriting*: a new id or attribute arrives, and nothing else changes;
/// * *rejection*: every [`Rejection`] of a request reads back as a failed response to its id; a
///   one-way gets none;
/// * *bounded names*: no name of a call is longer than [`NAME_LIMIT`](crate::frame::NAME_LIMIT); a
///   longer one is [`Malformed::Content`], and is not copied to find that out; a rejection's text
///   is cut to [`ANSWER_LIMIT`](crate::text::ANSWER_LIMIT);
/// * *heartbeat*: a ping reads back as a ping, its pong as a pong of the same id;
/// * *no memory*: what is [remembered](Unambiguous) of a call changes no answer about another;
/// * *robustness*: no bytes make it panic, recurse deeply or allocate more than they carry.
pub trait Codec: Send + Sync + 'static {
    /// Who may share an upstream connection.
    fn sharing(&self) -> Sharing;

    /// Reads the fixed header of the frame that `bytes` begin with; `None` if more bytes are
    /// needed. Bounds the frame's length before anything is buffered.
    ///
    /// # Errors
    /// [`Malformed::Garbage`] or [`Malformed::TooLarge`].
    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed>;

    /// Reads the rest of a request, one-way or response; `wire` is the whole frame, `head` what
    /// `peek` said of it. Not called for other kinds.
    ///
    /// # Errors
    /// [`Malformed::Content`] if the frame alone is unusable, [`Malformed::Garbage`] if the
    /// connection cannot be trusted any more (a checksum that fails).
    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed>;

    /// The value of one attribute (header, attachment) of a request.
    fn attribute<'a>(
        &self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>>;

    /// Whether a server might run something else than `metadata` says: names that stand twice and differ, or that
    /// cannot be read at all. Asked only of calls that filters judge by their names. `known` is of calls of the same
    /// names, and may be remembered anew; the answer does not depend on it.
    fn is_ambiguous(
        &self,
        head: &Head,
        wire: &[u8],
        metadata: &Metadata<'_>,
        known: &mut Unambiguous,
    ) -> bool {
        let _ = (head, wire, metadata, known);
        false
    }

    /// Begins the frame anew as `edit` wants it: appends the changed part to `out` and returns
    /// how many bytes of `wire` that stands for. The caller appends `wire` from there on, by
    /// copy or by reference.
    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize;

    /// Appends a message about the connection in the version and serialization of `last_head` (a frame seen on that
    /// connection; for a pong, the ping itself). Returns false if the protocol has no such
    /// message.
    fn signal(&self, signal: Signal<'_>, last_head: &Head, out: &mut BytesMut) -> bool;

    /// Another body for the answer `wire` to the request `asked`, where clients must not read what the endpoint
    /// says: addresses that lead past the mesh. `local` is where the client connected to. `None` leaves the
    /// answer as it is. Asked only of codecs whose connections are [sessions](Sharing::Session).
    fn translate(&self, asked: &Head, local: Option<SocketAddr>, wire: &[u8]) -> Option<Vec<u8>> {
        let _ = (asked, local, wire);
        None
    }

    /// What an endpoint asks its client in `wire`, in the client's own words; `None` leaves it as it is. Asked only of
    /// codecs whose connections are [sessions](Sharing::Session).
    fn asked_back(&self, head: &Head, wire: &[u8]) -> Option<Vec<u8>> {
        let _ = (head, wire);
        None
    }

    /// What the answer of `head` to the request `asked` tells of its consumer's lag; `None` where it is about none.
    fn lag(&self, asked: &Head, head: &Head) -> Option<Lag> {
        let _ = (asked, head);
        None
    }

    /// Whether the client of this request, told that we are [going away](Rejection::Draining), makes it again over
    /// another connection. Where another listener has taken the place of its own, it is told so at once.
    fn comes_again(&self, head: &Head) -> bool {
        let _ = head;
        false
    }

    /// Appends the mesh's own answer to the request of `head`, such that its client library
    /// raises a clean exception with `text` in it where the protocol carries text. Returns the
    /// answer's status, or `None` if `head` wants no answer: then nothing is appended.
    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status>;
}
