//! Frames: what every framed protocol's messages have in common.

use std::borrow::Cow;
use std::time::Duration;

use crate::discovery::Terms;
use crate::rejection::Rejection;

/// The longest name of a service, method, version or group, in bytes. Such names become keys, and
/// live long after their call: Java allows itself 64 KiB, but nobody has one of more than a few
/// hundred bytes.
pub const NAME_LIMIT: usize = 1024;

/// How many [`Head::marks`] there are.
pub const MARKS: usize = 7;

/// What a frame is for, as far as its fixed header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call that wants an answer.
    Request,
    /// A call that wants none.
    OneWay,
    /// The answer to a request.
    Response,
    /// A heartbeat that wants an answer.
    Ping,
    /// The answer to a heartbeat.
    Pong,
    /// The peer is going away: finish what is in flight, send nothing new.
    GoAway,
    /// The peer takes a [`Kind::GoAway`] back.
    Resume,
    /// A message about the connection that means nothing to a proxy; dropped.
    Ignored,
}

/// The fixed header of one frame: all that core needs to pass it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the frame is for.
    pub kind: Kind,
    /// The request id as on the wire, zero-extended.
    pub id: u64,
    /// Length of the whole frame in bytes, fixed header included.
    pub len: usize,
    /// Frames of different variants must not share an upstream connection (a peer that learns
    /// its version from the first frame, say). 0 where the protocol has only one.
    pub variant: u8,
    /// The codec's own memory of the frame: whatever `encode`, `signal` and `reject` need of it
    /// after its bytes are gone (serialization, flags). Core only carries it.
    pub codec_data: u32,
    /// Where in this frame the codec found what `read` and `encode` are about, so that they need not
    /// look for it again; of no use once its bytes are gone. Zeros where a codec keeps none.
    pub marks: [u32; MARKS],
}

/// What the ending of a call means, whatever its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service answered.
    Success,
    /// The service answered with an exception of its own: the application's business.
    Exception,
    /// The server says that the request is at fault: it knows no such service or method, or cannot
    /// read it. Nobody else's call would fare so.
    Invalid,
    /// The server's framework failed the call.
    Failed,
    /// The server did not run the call (too busy, shutting down): another endpoint may safely.
    Refused,
    /// The server gave up waiting for its own work.
    TimedOut,
}

/// A protocol's own number for how a call ended: a status, a reason code. It means nothing to core, which
/// carries it into the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

impl Status {
    /// The protocol has no such number, or nobody answered.
    pub const NONE: Self = Self(u16::MAX);

    /// Whether there is a number.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// How a call ended, as its response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it means.
    pub outcome: Outcome,
    /// How the protocol says it.
    pub status: Status,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            status: Status::NONE,
        }
    }
}

/// How many messages a consumer has not fetched yet, as an answer to it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Of which part of its topic at that endpoint (a queue, a partition): each part has a lag of its own.
    pub part: i64,
    /// The messages.
    pub messages: u64,
}

/// What a frame says beyond its fixed header.
#[derive(Debug)]
pub enum Reading<'a> {
    /// Of a request or one-way.
    Call(Metadata<'a>),
    /// Of a response.
    Answer(Answer),
}

impl Reading<'_> {
    /// Whether [the names of a call fit](Metadata::names_fit).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn names_fit(&self) -> Result<(), Malformed> {
        match self {
            Self::Call(metadata) => metadata.names_fit(),
            Self::Answer(_) => Ok(()),
        }
    }
}

/// Which names the attributes of a call may have: a bit for each, so that most that are not there need not be
/// looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names(u64);

impl Names {
    /// None.
    pub const NONE: Self = Self(0);
    /// Any: nobody looked.
    pub const ANY: Self = Self(u64::MAX);

    /// This one alone.
    #[inline]
    #[must_use]
    pub const fn of(name: &[u8]) -> Self {
        let (first, last) = match (name.first(), name.last()) {
            (Some(first), Some(last)) => (*first, *last),
            _ => (0, 0),
        };
        // The highest bits depend on all three. The factor is any that sets the names of contexts of traces apart from
        // those that calls ordinarily have.
        let told = name.len() as u32 ^ (first as u32) << 8 ^ (last as u32) << 16;
        Self(1 << (told.wrapping_mul(0xb837_6f95) >> 26))
    }

    /// This one, too.
    #[inline]
    pub fn add(&mut self, name: &[u8]) {
        self.0 |= Self::of(name).0;
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the same name may be among both; false is certain.
    #[inline]
    #[must_use]
    pub fn may_share(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::ANY
    }
}

/// What routing may see of a request: views into its frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata<'a> {
    /// The service (interface) name, without version and group. Never empty.
    pub service: Cow<'a, str>,
    /// The method, or "" if the frame does not say.
    pub method: Cow<'a, str>,
    /// The service's version, or "" for none.
    pub version: Cow<'a, str>,
    /// The service's group (or unique id), or "" for none.
    pub group: Cow<'a, str>,
    /// How long the caller will wait, if it says so.
    pub timeout: Option<Duration>,
    /// Tells apart kinds of clients that must not share an upstream connection though their
    /// frames have the same [`Head::variant`]: servers may remember per connection how one
    /// client's library writes. Below 16; 0 where it does not matter.
    pub writer: u8,
    /// The service's name is the protocol's own and no caller's: what stands in parentheses for
    /// calls that name none.
    pub own: bool,
    /// Why it goes nowhere, wherever routes would lead it: its protocol, or what that is configured to, says so.
    pub refused: Option<Rejection>,
    /// Where its protocol answers by itself, that finds out who calls: filters are asked then, and not before.
    pub proves: bool,
    /// Its driver does what a route's [`Treatment`](crate::route::Treatment) says, if that is of the driver's type. A
    /// call without this does not pass a route that has one.
    pub treats: bool,
    /// How long it takes says nothing of its endpoint's load: a session, a tunnel, a long poll. It is left out of
    /// [adaptive concurrency](crate::concurrency).
    pub lingers: bool,
    /// Why something among these cannot be read, where a protocol finds that out on the way: the call
    /// is refused, and never taken for one that does not say it.
    pub unreadable: Option<&'static str>,
    /// Where in the frame the attributes begin; the codec's own business.
    pub attributes_at: usize,
    /// The names that they may have, as far as the codec saw them on its way.
    pub names: Names,
    /// [`Head::codec_data`] made complete by what only the body tells (its serialization, say). Takes that
    /// one's place from now on; a codec with nothing to add copies it.
    pub codec_data: u32,
}

impl Metadata<'_> {
    /// Whether the call can be routed by these: all could be read, and keys may be made of the names.
    /// None is longer than [`NAME_LIMIT`], and a caller's
    /// service does not begin with a parenthesis, as the names that protocols and metrics give
    /// to calls themselves do. Protocols ask this last, of every call, and before they copy a
    /// name.
    ///
    /// # Errors
    /// [`Malformed::Content`]: the call is answered, its connection lives on.
    #[inline]
    pub fn names_fit(&self) -> Result<(), Malformed> {
        if let Some(why) = self.unreadable {
            return Err(Malformed::Content(why));
        }
        let others = [&*self.method, &*self.version, &*self.group];
        match Self::check_names(&self.service, others) {
            Err(Malformed::OWN_NAME) if self.own => Ok(()),
            checked => checked,
        }
    }

    /// The same of a caller's names, before anything is made of them: of its service, and of its method, version and
    /// group.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn check_names(service: &str, others: [&str; 3]) -> Result<(), Malformed> {
        if service.len() > NAME_LIMIT || others.iter().any(|name| name.len() > NAME_LIMIT) {
            return Err(Malformed::LONG_NAME);
        }
        if service.starts_with('(') {
            return Err(Malformed::OWN_NAME);
        }
        Ok(())
    }
}

/// What [`Codec::encode`](crate::codec::Codec::encode) changes in a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edit<'a> {
    /// The id the frame shall carry.
    pub id: u64,
    /// Attributes to add, or to replace where the frame has them already.
    pub attributes: &'a [(&'a str, &'a str)],
    /// The body that the frame shall have in place of its own. Only where a codec [asked for
    /// it](crate::codec::Codec::translate).
    pub body: Option<&'a [u8]>,
    /// What the endpoint that the frame goes to wants of it. A codec whose frames have no place for
    /// that leaves them alone.
    pub fit: Option<Fit<'a>>,
    /// It goes to an endpoint: where endpoints have other names for things than callers do, it gets those.
    pub onward: bool,
}

/// What a call has to say at the endpoint that it goes to.
#[derive(Clone, Copy, Debug)]
pub struct Fit<'a> {
    /// What the endpoint's registration asks for.
    pub terms: &'a Terms,
    /// The call left its version open: it gets the endpoint's.
    pub version: bool,
    /// The call left its group open: it gets the endpoint's.
    pub group: bool,
}

impl Edit<'_> {
    /// Whether more than the id may change.
    #[must_use]
    pub fn changes_content(&self) -> bool {
        !self.attributes.is_empty() || self.fit.is_some()
    }
}

/// Bytes that can never become a frame, sorted by what is to be done about them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not this protocol, or not any more: the connection can only be closed.
    #[error("{0}")]
    Garbage(&'static str),
    /// A frame whose header is sound but whose length is over the limit: it can still be
    /// answered natively, then the connection is closed.
    #[error("frame of {} bytes is over the limit of {limit}", head.len)]
    TooLarge {
        /// The frame's own header, for the answer.
        head: Head,
        /// The limit in bytes.
        limit: usize,
    },
    /// A whole frame whose content cannot be read: answered natively, the connection lives on.
    #[error("{0}")]
    Content(&'static str),
}

impl Malformed {
    /// A name is longer than [`NAME_LIMIT`].
    pub const LONG_NAME: Self = Self::Content("a name is longer than 1 KiB");
    /// A caller's service has a name of a kind that is kept for the mesh itself.
    pub const OWN_NAME: Self =
        Self::Content("names that begin with a parenthesis are the mesh's own");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_up_to_their_limit() {
        let set: [fn(&mut Metadata<'_>, String); 4] = [
            |own, name| own.service = name.into(),
            |own, name| own.method = name.into(),
            |own, name| own.version = name.into(),
            |own, name| own.group = name.into(),
        ];
        for set in set {
            let mut metadata = Metadata::default();
            for (length, fits) in [
                (0, Ok(())),
                (NAME_LIMIT, Ok(())),
                (NAME_LIMIT + 1, Err(Malformed::LONG_NAME)),
                (7 << 20, Err(Malformed::LONG_NAME)),
            ] {
                set(&mut metadata, "x".repeat(length));
                assert_eq!(metadata.names_fit(), fits, "{length} bytes");
            }
        }
    }

    #[test]
    fn a_caller_cannot_take_a_name_of_ours() {
        let mut metadata = Metadata {
            service: Cow::Borrowed("(other)"),
            ..Metadata::default()
        };
        assert_eq!(metadata.names_fit(), Err(Malformed::OWN_NAME));
        metadata.own = true;
        assert_eq!(metadata.names_fit(), Ok(()));
        metadata.unreadable = Some("a group that is not text");
        assert!(metadata.names_fit().is_err());
    }
}
