//! Filters that ask a server: how it is reached, and what it is asked.

use std::sync::Arc;
use std::time::Duration;

use finback_core::filter::rate_limit::{Per, Unit};
use http::Uri;

use super::{Asked, Converted};
use crate::config::Wrong;
use crate::config::convert::{Result, clusters};
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Time};
use crate::filters::external_authorization::{self, ExternalAuthorization};
use crate::filters::rate_limit_service::{self, Counted, RateLimitService, Source};
use crate::filters::server::{Server, Settings};
use crate::tls::ClientFiles;

/// Questions that may be open at a time, where nothing else is said, and at most.
const IN_FLIGHT: usize = 1000;
const MOST: usize = 100_000;
/// What is told of all calls, in bytes, and a name of it.
const CONTEXT: usize = 4096;

/// How a server is reached, as written.
struct Reached {
    server: Placed<String>,
    tls: Option<Placed<file::ClusterTls>>,
    timeout: Option<Time>,
    in_flight: Option<Placed<usize>>,
}

impl Reached {
    fn server(self, filter: &str, usual: Duration, folder: &Folder<'_>) -> Result<Asked> {
        let (is_secure, host, port) = address(&self.server)?;
        let tls = match (self.tls, is_secure) {
            (Some(tls), false) => {
                let message =
                    "the server is spoken to without TLS; write https://, or take `tls` away";
                return Err(Wrong::at(tls.place, message));
            }
            (Some(tls), true) => Some(clusters::client_files(tls, folder)?),
            (None, true) => Some(Placed {
                value: ClientFiles::default(),
                place: self.server.place,
            }),
            (None, false) => None,
        };
        let in_flight = match self.in_flight {
            None => IN_FLIGHT,
            Some(Placed {
                value: own @ 1..=MOST,
                ..
            }) => own,
            Some(Placed { place, .. }) => {
                return Err(Wrong::at(place, format!("write 1 to {MOST}")));
            }
        };
        let server = Server::new(Settings {
            filter: filter.into(),
            host,
            port,
            tls: tls.as_ref().map(|own| own.value.clone()),
            timeout: self.timeout.map_or(usual, |Time(own)| own),
            in_flight,
        });
        Ok(Asked { server, tls })
    }
}

/// Whether TLS is spoken, host and port.
fn address(Placed { value, place }: &Placed<String>) -> Result<(bool, String, u16)> {
    let wrong = || {
        let message =
            format!("`{value}` is no server; write http://HOST:PORT or https://HOST:PORT");
        Wrong::at(*place, message)
    };
    let uri: Uri = value.parse().map_err(|_| wrong())?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_odd = uri.query().is_some()
        || !matches!(uri.path(), "" | "/")
        || uri
            .authority()
            .is_some_and(|own| own.as_str().contains('@'));
    let port = uri.port_u16().filter(|port| *port > 0 && !is_odd);
    match port {
        Some(port) if !host.is_empty() => Ok((is_secure, host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

pub(super) fn external_authorization(
    filter: &str,
    from: file::ExternalAuthorization,
    folder: &Folder<'_>,
) -> Result<Converted> {
    let reached = Reached {
        server: from.server,
        tls: from.tls,
        timeout: from.timeout,
        in_flight: from.in_flight,
    };
    for Placed { value, place } in from.context.values() {
        if value.len() > CONTEXT {
            let message = format!("longer than {CONTEXT} bytes");
            return Err(Wrong::at(*place, message));
        }
    }
    let asked = reached.server(filter, Duration::from_millis(200), folder)?;
    let context = from.context.into_iter();
    let policy = external_authorization::Policy {
        attributes: from.attributes.into_iter().map(Into::into).collect(),
        context: context.map(|(name, own)| (name, own.value)).collect(),
        failure_mode_allow: from.failure_mode_allow,
        dry_run: from.dry_run,
    };
    let filter = ExternalAuthorization::new(policy, asked.server.clone());
    Ok(Converted {
        filter: Arc::new(filter),
        needs: None,
        server: Some(asked),
    })
}

pub(super) fn rate_limit_service(
    filter: &str,
    from: file::RateLimitService,
    folder: &Folder<'_>,
) -> Result<Converted> {
    let reached = Reached {
        server: from.server,
        tls: from.tls,
        timeout: from.timeout,
        in_flight: from.in_flight,
    };
    if from.domain.value.is_empty() {
        let message = "limits without a domain are nobody's; write one";
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
    let asked = reached.server(filter, Duration::from_millis(20), folder)?;
    let filter = RateLimitService::new(policy, asked.server.clone());
    Ok(Converted {
        filter: Arc::new(filter),
        needs: None,
        server: Some(asked),
    })
}

fn descriptor(from: Placed<Vec<Placed<file::DescriptorEntry>>>) -> Result<Counted> {
    if from.value.is_empty() {
        let message = "a descriptor without entries counts nothing; write one";
        return Err(Wrong::at(from.place, message));
    }
    from.value.into_iter().map(entry).collect()
}

fn entry(Placed { value, place }: Placed<file::DescriptorEntry>) -> Result<(Arc<str>, Source)> {
    if value.key.value.is_empty() {
        return Err(Wrong::at(value.key.place, "an entry has to have a key"));
    }
    let source = match (value.value, value.of) {
        (Some(text), None) if text.value.is_empty() => {
            return Err(Wrong::at(text.place, "an entry has to have a value"));
        }
        (Some(text), None) => Source::Constant(text.value.into()),
        (None, Some(own)) => match super::per(own, Unit::Calls)? {
            Per::Attribute(name) if name.is_empty() => {
                return Err(Wrong::at(place, "an attribute has to have a name"));
            }
            per => Source::Call(per),
        },
        _ => return Err(Wrong::at(place, "write exactly one of `value` and `of`")),
    };
    Ok((value.key.value.into(), source))
}
