//! What a request's body tells about its call.
//!
//! Both readable serializations hold the same values in a row: protocol version, path, service
//! version, method, parameter descriptor, the arguments, the attachments (Dubbo's
//! `DubboCodec.encodeRequestData`).

use std::borrow::Cow;
use std::time::Duration;

use finback_core::frame::{Malformed, Metadata, Outcome};
use finback_hessian::{Limits, v2};

use crate::attachments::{self, Attachments};
use crate::jsonb;
use crate::wire::{self, FASTJSON2, Fixed, HEADER, HESSIAN2};

/// Dubbo's name for "no version".
const NO_VERSION: &str = "0.0.0";
/// The descriptor of a generic call: real method, its parameter types, its arguments.
const GENERIC: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";

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
        HESSIAN2 => hessian2(body),
        FASTJSON2 => fastjson2(body),
        _ => {
            let service = Cow::Owned(opaque_service.to_owned());
            return Ok(Metadata {
                service,
                note,
                ..Metadata::default()
            });
        }
    };
    let beginning = beginning.ok_or(Malformed::Content("the invocation cannot be read"))?;
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
        let attachments = attachments::read(fixed.serialization(), &body[at..]);
        fill(&mut metadata, attachments)?;
    }
    if metadata.service.is_empty() {
        return Err(Malformed::Content("the invocation names no service"));
    }
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

fn hessian2(body: &[u8]) -> Option<Beginning<'_>> {
    let mut reader = v2::Reader::new(body, Limits::default());
    let mut text = || reader.string().ok().map(Option::unwrap_or_default);
    let _protocol = text()?;
    let (path, version, mut method, descriptor) = (text()?, text()?, text()?, text()?);
    let mut arguments = count_parameters(&descriptor);
    if is_generic(&method, &descriptor) {
        if let Some(name) = reader.string().ok().flatten() {
            method = name;
        }
        arguments = arguments.map(|count| count - 1);
    }
    let passed = arguments.and_then(|count| (0..count).try_for_each(|_| reader.skip().ok()));
    let attachments_at = passed
        .map(|()| reader.position())
        .filter(|at| *at < body.len());
    Some(Beginning {
        path,
        version,
        method,
        attachments_at,
    })
}

fn fastjson2(body: &[u8]) -> Option<Beginning<'_>> {
    let mut values = jsonb::Values::new(body);
    let mut text = || {
        values
            .next()
            .and_then(jsonb::text)
            .map(Option::unwrap_or_default)
    };
    let _protocol = text()?;
    let (path, version, mut method, descriptor) = (text()?, text()?, text()?, text()?);
    let mut arguments = count_parameters(&descriptor);
    if is_generic(&method, &descriptor) {
        if let Some(name) = values.next().and_then(jsonb::text).flatten() {
            method = name;
        }
        arguments = arguments.map(|count| count - 1);
    }
    let passed = arguments.and_then(|count| (0..count).try_for_each(|_| values.next().map(|_| ())));
    let attachments_at = passed
        .map(|()| values.position())
        .filter(|at| *at < body.len());
    Some(Beginning {
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
