//! The attachments at the end of a request: read whole, or the request is refused.
//!
//! Group and deadline stand there, in any order among values of any type. A call whose
//! attachments cannot be read to their end is never taken for one that has none.

mod plain;
mod rewrite;

use std::borrow::Cow;
use std::time::Duration;

use finback_core::frame::{Malformed, Metadata, NAME_LIMIT, Names};
use finback_hessian::{Error, v2};

use crate::call;
use crate::jsonb::{self, NoText};
use crate::wire::{FASTJSON2, Fixed, HEADER, HESSIAN2};

use plain::{Plain, take_plain};
pub(crate) use rewrite::rewrite;

/// Arguments of this prefix are functions that the server calls back.
const CALLBACK: &str = "sys_callback_arg-";

/// The longest key that anybody looks for, in bytes.
const LONGEST_KEY: usize = 0xffff;

const UNREADABLE: Malformed = Malformed::Content("the attachments cannot be read");
const CALLBACKS: Malformed =
    Malformed::Content("callback arguments need a connection of their own; this one is shared");
const NO_NAME: Malformed = Malformed::Content("the attachment `interface` or `group` is not text");
const NO_TIME: Malformed =
    Malformed::Content("the attachment `timeout` is not a number of milliseconds");

/// One attachment, as its bytes stand in the frame.
pub(crate) struct Entry<'a> {
    /// `None` if it is no text, or none that anybody looks for.
    key: Option<Cow<'a, str>>,
    value: &'a [u8],
    /// Key and value.
    raw: &'a [u8],
}

/// Attachments one after another.
pub(crate) enum Entries<'a> {
    /// A null, or nothing at all.
    None,
    /// A map at the end of a hessian2 body; the reader knows the classes that arguments defined.
    Hessian2(&'a [u8], v2::Reader<'a>),
    /// A whole JSONB object.
    Fastjson2(&'a [u8], jsonb::Reader<'a>),
}

impl<'a> Entries<'a> {
    /// Those that stand where `reader` is in `body`.
    pub(crate) fn hessian2(body: &'a [u8], mut reader: v2::Reader<'a>) -> Result<Self, Malformed> {
        match reader.begin_map() {
            Ok(true) => Ok(Self::Hessian2(body, reader)),
            Ok(false) => Ok(Self::None),
            Err(_) => Err(UNREADABLE),
        }
    }

    /// Those of an object with its length before it.
    pub(crate) fn fastjson2(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let value = jsonb::Values::new(bytes).next().ok_or(UNREADABLE)?;
        let mut reader = jsonb::Reader::new(value);
        match reader.begin_object() {
            Some(true) => Ok(Self::Fastjson2(value, reader)),
            Some(false) if reader.remaining() == 0 => Ok(Self::None),
            _ => Err(UNREADABLE),
        }
    }

    /// How far it has been read, in the body or in the object.
    pub(crate) fn position(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Hessian2(_, reader) => reader.position(),
            Self::Fastjson2(_, reader) => reader.position(),
        }
    }

    /// The next one; `None` at their end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, Malformed> {
        match self {
            Self::None => Ok(None),
            Self::Hessian2(body, reader) => {
                let Some((key, value)) = reader.pass_entry().map_err(|_| UNREADABLE)? else {
                    return Ok(None);
                };
                Ok(Some(Entry {
                    key: hessian2_key(&body[key.clone()])?,
                    value: &body[value.clone()],
                    raw: &body[key.start..value.end],
                }))
            }
            Self::Fastjson2(value, reader) => {
                if reader.end_object() {
                    return if reader.remaining() == 0 {
                        Ok(None)
                    } else {
                        Err(UNREADABLE)
                    };
                }
                fastjson2_entry(value, reader).ok_or(UNREADABLE).map(Some)
            }
        }
    }
}

/// A key, unless it is no text or too long to be looked for. A text that cannot be read may be any.
fn hessian2_key(bytes: &[u8]) -> Result<Option<Cow<'_, str>>, Malformed> {
    match v2::Reader::new(bytes).string_within(LONGEST_KEY) {
        Err(Error::Text) => Err(UNREADABLE),
        read => Ok(read.ok().flatten()),
    }
}

fn fastjson2_entry<'a>(object: &'a [u8], reader: &mut jsonb::Reader<'a>) -> Option<Entry<'a>> {
    let start = reader.position();
    let key = match reader.tag()? {
        0x49..=0x7e => {
            let (tag, bytes) = reader.text()?;
            match jsonb::decode(tag, bytes, LONGEST_KEY) {
                Ok(key) => Some(key),
                Err(NoText::TooLong) => None,
                Err(NoText::Unreadable) => return None,
            }
        }
        // A symbol may stand for any key, of which Dubbo's own clients write none.
        0x7f => return None,
        _ => {
            reader.pass()?;
            None
        }
    };
    let middle = reader.position();
    reader.pass()?;
    let end = reader.position();
    Some(Entry {
        key,
        value: object.get(middle..end)?,
        raw: object.get(start..end)?,
    })
}

/// A scalar as text of at most `limit` bytes; "" for null.
fn scalar(serialization: u8, value: &[u8], limit: usize) -> Result<Cow<'_, str>, NoText> {
    if serialization == FASTJSON2 {
        return jsonb::scalar(value, limit);
    }
    let mut reader = v2::Reader::new(value);
    let text = match value.first() {
        Some(0x00..=0x1f | 0x30..=0x33 | b'R' | b'S' | b'N') => {
            reader.string_within(limit).map(Option::unwrap_or_default)
        }
        Some(b'T') => Ok("true".into()),
        Some(b'F') => Ok("false".into()),
        Some(b'D' | 0x5b..=0x5f) => reader.double().map(|number| number.to_string().into()),
        _ => reader.long().map(|number| number.to_string().into()),
    };
    text.map_err(|error| match error {
        Error::LONG_TEXT => NoText::TooLong,
        _ => NoText::Unreadable,
    })
}

/// What every call is asked for.
pub(crate) struct Told<'a> {
    pub(crate) names: Names,
    /// The service, where it is another than the path.
    pub(crate) interface: Option<Cow<'a, str>>,
    pub(crate) group: Cow<'a, str>,
    pub(crate) timeout: Option<Duration>,
}

impl Default for Told<'_> {
    fn default() -> Self {
        Self {
            names: Names::NONE,
            interface: None,
            group: Cow::Borrowed(""),
            timeout: None,
        }
    }
}

/// Reads what every call is asked for. `plain` are the bytes that hessian2's attachments begin with, for a look
/// whether they are ordinary ones.
///
/// # Errors
/// If they cannot be read to their end, or a name or the time among them is none.
#[inline]
pub(crate) fn read<'a>(
    path: &str,
    serialization: u8,
    entries: impl FnOnce() -> Result<Entries<'a>, Malformed>,
    plain: Option<&'a [u8]>,
) -> Result<Told<'a>, Malformed> {
    match plain.and_then(Plain::read) {
        Some(found) => found.tell(path),
        None => Found::walk(serialization, entries()?)?.tell(),
    }
}

/// What was found of it, as texts.
struct Found<'a> {
    names: Names,
    interface: Option<Cow<'a, str>>,
    group: Option<Cow<'a, str>>,
    timeout: Option<Cow<'a, str>>,
    has_callback: bool,
}

impl<'a> Found<'a> {
    /// Looks at every entry.
    #[cold]
    fn walk(serialization: u8, mut entries: Entries<'a>) -> Result<Self, Malformed> {
        let mut found = Self {
            names: Names::NONE,
            interface: None,
            group: None,
            timeout: None,
            has_callback: false,
        };
        while let Some(entry) = entries.next()? {
            let Some(key) = entry.key else { continue };
            found.names.add(key.as_bytes());
            let wanted = match &*key {
                "interface" => &mut found.interface,
                "group" => &mut found.group,
                "timeout" => &mut found.timeout,
                key => {
                    found.has_callback |= key.starts_with(CALLBACK);
                    continue;
                }
            };
            *wanted = match scalar(serialization, entry.value, NAME_LIMIT) {
                Ok(text) => Some(text),
                Err(_) if key == "timeout" => return Err(NO_TIME),
                Err(NoText::TooLong) => return Err(Malformed::LONG_NAME),
                Err(NoText::Unreadable) => return Err(NO_NAME),
            };
        }
        Ok(found)
    }

    fn tell(self) -> Result<Told<'a>, Malformed> {
        if self.has_callback {
            return Err(CALLBACKS);
        }
        let timeout = self.timeout.as_deref().map(milliseconds).transpose()?;
        Ok(Told {
            names: self.names,
            interface: self.interface.filter(|own| !own.is_empty()),
            group: self.group.unwrap_or_default(),
            timeout: timeout.flatten(),
        })
    }
}

/// A time as clients write it: milliseconds, of which 0 and less stand for none, as "" does.
fn milliseconds(text: &str) -> Result<Option<Duration>, Malformed> {
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        Err(_) if text.is_empty() => 0,
        // A number with a point; a cast takes what lies beyond an integer's ends for the ends.
        Err(_) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => number as i64,
            _ => return Err(NO_TIME),
        },
    };
    Ok(whole(u64::try_from(number).unwrap_or(0)))
}

/// So many milliseconds; 0 stands for none.
fn whole(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// The value of one attachment of a whole request, if it is a scalar.
pub(crate) fn find<'a>(
    wire: &'a [u8],
    metadata: &Metadata<'_>,
    name: &str,
) -> Option<Cow<'a, str>> {
    let fixed = Fixed::read(wire).ok().flatten()?;
    let at = metadata.attributes_at;
    let bytes = wire.get(at..).filter(|_| at >= HEADER)?;
    let serialization = fixed.serialization();
    if serialization == HESSIAN2
        && let Some([found]) = Plain::last(bytes, [name])
    {
        return found.map(Cow::Borrowed);
    }
    let alone = if serialization == FASTJSON2 {
        Entries::fastjson2(bytes)
    } else {
        Entries::hessian2(bytes, v2::Reader::new(bytes))
    };
    let found = match alone.and_then(|entries| last(entries, name)) {
        Ok(found) => found,
        // Their objects may be of classes that the arguments define.
        Err(_) => last(call::parts(&fixed, wire).ok()??.1, name).ok()?,
    };
    scalar(serialization, found?, usize::MAX).ok()
}

/// The last values of two attachments of a whole request, which are scalars, and the attachments if they are texts alone: what
/// was found then depends on nothing else.
pub(crate) fn find_two<'a>(
    wire: &'a [u8],
    serialization: u8,
    metadata: &Metadata<'_>,
    names: [&str; 2],
) -> ([Option<Cow<'a, str>>; 2], Option<&'a [u8]>) {
    let at = metadata.attributes_at;
    let bytes = wire.get(at..).filter(|_| at >= HEADER);
    let Some(bytes) = bytes.filter(|_| serialization == HESSIAN2) else {
        return (names.map(|name| find(wire, metadata, name)), None);
    };
    match Plain::last(bytes, names) {
        Some(found) => (found.map(|own| own.map(Cow::Borrowed)), Some(bytes)),
        None => (names.map(|name| find(wire, metadata, name)), None),
    }
}

/// The last value of this key: what a map is left with.
fn last<'a>(mut entries: Entries<'a>, name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut found = None;
    while let Some(entry) = entries.next()? {
        if entry.key.as_deref() == Some(name) {
            found = Some(entry.value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_however_it_is_written() {
        for (text, millis) in [
            ("3000", Ok(Some(3000))),
            ("", Ok(None)),
            ("0", Ok(None)),
            ("-1", Ok(None)),
            ("3000.9", Ok(Some(3000))),
            ("99999999999999999999", Ok(Some(i64::MAX as u64))),
            ("3s", Err(NO_TIME)),
            ("NaN", Err(NO_TIME)),
            ("inf", Err(NO_TIME)),
        ] {
            let expected = millis.map(|millis| millis.map(Duration::from_millis));
            assert_eq!(milliseconds(text), expected, "{text:?}");
        }
    }
}
