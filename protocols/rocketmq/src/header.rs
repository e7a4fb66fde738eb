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
//! Numbers are big-endian, the total length does not count itself. It is read as Java does
//! (RocketMQ: RemotingCommand, RocketMQ: RocketMQSerializable). One connection carries both encodings in both directions: a server answers
//! in its own, whatever it was asked in.
//!
//! A header is read once, when its frame has come; where things stand in it travels with the frame ([`Head::marks`]).

use finback_core::frame::{Head, Kind, Malformed};

use crate::fields::{Found, Said, long};
use crate::json::{NoJson, Reader, Text, Value};
use crate::marks::{CodecData, Marks};

/// The fixed part in front of the header.
pub(crate) const PREFIX: usize = 8;
/// The longest header in bytes: a message's properties, which stand in it, may have 32 KiB, of which JSON may
/// write some bytes as two or six.
const HEADER_LIMIT: usize = 128 * 1024;
/// Members that nobody knows, at most.
const UNKNOWN: usize = 16;
/// RocketMQ: MQVersion, V5_3_1: clients later than this understand GO_AWAY.
const GO_AWAY_AFTER: i32 = 475;

/// What codes lose that do not fit into 16 bits: three times 2^16.
const WRAPPED: i32 = 3 << 16;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Binary,
}

impl Encoding {
    /// That of a frame.
    pub(crate) fn of(wire: &[u8]) -> Self {
        match wire.get(4) {
            Some(1) => Self::Binary,
            _ => Self::Json,
        }
    }
}

/// Where the id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdAt {
    /// Here, in so many bytes.
    There(usize, usize),
    /// Nowhere: it is 0, and another one goes here, with a comma after it where `more` follows.
    Missing { at: usize, more: bool },
}

/// A header, as far as every frame has it.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) code: i32,
    pub(crate) version: i32,
    pub(crate) opaque: i32,
    pub(crate) flag: i32,
    pub(crate) id_at: IdAt,
    /// Where its fields begin: with the bracket of a JSON object, or the first entry; where the body does, if it
    /// has none.
    fields_at: usize,
    /// Where the body begins.
    body_at: usize,
    /// Length of the whole frame.
    pub(crate) len: usize,
}

pub(crate) const NO_HEADER: Malformed = Malformed::Garbage("the header cannot be read");

/// Why a header cannot be read: small, for it passes through many hands.
struct Wrong(&'static str);

impl From<NoJson> for Wrong {
    fn from(_: NoJson) -> Self {
        Self("the header cannot be read")
    }
}

impl From<NoJson> for Malformed {
    fn from(_: NoJson) -> Self {
        NO_HEADER
    }
}

impl From<Wrong> for Malformed {
    fn from(wrong: Wrong) -> Self {
        Self::Garbage(wrong.0)
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
    #[inline]
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

/// A member of a header in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Code,
    Opaque,
    Flag,
    Version,
    Fields,
    Language,
    Remark,
    Serialization,
}

impl Member {
    /// Their names, as a client's library writes them.
    const ALL: [(&'static str, Self); 8] = [
        ("code", Self::Code),
        ("opaque", Self::Opaque),
        ("flag", Self::Flag),
        ("version", Self::Version),
        ("extFields", Self::Fields),
        ("language", Self::Language),
        ("remark", Self::Remark),
        ("serializeTypeCurrentRPC", Self::Serialization),
    ];

    /// The one of this name; `None` if nobody knows it.
    #[inline]
    fn of(key: Text<'_>) -> Result<Option<Self>, Wrong> {
        if !key.is_escaped {
            let known = match key.raw {
                b"code" => Some(Self::Code),
                b"opaque" => Some(Self::Opaque),
                b"flag" => Some(Self::Flag),
                b"version" => Some(Self::Version),
                b"extFields" => Some(Self::Fields),
                b"language" => Some(Self::Language),
                b"remark" => Some(Self::Remark),
                b"serializeTypeCurrentRPC" => Some(Self::Serialization),
                _ => None,
            };
            if known.is_some() {
                return Ok(known);
            }
        }
        Self::of_odd(key)
    }

    #[cold]
    fn of_odd(key: Text<'_>) -> Result<Option<Self>, Wrong> {
        let own = key.decode()?;
        if let Some((_, member)) = Self::ALL.iter().find(|(name, _)| *name == own) {
            return Ok(Some(*member));
        }
        // fastjson takes other spellings of a member for the member itself.
        match Self::ALL.iter().any(|(name, _)| is_spelt_as(name, &own)) {
            true => Err(Wrong("a member's name is misspelt")),
            false => Ok(None),
        }
    }
}

impl Header {
    /// Reads the header at the beginning of `bytes`, with what of its fields is kept in mind; `None` if it has not
    /// come yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Self, Found)>, Malformed> {
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
        let mut own = Self {
            code: 0,
            version: 0,
            opaque: 0,
            flag: 0,
            id_at: IdAt::There(0, 0),
            fields_at: body_at,
            body_at,
            len: total + 4,
        };
        let mut found = Found::default();
        match encoding {
            Encoding::Json => own.read_json(header, &mut found)?,
            Encoding::Binary => own.read_binary(header, &mut found).ok_or(NO_HEADER)?,
        }
        Ok(Some((own, found)))
    }

    fn read_json(&mut self, bytes: &[u8], found: &mut Found) -> Result<(), Wrong> {
        let mut seen = 0_u8;
        let mut unknown = 0;
        let mut reader = Reader::new(bytes);
        let mut id_at = None;
        reader.members(|reader, key| {
            let Some(member) = Member::of(key)? else {
                unknown += 1;
                reader.value()?;
                return match unknown > UNKNOWN {
                    true => Err(Wrong("the header has too many members")),
                    false => Ok(()),
                };
            };
            let bit = 1 << member as u8;
            if seen & bit != 0 {
                return Err(Wrong("a member of the header stands twice"));
            }
            seen |= bit;
            if member == Member::Fields && reader.next()? == b'{' {
                let at = reader.position();
                self.fields_at = PREFIX + at;
                found.is_broken = found.read_json(reader, PREFIX).is_err();
                if found.is_broken {
                    // An answer may still be passed on.
                    reader.return_to(at);
                    reader.skip_nested()?;
                }
                return Ok(());
            }
            let (value, at) = reader.value()?;
            match member {
                Member::Code => self.code = unwrapped(value.number()?),
                Member::Opaque => {
                    self.opaque = value.number()?;
                    id_at = Some(IdAt::There(PREFIX + at.start, at.len()));
                }
                Member::Flag => self.flag = value.number()?,
                Member::Version => self.version = value.number()?,
                Member::Fields if value != Value::Null => return Err(NoJson.into()),
                _ => {}
            }
            Ok(())
        })?;
        reader.end()?;
        self.id_at = id_at.unwrap_or_else(|| {
            // The object was read, so it begins somewhere.
            let at = bytes.iter().position(|byte| *byte == b'{');
            IdAt::Missing {
                at: PREFIX + at.unwrap_or_default() + 1,
                more: seen != 0 || unknown > 0,
            }
        });
        Ok(())
    }

    fn read_binary(&mut self, header: &[u8], found: &mut Found) -> Option<()> {
        let (fixed, rest) = header.split_first_chunk::<13>()?;
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
        let flag = fixed.last_chunk::<4>()?;
        self.code = unwrapped(i32::from(i16::from_be_bytes([code, more_code])));
        self.version = i32::from(u16::from_be_bytes([version, more_version]));
        self.opaque = i32::from_be_bytes(id);
        self.flag = i32::from_be_bytes(*flag);
        self.id_at = IdAt::There(PREFIX + 5, 4);
        let (_, rest) = long(rest)?;
        let (fields, rest) = long(rest)?;
        if !rest.is_empty() {
            return None;
        }
        self.fields_at = self.body_at - fields.len();
        found.is_broken = found.read_binary(fields, self.body_at).is_none();
        Some(())
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
    #[inline]
    pub(crate) fn head(&self, found: &Found, bytes: &[u8]) -> Head {
        let kind = self.kind();
        let mut marks = Marks {
            id_at: self.id_at,
            fields_at: self.fields_at,
            said: Said::default(),
        };
        Head {
            kind,
            id: u64::from(self.opaque.cast_unsigned()),
            len: self.len,
            variant: 0,
            codec_data: CodecData {
                code: self.code,
                knows_go_away: self.version > GO_AWAY_AFTER,
            }
            .pack(),
            marks: match kind {
                Kind::Response => marks.pack_answer(found.lag(bytes)),
                _ => {
                    marks.said = found.of_request(self.code, bytes);
                    marks.pack()
                }
            },
        }
    }
}

/// Codes of POP (200050 and on) do not fit into the 16 bits of a binary header, and nobody uses those that they wrap
/// to but libraries that have them as their own.
fn unwrapped(code: i32) -> i32 {
    match code {
        3442..=3447 | 3543 => code + WRAPPED,
        code => code,
    }
}

/// The header of a whole frame: for what is rarely asked of it.
pub(crate) fn whole(wire: &[u8]) -> Result<Header, Malformed> {
    let read = Header::read(wire)?.ok_or(NO_HEADER)?;
    Ok(read.0)
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
