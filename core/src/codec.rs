//! The plug of a framed protocol: pure functions between bytes and frames.

use bytes::BytesMut;

use crate::frame::{Edit, Head, Malformed, Metadata, Reading, Status};
use crate::rejection::Rejection;
use std::borrow::Cow;

/// Who may share an upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Answers come in any order and find their request by an id of this many bits (32 or 64).
    Multiplexed {
        /// Width of the id on the wire.
        id_bits: u8,
    },
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
    Goodbye {
        /// An id of our own.
        id: u64,
    },
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

    /// Begins the frame anew as `edit` wants it: appends the changed part to `out` and returns
    /// how many bytes of `wire` that stands for. The caller appends `wire` from there on, by
    /// copy or by reference.
    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize;

    /// Appends a message about the connection in the dialect of `cue` (a frame seen on that
    /// connection; for a pong, the ping itself). Returns false if the protocol has no such
    /// message.
    fn signal(&self, signal: Signal<'_>, cue: &Head, out: &mut BytesMut) -> bool;

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
