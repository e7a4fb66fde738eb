//! Messages as brokers keep them and answer them to those who fetch.
//!
//! ```text
//! total size 4 | magic 4 | CRC 4 | queue 4 | flag 4 | queue offset 8 | physical offset 8 | system flag 4 | born 8 |
//! born host 8 or 20 | stored 8 | stored host 8 or 20 | times consumed again 4 | transaction 8 |
//! body length 4, body | topic length 1 or 2, topic | properties length 2, properties
//! ```

use std::ops::Range;

/// RocketMQ: MessageDecoder, `MESSAGE_MAGIC_CODE` and `MESSAGE_MAGIC_CODE_V2`, whose topics' lengths have 1 and 2 bytes.
pub(crate) const MAGIC: i32 = -626_843_481;
pub(crate) const MAGIC_V2: i32 = -626_843_477;
/// RocketMQ: MessageSysFlag: hosts are IPv6 addresses.
pub(crate) const BORN_V6: i32 = 0x10;
pub(crate) const STORED_V6: i32 = 0x20;
/// Where a stored message's numbers stand, and where its hosts begin.
const QUEUE_AT: usize = 12;
const OFFSET_AT: usize = 20;
const PLACE_AT: usize = 28;
pub(crate) const SYS_FLAG_AT: usize = 36;
const BORN_AT: usize = 40;
const HOSTS_AT: usize = 48;

/// A message that a broker keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Its queue.
    pub queue: i32,
    /// Its place in the queue.
    pub offset: i64,
    /// Its place among all messages of its broker.
    pub place: i64,
    /// What the system does with it.
    pub sys_flag: i32,
    /// When it was sent, in milliseconds since 1970.
    pub born: i64,
    /// What it says.
    pub body: &'a [u8],
    /// Its topic.
    pub topic: &'a str,
    /// Its properties as one text.
    pub properties: &'a str,
    /// Where the topic's length, and the properties' length, stand in it.
    pub(crate) topic_at: usize,
    pub(crate) properties_at: usize,
    /// How many bytes the topic's length has.
    pub(crate) wide: usize,
}

impl<'a> Stored<'a> {
    /// Reads one of them; `Some(None)` if it is the end of a file, or what is not known.
    pub(crate) fn read(wire: &'a [u8]) -> Option<Option<Self>> {
        let wide = match number4(wire, 4)? {
            MAGIC => 1,
            MAGIC_V2 => 2,
            _ => return Some(None),
        };
        let sys_flag = number4(wire, SYS_FLAG_AT)?;
        let host = |is_v6: i32| if sys_flag & is_v6 != 0 { 20 } else { 8 };
        let body_at = HOSTS_AT + host(BORN_V6) + 8 + host(STORED_V6) + 12;
        let length = usize::try_from(number4(wire, body_at)?).ok()?;
        let body = sized(body_at.checked_add(4)?, length)?;
        let topic_at = body.end;
        let topic = behind(wire, topic_at, wide)?;
        let properties_at = topic.end;
        let properties = behind(wire, properties_at, 2)?;
        Some(Some(Self {
            queue: number4(wire, QUEUE_AT)?,
            offset: number8(wire, OFFSET_AT)?,
            place: number8(wire, PLACE_AT)?,
            sys_flag,
            born: number8(wire, BORN_AT)?,
            body: wire.get(body)?,
            topic: str::from_utf8(wire.get(topic)?).ok()?,
            properties: str::from_utf8(wire.get(properties)?).ok()?,
            topic_at,
            properties_at,
            wide,
        }))
    }

    /// Where what follows its properties begins.
    pub(crate) fn end(&self) -> usize {
        self.properties_at + 2 + self.properties.len()
    }
}

/// The first message of several, its size included, and what follows it.
pub(crate) fn split(all: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = usize::try_from(number4(all, 0)?).ok()?;
    // A size of nothing would be read for ever.
    all.split_at_checked(size).filter(|_| size >= 8)
}

/// The messages in the answer to a fetch, in their order, as far as they can be read.
#[must_use]
pub fn stored(mut body: &[u8]) -> Vec<Stored<'_>> {
    let mut all = Vec::new();
    while let Some((wire, rest)) = split(body) {
        match Stored::read(wire) {
            Some(own) => all.extend(own),
            None => break,
        }
        body = rest;
    }
    all
}

/// Whether an answer to a fetch can be read to its end. What stands behind what cannot be read is not lost: whoever goes
/// on from there would leave it out.
#[must_use]
pub fn is_readable(mut body: &[u8]) -> bool {
    while let Some((wire, rest)) = split(body) {
        if Stored::read(wire).is_none() {
            return false;
        }
        body = rest;
    }
    body.is_empty()
}

fn sized(at: usize, length: usize) -> Option<Range<usize>> {
    Some(at..at.checked_add(length)?)
}

/// What stands behind a length of so many bytes at this place.
fn behind(wire: &[u8], at: usize, wide: usize) -> Option<Range<usize>> {
    let from = at.checked_add(wide)?;
    let bytes = wire.get(at..from)?.iter();
    sized(
        from,
        bytes.fold(0, |all, byte| all << 8 | usize::from(*byte)),
    )
}

fn number4(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number8(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
