//! Filters that ask a server: how it is reached, and what it is asked.

use std::sync::Arc;
use std::time::Duration;

use finback_core::filter::rate_limit::{Per, Unit};

use super::{Converted, Needed};
use crate::config::Wrong;
use crate::config::convert::Result;
use crate::config::convert::url::Url;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Time};
use crate::filters::asking::{AskingPolicy, Asks};
use crate::filters::external_authorization;
use crate::filters::rate_limit_service::{self, Counted, DescriptorSource};
use crate::filters::sentinel;
use crate::filters::server::{Server, Settings, Speech};
use crate::tls::ClientFiles;

/// Questions that may be open at a time, where nothing else is said, and at most.
const IN_FLIGHT: usize = 1000;
const MOST: usize = 100_000;
/// What is told of all calls, in bytes, and a name of it.
const CONTEXT: usize = 4096;
/// A token server of Sentinel reads a thousand bytes at most.
const VALUES: usize = 3;
const NAMESPACE: usize = 256;
/// An answer to a question about rates may take so long.
const USUAL: Duration = Duration::from_millis(20);

/// A server that a filter asks, as written.
struct Reached {
    host: String,
    port: u16,
    speaks: Speech,
    tls: Option<Placed<ClientFiles>>,
    timeout: Option<Time>,
    in_flight: Option<Placed<usize>>,
}

impl Reached {
    /// One that speaks gRPC.
    fn by_grpc(
        server: &Placed<String>,
        tls: Option<Placed<file::ClusterTls>>,
        (timeout, in_flight): (Option<Time>, Option<Placed<usize>>),
        folder: &Folder<'_>,
    ) -> Result<Self> {
        let form = "a server; write http://HOST:PORT or https://HOST:PORT";
        let url = Url::read(server, form)?;
        let (Some(port), "/") = (url.port, &*url.target) else {
            let message = format!("`{}` is not {form}", server.value);
            return Err(Wrong::at(server.place, message));
        };
        let tls = url.tls(tls, ("server", server.place), folder)?;
        Ok(Self {
            host: url.host,
            port,
            speaks: Speech::Grpc,
            tls,
            timeout,
            in_flight,
        })
    }

    /// The filter that has it asked by this policy; an answer may take as long as is `usual` where nothing is said.
    fn asked<P: AskingPolicy>(self, filter: &str, usual: Duration, policy: P) -> Result<Converted> {
        let server = Server::new(Settings {
            filter: filter.into(),
            host: self.host,
            port: self.port,
            speaks: self.speaks,
            tls: self.tls.as_ref().map(|own| own.value.clone()),
            timeout: self.timeout.map_or(usual, |Time(own)| own),
            in_flight: in_flight(self.in_flight)?,
        });
        Ok(Converted {
            filter: Arc::new(Asks::new(policy, server.clone())),
            needs: None,
            needed: vec![Needed::Server(server, self.tls)],
        })
    }
}

/// How many questions may be open.
fn in_flight(own: Option<Placed<usize>>) -> Result<usize> {
    match own {
        None => Ok(IN_FLIGHT),
        Some(Placed {
            value: own @ 1..=MOST,
            ..
        }) => Ok(own),
        Some(Placed { place, .. }) => Err(Wrong::at(place, format!("write 1 to {MOST}"))),
    }
}

pub(super) fn sentinel(filter: &str, from: file::Sentinel) -> Result<Converted> {
    let file::Sentinel {
        server: Placed { value, place },
        ..
    } = from;
    let address = value.rsplit_once(':');
    let address = address.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let address = address.filter(|(host, port)| !host.is_empty() && *port > 0);
    let Some((host, port)) = address else {
        let message = format!("`{value}` is not a server; write HOST:PORT");
        return Err(Wrong::at(place, message));
    };
    if let Some(own) = from.values.get(VALUES) {
        let message = format!("a token is asked for by {VALUES} values at most");
        return Err(Wrong::at(own.place, message));
    }
    let namespace = match from.namespace {
        Some(own) if own.value.is_empty() || own.value.len() > NAMESPACE => {
            let message = format!("write 1 to {NAMESPACE} bytes");
            return Err(Wrong::at(own.place, message));
        }
        own => own.map_or_else(|| "default".to_owned(), |own| own.value),
    };
    let values = from.values.into_iter();
    let values = values.map(|own| Ok(DescriptorSource::Call(super::per(own, Unit::Calls)?)));
    let policy = sentinel::Policy {
        rule: from.flow_id,
        values: values.collect::<Result<_>>()?,
        prioritized: from.prioritized,
        failure_mode_deny: from.failure_mode_deny,
    };
    let reached = Reached {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        speaks: Speech::Tokens { namespace },
        tls: None,
        timeout: from.timeout,
        in_flight: from.in_flight,
    };
    reached.asked(filter, USUAL, policy)
}

pub(super) fn external_authorization(
    filter: &str,
    from: file::ExternalAuthorization,
    folder: &Folder<'_>,
) -> Result<Converted> {
    let bounds = (from.timeout, from.in_flight);
    let reached = Reached::by_grpc(&from.server, from.tls, bounds, folder)?;
    for Placed { value, place } in from.context.values() {
        if value.len() > CONTEXT {
            let message = format!("longer than {CONTEXT} bytes");
            return Err(Wrong::at(*place, message));
        }
    }
    let context = from.context.into_iter();
    let policy = external_authorization::Policy {
        attributes: from.attributes.into_iter().map(Into::into).collect(),
        context: context.map(|(name, own)| (name, own.value)).collect(),
        failure_mode_allow: from.failure_mode_allow,
        dry_run: from.dry_run,
    };
    reached.asked(filter, Duration::from_millis(200), policy)
}

pub(super) fn rate_limit_service(
    filter: &str,
    from: file::RateLimitService,
    folder: &Folder<'_>,
) -> Result<Converted> {
    let bounds = (from.timeout, from.in_flight);
    let reached = Reached::by_grpc(&from.server, from.tls, bounds, folder)?;
    if from.domain.value.is_empty() {
        let message = "`domain` is missing; write the domain of the limits";
        return Err(Wrong::at(from.domain.place, message));
    }
    if from.descriptors.value.is_empty() {
        let message = "without a descriptor nothing is counted; write one";
        return Err(Wrong::at(from.descriptors.place, message));
    }
    let descriptors = from.descriptors.value.into_iter().map(descriptor);
    let policy = rate_limit_service::Policy {
        domain: from.domain.value,
        descriptors: descriptors.collect::<Result<_>>()?,
        failure_mode_deny: from.failure_mode_deny,
    };
    reached.asked(filter, USUAL, policy)
}

fn descriptor(from: Placed<Vec<Placed<file::DescriptorEntry>>>) -> Result<Counted> {
    if from.value.is_empty() {
        let message = "a descriptor without entries counts nothing; write one";
        return Err(Wrong::at(from.place, message));
    }
    from.value.into_iter().map(entry).collect()
}

fn entry(
    Placed { value, place }: Placed<file::DescriptorEntry>,
) -> Result<(Arc<str>, DescriptorSource)> {
    if value.key.value.is_empty() {
        return Err(Wrong::at(value.key.place, "an entry has to have a key"));
    }
    let source = match (value.value, value.of) {
        (Some(text), None) if text.value.is_empty() => {
            return Err(Wrong::at(text.place, "an entry has to have a value"));
        }
        (Some(text), None) => DescriptorSource::Constant(text.value.into()),
        (None, Some(own)) => match super::per(own, Unit::Calls)? {
            Per::Attribute(name) if name.is_empty() => {
                return Err(Wrong::at(place, "an attribute has to have a name"));
            }
            per => DescriptorSource::Call(per),
        },
        _ => return Err(Wrong::at(place, "write exactly one of `value` and `of`")),
    };
    Ok((value.key.value.into(), source))
}
