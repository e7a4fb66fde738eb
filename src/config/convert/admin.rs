//! The admin port: who may reach it, and what would have no effect.

use std::net::SocketAddr;

use super::{Placed, Result, Wrong, address, file};
use crate::admin::Settings;
use crate::config::folder::Folder;
use crate::tls::{PairFiles, ServerFiles};

/// What may stand in a host name (RFC 952, RFC 1123), and in names that containers are given.
fn is_host(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.chars().all(letter)
}

pub(in crate::config) fn settings(mut from: file::Admin, folder: &Folder<'_>) -> Result<Settings> {
    let own = from
        .address
        .as_ref()
        .map(|own| Ok((address(&own.value, own.place)?, own.place)))
        .transpose()?;
    let listener = |own: Option<file::AdminListener>| {
        own.map(|own| {
            Ok((
                address(&own.address.value, own.address.place)?,
                own.address.place,
            ))
        })
        .transpose()
    };
    let (health, metrics) = (
        listener(from.health.take())?,
        listener(from.metrics.take())?,
    );
    for (key, other) in [("health", health), ("metrics", metrics)] {
        if let (Some((own, _)), Some((other, place))) = (own, other)
            && own == other
        {
            let message =
                format!("{other} serves {key} already, with everything else; leave `{key}` out");
            return Err(Wrong::at(place, message));
        }
    }
    if own.is_none() {
        without_effect(&from)?;
    }
    let has_client_ca = from
        .tls
        .as_ref()
        .is_some_and(|tls| tls.value.client_ca.is_some());
    if let Some((own, place)) = own
        && !own.ip().is_loopback()
        && from.token_file.is_none()
        && !has_client_ca
    {
        let message = "outside of this machine the admin port needs a `token_file`, or `tls` with a \
                       `client_ca`; for probes and Prometheus write `health` and `metrics`, which need none";
        return Err(Wrong::at(place, message));
    }
    for Placed { value, place } in &from.hosts {
        if !is_host(value) {
            let message = format!("`{value}` is not a host name; write it without a port");
            return Err(Wrong::at(*place, message));
        }
    }
    if let Some(url) = &from.trace_url {
        let is_web = url.value.starts_with("http://") || url.value.starts_with("https://");
        if !is_web || !url.value.contains("{trace_id}") {
            let message = "write a URL with {trace_id} in it, such as http://127.0.0.1:16686/trace/{trace_id}";
            return Err(Wrong::at(url.place, message));
        }
    }
    Ok(Settings {
        address: own.map(|(address, _)| address),
        token: from.token_file.map(|file| Placed {
            value: folder.join(file.value),
            place: file.place,
        }),
        tls: from.tls.map(|tls| files(tls, folder)),
        hosts: from.hosts.into_iter().map(|own| own.value).collect(),
        trace_url: from.trace_url.map(|own| own.value),
        health: health.map(|(address, _)| address),
        metrics: metrics.map(|(address, _)| address),
    })
}

/// Refuses what needs an `address`.
fn without_effect(from: &file::Admin) -> Result<()> {
    let places = [
        ("token_file", from.token_file.as_ref().map(|own| own.place)),
        ("tls", from.tls.as_ref().map(|own| own.place)),
        ("hosts", from.hosts.first().map(|own| own.place)),
        ("trace_url", from.trace_url.as_ref().map(|own| own.place)),
    ];
    for (key, place) in places {
        if let Some(place) = place {
            let message = format!("`{key}` has no effect without an `address`; write one");
            return Err(Wrong::at(place, message));
        }
    }
    Ok(())
}

fn files(
    Placed { value, place }: Placed<file::AdminTls>,
    folder: &Folder<'_>,
) -> Placed<ServerFiles> {
    let value = ServerFiles {
        pairs: vec![PairFiles {
            chain: folder.join(value.certificate),
            key: folder.join(value.key),
            ocsp: None,
        }],
        client_authorities: value.client_ca.map(|ca| folder.join(ca)),
        revoked: Vec::new(),
        client_optional: false,
        close_expired: false,
        plain: false,
        application: vec![b"http/1.1".to_vec()],
    };
    Placed { value, place }
}

/// Whether anything is served at all.
pub(in crate::config) fn serves(settings: &Settings) -> bool {
    let Settings {
        address,
        health,
        metrics,
        ..
    } = settings;
    [address, health, metrics]
        .into_iter()
        .any(Option::<SocketAddr>::is_some)
}
