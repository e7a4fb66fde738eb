//! What a request's body tells about its call.
//!
//! Both readable serializations hold the same values in a row: protocol version, path, service
//! version, method, parameter descriptor, the arguments, the attachments (Dubbo's
//! `DubboCodec.encodeRequestData`).

use std::borrow::Cow;
use std::time::Duration;

use finback_core::frame::{Malformed, Metadata, NAME_LIMIT, Outcome};
use finback_hessian::{Error, Limits, v2};

use crate::attachments::{self, Attachments};
use crate::jsonb;
use crate::wire::{self, FASTJSON2, Fixed, HEADER, HESSIAN2};

/// Dubbo's name for "no version".
const NO_VERSION: &str = "0.0.0";
/// The descriptor of a generic call: real method, its parameter types, its arguments.
const GENERIC: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";

/// The longest descriptor of parameters, in bytes: Java's class files hold none that is longer.
const DESCRIPTOR_LIMIT: usize = 0xffff;
const UNREADABLE: Malformed = Malformed::Content("the invocation cannot be read");

/// The values that come before the attachments.
struct Beginning<'a> {
    path: Cow<'a, str>,
    version: Cow<'a, str>,
    method: Cow<'a, str>,
    /// Where the attachments begin in the body, if the arguments could be passed over.
    attachments_at: Option<usize>,
}

/// Reads a call.
pub(crate) fn read<'a>(
    fixed: &Fixed,
    wire: &'a [u8],
    opaque_service: &str,
) -> Result<Metadata<'a>, Malformed> {
    let body = wire.get(HEADER..).unwrap_or_default();
    let note = u32::from(fixed.serialization());
    let beginning = match fixed.serialization() {
        HESSIAN2 => hessian2(body)?,
        FASTJSON2 => fastjson2(body)?,
        _ => {
            let service = Cow::Owned(opaque_service.to_owned());
            return Ok(Metadata {
                service,
                own: true,
                note,
                ..Metadata::default()
            });
        }
    };
    let Beginning {
        path,
        version,
        method,
        attachments_at,
    } = beginning;
    let mut metadata = Metadata {
        service: path,
        method,
        version: if version == NO_VERSION {
            Cow::Borrowed("")
        } else {
            version
        },
        note,
        ..Metadata::default()
    };
    if let Some(at) = attachments_at {
        metadata.attributes_at = HEADER + at;
        let attachments = attachments::read(fixed.serialization(), &body[at..])?;
        fill(&mut metadata, attachments)?;
    }
    if metadata.service.is_empty() {
        return Err(Malformed::Content("the invocation names no service"));
    }
    metadata.names_fit()?;
    Ok(metadata)
}

fn fill<'a>(metadata: &mut Metadata<'a>, attachments: Attachments<'a>) -> Result<(), Malformed> {
    if attachments.has_callback {
        return Err(Malformed::Content(
            "callback arguments need a connection of their own; this one is shared",
        ));
    }
    if let Some(interface) = attachments
        .interface
        .filter(|interface| !interface.is_empty())
    {
        metadata.service = interface;
    }
    metadata.group = attachments.group.unwrap_or_default();
    metadata.timeout = attachments
        .timeout
        .and_then(|text| text.parse().ok())
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis);
    Ok(())
}

fn hessian2(body: &[u8]) -> Result<Beginning<'_>, Malformed> {
    let mut reader = v2::Reader::new(body, Limits::default());
    let mut text = |limit| match reader.string_within(limit) {
        Ok(text) => Ok(text.unwrap_or_default()),
        Err(Error::LONG_TEXT) => Err(Malformed::LONG_NAME),
        Err(_) => Err(UNREADABLE),
    };
    let _protocol = text(NAME_LIMIT)?;
    let (path, version, mut method) = (text(NAME_LIMIT)?, text(NAME_LIMIT)?, text(NAME_LIMIT)?);
    let descriptor = text(DESCRIPTOR_LIMIT)?;
    let mut arguments = count_parameters(&descriptor);
    if is_generic(&method, &descriptor) {
        match reader.string_within(NAME_LIMIT) {
            Ok(Some(name)) => method = name,
            Err(Error::LONG_TEXT) => return Err(Malformed::LONG_NAME),
            Ok(None) | Err(_) => {}
        }
        arguments = arguments.map(|count| count - 1);
    }
    let passed = arguments.and_then(|count| (0..count).try_for_each(|_| reader.skip().ok()));
    let attachments_at = passed
        .map(|()| reader.position())
        .filter(|at| *at < body.len());
    Ok(Beginning {
        path,
        version,
        method,
        attachments_at,
    })
}

fn fastjson2(body: &[u8]) -> Result<Beginning<'_>, Malformed> {
    let mut values = jsonb::Values::new(body);
    let mut text = |limit| {
        let value = values.next().ok_or(UNREADABLE)?;
        match jsonb::text_within(value, limit) {
            Ok(text) => Ok(text.unwrap_or_default()),
            Err(jsonb::NoText::TooLong) => Err(Malformed::LONG_NAME),
            Err(jsonb::NoText::Unreadable) => Err(UNREADABLE),
        }
    };
    let _protocol = text(NAME_LIMIT)?;
    let (path, version, mut method) = (text(NAME_LIMIT)?, text(NAME_LIMIT)?, text(NAME_LIMIT)?);
    let descriptor = text(DESCRIPTOR_LIMIT)?;
    let mut arguments = count_parameters(&descriptor);
    if is_generic(&method, &descriptor) {
        let name = values
            .next()
            .map(|value| jsonb::text_within(value, NAME_LIMIT));
        match name {
            Some(Ok(Some(name))) => method = name,
            Some(Err(jsonb::NoText::TooLong)) => return Err(Malformed::LONG_NAME),
            _ => {}
        }
        arguments = arguments.map(|count| count - 1);
    }
    let passed = arguments.and_then(|count| (0..count).try_for_each(|_| values.next().map(|_| ())));
    let attachments_at = passed
        .map(|()| values.position())
        .filter(|at| *at < body.len());
    Ok(Beginning {
        path,
        version,
        method,
        attachments_at,
    })
}

/// Whether it is a generic call, whose first argument is the real method's name.
fn is_generic(method: &str, descriptor: &str) -> bool {
    matches!(method, "$invoke" | "$invokeAsync") && descriptor == GENERIC
}

/// The number of parameters of a descriptor such as `Ljava/lang/String;[I`; `None` if it is
/// none.
fn count_parameters(descriptor: &str) -> Option<usize> {
    let mut rest = descriptor.as_bytes();
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
pub(crate) fn outcome(fixed: &Fixed, wire: &[u8]) -> Outcome {
    match fixed.status {
        wire::OK => {
            let body = wire.get(HEADER..).unwrap_or_default();
            // Its first value tells what follows: 0 and 3 announce an exception.
            let exception = match fixed.serialization() {
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
            assert_eq!(count_parameters(descriptor), count, "{descriptor}");
        }
    }
}
