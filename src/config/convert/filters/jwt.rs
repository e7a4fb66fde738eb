//! Bearer tokens: who makes them, and what proves them.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::{Converted, Need, Needed};
use crate::config::Wrong;
use crate::config::convert::{Result, clusters};
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Pause, Placed, Time};
use crate::filters::jwt::{Issuer, Jwt, Policy};
use crate::filters::keys::{KeyRing, Source};
use crate::tls::ClientFiles;

/// How often a set of keys is asked for, where nothing else is said.
const REFRESH: Duration = Duration::from_secs(300);
const CLOCK_SKEW: Duration = Duration::from_secs(60);

pub(super) fn jwt(
    Placed { value, place }: Placed<file::Jwt>,
    folder: &Folder<'_>,
) -> Result<Converted> {
    if value.issuers.is_empty() {
        let message = "without an issuer no token is good; write one";
        return Err(Wrong::at(place, message));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    let mut needed = Vec::new();
    for Placed { value: own, place } in value.issuers {
        if issuers.iter().any(|other| other.name == own.issuer) {
            let message = format!("the issuer `{}` stands here twice", own.issuer);
            return Err(Wrong::at(place, message));
        }
        if own.audiences.is_empty() || own.issuer.is_empty() {
            let message = "write whom its tokens are for, as `audiences`: others are not for us";
            return Err(Wrong::at(place, message));
        }
        let keys = KeyRing::new(source(&own, place, folder)?);
        needed.push(Needed::Keys(Placed {
            value: keys.clone(),
            place,
        }));
        issuers.push(Issuer {
            name: own.issuer,
            audiences: own.audiences,
            keys,
        });
    }
    let mut attributes: Vec<Arc<str>> = value.attributes.into_iter().map(Into::into).collect();
    if attributes.is_empty() {
        attributes.push("authorization".into());
    }
    let jwt = Jwt::new(Policy {
        issuers,
        attributes,
        clock_skew: value.clock_skew.map_or(CLOCK_SKEW, |Pause(own)| own),
        optional: value.optional,
        forward: value.forward.unwrap_or(true),
    });
    Ok(Converted {
        filter: Arc::new(jwt),
        needs: Some(Need::Bearer),
        needed,
    })
}

fn source(own: &file::JwtIssuer, place: (u64, u64), folder: &Folder<'_>) -> Result<Source> {
    match (&own.key, &own.jwks_url) {
        (Some(file), None) => match (&own.tls, own.refresh) {
            (None, None) => Ok(Source::File(folder.join(&file.value))),
            _ => {
                let message =
                    "`tls` and `refresh` are those of `jwks_url`; a file is read when it changes";
                Err(Wrong::at(place, message))
            }
        },
        (None, Some(url)) => {
            let (is_secure, host, port, path) = address(url)?;
            let tls = match (own.tls.clone(), is_secure) {
                (Some(tls), false) => {
                    let message =
                        "the URL is asked without TLS; write https://, or take `tls` away";
                    return Err(Wrong::at(tls.place, message));
                }
                (Some(tls), true) => Some(clusters::client_files(tls, folder)?.value),
                (None, true) => Some(ClientFiles::default()),
                (None, false) => None,
            };
            Ok(Source::Url {
                host,
                port,
                path,
                tls,
                refresh: own.refresh.map_or(REFRESH, |Time(own)| own),
            })
        }
        _ => Err(Wrong::at(
            place,
            "write exactly one of `key` and `jwks_url`",
        )),
    }
}

/// Whether TLS is spoken; host, port and path.
fn address(Placed { value, place }: &Placed<String>) -> Result<(bool, String, u16, String)> {
    let wrong = || {
        let message = format!(
            "`{value}` is no URL of keys; write https://HOST/PATH or https://HOST:PORT/PATH"
        );
        Wrong::at(*place, message)
    };
    let uri: Uri = value.parse().map_err(|_| wrong())?;
    let (is_secure, usual) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(wrong()),
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let has_user = uri
        .authority()
        .is_some_and(|own| own.as_str().contains('@'));
    let path = uri.path_and_query().map_or("/", |own| own.as_str());
    let port = uri.port_u16().unwrap_or(usual);
    match host.is_empty() || has_user || port == 0 {
        true => Err(wrong()),
        false => Ok((is_secure, host.to_owned(), port, path.to_owned())),
    }
}
