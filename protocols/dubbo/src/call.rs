//! A request's body: what it tells about its call.
//!
//! Both readable serializations hold the same values in a row: protocol version, path, service
//! version, method, parameter descriptor, the arguments, the attachments
//! (Dubbo: DubboCodec, `encodeRequestData`).

use std::borrow::Cow;
use std::ops::Range;

use finback_core::codec::Unambiguous;
use finback_core::frame::{Answer, Malformed, Metadata, NAME_LIMIT, Outcome, Reading, Status};
use finback_hessian::{Error, v2};

use crate::attachments::{self, Entries, Told};
use crate::jsonb::{self, NoText};
use crate::wire::{self, FASTJSON2, Fixed, HEADER, HESSIAN2};

/// Dubbo's name for "no version".
pub(crate) const NO_VERSION: &str = "0.0.0";
/// The descriptor of a generic call: real method, its parameter types, its arguments.
const GENERIC: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";

/// The longest descriptor of parameters, in bytes: Java's class files hold none that is longer.
const DESCRIPTOR_LIMIT: usize = 0xffff;
const UNREADABLE: Malformed = Malformed::Content("the invocation cannot be read");
const NO_DESCRIPTOR: Malformed =
    Malformed::Content("the descriptor of the parameters cannot be read");
const ARGUMENTS: Malformed =
    Malformed::Content("the arguments cannot be read, so what follows them is not known");

/// The values that come before the attachments, and where those begin.
pub(crate) struct Beginning<'a> {
    pub(crate) body: &'a [u8],
    path: Cow<'a, str>,
    version: Cow<'a, str>,
    method: Cow<'a, str>,
    /// Where the version stands in the body, its length included.
    pub(crate) version_at: Range<usize>,
    /// Where the attachments stand in the body: at its end if there are none.
    pub(crate) attachments_at: usize,
}

impl<'a> Beginning<'a> {
    /// Reads it. `reader` is at the body's beginning, and of hessian2 it is left at the attachments;
    /// `None` for a serialization that is not read.
    #[inline]
    pub(crate) fn read(
        serialization: u8,
        body: &'a [u8],
        reader: &mut v2::Reader<'a>,
    ) -> Result<Option<Self>, Malformed> {
        match serialization {
            HESSIAN2 => hessian2(body, reader).map(Some),
            FASTJSON2 => fastjson2(body).map(Some),
            _ => Ok(None),
        }
    }

    /// The attachments, where `reader` has read what stands before them.
    pub(crate) fn entries(
        &self,
        serialization: u8,
        reader: v2::Reader<'a>,
    ) -> Result<Entries<'a>, Malformed> {
        let rest = self.body.get(self.attachments_at..).unwrap_or_default();
        match serialization {
            _ if rest.is_empty() => Ok(Entries::None),
            HESSIAN2 => Entries::hessian2(self.body, reader),
            _ => Entries::fastjson2(rest),
        }
    }
}

/// What stands before the attachments, and those; `None` for a serialization that is not read.
pub(crate) fn parts<'a>(
    fixed: &Fixed,
    wire: &'a [u8],
) -> Result<Option<(Beginning<'a>, Entries<'a>)>, Malformed> {
    let body = wire.get(HEADER..).unwrap_or_default();
    let mut reader = v2::Reader::new(body);
    let serialization = fixed.serialization();
    let Some(beginning) = Beginning::read(serialization, body, &mut reader)? else {
        return Ok(None);
    };
    let entries = beginning.entries(serialization, reader)?;
    Ok(Some((beginning, entries)))
}

/// Reads a call.
pub(crate) fn read<'a>(
    serialization: u8,
    wire: &'a [u8],
    opaque_service: &str,
) -> Result<Reading<'a>, Malformed> {
    let codec_data = u32::from(serialization);
    let body = wire.get(HEADER..).unwrap_or_default();
    let mut reader = v2::Reader::new(body);
    let Some(beginning) = Beginning::read(serialization, body, &mut reader)? else {
        let service = Cow::Owned(opaque_service.to_owned());
        return Ok(Reading::Call(Metadata {
            service,
            own: true,
            codec_data,
            ..Metadata::default()
        }));
    };
    let at = beginning.attachments_at;
    let mut told = Told::default();
    if at < body.len() {
        let plain = (serialization == HESSIAN2).then(|| &body[at..]);
        let entries = || beginning.entries(serialization, reader);
        told = attachments::read(&beginning.path, serialization, entries, plain)?;
    }
    let Beginning {
        path,
        version,
        method,
        ..
    } = beginning;
    let service = told.interface.unwrap_or(path);
    if service.is_empty() {
        return Err(Malformed::Content("the invocation names no service"));
    }
    let version = match &*version {
        NO_VERSION => Cow::Borrowed(""),
        _ => version,
    };
    Metadata::check_names(&service, [&method, &version, &told.group])?;
    // Made where it is handed out: it is large.
    Ok(Reading::Call(Metadata {
        service,
        method,
        version,
        group: told.group,
        timeout: told.timeout,
        own: false,
        refused: None,
        proves: false,
        treats: false,
        lingers: false,
        unreadable: None,
        attributes_at: if at < body.len() { HEADER + at } else { 0 },
        names: told.names,
        writer: 0,
        codec_data,
    }))
}

/// Whether a provider might run something else than was read: it looks for its service by the path, version and group
/// that attachments have the last word about (Dubbo: DubboProtocol, `getInvoker`); or whether the call cannot be read at all.
pub(crate) fn is_ambiguous(
    wire: &[u8],
    serialization: u8,
    metadata: &Metadata<'_>,
    known: &mut Unambiguous,
) -> bool {
    let body = wire.get(HEADER..).unwrap_or_default();
    let end = wire.get(metadata.attributes_at.max(HEADER)..);
    let end = end.unwrap_or_default();
    if serialization == HESSIAN2 && known.is_of(body, end) {
        return false;
    }
    let Some((path, version, read)) = path_and_version(serialization, body) else {
        return true;
    };
    let names = ["path", "version"];
    let (said, texts) = attachments::find_two(wire, serialization, metadata, names);
    let [said_path, said_version] = said;
    let path = &*path;
    let is_other_path = said_path.is_some_and(|said| !said.is_empty() && said != path);
    // A context stands before the interface, and nothing else does.
    let is_path_of = |service: &str| {
        path == service
            || path
                .strip_suffix(service)
                .is_some_and(|own| own.ends_with('/'))
    };
    let version = match &*version {
        NO_VERSION => "",
        version => version,
    };
    let is_other_version = said_version
        .is_some_and(|said| said != version && !(version.is_empty() && said == NO_VERSION));
    // What is generic, and was not read as that.
    let is_hidden = matches!(&*metadata.method, "$invoke" | "$invokeAsync");
    if is_other_path || !is_path_of(&metadata.service) || is_other_version || is_hidden {
        return true;
    }
    if let Some(texts) = texts {
        known.remember(&body[..read], texts);
    }
    false
}

/// What a call's body begins with, and how much of it that is; `None` if it cannot be read.
fn path_and_version(serialization: u8, body: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>, usize)> {
    match serialization {
        HESSIAN2 => {
            let mut reader = v2::Reader::new(body);
            let _protocol = hessian2_bytes(&mut reader, NAME_LIMIT).ok()?;
            let path = hessian2_text(&mut reader, NAME_LIMIT).ok()?;
            let version = hessian2_text(&mut reader, NAME_LIMIT).ok()?;
            let read = reader.position();
            Some((path.unwrap_or_default(), version.unwrap_or_default(), read))
        }
        FASTJSON2 => {
            let mut values = jsonb::Values::new(body);
            let _protocol = fastjson2_text(&mut values, NAME_LIMIT).ok()?;
            let path = fastjson2_text(&mut values, NAME_LIMIT).ok()?;
            let version = fastjson2_text(&mut values, NAME_LIMIT).ok()?;
            let read = values.position();
            Some((path.unwrap_or_default(), version.unwrap_or_default(), read))
        }
        _ => None,
    }
}

fn hessian2_text<'a>(
    reader: &mut v2::Reader<'a>,
    limit: usize,
) -> Result<Option<Cow<'a, str>>, Malformed> {
    reader.string_within(limit).map_err(unreadable)
}

/// A text of which only the bytes are looked at.
fn hessian2_bytes<'a>(
    reader: &mut v2::Reader<'a>,
    limit: usize,
) -> Result<Cow<'a, [u8]>, Malformed> {
    let bytes = reader.string_bytes_within(limit).map_err(unreadable)?;
    Ok(bytes.unwrap_or_default())
}

fn unreadable(error: Error) -> Malformed {
    match error {
        Error::LONG_TEXT => Malformed::LONG_NAME,
        _ => UNREADABLE,
    }
}

fn fastjson2_text<'a>(
    values: &mut jsonb::Values<'a>,
    limit: usize,
) -> Result<Option<Cow<'a, str>>, Malformed> {
    let value = values.next().ok_or(UNREADABLE)?;
    jsonb::text_within(value, limit).map_err(|error| match error {
        NoText::TooLong => Malformed::LONG_NAME,
        NoText::Unreadable => UNREADABLE,
    })
}

fn hessian2<'a>(body: &'a [u8], reader: &mut v2::Reader<'a>) -> Result<Beginning<'a>, Malformed> {
    let _protocol = hessian2_bytes(reader, NAME_LIMIT)?;
    let path = hessian2_text(reader, NAME_LIMIT)?.unwrap_or_default();
    let from = reader.position();
    let version = hessian2_text(reader, NAME_LIMIT)?.unwrap_or_default();
    let version_at = from..reader.position();
    let mut method = hessian2_text(reader, NAME_LIMIT)?.unwrap_or_default();
    let descriptor = hessian2_bytes(reader, DESCRIPTOR_LIMIT)?;
    let mut arguments = count_parameters(&descriptor).ok_or(NO_DESCRIPTOR)?;
    if is_generic(&method, &descriptor) {
        method = hessian2_text(reader, NAME_LIMIT)?.map_or(method, trimmed);
        arguments -= 1;
    }
    for _ in 0..arguments {
        reader.skip().map_err(|_| ARGUMENTS)?;
    }
    Ok(Beginning {
        body,
        path,
        version,
        method,
        version_at,
        attachments_at: reader.position(),
    })
}

fn fastjson2(body: &[u8]) -> Result<Beginning<'_>, Malformed> {
    let mut values = jsonb::Values::new(body);
    let _protocol = fastjson2_text(&mut values, NAME_LIMIT)?;
    let path = fastjson2_text(&mut values, NAME_LIMIT)?.unwrap_or_default();
    let from = values.position();
    let version = fastjson2_text(&mut values, NAME_LIMIT)?.unwrap_or_default();
    let version_at = from..values.position();
    let mut method = fastjson2_text(&mut values, NAME_LIMIT)?.unwrap_or_default();
    let descriptor = fastjson2_text(&mut values, DESCRIPTOR_LIMIT)?.unwrap_or_default();
    let mut arguments = count_parameters(descriptor.as_bytes()).ok_or(NO_DESCRIPTOR)?;
    if is_generic(&method, descriptor.as_bytes()) {
        method = fastjson2_text(&mut values, NAME_LIMIT)?.map_or(method, trimmed);
        arguments -= 1;
    }
    for _ in 0..arguments {
        values.next().ok_or(ARGUMENTS)?;
    }
    Ok(Beginning {
        body,
        path,
        version,
        method,
        version_at,
        attachments_at: values.position(),
    })
}

/// A method's name as a generic call has it: without what Java trims off (Dubbo: GenericFilter).
fn trimmed(name: Cow<'_, str>) -> Cow<'_, str> {
    let is_space = |c: char| c <= ' ';
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(name.trim_matches(is_space)),
        Cow::Owned(name) => Cow::Owned(name.trim_matches(is_space).to_owned()),
    }
}

/// Whether it is a generic call, whose first argument is the real method's name.
#[inline]
fn is_generic(method: &str, descriptor: &[u8]) -> bool {
    matches!(method, "$invoke" | "$invokeAsync") && descriptor == GENERIC.as_bytes()
}

/// The number of parameters of a descriptor such as `Ljava/lang/String;[I`; `None` if it is
/// none.
fn count_parameters(descriptor: &[u8]) -> Option<usize> {
    let mut rest = descriptor;
    let mut count = 0;
    while let [first, after @ ..] = rest {
        match first {
            b'[' => {
                rest = after;
                continue;
            }
            b'V' | b'Z' | b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' => rest = after,
            b'L' => {
                let end = after.iter().position(|byte| *byte == b';')?;
                rest = &after[end + 1..];
            }
            _ => return None,
        }
        count += 1;
    }
    Some(count)
}

/// How a response says its call ended.
pub(crate) fn answer(status: u8, serialization: u8, wire: &[u8]) -> Answer {
    Answer {
        outcome: outcome(status, serialization, wire),
        status: Status(status.into()),
    }
}

fn outcome(status: u8, serialization: u8, wire: &[u8]) -> Outcome {
    match status {
        wire::OK => {
            let body = wire.get(HEADER..).unwrap_or_default();
            // Its first value tells what follows: 0 and 3 announce an exception.
            let exception = match serialization {
                HESSIAN2 => matches!(body, [0x90 | 0x93, ..]),
                FASTJSON2 => matches!(body, [0, 0, 0, 2, 0xbd, 0 | 3, ..]),
                _ => false,
            };
            if exception {
                Outcome::Exception
            } else {
                Outcome::Success
            }
        }
        wire::CLIENT_TIMEOUT | wire::SERVER_TIMEOUT => Outcome::TimedOut,
        wire::SERVER_THREADPOOL_EXHAUSTED_ERROR => Outcome::Refused,
        // The request is at fault. SERVICE_ERROR is what providers say of a service, version or group
        // that they do not export, BAD_RESPONSE of an answer of the application that cannot be written.
        wire::BAD_REQUEST
        | wire::BAD_RESPONSE
        | wire::SERVICE_NOT_FOUND
        | wire::SERVICE_ERROR
        | wire::CLIENT_ERROR => Outcome::Invalid,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_by_their_descriptor() {
        for (descriptor, count) in [
            ("", Some(0)),
            ("I", Some(1)),
            ("Ljava/lang/String;I", Some(2)),
            ("[[Ljava/lang/String;[J", Some(2)),
            (GENERIC, Some(3)),
            ("Ljava/lang/String", None),
            ("Q", None),
        ] {
            assert_eq!(
                count_parameters(descriptor.as_bytes()),
                count,
                "{descriptor}"
            );
        }
    }
}
