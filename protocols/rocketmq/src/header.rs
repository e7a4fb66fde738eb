//! The header of a frame, in both of its encodings.
//!
//! ```text
//! +--------------+--------------------+-----------------+--------+------+
//! | total length | encoding | hdr len | header          | body          |
//! |      4       |    1     |    3    | as the encoding says | the rest |
//! +--------------+--------------------+-----------------+--------+------+
//! encoding 0, JSON: {"code":..,"language":..,"version":..,"opaque":..,"flag":..,"remark":..,"extFields":{..}}
//! encoding 1, binary:
//! +------+----------+---------+--------+------+------------+--------+------------+--------------------+
//! | code | language | version | opaque | flag | remark len | remark | fields len | fields             |
//! |  2   |    1     |    2    |   4    |  4   |     4      |        |     4      | (2+key, 4+value)*  |
//! +------+----------+---------+--------+------+------------+--------+------------+--------------------+
//! ```
//!
//! Numbers are big-endian, the total length does not count itself. As Java's `RemotingCommand` and
//! `RocketMQSerializable` read it. One connection carries both encodings in both directions: a server answers
//! in its own, whatever it was asked in.

use std::borrow::Cow;
use std::ops::Range;

use finback_core::frame::{Head, Kind, Malformed};

use crate::json::{self, NoJson, Text, Value};

/// The fixed part in front of the header.
pub(crate) const PREFIX: usize = 8;
/// The longest header in bytes: a message's properties, which stand in it, may have 32 KiB, of which JSON may
/// write some bytes as two or six.
const HEADER_LIMIT: usize = 128 * 1024;
/// Members that nobody knows, at most.
const UNKNOWN: usize = 16;
/// `MQVersion.V5_3_1`: clients later than this understand GO_AWAY.
const GO_AWAY_AFTER: i32 = 475;

/// What codes lose that do not fit into 16 bits: three times 2^16.
const WRAPPED: i32 = 3 << 16;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Binary,
}

/// Where the id stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IdAt {
    /// In these bytes of the frame.
    There(Range<usize>),
    /// Nowhere: it is 0, and another one goes here, with a comma after it where `more` follows.
    Missing { at: usize, more: bool },
}

/// A header, as far as every frame has it.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) encoding: Encoding,
    pub(crate) code: i32,
    pub(crate) version: i32,
    pub(crate) opaque: i32,
    pub(crate) flag: i32,
    pub(crate) id_at: IdAt,
    /// Where its fields stand: a JSON object, or entries; empty if it has none.
    pub(crate) fields_at: Range<usize>,
    /// Where the body begins.
    pub(crate) body_at: usize,
    /// Length of the whole frame.
    pub(crate) len: usize,
}

const NO_HEADER: Malformed = Malformed::Garbage("the header cannot be read");

impl From<NoJson> for Malformed {
    fn from(_: NoJson) -> Self {
        NO_HEADER
    }
}

/// What stands before the header.
pub(crate) struct Lengths {
    /// Of the frame, these four bytes left out.
    pub(crate) total: usize,
    header: usize,
    encoding: Encoding,
}

impl Lengths {
    /// Reads them; `None` if they have not come yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [a, b, c, d, encoding, e, f, g] = *prefix;
        let total = u32::from_be_bytes([a, b, c, d]) as usize;
        let header = u32::from_be_bytes([0, e, f, g]) as usize;
        let encoding = match encoding {
            0 => Encoding::Json,
            1 => Encoding::Binary,
            _ => return Err(Malformed::Garbage("not RocketMQ")),
        };
        if header > HEADER_LIMIT {
            return Err(Malformed::Garbage("the header is too long"));
        }
        if header + 4 > total || total > i32::MAX as usize {
            return Err(Malformed::Garbage("the lengths contradict each other"));
        }
        Ok(Some(Self {
            total,
            header,
            encoding,
        }))
    }
}

impl Header {
    /// Reads the header at the beginning of `bytes`; `None` if it has not come yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(Lengths {
            total,
            header: length,
            encoding,
        }) = Lengths::read(bytes)?
        else {
            return Ok(None);
        };
        let body_at = PREFIX + length;
        let Some(header) = bytes.get(PREFIX..body_at) else {
            return Ok(None);
        };
        let blank = Self {
            encoding,
            code: 0,
            version: 0,
            opaque: 0,
            flag: 0,
            id_at: IdAt::There(0..0),
            fields_at: body_at..body_at,
            body_at,
            len: total + 4,
        };
        match encoding {
            Encoding::Json => blank.with_json(header),
            Encoding::Binary => blank.with_binary(header),
        }
        .map(Some)
    }

    fn with_json(mut self, header: &[u8]) -> Result<Self, Malformed> {
        /// The members, as a client's library writes them.
        const NAMES: [&str; 8] = [
            "code",
            "opaque",
            "flag",
            "version",
            "extFields",
            "language",
            "remark",
            "serializeTypeCurrentRPC",
        ];
        let mut seen = [false; NAMES.len()];
        let mut unknown = 0;
        json::object(header, |key, value, at| {
            let Some(which) = NAMES.iter().position(|name| key.is(name)) else {
                unknown += 1;
                if unknown > UNKNOWN {
                    return Err(Malformed::Garbage("the header has too many members"));
                }
                // fastjson takes other spellings of a member for the member itself.
                let own = key.decode()?;
                return match NAMES.iter().any(|name| is_spelt_as(name, &own)) {
                    true => Err(Malformed::Garbage("a member's name is misspelt")),
                    false => Ok(()),
                };
            };
            if std::mem::replace(&mut seen[which], true) {
                return Err(Malformed::Garbage("a member of the header stands twice"));
            }
            let at = at.start + PREFIX..at.end + PREFIX;
            match NAMES[which] {
                "code" => self.code = value.number()?,
                "opaque" => {
                    self.opaque = value.number()?;
                    self.id_at = IdAt::There(at);
                }
                "flag" => self.flag = value.number()?,
                "version" => self.version = value.number()?,
                "extFields" => match value {
                    Value::Null => {}
                    Value::Nested([b'{', ..]) => self.fields_at = at,
                    _ => return Err(NO_HEADER),
                },
                _ => {}
            }
            Ok(())
        })?;
        if self.id_at == IdAt::There(0..0) {
            // The object was read, so it begins somewhere.
            let at = header.iter().position(|byte| *byte == b'{');
            self.id_at = IdAt::Missing {
                at: PREFIX + at.unwrap_or_default() + 1,
                more: seen.contains(&true),
            };
        }
        Ok(self)
    }

    fn with_binary(mut self, header: &[u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = header.split_first_chunk::<13>().ok_or(NO_HEADER)?;
        let [
            code,
            more_code,
            _,
            version,
            more_version,
            id @ ..,
            _,
            _,
            _,
            _,
        ] = *fixed;
        let flag = fixed.last_chunk::<4>().ok_or(NO_HEADER)?;
        self.code = match i32::from(i16::from_be_bytes([code, more_code])) {
            // Codes of POP (200050 and on) do not fit, and nobody uses those that they wrap to.
            wrapped @ (3442..=3447 | 3543) => wrapped + WRAPPED,
            code => code,
        };
        self.version = i32::from(u16::from_be_bytes([version, more_version]));
        self.opaque = i32::from_be_bytes(id);
        self.flag = i32::from_be_bytes(*flag);
        self.id_at = IdAt::There(PREFIX + 5..PREFIX + 9);
        let (_, rest) = long(rest).ok_or(NO_HEADER)?;
        let (fields, rest) = long(rest).ok_or(NO_HEADER)?;
        if !rest.is_empty() {
            return Err(NO_HEADER);
        }
        self.fields_at = self.body_at - fields.len()..self.body_at;
        Ok(self)
    }

    /// What the flag says: bit 0 an answer, bit 1 a request that wants none.
    pub(crate) fn kind(&self) -> Kind {
        match self.flag {
            flag if flag & 1 != 0 => Kind::Response,
            flag if flag & 2 != 0 => Kind::OneWay,
            _ => Kind::Request,
        }
    }

    /// What core needs.
    pub(crate) fn head(&self) -> Head {
        Head {
            kind: self.kind(),
            id: u64::from(self.opaque.cast_unsigned()),
            len: self.len,
            variant: 0,
            note: Note {
                code: self.code,
                knows_go_away: self.version > GO_AWAY_AFTER,
            }
            .pack(),
        }
    }

    /// Its fields, one after another.
    pub(crate) fn fields<'a>(
        &self,
        wire: &'a [u8],
        mut each: impl FnMut(Field<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let bytes = wire.get(self.fields_at.clone()).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        match self.encoding {
            Encoding::Json => json::object(bytes, |key, value, at| {
                each(Field {
                    name: key.decode()?,
                    value,
                    at: at.start + self.fields_at.start..at.end + self.fields_at.start,
                })
            }),
            Encoding::Binary => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (name, after) = short(rest).ok_or(NO_HEADER)?;
                    let (value, after) = long(after).ok_or(NO_HEADER)?;
                    let end = self.body_at - after.len();
                    each(Field {
                        name: text(name)?,
                        value: Value::Text(Text::plain(value)),
                        at: end - value.len()..end,
                    })?;
                    rest = after;
                }
                Ok(())
            }
        }
    }

    /// One field's value.
    pub(crate) fn field<'a>(&self, wire: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
        let mut found = None;
        let read = self.fields(wire, |field| {
            if field.name == name {
                found = Some(field.text()?);
            }
            Ok(())
        });
        found.filter(|_| read.is_ok())
    }
}

/// One of a header's own fields.
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

/// What outlives a frame's bytes: [`Head::note`], unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// What is asked for, or how it ended.
    pub(crate) code: i32,
    /// The sender's library understands GO_AWAY.
    pub(crate) knows_go_away: bool,
}

impl Note {
    const CODE: u32 = (1 << 24) - 1;

    /// A code beyond those that anybody uses stands for all of them.
    pub(crate) fn pack(self) -> u32 {
        let code = u32::try_from(self.code).unwrap_or(Self::CODE);
        code.min(Self::CODE) | u32::from(self.knows_go_away) << 24
    }

    pub(crate) fn unpack(note: u32) -> Self {
        Self {
            code: i32::try_from(note & Self::CODE).unwrap_or_default(),
            knows_go_away: note >> 24 & 1 != 0,
        }
    }
}

/// Whether fastjson takes two names for one.
fn is_spelt_as(one: &str, other: &str) -> bool {
    let plain = |name: &str| {
        let kept = name.bytes().filter(|byte| !matches!(byte, b'_' | b'-'));
        kept.map(|byte| byte.to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    // Most are told apart without a copy.
    let letter = |name: &str| {
        let mut letters = name.bytes().filter(u8::is_ascii_alphabetic);
        letters.next().map(|byte| byte.to_ascii_lowercase())
    };
    letter(one) == letter(other) && plain(one) == plain(other)
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    let text = str::from_utf8(bytes).map_err(|_| NO_HEADER)?;
    Ok(Cow::Borrowed(text))
}

/// Bytes behind their length of 2 bytes, and what follows.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Bytes behind their length of 4 bytes, and what follows. Java reads a negative length as none.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}
