//! The section `tracing`, and what routes say of it.

use finback_core::trace::{Choice, Ratio, Sampling, Tails};
use finback_observability::trace::{ContextFormat, Encoding, Formats};
use http::HeaderName;

use super::super::file;
use super::super::folder::Folder;
use super::super::units::{Placed, Time};
use super::url::Url;
use super::{Result, Wrong};
use crate::protocols::Secret;
use crate::traces::{HeaderSource, TracingSpec};

/// More that waits than this would be a memory of its own.
const MAX_QUEUE: usize = 1_000_000;
/// What a request may be told by us alone.
const OURS: [&str; 5] = ["host", "content-type", "content-length", "te", "user-agent"];

pub(super) fn tracing(
    Placed { value, place }: Placed<file::Tracing>,
    folder: &Folder<'_>,
) -> Result<TracingSpec> {
    let encoding = encoding(value.protocol.as_ref())?;
    let form = "an endpoint; write http://HOST:PORT or https://HOST:PORT";
    let url = Url::read(&value.endpoint, form)?;
    let tls = url.tls(value.tls, ("endpoint", place), folder)?;
    let address = address(url, &value.endpoint, form, encoding)?;
    let headers = value.headers.into_iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| header(&name, value, folder))
        .collect::<Result<_>>()?;
    let (default_queue, default_timeout) = (8192, std::time::Duration::from_secs(10));
    let queue = match value.queue {
        None => default_queue,
        Some(Placed {
            value: queue @ 1..=MAX_QUEUE,
            ..
        }) => queue,
        Some(Placed { place, .. }) => {
            return Err(Wrong::at(place, format!("write 1 to {MAX_QUEUE}")));
        }
    };
    let usual = Choice {
        sampling: Sampling::ParentBased(Ratio::new(0.01).unwrap_or(Ratio::NONE)),
        tails: Tails::default(),
    };
    Ok(TracingSpec {
        choice: Choice {
            sampling: sampling(
                value.sampling.as_ref(),
                value.ratio.as_ref(),
                usual.sampling,
            )?,
            tails: value.tails.map_or(usual.tails, |own| tails(&own)),
        },
        address,
        encoding,
        tls,
        headers,
        timeout: value.timeout.map_or(default_timeout, |Time(own)| own),
        queue,
        resource: resource(value.service_name, value.resource, place)?,
        tails_per_second: value
            .tails_per_second
            .map_or(100, std::num::NonZeroU32::get),
        formats: formats(value.propagation)?,
    })
}

/// What of a route's calls is traced, given what is of all calls.
pub(super) fn choice(
    Placed { value, place }: Placed<file::RouteTracing>,
    all: Option<&Choice>,
) -> Result<Choice> {
    let Some(all) = all else {
        let message = "nothing is traced; write a section `tracing`, or take this away";
        return Err(Wrong::at(place, message));
    };
    Ok(Choice {
        sampling: sampling(value.sampling.as_ref(), value.ratio.as_ref(), all.sampling)?,
        tails: value.tails.map_or(all.tails, |own| tails(&own)),
    })
}

fn sampling(
    word: Option<&Placed<String>>,
    ratio: Option<&Placed<f64>>,
    default: Sampling,
) -> Result<Sampling> {
    let share = match ratio {
        None => None,
        Some(Placed { value, place }) => {
            let share = Ratio::new(*value);
            let wrong = || Wrong::at(*place, format!("{value} is not a share; write 0 to 1"));
            Some(share.ok_or_else(wrong)?)
        }
    };
    let (Sampling::Ratio(usual) | Sampling::ParentBased(usual)) = default;
    let Some(word) = word else {
        return Ok(match default {
            Sampling::Ratio(_) => Sampling::Ratio(share.unwrap_or(usual)),
            Sampling::ParentBased(_) => Sampling::ParentBased(share.unwrap_or(usual)),
        });
    };
    match (&*word.value, ratio) {
        ("always" | "never", Some(ratio)) => {
            let message = format!("`{}` has no share; take `ratio` away", word.value);
            Err(Wrong::at(ratio.place, message))
        }
        ("always", None) => Ok(Sampling::Ratio(Ratio::ALL)),
        ("never", None) => Ok(Sampling::Ratio(Ratio::NONE)),
        ("ratio", _) => Ok(Sampling::Ratio(share.unwrap_or(usual))),
        ("parent-based", _) => Ok(Sampling::ParentBased(share.unwrap_or(usual))),
        (other, _) => {
            let message =
                format!("`{other}` is not a sampler; write always, never, ratio or parent-based");
            Err(Wrong::at(word.place, message))
        }
    }
}

fn tails(own: &file::Tails) -> Tails {
    Tails {
        slower_than: own.slower_than.map(|Time(time)| time),
        failed: own.failed,
    }
}

fn encoding(protocol: Option<&Placed<String>>) -> Result<Encoding> {
    match protocol.map(|own| (&*own.value, own.place)) {
        None | Some(("grpc", _)) => Ok(Encoding::Grpc),
        Some(("http", _)) => Ok(Encoding::Http),
        Some((other, place)) => {
            let message = format!("`{other}` is not an OTLP protocol; write grpc or http");
            Err(Wrong::at(place, message))
        }
    }
}

/// Host, port and path.
fn address(
    url: Url,
    Placed { value, place }: &Placed<String>,
    form: &str,
    encoding: Encoding,
) -> Result<(String, u16, String)> {
    if url.target.contains('?') {
        return Err(Wrong::at(*place, format!("`{value}` is not {form}")));
    }
    let (port, usual) = match encoding {
        Encoding::Grpc => (4317, ""),
        Encoding::Http => (4318, "/v1/traces"),
    };
    let path = match (&*url.target, encoding) {
        ("/", _) => usual.to_owned(),
        (path, Encoding::Http) => path.to_owned(),
        (_, Encoding::Grpc) => {
            let message = "gRPC's path is always the same; write no more than http://HOST:PORT";
            return Err(Wrong::at(*place, message));
        }
    };
    Ok((url.host, url.port.unwrap_or(port), path))
}

fn header(
    name: &str,
    Placed { value, place }: Placed<file::HeaderText>,
    folder: &Folder<'_>,
) -> Result<(HeaderName, Placed<HeaderSource>)> {
    let wrong = |message: String| Wrong::at(place, message);
    let known: HeaderName = name
        .parse()
        .map_err(|_| wrong(format!("`{name}` is not a header name")))?;
    if OURS.contains(&known.as_str()) {
        return Err(wrong(format!("`{name}` is written by us")));
    }
    let value = match value {
        file::HeaderText::Text(text) => HeaderSource::Text(Secret(text.into_bytes())),
        file::HeaderText::File(file::HeaderFile { file }) => HeaderSource::File(folder.join(file)),
    };
    Ok((known, Placed { value, place }))
}

/// What the resource says of itself.
fn resource(
    name: Option<Placed<String>>,
    more: std::collections::BTreeMap<String, String>,
    place: (u64, u64),
) -> Result<Vec<(String, String)>> {
    let name = match name {
        Some(Placed { value, place }) if value.is_empty() => {
            return Err(Wrong::at(
                place,
                "a service without a name is none; write one",
            ));
        }
        Some(name) => name.value,
        None => "finback".to_owned(),
    };
    let process = std::process::id().to_string();
    let mut all = vec![
        ("service.name".to_owned(), name),
        (
            "service.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
        ("telemetry.sdk.name".to_owned(), "finback".to_owned()),
        ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
        (
            "telemetry.sdk.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
        ("process.pid".to_owned(), process.clone()),
    ];
    for (name, value) in more {
        if name.is_empty() || all.iter().any(|(own, _)| *own == name) {
            let message =
                format!("`resource`: `{name}` is said by us; `service_name` sets the name");
            return Err(Wrong::at(place, message));
        }
        all.push((name, value));
    }
    if !all.iter().any(|(name, _)| name == "service.instance.id") {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        all.push((
            "service.instance.id".to_owned(),
            format!("{process}@{host}"),
        ));
    }
    Ok(all)
}

fn formats(own: file::Propagation) -> Result<Formats> {
    let named = |list: Option<Placed<Vec<String>>>, usual: Vec<ContextFormat>| {
        let Some(Placed { value, place }) = list else {
            return Ok(usual);
        };
        let mut formats = Vec::new();
        for name in value {
            let mut known = ContextFormat::ALL.iter();
            let Some((_, format)) = known.find(|(own, _)| *own == name) else {
                let names: Vec<&str> = ContextFormat::ALL.iter().map(|(own, _)| *own).collect();
                let names = names.join(", ");
                let message = format!("`{name}` is not a context format; write some of {names}");
                return Err(Wrong::at(place, message));
            };
            if formats.contains(format) {
                return Err(Wrong::at(place, format!("`{name}` stands here twice")));
            }
            formats.push(*format);
        }
        Ok(formats)
    };
    let usual = Formats::default();
    Ok(Formats {
        read: named(own.read, usual.read)?,
        write: named(own.write, usual.write)?,
    })
}
