//! A header's own fields (`extFields`): those that something here asks for are found in the one pass over the header.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use finback_core::frame::Malformed;

use crate::code::request;
use crate::header::{Encoding, NO_HEADER};
use crate::json::{NoJson, Reader, Text, Value, integer};
use crate::marks::Problem;

/// A broker may answer a long poll so much later than it was asked to: as RocketMQ's own proxy has it.
const LATE: Duration = Duration::from_secs(10);
/// RocketMQ: PullSysFlag: the broker may keep the request until there is a message.
const SUSPEND: i64 = 2;

/// The fields that are kept in mind: an index into [`Found::at`].
mod field {
    /// RocketMQ: SendMessageRequestHeaderV2 has one letter for each.
    pub(super) const A: usize = 0;
    pub(super) const B: usize = 1;
    pub(super) const TOPIC: usize = 2;
    /// RocketMQ: ConsumerSendMsgBackRequestHeader.
    pub(super) const ORIGIN_TOPIC: usize = 3;
    pub(super) const CONSUMER_GROUP: usize = 4;
    pub(super) const PRODUCER_GROUP: usize = 5;
    pub(super) const GROUP: usize = 6;
    pub(super) const SUSPEND: usize = 7;
    pub(super) const POLL: usize = 8;
    pub(super) const SYS_FLAG: usize = 9;
    pub(super) const SIGNATURE: usize = 10;
    pub(super) const QUEUE: usize = 11;
    /// RocketMQ: PullMessageResponseHeader.
    pub(super) const NEXT: usize = 12;
    pub(super) const MAX: usize = 13;
    /// RocketMQ: PopMessageResponseHeader.
    pub(super) const REST: usize = 14;
    /// How many there are.
    pub(super) const ALL: usize = 15;
}

#[inline]
fn known(name: &[u8]) -> Option<usize> {
    Some(match name.len() {
        1 if name == b"a" => field::A,
        1 if name == b"b" => field::B,
        5 if name == b"topic" => field::TOPIC,
        5 if name == b"group" => field::GROUP,
        7 if name == b"queueId" => field::QUEUE,
        7 if name == b"restNum" => field::REST,
        7 if name == b"sysFlag" => field::SYS_FLAG,
        8 if name == b"pollTime" => field::POLL,
        9 if name == b"Signature" => field::SIGNATURE,
        9 if name == b"maxOffset" => field::MAX,
        11 if name == b"originTopic" => field::ORIGIN_TOPIC,
        13 if name == b"consumerGroup" => field::CONSUMER_GROUP,
        13 if name == b"producerGroup" => field::PRODUCER_GROUP,
        15 if name == b"nextBeginOffset" => field::NEXT,
        20 if name == b"suspendTimeoutMillis" => field::SUSPEND,
        _ => return None,
    })
}

/// Where a text stands in a frame, in one number: 18 bits where it begins (a header is no longer than 2^17), 13 how
/// long it is, one whether something in it is escaped. 0 is no text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);

impl Mark {
    const BEGINS: u32 = 18;
    /// The longest that can be marked: longer than any name may be, however it is escaped.
    const LONGEST: usize = (1 << 13) - 1;

    /// `None` if it is too long.
    fn of(at: usize, length: usize, is_escaped: bool) -> Option<Self> {
        let at = u32::try_from(at)
            .ok()
            .filter(|at| at >> Self::BEGINS == 0)?;
        let length = u32::try_from(length.min(Self::LONGEST + 1)).ok()?;
        (length as usize <= Self::LONGEST)
            .then(|| Self(at | length << Self::BEGINS | u32::from(is_escaped) << 31))
    }

    /// Where it stands.
    pub(crate) fn range(self) -> Range<usize> {
        let at = (self.0 & ((1 << Self::BEGINS) - 1)) as usize;
        at..at + (self.0 >> Self::BEGINS) as usize % (Self::LONGEST + 1)
    }

    /// The text; empty if there is none.
    #[inline]
    pub(crate) fn text(self, wire: &[u8]) -> Result<Cow<'_, str>, Malformed> {
        let text = Text {
            raw: wire.get(self.range()).ok_or(NO_HEADER)?,
            is_escaped: self.0 >> 31 != 0,
        };
        Ok(text.decode()?)
    }

    fn number(self, wire: &[u8]) -> Option<i64> {
        match &*self.text(wire).ok()? {
            "" => Some(0),
            text => integer(text.as_bytes()),
        }
    }
}

/// What was found among the fields.
#[derive(Debug, Default)]
pub(crate) struct Found {
    at: [Mark; field::ALL],
    /// A bit for each that is there, one for each that is there twice, and one for each that is too long.
    seen: u16,
    twice: u16,
    long: u16,
    /// They cannot be read at all.
    pub(crate) is_broken: bool,
}

/// What a request's fields say.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) topic: Mark,
    pub(crate) group: Mark,
    /// How many milliseconds it may wait for a message; 0 if it does not.
    pub(crate) wait: u32,
    /// Which queue it fetches from, if it fetches from one.
    pub(crate) queue: i32,
    pub(crate) is_signed: bool,
    pub(crate) problem: Option<Problem>,
}

impl Found {
    /// Takes note of a field whose value is `length` bytes at `at`.
    #[inline]
    fn note(&mut self, which: usize, at: usize, length: usize, is_escaped: bool) {
        let bit = 1 << which;
        self.twice |= self.seen & bit;
        self.seen |= bit;
        match Mark::of(at, length, is_escaped) {
            Some(mark) => self.at[which] = mark,
            None => self.long |= bit,
        }
    }

    /// Reads those of a header in JSON, which begin where `reader` is; `from` is where its bytes begin in the frame.
    pub(crate) fn read_json(&mut self, reader: &mut Reader<'_>, from: usize) -> Result<(), NoJson> {
        reader.members(|reader, key| {
            let which = match key.is_escaped {
                false => known(key.raw),
                true => known(key.decode()?.as_bytes()),
            };
            if let Some(text) = reader.text()? {
                if let Some(which) = which {
                    let length = text.raw.len();
                    // Its end is behind its quote.
                    let at = from + reader.position() - 1 - length;
                    self.note(which, at, length, text.is_escaped);
                }
                return Ok(());
            }
            let (value, at) = reader.value()?;
            let Some(which) = which else { return Ok(()) };
            let length = match value {
                Value::Bare(raw) | Value::Nested(raw) => raw.len(),
                Value::Text(_) | Value::Null => 0,
            };
            self.note(which, at.start + from, length, false);
            Ok(())
        })
    }

    /// Reads those of a binary header, which end at `end` in the frame.
    pub(crate) fn read_binary(&mut self, mut rest: &[u8], end: usize) -> Option<()> {
        while !rest.is_empty() {
            let (name, after) = short(rest)?;
            let (value, after) = long(after)?;
            if let Some(which) = known(name) {
                self.note(which, end - after.len() - value.len(), value.len(), false);
            }
            rest = after;
        }
        Some(())
    }

    /// What that says in a request of this code.
    pub(crate) fn of_request(&self, code: i32, wire: &[u8]) -> Said {
        let (topic, groups) = names(code);
        let mut wanted = 1 << topic | 1 << field::SUSPEND | 1 << field::POLL | 1 << field::SYS_FLAG;
        let mut group = Mark::default();
        for own in groups.iter().rev() {
            wanted |= 1 << own;
            if !self.at[*own].range().is_empty() {
                group = self.at[*own];
            }
        }
        let wait = self.wait(code, wire);
        let problem = if self.is_broken {
            Some(Problem::Broken)
        } else if self.twice & wanted != 0 {
            // The servers' library takes one of them, and we could take the other.
            Some(Problem::Twice)
        } else if self.long & wanted != 0 {
            Some(Problem::Long)
        } else if wait.is_none() {
            Some(Problem::NoNumber)
        } else {
            None
        };
        Said {
            topic: self.at[topic],
            group,
            wait: wait.unwrap_or_default(),
            queue: self.queue(code, wire),
            is_signed: self.seen & 1 << field::SIGNATURE != 0,
            problem,
        }
    }

    /// Of any queue asks -1, and so does whoever says none.
    fn queue(&self, code: i32, wire: &[u8]) -> i32 {
        if !is_fetch(code) || self.seen & 1 << field::QUEUE == 0 {
            return -1;
        }
        let number = self.at[field::QUEUE].number(wire);
        number.map_or(-1, |number| i32::try_from(number).unwrap_or(-1))
    }

    /// How many messages an answer says that its consumer has not fetched yet; `None` if it does not say.
    pub(crate) fn lag(&self, wire: &[u8]) -> Option<u64> {
        let number = |which: usize| match self.seen & 1 << which {
            0 => None,
            _ => self.at[which].number(wire),
        };
        // Of one queue: where it ends, and where its consumer goes on. POP says how many there are left.
        let left = match number(field::MAX) {
            Some(max) => max - number(field::NEXT)?,
            None => number(field::REST)?,
        };
        u64::try_from(left.max(0)).ok()
    }

    /// `None` if a number is wanted that is none.
    fn wait(&self, code: i32, wire: &[u8]) -> Option<u32> {
        let number = |which: usize| self.at[which].number(wire);
        let wait = match code {
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => {
                match number(field::SYS_FLAG)? & SUSPEND {
                    0 => 0,
                    _ => number(field::SUSPEND)?,
                }
            }
            request::POP_MESSAGE | request::NOTIFICATION => number(field::POLL)?,
            _ => 0,
        };
        Some(u32::try_from(wait.max(0)).unwrap_or(u32::MAX))
    }
}

/// Whether a request fetches messages.
pub(crate) fn is_fetch(code: i32) -> bool {
    matches!(
        code,
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE | request::POP_MESSAGE
    )
}

/// How long a request that waits for so many milliseconds may take.
pub(crate) fn timeout(wait: u32) -> Option<Duration> {
    (wait > 0).then(|| Duration::from_millis(u64::from(wait)).saturating_add(LATE))
}

/// Which fields name what a request is about: its topic, and its group, the first of these that says something.
fn names(code: i32) -> (usize, &'static [usize]) {
    match code {
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => {
            (field::B, &[field::A])
        }
        36 => (field::ORIGIN_TOPIC, &[field::GROUP]),
        request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE | request::END_TRANSACTION => {
            (field::TOPIC, &[field::PRODUCER_GROUP])
        }
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE | 14 | 15 | 38 | 200_050..=200_151 => {
            (field::TOPIC, &[field::CONSUMER_GROUP])
        }
        _ => (
            field::TOPIC,
            &[field::CONSUMER_GROUP, field::PRODUCER_GROUP, field::GROUP],
        ),
    }
}

/// The fields of a header, one after another: for what is rarely asked.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) wire: &'a [u8],
    pub(crate) encoding: Encoding,
    /// Where they begin; where the body does, if there are none.
    pub(crate) at: usize,
    pub(crate) body_at: usize,
}

/// One of them.
pub(crate) struct Field<'a> {
    pub(crate) name: Cow<'a, str>,
    value: Value<'a>,
    /// Where its value stands in the frame; in JSON with the quotes.
    pub(crate) at: Range<usize>,
}

impl<'a> Field<'a> {
    /// Its value as a text; nothing for null. Most are never asked for.
    pub(crate) fn text(&self) -> Result<Cow<'a, str>, Malformed> {
        Ok(self.value.text()?.unwrap_or_default())
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn each(
        self,
        mut each: impl FnMut(Field<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let bytes = self.wire.get(self.at..self.body_at).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        match self.encoding {
            Encoding::Json => Reader::new(bytes).members(|reader, key| {
                let (value, at) = reader.value()?;
                each(Field {
                    name: key.decode()?,
                    value,
                    at: at.start + self.at..at.end + self.at,
                })
            }),
            Encoding::Binary => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (name, after) = short(rest).ok_or(NO_HEADER)?;
                    let (value, after) = long(after).ok_or(NO_HEADER)?;
                    let end = self.body_at - after.len();
                    let text = |raw| Text {
                        raw,
                        is_escaped: false,
                    };
                    each(Field {
                        name: text(name).decode()?,
                        value: Value::Text(text(value)),
                        at: end - value.len()..end,
                    })?;
                    rest = after;
                }
                Ok(())
            }
        }
    }

    /// One field's value; of several of one name that of the last, as in the map that servers make of them.
    pub(crate) fn get(self, name: &str) -> Option<Cow<'a, str>> {
        let mut found = None;
        let read = self.each(|field| {
            if field.name == name {
                found = Some(field.text()?);
            }
            Ok(())
        });
        found.filter(|_| read.is_ok())
    }
}

/// Bytes behind their length of 2 bytes, and what follows.
#[inline]
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Bytes behind their length of 4 bytes, and what follows. Java reads a negative length as none.
#[inline]
pub(crate) fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}
